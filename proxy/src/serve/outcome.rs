//! An answer's body, followed to its end: the record's last word about a request comes from here.
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::StatusCode;
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::BodyExt;
use recording::event::Disposition;

use crate::mask::{End, Tally};
use crate::record::{Ended, Pending};
use crate::refuse::{Body, BodyError};
use crate::streams::StreamCut;
use crate::telemetry::Telemetry;

/// Follows `body` and finishes `pending` when it ends, breaks or is dropped. `tally` is the mask's.
pub fn followed(
    body: Body,
    pending: Pending,
    status: StatusCode,
    tally: Arc<Tally>,
    telemetry: Telemetry,
) -> Body {
    let pending = Some(pending);
    Followed { inner: body, pending, status, tally, telemetry, bytes: 0 }.boxed_unsync()
}

struct Followed {
    inner: Body,
    pending: Option<Pending>,
    status: StatusCode,
    tally: Arc<Tally>,
    telemetry: Telemetry,
    bytes: u64,
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
        });
    }
}

impl HttpBody for Followed {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let polled = Pin::new(&mut self.inner).poll_frame(cx);
        match &polled {
            Poll::Pending => {}
            Poll::Ready(None) => self.finish(Disposition::Executed, None),
            Poll::Ready(Some(Ok(frame))) => {
                let length = frame.data_ref().map_or(0, |data| data.len());
                self.bytes += u64::try_from(length).unwrap_or(u64::MAX);
                if self.inner.is_end_stream() {
                    self.finish(Disposition::Executed, None);
                }
            }
            Poll::Ready(Some(Err(error))) => match error.downcast_ref::<StreamCut>() {
                Some(StreamCut(reason)) => self.finish(Disposition::Cut, Some(reason)),
                None => {
                    tracing::warn!(%error, "an answer broke off");
                    self.finish(Disposition::Executed, Some("AnswerBrokeOff"));
                }
            },
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
