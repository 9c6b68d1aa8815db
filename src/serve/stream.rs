//! The bytes of one connection, with or without TLS, and with what was read ahead put back.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio_rustls::server::TlsStream;

use super::link::{ClientLink, Tcp};

/// How long a closed connection is still read from, so that the last answer arrives: closing over unread bytes makes
/// the system send a reset, which may destroy the answer on its way.
pub(super) const LINGER: Duration = Duration::from_secs(2);

/// The two kinds of connection.
pub(super) enum Transported {
    Plain(Tcp),
    // A TLS session is large, and most of a plain connection's life should not carry its size.
    Tls(Box<TlsStream<Tcp>>),
}

/// A connection whose first bytes may have been read before.
pub(super) struct Stream {
    ahead: Bytes,
    transported: Transported,
}

impl Stream {
    pub(super) const fn new(transported: Transported) -> Self {
        Self { ahead: Bytes::new(), transported }
    }

    /// Puts bytes back, to be read again first.
    pub(super) fn rewind(&mut self, bytes: Bytes) {
        debug_assert!(self.ahead.is_empty(), "bytes are put back once");
        self.ahead = bytes;
    }

    pub(super) const fn is_tls(&self) -> bool {
        matches!(self.transported, Transported::Tls(_))
    }

    /// The TCP connection, if nothing is between it and the bytes that are sent.
    pub(super) const fn plain(&self) -> Option<&Tcp> {
        match &self.transported {
            Transported::Plain(tcp) => Some(tcp),
            Transported::Tls(_) => None,
        }
    }

    /// The link of whoever is on the other side.
    pub(super) fn link(&self) -> ClientLink {
        match &self.transported {
            Transported::Plain(stream) => stream.link(),
            Transported::Tls(stream) => stream.get_ref().0.link(),
        }
    }

    fn inner(self: Pin<&mut Self>) -> Pin<&mut dyn Duplex> {
        match &mut self.get_mut().transported {
            Transported::Plain(stream) => Pin::new(stream),
            Transported::Tls(stream) => Pin::new(&mut **stream),
        }
    }
}

trait Duplex: AsyncRead + AsyncWrite + Unpin {}

impl<T: AsyncRead + AsyncWrite + Unpin> Duplex for T {}

impl AsyncRead for Stream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.ahead.has_remaining() {
            let length = self.ahead.len().min(buf.remaining());
            buf.put_slice(&self.ahead.split_to(length));
            return Poll::Ready(Ok(()));
        }
        self.inner().poll_read(cx, buf)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.inner().poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.inner().poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        match &self.transported {
            Transported::Plain(stream) => stream.is_write_vectored(),
            Transported::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.inner().poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.inner().poll_shutdown(cx)
    }
}

/// Reads and drops what still comes, until the other side ends or [`LINGER`] is over.
pub(super) async fn linger(stream: &mut (impl AsyncRead + Unpin)) {
    let mut scrap = [0; 4096];
    let drained = async { while stream.read(&mut scrap).await.is_ok_and(|length| length > 0) {} };
    let _ = tokio::time::timeout(LINGER, drained).await;
}
