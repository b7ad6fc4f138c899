//! Reconciling: look, plan, draw the boundary, publish, say what became of it; again after every change.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use crds::agent_identity::TargetType;
use crds::{AccessPolicy, AgentIdentity, ConditionStatus};
use jiff::Timestamp;
use k8s_openapi::api::rbac::v1::PolicyRule;
use kube::core::DeserializeGuard;
use kube::{Client, Resource as _, ResourceExt as _};
use policy::shard::Shard;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::baseline::{self, BaselineError};
use crate::boundary::{self, BoundaryError};
use crate::bypass::{self, Finder, Reason, Routes, Ways};
use crate::certificates::trust::{Bundles, Trust};
use crate::conditions::{self, IDENTITY, IdentityFacts, POLICY, Reach};
use crate::config::Config;
use crate::events::Events;
use crate::index::{Key, World, key_of};
use crate::kubeconfig;
use crate::plan::{IdentityVerdict, Plan, plan};
use crate::programmed::{Fleet, Progress};
use crate::publish::{self, PublishError};
use crate::status::{StatusWriter, Target, Wish, as_json};
use crate::telemetry::Metrics;
use crate::tokens::{self, TokensError};
use crate::watch::{Watched, lock};

const GATHER: Duration = Duration::from_millis(20);
const RETRY: Duration = Duration::from_secs(1);
const IDLE: Duration = Duration::from_secs(300);

/// What stops a pass. The next one starts from the beginning.
#[derive(Debug, thiserror::Error)]
pub enum ReconcileError {
    /// The boundary could not be drawn.
    #[error(transparent)]
    Boundary(#[from] BoundaryError),
    /// The proxy's access to tokens could not be written.
    #[error(transparent)]
    Tokens(#[from] TokensError),
    /// Live config could not be published.
    #[error(transparent)]
    Publish(#[from] PublishError),
    /// The baseline could not be kept.
    #[error(transparent)]
    Baseline(#[from] BaselineError),
    /// A status or a kubeconfig could not be written.
    #[error("status: {0}")]
    Status(#[from] kube::Error),
}

/// What a reconciler works with.
pub struct Reconciler {
    client: Client,
    config: Arc<Config>,
    watched: Watched,
    metrics: Arc<Metrics>,
    trust: Trust,
    wanted: tokio::sync::watch::Receiver<Option<Arc<Bundles>>>,
    fleet: Fleet,
    bypass: Finder,
    baseline: baseline::Keeper,
    tokens: tokens::Keeper,
    kubeconfigs: kubeconfig::Publisher,
    identities: StatusWriter,
    policies: StatusWriter,
    events: Events,
}

impl Reconciler {
    /// Over what `watched` sees. Kubeconfigs carry what `trust` wants, and it is told when all of them do.
    pub fn new(
        client: Client,
        config: Arc<Config>,
        watched: Watched,
        metrics: Arc<Metrics>,
        trust: Trust,
        events: Events,
    ) -> Self {
        Self {
            identities: StatusWriter::new(client.clone(), IDENTITY, metrics.clone()),
            policies: StatusWriter::new(client.clone(), POLICY, metrics.clone()),
            bypass: Finder::new(client.clone(), watched.bindings.clone(), watched.aws_auth.clone()),
            tokens: tokens::Keeper::new(client.clone(), &config.namespace),
            client,
            config,
            watched,
            metrics,
            wanted: trust.wanted(),
            trust,
            fleet: Fleet::default(),
            baseline: baseline::Keeper::default(),
            kubeconfigs: kubeconfig::Publisher::default(),
            events,
        }
    }

    /// Reconciles until `stop`. Nothing is concluded before every kind was listed once.
    pub async fn run(mut self, stop: CancellationToken) {
        let complete = stop.run_until_cancelled(self.watched.wait_until_complete()).await;
        if complete != Some(true) {
            return;
        }
        let mut retry = Some(Instant::now());
        loop {
            let now = Instant::now();
            let due = retry.or_else(|| self.fleet.next_end(now)).unwrap_or(now + IDLE);
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.watched.config_changed.notified() => tokio::time::sleep(GATHER).await,
                // Renewals come all the time; only what they change concerns us.
                () = self.watched.leases_changed.notified() => if !self.observe_fleet() { continue },
                _ = self.wanted.changed() => {}
                () = tokio::time::sleep_until(due) => {}
            }
            let Some(outcome) = stop.run_until_cancelled(self.pass()).await else { return };
            let result = if outcome.is_ok() { "ok" } else { "error" };
            self.metrics.reconciliations.with_label_values(&[result]).inc();
            retry = None;
            if let Err(error) = outcome {
                tracing::warn!(%error, "reconciliation failed");
                retry = Some(Instant::now() + RETRY);
            }
        }
    }

    // Whether the live proxies, or what they run, changed.
    fn observe_fleet(&mut self) -> bool {
        let now = Instant::now();
        let running = |fleet: &Fleet| fleet.bundles(now).into_iter().map(str::to_owned).collect::<Vec<_>>();
        let before = running(&self.fleet);
        let leases = self.watched.leases.state();
        self.fleet.observe(leases.iter().map(Arc::as_ref), Timestamp::now(), now);
        before != running(&self.fleet)
    }

    /// One pass. *Expected flow*: baseline, plan, boundary wide enough for what comes, live config, boundary narrow again,
    /// kubeconfigs, statuses. *Guarantees*: the proxy may impersonate an identity before its live config is there; every
    /// step writes only what differs. *Assumptions*: one leader; where there are two for a moment, every write is made
    /// against the version that was read.
    async fn pass(&mut self) -> Result<(), ReconcileError> {
        if self.config.baseline_policy {
            let found =
                self.watched.policies.find(|policy| policy.name_any() == crds::names::BASELINE_POLICY);
            self.baseline.keep(&self.client, &self.config.namespace, found.as_ref()).await?;
            if found.is_none() {
                // Nothing is published without it; the watch brings it in a moment.
                return Ok(());
            }
        }
        let world = World::look(&self.watched).of_hub(&self.config.hub);
        let plan = plan(&world);
        self.metrics.shards.set(i64::try_from(plan.shards.len()).unwrap_or(i64::MAX));
        boundary::widen(&self.client, &self.boundary_rules(), &plan.impersonable).await?;
        // A namespace that does not take them keeps nothing from the others; its targets say so themselves.
        let widened = self.tokens.widen(&self.watched.tokens.state(), &plan.tokens).await;
        let in_force = self.watched.shards.state();
        let namespace = &self.config.namespace;
        publish::publish(&self.client, namespace, &in_force, &plan.shards, &self.metrics).await?;
        boundary::narrow(&self.client, &self.boundary_rules(), &plan.impersonable).await?;
        let narrowed = self.tokens.narrow(&self.watched.tokens.state(), &plan.tokens).await;
        self.say(&world, &plan).await?;
        Ok(widened.and(narrowed)?)
    }

    fn boundary_rules(&self) -> Vec<PolicyRule> {
        self.watched.boundary.state().first().and_then(|role| role.rules.clone()).unwrap_or_default()
    }

    // What cannot be written for one object is not kept from the others.
    async fn say(&mut self, world: &World, plan: &Plan) -> Result<(), ReconcileError> {
        self.observe_fleet();
        let (wall, now) = (Timestamp::now(), Instant::now());
        let (published, outcome) = self.publish_kubeconfigs(world).await;
        let routes = self.bypass.find(&world.identities).await;
        if let Some(routes) = &routes {
            let count = |key: &Key| routes.get(key).map_or(0, Ways::count);
            let keys = world.identities.iter().map(|identity| key_of(identity));
            self.metrics.bypass(keys.map(|key| (format!("{}/{}", key.0, key.1), count(&key))));
        }
        let wishes = self.identity_wishes(world, plan, &published, routes.as_ref(), now);
        let identities = self.identities.write(wishes, wall).await;
        if let Ok(turns) = &identities {
            self.events.of_identities(turns).await;
        }
        let wishes = self.policy_wishes(world, plan, now);
        let policies = self.policies.write(wishes, wall).await;
        Ok(outcome.and(identities).and(policies).map(drop)?)
    }

    async fn publish_kubeconfigs(&mut self, world: &World) -> (HashSet<Key>, Result<(), kube::Error>) {
        let mut published = HashSet::new();
        let Some(bundles) = self.wanted.borrow_and_update().clone() else { return (published, Ok(())) };
        let mut outcome = Ok(());
        for identity in &world.identities {
            if identity.meta().deletion_timestamp.is_some() {
                continue;
            }
            let (key, uid) = (key_of(identity), identity.uid().unwrap_or_default());
            let authority = bundles.agents.as_deref();
            let subjects = identity.0.as_ref().map_or(&[][..], |identity| &identity.spec.subjects);
            let proofs = kubeconfig::Proofs::of(subjects);
            let publishing =
                self.kubeconfigs.publish(&self.client, &self.config, authority, &key, &uid, proofs);
            match publishing.await {
                Ok(true) => drop(published.insert(key)),
                Ok(false) => {}
                Err(error) => outcome = Err(error),
            }
        }
        let alive: HashSet<String> = world.identities.iter().filter_map(|identity| identity.uid()).collect();
        self.kubeconfigs.retain(|uid| alive.contains(uid));
        if outcome.is_ok() {
            self.trust.in_kubeconfigs(bundles);
        }
        (published, outcome)
    }

    fn identity_wishes(
        &self,
        world: &World,
        plan: &Plan,
        kubeconfigs: &HashSet<Key>,
        routes: Option<&Routes>,
        now: Instant,
    ) -> Vec<(Target, Wish)> {
        let endpoint = self.config.proxy_url();
        let wish = |identity: &Arc<DeserializeGuard<AgentIdentity>>| {
            let key = key_of(identity);
            let verdict = plan.identities.get(&key)?;
            let kubeconfig = kubeconfigs.contains(&key).then(|| kubeconfig::name_for(&key.1));
            let hash =
                verdict.shard.as_ref().and_then(|name| plan.shards.get(name)).map(|text| Shard::hash(text));
            let facts = IdentityFacts {
                verdict,
                progress: self.identity_progress(verdict, plan, now),
                shard_hash: hash.as_deref(),
                reach: reach(identity),
                suspended: identity.0.as_ref().is_ok_and(|identity| identity.spec.suspend),
                endpoint: &endpoint,
                kubeconfig: kubeconfig.as_deref(),
                bypass: match routes {
                    Some(routes) => {
                        routes.get(&key).and_then(|ways| Some((ways.reason()?, bypass::message(ways))))
                    }
                    None => bypass_said_before(identity),
                },
                external_id: external_id(&self.config.hub, identity, &key),
            };
            let status = identity.0.as_ref().ok().map(|identity| as_json(&identity.status));
            Some((Target::of(identity.as_ref(), status), conditions::identity_wish(&facts)))
        };
        world.identities.iter().filter_map(wish).collect()
    }

    fn identity_progress(&self, verdict: &IdentityVerdict, plan: &Plan, now: Instant) -> Option<Progress> {
        let wanted = conditions::wanted_shards(plan, &verdict.shard);
        if wanted.is_empty() {
            return None;
        }
        Some(Progress::of(&wanted, &lock(&self.watched.history), &self.fleet, now))
    }

    fn policy_wishes(&self, world: &World, plan: &Plan, now: Instant) -> Vec<(Target, Wish)> {
        let history = lock(&self.watched.history);
        let wish = |policy: &Arc<DeserializeGuard<AccessPolicy>>| {
            let verdict = plan.policies.get(&policy.name_any())?;
            let wanted = conditions::wanted_shards(plan, &verdict.shards);
            let progress = Progress::of(&wanted, &history, &self.fleet, now);
            let status = policy.0.as_ref().ok().map(|policy| as_json(&policy.status));
            Some((Target::of(policy.as_ref(), status), conditions::policy_wish(verdict, &progress)))
        };
        world.policies.iter().filter_map(wish).collect()
    }
}

/// What `BypassDetected` says; it stays while nothing better is known.
fn bypass_said_before(identity: &DeserializeGuard<AgentIdentity>) -> Option<(Reason, String)> {
    let status = identity.0.as_ref().ok().and_then(|identity| identity.status.as_ref())?;
    let is_it = |condition: &&crds::Condition| {
        condition.r#type == "BypassDetected" && condition.status == ConditionStatus::True
    };
    let said = status.conditions.iter().find(is_it)?;
    Some((Reason::of(&said.reason)?, said.message.clone()))
}

/// What the owner of an EKS target's role needs to know.
fn external_id(
    hub: &str,
    identity: &DeserializeGuard<AgentIdentity>,
    (namespace, name): &Key,
) -> Option<String> {
    let object = identity.0.as_ref().ok()?;
    let is_eks = object.spec.target.r#type == TargetType::Eks;
    is_eks.then(|| policy::agent::external_id(hub, namespace, name))
}

fn reach(identity: &DeserializeGuard<AgentIdentity>) -> Reach {
    let status = identity.0.as_ref().ok().and_then(|identity| identity.status.as_ref());
    let condition = status
        .into_iter()
        .flat_map(|status| &status.conditions)
        .find(|condition| condition.r#type == "TargetReachable")
        .map(|condition| condition.status);
    match condition {
        Some(ConditionStatus::True) => Reach::Reachable,
        Some(ConditionStatus::False) => Reach::Unreachable,
        Some(ConditionStatus::Unknown) | None => Reach::Unknown,
    }
}
