//! The first half hour as a narrated transcript: `make demo`. It ends with 0 only if every step did what it says.

mod acts;
mod stage;

use std::process::ExitCode;
use std::time::Instant;

use e2e::{ControlPlane, Gate, Setup, Tools, scenario};

use crate::acts::Stage;
use crate::stage::{Actor, act, say, tool_path};

fn main() -> ExitCode {
    let started = Instant::now();
    match play() {
        Ok(()) => {
            println!("\nEvery step did what it says. {} s.", started.elapsed().as_secs());
            ExitCode::SUCCESS
        }
        Err(error) => {
            println!("\nThe demo FAILED: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn play() -> anyhow::Result<()> {
    act("A real control plane on loopback, one operator, two proxies");
    Tools::get()?;
    let started = Instant::now();
    let plane = ControlPlane::start()?;
    say(&format!(
        "etcd, kube-apiserver and kube-controller-manager are ready after {:.1} s",
        started.elapsed().as_secs_f32()
    ));
    let gate = Gate::start(&plane, Setup::default())?;
    say(&format!(
        "operator and proxies are ready after {:.1} s, each as its own ServiceAccount",
        started.elapsed().as_secs_f32()
    ));

    let path = tool_path(plane.scratch())?;
    let admin = Actor::new("admin", plane.admin_kubeconfig(), &path);
    let alice = Actor::new("alice", &plane.user_kubeconfig("alice@example.com", None)?, &path);
    acts::the_three_files(&admin)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let claude = runtime.block_on(gate.existing_agent(
        scenario::AGENTS,
        scenario::CLAUDE_CODE,
        scenario::CLAUDE_CODE,
    ))?;
    let agent = Actor::new("agent", claude.kubeconfig(0), &path);
    let stage = Stage { admin, alice, agent, gate, username: claude.username(), runtime };
    let outcome = stage.play();
    if outcome.is_err() {
        for proxy in stage.gate.proxies() {
            eprintln!("{}", proxy.program().process().last_words());
        }
        eprintln!("{}", stage.gate.operator().process().last_words());
    }
    outcome
}
