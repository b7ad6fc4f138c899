//! Grants: their conditions kept, and those that were finished long ago deleted.

use std::sync::Arc;
use std::time::Duration;

use crds::{AccessGrant, AgentIdentity};
use jiff::Timestamp;
use kube::core::DeserializeGuard;
use kube::{Client, ResourceExt as _};
use policy::approve::ReviewFacts;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::events::Events;
use crate::judge::{self, Judge};
use crate::mirror::{GRANT, Mirror};
use crate::retention;
use crate::status::StatusWriter;
use crate::telemetry::Metrics;
use crate::watch::Watched;

const GATHER: Duration = Duration::from_millis(10);
const RETRY: Duration = Duration::from_secs(1);
const IDLE: Duration = Duration::from_secs(300);

/// Keeps the grants' conditions, and deletes grants that were finished long ago.
pub struct GrantKeeper {
    client: Client,
    namespace: String,
    time_to_live: Option<Duration>,
    watched: Watched,
    judge: Option<Judge>,
    statuses: StatusWriter,
    events: Events,
}

impl GrantKeeper {
    /// Over what `watched` sees; without `time_to_live` finished grants stay.
    pub fn new(
        client: Client,
        namespace: &str,
        time_to_live: Option<Duration>,
        watched: Watched,
        metrics: Arc<Metrics>,
        events: Events,
    ) -> Self {
        let statuses = StatusWriter::new(client.clone(), GRANT, metrics);
        Self { client, namespace: namespace.to_owned(), time_to_live, watched, judge: None, statuses, events }
    }

    /// Keeps them until `stop`: after every change, and when the next deadline comes.
    pub async fn run(mut self, stop: CancellationToken) {
        let complete = stop.run_until_cancelled(self.watched.wait_until_complete()).await;
        if complete != Some(true) {
            return;
        }
        let mut wait = Duration::ZERO;
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.watched.grants_changed.notified() => tokio::time::sleep(GATHER).await,
                () = tokio::time::sleep_until(Instant::now() + wait) => {}
            }
            let Some(outcome) = stop.run_until_cancelled(self.pass()).await else { return };
            wait = match outcome {
                Ok(next) => next,
                Err(error) => {
                    tracing::warn!(%error, "grants not kept");
                    RETRY
                }
            };
        }
    }

    // How long until something changes by itself.
    async fn pass(&mut self) -> Result<Duration, kube::Error> {
        let now = Timestamp::now();
        match Judge::of(&judge::texts(&self.watched.shards.state()), self.judge.as_ref()) {
            Ok(judge) => self.judge = Some(judge),
            Err(error) => {
                tracing::warn!(%error, "live config does not read; grants are judged by the last that did")
            }
        }
        let Some(judge) = &self.judge else { return Ok(RETRY) };
        let identities = self.watched.identities.state();
        let outsiders = judge::outsiders(&self.namespace, identities.iter().map(Arc::as_ref));
        let facts = ReviewFacts { now, outsiders: &outsiders };
        let mut wishes = Vec::new();
        let mut finished = Vec::new();
        let mut next = None;
        for guarded in self.watched.grants.state() {
            let Ok(grant) = &guarded.0 else { continue };
            let mirror = Mirror::of(grant, judge, &facts, is_suspended(&identities, grant));
            next = next.into_iter().chain(mirror.next_change()).min();
            if let Some(at) = retention::due(grant, &mirror.standing, self.time_to_live) {
                next = next.into_iter().chain([at]).min();
                if at <= now {
                    finished.push(guarded.clone());
                }
            }
            wishes.push(mirror.wish(grant, &outsiders));
        }
        let turns = self.statuses.write(wishes, now).await?;
        self.events.of_grants(&turns).await;
        for guarded in finished {
            retention::delete(&self.client, guarded.as_ref()).await?;
        }
        Ok(next.map_or(IDLE, |next| until(next, now)).min(IDLE))
    }
}

fn until(next: Timestamp, now: Timestamp) -> Duration {
    // A little late, so that the deadline is over when we look.
    Duration::try_from(next.duration_since(now)).unwrap_or(Duration::ZERO) + Duration::from_millis(20)
}

fn is_suspended(identities: &[Arc<DeserializeGuard<AgentIdentity>>], grant: &AccessGrant) -> bool {
    identities.iter().any(|identity| {
        identity.namespace() == grant.namespace()
            && identity.name_any() == grant.spec.agent_ref.name
            && identity.0.as_ref().is_ok_and(|identity| identity.spec.suspend)
    })
}
