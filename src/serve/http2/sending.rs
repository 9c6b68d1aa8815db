//! An answer on its way into a stream of HTTP/2: no faster than the client makes room for it.

use std::future::poll_fn;
use std::time::Duration;

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, SendStream};
use http::{HeaderMap, Response};
use tokio::time::timeout;

use super::super::streams::{Gone, Sending};

/// The sending side of a stream.
pub(super) struct Http2Sending {
    respond: SendResponse<Bytes>,
    /// Once the head was sent.
    send: Option<SendStream<Bytes>>,
    stall: Duration,
}

impl Http2Sending {
    /// Larger answers wait for room in any case: that of a stream is 64 KiB unless the client gives more.
    pub(super) const AT_ONCE_BYTES_MAX: usize = 64 * 1024;

    pub(super) const fn new(respond: SendResponse<Bytes>, stall: Duration) -> Self {
        Self { respond, send: None, stall }
    }

    /// One whose head was sent.
    pub(super) const fn begun(respond: SendResponse<Bytes>, send: SendStream<Bytes>, stall: Duration) -> Self {
        Self { respond, send: Some(send), stall }
    }

    /// Sends the rest of the body.
    pub(super) async fn send_rest(&mut self, data: Bytes) -> Result<(), Gone> {
        self.data(data, true).await
    }
}

impl Sending for Http2Sending {
    async fn interim(&mut self, interim: Response<()>) -> Result<(), Gone> {
        self.respond.send_informational(interim).map_err(|_| Gone)
    }

    async fn head(&mut self, head: Response<()>, ended: bool) -> Result<(), Gone> {
        self.send = Some(self.respond.send_response(head, ended).map_err(|_| Gone)?);
        Ok(())
    }

    async fn data(&mut self, mut data: Bytes, ended: bool) -> Result<(), Gone> {
        let Some(send) = &mut self.send else { return Err(Gone) };
        if data.is_empty() {
            return send.send_data(data, ended).map_err(|_| Gone);
        }
        while !data.is_empty() {
            send.reserve_capacity(data.len());
            if send.capacity() == 0 {
                match timeout(self.stall, poll_fn(|cx| send.poll_capacity(cx))).await {
                    Ok(Some(Ok(_))) => {}
                    Ok(Some(Err(_)) | None) => return Err(Gone),
                    Err(_) => {
                        send.send_reset(Reason::CANCEL);
                        return Err(Gone);
                    }
                }
            }
            let piece = data.split_to(send.capacity().min(data.len()));
            if !piece.is_empty() {
                send.send_data(piece, ended && data.is_empty()).map_err(|_| Gone)?;
            }
        }
        Ok(())
    }

    async fn trailers(&mut self, trailers: HeaderMap) -> Result<(), Gone> {
        let send = self.send.as_mut().ok_or(Gone)?;
        send.send_trailers(trailers).map_err(|_| Gone)
    }

    async fn left(&mut self) {
        // An error is the end of the connection.
        let _ = match &mut self.send {
            Some(send) => poll_fn(|cx| send.poll_reset(cx)).await,
            None => poll_fn(|cx| self.respond.poll_reset(cx)).await,
        };
    }

    fn break_off(&mut self) {
        match &mut self.send {
            Some(send) => send.send_reset(Reason::INTERNAL_ERROR),
            None => self.respond.send_reset(Reason::INTERNAL_ERROR),
        }
    }
}
