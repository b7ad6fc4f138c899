//! The API server's audit log: the witness of what reached it, as whom.
//!
//! *Guarantees*: [`Audit::requests`] sees every request that the API server began to handle before the call, each with its end,
//! watches excepted (they end when they end). How: `RequestReceived` is written before a request is handled, so after a marker
//! request everything earlier is in the file; then it waits for the last stage of each.

use std::collections::{BTreeMap, HashMap};
use std::io::{BufRead, BufReader, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;

use crate::kubeconfig::Kubeconfig;

const CAUGHT_UP_WITHIN: Duration = Duration::from_secs(60);
const MARKER: &str = "e2e-marker";

/// One request as the API server saw it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Request {
    /// The `Audit-ID` header's value, or one that the API server made.
    #[serde(rename = "auditID")]
    pub audit_id: String,
    /// `RequestReceived`, `ResponseStarted` (open watches), `ResponseComplete` or `Panic`.
    pub stage: String,
    /// Path and query as received.
    #[serde(rename = "requestURI")]
    pub uri: String,
    /// The request verb: `get`, `list`, `watch`, `deletecollection`...
    pub verb: String,
    /// Whose credential it was.
    pub user: User,
    /// As whom it ran, when impersonated.
    pub impersonated_user: Option<User>,
    /// What it was about; none for non-resource paths.
    pub object_ref: Option<ObjectRef>,
    /// The answer's code, once there.
    pub response_status: Option<ResponseStatus>,
    /// The body, for writes by the proxy's ServiceAccount.
    pub request_object: Option<Value>,
    /// The client's own name.
    pub user_agent: String,
    /// Decisions of authorization and admission.
    pub annotations: BTreeMap<String, String>,
    /// When it arrived, RFC 3339 with microseconds.
    pub request_received_timestamp: String,
}

/// A user with groups and extra.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct User {
    /// User name.
    pub username: String,
    /// Groups.
    pub groups: Vec<String>,
    /// Extra, such as `sallyport.dev/session`.
    pub extra: BTreeMap<String, Vec<String>>,
}

/// What a request was about.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ObjectRef {
    /// API group, empty for core.
    pub api_group: String,
    /// API version.
    pub api_version: String,
    /// Resource, plural.
    pub resource: String,
    /// Subresource, or empty.
    pub subresource: String,
    /// Namespace, or empty.
    pub namespace: String,
    /// Name, or empty.
    pub name: String,
    /// The object's uid, when known.
    pub uid: String,
}

/// The answer's code.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct ResponseStatus {
    /// HTTP status code.
    pub code: u16,
    /// Status reason, for failures.
    pub reason: String,
}

impl Request {
    /// The user as whom it ran: impersonated if so, else the credential's.
    pub fn ran_as(&self) -> &str {
        &self.impersonated_user.as_ref().unwrap_or(&self.user).username
    }

    /// HTTP status code of the answer; 0 while there is none.
    pub fn code(&self) -> u16 {
        self.response_status.as_ref().map_or(0, |status| status.code)
    }

    fn under_way(&self) -> bool {
        !matches!(self.stage.as_str(), "ResponseComplete" | "Panic") && self.verb != "watch"
    }
}

/// Which requests; every field that is set must agree. Start from [`Filter::ran_as`] or `Filter::default()`.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    ran_as: Option<String>,
    verb: Option<String>,
    resource: Option<String>,
    subresource: Option<String>,
    namespace: Option<String>,
    name: Option<String>,
    audit_id: Option<String>,
}

impl Filter {
    /// Requests that ran as `user`, impersonated or not.
    pub fn ran_as(user: &str) -> Self {
        Self { ran_as: Some(user.to_owned()), ..Self::default() }
    }

    /// With this verb.
    #[must_use]
    pub fn verb(mut self, verb: &str) -> Self {
        self.verb = Some(verb.to_owned());
        self
    }

    /// About this resource (plural).
    #[must_use]
    pub fn resource(mut self, resource: &str) -> Self {
        self.resource = Some(resource.to_owned());
        self
    }

    /// About this subresource; empty for the object itself.
    #[must_use]
    pub fn subresource(mut self, subresource: &str) -> Self {
        self.subresource = Some(subresource.to_owned());
        self
    }

    /// In this namespace; empty for cluster-wide.
    #[must_use]
    pub fn namespace(mut self, namespace: &str) -> Self {
        self.namespace = Some(namespace.to_owned());
        self
    }

    /// About the object of this name.
    #[must_use]
    pub fn name(mut self, name: &str) -> Self {
        self.name = Some(name.to_owned());
        self
    }

    /// With this `Audit-ID`.
    #[must_use]
    pub fn audit_id(mut self, id: &str) -> Self {
        self.audit_id = Some(id.to_owned());
        self
    }

    fn takes(&self, request: &Request) -> bool {
        let none = ObjectRef::default();
        let object = request.object_ref.as_ref().unwrap_or(&none);
        let agrees =
            |wanted: &Option<String>, seen: &str| wanted.as_ref().is_none_or(|wanted| wanted == seen);
        agrees(&self.ran_as, request.ran_as())
            && agrees(&self.verb, &request.verb)
            && agrees(&self.resource, &object.resource)
            && agrees(&self.subresource, &object.subresource)
            && agrees(&self.namespace, &object.namespace)
            && agrees(&self.name, &object.name)
            && agrees(&self.audit_id, &request.audit_id)
    }
}

/// Reader of one API server's audit log.
#[derive(Debug)]
pub struct Audit {
    path: PathBuf,
    admin: PathBuf,
    read: Mutex<Read>,
}

#[derive(Debug, Default)]
struct Read {
    offset: u64,
    order: Vec<(String, String)>,
    requests: HashMap<(String, String), Request>,
    unreadable: usize,
}

impl Audit {
    /// A reader of the log file at `path`; `admin` is the kubeconfig of somebody who may ask that API server for its version.
    pub fn new(path: PathBuf, admin: PathBuf) -> Self {
        Self { path, admin, read: Mutex::default() }
    }

    /// The log file: one JSON event per line.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Requests that `filter` takes, in order of arrival, every one that the API server began to handle before this call.
    ///
    /// # Errors
    /// When the API server does not answer or a request is still under way after 60 s.
    pub async fn requests(&self, filter: &Filter) -> anyhow::Result<Vec<Request>> {
        self.mark().await?;
        crate::eventually("the end of every request in the audit log", CAUGHT_UP_WITHIN, async || {
            let found = self.so_far(filter)?;
            Ok((!found.iter().any(Request::under_way)).then_some(found))
        })
        .await
    }

    /// [`Audit::requests`] that ran as `user`.
    ///
    /// # Errors
    /// As there.
    pub async fn requests_of(&self, user: &str) -> anyhow::Result<Vec<Request>> {
        self.requests(&Filter::ran_as(user)).await
    }

    /// Waits until `filter` takes at least `count` requests that have ended (or, for watches, begun).
    ///
    /// # Errors
    /// When there are fewer after 60 s.
    pub async fn wait_for(&self, filter: &Filter, count: usize) -> anyhow::Result<Vec<Request>> {
        crate::eventually(&format!("{count} requests of {filter:?}"), CAUGHT_UP_WITHIN, async || {
            let found = self.so_far(filter)?;
            Ok((found.iter().filter(|request| !request.under_way()).count() >= count).then_some(found))
        })
        .await
    }

    /// What is in the file now, without waiting.
    ///
    /// # Errors
    /// When the file cannot be read or holds what is no audit event.
    pub fn so_far(&self, filter: &Filter) -> anyhow::Result<Vec<Request>> {
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        read.on(&self.path)?;
        anyhow::ensure!(read.unreadable == 0, "{} lines of the audit log are no events", read.unreadable);
        Ok(read
            .order
            .iter()
            .filter_map(|key| read.requests.get(key))
            .filter(|r| filter.takes(r))
            .cloned()
            .collect())
    }

    async fn mark(&self) -> anyhow::Result<()> {
        let id = format!("{MARKER}-{}", jiff::Timestamp::now().as_nanosecond());
        let client = Kubeconfig::client(&self.admin).await?;
        let request = http::Request::get("/version").header("Audit-ID", &id).body(Vec::new())?;
        client.request_text(request).await?;
        let marker = Filter::default().audit_id(&id);
        crate::eventually("the audit log's marker", CAUGHT_UP_WITHIN, async || {
            Ok(self.so_far(&marker)?.pop())
        })
        .await?;
        Ok(())
    }
}

impl Read {
    fn on(&mut self, path: &Path) -> anyhow::Result<()> {
        let mut file = BufReader::new(std::fs::File::open(path)?);
        file.seek(SeekFrom::Start(self.offset))?;
        let mut line = Vec::new();
        loop {
            line.clear();
            let length = file.read_until(b'\n', &mut line)?;
            if !line.ends_with(b"\n") {
                return Ok(());
            }
            self.offset += u64::try_from(length)?;
            match serde_json::from_slice::<Request>(&line) {
                Ok(request) => self.take(request),
                Err(_) => self.unreadable += 1,
            }
        }
    }

    fn take(&mut self, request: Request) {
        // Two requests may carry one Audit-ID: the arrival time tells them apart.
        let key = (request.audit_id.clone(), request.request_received_timestamp.clone());
        if !self.requests.contains_key(&key) {
            self.order.push(key.clone());
        }
        self.requests.insert(key, request);
    }
}
