//! The program's life: the ground is laid, the gate opens, and on a signal everything ends in order (F02).
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use futures::future::BoxFuture;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::accept::Acceptor;
use crate::admin;
use crate::authenticate::Authenticator;
use crate::config::Config;
use crate::discovery::DiscoveryCache;
use crate::limits::Limits;
use crate::live::{self, Live};
use crate::serve::{Gate, serve};
use crate::telemetry::Telemetry;
use crate::upstream::Upstream;

/// Runs the proxy until a signal ends it.
///
/// # Errors
/// If it cannot start: no Kubernetes configuration, an address in use, a store that cannot be written.
pub async fn run(config: Config) -> anyhow::Result<()> {
    let kubernetes = kube::Config::infer().await.context("no Kubernetes configuration")?;
    let client =
        kube::Client::try_from(kubernetes.clone()).context("the Kubernetes client cannot be built")?;
    let upstream = Arc::new(Upstream::new(&kubernetes)?);
    let telemetry = Telemetry::new()?;
    let (draining, ended) = (CancellationToken::new(), CancellationToken::new());
    let live = Live::new();
    let limits = Limits::default();
    let gate = Arc::new(Gate {
        live: live.clone(),
        authenticator: Authenticator::new(client.clone(), limits.clone()),
        limits,
        discovery: DiscoveryCache::new(Arc::clone(&upstream)),
        upstream: Arc::clone(&upstream),
        telemetry: telemetry.clone(),
        draining: draining.clone(),
    });
    let listener =
        TcpListener::bind(config.bind).await.with_context(|| format!("cannot listen on {}", config.bind))?;
    let admin_at = config.admin_bind;
    let admin_listener =
        TcpListener::bind(admin_at).await.with_context(|| format!("cannot listen on {admin_at}"))?;
    let background = TaskTracker::new();
    spawn(&background, &ended, ground(&config, &client, &gate));
    background.spawn(admin::run(
        admin_listener,
        live.clone(),
        telemetry.clone(),
        draining.clone(),
        ended.clone(),
    ));
    background.spawn(live::renew_lease(
        client,
        config.namespace.clone(),
        config.replica.clone(),
        live.clone(),
        draining.clone(),
    ));
    let acceptor = Acceptor::new(live.certificate(), config.max_connections, telemetry, draining.clone())?;
    let accepting = {
        let (acceptor, gate) = (acceptor.clone(), Arc::clone(&gate));
        tokio::spawn(async move {
            acceptor.run(listener, move |session, request| serve(Arc::clone(&gate), session, request)).await;
        })
    };
    tracing::info!(bind = %config.bind, admin = %admin_at, replica = config.replica, "the gate is up");
    wait_for_signal().await?;
    tracing::info!("draining");
    draining.cancel();
    if tokio::time::timeout(Duration::from_secs(config.drain_seconds), accepting).await.is_err() {
        tracing::warn!("requests were still in flight at the end of the drain");
    }
    ended.cancel();
    background.close();
    let rest = tokio::time::timeout(Duration::from_secs(5), background.wait()).await;
    tracing::info!(in_order = rest.is_ok(), "ended");
    Ok(())
}

/// Everything that follows the API server.
fn ground(config: &Config, client: &kube::Client, gate: &Arc<Gate>) -> Vec<BoxFuture<'static, ()>> {
    let (live, namespace) = (gate.live.clone(), config.namespace.clone());
    let discovery = {
        let gate = Arc::clone(gate);
        async move { gate.discovery.keep_fresh().await }
    };
    vec![
        Box::pin(live::follow_certificate(client.clone(), namespace.clone(), live.certificate())),
        Box::pin(live::follow_identities(client.clone(), live.clone())),
        Box::pin(live::follow_shards(client.clone(), namespace, live.clone(), gate.telemetry.clone())),
        Box::pin(live::probe_targets(client.clone(), Arc::clone(&gate.upstream), live)),
        Box::pin(discovery),
    ]
}

fn spawn(tracker: &TaskTracker, ended: &CancellationToken, tasks: Vec<BoxFuture<'static, ()>>) {
    for task in tasks {
        let ended = ended.clone();
        tracker.spawn(async move {
            tokio::select! {
                () = task => tracing::error!("a task that never ends has ended"),
                () = ended.cancelled() => {}
            }
        });
    }
}

async fn wait_for_signal() -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}
