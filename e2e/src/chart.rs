//! The chart, by real helm: what it renders is what both rungs apply.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use anyhow::Context;

use crate::gate::SYSTEM;
use crate::kubectl::Output;
use crate::tools::{tools, workspace_root};

/// Name of the release.
pub const RELEASE: &str = "sallyport";

/// The chart's folder.
pub fn folder() -> PathBuf {
    workspace_root().join("charts/sallyport")
}

/// Runs helm to its end, with nothing in its environment but the kubeconfig and a home of its own.
///
/// # Errors
/// When it is missing and cannot be built, or cannot be started.
pub fn helm(kubeconfig: Option<&Path>, args: &[&str]) -> anyhow::Result<Output> {
    let home = tempfile::tempdir()?;
    let mut command = Command::new(program()?);
    command.args(args).env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
    for name in ["HOME", "HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME"] {
        command.env(name, home.path());
    }
    // Never a cluster that nobody named.
    command.env("KUBECONFIG", kubeconfig.unwrap_or(Path::new("/dev/null")));
    let output = command.stdin(Stdio::null()).output().context("cannot start helm")?;
    Ok(Output {
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        code: output.status.code().unwrap_or(-1),
    })
}

/// The chart's manifests from one folder of its templates (`rbac`, `crds` ...) as one text of YAML documents, rendered with
/// the values of a cluster that has no S3, once per process.
///
/// # Errors
/// When helm refuses the chart, or the folder renders to nothing.
pub fn manifests(folder: &str) -> anyhow::Result<String> {
    static RENDERED: OnceLock<Result<String, String>> = OnceLock::new();
    let rendered = RENDERED.get_or_init(|| render().map_err(|error| format!("{error:#}")));
    let rendered = rendered.as_ref().map_err(|error| anyhow::anyhow!("{error}"))?;
    let source = format!("# Source: sallyport/templates/{folder}/");
    let wanted: Vec<&str> = rendered.split("\n---\n").filter(|one| one.contains(&source)).collect();
    anyhow::ensure!(!wanted.is_empty(), "the chart has nothing in templates/{folder}");
    Ok(wanted.join("\n---\n"))
}

fn render() -> anyhow::Result<String> {
    let chart = folder().display().to_string();
    let args = ["template", RELEASE, &chart, "--namespace", SYSTEM, "--kube-version", "1.36.0"];
    let values = ["--set", "storage.type=Filesystem"];
    helm(None, &[&args[..], &values].concat())?.success().context("helm cannot render the chart")
}

fn program() -> anyhow::Result<PathBuf> {
    static HELM: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let found = HELM.get_or_init(|| {
        let found = tools(["helm"]).map(|[helm]| helm);
        found.map_err(|error| format!("{error:#}"))
    });
    found.clone().map_err(|error| anyhow::anyhow!("{error}"))
}
