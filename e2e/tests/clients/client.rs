//! A client of the Kubernetes API that does deeds: a stock kubectl, or a program that uses a library and is told over a pipe.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use anyhow::{Context, bail};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The password in every row's Secret: no client may print it.
pub const CANARY: &str = "canary-9e41b7c05d2af683";
const LIMIT: Duration = Duration::from_secs(60);

/// Something that a user does.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Deed {
    pub deed: &'static str,
    pub namespace: String,
    pub name: String,
    pub text: String,
    pub verb: String,
    pub group: String,
    pub resource: String,
    pub until: String,
    pub resource_version: String,
    pub limit: u32,
}

/// How it ended for the user.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Reply {
    pub ok: bool,
    /// HTTP code, where the client shows it to programs.
    pub code: Option<u16>,
    /// The Status' reason, where the client shows it to programs.
    pub reason: Option<String>,
    /// What the client returned, or what an uncaught error prints.
    pub said: Value,
}

impl Reply {
    /// What was said, as text.
    pub fn text(&self) -> String {
        match &self.said {
            Value::String(text) => text.clone(),
            said @ (Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_)) => {
                said.to_string()
            }
        }
    }

    /// What was said by a client that must have succeeded.
    pub fn success(self) -> anyhow::Result<Self> {
        if self.ok { Ok(self) } else { bail!("{}", self.text()) }
    }
}

/// A client with the kubeconfig of one agent.
pub enum Client {
    /// A kubectl: the program.
    Kubectl { program: PathBuf, kubeconfig: PathBuf, open: Option<Lines> },
    /// A program that reads one deed per line.
    Spoken(Lines),
}

/// A process whose lines are read as they come.
pub struct Lines {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
    seen: Vec<String>,
}

impl Client {
    /// A kubectl.
    pub fn kubectl(program: &Path, kubeconfig: &Path) -> Self {
        Self::Kubectl { program: program.to_owned(), kubeconfig: kubeconfig.to_owned(), open: None }
    }

    /// A program, started.
    pub fn spoken(command: &str, kubeconfig: &Path) -> anyhow::Result<Self> {
        let mut words = command.split(' ');
        let program = words.next().context("a command")?;
        Ok(Self::Spoken(Lines::start(clean(program, kubeconfig).args(words))?))
    }

    /// Does a deed to its end.
    pub fn act(&mut self, deed: &Deed) -> anyhow::Result<Reply> {
        self.begin(deed)?;
        self.end()
    }

    /// Begins a deed; [`Client::event`] and [`Client::end`] follow.
    pub fn begin(&mut self, deed: &Deed) -> anyhow::Result<()> {
        match self {
            Self::Kubectl { program, kubeconfig, open } => {
                let (args, stdin) = super::kubectl::command(deed)?;
                let mut lines = Lines::start(clean(program, kubeconfig).args(args))?;
                lines.tell(&stdin)?;
                lines.stdin = None;
                *open = Some(lines);
            }
            Self::Spoken(lines) => lines.tell(&format!("{}\n", serde_json::to_string(deed)?))?,
        }
        Ok(())
    }

    /// Waits for an event about the object `name` of a watch that is open.
    pub fn event(&mut self, name: &str) -> anyhow::Result<()> {
        let spoken = matches!(self, Self::Spoken(_));
        let lines = self.lines()?;
        loop {
            let line = lines.next()?.with_context(|| format!("the watch ended before `{name}` came"))?;
            let said = serde_json::from_str::<Value>(&line).unwrap_or_default();
            let ended = spoken && said.get("ok").is_some();
            anyhow::ensure!(!ended, "the watch ended before `{name}` came: {line}");
            if line.contains(name) {
                return Ok(());
            }
        }
    }

    /// Names of the events so far of the deed that is under way.
    pub fn events(&mut self) -> anyhow::Result<Vec<String>> {
        Ok(self.lines()?.seen.clone())
    }

    /// Waits for a deed's own end.
    pub fn end(&mut self) -> anyhow::Result<Reply> {
        match self {
            Self::Kubectl { open, .. } => {
                let mut lines = open.take().context("no deed is under way")?;
                while lines.next()?.is_some() {}
                let status = lines.child.wait()?;
                Ok(Reply { ok: status.success(), said: lines.seen.join("\n").into(), ..Reply::default() })
            }
            Self::Spoken(lines) => loop {
                let line = lines.next()?.context("the client's program ended")?;
                if let Ok(reply) = serde_json::from_str::<Value>(&line)
                    && reply.get("ok").is_some()
                {
                    lines.seen.clear();
                    return Ok(serde_json::from_value(reply)?);
                }
            },
        }
    }

    /// Ends a watch from the client's side: kubectl is killed, a program ends by itself at `until`.
    pub fn leave(&mut self) -> anyhow::Result<()> {
        match self {
            Self::Kubectl { open, .. } => drop(open.take()),
            Self::Spoken(_) => drop(self.end()?.success()?),
        }
        Ok(())
    }

    fn lines(&mut self) -> anyhow::Result<&mut Lines> {
        match self {
            Self::Kubectl { open, .. } => open.as_mut().context("no deed is under way"),
            Self::Spoken(lines) => Ok(lines),
        }
    }
}

impl Lines {
    fn start(command: &mut Command) -> anyhow::Result<Self> {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {command:?}"))?;
        let (send, lines) = channel();
        let readers: [Option<Box<dyn std::io::Read + Send>>; 2] = [
            child.stdout.take().map(|pipe| Box::new(pipe) as _),
            child.stderr.take().map(|pipe| Box::new(pipe) as _),
        ];
        for reader in readers.into_iter().flatten() {
            let send = send.clone();
            std::thread::spawn(move || {
                for line in BufReader::new(reader).lines() {
                    if line.map(|line| send.send(line)).is_err() {
                        return;
                    }
                }
            });
        }
        Ok(Self { stdin: child.stdin.take(), child, lines, seen: Vec::new() })
    }

    fn tell(&mut self, text: &str) -> anyhow::Result<()> {
        self.seen.clear();
        let stdin = self.stdin.as_mut().context("the program's input is closed")?;
        Ok(stdin.write_all(text.as_bytes()).and_then(|()| stdin.flush())?)
    }

    /// The next line of either output; none at their end. No line that gives a secret away is ever passed on.
    fn next(&mut self) -> anyhow::Result<Option<String>> {
        match self.lines.recv_timeout(LIMIT) {
            Ok(line) => {
                assert_clean(&line);
                self.seen.push(line.clone());
                Ok(Some(line))
            }
            Err(RecvTimeoutError::Disconnected) => Ok(None),
            Err(RecvTimeoutError::Timeout) => bail!("silent for {LIMIT:?} after {:?}", self.seen),
        }
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        let _ended_already = self.child.kill();
        let _reaped = self.child.wait();
    }
}

/// Panics when a line holds the Secret's value in any of the forms in which it can come.
pub fn assert_clean(line: &str) {
    let hex: String = CANARY.bytes().map(|byte| format!("{byte:02x}")).collect();
    for form in [CANARY.to_owned(), STANDARD.encode(CANARY).trim_end_matches('=').to_owned(), hex] {
        assert!(!line.contains(&form), "H3: a secret came through the gate: {line}");
    }
}

/// A command with nothing in its environment but the kubeconfig and a home of its own beside it.
pub fn clean(program: impl AsRef<std::ffi::OsStr>, kubeconfig: &Path) -> Command {
    let home = kubeconfig.with_extension("home");
    let mut command = Command::new(program);
    command
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("HOME", &home)
        .env("KUBECACHEDIR", home.join("cache"))
        .env("KUBECONFIG", kubeconfig);
    command
}
