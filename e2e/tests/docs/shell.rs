//! Somebody at a shell prompt: one bash from the first command of a page to the last, as the reader has it.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process_group};

const MARK: char = '\u{1e}';

/// A running shell. Its end ends whatever it left in the background.
pub struct Shell {
    child: Child,
    input: ChildStdin,
    lines: Receiver<String>,
}

/// What a command said, both outputs in the order in which they came.
pub struct Said {
    pub text: String,
    pub code: i32,
}

impl Shell {
    /// Starts bash in `folder` with this kubeconfig and these variables, and nothing else of this process's environment.
    pub fn start(folder: &Path, kubeconfig: &Path, variables: &[(String, String)]) -> anyhow::Result<Self> {
        let home: PathBuf = kubeconfig.with_extension("home");
        let mut child = Command::new("bash")
            .args(["--norc", "--noprofile", "-s"])
            .process_group(0)
            .current_dir(folder)
            .env_clear()
            .env("HOME", &home)
            .env("KUBECACHEDIR", home.join("cache"))
            .env("KUBECONFIG", kubeconfig)
            .envs(variables.iter().cloned())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start bash")?;
        let mut input = child.stdin.take().context("stdin is a pipe")?;
        let output = child.stdout.take().context("stdout is a pipe")?;
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        input.write_all(b"exec 2>&1\n")?;
        Ok(Self { child, input, lines })
    }

    /// Types a command and waits for the next prompt.
    pub fn types(&mut self, command: &str, limit: Duration) -> anyhow::Result<Said> {
        let typed = format!("{{ {command}\n}} </dev/null; printf '\\n\\036%d\\n' $?\n");
        self.input.write_all(typed.as_bytes()).context("the shell is gone")?;
        let deadline = Instant::now() + limit;
        let mut said = Vec::new();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) => match line.strip_prefix(MARK) {
                    Some(code) => return Ok(Said { text: said.join("\n"), code: code.parse()? }),
                    None => said.push(line),
                },
                Err(RecvTimeoutError::Timeout) => {
                    bail!("`{command}` still runs after {limit:?}; it said:\n{}", said.join("\n"))
                }
                Err(RecvTimeoutError::Disconnected) => bail!("`{command}` ended the shell"),
            }
        }
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        // The group holds whatever was left in the background too.
        let group = Pid::from_child(&self.child);
        let _already_gone = kill_process_group(group, Signal::KILL);
        let _already_gone = self.child.wait();
    }
}
