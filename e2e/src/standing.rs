//! What stays up after a command has returned: `up` starts `hold` in the background and waits for its env file, `down` ends it.
//!
//! *Guarantees*: nothing outlives `hold`, however it ends; whoever waits for the env file never reads half of it.

use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use tokio::signal::unix::{SignalKind, signal};

const UP_WITHIN: Duration = Duration::from_secs(300);
const DOWN_WITHIN: Duration = Duration::from_secs(60);

/// One thing that stands: the running program with the argument `hold`, and the folder where it says what it is.
#[derive(Clone, Debug)]
pub struct Standing {
    /// Name of the program that holds it.
    pub program: &'static str,
    /// Folder for `pid`, `log` and the env file; no one else's.
    pub folder: PathBuf,
    /// Shell assignments that say where everything is; outside of `folder` or in it.
    pub env: PathBuf,
}

impl Standing {
    /// Ends what stands, starts `hold` with `args`, and returns what it wrote into the env file.
    ///
    /// # Errors
    /// When the holder ends before it wrote, or has not written in 300 s; the message is its log.
    pub fn up(&self, args: &[String]) -> anyhow::Result<String> {
        if self.down()? {
            println!("ended the one that was up");
        }
        std::fs::create_dir_all(&self.folder)?;
        let log = std::fs::File::create(self.folder.join("log"))?;
        let mut holder = Command::new(std::env::current_exe()?);
        holder
            .arg("hold")
            .args(args)
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        let mut child = holder.spawn().context("cannot start the holder")?;
        std::fs::write(self.folder.join("pid"), child.id().to_string())?;
        let deadline = Instant::now() + UP_WITHIN;
        while !self.env.exists() {
            if child.try_wait()?.is_some() || Instant::now() > deadline {
                let _already_gone = child.kill();
                bail!("it did not come up:\n{}", std::fs::read_to_string(self.folder.join("log"))?);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(std::fs::read_to_string(&self.env)?)
    }

    /// In the holder: writes the env file and returns when a signal asks for the end.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub async fn hold(&self, assignments: &[(&str, String)]) -> anyhow::Result<()> {
        let mut ended = signal(SignalKind::terminate())?;
        let mut interrupted = signal(SignalKind::interrupt())?;
        let text: String = assignments.iter().map(|(name, value)| format!("{name}='{value}'\n")).collect();
        let part = self.env.with_extension("part");
        std::fs::write(&part, text)?;
        std::fs::rename(part, &self.env)?;
        tokio::select! {
            _ = ended.recv() => {}
            _ = interrupted.recv() => {}
        }
        Ok(())
    }

    /// Ends the holder; true when there was one.
    ///
    /// # Errors
    /// When it cannot be signalled or its folder cannot be removed.
    pub fn down(&self) -> anyhow::Result<bool> {
        let written = std::fs::read_to_string(self.folder.join("pid")).ok();
        let pid = written.and_then(|pid| pid.trim().parse().ok()).and_then(Pid::from_raw);
        let holder = pid.filter(|pid| self.is_held_by(*pid));
        if let Some(pid) = holder {
            kill_process(pid, Signal::TERM).context("cannot end the holder")?;
            let deadline = Instant::now() + DOWN_WITHIN;
            while test_kill_process(pid).is_ok() && self.is_held_by(pid) {
                if Instant::now() > deadline {
                    kill_process(pid, Signal::KILL).context("cannot kill the holder")?;
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        let _not_there = std::fs::remove_file(&self.env);
        if self.folder.exists() {
            std::fs::remove_dir_all(&self.folder)?;
        }
        Ok(holder.is_some())
    }

    /// Whether this process is a holder that runs: not a zombie, not another program that got the number.
    fn is_held_by(&self, pid: Pid) -> bool {
        let line = std::fs::read(format!("/proc/{}/cmdline", pid.as_raw_nonzero())).unwrap_or_default();
        let mut words = line.split(|&byte| byte == 0);
        words.next().is_some_and(|name| name.ends_with(self.program.as_bytes()))
            && words.next() == Some(b"hold")
    }
}
