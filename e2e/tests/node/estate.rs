//! A namespace with agents in pods, a policy, and a person who may approve.

use std::time::Duration;

use e2e::cluster::Cluster;
use e2e::pod::{AgentPod, identity};
use e2e::{Output, eventually};
use serde_json::{Value, json};

/// The user who approves.
pub const ALICE: &str = "alice@example.com";
pub const SOON: Duration = Duration::from_secs(60);

pub struct Estate {
    pub cluster: Cluster,
    pub namespace: String,
    pub agents: Vec<AgentPod>,
}

impl Estate {
    /// Makes the namespace, an agent in a pod for each of `agents`, RBAC (`edit` for them, `sallyport-approver` for Alice), a
    /// ConfigMap `flags` and an AccessPolicy of this spec, whose `agents` is filled in; waits until every proxy runs it.
    pub async fn new(prefix: &str, agents: &[&str], mut policy: Value) -> anyhow::Result<Self> {
        let cluster = super::cluster()?;
        let namespace = format!("{prefix}-{}", cluster.next());
        cluster.namespace(&namespace).await?;
        policy["agents"] = json!([{"namespace": namespace}]);
        let policy = json!({"apiVersion": "sallyport.dev/v1alpha1", "kind": "AccessPolicy",
                            "metadata": {"name": namespace}, "spec": policy});
        let flags = json!({"apiVersion": "v1", "kind": "ConfigMap",
                           "metadata": {"name": "flags", "namespace": namespace}, "data": {"refunds": "off"}});
        let mut items = vec![policy, flags, binding(&namespace, "approver", "sallyport-approver", ALICE)];
        for agent in agents {
            let user = format!("{}{namespace}:{agent}", crds::names::USERNAME_PREFIX);
            items.push(binding(&namespace, agent, "edit", &user));
            cluster.apply(&identity(&namespace, agent).to_string())?;
        }
        cluster.apply(&json!({"apiVersion": "v1", "kind": "List", "items": items}).to_string())?;
        let mut pods = Vec::new();
        for agent in agents {
            pods.push(AgentPod::start(&cluster, &namespace, agent)?);
            cluster.wait("condition=Ready", &format!("agentidentity/{agent}"), &namespace, SOON)?;
        }
        cluster.wait("condition=Programmed", &format!("accesspolicy/{namespace}"), &namespace, SOON)?;
        Ok(Self { cluster, namespace, agents: pods })
    }

    /// kubectl as the cluster's administrator, in the namespace.
    pub fn admin(&self, args: &[&str]) -> anyhow::Result<Output> {
        self.cluster.kubectl(&[args, &["-n", &self.namespace]].concat())
    }

    /// kubectl in the first agent's pod, in the namespace.
    pub fn agent(&self, args: &[&str]) -> anyhow::Result<Output> {
        self.agents[0].kubectl(&[args, &["-n", &self.namespace]].concat())
    }

    /// The one-line patch, as Alice.
    pub fn review(&self, grant: &str, decision: &str) -> anyhow::Result<Output> {
        review(&self.cluster, &self.namespace, grant, decision)
    }

    /// Waits for a grant that is in `state`.
    pub async fn grant(&self, state: &str) -> anyhow::Result<String> {
        grant(&self.cluster, &self.namespace, state).await
    }

    /// The first agent asks for a window, Alice approves it, and it opens; the grant's name.
    pub async fn open_window(&self, seconds: u32) -> anyhow::Result<String> {
        let ask = json!({
            "apiVersion": "sallyport.dev/v1alpha1", "kind": "AccessGrant",
            "metadata": {"generateName": "window-", "namespace": self.namespace},
            "spec": {"agentRef": {"name": "one"}, "type": "Window", "reason": "Look at it, INC-4312",
                     "window": {"durationSeconds": seconds}},
        });
        let args = ["create", "-f", "-", "-o", "jsonpath={.metadata.name}"];
        let name = self.agents[0].kubectl_stdin(&args, &ask.to_string())?.success()?;
        self.review(&name, "Approved")?.success()?;
        let object = format!("accessgrant/{name}");
        self.agents[0]
            .kubectl(&["wait", "--for=condition=Active", &object, "-n", &self.namespace, "--timeout=60s"])?
            .success()?;
        Ok(name)
    }
}

/// A review as Alice, straight to the API server.
pub fn review(cluster: &Cluster, namespace: &str, grant: &str, decision: &str) -> anyhow::Result<Output> {
    let patch = json!({"spec": {"reviews": [{"decision": decision}]}}).to_string();
    let args = ["--as", ALICE, "patch", "accessgrant", grant, "-n", namespace, "--type=merge", "-p", &patch];
    cluster.kubectl(&args)
}

/// Waits for the first grant whose condition Active has this reason.
pub async fn grant(cluster: &Cluster, namespace: &str, state: &str) -> anyhow::Result<String> {
    eventually(&format!("a grant that is {state}"), SOON, async || {
        let list = cluster.get(&["accessgrants", "-n", namespace])?;
        let found = list["items"].as_array().into_iter().flatten().find(|grant| active(grant) == Some(state));
        Ok(found.and_then(|grant| grant["metadata"]["name"].as_str()).map(str::to_owned))
    })
    .await
}

fn active(grant: &Value) -> Option<&str> {
    let conditions = grant["status"]["conditions"].as_array()?;
    conditions.iter().find(|condition| condition["type"] == "Active")?["reason"].as_str()
}

pub fn binding(namespace: &str, name: &str, role: &str, user: &str) -> Value {
    json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
        "metadata": {"name": name, "namespace": namespace},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user}],
    })
}
