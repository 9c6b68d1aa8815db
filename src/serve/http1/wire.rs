//! The bytes of one connection: what was read ahead, what is to be sent, and a receiver that may not stand still.

use std::collections::VecDeque;
use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::io::poll_read_buf;

use super::super::link::Tcp;
use super::super::stream::Stream;
use super::limit::Limit;

/// How much is read at a time while a connection has nothing to hold it in: the stack has this.
pub(super) const SCRAP_BYTES: usize = 8 * 1024;

/// How much of a body is read at a time.
const FILL_BYTES: usize = 32 * 1024;

/// How much is read ahead while an answer is made: enough to learn that the client left, and a few pipelined requests.
const AHEAD_BYTES_MAX: usize = 8 * 1024;

/// How many pieces one write takes.
const SLICES: usize = 32;

/// A connection, and what is on its way in and out.
pub(super) struct Wire {
    pub(super) stream: Stream,
    /// What was read and not taken up.
    pub(super) ahead: BytesMut,
    /// The client sends nothing more.
    pub(super) read_ended: bool,
    out: VecDeque<Bytes>,
    out_bytes: usize,
    /// How much of all that was ever pushed was handed to the system.
    sent_bytes: u64,
    unflushed: bool,
    stall: Duration,
    write_limit: Limit,
}

impl Wire {
    pub(super) fn new(stream: Stream, stall: Duration) -> Self {
        Self {
            stream,
            ahead: BytesMut::new(),
            read_ended: false,
            out: VecDeque::new(),
            out_bytes: 0,
            sent_bytes: 0,
            unflushed: false,
            stall,
            write_limit: Limit::default(),
        }
    }

    /// Adds to what is to be sent. Who adds much looks at [`Self::out_bytes`] before.
    pub(super) fn push(&mut self, bytes: impl Into<Bytes>) {
        let bytes = bytes.into();
        if !bytes.is_empty() {
            self.out_bytes += bytes.len();
            self.out.push_back(bytes);
        }
    }

    /// How much waits to be sent.
    pub(super) const fn out_bytes(&self) -> usize {
        self.out_bytes
    }

    /// How much of all that was ever pushed was handed to the system.
    pub(super) const fn sent_bytes(&self) -> u64 {
        self.sent_bytes
    }

    /// Whether everything was handed to the system.
    pub(super) fn is_sent(&self) -> bool {
        self.out.is_empty() && !self.unflushed
    }

    /// Sends what was pushed.
    pub(super) fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.out.is_empty() {
            let mut slices = [io::IoSlice::new(&[]); SLICES];
            let mut count = 0;
            for (slice, piece) in slices.iter_mut().zip(&self.out) {
                *slice = io::IoSlice::new(piece);
                count += 1;
            }
            let written = Pin::new(&mut self.stream).poll_write_vectored(cx, &slices[..count]);
            let written = ready!(self.progressing(cx, written))?;
            self.advance(written)?;
        }
        self.poll_flush(cx)
    }

    fn advance(&mut self, mut written: usize) -> io::Result<()> {
        if written == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        self.unflushed = self.stream.is_tls();
        self.out_bytes -= written;
        self.sent_bytes += written as u64;
        while let Some(piece) = self.out.front_mut() {
            if written < piece.len() {
                piece.advance(written);
                break;
            }
            written -= piece.len();
            self.out.pop_front();
        }
        if self.out.is_empty() {
            // Between two requests a connection holds nothing.
            self.out = VecDeque::new();
        }
        Ok(())
    }

    /// Sends what TLS holds back.
    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.unflushed {
            let flushed = Pin::new(&mut self.stream).poll_flush(cx);
            ready!(self.progressing(cx, flushed))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    /// Says that something was written past this.
    pub(super) const fn wrote(&mut self) {
        self.unflushed = self.stream.is_tls();
    }

    /// Lets a write be pending for as long as the client takes something in time.
    pub(super) fn progressing<T>(&mut self, cx: &mut Context<'_>, write: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if write.is_ready() {
            self.write_limit.clear();
            return write;
        }
        self.write_limit.set_once(self.stall);
        ready!(self.write_limit.poll(cx));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the receiver takes nothing")))
    }

    /// Sends by `send` on a connection without TLS.
    pub(super) fn poll_plain(
        &mut self,
        cx: &mut Context<'_>,
        send: impl FnOnce(&Tcp, &mut Context<'_>) -> Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        let Some(tcp) = self.stream.plain() else { return Poll::Ready(Err(io::ErrorKind::Unsupported.into())) };
        let sent = send(tcp, cx);
        self.progressing(cx, sent)
    }

    /// Reads more of a body; 0 where the client ended.
    pub(super) fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.read_ended {
            return Poll::Ready(Ok(0));
        }
        self.ahead.reserve(FILL_BYTES);
        let read = ready!(poll_read_buf(Pin::new(&mut self.stream), cx, &mut self.ahead))?;
        self.read_ended = read == 0;
        Poll::Ready(Ok(read))
    }

    /// Looks whether the client left, while nothing is wanted of it.
    ///
    /// A client that only ended its own side still takes the answer, and gets it.
    pub(super) fn watch(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        while !self.read_ended && self.ahead.len() < AHEAD_BYTES_MAX {
            let mut scrap = [MaybeUninit::uninit(); SCRAP_BYTES];
            let mut scrap = ReadBuf::uninit(&mut scrap);
            match Pin::new(&mut self.stream).poll_read(cx, &mut scrap) {
                Poll::Ready(read) => read?,
                Poll::Pending => break,
            }
            self.read_ended = scrap.filled().is_empty();
            self.ahead.extend_from_slice(scrap.filled());
        }
        Ok(())
    }
}
