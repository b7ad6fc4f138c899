//! A whole Kubernetes node on this machine: the control plane, containerd, kubelet, scheduler, kube-proxy and DNS, with real pods.
//!
//! *Expected flow*: [`Node::start`] makes namespaces of its own, starts everything in them and returns when the node is Ready (about
//! 10 s, once the programs are built). *Guarantees*: several live side by side; nothing of it is on the machine when the last
//! clone is dropped or this process ends in any way, see [`leftovers()`]; addresses of pods and Services cannot leave the machine.
//! *Assumptions*: Linux, root, and the packages that `e2e/tools/node-packages.sh` installs. *Errors*: the message holds the last lines
//! of the program's log.

pub(crate) mod cgroup;
mod dns;
mod images;
mod leftovers;
mod parts;
mod room;
mod storage;

use std::ffi::OsStr;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use k8s_openapi::api::core::v1::Service;
use kube::{Api, Client};

use crate::audit::Audit;
use crate::control_plane::{ControlPlane, Files, Ports, Site};
use crate::relay::Relay;
use crate::supervision::{Process, Supervisor};
use crate::tools::workspace_root;
use dns::Dns;
use parts::Programs;
use room::Room;

pub use leftovers::{leftovers, of as traces_of};

/// The node's name in its cluster.
pub const NAME: &str = "node1";
/// The node's address: also where its kubelet, its API server and pods of the host's network answer.
pub const ADDRESS: &str = "10.77.0.1";
/// Port of the API server at [`ADDRESS`].
pub const API_PORT: u16 = 6443;
/// Addresses of pods.
pub const PODS: &str = "10.244.0.0/24";
/// Address of the Service kube-dns.
pub const CLUSTER_DNS: &str = "10.96.0.10";
/// Image of the process that holds a pod's namespaces.
pub const PAUSE: &str = "localhost/pause:1";
/// Kubernetes' own test program, entrypoint `/agnhost`.
pub const AGNHOST: &str = "localhost/agnhost:1";
/// A shell with busybox, agnhost and kubectl 1.29, 1.31, 1.33, 1.36 (`kubectl-1.29`...; `kubectl` is the newest); sleeps.
pub const TOOLBOX: &str = "localhost/toolbox:1";

const READY_WITHIN: Duration = Duration::from_secs(90);

/// How a node is made.
#[derive(Clone, Debug)]
pub struct Options {
    /// PersistentVolumes of 10 GiB that are there for claims of the default StorageClass, each bound at most once.
    pub volumes: usize,
    /// OCI archives to import beside the test images.
    pub images: Vec<PathBuf>,
}

impl Default for Options {
    fn default() -> Self {
        Self { volumes: 8, images: Vec::new() }
    }
}

/// A program of the node, to stop, continue or kill.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// etcd.
    Etcd,
    /// kube-apiserver.
    ApiServer,
    /// kube-controller-manager.
    ControllerManager,
    /// kube-scheduler.
    Scheduler,
    /// containerd.
    Containerd,
    /// kubelet.
    Kubelet,
    /// kube-proxy.
    KubeProxy,
    /// dnsmasq.
    Dns,
}

/// A running node. Cheap to clone; ends with the last clone.
#[derive(Clone)]
pub struct Node(Arc<Inner>);

struct Inner {
    name: String,
    plane: ControlPlane,
    room: Room,
    api: Relay,
    dns: Dns,
    scheduler: Process,
    containerd: Process,
    kubelet: Process,
    kube_proxy: Process,
}

impl Node {
    /// Starts one; blocks until it is Ready. May be called inside or outside an async runtime.
    ///
    /// # Errors
    /// When this process is not root, a program is missing, or the node is not Ready in 90 s.
    pub fn start(options: Options) -> anyhow::Result<Self> {
        prepare()?;
        let programs = Programs::find()?;
        let archives = images::archives()?;
        let outside = Supervisor::start()?;
        let name = outside.scratch().file_name().context("a scratch folder has a name")?;
        let name = name.to_string_lossy().into_owned();
        cgroup::create(&name)?;
        let room = Room::open(&outside, ADDRESS)?;
        let supervisor = outside.within(room.first());
        let files = Files::write(
            supervisor.scratch(),
            &[ADDRESS, "10.96.0.1", "kubernetes.default.svc.cluster.local"],
        )?;
        parts::write_files(&files, &name)?;
        let containerd = parts::run_containerd(&supervisor)?;
        let socket = parts::containerd_socket(supervisor.scratch());
        let imported =
            std::thread::spawn(move || import_all(&socket, archives.iter().chain(&options.images)));

        let api = Relay::start_into(&room.network(), SocketAddr::new(ADDRESS.parse()?, API_PORT))?;
        let plane = ControlPlane::start_at(Site {
            api_flags: parts::api_flags(&files)?,
            server: format!("https://127.0.0.1:{}", api.port()),
            inside: parts::INSIDE.to_owned(),
            ports: Ports { client: 2379, peer: 2380, api: API_PORT, manager: 10257 },
            supervisor: supervisor.clone(),
            files,
        })?;
        let kubelet = parts::run_kubelet(&supervisor, &programs)?;
        let kube_proxy = parts::run_proxy(&supervisor, &programs)?;
        let scheduler = parts::run_scheduler(&supervisor, &programs)?;
        let dns = Dns::start(&supervisor, &plane)?;
        let node =
            Self(Arc::new(Inner { name, plane, room, api, dns, scheduler, containerd, kubelet, kube_proxy }));
        node.plane().apply(&storage::manifests(node.scratch(), options.volumes)?)?;
        imported.join().map_err(|_panic| anyhow::anyhow!("the import panicked"))??;
        node.wait_until_ready()?;
        Ok(node)
    }

    /// The control plane: clients, kubectl, namespaces, tokens, for programs on this machine.
    pub fn plane(&self) -> &ControlPlane {
        &self.0.plane
    }

    /// A client of the administrator, bound to the current async runtime.
    ///
    /// # Errors
    /// When the kubeconfig cannot be read.
    pub async fn admin(&self) -> anyhow::Result<Client> {
        self.plane().admin().await
    }

    /// The witness of what reached the API server.
    pub fn audit(&self) -> &Audit {
        self.plane().audit()
    }

    /// URL of the API server on the machine's loopback; the same after a restart of the API server.
    pub fn host_url(&self) -> &str {
        self.plane().server()
    }

    /// The administrator's kubeconfig file for programs inside the node's network ([`Node::in_namespace`]).
    pub fn inside_kubeconfig(&self) -> PathBuf {
        self.scratch().join("files/admin-inside.kubeconfig")
    }

    /// Folder for files that should vanish with the node.
    pub fn scratch(&self) -> &Path {
        self.plane().scratch()
    }

    /// A name that no other node on this machine has.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Process id of the first process of the node's namespaces: `nsenter --net=/proc/<pid>/ns/net`.
    pub fn first_process(&self) -> u32 {
        self.0.room.first()
    }

    /// A command that will run `program` in the node's network, where pods and Services are, with the machine's files.
    pub fn in_namespace(&self, program: impl AsRef<OsStr>) -> Command {
        self.0.room.command(program)
    }

    /// Makes an address of the node's network (a pod, a Service) reachable on a free port of the machine's loopback, while the
    /// relay lives.
    ///
    /// # Errors
    /// When no port is free.
    pub fn forward(&self, target: SocketAddr) -> anyhow::Result<Relay> {
        Relay::start_into(&self.0.room.network(), target)
    }

    /// [`Node::forward`] to a Service's address.
    ///
    /// # Errors
    /// When the Service is not there or headless.
    pub async fn forward_service(&self, namespace: &str, name: &str, port: u16) -> anyhow::Result<Relay> {
        let services: Api<Service> = Api::namespaced(self.admin().await?, namespace);
        let address = services.get(name).await?.spec.and_then(|spec| spec.cluster_ip);
        let address = address.with_context(|| format!("Service `{name}` has no address"))?;
        self.forward(SocketAddr::new(
            address.parse().context("a headless Service cannot be forwarded to")?,
            port,
        ))
    }

    /// Imports an OCI archive (`target/image/<name>.tar`): pods can use the image at once, with `imagePullPolicy: IfNotPresent`.
    ///
    /// # Errors
    /// When containerd refuses it.
    pub fn import(&self, archive: &Path) -> anyhow::Result<()> {
        images::import(&self.containerd_socket(), archive)
    }

    /// containerd's socket, for `ctr --address`; good outside the node too.
    pub fn containerd_socket(&self) -> PathBuf {
        parts::containerd_socket(self.scratch())
    }

    /// Stops the API server and starts it anew; blocks until it is ready.
    ///
    /// # Errors
    /// When it does not end or does not become ready in 60 s.
    pub fn restart_api_server(&self) -> anyhow::Result<()> {
        self.plane().restart_api_server()
    }

    /// The process of a program, to send signals: `node.part(Part::Kubelet).signal(Sign::Stop)`.
    pub fn part(&self, part: Part) -> Process {
        match part {
            Part::Etcd => self.plane().etcd().clone(),
            Part::ApiServer => self.plane().api_server(),
            Part::ControllerManager => self.plane().controller_manager().clone(),
            Part::Scheduler => self.0.scheduler.clone(),
            Part::Containerd => self.0.containerd.clone(),
            Part::Kubelet => self.0.kubelet.clone(),
            Part::KubeProxy => self.0.kube_proxy.clone(),
            Part::Dns => self.0.dns.server().clone(),
        }
    }

    /// The relay between the machine's loopback and the API server, to stall or cut.
    pub fn api_relay(&self) -> &Relay {
        &self.0.api
    }

    fn wait_until_ready(&self) -> anyhow::Result<()> {
        let node = self.clone();
        crate::block_on(move || async move {
            let nodes: Api<k8s_openapi::api::core::v1::Node> = Api::all(node.admin().await?);
            let ready = crate::eventually("the node to be Ready", READY_WITHIN, async || {
                for part in [&node.0.containerd, &node.0.kubelet, &node.0.kube_proxy, &node.0.scheduler] {
                    if part.ended()?.is_some() {
                        bail!("a program of the node ended; {}", part.last_words());
                    }
                }
                let found = nodes.get_opt(NAME).await?;
                let conditions = found.and_then(|node| node.status?.conditions).unwrap_or_default();
                Ok(conditions.iter().any(|one| one.type_ == "Ready" && one.status == "True").then_some(()))
            });
            ready.await.with_context(|| node.0.kubelet.last_words())
        })
    }
}

/// Installs the packages and builds the programs that are missing; shows its progress on stderr. [`Node::start`] does it too.
///
/// # Errors
/// When this process is not root, a package cannot be installed here or a program cannot be built.
pub fn prepare() -> anyhow::Result<()> {
    ensure!(
        rustix::process::geteuid().is_root(),
        "a node needs root: for namespaces, mounts and control groups"
    );
    let script = workspace_root().join("e2e/tools/node-packages.sh");
    let status = Command::new(script).stdin(Stdio::null()).status().context("cannot run node-packages.sh")?;
    ensure!(status.success(), "the node's packages are not all there: see above");
    crate::Tools::get()?;
    Programs::find()?;
    images::archives().map(|_archives| ())
}

fn import_all<'a>(socket: &Path, archives: impl Iterator<Item = &'a PathBuf>) -> anyhow::Result<()> {
    let wait = || async {
        crate::eventually("containerd's socket", READY_WITHIN, async || Ok(answers(socket).then_some(())))
            .await
    };
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(wait())?;
    for archive in archives {
        images::import(socket, archive)?;
    }
    Ok(())
}

fn answers(socket: &Path) -> bool {
    let mut command = Command::new("ctr");
    command.arg("--address").arg(socket).args(["--timeout", "2s", "version"]);
    command.stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
}
