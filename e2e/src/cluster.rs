//! The cluster that the scenarios as installed run in: a node of our own, a kind cluster, or whatever the current context is.
//!
//! `SALLYPORT_E2E_CLUSTER` says which: `node` (default), `kind` or `current`. Everything goes through stock kubectl and helm, so
//! that a scenario does not know the difference. What only a node of our own can do ([`Cluster::node`]: the API server's audit
//! log, a restart of the API server, the files of the recordings) is skipped elsewhere, by name.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, bail};
use serde_json::Value;

use crate::chart;
use crate::kubectl::Output;
use crate::node::Node;
use crate::tools::Tools;

/// The variable that says which cluster.
pub const VARIABLE: &str = "SALLYPORT_E2E_CLUSTER";
const SOON: Duration = Duration::from_secs(60);

/// A cluster and an administrator's kubeconfig for it. Cheap to clone; a node of our own ends with the last clone.
#[derive(Clone)]
pub struct Cluster(Arc<Inner>);

struct Inner {
    kind: Kind,
    kubeconfig: PathBuf,
    scratch: PathBuf,
    _owned: Option<tempfile::TempDir>,
    count: AtomicUsize,
}

enum Kind {
    Node(Node),
    InDocker { name: String },
    Current,
}

impl Cluster {
    /// The cluster that [`VARIABLE`] names: what `node` starts, or one that must be there.
    ///
    /// # Errors
    /// When the node does not come up, or there is no current context.
    pub fn from_env(node: impl FnOnce() -> anyhow::Result<Node>) -> anyhow::Result<Self> {
        match std::env::var(VARIABLE).as_deref() {
            Err(_) | Ok("" | "node") => Ok(Self::on(node()?)),
            Ok("kind") => Self::existing(|context| {
                let name = context.strip_prefix("kind-").context("the current context is no kind cluster")?;
                Ok(Kind::InDocker { name: name.to_owned() })
            }),
            Ok("current") => Self::existing(|_context| Ok(Kind::Current)),
            Ok(other) => bail!("{VARIABLE} is `{other}`: node, kind or current"),
        }
    }

    /// On a node that runs.
    pub fn on(node: Node) -> Self {
        let (kubeconfig, scratch) = (node.plane().admin_kubeconfig().to_owned(), node.scratch().to_owned());
        Self::new(Kind::Node(node), kubeconfig, scratch, None)
    }

    fn existing(kind: impl FnOnce(&str) -> anyhow::Result<Kind>) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let kubeconfig = folder.path().join("admin.kubeconfig");
        let view = Command::new(&Tools::get()?.kubectl)
            .args(["config", "view", "--minify", "--flatten", "--raw", "-o", "json"])
            .output()?;
        anyhow::ensure!(view.status.success(), "{}", String::from_utf8_lossy(&view.stderr));
        let context = serde_json::from_slice::<Value>(&view.stdout)?["current-context"].clone();
        std::fs::write(&kubeconfig, view.stdout)?;
        let kind = kind(context.as_str().context("kubectl has no current context")?)?;
        let scratch = folder.path().to_owned();
        Ok(Self::new(kind, kubeconfig, scratch, Some(folder)))
    }

    fn new(kind: Kind, kubeconfig: PathBuf, scratch: PathBuf, owned: Option<tempfile::TempDir>) -> Self {
        Self(Arc::new(Inner { kind, kubeconfig, scratch, _owned: owned, count: AtomicUsize::new(1) }))
    }

    /// The node, if it is one of our own. Else prints that `what` is skipped, and why.
    pub fn node(&self, what: &str) -> Option<&Node> {
        match &self.0.kind {
            Kind::Node(node) => Some(node),
            Kind::InDocker { .. } | Kind::Current => {
                println!("SKIPPED {what}: needs the node that `make e2e` starts itself");
                None
            }
        }
    }

    /// Whether it is a node of our own.
    pub fn is_own(&self) -> bool {
        matches!(self.0.kind, Kind::Node(_))
    }

    /// An administrator's kubeconfig.
    pub fn kubeconfig(&self) -> &Path {
        &self.0.kubeconfig
    }

    /// Folder for files that vanish with the cluster object.
    pub fn scratch(&self) -> &Path {
        &self.0.scratch
    }

    /// A number that this cluster has not given before.
    pub fn next(&self) -> usize {
        self.0.count.fetch_add(1, Ordering::Relaxed)
    }

    /// Makes an image archive known to the cluster. On the current context somebody else must have pushed it.
    ///
    /// # Errors
    /// When the node or kind refuses it.
    pub fn import(&self, archive: &Path) -> anyhow::Result<()> {
        match &self.0.kind {
            Kind::Node(node) => node.import(archive),
            Kind::InDocker { name } => {
                let status = Command::new("kind")
                    .args(["load", "image-archive", "--name", name])
                    .arg(archive)
                    .status()
                    .context("cannot run kind")?;
                anyhow::ensure!(status.success(), "kind does not load `{}`", archive.display());
                Ok(())
            }
            Kind::Current => {
                println!("not imported, the cluster must be able to pull it: {}", archive.display());
                Ok(())
            }
        }
    }

    /// Runs kubectl as the administrator.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn kubectl(&self, args: &[&str]) -> anyhow::Result<Output> {
        self.kubectl_stdin(args, "")
    }

    /// The same with text on its standard input.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn kubectl_stdin(&self, args: &[&str], stdin: &str) -> anyhow::Result<Output> {
        use std::io::Write;
        let mut child = self.spawn(args)?;
        if let Some(mut input) = child.stdin.take() {
            // A program that does not read its input closes it: that is no error here.
            let _broken_pipe = input.write_all(stdin.as_bytes());
        }
        let output = child.wait_with_output().context("cannot wait for kubectl")?;
        Ok(Output {
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
            code: output.status.code().unwrap_or(-1),
        })
    }

    /// Starts kubectl as the administrator and returns at once; the caller ends it.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn spawn(&self, args: &[&str]) -> anyhow::Result<Child> {
        let mut command = Command::new(&Tools::get()?.kubectl);
        command.args(args).env("KUBECONFIG", &self.0.kubeconfig);
        // Another cluster's kubeconfig may need a login program with its own environment; our own needs nothing.
        if self.is_own() {
            command.env("HOME", &self.0.scratch).env("KUBECACHEDIR", self.0.scratch.join("kubectl-cache"));
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().context("cannot start kubectl")
    }

    /// Applies manifests (YAML or JSON), server-side.
    ///
    /// # Errors
    /// When the API server refuses one; the message is kubectl's.
    pub fn apply(&self, manifests: &str) -> anyhow::Result<String> {
        self.kubectl_stdin(&["apply", "--server-side", "--force-conflicts", "-f", "-"], manifests)?.success()
    }

    /// An object as JSON.
    ///
    /// # Errors
    /// When it is not there.
    pub fn get(&self, args: &[&str]) -> anyhow::Result<Value> {
        let text = self.kubectl(&[&["get", "-o", "json"], args].concat())?.success()?;
        Ok(serde_json::from_str(&text)?)
    }

    /// Makes the namespace `name` if it is not there; returns when its ServiceAccount `default` is there.
    ///
    /// # Errors
    /// When the API server refuses.
    pub async fn namespace(&self, name: &str) -> anyhow::Result<()> {
        self.apply(&format!(r#"{{"apiVersion":"v1","kind":"Namespace","metadata":{{"name":"{name}"}}}}"#))?;
        crate::eventually(&format!("ServiceAccount default in {name}"), SOON, async || {
            let out = self.kubectl(&["get", "serviceaccount", "default", "-n", name])?;
            Ok((out.code == 0).then_some(()))
        })
        .await
    }

    /// Waits for a condition of an object with `kubectl wait`.
    ///
    /// # Errors
    /// When it does not come in time.
    pub fn wait(
        &self,
        condition: &str,
        object: &str,
        namespace: &str,
        limit: Duration,
    ) -> anyhow::Result<()> {
        let timeout = format!("--timeout={}s", limit.as_secs());
        let args = ["wait", &format!("--for={condition}"), object, "-n", namespace, &timeout];
        self.kubectl(&args)?.success().map(|_said| ())
    }

    /// Waits until a Deployment's rollout is complete.
    ///
    /// # Errors
    /// When it is not in time.
    pub fn rolled_out(&self, deployment: &str, namespace: &str, limit: Duration) -> anyhow::Result<()> {
        let timeout = format!("--timeout={}s", limit.as_secs());
        let object = format!("deployment/{deployment}");
        self.kubectl(&["rollout", "status", &object, "-n", namespace, &timeout])?.success().map(|_said| ())
    }

    /// Runs helm as the administrator.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn helm(&self, args: &[&str]) -> anyhow::Result<Output> {
        chart::helm(Some(&self.0.kubeconfig), args)
    }

    /// Names of the pods that a label selector takes and that are not on their way out.
    ///
    /// # Errors
    /// When the API server refuses.
    pub fn pods(&self, namespace: &str, selector: &str) -> anyhow::Result<Vec<Value>> {
        let list = self.get(&["pods", "-n", namespace, "-l", selector])?;
        let items = list["items"].as_array().cloned().unwrap_or_default();
        Ok(items.into_iter().filter(|pod| pod["metadata"]["deletionTimestamp"].is_null()).collect())
    }
}
