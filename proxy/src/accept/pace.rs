//! A request's body that has to come at a pace: who sends a byte now and then is cut (F10).
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, Bytes};
use http_body::{Body as HttpBody, Frame, SizeHint};
use thiserror::Error;
use tokio::time::{Instant, Sleep, sleep_until};

use crate::refuse::BodyError;

/// What every body has, however short.
const GRACE: Duration = Duration::from_secs(10);
/// Bytes a second beyond that: a body of 3 MiB has 202 seconds.
const FLOOR: u64 = 16 * 1024;

/// The body came too slowly.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the body did not arrive in time")]
pub struct TooSlow;

/// Passes on `B`, or fails with [`TooSlow`].
pub struct Paced<B> {
    inner: B,
    began: Instant,
    read: u64,
    timer: Pin<Box<Sleep>>,
}

impl<B> Paced<B> {
    /// The time runs from now on.
    pub fn new(inner: B) -> Self {
        let began = Instant::now();
        Self { inner, began, read: 0, timer: Box::pin(sleep_until(began + GRACE)) }
    }
}

impl<B> HttpBody for Paced<B>
where
    B: HttpBody<Data = Bytes> + Unpin,
    B::Error: Into<BodyError>,
{
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let polled = Pin::new(&mut self.inner).poll_frame(cx).map_err(Into::into);
        match &polled {
            Poll::Ready(Some(Ok(frame))) => {
                let length = frame.data_ref().map_or(0, Buf::remaining);
                self.read += u64::try_from(length).unwrap_or(0);
                let end = self.began + GRACE + Duration::from_millis(self.read * 1000 / FLOOR);
                self.timer.as_mut().reset(end);
                polled
            }
            Poll::Ready(_) => polled,
            Poll::Pending => match self.timer.as_mut().poll(cx) {
                Poll::Ready(()) => Poll::Ready(Some(Err(TooSlow.into()))),
                Poll::Pending => Poll::Pending,
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::{BodyExt, StreamBody};

    use super::*;

    /// So many bytes each second, so many times.
    async fn took(bytes: usize, times: u32) -> (Result<usize, BodyError>, u64) {
        let pieces = futures::stream::unfold(0, move |done| async move {
            tokio::time::sleep(Duration::from_secs(1)).await;
            let piece = Frame::data(Bytes::from(vec![0; bytes]));
            (done < times).then_some((Ok::<_, std::convert::Infallible>(piece), done + 1))
        });
        let began = Instant::now();
        let body = Paced::new(StreamBody::new(Box::pin(pieces)));
        let read = body.collect().await.map(|whole| whole.to_bytes().len());
        (read, began.elapsed().as_secs())
    }

    #[tokio::test(start_paused = true)]
    async fn f10_a_body_that_trickles_is_cut() {
        let (read, seconds) = took(1, 3600).await;
        assert!(read.is_err_and(|error| error.is::<TooSlow>()));
        assert_eq!(seconds, 10);
        let (read, seconds) = took(8 * 1024, 384).await;
        assert!(read.is_err_and(|error| error.is::<TooSlow>()), "half the pace");
        assert!((15..=21).contains(&seconds), "{seconds}");
        let nothing = futures::stream::pending::<Result<Frame<Bytes>, std::convert::Infallible>>();
        let began = Instant::now();
        let read = Paced::new(StreamBody::new(nothing)).collect().await;
        assert!(read.is_err_and(|error| error.is::<TooSlow>()), "not a byte");
        assert_eq!(began.elapsed().as_secs(), 10);
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_line_may_send_three_mebibytes() {
        let (read, seconds) = took(16 * 1024, 192).await;
        assert_eq!((read.ok(), seconds), (Some(3 << 20), 193));
    }
}
