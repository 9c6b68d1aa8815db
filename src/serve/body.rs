//! Bodies that may not stall.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper::body::{Body, Frame, SizeHint};
use tokio::time::{Instant, Sleep};

/// A body that fails when no frame comes for too long; how long the whole may take is unbounded.
#[derive(Debug)]
pub struct Timed<B> {
    body: B,
    stall: Duration,
    deadline: Option<Pin<Box<Sleep>>>,
}

/// Why a body broke off.
#[derive(Debug, thiserror::Error)]
pub enum BodyError<E> {
    /// Its sender fell silent; an HTTP server answers 408.
    #[error("no part of the body came for {0:?}")]
    Stalled(Duration),
    /// The connection failed.
    #[error("the body broke off")]
    Broken(#[source] E),
}

impl<B> Timed<B> {
    /// Bounds the silence between two frames of `body`.
    pub const fn new(body: B, stall: Duration) -> Self {
        Self { body, stall, deadline: None }
    }
}

impl<B: Body + Unpin> Body for Timed<B> {
    type Data = B::Data;
    type Error = BodyError<B::Error>;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) {
            self.deadline = None;
            return Poll::Ready(frame.map(|frame| frame.map_err(BodyError::Broken)));
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
    use bytes::Bytes;
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
