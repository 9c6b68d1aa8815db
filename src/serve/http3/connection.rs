//! One connection that speaks HTTP/3: requests are read and checked, hot answers go out, all others come from the handler.

use std::error::Error;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;

use bytes::{Buf as _, Bytes};
use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use h3::error::{Code, StreamError};
use h3::proto::frame::Frame;
use h3::quic::{RecvStream as _, SendStream as _};
use h3::server::{self, RequestResolver, RequestStream};
use http::{Method, Request, Response, StatusCode, request};
use hyper::body::Body;
use tokio::time::{Instant, sleep_until, timeout};
use tower::Service;
use tracing::debug;

use super::super::RequestBody;
use super::super::http1::{Caller, Clock, Common, Hot, HotRequest, Interim};
use super::super::stream::LINGER;
use super::super::streams::{
    ANSWER_WORTH, Calm, Gone, IN_VAIN_COST, REQUEST_WORTH, Unprepared, answer_hit, exchange, expects_continue, prepare,
    refuse,
};
use super::super::witness::{Came, Watch};
use super::incoming::{Incoming, Malformed, stated_length};
use super::pseudo::is_in_order;
use super::quic::{Both, Connection, number};
use super::sending::Http3Sending;
use crate::http1::Version;

/// It ends with an error where there was no request, or the client did not take the answer.
type Running = Pin<Box<dyn Future<Output = Result<(), Gone>> + Send>>;
type Resolver = RequestResolver<Connection, Bytes>;

/// Answers the requests of one connection until it ends or, once the listener stops, the running answers do.
pub(super) async fn run<S, B, H>(connection: quinn::Connection, caller: Caller, common: Arc<Common<S, H>>)
where
    S: Service<Request<RequestBody>, Response = Response<B>> + Clone + Send + Sync + 'static,
    S::Future: Send,
    S::Error: Into<Box<dyn Error + Send + Sync>> + Send,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
    H: Hot,
{
    let (peer, config) = (caller.address, &common.config);
    let head_bytes_max = config.header_bytes_max as u64;
    let mut builder = server::builder();
    builder.max_field_section_size(head_bytes_max).send_grease(false);
    let calm = Arc::new(Calm::new());
    let begun = builder.build(Connection::new(connection.clone(), head_bytes_max, calm.clone()));
    let mut codec = match timeout(config.header_timeout(), begun).await {
        Ok(Ok(codec)) => codec,
        Ok(Err(error)) => return debug!(%peer, %error, "no HTTP/3 came"),
        Err(_) => return debug!(%peer, "nothing came in time"),
    };
    let caller = Arc::new(caller);
    let mut running = FuturesUnordered::<Running>::new();
    let mut leaving = false;
    let mut until = Instant::now() + config.header_timeout();
    loop {
        if calm.is_exhausted() {
            debug!(%peer, "a client is sent away that does too much for nothing");
            return connection.close(number(Code::H3_EXCESSIVE_LOAD.value()), b"too much is for nothing");
        }
        tokio::select! {
            accepted = codec.accept() => match accepted {
                Ok(Some(resolver)) => {
                    calm.earn(REQUEST_WORTH);
                    let over = codec.inner.conn.over.take();
                    running.push(Box::pin(request(resolver, over, caller.clone(), common.clone())));
                }
                Ok(None) => break,
                Err(error) => return debug!(%peer, %error, "connection ended"),
            },
            Some(ended) = running.next() => {
                match ended {
                    Ok(()) => calm.earn(ANSWER_WORTH),
                    Err(Gone) => calm.spend(IN_VAIN_COST),
                }
                until = Instant::now() + if leaving { LINGER } else { config.idle_timeout() };
                if leaving && running.is_empty() {
                    break;
                }
            }
            () = common.stopping.told(), if !leaving => {
                leaving = true;
                // Requests that are on their way are not counted among those that were seen.
                if codec.shutdown(1).await.is_err() || running.is_empty() {
                    break;
                }
            }
            () = sleep_until(until), if running.is_empty() => break,
        }
    }
    // What was accepted is answered still; dropping the codec then ends the connection.
    while running.next().await.is_some() {}
}

/// One request on its stream.
async fn request<S, B, H>(
    resolver: Resolver,
    over: Option<BoxFuture<'static, ()>>,
    caller: Arc<Caller>,
    common: Arc<Common<S, H>>,
) -> Result<(), Gone>
where
    S: Service<Request<RequestBody>, Response = Response<B>> + Clone + Send + Sync + 'static,
    S::Future: Send,
    S::Error: Into<Box<dyn Error + Send + Sync>> + Send,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
    H: Hot,
{
    let (head_time, stall) = (common.config.header_timeout(), common.config.stall_timeout());
    let (watcher, came) = (common.watcher.as_ref(), Came::by(&caller));
    let (parts, stream) = match timeout(head_time, resolve(resolver)).await {
        Ok(Ok(resolved)) => resolved,
        Ok(Err(StreamError::HeaderTooBig { .. })) => {
            // The codec has said so by itself.
            if let Some(mut watch) = watcher.map(|watcher| watcher.unread(&[], http::Version::HTTP_3, came)) {
                watch.answers(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
                watch.complete();
            }
            return Err(Gone);
        }
        Ok(Err(_)) | Err(_) => return Err(Gone),
    };
    let watch = watcher.map(|watcher| watcher.fields(&parts, came));
    let (sending, mut receiving) = stream.split();
    let malformed = Malformed::default();
    let mut sending = Http3Sending::new(sending, over, malformed.clone(), stall);
    let method = parts.method.clone();
    let parts = match prepare(parts, &common.limits) {
        Ok(parts) => parts,
        Err(Unprepared::Malformed(reason)) => {
            debug!(reason, "a request is malformed");
            watch.into_iter().for_each(Watch::forget);
            receiving.stop_sending(Code::H3_MESSAGE_ERROR);
            sending.refuse_malformed();
            return Err(Gone);
        }
        Err(Unprepared::Refused(status, detail)) => {
            refuse(&mut sending, status, &detail, &method, watch).await?;
            sending.arrived().await;
            return Ok(());
        }
    };
    let first = if seldom_has_body(&parts) {
        // The end of the stream says that there is none; it comes with the head, or right behind it.
        match timeout(head_time, poll_fn(|cx| receiving.poll_recv_data(cx))).await {
            Ok(Ok(Some(mut data))) => Some(data.copy_to_bytes(data.remaining())),
            Ok(Ok(None)) => None,
            Ok(Err(_)) | Err(_) => return Err(Gone),
        }
    } else {
        Some(Bytes::new())
    };
    if first.as_ref().is_some_and(|data| !data.is_empty()) && stated_length(&parts.headers) == Some(0) {
        watch.into_iter().for_each(Watch::forget);
        receiving.stop_sending(Code::H3_MESSAGE_ERROR);
        sending.refuse_malformed();
        return Err(Gone);
    }
    let Some(first) = first else {
        let hot = common.hot.answer(&HotRequest::Parts(&parts), &caller);
        match hot {
            Some(answer) => answer_hit(&mut sending, common.hot.clone(), answer, *Clock::new().date(), watch).await?,
            None => {
                let interim = Interim::new(Version::Http11);
                exchange(&mut sending, parts, RequestBody::empty(), interim, &caller, &common, watch).await?;
            }
        }
        sending.arrived().await;
        return Ok(());
    };
    let interim = Interim::new(Version::Http11);
    let asking = expects_continue(&parts.headers).then(|| interim.clone());
    let first = Some(first).filter(|first| !first.is_empty());
    let incoming = Incoming::new(receiving, first, &parts.headers, asking, malformed);
    exchange(&mut sending, parts, RequestBody::http3(incoming, stall), interim, &caller, &common, watch).await?;
    sending.arrived().await;
    Ok(())
}

/// Whether requests like this one usually have no body, so that it is worth to wait for a sign of one.
fn seldom_has_body(parts: &request::Parts) -> bool {
    match stated_length(&parts.headers) {
        Some(length) => length == 0,
        None => {
            !matches!(parts.method, Method::POST | Method::PUT | Method::PATCH) && !expects_continue(&parts.headers)
        }
    }
}

/// The head of a request, and its stream.
///
/// # Errors
/// When there is none; the client has been told then.
async fn resolve(mut resolver: Resolver) -> Result<(request::Parts, RequestStream<Both<Bytes>, Bytes>), StreamError> {
    let frame = poll_fn(|cx| resolver.frame_stream.poll_next(cx)).await;
    if let Ok(Some(Frame::Headers(section))) = &frame
        && !is_in_order(section)
    {
        debug!("the pseudo-fields of a request are out of order");
        resolver.frame_stream.stream.stop_sending(Code::H3_MESSAGE_ERROR.value());
        resolver.frame_stream.reset(Code::H3_MESSAGE_ERROR.value());
        let reason = "the pseudo-fields are out of order".to_owned();
        return Err(StreamError::StreamError { code: Code::H3_MESSAGE_ERROR, reason });
    }
    let resolved = resolver.accept_with_frame(frame).inspect_err(|error| debug!(%error, "no request came"));
    let resolved = resolved?.resolve().await;
    let (request, stream) = resolved.inspect_err(|error| debug!(%error, "a request is malformed"))?;
    Ok((request.into_parts().0, stream))
}
