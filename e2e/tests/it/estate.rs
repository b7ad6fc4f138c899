//! An agent with a policy and a person who may approve, in a namespace of their own.

use std::path::{Path, PathBuf};
use std::time::Duration;

use e2e::{Agent, Gate, Output, Version, eventually, kubectl};
use serde_json::{Value, json};

/// The user who approves.
pub const ALICE: &str = "alice@example.com";

/// Everything that a scenario needs.
pub struct Estate {
    pub gate: Gate,
    pub agent: Agent,
    pub namespace: String,
    pub alice: PathBuf,
}

impl Estate {
    /// Makes namespace, identity, RBAC (`edit` for the agent, `sallyport-approver` for Alice) and an AccessPolicy of this
    /// spec, whose `agents` is filled in; waits until every proxy runs it.
    pub async fn new(gate: &Gate, prefix: &str, policy: Value) -> anyhow::Result<Self> {
        Self::within(gate, &gate.plane().namespace(prefix).await?, policy).await
    }

    /// The same in a namespace that is there.
    pub async fn within(gate: &Gate, namespace: &str, mut policy: Value) -> anyhow::Result<Self> {
        let namespace = namespace.to_owned();
        let agent = gate.agent(&namespace, "agent", &[]).await?;
        policy["agents"] = json!([{"namespace": namespace}]);
        let policy = json!({
            "apiVersion": "sallyport.dev/v1alpha1", "kind": "AccessPolicy", "metadata": {"name": namespace}, "spec": policy,
        });
        let items = json!([
            policy,
            binding(&namespace, "agent", "edit", &agent.username()),
            binding(&namespace, "approver", "sallyport-approver", ALICE),
        ]);
        gate.plane().apply(&json!({"apiVersion": "v1", "kind": "List", "items": items}).to_string())?;
        let object = format!("accesspolicy/{namespace}");
        gate.plane().kubectl(&["wait", "--for=condition=Programmed", &object, "--timeout=60s"])?.success()?;
        let alice = gate.plane().user_kubeconfig(ALICE, None)?;
        Ok(Self { gate: gate.clone(), agent, namespace, alice })
    }

    /// A Deployment without replicas; its uid.
    pub fn deployment(&self, name: &str) -> anyhow::Result<String> {
        let labels = json!({"app": name});
        let object = json!({
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name, "namespace": self.namespace},
            "spec": {"replicas": 0, "selector": {"matchLabels": labels}, "template": {
                "metadata": {"labels": labels},
                "spec": {"containers": [{"name": "web", "image": "checkout:2.3.1"}]},
            }},
        });
        self.gate.plane().apply(&object.to_string())?;
        let object = format!("deployment/{name}");
        self.admin(&["wait", e2e::kubectl::ROLLED_OUT, &object, "--timeout=60s"])?.success()?;
        self.admin(&["get", "deployment", name, "-o", "jsonpath={.metadata.uid}"])?.success()
    }

    /// kubectl as the cluster's administrator, in the namespace.
    pub fn admin(&self, args: &[&str]) -> anyhow::Result<Output> {
        self.gate.plane().kubectl(&[args, &["-n", &self.namespace]].concat())
    }

    /// kubectl as the agent through proxy 0, in the namespace.
    pub fn agent(&self, args: &[&str]) -> anyhow::Result<Output> {
        self.agent.kubectl(&[args, &["-n", &self.namespace]].concat())
    }

    /// The one-line patch, as Alice.
    pub fn review(&self, grant: &str, decision: &str) -> anyhow::Result<Output> {
        review_as(&self.alice, &self.namespace, grant, &json!({"decision": decision}))
    }

    /// Waits for the first grant that `state` selects by its condition Active's reason.
    pub async fn grant(&self, state: &str) -> anyhow::Result<String> {
        eventually(&format!("a grant that is {state}"), Duration::from_secs(30), async || {
            let list = self.admin(&["get", "accessgrants", "-o", "json"])?.success()?;
            let list: Value = serde_json::from_str(&list)?;
            let found =
                list["items"].as_array().into_iter().flatten().find(|grant| active(grant) == Some(state));
            Ok(found.and_then(|grant| grant["metadata"]["name"].as_str()).map(str::to_owned))
        })
        .await
    }

    /// A field of a grant, by JSON path.
    pub fn grant_field(&self, grant: &str, path: &str) -> anyhow::Result<String> {
        self.admin(&["get", "accessgrant", grant, "-o", &format!("jsonpath={{{path}}}")])?.success()
    }
}

/// The one-line patch with a review of this text.
pub fn review_as(kubeconfig: &Path, namespace: &str, grant: &str, review: &Value) -> anyhow::Result<Output> {
    let patch = json!({"spec": {"reviews": [review]}}).to_string();
    let args = ["patch", "accessgrant", grant, "-n", namespace, "--type=merge", "-p", &patch];
    kubectl(Version::New, kubeconfig, &args)
}

fn active(grant: &Value) -> Option<&str> {
    let conditions = grant["status"]["conditions"].as_array()?;
    conditions.iter().find(|condition| condition["type"] == "Active")?["reason"].as_str()
}

fn binding(namespace: &str, name: &str, role: &str, user: &str) -> Value {
    json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
        "metadata": {"name": name, "namespace": namespace},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user}],
    })
}
