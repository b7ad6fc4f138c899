//! Leaves a control plane, operator and two proxies running and says where: `make up`. Ends them: `make down`.
//!
//! `up` starts `hold` in the background, which starts everything, writes `target/up/env` and waits to be ended. Nothing outlives
//! `hold`, however it ends.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::{Parser, Subcommand};
use e2e::standing::Standing;
use e2e::{ControlPlane, Gate, Setup, Tools, program, scenario, workspace_root};

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

fn main() -> ExitCode {
    let outcome = match Args::parse().deed {
        Deed::Up { extra } => up(extra.as_deref()),
        Deed::Hold { extra } => hold(extra.as_deref()),
        Deed::Down => {
            standing().down().map(|was_up| println!("{}", if was_up { "ended" } else { "nothing was up" }))
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("e2e-up: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn standing() -> Standing {
    let folder = workspace_root().join("target/up");
    Standing { program: "e2e-up", env: folder.join("env"), folder }
}

fn up(extra: Option<&Path>) -> anyhow::Result<()> {
    let extra = extra.map(std::fs::canonicalize).transpose().context("EXTRA must be a folder")?;
    Tools::get()?;
    println!("starting etcd, kube-apiserver, kube-controller-manager, operator and two proxies (about 15 s)");
    let args = extra.map_or(Vec::new(), |extra| vec!["--extra".to_owned(), extra.display().to_string()]);
    print!("{}", standing().up(&args)?);
    println!("up; `. target/up/env` sets these, `make down` ends it");
    Ok(())
}

#[tokio::main(flavor = "current_thread")]
async fn hold(extra: Option<&Path>) -> anyhow::Result<()> {
    let plane = ControlPlane::start()?;
    let gate = Gate::start(&plane, Setup::default())?;
    let agent = scenario::settle(&gate).await?;
    plane.kubectl(&["apply", "-f", &scenario::manifest("alice").display().to_string()])?.success()?;
    if let Some(extra) = extra {
        let folder = extra.display().to_string();
        print!("{}", plane.kubectl(&["apply", "-f", &folder])?.success()?);
    }
    standing().hold(&environment(&gate, &agent).await?).await?;
    for proxy in gate.proxies() {
        proxy.program().stop(Duration::from_secs(30))?;
    }
    Ok(())
}

/// Shell assignments that say where everything is.
async fn environment(gate: &Gate, agent: &e2e::Agent) -> anyhow::Result<Vec<(&'static str, String)>> {
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
        ("ALICE_KUBECONFIG", path(&plane.user_kubeconfig("alice@example.com", None)?)),
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
    Ok(lines.into())
}
