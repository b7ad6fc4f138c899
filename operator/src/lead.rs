//! Leading: one operator at a time reconciles, by a Lease that it keeps renewing.

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
}

impl Claim {
    /// A claim of `replica` to the Lease in `namespace`, for `duration` at a time.
    pub fn new(client: Client, namespace: &str, replica: String, duration: Duration) -> Self {
        let api = Api::namespaced(client, namespace);
        Self { api, namespace: namespace.to_owned(), replica, duration, seen: None }
    }

    /// Waits until this replica holds the Lease. False: `stop` came first.
    pub async fn acquire(&mut self, stop: &CancellationToken) -> bool {
        loop {
            match self.attempt().await {
                Ok(Attempt::Held) => return true,
                Ok(Attempt::Elsewhere) => {}
                Err(error) => {
                    tracing::warn!(%error, namespace = self.namespace, "operator lease not reachable")
                }
            }
            tokio::select! {
                () = stop.cancelled() => return false,
                () = tokio::time::sleep(self.pace()) => {}
            }
        }
    }

    /// Renews until `stop` (then gives the Lease back: true) or until the Lease is lost (false).
    pub async fn hold(&mut self, stop: &CancellationToken) -> bool {
        let mut renewed = Instant::now();
        loop {
            tokio::select! {
                () = stop.cancelled() => {
                    self.release().await;
                    return true;
                }
                () = tokio::time::sleep(self.pace()) => {}
            }
            match tokio::time::timeout(self.pace(), self.attempt()).await {
                Ok(Ok(Attempt::Held)) => renewed = Instant::now(),
                Ok(Ok(Attempt::Elsewhere)) => return false,
                Ok(Err(error)) => tracing::warn!(%error, "operator lease not renewed"),
                Err(_) => tracing::warn!("operator lease not renewed in time"),
            }
            // Stop before another replica may start.
            if renewed.elapsed() + self.pace() >= self.duration {
                return false;
            }
        }
    }

    fn pace(&self) -> Duration {
        self.duration / 5
    }

    async fn attempt(&mut self) -> Result<Attempt, kube::Error> {
        let Some(lease) = self.api.get_opt(LEASE).await? else {
            return settled(self.api.create(&PostParams::default(), &self.lease(None, true)).await);
        };
        if self.is_foreign(&lease) {
            return Ok(Attempt::Elsewhere);
        }
        settled(self.api.replace(LEASE, &PostParams::default(), &self.lease(Some(&lease), true)).await)
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

    async fn release(&self) {
        let Ok(Some(lease)) = self.api.get_opt(LEASE).await else { return };
        let mine =
            lease.spec.as_ref().and_then(|spec| spec.holder_identity.as_deref()) == Some(&self.replica);
        if mine {
            let given_back = self.lease(Some(&lease), false);
            if let Err(error) = self.api.replace(LEASE, &PostParams::default(), &given_back).await {
                tracing::warn!(%error, "operator lease not given back");
            }
        }
    }

    fn lease(&self, before: Option<&Lease>, held: bool) -> Lease {
        let metadata = before.map_or_else(
            || ObjectMeta { name: Some(LEASE.to_owned()), ..ObjectMeta::default() },
            |lease| lease.metadata.clone(),
        );
        let spec = LeaseSpec {
            holder_identity: Some(if held { self.replica.clone() } else { String::new() }),
            lease_duration_seconds: i32::try_from(self.duration.as_secs()).ok(),
            renew_time: Some(MicroTime(Timestamp::now())),
            ..LeaseSpec::default()
        };
        Lease { metadata, spec: Some(spec) }
    }
}

fn settled(written: Result<Lease, kube::Error>) -> Result<Attempt, kube::Error> {
    match written {
        Ok(_) => Ok(Attempt::Held),
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(Attempt::Elsewhere),
        Err(error) => Err(error),
    }
}
