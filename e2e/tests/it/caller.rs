//! One request to the API server as anybody: the administrator, impersonating if need be.

use anyhow::Context;
use e2e::ControlPlane;
use kube::Client;
use kube::core::Status;
use serde_json::Value;

/// Somebody who calls the API server.
pub struct Caller {
    client: Client,
    user: Option<(String, Vec<String>)>,
}

impl Caller {
    /// The cluster administrator.
    pub async fn admin(plane: &ControlPlane) -> anyhow::Result<Self> {
        Ok(Self { client: plane.admin().await?, user: None })
    }

    /// Any user with any groups.
    pub async fn user(plane: &ControlPlane, user: &str, groups: &[&str]) -> anyhow::Result<Self> {
        let groups = groups.iter().map(|&group| group.to_owned()).collect();
        Ok(Self { client: plane.admin().await?, user: Some((user.to_owned(), groups)) })
    }

    /// A ServiceAccount, with the groups that the API server gives it.
    pub async fn account(plane: &ControlPlane, namespace: &str, name: &str) -> anyhow::Result<Self> {
        let groups = ["system:serviceaccounts", &format!("system:serviceaccounts:{namespace}")];
        Self::user(plane, &format!("system:serviceaccount:{namespace}:{name}"), &groups).await
    }

    /// Creates an object; a stray field is an error.
    pub async fn create(&self, object: &Value, query: &str) -> anyhow::Result<Result<Value, Status>> {
        let path = format!("{}?fieldValidation=Strict{query}", collection(object)?);
        self.send("POST", &path, "application/json", object).await
    }

    /// Replaces an object; a stray field is an error.
    pub async fn replace(&self, object: &Value, query: &str) -> anyhow::Result<Result<Value, Status>> {
        let path = format!("{}?fieldValidation=Strict{query}", named(object)?);
        self.send("PUT", &path, "application/json", object).await
    }

    /// Merges `patch` into an object or a subresource of it (`/status`).
    pub async fn merge(
        &self,
        object: &Value,
        subresource: &str,
        patch: &Value,
    ) -> anyhow::Result<Result<Value, Status>> {
        let path = format!("{}{subresource}", named(object)?);
        self.send("PATCH", &path, "application/merge-patch+json", patch).await
    }

    /// Deletes an object.
    pub async fn delete(&self, object: &Value) -> anyhow::Result<Result<Value, Status>> {
        self.send("DELETE", &named(object)?, "application/json", &Value::Null).await
    }

    async fn send(
        &self,
        method: &str,
        path: &str,
        content_type: &str,
        body: &Value,
    ) -> anyhow::Result<Result<Value, Status>> {
        let mut request =
            http::Request::builder().method(method).uri(path).header("content-type", content_type);
        if let Some((user, groups)) = &self.user {
            request = request.header("impersonate-user", user);
            for group in groups {
                request = request.header("impersonate-group", group);
            }
        }
        let body = if body.is_null() { Vec::new() } else { serde_json::to_vec(body)? };
        match self.client.request::<Value>(request.body(body)?).await {
            Ok(value) => Ok(Ok(value)),
            Err(kube::Error::Api(status)) => Ok(Err(*status)),
            Err(error) => Err(error.into()),
        }
    }
}

fn collection(object: &Value) -> anyhow::Result<String> {
    let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str);
    let version = text("/apiVersion").context("apiVersion")?;
    let plural = match text("/kind").context("kind")? {
        "AgentIdentity" => "agentidentities",
        "AccessPolicy" => "accesspolicies",
        "AccessGrant" => "accessgrants",
        "SessionRecord" => "sessionrecords",
        "ConfigMap" => "configmaps",
        "Lease" => "leases",
        "ClusterRole" => "clusterroles",
        "ClusterRoleBinding" => "clusterrolebindings",
        "Secret" => "secrets",
        other => anyhow::bail!("no plural for {other}"),
    };
    let root = if version.contains('/') { "/apis" } else { "/api" };
    let namespace = text("/metadata/namespace").map(|name| format!("/namespaces/{name}")).unwrap_or_default();
    Ok(format!("{root}/{version}{namespace}/{plural}"))
}

fn named(object: &Value) -> anyhow::Result<String> {
    let name = object.pointer("/metadata/name").and_then(Value::as_str).context("metadata.name")?;
    Ok(format!("{}/{name}", collection(object)?))
}
