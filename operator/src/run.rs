//! Running: every part of the operator, from start to a graceful end.
//!
//! *Expected flow*: every replica answers the admission webhook and the admin port, watches, and follows the webhook's
//! certificate; the one that holds the Lease also reconciles, publishes, renews certificates and keeps grants and records.
//! At SIGTERM the work ends, the Lease is given back, and the webhook goes on for a while; a lost Lease ends the process.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use kube::Client;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::admin::{self, Readiness};
use crate::admit::rejections::Rejections;
use crate::admit::{self, Admission, grants::Grants, listen};
use crate::certificates::serve::{self, ServeError, Serving};
use crate::certificates::trust::{self, Trust};
use crate::certificates::{check, renew};
use crate::config::{Config, ConfigError};
use crate::events::Events;
use crate::grants::GrantKeeper;
use crate::lead::{Claim, Lost};
use crate::reconcile::Reconciler;
use crate::records::RecordKeeper;
use crate::telemetry::Metrics;
use crate::watch::Watched;

const DRAIN: Duration = Duration::from_secs(8);

/// What ends the operator before its time.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// Flags contradict each other.
    #[error(transparent)]
    Config(#[from] ConfigError),
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
    /// A file that a flag names could not be read.
    #[error("`{path}` cannot be read: {source}")]
    File {
        /// Which.
        path: PathBuf,
        /// Cause.
        source: std::io::Error,
    },
    /// TLS could not be set up.
    #[error(transparent)]
    Tls(#[from] ServeError),
    /// Another operator may lead now; the process ends, and comes back as one that waits.
    #[error("the operator's lease was lost: {0}")]
    LeaseLost(#[from] Lost),
}

/// Runs until `stop`, or until a Lease that was held is lost.
///
/// # Errors
/// [`RunError`]; the process should end then.
pub async fn run(
    client: Client,
    config: Arc<Config>,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
) -> Result<(), RunError> {
    config.check()?;
    let readiness = Arc::new(Readiness::default());
    let admin = bind("admin port", config.admin_bind).await?;
    let webhook = bind("webhook", config.webhook_bind).await?;
    let serving = Arc::new(Serving::default());
    let tls = serving.server_config(client_authorities(&config)?.as_deref())?;
    let tasks = TaskTracker::new();
    // The ports close last: the watches and writers they serve end first.
    let (ending, ports) = (CancellationToken::new(), CancellationToken::new());
    tasks.spawn(admin::serve(admin, metrics.clone(), readiness.clone(), ports.clone()));
    let events = Events::new(client.clone(), config.replica_id());
    let grants = Grants::new(client.clone(), &config.namespace);
    let rejections = Rejections::new(client.clone(), events.clone());
    let admission = Admission { grants, metrics: metrics.clone(), rejections };
    let router = admit::router(admission, ending.clone());
    tasks.spawn(listen::listen(webhook, tls, router, ports.clone()));
    readiness.webhook.store(true, Ordering::Release);
    let following = serve::follow(client.clone(), config.namespace.clone(), serving.clone(), metrics.clone());
    tasks.spawn(ports.clone().run_until_cancelled_owned(following));
    let name = format!("{}.{}.svc", crds::names::WEBHOOK_SERVICE, config.namespace);
    let checking = check::keep_checked(client.clone(), serving, name, readiness.clone());
    tasks.spawn(ports.clone().run_until_cancelled_owned(checking));
    let watched = Watched::start(&client, &config.namespace, config.detect_bypass, &stop, &tasks);
    let drain = Duration::from_secs(u64::from(config.drain_seconds));
    let work = Work { client, config, metrics, watched, events };
    let outcome = lead(work, &readiness, &stop).await;
    // From here on others should be asked, but whoever still asks gets an answer.
    readiness.ending.store(true, Ordering::Release);
    ending.cancel();
    tokio::time::sleep(drain).await;
    stop.cancel();
    ports.cancel();
    tasks.close();
    if tokio::time::timeout(DRAIN, tasks.wait()).await.is_err() {
        tracing::warn!("ended with work under way");
    }
    outcome.map_err(RunError::from)
}

async fn bind(what: &'static str, address: std::net::SocketAddr) -> Result<TcpListener, RunError> {
    let listener =
        TcpListener::bind(address).await.map_err(|source| RunError::Bind { what, address, source })?;
    tracing::info!(what, %address, "listening");
    Ok(listener)
}

fn client_authorities(config: &Config) -> Result<Option<String>, RunError> {
    let Some(path) = &config.webhook_client_ca_file else { return Ok(None) };
    let text = std::fs::read_to_string(path);
    text.map(Some).map_err(|source| RunError::File { path: path.clone(), source })
}

// Waits for the Lease, works while it is held, and gives it back when all work has ended.
async fn lead(work: Work, readiness: &Readiness, stop: &CancellationToken) -> Result<(), Lost> {
    let Work { client, config, metrics, watched, .. } = &work;
    if stop.run_until_cancelled(watched.wait_until_complete()).await != Some(true) {
        return Ok(());
    }
    readiness.watches.store(true, Ordering::Release);
    let lasts = Duration::from_secs(u64::from(config.lease_seconds));
    let mut claim = Claim::new(client.clone(), &config.namespace, config.replica_id(), lasts);
    let Some(since) = claim.acquire(stop).await else { return Ok(()) };
    tracing::info!(replica = config.replica_id(), "leading");
    metrics.leading.set(1.0);
    let (leading, tasks) = (stop.child_token(), TaskTracker::new());
    work.begin(&leading, &tasks);
    let held = claim.hold(since, stop).await;
    leading.cancel();
    metrics.leading.set(0.0);
    tasks.close();
    // Nothing of ours may be under way when another replica begins.
    tasks.wait().await;
    match &held {
        Ok(()) => claim.release().await,
        Err(lost) => tracing::error!(%lost, "operator lease lost; the process ends"),
    }
    held
}

struct Work {
    client: Client,
    config: Arc<Config>,
    metrics: Arc<Metrics>,
    watched: Watched,
    events: Events,
}

impl Work {
    fn begin(&self, leading: &CancellationToken, tasks: &TaskTracker) {
        let Self { client, config, metrics, watched, events } = self;
        let trust = Trust::default();
        let renewing = renew::renew(client.clone(), config.clone(), trust.clone(), metrics.clone());
        tasks.spawn(leading.clone().run_until_cancelled_owned(renewing));
        let trusting = trust::keep_trusted(client.clone(), config.webhook_url.clone(), trust.clone());
        tasks.spawn(leading.clone().run_until_cancelled_owned(trusting));
        let grants = GrantKeeper::new(
            client.clone(),
            &config.namespace,
            config.grant_ttl(),
            watched.clone(),
            metrics.clone(),
            events.clone(),
        );
        tasks.spawn(grants.run(leading.clone()));
        let records = RecordKeeper::new(client.clone(), config, watched.clone(), metrics.clone());
        tasks.spawn(records.run(leading.clone()));
        let (config, metrics) = (config.clone(), metrics.clone());
        let reconciler =
            Reconciler::new(client.clone(), config, watched.clone(), metrics, trust, events.clone());
        tasks.spawn(reconciler.run(leading.clone()));
    }
}
