//! A socket that gives up on a peer who no longer reads (F10).
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};

/// A peer who reads, but less than this in each `limit` while something waits for him, does not read.
const LEAST: usize = 64 * 1024;

/// Fails a write when, for `limit`, neither everything nor [`LEAST`] bytes of what waits could be written. Reads pass.
pub struct Stall<T> {
    inner: T,
    limit: Duration,
    timer: Pin<Box<Sleep>>,
    waiting: bool,
    moved: usize,
}

impl<T> Stall<T> {
    /// Wraps a socket.
    pub fn new(inner: T, limit: Duration) -> Self {
        Self { inner, limit, timer: Box::pin(sleep(limit)), waiting: false, moved: 0 }
    }

    fn wrote(&mut self, progress: Poll<io::Result<usize>>, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(length)) = progress
            && self.waiting
        {
            self.moved = self.moved.saturating_add(length);
            if self.moved >= LEAST {
                self.waiting = false;
            }
        }
        if progress.is_ready() { progress } else { self.wait(cx) }
    }

    /// Everything that waited has left.
    fn emptied(&mut self, progress: Poll<io::Result<()>>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if progress.is_pending() {
            return self.wait(cx);
        }
        self.waiting = false;
        progress
    }

    fn wait<R>(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<R>> {
        if !self.waiting {
            (self.waiting, self.moved) = (true, 0);
            self.timer.as_mut().reset(Instant::now() + self.limit);
        }
        match self.timer.as_mut().poll(cx) {
            Poll::Ready(()) => {
                Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the peer does not read")))
            }
            Poll::Pending => Poll::Pending,
        }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Stall<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Stall<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let progress = Pin::new(&mut self.inner).poll_write(cx, buf);
        self.wrote(progress, cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let progress = Pin::new(&mut self.inner).poll_write_vectored(cx, bufs);
        self.wrote(progress, cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let progress = Pin::new(&mut self.inner).poll_flush(cx);
        self.emptied(progress, cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let progress = Pin::new(&mut self.inner).poll_shutdown(cx);
        self.emptied(progress, cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[tokio::test(start_paused = true)]
    async fn f10_a_peer_who_does_not_read_is_given_up() {
        let (near, mut far) = tokio::io::duplex(8);
        let mut near = Stall::new(near, Duration::from_secs(60));
        near.write_all(b"12345678").await.expect("fits");
        let started = Instant::now();
        let error = near.write_all(b"9").await.expect_err("stalled");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(started.elapsed().as_secs(), 60);
        let mut read = [0; 8];
        far.read_exact(&mut read).await.expect("still there");
        near.write_all(b"9").await.expect("a reader is served again");
    }

    #[tokio::test(start_paused = true)]
    async fn f10_a_peer_who_reads_a_byte_now_and_then_is_given_up() {
        let (near, mut far) = tokio::io::duplex(8);
        let mut near = Stall::new(near, Duration::from_secs(60));
        let sips = tokio::spawn(async move {
            while far.read_u8().await.is_ok() {
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        });
        let started = Instant::now();
        let error = near.write_all(&[0; 10_000]).await.expect_err("a byte a second");
        assert_eq!((error.kind(), started.elapsed().as_secs()), (io::ErrorKind::TimedOut, 60));
        sips.abort();
    }

    /// Takes bytes and never sends them on.
    struct Corked;

    impl AsyncWrite for Corked {
        fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
            Poll::Ready(Ok(buf.len()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Pending
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Pending
        }
    }

    #[tokio::test(start_paused = true)]
    async fn f10_what_cannot_be_flushed_is_given_up() {
        let mut near = Stall::new(Corked, Duration::from_secs(60));
        near.write_all(b"12345678").await.expect("taken");
        let started = Instant::now();
        assert_eq!(near.flush().await.expect_err("stalled").kind(), io::ErrorKind::TimedOut);
        assert_eq!(started.elapsed().as_secs(), 60);
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_who_is_slow_but_reads_is_served() {
        let (near, mut far) = tokio::io::duplex(1024);
        let mut near = Stall::new(near, Duration::from_secs(60));
        tokio::spawn(async move {
            let mut some = [0; 2048];
            while far.read(&mut some).await.is_ok_and(|length| length > 0) {
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
        });
        near.write_all(&vec![0; 1 << 20]).await.expect("2 KiB a second");
        near.flush().await.expect("all");
        tokio::time::sleep(Duration::from_secs(600)).await;
        near.write_all(&[0; 4096]).await.expect("what waited long ago does not count");
    }
}
