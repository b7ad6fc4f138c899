//! One replica's chain of one session: events in, spool and store out, in this order.
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use recording::event::{EndReason, Event, Gap, Permitted, SessionEnd};
use recording::hash::Hash;
use recording::journal::{Journal, Segment};
use recording::segment::{ChainId, Stamp};
use tokio::sync::{Notify, mpsc, watch};

use super::card::Facts;
use super::recover;
use super::spool::{Room, Spool, Standing};
use super::tally::Tally;
use super::way::Way;
use super::{Clock, Unavailable};

/// What a frame without a body needs at most, but for very long names.
pub const USUAL_FRAME: usize = 2 << 10;

/// One chain.
pub struct Chain {
    /// Where it belongs.
    pub id: ChainId,
    /// Who it is about.
    pub facts: Facts,
    /// When the session ends at the latest.
    pub longest_at: Instant,
    /// Wakes whoever keeps the SessionRecord.
    pub stir: Notify,
    number: u32,
    clock: Clock,
    spool: Spool,
    segment_bytes: usize,
    aside: PathBuf,
    state: Mutex<State>,
    opened: Notify,
    /// Somebody waits for the store.
    wanted: Notify,
    uploads: mpsc::UnboundedSender<Upload>,
    stored: watch::Sender<Stored>,
}

/// What of the chain is in the store, without a gap.
#[derive(Clone, Copy, Debug, Default)]
pub struct Stored {
    /// Segments.
    pub segments: u32,
    /// Root of the last of them.
    pub root: Option<Hash>,
    /// Their bytes.
    pub bytes: u64,
    /// The final seal is among them.
    pub closed: bool,
    /// Something else lies in the place of a segment: the chain cannot go on.
    pub conflict: bool,
}

struct State {
    journal: Option<Journal>,
    tally: Tally,
    in_use: usize,
    last_used: Instant,
    ending: Option<EndReason>,
    lost: u64,
    /// Events since the status was last written.
    fresh: bool,
    /// The grant of the window that requests used last.
    window: Option<String>,
    /// Why segments do not reach the store at the moment.
    trouble: Option<String>,
    /// That changed since the status was last written.
    turned: bool,
}

struct Upload {
    segment: Segment,
    mark: u64,
}

/// Where an event was written.
#[derive(Clone, Copy, Debug)]
pub struct Written {
    /// Mark in the spool.
    pub mark: u64,
    /// Segment of the chain.
    pub segment: u32,
}

/// What a chain is made from.
pub struct Parts {
    /// Number in the spool's log.
    pub number: u32,
    /// The clock of this life.
    pub clock: Clock,
    /// The log.
    pub spool: Spool,
    /// A segment is sealed at this length.
    pub segment_bytes: usize,
    /// Folder for segments that have no place in the store.
    pub aside: PathBuf,
    /// When the session ends at the latest.
    pub longest_at: Instant,
}

impl Chain {
    /// Begins a chain, and the task that brings its segments to the store.
    pub fn begin(id: ChainId, facts: Facts, parts: Parts, way: Way) -> Arc<Chain> {
        let (uploads, queue) = mpsc::unbounded_channel();
        let journal = Journal::new(id.clone());
        if let Some(position) = journal.position() {
            parts.spool.stand(parts.number, Standing { chain: id.clone(), position });
        }
        let chain = Arc::new(Chain {
            id,
            facts,
            longest_at: parts.longest_at,
            stir: Notify::new(),
            number: parts.number,
            clock: parts.clock,
            spool: parts.spool,
            segment_bytes: parts.segment_bytes,
            aside: parts.aside,
            state: Mutex::new(State {
                journal: Some(journal),
                tally: Tally::default(),
                in_use: 0,
                last_used: Instant::now(),
                ending: None,
                lost: 0,
                fresh: false,
                window: None,
                trouble: None,
                turned: false,
            }),
            opened: Notify::new(),
            wanted: Notify::new(),
            uploads,
            stored: watch::Sender::new(Stored::default()),
        });
        tokio::spawn(Arc::clone(&chain).upload(queue, way));
        chain
    }

    /// Counts one more user of the chain; `false` if it is ending.
    pub fn enter(&self) -> bool {
        let mut state = self.lock();
        if state.ending.is_some() || state.journal.is_none() {
            return false;
        }
        state.in_use += 1;
        state.last_used = Instant::now();
        true
    }

    /// Counts one more user beside one that is counted already.
    pub fn enter_again(&self) {
        self.lock().in_use += 1;
    }

    /// A user is done.
    pub fn leave(&self) {
        let mut state = self.lock();
        state.in_use = state.in_use.saturating_sub(1);
        state.last_used = Instant::now();
        if state.in_use == 0 && state.ending.is_some() {
            self.stir.notify_one();
        }
    }

    /// Writes one event into journal and spool. With `soon`, its segment goes to the store as soon as no other is on its
    /// way: what comes in the meantime shares it.
    ///
    /// # Errors
    /// No room, a failed disk, a chain that has ended or cannot go on, an event that is too long.
    pub fn write(&self, event: &Event, room: Room, soon: bool) -> Result<Written, Unavailable> {
        if self.stored.borrow().conflict {
            return Err(Unavailable::Conflict);
        }
        self.spool.room(rough_size(event), room)?;
        let mut state = self.lock();
        self.tell_gap(&mut state)?;
        if let Event::Intent(intent) = event
            && let (Permitted::Allowed, Some(grant)) = (intent.decision, &intent.grant)
        {
            state.window = Some(grant.clone());
        }
        let written = self.append(&mut state, event)?;
        let long = state.journal.as_ref().is_some_and(|journal| journal.open_bytes() >= self.segment_bytes);
        if long {
            self.seal(&mut state)?;
        } else if soon {
            self.wanted.notify_one();
        }
        Ok(written)
    }

    /// The grant of the window that the session's requests used last.
    pub fn window(&self) -> Option<String> {
        self.lock().window.clone()
    }

    /// Remembers a refusal that gets no record of its own, to be told as a gap.
    pub fn lose(&self) {
        self.lock().lost += 1;
    }

    /// Waits until what was written is on the disk.
    ///
    /// # Errors
    /// The disk failed.
    pub async fn spooled(&self, written: Written) -> Result<(), Unavailable> {
        Ok(self.spool.durable(written.mark).await?)
    }

    /// Waits until the segment that was written to is in the store.
    ///
    /// # Errors
    /// It takes longer than `patience`, the disk failed, or the chain cannot go on.
    pub async fn stored(&self, written: Written, patience: Duration) -> Result<(), Unavailable> {
        let mut stored = self.stored.subscribe();
        let there = stored.wait_for(|stored| stored.conflict || stored.segments >= written.segment);
        tokio::select! {
            there = tokio::time::timeout(patience, there) => match there {
                Ok(Ok(stored)) if stored.conflict => Err(Unavailable::Conflict),
                Ok(Ok(_)) => Ok(()),
                Ok(Err(_)) | Err(_) => Err(Unavailable::Store),
            },
            () = self.spool.failed() => Err(Unavailable::Disk),
        }
    }

    /// Waits until the final seal is in the store, or the chain cannot go on.
    pub async fn closed(&self) {
        let mut stored = self.stored.subscribe();
        tokio::select! {
            _ = stored.wait_for(|stored| stored.conflict || stored.closed) => {}
            () = self.spool.failed() => {}
        }
    }

    /// Seals what has waited for `age`, until the chain has ended.
    pub async fn seal_by_age(self: Arc<Chain>, age: Duration) {
        loop {
            self.opened.notified().await;
            tokio::time::sleep(age).await;
            let mut state = self.lock();
            if state.journal.is_none() {
                return;
            }
            if let Err(error) = self.seal(&mut state) {
                tracing::error!(%error, "a segment cannot be sealed");
            }
        }
    }

    /// Takes no new users any more. The first reason stays.
    pub fn stop(&self, reason: EndReason) {
        self.lock().ending.get_or_insert(reason);
        self.stir.notify_one();
    }

    /// Why the chain is ending, if it is.
    pub fn ending(&self) -> Option<EndReason> {
        self.lock().ending
    }

    /// Requests that are in flight.
    pub fn in_use(&self) -> usize {
        self.lock().in_use
    }

    /// Since when nobody uses the chain; `None` while somebody does.
    pub fn idle_since(&self) -> Option<Instant> {
        let state = self.lock();
        (state.in_use == 0).then_some(state.last_used)
    }

    /// Whether anything is in the store.
    pub fn has_stored(&self) -> bool {
        self.stored.borrow().segments > 0
    }

    /// Whether there are events that the status does not know.
    pub fn is_fresh(&self) -> bool {
        self.lock().fresh
    }

    /// Whether segments have begun or ceased to reach the store, and the status does not know.
    pub fn has_turned(&self) -> bool {
        self.lock().turned
    }

    /// The sums so far, what is in the store, and why the rest is not; what comes after this is fresh.
    pub fn look(&self) -> (Tally, Stored, Option<String>) {
        let mut state = self.lock();
        (state.fresh, state.turned) = (false, false);
        (state.tally.clone(), *self.stored.borrow(), state.trouble.clone())
    }

    /// Says that the status could not be written.
    pub fn look_again(&self) {
        let mut state = self.lock();
        (state.fresh, state.turned) = (true, true);
    }

    fn trouble(&self, why: Option<String>) {
        let mut state = self.lock();
        // The words may change with each attempt; that there is trouble is what a status is written for.
        if state.trouble.is_some() != why.is_some() {
            state.turned = true;
            self.stir.notify_one();
        }
        state.trouble = why;
    }

    /// Writes the last event and the final seal.
    pub fn finish(&self, reason: EndReason) {
        let mut state = self.lock();
        if let Err(error) = self.tell_gap(&mut state) {
            tracing::error!(%error, session = self.id.session, "a gap is not recorded");
        }
        let Some(journal) = state.journal.take() else { return };
        let number = journal.segment();
        match journal.finish(SessionEnd { reason }, self.clock.now()) {
            Ok((bytes, segment)) => {
                self.spool.push(self.number, number, &bytes);
                let mark = self.spool.close(self.number);
                self.queue(segment, mark);
            }
            Err(error) => tracing::error!(%error, session = self.id.session, "a chain cannot be closed"),
        }
        self.opened.notify_one();
    }

    fn tell_gap(&self, state: &mut State) -> Result<(), Unavailable> {
        let refusals = std::mem::take(&mut state.lost);
        if refusals > 0 {
            self.append(state, &Event::Gap(Gap { refusals }))?;
        }
        Ok(())
    }

    fn append(&self, state: &mut State, event: &Event) -> Result<Written, Unavailable> {
        let at = self.clock.now();
        let journal = state.journal.as_mut().ok_or(Unavailable::Ended)?;
        let (segment, first) = (journal.segment(), journal.open_frames() == 0);
        let bytes = journal.append(event, at)?;
        let mark = self.spool.push(self.number, segment, bytes);
        state.tally.add(event, at);
        if first {
            self.opened.notify_one();
        }
        if !state.fresh {
            state.fresh = true;
            self.stir.notify_one();
        }
        Ok(Written { mark, segment })
    }

    fn seal(&self, state: &mut State) -> Result<(), Unavailable> {
        let Some(journal) = state.journal.as_mut() else { return Ok(()) };
        let number = journal.segment();
        let Some(sealed) = journal.seal(self.clock.now())? else { return Ok(()) };
        let Some(position) = journal.position() else { return Ok(()) };
        self.spool.push(self.number, number, &sealed.tail);
        let mark = self.spool.stand(self.number, Standing { chain: self.id.clone(), position });
        self.queue(sealed.segment, mark);
        Ok(())
    }

    fn queue(&self, segment: Segment, mark: u64) {
        if self.uploads.send(Upload { segment, mark }).is_err() {
            tracing::error!(session = self.id.session, "a segment stays in the spool");
        }
    }

    /// Brings segments to the store, in order, each only after it is durable here. Where something else lies in the place of
    /// one, it and all that follow are set aside: the chain is at its end.
    async fn upload(self: Arc<Chain>, mut queue: mpsc::UnboundedReceiver<Upload>, way: Way) {
        while let Some(Upload { segment, mark }) = self.next(&mut queue).await {
            if self.spool.durable(mark).await.is_err() {
                return;
            }
            let conflict = self.stored.borrow().conflict;
            let brought = if conflict { false } else { self.bring(&segment, &way).await };
            if brought {
                self.trouble(None);
                self.stored.send_modify(|stored| {
                    stored.segments = segment.number;
                    stored.root = Some(segment.root);
                    stored.bytes += segment.bytes.len() as u64;
                    stored.closed = segment.is_final;
                });
                self.spool.release(self.number, segment.number);
            } else {
                self.set_aside(&segment, &way).await;
            }
            if segment.is_final {
                return;
            }
        }
    }

    /// Whether the segment lies in the store now.
    async fn bring(&self, segment: &Segment, way: &Way) -> bool {
        let trouble = |why| self.trouble(Some(why));
        let Err(error) = way.bring(&self.id, segment.number, &segment.bytes, trouble).await else {
            return true;
        };
        tracing::error!(%error, session = self.id.session, "a chain cannot go on");
        self.trouble(Some(error.to_string()));
        self.stored.send_modify(|stored| stored.conflict = true);
        self.stop(EndReason::ProxyStopped);
        false
    }

    async fn set_aside(&self, segment: &Segment, way: &Way) {
        way.set_aside();
        let (folder, id, number) = (self.aside.clone(), self.id.clone(), segment.number);
        let bytes = segment.bytes.clone();
        let kept =
            tokio::task::spawn_blocking(move || recover::keep_aside(&folder, &id, number, &bytes)).await;
        match kept {
            Ok(Ok(())) => self.spool.release(self.number, number),
            Ok(Err(error)) => {
                tracing::error!(%error, session = self.id.session, "a segment cannot be set aside")
            }
            Err(error) => tracing::error!(%error, session = self.id.session, "a segment was not set aside"),
        }
    }

    /// The next segment; ends the open one where somebody waits for it and no other is there.
    async fn next(&self, queue: &mut mpsc::UnboundedReceiver<Upload>) -> Option<Upload> {
        loop {
            tokio::select! {
                biased;
                upload = queue.recv() => return upload,
                () = self.wanted.notified() => {
                    if let Err(error) = self.seal(&mut self.lock()) {
                        tracing::error!(%error, session = self.id.session, "a segment cannot be sealed");
                    }
                }
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Clock {
    /// Both clocks.
    pub fn now(&self) -> Stamp {
        let monotonic_ns = u64::try_from(self.0.elapsed().as_nanos()).unwrap_or(u64::MAX);
        Stamp { monotonic_ns, wall_us: jiff::Timestamp::now().as_microsecond() }
    }
}

/// About as long as the event's frame will be.
fn rough_size(event: &Event) -> usize {
    let body = match event {
        Event::Intent(intent) => intent.body.as_ref(),
        Event::Refusal(refusal) => refusal.body.as_ref(),
        Event::SessionStart(_)
        | Event::Outcome(_)
        | Event::Review(_)
        | Event::Grant(_)
        | Event::SessionEnd(_)
        | Event::Gap(_) => None,
    };
    USUAL_FRAME + body.map_or(0, |body| body.text().len() * 5 / 4)
}
