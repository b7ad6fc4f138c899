//! Which live config runs where: the bundles of the last while, and the proxies' Leases that name one of them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use kube::ResourceExt as _;
use tokio::time::Instant;

const REMEMBERED: usize = 64;

/// Shard name to `sha256:<hex>` of its text.
pub type Shards = BTreeMap<String, String>;

/// The bundles that were in force lately, as the proxies saw them go by: one for each event of the watched ConfigMaps.
#[derive(Default)]
pub struct History {
    current: Arc<Shards>,
    bundles: VecDeque<(String, Arc<Shards>)>,
}

impl History {
    /// Puts a set of shards in force; a set that is the current one changes nothing.
    pub fn record(&mut self, shards: Shards) {
        let bundle = policy::hash::bundle_hash(&shards);
        self.current = Arc::new(shards);
        if self.bundles.back().is_some_and(|(newest, _)| *newest == bundle) {
            return;
        }
        if self.bundles.len() == REMEMBERED {
            self.bundles.pop_front();
        }
        self.bundles.push_back((bundle, self.current.clone()));
    }

    /// The shards in force.
    pub fn current(&self) -> &Shards {
        &self.current
    }

    /// The shards of a bundle, if it was in force lately.
    fn bundle(&self, hash: &str) -> Option<&Shards> {
        self.bundles.iter().rev().find(|(bundle, _)| bundle == hash).map(|(_, shards)| &**shards)
    }
}

/// The proxies that are alive, by their Leases.
#[derive(Default)]
pub struct Fleet(BTreeMap<String, Seen>);

struct Seen {
    renewed: Option<Timestamp>,
    bundle: String,
    until: Instant,
}

impl Fleet {
    /// Takes in the Leases as they are now. A Lease that was seen to change is fresh for its duration from that moment, by our
    /// own clock; one seen for the first time is as old as it says.
    pub fn observe<'a>(
        &mut self,
        leases: impl IntoIterator<Item = &'a Lease>,
        wall: Timestamp,
        now: Instant,
    ) {
        let mut present = BTreeSet::new();
        for lease in leases {
            let name = lease.name_any();
            let spec = lease.spec.clone().unwrap_or_default();
            let renewed = spec.renew_time.map(|time| time.0);
            let lasts =
                Duration::from_secs(u64::try_from(spec.lease_duration_seconds.unwrap_or(0)).unwrap_or(0));
            let bundle = lease.annotations().get(crds::names::ANNOTATION_HASH).cloned().unwrap_or_default();
            let until = match self.0.get(&name) {
                Some(seen) if seen.renewed == renewed => seen.until,
                Some(_) => now + lasts,
                None => now + lasts.saturating_sub(age(renewed, wall)),
            };
            self.0.insert(name.clone(), Seen { renewed, bundle, until });
            present.insert(name);
        }
        self.0.retain(|name, _| present.contains(name));
    }

    /// The bundles that live proxies run, one entry a proxy.
    pub fn bundles(&self, now: Instant) -> Vec<&str> {
        self.0.values().filter(|seen| seen.until > now).map(|seen| seen.bundle.as_str()).collect()
    }

    /// When the next Lease runs out.
    pub fn next_end(&self, now: Instant) -> Option<Instant> {
        self.0.values().map(|seen| seen.until).filter(|until| *until > now).min()
    }
}

fn age(renewed: Option<Timestamp>, wall: Timestamp) -> Duration {
    renewed
        .and_then(|renewed| Duration::try_from(wall.duration_since(renewed)).ok())
        .unwrap_or(if renewed.is_some() { Duration::ZERO } else { Duration::MAX })
}

/// How far a set of shards has got.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// No proxy is alive.
    NoProxy,
    /// `running` of `proxies` live proxies have it.
    Running {
        /// Proxies that run it.
        running: usize,
        /// Live proxies.
        proxies: usize,
    },
}

impl Progress {
    /// Of the shards `wanted`, as they should be.
    pub fn of(wanted: &Shards, history: &History, fleet: &Fleet, now: Instant) -> Self {
        let bundles = fleet.bundles(now);
        if bundles.is_empty() {
            return Progress::NoProxy;
        }
        let holds = |bundle: &&&str| {
            history
                .bundle(bundle)
                .is_some_and(|shards| wanted.iter().all(|(name, hash)| shards.get(name) == Some(hash)))
        };
        Progress::Running { running: bundles.iter().filter(holds).count(), proxies: bundles.len() }
    }

    /// Every live proxy, and at least one, runs it.
    pub fn is_complete(&self) -> bool {
        match self {
            Progress::NoProxy => false,
            Progress::Running { running, proxies } => running == proxies,
        }
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::coordination::v1::LeaseSpec;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
    use kube::api::ObjectMeta;

    use super::*;

    fn shards(pairs: &[(&str, &str)]) -> Shards {
        pairs.iter().map(|(name, hash)| ((*name).to_owned(), (*hash).to_owned())).collect()
    }

    fn bundle(shards: &Shards) -> String {
        policy::hash::bundle_hash(shards)
    }

    fn lease(name: &str, renewed: Timestamp, bundle: &str) -> Lease {
        Lease {
            metadata: ObjectMeta {
                name: Some(name.into()),
                annotations: Some([(crds::names::ANNOTATION_HASH.to_owned(), bundle.to_owned())].into()),
                ..ObjectMeta::default()
            },
            spec: Some(LeaseSpec {
                lease_duration_seconds: Some(15),
                renew_time: Some(MicroTime(renewed)),
                ..LeaseSpec::default()
            }),
        }
    }

    #[test]
    fn other_objects_churn_does_not_flap_an_object() {
        let (wall, now) = (Timestamp::now(), Instant::now());
        let mut history = History::default();
        let first = shards(&[("mine", "1"), ("other", "1")]);
        history.record(first.clone());
        history.record(shards(&[("mine", "1"), ("other", "2")]));
        let mut fleet = Fleet::default();
        fleet.observe([&lease("p0", wall, &bundle(&first))], wall, now);
        let mine = Progress::of(&shards(&[("mine", "1")]), &history, &fleet, now);
        assert_eq!(mine, Progress::Running { running: 1, proxies: 1 });
        let other = Progress::of(&shards(&[("other", "2")]), &history, &fleet, now);
        assert_eq!(other, Progress::Running { running: 0, proxies: 1 });
    }

    #[test]
    fn one_proxy_that_lags_is_not_enough() {
        let (wall, now) = (Timestamp::now(), Instant::now());
        let (old, new) = (shards(&[("mine", "1")]), shards(&[("mine", "2")]));
        let mut history = History::default();
        history.record(old.clone());
        history.record(new.clone());
        let mut fleet = Fleet::default();
        fleet.observe([&lease("p0", wall, &bundle(&new)), &lease("p1", wall, &bundle(&old))], wall, now);
        assert!(!Progress::of(&new, &history, &fleet, now).is_complete());
        fleet.observe([&lease("p0", wall, &bundle(&new)), &lease("p1", wall, &bundle(&new))], wall, now);
        assert!(Progress::of(&new, &history, &fleet, now).is_complete());
    }

    #[test]
    fn an_unknown_bundle_counts_for_nothing() {
        let (wall, now) = (Timestamp::now(), Instant::now());
        let mine = shards(&[("mine", "1")]);
        let mut history = History::default();
        history.record(mine.clone());
        let mut fleet = Fleet::default();
        fleet.observe([&lease("p0", wall, "sha256:of-nothing-we-published")], wall, now);
        assert!(!Progress::of(&mine, &history, &fleet, now).is_complete());
    }

    #[test]
    fn a_silent_proxy_runs_out_and_a_renewing_one_lives_whatever_its_clock_says() {
        let (wall, now) = (Timestamp::now(), Instant::now());
        let second = Duration::from_secs(1);
        let mut fleet = Fleet::default();
        fleet.observe([&lease("old", wall - 60 * second, "b")], wall, now);
        assert!(fleet.bundles(now).is_empty(), "a lease left behind by a dead proxy is not alive");
        fleet.observe([&lease("old", wall - 55 * second, "b")], wall, now + 5 * second);
        assert_eq!(fleet.bundles(now + 5 * second), ["b"], "it renews, so it lives: its clock is behind");
        assert_eq!(fleet.next_end(now + 5 * second), Some(now + 20 * second));
        fleet.observe([&lease("old", wall - 55 * second, "b")], wall, now + 19 * second);
        assert!(fleet.bundles(now + 20 * second).is_empty());
        fleet.observe([], wall, now + 21 * second);
        assert_eq!(fleet.next_end(now + 21 * second), None);
    }
}
