//! Stock kubectl, run as a person or an agent runs it.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

use anyhow::Context;

use crate::tools::{Tools, tools};

/// Which kubectl.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// The newest that is tested; sends protobuf bodies for reviews and some writes.
    New,
    /// 1.31; sends JSON.
    Old,
    /// 1.29, the oldest that is tested.
    V129,
    /// 1.33, in between.
    V133,
}

impl Version {
    /// The oldest, one in between, and the newest: what is said of every text that an agent reads.
    pub const READERS: [Version; 3] = [Version::V129, Version::V133, Version::New];

    /// The program.
    ///
    /// # Errors
    /// When it is missing and cannot be built.
    pub fn program(self) -> anyhow::Result<&'static Path> {
        static MORE: OnceLock<Result<[PathBuf; 2], String>> = OnceLock::new();
        let more = || {
            let more = MORE.get_or_init(|| {
                tools(["kubectl-1.29", "kubectl-1.33"]).map_err(|error| format!("{error:#}"))
            });
            more.as_ref().map_err(|error| anyhow::anyhow!("{error}"))
        };
        Ok(match self {
            Version::New => &Tools::get()?.kubectl,
            Version::Old => &Tools::get()?.kubectl_old,
            Version::V129 => &more()?[0],
            Version::V133 => &more()?[1],
        })
    }
}

/// For `kubectl wait`: the deployment controller has written its annotation, the last change of a Deployment that nobody asked for. An
/// approval that was asked for before binds another object.
pub const ROLLED_OUT: &str = r"--for=jsonpath={.metadata.annotations.deployment\.kubernetes\.io/revision}=1";

/// What a program said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
    /// Exit code; -1 when killed by a signal.
    pub code: i32,
}

impl Output {
    /// The standard output of a program that must have succeeded.
    ///
    /// # Errors
    /// When it did not; the message holds its standard error.
    pub fn success(self) -> anyhow::Result<String> {
        anyhow::ensure!(self.code == 0, "exit code {}: {}{}", self.code, self.stderr, self.stdout);
        Ok(self.stdout)
    }
}

/// Runs kubectl to its end, with nothing in its environment but the kubeconfig, `cat` for an editor and a home of its own beside it.
///
/// # Errors
/// When it cannot be started.
pub fn kubectl(version: Version, kubeconfig: &Path, args: &[&str]) -> anyhow::Result<Output> {
    kubectl_stdin(version, kubeconfig, args, "")
}

/// The same with text on its standard input.
///
/// # Errors
/// When it cannot be started.
pub fn kubectl_stdin(
    version: Version,
    kubeconfig: &Path,
    args: &[&str],
    stdin: &str,
) -> anyhow::Result<Output> {
    let mut child = kubectl_spawn(version, kubeconfig, args)?;
    let input = child.stdin.take();
    let text = stdin.to_owned();
    let writer = std::thread::spawn(move || {
        use std::io::Write;
        // A program that does not read its input closes it: that is no error here.
        input.map(|mut input| input.write_all(text.as_bytes()))
    });
    let output = child.wait_with_output().context("cannot wait for kubectl")?;
    let _broken_pipe = writer.join();
    Ok(Output {
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        code: output.status.code().unwrap_or(-1),
    })
}

/// Starts kubectl and returns at once, for watches; stdin, stdout and stderr are pipes. The caller ends it.
///
/// # Errors
/// When it cannot be started.
pub fn kubectl_spawn(version: Version, kubeconfig: &Path, args: &[&str]) -> anyhow::Result<Child> {
    let program = version.program()?;
    let home = kubeconfig.with_extension("home");
    Command::new(program)
        .arg0("kubectl")
        .args(args)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("HOME", &home)
        .env("KUBECACHEDIR", home.join("cache"))
        .env("KUBECONFIG", kubeconfig)
        .env("KUBE_EDITOR", "cat")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot start kubectl")
}
