//! A connection whose small writes go out together: the codec writes each frame by itself, and each write would be a record
//! of TLS and a call of the system.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::super::http1::Limit;

/// How much is gathered: four records of TLS, which the system takes by one call.
const GATHERED_BYTES_MAX: usize = 64 * 1024;

/// What a connection may hold while it has nothing to send.
const KEPT_BYTES_MAX: usize = 4 * 1024;

/// A connection that gathers what is written, until it is flushed; and whose receiver may not stand still.
pub(super) struct Gathered<W> {
    inner: W,
    out: BytesMut,
    stall: Duration,
    limit: Limit,
}

impl<W: AsyncWrite + Unpin> Gathered<W> {
    pub(super) fn new(inner: W, stall: Duration) -> Self {
        Self { inner, out: BytesMut::new(), stall, limit: Limit::default() }
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
        while !self.out.is_empty() {
            let written = Pin::new(&mut self.inner).poll_write(cx, &self.out);
            let written = ready!(self.progressing(cx, written))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.out.advance(written);
        }
        if self.out.capacity() > KEPT_BYTES_MAX {
            self.out = BytesMut::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl<W: AsyncRead + Unpin> AsyncRead for Gathered<W> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl<W: AsyncWrite + Unpin> AsyncWrite for Gathered<W> {
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
        ready!(self.poll_drain(cx))?;
        let flushed = Pin::new(&mut self.inner).poll_flush(cx);
        self.progressing(cx, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_drain(cx))?;
        let closed = Pin::new(&mut self.inner).poll_shutdown(cx);
        self.progressing(cx, closed)
    }
}
