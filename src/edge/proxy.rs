//! The life of a request: refused, mapped to a key, fetched from the best node, answered.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use http::header::{AGE, CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue, LOCATION, RETRY_AFTER, VIA};
use http::uri::Scheme;
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri, header, request};
use http_body_util::Full;

use super::Core;
use super::admin::Outcome;
use super::body::{Inner, Log, ProxyBody};
use super::choice::{Client, choose, conditions, mark_adaptive};
use super::coding;
use super::facts::{Facts, Tally, looked_up, marked, tell_cache, tell_route};
use super::fetch::{Answer, Unanswered, Wanted, forwarded, whole_size};
use super::obtain::{Obtained, obtain};
use super::refusal::Refusal;
use super::revalidate::Use;
use super::settings::Settings;
use super::shield;
use super::site::{self, Asker, Site};
use super::slices::{self, Walk};
use crate::cache::rules::{CACHE_STATUS, strip_hop_by_hop};
use crate::cache::{Sliced, Stored};
use crate::compress::{Wish, tag};
use crate::model::{ObjectKey, Variant, Version};
use crate::protocol::problem::{self, Problem};
use crate::protocol::{
    POLICY_HEADER, ROUTE_HEADER, VERSION_HEADER, decode_path, encode_path, min_version, without_dot_segments,
};
use crate::route::Policy;
use crate::serve::guard::Target;
use crate::serve::{RequestBody, Secured};

/// The page for a folder, and for what is missing.
pub(super) const INDEX: &str = "index.html";
const NOT_FOUND: &str = "404.html";

/// Why no node was asked.
pub(super) const CACHED: &str = "reason=cached";
/// What the cache says of what it had.
pub(super) const HIT: &str = "metacdn; hit";

const JOINED: &str = "reason=joined";

const VERSION: HeaderName = HeaderName::from_static(VERSION_HEADER);

/// Answers a request, whatever happens.
pub(super) async fn answer(core: Arc<Core>, request: Request<RequestBody>) -> Result<Response<ProxyBody>, Infallible> {
    let start = Instant::now();
    let client = Client::of(request.extensions(), request.headers());
    let (head, body) = request.into_parts();
    let (version, secured) = (head.version, head.extensions.get::<Secured>().is_some());
    let mut log = Log {
        core: core.clone(),
        version,
        secured,
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
    let deadline = start + Duration::from_millis(core.config.request_ms_max);
    // Those of its begin: a reload meanwhile is for requests after it.
    let settings = core.settings.load_full();
    let mut of_site = None;
    let mut response = match addressee(&core, &settings, &head) {
        Ok(Addressee::Site { site, target, not_before }) => {
            of_site = Some(site.label().clone());
            let trusted = client.peer.is_some_and(|peer| settings.trusts(peer));
            let (asker, rules) = match not_before {
                None => (Asker::Client { address: client.peer, trusted }, site.compression()),
                Some(not_before) => (Asker::Edge { not_before }, core.shields.as_they_are()),
            };
            let incoming = site::Incoming::new(head, target, rules, asker, start + site.patience());
            site.answer(&core, incoming, body).await
        }
        Ok(Addressee::Object(wanted)) => shield::object_for_edge(&core, wanted, deadline).await,
        Ok(Addressee::Store) => from_store(&core, &settings, &head, &client, deadline).await,
        Err(refusal) => refusal.into_response(),
    };
    response.body_mut().sent_by(version);
    core.metrics.answered(response.status());
    core.metrics.protocol(version, secured).inc();
    if let Some(offer) = core.alt_svc.for_answer(version, secured) {
        response.headers_mut().insert(header::ALT_SVC, offer);
    }
    log.status = Some(response.status());
    let (size_bytes, coding) = (whole_size(&response), response.headers().get(header::CONTENT_ENCODING).cloned());
    let facts = Facts::of(&mut response);
    log.node = facts.node().cloned();
    (facts.site, facts.size_bytes, facts.coding) = (of_site, size_bytes, coding);
    log.broken = None;
    if let (Some(peer), Some(link)) = (client.peer, &client.link) {
        core.links.watch(peer, link, response.body().left());
    }
    Ok(response.map(|body| ProxyBody { body, log }))
}

/// Whose content a request asks for.
pub(super) enum Addressee {
    /// A site's.
    Site {
        site: Arc<Site>,
        /// With scheme and host.
        target: Uri,
        /// Of an edge that asks: what is kept and older may be purged.
        not_before: Option<Option<SystemTime>>,
    },
    /// The cluster's.
    Store,
    /// The cluster's, for an edge that asks.
    Object(Wanted),
}

/// Whose content a request with this head asks for.
fn addressee(core: &Core, settings: &Settings, head: &request::Parts) -> Result<Addressee, Refusal> {
    if let Some(admitted) = head.extensions.get::<shield::Admitted>() {
        return admitted.addressee(&core.shields, settings, head);
    }
    if head.method == Method::CONNECT || head.method == Method::TRACE {
        let detail = format!("{} is not for this edge: it is no tunnel, and shows nobody's requests", head.method);
        return Err(Refusal::new(StatusCode::METHOD_NOT_ALLOWED, detail));
    }
    let target =
        Target::of(&head.uri, &head.headers).map_err(|error| Refusal::new(error.status(), error.to_string()))?;
    let secured = head.extensions.get::<Secured>();
    // Whoever was shown another host's certificate has nobody's word for this one (RFC 9110 section 7.4).
    if secured.is_some_and(|secured| !secured.covers(target.host())) {
        let detail = format!("the certificate of this connection is not for {}", target.host());
        return Err(Refusal::new(StatusCode::MISDIRECTED_REQUEST, detail));
    }
    let site = settings.sites.of(target.host());
    if site.is_none() && !settings.hosts.contain(target.host()) {
        let detail = format!("this edge does not serve {}", target.host());
        return Err(Refusal::new(StatusCode::FORBIDDEN, detail));
    }
    // An answer for `https` would vouch for what came over no such connection (RFC 9110 section 7.4).
    let scheme = if secured.is_some() { Scheme::HTTPS } else { Scheme::HTTP };
    if let Some(other) = head.uri.scheme().filter(|other| **other != scheme) {
        let detail = format!("on this connection {} is served by {scheme}, not by {other}", target.host());
        return Err(Refusal::new(StatusCode::MISDIRECTED_REQUEST, detail));
    }
    match site {
        Some(site) => of_site(site, &target, scheme, head, None),
        None => Ok(Addressee::Store),
    }
}

/// A request of a `site`, for this target by this scheme.
pub(super) fn of_site(
    site: &Arc<Site>,
    target: &Target,
    scheme: Scheme,
    head: &request::Parts,
    not_before: Option<Option<SystemTime>>,
) -> Result<Addressee, Refusal> {
    if head.uri.path() == "*" {
        return Err(Refusal::new(
            StatusCode::BAD_REQUEST,
            "ask for a path: what stands for all of them is not passed on",
        ));
    }
    let path = head.uri.path_and_query().map_or("/", |path| path.as_str());
    let authority = target.authority(default_port(&scheme));
    let uri = Uri::builder().scheme(scheme).authority(authority).path_and_query(path).build();
    match uri {
        Ok(target) => Ok(Addressee::Site { site: site.clone(), target, not_before }),
        Err(error) => Err(Refusal::new(StatusCode::BAD_REQUEST, format!("the target is no URI: {error}"))),
    }
}

/// The port that a URI of this scheme need not name (RFC 9110 section 4.2).
pub(super) fn default_port(scheme: &Scheme) -> u16 {
    if *scheme == Scheme::HTTPS { 443 } else { 80 }
}

/// An answer from the cluster's store.
async fn from_store(
    core: &Arc<Core>,
    settings: &Settings,
    head: &request::Parts,
    client: &Client,
    deadline: Instant,
) -> Response<Inner> {
    let Checked { path, policy, min_version } = match check(settings, head, client.peer) {
        Ok(checked) => checked,
        Err(refusal) => return refusal.into_response(),
    };
    let Some(headers) = forwarded(&head.headers) else {
        let detail = "the conditions and ranges of the request are too long";
        return problem(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, detail);
    };
    let (uri, method) = (&head.uri, &head.method);
    let wish = Wish::of(method, &head.headers, &settings.compression.codings);
    let asked = Asked { uri, method, headers, settings, wish, policy, min_version, client, deadline };
    respond(core, path, &asked).await
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

fn check(settings: &Settings, head: &request::Parts, client: Option<SocketAddr>) -> Result<Checked, Refusal> {
    let request::Parts { method, uri, headers, .. } = head;
    if method != Method::GET && method != Method::HEAD {
        let detail = format!("{method} is not for this edge: it serves GET and HEAD");
        return Err(Refusal::new(StatusCode::METHOD_NOT_ALLOWED, detail));
    }
    let Some(path) = uri.path().strip_prefix('/') else {
        return Err(Refusal::new(StatusCode::BAD_REQUEST, "the path must start with /"));
    };
    let path = decode_path(path).map_err(|error| Refusal::new(StatusCode::BAD_REQUEST, error.to_string()))?;
    let min_version = min_version(headers).map_err(|error| Refusal::new(StatusCode::BAD_REQUEST, error.to_string()))?;
    Ok(Checked { path: without_dot_segments(&path), policy: asked_policy(settings, headers, client)?, min_version })
}

fn asked_policy(
    settings: &Settings,
    headers: &HeaderMap,
    client: Option<SocketAddr>,
) -> Result<Option<Policy>, Refusal> {
    let Some(value) = headers.get(POLICY_HEADER) else { return Ok(None) };
    if !client.is_some_and(|client| settings.trusts(client)) {
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
    /// Those of its begin, by which all of its answer is made.
    settings: &'a Settings,
    /// What it says of codings.
    wish: Wish,
    policy: Option<Policy>,
    min_version: Option<Version>,
    client: &'a Client,
    /// When the client has waited long enough for an answer to begin.
    deadline: Instant,
}

impl Asked<'_> {
    /// What of it, with these conditions and ranges, matters to the form of its answer.
    fn form<'r>(&'r self, headers: &'r HeaderMap) -> coding::Request<'r> {
        coding::Request { config: &self.settings.compression, wish: self.wish, method: self.method, headers }
    }

    /// The same of `key`, by another method, with other conditions and in any version.
    fn of(&self, key: &ObjectKey, method: &Method, headers: HeaderMap, variant: Variant) -> Wanted {
        let (key, method) = (key.clone(), method.clone());
        Wanted { key, variant, method, headers, policy: self.policy, min_version: None, is_final: false }
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
    let choice = match choose(core, &asked.settings.config.thresholds, &key, asked.uri, asked.client) {
        Ok(choice) => choice,
        Err(error) => return problem(StatusCode::BAD_REQUEST, error.to_string()),
    };
    let headers = conditions(choice, &asked.headers);
    let mut known_to_nodes = headers.clone();
    tag::for_origin(&mut known_to_nodes, asked.wish.accepted);
    let wanted = asked.of(&key, asked.method, known_to_nodes, choice.variant);
    let wanted = Arc::new(Wanted { min_version: asked.min_version.clone(), ..wanted });
    match obtain(core, wanted.clone(), asked.deadline).await {
        Ok(obtained) => {
            let request = asked.form(&headers);
            let mut response = answer_from(core, &wanted, request, obtained).await;
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

/// The answer to `request` with what was obtained.
pub(super) async fn answer_from(
    core: &Arc<Core>,
    wanted: &Arc<Wanted>,
    request: coding::Request<'_>,
    obtained: Obtained,
) -> Response<Inner> {
    match obtained {
        Obtained::Kept(stored, usage) => from_memory(core, wanted, request, &stored, usage).await,
        Obtained::Led { way, head, reader } => {
            let mut response = coding::along(core, request, &head, reader).await;
            looked_up(core, &mut response, Outcome::Miss);
            tell_cache(response.headers_mut(), "metacdn; fwd=uri-miss; stored");
            marked(core, response, &way)
        }
        Obtained::Begun { way, stored, begun, fetched } => {
            let mut fetched = Some((begun, fetched));
            let walk = |sliced: &Arc<Sliced>, part| {
                let walk = walk(core, wanted, &stored, (sliced, &way.fetched), part);
                match fetched.take() {
                    Some((begun, fetched)) => walk.with(begun, fetched),
                    None => walk,
                }
            };
            let mut response = coding::kept(core, request, &stored, &stored.head(), walk).await;
            looked_up(core, &mut response, Outcome::Miss);
            tell_cache(response.headers_mut(), "metacdn; fwd=uri-miss; stored");
            marked(core, response, &way)
        }
        Obtained::Joined { head, reader } => {
            let mut response = coding::along(core, request, &head, reader).await;
            looked_up(core, &mut response, Outcome::Joined);
            tell_route(response.headers_mut(), JOINED);
            tell_cache(response.headers_mut(), "metacdn; fwd=uri-miss; collapsed");
            response
        }
        Obtained::Fetched(Answer { way, response }) => {
            let mut response = response.map(|body| Inner::Node(Box::new(body)));
            end_to_end(response.headers_mut(), &core.via);
            let is_for_all = coding::is_for_all(response.headers());
            let mut response = coding::passed(core, request, is_for_all, response);
            looked_up(core, &mut response, Outcome::Passed);
            let why = if wanted.policy.is_some() {
                "metacdn; fwd=request"
            } else if !core.cache.takes(0) {
                "metacdn; fwd=bypass"
            } else {
                "metacdn; fwd=uri-miss"
            };
            tell_cache(response.headers_mut(), why);
            marked(core, response, &way)
        }
    }
}

async fn from_memory(
    core: &Arc<Core>,
    wanted: &Arc<Wanted>,
    request: coding::Request<'_>,
    stored: &Arc<Stored>,
    usage: Use,
) -> Response<Inner> {
    let fetched = Arc::<Tally>::default();
    let walk = |sliced: &Arc<Sliced>, part| walk(core, wanted, stored, (sliced, &fetched), part);
    let mut response = coding::kept(core, request, stored, &stored.head(), walk).await;
    let (outcome, status) = match usage {
        Use::Fresh => (Outcome::Hit, HIT),
        Use::Revalidated => (Outcome::Revalidated, "metacdn; fwd=stale; fwd-status=304"),
        Use::Unchecked(age) => {
            response.headers_mut().insert(AGE, HeaderValue::from(age));
            (Outcome::Unchecked, "metacdn; hit; detail=unchecked")
        }
    };
    looked_up(core, &mut response, outcome);
    Facts::of(&mut response).fetched = Some(fetched);
    tell_route(response.headers_mut(), CACHED);
    tell_cache(response.headers_mut(), status);
    response
}

/// The bytes `part` of what is `stored` in slices; what is fetched of it is counted.
fn walk(
    core: &Arc<Core>,
    wanted: &Arc<Wanted>,
    stored: &Arc<Stored>,
    (sliced, fetched): (&Arc<Sliced>, &Arc<Tally>),
    part: Range<u64>,
) -> Walk {
    let known = slices::Known { key: wanted.cache_key(), stored: stored.clone(), fetched: fetched.clone() };
    Walk::new(core, sliced, Arc::new(slices::Object::new(wanted.clone(), known)), part)
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
    let none = HeaderMap::new();
    let response = match obtain(core, wanted.clone(), asked.deadline).await {
        Ok(obtained) => Some(answer_from(core, &wanted, asked.form(&none), obtained).await),
        Err(_) => None,
    };
    match response {
        Some(mut response) if response.status() == StatusCode::OK => {
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
    strip_hop_by_hop(headers);
    headers.remove(header::TRAILER);
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

pub(super) fn problem(status: StatusCode, detail: impl Into<String>) -> Response<Inner> {
    let json = Bytes::from(Problem::new(status, detail).to_json());
    let mut response = Response::new(Inner::Own(Full::new(json)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(problem::MEDIA_TYPE));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
