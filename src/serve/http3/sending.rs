//! An answer on its way into a stream of HTTP/3: no faster than the client makes room for it.

use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use h3::error::{Code, StreamError};
use h3::server::RequestStream;
use http::{HeaderMap, Response};
use tokio::time::timeout;

use super::super::streams::{Count, Gone, Sending};
use super::incoming::Malformed;
use super::quic::SendStream;

/// How much has to be taken within the time that a client may stand still.
const PIECE_BYTES: usize = 16 * 1024;

/// The sending side of a stream.
pub(super) struct Http3Sending {
    stream: RequestStream<SendStream<Bytes>, Bytes>,
    /// Ends when nothing that is sent matters any more.
    over: Option<BoxFuture<'static, ()>>,
    malformed: Malformed,
    stall: Duration,
    /// It was ended, or reset.
    ended: bool,
}

impl Drop for Http3Sending {
    /// QUIC ends a stream that is dropped as if all had been sent.
    fn drop(&mut self) {
        if !self.ended {
            self.break_off();
        }
    }
}

impl Http3Sending {
    pub(super) const fn new(
        stream: RequestStream<SendStream<Bytes>, Bytes>,
        over: Option<BoxFuture<'static, ()>>,
        malformed: Malformed,
        stall: Duration,
    ) -> Self {
        Self { stream, over, malformed, stall, ended: false }
    }

    /// Resets the stream of a request that is malformed.
    pub(super) fn refuse_malformed(&mut self) {
        self.reset(Code::H3_MESSAGE_ERROR);
    }

    fn reset(&mut self, code: Code) {
        self.ended = true;
        self.stream.stop_stream(code);
    }

    /// Waits until the client has all that was sent: the end of the connection would destroy what is on its way.
    pub(super) async fn arrived(mut self) {
        if let Some(over) = self.over.take() {
            let _ = timeout(self.stall, over).await;
        }
    }

    async fn finish(&mut self) -> Result<(), Gone> {
        self.ended = true;
        self.stream.finish().await.map_err(|_| Gone)
    }

    /// Bounds how long the client may take nothing.
    fn taken(&mut self, sent: Result<Result<(), StreamError>, tokio::time::error::Elapsed>) -> Result<(), Gone> {
        match sent {
            Ok(sent) => sent.map_err(|_| Gone),
            Err(_) => {
                self.reset(Code::H3_REQUEST_CANCELLED);
                Err(Gone)
            }
        }
    }
}

impl Sending for Http3Sending {
    async fn interim(&mut self, interim: Response<()>) -> Result<(), Gone> {
        match timeout(self.stall, self.stream.send_response(interim)).await {
            // The client takes no head of this size (RFC 9114 section 4.2.2), and nothing of it was sent: it does without.
            Ok(Err(StreamError::HeaderTooBig { .. })) => Ok(()),
            sent => self.taken(sent),
        }
    }

    async fn head(&mut self, head: Response<()>, ended: bool) -> Result<(), Gone> {
        if self.malformed.is_told() {
            self.refuse_malformed();
            return Err(Gone);
        }
        let sent = timeout(self.stall, self.stream.send_response(head)).await;
        self.taken(sent)?;
        if ended { self.finish().await } else { Ok(()) }
    }

    async fn room(&mut self) -> Result<(), Gone> {
        // QUIC does not tell. What is sent of all streams and not acknowledged is bounded by its own window.
        Ok(())
    }

    async fn data(&mut self, mut data: Bytes, ended: bool, count: &mut Count<'_>) -> Result<(), Gone> {
        while !data.is_empty() {
            let piece = data.split_to(PIECE_BYTES.min(data.len()));
            let length = piece.len();
            let sent = timeout(self.stall, self.stream.send_data(piece)).await;
            self.taken(sent)?;
            count(length as u64);
        }
        if ended { self.finish().await } else { Ok(()) }
    }

    async fn trailers(&mut self, trailers: HeaderMap) -> Result<(), Gone> {
        let sent = timeout(self.stall, self.stream.send_trailers(trailers)).await;
        self.taken(sent)?;
        self.finish().await
    }

    async fn left(&mut self) {
        let Some(over) = &mut self.over else { return };
        let malformed = tokio::select! {
            () = over => false,
            () = self.malformed.told() => true,
        };
        if malformed {
            self.refuse_malformed();
        } else {
            self.over = None;
        }
    }

    fn break_off(&mut self) {
        self.reset(Code::H3_INTERNAL_ERROR);
    }
}
