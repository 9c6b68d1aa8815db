//! What stands between hyper and the connection: time limits on heads and on writes, the search for requests with two
//! lengths, and a close that lets the last answer arrive.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

use super::framing::Inspector;
use super::stream::{LINGER, Stream};

/// The number of the request on this connection that states its length in two ways.
#[derive(Debug, Clone)]
pub(super) struct TwoLengths(Arc<AtomicU64>);

impl TwoLengths {
    pub(super) fn is(&self, request: u64) -> bool {
        self.0.load(Ordering::Acquire) == request
    }
}

/// A connection as hyper sees it.
pub(super) struct Guarded {
    stream: Stream,
    inspector: Inspector,
    two_lengths: TwoLengths,
    head_timeout: Duration,
    head_deadline: Option<Pin<Box<Sleep>>>,
    write_timeout: Duration,
    write_deadline: Option<Pin<Box<Sleep>>>,
    closed: bool,
    ended: bool,
    linger_deadline: Option<Pin<Box<Sleep>>>,
}

fn after(duration: Duration) -> Pin<Box<Sleep>> {
    Box::pin(tokio::time::sleep_until(Instant::now() + duration))
}

impl Guarded {
    pub(super) fn new(stream: Stream, head_timeout: Duration, write_timeout: Duration) -> Self {
        Self {
            stream,
            inspector: Inspector::new(),
            two_lengths: TwoLengths(Arc::new(AtomicU64::new(u64::MAX))),
            head_timeout,
            // Runs from the start: whoever connects has something to ask.
            head_deadline: Some(after(head_timeout)),
            write_timeout,
            write_deadline: None,
            closed: false,
            ended: false,
            linger_deadline: None,
        }
    }

    pub(super) fn two_lengths(&self) -> TwoLengths {
        self.two_lengths.clone()
    }

    fn inspect(&mut self, bytes: &[u8]) {
        self.ended |= bytes.is_empty();
        if let Some(request) = self.inspector.feed(bytes) {
            self.two_lengths.0.store(request, Ordering::Release);
        }
        if !self.inspector.in_head() {
            if self.inspector.heads() > 0 {
                self.head_deadline = None;
            }
        } else if self.head_deadline.is_none() {
            self.head_deadline = Some(after(self.head_timeout));
        }
    }

    /// Lets a write be pending for as long as the caller takes something in time.
    fn progressing<T>(&mut self, cx: &mut Context<'_>, write: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if write.is_ready() {
            self.write_deadline = None;
            return write;
        }
        let timeout = self.write_timeout;
        let deadline = self.write_deadline.get_or_insert_with(|| after(timeout));
        ready!(deadline.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }

    fn poll_linger(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let deadline = self.linger_deadline.get_or_insert_with(|| after(LINGER));
        if deadline.as_mut().poll(cx).is_ready() {
            return Poll::Ready(());
        }
        let mut scrap = [0; 4096];
        loop {
            let mut scrap = ReadBuf::new(&mut scrap);
            let read = ready!(Pin::new(&mut self.stream).poll_read(cx, &mut scrap));
            if read.is_err() || scrap.filled().is_empty() {
                return Poll::Ready(());
            }
        }
    }
}

impl AsyncRead for Guarded {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        match Pin::new(&mut self.stream).poll_read(cx, buf) {
            Poll::Ready(Ok(())) => {
                self.inspect(&buf.filled()[before..]);
                Poll::Ready(Ok(()))
            }
            Poll::Ready(Err(error)) => {
                self.ended = true;
                Poll::Ready(Err(error))
            }
            Poll::Pending => {
                let Some(deadline) = &mut self.head_deadline else { return Poll::Pending };
                ready!(deadline.as_mut().poll(cx));
                Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
            }
        }
    }
}

impl AsyncWrite for Guarded {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let write = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.progressing(cx, write)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let write = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.progressing(cx, write)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flush = Pin::new(&mut self.stream).poll_flush(cx);
        self.progressing(cx, flush)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.closed {
            let shutdown = Pin::new(&mut self.stream).poll_shutdown(cx);
            ready!(self.progressing(cx, shutdown))?;
            self.closed = true;
        }
        // Between requests nothing is unread, so nothing can be destroyed by closing at once.
        if !self.ended && !self.inspector.between_requests() {
            ready!(self.poll_linger(cx));
        }
        Poll::Ready(Ok(()))
    }
}
