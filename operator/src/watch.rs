//! Watching: the objects that matter, kept in memory, and a bell for every change.

use std::fmt::Debug;
use std::hash::Hash;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crds::{AccessGrant, AccessPolicy, AgentIdentity};
use futures::StreamExt as _;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::api::rbac::v1::{ClusterRole, Role};
use kube::core::DeserializeGuard;
use kube::runtime::reflector::store::Writer;
use kube::runtime::reflector::{Lookup, Store, store};
use kube::runtime::utils::Backoff;
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::bypass::{AwsAuth, Bindings};
use crate::programmed::{History, Shards};

/// What is watched. A kind of ours that an object does not decode as stays in its store with its metadata: one object
/// that this program does not understand must not hide the others (F21).
#[derive(Clone)]
pub struct Watched {
    /// Every AgentIdentity.
    pub identities: Store<DeserializeGuard<AgentIdentity>>,
    /// Every AccessPolicy.
    pub policies: Store<DeserializeGuard<AccessPolicy>>,
    /// Every AccessGrant.
    pub grants: Store<DeserializeGuard<AccessGrant>>,
    /// The published live config.
    pub shards: Store<ConfigMap>,
    /// The proxies' Leases.
    pub leases: Store<Lease>,
    /// The one ClusterRole that says whom the proxy may become.
    pub boundary: Store<ClusterRole>,
    /// The bindings that may lead past the gate. Nothing waits for them.
    pub bindings: Bindings,
    /// Whom ConfigMap `aws-auth` lets in, where that is looked at. Nothing waits for it.
    pub aws_auth: Option<AwsAuth>,
    /// The Roles that say which tokens the proxy may read, one in each namespace that has some.
    pub tokens: Store<Role>,
    /// The bundles that went by.
    pub history: Arc<Mutex<History>>,
    /// Rings when an identity, a policy, a shard or the boundary changed.
    pub config_changed: Arc<Notify>,
    /// Rings when a proxy's Lease changed.
    pub leases_changed: Arc<Notify>,
    /// Rings when something changed that decides grants.
    pub grants_changed: Arc<Notify>,
}

impl Watched {
    /// Starts every watch as a task of `tasks`; they end with `stop`. `detect_bypass`: `aws-auth` too.
    pub fn start(
        client: &Client,
        namespace: &str,
        detect_bypass: bool,
        stop: &CancellationToken,
        tasks: &TaskTracker,
    ) -> Self {
        let config_changed = Arc::new(Notify::new());
        let leases_changed = Arc::new(Notify::new());
        let grants_changed = Arc::new(Notify::new());
        let history = Arc::new(Mutex::new(History::default()));
        let begin = Begin { stop, tasks };
        let bindings = Bindings::default();
        let following = bindings.clone().follow(client.clone(), config_changed.clone());
        tasks.spawn(stop.clone().run_until_cancelled_owned(following));
        let aws_auth = detect_bypass.then(AwsAuth::default);
        if let Some(aws_auth) = aws_auth.clone() {
            let following = aws_auth.follow(client.clone(), config_changed.clone());
            tasks.spawn(stop.clone().run_until_cancelled_owned(following));
        }
        let config_only = [config_changed.clone()];
        let both = [config_changed.clone(), grants_changed.clone()];
        let every = watcher::Config::default();
        let labelled = |key: &str| watcher::Config::default().labels(key);
        let proxies = format!("{}={}", crds::names::LABEL_COMPONENT, crds::names::COMPONENT_PROXY);
        let role = format!("metadata.name={}", crds::names::IMPERSONATOR_CLUSTER_ROLE);
        let tokens = format!("metadata.name={}", crds::names::TOKENS_ROLE);
        let record = {
            let history = history.clone();
            move |store: &Store<ConfigMap>| lock(&history).record(shards_of(store))
        };
        Self {
            identities: begin.watch(Api::all(client.clone()), every.clone(), both.clone(), |_| {}),
            policies: begin.watch(Api::all(client.clone()), every.clone(), both.clone(), |_| {}),
            grants: begin.watch(Api::all(client.clone()), every, [grants_changed.clone()], |_| {}),
            shards: begin.watch(
                Api::namespaced(client.clone(), namespace),
                labelled(crds::names::LABEL_SHARD),
                both,
                record,
            ),
            leases: begin.watch(
                Api::namespaced(client.clone(), namespace),
                labelled(&proxies),
                [leases_changed.clone()],
                |_| {},
            ),
            boundary: begin.watch(
                Api::all(client.clone()),
                watcher::Config::default().fields(&role),
                config_only.clone(),
                |_| {},
            ),
            tokens: begin.watch(
                Api::all(client.clone()),
                watcher::Config::default().fields(&tokens),
                config_only,
                |_| {},
            ),
            bindings,
            aws_auth,
            history,
            config_changed,
            leases_changed,
            grants_changed,
        }
    }

    /// Waits until every kind was listed once: nothing may be concluded from a part of the world. False: a watch ended.
    pub async fn wait_until_complete(&self) -> bool {
        let ready = tokio::try_join!(
            self.identities.wait_until_ready(),
            self.policies.wait_until_ready(),
            self.grants.wait_until_ready(),
            self.shards.wait_until_ready(),
            self.leases.wait_until_ready(),
            self.boundary.wait_until_ready(),
            self.tokens.wait_until_ready(),
        );
        ready.is_ok()
    }
}

/// Takes a lock whose holder cannot have left half a change behind.
pub fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn shards_of(store: &Store<ConfigMap>) -> Shards {
    let hash =
        |map: &ConfigMap| map.annotations().get(crds::names::ANNOTATION_HASH).cloned().unwrap_or_default();
    store.state().iter().map(|map| (map.name_any(), hash(map))).collect()
}

struct Begin<'a> {
    stop: &'a CancellationToken,
    tasks: &'a TaskTracker,
}

impl Begin<'_> {
    fn watch<K, const N: usize>(
        &self,
        api: Api<K>,
        config: watcher::Config,
        bells: [Arc<Notify>; N],
        after: impl Fn(&Store<K>) + Send + 'static,
    ) -> Store<K>
    where
        K: Resource + Lookup + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
        <K as Resource>::DynamicType: Default + Eq + Hash + Clone,
        <K as Lookup>::DynamicType: Default + Eq + Hash + Clone + Send + Sync,
    {
        let (reader, writer) = store();
        let watching = follow(api, config, writer, bells, after);
        self.tasks.spawn(self.stop.clone().run_until_cancelled_owned(watching));
        reader
    }
}

async fn follow<K, const N: usize>(
    api: Api<K>,
    config: watcher::Config,
    mut writer: Writer<K>,
    bells: [Arc<Notify>; N],
    after: impl Fn(&Store<K>),
) where
    K: Resource + Lookup + Clone + Debug + DeserializeOwned + Send + 'static,
    <K as Resource>::DynamicType: Default,
    <K as Lookup>::DynamicType: Eq + Hash + Clone,
{
    let reader = writer.as_reader();
    let mut events = pin!(watcher(api, config).backoff(Pace::default()));
    while let Some(event) = events.next().await {
        let mut event = match event {
            Ok(event) => event,
            Err(error) => {
                tracing::warn!(%error, kind = %<K as Resource>::kind(&Default::default()), "watch interrupted");
                continue;
            }
        };
        let complete = !matches!(event, watcher::Event::Init | watcher::Event::InitApply(_));
        event = event.modify(|object| object.meta_mut().managed_fields = None);
        writer.apply_watcher_event(&event);
        if complete {
            after(&reader);
            bells.iter().for_each(|bell| bell.notify_one());
        }
    }
}

/// How long an interrupted watch waits: half a second, then twice as long each time, four seconds at most. A watch that is
/// behind means conditions that are behind, so it is shorter than usual.
pub(crate) struct Pace(Duration);

impl Pace {
    const FIRST: Duration = Duration::from_millis(500);
    const LONGEST: Duration = Duration::from_secs(4);
}

impl Default for Pace {
    fn default() -> Self {
        Self(Self::FIRST)
    }
}

impl Iterator for Pace {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let wait = self.0;
        self.0 = (wait * 2).min(Self::LONGEST);
        Some(wait)
    }
}

impl Backoff for Pace {
    fn reset(&mut self) {
        *self = Self::default();
    }
}
