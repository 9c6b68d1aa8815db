//! Several ranges of one thing in one answer: `multipart/byteranges` (RFC 9110 section 14.6).

use std::collections::VecDeque;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::Version;

use super::body::{Inner, ProxyBodyError};

/// The parts of an answer, each behind its own head.
pub(super) struct Several {
    pieces: VecDeque<Piece>,
    left: u64,
}

/// What stands between two parts, or one of them.
pub(super) enum Piece {
    Text(Bytes),
    Part(Inner),
}

impl Piece {
    fn left(&self) -> u64 {
        match self {
            Self::Text(text) => text.len() as u64,
            Self::Part(part) => part.left(),
        }
    }
}

impl Several {
    pub(super) fn new(pieces: impl IntoIterator<Item = Piece>) -> Self {
        let pieces: VecDeque<_> = pieces.into_iter().collect();
        Self { left: pieces.iter().map(Piece::left).sum(), pieces }
    }

    /// How many bytes are to come.
    pub(super) const fn left(&self) -> u64 {
        self.left
    }

    /// All of it is sent by this version of HTTP.
    pub(super) fn sent_by(&mut self, version: Version) {
        for piece in &mut self.pieces {
            if let Piece::Part(part) = piece {
                part.sent_by(version);
            }
        }
    }

    /// The next bytes, `None` after the last.
    pub(super) fn poll_bytes(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, ProxyBodyError>>> {
        while let Some(piece) = self.pieces.front_mut() {
            let next = match piece {
                Piece::Text(text) => Some(Ok(std::mem::take(text))),
                Piece::Part(part) => ready!(part.poll_bytes(cx)),
            };
            let ended = piece.left() == 0;
            if ended {
                self.pieces.pop_front();
            }
            if let Some(next) = next {
                self.left -= next.as_ref().map_or(0, |bytes| bytes.len() as u64);
                return Poll::Ready(Some(next));
            }
            if !ended {
                self.pieces.pop_front();
            }
        }
        Poll::Ready(None)
    }
}
