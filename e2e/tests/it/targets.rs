//! Agents whose target is another cluster: entered with one credential for all, and what the gate refuses because of that.

mod eks;
mod fixed;
mod moved;

use std::sync::OnceLock;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use e2e::{Agent, ControlPlane, Gate, eventually};
use serde_json::{Value, json};

use super::estate::ALICE;

const SOON: Duration = Duration::from_secs(60);

/// The other cluster, shared by the tests of this module.
fn far() -> anyhow::Result<ControlPlane> {
    static FAR: OnceLock<Result<ControlPlane, String>> = OnceLock::new();
    let far = FAR.get_or_init(|| ControlPlane::start().map_err(|error| format!("{error:#}")));
    far.clone().map_err(|error| anyhow::anyhow!("no second control plane: {error}"))
}

/// A namespace of the hub with identities whose target is elsewhere.
struct Remote {
    gate: Gate,
    far: ControlPlane,
    /// On both clusters.
    namespace: String,
    alice: std::path::PathBuf,
}

impl Remote {
    /// With a policy that allows everything, asks before a Deployment is deleted, and denies one ConfigMap by name.
    async fn new(prefix: &str) -> anyhow::Result<Self> {
        Self::between(super::gate()?, far()?, prefix).await
    }

    async fn between(gate: Gate, far: ControlPlane, prefix: &str) -> anyhow::Result<Self> {
        let namespace = gate.plane().namespace(prefix).await?;
        far.named_namespace(&namespace).await?;
        let policy = json!({
            "apiVersion": "sallyport.dev/v1alpha1", "kind": "AccessPolicy", "metadata": {"name": namespace},
            "spec": {
                "agents": [{"namespace": namespace}],
                "approval": {"holdSeconds": 0},
                "rules": [
                    {"name": "all", "effect": "Allow", "match": [{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}]},
                    {"name": "ask", "effect": "RequireApproval", "match": [
                        {"apiGroups": ["apps"], "resources": ["deployments"], "verbs": ["delete"]},
                    ]},
                ],
            },
        });
        let approver = json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
            "metadata": {"name": "approver", "namespace": namespace},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "sallyport-approver"},
            "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": ALICE}],
        });
        let list = json!({"apiVersion": "v1", "kind": "List", "items": [policy, approver]});
        gate.plane().apply(&list.to_string())?;
        let alice = gate.plane().user_kubeconfig(ALICE, None)?;
        Ok(Self { gate, far, namespace, alice })
    }

    /// A ServiceAccount of the other cluster that may do everything there: whatever is refused, the gate refused it.
    async fn powerful(&self, name: &str) -> anyhow::Result<String> {
        self.far.service_account(&self.namespace, name).await?;
        let binding = json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
            "metadata": {"name": format!("{}-{name}", self.namespace)},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
            "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": self.namespace}],
        });
        self.far.apply(&binding.to_string())?;
        self.far.token(&self.namespace, name, &[], 3600).await
    }

    fn secret(&self, name: &str, token: &str) -> anyhow::Result<String> {
        let secret = json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "namespace": self.namespace},
            "stringData": {"token": token},
        });
        self.gate.plane().apply(&secret.to_string())
    }

    async fn identity(&self, name: &str, target: Value) -> anyhow::Result<()> {
        self.limited(name, target, json!({})).await
    }

    async fn limited(&self, name: &str, target: Value, limits: Value) -> anyhow::Result<()> {
        self.gate.plane().service_account(&self.namespace, name).await?;
        let identity = json!({
            "apiVersion": "sallyport.dev/v1alpha1", "kind": "AgentIdentity",
            "metadata": {"name": name, "namespace": self.namespace},
            "spec": {
                "subjects": [{"name": "in-cluster", "type": "ServiceAccount",
                              "serviceAccount": {"namespace": self.namespace, "name": name}}],
                "target": target,
                "limits": limits,
            },
        });
        self.gate.plane().apply(&identity.to_string())?;
        Ok(())
    }

    /// A Static target at the other cluster, with the token in this Secret.
    fn fixed(&self, server: &str, ca: &str, secret: &str) -> Value {
        json!({"type": "Static", "static": {
            "server": server, "caBundle": STANDARD.encode(ca), "tokenSecretRef": {"name": secret, "key": "token"},
        }})
    }

    async fn agent(&self, name: &str) -> anyhow::Result<Agent> {
        self.becomes(name, "Reachable").await?;
        let wait = ["wait", "--for=condition=Ready", "--timeout=90s", "-n", &self.namespace];
        self.gate.plane().kubectl(&[&wait[..], &[&format!("agentidentity/{name}")]].concat())?.success()?;
        self.gate.existing_agent(&self.namespace, name, name).await
    }

    /// Waits until `TargetReachable` has this reason; its message.
    async fn becomes(&self, name: &str, reason: &str) -> anyhow::Result<String> {
        let mut last = String::new();
        let found = eventually(&format!("{name} to be {reason}"), SOON, async || {
            let object = self.admin(&["get", "agentidentity", name, "-o", "json"])?;
            let object: Value = serde_json::from_str(&object)?;
            let conditions = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
            let found = conditions.into_iter().find(|one| one["type"] == "TargetReachable");
            last = found.clone().unwrap_or_default().to_string();
            Ok(found.filter(|one| one["reason"] == reason))
        })
        .await;
        let found = found.map_err(|error| error.context(last.clone()))?;
        Ok(found["message"].as_str().unwrap_or_default().to_owned())
    }

    /// A Deployment without replicas on the other cluster, when its controller is done with it.
    fn deployment(&self, name: &str) -> anyhow::Result<()> {
        let labels = json!({"app": name});
        let object = json!({
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name, "namespace": self.namespace},
            "spec": {"replicas": 0, "selector": {"matchLabels": labels}, "template": {
                "metadata": {"labels": labels}, "spec": {"containers": [{"name": "web", "image": "checkout:2.3.1"}]},
            }},
        });
        self.far.apply(&object.to_string())?;
        let object = format!("deployment/{name}");
        self.far_admin(&["wait", e2e::kubectl::ROLLED_OUT, &object, "--timeout=60s"]).map(drop)
    }

    /// kubectl as the hub's administrator, in the namespace.
    fn admin(&self, args: &[&str]) -> anyhow::Result<String> {
        self.gate.plane().kubectl(&[args, &["-n", &self.namespace]].concat())?.success()
    }

    /// The same on the other cluster.
    fn far_admin(&self, args: &[&str]) -> anyhow::Result<String> {
        self.far.kubectl(&[args, &["-n", &self.namespace]].concat())?.success()
    }
}
