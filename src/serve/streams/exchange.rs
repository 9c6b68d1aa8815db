//! One request on its stream: the handler runs, and its answer is sent as fast as the client takes it.

use std::error::Error;
use std::future::{Future, poll_fn};
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::SystemTime;

use bytes::Bytes;
use futures_util::FutureExt as _;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header, request, response};
use http_body_util::BodyExt as _;
use hyper::body::Body;
use tower::{Service, ServiceExt as _};
use tracing::{debug, error};

use super::super::RequestBody;
use super::super::http1::{
    Asked, Caller, Common, Hot, HotAnswer, Interim, Outgoing, changes_protocol, framing, length_to_add,
};
use super::super::witness::Watch;
use super::content::{HotContent, Receipted, response_of};
use crate::http1::{DATE_BYTES, Version, is_forbidden_in_trailers, is_of_connection};
use crate::protocol::problem::{self, Problem};

type BodyError = Box<dyn Error + Send + Sync>;

/// The client does not want the answer any more, takes nothing of it, or is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::serve) struct Gone;

/// Who is told of so many bytes that were handed on.
pub(in crate::serve) type Count<'c> = dyn FnMut(u64) + Send + 'c;

/// The way of an answer to the client. Whatever waits here waits for the client, and no longer than it may stand still.
pub(in crate::serve) trait Sending: Send {
    /// Sends an interim answer (RFC 9110 section 15.2).
    fn interim(&mut self, interim: Response<()>) -> impl Future<Output = Result<(), Gone>> + Send;

    /// Sends the head of the answer, which `ended` with it or not.
    fn head(&mut self, head: Response<()>, ended: bool) -> impl Future<Output = Result<(), Gone>> + Send;

    /// Waits until there is room for some of its body, which is not asked for before: what a client does not take is
    /// held by nobody.
    fn room(&mut self) -> impl Future<Output = Result<(), Gone>> + Send;

    /// Sends a part of its body, which `ended` with it or not, and counts by `count` what was handed on while it goes on:
    /// whoever waits for this may be dropped.
    fn data(
        &mut self,
        data: Bytes,
        ended: bool,
        count: &mut Count<'_>,
    ) -> impl Future<Output = Result<(), Gone>> + Send;

    /// Sends trailers, which end the answer.
    fn trailers(&mut self, trailers: HeaderMap) -> impl Future<Output = Result<(), Gone>> + Send;

    /// Waits until the client wants no answer.
    fn left(&mut self) -> impl Future<Output = ()> + Send;

    /// Ends the answer so that the client learns that it is not whole.
    fn break_off(&mut self);
}

/// What is answered with, but for its body.
struct Head {
    response: Response<()>,
    outgoing: Outgoing,
}

/// Answers a request by the handler. It is an error if the client does not take the answer.
pub(in crate::serve) async fn exchange<T, S, B, H>(
    sending: &mut T,
    parts: request::Parts,
    body: RequestBody,
    interim: Interim,
    caller: &Caller,
    common: &Common<S, H>,
    mut watch: Option<Watch>,
) -> Result<(), Gone>
where
    T: Sending,
    S: Service<Request<RequestBody>, Response = Response<B>> + Clone,
    S::Error: Into<Box<dyn Error + Send + Sync>>,
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    let method = parts.method.clone();
    let mut request = Request::from_parts(parts, body);
    caller.introduce(request.extensions_mut());
    request.extensions_mut().insert(interim.clone());
    let called = AssertUnwindSafe(common.handler.clone().oneshot(request)).catch_unwind();
    let answered = called_by(sending, called, &interim).await;
    interim.end();
    let response = match answered {
        Ok(Ok(Ok(response))) => response,
        Ok(Ok(Err(error))) => {
            let error: Box<dyn Error + Send + Sync> = error.into();
            error!(error = &*error, "a request's handler failed");
            return fail(sending, &method, watch).await;
        }
        // What it said was printed where it happened.
        Ok(Err(_)) => {
            error!("a request's handler panicked");
            return fail(sending, &method, watch).await;
        }
        Err(Gone) => {
            debug!("the client left before the answer began");
            return Err(Gone);
        }
    };
    let (mut parts, body) = response.into_parts();
    let status = parts.status;
    let extensions = std::mem::take(&mut parts.extensions);
    let Some(Head { response, outgoing }) = head_of(parts, &body, &method) else {
        error!(status = status.as_u16(), "an answer cannot be sent");
        return fail(sending, &method, watch).await;
    };
    let ended = matches!(outgoing, Outgoing::None | Outgoing::Counted(0));
    if let Some(watch) = &mut watch {
        watch.leaves(extensions);
    }
    sending.head(response, ended).await?;
    if let Some(watch) = &mut watch {
        watch.answers(status);
    }
    let mut count = |bytes| watch.iter_mut().for_each(|watch| watch.sent_more(bytes));
    let complete = ended || send(sending, body, outgoing, &mut count).await?;
    if let Some(watch) = watch.as_mut().filter(|_| complete) {
        watch.complete();
    }
    Ok(())
}

/// Answers a request by what is there already. It is an error if the client does not take the answer.
pub(in crate::serve) async fn answer_hit<T: Sending, H: Hot>(
    sending: &mut T,
    hot: Arc<H>,
    answer: HotAnswer<H::Receipt>,
    date: [u8; DATE_BYTES],
    watch: Option<Watch>,
) -> Result<(), Gone> {
    let (mut receipted, block, extra, body) = Receipted::new(hot, answer, watch);
    let length = body.length();
    sending.head(response_of(&block, &extra, &date), length == 0).await?;
    if length > 0 {
        receipted.begins();
        let content = HotContent::from(body);
        let unreadable = content.unreadable();
        let mut count = |bytes| receipted.sent.body_bytes += bytes;
        let sent = send(sending, content, Outgoing::Counted(length), &mut count).await;
        receipted.sent.complete = matches!(sent, Ok(true));
        receipted.sent.unreadable = unreadable.load(Ordering::Relaxed);
        sent?;
    } else {
        receipted.complete(0);
    }
    Ok(())
}

/// Answers with a problem.
pub(in crate::serve) async fn refuse(
    sending: &mut impl Sending,
    status: StatusCode,
    detail: &str,
    method: &Method,
    mut watch: Option<Watch>,
) -> Result<(), Gone> {
    let body = Bytes::from(Problem::new(status, detail).to_json());
    let mut response = Response::new(());
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(problem::MEDIA_TYPE));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
    date(headers);
    let ended = method == Method::HEAD;
    sending.head(response, ended).await?;
    if let Some(watch) = &mut watch {
        watch.answers(status);
    }
    if !ended {
        sending.data(body, true, &mut |bytes| watch.iter_mut().for_each(|watch| watch.sent_more(bytes))).await?;
    }
    if let Some(watch) = &mut watch {
        watch.complete();
    }
    Ok(())
}

async fn fail(sending: &mut impl Sending, method: &Method, watch: Option<Watch>) -> Result<(), Gone> {
    let detail = "the request could not be answered";
    refuse(sending, StatusCode::INTERNAL_SERVER_ERROR, detail, method, watch).await
}

/// Waits for the handler and sends what it says before its answer. It goes on meanwhile: others may wait for what it does, whom
/// a client that takes nothing does not hold up.
async fn called_by<O>(
    sending: &mut impl Sending,
    called: impl Future<Output = O>,
    interim: &Interim,
) -> Result<O, Gone> {
    let mut called = pin!(called);
    let answered = loop {
        let waiting = poll_fn(|cx| match interim.take(cx) {
            waiting if waiting.is_empty() => Poll::Pending,
            waiting => Poll::Ready(waiting),
        });
        let waiting = tokio::select! {
            biased;
            // First what was said first.
            waiting = waiting => waiting,
            answered = &mut called => break answered,
            () = sending.left() => return Err(Gone),
        };
        let mut said = pin!(say(sending, waiting));
        tokio::select! {
            biased;
            said = &mut said => said?,
            answered = &mut called => {
                said.await?;
                break answered;
            }
        }
    };
    // What came in one piece with the answer was said first, too.
    let waiting = poll_fn(|cx| Poll::Ready(interim.take(cx))).await;
    say(sending, waiting).await?;
    Ok(answered)
}

/// Sends what a handler says before its answer.
async fn say(sending: &mut impl Sending, waiting: Vec<(StatusCode, HeaderMap)>) -> Result<(), Gone> {
    for (status, headers) in waiting {
        let mut interim = Response::new(());
        *interim.status_mut() = status;
        *interim.headers_mut() = headers;
        strip(interim.headers_mut());
        sending.interim(interim).await?;
    }
    Ok(())
}

/// The head of an answer; `None` if it is none that can be sent.
fn head_of(parts: response::Parts, body: &impl Body, method: &Method) -> Option<Head> {
    let asked = Asked {
        version: Version::Http11,
        is_head: method == Method::HEAD,
        is_connect: method == Method::CONNECT,
        keeps_alive: true,
        upgrades: false,
        takes_trailers: true,
    };
    // Both end in a tunnel, which streams are not here.
    if parts.status == StatusCode::SWITCHING_PROTOCOLS || changes_protocol(parts.status, &asked) {
        return None;
    }
    let hint = body.size_hint();
    let outgoing = framing(parts.status, &parts.headers, &hint, &asked).ok()?;
    let length = length_to_add(&parts, &hint, outgoing, &asked);
    let mut response = Response::from_parts(parts, ());
    let is_empty = response.status() == StatusCode::NO_CONTENT;
    let headers = response.headers_mut();
    strip(headers);
    if let Some(length) = length {
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    }
    // RFC 9110 section 8.6.
    if is_empty {
        headers.remove(header::CONTENT_LENGTH);
    }
    if !headers.contains_key(header::DATE) {
        date(headers);
    }
    Some(Head { response, outgoing })
}

/// Fields of a connection have no place here (RFC 9113 section 8.2.2, RFC 9114 section 4.2).
fn strip(headers: &mut HeaderMap) {
    let of_connection: Vec<_> = headers.keys().filter(|name| is_of_connection(name)).cloned().collect();
    for name in of_connection {
        headers.remove(name);
    }
    headers.remove(header::UPGRADE);
}

fn date(headers: &mut HeaderMap) {
    if let Ok(date) = HeaderValue::try_from(httpdate::fmt_http_date(SystemTime::now())) {
        headers.insert(header::DATE, date);
    }
}

/// Sends a body, and counts what was handed on by `count`; whether it was all, unless the client is to blame.
async fn send<T, B>(sending: &mut T, body: B, mut outgoing: Outgoing, count: &mut Count<'_>) -> Result<bool, Gone>
where
    T: Sending,
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    let mut body = pin!(body);
    loop {
        // With nothing known of its length, the end may be next, for which there is room always.
        if matches!(outgoing, Outgoing::Counted(_)) {
            sending.room().await?;
        }
        let frame = body.frame().map(|next| next.map(|frame| frame.map_err(Into::<BodyError>::into)));
        let frame = AssertUnwindSafe(frame).catch_unwind();
        let frame = tokio::select! {
            biased;
            frame = frame => frame,
            () = sending.left() => return Err(Gone),
        };
        let frame = match frame {
            Ok(Some(Ok(frame))) => frame,
            Ok(None) => return end(sending, HeaderMap::new(), outgoing).await,
            Ok(Some(Err(error))) => {
                debug!(error = &*error, "an answer broke off");
                sending.break_off();
                return Ok(false);
            }
            Err(_) => {
                error!("the body of an answer panicked");
                sending.break_off();
                return Ok(false);
            }
        };
        let mut data = match frame.into_data() {
            Ok(data) => data,
            Err(frame) => return end(sending, frame.into_trailers().unwrap_or_default(), outgoing).await,
        };
        if let Outgoing::Counted(left) = &mut outgoing {
            if data.len() as u64 > *left {
                error!("the body of an answer is longer than it says");
                data.truncate(*left as usize);
            }
            *left -= data.len() as u64;
        }
        let ended = match outgoing {
            Outgoing::Counted(left) => left == 0,
            _ => body.is_end_stream(),
        };
        if !data.is_empty() || ended {
            sending.data(data, ended, count).await?;
        }
        if ended {
            return Ok(true);
        }
    }
}

/// Ends an answer whose body is over.
async fn end(sending: &mut impl Sending, mut trailers: HeaderMap, outgoing: Outgoing) -> Result<bool, Gone> {
    if matches!(outgoing, Outgoing::Counted(1..)) {
        error!("the body of an answer is shorter than it says");
        sending.break_off();
        return Ok(false);
    }
    let forbidden: Vec<_> = trailers.keys().filter(|name| is_forbidden_in_trailers(name)).cloned().collect();
    for name in forbidden {
        trailers.remove(name);
    }
    if trailers.is_empty() {
        sending.data(Bytes::new(), true, &mut |_| ()).await
    } else {
        sending.trailers(trailers).await
    }?;
    Ok(true)
}
