//! The life of a request: refused, mapped to a key, fetched from the best node, answered.

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::Bytes;
use http::header::{
    ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_TYPE, HOST, HeaderName, HeaderValue, LOCATION, RETRY_AFTER, VIA,
};
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri, header};
use http_body::{Frame, SizeHint};
use http_body_util::Full;
use tracing::info;

use super::Core;
use super::fetch::{Fetched, NodeBody, NodeBodyError, fetch};
use crate::model::{NodeId, ObjectKey};
use crate::protocol::problem::{self, Problem};
use crate::protocol::{POLICY_HEADER, ROUTE_HEADER, decode_path, encode_path};
use crate::route::{Policy, Route};
use crate::serve::{PeerAddress, RequestBody};

/// The page for a folder, and for what is missing.
const INDEX: &str = "index.html";
const NOT_FOUND: &str = "404.html";

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
    let response = match check(&core, &head.method, &head.uri, &head.headers, client) {
        Ok((path, policy)) => respond(&core, &head.method, &head.uri, &head.headers, path, policy).await,
        Err(refusal) => refusal.into_response(),
    };
    let status = response.status();
    core.metrics.answered(status);
    let node = response.extensions().get::<NodeId>().cloned();
    let path = head.uri.path().to_owned();
    let log = Log { core, method: head.method, path, status, node, client, start, broken: None };
    Ok(response.map(|body| ProxyBody { body, bytes: 0, log: Some(log) }))
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
    let host = uri.host().map(ToOwned::to_owned).or_else(|| {
        let authority: http::uri::Authority = headers.get(HOST)?.to_str().ok()?.parse().ok()?;
        Some(authority.host().to_owned())
    });
    match host {
        Some(host) if core.hosts.contain(&host) => {}
        Some(host) => {
            let detail = format!("this edge does not serve {host}: add it to edge.hosts if it should");
            return Err(Refusal::new(StatusCode::FORBIDDEN, detail));
        }
        None => return Err(Refusal::new(StatusCode::BAD_REQUEST, "the request names no host")),
    }
    let path = decode_path(uri.path().strip_prefix('/').unwrap_or_default())
        .map_err(|error| Refusal::new(StatusCode::BAD_REQUEST, error.to_string()))?;
    Ok((path, asked_policy(core, headers, client)?))
}

fn asked_policy(core: &Core, headers: &HeaderMap, client: Option<SocketAddr>) -> Result<Option<Policy>, Refusal> {
    let Some(value) = headers.get(POLICY_HEADER) else { return Ok(None) };
    let trusted = client.is_some_and(|client| core.config.trusted.contains(&canonical(client.ip())));
    if !trusted {
        return Err(Refusal::new(StatusCode::FORBIDDEN, "only clients in edge.trusted may choose a policy"));
    }
    let words = value.to_str().map_err(|_| Refusal::new(StatusCode::BAD_REQUEST, "the policy is not text"))?;
    words.parse().map(Some).map_err(|error| Refusal::new(StatusCode::BAD_REQUEST, format!("{POLICY_HEADER}: {error}")))
}

/// An IPv4 client on an IPv6 socket is the IPv4 client.
fn canonical(ip: IpAddr) -> IpAddr {
    ip.to_canonical()
}

/// Maps the path to an object and answers with it, or with what stands for it.
async fn respond(
    core: &Arc<Core>,
    method: &Method,
    uri: &Uri,
    headers: &HeaderMap,
    path: String,
    policy: Option<Policy>,
) -> Response<Inner> {
    let folder = path.is_empty() || path.ends_with('/');
    let name = if folder { format!("{path}{INDEX}") } else { path };
    let key: ObjectKey = match name.parse() {
        Ok(key) => key,
        Err(error) => return problem(StatusCode::BAD_REQUEST, format!("the path names no object: {error}")),
    };
    match fetch(core, &key, method, headers, policy).await {
        Fetched::Answer { route, response, .. } => forward(core, &route, response),
        Fetched::Unavailable => unavailable(),
        Fetched::Missing if folder => missing(core, method, &key, policy).await,
        Fetched::Missing => match redirect(core, uri, &key, policy).await {
            Some(response) => response,
            None => missing(core, method, &key, policy).await,
        },
    }
}

/// A redirect to the folder of that name, if it has a page.
async fn redirect(core: &Arc<Core>, uri: &Uri, key: &ObjectKey, policy: Option<Policy>) -> Option<Response<Inner>> {
    let page: ObjectKey = format!("{key}/{INDEX}").parse().ok()?;
    let Fetched::Answer { .. } = fetch(core, &page, &Method::HEAD, &HeaderMap::new(), policy).await else {
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
async fn missing(core: &Arc<Core>, method: &Method, key: &ObjectKey, policy: Option<Policy>) -> Response<Inner> {
    let page: ObjectKey = NOT_FOUND.parse().expect("it is a key");
    match fetch(core, &page, method, &HeaderMap::new(), policy).await {
        Fetched::Answer { route, response, .. } if response.status() == StatusCode::OK => {
            let mut response = forward(core, &route, response);
            *response.status_mut() = StatusCode::NOT_FOUND;
            for name in [header::ETAG, header::LAST_MODIFIED, header::ACCEPT_RANGES] {
                response.headers_mut().remove(name);
            }
            response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
            response
        }
        _ => problem(StatusCode::NOT_FOUND, format!("there is no object {key}")),
    }
}

/// The answer of a node, as the client gets it.
fn forward(core: &Core, route: &Route, response: Response<NodeBody>) -> Response<Inner> {
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
    if let Ok(why) = HeaderValue::from_str(&route.header_value()) {
        headers.insert(ROUTE_HEADER, why);
    }
    core.metrics.routed(&route.node.id);
    response.extensions_mut().insert(route.node.id.clone());
    response
}

fn unavailable() -> Response<Inner> {
    let mut response = problem(StatusCode::SERVICE_UNAVAILABLE, "no node answers; try again in a moment");
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
    bytes: u64,
    log: Option<Log>,
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
            Poll::Ready(Some(Ok(frame))) => self.bytes += frame.data_ref().map_or(0, |bytes| bytes.len() as u64),
            Poll::Ready(Some(Err(error))) => {
                if let Some(log) = &mut self.log {
                    log.broken = Some(error.to_string());
                }
            }
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

impl Drop for ProxyBody {
    fn drop(&mut self) {
        if let Some(log) = self.log.take() {
            log.write(self.bytes);
        }
    }
}

/// What the log says of a request.
struct Log {
    core: Arc<Core>,
    method: Method,
    path: String,
    status: StatusCode,
    node: Option<NodeId>,
    client: Option<SocketAddr>,
    start: Instant,
    broken: Option<String>,
}

impl Log {
    fn write(self, bytes: u64) {
        let Self { core, method, path, status, node, client, start, broken } = self;
        core.metrics.sent_bytes.inc_by(bytes);
        let total_ms = start.elapsed().as_secs_f64() * 1_000.0;
        info!(
            %method, path, status = status.as_u16(), node = node.map(tracing::field::display), bytes, total_ms,
            client = client.map(tracing::field::display), broken, "served"
        );
    }
}
