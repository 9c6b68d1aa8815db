//! The way in for other edges: who comes by it has a certificate of an edge, and says what he demands.
//!
//! What is asked so is final: it is answered out of the cache, by an origin or by a node, and never by a further shield.

use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use http::uri::Scheme;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, request};
use tokio::net::TcpListener;
use tokio::time::sleep;

use super::super::Core;
use super::super::admin::Outcome;
use super::super::body::{Inner, ProxyBody};
use super::super::coding;
use super::super::facts::Facts;
use super::super::fetch::{Unanswered, Wanted, forwarded};
use super::super::obtain::{Obtained, obtain};
use super::super::proxy::{self, Addressee, answer_from, problem};
use super::super::refusal::Refusal;
use super::super::revalidate::Use;
use super::super::settings::Settings;
use super::{Shields, not_before};
use crate::compress::Wish;
use crate::model::{Principal, Variant};
use crate::protocol::identity::{Identity, TlsVersions};
use crate::protocol::shield::{Content, Demand, Said};
use crate::protocol::{OBJECTS, SHIELD_HEADER, VARIANT_QUERY, decode_key, min_version};
use crate::serve::guard::Target;
use crate::serve::http1::{self, Handlers, Interim};
use crate::serve::{self, RequestBody, Transport};

/// How long the feeds may take to tell what the asker has heard of already: about a round trip, when all is well.
const CATCH_UP: Duration = Duration::from_millis(500);

/// When an answer that does not come is announced.
const SIGN_OF_LIFE: Duration = Duration::from_millis(100);

/// What edges add to the head of a request that came from a client is no reason to refuse it.
const HEADER_BYTES_MIN: usize = 64 * 1024;

/// A request of another edge, or why it is refused; in its extensions.
#[derive(Debug, Clone)]
pub(in crate::edge) struct Admitted(Result<Asker, (StatusCode, &'static str)>);

/// What is known of an edge that asks.
#[derive(Debug, Clone, Copy)]
struct Asker {
    content: Content,
    not_before: Option<SystemTime>,
}

/// The open way in.
pub(in crate::edge) struct Door {
    listener: TcpListener,
    transport: Transport,
}

impl Door {
    /// The way in by this socket, as `identity`.
    pub(in crate::edge) fn new(listener: TcpListener, identity: &Identity) -> Self {
        Self { listener, transport: Transport::Tls(identity.server_config(TlsVersions::Only13)) }
    }

    /// Answers edges until the edge stops.
    pub(in crate::edge) async fn serve(self, core: Arc<Core>) {
        let limits = core.config.serve.clone();
        let limits = serve::Config { header_bytes_max: limits.header_bytes_max.max(HEADER_BYTES_MIN), ..limits };
        let stop = core.stop.clone();
        let http = tower::service_fn(move |request| answer(core.clone(), request));
        let handlers = Handlers { http, hot: Arc::new(()), witness: None };
        http1::serve(self.listener, self.transport, limits, handlers, stop).await;
    }
}

/// Answers a request of an edge.
async fn answer(core: Arc<Core>, mut request: Request<RequestBody>) -> Result<Response<ProxyBody>, Infallible> {
    let interim = request.extensions().get::<Interim>().cloned();
    let mut answering = pin!(async {
        let admitted = admit(&core, &request).await;
        let is_admitted = admitted.is_ok();
        request.headers_mut().remove(SHIELD_HEADER);
        request.extensions_mut().insert(Admitted(admitted));
        (proxy::answer(core.clone(), request).await, is_admitted)
    });
    let (answered, is_admitted) = tokio::select! {
        biased;
        answered = &mut answering => answered,
        () = sleep(SIGN_OF_LIFE) => {
            // RFC 2518 section 10.1 has a status for this. Where it cannot be sent, the answer is late.
            let _ = interim.map(|interim| interim.send(StatusCode::PROCESSING, HeaderMap::new()));
            answering.await
        }
    };
    let Ok(mut response) = answered;
    let said = is_admitted.then(|| said(&mut response));
    let headers = response.headers_mut();
    headers.remove(SHIELD_HEADER);
    if let Some(said) = said {
        core.metrics.shielded(said);
        headers.insert(HeaderName::from_static(SHIELD_HEADER), HeaderValue::from_static(said.as_str()));
    }
    Ok(response)
}

/// What the request demands, if it may.
async fn admit(core: &Core, request: &Request<RequestBody>) -> Result<Asker, (StatusCode, &'static str)> {
    if !matches!(request.extensions().get(), Some(Principal::Edge(_))) {
        return Err((StatusCode::UNAUTHORIZED, "this is for edges of the cluster: it needs the certificate of one"));
    }
    if core.stop.is_cancelled() {
        return Err((StatusCode::SERVICE_UNAVAILABLE, "this edge is stopping"));
    }
    let demand = match Demand::of(request.headers()) {
        Ok(Some(demand)) => demand,
        Ok(None) | Err(_) => return Err((StatusCode::BAD_REQUEST, "this is no request of an edge")),
    };
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return Err((StatusCode::METHOD_NOT_ALLOWED, "a shield is asked for nothing but GET and HEAD"));
    }
    if !core.shields.positions.reach(&demand.heard, CATCH_UP).await {
        let detail = "this edge has not heard of all that the asking one has: what it has kept may be purged";
        return Err((StatusCode::CONFLICT, detail));
    }
    Ok(Asker { content: demand.content, not_before: not_before(&demand) })
}

/// What a shield says of an answer.
fn said(response: &mut Response<ProxyBody>) -> Said {
    let status = response.status().as_u16();
    match Facts::of(response).outcome {
        Some(Outcome::Hit | Outcome::Unchecked) => Said::Hit,
        Some(Outcome::Revalidated | Outcome::Miss | Outcome::Joined | Outcome::Passed) => Said::Miss,
        None if matches!(status, 502..=504) => Said::Unanswered,
        None => Said::Refused,
    }
}

impl Admitted {
    /// Whose content it asks for.
    pub(in crate::edge) fn addressee(
        &self,
        shields: &Shields,
        settings: &Settings,
        head: &request::Parts,
    ) -> Result<Addressee, Refusal> {
        let addressee = self.addressed(settings, head)?;
        let is_asked_elsewhere = match &addressee {
            Addressee::Site { target, .. } => {
                let uri = target.to_string();
                shields.is_asking(uri.split_once("://").map_or(&*uri, |(_, key)| key))
            }
            Addressee::Object(wanted) => shields.is_asking(wanted.target().as_str()),
            Addressee::Store => false,
        };
        if is_asked_elsewhere {
            return Err(Refusal::new(StatusCode::CONFLICT, "this edge asks another one for that: their lists differ"));
        }
        Ok(addressee)
    }

    fn addressed(&self, settings: &Settings, head: &request::Parts) -> Result<Addressee, Refusal> {
        let Asker { content, not_before } = self.0.map_err(|(status, detail)| Refusal::new(status, detail))?;
        let scheme = match content {
            Content::Http => Scheme::HTTP,
            Content::Https => Scheme::HTTPS,
            Content::Store => return wanted(head).map(Addressee::Object),
        };
        let target =
            Target::of(&head.uri, &head.headers).map_err(|error| Refusal::new(error.status(), error.to_string()))?;
        let Some(site) = settings.sites.of(target.host()) else {
            let detail = format!("this edge has no site for {}", target.host());
            return Err(Refusal::new(StatusCode::MISDIRECTED_REQUEST, detail));
        };
        proxy::of_site(site, &target, scheme, head, Some(not_before))
    }
}

/// The object that is asked for as a node is.
fn wanted(head: &request::Parts) -> Result<Wanted, Refusal> {
    let bad = |detail: String| Refusal::new(StatusCode::BAD_REQUEST, detail);
    let path = head.uri.path().strip_prefix(OBJECTS).and_then(|path| path.strip_prefix('/'));
    let key = decode_key(path.ok_or_else(|| bad("the path is that of no object".to_owned()))?);
    let key = key.map_err(|error| bad(error.to_string()))?;
    let field = head.uri.query().and_then(|query| query.strip_prefix(VARIANT_QUERY)?.strip_prefix('='));
    let variant = field.map_or(Ok(Variant::Original), str::parse).map_err(|error| bad(error.to_string()))?;
    let min_version = min_version(&head.headers).map_err(|error| bad(error.to_string()))?;
    let headers = forwarded(&head.headers).ok_or_else(|| bad("its conditions and ranges are too long".to_owned()))?;
    Ok(Wanted { key, variant, method: head.method.clone(), headers, policy: None, min_version, is_final: true })
}

/// An object of the store for another edge, in the form in which nodes give it.
pub(in crate::edge) async fn object_for_edge(core: &Arc<Core>, wanted: Wanted, deadline: Instant) -> Response<Inner> {
    let wanted = Arc::new(wanted);
    let wish = Wish::of(&wanted.method, &wanted.headers, &[]);
    let (method, headers) = (&wanted.method, &wanted.headers);
    let form = coding::Request { config: core.shields.as_they_are(), wish, method, headers };
    match obtain(core, wanted.clone(), deadline).await {
        // The asker would take it for what the store has now.
        Ok(Obtained::Kept(_, Use::Unchecked(_))) => {
            problem(StatusCode::SERVICE_UNAVAILABLE, "no node can say whether what is kept is right")
        }
        Ok(obtained) => answer_from(core, &wanted, form, obtained).await,
        Err(Unanswered::Missing { .. }) => problem(StatusCode::NOT_FOUND, "no node has it"),
        Err(Unanswered::Refused(status)) => problem(status, "a node refuses the request"),
        Err(Unanswered::Behind | Unanswered::Unavailable { .. }) => {
            problem(StatusCode::SERVICE_UNAVAILABLE, "no node answers")
        }
    }
}
