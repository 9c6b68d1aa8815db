//! Sending one request: its head, then its body as fast as the server takes it.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use http::HeaderMap;
use hyper::body::{Body as _, Frame};
use tokio::io::AsyncWrite;
use tokio::time::Sleep;

use super::ExchangeError;
use super::outgoing::{Framing, Unsendable};
use crate::client::Body;
use crate::http1::{LAST_CHUNK, chunk_size_line, write_trailers};

/// How much of a request waits to be sent before its body is asked for more.
const OUT_BYTES_MAX: usize = 64 * 1024;

/// Data of up to this size is copied behind the size of its chunk, so that both are one piece.
const COPIED_BYTES_MAX: usize = 1024;

/// How many pieces one write takes.
const SLICES: usize = 32;

/// How long a server is waited for that was asked whether it wants the body. Many never say (RFC 9110 section 10.1.1).
const EXPECTATION_MAX: Duration = Duration::from_secs(1);

/// How the body of a request moves, for whoever waits for an answer.
#[derive(Debug, Default)]
pub(in crate::client) struct Moved {
    parts: AtomicU64,
    /// All that came of it was sent, and nothing more is there.
    waits: AtomicBool,
}

impl Moved {
    /// How many parts of it were taken.
    pub(in crate::client) fn parts(&self) -> u64 {
        self.parts.load(Ordering::Relaxed)
    }

    /// Whether whoever gives it is waited for, and not the server.
    pub(in crate::client) fn waits(&self) -> bool {
        self.waits.load(Ordering::Relaxed)
    }
}

/// A request on its way out.
pub(super) struct Sending {
    out: VecDeque<Bytes>,
    out_bytes: usize,
    body: Option<(Body, Framing)>,
    /// The server was asked whether it wants the body, and is waited for.
    expecting: Option<Pin<Box<Sleep>>>,
    /// What TLS holds back is to be sent.
    flushes: bool,
    unflushed: bool,
    /// Something was handed to the system.
    pub(super) begun: bool,
    /// The body was asked for its bytes: they are not there for a second time.
    pub(super) body_begun: bool,
    /// How the body moves, if anybody wants to know.
    moved: Option<Arc<Moved>>,
}

impl Sending {
    pub(super) fn new(
        head: Bytes,
        body: Option<(Body, Framing)>,
        expects: bool,
        flushes: bool,
        moved: Option<Arc<Moved>>,
    ) -> Self {
        let expecting = expects.then(|| Box::pin(tokio::time::sleep(EXPECTATION_MAX)));
        Self::of(VecDeque::from([head]), body, expecting, flushes, moved)
    }

    fn of(
        out: VecDeque<Bytes>,
        body: Option<(Body, Framing)>,
        expecting: Option<Pin<Box<Sleep>>>,
        flushes: bool,
        moved: Option<Arc<Moved>>,
    ) -> Self {
        let out_bytes = out.iter().map(Bytes::len).sum();
        Self { out, out_bytes, body, expecting, flushes, unflushed: false, begun: false, body_begun: false, moved }
    }

    /// Nothing to send.
    pub(super) fn done() -> Self {
        Self::of(VecDeque::new(), None, None, false, None)
    }

    /// Whether all of it was handed to the system.
    pub(super) fn is_done(&self) -> bool {
        self.body.is_none() && self.out.is_empty() && !self.unflushed
    }

    /// The server wants the body.
    pub(super) fn goes_on(&mut self) {
        self.expecting = None;
    }

    /// Whether the body waits for the server's word.
    pub(super) const fn is_expecting(&self) -> bool {
        self.expecting.is_some()
    }

    /// The body, if nobody has asked for its bytes.
    pub(super) fn into_untouched_body(self) -> Option<(Body, Framing)> {
        self.body.filter(|_| !self.body_begun)
    }

    /// Sends as much as goes.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        stream: &mut (impl AsyncWrite + Unpin),
    ) -> Poll<Result<(), ExchangeError>> {
        loop {
            let pending = self.poll_body(cx)?.is_pending();
            if !self.out.is_empty() {
                ready!(self.poll_write(cx, stream)).map_err(ExchangeError::Write)?;
                continue;
            }
            // The head goes out while the body is waited for.
            if self.unflushed {
                ready!(Pin::new(&mut *stream).poll_flush(cx)).map_err(ExchangeError::Write)?;
                self.unflushed = false;
            }
            if self.body.is_none() {
                return Poll::Ready(Ok(()));
            }
            if pending {
                return Poll::Pending;
            }
        }
    }

    /// Takes up what there is of the body, up to what is worth a write.
    fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ExchangeError>> {
        if let Some(expecting) = &mut self.expecting {
            ready!(expecting.as_mut().poll(cx));
            self.expecting = None;
        }
        while self.out_bytes < OUT_BYTES_MAX
            && let Some((body, framing)) = &mut self.body
        {
            self.body_begun = true;
            let framing = *framing;
            let frame = Pin::new(body).poll_frame(cx);
            if let Some(moved) = &self.moved {
                moved.waits.store(frame.is_pending() && self.out.is_empty(), Ordering::Relaxed);
            }
            match ready!(frame) {
                Some(frame) => self.frame(frame.map_err(ExchangeError::Body)?, framing)?,
                None => self.end(&HeaderMap::new(), framing)?,
            }
        }
        Poll::Ready(Ok(()))
    }

    fn frame(&mut self, frame: Frame<Bytes>, framing: Framing) -> Result<(), ExchangeError> {
        if let Some(moved) = &self.moved {
            moved.parts.fetch_add(1, Ordering::Relaxed);
        }
        let data = match frame.into_data() {
            Ok(data) => data,
            Err(frame) => return self.end(&frame.into_trailers().unwrap_or_default(), framing),
        };
        match framing {
            Framing::Counted(left) => {
                let left = left.checked_sub(data.len() as u64).ok_or(Unsendable::TooLong)?;
                self.push(data);
                if let Some((_, framing)) = &mut self.body {
                    *framing = Framing::Counted(left);
                }
                // With a length nobody is asked whether there is more.
                if left == 0 {
                    self.body = None;
                }
            }
            Framing::Chunked => self.push_chunk(data),
        }
        Ok(())
    }

    fn end(&mut self, trailers: &HeaderMap, framing: Framing) -> Result<(), ExchangeError> {
        match framing {
            Framing::Counted(1..) => return Err(Unsendable::TooShort.into()),
            Framing::Counted(0) => {}
            Framing::Chunked if trailers.is_empty() => self.push(Bytes::from_static(LAST_CHUNK)),
            Framing::Chunked => {
                let mut out = Vec::new();
                write_trailers(&mut out, trailers);
                self.push(out.into());
            }
        }
        self.body = None;
        Ok(())
    }

    fn push(&mut self, bytes: Bytes) {
        if !bytes.is_empty() {
            self.out_bytes += bytes.len();
            self.out.push_back(bytes);
        }
    }

    fn push_chunk(&mut self, data: Bytes) {
        if data.is_empty() {
            return;
        }
        let copied = data.len() <= COPIED_BYTES_MAX;
        let mut out = Vec::with_capacity(if copied { data.len() + 20 } else { 20 });
        chunk_size_line(&mut out, data.len());
        if copied {
            out.extend_from_slice(&data);
            out.extend_from_slice(b"\r\n");
            self.push(out.into());
        } else {
            self.push(out.into());
            self.push(data);
            self.push(Bytes::from_static(b"\r\n"));
        }
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, stream: &mut (impl AsyncWrite + Unpin)) -> Poll<io::Result<()>> {
        let stream = Pin::new(stream);
        let written = if self.out.len() == 1 {
            stream.poll_write(cx, &self.out[0])
        } else {
            let mut slices = [io::IoSlice::new(&[]); SLICES];
            let count = self.out.len().min(SLICES);
            for (slice, piece) in slices.iter_mut().zip(&self.out) {
                *slice = io::IoSlice::new(piece);
            }
            stream.poll_write_vectored(cx, &slices[..count])
        };
        let mut written = ready!(written)?;
        if written == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        self.begun = true;
        self.unflushed = self.flushes;
        self.out_bytes -= written;
        while let Some(piece) = self.out.front_mut() {
            if written < piece.len() {
                piece.advance(written);
                break;
            }
            written -= piece.len();
            self.out.pop_front();
        }
        Poll::Ready(Ok(()))
    }
}
