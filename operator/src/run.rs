//! Running: every part of the operator, from start to a graceful end.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use jiff::Timestamp;
use kube::Client;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::admin::{self, Readiness};
use crate::admit::{self, Admission, grants::Grants, listen};
use crate::certificates::keep::{self, KeepError};
use crate::certificates::serve::{ServeError, Serving};
use crate::certificates::trust;
use crate::config::Config;
use crate::events::Events;
use crate::grants::GrantKeeper;
use crate::lead::Claim;
use crate::reconcile::Reconciler;
use crate::telemetry::Metrics;
use crate::watch::Watched;

const CHECK_CERTIFICATES: Duration = Duration::from_secs(10);
const RETRY: Duration = Duration::from_secs(1);
const DRAIN: Duration = Duration::from_secs(8);

/// What ends the operator before its time.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// An address could not be bound.
    #[error("{what} cannot listen on {address}: {source}")]
    Bind {
        /// Which port.
        what: &'static str,
        /// Where.
        address: std::net::SocketAddr,
        /// Cause.
        source: std::io::Error,
    },
    /// TLS could not be set up.
    #[error(transparent)]
    Tls(#[from] ServeError),
}

/// Runs until `stop`. Every replica keeps certificates and admits; one reconciles.
///
/// # Errors
/// [`RunError`]; the process should end then.
pub async fn run(
    client: Client,
    config: Arc<Config>,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
) -> Result<(), RunError> {
    let readiness = Arc::new(Readiness::default());
    let admin = bind("admin port", config.admin_bind).await?;
    let webhook = bind("webhook", config.webhook_bind).await?;
    let serving = Arc::new(Serving::default());
    let tls = serving.server_config()?;
    let (authority, authority_seen) = watch::channel(None);
    let tasks = TaskTracker::new();
    // The ports close last: the watches and writers they serve end first.
    let ports = CancellationToken::new();
    tasks.spawn(admin::serve(admin, metrics.clone(), readiness.clone(), ports.clone()));
    let admission =
        Admission { grants: Grants::new(client.clone(), &config.namespace), metrics: metrics.clone() };
    tasks.spawn(listen::listen(webhook, tls, admit::router(admission), ports.clone()));
    readiness.webhook.store(true, Ordering::Release);
    let trusting = trust::keep_trusted(client.clone(), config.webhook_url.clone(), authority_seen.clone());
    tasks.spawn(stop.clone().run_until_cancelled_owned(trusting));
    let certificates = Certificates {
        client: client.clone(),
        config: config.clone(),
        metrics: metrics.clone(),
        readiness: readiness.clone(),
        serving,
        authority,
    };
    tasks.spawn(stop.clone().run_until_cancelled_owned(certificates.run()));
    let watched = Watched::start(&client, &config.namespace, &stop, &tasks);
    lead(client, config, metrics, readiness, watched, authority_seen, &stop).await;
    stop.cancel();
    ports.cancel();
    tasks.close();
    if tokio::time::timeout(DRAIN, tasks.wait()).await.is_err() {
        tracing::warn!("ended with work under way");
    }
    Ok(())
}

async fn bind(what: &'static str, address: std::net::SocketAddr) -> Result<TcpListener, RunError> {
    let listener =
        TcpListener::bind(address).await.map_err(|source| RunError::Bind { what, address, source })?;
    tracing::info!(what, %address, "listening");
    Ok(listener)
}

async fn lead(
    client: Client,
    config: Arc<Config>,
    metrics: Arc<Metrics>,
    readiness: Arc<Readiness>,
    watched: Watched,
    authority: watch::Receiver<Option<String>>,
    stop: &CancellationToken,
) {
    if stop.run_until_cancelled(watched.wait_until_complete()).await != Some(true) {
        return;
    }
    readiness.watches.store(true, Ordering::Release);
    let lasts = Duration::from_secs(u64::from(config.lease_seconds));
    let mut claim = Claim::new(client.clone(), &config.namespace, config.replica_id(), lasts);
    while claim.acquire(stop).await {
        tracing::info!("leading");
        metrics.leading.set(1.0);
        let leading = stop.child_token();
        let work = TaskTracker::new();
        begin(
            &Shared {
                client: &client,
                config: &config,
                metrics: &metrics,
                watched: &watched,
                authority: &authority,
            },
            &leading,
            &work,
        );
        let given_back = claim.hold(stop).await;
        metrics.leading.set(0.0);
        leading.cancel();
        work.close();
        // Nothing of ours is under way when the Lease is claimed again.
        work.wait().await;
        if given_back {
            return;
        }
        tracing::warn!("operator lease lost");
    }
}

struct Shared<'a> {
    client: &'a Client,
    config: &'a Arc<Config>,
    metrics: &'a Arc<Metrics>,
    watched: &'a Watched,
    authority: &'a watch::Receiver<Option<String>>,
}

fn begin(shared: &Shared<'_>, leading: &CancellationToken, work: &TaskTracker) {
    let Shared { client, config, metrics, watched, authority } = *shared;
    let seconds = u64::from(config.grant_ttl_seconds);
    let time_to_live = (seconds > 0).then(|| Duration::from_secs(seconds));
    let events = Events::new(client.clone(), config.replica_id());
    let grants = GrantKeeper::new(
        client.clone(),
        &config.namespace,
        time_to_live,
        watched.clone(),
        metrics.clone(),
        events.clone(),
    );
    let reconciler = Reconciler::new(
        client.clone(),
        config.clone(),
        watched.clone(),
        metrics.clone(),
        authority.clone(),
        events,
    );
    work.spawn(reconciler.run(leading.clone()));
    work.spawn(grants.run(leading.clone()));
}

struct Certificates {
    client: Client,
    config: Arc<Config>,
    metrics: Arc<Metrics>,
    readiness: Arc<Readiness>,
    serving: Arc<Serving>,
    authority: watch::Sender<Option<String>>,
}

impl Certificates {
    async fn run(self) {
        let mut in_force = String::new();
        loop {
            let pause = match self.check(&mut in_force).await {
                Ok(()) => CHECK_CERTIFICATES,
                Err(error) => {
                    tracing::warn!(%error, "certificates not kept");
                    RETRY
                }
            };
            tokio::time::sleep(pause).await;
        }
    }

    async fn check(&self, in_force: &mut String) -> Result<(), CertificateError> {
        let kept = keep::keep(&self.client, &self.config, Timestamp::now()).await?;
        if *in_force != kept.webhook.certificate {
            self.serving.set(&kept.webhook)?;
            in_force.clone_from(&kept.webhook.certificate);
        }
        for (certificate, end) in kept.ends {
            self.metrics.certificate_ends.with_label_values(&[certificate]).set(end.as_second() as f64);
        }
        self.authority.send_if_modified(|known| {
            let changed = known.as_ref() != Some(&kept.authority);
            *known = Some(kept.authority.clone());
            changed
        });
        self.readiness.certificates.store(true, Ordering::Release);
        Ok(())
    }
}

#[derive(Debug, thiserror::Error)]
enum CertificateError {
    #[error(transparent)]
    Keep(#[from] KeepError),
    #[error(transparent)]
    Serve(#[from] ServeError),
}
