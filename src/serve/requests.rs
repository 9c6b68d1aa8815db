//! One connection that carries HTTP: requests get their caller and their time limit, then go to the handler.

use std::error::Error;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::TryFutureExt;
use futures_util::future::{Either as EitherFuture, MapOk, Ready, ready};
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::{Either, Full};
use hyper::body::{Body, Incoming};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio_util::sync::CancellationToken;
use tower::util::Oneshot;
use tower::{Service, ServiceExt};

use super::guarded::{Guarded, TwoLengths};
use super::stream::Stream;
use super::{ClientLink, Config, PeerAddress, RequestBody};
use crate::model::Principal;

/// Enough for fast transfers; hyper's own limit of 400 KiB, times all connections, would be the memory of a machine.
const BUFFER_BYTES: usize = 32 * 1024;

/// Answers the requests of one connection until it ends or, after `shutdown`, the running answer does.
pub(super) async fn serve<S, B>(
    stream: Stream,
    principal: Principal,
    peer: SocketAddr,
    handler: S,
    config: &Config,
    shutdown: &CancellationToken,
) -> hyper::Result<()>
where
    S: Service<Request<RequestBody>, Response = Response<B>> + Clone,
    S::Error: Into<Box<dyn Error + Send + Sync>>,
    B: Body<Data = Bytes> + 'static,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    let stall = config.stall_timeout();
    let link = stream.link();
    let stream = Guarded::new(stream, config.header_timeout(), stall);
    let requests = Requests {
        handler,
        principal,
        peer: PeerAddress(peer),
        link,
        stall,
        two_lengths: stream.two_lengths(),
        count: AtomicU64::new(0),
    };
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        // Runs from the end of the answer before, so it is the limit of idleness; heads have their own in `Guarded`.
        .header_read_timeout(config.idle_timeout())
        .max_header_size(config.header_bytes_max)
        .max_buf_size(BUFFER_BYTES.max(config.header_bytes_max))
        .serve_connection(TokioIo::new(stream), requests);
    let mut connection = pin!(connection);
    tokio::select! {
        result = connection.as_mut() => return result,
        () = shutdown.cancelled() => {}
    }
    connection.as_mut().graceful_shutdown();
    connection.await
}

/// The handler's body, or a refusal's.
type AnswerBody<B> = Either<B, Full<Bytes>>;
type Answered<S, B> = MapOk<Oneshot<S, Request<RequestBody>>, fn(Response<B>) -> Response<AnswerBody<B>>>;
type Answer<S, B, E> = EitherFuture<Answered<S, B>, Ready<Result<Response<AnswerBody<B>>, E>>>;

struct Requests<S> {
    handler: S,
    principal: Principal,
    peer: PeerAddress,
    link: ClientLink,
    stall: Duration,
    two_lengths: TwoLengths,
    count: AtomicU64,
}

impl<S, B> hyper::service::Service<Request<Incoming>> for Requests<S>
where
    S: Service<Request<RequestBody>, Response = Response<B>> + Clone,
    B: Body<Data = Bytes>,
{
    type Response = Response<AnswerBody<B>>;
    type Error = S::Error;
    type Future = Answer<S, B, S::Error>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let number = self.count.fetch_add(1, Ordering::Relaxed);
        if self.two_lengths.is(number) {
            return EitherFuture::Right(ready(Ok(refuse_two_lengths())));
        }
        let mut request = request.map(|body| RequestBody::hyper(body, self.stall));
        request.extensions_mut().insert(self.principal.clone());
        request.extensions_mut().insert(self.peer);
        request.extensions_mut().insert(self.link.clone());
        let answer = self.handler.clone().oneshot(request);
        EitherFuture::Left(answer.map_ok(|response| response.map(Either::Left)))
    }
}

fn refuse_two_lengths<B>() -> Response<AnswerBody<B>> {
    let text = "a request has either Content-Length or Transfer-Encoding, not both\n";
    let mut response = Response::new(Either::Right(Full::from(text)));
    *response.status_mut() = StatusCode::BAD_REQUEST;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}
