//! The life of a request: refused, mapped to a key, fetched from the best node, answered.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{
    AGE, ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_RANGE, CONTENT_TYPE, HeaderName, HeaderValue, LOCATION, RETRY_AFTER,
    VIA,
};
use http::uri::Scheme;
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri, header};
use http_body_util::Full;

use super::Core;
use super::admin::Outcome;
use super::body::{Inner, Log, ProxyBody};
use super::choice::{Client, choose, conditions, mark_adaptive};
use super::fetch::{Answer, Unanswered, Wanted, forwarded};
use super::memory;
use super::obtain::{Obtained, has_several_ranges, obtain};
use super::revalidate::Use;
use crate::cache::{Head, Reader, Stored};
use crate::model::{NodeId, ObjectKey, Variant, Version};
use crate::protocol::problem::{self, Problem};
use crate::protocol::{
    POLICY_HEADER, ROUTE_HEADER, VERSION_HEADER, decode_path, encode_path, min_version, without_dot_segments,
};
use crate::route::{Policy, Route};
use crate::serve::RequestBody;
use crate::serve::guard::Target;

/// The page for a folder, and for what is missing.
const INDEX: &str = "index.html";
const NOT_FOUND: &str = "404.html";

/// What the cache did for an answer (RFC 9211).
const CACHE_STATUS: &str = "cache-status";

/// Why no node was asked.
const CACHED: &str = "reason=cached";
const JOINED: &str = "reason=joined";

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
    let client = Client::of(request.extensions(), request.headers());
    let (head, _) = request.into_parts();
    let mut log = Log {
        core: core.clone(),
        method: head.method.clone(),
        path: head.uri.path().to_owned(),
        status: None,
        node: None,
        client: client.peer,
        start,
        bytes: 0,
        resumed: 0,
        broken: Some("the client left before the answer began".to_owned()),
    };
    let response = match check(&core, &head.method, &head.uri, &head.headers, client.peer) {
        Ok(Checked { path, policy, min_version }) => {
            let deadline = start + Duration::from_millis(core.config.request_ms_max);
            match forwarded(&head.headers) {
                Some(headers) => {
                    let (uri, method) = (&head.uri, &head.method);
                    let asked = Asked { uri, method, headers, policy, min_version, client: &client, deadline };
                    respond(&core, path, &asked).await
                }
                None => {
                    let detail = "the conditions and ranges of the request are too long";
                    problem(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, detail)
                }
            }
        }
        Err(refusal) => refusal.into_response(),
    };
    core.metrics.answered(response.status());
    log.status = Some(response.status());
    log.node = response.extensions().get().cloned();
    log.broken = None;
    if let (Some(peer), Some(link)) = (client.peer, &client.link) {
        core.links.watch(peer, link, response.body().left());
    }
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

/// What a request that is for this edge says besides its conditions and ranges.
struct Checked {
    /// The decoded path without its first slash.
    path: String,
    /// The policy that a trusted client asks for.
    policy: Option<Policy>,
    /// The oldest version that the client puts up with.
    min_version: Option<Version>,
}

fn check(
    core: &Core,
    method: &Method,
    uri: &Uri,
    headers: &HeaderMap,
    client: Option<SocketAddr>,
) -> Result<Checked, Refusal> {
    if method != Method::GET && method != Method::HEAD {
        let detail = format!("{method} is not for this edge: it serves GET and HEAD");
        return Err(Refusal::new(StatusCode::METHOD_NOT_ALLOWED, detail));
    }
    let target = Target::of(uri, headers).map_err(|error| Refusal::new(error.status(), error.to_string()))?;
    if !core.hosts.contain(target.host()) {
        let detail = format!("this edge does not serve {}", target.host());
        return Err(Refusal::new(StatusCode::FORBIDDEN, detail));
    }
    // An answer for `https` would vouch for what came over no such connection (RFC 9110 section 7.4).
    if let Some(scheme) = uri.scheme().filter(|scheme| **scheme != Scheme::HTTP) {
        let detail = format!("this edge serves {} by http, not by {scheme}", target.host());
        return Err(Refusal::new(StatusCode::MISDIRECTED_REQUEST, detail));
    }
    let Some(path) = uri.path().strip_prefix('/') else {
        return Err(Refusal::new(StatusCode::BAD_REQUEST, "the path must start with /"));
    };
    let path = decode_path(path).map_err(|error| Refusal::new(StatusCode::BAD_REQUEST, error.to_string()))?;
    let min_version = min_version(headers).map_err(|error| Refusal::new(StatusCode::BAD_REQUEST, error.to_string()))?;
    Ok(Checked { path: without_dot_segments(&path), policy: asked_policy(core, headers, client)?, min_version })
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

/// What a client asks for, whatever object it maps to.
struct Asked<'a> {
    uri: &'a Uri,
    method: &'a Method,
    /// Conditions and ranges.
    headers: HeaderMap,
    policy: Option<Policy>,
    min_version: Option<Version>,
    client: &'a Client,
    /// When the client has waited long enough for an answer to begin.
    deadline: Instant,
}

impl Asked<'_> {
    /// The same of `key`, by another method, with other conditions and in any version.
    fn of(&self, key: &ObjectKey, method: &Method, headers: HeaderMap, variant: Variant) -> Wanted {
        let (key, method) = (key.clone(), method.clone());
        Wanted { key, variant, method, headers, policy: self.policy, min_version: None }
    }
}

/// Maps the path to an object and answers with it, or with what stands for it.
async fn respond(core: &Arc<Core>, path: String, asked: &Asked<'_>) -> Response<Inner> {
    let folder = path.is_empty() || path.ends_with('/');
    let name = if folder { format!("{path}{INDEX}") } else { path };
    let key: ObjectKey = match name.parse() {
        Ok(key) => key,
        Err(error) => return problem(StatusCode::BAD_REQUEST, format!("the path names no object: {error}")),
    };
    let choice = match choose(core, &key, asked.uri, asked.client) {
        Ok(choice) => choice,
        Err(error) => return problem(StatusCode::BAD_REQUEST, error.to_string()),
    };
    let wanted = asked.of(&key, asked.method, conditions(choice, &asked.headers), choice.variant);
    let wanted = Arc::new(Wanted { min_version: asked.min_version.clone(), ..wanted });
    match obtain(core, wanted.clone(), asked.deadline).await {
        Ok(obtained) => {
            let mut response = answer_from(core, &wanted, obtained);
            if choice.adaptive {
                mark_adaptive(response.headers_mut());
            }
            response
        }
        Err(Unanswered::Refused(status)) => problem(status, "a node refuses the request"),
        Err(Unanswered::Missing { .. }) if folder => missing(core, &key, asked).await,
        Err(Unanswered::Missing { .. }) => match redirect(core, &key, asked).await {
            Some(response) => response,
            None => missing(core, &key, asked).await,
        },
        Err(Unanswered::Behind) => behind(&wanted),
        Err(Unanswered::Unavailable { busy }) => unavailable(busy),
    }
}

/// The answer with what was obtained.
fn answer_from(core: &Core, wanted: &Wanted, obtained: Obtained) -> Response<Inner> {
    match obtained {
        Obtained::Kept(stored, usage) => from_memory(core, wanted, &stored, usage),
        Obtained::Led { route, passed, head, reader } => {
            core.metrics.looked_up(Outcome::Miss);
            marked(core, along(&head, reader), &route, &passed, "metacdn; fwd=uri-miss; stored")
        }
        Obtained::Joined { head, reader } => {
            core.metrics.looked_up(Outcome::Joined);
            let mut response = along(&head, reader);
            tell(response.headers_mut(), JOINED, "metacdn; fwd=uri-miss; collapsed");
            response
        }
        Obtained::Fetched(Answer { route, response, passed }) => {
            core.metrics.looked_up(Outcome::Passed);
            let mut response = response.map(|body| Inner::Node(Box::new(body)));
            end_to_end(response.headers_mut(), &core.via);
            let why = if wanted.policy.is_some() {
                "metacdn; fwd=request"
            } else if !core.cache.takes(0) || has_several_ranges(&wanted.headers) {
                "metacdn; fwd=bypass"
            } else {
                "metacdn; fwd=uri-miss"
            };
            marked(core, response, &route, &passed, why)
        }
    }
}

fn from_memory(core: &Core, wanted: &Wanted, stored: &Stored, usage: Use) -> Response<Inner> {
    let mut response = memory::answer(stored, &wanted.method, &wanted.headers).map(Inner::Kept);
    if let StatusCode::PRECONDITION_FAILED | StatusCode::RANGE_NOT_SATISFIABLE = response.status() {
        let range = response.headers_mut().remove(CONTENT_RANGE);
        let detail = match response.status() {
            StatusCode::PRECONDITION_FAILED => "the object is not the one that the conditions name".to_owned(),
            _ => format!("there are {} bytes", stored.head.size),
        };
        response = problem(response.status(), detail);
        response.headers_mut().extend(range.map(|range| (CONTENT_RANGE, range)));
    }
    let (outcome, status) = match usage {
        Use::Fresh => (Outcome::Hit, "metacdn; hit"),
        Use::Revalidated => (Outcome::Revalidated, "metacdn; fwd=stale; fwd-status=304"),
        Use::Unchecked(age) => {
            response.headers_mut().insert(AGE, HeaderValue::from(age));
            (Outcome::Unchecked, "metacdn; hit; detail=unchecked")
        }
    };
    core.metrics.looked_up(outcome);
    tell(response.headers_mut(), CACHED, status);
    response
}

/// An answer that reads a fetch along.
fn along(head: &Head, reader: Reader) -> Response<Inner> {
    let mut response = Response::new(Inner::Shared(reader));
    response.headers_mut().clone_from(&head.headers);
    response
}

/// `response` with the node that gave it, and why.
fn marked(
    core: &Core,
    mut response: Response<Inner>,
    route: &Route,
    passed: &[NodeId],
    cache_status: &str,
) -> Response<Inner> {
    let mut why = route.header_value();
    if !passed.is_empty() {
        let names: Vec<_> = passed.iter().map(NodeId::as_str).collect();
        why = format!("{why}; passed={}", names.join(","));
    }
    tell(response.headers_mut(), &why, cache_status);
    core.metrics.routed(&route.node.id);
    response.extensions_mut().insert(route.node.id.clone());
    response
}

/// Says where an answer comes from (RFC 9211 for what the cache did).
fn tell(headers: &mut HeaderMap, route: &str, cache_status: &str) {
    for (name, value) in [(ROUTE_HEADER, route), (CACHE_STATUS, cache_status)] {
        if let Ok(value) = HeaderValue::from_str(value) {
            headers.insert(HeaderName::from_static(name), value);
        }
    }
}

/// A redirect to the folder of that name, if it has a page.
async fn redirect(core: &Arc<Core>, key: &ObjectKey, asked: &Asked<'_>) -> Option<Response<Inner>> {
    let page: ObjectKey = format!("{key}/{INDEX}").parse().ok()?;
    let wanted = asked.of(&page, &Method::HEAD, HeaderMap::new(), Variant::Original);
    obtain(core, Arc::new(wanted), asked.deadline).await.ok()?;
    let query = asked.uri.query().map_or_else(String::new, |query| format!("?{query}"));
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
    let wanted = Arc::new(asked.of(&page, asked.method, HeaderMap::new(), Variant::Original));
    let obtained = obtain(core, wanted.clone(), asked.deadline).await;
    match obtained.map(|obtained| answer_from(core, &wanted, obtained)) {
        Ok(mut response) if response.status() == StatusCode::OK => {
            *response.status_mut() = StatusCode::NOT_FOUND;
            // They are about the page, not about what is missing.
            for name in [header::ETAG, header::LAST_MODIFIED, header::ACCEPT_RANGES, header::AGE, VERSION] {
                response.headers_mut().remove(name);
            }
            response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
            // Wherever the page came from, nodes were asked for what is missing.
            response.headers_mut().remove(ROUTE_HEADER);
            response.headers_mut().insert(CACHE_STATUS, HeaderValue::from_static("metacdn; fwd=uri-miss"));
            response
        }
        _ => problem(StatusCode::NOT_FOUND, format!("there is no object {key}")),
    }
}

/// Leaves of the headers of an answer what is for the client, and adds by whom it came.
pub(super) fn end_to_end(headers: &mut HeaderMap, via: &HeaderValue) {
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
    headers.append(VIA, via.clone());
}

fn unavailable(busy: usize) -> Response<Inner> {
    let detail = match busy {
        0 => "no node answers; try again in a moment".to_owned(),
        busy => format!("no node answers, {busy} have all the requests they take; try again in a moment"),
    };
    try_again(detail)
}

/// What the client has seen of the object no node has that can be reached.
fn behind(wanted: &Wanted) -> Response<Inner> {
    let version = wanted.min_version.as_ref().map_or_else(String::new, |version| format!(" in version {version}"));
    try_again(format!("no node that answers has {}{version} yet; try again in a moment", wanted.key))
}

fn try_again(detail: String) -> Response<Inner> {
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
