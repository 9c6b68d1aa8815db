//! One connection: heads are read, hot answers go out at once, all other requests to the handler.

use std::error::Error;
use std::future::{Future, poll_fn};
use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker, ready};
use std::time::Instant;

use bytes::{Buf, Bytes, BytesMut};
use http::{Request, Response, StatusCode, Version, request};
use hyper::body::Body;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tower::{Service, ServiceExt};
use tracing::debug;

use super::super::stream::{Stream, linger};
use super::super::witness::{Came, Watch, Watcher};
use super::super::{Config, RequestBody};
use super::answering::Answering;
use super::exchange::{Behind, Exchange};
use super::hits::Hits;
use super::hot::{Caller, Hot, HotAnswer, HotRequest};
use super::interim::Interim;
use super::limit::Limit;
use super::outgoing::{Asked, Clock, Refusal, refusal};
use super::receiving::Receiving;
use super::upgrade::Upgraded;
use super::wire::{SCRAP_BYTES, Wire};
use super::{Handlers, TARGET_BYTES_MAX};
use crate::http1::{
    BodyLength, Expectation, HeadEnd, HeadError, Limits, Persistence, RequestHead, Slots, TargetForm, empty_lines,
};

/// That a listener stops, as its connections look at it: often, and by no lock.
#[derive(Debug, Default)]
pub(in crate::serve) struct Stopping {
    stops: AtomicBool,
    told: CancellationToken,
}

impl Stopping {
    pub(in crate::serve) fn stop(&self) {
        self.stops.store(true, Ordering::Release);
        self.told.cancel();
    }

    pub(in crate::serve) fn is_stopping(&self) -> bool {
        self.stops.load(Ordering::Acquire)
    }

    pub(in crate::serve) async fn told(&self) {
        self.told.cancelled().await;
    }

    pub(in crate::serve) fn told_owned(&self) -> WaitForCancellationFutureOwned {
        self.told.clone().cancelled_owned()
    }
}

/// What the connections of one listener have in common.
pub(in crate::serve) struct Common<S, H> {
    pub(in crate::serve) handler: S,
    pub(in crate::serve) hot: Arc<H>,
    pub(in crate::serve) config: Config,
    pub(in crate::serve) limits: Limits,
    pub(in crate::serve) stopping: Stopping,
    /// Where somebody is told of answers that have ended.
    pub(in crate::serve) watcher: Option<Arc<Watcher>>,
}

impl<S, H> Common<S, H> {
    pub(in crate::serve) fn new(handlers: Handlers<S, H>, config: Config) -> Self {
        let Handlers { http: handler, hot, witness } = handlers;
        let limits = Limits { head_bytes: config.header_bytes_max, target_bytes: TARGET_BYTES_MAX };
        Self { handler, hot, config, limits, stopping: Stopping::default(), watcher: witness.map(Watcher::new) }
    }
}

/// Answers the requests of one connection until it ends or, once the listener stops, the running answer does.
pub(super) async fn run<S, B, H>(stream: Stream, caller: Caller, common: Arc<Common<S, H>>)
where
    S: Service<Request<RequestBody>, Response = Response<B>> + Clone,
    S::Error: Into<Box<dyn Error + Send + Sync>>,
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
    H: Hot,
{
    let peer = caller.address;
    let mut connection = Connection::new(stream, caller, common);
    // What few connections do at a time is boxed: of all others it would be memory that they do not use.
    loop {
        let behind = match poll_fn(|cx| connection.poll_next(cx)).await {
            Ok(Next::End) => return Box::pin(connection.close(false)).await,
            Ok(Next::Refused(status, detail, watch)) => {
                Box::pin(connection.refuse(status, &detail, watch)).await.map(|()| Behind::Close { unread: true })
            }
            Ok(Next::Request(asked)) => Box::pin(connection.answer(*asked)).await,
            Err(error) => Err(error),
        };
        match behind {
            Ok(Behind::Next) => connection.rest(),
            Ok(Behind::Close { unread }) => return Box::pin(connection.close(unread)).await,
            Ok(Behind::Reset) => return connection.reset(),
            Ok(Behind::Upgrade(upgrade, watch)) => {
                let Some(run) = upgrade.take() else { return };
                return run(connection.into_upgraded(watch)).await;
            }
            Err(error) => return debug!(%peer, %error, "connection broke off"),
        }
    }
}

/// A request for the handler.
struct Called {
    parts: request::Parts,
    asked: Asked,
    body: BodyLength,
    expectation: Expectation,
    watch: Option<Watch>,
}

/// What a connection is to do next.
enum Next {
    Request(Box<Called>),
    /// What came is no request, and what is behind it nobody knows.
    Refused(StatusCode, String, Option<Watch>),
    End,
}

impl Next {
    fn refused(error: HeadError, watch: Option<Watch>) -> Self {
        Self::Refused(error.status(), error.to_string(), watch)
    }
}

/// What the limit of time is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Awaiting {
    /// The first head, from the begin of the connection: whoever connects has something to ask.
    First,
    /// Anything.
    Request,
    /// The rest of a head.
    Head,
}

struct Connection<S, H: Hot> {
    wire: Wire,
    hits: Hits<H>,
    common: Arc<Common<S, H>>,
    caller: Caller,
    /// Comes after the hot answers before it.
    next: Option<Next>,
    /// Nothing follows the answers that are on their way.
    closing: bool,
    awaiting: Awaiting,
    limit: Limit,
    /// How much of what was read ahead is known to be no whole head.
    fruitless: usize,
    clock: Clock,
    told: Option<(Pin<Box<WaitForCancellationFutureOwned>>, Waker)>,
}

impl<S, H: Hot> Connection<S, H> {
    fn new(stream: Stream, caller: Caller, common: Arc<Common<S, H>>) -> Self {
        let mut limit = Limit::default();
        limit.set(common.config.header_timeout());
        Self {
            wire: Wire::new(stream, common.config.stall_timeout()),
            hits: Hits::new(common.hot.clone()),
            common,
            caller,
            next: None,
            closing: false,
            awaiting: Awaiting::First,
            limit,
            fruitless: 0,
            clock: Clock::new(),
            told: None,
        }
    }

    /// Reads requests and sends hot answers, until something else is to be done.
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Next>> {
        loop {
            ready!(self.hits.poll_send(cx, &mut self.wire))?;
            if let Some(next) = self.next.take() {
                return Poll::Ready(Ok(next));
            }
            if self.closing {
                return Poll::Ready(Ok(Next::End));
            }
            if self.wire.ahead.len() > self.fruitless {
                let mut ahead = std::mem::take(&mut self.wire.ahead);
                let taken = self.take(&ahead);
                ahead.advance(taken);
                if !ahead.is_empty() {
                    self.wire.ahead = ahead;
                }
                if taken > 0 || self.next.is_some() {
                    continue;
                }
            }
            if self.wire.read_ended || self.wire.ahead.is_empty() && self.common.stopping.is_stopping() {
                return Poll::Ready(Ok(Next::End));
            }
            if !ready!(self.poll_read(cx))? {
                return Poll::Ready(Ok(Next::End));
            }
        }
    }

    /// Waits for bytes, and looks for requests in them; false if the wait is over without any.
    ///
    /// They are read into the stack: a connection that waits holds no memory for what it waits for.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        let mut scrap = [MaybeUninit::uninit(); SCRAP_BYTES];
        let mut scrap = ReadBuf::uninit(&mut scrap);
        match Pin::new(&mut self.wire.stream).poll_read(cx, &mut scrap) {
            Poll::Ready(read) => read?,
            Poll::Pending => {
                let stops = self.poll_told(cx).is_ready() && self.wire.ahead.is_empty();
                return if stops || self.limit.poll(cx).is_ready() { Poll::Ready(Ok(false)) } else { Poll::Pending };
            }
        }
        let bytes = scrap.filled();
        self.wire.read_ended = bytes.is_empty();
        if self.wire.ahead.is_empty() {
            let taken = self.take(bytes);
            self.wire.ahead.extend_from_slice(&bytes[taken..]);
        } else {
            // Without the end of a line nothing becomes clearer.
            let clearer = memchr::memchr(b'\n', bytes).is_some();
            self.wire.ahead.extend_from_slice(bytes);
            if !clearer && self.wire.ahead.len() < self.common.limits.head_bytes {
                self.fruitless = self.wire.ahead.len();
            }
        }
        Poll::Ready(Ok(true))
    }

    /// Waits for the stop of the listener. The task's waker is left once: it stays the same.
    fn poll_told(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.told.as_ref().is_some_and(|(_, waker)| waker.will_wake(cx.waker())) {
            return Poll::Pending;
        }
        let told = &self.common.stopping.told;
        let begin = || (Box::pin(told.clone().cancelled_owned()), cx.waker().clone());
        let (told, waker) = self.told.get_or_insert_with(begin);
        waker.clone_from(cx.waker());
        told.as_mut().poll(cx)
    }

    /// Looks for requests at the begin of `bytes`, and how much of them was taken.
    fn take(&mut self, bytes: &[u8]) -> usize {
        let mut taken = 0;
        let mut any = false;
        self.fruitless = 0;
        while self.next.is_none() && !self.closing && self.hits.has_room() {
            taken += empty_lines(&bytes[taken..]);
            if taken == bytes.len() {
                break;
            }
            let mut slots = Slots::new();
            match RequestHead::parse(&bytes[taken..], &self.common.limits, &mut slots) {
                Ok(Some(head)) => {
                    taken += head.length();
                    any = true;
                    self.request(&head);
                }
                Ok(None) => {
                    self.fruitless = bytes.len() - taken;
                    break;
                }
                Err(error) => {
                    let came = Came::by(&self.caller);
                    let watcher = self.common.watcher.as_ref();
                    let watch = watcher.map(|watcher| watcher.unread(&bytes[taken..], Version::HTTP_11, came));
                    self.next = Some(Next::refused(error, watch));
                }
            }
        }
        if self.fruitless > 0 && (any || self.awaiting == Awaiting::Request) {
            self.awaiting = Awaiting::Head;
            self.limit.set(self.common.config.header_timeout());
        } else if self.fruitless == 0 && any {
            self.rest();
        }
        taken
    }

    /// From now on the connection waits for a request.
    fn rest(&mut self) {
        self.awaiting = Awaiting::Request;
        self.limit.set(self.common.config.idle_timeout());
        if self.wire.ahead.is_empty() {
            self.wire.ahead = BytesMut::new();
        }
    }

    fn request(&mut self, head: &RequestHead<'_>) {
        let begun = self.common.watcher.as_ref().map(|_| Instant::now());
        let watch = |this: &Self| {
            let (watcher, begun) = this.common.watcher.as_ref().zip(begun)?;
            Some(watcher.lines(head, Came::by(&this.caller), begun))
        };
        // RFC 9110 section 10.1.1.
        if head.expectation() == Expectation::Unknown {
            let detail = "only 100-continue can be expected here".to_owned();
            self.next = Some(Next::Refused(StatusCode::EXPECTATION_FAILED, detail, watch(self)));
            return;
        }
        let simple = head.body() == BodyLength::Empty && !head.upgrades() && head.form() != TargetForm::Authority;
        if simple && let Some(answer) = self.hits.hot().answer(&HotRequest::Http1(head), &self.caller) {
            let watch = watch(self);
            return self.hit(answer, head, watch);
        }
        let watch = watch(self);
        self.next = Some(match head.to_parts() {
            Ok(parts) => Next::Request(Box::new(Called {
                parts,
                asked: Asked::of(head),
                body: head.body(),
                expectation: head.expectation(),
                watch,
            })),
            Err(error) => Next::refused(error, watch),
        });
    }

    fn hit(&mut self, answer: HotAnswer<H::Receipt>, head: &RequestHead<'_>, watch: Option<Watch>) {
        let keeps_alive = head.keeps_alive() && !self.common.stopping.is_stopping();
        self.closing = !keeps_alive;
        let date = if answer.block.has_date() { None } else { Some(self.clock.date()) };
        let end = HeadEnd::new(&answer.extra, date, Persistence::of(keeps_alive, head.version()));
        self.hits.push(answer, end, watch);
    }

    /// Answers what is no request.
    async fn refuse(&mut self, status: StatusCode, detail: &str, mut watch: Option<Watch>) -> io::Result<()> {
        let Refusal { bytes, body_bytes } = refusal(status, detail, &[], false);
        self.wire.push(bytes);
        poll_fn(|cx| self.wire.poll_send(cx)).await?;
        if let Some(watch) = &mut watch {
            watch.answers(status);
            watch.sent(body_bytes, true);
        }
        Ok(())
    }

    /// Ends the connection so that the last answer arrives: closing over unread bytes makes the system send a reset, which
    /// may destroy the answer on its way.
    async fn close(mut self, unread: bool) {
        let wire = &mut self.wire;
        let closed = poll_fn(|cx| {
            let closed = Pin::new(&mut wire.stream).poll_shutdown(cx);
            wire.progressing(cx, closed)
        });
        if closed.await.is_err() || poll_fn(|cx| Poll::Ready(wire.watch(cx))).await.is_err() {
            return;
        }
        if !wire.read_ended && (unread || !wire.ahead.is_empty()) {
            linger(&mut wire.stream).await;
        }
    }

    /// Ends the connection so that the client learns that the last answer is not whole.
    fn reset(self) {
        if let Some(tcp) = self.wire.stream.plain()
            && let Err(error) = tcp.reset_on_close()
        {
            debug!(%error, "a client is not told that its answer is not whole");
        }
    }

    fn into_upgraded(self, watch: Option<Watch>) -> Upgraded {
        let Wire { mut stream, ahead, .. } = self.wire;
        if !ahead.is_empty() {
            stream.rewind(ahead.freeze());
        }
        Upgraded::new(stream, watch)
    }
}

impl<S, B, H> Connection<S, H>
where
    S: Service<Request<RequestBody>, Response = Response<B>> + Clone,
    S::Error: Into<Box<dyn Error + Send + Sync>>,
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
    H: Hot,
{
    async fn answer(&mut self, called: Called) -> io::Result<Behind> {
        let Called { parts, asked, body, expectation, watch } = called;
        let stall = self.common.config.stall_timeout();
        let (receiving, incoming) = Receiving::new(body, expectation, stall);
        let body = incoming.map_or(RequestBody::empty(), |incoming| RequestBody::own(incoming, stall));
        let mut request = Request::from_parts(parts, body);
        let interim = Interim::new(asked.version);
        self.caller.introduce(request.extensions_mut());
        request.extensions_mut().insert(interim.clone());
        let called = self.common.handler.clone().oneshot(request);
        let mut exchange = Exchange { receiving, answering: Answering::new(asked, interim, called, watch) };
        let Self { wire, common, .. } = self;
        poll_fn(|cx| exchange.poll(cx, wire, common.stopping.is_stopping())).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Principal;
    use crate::serve::link::Tcp;
    use crate::serve::stream::Transported;
    use http_body_util::Empty;
    use tokio::net::{TcpListener, TcpStream};

    #[tokio::test]
    async fn ten_thousand_idle_connections_take_little() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (tcp, peer) = {
            let connected = TcpStream::connect(listener.local_addr().unwrap());
            let (connected, accepted) = tokio::join!(connected, listener.accept());
            (connected.unwrap(), accepted.unwrap().1)
        };
        let handler = tower::service_fn(|_: Request<RequestBody>| async {
            Ok::<_, std::convert::Infallible>(Response::new(Empty::<Bytes>::new()))
        });
        let limits = Limits { head_bytes: 16 << 10, target_bytes: 8 << 10 };
        let (hot, config, stopping) = (Arc::new(()), Config::default(), Stopping::default());
        let common = Arc::new(Common { handler, hot, config, limits, stopping, watcher: None });
        let stream = Stream::new(Transported::Plain(Tcp::new(tcp)));
        let caller = Caller { address: peer, principal: Principal::Anonymous, link: stream.link(), secured: None };
        let connection = run(stream, caller, common);
        // With what is on the heap, and in the runtime's own tables, about twice of it.
        let bytes = size_of_val(&connection);
        assert!(bytes <= 1536, "{bytes}");
    }
}
