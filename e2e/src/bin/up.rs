//! Leaves a control plane, operator and two proxies running and says where: `make up`. Ends them: `make down`.
//!
//! `up` starts `hold` in the background, which starts everything, writes `target/up/env` and waits to be ended. Nothing outlives
//! `hold`, however it ends.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::{Parser, Subcommand};
use e2e::{ControlPlane, Gate, Setup, Tools, program, scenario, workspace_root};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use tokio::signal::unix::{SignalKind, signal};

#[derive(Parser)]
#[command(name = "e2e-up", about = "A local cluster with a gate, left running")]
struct Args {
    #[command(subcommand)]
    deed: Deed,
}

#[derive(Subcommand)]
enum Deed {
    /// Start everything and return; a cluster left from before is ended first.
    Up {
        /// Folder of more manifests to apply.
        #[arg(long)]
        extra: Option<PathBuf>,
    },
    /// Start everything and stay until a signal.
    Hold {
        /// Folder of more manifests to apply.
        #[arg(long)]
        extra: Option<PathBuf>,
    },
    /// End what `up` left.
    Down,
}

const UP_WITHIN: Duration = Duration::from_secs(300);

fn main() -> ExitCode {
    let outcome = match Args::parse().deed {
        Deed::Up { extra } => up(extra.as_deref()),
        Deed::Hold { extra } => hold(extra.as_deref()),
        Deed::Down => down().map(|was_up| println!("{}", if was_up { "ended" } else { "nothing was up" })),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("e2e-up: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn folder() -> PathBuf {
    workspace_root().join("target/up")
}

fn up(extra: Option<&Path>) -> anyhow::Result<()> {
    if down()? {
        println!("ended the one that was up");
    }
    let extra = extra.map(std::fs::canonicalize).transpose().context("EXTRA must be a folder")?;
    Tools::get()?;
    std::fs::create_dir_all(folder())?;
    let log = std::fs::File::create(folder().join("log"))?;
    println!("starting etcd, kube-apiserver, kube-controller-manager, operator and two proxies (about 15 s)");
    let mut holder = Command::new(std::env::current_exe()?);
    holder.arg("hold").process_group(0).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    if let Some(extra) = &extra {
        holder.arg("--extra").arg(extra);
    }
    let mut child = holder.spawn().context("cannot start the holder")?;
    std::fs::write(folder().join("pid"), child.id().to_string())?;
    let deadline = Instant::now() + UP_WITHIN;
    while !folder().join("env").exists() {
        if child.try_wait()?.is_some() || Instant::now() > deadline {
            let _already_gone = child.kill();
            bail!("it did not come up:\n{}", std::fs::read_to_string(folder().join("log"))?);
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    print!("{}", std::fs::read_to_string(folder().join("env"))?);
    println!("up; `. target/up/env` sets these, `make down` ends it");
    Ok(())
}

/// Ends the holder; true when there was one.
fn down() -> anyhow::Result<bool> {
    let written = std::fs::read_to_string(folder().join("pid")).ok();
    let holder =
        written.and_then(|pid| pid.trim().parse().ok()).and_then(Pid::from_raw).filter(|pid| holds(*pid));
    if let Some(pid) = holder {
        kill_process(pid, Signal::TERM).context("cannot end the holder")?;
        let deadline = Instant::now() + Duration::from_secs(60);
        while test_kill_process(pid).is_ok() && holds(pid) {
            if Instant::now() > deadline {
                kill_process(pid, Signal::KILL).context("cannot kill the holder")?;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    if folder().exists() {
        std::fs::remove_dir_all(folder())?;
    }
    Ok(holder.is_some())
}

/// Whether this process is a holder that runs: not a zombie, not another program that got the number.
fn holds(pid: Pid) -> bool {
    let line = std::fs::read(format!("/proc/{}/cmdline", pid.as_raw_nonzero())).unwrap_or_default();
    let mut words = line.split(|&byte| byte == 0);
    words.next().is_some_and(|name| name.ends_with(b"e2e-up")) && words.next() == Some(b"hold")
}

#[tokio::main(flavor = "current_thread")]
async fn hold(extra: Option<&Path>) -> anyhow::Result<()> {
    let mut ended = signal(SignalKind::terminate())?;
    let mut interrupted = signal(SignalKind::interrupt())?;
    let plane = ControlPlane::start()?;
    let gate = Gate::start(&plane, Setup::default())?;
    let agent = scenario::settle(&gate).await?;
    if let Some(extra) = extra {
        let folder = extra.display().to_string();
        print!("{}", plane.kubectl(&["apply", "-f", &folder])?.success()?);
    }
    let env = environment(&gate, &agent).await?;
    // Whoever waits for the file must never read half of it.
    std::fs::write(folder().join("env.part"), env)?;
    std::fs::rename(folder().join("env.part"), folder().join("env"))?;
    tokio::select! {
        _ = ended.recv() => {}
        _ = interrupted.recv() => {}
    }
    for proxy in gate.proxies() {
        proxy.program().stop(Duration::from_secs(30))?;
    }
    Ok(())
}

/// Shell assignments that say where everything is.
async fn environment(gate: &Gate, agent: &e2e::Agent) -> anyhow::Result<String> {
    let plane = gate.plane();
    let ca = plane.scratch().join("gate-ca.crt");
    std::fs::write(&ca, gate.ca().await?)?;
    let tools = Tools::get()?;
    let pids: Vec<_> =
        gate.proxies().iter().map(|proxy| proxy.program().process().pid().to_string()).collect();
    let admin_urls: Vec<_> = gate
        .proxies()
        .iter()
        .map(|proxy| format!("http://127.0.0.1:{}", proxy.program().admin_port()))
        .collect();
    let path = |path: &Path| path.display().to_string();
    let lines = [
        ("ADMIN_KUBECONFIG", path(plane.admin_kubeconfig())),
        ("AGENT_KUBECONFIG", path(agent.kubeconfig(0))),
        ("GATE_URLS", gate.urls().join(" ")),
        ("GATE_CA", path(&ca)),
        ("AGENT_TOKEN_FILE", path(agent.token_file())),
        ("KUBECTL", path(&tools.kubectl)),
        ("KUBECTL_OLD", path(&tools.kubectl_old)),
        ("KUBECTL_SALLYPORT", path(&program("kubectl-sallyport")?)),
        ("AUDIT_LOG", path(plane.audit().path())),
        ("RECORDINGS", path(&gate.recordings())),
        ("PROXY_PIDS", pids.join(" ")),
        ("PROXY_ADMIN_URLS", admin_urls.join(" ")),
        ("OPERATOR_PID", gate.operator().process().pid().to_string()),
        ("OPERATOR_ADMIN_URL", format!("http://127.0.0.1:{}", gate.operator().admin_port())),
        ("API_SERVER_URL", plane.server().to_owned()),
    ];
    Ok(lines.map(|(name, value)| format!("{name}='{value}'\n")).concat())
}
