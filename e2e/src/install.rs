//! Sallyport as people install it: images imported, `helm install --wait` of the real chart, recordings on a volume or in S3.
//!
//! *Expected flow*: [`Images::pack`] and [`Images::import`] once per cluster; [`Release::install`] as often as a scenario wants
//! another kind of storage (one release per cluster at a time); [`Release::uninstall`] leaves the evidence.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::Context;
use serde_json::{Value, json};

use crate::chart;
use crate::cluster::Cluster;
use crate::gate::SYSTEM;
use crate::image;
use crate::kubectl::Output;
use crate::oci::{Image, Tree};
use crate::tools::{Tools, program, tools, workspace_root};

/// Image of agent pods: a stock kubectl, Kubernetes' own test program agnhost, and `e2e-load`.
pub const AGENT_IMAGE: &str = "localhost/sallyport-e2e-agent:1";
const S3_IMAGE: &str = "localhost/sallyport-e2e-s3:1";
const S3_NAMESPACE: &str = "s3";
const S3_BUCKET: &str = "recordings";
const S3_CREDENTIALS: &str = "s3-credentials";
const S3_KEY: (&str, &str) = ("sallyport", "sallyport-e2e-secret");
const AUDITOR: &str = "e2e-auditor";
const SOON: Duration = Duration::from_secs(120);

/// Where a release keeps its recordings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Storage {
    /// A volume.
    Filesystem,
    /// versitygw, an S3 server, in a pod of its own.
    S3,
}

/// The archives of every image that the scenarios need.
pub struct Images(Vec<PathBuf>);

impl Images {
    /// Packs them into `target/image`: the three of the project out of the built programs beside the running one, and two for
    /// the scenarios.
    ///
    /// # Errors
    /// When a program is not built and cannot be.
    pub fn pack() -> anyhow::Result<Self> {
        let folder = workspace_root().join("target/image");
        let built = program(image::NAMES[0])?;
        let programs = built.parent().context("a program is in a folder")?;
        let mut archives: Vec<_> =
            image::write_all(programs, &folder)?.into_iter().map(|(path, _digest)| path).collect();
        let [agnhost, versitygw] = tools(["agnhost", "versitygw"])?;
        let agent = Tree::default()
            .program("/usr/local/bin/kubectl", &Tools::get()?.kubectl)?
            .program("/agnhost", &agnhost)?
            .program("/usr/local/bin/e2e-load", &program("e2e-load")?)?
            .folder("/tmp", 0o1777);
        let mut agent = Image::new(AGENT_IMAGE, agent, &["/agnhost"]);
        agent.arguments = vec!["pause".to_owned()];
        agent.env = vec!["PATH=/usr/local/bin".to_owned()];
        let s3 = Tree::default().program("/versitygw", &versitygw)?.folder("/data", 0o755);
        let s3 = Image::new(S3_IMAGE, s3, &["/versitygw"]);
        for (name, image) in [("e2e-agent", agent), ("e2e-s3", s3)] {
            let path = folder.join(format!("{name}.tar"));
            image.write(&path)?;
            archives.push(path);
        }
        Ok(Self(archives))
    }

    /// The archives.
    pub fn archives(&self) -> &[PathBuf] {
        &self.0
    }

    /// Makes all of them known to a cluster.
    ///
    /// # Errors
    /// When the cluster refuses one.
    pub fn import(&self, cluster: &Cluster) -> anyhow::Result<()> {
        self.0.iter().try_for_each(|archive| cluster.import(archive))
    }
}

/// An installed release.
pub struct Release {
    cluster: Cluster,
    storage: Storage,
    /// Folder of this machine where the recordings are, on a node of our own.
    folder: Option<PathBuf>,
    began: Instant,
}

impl Release {
    /// Prepares storage and runs `helm install --wait`. `more` are further arguments of helm.
    ///
    /// # Errors
    /// When helm says so; the message ends with what the pods say.
    pub async fn install(cluster: &Cluster, storage: Storage, more: &[&str]) -> anyhow::Result<Self> {
        cluster.namespace(SYSTEM).await?;
        let values = match storage {
            Storage::Filesystem => vec!["storage.type=Filesystem".to_owned()],
            Storage::S3 => s3(cluster).await?,
        };
        let began = Instant::now();
        let out = install_with(cluster, &values, more)?;
        if out.code != 0 {
            anyhow::bail!("helm install: {}{}\n{}", out.stderr, out.stdout, pods_say(cluster));
        }
        let folder = folder(cluster, storage)?;
        Ok(Self { cluster: cluster.clone(), storage, folder, began })
    }

    /// When `helm install` was begun.
    pub fn began(&self) -> Instant {
        self.began
    }

    /// Where recordings are kept.
    pub fn storage(&self) -> Storage {
        self.storage
    }

    /// The store's folder on this machine, on a node of our own.
    pub fn folder(&self) -> Option<&Path> {
        self.folder.as_deref()
    }

    /// Runs `helm test`, as people do after an install.
    ///
    /// # Errors
    /// When it fails; the message ends with what the check said.
    pub fn test(&self) -> anyhow::Result<()> {
        let out = self.cluster.helm(&["test", chart::RELEASE, "--namespace", SYSTEM, "--timeout", "180s"])?;
        if out.code != 0 {
            let check = self.cluster.kubectl(&["logs", "sallyport-check", "-n", SYSTEM])?;
            anyhow::bail!("helm test: {}{}\n{}{}", out.stderr, out.stdout, check.stdout, check.stderr);
        }
        Ok(())
    }

    /// Runs `helm uninstall --wait`.
    ///
    /// # Errors
    /// When helm says so.
    pub fn uninstall(self) -> anyhow::Result<()> {
        let args = ["uninstall", chart::RELEASE, "--namespace", SYSTEM, "--wait", "--timeout", "180s"];
        self.cluster.helm(&args)?.success()?;
        Ok(())
    }

    /// Runs `kubectl-sallyport` of the host as the administrator, against the files of the store; none elsewhere than on a node
    /// of our own.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn plugin(&self, args: &[&str]) -> anyhow::Result<Option<Output>> {
        let Some(folder) = &self.folder else { return Ok(None) };
        let out = Command::new(program("kubectl-sallyport")?)
            .args(args)
            .args(["--store", &format!("file://{}", folder.display())])
            .env_clear()
            .env("KUBECONFIG", self.cluster.kubeconfig())
            .output()?;
        Ok(Some(Output {
            stdout: String::from_utf8(out.stdout)?,
            stderr: String::from_utf8(out.stderr)?,
            code: out.status.code().unwrap_or(-1),
        }))
    }

    /// Runs `kubectl-sallyport` in a pod of its image that reaches the store as the proxies do; returns what it said.
    ///
    /// # Errors
    /// When the pod does not come to an end.
    pub async fn plugin_in_pod(&self, args: &[&str]) -> anyhow::Result<Output> {
        let name = format!("plugin-{}", self.cluster.next());
        self.cluster.apply(&auditor().to_string())?;
        let object = self.plugin_pod(&name, args);
        self.cluster.apply(&object.to_string())?;
        let ask = ["pod", &name, "-n", SYSTEM];
        let ended = crate::eventually("the plugin's end", SOON, async || {
            let pod = self.cluster.get(&ask)?;
            let state = &pod["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"];
            Ok(state.as_i64())
        });
        let code = ended.await.with_context(|| pods_say(&self.cluster))?;
        let stdout = self.cluster.kubectl(&["logs", &name, "-n", SYSTEM])?.success()?;
        self.cluster.kubectl(&["delete", "pod", &name, "-n", SYSTEM, "--wait=false"])?.success()?;
        Ok(Output { stdout, stderr: String::new(), code: i32::try_from(code)? })
    }

    fn plugin_pod(&self, name: &str, args: &[&str]) -> Value {
        let store = match self.storage {
            Storage::Filesystem => vec!["--store".to_owned(), "file:///recordings".to_owned()],
            Storage::S3 => vec![
                format!("--store=s3://{S3_BUCKET}"),
                format!("--s3-endpoint={}", s3_url()),
                "--s3-region=us-east-1".to_owned(),
            ],
        };
        let args: Vec<String> = args.iter().map(|&arg| arg.to_owned()).chain(store).collect();
        let mut mounts = vec![json!({"name": "kubeconfig", "mountPath": "/kubeconfig"})];
        let mut volumes = vec![json!({"name": "kubeconfig", "configMap": {"name": AUDITOR}})];
        if self.storage == Storage::Filesystem {
            mounts.push(json!({"name": "recordings", "mountPath": "/recordings", "readOnly": true}));
            let claim = json!({"claimName": "sallyport-recordings"});
            volumes.push(json!({"name": "recordings", "persistentVolumeClaim": claim}));
        }
        let key = |name: &str| {
            let secret = json!({"name": S3_CREDENTIALS, "key": name, "optional": true});
            json!({"name": name, "valueFrom": {"secretKeyRef": secret}})
        };
        json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": SYSTEM},
            "spec": {
                "restartPolicy": "Never", "serviceAccountName": AUDITOR, "volumes": volumes,
                "containers": [{
                    "name": "plugin", "image": image::reference("kubectl-sallyport"),
                    "imagePullPolicy": "IfNotPresent", "args": args, "volumeMounts": mounts,
                    "env": [key("AWS_ACCESS_KEY_ID"), key("AWS_SECRET_ACCESS_KEY"),
                            {"name": "KUBECONFIG", "value": "/kubeconfig/config"}],
                }],
            },
        })
    }
}

/// Somebody who may read records, for the plugin in a pod: an account, its role, a kubeconfig without a secret in it.
fn auditor() -> Value {
    let mounted = "/var/run/secrets/kubernetes.io/serviceaccount";
    let kubeconfig = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "pod",
        "clusters": [{"name": "pod", "cluster": {
            "server": "https://kubernetes.default.svc", "certificate-authority": format!("{mounted}/ca.crt")}}],
        "users": [{"name": "pod", "user": {"tokenFile": format!("{mounted}/token")}}],
        "contexts": [{"name": "pod", "context": {"cluster": "pod", "user": "pod"}}],
    });
    json!({"apiVersion": "v1", "kind": "List", "items": [
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": AUDITOR, "namespace": SYSTEM}},
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": AUDITOR, "namespace": SYSTEM},
         "data": {"config": kubeconfig.to_string()}},
        {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": AUDITOR},
         "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "sallyport-viewer"},
         "subjects": [{"kind": "ServiceAccount", "name": AUDITOR, "namespace": SYSTEM}]},
    ]})
}

/// `helm install --wait` with values and nothing prepared or judged.
///
/// # Errors
/// When helm cannot be started.
pub fn install_with(cluster: &Cluster, values: &[String], more: &[&str]) -> anyhow::Result<Output> {
    let chart = chart::folder().display().to_string();
    let mut args =
        vec!["install", chart::RELEASE, &chart, "--namespace", SYSTEM, "--create-namespace", "--wait"];
    args.extend(["--timeout", "180s"]);
    for value in values {
        args.extend(["--set", value]);
    }
    args.extend(more);
    cluster.helm(&args)
}

/// What pods of the system namespace say about themselves: for messages of errors.
pub fn pods_say(cluster: &Cluster) -> String {
    let asked: [&[&str]; 4] = [
        &["get", "pods", "-n", SYSTEM, "-o", "wide"],
        &["get", "events", "-n", SYSTEM, "--sort-by=.lastTimestamp"],
        &["logs", "-n", SYSTEM, "-l", "app.kubernetes.io/component=proxy", "--tail=20", "--prefix"],
        &["logs", "-n", SYSTEM, "-l", "app.kubernetes.io/component=operator", "--tail=20", "--prefix"],
    ];
    let say = |args: &&[&str]| {
        let out = cluster.kubectl(args);
        let text = out.map_or_else(|error| error.to_string(), |out| format!("{}{}", out.stdout, out.stderr));
        let from = text.lines().count().saturating_sub(40);
        text.lines().skip(from).collect::<Vec<_>>().join("\n")
    };
    asked.iter().map(say).collect::<Vec<_>>().join("\n")
}

fn s3_url() -> String {
    format!("http://s3.{S3_NAMESPACE}.svc:7070")
}

/// An S3 server in a pod, with the bucket and a Secret with its credentials.
async fn s3(cluster: &Cluster) -> anyhow::Result<Vec<String>> {
    cluster.namespace(S3_NAMESPACE).await?;
    let data = if cluster.is_own() {
        json!({"name": "data", "hostPath": {"path": cluster.scratch().join("s3"), "type": "DirectoryOrCreate"}})
    } else {
        json!({"name": "data", "emptyDir": {}})
    };
    let labels = json!({"app": "s3"});
    let env = |name: &str, value: &str| json!({"name": name, "value": value});
    let items = json!([
        {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": S3_CREDENTIALS, "namespace": SYSTEM},
         "stringData": {"AWS_ACCESS_KEY_ID": S3_KEY.0, "AWS_SECRET_ACCESS_KEY": S3_KEY.1}},
        {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s3", "namespace": S3_NAMESPACE},
         "spec": {"selector": labels, "ports": [{"port": 7070}]}},
        {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "s3", "namespace": S3_NAMESPACE, "labels": labels},
         "spec": {"volumes": [data], "terminationGracePeriodSeconds": 1, "containers": [{
            "name": "s3", "image": S3_IMAGE, "imagePullPolicy": "IfNotPresent",
            "args": ["--port", ":7070", "posix", "/data"],
            "env": [env("ROOT_ACCESS_KEY", S3_KEY.0), env("ROOT_SECRET_KEY", S3_KEY.1)],
            "readinessProbe": {"tcpSocket": {"port": 7070}, "periodSeconds": 1},
            // The server's buckets are folders; the kubelet makes the folder of a subPath.
            "volumeMounts": [{"name": "data", "mountPath": "/data"},
                             {"name": "data", "mountPath": "/bucket", "subPath": S3_BUCKET}],
         }]}},
    ]);
    cluster.apply(&json!({"apiVersion": "v1", "kind": "List", "items": items}).to_string())?;
    cluster.wait("condition=Ready", "pod/s3", S3_NAMESPACE, SOON)?;
    Ok(vec![
        "storage.type=S3".to_owned(),
        format!("storage.s3.bucket={S3_BUCKET}"),
        format!("storage.s3.endpoint={}", s3_url()),
        format!("storage.s3.credentialsSecret={S3_CREDENTIALS}"),
        "aws.region=us-east-1".to_owned(),
    ])
}

/// Where the store's files are on this machine, for a node of our own: the S3 server keeps objects as files of their names.
fn folder(cluster: &Cluster, storage: Storage) -> anyhow::Result<Option<PathBuf>> {
    if !cluster.is_own() {
        return Ok(None);
    }
    Ok(Some(match storage {
        Storage::S3 => cluster.scratch().join("s3").join(S3_BUCKET),
        Storage::Filesystem => {
            let claim = cluster.get(&["pvc", "sallyport-recordings", "-n", SYSTEM])?;
            let volume =
                cluster.get(&["pv", claim["spec"]["volumeName"].as_str().context("a bound claim")?])?;
            let path = volume["spec"]["local"]["path"].as_str().context("a local volume")?;
            cluster.scratch().join("lib").join(path.trim_start_matches("/var/lib/"))
        }
    }))
}
