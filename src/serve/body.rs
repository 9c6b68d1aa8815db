//! The bodies of requests, by whichever protocol they come; they may not stall.

use std::error::Error;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use tokio::time::{Instant, Sleep};

use super::http1::Incoming;
use super::http2;
#[cfg(feature = "http3")]
use super::http3;

/// The body of a request: it fails when its sender stalls.
#[derive(Debug)]
pub struct RequestBody(Kind);

#[derive(Debug)]
enum Kind {
    Empty,
    /// From a connection that [`super::http1`] runs.
    Own(Timed<Incoming>),
    /// From one that hyper runs.
    Hyper(Timed<hyper::body::Incoming>),
    /// From a stream of HTTP/2.
    Http2(Timed<http2::Incoming>),
    /// From one of HTTP/3, whose reading side is large.
    #[cfg(feature = "http3")]
    Http3(Box<Timed<http3::Incoming>>),
}

impl RequestBody {
    /// No body.
    pub const fn empty() -> Self {
        Self(Kind::Empty)
    }

    pub(super) const fn own(body: Incoming, stall: Duration) -> Self {
        Self(Kind::Own(Timed::new(body, stall)))
    }

    pub(super) const fn hyper(body: hyper::body::Incoming, stall: Duration) -> Self {
        Self(Kind::Hyper(Timed::new(body, stall)))
    }

    pub(super) const fn http2(body: http2::Incoming, stall: Duration) -> Self {
        Self(Kind::Http2(Timed::new(body, stall)))
    }

    #[cfg(feature = "http3")]
    pub(super) fn http3(body: http3::Incoming, stall: Duration) -> Self {
        Self(Kind::Http3(Box::new(Timed::new(body, stall))))
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        match &mut self.0 {
            Kind::Empty => Poll::Ready(None),
            Kind::Own(body) => Pin::new(body).poll_frame(cx),
            Kind::Hyper(body) => Pin::new(body).poll_frame(cx),
            Kind::Http2(body) => Pin::new(body).poll_frame(cx),
            #[cfg(feature = "http3")]
            Kind::Http3(body) => Pin::new(body).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Kind::Empty => true,
            Kind::Own(body) => body.is_end_stream(),
            Kind::Hyper(body) => body.is_end_stream(),
            Kind::Http2(body) => body.is_end_stream(),
            #[cfg(feature = "http3")]
            Kind::Http3(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Kind::Empty => SizeHint::with_exact(0),
            Kind::Own(body) => body.size_hint(),
            Kind::Hyper(body) => body.size_hint(),
            Kind::Http2(body) => body.size_hint(),
            #[cfg(feature = "http3")]
            Kind::Http3(body) => body.size_hint(),
        }
    }
}

/// A body that fails when no frame comes for too long; how long the whole may take is unbounded.
#[derive(Debug)]
pub struct Timed<B> {
    body: B,
    stall: Duration,
    deadline: Option<Pin<Box<Sleep>>>,
}

/// Why a body broke off.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// Its sender fell silent; an HTTP server answers 408.
    #[error("no part of the body came for {0:?}")]
    Stalled(Duration),
    /// The connection failed.
    #[error("the body broke off")]
    Broken(#[source] Box<dyn Error + Send + Sync>),
}

impl<B> Timed<B> {
    /// Bounds the silence between two frames of `body`.
    pub const fn new(body: B, stall: Duration) -> Self {
        Self { body, stall, deadline: None }
    }
}

impl<B> Body for Timed<B>
where
    B: Body + Unpin,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    type Data = B::Data;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) {
            self.deadline = None;
            return Poll::Ready(frame.map(|frame| frame.map_err(|error| BodyError::Broken(error.into()))));
        }
        let stall = self.stall;
        // Made only when there is something to wait for: most frames of a fast body are there already.
        let deadline = self.deadline.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(Instant::now() + stall)));
        ready!(deadline.as_mut().poll(cx));
        Poll::Ready(Some(Err(BodyError::Stalled(stall))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::{BodyExt, StreamBody};
    use tokio::sync::mpsc;

    #[tokio::test]
    async fn silence_ends_a_body_and_a_frame_ends_the_silence() {
        let (send, mut frames) = mpsc::channel::<Bytes>(1);
        let stream = futures_util::stream::poll_fn(move |cx| frames.poll_recv(cx));
        let stream = futures_util::StreamExt::map(stream, |bytes| Ok::<_, std::io::Error>(Frame::data(bytes)));
        let mut body = Timed::new(StreamBody::new(stream), Duration::from_millis(20));

        assert!(futures_util::poll!(body.frame()).is_pending());
        assert!(body.deadline.is_some());
        send.send(Bytes::from_static(b"part")).await.unwrap();
        assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "part");
        assert!(body.deadline.is_none(), "the next frame has its whole time again");

        assert!(matches!(body.frame().await, Some(Err(BodyError::Stalled(_)))));
        drop(send);
        assert!(body.frame().await.is_none());
    }
}
