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
use policy::action::Action;
use policy::decision::{Authority, Obligations};
use serde_json::json;
use thiserror::Error;
use tokio::sync::Notify;
use tokio::time::{Sleep, sleep};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use crate::authenticate::Caller;
use crate::limits::StreamPlace;
use crate::live::Live;
use crate::refuse::{Body, BodyError, Refusal};
use crate::request_id::RequestId;
use crate::telemetry::{GaugeGuard, Telemetry};

/// The timer looks at least this often, so that a clock that jumps cannot prolong a stream for long (F16).
const LOOK: Duration = Duration::from_secs(5);

/// An event needs this long to leave before the stream breaks off: what is still buffered then is lost.
const LAST_WORD: Duration = Duration::from_millis(50);

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

/// Every open stream. Cloning shares them.
#[derive(Clone)]
pub struct Streams {
    open: Arc<Mutex<HashMap<u64, Entry>>>,
    next: Arc<AtomicU64>,
    opened: Arc<Notify>,
    telemetry: Telemetry,
}

struct Entry {
    what: Arc<Open>,
    until: Option<Timestamp>,
    ending: Arc<Ending>,
}

/// How a stream is told to end.
#[derive(Default)]
struct Ending {
    token: CancellationToken,
    refusal: Mutex<Option<Box<Refusal>>>,
}

impl Streams {
    /// None is open.
    pub fn new(telemetry: Telemetry) -> Self {
        Self { open: Arc::default(), next: Arc::default(), opened: Arc::default(), telemetry }
    }

    /// Registers a stream until the returned place is dropped. It is asked about at once: what changed since its
    /// decision would otherwise be missed.
    pub fn open(&self, what: Open, place: StreamPlace) -> StreamEnd {
        let (number, ending) = (self.next.fetch_add(1, Ordering::Relaxed), Arc::new(Ending::default()));
        let id = what.id.clone();
        let entry = Entry { what: Arc::new(what), until: None, ending: Arc::clone(&ending) };
        self.lock().insert(number, entry);
        self.opened.notify_one();
        StreamEnd {
            number,
            id,
            ending,
            streams: self.clone(),
            _place: place,
            _counted: self.telemetry.stream(),
        }
    }

    /// Asks about every open stream after each change and at each deadline, for ever; on `draining` all end cleanly.
    pub async fn watch_over<F>(&self, live: &Live, draining: &CancellationToken, ask: F)
    where
        F: Fn(&Open, Timestamp) -> Still + Send,
    {
        let mut changes = live.changes();
        loop {
            let soonest = self.look(&ask, Timestamp::now());
            let pause = soonest.map_or(LOOK, |at| {
                let left = Duration::try_from(at.duration_since(Timestamp::now())).unwrap_or_default();
                LOOK.min(left + Duration::from_millis(1))
            });
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                Ok(()) = changes.changed() => {}
                () = self.opened.notified() => {}
                () = draining.cancelled() => break,
            }
        }
        for entry in self.lock().values() {
            entry.ending.token.cancel();
        }
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
                Still::Cut(refusal) => {
                    self.telemetry.stream_cut(refusal.reason.as_str());
                    tracing::info!(agent = %entry.what.caller.key, id = %entry.what.id, reason = refusal.reason.as_str(), "a stream was cut");
                    *entry.ending.refusal.lock().unwrap_or_else(PoisonError::into_inner) = Some(refusal);
                    entry.ending.token.cancel();
                }
            }
            soonest = [soonest, entry.until].into_iter().flatten().min();
        }
        soonest
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<u64, Entry>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The end of one registered stream.
pub struct StreamEnd {
    number: u64,
    id: RequestId,
    ending: Arc<Ending>,
    streams: Streams,
    _place: StreamPlace,
    _counted: GaugeGuard,
}

impl StreamEnd {
    /// Ends `body` when the stream is cut. A watch is told why by an `ERROR` event before it breaks off.
    pub fn guard(self, body: Body, is_watch: bool) -> Body {
        let cut = Box::pin(self.ending.token.clone().cancelled_owned());
        let guarded =
            Guarded { inner: Some(body), cut, end: self, is_watch, at_line_end: true, last_word: None };
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
    is_watch: bool,
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
        if !self.is_watch || !self.at_line_end {
            return broken;
        }
        self.last_word = Some(Box::pin(sleep(LAST_WORD)));
        let event = json!({"type": "ERROR", "object": refusal.status(&self.end.id)});
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
        if self.end.ending.token.is_cancelled() || self.cut.as_mut().poll(cx).is_ready() {
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
