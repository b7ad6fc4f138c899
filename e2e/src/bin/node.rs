//! Leaves a Kubernetes node running and says where: `e2e-node up`. Ends it: `e2e-node down`.
//!
//! `up` starts `hold` in the background, which starts everything, writes `target/e2e/node.env` and waits to be ended. Nothing
//! outlives `hold`, however it ends.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::{Parser, Subcommand};
use e2e::node::{Options, leftovers};
use e2e::standing::Standing;
use e2e::{Node, Tools, workspace_root};

#[derive(Parser)]
#[command(name = "e2e-node", about = "A Kubernetes node, left running")]
struct Args {
    #[command(subcommand)]
    deed: Deed,
}

#[derive(Subcommand)]
enum Deed {
    /// Start a node and return; one left from before is ended first.
    Up {
        /// OCI archive to import; may be repeated.
        #[arg(long)]
        image: Vec<PathBuf>,
    },
    /// Start a node and stay until a signal.
    Hold {
        /// OCI archive to import; may be repeated.
        #[arg(long)]
        image: Vec<PathBuf>,
    },
    /// End what `up` left.
    Down,
    /// List what dead nodes left on this machine; exit code 1 when there is something.
    Leftovers {
        /// File with an earlier list: only what is new counts. A machine that runs Docker or another Kubernetes has such traces
        /// anyway.
        #[arg(long)]
        since: Option<PathBuf>,
    },
}

fn main() -> ExitCode {
    let outcome = match Args::parse().deed {
        Deed::Up { image } => up(&image),
        Deed::Hold { image } => hold(image),
        Deed::Down => {
            standing().down().map(|was_up| println!("{}", if was_up { "ended" } else { "nothing was up" }))
        }
        Deed::Leftovers { since } => said(since.as_deref()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("e2e-node: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn standing() -> Standing {
    let folder = workspace_root().join("target/e2e");
    Standing { program: "e2e-node", env: folder.join("node.env"), folder: folder.join("node") }
}

fn up(images: &[PathBuf]) -> anyhow::Result<()> {
    let mut args = Vec::new();
    for image in images {
        let image =
            std::fs::canonicalize(image).with_context(|| format!("no archive `{}`", image.display()))?;
        args.extend(["--image".to_owned(), image.display().to_string()]);
    }
    // Built and installed here, where their progress can be seen.
    e2e::node::prepare()?;
    println!("starting a node (about 15 s)");
    print!("{}", standing().up(&args)?);
    println!("up; `. target/e2e/node.env` sets these, `e2e-node down` ends it");
    Ok(())
}

#[tokio::main(flavor = "current_thread")]
async fn hold(images: Vec<PathBuf>) -> anyhow::Result<()> {
    let node = Node::start(Options { images, ..Options::default() })?;
    let path = |path: &Path| path.display().to_string();
    let network = format!("/proc/{}/ns/net", node.first_process());
    let assignments = [
        ("ADMIN_KUBECONFIG", path(node.plane().admin_kubeconfig())),
        ("API_URL", node.host_url().to_owned()),
        ("INSIDE_KUBECONFIG", path(&node.inside_kubeconfig())),
        ("NETNS", network.clone()),
        ("IN_NODE", format!("nsenter --net={network} --")),
        ("AUDIT_LOG", path(node.audit().path())),
        ("KUBECTL", path(&Tools::get()?.kubectl)),
        ("CONTAINERD_ADDRESS", path(&node.containerd_socket())),
        ("RUN_DIR", path(node.scratch())),
    ];
    standing().hold(&assignments).await
}

fn said(since: Option<&Path>) -> anyhow::Result<()> {
    let before = since
        .map(std::fs::read_to_string)
        .transpose()
        .context("cannot read the earlier list")?
        .unwrap_or_default();
    let left: Vec<String> =
        leftovers().into_iter().filter(|line| !before.lines().any(|known| known == line)).collect();
    for line in &left {
        println!("{line}");
    }
    anyhow::ensure!(left.is_empty(), "{} things are left", left.len());
    Ok(())
}
