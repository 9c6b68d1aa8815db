//! The body of a request that comes by a stream of HTTP/2.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::RecvStream;
use http::{HeaderMap, StatusCode, header};
use hyper::body::{Body, Frame, SizeHint};

use super::super::http1::Interim;

/// The handler's end. The client may send as much more as was taken from it.
#[derive(Debug)]
pub(in crate::serve) struct Incoming {
    stream: RecvStream,
    /// How many bytes are to come, if that was said; that no others come is seen to by the codec (RFC 9113 section 8.1.1).
    left: Option<u64>,
    /// By which the client is told to go on, when its body is first wanted.
    waiting: Option<Interim>,
    ended: bool,
}

impl Incoming {
    pub(super) fn new(stream: RecvStream, headers: &HeaderMap, waiting: Option<Interim>) -> Self {
        let length = headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
        Self { stream, left: length, waiting, ended: false }
    }
}

impl Body for Incoming {
    type Data = Bytes;
    type Error = h2::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        if let Some(waiting) = self.waiting.take() {
            // Where the answer has begun, the client knows better already.
            let _ = waiting.send(StatusCode::CONTINUE, HeaderMap::new());
        }
        if self.ended {
            return Poll::Ready(None);
        }
        match ready!(self.stream.poll_data(cx)) {
            Some(Ok(data)) => {
                self.stream.flow_control().release_capacity(data.len())?;
                self.left = self.left.map(|left| left.saturating_sub(data.len() as u64));
                Poll::Ready(Some(Ok(Frame::data(data))))
            }
            Some(Err(error)) => {
                self.ended = true;
                Poll::Ready(Some(Err(error)))
            }
            None => {
                let trailers = ready!(self.stream.poll_trailers(cx));
                self.ended = true;
                Poll::Ready(trailers.transpose().map(|trailers| trailers.map(Frame::trailers)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.ended || self.stream.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.left.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}
