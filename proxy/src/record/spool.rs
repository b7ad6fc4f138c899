//! The local disk between a frame and the store: one log for all chains, made durable in groups.
//!
//! *Expected flow*: [`Spool::push`] under the chain's lock, [`Spool::durable`] where somebody waits for it,
//! [`Spool::release`] when the segment lies in the store.
//!
//! *Guarantees*: what `durable` has returned for survives a crash; bytes of one chain keep their order; the log never
//! grows over its limit and its reserve. A failed write or sync is final: data may be lost, so nothing is accepted any
//! more (F08).
//!
//! The log is a row of files. A record in them is `u32 length | u8 kind | u32 chain | payload`, big-endian.
use std::collections::{HashMap, HashSet};
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use recording::journal::Position;
use recording::segment::ChainId;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

/// Record of frames, as a journal returned them.
pub const BYTES: u8 = 1;
/// Record of a [`Standing`]: the chain is known, or a segment of it was sealed.
pub const STANDING: u8 = 2;
/// Record without payload: the chain has its final seal.
pub const CLOSED: u8 = 3;
/// Length of a record before its payload.
pub const RECORD_HEAD: usize = 4 + 1 + 4;

/// A file of the log is removed whole, so it must be a small part of the limit.
const FILE_BYTES: u64 = 4 << 20;

/// Where a chain stands, as the log remembers it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Standing {
    /// The chain.
    pub chain: ChainId,
    /// Where its next segment begins.
    pub position: Position,
}

/// Why the spool takes nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpoolError {
    /// It is full; the store does not take what it holds.
    #[error("the spool is full")]
    Full,
    /// Something in it waits for the store for too long.
    #[error("what is in the spool waits for too long")]
    Stale,
    /// The disk failed.
    #[error("the spool's disk failed")]
    Failed,
}

/// Who wants room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room {
    /// A request that would be forwarded.
    Ordinary,
    /// What must still be written when the ordinary room is used up: refusals, outcomes, seals.
    Reserve,
}

/// How much may wait for the store, and for how long (F07).
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Most bytes; an eighth more is the reserve.
    pub bytes: u64,
    /// The longest that a frame may wait.
    pub age: Duration,
}

/// What waits for the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Load {
    /// Bytes on the disk, those of an earlier life too.
    pub bytes: u64,
    /// Since when the oldest of it waits.
    pub age: Duration,
}

/// The log. Cloning shares it.
#[derive(Clone)]
pub struct Spool {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    wake: Condvar,
    progress: watch::Sender<Progress>,
    bounds: Bounds,
    commit_every: Duration,
}

#[derive(Clone, Copy, Debug, Default)]
struct Progress {
    durable: u64,
    failed: bool,
}

#[derive(Default)]
struct State {
    pending: Vec<u8>,
    touched: HashSet<(u32, u32)>,
    /// Since when each segment that is not in the store is here.
    since: HashMap<(u32, u32), Instant>,
    /// Bytes of an earlier life that still wait for the store, and since when this life knows them.
    carried: u64,
    carried_since: Option<Instant>,
    pushed: u64,
    first_pending: Option<Instant>,
    asked: bool,
    sleeping: bool,
    failed: bool,
    stopping: bool,
    files: Vec<LogFile>,
    stood: Vec<(u32, Option<Standing>)>,
}

struct LogFile {
    path: PathBuf,
    bytes: u64,
    /// Chain and segment of everything in it that is not in the store.
    unstored: HashSet<(u32, u32)>,
}

/// Ends the log's thread when dropped, after a last sync.
pub struct Committer(Spool, Option<JoinHandle<()>>);

impl Spool {
    /// Begins a new log in `folder`, which must hold none. `carried` bytes of an earlier life count as used until they are
    /// [settled](Spool::settle).
    ///
    /// # Errors
    /// The folder cannot be written.
    pub fn begin(
        folder: &Path,
        bounds: Bounds,
        carried: u64,
        commit_every: Duration,
    ) -> io::Result<(Spool, Committer)> {
        std::fs::create_dir_all(folder)?;
        let progress = watch::Sender::new(Progress::default());
        let carried_since = (carried > 0).then(Instant::now);
        let state = Mutex::new(State { carried, carried_since, ..State::default() });
        let shared = Arc::new(Shared { state, wake: Condvar::new(), progress, bounds, commit_every });
        let spool = Spool { shared };
        let (file, path) = new_file(folder, 1)?;
        spool.lock().files.push(LogFile { path, bytes: 0, unstored: HashSet::new() });
        let mut writer = Writer { folder: folder.to_owned(), file, number: 1, standings: HashMap::new() };
        let thread = {
            let spool = spool.clone();
            std::thread::Builder::new().name("spool".to_owned()).spawn(move || writer.run(&spool))?
        };
        Ok((spool.clone(), Committer(spool, Some(thread))))
    }

    /// Whether `bytes` more would be taken.
    ///
    /// # Errors
    /// They would not.
    pub fn room(&self, bytes: usize, room: Room) -> Result<(), SpoolError> {
        let state = self.lock();
        if state.failed || state.stopping {
            return Err(SpoolError::Failed);
        }
        let Bounds { bytes: most, age } = self.shared.bounds;
        let limit = match room {
            Room::Ordinary => most,
            Room::Reserve => most + most / 8,
        };
        if state.used() + bytes as u64 > limit {
            return Err(SpoolError::Full);
        }
        if room == Room::Ordinary && state.oldest() > age { Err(SpoolError::Stale) } else { Ok(()) }
    }

    /// What waits for the store.
    pub fn load(&self) -> Load {
        let state = self.lock();
        Load { bytes: state.used(), age: state.oldest() }
    }

    /// `bytes` of an earlier life have left the spool's folder.
    pub fn settle(&self, bytes: u64) {
        let mut state = self.lock();
        state.carried = state.carried.saturating_sub(bytes);
        if state.carried == 0 {
            state.carried_since = None;
        }
    }

    /// Adds frames of a chain's segment. Returns the mark to wait for.
    pub fn push(&self, chain: u32, segment: u32, bytes: &[u8]) -> u64 {
        let mut state = self.lock();
        state.touched.insert((chain, segment));
        state.since.entry((chain, segment)).or_insert_with(Instant::now);
        self.add(&mut state, BYTES, chain, bytes)
    }

    /// Notes that a chain begins or has sealed a segment. Returns the mark to wait for.
    pub fn stand(&self, chain: u32, standing: Standing) -> u64 {
        let payload = standing_json(&standing);
        let mut state = self.lock();
        state.stood.push((chain, Some(standing)));
        self.add(&mut state, STANDING, chain, &payload)
    }

    /// Notes that a chain has its final seal. Returns the mark to wait for.
    pub fn close(&self, chain: u32) -> u64 {
        let mut state = self.lock();
        state.stood.push((chain, None));
        self.add(&mut state, CLOSED, chain, &[])
    }

    /// Waits until everything up to `mark` is durable, and asks for that to be soon.
    ///
    /// # Errors
    /// The disk failed.
    pub async fn durable(&self, mark: u64) -> Result<(), SpoolError> {
        let mut progress = self.shared.progress.subscribe();
        if progress.borrow().durable < mark {
            let mut state = self.lock();
            state.asked = true;
            self.wake(&mut state);
        }
        match progress.wait_for(|progress| progress.failed || progress.durable >= mark).await {
            Ok(progress) if progress.durable >= mark => Ok(()),
            Ok(_) | Err(_) => Err(SpoolError::Failed),
        }
    }

    /// Returns when the disk has failed.
    pub async fn failed(&self) {
        let mut progress = self.shared.progress.subscribe();
        if progress.wait_for(|progress| progress.failed).await.is_err() {
            tracing::debug!("the spool is gone");
        }
    }

    /// Whether the disk has failed.
    pub fn has_failed(&self) -> bool {
        self.shared.progress.borrow().failed
    }

    /// Forgets a segment that lies in the store; files that hold nothing else are removed.
    pub fn release(&self, chain: u32, segment: u32) {
        let mut state = self.lock();
        state.since.remove(&(chain, segment));
        for file in &mut state.files {
            file.unstored.remove(&(chain, segment));
        }
        let current = state.files.len().saturating_sub(1);
        let mut index = 0;
        state.files.retain(|file| {
            let keep = index == current || !file.unstored.is_empty();
            index += 1;
            if !keep && let Err(error) = std::fs::remove_file(&file.path) {
                tracing::warn!(%error, "a spool file cannot be removed");
            }
            keep
        });
    }

    fn add(&self, state: &mut State, kind: u8, chain: u32, payload: &[u8]) -> u64 {
        write_record(&mut state.pending, kind, chain, payload);
        state.pushed += (RECORD_HEAD + payload.len()) as u64;
        if state.first_pending.is_none() {
            state.first_pending = Some(Instant::now());
            self.wake(state);
        }
        state.pushed
    }

    fn wake(&self, state: &mut State) {
        if state.sleeping {
            state.sleeping = false;
            self.shared.wake.notify_one();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn used(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).sum::<u64>() + self.pending.len() as u64 + self.carried
    }

    fn oldest(&self) -> Duration {
        let since = self.since.values().chain(&self.carried_since).min();
        since.map_or(Duration::ZERO, Instant::elapsed)
    }
}

impl Drop for Committer {
    fn drop(&mut self) {
        {
            let mut state = self.0.lock();
            state.stopping = true;
            self.0.shared.wake.notify_one();
        }
        if self.1.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the spool's thread broke");
        }
    }
}

struct Writer {
    folder: PathBuf,
    file: File,
    number: u64,
    /// Where the living chains stand by what is written.
    standings: HashMap<u32, Standing>,
}

struct Batch {
    bytes: Vec<u8>,
    stood: Vec<(u32, Option<Standing>)>,
    mark: u64,
    stopping: bool,
}

impl Writer {
    fn run(&mut self, spool: &Spool) {
        loop {
            let batch = self.wait(spool);
            let mark = batch.mark;
            if batch.bytes.is_empty() {
                if batch.stopping {
                    return;
                }
                continue;
            }
            if let Err(error) = self.commit(spool, batch.bytes, batch.stood) {
                tracing::error!(%error, "the spool's disk failed: no request is served any more");
                spool.lock().failed = true;
                spool.shared.progress.send_modify(|progress| progress.failed = true);
                return;
            }
            spool.shared.progress.send_modify(|progress| progress.durable = mark);
        }
    }

    /// Sleeps until somebody asks or the oldest frame has waited long enough; takes everything there is.
    fn wait(&self, spool: &Spool) -> Batch {
        let mut state = spool.lock();
        while !state.asked && !state.stopping {
            let waited = match state.first_pending {
                Some(first) => first.elapsed(),
                None => {
                    state.sleeping = true;
                    state = spool.shared.wake.wait(state).unwrap_or_else(PoisonError::into_inner);
                    continue;
                }
            };
            let Some(rest) = spool.shared.commit_every.checked_sub(waited).filter(|rest| !rest.is_zero())
            else {
                break;
            };
            state.sleeping = true;
            let woken = spool.shared.wake.wait_timeout(state, rest);
            state = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
        state.sleeping = false;
        state.asked = false;
        state.first_pending = None;
        let touched = std::mem::take(&mut state.touched);
        let bytes = std::mem::take(&mut state.pending);
        let stood = std::mem::take(&mut state.stood);
        if let Some(current) = state.files.last_mut() {
            current.unstored.extend(touched);
            current.bytes += bytes.len() as u64;
        }
        Batch { bytes, stood, mark: state.pushed, stopping: state.stopping }
    }

    fn commit(
        &mut self,
        spool: &Spool,
        bytes: Vec<u8>,
        stood: Vec<(u32, Option<Standing>)>,
    ) -> io::Result<()> {
        self.file.write_all(&bytes)?;
        self.file.sync_data()?;
        for (chain, standing) in stood {
            match standing {
                Some(standing) => self.standings.insert(chain, standing),
                None => self.standings.remove(&chain),
            };
        }
        let enough = FILE_BYTES.min(spool.shared.bounds.bytes / 8);
        let full = spool.lock().files.last().is_some_and(|current| current.bytes >= enough);
        if full { self.next_file(spool) } else { Ok(()) }
    }

    /// Every file begins with where the living chains stand, so that older files can go.
    fn next_file(&mut self, spool: &Spool) -> io::Result<()> {
        self.number += 1;
        let (file, path) = new_file(&self.folder, self.number)?;
        self.file = file;
        let mut records = Vec::new();
        for (chain, standing) in &self.standings {
            write_record(&mut records, STANDING, *chain, &standing_json(standing));
        }
        self.file.write_all(&records)?;
        self.file.sync_data()?;
        let bytes = records.len() as u64;
        spool.lock().files.push(LogFile { path, bytes, unstored: HashSet::new() });
        Ok(())
    }
}

fn new_file(folder: &Path, number: u64) -> io::Result<(File, PathBuf)> {
    let path = folder.join(format!("{number:06}.log"));
    let file = OpenOptions::new().create_new(true).append(true).open(&path)?;
    File::open(folder)?.sync_all()?;
    Ok((file, path))
}

fn write_record(out: &mut Vec<u8>, kind: u8, chain: u32, payload: &[u8]) {
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX);
    out.extend_from_slice(&length.to_be_bytes());
    out.push(kind);
    out.extend_from_slice(&chain.to_be_bytes());
    out.extend_from_slice(payload);
}

fn standing_json(standing: &Standing) -> Vec<u8> {
    serde_json::to_vec(standing).unwrap_or_default()
}
