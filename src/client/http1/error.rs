//! Why a request was not answered.

use std::error::Error as StdError;
use std::io;

use super::outgoing::Unsendable;
use crate::http1::{ChunkError, HeadError};

/// Why an exchange failed. The connection ended with it.
#[derive(Debug, thiserror::Error)]
pub enum ExchangeError {
    /// There is none.
    #[error("no connection")]
    Connect(#[source] io::Error),
    /// The request cannot be sent; nothing of it was.
    #[error("the request cannot be sent")]
    Unsendable(#[from] Unsendable),
    /// The request's own body failed.
    #[error("the body of the request broke off")]
    Body(#[source] Box<dyn StdError + Send + Sync>),
    /// The server takes nothing more, and says nothing either.
    #[error("the connection broke")]
    Write(#[source] io::Error),
    /// The connection failed.
    #[error("the connection broke")]
    Read(#[source] io::Error),
    /// The server ended the connection before an answer.
    #[error("the other side closed the connection without an answer")]
    Closed,
    /// The server ended the connection within the body of its answer.
    #[error("the other side closed the connection in the middle")]
    CutOff,
    /// What came is no answer, or one that could be understood in two ways.
    #[error("the answer is not well formed")]
    Head(#[from] HeadError),
    /// The chunks of the answer are none.
    #[error("the body of the answer is not well formed")]
    Chunks(#[from] ChunkError),
    /// An answer `101` to a request that did not ask for it (RFC 9110 section 15.2.2).
    #[error("the answer changes to a protocol that nobody asked for")]
    Protocol,
    /// Interim answers, and no end of them.
    #[error("there are too many interim answers")]
    InterimWithoutEnd,
}

impl ExchangeError {
    /// Whether the server cannot have got the request.
    pub const fn is_unsent(&self) -> bool {
        matches!(self, Self::Connect(_) | Self::Unsendable(_))
    }

    /// Whether it is the request's own fault, and says nothing of the server.
    pub const fn is_of_request(&self) -> bool {
        matches!(self, Self::Unsendable(_) | Self::Body(_))
    }

    /// Whether the connection was gone.
    pub(super) const fn is_of_connection(&self) -> bool {
        matches!(self, Self::Write(_) | Self::Read(_) | Self::Closed)
    }
}
