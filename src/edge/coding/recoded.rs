//! The body of an answer whose coding changes on its way to one client.

use std::task::{Context, Poll, ready};

use bytes::Bytes;
use tokio::sync::mpsc;

use super::super::body::ProxyBodyError;
use crate::compress::{DecodeError, EncodeError};

/// How many pieces may be ahead of the client.
const PIECES_MAX: usize = 2;

/// The coding of an answer could not be changed to its end.
#[derive(Debug, thiserror::Error)]
pub(in crate::edge) enum RecodeError {
    /// What it is made of broke off.
    #[error("what an answer is coded from broke off")]
    Source(#[source] Box<ProxyBodyError>),
    /// It cannot be coded.
    #[error(transparent)]
    Encode(#[from] EncodeError),
    /// It cannot be decoded.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// All places for those who code are taken.
    #[error("too many answers are decoded at this moment")]
    Busy,
    /// Whoever codes, or reads, has gone.
    #[error("nobody goes on with it")]
    Gone,
}

/// What comes from whoever codes; `None` stands for the end, which is told apart from his own.
type Piece = Result<Option<Bytes>, RecodeError>;

/// The bytes in their new coding, as they come.
pub(in crate::edge) struct Recoded {
    pieces: mpsc::Receiver<Piece>,
    ended: bool,
}

/// The other end of a [`Recoded`].
pub(super) struct Pieces(mpsc::Sender<Piece>);

impl Recoded {
    /// A body, and where its bytes are brought.
    pub(super) fn new() -> (Pieces, Self) {
        let (sender, pieces) = mpsc::channel(PIECES_MAX);
        (Pieces(sender), Self { pieces, ended: false })
    }

    /// The next bytes, `None` after the last.
    pub(in crate::edge) fn poll_bytes(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, RecodeError>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let next = match ready!(self.pieces.poll_recv(cx)) {
            Some(Ok(Some(bytes))) => Some(Ok(bytes)),
            Some(Ok(None)) => None,
            Some(Err(error)) => Some(Err(error)),
            None => Some(Err(RecodeError::Gone)),
        };
        self.ended = !matches!(next, Some(Ok(_)));
        Poll::Ready(next)
    }
}

impl Pieces {
    /// Brings the next bytes, once there is room.
    ///
    /// # Errors
    /// When nobody reads them.
    pub(super) async fn push(&self, bytes: Bytes) -> Result<(), RecodeError> {
        self.0.send(Ok(Some(bytes))).await.map_err(|_| RecodeError::Gone)
    }

    /// Says how it ended.
    pub(super) async fn end(self, end: Result<(), RecodeError>) {
        let _ = self.0.send(end.map(|()| None)).await;
    }
}
