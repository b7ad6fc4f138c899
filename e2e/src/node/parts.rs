//! The programs of a node beside the control plane: containerd, kubelet, kube-proxy, kube-scheduler, and what they read.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::{ADDRESS, CLUSTER_DNS, NAME, PAUSE, PODS};
use crate::control_plane::{Files, argv, base_env};
use crate::kubeconfig::{Kubeconfig, Login};
use crate::pki::Pair;
use crate::supervision::{Process, Supervisor};
use crate::tools::tools;

/// URL of the API server inside the node.
pub(super) const INSIDE: &str = "https://127.0.0.1:6443";
const CNI_PROGRAMS: &str = "/usr/lib/cni";

/// The programs of the node.
pub(super) struct Programs {
    scheduler: PathBuf,
    kubelet: PathBuf,
    proxy: PathBuf,
}

impl Programs {
    /// Finds or builds them.
    ///
    /// # Errors
    /// When one is missing and cannot be built.
    pub(super) fn find() -> anyhow::Result<Self> {
        let [scheduler, kubelet, proxy] = tools(["kube-scheduler", "kubelet", "kube-proxy"])?;
        Ok(Self { scheduler, kubelet, proxy })
    }
}

/// Flags of the API server for a place where pods and a kubelet are.
///
/// # Errors
/// When a certificate cannot be made.
pub(super) fn api_flags(files: &Files) -> anyhow::Result<Vec<(&'static str, String)>> {
    let client = files.authority.client("kube-apiserver-kubelet-client", Some("system:masters"))?;
    let (cert, key) = write(files, "apiserver-kubelet", &client)?;
    Ok(vec![
        ("advertise-address", ADDRESS.to_owned()),
        ("bind-address", "0.0.0.0".to_owned()),
        ("kubelet-client-certificate", cert),
        ("kubelet-client-key", key),
        ("kubelet-certificate-authority", files.file("ca.crt")),
        ("kubelet-preferred-address-types", "InternalIP".to_owned()),
        ("allow-privileged", "true".to_owned()),
        ("enable-admission-plugins", "NodeRestriction".to_owned()),
    ])
}

/// Writes what the programs of the node read; [`Files`] is used up by the control plane afterwards.
///
/// # Errors
/// When a file cannot be written.
pub(super) fn write_files(files: &Files, name: &str) -> anyhow::Result<()> {
    for (user, group, file) in [
        ("system:kube-scheduler", None, "scheduler"),
        ("system:kube-proxy", None, "proxy"),
        (&*format!("system:node:{NAME}"), Some("system:nodes"), "kubelet"),
        (crate::control_plane::ADMIN, Some("system:masters"), "admin-inside"),
    ] {
        let pair = files.authority.client(user, group)?;
        Kubeconfig::new(INSIDE, files.authority.cert(), Login::cert(&pair)).write(&files.folder, file)?;
    }
    write(files, "kubelet", &files.authority.server("kubelet", &[ADDRESS, NAME])?)?;
    std::fs::create_dir(files.folder.join("cni"))?;
    let texts = [
        ("resolv.conf", format!("nameserver {CLUSTER_DNS}\n")),
        ("containerd.toml", containerd_toml(files)),
        ("cni/10-pods.conflist", cni().to_string()),
        ("kubelet.yaml", kubelet_config(files, name).to_string()),
        ("kube-proxy.yaml", proxy_config(files).to_string()),
    ];
    for (file, text) in texts {
        std::fs::write(files.folder.join(file), text)?;
    }
    Ok(())
}

/// Starts containerd.
///
/// # Errors
/// When it cannot be started.
pub(super) fn run_containerd(supervisor: &Supervisor) -> anyhow::Result<Process> {
    let argv = ["containerd".to_owned(), "--config".to_owned(), file(supervisor, "containerd.toml")];
    supervisor.run("containerd", argv.into(), environment())
}

/// Starts kube-scheduler.
///
/// # Errors
/// When it cannot be started.
pub(super) fn run_scheduler(supervisor: &Supervisor, programs: &Programs) -> anyhow::Result<Process> {
    let kubeconfig = file(supervisor, "scheduler.kubeconfig");
    let flags = [
        ("kubeconfig", kubeconfig.clone()),
        ("authentication-kubeconfig", kubeconfig.clone()),
        ("authorization-kubeconfig", kubeconfig),
        ("bind-address", "127.0.0.1".to_owned()),
        ("cert-dir", file(supervisor, "scheduler")),
        ("leader-elect", "false".to_owned()),
    ];
    supervisor.run("kube-scheduler", argv(&programs.scheduler, &flags), environment())
}

/// Starts the kubelet.
///
/// # Errors
/// When it cannot be started.
pub(super) fn run_kubelet(supervisor: &Supervisor, programs: &Programs) -> anyhow::Result<Process> {
    let flags = [
        ("config", file(supervisor, "kubelet.yaml")),
        ("kubeconfig", file(supervisor, "kubelet.kubeconfig")),
        ("hostname-override", NAME.to_owned()),
        ("node-ip", ADDRESS.to_owned()),
    ];
    supervisor.run("kubelet", argv(&programs.kubelet, &flags), environment())
}

/// Starts kube-proxy.
///
/// # Errors
/// When it cannot be started.
pub(super) fn run_proxy(supervisor: &Supervisor, programs: &Programs) -> anyhow::Result<Process> {
    let flags = [("config", file(supervisor, "kube-proxy.yaml"))];
    supervisor.run("kube-proxy", argv(&programs.proxy, &flags), environment())
}

/// containerd's socket: in the scratch folder, so that `ctr` reaches it from outside the node.
pub(super) fn containerd_socket(scratch: &Path) -> PathBuf {
    scratch.join("containerd.sock")
}

/// Environment of the node's programs: the system's own folders too, which a person's PATH may lack.
pub(super) fn environment() -> BTreeMap<String, String> {
    let mut environment = base_env();
    let path = environment.remove("PATH").unwrap_or_default();
    environment.insert("PATH".to_owned(), format!("{path}:/usr/local/sbin:/usr/sbin:/sbin:/usr/bin:/bin"));
    environment
}

fn file(supervisor: &Supervisor, name: &str) -> String {
    supervisor.scratch().join("files").join(name).display().to_string()
}

fn write(files: &Files, name: &str, pair: &Pair) -> anyhow::Result<(String, String)> {
    let [cert, key] = [format!("{name}.crt"), format!("{name}.key")];
    std::fs::write(files.folder.join(&cert), &pair.cert)?;
    std::fs::write(files.folder.join(&key), &pair.key)?;
    Ok((files.file(&cert), files.file(&key)))
}

fn containerd_toml(files: &Files) -> String {
    let scratch = files.folder.parent().unwrap_or(&files.folder);
    let socket = containerd_socket(scratch).display().to_string();
    let cni = files.file("cni");
    format!(
        r#"version = 2
root = "/var/lib/containerd"
state = "/run/containerd"
disabled_plugins = ["io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.devmapper"]
[grpc]
  address = "{socket}"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE}"
  disable_apparmor = true
  # Root without CAP_SYS_RESOURCE may not lower it: every sandbox would fail.
  restrict_oom_score_adj = true
  stream_server_address = "127.0.0.1"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{CNI_PROGRAMS}"
    conf_dir = "{cni}"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false
"#
    )
}

fn cni() -> Value {
    json!({"cniVersion": "1.0.0", "name": "pods", "plugins": [
        {"type": "bridge", "bridge": "cni0", "isGateway": true, "hairpinMode": true,
         "ipam": {"type": "host-local", "ranges": [[{"subnet": PODS}]], "routes": [{"dst": "0.0.0.0/0"}]}},
    ]})
}

fn kubelet_config(files: &Files, name: &str) -> Value {
    let scratch = files.folder.parent().unwrap_or(&files.folder);
    json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration",
        "address": ADDRESS, "port": 10250, "healthzBindAddress": "127.0.0.1",
        "cgroupDriver": "cgroupfs", "cgroupRoot": format!("/{name}"), "failCgroupV1": false, "failSwapOn": false,
        "cgroupsPerQOS": true, "enforceNodeAllocatable": ["pods"],
        "containerRuntimeEndpoint": format!("unix://{}", containerd_socket(scratch).display()),
        "authentication": {
            "anonymous": {"enabled": false}, "webhook": {"enabled": true}, "x509": {"clientCAFile": files.file("ca.crt")},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": files.file("kubelet.crt"), "tlsPrivateKeyFile": files.file("kubelet.key"),
        "clusterDNS": [CLUSTER_DNS], "clusterDomain": "cluster.local", "resolvConf": files.file("resolv.conf"),
        "evictionHard": {"memory.available": "100Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
        "imageGCHighThresholdPercent": 100, "maxPods": 60, "makeIPTablesUtilChains": false,
        "nodeStatusUpdateFrequency": "5s",
        // A Secret or ConfigMap that changes reaches its pods within seconds, as tests of renewal want.
        "syncFrequency": "5s", "configMapAndSecretChangeDetectionStrategy": "Watch",
        "volumePluginDir": "/var/lib/kubelet/volume-plugins",
    })
}

fn proxy_config(files: &Files) -> Value {
    json!({
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1", "kind": "KubeProxyConfiguration",
        "mode": "nftables", "hostnameOverride": NAME, "bindAddress": ADDRESS, "clusterCIDR": PODS,
        "clientConnection": {"kubeconfig": files.file("proxy.kubeconfig")},
        "healthzBindAddress": "127.0.0.1:10256", "metricsBindAddress": "127.0.0.1:10249",
        "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
    })
}
