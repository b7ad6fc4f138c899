//! The program's life: the ground is laid, the gate opens, and on a signal everything ends in order (F02).
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use futures::future::BoxFuture;
use jiff::Timestamp;
use recording::event::EndReason;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::accept::{Acceptor, Places, connections_that_fit};
use crate::admin;
use crate::authenticate::{Authenticator, AwsSettings, ask_again};
use crate::config::{AwsCluster, Config, is_region};
use crate::decide::Decider;
use crate::denials::Denials;
use crate::drain::Drain;
use crate::grants::Grants;
use crate::hold::Hold;
use crate::limits::Limits;
use crate::live::{self, AgentKey, Live, Look};
use crate::mask::Masks;
use crate::record::{ApiCards, Recorder, Settings};
use crate::serve::{Asker, Gate, serve};
use crate::streams::{Open, Streams};
use crate::targets::{Own, Place, Targets};
use crate::telemetry::Telemetry;

/// What is in flight when the door closes has this long to be answered.
const LAST_ANSWERS: Duration = Duration::from_secs(15);
/// What was cut has this long to say its last word to the record.
const LAST_WORDS: Duration = Duration::from_secs(1);
const LAST_UPLOADS: Duration = Duration::from_secs(10);
/// After a second signal: what is not in the store by then stays in the spool.
const HURRIED_UPLOADS: Duration = Duration::from_secs(1);
const LAST_TASKS: Duration = Duration::from_secs(5);

/// Runs the proxy until a signal ends it.
///
/// # Errors
/// If it cannot start: no Kubernetes configuration, an address in use, a store or spool that cannot be written.
pub async fn run(config: Config) -> anyhow::Result<()> {
    let kubernetes = kube::Config::infer().await.context("no Kubernetes configuration")?;
    let client =
        kube::Client::try_from(kubernetes.clone()).context("the Kubernetes client cannot be built")?;
    let targets = Arc::new(Targets::new(Own::new(&kubernetes)?, &config.hub, client.clone()));
    let mut signals = Signals::new()?;
    let (drain, ended) = (Drain::default(), CancellationToken::new());
    let listener = listen(config.bind).await?;
    let admin = listen(config.admin_bind).await?;
    let look = look(&config)?;
    let gate = Arc::new(gate(&config, &client, targets, drain.clone())?);
    let (live, telemetry) = (gate.live.clone(), gate.telemetry.clone());
    let background = TaskTracker::new();
    spawn(&background, &ended, ground(&config, &client, &gate, look));
    background.spawn(admin::run(admin, live.clone(), telemetry.clone(), drain.clone(), ended.clone()));
    let (namespace, replica) = (config.namespace.clone(), config.replica.clone());
    background.spawn(live::renew_lease(client, namespace, replica, live.clone(), ended.clone()));
    let most = connections_that_fit(config.max_connections);
    let places = Places::new(most, config.max_connections_per_agent, telemetry.clone());
    let acceptor = Acceptor::new(live.certificate(), places, telemetry, drain.clone())?;
    let accepting = TaskTracker::new();
    let serving = Arc::clone(&gate);
    accepting.spawn(async move {
        acceptor.run(listener, move |session, request| serve(Arc::clone(&serving), session, request)).await;
    });
    accepting.close();
    tracing::info!(bind = %config.bind, admin = %config.admin_bind, replica = config.replica, "the gate is up");
    let failed = tokio::select! {
        () = signals.next() => None,
        () = gate.recorder.failed() => Some(anyhow::anyhow!("the disk for recordings failed")),
    };
    // Without recordings nothing is served: there is nobody to wait for.
    let grace = if failed.is_none() { config.drain_seconds } else { 0 };
    let last_uploads = tokio::select! {
        () = leave(&gate, &accepting, Duration::from_secs(grace)) => LAST_UPLOADS,
        () = signals.next() => HURRIED_UPLOADS,
    };
    gate.drain.cut();
    gate.writes.close();
    let last_words =
        tokio::time::timeout(LAST_WORDS, async { tokio::join!(accepting.wait(), gate.writes.wait()) });
    if last_words.await.is_err() {
        tracing::warn!("requests that were cut still run");
    }
    gate.recorder.close(last_uploads).await;
    ended.cancel();
    background.close();
    let rest = tokio::time::timeout(LAST_TASKS, background.wait()).await;
    tracing::info!(in_order = rest.is_ok(), "ended");
    failed.map_or(Ok(()), Err)
}

/// Goes out of the way: whoever still comes is served for `grace`, then nobody new is let in and the last answers are waited
/// for.
async fn leave(gate: &Gate, accepting: &TaskTracker, grace: Duration) {
    tracing::info!(seconds = grace.as_secs(), "draining");
    gate.drain.begin(grace);
    tokio::time::sleep(grace).await;
    gate.drain.close();
    gate.writes.close();
    let last = async { tokio::join!(accepting.wait(), gate.writes.wait()) };
    if tokio::time::timeout(LAST_ANSWERS, last).await.is_err() {
        tracing::warn!("requests were still in flight at the end of the drain");
    }
}

async fn listen(at: std::net::SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(at).await.with_context(|| format!("cannot listen on {at}"))
}

/// Everything that a request needs, knowing nothing yet.
fn gate(config: &Config, client: &kube::Client, targets: Arc<Targets>, drain: Drain) -> anyhow::Result<Gate> {
    let telemetry = Telemetry::new()?;
    let (live, limits, grants) =
        (Live::new(), Limits::new(config.max_requests_per_agent), Grants::new(client.clone()));
    let decider = Decider::new(live.clone(), grants.clone(), &config.namespace);
    let recorder = recorder(config, client, &live, telemetry.clone())?;
    let hub = Arc::clone(&targets.hub().upstream);
    Ok(Gate {
        authenticator: Authenticator::new(
            client.clone(),
            aws_settings(config),
            limits.clone(),
            telemetry.clone(),
        ),
        hold: Hold::new(decider.clone(), grants.clone(), hub, live.clone(), drain.clone()),
        streams: Streams::new(telemetry.clone(), drain.clone()),
        masks: Masks::default(),
        live,
        limits,
        decider,
        grants,
        targets,
        recorder,
        telemetry,
        denials: Denials::new(client.clone(), &config.replica),
        drain,
        writes: TaskTracker::new(),
    })
}

/// Where access entries are looked at, and how often.
fn look(config: &Config) -> anyhow::Result<Look> {
    let every = (config.access_entries_seconds > 0)
        .then(|| Duration::from_secs(u64::from(config.access_entries_seconds)));
    let Some(AwsCluster { account, region, name }) = config.aws_cluster.clone() else {
        return Ok(Look { every, own: None });
    };
    let environment = || std::env::var("AWS_REGION").or_else(|_| std::env::var("AWS_DEFAULT_REGION")).ok();
    let region = region.or_else(environment).filter(|region| is_region(region));
    let region = region.context("`--aws-cluster` names a cluster, and AWS_REGION no region: give its ARN")?;
    Ok(Look { every, own: Some(Place { account, region, name }) })
}

fn aws_settings(config: &Config) -> AwsSettings {
    AwsSettings {
        cluster: format!("{}{}", crds::names::AWS_CLUSTER_PREFIX, config.hub),
        is_named: config.hub != crds::names::HUB,
        hosts: config.sts_hosts.clone(),
        endpoint: config.sts_endpoint.clone(),
    }
}

fn recorder(
    config: &Config,
    client: &kube::Client,
    live: &Live,
    telemetry: Telemetry,
) -> anyhow::Result<Recorder> {
    let store = storage::open(&config.store, &config.s3)?;
    let settings = Settings {
        spool_limit: config.spool_bytes,
        spool_age: Duration::from_secs(config.spool_age_seconds),
        ..Settings::new(&config.replica, &config.spool, config.store.to_string())
    };
    let recorder = Recorder::open(settings, store, ApiCards::new(client.clone()), telemetry)?;
    live.recorder_says(recorder.unready());
    Ok(recorder)
}

/// Everything that follows the API server, or watches over what is open.
fn ground(
    config: &Config,
    client: &kube::Client,
    gate: &Arc<Gate>,
    look: Look,
) -> Vec<BoxFuture<'static, ()>> {
    let (live, namespace) = (gate.live.clone(), config.namespace.clone());
    let secret = config.tls_secret.clone();
    let certificate = live::follow_certificate(client.clone(), namespace.clone(), secret, live.certificate());
    let binding_key = live::follow_binding_key(client.clone(), namespace.clone(), live.clone());
    let wall = live::follow_wall(client.clone(), namespace.clone(), live.clone());
    let shards = live::follow_shards(client.clone(), namespace, live.clone(), gate.telemetry.clone());
    let entries = live::follow_access_entries(
        client.clone(),
        Arc::clone(&gate.targets),
        live.clone(),
        gate.telemetry.clone(),
        look,
    );
    let (targets, keeper, seen) = (Arc::clone(&gate.targets), Arc::clone(&gate.targets), live.clone());
    vec![
        Box::pin(certificate),
        Box::pin(binding_key),
        Box::pin(wall),
        Box::pin(shards),
        Box::pin(entries),
        Box::pin(live::follow_identities(client.clone(), live.clone())),
        Box::pin(live::probe_targets(client.clone(), Arc::clone(&gate.targets), live.clone())),
        Box::pin(gate.grants.clone().follow(live)),
        Box::pin(async move { targets.hub().discovery.keep_fresh().await }),
        Box::pin(async move { keeper.keep(&seen).await }),
        Box::pin(watch_streams(Arc::clone(gate))),
        Box::pin(watch_callers(Arc::clone(gate))),
        Box::pin(watch_issuers(Arc::clone(gate))),
        Box::pin(watch_recorder(Arc::clone(gate))),
        Box::pin(watch_sessions(Arc::clone(gate))),
        Box::pin(watch_grants(Arc::clone(gate))),
        Box::pin(gate.denials.clone().tell()),
    ]
}

async fn watch_streams(gate: Arc<Gate>) {
    let asker = Asker { decider: gate.decider.clone(), grants: gate.grants.clone(), live: gate.live.clone() };
    let ask = |open: &Open, now: Timestamp| asker.still(open, now);
    gate.streams.watch_over(&gate.live, ask).await;
}

async fn watch_callers(gate: Arc<Gate>) {
    ask_again(&gate.authenticator, &gate.streams, &gate.live).await;
}

async fn watch_issuers(gate: Arc<Gate>) {
    gate.authenticator.keep_fresh(&gate.live).await;
}

async fn watch_recorder(gate: Arc<Gate>) {
    loop {
        gate.live.recorder_says(gate.recorder.unready());
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// How many grants of each agent wait for a review, as the operator has it.
async fn watch_grants(gate: Arc<Gate>) {
    loop {
        let bundle = gate.live.latest_bundle();
        for agent in bundle.iter().flat_map(|bundle| bundle.agents()) {
            let grants = gate.grants.of(&AgentKey::new(agent.namespace(), agent.name()));
            let waiting = grants.iter().filter(|grant| waits(grant)).count();
            gate.telemetry.pending_grants(&agent.full_name(), waiting);
        }
        tokio::time::sleep(Duration::from_secs(5)).await;
    }
}

fn waits(grant: &crds::AccessGrant) -> bool {
    let conditions = grant.status.iter().flat_map(|status| &status.conditions);
    !conditions.into_iter().any(|one| one.r#type == "Decided" && one.status == crds::ConditionStatus::True)
}

/// A session ends when its agent is suspended, and when its window closes.
async fn watch_sessions(gate: Arc<Gate>) {
    let mut changes = gate.live.changes();
    let mut suspended = HashSet::new();
    loop {
        let identities = gate.live.identities().unwrap_or_default();
        let now_suspended: HashSet<(AgentKey, String)> = identities
            .iter()
            .filter(|(_, identity)| identity.suspended)
            .map(|(key, identity)| (key.clone(), identity.uid.clone()))
            .collect();
        for (key, uid) in now_suspended.difference(&suspended) {
            gate.recorder.end_sessions(&key.namespace, uid, EndReason::AgentSuspended);
        }
        suspended = now_suspended;
        let now = Timestamp::now();
        gate.recorder.end_closed_windows(|facts, grant| {
            gate.decider.is_open(&AgentKey::new(&*facts.namespace, &*facts.agent), grant, now)
        });
        if let Ok(Err(_)) = tokio::time::timeout(Duration::from_secs(1), changes.changed()).await {
            return;
        }
    }
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

/// The signals that ask the program to end.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
