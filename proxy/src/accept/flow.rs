//! Answers that nobody takes: an HTTP/2 stream whose client does not open its window ends, and nothing else on its
//! connection does (F10, F14). On HTTP/1.1 the socket itself stands still; see `stall`.
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::Response;
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::rt::Executor;
use tokio::time::{Instant, Sleep, sleep_until};

use super::session::InFlight;
use crate::limits::RequestPlace;
use crate::refuse::{Body, BodyError};
use crate::telemetry::Telemetry;

tokio::task_local! {
    /// The stream whose task this is.
    static STREAM: Arc<Flow>;
}

/// When a piece of an answer was handed over, while its client has not taken it.
#[derive(Debug, Default)]
struct Flow {
    handed: Mutex<Option<Instant>>,
}

impl Flow {
    fn is(&self, handed: Option<Instant>) {
        *self.handed.lock().unwrap_or_else(PoisonError::into_inner) = handed;
    }

    fn waits_since(&self) -> Option<Instant> {
        *self.handed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Runs the streams of an HTTP/2 connection, each until it ends or until nobody has taken its answer for `limit`.
#[derive(Clone)]
pub struct StreamTasks {
    limit: Duration,
    telemetry: Telemetry,
}

impl StreamTasks {
    /// With a limit for a piece of an answer that waits.
    pub fn new(limit: Duration, telemetry: Telemetry) -> Self {
        Self { limit, telemetry }
    }
}

impl<F> Executor<F> for StreamTasks
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, stream: F) {
        let (limit, telemetry) = (self.limit, self.telemetry.clone());
        tokio::spawn(StreamTask {
            inner: Box::pin(stream),
            flow: Arc::default(),
            timer: None,
            limit,
            telemetry,
        });
    }
}

/// One stream. Dropped before its end, it is reset (`CANCEL`), and what waits in it is forgotten.
struct StreamTask<F> {
    inner: Pin<Box<F>>,
    flow: Arc<Flow>,
    timer: Option<Pin<Box<Sleep>>>,
    limit: Duration,
    telemetry: Telemetry,
}

impl<F: Future<Output = ()>> Future for StreamTask<F> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        if STREAM.sync_scope(Arc::clone(&this.flow), || this.inner.as_mut().poll(cx)).is_ready() {
            return Poll::Ready(());
        }
        let Some(since) = this.flow.waits_since() else {
            this.timer = None;
            return Poll::Pending;
        };
        let end = since + this.limit;
        let timer = this.timer.get_or_insert_with(|| Box::pin(sleep_until(end)));
        if timer.deadline() != end {
            timer.as_mut().reset(end);
        }
        if timer.as_mut().poll(cx).is_pending() {
            return Poll::Pending;
        }
        this.telemetry.stream_cut("Stalled");
        tracing::info!("a stream was cut: its client takes nothing");
        Poll::Ready(())
    }
}

/// An answer on its last stretch: its body says when it waits for its client, and keeps its request in flight until it has
/// ended. Called in the stream's own task.
pub fn answering(mut answer: Response<Body>, in_flight: InFlight) -> Response<Body> {
    let flow = STREAM.try_with(Arc::clone).ok();
    let place = answer.extensions_mut().remove();
    answer.map(|inner| Answering { inner, flow, _in_flight: in_flight, _place: place }.boxed_unsync())
}

struct Answering {
    inner: Body,
    flow: Option<Arc<Flow>>,
    _in_flight: InFlight,
    _place: Option<Arc<RequestPlace>>,
}

impl HttpBody for Answering {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let polled = Pin::new(&mut self.inner).poll_frame(cx);
        if let Some(flow) = &self.flow {
            flow.is(matches!(polled, Poll::Ready(Some(Ok(_)))).then(Instant::now));
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
