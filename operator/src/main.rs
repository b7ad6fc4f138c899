//! The operator's process: logs, signals, and the way to the API server.

use std::sync::Arc;

use anyhow::Context as _;
use clap::Parser as _;
use operator::config::Config;
use operator::telemetry::{self, Metrics};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

fn main() -> anyhow::Result<()> {
    if rustls::crypto::aws_lc_rs::default_provider().install_default().is_err() {
        anyhow::bail!("another crypto provider is installed");
    }
    telemetry::start_logging();
    let config = Arc::new(Config::parse());
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
