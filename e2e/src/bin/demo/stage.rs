//! Actors who type commands, and checks of what they read.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use e2e::{Tools, program, workspace_root};

/// Somebody at a shell prompt, with a kubeconfig of their own.
pub struct Actor {
    prompt: &'static str,
    kubeconfig: PathBuf,
    path: String,
}

/// What a command said, both outputs in the order in which they came.
pub struct Said {
    command: String,
    text: String,
    code: i32,
}

/// A command that still runs.
pub struct Running {
    command: String,
    child: Child,
    lines: Arc<Mutex<String>>,
    reader: JoinHandle<()>,
}

/// Prints a heading.
pub fn act(text: &str) {
    println!("\n== {text}\n");
}

/// Prints narration.
pub fn say(text: &str) {
    println!("# {text}");
}

/// Makes a folder with `kubectl` and its plugin under the names that people type; returns the PATH.
pub fn tool_path(scratch: &Path) -> anyhow::Result<String> {
    let folder = scratch.join("demo-path");
    std::fs::create_dir_all(&folder)?;
    std::os::unix::fs::symlink(&Tools::get()?.kubectl, folder.join("kubectl"))?;
    std::os::unix::fs::symlink(program("kubectl-sallyport")?, folder.join("kubectl-sallyport"))?;
    Ok(format!("{}:{}", folder.display(), std::env::var("PATH")?))
}

impl Actor {
    /// Somebody whose prompt is `<prompt>$`.
    pub fn new(prompt: &'static str, kubeconfig: &Path, path: &str) -> Self {
        Self { prompt, kubeconfig: kubeconfig.to_owned(), path: path.to_owned() }
    }

    /// Types a command, waits for its end, shows what it says.
    pub fn types(&self, command: &str) -> anyhow::Result<Said> {
        self.starts(command)?.ends(Duration::from_secs(120))
    }

    /// Types a command and does not wait for its end. What it says is shown when it ends.
    pub fn starts(&self, command: &str) -> anyhow::Result<Running> {
        println!("{}$ {command}", self.prompt);
        let mut child = self
            .shell(&format!("exec 2>&1; {command}"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start a shell")?;
        let output = child.stdout.take().context("stdout is a pipe")?;
        let lines = Arc::new(Mutex::new(String::new()));
        let written = lines.clone();
        let reader = std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                let mut text = written.lock().unwrap_or_else(PoisonError::into_inner);
                text.push_str(&line);
                text.push('\n');
            }
        });
        Ok(Running { command: command.to_owned(), child, lines, reader })
    }

    /// Asks something off stage: neither the command nor the answer is shown.
    pub fn asks(&self, command: &str) -> anyhow::Result<String> {
        let output = self.shell(command).output()?;
        ensure!(output.status.success(), "`{command}`: {}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8(output.stdout)?.trim().to_owned())
    }

    /// Asks off stage again and again until the answer is not empty.
    pub fn learns(&self, command: &str, limit: Duration) -> anyhow::Result<String> {
        let deadline = Instant::now() + limit;
        loop {
            let answer = self.asks(command)?;
            if !answer.is_empty() {
                return Ok(answer);
            }
            ensure!(Instant::now() < deadline, "`{command}` still says nothing after {limit:?}");
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    fn shell(&self, command: &str) -> Command {
        let home = self.kubeconfig.with_extension("home");
        let mut shell = Command::new("bash");
        shell
            .args(["-c", command])
            .current_dir(workspace_root())
            .env_clear()
            .env("PATH", &self.path)
            .env("HOME", &home)
            .env("KUBECACHEDIR", home.join("cache"))
            .env("KUBECONFIG", &self.kubeconfig);
        shell
    }
}

impl Running {
    /// What it has said so far.
    pub fn so_far(&self) -> String {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether it still runs.
    pub fn runs(&mut self) -> anyhow::Result<bool> {
        Ok(self.child.try_wait()?.is_none())
    }

    /// Waits for its end and shows what it said.
    pub fn ends(mut self, limit: Duration) -> anyhow::Result<Said> {
        let deadline = Instant::now() + limit;
        let status = loop {
            if let Some(status) = self.child.try_wait()? {
                break status;
            }
            if Instant::now() > deadline {
                self.child.kill()?;
                bail!("`{}` still runs after {limit:?}; it said:\n{}", self.command, self.so_far());
            }
            std::thread::sleep(Duration::from_millis(10));
        };
        self.reader.join().map_err(|_panic| anyhow::anyhow!("the reader of a command panicked"))?;
        let text = self.lines.lock().unwrap_or_else(PoisonError::into_inner).clone();
        print!("{text}");
        Ok(Said { command: self.command, text, code: status.code().unwrap_or(-1) })
    }
}

impl Said {
    /// What it said.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// It ended well and said each of `wanted`.
    pub fn well(self, claim: &str, wanted: &[&str]) -> anyhow::Result<Self> {
        ensure!(self.code == 0, "{claim}: `{}` ended with {}:\n{}", self.command, self.code, self.text);
        self.holds(claim, wanted)
    }

    /// It ended with an error and said each of `wanted`.
    pub fn badly(self, claim: &str, wanted: &[&str]) -> anyhow::Result<Self> {
        ensure!(self.code != 0, "{claim}: `{}` should have failed:\n{}", self.command, self.text);
        self.holds(claim, wanted)
    }

    /// It said each of `wanted`, however it ended: kubectl shows the error that ends a watch, and then ends well.
    pub fn said(self, claim: &str, wanted: &[&str]) -> anyhow::Result<Self> {
        self.holds(claim, wanted)
    }

    /// It did not say any of `unwanted`.
    pub fn without(self, unwanted: &[&str]) -> anyhow::Result<Self> {
        for text in unwanted {
            ensure!(!self.text.contains(text), "`{}` should not say `{text}`:\n{}", self.command, self.text);
        }
        Ok(self)
    }

    fn holds(self, claim: &str, wanted: &[&str]) -> anyhow::Result<Self> {
        for text in wanted {
            ensure!(
                self.text.contains(text),
                "{claim}: `{}` does not say `{text}`:\n{}",
                self.command,
                self.text
            );
        }
        println!("  ok: {claim}\n");
        Ok(self)
    }
}
