//! Leaves a node with Sallyport installed on it and says where: `make e2e-up`. Ends it: `make e2e-down`.
//!
//! `up` starts `hold` in the background, which starts everything, writes `target/e2e/env` and waits to be ended. Nothing outlives
//! `hold`, however it ends.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::{Parser, Subcommand};
use e2e::cluster::Cluster;
use e2e::gate::SYSTEM;
use e2e::install::{AGENT_IMAGE, Images, Release, Storage};
use e2e::node::Options;
use e2e::pod::{AgentPod, addresses};
use e2e::relay::Relay;
use e2e::scenario::{AGENTS, CLAUDE_CODE, manifest};
use e2e::standing::Standing;
use e2e::{Node, Tools, program, workspace_root};
use kube::config::Kubeconfig;

#[derive(Parser)]
#[command(name = "e2e-installed", about = "A node with Sallyport installed, left running")]
struct Args {
    #[command(subcommand)]
    deed: Deed,
}

#[derive(Subcommand)]
enum Deed {
    /// Start everything and return; what is left from before is ended first.
    Up,
    /// Start everything and stay until a signal.
    Hold,
    /// End what `up` left.
    Down,
    /// Pack the images that the scenarios need, to push them where another cluster pulls from.
    Images,
}

const WITHIN: std::time::Duration = std::time::Duration::from_secs(90);

fn main() -> ExitCode {
    let outcome = match Args::parse().deed {
        Deed::Up => up(),
        Deed::Hold => hold(),
        Deed::Down => {
            standing().down().map(|was_up| println!("{}", if was_up { "ended" } else { "nothing was up" }))
        }
        Deed::Images => images(),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("e2e-installed: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn standing() -> Standing {
    let folder = workspace_root().join("target/e2e");
    Standing { program: "e2e-installed", env: folder.join("env"), folder: folder.join("installed") }
}

fn up() -> anyhow::Result<()> {
    // Built and installed here, where their progress can be seen.
    e2e::node::prepare()?;
    println!("starting a node and installing Sallyport on it (about 60 s)");
    print!("{}", standing().up(&[])?);
    println!("up; `. target/e2e/env` sets these, `make e2e-down` ends it");
    Ok(())
}

fn images() -> anyhow::Result<()> {
    Images::pack()?.archives().iter().for_each(|archive| println!("{}", archive.display()));
    Ok(())
}

#[tokio::main(flavor = "current_thread")]
async fn hold() -> anyhow::Result<()> {
    let images = Images::pack()?.archives().to_vec();
    let node = Node::start(Options { images, ..Options::default() })?;
    let cluster = Cluster::on(node.clone());
    let release =
        Release::install(&cluster, Storage::Filesystem, &["--set", "proxy.extraNames={127.0.0.1}"]).await?;
    for name in ["world", "identity", "policy", "rbac"] {
        let text = std::fs::read_to_string(manifest(name))?;
        cluster.apply(&text.replace("registry.example/payments/web:2.3.1", AGENT_IMAGE))?;
    }
    cluster.wait("condition=Ready", &format!("agentidentity/{CLAUDE_CODE}"), AGENTS, WITHIN)?;
    AgentPod::start(&cluster, AGENTS, CLAUDE_CODE)?;
    let relays: Vec<Relay> =
        addresses(&cluster)?.into_iter().map(|address| node.forward(address)).collect::<Result<_, _>>()?;
    let urls: Vec<String> =
        relays.iter().map(|relay| format!("https://127.0.0.1:{}", relay.port())).collect();
    let assignments = environment(&node, &cluster, &release, &urls).await?;
    standing().hold(&assignments).await
}

/// Where everything is: the names of `make up`, the gate's replicas on ports of this machine, and the node's network.
async fn environment(
    node: &Node,
    cluster: &Cluster,
    release: &Release,
    urls: &[String],
) -> anyhow::Result<Vec<(&'static str, String)>> {
    let scratch = node.scratch();
    let token = scratch.join("agent-token");
    let day = e2e::agent::TOKEN_SECONDS;
    std::fs::write(
        &token,
        node.plane().token(AGENTS, CLAUDE_CODE, &[crds::names::TOKEN_AUDIENCE], day).await?,
    )?;
    let ca = scratch.join("gate-ca.crt");
    let map = cluster.get(&["configmap", crds::names::CA_CONFIG_MAP, "-n", SYSTEM])?;
    std::fs::write(&ca, map["data"]["ca.crt"].as_str().context("the gate's authority")?)?;
    let agent = agent_kubeconfig(cluster, scratch, &token, urls.first().context("a replica")?)?;
    let recordings = release.folder().context("a folder of recordings")?;
    let path = |path: &Path| path.display().to_string();
    Ok(vec![
        ("ADMIN_KUBECONFIG", path(cluster.kubeconfig())),
        ("AGENT_KUBECONFIG", path(&agent)),
        ("GATE_URLS", urls.join(" ")),
        ("GATE_CA", path(&ca)),
        ("AGENT_TOKEN_FILE", path(&token)),
        ("KUBECTL", path(&Tools::get()?.kubectl)),
        ("KUBECTL_OLD", path(&Tools::get()?.kubectl_old)),
        ("KUBECTL_SALLYPORT", path(&program("kubectl-sallyport")?)),
        ("AUDIT_LOG", path(node.audit().path())),
        ("RECORDINGS", path(recordings)),
        ("API_SERVER_URL", node.host_url().to_owned()),
        ("NODE_NETNS", format!("/proc/{}/ns/net", node.first_process())),
    ])
}

/// The published kubeconfig with the token's path and an address on this machine.
fn agent_kubeconfig(cluster: &Cluster, folder: &Path, token: &Path, url: &str) -> anyhow::Result<PathBuf> {
    let map = cluster.get(&["configmap", &format!("{CLAUDE_CODE}-kubeconfig"), "-n", AGENTS])?;
    let mut config =
        Kubeconfig::from_yaml(map["data"]["kubeconfig"].as_str().context("a published kubeconfig")?)?;
    for cluster in config.clusters.iter_mut().filter_map(|named| named.cluster.as_mut()) {
        cluster.server = Some(url.to_owned());
    }
    for user in config.auth_infos.iter_mut().filter_map(|named| named.auth_info.as_mut()) {
        user.token_file = Some(token.display().to_string());
    }
    let path = folder.join("agent.kubeconfig");
    std::fs::write(&path, serde_json::to_vec_pretty(&config)?)?;
    Ok(path)
}
