//! `kubectl sallyport`: what a person does about agents, as sugar over plain objects.

mod boundary;
mod cluster;
mod escape;
mod explain;
mod output;
mod pending;
mod recordings;
mod replay;
mod review;
mod verify;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// See what agents ask for, decide it, and read what they did.
#[derive(Parser)]
#[command(name = "kubectl-sallyport", bin_name = "kubectl sallyport", version)]
struct Arguments {
    #[command(flatten)]
    cluster: cluster::Flags,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// List the grants that wait for a human.
    Pending(pending::Arguments),
    /// Approve grants.
    Approve(review::ApproveArguments),
    /// Deny grants.
    Deny(review::Arguments),
    /// Take approvals back; what runs under them is cut.
    Revoke(review::Arguments),
    /// Ask the gate what it would decide, as the agent that the kubeconfig belongs to.
    Explain(explain::Arguments),
    /// Show what an agent did in a session.
    Replay(replay::Arguments),
    /// Say whether a session's recording is what was recorded.
    Verify(verify::Arguments),
    /// Try the ways around the gate; fail unless all are shut and on record.
    CheckBoundary(boundary::Arguments),
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    // Fails only when it is done twice.
    let _first = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let arguments = Arguments::parse();
    match run(arguments).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{}", escape::lines(&format!("{error:#}")));
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: Arguments) -> anyhow::Result<()> {
    let cluster = arguments.cluster;
    match arguments.verb {
        Verb::Pending(verb) => pending::run(&cluster, &verb).await,
        Verb::Approve(verb) => review::approve(&cluster, &verb).await,
        Verb::Deny(verb) => review::deny(&cluster, &verb).await,
        Verb::Revoke(verb) => review::revoke(&cluster, &verb).await,
        Verb::Explain(verb) => explain::run(&cluster, &verb).await,
        Verb::Replay(verb) => replay::run(&cluster, &verb).await,
        Verb::Verify(verb) => verify::run(&cluster, &verb).await,
        Verb::CheckBoundary(verb) => boundary::run(&cluster, &verb).await,
    }
}
