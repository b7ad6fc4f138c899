//! The namespaces of a node: its own processes, network and mounts. All of it is gone with its first process.
//!
//! *Guarantees*: nothing is mounted on the machine, no rule or address is added to the machine's network, no file is written
//! outside the scratch folder. Control groups are the one thing that has no namespace here: see [`super::cgroup`].

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, bail, ensure};

use crate::control_plane::base_env;
use crate::supervision::{Process, Supervisor};

const SCRIPT: &str = include_str!("room.sh");
const READY_WITHIN: Duration = Duration::from_secs(20);
/// Folders that the room hides behind its own.
const HIDDEN: [&str; 3] = ["/var/lib", "/run", "/var/log"];

/// The namespaces, held by a process of the supervisor.
#[derive(Debug)]
pub(super) struct Room {
    first: u32,
}

impl Room {
    /// Makes the namespaces with `address` for the node.
    ///
    /// # Errors
    /// When this process is not root or the kernel refuses one.
    pub(super) fn open(supervisor: &Supervisor, address: &str) -> anyhow::Result<Self> {
        let scratch = supervisor.scratch();
        for hidden in HIDDEN {
            ensure!(
                !scratch.starts_with(hidden),
                "a node cannot live below `{hidden}`: set TMPDIR to another folder"
            );
        }
        let script = scratch.join("room.sh");
        std::fs::write(&script, SCRIPT)?;
        let words = ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "sh"];
        let mut argv: Vec<String> = words.map(str::to_owned).into();
        argv.extend([script.display().to_string(), scratch.display().to_string(), address.to_owned()]);
        let holder = supervisor.run("room", argv, base_env())?;
        let ready = scratch.join("room");
        let deadline = std::time::Instant::now() + READY_WITHIN;
        while !ready.exists() {
            if holder.ended()?.is_some() || std::time::Instant::now() > deadline {
                bail!("cannot make the node's namespaces; {}", holder.last_words());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(Self { first: child_of(&holder)? })
    }

    /// Process id of the first process, as the machine sees it.
    pub(super) fn first(&self) -> u32 {
        self.first
    }

    /// The network namespace; good while the node lives.
    pub(super) fn network(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/ns/net", self.first))
    }

    /// A command line that runs `program` in the node's network, with the machine's files.
    pub(super) fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        let mut network = std::ffi::OsString::from("--net=");
        network.push(self.network());
        command.arg(network).arg("--").arg(program);
        command
    }
}

fn child_of(holder: &Process) -> anyhow::Result<u32> {
    let pid = holder.pid();
    let path = format!("/proc/{pid}/task/{pid}/children");
    let children =
        std::fs::read_to_string(Path::new(&path)).with_context(|| format!("cannot read `{path}`"))?;
    children
        .trim()
        .parse()
        .with_context(|| format!("the room's holder has not one child but `{}`", children.trim()))
}
