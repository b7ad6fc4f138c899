//! Open streams: each is asked again whenever something changes, and cut with a true error when the answer is no.
use std::collections::HashMap;
use std::future::Future as _;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame};
use jiff::Timestamp;
use policy::action::{Action, Verb};
use policy::decision::{Authority, Obligations};
use serde_json::json;
use thiserror::Error;
use tokio::sync::Notify;
use tokio::time::{Instant, Sleep, sleep, sleep_until};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use crate::authenticate::Caller;
use crate::drain::Drain;
use crate::limits::StreamPlace;
use crate::live::Live;
use crate::refuse::{self, Body, BodyError, Refusal};
use crate::request_id::RequestId;
use crate::telemetry::{GaugeGuard, Telemetry};

/// The timer looks at least this often, so that a clock that jumps cannot prolong a stream for long (F16).
const LOOK: Duration = Duration::from_secs(5);

/// An event needs this long to leave before the stream breaks off: what is still buffered then is lost. Nothing else is sent
/// meanwhile. 50 ms were too short on a loaded machine: kubectl was told `INTERNAL_ERROR` and no reason.
const LAST_WORD: Duration = Duration::from_millis(200);

/// What a stream may go on with.
#[derive(Clone, Debug)]
pub enum Still {
    /// It may, until that moment.
    Until(Option<Timestamp>),
    /// It may not; this is what the client reads.
    Cut(Box<Refusal>),
}

/// What is asked again about a stream.
#[derive(Clone, Debug)]
pub struct Open {
    /// Who opened it.
    pub caller: Caller,
    /// What it does.
    pub action: Arc<Action>,
    /// Why it may; none for the agent's own grants.
    pub authority: Option<Authority>,
    /// What its answer owes; none for the agent's own grants.
    pub owes: Option<Obligations>,
    /// It is the agent's own grants.
    pub own_grants: bool,
    /// Its request.
    pub id: RequestId,
}

impl Open {
    fn is_watch(&self) -> bool {
        matches!(&*self.action, Action::Resource(action) if action.verb == Verb::Watch)
    }
}

/// Every open stream. Cloning shares them.
#[derive(Clone)]
pub struct Streams {
    open: Arc<Mutex<HashMap<u64, Entry>>>,
    next: Arc<AtomicU64>,
    opened: Arc<Notify>,
    drain: Drain,
    telemetry: Telemetry,
}

struct Entry {
    what: Arc<Open>,
    until: Option<Timestamp>,
    /// It is a watch that was open before the drain began.
    leaves_early: bool,
    /// It may have no end of its own.
    is_endless: bool,
    ending: Arc<Ending>,
}

/// How a stream is told to end.
#[derive(Default)]
struct Ending {
    token: CancellationToken,
    refusal: Mutex<Option<Box<Refusal>>>,
}

impl Streams {
    /// None is open. They end with `drain`.
    pub fn new(telemetry: Telemetry, drain: Drain) -> Self {
        Self { open: Arc::default(), next: Arc::default(), opened: Arc::default(), drain, telemetry }
    }

    /// Registers a stream until the returned end is dropped; one without a `place` ends by itself. It is asked about at once: what changed since its
    /// decision would otherwise be missed.
    pub fn open(&self, what: Open, place: Option<StreamPlace>) -> StreamEnd {
        let (number, ending) = (self.next.fetch_add(1, Ordering::Relaxed), Arc::new(Ending::default()));
        let (id, is_watch) = (what.id.clone(), what.is_watch());
        let leaves_early = is_watch && !self.drain.is_begun();
        let entry = Entry {
            what: Arc::new(what),
            until: None,
            leaves_early,
            is_endless: place.is_some(),
            ending: Arc::clone(&ending),
        };
        self.lock().insert(number, entry);
        self.opened.notify_one();
        StreamEnd {
            number,
            id,
            is_watch,
            ending,
            streams: self.clone(),
            _place: place,
            _counted: self.telemetry.stream(),
        }
    }

    /// Asks about every open stream after each change and at each deadline, for ever. In a drain watches end cleanly, spread
    /// over its grace: every client reads that as "go on elsewhere". A log ends when the door closes, with an error: its
    /// client could not tell a clean end from the log's own (F02, E13).
    pub async fn watch_over<F>(&self, live: &Live, ask: F)
    where
        F: Fn(&Open, Timestamp) -> Still + Send,
    {
        let mut changes = live.changes();
        loop {
            let soonest = self.look(&ask, Timestamp::now());
            let leave = self.leave();
            let pause = soonest.map_or(LOOK, |at| {
                let left = Duration::try_from(at.duration_since(Timestamp::now())).unwrap_or_default();
                LOOK.min(left + Duration::from_millis(1))
            });
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = sleep_until(leave.unwrap_or_else(Instant::now)), if leave.is_some() => {}
                Ok(()) = changes.changed() => {}
                () = self.opened.notified() => {}
                () = self.drain.begun(), if !self.drain.is_begun() => {}
                () = self.drain.closed(), if !self.drain.is_closed() => {}
            }
        }
    }

    /// Ends what the drain ends now; says when the next one leaves.
    fn leave(&self) -> Option<Instant> {
        let (now, closed, mut next) = (Instant::now(), self.drain.is_closed(), None);
        for (number, entry) in self.lock().iter() {
            if entry.ending.token.is_cancelled() {
                continue;
            }
            let at = if entry.leaves_early { self.drain.leave_at(*number) } else { None };
            if (closed && entry.is_endless) || at.is_some_and(|at| at <= now) {
                if !entry.what.is_watch() {
                    *entry.ending.refusal.lock().unwrap_or_else(PoisonError::into_inner) =
                        Some(Box::new(refuse::restarting()));
                }
                entry.ending.token.cancel();
            } else {
                next = [next, at].into_iter().flatten().min();
            }
        }
        next
    }

    /// Cuts what may not go on; says when to look again.
    fn look(&self, ask: &impl Fn(&Open, Timestamp) -> Still, now: Timestamp) -> Option<Timestamp> {
        let mut soonest = None;
        for entry in self.lock().values_mut() {
            if entry.ending.token.is_cancelled() {
                continue;
            }
            match ask(&entry.what, now) {
                Still::Until(until) => entry.until = until,
                Still::Cut(refusal) => self.end(entry, refusal),
            }
            soonest = [soonest, entry.until].into_iter().flatten().min();
        }
        soonest
    }

    /// Who opened what is open, each under the number of the stream.
    pub fn callers(&self) -> Vec<(u64, Caller)> {
        self.lock().iter().map(|(number, entry)| (*number, entry.what.caller.clone())).collect()
    }

    /// Cuts one stream, if it is still open.
    pub fn cut(&self, number: u64, refusal: Box<Refusal>) {
        if let Some(entry) = self.lock().get(&number).filter(|entry| !entry.ending.token.is_cancelled()) {
            self.end(entry, refusal);
        }
    }

    fn end(&self, entry: &Entry, refusal: Box<Refusal>) {
        let (what, reason) = (&entry.what, refusal.reason.as_str());
        self.telemetry.stream_cut(reason);
        tracing::info!(agent = %what.caller.key, id = %what.id, reason, "a stream was cut");
        *entry.ending.refusal.lock().unwrap_or_else(PoisonError::into_inner) = Some(refusal);
        entry.ending.token.cancel();
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<u64, Entry>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The end of one registered stream.
pub struct StreamEnd {
    number: u64,
    id: RequestId,
    is_watch: bool,
    ending: Arc<Ending>,
    streams: Streams,
    _place: Option<StreamPlace>,
    _counted: GaugeGuard,
}

impl StreamEnd {
    /// Returns when the stream is to end, with what its client reads if it has read nothing yet.
    pub async fn cut(&self) -> Box<Refusal> {
        self.ending.token.cancelled().await;
        self.refusal().unwrap_or_else(|| Box::new(refuse::restarting()))
    }

    /// Tells whether the gate has ended the stream, cleanly or not.
    pub fn ending(&self) -> CancellationToken {
        self.ending.token.clone()
    }

    /// Ends `body` when the stream is cut. A watch is told why by an `ERROR` event before it breaks off.
    pub fn guard(self, body: Body) -> Body {
        let cut = Box::pin(self.ending.token.clone().cancelled_owned());
        let guarded = Guarded { inner: Some(body), cut, end: self, at_line_end: true, last_word: None };
        http_body_util::BodyExt::boxed_unsync(guarded)
    }

    fn refusal(&self) -> Option<Box<Refusal>> {
        self.ending.refusal.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for StreamEnd {
    fn drop(&mut self) {
        self.streams.lock().remove(&self.number);
    }
}

/// The body broke off because the stream was cut: the client sees a broken answer, never a clean end.
#[derive(Debug, Error)]
#[error("the stream was cut: {0}")]
pub struct StreamCut(pub &'static str);

struct Guarded {
    inner: Option<Body>,
    cut: Pin<Box<WaitForCancellationFutureOwned>>,
    end: StreamEnd,
    at_line_end: bool,
    last_word: Option<Pin<Box<Sleep>>>,
}

impl Guarded {
    fn ended(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        self.inner = None;
        let Some(refusal) = self.end.refusal() else { return Poll::Ready(None) };
        let broken = Poll::Ready(Some(Err(StreamCut(refusal.reason.as_str()).into())));
        if let Some(leaving) = &mut self.last_word {
            return if leaving.as_mut().poll(cx).is_ready() { broken } else { Poll::Pending };
        }
        if !self.end.is_watch || !self.at_line_end {
            return broken;
        }
        self.last_word = Some(Box::pin(sleep(LAST_WORD)));
        let event = json!({"type": "ERROR", "object": refuse::status(&refusal, &self.end.id)});
        Poll::Ready(Some(Ok(Frame::data(Bytes::from(format!("{event}\n"))))))
    }
}

impl HttpBody for Guarded {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let is_cut = self.end.ending.token.is_cancelled() || self.cut.as_mut().poll(cx).is_ready();
        // A clean end comes between two events, never within one.
        if is_cut && (self.at_line_end || self.end.refusal().is_some()) {
            return self.ended(cx);
        }
        let Some(inner) = self.inner.as_mut() else { return Poll::Ready(None) };
        let polled = Pin::new(inner).poll_frame(cx);
        if let Poll::Ready(Some(Ok(frame))) = &polled
            && let Some(last) = frame.data_ref().and_then(|data| data.last())
        {
            self.at_line_end = *last == b'\n';
        }
        polled
    }
}
