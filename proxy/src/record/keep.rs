//! One SessionRecord while its session runs: its status now and then, and its end.
use std::sync::Arc;
use std::time::{Duration, Instant};

use crds::session_record::{SessionRecord, SessionRecordStatus};
use jiff::Timestamp;
use recording::event::EndReason;

use super::card::{self, Cards};
use super::chain::Chain;
use super::status::{Entry, is_ended, write_entry};

/// How one record is kept.
pub struct Keeper {
    /// The chain of this replica.
    pub chain: Arc<Chain>,
    /// Where the record is.
    pub cards: Arc<dyn Cards>,
    /// Folder of the session in the store.
    pub uri: String,
    /// Between the first request and the first status.
    pub first_status: Duration,
    /// Between two of them.
    pub status_every: Duration,
}

const RETRY: Duration = Duration::from_secs(2);

impl Keeper {
    /// Keeps the record until the chain is closed and the record says so. Calls `left` when the chain takes no more
    /// requests.
    pub async fn run(self, left: impl FnOnce()) {
        let reason = self.serve().await;
        self.chain.stop(reason);
        left();
        let ended = self.say_ended(reason).await;
        while self.chain.in_use() > 0 {
            self.chain.stir.notified().await;
        }
        self.chain.finish(reason);
        if !ended {
            tracing::warn!(session = self.chain.id.session, "the session's end could not be told yet");
        }
        self.until_closed(reason).await;
        while let Err(error) = self.write(Some(reason)).await {
            tracing::warn!(%error, session = self.chain.id.session, "the session record cannot be written");
            tokio::time::sleep(RETRY).await;
        }
    }

    /// Until the final seal is in the store; the record tells of trouble meanwhile.
    async fn until_closed(&self, reason: EndReason) {
        let mut closed = std::pin::pin!(self.chain.closed());
        loop {
            tokio::select! {
                () = &mut closed => return,
                () = self.chain.stir.notified() => {}
            }
            if self.chain.has_turned()
                && let Err(error) = self.write(Some(reason)).await
            {
                tracing::warn!(%error, session = self.chain.id.session, "the session record cannot be written");
                tokio::time::sleep(RETRY).await;
                self.chain.stir.notify_one();
            }
        }
    }

    /// Until there is a reason to end.
    async fn serve(&self) -> EndReason {
        let mut status_at = Instant::now() + self.first_status;
        let patient_until = Instant::now() + 5 * self.first_status;
        let mut not_before = Instant::now();
        let mut turn_at = Instant::now();
        loop {
            if let Some(reason) = self.chain.ending() {
                return reason;
            }
            let now = Instant::now();
            if now >= self.chain.longest_at {
                return EndReason::MaxDuration;
            }
            let idle_at =
                self.chain.idle_since().map(|since| (since + self.chain.facts.idle).max(not_before));
            if idle_at.is_some_and(|at| now >= at) {
                match self.others_idle_in().await {
                    None => return EndReason::IdleTimeout,
                    Some(wait) => not_before = Instant::now() + wait,
                }
                continue;
            }
            // Trouble with the store, and its end, are told at once.
            let turned = self.chain.has_turned();
            let due = turned || self.chain.is_fresh();
            let due_at = if turned { turn_at.min(status_at) } else { status_at };
            if due && now >= due_at {
                // The first status waits a little for the first segment: the next one is far away.
                if !turned && now < patient_until && !self.chain.has_stored() {
                    status_at = now + self.first_status;
                    continue;
                }
                match self.write(None).await {
                    Ok(Some(reason)) => return reason,
                    Ok(None) => status_at = Instant::now() + self.status_every,
                    Err(error) => {
                        tracing::warn!(%error, session = self.chain.id.session, "the session record cannot be written");
                        status_at = Instant::now() + self.status_every.min(RETRY);
                    }
                }
                turn_at = Instant::now() + self.status_every.min(RETRY);
                continue;
            }
            let alarm =
                [idle_at, due.then_some(due_at), Some(self.chain.longest_at)].into_iter().flatten().min();
            // While requests are in flight nobody tells when they end: look again.
            let alarm = alarm.unwrap_or(now).min(now + self.chain.facts.idle);
            tokio::select! {
                () = tokio::time::sleep_until(alarm.into()) => {}
                () = self.chain.stir.notified() => {}
            }
        }
    }

    /// How long to wait for other replicas that were busy lately; `None` if all are idle or the session has ended.
    async fn others_idle_in(&self) -> Option<Duration> {
        let id = &self.chain.id;
        let record = match self.cards.get(&id.namespace, &id.session).await {
            Ok(Some(record)) => record,
            Ok(None) => return None,
            Err(_) => return Some(RETRY),
        };
        let status = record.status.unwrap_or_default();
        if is_ended(&status) {
            return None;
        }
        let now = Timestamp::now();
        let others = status.replicas.iter().filter(|replica| replica.name != id.replica && !replica.closed);
        let last =
            others.filter_map(|replica| replica.last_activity_time.as_ref()).map(|time| time.0).max()?;
        let idle = now.duration_since(last).unsigned_abs();
        (self.chain.facts.idle + super::STATUS_LAG).checked_sub(idle).filter(|wait| !wait.is_zero())
    }

    /// Says in the record that the session has ended, before the last bytes are in the store, so that nobody joins it.
    async fn say_ended(&self, reason: EndReason) -> bool {
        match self.write(Some(reason)).await {
            Ok(_) => true,
            Err(error) => {
                tracing::warn!(%error, session = self.chain.id.session, "the session record cannot be written");
                false
            }
        }
    }

    /// Writes this replica's entry, and the end if there is one. Returns the reason if the session has ended.
    async fn write(&self, ending: Option<EndReason>) -> Result<Option<EndReason>, card::CardError> {
        let (tally, stored, trouble) = self.chain.look();
        let id = &self.chain.id;
        let entry = Entry {
            replica: id.replica.clone(),
            tally,
            uri: self.uri.clone(),
            segments: stored.segments,
            root: stored.root,
            bytes: stored.bytes,
            closed: stored.closed,
            trouble,
        };
        let now = Timestamp::now();
        let change = |_: &_, status: &mut SessionRecordStatus| write_entry(status, &entry, ending, now);
        match card::update(&*self.cards, &id.namespace, &id.session, change).await {
            Ok(Some(record)) => Ok(ended_reason(&record)),
            // Somebody deleted the record; the bytes stay.
            Ok(None) => Ok(Some(EndReason::IdleTimeout)),
            Err(error) => {
                self.chain.look_again();
                Err(error)
            }
        }
    }
}

fn ended_reason(record: &SessionRecord) -> Option<EndReason> {
    let status = record.status.as_ref()?;
    if !is_ended(status) {
        return None;
    }
    let active = status.conditions.iter().find(|condition| condition.r#type == "Active")?;
    Some(match active.reason.as_str() {
        "MaxDuration" => EndReason::MaxDuration,
        "WindowClosed" => EndReason::WindowClosed,
        "AgentSuspended" => EndReason::AgentSuspended,
        "ProxyLost" => EndReason::ProxyLost,
        _ => EndReason::IdleTimeout,
    })
}
