//! An answer's body, followed to its end: the record's last word about a request comes from here.
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::StatusCode;
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::BodyExt;
use recording::event::{Disposition, LogSum};
use recording::hash::{Hash, Hasher};
use thiserror::Error;
use tokio_util::sync::CancellationToken;

use crate::mask::{End, Tally};
use crate::record::{Ended, Pending};
use crate::refuse::{Body, BodyError, Reason};
use crate::streams::StreamCut;
use crate::telemetry::Telemetry;

/// What sort of answer is followed.
#[derive(Clone, Debug, Default)]
pub struct Sort {
    /// A log: its figures are kept.
    pub is_log: bool,
    /// Of a stream: cancelled when the gate ends it.
    pub ending: Option<CancellationToken>,
}

/// Follows `body` and finishes `pending` when it ends, breaks or is dropped. `tally` is the mask's.
pub fn followed(
    body: Body,
    pending: Pending,
    status: StatusCode,
    tally: Arc<Tally>,
    telemetry: Telemetry,
    sort: Sort,
) -> Body {
    let (pending, log) = (Some(pending), sort.is_log.then(Log::new));
    let ending = sort.ending;
    Followed { inner: body, pending, status, tally, telemetry, bytes: 0, log, ending }.boxed_unsync()
}

/// What masks the body panicked: nothing more of it leaves (F29).
#[derive(Debug, Error)]
#[error("the gate failed while it passed on the answer")]
struct Panicked;

struct Followed {
    inner: Body,
    pending: Option<Pending>,
    status: StatusCode,
    tally: Arc<Tally>,
    telemetry: Telemetry,
    bytes: u64,
    log: Option<Log>,
    ending: Option<CancellationToken>,
}

/// The figures of a log so far.
struct Log {
    lines: u64,
    hasher: Hasher,
}

impl Log {
    fn new() -> Self {
        Self { lines: 0, hasher: Hash::of_stream() }
    }

    fn take(&mut self, bytes: &[u8]) {
        self.lines += u64::try_from(bytes.iter().filter(|byte| **byte == b'\n').count()).unwrap_or_default();
        self.hasher.update(bytes);
    }

    fn sum(self) -> LogSum {
        LogSum { lines: self.lines, sha256: self.hasher.finish() }
    }
}

impl Followed {
    fn finish(&mut self, disposition: Disposition, reason: Option<&str>) {
        let Some(pending) = self.pending.take() else { return };
        let masked = self.tally.masked_values();
        self.telemetry.masked_values(masked);
        pending.finish(Ended {
            code: self.status.as_u16(),
            masked,
            bytes: self.bytes,
            disposition,
            reason: reason.map(str::to_owned),
            log: self.log.take().map(Log::sum),
        });
    }

    /// The gate told the stream to end, without a reason that a client would read (F02).
    fn is_ended_here(&self) -> bool {
        self.ending.as_ref().is_some_and(CancellationToken::is_cancelled)
    }

    fn take(&mut self, bytes: &[u8]) {
        self.bytes += u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        if let Some(log) = &mut self.log {
            log.take(bytes);
        }
    }
}

impl HttpBody for Followed {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let inner = &mut self.inner;
        let polled = catch_unwind(AssertUnwindSafe(|| Pin::new(inner).poll_frame(cx)));
        let polled = polled.unwrap_or_else(|_| Poll::Ready(Some(Err(Panicked.into()))));
        match &polled {
            Poll::Pending => {}
            Poll::Ready(None) if self.is_ended_here() => self.finish(Disposition::Cut, None),
            Poll::Ready(None) => self.finish(Disposition::Executed, None),
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(data) = frame.data_ref() {
                    self.take(data);
                }
                if self.inner.is_end_stream() {
                    self.finish(Disposition::Executed, None);
                }
            }
            Poll::Ready(Some(Err(error))) => {
                if let Some(StreamCut(reason)) = error.downcast_ref::<StreamCut>() {
                    self.finish(Disposition::Cut, Some(reason));
                } else if error.is::<Panicked>() {
                    tracing::error!("an answer's masking panicked");
                    self.inner = crate::refuse::whole(Bytes::new());
                    self.finish(Disposition::Executed, Some(Reason::InternalError.as_str()));
                } else {
                    tracing::warn!(%error, "an answer broke off");
                    self.finish(Disposition::Executed, Some("AnswerBrokeOff"));
                }
            }
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

impl Drop for Followed {
    /// The client left before the end: what was asked for was done all the same (F30).
    fn drop(&mut self) {
        let reason = if self.tally.ended() == End::Broken { "AnswerBrokeOff" } else { "ClientLeft" };
        self.finish(Disposition::Executed, Some(reason));
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::wildcard_enum_match_arm, reason = "a test that cannot go on fails")]
mod tests {
    use std::time::Instant;

    use recording::event::Event;

    use super::*;
    use crate::record::Durability;
    use crate::record::tests::fixture::{World, facts, intent};

    /// Stands where the mask does: one frame, and then a fault of ours.
    struct Faulty(bool);

    impl HttpBody for Faulty {
        type Data = Bytes;
        type Error = BodyError;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
            assert!(!std::mem::replace(&mut self.0, true), "an injected fault");
            Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b"masked\n")))))
        }
    }

    #[tokio::test]
    async fn f29_a_panic_behind_an_answer_breaks_it_off_and_is_recorded() {
        let world = World::new();
        let recorder = world.open("p0");
        let session = recorder.session(&facts()).await.unwrap();
        let name = session.name().to_owned();
        let pending = session.intent(intent("1", "get"), Durability::Spool, Instant::now()).await.unwrap();
        let (tally, telemetry) = (Arc::default(), Telemetry::new().unwrap());
        let sort = Sort { is_log: true, ending: None };
        let body = Faulty(false).boxed_unsync();
        let mut body = followed(body, pending, StatusCode::OK, tally, telemetry, sort);
        assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "masked\n");
        assert!(body.frame().await.unwrap().is_err(), "never a clean end");
        drop((body, session));
        recorder.close(std::time::Duration::from_secs(5)).await;
        let (report, events) = world.read(&name).await;
        assert!(report.chains.iter().all(|chain| chain.problems.is_empty()), "{report:?}");
        let outcome = events.iter().find_map(|event| match event {
            Event::Outcome(outcome) => Some(outcome.clone()),
            _ => None,
        });
        let outcome = outcome.expect("an outcome");
        assert_eq!(outcome.reason.as_deref(), Some("InternalError"));
        assert_eq!(outcome.log, Some(LogSum { lines: 1, sha256: Hash::of(b"masked\n") }));
    }
}
