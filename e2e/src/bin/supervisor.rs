//! Holds every process of a local cluster and ends them all when the one who asked for them is gone, however it went.
//!
//! `e2e-supervisor SCRATCH` reads one JSON order per line from stdin and answers each with one line on stdout. At the end of
//! stdin (the harness closed it, ended, or was killed) it kills its children and removes SCRATCH. Its children die with it too:
//! each is started as `e2e-supervisor --become SUPERVISOR_PID PROGRAM ARGS...`, which asks the kernel for that before it becomes
//! the program. The kernel ties that promise to the thread that started the child, so everything here happens on one thread.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};

use anyhow::{Context, bail};
use e2e::supervision::{Answer, Order};
use rustix::process::{Pid, Signal, getppid, kill_process, set_parent_process_death_signal};

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let outcome = match args.as_slice() {
        [flag, parent, program, rest @ ..] if flag == "--become" => become_program(parent, program, rest),
        [scratch] => supervise(Path::new(scratch)),
        _ => Err(anyhow::anyhow!("usage: e2e-supervisor SCRATCH")),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("e2e-supervisor: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Turns this process into `program`, which then dies when the supervisor does.
fn become_program(parent: &str, program: &str, args: &[String]) -> anyhow::Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL)).context("cannot ask to die with the supervisor")?;
    let parent: i32 = parent.parse().context("the supervisor's process id must be a number")?;
    if getppid().map(Pid::as_raw_nonzero).map(i32::from) != Some(parent) {
        bail!("the supervisor is gone already");
    }
    Err(Command::new(program).args(args).exec()).context(format!("cannot run `{program}`"))
}

fn supervise(scratch: &Path) -> anyhow::Result<()> {
    let mut children = BTreeMap::new();
    let mut stdout = std::io::stdout().lock();
    for line in std::io::stdin().lock().lines() {
        let Ok(line) = line else { break };
        let answer = match serde_json::from_str(&line)
            .context("not an order")
            .and_then(|order| obey(order, &mut children))
        {
            Ok(answer) => answer,
            Err(error) => Answer::Refused { error: format!("{error:#}") },
        };
        let sent = serde_json::to_string(&answer)
            .context("an answer is JSON")
            .map(|text| writeln!(stdout, "{text}"));
        if !matches!(sent, Ok(Ok(()))) || stdout.flush().is_err() {
            break;
        }
    }
    for child in children.values_mut() {
        let _already_gone = child.kill();
    }
    for child in children.values_mut() {
        child.wait().context("cannot wait for a killed process")?;
    }
    std::fs::remove_dir_all(scratch).with_context(|| format!("cannot remove `{}`", scratch.display()))
}

fn obey(order: Order, children: &mut BTreeMap<u32, Child>) -> anyhow::Result<Answer> {
    match order {
        Order::Start { argv, env, log } => {
            let child = start(&argv, &env, &log)?;
            let pid = child.id();
            children.insert(pid, child);
            Ok(Answer::Started { pid })
        }
        Order::Signal { pid, signal } => {
            let child = children.get_mut(&pid).context("no such process")?;
            if child.try_wait()?.is_none() {
                let raw = i32::try_from(pid).context("a process id fits 31 bits")?;
                let target = Pid::from_raw(raw).context("a process id is not 0")?;
                kill_process(target, signal.into()).context("cannot signal")?;
            }
            Ok(Answer::Done)
        }
        Order::Status { pid } => {
            let status = children.get_mut(&pid).context("no such process")?.try_wait()?;
            Ok(Answer::Status {
                ended: status.map(|s| s.code().or(s.signal().map(|n| 128 + n)).unwrap_or(-1)),
            })
        }
    }
}

fn start(argv: &[String], env: &BTreeMap<String, String>, log: &Path) -> anyhow::Result<Child> {
    let out: File = OpenOptions::new().create(true).append(true).open(log).context("cannot open the log")?;
    // Not current_exe(): that path is gone when the program was built anew meanwhile.
    Command::new("/proc/self/exe")
        .arg("--become")
        .arg(std::process::id().to_string())
        .args(argv)
        .env_clear()
        .envs(env)
        .stdin(Stdio::null())
        .stdout(out.try_clone()?)
        .stderr(out)
        .spawn()
        .with_context(|| format!("cannot start `{}`", argv.first().map_or("", String::as_str)))
}
