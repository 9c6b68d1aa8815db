//! HTTP/2 (RFC 9113) on connections that agreed upon it by TLS, by the codec of `h2`.
//!
//! One task runs a connection with all its streams, and lets go out together what of them was ready together. What a client
//! can have done or kept here is bounded: streams at a time, heads, what is read ahead of bodies and sent ahead of the
//! client, what it does for nothing, and how long it may be idle or stand still.

mod frames;
mod gathered;
mod incoming;
mod room;
mod sending;

use std::error::Error;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use h2::server::{self, SendResponse};
use h2::{Reason, RecvStream};
use http::{Request, Response, request};
use hyper::body::Body;
use tokio::time::timeout;
use tokio_util::sync::WaitForCancellationFutureOwned;
use tower::Service;
use tracing::debug;

use super::RequestBody;
use super::http1::{Caller, Clock, Common, Hot, HotAnswer, HotBody, HotRequest, Interim, Limit};
use super::stream::{LINGER, Stream};
use super::streams::{
    ANSWER_WORTH, CONNECTION_WINDOW_BYTES, Calm, Gone, IN_VAIN_COST, Receipted, STREAM_WINDOW_BYTES, STREAMS_MAX,
    Unprepared, answer_hit, exchange, expects_continue, prepare, refuse, response_of, worth_of_piece,
};
use super::witness::{Came, Watch};
use crate::http1::Version;
use gathered::{Gathered, Hold};
pub(super) use incoming::Incoming;
use room::{Piece, ROOM_BYTES, Room};
use sending::{Http2Sending, Shared};

/// How many streams that the client reset before they were looked at are kept in mind; a client that makes more of them
/// (CVE-2023-44487) is sent away.
const RESET_UNSEEN_MAX: usize = 20;

/// How many streams that were reset are kept in mind, for frames that are still on their way.
const RESET_MAX: usize = 64;

/// How many requests a client may send that the codec finds to be malformed.
const MALFORMED_MAX: usize = 256;

type Io = Gathered<Stream>;
type Codec = server::Connection<Io, Piece>;
type Respond = SendResponse<Piece>;
/// It ends with an error where the client did not take the answer.
type Running = Pin<Box<dyn Future<Output = Result<(), Gone>> + Send>>;

/// Answers the requests of one connection until it ends or, once the listener stops, the running answers do.
pub(super) async fn run<S, B, H>(stream: Stream, caller: Caller, common: Arc<Common<S, H>>)
where
    S: Service<Request<RequestBody>, Response = Response<B>> + Clone + Send + Sync + 'static,
    S::Future: Send,
    S::Error: Into<Box<dyn Error + Send + Sync>> + Send,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
    H: Hot,
{
    let peer = caller.address;
    let stall = common.config.stall_timeout();
    let (hold, shared) = (Hold::default(), Shared { room: Room::new(), calm: Arc::new(Calm::new()), stall });
    let io = Gathered::new(stream, stall, hold.clone(), shared.calm.clone());
    let begun = server::Builder::new()
        .max_concurrent_streams(STREAMS_MAX)
        .max_header_list_size(common.config.header_bytes_max as u32)
        .initial_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_concurrent_reset_streams(RESET_MAX)
        .max_pending_accept_reset_streams(RESET_UNSEEN_MAX)
        .max_local_error_reset_streams(Some(MALFORMED_MAX))
        .max_send_buffer_size(ROOM_BYTES)
        .handshake(io);
    let codec = match timeout(common.config.header_timeout(), begun).await {
        Ok(Ok(codec)) => codec,
        Ok(Err(error)) => return debug!(%peer, %error, "no HTTP/2 came"),
        Err(_) => return debug!(%peer, "nothing came in time"),
    };
    let mut connection = Connection::new(codec, hold, shared, caller, common);
    match poll_fn(|cx| connection.poll(cx)).await {
        Ok(()) => {}
        Err(error) => debug!(%peer, %error, "connection broke off"),
    }
}

struct Connection<S, H> {
    codec: Codec,
    hold: Hold,
    shared: Shared,
    running: FuturesUnordered<Running>,
    caller: Arc<Caller>,
    common: Arc<Common<S, H>>,
    clock: Clock,
    /// While no request is answered: until when another one has to come, or the client has to leave.
    limit: Limit,
    told: Pin<Box<WaitForCancellationFutureOwned>>,
    /// The client was told to send no more.
    leaving: bool,
    /// The client was sent away.
    sent_away: bool,
}

/// What came of looking for another request.
enum Next {
    Begun,
    None,
    Closed,
}

impl<S, B, H> Connection<S, H>
where
    S: Service<Request<RequestBody>, Response = Response<B>> + Clone + Send + Sync + 'static,
    S::Future: Send,
    S::Error: Into<Box<dyn Error + Send + Sync>> + Send,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
    H: Hot,
{
    fn new(codec: Codec, hold: Hold, shared: Shared, caller: Caller, common: Arc<Common<S, H>>) -> Self {
        let mut limit = Limit::default();
        limit.set(common.config.header_timeout());
        let told = Box::pin(common.stopping.told_owned());
        let (running, caller, clock) = (FuturesUnordered::new(), Arc::new(caller), Clock::new());
        Self { codec, hold, shared, running, caller, common, clock, limit, told, leaving: false, sent_away: false }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), h2::Error>> {
        loop {
            self.hold.set(true);
            loop {
                match self.next(cx)? {
                    Next::Begun => {}
                    Next::None => break,
                    Next::Closed => return Poll::Ready(Ok(())),
                }
            }
            while let Poll::Ready(Some(ended)) = self.running.poll_next_unpin(cx) {
                self.ended(ended);
            }
            // Nothing more is ready: all that was answered goes out.
            self.hold.set(false);
            match self.next(cx)? {
                Next::Begun => continue,
                Next::None => {}
                Next::Closed => return Poll::Ready(Ok(())),
            }
            if !self.sent_away && self.shared.calm.is_exhausted() {
                self.send_away();
                continue;
            }
            if !self.leaving && self.told.as_mut().poll(cx).is_ready() {
                self.leave();
                continue;
            }
            if !self.running.is_empty() || self.limit.poll(cx).is_pending() {
                return Poll::Pending;
            }
            if self.leaving {
                // It does not even acknowledge that.
                return Poll::Ready(Ok(()));
            }
            self.leave();
        }
    }

    /// Begins to answer the next request. A request that was reset has its place until its handler is gone: the codec
    /// counts it no more.
    fn next(&mut self, cx: &mut Context<'_>) -> Result<Next, h2::Error> {
        if self.sent_away || self.running.len() >= STREAMS_MAX as usize {
            return Ok(if self.codec.poll_closed(cx)?.is_ready() { Next::Closed } else { Next::None });
        }
        match self.codec.poll_accept(cx) {
            Poll::Ready(Some(accepted)) => {
                let (request, respond) = accepted?;
                self.begin(request, respond);
                Ok(Next::Begun)
            }
            Poll::Ready(None) => Ok(Next::Closed),
            Poll::Pending => Ok(Next::None),
        }
    }

    fn ended(&mut self, ended: Result<(), Gone>) {
        match ended {
            Ok(()) => self.shared.calm.earn(ANSWER_WORTH),
            Err(Gone) => self.shared.calm.spend(IN_VAIN_COST),
        }
        if self.running.is_empty() {
            self.rest();
        }
    }

    /// From now on the connection waits for a request, or for its end.
    fn rest(&mut self) {
        self.limit.set(if self.leaving { LINGER } else { self.common.config.idle_timeout() });
    }

    /// Takes no more requests than those that are on their way (RFC 9113 section 6.8).
    fn leave(&mut self) {
        self.leaving = true;
        self.codec.graceful_shutdown();
        self.rest();
    }

    /// Ends all that a client has asked for who does too much for nothing (RFC 9113 section 10.5).
    fn send_away(&mut self) {
        debug!(peer = %self.caller.address, "a client is sent away that does too much for nothing");
        (self.leaving, self.sent_away) = (true, true);
        self.running.clear();
        self.codec.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
        self.rest();
    }

    fn begin(&mut self, request: Request<RecvStream>, mut respond: Respond) {
        self.rest();
        let (parts, body) = request.into_parts();
        let method = parts.method.clone();
        let watcher = self.common.watcher.as_ref();
        let watch = watcher.map(|watcher| watcher.fields(&parts, Came::by(&self.caller)));
        let parts = match prepare(parts, &self.common.limits) {
            Ok(parts) => parts,
            Err(Unprepared::Malformed(reason)) => {
                debug!(reason, "a request is malformed");
                self.shared.calm.spend(IN_VAIN_COST);
                watch.into_iter().for_each(Watch::forget);
                return respond.send_reset(Reason::PROTOCOL_ERROR);
            }
            Err(Unprepared::Refused(status, detail)) => {
                let mut sending = Http2Sending::new(respond, self.shared.clone());
                let refused = async move {
                    let refused = refuse(&mut sending, status, &detail, &method, watch).await;
                    drop(body);
                    refused
                };
                return self.running.push(Box::pin(refused));
            }
        };
        if body.is_end_stream() {
            match self.common.hot.answer(&HotRequest::Parts(&parts), &self.caller) {
                Some(answer) => self.hit(answer, respond, watch),
                None => self.call(parts, RequestBody::empty(), Interim::new(Version::Http11), respond, watch),
            }
            return;
        }
        let interim = Interim::new(Version::Http11);
        let asking = expects_continue(&parts.headers).then(|| interim.clone());
        let incoming = Incoming::new(body, &parts.headers, asking);
        self.call(parts, RequestBody::http2(incoming, self.common.config.stall_timeout()), interim, respond, watch);
    }

    fn call(&self, parts: request::Parts, body: RequestBody, interim: Interim, respond: Respond, watch: Option<Watch>) {
        let mut sending = Http2Sending::new(respond, self.shared.clone());
        let (caller, common) = (self.caller.clone(), self.common.clone());
        let running = async move { exchange(&mut sending, parts, body, interim, &caller, &common, watch).await };
        self.running.push(Box::pin(running));
    }

    /// Sends a hot answer at once, if the client has room for all of it.
    fn hit(&mut self, answer: HotAnswer<H::Receipt>, mut respond: Respond, watch: Option<Watch>) {
        let date = *self.clock.date();
        let fits = match &answer.body {
            HotBody::None => true,
            HotBody::Memory(bytes) => bytes.len() <= Http2Sending::AT_ONCE_BYTES_MAX,
            HotBody::Files(_) => false,
        };
        if !fits {
            let mut sending = Http2Sending::new(respond, self.shared.clone());
            let hot = self.common.hot.clone();
            let answered = async move { answer_hit(&mut sending, hot, answer, date, watch).await };
            return self.running.push(Box::pin(answered));
        }
        let (mut receipted, block, extra, body) = Receipted::new(self.common.hot.clone(), answer, watch);
        let head = response_of(&block, &extra, &date);
        let bytes = if let HotBody::Memory(bytes) = body { bytes } else { Bytes::new() };
        let Ok(mut send) = respond.send_response(head, bytes.is_empty()) else { return };
        let length = bytes.len();
        if length == 0 {
            self.shared.calm.earn(ANSWER_WORTH);
            return receipted.complete(0);
        }
        receipted.begins();
        send.reserve_capacity(length);
        let piece = if send.capacity() >= length { self.shared.room.try_piece(bytes) } else { Err(bytes) };
        let bytes = match piece {
            Ok(piece) => {
                if send.send_data(piece, true).is_ok() {
                    self.shared.calm.earn(ANSWER_WORTH + worth_of_piece(length));
                    receipted.complete(length as u64);
                }
                return;
            }
            Err(bytes) => bytes,
        };
        let mut sending = Http2Sending::begun(respond, send, self.shared.clone());
        self.running.push(Box::pin(async move {
            sending.send_rest(bytes, &mut |bytes| receipted.sent.body_bytes += bytes).await?;
            receipted.complete(length as u64);
            Ok(())
        }));
    }
}
