//! Bodies on their way: masked as they come, in frames worth sending, and never ended cleanly when cut (E13).

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::Response;
use http::header::{self, HeaderValue};
use http_body::{Body as HttpBody, Frame};
use http_body_util::BodyExt;
use masking::Masker;

use super::{End, Masked, NotMasked, Tally};
use crate::refuse::{Body, BodyError};

/// Less than this is not sent while more is at hand.
const WORTH_SENDING: usize = 16 * 1024;

/// A body of objects, masked as it comes.
pub struct Masking<B> {
    inner: B,
    masker: Masker,
    /// Masked and not yet sent.
    ready: Vec<u8>,
    tally: Arc<Tally>,
    ended: bool,
}

impl<B> Masking<B>
where
    B: HttpBody<Data = Bytes> + Unpin,
    B::Error: Into<BodyError>,
{
    pub fn new(inner: B, masker: Masker) -> Self {
        Self { inner, masker, ready: Vec::new(), tally: Arc::default(), ended: false }
    }

    /// What is counted along the way.
    pub fn tally(&self) -> Arc<Tally> {
        Arc::clone(&self.tally)
    }

    /// What was masked so far, by rule.
    pub fn counts(&self) -> Vec<(Arc<str>, u64)> {
        self.masker.counts()
    }

    /// Reads until the end, or until more than `limit` bytes are at hand; whether it was the end. What was read stays.
    pub async fn fill(&mut self, limit: usize) -> Result<bool, NotMasked> {
        poll_fn(|cx| {
            while !self.ended && self.ready.len() <= limit {
                ready!(self.poll_read(cx))?;
            }
            Poll::Ready(Ok(self.ended))
        })
        .await
    }

    /// All that is at hand.
    pub fn into_held(self) -> Vec<u8> {
        self.ready
    }

    /// Reads and masks the next frame.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), NotMasked>> {
        let read = match ready!(Pin::new(&mut self.inner).poll_frame(cx)) {
            Some(Ok(frame)) => {
                // Trailers are dropped (B17).
                let data = frame.into_data().unwrap_or_default();
                self.masker.push(&data, &mut self.ready).map_err(NotMasked::Body)
            }
            Some(Err(error)) => Err(NotMasked::Broken(error.into())),
            None => {
                self.ended = true;
                self.masker.finish().map_err(NotMasked::Body)
            }
        };
        self.tally.count(self.masker.total());
        match &read {
            Ok(()) if self.ended => self.tally.end(End::Whole),
            Ok(()) => {}
            Err(_) => {
                self.ended = true;
                self.ready.clear();
                self.tally.end(End::Broken);
            }
        }
        Poll::Ready(read)
    }
}

impl<B> HttpBody for Masking<B>
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
        let this = &mut *self;
        while !this.ended && this.ready.len() < WORTH_SENDING {
            match this.poll_read(cx) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(error)) => {
                    tracing::warn!(%error, "an answer broke off");
                    return Poll::Ready(Some(Err(error.into())));
                }
                Poll::Pending if this.ready.is_empty() => return Poll::Pending,
                Poll::Pending => break,
            }
        }
        if this.ready.is_empty() {
            return Poll::Ready(None);
        }
        Poll::Ready(Some(Ok(Frame::data(std::mem::take(&mut this.ready).into()))))
    }

    fn is_end_stream(&self) -> bool {
        self.ended && self.ready.is_empty()
    }
}

/// A body in which nothing is masked.
struct Passing<B> {
    inner: B,
    tally: Arc<Tally>,
}

/// A body in which nothing is masked, as it comes.
pub fn passing<B>(body: B, media_type: &'static str) -> Masked<Response<Body>>
where
    B: HttpBody<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<BodyError>,
{
    let tally = Arc::new(Tally::default());
    let passing = Passing { inner: body, tally: Arc::clone(&tally) };
    let mut response = Response::new(passing.boxed_unsync());
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
    Masked { inner: response, tally }
}

impl<B> HttpBody for Passing<B>
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
        loop {
            match ready!(Pin::new(&mut self.inner).poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) if !data.is_empty() => return Poll::Ready(Some(Ok(Frame::data(data)))),
                    Ok(_) | Err(_) => {}
                },
                Some(Err(error)) => {
                    self.tally.end(End::Broken);
                    return Poll::Ready(Some(Err(error.into())));
                }
                None => {
                    self.tally.end(End::Whole);
                    return Poll::Ready(None);
                }
            }
        }
    }
}
