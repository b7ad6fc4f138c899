//! Leading: one operator at a time reconciles, publishes and writes, by a Lease that it keeps renewing (F17).

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Client};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Name of the operator's Lease.
pub const LEASE: &str = crds::names::OPERATOR_SERVICE_ACCOUNT;

// One that waits asks more often than one that holds renews: a Lease that was given back is taken at once.
const MOST_IDLE: Duration = Duration::from_secs(1);

/// The Lease went to another replica, or could not be renewed for so long that it may have.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Lost {
    /// Another replica holds it.
    #[error("another replica holds it")]
    Taken,
    /// It was not renewed in time.
    #[error("it was not renewed for {0:?}")]
    NotRenewed(Duration),
}

/// One replica's claim to the Lease.
pub struct Claim {
    api: Api<Lease>,
    namespace: String,
    replica: String,
    duration: Duration,
    seen: Option<Seen>,
}

// The Lease as it last changed, by our own clock: a holder's clock is not trusted.
struct Seen {
    holder: String,
    renewed: Option<MicroTime>,
    at: Instant,
}

enum Attempt {
    Held,
    Elsewhere,
    // Written by somebody between our look and our write; perhaps by ourselves, in an attempt that we gave up.
    Contended,
}

impl Claim {
    /// A claim of `replica` to the Lease in `namespace`, for `duration` at a time.
    pub fn new(client: Client, namespace: &str, replica: String, duration: Duration) -> Self {
        let api = Api::namespaced(client, namespace);
        Self { api, namespace: namespace.to_owned(), replica, duration, seen: None }
    }

    /// Waits until this replica holds the Lease; returns since when at the earliest. None: `stop` came first.
    pub async fn acquire(&mut self, stop: &CancellationToken) -> Option<Instant> {
        loop {
            let asked = Instant::now();
            match tokio::time::timeout(self.pace(), self.attempt()).await {
                Ok(Ok(Attempt::Held)) => return Some(asked),
                Ok(Ok(Attempt::Elsewhere | Attempt::Contended)) => {}
                Ok(Err(error)) => {
                    tracing::warn!(%error, namespace = self.namespace, "operator lease not reachable")
                }
                Err(_) => tracing::warn!(namespace = self.namespace, "operator lease not reachable in time"),
            }
            tokio::select! {
                () = stop.cancelled() => return None,
                () = tokio::time::sleep(self.pace().min(MOST_IDLE)) => {}
            }
        }
    }

    /// Renews a Lease that was acquired at `renewed`, until `stop`. Whoever holds still has to [`Claim::release`].
    ///
    /// # Errors
    /// The Lease is lost: nothing may be written any more. Said before another replica may take over.
    pub async fn hold(&mut self, mut renewed: Instant, stop: &CancellationToken) -> Result<(), Lost> {
        loop {
            let end = renewed + self.duration - self.pace();
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = tokio::time::sleep(self.pace()) => {}
            }
            let asked = Instant::now();
            match tokio::time::timeout_at(end.min(asked + self.pace()), self.attempt()).await {
                Ok(Ok(Attempt::Held)) => renewed = asked,
                Ok(Ok(Attempt::Elsewhere)) => return Err(Lost::Taken),
                Ok(Ok(Attempt::Contended)) => {}
                Ok(Err(error)) => tracing::warn!(%error, "operator lease not renewed"),
                Err(_) => tracing::warn!("operator lease not renewed in time"),
            }
            if Instant::now() + self.pace() >= renewed + self.duration {
                return Err(Lost::NotRenewed(renewed.elapsed()));
            }
        }
    }

    fn pace(&self) -> Duration {
        self.duration / 5
    }

    async fn attempt(&mut self) -> Result<Attempt, kube::Error> {
        let Some(lease) = self.api.get_opt(LEASE).await? else {
            return settled(self.api.create(&PostParams::default(), &self.lease(None)).await);
        };
        if self.is_foreign(&lease) {
            return Ok(Attempt::Elsewhere);
        }
        settled(self.api.replace(LEASE, &PostParams::default(), &self.lease(Some(&lease))).await)
    }

    // Held by another replica that was heard of within its duration.
    fn is_foreign(&mut self, lease: &Lease) -> bool {
        let spec = lease.spec.clone().unwrap_or_default();
        let holder = spec.holder_identity.unwrap_or_default();
        if holder.is_empty() || holder == self.replica {
            return false;
        }
        let changed =
            self.seen.as_ref().is_none_or(|seen| seen.holder != holder || seen.renewed != spec.renew_time);
        if changed {
            self.seen = Some(Seen { holder, renewed: spec.renew_time, at: Instant::now() });
        }
        let lasts =
            Duration::from_secs(u64::try_from(spec.lease_duration_seconds.unwrap_or(15)).unwrap_or(15));
        self.seen.as_ref().is_some_and(|seen| seen.at.elapsed() < lasts)
    }

    /// Gives the Lease back, so that another replica leads at once. Only when all work has ended.
    pub async fn release(&self) {
        let Ok(Ok(Some(lease))) = tokio::time::timeout(self.pace(), self.api.get_opt(LEASE)).await else {
            return;
        };
        let mine =
            lease.spec.as_ref().and_then(|spec| spec.holder_identity.as_deref()) == Some(&self.replica);
        if !mine {
            return;
        }
        let mut given_back = self.lease(Some(&lease));
        given_back.spec.get_or_insert_default().holder_identity = Some(String::new());
        let params = PostParams::default();
        let written = self.api.replace(LEASE, &params, &given_back);
        match tokio::time::timeout(self.pace(), written).await {
            Ok(Ok(_)) => tracing::info!("operator lease given back"),
            Ok(Err(error)) => tracing::warn!(%error, "operator lease not given back"),
            Err(_) => tracing::warn!("operator lease not given back in time"),
        }
    }

    // The Lease as this replica holds it.
    fn lease(&self, before: Option<&Lease>) -> Lease {
        let metadata = before.map_or_else(
            || ObjectMeta { name: Some(LEASE.to_owned()), ..ObjectMeta::default() },
            |lease| lease.metadata.clone(),
        );
        let old = before.and_then(|lease| lease.spec.clone()).unwrap_or_default();
        let now = MicroTime(Timestamp::now());
        let is_ours = old.holder_identity.as_deref() == Some(&self.replica);
        let changes = old.lease_transitions.unwrap_or(0);
        let spec = LeaseSpec {
            holder_identity: Some(self.replica.clone()),
            lease_duration_seconds: i32::try_from(self.duration.as_secs()).ok(),
            acquire_time: if is_ours { old.acquire_time } else { Some(now.clone()) },
            lease_transitions: Some(if is_ours || before.is_none() {
                changes
            } else {
                changes.saturating_add(1)
            }),
            renew_time: Some(now),
            ..LeaseSpec::default()
        };
        Lease { metadata, spec: Some(spec) }
    }
}

fn settled(written: Result<Lease, kube::Error>) -> Result<Attempt, kube::Error> {
    match written {
        Ok(_) => Ok(Attempt::Held),
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(Attempt::Contended),
        Err(error) => Err(error),
    }
}
