//! The cluster that a person talks to: kubectl's own flags, and requests whose warnings are shown.

use std::path::PathBuf;

use anyhow::Context;
use clap::Args;
use http_body_util::BodyExt;
use kube::client::Body;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::Status;
use kube::{Client, Config};
use serde::de::DeserializeOwned;

use crate::escape;

/// kubectl's flags of the same names.
#[derive(Args)]
pub struct Flags {
    /// Namespace; without it that of the context.
    #[arg(short, long, global = true)]
    pub namespace: Option<String>,
    /// Context of the kubeconfig; without it the current one.
    #[arg(long, global = true)]
    pub context: Option<String>,
    /// Path of the kubeconfig; without it $KUBECONFIG or ~/.kube/config.
    #[arg(long, global = true)]
    pub kubeconfig: Option<PathBuf>,
}

/// A connection, and the namespace that is meant when none is named.
pub struct Cluster {
    client: Client,
    /// The namespace of `-n`, else of the context.
    pub namespace: String,
}

impl Flags {
    /// Reads the kubeconfig; in a pod without one, the ServiceAccount's. Nothing is sent yet.
    pub async fn connect(&self) -> anyhow::Result<Cluster> {
        let options = KubeConfigOptions { context: self.context.clone(), ..KubeConfigOptions::default() };
        let config = match &self.kubeconfig {
            Some(path) => Config::from_custom_kubeconfig(Kubeconfig::read_from(path)?, &options).await,
            None => {
                let found = Config::from_kubeconfig(&options).await;
                found.or_else(|error| Config::incluster().map_err(|_| error))
            }
        };
        let config = config.context("no usable kubeconfig")?;
        let namespace = self.namespace.clone().unwrap_or_else(|| config.default_namespace.clone());
        Ok(Cluster { client: Client::try_from(config)?, namespace })
    }
}

/// An answer that says no, in kubectl's words.
#[derive(Debug, thiserror::Error)]
#[error("Error from server ({}): {}", if .0.reason.is_empty() { "Unknown" } else { &.0.reason }, .0.message)]
pub struct Refused(pub Box<Status>);

impl Cluster {
    /// Reads `path`.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> anyhow::Result<T> {
        self.send(http::Request::get(path).body(Body::empty())?).await
    }

    /// Creates `object` at `path`.
    pub async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        object: &serde_json::Value,
    ) -> anyhow::Result<T> {
        let request = http::Request::post(path).header(http::header::CONTENT_TYPE, "application/json");
        self.send(request.body(Body::from(serde_json::to_vec(object)?))?).await
    }

    /// Merges `patch` into the object at `path`.
    pub async fn merge<T: DeserializeOwned>(
        &self,
        path: &str,
        patch: &serde_json::Value,
    ) -> anyhow::Result<T> {
        let request =
            http::Request::patch(path).header(http::header::CONTENT_TYPE, "application/merge-patch+json");
        self.send(request.body(Body::from(serde_json::to_vec(patch)?))?).await
    }

    async fn send<T: DeserializeOwned>(&self, request: http::Request<Body>) -> anyhow::Result<T> {
        let response = self.client.send(request).await.context("the cluster cannot be reached")?;
        for header in response.headers().get_all(http::header::WARNING) {
            eprintln!("Warning: {}", escape::line(&warning(&String::from_utf8_lossy(header.as_bytes()))));
        }
        let status = response.status();
        let body = response.into_body().collect().await.context("the answer broke off")?.to_bytes();
        if status.is_success() {
            return serde_json::from_slice(&body).context("the answer is not what was asked for");
        }
        match serde_json::from_slice::<Status>(&body) {
            Ok(said) if !said.message.is_empty() => Err(Refused(Box::new(said)).into()),
            Ok(_) | Err(_) => anyhow::bail!("{status}: {}", String::from_utf8_lossy(&body).trim()),
        }
    }
}

/// The text within `299 - "text"`.
fn warning(header: &str) -> String {
    let quoted = header.splitn(3, ' ').nth(2).unwrap_or(header).trim();
    let Some(inner) = quoted.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) else {
        return quoted.to_owned();
    };
    let mut text = String::with_capacity(inner.len());
    let mut letters = inner.chars();
    while let Some(letter) = letters.next() {
        text.extend(if letter == '\\' { letters.next() } else { Some(letter) });
    }
    text
}

#[cfg(test)]
mod tests {
    use super::warning;

    #[test]
    fn warnings_lose_their_wrapping() {
        let cases = [
            (
                r#"299 - "approval recorded for alice@example.com; 1 of 1 required""#,
                "approval recorded for alice@example.com; 1 of 1 required",
            ),
            (r#"299 - "a \"quoted\" word and a \\""#, r#"a "quoted" word and a \"#),
            ("299 - bare words", "bare words"),
        ];
        for (header, text) in cases {
            assert_eq!(warning(header), text);
        }
    }
}
