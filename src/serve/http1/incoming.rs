//! The body of a request, from the task that runs its connection to whoever handles the request.
//!
//! One piece is on its way at a time: the connection reads no faster than the handler does.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::HeaderMap;
use hyper::body::{Body, Frame, SizeHint};

use crate::http1::ChunkError;

/// Why the body of a request broke off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum IncomingError {
    /// The client ended, or the connection did, before the body's end.
    #[error("the connection ended within the body")]
    Ended,
    /// What came was no body.
    #[error("the body is not well formed")]
    Malformed(#[from] ChunkError),
}

/// The handler's end. Until it is first asked, a client that waits for `100 Continue` is not told to go on.
#[derive(Debug)]
pub struct Incoming {
    pipe: Arc<Mutex<Pipe>>,
    /// How many bytes are to come, if that was said.
    left: Option<u64>,
    ended: bool,
}

/// The connection's end.
#[derive(Debug)]
pub(super) struct Sender {
    pipe: Arc<Mutex<Pipe>>,
}

/// What the handler would like the connection to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Want {
    /// Read on.
    More,
    /// It is not interested in the rest.
    Nothing,
}

#[derive(Debug, Default)]
struct Pipe {
    wanted: bool,
    piece: Option<Bytes>,
    end: Option<Result<HeaderMap, IncomingError>>,
    dropped: bool,
    handler: Option<Waker>,
    connection: Option<Waker>,
}

/// A pipe for a body of `left` bytes, or of a length that is not known.
pub(super) fn pipe(left: Option<u64>) -> (Sender, Incoming) {
    let pipe = Arc::new(Mutex::new(Pipe::default()));
    (Sender { pipe: pipe.clone() }, Incoming { pipe, left, ended: false })
}

fn lock(pipe: &Mutex<Pipe>) -> MutexGuard<'_, Pipe> {
    pipe.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Leaves `cx` where it is woken from.
fn register(waker: &mut Option<Waker>, cx: &Context<'_>) {
    match waker {
        Some(waker) => waker.clone_from(cx.waker()),
        None => *waker = Some(cx.waker().clone()),
    }
}

fn wake(waker: &mut Option<Waker>) {
    if let Some(waker) = waker.take() {
        waker.wake();
    }
}

impl Sender {
    /// Waits until the handler wants more than it has, or nothing any more.
    pub(super) fn poll_want(&self, cx: &Context<'_>) -> Poll<Want> {
        let mut pipe = lock(&self.pipe);
        if pipe.dropped {
            return Poll::Ready(Want::Nothing);
        }
        if pipe.wanted && pipe.piece.is_none() {
            return Poll::Ready(Want::More);
        }
        register(&mut pipe.connection, cx);
        Poll::Pending
    }

    /// Whether the handler is not interested in the rest.
    pub(super) fn is_unwanted(&self) -> bool {
        lock(&self.pipe).dropped
    }

    /// Hands on a piece that was wanted.
    pub(super) fn push(&self, piece: Bytes) {
        let mut pipe = lock(&self.pipe);
        debug_assert!(pipe.piece.is_none(), "one piece at a time");
        pipe.piece = Some(piece);
        wake(&mut pipe.handler);
    }

    /// Ends the body.
    pub(super) fn end(self, end: Result<HeaderMap, IncomingError>) {
        lock(&self.pipe).end = Some(end);
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        let mut pipe = lock(&self.pipe);
        pipe.end.get_or_insert(Err(IncomingError::Ended));
        wake(&mut pipe.handler);
    }
}

impl Body for Incoming {
    type Data = Bytes;
    type Error = IncomingError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, IncomingError>>> {
        let this = &mut *self;
        if this.ended {
            return Poll::Ready(None);
        }
        let mut pipe = lock(&this.pipe);
        if let Some(piece) = pipe.piece.take() {
            this.left = this.left.map(|left| left.saturating_sub(piece.len() as u64));
            wake(&mut pipe.connection);
            return Poll::Ready(Some(Ok(Frame::data(piece))));
        }
        if let Some(end) = pipe.end.take() {
            this.ended = true;
            return Poll::Ready(match end {
                Ok(trailers) if trailers.is_empty() => None,
                Ok(trailers) => Some(Ok(Frame::trailers(trailers))),
                Err(error) => Some(Err(error)),
            });
        }
        pipe.wanted = true;
        register(&mut pipe.handler, cx);
        wake(&mut pipe.connection);
        Poll::Pending
    }

    fn is_end_stream(&self) -> bool {
        self.ended || self.left == Some(0)
    }

    fn size_hint(&self) -> SizeHint {
        self.left.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        let mut pipe = lock(&self.pipe);
        pipe.dropped = true;
        pipe.piece = None;
        wake(&mut pipe.connection);
    }
}
