//! What the API server says now: the bundle in force, the kill switch, the certificate. Everything else reads it.
mod access_entries;
mod binding_key;
mod certificate;
mod identities;
mod lease;
mod patience;
mod probe;
mod shards;
mod wall;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use parsing::digest::BindingKey;
use policy::bundle::Bundle;
use thiserror::Error;
use tokio::sync::watch;
use tokio::time::Instant;

pub use access_entries::follow as follow_access_entries;
pub use access_entries::{Look, Seen};
pub use binding_key::follow as follow_binding_key;
pub use certificate::Certificate;
pub use certificate::follow as follow_certificate;
pub use identities::follow as follow_identities;
pub use identities::{AgentKey, Identities, Identity};
pub use lease::renew as renew_lease;
pub use patience::Patience;
pub use probe::follow as probe_targets;
pub use shards::follow as follow_shards;
pub use wall::follow as follow_wall;

/// The longest that a bundle is not reported because an agent of it is not known yet.
const CATCH_UP: Duration = Duration::from_secs(10);
const WALL_UNSEEN: &str = "the admission policies around approvals were not seen yet";
/// A proxy that cannot see the API server keeps its bundle this long, then refuses all (F21).
const BLIND_AT_MOST: Duration = Duration::from_secs(600);

/// The live facts. Cloning shares them.
#[derive(Clone)]
pub struct Live {
    inner: Arc<Inner>,
}

struct Inner {
    bundle: ArcSwapOption<Bundle>,
    identities: ArcSwapOption<Identities>,
    certificate: Arc<Certificate>,
    binding_key: ArcSwapOption<BindingKey>,
    breach: ArcSwapOption<Arc<str>>,
    wall_seen: AtomicBool,
    bundle_since: ArcSwap<Instant>,
    seen: ArcSwap<Instant>,
    recorder_fails: ArcSwapOption<String>,
    changes: watch::Sender<u64>,
}

/// Why nothing can be decided: 503 for every request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum NotLive {
    /// No shard was ever read.
    #[error("no live configuration was received yet")]
    NoBundle,
    /// The kill switches cannot be seen.
    #[error("the agent identities were not read yet")]
    NoIdentities,
    /// F21.
    #[error("the API server was not seen for ten minutes")]
    Blind,
}

/// What the identities' own watch says of an agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It exists and is not suspended.
    Good,
    /// The kill switch is on.
    Suspended,
    /// It was deleted, or replaced by another of the same name.
    Gone,
}

impl Live {
    /// Knows nothing yet: everything is refused.
    pub fn new() -> Self {
        let inner = Inner {
            bundle: ArcSwapOption::empty(),
            identities: ArcSwapOption::empty(),
            certificate: Arc::default(),
            binding_key: ArcSwapOption::empty(),
            breach: ArcSwapOption::from_pointee(Arc::<str>::from(WALL_UNSEEN)),
            wall_seen: AtomicBool::new(false),
            bundle_since: ArcSwap::from_pointee(Instant::now()),
            seen: ArcSwap::from_pointee(Instant::now()),
            recorder_fails: ArcSwapOption::empty(),
            changes: watch::Sender::new(0),
        };
        Self { inner: Arc::new(inner) }
    }

    /// The bundle in force.
    ///
    /// # Errors
    /// If there is none, or what is there is too old to be trusted.
    pub fn bundle(&self) -> Result<Arc<Bundle>, NotLive> {
        let bundle = self.inner.bundle.load_full().ok_or(NotLive::NoBundle)?;
        if self.inner.identities.load().is_none() {
            return Err(NotLive::NoIdentities);
        }
        if self.inner.seen.load().elapsed() > BLIND_AT_MOST {
            return Err(NotLive::Blind);
        }
        Ok(bundle)
    }

    /// The latest bundle, however old: what the next one is built on. Decisions take [`Live::bundle`].
    pub fn latest_bundle(&self) -> Option<Arc<Bundle>> {
        self.inner.bundle.load_full()
    }

    /// How the identity with this uid stands.
    pub fn standing(&self, agent: &AgentKey, uid: &str) -> Standing {
        let identities = self.inner.identities.load();
        match identities.as_ref().and_then(|all| all.get(agent)) {
            Some(identity) if identity.uid != uid => Standing::Gone,
            Some(identity) if identity.suspended => Standing::Suspended,
            Some(_) => Standing::Good,
            None => Standing::Gone,
        }
    }

    /// Every identity as last seen.
    pub fn identities(&self) -> Option<Arc<Identities>> {
        self.inner.identities.load_full()
    }

    /// The serving certificate.
    pub fn certificate(&self) -> Arc<Certificate> {
        Arc::clone(&self.inner.certificate)
    }

    /// The key that approvals are bound with.
    pub fn binding_key(&self) -> Option<Arc<BindingKey>> {
        self.inner.binding_key.load_full()
    }

    /// Puts a key in force.
    pub fn binding_key_is(&self, key: BindingKey) {
        self.inner.binding_key.store(Some(Arc::new(key)));
    }

    /// What is wrong with the admission policies around approvals; while something is, no approval counts (F19).
    pub fn breach(&self) -> Option<Arc<str>> {
        self.inner.breach.load().as_deref().cloned()
    }

    /// Notes what is wrong with the admission policies, if anything is.
    pub fn breach_is(&self, breach: Option<Arc<str>>) {
        self.inner.breach.store(breach.map(Arc::new));
        self.inner.wall_seen.store(true, Ordering::Relaxed);
        self.changed();
    }

    /// Tells of every change of bundle, identities or grants; the number only grows.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.inner.changes.subscribe()
    }

    /// Why the replica is not ready; `None` when it is.
    pub fn unready(&self) -> Option<String> {
        if !self.inner.certificate.is_present() {
            return Some("no serving certificate was received yet".to_owned());
        }
        if let Some(why) = &*self.inner.recorder_fails.load() {
            return Some(format!("recordings cannot be written: {why}"));
        }
        if self.inner.binding_key.load().is_none() {
            return Some("the key that approvals are bound with was not received yet".to_owned());
        }
        if !self.inner.wall_seen.load(Ordering::Relaxed) {
            return Some(WALL_UNSEEN.to_owned());
        }
        self.bundle().err().map(|error| error.to_string())
    }

    /// Hash of the bundle in force, if the replica is ready.
    pub fn hash_when_ready(&self) -> Option<String> {
        match self.unready() {
            None => {
                self.bundle().ok().filter(|bundle| self.knows(bundle)).map(|bundle| bundle.hash().to_owned())
            }
            Some(_) => None,
        }
    }

    /// Whether the identities' own watch has caught up with the bundle: before that its agents would be strangers. An
    /// identity that is gone while its shard is still there holds nothing up for long.
    fn knows(&self, bundle: &Bundle) -> bool {
        let known = |agent: &Arc<policy::agent::Agent>| {
            let key = AgentKey::new(agent.namespace(), agent.name());
            self.standing(&key, agent.uid()) != Standing::Gone
        };
        self.inner.bundle_since.load().elapsed() > CATCH_UP || bundle.agents().all(known)
    }

    /// Notes that the API server answered.
    pub fn api_server_seen(&self) {
        self.inner.seen.store(Arc::new(Instant::now()));
    }

    /// Notes why nothing can be recorded, if nothing can.
    pub fn recorder_says(&self, why: Option<String>) {
        self.inner.recorder_fails.store(why.map(Arc::new));
    }

    /// Puts a bundle in force.
    pub fn bundle_is(&self, bundle: Bundle) {
        self.inner.bundle_since.store(Arc::new(Instant::now()));
        self.inner.bundle.store(Some(Arc::new(bundle)));
        self.changed();
    }

    /// Puts the identities in force.
    pub fn identities_are(&self, identities: Identities) {
        let before = self.inner.identities.load();
        if before.as_deref() == Some(&identities) {
            return;
        }
        self.inner.identities.store(Some(Arc::new(identities)));
        self.changed();
    }

    /// Wakes everything that watches for changes.
    pub fn changed(&self) {
        self.inner.changes.send_modify(|count| *count = count.wrapping_add(1));
    }
}

impl Default for Live {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// The agent of [`with_agent`].
    pub(crate) fn agent() -> Arc<policy::agent::Agent> {
        let bundle = with_agent().latest_bundle().expect("in force");
        Arc::clone(bundle.agent("agents", "a").expect("its agent"))
    }

    fn identity(uid: &str, suspended: bool) -> Identity {
        Identity { uid: uid.to_owned(), generation: 1, suspended, ..Identity::default() }
    }

    #[test]
    fn the_identities_watch_is_the_kill_switch() {
        let (live, key) = (Live::new(), AgentKey::new("agents", "a"));
        assert_eq!(live.standing(&key, "1"), Standing::Gone, "nothing is known");
        live.identities_are(Identities::from([(key.clone(), identity("1", false))]));
        assert_eq!(live.standing(&key, "1"), Standing::Good);
        assert_eq!(live.standing(&key, "2"), Standing::Gone, "another object of the same name");
        live.identities_are(Identities::from([(key.clone(), identity("1", true))]));
        assert_eq!(live.standing(&key, "1"), Standing::Suspended);
    }

    fn in_force() -> Live {
        let shard = policy::shard::Shard { format_version: 1, identity: None, policies: Vec::new() };
        let text = shard.encode().expect("encodes");
        let texts = [(policy::shard::GUARDRAILS_NAME.to_owned(), text)].into();
        let live = Live::new();
        live.bundle_is(Bundle::load(&texts, None).expect("loads"));
        live
    }

    fn with_agent() -> Live {
        let spec = serde_json::from_value(serde_json::json!({
            "target": {"type": "InCluster"},
            "subjects": [{"name": "in-cluster", "type": "ServiceAccount",
                          "serviceAccount": {"namespace": "agents", "name": "a"}}],
        }));
        let labels = std::collections::BTreeMap::new();
        let spec = spec.expect("is a spec");
        let identity =
            policy::shard::ShardIdentity::new("agents", "a", "1", 1, labels, spec).expect("is right");
        let agent =
            policy::shard::Shard { format_version: 1, identity: Some(identity), policies: Vec::new() };
        let guardrails = policy::shard::Shard { format_version: 1, identity: None, policies: Vec::new() };
        let texts = [
            (policy::shard::GUARDRAILS_NAME.to_owned(), guardrails.encode().expect("encodes")),
            (policy::shard::agent_shard_name("agents", "a"), agent.encode().expect("encodes")),
        ];
        let live = Live::new();
        live.bundle_is(Bundle::load(&texts.into(), None).expect("loads"));
        live
    }

    #[tokio::test(start_paused = true)]
    async fn a_bundle_is_reported_only_when_its_agents_are_no_strangers() {
        let (live, key) = (with_agent(), AgentKey::new("agents", "a"));
        let reported = || live.bundle().is_ok_and(|bundle| live.knows(&bundle));
        live.identities_are(Identities::new());
        assert!(!reported(), "the identities' watch is behind: the agent would get a 401");
        live.identities_are(Identities::from([(key.clone(), identity("0", false))]));
        assert!(!reported(), "what it knows is an older object of the same name");
        live.identities_are(Identities::from([(key.clone(), identity("1", true))]));
        assert!(reported(), "suspended is not strange");
        live.identities_are(Identities::new());
        tokio::time::advance(CATCH_UP + Duration::from_millis(1)).await;
        assert!(reported(), "an identity that is gone while its shard stays holds nothing up for long");
    }

    #[test]
    fn without_the_identities_nothing_is_decided() {
        let live = in_force();
        assert_eq!(live.bundle().err(), Some(NotLive::NoIdentities));
        live.identities_are(Identities::new());
        assert!(live.bundle().is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn f21_a_blind_proxy_keeps_its_bundle_ten_minutes_and_then_refuses_all() {
        let live = in_force();
        live.identities_are(Identities::new());
        tokio::time::advance(Duration::from_secs(599)).await;
        assert!(live.bundle().is_ok());
        tokio::time::advance(Duration::from_secs(2)).await;
        assert_eq!(live.bundle().err(), Some(NotLive::Blind));
        live.api_server_seen();
        assert!(live.bundle().is_ok());
    }

    #[test]
    fn without_a_bundle_nothing_is_decided() {
        let live = Live::new();
        assert_eq!(live.bundle().err(), Some(NotLive::NoBundle));
        assert!(live.unready().is_some());
        assert!(live.hash_when_ready().is_none());
    }
}
