//! The programs of the control plane and the project's own: where they are, building what is missing.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use anyhow::{Context, bail};

/// The programs that a local control plane is made of.
#[derive(Clone, Debug)]
pub struct Tools {
    /// etcd.
    pub etcd: PathBuf,
    /// kube-apiserver.
    pub kube_apiserver: PathBuf,
    /// kube-controller-manager.
    pub kube_controller_manager: PathBuf,
    /// The newest kubectl that is tested.
    pub kubectl: PathBuf,
    /// A kubectl of 1.31, which sends JSON where newer ones send protobuf.
    pub kubectl_old: PathBuf,
}

impl Tools {
    /// Asks `e2e/tools/build.sh`, once per process; the first call on a machine takes minutes and shows its progress on stderr.
    ///
    /// # Errors
    /// When a program is missing and cannot be built.
    pub fn get() -> anyhow::Result<&'static Self> {
        static TOOLS: OnceLock<Result<Tools, String>> = OnceLock::new();
        let found = TOOLS.get_or_init(|| find().map_err(|error| format!("{error:#}")));
        found.as_ref().map_err(|error| anyhow::anyhow!("{error}"))
    }
}

fn find() -> anyhow::Result<Tools> {
    let names = ["etcd", "kube-apiserver", "kube-controller-manager", "kubectl", "kubectl-old"];
    let [etcd, kube_apiserver, kube_controller_manager, kubectl, kubectl_old] = tools(names)?;
    Ok(Tools { etcd, kube_apiserver, kube_controller_manager, kubectl, kubectl_old })
}

/// Where the programs `names` are, by `e2e/tools/build.sh`, which builds what is missing and shows its progress on stderr.
///
/// # Errors
/// When a program is unknown, or missing and cannot be built.
pub fn tools<const N: usize>(names: [&str; N]) -> anyhow::Result<[PathBuf; N]> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tools/build.sh");
    let mut command = Command::new(&script);
    let output = command.args(names).stderr(Stdio::inherit()).output();
    let output = output.context("cannot run e2e/tools/build.sh")?;
    if !output.status.success() {
        bail!("e2e/tools/build.sh failed: {}", output.status);
    }
    let text = String::from_utf8(output.stdout)?;
    let mut paths = names.map(|_name| PathBuf::new());
    for (name, path) in names.iter().zip(&mut paths) {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        *path = line.map(PathBuf::from).with_context(|| format!("e2e/tools/build.sh names no {name}"))?;
    }
    Ok(paths)
}

/// The root of the workspace.
pub fn workspace_root() -> &'static Path {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    own.parent().unwrap_or(own)
}

/// A program of this workspace, looked for in the folders above the running program (`target/debug`).
///
/// # Errors
/// When it is not built.
pub fn program(name: &str) -> anyhow::Result<PathBuf> {
    let own = std::env::current_exe().context("cannot find the running program")?;
    let found = own.ancestors().skip(1).take(3).map(|folder| folder.join(name)).find(|path| path.is_file());
    found.with_context(|| format!("`{name}` is not built: run `cargo build --workspace --bins` first"))
}
