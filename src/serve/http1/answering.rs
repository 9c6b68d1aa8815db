//! The answer to one request: the handler runs, its head and its body become bytes on the wire.

use std::error::Error;
use std::future::Future;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use http::{HeaderMap, Response, StatusCode};
use hyper::body::{Body, Frame};
use tracing::{debug, error};

use super::super::witness::Watch;
use super::interim::Interim;
use super::outgoing::{Asked, Outgoing, Refusal, changes_protocol, framing, head, refusal, says_close};
use super::receiving::Receiving;
use super::upgrade::OnUpgrade;
use super::wire::Wire;
use crate::http1::{LAST_CHUNK, chunk_size_line, is_of_connection, write_fields, write_status_line, write_trailers};

/// How much of an answer waits to be sent before its body is asked for more.
const OUT_BYTES_MAX: usize = 64 * 1024;

/// Data of up to this size is copied behind the size of its chunk, so that both are one piece.
const COPIED_BYTES_MAX: usize = 1024;

/// The answer to one request.
pub(super) struct Answering<F, B> {
    asked: Asked,
    interim: Interim,
    state: State<F, B>,
    /// Whether another request may follow, as far as this side is concerned.
    pub(super) keeps_alive: bool,
    /// The body broke off, and the client could take what it has for the whole.
    pub(super) cut_unnoticed: bool,
    pub(super) upgrade: Option<OnUpgrade>,
    pub(super) watch: Option<Watch>,
    /// The status that is not told yet, and how much the wire has sent when the answer begins.
    untold: Option<(StatusCode, u64)>,
    /// How much of the body was given to the wire.
    body_bytes: u64,
    /// That was not all of it.
    cut: bool,
}

enum State<F, B> {
    Called(Pin<Box<F>>),
    Body(Pin<Box<B>>, Outgoing),
    Done,
}

/// What came of asking a body.
enum Asking {
    Progress,
    Pending,
}

impl<F, B> Answering<F, B> {
    pub(super) const fn has_begun(&self) -> bool {
        !matches!(self.state, State::Called(_))
    }

    pub(super) const fn is_done(&self) -> bool {
        matches!(self.state, State::Done)
    }

    /// Tells whoever watches whether the answer has begun, and how much of its body was sent.
    pub(super) fn tell_sent(&mut self, wire: &Wire) {
        if let Some(watch) = &mut self.watch {
            if let Some((status, _)) = self.untold.take_if(|(_, before)| wire.sent_bytes() > *before) {
                watch.answers(status);
            }
            // The sizes of chunks that wait are taken for bytes of the body.
            let sent = self.body_bytes.saturating_sub(wire.out_bytes() as u64);
            watch.sent(sent, matches!(self.state, State::Done) && !self.cut && wire.is_sent());
        }
    }
}

impl<F, B> Drop for Answering<F, B> {
    fn drop(&mut self) {
        self.interim.end();
    }
}

impl<F, B, E> Answering<F, B>
where
    F: Future<Output = Result<Response<B>, E>>,
    E: Into<Box<dyn Error + Send + Sync>>,
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    pub(super) fn new(asked: Asked, interim: Interim, called: F, watch: Option<Watch>) -> Self {
        Self {
            asked,
            interim,
            state: State::Called(Box::pin(called)),
            keeps_alive: asked.keeps_alive,
            cut_unnoticed: false,
            upgrade: None,
            watch,
            untold: None,
            body_bytes: 0,
            cut: false,
        }
    }

    /// Goes on as far as it can; whether something changed.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        wire: &mut Wire,
        receiving: &mut Receiving,
        stopping: bool,
    ) -> io::Result<bool> {
        let mut progress = false;
        if let State::Called(called) = &mut self.state {
            let polled = catch_unwind(AssertUnwindSafe(|| called.as_mut().poll(cx)));
            progress |= self.send_interim(cx, wire, receiving);
            match polled {
                Ok(Poll::Pending) => return Ok(progress),
                Ok(Poll::Ready(Ok(response))) => self.begin(response, wire, receiving, stopping),
                Ok(Poll::Ready(Err(error))) => {
                    let error: Box<dyn Error + Send + Sync> = error.into();
                    error!(error = &*error, "a request's handler failed");
                    self.fail(wire);
                }
                // What it said was printed where it happened.
                Err(_) => {
                    error!("a request's handler panicked");
                    self.fail(wire);
                }
            }
            progress = true;
        }
        while wire.out_bytes() < OUT_BYTES_MAX
            && let State::Body(..) = self.state
        {
            match self.poll_body(cx, wire) {
                Asking::Progress => progress = true,
                Asking::Pending => break,
            }
        }
        Ok(progress)
    }

    fn send_interim(&self, cx: &Context<'_>, wire: &mut Wire, receiving: &mut Receiving) -> bool {
        if wire.out_bytes() >= OUT_BYTES_MAX {
            return false;
        }
        let mut out = Vec::new();
        for (status, headers) in self.interim.take(cx) {
            if status == StatusCode::CONTINUE {
                receiving.goes_on();
            }
            write_status_line(&mut out, status);
            write_fields(&mut out, headers.iter().filter(|(name, _)| !is_of_connection(name)));
            out.extend_from_slice(b"\r\n");
        }
        let any = !out.is_empty();
        wire.push(out);
        any
    }

    fn fail(&mut self, wire: &mut Wire) {
        self.keeps_alive = false;
        let (status, detail) = (StatusCode::INTERNAL_SERVER_ERROR, "the request could not be answered");
        let Refusal { bytes, body_bytes } = refusal(status, detail, &[], self.asked.is_head);
        self.answers(status, wire);
        self.body_bytes = body_bytes;
        wire.push(bytes);
        self.finish();
    }

    /// What is pushed next is the head of an answer with this status.
    const fn answers(&mut self, status: StatusCode, wire: &Wire) {
        self.untold = Some((status, wire.sent_bytes() + wire.out_bytes() as u64));
    }

    /// Frees what the handler and its body hold.
    fn finish(&mut self) {
        self.state = State::Done;
        self.interim.end();
    }

    fn begin(&mut self, response: Response<B>, wire: &mut Wire, receiving: &Receiving, stopping: bool) {
        let (mut parts, body) = response.into_parts();
        let hint = body.size_hint();
        self.upgrade = parts.extensions.remove::<OnUpgrade>().filter(|_| changes_protocol(parts.status, &self.asked));
        let switches = parts.status == StatusCode::SWITCHING_PROTOCOLS;
        let outgoing = match framing(parts.status, &parts.headers, &hint, &self.asked) {
            Ok(_) if switches && (self.upgrade.is_none() || !self.asked.upgrades) => {
                error!("a handler changes the protocol where the client or nobody speaks another");
                self.upgrade = None;
                return self.fail(wire);
            }
            Ok(outgoing) => outgoing,
            Err(error) => {
                error!(%error, status = parts.status.as_u16(), "an answer cannot be sent");
                return self.fail(wire);
            }
        };
        self.keeps_alive &= !stopping && !says_close(&parts.headers) && receiving.may_end();
        self.keeps_alive &= outgoing != Outgoing::UntilClose && !(self.asked.is_connect && parts.status.is_success());
        let persists = self.keeps_alive || self.upgrade.is_some();
        self.answers(parts.status, wire);
        wire.push(head(&parts, &hint, outgoing, &self.asked, persists));
        if let Some(watch) = &mut self.watch {
            watch.leaves(parts.extensions);
        }
        self.interim.end();
        self.state = match outgoing {
            Outgoing::None | Outgoing::Counted(0) => State::Done,
            outgoing => State::Body(Box::pin(body), outgoing),
        };
    }

    fn poll_body(&mut self, cx: &mut Context<'_>, wire: &mut Wire) -> Asking {
        let State::Body(body, outgoing) = &mut self.state else { return Asking::Pending };
        match catch_unwind(AssertUnwindSafe(|| body.as_mut().poll_frame(cx))) {
            Ok(Poll::Pending) => return Asking::Pending,
            Ok(Poll::Ready(Some(Ok(frame)))) => {
                let ended = body.is_end_stream();
                let outgoing = *outgoing;
                self.frame(frame, ended, outgoing, wire);
            }
            Ok(Poll::Ready(None)) => {
                let outgoing = *outgoing;
                self.end(&HeaderMap::new(), outgoing, wire);
            }
            Ok(Poll::Ready(Some(Err(error)))) => {
                let error: Box<dyn Error + Send + Sync> = error.into();
                debug!(error = &*error, "an answer broke off");
                self.break_off();
            }
            Err(_) => {
                error!("the body of an answer panicked");
                self.break_off();
            }
        }
        Asking::Progress
    }

    fn frame(&mut self, frame: Frame<Bytes>, ended: bool, outgoing: Outgoing, wire: &mut Wire) {
        let data = match frame.into_data() {
            Ok(data) => data,
            Err(frame) => {
                let trailers = frame.into_trailers().unwrap_or_default();
                return self.end(&trailers, outgoing, wire);
            }
        };
        let length = data.len() as u64;
        self.body_bytes += length;
        let outgoing = match outgoing {
            Outgoing::Counted(left) => {
                if length > left {
                    error!("the body of an answer is longer than it says");
                    self.body_bytes -= length - left;
                    wire.push(data.slice(..left as usize));
                    self.keeps_alive = false;
                    return self.finish();
                }
                wire.push(data);
                Outgoing::Counted(left - length)
            }
            Outgoing::Chunked { .. } => {
                push_chunk(wire, data);
                outgoing
            }
            Outgoing::UntilClose | Outgoing::None => {
                wire.push(data);
                outgoing
            }
        };
        if let State::Body(_, state) = &mut self.state {
            *state = outgoing;
        }
        if ended || outgoing == Outgoing::Counted(0) {
            self.end(&HeaderMap::new(), outgoing, wire);
        }
    }

    fn end(&mut self, trailers: &HeaderMap, outgoing: Outgoing, wire: &mut Wire) {
        match outgoing {
            Outgoing::Counted(left) if left > 0 => {
                error!("the body of an answer is shorter than it says");
                return self.break_off();
            }
            Outgoing::Chunked { trailers: true } if !trailers.is_empty() => {
                let mut out = Vec::new();
                write_trailers(&mut out, trailers);
                wire.push(out);
            }
            Outgoing::Chunked { .. } => wire.push(Bytes::from_static(LAST_CHUNK)),
            _ => {}
        }
        self.finish();
    }

    /// Ends an answer in the middle, so that the client learns of it by the end of the connection (RFC 9112 section 8).
    fn break_off(&mut self) {
        (self.keeps_alive, self.cut) = (false, true);
        self.cut_unnoticed = matches!(self.state, State::Body(_, Outgoing::UntilClose));
        self.finish();
    }
}

fn push_chunk(wire: &mut Wire, data: Bytes) {
    if !data.has_remaining() {
        return;
    }
    let copied = data.len() <= COPIED_BYTES_MAX;
    let mut out = Vec::with_capacity(if copied { data.len() + 20 } else { 20 });
    chunk_size_line(&mut out, data.len());
    if copied {
        out.extend_from_slice(&data);
        out.extend_from_slice(b"\r\n");
        wire.push(out);
    } else {
        wire.push(out);
        wire.push(data);
        wire.push(Bytes::from_static(b"\r\n"));
    }
}
