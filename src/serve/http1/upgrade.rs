//! Another protocol on the connection of a request: after a 101 (RFC 9110 section 7.8), or after 2xx to CONNECT.

use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use futures_util::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::super::stream::Stream;
use super::super::witness::Watch;

/// What runs on a connection once the answer that changes its protocol was sent; in the extensions of that answer. It runs
/// in the task of the connection, has its place among the connections of the listener, and sets its own limits of time.
#[derive(Clone)]
pub struct OnUpgrade(Arc<Mutex<Option<Run>>>);

type Run = Box<dyn FnOnce(Upgraded) -> BoxFuture<'static, ()> + Send>;

impl OnUpgrade {
    /// Has `run` take the connection.
    pub fn new<F, R>(run: R) -> Self
    where
        R: FnOnce(Upgraded) -> F + Send + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        Self(Arc::new(Mutex::new(Some(Box::new(|upgraded| Box::pin(run(upgraded)))))))
    }

    pub(super) fn take(&self) -> Option<Run> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl fmt::Debug for OnUpgrade {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OnUpgrade")
    }
}

/// A connection that speaks HTTP no longer. What was read of the other protocol already is read from it first.
pub struct Upgraded {
    stream: Stream,
    /// It ends with the other protocol.
    watch: Option<Watch>,
}

impl Upgraded {
    pub(super) const fn new(stream: Stream, mut watch: Option<Watch>) -> Self {
        if let Some(watch) = &mut watch {
            // The answer was sent, but what it began ends later.
            watch.sent(0, false);
        }
        Self { stream, watch }
    }

    /// Counts what was written.
    fn counted(&mut self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let (Poll::Ready(Ok(bytes)), Some(watch)) = (&written, &mut self.watch) {
            watch.sent_more(*bytes as u64);
        }
        written
    }
}

impl fmt::Debug for Upgraded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Upgraded")
    }
}

impl AsyncRead for Upgraded {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Upgraded {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.counted(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.counted(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shut = ready!(Pin::new(&mut self.stream).poll_shutdown(cx));
        // Whoever says that there is no more has said all.
        if let (Ok(()), Some(watch)) = (&shut, &mut self.watch) {
            watch.complete();
        }
        Poll::Ready(shut)
    }
}
