//! A connection whose small writes go out together: the codec writes each frame by itself, and flushes behind each answer;
//! each of these would be a record of TLS and a call of the system.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::super::http1::Limit;
use super::super::stream::LINGER;
use super::super::streams::Calm;
use super::frames::Frames;

/// How much is gathered: four records of TLS, which the system takes by one call.
const GATHERED_BYTES_MAX: usize = 64 * 1024;

/// What a connection may hold while it has nothing to send.
const KEPT_BYTES_MAX: usize = 4 * 1024;

/// Whether what is gathered is held back, since more may come at once. Whoever holds it back has the codec flush once more
/// when he lets it go.
#[derive(Debug, Clone, Default)]
pub(super) struct Hold(Arc<AtomicBool>);

impl Hold {
    pub(super) fn set(&self, held: bool) {
        self.0.store(held, Ordering::Relaxed);
    }

    fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// A connection that gathers what is written, until it is flushed and not held back; whose receiver may not stand still;
/// and which is not read any more once its client has to be sent away.
pub(super) struct Gathered<W> {
    inner: W,
    out: BytesMut,
    hold: Hold,
    stall: Duration,
    limit: Limit,
    frames: Frames,
    calm: Arc<Calm>,
    closed: bool,
}

impl<W: AsyncRead + AsyncWrite + Unpin> Gathered<W> {
    pub(super) fn new(inner: W, stall: Duration, hold: Hold, calm: Arc<Calm>) -> Self {
        let (out, limit, frames) = (BytesMut::new(), Limit::default(), Frames::new(calm.clone()));
        Self { inner, out, hold, stall, limit, frames, calm, closed: false }
    }

    /// Reads and drops what a client still sends that is sent away, for a while: closing over it would destroy the word
    /// that says so on its way.
    fn poll_linger(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.limit.set_once(LINGER);
        let mut scrap = [0; 4096];
        while self.limit.poll(cx).is_pending() {
            let mut scrap = ReadBuf::new(&mut scrap);
            let read = ready!(Pin::new(&mut self.inner).poll_read(cx, &mut scrap));
            if read.is_err() || scrap.filled().is_empty() {
                break;
            }
        }
        Poll::Ready(())
    }

    fn progressing<T>(&mut self, cx: &mut Context<'_>, write: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if write.is_ready() {
            self.limit.clear();
            return write;
        }
        self.limit.set_once(self.stall);
        ready!(self.limit.poll(cx));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the receiver takes nothing")))
    }

    /// Sends what was gathered.
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let is_much = self.out.len() > KEPT_BYTES_MAX;
        while !self.out.is_empty() {
            let written = Pin::new(&mut self.inner).poll_write(cx, &self.out);
            let written = ready!(self.progressing(cx, written))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.out.advance(written);
        }
        // What was taken from its begin does not count as capacity any more.
        if is_much || self.out.capacity() > KEPT_BYTES_MAX {
            self.out = BytesMut::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl<W: AsyncRead + AsyncWrite + Unpin> AsyncRead for Gathered<W> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.calm.is_exhausted() {
            // Whoever runs the connection sees that next.
            return Poll::Pending;
        }
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.inner).poll_read(cx, buf))?;
        self.frames.pass(&buf.filled()[before..]);
        Poll::Ready(Ok(()))
    }
}

impl<W: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Gathered<W> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[io::IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        let length: usize = bufs.iter().map(|buf| buf.len()).sum();
        if this.out.len() + length > GATHERED_BYTES_MAX {
            ready!(this.poll_drain(cx))?;
        }
        if length > GATHERED_BYTES_MAX {
            let written = Pin::new(&mut this.inner).poll_write_vectored(cx, bufs);
            return this.progressing(cx, written);
        }
        bufs.iter().for_each(|buf| this.out.extend_from_slice(buf));
        Poll::Ready(Ok(length))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.hold.is_set() {
            return Poll::Ready(Ok(()));
        }
        ready!(self.poll_drain(cx))?;
        let flushed = Pin::new(&mut self.inner).poll_flush(cx);
        self.progressing(cx, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.closed {
            ready!(self.poll_drain(cx))?;
            let closed = Pin::new(&mut self.inner).poll_shutdown(cx);
            ready!(self.progressing(cx, closed))?;
            self.closed = true;
        }
        if self.calm.is_exhausted() {
            ready!(self.poll_linger(cx));
        }
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncWriteExt as _;

    /// Remembers the size of each write.
    #[derive(Default)]
    struct Writes(Vec<usize>);

    impl AsyncRead for Writes {
        fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            Poll::Pending
        }
    }

    impl AsyncWrite for Writes {
        fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
            self.0.push(buf.len());
            Poll::Ready(Ok(buf.len()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[tokio::test]
    async fn what_is_flushed_while_it_is_held_back_goes_out_together() {
        let (hold, calm) = (Hold::default(), Arc::new(Calm::new()));
        let mut gathered = Gathered::new(Writes::default(), Duration::from_secs(30), hold.clone(), calm);
        hold.set(true);
        for _ in 0..10 {
            gathered.write_all(&[0; 1_000]).await.unwrap();
            gathered.flush().await.unwrap();
        }
        assert!(gathered.inner.0.is_empty());
        hold.set(false);
        gathered.flush().await.unwrap();
        assert_eq!(gathered.inner.0, [10_000]);
        // More than is gathered does not wait.
        hold.set(true);
        for _ in 0..10 {
            gathered.write_all(&[0; 10_000]).await.unwrap();
        }
        assert_eq!(gathered.inner.0, [10_000, 60_000]);
        gathered.shutdown().await.unwrap();
        assert_eq!(gathered.inner.0, [10_000, 60_000, 40_000]);
    }
}
