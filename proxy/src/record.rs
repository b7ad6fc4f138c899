//! Whatever happened is written down: before it is forwarded, when it is refused, when it has ended.
//!
//! *Expected flow*: [`Recorder::session`] once for each request, then [`Session::intent`] before anything goes
//! upstream and [`Pending::finish`] after, or [`Session::refuse`].
//!
//! *Guarantees*: an intent is durable when `intent` returns: on the disk for reads, in the store for what may change
//! something. Every request has one outcome, whatever happens to it; where the process dies first, its absence reads
//! as unknown. A recorder that cannot write says so; it never goes silent.
//!
//! *Assumptions*: the spool's folder belongs to this process alone (a lock says when it does not).
mod card;
mod chain;
mod keep;
mod lost;
mod recover;
mod session;
mod spool;
mod status;
mod tally;
mod way;

#[cfg(test)]
pub(crate) mod tests;

use std::collections::HashMap;
use std::fs::{File, TryLockError};
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use jiff::Timestamp;
use object_store::ObjectStore;
use recording::event::{EndReason, Event, SessionStart};
use recording::journal::JournalError;
use recording::segment::ChainId;
use tokio::sync::Mutex as AsyncMutex;
use tokio_util::task::TaskTracker;

pub use card::{ApiCards, CardError, Cards, Facts};
pub use session::{Durability, Ended, Pending, Session};

use chain::{Chain, Parts};
use keep::Keeper;
use spool::{Bounds, Committer, Load, Room, Spool, SpoolError};
use way::Way;

use crate::telemetry::Telemetry;

/// Reason word of the refusal that an [`Unavailable`] becomes.
pub const UNAVAILABLE_REASON: &str = "RecordingUnavailable";
/// Others' `lastActivityTime` may be this old: the status is written once a minute.
const STATUS_LAG: Duration = Duration::from_secs(90);
const UPLOADS_AT_ONCE: usize = 16;
const CARD_PATIENCE: Duration = Duration::from_secs(5);

/// What a recorder is told.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Name of this replica; a suffix makes it unique for each life.
    pub replica: String,
    /// Folder of this replica alone.
    pub spool: PathBuf,
    /// The store's address, for people: `file:///var/lib/sallyport`.
    pub store_uri: String,
    /// Most bytes in the spool; an eighth more is kept for refusals and outcomes. Default 64 MiB.
    pub spool_limit: u64,
    /// The longest that a frame may wait in the spool. Default 1 h.
    pub spool_age: Duration,
    /// Length at which a segment is sealed. Default 256 KiB.
    pub segment_bytes: usize,
    /// Age at which a segment is sealed. Default 1 s.
    pub segment_age: Duration,
    /// Frames that nobody waits for are made durable after this. Default 10 ms.
    pub commit_every: Duration,
    /// The longest that a write waits for the store. Default 5 s.
    pub store_patience: Duration,
    /// Between a session's first request and its first status. Default 1 s.
    pub first_status: Duration,
    /// Between two statuses. Default 60 s.
    pub status_every: Duration,
}

impl Settings {
    /// The defaults.
    pub fn new(
        replica: impl Into<String>,
        spool: impl Into<PathBuf>,
        store_uri: impl Into<String>,
    ) -> Settings {
        Settings {
            replica: replica.into(),
            spool: spool.into(),
            store_uri: store_uri.into(),
            spool_limit: 64 << 20,
            spool_age: Duration::from_secs(3600),
            segment_bytes: 256 << 10,
            segment_age: Duration::from_secs(1),
            commit_every: Duration::from_millis(10),
            store_patience: Duration::from_secs(5),
            first_status: Duration::from_secs(1),
            status_every: Duration::from_secs(60),
        }
    }
}

/// The recorder cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The spool's folder cannot be used.
    #[error("the spool cannot be used: {0}")]
    Spool(#[from] io::Error),
    /// Another process uses it.
    #[error("the spool `{0}` is used by another process")]
    InUse(PathBuf),
    /// No randomness for this life's name.
    #[error("the system has no randomness")]
    Random,
}

/// Something cannot be recorded. The agent gets 503 `RecordingUnavailable` with Retry-After 5.
#[derive(Debug, thiserror::Error)]
pub enum Unavailable {
    /// The spool is full.
    #[error("the spool is full: the store does not take recordings")]
    Full,
    /// Something in the spool waits for the store for too long.
    #[error("recordings wait for the store for too long")]
    Stale,
    /// The store was not proven to keep what it is given.
    #[error("{0}")]
    Unproven(String),
    /// The disk failed; only a restart helps (F08).
    #[error("the disk for recordings failed")]
    Disk,
    /// The store did not take a write's intent in time.
    #[error("the store did not take the recording in time")]
    Store,
    /// Something else lies in the place of a segment.
    #[error("the store holds another recording in this one's place")]
    Conflict,
    /// The session ended in between.
    #[error("the session has just ended")]
    Ended,
    /// The recorder is closing.
    #[error("the recorder is closing")]
    Closing,
    /// The event is too long.
    #[error("{0}")]
    Journal(#[from] JournalError),
    /// The SessionRecord cannot be made or found.
    #[error("{0}")]
    Card(#[from] CardError),
}

impl From<SpoolError> for Unavailable {
    fn from(error: SpoolError) -> Unavailable {
        match error {
            SpoolError::Full => Unavailable::Full,
            SpoolError::Stale => Unavailable::Stale,
            SpoolError::Failed => Unavailable::Disk,
        }
    }
}

/// The clocks of this life.
#[derive(Clone, Copy, Debug)]
struct Clock(Instant);

#[derive(Clone, Copy, Debug)]
struct Waits {
    store: Duration,
}

/// The recorder. Cloning shares it.
#[derive(Clone)]
pub struct Recorder {
    inner: Arc<Inner>,
}

struct Inner {
    settings: Settings,
    replica: String,
    clock: Clock,
    way: Way,
    telemetry: Telemetry,
    cards: Arc<dyn Cards>,
    spool: Spool,
    committer: Mutex<Option<Committer>>,
    _lock: File,
    chains: AtomicU32,
    slots: Mutex<HashMap<Key, Slot>>,
    left: Mutex<HashMap<String, Instant>>,
    closing: std::sync::atomic::AtomicBool,
    tasks: TaskTracker,
}

/// A place for the current chain of one subject of one agent.
type Slot = Arc<AsyncMutex<Option<Arc<Chain>>>>;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    namespace: String,
    agent_uid: String,
    subject: String,
}

impl Recorder {
    /// Takes up what an earlier life left in the spool, and begins.
    ///
    /// # Errors
    /// The spool cannot be used, or another process uses it.
    pub fn open(
        settings: Settings,
        store: Arc<dyn ObjectStore>,
        cards: Arc<dyn Cards>,
        telemetry: Telemetry,
    ) -> Result<Recorder, OpenError> {
        std::fs::create_dir_all(&settings.spool)?;
        let lock = File::create(settings.spool.join("lock"))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(OpenError::InUse(settings.spool)),
            Err(TryLockError::Error(error)) => return Err(error.into()),
        }
        let clock = Clock(Instant::now());
        let (logs, left) = (settings.spool.join("log"), settings.spool.join("left"));
        let recovered = recover::recover(&logs, &left, &settings.spool.join("aside"), clock.now())?;
        let bounds = Bounds { bytes: settings.spool_limit, age: settings.spool_age };
        let (spool, committer) = Spool::begin(&logs, bounds, recovered.bytes, settings.commit_every)?;
        let way = Way::new(store, UPLOADS_AT_ONCE, telemetry.clone());
        let inner = Inner {
            replica: format!("{}-{}", settings.replica, random_word()?),
            clock,
            way,
            telemetry,
            cards,
            spool,
            committer: Mutex::new(Some(committer)),
            _lock: lock,
            chains: AtomicU32::new(0),
            slots: Mutex::default(),
            left: Mutex::default(),
            closing: false.into(),
            tasks: TaskTracker::new(),
            settings,
        };
        let recorder = Recorder { inner: Arc::new(inner) };
        if recovered.segments > 0 {
            tracing::warn!(
                segments = recovered.segments,
                bytes = recovered.bytes,
                "an earlier life left recordings: they go to the store now"
            );
        }
        let way = recorder.inner.way.clone();
        // Not tracked: it waits for nothing that must be saved when the process ends.
        tokio::spawn(async move { way.prove().await });
        recorder.inner.tasks.spawn(Arc::clone(&recorder.inner).bring_left(recovered.bytes));
        Ok(recorder)
    }

    /// The session of a subject: the one that runs, or a new one.
    ///
    /// # Errors
    /// The SessionRecord cannot be made or found, or nothing can be recorded.
    pub async fn session(&self, facts: &Facts) -> Result<Session, Unavailable> {
        let inner = &self.inner;
        let (waits, telemetry) = (Waits { store: inner.settings.store_patience }, &inner.telemetry);
        if inner.spool.has_failed() {
            return Err(Unavailable::Disk);
        }
        inner.way.proven(waits.store).await?;
        let slot = inner.slot(facts);
        let mut place = slot.lock().await;
        if inner.closing.load(Ordering::Acquire) {
            return Err(Unavailable::Closing);
        }
        if let Some(chain) = place.as_ref() {
            if let Some(session) = Session::enter(chain, waits, telemetry) {
                return Ok(session);
            }
            // Before its record says that it has ended: two chains of one name must never be.
            inner.leave(chain);
        }
        let made = tokio::time::timeout(CARD_PATIENCE, inner.begin(facts)).await;
        let chain = made.map_err(|_| CardError::Api("timed out".to_owned()))?.inspect_err(|error| {
            telemetry.recording_failure();
            tracing::warn!(%error, agent = facts.agent, "no session can be recorded");
        })?;
        let session = Session::enter(&chain, waits, telemetry).ok_or(Unavailable::Ended)?;
        *place = Some(chain);
        Ok(session)
    }

    /// Ends every session of an agent: its window closed, or it was suspended.
    pub fn end_sessions(&self, namespace: &str, agent_uid: &str, reason: EndReason) {
        for (key, slot) in self.inner.slots().iter() {
            if key.namespace == namespace
                && key.agent_uid == agent_uid
                && let Ok(place) = slot.try_lock()
                && let Some(chain) = place.as_ref()
            {
                chain.stop(reason);
            }
        }
    }

    /// Ends every session whose requests used a window that is not open any more, by `is_open`.
    pub fn end_closed_windows(&self, is_open: impl Fn(&Facts, &str) -> bool) {
        for slot in self.inner.slots().values() {
            if let Ok(place) = slot.try_lock()
                && let Some(chain) = place.as_ref()
                && let Some(grant) = chain.window()
                && !is_open(&chain.facts, &grant)
            {
                chain.stop(EndReason::WindowClosed);
            }
        }
    }

    /// Returns when the disk has failed: nothing can be served any more.
    pub async fn failed(&self) {
        self.inner.spool.failed().await;
    }

    /// Why intents are not taken at the moment, if they are not. Renews what the metrics say of the spool.
    pub fn unready(&self) -> Option<String> {
        let inner = &self.inner;
        let Load { bytes, age } = inner.spool.load();
        inner.telemetry.spool(bytes, age);
        let room = inner.spool.room(chain::USUAL_FRAME, Room::Ordinary).map_err(Unavailable::from);
        room.err().map(|error| error.to_string()).or_else(|| inner.way.unproven())
    }

    /// Ends every chain in good order; what is not in the store by then stays in the spool for the next life.
    pub async fn close(&self, patience: Duration) {
        let inner = &self.inner;
        inner.closing.store(true, Ordering::Release);
        let slots: Vec<Slot> = inner.slots().values().cloned().collect();
        for slot in slots {
            if let Some(chain) = slot.lock().await.as_ref() {
                chain.stop(EndReason::ProxyStopped);
            }
        }
        inner.tasks.close();
        if tokio::time::timeout(patience, inner.tasks.wait()).await.is_err() {
            tracing::warn!("some recordings stay in the spool for the next start");
        }
        let committer = inner.committer.lock().unwrap_or_else(PoisonError::into_inner).take();
        drop(committer);
    }
}

impl Inner {
    fn slots(&self) -> MutexGuard<'_, HashMap<Key, Slot>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn slot(&self, facts: &Facts) -> Slot {
        let key = Key {
            namespace: facts.namespace.clone(),
            agent_uid: facts.agent_uid.clone(),
            subject: facts.subject.clone(),
        };
        Arc::clone(self.slots().entry(key).or_default())
    }

    /// Finds or makes the record and begins a chain.
    async fn begin(self: &Arc<Inner>, facts: &Facts) -> Result<Arc<Chain>, Unavailable> {
        self.spool.room(chain::USUAL_FRAME, Room::Ordinary)?;
        let now = Timestamp::now();
        let left = |name: &str| self.has_left(&facts.namespace, name);
        let record = card::find_or_make(&*self.cards, facts, &self.settings.store_uri, left, now).await?;
        let session = record.metadata.name.clone().unwrap_or_default();
        let age = now.duration_since(record.spec.start_time.0);
        let age = if age.is_negative() { Duration::ZERO } else { age.unsigned_abs() };
        let id = ChainId { namespace: facts.namespace.clone(), session, replica: self.replica.clone() };
        let parts = Parts {
            number: self.chains.fetch_add(1, Ordering::Relaxed),
            clock: self.clock,
            spool: self.spool.clone(),
            segment_bytes: self.settings.segment_bytes,
            aside: self.settings.spool.join("aside"),
            longest_at: Instant::now() + facts.longest.saturating_sub(age),
        };
        let chain = Chain::begin(id, facts.clone(), parts, self.way.clone());
        let start = Event::SessionStart(Box::new(start_of(facts)));
        chain.write(&start, Room::Ordinary, false).inspect_err(|_| {
            self.leave(&chain);
            chain.finish(EndReason::ProxyStopped);
        })?;
        self.tasks.spawn(Arc::clone(&chain).seal_by_age(self.settings.segment_age));
        let keeper = Keeper {
            uri: card::uri(&self.settings.store_uri, &chain.id.namespace, &chain.id.session),
            chain: Arc::clone(&chain),
            cards: Arc::clone(&self.cards),
            first_status: self.settings.first_status,
            status_every: self.settings.status_every,
        };
        let (inner, kept) = (Arc::clone(self), Arc::clone(&chain));
        self.tasks.spawn(keeper.run(move || inner.leave(&kept)));
        Ok(chain)
    }

    /// Remembers that a session is over for this replica.
    fn leave(&self, chain: &Chain) {
        const KEPT: Duration = Duration::from_secs(48 * 3600);
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        left.retain(|_, since| since.elapsed() < KEPT);
        left.insert(format!("{}/{}", chain.id.namespace, chain.id.session), Instant::now());
    }

    fn has_left(&self, namespace: &str, name: &str) -> bool {
        self.left.lock().unwrap_or_else(PoisonError::into_inner).contains_key(&format!("{namespace}/{name}"))
    }
}

fn start_of(facts: &Facts) -> SessionStart {
    SessionStart {
        agent: facts.agent.clone(),
        agent_uid: facts.agent_uid.clone(),
        subject: facts.subject.clone(),
        subject_type: card::word(&facts.subject_type),
        subject_id: facts.subject_id.clone(),
        client_address: facts.client_address.clone(),
        user_agent: facts.user_agent.clone(),
        username: facts.username.clone(),
        target_type: card::word(&facts.target_type),
        target_server: facts.target_server.clone(),
        level: card::word(&facts.level),
    }
}

/// Five characters that make the replica's name unique for this life.
fn random_word() -> Result<String, OpenError> {
    const LETTERS: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
    let mut bytes = [0; 5];
    SystemRandom::new().fill(&mut bytes).map_err(|_| OpenError::Random)?;
    Ok(bytes.iter().map(|byte| char::from(LETTERS[usize::from(byte & 31)])).collect())
}
