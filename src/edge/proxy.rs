//! The life of a request: refused, mapped to a key, fetched from the best node, answered.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{
    ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_TYPE, HeaderName, HeaderValue, LOCATION, RETRY_AFTER, VIA,
};
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri, header};
use http_body::{Frame, SizeHint};
use http_body_util::Full;
use tracing::info;

use super::Core;
use super::fetch::{Asked, Fetched, NodeBody, NodeBodyError, fetch};
use crate::model::{NodeId, ObjectKey};
use crate::protocol::problem::{self, Problem};
use crate::protocol::{POLICY_HEADER, ROUTE_HEADER, VERSION_HEADER, decode_path, encode_path};
use crate::route::{Policy, Route};
use crate::serve::guard::Target;
use crate::serve::{PeerAddress, RequestBody};

/// The page for a folder, and for what is missing.
const INDEX: &str = "index.html";
const NOT_FOUND: &str = "404.html";

const VERSION: HeaderName = HeaderName::from_static(VERSION_HEADER);

/// Fields of one connection alone (RFC 9110 section 7.6.1).
const HOP_BY_HOP: [HeaderName; 8] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::PROXY_AUTHENTICATE,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// Answers a request, whatever happens.
pub(super) async fn answer(core: Arc<Core>, request: Request<RequestBody>) -> Result<Response<ProxyBody>, Infallible> {
    let start = Instant::now();
    let client = request.extensions().get::<PeerAddress>().map(|peer| peer.0);
    let (head, _) = request.into_parts();
    let mut log = Log {
        core: core.clone(),
        method: head.method.clone(),
        path: head.uri.path().to_owned(),
        status: None,
        node: None,
        client,
        start,
        bytes: 0,
        broken: Some("the client left before the answer began".to_owned()),
    };
    let response = match check(&core, &head.method, &head.uri, &head.headers, client) {
        Ok((path, policy)) => {
            let deadline = start + Duration::from_millis(core.config.request_ms_max);
            let asked = Asked { method: &head.method, headers: &head.headers, policy, deadline };
            respond(&core, &head.uri, path, &asked).await
        }
        Err(refusal) => refusal.into_response(),
    };
    core.metrics.answered(response.status());
    log.status = Some(response.status());
    log.node = response.extensions().get().cloned();
    log.broken = None;
    Ok(response.map(|body| ProxyBody { body, log }))
}

/// Why a request is not for this edge.
struct Refusal {
    status: StatusCode,
    detail: String,
}

impl Refusal {
    fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self { status, detail: detail.into() }
    }

    fn into_response(self) -> Response<Inner> {
        let mut response = problem(self.status, self.detail);
        if self.status == StatusCode::METHOD_NOT_ALLOWED {
            response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        }
        // A body that is not read must not be taken for the next request.
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        response
    }
}

/// The decoded path without its first slash, and the policy that a trusted client asks for.
fn check(
    core: &Core,
    method: &Method,
    uri: &Uri,
    headers: &HeaderMap,
    client: Option<SocketAddr>,
) -> Result<(String, Option<Policy>), Refusal> {
    if method != Method::GET && method != Method::HEAD {
        let detail = format!("{method} is not for this edge: it serves GET and HEAD");
        return Err(Refusal::new(StatusCode::METHOD_NOT_ALLOWED, detail));
    }
    let target = Target::of(uri, headers).map_err(|error| Refusal::new(error.status(), error.to_string()))?;
    if !core.hosts.contain(target.host()) {
        let detail = format!("this edge does not serve {}", target.host());
        return Err(Refusal::new(StatusCode::FORBIDDEN, detail));
    }
    let Some(path) = uri.path().strip_prefix('/') else {
        return Err(Refusal::new(StatusCode::BAD_REQUEST, "the path must start with /"));
    };
    let path = decode_path(path).map_err(|error| Refusal::new(StatusCode::BAD_REQUEST, error.to_string()))?;
    Ok((path, asked_policy(core, headers, client)?))
}

fn asked_policy(core: &Core, headers: &HeaderMap, client: Option<SocketAddr>) -> Result<Option<Policy>, Refusal> {
    let Some(value) = headers.get(POLICY_HEADER) else { return Ok(None) };
    let trusted = client.is_some_and(|client| core.config.trusted.contains(&client.ip().to_canonical()));
    if !trusted {
        return Err(Refusal::new(StatusCode::FORBIDDEN, "only clients in edge.trusted may choose a policy"));
    }
    let words = value.to_str().map_err(|_| Refusal::new(StatusCode::BAD_REQUEST, "the policy is not text"))?;
    words.parse().map(Some).map_err(|error| Refusal::new(StatusCode::BAD_REQUEST, format!("{POLICY_HEADER}: {error}")))
}

/// Maps the path to an object and answers with it, or with what stands for it.
async fn respond(core: &Arc<Core>, uri: &Uri, path: String, asked: &Asked<'_>) -> Response<Inner> {
    if !asked.fits() {
        let detail = "the conditions and ranges of the request are too long";
        return problem(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, detail);
    }
    let folder = path.is_empty() || path.ends_with('/');
    let name = if folder { format!("{path}{INDEX}") } else { path };
    let key: ObjectKey = match name.parse() {
        Ok(key) => key,
        Err(error) => return problem(StatusCode::BAD_REQUEST, format!("the path names no object: {error}")),
    };
    match fetch(core, &key, asked).await {
        Fetched::Answer { route, response, passed } => forward(core, &route, response, &passed),
        Fetched::Refused(status) => problem(status, "a node refuses the request"),
        Fetched::Unavailable { busy } => unavailable(busy),
        Fetched::Missing if folder => missing(core, &key, asked).await,
        Fetched::Missing => match redirect(core, uri, &key, asked).await {
            Some(response) => response,
            None => missing(core, &key, asked).await,
        },
    }
}

/// A redirect to the folder of that name, if it has a page.
async fn redirect(core: &Arc<Core>, uri: &Uri, key: &ObjectKey, asked: &Asked<'_>) -> Option<Response<Inner>> {
    let page: ObjectKey = format!("{key}/{INDEX}").parse().ok()?;
    let asked = Asked { method: &Method::HEAD, headers: &HeaderMap::new(), ..*asked };
    let Fetched::Answer { .. } = fetch(core, &page, &asked).await else {
        return None;
    };
    let query = uri.query().map_or_else(String::new, |query| format!("?{query}"));
    let location = format!("/{}/{query}", encode_path(key.as_str()));
    let mut response = problem(StatusCode::MOVED_PERMANENTLY, format!("the folder is at {location}"));
    // Not for ever: the folder's page may go, and an object of that name come.
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("max-age=60"));
    response.headers_mut().insert(LOCATION, HeaderValue::from_str(&location).ok()?);
    Some(response)
}

/// The site's page for what is missing, else a problem.
async fn missing(core: &Arc<Core>, key: &ObjectKey, asked: &Asked<'_>) -> Response<Inner> {
    let page: ObjectKey = NOT_FOUND.parse().expect("it is a key");
    match fetch(core, &page, &Asked { headers: &HeaderMap::new(), ..*asked }).await {
        Fetched::Answer { route, response, passed } if response.status() == StatusCode::OK => {
            let mut response = forward(core, &route, response, &passed);
            *response.status_mut() = StatusCode::NOT_FOUND;
            // They are about the page, not about what is missing.
            for name in [header::ETAG, header::LAST_MODIFIED, header::ACCEPT_RANGES, VERSION] {
                response.headers_mut().remove(name);
            }
            response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
            response
        }
        _ => problem(StatusCode::NOT_FOUND, format!("there is no object {key}")),
    }
}

/// The answer of a node, as the client gets it.
fn forward(core: &Core, route: &Route, response: Response<NodeBody>, passed: &[NodeId]) -> Response<Inner> {
    let mut response = response.map(Inner::Node);
    let headers = response.headers_mut();
    let listed: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in HOP_BY_HOP.iter().chain(&listed) {
        headers.remove(name);
    }
    headers.append(VIA, core.via.clone());
    let mut why = route.header_value();
    if !passed.is_empty() {
        let names: Vec<_> = passed.iter().map(NodeId::as_str).collect();
        why = format!("{why}; passed={}", names.join(","));
    }
    if let Ok(why) = HeaderValue::from_str(&why) {
        headers.insert(ROUTE_HEADER, why);
    }
    core.metrics.routed(&route.node.id);
    response.extensions_mut().insert(route.node.id.clone());
    response
}

fn unavailable(busy: usize) -> Response<Inner> {
    let detail = match busy {
        0 => "no node answers; try again in a moment".to_owned(),
        busy => format!("no node answers, {busy} have all the requests they take; try again in a moment"),
    };
    let mut response = problem(StatusCode::SERVICE_UNAVAILABLE, detail);
    response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
    response
}

fn problem(status: StatusCode, detail: impl Into<String>) -> Response<Inner> {
    let json = Bytes::from(Problem::new(status, detail).to_json());
    let mut response = Response::new(Inner::Own(Full::new(json)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(problem::MEDIA_TYPE));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// Where the bytes of an answer come from.
enum Inner {
    /// A node.
    Node(NodeBody),
    /// The edge itself.
    Own(Full<Bytes>),
}

/// The body of an answer; its end is the request's line in the log.
pub(super) struct ProxyBody {
    body: Inner,
    log: Log,
}

impl http_body::Body for ProxyBody {
    type Data = Bytes;
    type Error = NodeBodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, NodeBodyError>>> {
        let frame = match &mut self.body {
            Inner::Node(body) => Pin::new(body).poll_frame(cx),
            Inner::Own(body) => Pin::new(body).poll_frame(cx).map_err(|never| match never {}),
        };
        match &frame {
            Poll::Ready(Some(Ok(frame))) => self.log.bytes += frame.data_ref().map_or(0, |bytes| bytes.len() as u64),
            Poll::Ready(Some(Err(error))) => self.log.broken = Some(error.to_string()),
            Poll::Ready(None) | Poll::Pending => {}
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        match &self.body {
            Inner::Node(body) => body.is_end_stream(),
            Inner::Own(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.body {
            Inner::Node(body) => body.size_hint(),
            Inner::Own(body) => body.size_hint(),
        }
    }
}

/// What the log says of a request, once it is over however it ended.
struct Log {
    core: Arc<Core>,
    method: Method,
    path: String,
    status: Option<StatusCode>,
    node: Option<NodeId>,
    client: Option<SocketAddr>,
    start: Instant,
    bytes: u64,
    broken: Option<String>,
}

impl Drop for Log {
    fn drop(&mut self) {
        let Self { core, method, path, status, node, client, start, bytes, broken } = self;
        core.metrics.sent_bytes.inc_by(*bytes);
        let total_ms = start.elapsed().as_secs_f64() * 1_000.0;
        info!(
            %method, path, status = status.map(|status| status.as_u16()), node = node.as_ref().map(tracing::field::display),
            bytes, total_ms, client = client.map(tracing::field::display), broken, "served"
        );
    }
}
