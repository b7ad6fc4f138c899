//! Agents with tokens of OpenID Connect issuers: who is let in, who is not and reads why, and what ends with the token.

mod forged;
mod issuer;
mod keycloak;

use std::time::Duration;

use e2e::kubeconfig::{Kubeconfig, Login};
use e2e::oidc::FakeIssuer;
use e2e::{Gate, Output, Version, eventually, kubectl};
use jiff::Timestamp;
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(30);
const SUB: &str = "repo:acme/payments:environment:production";
const ORGANISATION: &str = "token must come from the acme organisation";

/// A namespace whose agents may work with ConfigMaps.
struct Desk {
    gate: Gate,
    namespace: String,
    ca: String,
}

impl Desk {
    async fn new(gate: &Gate) -> anyhow::Result<Self> {
        let namespace = gate.plane().namespace("oidc").await?;
        let items = json!([
            {"apiVersion": "sallyport.dev/v1alpha1", "kind": "AccessPolicy", "metadata": {"name": namespace}, "spec": {
                "agents": [{"namespace": namespace}],
                "rules": [{"name": "work", "effect": "Allow", "match": [
                    {"apiGroups": [""], "resources": ["configmaps"], "verbs": ["*"]},
                ]}],
            }},
            {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
             "metadata": {"name": "agents", "namespace": namespace},
             "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "edit"},
             "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "Group",
                           "name": format!("sallyport:agents:{namespace}")}]},
        ]);
        gate.plane().apply(&json!({"apiVersion": "v1", "kind": "List", "items": items}).to_string())?;
        Ok(Self { gate: gate.clone(), namespace, ca: gate.ca().await? })
    }

    /// Applies an AgentIdentity with this one OIDC subject.
    fn apply(&self, name: &str, issuer: &Value, rules: &Value) -> anyhow::Result<String> {
        self.gate.plane().apply(&self.identity(name, &subject(issuer, rules)).to_string())
    }

    /// The same, and waits until it is ready.
    fn agent(&self, name: &str, issuer: &Value, rules: &Value) -> anyhow::Result<()> {
        self.agent_of(name, &subject(issuer, rules))
    }

    /// Applies an AgentIdentity with these subjects and waits until it is ready.
    fn agent_of(&self, name: &str, subjects: &Value) -> anyhow::Result<()> {
        self.gate.plane().apply(&self.identity(name, subjects).to_string())?;
        let object = format!("agentidentity/{name}");
        self.admin(&["wait", "--for=condition=Ready", "--timeout=90s", &object])?.success()?;
        Ok(())
    }

    fn identity(&self, name: &str, subjects: &Value) -> Value {
        json!({
            "apiVersion": "sallyport.dev/v1alpha1", "kind": "AgentIdentity",
            "metadata": {"name": name, "namespace": self.namespace},
            "spec": {"subjects": subjects, "target": {"type": "InCluster"}},
        })
    }

    fn admin(&self, args: &[&str]) -> anyhow::Result<Output> {
        self.gate.plane().kubectl(&[args, &["-n", &self.namespace]].concat())
    }

    /// Stock kubectl 1.36 with a token.
    fn kubectl(&self, token: &str, args: &[&str]) -> anyhow::Result<Output> {
        kubectl(Version::New, &self.kubeconfig(token)?, &[args, &["-n", &self.namespace]].concat())
    }

    fn kubeconfig(&self, token: &str) -> anyhow::Result<std::path::PathBuf> {
        let login = Login::Token(token.to_owned());
        let plane = self.gate.plane();
        let config = Kubeconfig::new(&self.gate.urls()[0], &self.ca, login);
        config.write(&plane.scratch().join("files"), &format!("oidc-{}", plane.next()))
    }

    /// As whom the gate takes a token; what kubectl says if it does not.
    fn who(&self, token: &str) -> anyhow::Result<Result<String, String>> {
        let out = self.kubectl(token, &["auth", "whoami", "-o", "jsonpath={.status.userInfo.username}"])?;
        Ok(if out.code == 0 { Ok(out.stdout) } else { Err(out.stderr) })
    }

    fn user(&self, name: &str) -> Result<String, String> {
        Ok(format!("sallyport:agent:{}:{name}", self.namespace))
    }

    /// Waits until kubectl is told `says`.
    async fn told(&self, token: &str, says: &str) -> anyhow::Result<()> {
        eventually(&format!("`{says}`"), SOON, async || {
            Ok(self.who(token)?.is_err_and(|said| said.contains(says)).then_some(()))
        })
        .await
    }
}

pub fn subject(issuer: &Value, rules: &Value) -> Value {
    json!([{"name": "outside", "type": "OIDC", "oidc": {"issuer": issuer, "claimValidationRules": rules}}])
}

/// What kubectl prints of a 401, up to the request's id.
fn refused(says: &str) -> String {
    format!("error: You must be logged in to the server ({says}\n  id: ")
}

/// The subject of most tests: one workflow of one organisation.
pub fn trust(issuer: &FakeIssuer) -> (Value, Value) {
    (
        json!({"url": issuer.url(), "audiences": ["sallyport", "second"], "certificateAuthority": issuer.ca()}),
        json!([
            {"claim": "sub", "requiredValue": SUB},
            {"expression": "claims.repository_owner_id == '1234567'", "message": ORGANISATION},
        ]),
    )
}

/// Claims that satisfy [`trust`], for ten minutes.
pub fn claims(issuer: &FakeIssuer) -> Value {
    let now = Timestamp::now().as_second();
    json!({
        "iss": issuer.url(), "sub": SUB, "aud": "sallyport", "iat": now, "nbf": now, "exp": now + 600,
        "repository_owner_id": "1234567",
    })
}

/// `value` with some members replaced; null takes one away.
pub fn with(mut value: Value, changes: Value) -> Value {
    if let (Some(members), Some(changes)) = (value.as_object_mut(), changes.as_object()) {
        for (name, change) in changes {
            members.insert(name.clone(), change.clone());
            members.retain(|_, value| !value.is_null());
        }
    }
    value
}
