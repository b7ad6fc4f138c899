//! Holds every process of a local cluster and ends them all when the one who asked for them is gone, however it went.
//!
//! `e2e-supervisor SCRATCH` reads one JSON order per line from stdin and answers each with one line on stdout. At the end of
//! stdin (the harness closed it, ended, or was killed) it kills its children and removes SCRATCH. Its children die with it too:
//! each is started as `e2e-supervisor --become SUPERVISOR_PID WITHIN PROGRAM ARGS...`, which asks the kernel for that before it
//! joins the namespaces of the process WITHIN (0: stays where it is) and becomes the program. The kernel ties that promise to the thread that started the child, so everything here happens on one thread.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, OpenOptions};
use std::io::{BufRead, Write};
use std::os::fd::AsFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use e2e::supervision::{Answer, Order, remove};
use rustix::process::{Pid, Signal, getppid, kill_process, set_parent_process_death_signal};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

const REMOVED_WITHIN: Duration = Duration::from_secs(10);

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let outcome = match args.as_slice() {
        [flag, parent, within, program, rest @ ..] if flag == "--become" => {
            become_program(parent, within, program, rest)
        }
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
fn become_program(parent: &str, within: &str, program: &str, args: &[String]) -> anyhow::Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL)).context("cannot ask to die with the supervisor")?;
    let [parent, within]: [i32; 2] =
        [parent.parse().context("the supervisor's id is a number")?, within.parse().context("so is WITHIN")?];
    // A parent outside of the process namespace has no id in it.
    let seen = getppid().map(Pid::as_raw_nonzero).map_or(0, i32::from);
    if seen != if within == 0 { parent } else { 0 } {
        bail!("the supervisor is gone already");
    }
    if within != 0 {
        let [network, mounts] = [namespace(within, "net")?, namespace(within, "mnt")?];
        move_into_link_name_space(network.as_fd(), Some(LinkNameSpaceType::Network))?;
        move_into_link_name_space(mounts.as_fd(), Some(LinkNameSpaceType::Mount))?;
    }
    Err(Command::new(program).args(args).exec()).context(format!("cannot run `{program}`"))
}

fn namespace(pid: impl std::fmt::Display, kind: &str) -> anyhow::Result<File> {
    let path = format!("/proc/{pid}/ns/{kind}");
    File::open(&path).with_context(|| format!("cannot open `{path}`"))
}

fn supervise(scratch: &Path) -> anyhow::Result<()> {
    let mut children = BTreeMap::new();
    let mut rooms = BTreeSet::new();
    let mut stdout = std::io::stdout().lock();
    for line in std::io::stdin().lock().lines() {
        let Ok(line) = line else { break };
        let answer = match serde_json::from_str(&line)
            .context("not an order")
            .and_then(|order| obey(order, &mut children, &mut rooms))
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
    // The first process of a process namespace takes all others with it.
    for pid in rooms.into_iter().filter_map(Pid::from_raw) {
        let _already_gone = kill_process(pid, Signal::KILL);
    }
    for child in children.values_mut() {
        let _already_gone = child.kill();
    }
    for child in children.values_mut() {
        child.wait().context("cannot wait for a killed process")?;
    }
    remove_soon(scratch)
}

/// What lived in namespaces may take a moment longer to be gone than the child that held them.
fn remove_soon(scratch: &Path) -> anyhow::Result<()> {
    let deadline = Instant::now() + REMOVED_WITHIN;
    loop {
        match remove(scratch) {
            Err(_) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(20)),
            outcome => return outcome,
        }
    }
}

fn obey(
    order: Order,
    children: &mut BTreeMap<u32, Child>,
    rooms: &mut BTreeSet<i32>,
) -> anyhow::Result<Answer> {
    match order {
        Order::Start { argv, env, log, within } => {
            if let Some(room) = within {
                rooms.insert(i32::try_from(room).context("a process id fits 31 bits")?);
            }
            let child = start(&argv, &env, &log, within)?;
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

fn start(
    argv: &[String],
    env: &BTreeMap<String, String>,
    log: &Path,
    within: Option<u32>,
) -> anyhow::Result<Child> {
    let out: File = OpenOptions::new().create(true).append(true).open(log).context("cannot open the log")?;
    // Not current_exe(): that path is gone when the program was built anew meanwhile.
    let mut command = Command::new("/proc/self/exe");
    command
        .arg("--become")
        .args([std::process::id(), within.unwrap_or(0)].map(|pid| pid.to_string()))
        .args(argv)
        .env_clear()
        .envs(env)
        .stdin(Stdio::null())
        .stdout(out.try_clone()?)
        .stderr(out);
    let child = match within {
        None => command.spawn(),
        Some(room) => {
            let [theirs, own] = [namespace(room, "pid")?, namespace("self", "pid")?];
            // A process enters another process namespace only by being born there.
            move_into_link_name_space(theirs.as_fd(), Some(LinkNameSpaceType::ProcessID))?;
            let child = command.spawn();
            move_into_link_name_space(own.as_fd(), Some(LinkNameSpaceType::ProcessID))?;
            child
        }
    };
    child.with_context(|| format!("cannot start `{}`", argv.first().map_or("", String::as_str)))
}
