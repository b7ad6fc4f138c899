//! The harness's side of the supervisor: processes that cannot outlive the one who started them.
//!
//! *Guarantees*: when this process ends, also by `kill -9`, the supervisor kills every process started here and removes the
//! scratch folder; when the supervisor is killed, the kernel kills them. A folder left by a killed supervisor is swept by the
//! next start.

use std::collections::BTreeMap;
use std::fs::{File, TryLockError};
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};

/// What the harness asks of the supervisor, one JSON line each.
#[derive(Debug, Serialize, Deserialize)]
pub enum Order {
    /// Start a program with exactly this environment; both its outputs are appended to `log`.
    Start {
        /// Program and arguments.
        argv: Vec<String>,
        /// The whole environment.
        env: BTreeMap<String, String>,
        /// File for stdout and stderr.
        log: PathBuf,
        /// Process whose namespaces (processes, network, mounts) it joins; none for the supervisor's own.
        within: Option<u32>,
    },
    /// Send a signal; no error when the process has ended.
    Signal {
        /// Process id from [`Answer::Started`].
        pid: u32,
        /// Which.
        signal: Sign,
    },
    /// Ask whether it still runs.
    Status {
        /// Process id from [`Answer::Started`].
        pid: u32,
    },
}

/// What the supervisor answers, one JSON line each.
#[derive(Debug, Serialize, Deserialize)]
pub enum Answer {
    /// To `Start`.
    Started {
        /// Process id.
        pid: u32,
    },
    /// To `Signal`.
    Done,
    /// To `Status`: exit code (128 + signal number when killed), or none while it runs.
    Status {
        /// Exit code.
        ended: Option<i32>,
    },
    /// The order could not be carried out.
    Refused {
        /// Why.
        error: String,
    },
}

/// The signals that tests send.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Sign {
    /// Ask to end.
    Term,
    /// End at once.
    Kill,
    /// Freeze.
    Stop,
    /// Thaw.
    Cont,
    /// Read the configuration again.
    Hup,
}

impl From<Sign> for rustix::process::Signal {
    fn from(sign: Sign) -> Self {
        match sign {
            Sign::Term => Self::TERM,
            Sign::Kill => Self::KILL,
            Sign::Stop => Self::STOP,
            Sign::Cont => Self::CONT,
            Sign::Hup => Self::HUP,
        }
    }
}

/// How the names of scratch folders begin, and of the control groups of nodes.
pub const PREFIX: &str = "sallyport-e2e-";

/// A scratch folder and the supervisor that guards it. Cheap to clone; ends with the last clone.
#[derive(Clone, Debug)]
pub struct Supervisor {
    inner: Arc<Inner>,
    within: Option<u32>,
}

#[derive(Debug)]
struct Inner {
    scratch: PathBuf,
    line: Mutex<Line>,
    _claim: File,
}

#[derive(Debug)]
struct Line {
    child: Child,
    orders: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Supervisor {
    /// Makes a scratch folder and starts its supervisor.
    ///
    /// # Errors
    /// When the supervisor's program is not built or the folder cannot be made.
    pub fn start() -> anyhow::Result<Self> {
        let root = std::env::temp_dir();
        sweep(&root);
        let (scratch, claim) = claimed_folder(&root)?;
        let mut child = Command::new(crate::program("e2e-supervisor")?)
            .arg(&scratch)
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start the supervisor")?;
        let orders = child.stdin.take();
        let answers = BufReader::new(child.stdout.take().context("the supervisor has a stdout")?);
        let line = Mutex::new(Line { child, orders, answers });
        Ok(Self { inner: Arc::new(Inner { scratch, line, _claim: claim }), within: None })
    }

    /// The same supervisor, but what is run through it joins the namespaces of the process `pid`, which this supervisor started
    /// or whose parent it started. `pid` is then the first to be killed at the end.
    #[must_use]
    pub fn within(&self, pid: u32) -> Self {
        Self { inner: Arc::clone(&self.inner), within: Some(pid) }
    }

    /// The scratch folder; gone when this ends.
    pub fn scratch(&self) -> &Path {
        &self.inner.scratch
    }

    /// Process id of the supervisor.
    pub fn pid(&self) -> u32 {
        self.inner.line.lock().unwrap_or_else(PoisonError::into_inner).child.id()
    }

    /// Starts `argv` under the name `name`: its output goes to `logs/<name>.log` in the scratch folder, or in the folder that
    /// the variable `SALLYPORT_E2E_LOGS` names (those stay).
    ///
    /// # Errors
    /// When the program cannot be started.
    pub fn run(
        &self,
        name: &str,
        argv: Vec<String>,
        env: BTreeMap<String, String>,
    ) -> anyhow::Result<Process> {
        let folder = std::env::var_os("SALLYPORT_E2E_LOGS")
            .map_or_else(|| self.inner.scratch.join("logs"), PathBuf::from);
        std::fs::create_dir_all(&folder)?;
        let log = folder.join(format!("{name}.log"));
        let order = Order::Start { argv, env, log: log.clone(), within: self.within };
        match self.ask(&order)? {
            Answer::Started { pid } => {
                Ok(Process { supervisor: self.clone(), name: name.to_owned(), pid, log })
            }
            other @ (Answer::Done | Answer::Status { .. } | Answer::Refused { .. }) => {
                bail!("cannot start {name}: {other:?}")
            }
        }
    }

    fn ask(&self, order: &Order) -> anyhow::Result<Answer> {
        let mut line = self.inner.line.lock().unwrap_or_else(PoisonError::into_inner);
        let mut text = serde_json::to_string(order)?;
        text.push('\n');
        line.orders.as_mut().context("the supervisor has ended")?.write_all(text.as_bytes())?;
        let mut answer = String::new();
        line.answers.read_line(&mut answer)?;
        serde_json::from_str(&answer).context("the supervisor has ended")
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.orders = None;
        let _ended = self.child.wait();
    }
}

/// A process under supervision. Dropping this does not end it; its supervisor's end does.
#[derive(Clone, Debug)]
pub struct Process {
    supervisor: Supervisor,
    name: String,
    pid: u32,
    log: PathBuf,
}

impl Process {
    /// Process id.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// File with its stdout and stderr.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// Sends a signal; no error when it has ended.
    ///
    /// # Errors
    /// When the supervisor is gone.
    pub fn signal(&self, signal: Sign) -> anyhow::Result<()> {
        match self.supervisor.ask(&Order::Signal { pid: self.pid, signal })? {
            Answer::Done => Ok(()),
            other @ (Answer::Started { .. } | Answer::Status { .. } | Answer::Refused { .. }) => {
                bail!("cannot signal {}: {other:?}", self.name)
            }
        }
    }

    /// Exit code (128 + signal number when killed), or none while it runs.
    ///
    /// # Errors
    /// When the supervisor is gone.
    pub fn ended(&self) -> anyhow::Result<Option<i32>> {
        match self.supervisor.ask(&Order::Status { pid: self.pid })? {
            Answer::Status { ended } => Ok(ended),
            other @ (Answer::Started { .. } | Answer::Done | Answer::Refused { .. }) => {
                bail!("cannot ask for {}: {other:?}", self.name)
            }
        }
    }

    /// Waits for its end; returns the exit code.
    ///
    /// # Errors
    /// When it still runs after `limit`.
    pub fn wait(&self, limit: Duration) -> anyhow::Result<i32> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(code) = self.ended()? {
                return Ok(code);
            }
            if Instant::now() > deadline {
                bail!("{} still runs after {limit:?}", self.name);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Kills it with SIGKILL and waits until it is gone.
    ///
    /// # Errors
    /// When the supervisor is gone.
    pub fn kill(&self) -> anyhow::Result<()> {
        self.signal(Sign::Kill)?;
        self.wait(Duration::from_secs(10)).map(|_code| ())
    }

    /// The last lines of its log, for error messages.
    pub fn last_words(&self) -> String {
        let text = std::fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        let tail = lines.len().saturating_sub(12);
        format!("{} says, in `{}`:\n{}", self.name, self.log.display(), lines[tail..].join("\n"))
    }
}

/// Removes a scratch folder and the control groups of its name; what is gone already is no error.
///
/// # Errors
/// When something in them is still in use.
pub fn remove(scratch: &Path) -> anyhow::Result<()> {
    if let Some(name) = scratch.file_name() {
        crate::node::cgroup::remove(&name.to_string_lossy())?;
    }
    match std::fs::remove_dir_all(scratch) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove `{}`", scratch.display()))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Whether the harness that made this scratch folder is gone.
pub(crate) fn abandoned(scratch: &Path) -> bool {
    let Ok(claim) = File::open(scratch.join("claim")) else { return true };
    !matches!(claim.try_lock(), Err(TryLockError::WouldBlock))
}

/// A new folder that [`sweep`] leaves alone while the returned file is open: claimed before it gets the name that is swept.
fn claimed_folder(root: &Path) -> anyhow::Result<(PathBuf, File)> {
    let unclaimed = tempfile::Builder::new().prefix("new-").tempdir_in(root)?.keep();
    let claim = File::create(unclaimed.join("claim"))?;
    claim.lock_shared().context("cannot claim the scratch folder")?;
    let suffix = unclaimed.file_name().context("a folder has a name")?.to_string_lossy().into_owned();
    let scratch = root.join(format!("{PREFIX}{suffix}"));
    std::fs::rename(&unclaimed, &scratch)?;
    Ok((scratch, claim))
}

/// Removes scratch folders whose claim nobody holds any more.
fn sweep(root: &Path) {
    for entry in std::fs::read_dir(root).into_iter().flatten().flatten() {
        if !entry.file_name().to_string_lossy().starts_with(PREFIX) {
            continue;
        }
        if entry.path().join("claim").exists() && abandoned(&entry.path()) {
            let _swept_by_another = remove(&entry.path());
        }
    }
}
