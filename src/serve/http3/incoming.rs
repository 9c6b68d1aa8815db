//! The body of a request that comes by a stream of HTTP/3.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use h3::error::StreamError;
use h3::server::RequestStream;
use http::{HeaderMap, StatusCode, header};
use hyper::body::{Body, Frame, SizeHint};
use tokio::sync::Notify;

use super::super::http1::Interim;
use super::quic::RecvStream;

/// The handler's end. The client may send as much more as was taken from it.
pub(in crate::serve) struct Incoming {
    stream: RequestStream<RecvStream, Bytes>,
    /// What was read to see whether there is a body.
    first: Option<Bytes>,
    /// How many bytes are to come, if that was said.
    left: Option<u64>,
    /// By which the client is told to go on, when its body is first wanted.
    waiting: Option<Interim>,
    part: Part,
    malformed: Malformed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Data,
    Trailers,
    Over,
}

/// That a request was found to be malformed after its handler was called.
#[derive(Debug, Clone, Default)]
pub(super) struct Malformed(Arc<(AtomicBool, Notify)>);

impl Malformed {
    fn tell(&self) {
        self.0.0.store(true, Ordering::Release);
        self.0.1.notify_one();
    }

    pub(super) fn is_told(&self) -> bool {
        self.0.0.load(Ordering::Acquire)
    }

    pub(super) async fn told(&self) {
        while !self.is_told() {
            self.0.1.notified().await;
        }
    }
}

/// Why the body of a request broke off.
#[derive(Debug, thiserror::Error)]
pub enum IncomingError {
    /// Its stream or its connection ended.
    #[error("the stream broke off")]
    Stream(#[source] StreamError),
    /// It has other than so many bytes as were announced (RFC 9114 section 4.1.2).
    #[error("the body has not the length that was announced")]
    Length,
}

impl Incoming {
    pub(super) fn new(
        stream: RequestStream<RecvStream, Bytes>,
        first: Option<Bytes>,
        headers: &HeaderMap,
        waiting: Option<Interim>,
        malformed: Malformed,
    ) -> Self {
        Self { stream, first, left: stated_length(headers), waiting, part: Part::Data, malformed }
    }

    fn fail(&mut self, error: IncomingError) -> Poll<Option<Result<Frame<Bytes>, IncomingError>>> {
        self.part = Part::Over;
        if matches!(error, IncomingError::Length) {
            self.malformed.tell();
        }
        Poll::Ready(Some(Err(error)))
    }
}

/// The length that a request states.
pub(super) fn stated_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

impl Body for Incoming {
    type Data = Bytes;
    type Error = IncomingError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, IncomingError>>> {
        let this = &mut *self;
        if let Some(waiting) = this.waiting.take() {
            // Where the answer has begun, the client knows better already.
            let _ = waiting.send(StatusCode::CONTINUE, HeaderMap::new());
        }
        if this.part == Part::Data {
            let data = match this.first.take() {
                Some(first) => Some(first),
                None => match ready!(this.stream.poll_recv_data(cx)) {
                    Ok(data) => data.map(|mut data| data.copy_to_bytes(data.remaining())),
                    Err(error) => return this.fail(IncomingError::Stream(error)),
                },
            };
            let left = this.left.map(|left| left.checked_sub(data.as_ref().map_or(0, |data| data.len() as u64)));
            match (data, left) {
                (Some(_), Some(None)) | (None, Some(Some(1..))) => return this.fail(IncomingError::Length),
                (Some(data), left) => {
                    this.left = left.flatten();
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                (None, _) => this.part = Part::Trailers,
            }
        }
        if this.part == Part::Trailers {
            let trailers = match ready!(this.stream.poll_recv_trailers(cx)) {
                Ok(trailers) => trailers,
                Err(error) => return this.fail(IncomingError::Stream(error)),
            };
            this.part = Part::Over;
            return Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))));
        }
        Poll::Ready(None)
    }

    fn is_end_stream(&self) -> bool {
        self.part == Part::Over
    }

    fn size_hint(&self) -> SizeHint {
        self.left.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

impl std::fmt::Debug for Incoming {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Incoming").field("left", &self.left).field("part", &self.part).finish_non_exhaustive()
    }
}
