//! One connection to a server, and what was read of it ahead of whoever wants it.

use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};
use std::time::Instant;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::runtime;
use tokio_util::io::poll_read_buf;

use super::transport::Transport;

/// How much is read at a time of a head, with what comes behind it. The stack has this.
const SCRAP_BYTES: usize = 8 * 1024;

/// How much of a body is read at a time.
pub(super) const FILL_BYTES: usize = 64 * 1024;

/// The same of large bodies whose reader keeps up: to pass 1 MiB on in such pieces costs two thirds of what it costs in
/// small ones.
pub(super) const LARGE_FILL_BYTES: usize = 256 * 1024;

/// When less room than this is left in a buffer, another one is taken.
const ROOM_BYTES_MIN: usize = 16 * 1024;

/// A connection. It belongs to the runtime in which it was opened: there the system tells of it, and to be told in
/// another one costs a thread to be woken.
pub(in crate::client) struct Wire {
    pub(super) transport: Transport,
    /// What was read and not taken up.
    pub(super) ahead: BytesMut,
    pub(super) opened: Instant,
    pub(super) runtime: runtime::Id,
}

impl Wire {
    pub(in crate::client) fn new(transport: Transport, opened: Instant) -> Self {
        let runtime = runtime::Handle::current().id();
        Self { transport, ahead: BytesMut::new(), opened, runtime }
    }

    /// Whether nothing came while nothing was asked for: neither an end nor bytes. What a server sends unasked is no answer
    /// to the next request (RFC 9112 section 9.2).
    pub(super) fn is_at_rest(&mut self) -> bool {
        let mut byte = [MaybeUninit::uninit(); 1];
        let mut byte = ReadBuf::uninit(&mut byte);
        let mut cx = Context::from_waker(Waker::noop());
        self.ahead.is_empty() && Pin::new(&mut self.transport).poll_read(&mut cx, &mut byte).is_pending()
    }

    /// Reads the begin of an answer and lets `take` look at all that came so far; it says how much it has taken, and what
    /// it made of it. `None` where the server ended.
    ///
    /// What `take` needs no more than a look at never is in a buffer: the stack has it.
    pub(super) fn poll_head<T>(
        &mut self,
        cx: &mut Context<'_>,
        mut take: impl FnMut(&[u8]) -> (usize, Option<T>),
    ) -> Poll<io::Result<Option<T>>> {
        loop {
            let mut scrap = [MaybeUninit::uninit(); SCRAP_BYTES];
            let mut scrap = ReadBuf::uninit(&mut scrap);
            ready!(Pin::new(&mut self.transport).poll_read(cx, &mut scrap))?;
            let bytes = scrap.filled();
            if bytes.is_empty() {
                return Poll::Ready(Ok(None));
            }
            if self.ahead.is_empty() {
                let (taken, made) = take(bytes);
                self.ahead.extend_from_slice(&bytes[taken..]);
                if made.is_some() {
                    return Poll::Ready(Ok(made));
                }
                continue;
            }
            // Without the end of a line nothing becomes clearer, unless it is that there is too much.
            let clearer = memchr::memchr(b'\n', bytes).is_some()
                || self.ahead.len() + bytes.len() >= super::AnswerLimits::USUAL.head_bytes_max;
            self.ahead.extend_from_slice(bytes);
            if clearer && let Some(made) = self.take_ahead(&mut take) {
                return Poll::Ready(Ok(Some(made)));
            }
        }
    }

    /// Lets `take` look at what was read ahead.
    pub(super) fn take_ahead<T>(&mut self, mut take: impl FnMut(&[u8]) -> (usize, Option<T>)) -> Option<T> {
        if self.ahead.is_empty() {
            return None;
        }
        let (taken, made) = take(&self.ahead);
        bytes::Buf::advance(&mut self.ahead, taken);
        made
    }
}

/// Reads up to `wanted` bytes into `ahead`, whose buffer is used again once the pieces that were cut from it are gone; 0
/// where the server ended.
pub(super) fn fill(
    stream: &mut (impl AsyncRead + Unpin),
    ahead: &mut BytesMut,
    cx: &mut Context<'_>,
    wanted: usize,
) -> Poll<io::Result<usize>> {
    let room = ahead.capacity() - ahead.len();
    if room < wanted.min(ROOM_BYTES_MIN) || wanted == LARGE_FILL_BYTES && room < LARGE_FILL_BYTES / 2 {
        ahead.reserve(wanted);
    }
    poll_read_buf(Pin::new(stream), cx, ahead)
}

impl AsyncRead for Wire {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if !self.ahead.is_empty() {
            let length = self.ahead.len().min(buf.remaining());
            buf.put_slice(&self.ahead.split_to(length));
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.transport).poll_read(cx, buf)
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.transport).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.transport).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.transport.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.transport).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.transport).poll_shutdown(cx)
    }
}
