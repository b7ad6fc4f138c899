//! The operator's process: logs, signals, exit codes, and the way to the API server.

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;
use clap::Parser as _;
use operator::config::Config;
use operator::run::RunError;
use operator::telemetry::{self, Metrics};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Another operator may lead now. Any other failure is 1.
const LEASE_LOST: u8 = 3;

fn main() -> ExitCode {
    telemetry::start_logging();
    let config = Arc::new(Config::parse());
    match start(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = format!("{error:#}"), "the operator ends");
            let lost = matches!(error.downcast_ref(), Some(RunError::LeaseLost(_)));
            if lost { ExitCode::from(LEASE_LOST) } else { ExitCode::FAILURE }
        }
    }
}

fn start(config: Arc<Config>) -> anyhow::Result<()> {
    if rustls::crypto::aws_lc_rs::default_provider().install_default().is_err() {
        anyhow::bail!("another crypto provider is installed");
    }
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(run(config))
}

async fn run(config: Arc<Config>) -> anyhow::Result<()> {
    let stop = CancellationToken::new();
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let asked = stop.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("stopping");
        asked.cancel();
    });
    let client = kube::Client::try_default().await.context("no way to the API server")?;
    let metrics = Arc::new(Metrics::new().context("metrics")?);
    operator::run::run(client, config, metrics, stop).await?;
    tracing::info!("stopped");
    Ok(())
}
