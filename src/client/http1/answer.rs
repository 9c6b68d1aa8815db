//! The body of an answer: read by whoever wants it, as fast as he does.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use bytes::{Buf as _, Bytes, BytesMut};
use hyper::body::{Body, Frame, SizeHint};
use tokio::io::ReadHalf;
use tokio::task::AbortHandle;

use super::ExchangeError;
use super::pool::{Large, Pool};
use super::sending::Sending;
use super::transport::Transport;
use super::upgrade::Upgraded;
use super::wire::{FILL_BYTES, LARGE_FILL_BYTES, Wire, fill};
use crate::http1::{BodyLength, ChunkDecoder};

/// The body of an answer. Dropped before its end, it ends the connection.
pub struct AnswerBody {
    state: State,
    opened: Instant,
}

enum State {
    /// All of it is here.
    Whole(Bytes),
    Coming(Box<Coming>),
    /// There is none: the connection speaks another protocol.
    Protocol(Box<Wire>),
    Ended,
}

/// A body that is not all here.
struct Coming {
    source: Source,
    length: Length,
    pool: Arc<Pool>,
    /// Whether others may have the connection behind it.
    reusable: bool,
    large: Option<Large>,
}

enum Length {
    Counted(u64),
    Chunked(ChunkDecoder),
    UntilClose,
}

/// Where bytes come from.
enum Source {
    Wire(Wire),
    /// The rest of the request is still on its way to the server.
    Beside {
        read: ReadHalf<Transport>,
        ahead: BytesMut,
        _upload: Upload,
    },
}

/// The rest of a request's body, on its way while the answer comes. Dropped, it is given up: who has the whole answer wants
/// nothing more of the server.
pub(super) struct Upload(AbortHandle);

impl Upload {
    /// Goes on with `sending` beside what is read.
    pub(super) fn begin(sending: &mut Sending, wire: Wire) -> (Self, (ReadHalf<Transport>, BytesMut, Instant)) {
        let Wire { transport, ahead, opened, .. } = wire;
        let (read, mut write) = tokio::io::split(transport);
        let mut sending = std::mem::replace(sending, Sending::done());
        let task = tokio::spawn(async move {
            // Whether the server takes it all shows in its answer.
            let _ = std::future::poll_fn(|cx| sending.poll(cx, &mut write)).await;
            // What a server takes for the end of the request may not come before that of the answer.
            std::future::pending::<()>().await;
        });
        (Self(task.abort_handle()), (read, ahead, opened))
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl std::fmt::Debug for AnswerBody {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AnswerBody").field("left", &self.size_hint()).finish_non_exhaustive()
    }
}

impl AnswerBody {
    /// A body that is here; `pool` takes the connection, unless something else came over it.
    pub(super) fn whole(bytes: Bytes, wire: Wire, pool: Option<&Arc<Pool>>) -> Self {
        let opened = wire.opened;
        if let Some(pool) = pool.filter(|_| wire.ahead.is_empty()) {
            pool.put(wire);
        }
        Self { state: if bytes.is_empty() { State::Ended } else { State::Whole(bytes) }, opened }
    }

    /// A body that comes over `wire`.
    pub(super) fn coming(wire: Wire, length: BodyLength, pool: Arc<Pool>, reusable: bool) -> Self {
        let opened = wire.opened;
        Self::of(Source::Wire(wire), length, pool, reusable, opened)
    }

    /// A body that comes while the request still goes.
    pub(super) fn beside(
        (read, ahead, opened): (ReadHalf<Transport>, BytesMut, Instant),
        length: BodyLength,
        pool: Arc<Pool>,
        upload: Upload,
    ) -> Self {
        Self::of(Source::Beside { read, ahead, _upload: upload }, length, pool, false, opened)
    }

    fn of(source: Source, length: BodyLength, pool: Arc<Pool>, reusable: bool, opened: Instant) -> Self {
        let length = match length {
            BodyLength::Empty => return Self { state: State::Ended, opened },
            BodyLength::Exactly(bytes) => Length::Counted(bytes),
            BodyLength::Chunked => Length::Chunked(ChunkDecoder::new()),
            BodyLength::UntilClose => Length::UntilClose,
        };
        let coming = Coming { source, length, pool, reusable, large: None };
        Self { state: State::Coming(Box::new(coming)), opened }
    }

    pub(super) fn of_protocol(wire: Wire) -> Self {
        let opened = wire.opened;
        Self { state: State::Protocol(Box::new(wire)), opened }
    }

    /// When the connection of the answer stood ready. It tells those who measure how much of the time to the first byte was
    /// the handshake's.
    pub const fn opened(&self) -> Instant {
        self.opened
    }

    /// The connection, behind an answer `101` (RFC 9110 section 15.2.2), for the first who asks.
    pub fn take_upgraded(&mut self) -> Option<Upgraded> {
        match std::mem::replace(&mut self.state, State::Ended) {
            State::Protocol(wire) => Some(Upgraded::new(*wire)),
            state => {
                self.state = state;
                None
            }
        }
    }
}

/// What comes of a body.
enum Piece {
    /// These bytes, and whether they are the last ones.
    Data(Bytes, bool),
    /// Its end.
    End(http::HeaderMap),
}

impl Coming {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Piece, ExchangeError>> {
        loop {
            if let Some(piece) = self.take()? {
                return Poll::Ready(Ok(piece));
            }
            let wanted = self.wanted();
            let read = match &mut self.source {
                Source::Wire(Wire { transport, ahead, .. }) => ready!(fill(transport, ahead, cx, wanted)),
                Source::Beside { read, ahead, .. } => ready!(fill(read, ahead, cx, wanted)),
            };
            match (read.map_err(ExchangeError::Read)?, &self.length) {
                (0, Length::UntilClose) => return Poll::Ready(Ok(Piece::End(http::HeaderMap::new()))),
                (0, _) => return Poll::Ready(Err(ExchangeError::CutOff)),
                _ => {}
            }
        }
    }

    /// How much to read. What is cut from a large buffer holds all of it, so whoever lags behind gets no other one.
    fn wanted(&mut self) -> usize {
        let Length::Counted(left) = self.length else { return FILL_BYTES };
        let left = usize::try_from(left).unwrap_or(usize::MAX);
        if left < LARGE_FILL_BYTES {
            return left.min(FILL_BYTES);
        }
        if self.large.is_none() {
            self.large = self.pool.large();
        }
        let ahead = match &mut self.source {
            Source::Wire(wire) => &mut wire.ahead,
            Source::Beside { ahead, .. } => ahead,
        };
        let keeps_up = ahead.try_reclaim(LARGE_FILL_BYTES) || ahead.try_reclaim(FILL_BYTES);
        if keeps_up && self.large.is_some() { LARGE_FILL_BYTES } else { FILL_BYTES }
    }

    /// What of it was read already.
    fn take(&mut self) -> Result<Option<Piece>, ExchangeError> {
        let ahead = match &mut self.source {
            Source::Wire(wire) => &mut wire.ahead,
            Source::Beside { ahead, .. } => ahead,
        };
        if ahead.is_empty() {
            return Ok(None);
        }
        match &mut self.length {
            Length::Counted(left) => {
                let length = usize::try_from(*left).unwrap_or(usize::MAX).min(ahead.len());
                *left -= length as u64;
                Ok(Some(Piece::Data(ahead.split_to(length).freeze(), *left == 0)))
            }
            Length::Chunked(decoder) => {
                let decoded = decoder.decode(ahead)?;
                ahead.advance(decoded.framing);
                Ok(if decoded.ended {
                    Some(Piece::End(std::mem::take(decoder).into_trailers()))
                } else if decoded.data > 0 {
                    Some(Piece::Data(ahead.split_to(decoded.data).freeze(), false))
                } else {
                    None
                })
            }
            Length::UntilClose => Ok(Some(Piece::Data(ahead.split().freeze(), false))),
        }
    }

    /// The answer has ended: others may have the connection, unless something else came over it.
    fn end(self) {
        if let Source::Wire(wire) = self.source
            && self.reusable
            && wire.ahead.is_empty()
        {
            self.pool.put(wire);
        }
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = ExchangeError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, ExchangeError>>> {
        let piece = match &mut self.state {
            State::Coming(coming) => ready!(coming.poll(cx)),
            State::Whole(bytes) => Ok(Piece::Data(std::mem::take(bytes), true)),
            State::Protocol(_) | State::Ended => return Poll::Ready(None),
        };
        let ended = !matches!(piece, Ok(Piece::Data(_, false)));
        if ended
            && let State::Coming(coming) = std::mem::replace(&mut self.state, State::Ended)
            && piece.is_ok()
        {
            coming.end();
        }
        Poll::Ready(match piece {
            Ok(Piece::Data(bytes, _)) => Some(Ok(Frame::data(bytes))),
            Ok(Piece::End(trailers)) if trailers.is_empty() => None,
            Ok(Piece::End(trailers)) => Some(Ok(Frame::trailers(trailers))),
            Err(error) => Some(Err(error)),
        })
    }

    fn is_end_stream(&self) -> bool {
        matches!(self.state, State::Ended | State::Protocol(_))
    }

    fn size_hint(&self) -> SizeHint {
        match &self.state {
            State::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            State::Coming(coming) => match coming.length {
                Length::Counted(left) => SizeHint::with_exact(left),
                Length::Chunked(_) | Length::UntilClose => SizeHint::default(),
            },
            State::Protocol(_) | State::Ended => SizeHint::with_exact(0),
        }
    }
}
