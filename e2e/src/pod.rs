//! An AI agent as a pod: a projected token with audience `sallyport`, the published kubeconfig, a stock kubectl, nothing else.

use std::net::{AddrParseError, SocketAddr};
use std::process::Child;
use std::time::Duration;

use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::gate::SYSTEM;
use crate::install::AGENT_IMAGE;
use crate::kubectl::Output;

const SOON: Duration = Duration::from_secs(60);
/// The name in the gate's certificate, for requests to one replica by its address.
const SERVER_NAME: &str = "sallyport-proxy.sallyport-system.svc";

/// A running agent pod.
#[derive(Clone)]
pub struct AgentPod {
    cluster: Cluster,
    namespace: String,
    name: String,
}

/// An AgentIdentity of the ServiceAccount `name`, and that account.
pub fn identity(namespace: &str, name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "List", "items": [
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name, "namespace": namespace},
         "automountServiceAccountToken": false},
        {"apiVersion": "sallyport.dev/v1alpha1", "kind": "AgentIdentity", "metadata": {"name": name, "namespace": namespace},
         "spec": {"target": {"type": "InCluster"}, "subjects": [{"name": "in-cluster", "type": "ServiceAccount",
                  "serviceAccount": {"namespace": namespace, "name": name}}]}},
    ]})
}

/// A pod that acts as the agent `name` of `namespace` and runs `command` in [`AGENT_IMAGE`].
pub fn manifest(namespace: &str, name: &str, pod: &str, command: &[&str]) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": pod, "namespace": namespace},
        "spec": {
            "serviceAccountName": name, "automountServiceAccountToken": false, "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 0,
            "containers": [{
                "name": "agent", "image": AGENT_IMAGE, "imagePullPolicy": "IfNotPresent", "command": command,
                "env": [{"name": "KUBECONFIG", "value": "/var/run/sallyport/kubeconfig"}, {"name": "HOME", "value": "/tmp"}],
                "volumeMounts": [{"name": "sallyport", "mountPath": "/var/run/sallyport", "readOnly": true}],
            }],
            "volumes": [{"name": "sallyport", "projected": {"sources": [
                {"serviceAccountToken": {"audience": "sallyport", "path": "token", "expirationSeconds": 3600}},
                {"configMap": {"name": format!("{name}-kubeconfig")}},
            ]}}],
        },
    })
}

impl AgentPod {
    /// Starts a pod for the agent `name` of `namespace`, whose ServiceAccount has the same name, and waits until it is ready.
    /// The kubelet waits for the published kubeconfig by itself.
    ///
    /// # Errors
    /// When it is not ready in 60 s.
    pub fn start(cluster: &Cluster, namespace: &str, name: &str) -> anyhow::Result<Self> {
        cluster.apply(&manifest(namespace, name, name, &["/agnhost", "pause"]).to_string())?;
        cluster.wait("condition=Ready", &format!("pod/{name}"), namespace, SOON)?;
        Ok(Self { cluster: cluster.clone(), namespace: namespace.to_owned(), name: name.to_owned() })
    }

    /// Its user name in native RBAC and in the API server's audit log.
    pub fn username(&self) -> String {
        format!("{}{}:{}", crds::names::USERNAME_PREFIX, self.namespace, self.name)
    }

    /// Its namespace.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Runs stock kubectl in the pod.
    ///
    /// # Errors
    /// When the pod cannot be entered.
    pub fn kubectl(&self, args: &[&str]) -> anyhow::Result<Output> {
        self.kubectl_stdin(args, "")
    }

    /// The same with text on its standard input.
    ///
    /// # Errors
    /// When the pod cannot be entered.
    pub fn kubectl_stdin(&self, args: &[&str], stdin: &str) -> anyhow::Result<Output> {
        self.cluster.kubectl_stdin(&self.exec(args), stdin)
    }

    /// Starts stock kubectl in the pod and returns at once.
    ///
    /// # Errors
    /// When the pod cannot be entered.
    pub fn spawn(&self, args: &[&str]) -> anyhow::Result<Child> {
        self.cluster.spawn(&self.exec(args))
    }

    fn exec<'a>(&'a self, args: &[&'a str]) -> Vec<&'a str> {
        let enter = ["exec", "-i", "-n", &self.namespace, &self.name, "--", "kubectl"];
        [&enter[..], args].concat()
    }
}

/// Address and port of each replica of the gate that is not on its way out.
///
/// # Errors
/// When the API server refuses.
pub fn addresses(cluster: &Cluster) -> anyhow::Result<Vec<SocketAddr>> {
    let pods = cluster.pods(SYSTEM, "app.kubernetes.io/component=proxy")?;
    let addresses = pods.iter().filter_map(|pod| pod["status"]["podIP"].as_str());
    Ok(addresses
        .map(|address| Ok(SocketAddr::new(address.parse()?, 8443)))
        .collect::<Result<_, AddrParseError>>()?)
}

/// Flags that send kubectl to each replica of the gate instead of its Service.
///
/// # Errors
/// When the API server refuses.
pub fn replicas(cluster: &Cluster) -> anyhow::Result<Vec<[String; 2]>> {
    let flags = |address: SocketAddr| {
        [format!("--server=https://{address}"), format!("--tls-server-name={SERVER_NAME}")]
    };
    Ok(addresses(cluster)?.into_iter().map(flags).collect())
}
