//! One request and the head of its answer, on one connection.

use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{Method, Response, StatusCode, response};

use super::answer::{AnswerBody, Upload};
use super::outgoing::{Framing, Outgoing};
use super::pool::Pool;
use super::sending::{Moved, Sending};
use super::wire::Wire;
use super::{AnswerLimits, ExchangeError, OnInterim};
use crate::client::Body;
use crate::http1::{BodyLength, HeadError, Limits, ResponseHead, Slots};

/// A request that has a connection, until its answer begins.
pub(super) struct Exchange<'a> {
    method: Method,
    upgrades: bool,
    keeps_alive: bool,
    on_interim: Option<OnInterim>,
    interim_count: usize,
    limits: AnswerLimits,
    pool: &'a Arc<Pool>,
    wire: Option<Wire>,
    sending: Sending,
    /// The server takes nothing more. It may have said why.
    refused: Option<ExchangeError>,
    /// Something of an answer came.
    heard: bool,
    /// Behind an interim answer there may be another one already.
    unread: bool,
}

/// The begin of an answer.
struct Begun {
    parts: response::Parts,
    length: BodyLength,
    keeps_alive: bool,
    /// All of the body, where it came with the head.
    whole: Option<Bytes>,
}

impl<'a> Exchange<'a> {
    /// Takes the body of `outgoing`; all else of it can be used again.
    pub(super) fn new(
        wire: Wire,
        outgoing: &mut Outgoing,
        moved: Option<Arc<Moved>>,
        (pool, limits): (&'a Arc<Pool>, AnswerLimits),
    ) -> Self {
        let (head, body) = (outgoing.head.clone(), outgoing.body.take());
        Self {
            method: outgoing.method.clone(),
            upgrades: outgoing.upgrades,
            keeps_alive: outgoing.keeps_alive,
            on_interim: outgoing.on_interim.clone(),
            interim_count: 0,
            limits,
            pool,
            sending: Sending::new(head, body, outgoing.expects, wire.transport.is_tls(), moved),
            wire: Some(wire),
            refused: None,
            heard: false,
            unread: false,
        }
    }

    /// Whether the request, which failed so, may be sent again: the server said nothing, and either has not got it or it
    /// changes nothing. A deletion that is done twice is a second deletion, of what somebody may have written between them:
    /// whether it may be repeated only who asks can say (RFC 9110 section 9.2.2).
    pub(super) fn may_be_repeated(&self, error: &ExchangeError) -> bool {
        let harmless = !self.sending.begun || self.method.is_safe();
        error.is_of_connection() && !self.heard && harmless && !self.sending.body_begun
    }

    pub(super) fn into_untouched_body(self) -> Option<(Body, Framing)> {
        self.sending.into_untouched_body()
    }

    /// Sends and reads, both at the same time, until the answer begins.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Response<AnswerBody>, ExchangeError>> {
        loop {
            self.send(cx)?;
            let Begun { parts, length, keeps_alive, whole } = ready!(self.poll_head(cx))?;
            if parts.status.is_informational() && parts.status != StatusCode::SWITCHING_PROTOCOLS {
                self.interim(&parts)?;
                continue;
            }
            let body = self.body(parts.status, length, keeps_alive, whole)?;
            return Poll::Ready(Ok(Response::from_parts(parts, body)));
        }
    }

    fn send(&mut self, cx: &mut Context<'_>) -> Result<(), ExchangeError> {
        let Some(wire) = self.wire.as_mut().filter(|_| self.refused.is_none() && !self.sending.is_done()) else {
            return Ok(());
        };
        match self.sending.poll(cx, &mut wire.transport) {
            Poll::Ready(Err(error @ ExchangeError::Write(_))) => self.refused = Some(error),
            Poll::Ready(Err(error)) => return Err(error),
            Poll::Ready(Ok(())) | Poll::Pending => {}
        }
        Ok(())
    }

    fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<Begun, ExchangeError>> {
        let Self { wire, method, heard, refused, unread, limits, .. } = self;
        let Some(wire) = wire else { return Poll::Ready(Err(ExchangeError::Closed)) };
        let mut take = |bytes: &[u8]| {
            *heard = true;
            match begin(bytes, method, limits.head_bytes_max) {
                Ok(Some((length, begun))) => (length, Some(Ok(begun))),
                Ok(None) => (0, None),
                Err(error) => (0, Some(Err(error.into()))),
            }
        };
        if std::mem::take(unread)
            && let Some(begun) = wire.take_ahead(&mut take)
        {
            return Poll::Ready(begun);
        }
        match ready!(wire.poll_head(cx, take)) {
            Ok(Some(begun)) => Poll::Ready(begun),
            Ok(None) => Poll::Ready(Err(refused.take().unwrap_or(ExchangeError::Closed))),
            Err(error) => Poll::Ready(Err(refused.take().unwrap_or(ExchangeError::Read(error)))),
        }
    }

    fn interim(&mut self, parts: &response::Parts) -> Result<(), ExchangeError> {
        self.interim_count += 1;
        if self.interim_count > self.limits.interim_count_max {
            return Err(ExchangeError::InterimWithoutEnd);
        }
        if parts.status == StatusCode::CONTINUE {
            self.sending.goes_on();
        }
        if let Some(OnInterim(tell)) = &self.on_interim {
            tell(parts.status, &parts.headers);
        }
        self.unread = true;
        Ok(())
    }

    /// The body of the answer, with the connection if it needs it.
    fn body(
        &mut self,
        status: StatusCode,
        length: BodyLength,
        keeps_alive: bool,
        whole: Option<Bytes>,
    ) -> Result<AnswerBody, ExchangeError> {
        let wire = self.wire.take().ok_or(ExchangeError::Closed)?;
        let sent = self.sending.is_done();
        if status == StatusCode::SWITCHING_PROTOCOLS {
            // What is behind an unfinished body is not the other protocol's.
            return if self.upgrades && sent {
                Ok(AnswerBody::of_protocol(wire))
            } else {
                Err(ExchangeError::Protocol)
            };
        }
        let reusable = sent && keeps_alive && self.keeps_alive;
        if let Some(bytes) = whole {
            return Ok(AnswerBody::whole(bytes, wire, Some(self.pool).filter(|_| reusable)));
        }
        if sent || self.refused.is_some() || self.sending.is_expecting() {
            return Ok(AnswerBody::coming(wire, length, self.pool.clone(), reusable));
        }
        let (upload, wire) = Upload::begin(&mut self.sending, wire);
        Ok(AnswerBody::beside(wire, length, self.pool.clone(), upload))
    }
}

/// Reads the head at the begin of `bytes`, and the body behind it if it is all there; how much of `bytes` both are.
fn begin(bytes: &[u8], method: &Method, head_bytes: usize) -> Result<Option<(usize, Begun)>, HeadError> {
    let mut slots = Slots::new();
    let limits = Limits { head_bytes, target_bytes: 0 };
    let Some(head) = ResponseHead::parse(bytes, &limits, &mut slots)? else { return Ok(None) };
    let length = head.body(method)?;
    // RFC 9112 section 6.3 case 3: it may be an attempt to smuggle, and is to be handled as an error.
    if length == BodyLength::Chunked && head.fields().first("content-length").is_some() {
        return Err(HeadError::TwoLengths);
    }
    let begin = head.length();
    let body = match length {
        BodyLength::Empty => Some(0),
        BodyLength::Exactly(length) => usize::try_from(length).ok().filter(|length| *length <= bytes.len() - begin),
        BodyLength::Chunked | BodyLength::UntilClose => None,
    };
    let taken = begin + body.unwrap_or(0);
    let copy = Bytes::copy_from_slice(&bytes[..taken]);
    let parts = head.to_parts_of(&copy)?;
    let whole = body.map(|_| copy.slice(begin..));
    Ok(Some((taken, Begun { parts, length, keeps_alive: head.keeps_alive(method), whole })))
}
