//! An answer on its way into a stream of HTTP/2: no faster than the client makes room for it.

use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, SendStream};
use http::{HeaderMap, Response};
use tokio::time::timeout;

use super::super::streams::{Calm, Count, Gone, Sending, worth_of_piece};
use super::room::{Piece, Room};

/// How much is handed on at a time: the answers of a connection take turns.
const PIECE_BYTES: usize = 16 * 1024;

/// What all answers of a connection have in common.
#[derive(Clone)]
pub(super) struct Shared {
    pub(super) room: Arc<Room>,
    pub(super) calm: Arc<Calm>,
    /// How long the client may take nothing.
    pub(super) stall: Duration,
}

/// The sending side of a stream.
pub(super) struct Http2Sending {
    respond: SendResponse<Piece>,
    /// Once the head was sent.
    send: Option<SendStream<Piece>>,
    shared: Shared,
}

impl Http2Sending {
    /// Larger answers wait for room in any case: that of a stream is 64 KiB unless the client gives more.
    pub(super) const AT_ONCE_BYTES_MAX: usize = 64 * 1024;

    pub(super) const fn new(respond: SendResponse<Piece>, shared: Shared) -> Self {
        Self { respond, send: None, shared }
    }

    /// One whose head was sent.
    pub(super) const fn begun(respond: SendResponse<Piece>, send: SendStream<Piece>, shared: Shared) -> Self {
        Self { respond, send: Some(send), shared }
    }

    /// Sends the rest of the body.
    pub(super) async fn send_rest(&mut self, data: Bytes, count: &mut Count<'_>) -> Result<(), Gone> {
        self.data(data, true, count).await
    }
}

/// Waits until the client has room for some of so many bytes of this stream; for how many.
async fn capacity(send: &mut SendStream<Piece>, wanted: usize, stall: Duration) -> Result<usize, Gone> {
    send.reserve_capacity(wanted);
    if send.capacity() == 0 {
        match timeout(stall, poll_fn(|cx| send.poll_capacity(cx))).await {
            Ok(Some(Ok(_))) => {}
            Ok(Some(Err(_)) | None) => return Err(Gone),
            Err(_) => {
                send.send_reset(Reason::CANCEL);
                return Err(Gone);
            }
        }
    }
    Ok(send.capacity().min(wanted))
}

/// Waits for something, while the client wants the answer.
async fn wanted<T>(send: &mut SendStream<Piece>, waiting: impl Future<Output = Result<T, Gone>>) -> Result<T, Gone> {
    let waited = tokio::select! {
        biased;
        waited = waiting => waited,
        _ = poll_fn(|cx| send.poll_reset(cx)) => return Err(Gone),
    };
    waited.inspect_err(|Gone| send.send_reset(Reason::CANCEL))
}

impl Sending for Http2Sending {
    async fn interim(&mut self, interim: Response<()>) -> Result<(), Gone> {
        self.respond.send_informational(interim).map_err(|_| Gone)
    }

    async fn head(&mut self, head: Response<()>, ended: bool) -> Result<(), Gone> {
        self.send = Some(self.respond.send_response(head, ended).map_err(|_| Gone)?);
        Ok(())
    }

    async fn room(&mut self) -> Result<(), Gone> {
        let Self { send: Some(send), shared: Shared { room, stall, .. }, .. } = self else { return Err(Gone) };
        capacity(send, 1, *stall).await?;
        // Until there is something to send, others may use it.
        send.reserve_capacity(0);
        wanted(send, room.any(*stall)).await
    }

    async fn data(&mut self, mut data: Bytes, ended: bool, handed_on: &mut Count<'_>) -> Result<(), Gone> {
        let Self { send: Some(send), shared: Shared { room, calm, stall }, .. } = self else { return Err(Gone) };
        if data.is_empty() {
            return send.send_data(Piece::EMPTY, ended).map_err(|_| Gone);
        }
        while !data.is_empty() {
            let count = capacity(send, data.len().min(PIECE_BYTES), *stall).await?;
            let piece = match room.try_piece(data.split_to(count)) {
                Ok(piece) => piece,
                Err(piece) => wanted(send, room.piece(piece, *stall)).await?,
            };
            send.send_data(piece, ended && data.is_empty()).map_err(|_| Gone)?;
            handed_on(count as u64);
            calm.earn(worth_of_piece(count));
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
