//! Reading the body of a request, as fast as its handler takes it, and what is left of it once it was answered.

use std::io;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, Bytes};
use http::HeaderMap;

use super::super::stream::LINGER;
use super::incoming::{Incoming, IncomingError, Sender, Want, pipe};
use super::limit::Limit;
use super::wire::Wire;
use crate::http1::{BodyLength, CONTINUE, ChunkDecoder, Expectation};

/// How much of a body that nobody wants is read, so that the connection can be kept: less than a new connection costs.
const UNWANTED_BYTES_MAX: u64 = 256 * 1024;

/// The body of one request.
pub(super) struct Receiving {
    coming: Coming,
    sender: Option<Sender>,
    /// The client waits for a 100 before it sends the body.
    awaited: bool,
    unwanted_bytes: u64,
    stall: Duration,
    limit: Limit,
}

enum Coming {
    Counted(u64),
    Chunked(ChunkDecoder),
    /// It was read to its end.
    Done,
    /// Its end will not be found: nothing can follow it.
    Broken,
}

impl Receiving {
    /// The body of a request, and the handler's end of it if there is one.
    pub(super) fn new(length: BodyLength, expectation: Expectation, stall: Duration) -> (Self, Option<Incoming>) {
        let (coming, left) = match length {
            BodyLength::Exactly(bytes) => (Coming::Counted(bytes), Some(bytes)),
            BodyLength::Chunked => (Coming::Chunked(ChunkDecoder::new()), None),
            // A request never ends with its connection.
            BodyLength::Empty | BodyLength::UntilClose => (Coming::Done, Some(0)),
        };
        let (sender, incoming) = if matches!(coming, Coming::Done) {
            (None, None)
        } else {
            let (sender, incoming) = pipe(left);
            (Some(sender), Some(incoming))
        };
        let awaited = sender.is_some() && expectation == Expectation::Continue;
        (Self { coming, sender, awaited, unwanted_bytes: 0, stall, limit: Limit::default() }, incoming)
    }

    /// Whether it was read to its end, so that the next request can follow.
    pub(super) const fn is_done(&self) -> bool {
        matches!(self.coming, Coming::Done)
    }

    const fn is_coming(&self) -> bool {
        matches!(self.coming, Coming::Counted(_) | Coming::Chunked(_))
    }

    /// Whether nothing more will be read of it.
    pub(super) const fn is_over(&self) -> bool {
        // Who was answered without a 100 may send the body, or leave it out (RFC 9110 section 10.1.1).
        !self.is_coming() || self.awaited
    }

    /// Whether another request can follow, as it looks when the answer begins.
    pub(super) fn may_end(&self) -> bool {
        let unwanted = self.sender.as_ref().is_some_and(Sender::is_unwanted);
        match self.coming {
            Coming::Done => true,
            Coming::Broken => false,
            Coming::Counted(left) if unwanted => !self.awaited && self.unwanted_bytes + left <= UNWANTED_BYTES_MAX,
            Coming::Counted(_) | Coming::Chunked(_) => !self.awaited,
        }
    }

    /// The client was told to go on by somebody else.
    pub(super) const fn goes_on(&mut self) {
        self.awaited = false;
    }

    /// Reads what is wanted; whether something changed. `begun` and `answered` say how far the answer is.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        wire: &mut Wire,
        begun: bool,
        answered: bool,
    ) -> io::Result<bool> {
        let mut progress = false;
        while self.is_coming() {
            let unwanted = match self.poll_want(cx) {
                Poll::Ready(Want::Nothing) if self.awaited => break,
                Poll::Ready(want) => want == Want::Nothing,
                Poll::Pending => break,
            };
            if self.awaited && !begun {
                // RFC 9110 section 10.1.1: not if the body comes already.
                if wire.ahead.is_empty() {
                    wire.push(Bytes::from_static(CONTINUE));
                    progress = true;
                }
                self.awaited = false;
            }
            if self.take(wire, unwanted) {
                progress = true;
                continue;
            }
            match wire.poll_fill(cx)? {
                Poll::Ready(0) => self.break_off(IncomingError::Ended),
                Poll::Ready(_) => {}
                Poll::Pending => break,
            }
            progress = true;
        }
        if !self.is_coming() {
            wire.watch(cx)?;
        } else if answered {
            progress |= self.poll_limit(cx, progress);
        }
        Ok(progress)
    }

    fn poll_want(&self, cx: &Context<'_>) -> Poll<Want> {
        self.sender.as_ref().map_or(Poll::Ready(Want::Nothing), |sender| sender.poll_want(cx))
    }

    /// Takes up what was read ahead; whether there was something to hand on, or the end.
    fn take(&mut self, wire: &mut Wire, unwanted: bool) -> bool {
        let (data, ended) = match &mut self.coming {
            Coming::Counted(left) => {
                let data = usize::try_from(*left).unwrap_or(usize::MAX).min(wire.ahead.len());
                *left -= data as u64;
                (data, *left == 0)
            }
            Coming::Chunked(decoder) => match decoder.decode(&wire.ahead) {
                Ok(decoded) => {
                    wire.ahead.advance(decoded.framing);
                    (decoded.data, decoded.ended)
                }
                Err(error) => {
                    self.break_off(error.into());
                    return true;
                }
            },
            Coming::Done | Coming::Broken => return false,
        };
        if data > 0 {
            let piece = wire.ahead.split_to(data).freeze();
            match &self.sender {
                Some(sender) if !unwanted => sender.push(piece),
                _ => self.unwanted_bytes += data as u64,
            }
        }
        if ended {
            let trailers = match std::mem::replace(&mut self.coming, Coming::Done) {
                Coming::Chunked(decoder) => decoder.into_trailers(),
                _ => HeaderMap::new(),
            };
            if let Some(sender) = self.sender.take() {
                sender.end(Ok(trailers));
            }
        } else if self.unwanted_bytes > UNWANTED_BYTES_MAX {
            self.break_off(IncomingError::Ended);
        }
        data > 0 || ended
    }

    fn break_off(&mut self, error: IncomingError) {
        self.coming = Coming::Broken;
        if let Some(sender) = self.sender.take() {
            sender.end(Err(error));
        }
    }

    /// An answered request whose body does not come to its end may not hold the connection.
    fn poll_limit(&mut self, cx: &mut Context<'_>, progress: bool) -> bool {
        if self.sender.as_ref().is_none_or(Sender::is_unwanted) {
            self.limit.set_once(LINGER);
        } else if progress {
            self.limit.set(self.stall);
        } else {
            self.limit.set_once(self.stall);
        }
        let late = self.limit.poll(cx).is_ready();
        if late {
            self.break_off(IncomingError::Ended);
        }
        late
    }
}
