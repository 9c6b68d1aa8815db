//! HTTP/2 (RFC 9113) on connections that agreed upon it by TLS, by the codec of `h2`.
//!
//! One task runs a connection with all its streams. What a client can have done or kept here is bounded: streams at a
//! time, heads, what is read ahead of bodies, resets, and how long it may be idle or stand still.

mod gathered;
mod incoming;
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
    CONNECTION_WINDOW_BYTES, Receipted, STREAM_WINDOW_BYTES, STREAMS_MAX, Unprepared, answer_hit, exchange,
    expects_continue, prepare, refuse, response_of,
};
use super::witness::{Came, Watch};
use crate::http1::Version;
use gathered::Gathered;
pub(super) use incoming::Incoming;
use sending::Http2Sending;

/// How many streams that the client reset before they were looked at are kept in mind; a client that makes more of them
/// (CVE-2023-44487) is sent away.
const RESET_UNSEEN_MAX: usize = 20;

/// How many streams that were reset are kept in mind, for frames that are still on their way.
const RESET_MAX: usize = 64;

/// How many requests that are malformed a client may send.
const MALFORMED_MAX: usize = 256;

/// How much of an answer is handed to the codec ahead of what the client has room for.
const SEND_BUFFER_BYTES: usize = 256 * 1024;

type Io = Gathered<Stream>;
type Running = Pin<Box<dyn Future<Output = ()> + Send>>;

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
    let io = Gathered::new(stream, common.config.stall_timeout());
    let begun = server::Builder::new()
        .max_concurrent_streams(STREAMS_MAX)
        .max_header_list_size(common.config.header_bytes_max as u32)
        .initial_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_concurrent_reset_streams(RESET_MAX)
        .max_pending_accept_reset_streams(RESET_UNSEEN_MAX)
        .max_local_error_reset_streams(Some(MALFORMED_MAX))
        .max_send_buffer_size(SEND_BUFFER_BYTES)
        .handshake(io);
    let codec = match timeout(common.config.header_timeout(), begun).await {
        Ok(Ok(codec)) => codec,
        Ok(Err(error)) => return debug!(%peer, %error, "no HTTP/2 came"),
        Err(_) => return debug!(%peer, "nothing came in time"),
    };
    let mut connection = Connection::new(codec, caller, common);
    match poll_fn(|cx| connection.poll(cx)).await {
        Ok(()) => {}
        Err(error) => debug!(%peer, %error, "connection broke off"),
    }
}

struct Connection<S, H> {
    codec: server::Connection<Io, Bytes>,
    running: FuturesUnordered<Running>,
    caller: Arc<Caller>,
    common: Arc<Common<S, H>>,
    clock: Clock,
    /// While no request is answered: until when another one has to come, or the client has to leave.
    limit: Limit,
    told: Pin<Box<WaitForCancellationFutureOwned>>,
    /// The client was told to send no more.
    leaving: bool,
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
    fn new(codec: server::Connection<Io, Bytes>, caller: Caller, common: Arc<Common<S, H>>) -> Self {
        let mut limit = Limit::default();
        limit.set(common.config.header_timeout());
        let told = Box::pin(common.stopping.told_owned());
        let (running, caller) = (FuturesUnordered::new(), Arc::new(caller));
        Self { codec, running, caller, common, clock: Clock::new(), limit, told, leaving: false }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), h2::Error>> {
        loop {
            match self.codec.poll_accept(cx) {
                Poll::Ready(Some(accepted)) => {
                    let (request, respond) = accepted?;
                    self.begin(request, respond);
                    continue;
                }
                Poll::Ready(None) => return Poll::Ready(Ok(())),
                Poll::Pending => {}
            }
            match self.running.poll_next_unpin(cx) {
                Poll::Ready(Some(())) => {
                    if self.running.is_empty() {
                        self.rest();
                    }
                    // What it left with the codec goes out.
                    continue;
                }
                Poll::Ready(None) | Poll::Pending => {}
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

    fn begin(&mut self, request: Request<RecvStream>, mut respond: SendResponse<Bytes>) {
        self.rest();
        let (parts, body) = request.into_parts();
        let method = parts.method.clone();
        let watcher = self.common.watcher.as_ref();
        let watch = watcher.map(|watcher| watcher.fields(&parts, Came::by(&self.caller)));
        let parts = match prepare(parts, &self.common.limits) {
            Ok(parts) => parts,
            Err(Unprepared::Malformed(reason)) => {
                debug!(reason, "a request is malformed");
                watch.into_iter().for_each(Watch::forget);
                return respond.send_reset(Reason::PROTOCOL_ERROR);
            }
            Err(Unprepared::Refused(status, detail)) => {
                let mut sending = Http2Sending::new(respond, self.common.config.stall_timeout());
                let refused = async move {
                    refuse(&mut sending, status, &detail, &method, watch).await;
                    drop(body);
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

    fn call(
        &self,
        parts: request::Parts,
        body: RequestBody,
        interim: Interim,
        respond: SendResponse<Bytes>,
        watch: Option<Watch>,
    ) {
        let mut sending = Http2Sending::new(respond, self.common.config.stall_timeout());
        let (caller, common) = (self.caller.clone(), self.common.clone());
        let running = async move { exchange(&mut sending, parts, body, interim, &caller, &common, watch).await };
        self.running.push(Box::pin(running));
    }

    /// Sends a hot answer at once, if the client has room for all of it.
    fn hit(&mut self, answer: HotAnswer<H::Receipt>, mut respond: SendResponse<Bytes>, watch: Option<Watch>) {
        let date = *self.clock.date();
        let fits = match &answer.body {
            HotBody::None => true,
            HotBody::Memory(bytes) => bytes.len() <= Http2Sending::AT_ONCE_BYTES_MAX,
            HotBody::Files(_) => false,
        };
        if !fits {
            let mut sending = Http2Sending::new(respond, self.common.config.stall_timeout());
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
            return receipted.complete(0);
        }
        send.reserve_capacity(length);
        if send.capacity() >= length {
            if send.send_data(bytes, true).is_ok() {
                receipted.complete(length as u64);
            }
            return;
        }
        receipted.begins();
        let mut sending = Http2Sending::begun(respond, send, self.common.config.stall_timeout());
        self.running.push(Box::pin(async move {
            if sending.send_rest(bytes).await.is_ok() {
                receipted.complete(length as u64);
            }
        }));
    }
}
