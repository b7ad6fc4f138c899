//! The API server's audit log against the recordings: whoever acted, as whom, by request id.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::Context;
use serde_json::Value;

use crate::audit::{Audit, Filter};
use crate::{eventually, kubectl};

const IN_STORE_WITHIN: Duration = Duration::from_secs(60);

/// Where the recordings of one namespace are read.
#[derive(Clone, Debug)]
pub struct Recordings {
    /// Of a person who may read SessionRecords.
    pub kubeconfig: PathBuf,
    /// Namespace of the agents.
    pub namespace: String,
    /// Arguments that name the store: `--store`, its URL, and what else it needs.
    pub store: Vec<String>,
    /// Environment that the store needs: credentials.
    pub env: Vec<(String, String)>,
}

impl Recordings {
    /// Those that a gate of processes keeps in a folder.
    pub fn of_folder(kubeconfig: &Path, namespace: &str, folder: &Path) -> Self {
        Self {
            kubeconfig: kubeconfig.to_owned(),
            namespace: namespace.to_owned(),
            store: vec!["--store".to_owned(), format!("file://{}", folder.display())],
            env: Vec::new(),
        }
    }

    /// Every event of every session, by request id and type.
    ///
    /// # Errors
    /// When the sessions cannot be listed, or the plugin is not built.
    pub fn events(&self) -> anyhow::Result<HashMap<(String, String), Value>> {
        let list =
            ["get", "sessionrecords", "-n", &self.namespace, "-o", "jsonpath={.items[*].metadata.name}"];
        let names = kubectl(kubectl::Version::New, &self.kubeconfig, &list)?.success()?;
        let mut found = HashMap::new();
        for name in names.split_whitespace() {
            let out = Command::new(crate::program("kubectl-sallyport")?)
                .args(["replay", name, "-n", &self.namespace, "-o", "json"])
                .args(&self.store)
                .env_clear()
                .env("KUBECONFIG", &self.kubeconfig)
                .envs(self.env.iter().cloned())
                .output()
                .context("cannot start kubectl-sallyport")?;
            for line in String::from_utf8(out.stdout)?.lines() {
                let line: Value = serde_json::from_str(line)?;
                if let (Some(id), Some(kind)) = (line["event"]["requestId"].as_str(), line["type"].as_str()) {
                    found.insert((id.to_owned(), kind.to_owned()), line["event"].clone());
                }
            }
        }
        Ok(found)
    }
}

/// What ran as one of `users` and lacks its intent or its outcome in the recordings after a minute; each as a line of text.
/// Watches that are still open have no outcome yet: end them before.
///
/// # Errors
/// When the audit log or the recordings cannot be read.
pub async fn unrecorded(
    audit: &Audit,
    recordings: &Recordings,
    users: &[String],
) -> anyhow::Result<Vec<String>> {
    let mut seen = Vec::new();
    for user in users {
        seen.extend(audit.requests(&Filter::ran_as(user)).await?);
    }
    // The proxy asks once by itself whether the API server takes the impersonation.
    seen.retain(|request| {
        request.object_ref.as_ref().is_none_or(|object| object.resource != "selfsubjectreviews")
    });
    let mut missing = Vec::new();
    let complete = eventually("every request in the recordings", IN_STORE_WITHIN, async || {
        let events = recordings.events()?;
        let lacks = |id: &str, kind: &str| !events.contains_key(&(id.to_owned(), kind.to_owned()));
        missing = seen
            .iter()
            .filter_map(|request| {
                let kind = ["Intent", "Outcome"].into_iter().find(|kind| lacks(&request.audit_id, kind))?;
                Some(format!("no {kind} of {} {} ({})", request.verb, request.uri, request.audit_id))
            })
            .collect();
        Ok(missing.is_empty().then_some(()))
    })
    .await;
    anyhow::ensure!(!seen.is_empty(), "nothing of {users:?} reached the API server");
    match complete {
        Ok(()) => Ok(Vec::new()),
        Err(_) if !missing.is_empty() => Ok(missing),
        Err(error) => Err(error),
    }
}
