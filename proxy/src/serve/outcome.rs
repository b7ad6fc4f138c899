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

use crate::mask::{End, Tally};
use crate::record::{Ended, Pending};
use crate::refuse::{Body, BodyError, Reason};
use crate::streams::StreamCut;
use crate::telemetry::Telemetry;

/// Follows `body` and finishes `pending` when it ends, breaks or is dropped. `tally` is the mask's; of a log the figures are
/// kept.
pub fn followed(
    body: Body,
    pending: Pending,
    status: StatusCode,
    tally: Arc<Tally>,
    telemetry: Telemetry,
    is_log: bool,
) -> Body {
    let (pending, log) = (Some(pending), is_log.then(Log::new));
    Followed { inner: body, pending, status, tally, telemetry, bytes: 0, log }.boxed_unsync()
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
