//! The handles that the staircase holds: a session, and a request that has no outcome yet.
use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use recording::event::{Disposition, Event, GrantEvent, Intent, LogSum, Outcome, Refusal, Review};

use super::chain::{Chain, Written};
use super::spool::Room;
use super::{Unavailable, Waits};
use crate::telemetry::Telemetry;

/// How durable an intent must be before anything is forwarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// On this replica's disk: enough for what only reads.
    Spool,
    /// In the store: for everything that may change something (D04).
    Store,
}

/// How a request ended, but for its id and its duration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// HTTP status that the agent was given; 0 if none was.
    pub code: u16,
    /// Values masked in the answer.
    pub masked: u64,
    /// Bytes of the answer.
    pub bytes: u64,
    /// How it ended.
    pub disposition: Disposition,
    /// Reason word of the Status, if the gate made the answer.
    pub reason: Option<String>,
    /// Of a log: what was passed on.
    pub log: Option<LogSum>,
}

impl Ended {
    /// The gate answered with an error of its own.
    pub fn refused(code: u16, reason: &str) -> Ended {
        Ended {
            code,
            masked: 0,
            bytes: 0,
            disposition: Disposition::Refused,
            reason: Some(reason.to_owned()),
            log: None,
        }
    }
}

/// A session that a request belongs to. While it is held the session does not fall idle.
pub struct Session {
    chain: Arc<Chain>,
    waits: Waits,
    telemetry: Telemetry,
}

impl Session {
    /// `None` if the chain takes no more requests.
    pub(super) fn enter(chain: &Arc<Chain>, waits: Waits, telemetry: &Telemetry) -> Option<Session> {
        let entered = chain.enter();
        entered.then(|| Session { chain: Arc::clone(chain), waits, telemetry: telemetry.clone() })
    }

    /// Name of the SessionRecord.
    pub fn name(&self) -> &str {
        &self.chain.id.session
    }

    /// Writes down that a request is about to be forwarded. Nothing may go upstream before this returns `Ok`.
    ///
    /// # Errors
    /// The intent cannot be made durable: the request must be refused with `RecordingUnavailable`. What the chain
    /// already holds of it is closed as failed.
    pub async fn intent(
        &self,
        intent: Intent,
        durability: Durability,
        arrived: Instant,
    ) -> Result<Pending, Unavailable> {
        let request_id = intent.request_id.clone();
        let event = Event::Intent(Box::new(intent));
        let in_store = durability == Durability::Store;
        let written = self.chain.write(&event, Room::Ordinary, in_store).inspect_err(|_| self.failed())?;
        let pending = Pending { session: self.clone(), request_id: Some(request_id), arrived };
        if let Err(error) = self.durable(written, durability).await {
            self.failed();
            let failed =
                Ended { disposition: Disposition::Failed, ..Ended::refused(503, super::UNAVAILABLE_REASON) };
            pending.finish(failed);
            return Err(error);
        }
        Ok(pending)
    }

    /// Writes down a refusal with its outcome, and waits until it is on the disk.
    ///
    /// # Errors
    /// It cannot be written. The request stays refused; the chain will tell of a gap.
    pub async fn refuse(&self, refusal: Refusal, ended: Ended, arrived: Instant) -> Result<(), Unavailable> {
        let request_id = refusal.request_id.clone();
        let refusal = Event::Refusal(Box::new(refusal));
        let written = match self.chain.write(&refusal, Room::Reserve, false) {
            Ok(_) => self.chain.write(&outcome(request_id, ended, arrived), Room::Reserve, false),
            Err(error) => {
                self.chain.lose();
                Err(error)
            }
        };
        match written {
            Ok(written) => self.chain.spooled(written).await,
            Err(error) => Err(error),
        }
        .inspect_err(|_| self.failed())
    }

    async fn durable(&self, written: Written, durability: Durability) -> Result<(), Unavailable> {
        match durability {
            Durability::Spool => self.chain.spooled(written).await,
            Durability::Store => self.chain.stored(written, self.waits.store).await,
        }
    }

    /// Counts a refusal that is too cheap to be written down by itself: an agent that asks more often than it may.
    pub fn count_refusal(&self) {
        self.chain.lose();
    }

    /// Writes down what persons decided, as durable as the intent that follows must be (F07).
    ///
    /// # Errors
    /// It cannot be made durable: what they approved must not be used up.
    pub async fn review(&self, reviews: Vec<Review>, durability: Durability) -> Result<(), Unavailable> {
        let in_store = durability == Durability::Store;
        let mut last = None;
        for review in reviews {
            let written = self.chain.write(&Event::Review(review), Room::Ordinary, in_store);
            last = Some(written.inspect_err(|_| self.failed())?);
        }
        match last {
            Some(written) => self.durable(written, durability).await.inspect_err(|_| self.failed()),
            None => Ok(()),
        }
    }

    /// Writes down what became of a grant.
    pub fn grant(&self, change: GrantEvent) {
        self.note(&Event::Grant(change));
    }

    fn note(&self, event: &Event) {
        if let Err(error) = self.chain.write(event, Room::Reserve, false) {
            self.failed();
            tracing::error!(%error, session = self.name(), "an event is not recorded");
        }
    }

    fn failed(&self) {
        self.telemetry.recording_failure();
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Session").field(&self.name()).finish()
    }
}

impl Clone for Session {
    fn clone(&self) -> Session {
        self.chain.enter_again();
        Session { chain: Arc::clone(&self.chain), waits: self.waits, telemetry: self.telemetry.clone() }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.chain.leave();
    }
}

/// A request whose intent is durable. It ends in exactly one outcome: by [`Pending::finish`], or as unknown when it is
/// dropped without a word.
#[must_use = "the request has no outcome yet"]
pub struct Pending {
    session: Session,
    /// `None` once there is an outcome.
    request_id: Option<String>,
    arrived: Instant,
}

impl Pending {
    /// The session.
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// Writes down how it ended.
    pub fn finish(mut self, ended: Ended) {
        self.write(ended);
    }

    fn write(&mut self, ended: Ended) {
        if let Some(request_id) = self.request_id.take() {
            self.session.note(&outcome(request_id, ended, self.arrived));
        }
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        let disposition = Disposition::Unknown;
        self.write(Ended { code: 0, masked: 0, bytes: 0, disposition, reason: None, log: None });
    }
}

fn outcome(request_id: String, ended: Ended, arrived: Instant) -> Event {
    Event::Outcome(Outcome {
        request_id,
        code: ended.code,
        duration_us: u64::try_from(arrived.elapsed().as_micros()).unwrap_or(u64::MAX),
        masked: ended.masked,
        bytes: ended.bytes,
        disposition: ended.disposition,
        reason: ended.reason,
        log: ended.log,
    })
}
