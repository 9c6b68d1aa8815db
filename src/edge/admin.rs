//! What an operator and a monitor ask of an edge: health, readiness, metrics, and the table by which it routes.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, SystemTime};

use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{Extension, Query, Request, State};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use http::header::CONTENT_TYPE;
use http::{StatusCode, Version};
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Metric, Registry, Unit};
use serde::{Deserialize, Serialize};

use super::ledger::Account;
use super::{Core, ReloadError, access_log};
use crate::compress::{Coding, Made};
use crate::model::{NodeId, ObjectKey, Principal, Purge};
use crate::price::PriceBasis;
use crate::protocol::problem::{self, Problem};
use crate::protocol::reload::Reloaded;
use crate::protocol::shield::Said;
use crate::protocol::{HEALTH, METRICS, PURGES, READY, RELOAD, ROUTES};
use crate::route::{self, Explanation, Policy};
use crate::serve::guard::{self, AllowedHosts};

/// The media type of the metrics (OpenMetrics 1.0).
const METRICS_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What an edge counts.
pub(super) struct Metrics {
    registry: Registry,
    requests: Family<StatusLabels, Counter>,
    protocols: Family<ProtocolLabels, Counter>,
    certificates: Family<CertificateLabels, Gauge>,
    routed: Family<NodeLabels, Counter>,
    cache: Family<OutcomeLabels, Counter>,
    fetches: Family<NodeLabels, Counter>,
    fetched_bytes: Family<NodeLabels, Counter>,
    fetching_seconds: Family<NodeLabels, Counter<f64, AtomicU64>>,
    encodings: Family<CodingLabels, Counter>,
    encoded_source_bytes: Family<CodingLabels, Counter>,
    encoded_bytes: Family<CodingLabels, Counter>,
    shields: Family<ShieldLabels, Counter>,
    shielded: Family<ShieldedLabels, Counter>,
    pub(super) sent_bytes: Counter,
    /// Hits that were answered without an `http::Request`.
    pub(super) hot: Counter,
    pub(super) early_hints: Counter,
    /// Tries after which another node was asked.
    pub(super) retries: Counter,
    /// Bodies that another node went on with.
    pub(super) resumed: Counter,
    /// Purges that were heard of.
    pub(super) purges: Counter,
    /// Lines of the access log.
    pub(super) access_log: access_log::Counts,
}

/// What counts the requests to one node.
pub(super) struct NodeCounts {
    fetches: Counter,
    fetched_bytes: Counter,
    fetching_seconds: Counter<f64, AtomicU64>,
    account: Option<Account>,
}

impl NodeCounts {
    /// A request is over: the node sent so many bytes and, being idle now, has been at work for so long.
    pub(super) fn fetched(&self, bytes: u64, worked: Duration) {
        self.fetches.inc();
        self.fetched_bytes.inc_by(bytes);
        if let Some(account) = &self.account {
            account.charge(bytes);
        }
        if !worked.is_zero() {
            self.fetching_seconds.inc_by(worked.as_secs_f64());
        }
    }
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct StatusLabels {
    status: u16,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ProtocolLabels {
    protocol: &'static str,
    scheme: &'static str,
}

/// What a version of HTTP is called in the log and in metrics.
pub(super) const fn protocol_name(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "1.0",
        Version::HTTP_2 => "2",
        Version::HTTP_3 => "3",
        _ => "1.1",
    }
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct CertificateLabels {
    /// Its file.
    certificate: String,
}

/// What the cache did for an answer.
#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq, EncodeLabelValue)]
pub(super) enum Outcome {
    /// It was there.
    Hit,
    /// It was there, and a node said that it is right still.
    Revalidated,
    /// It was there, and no node could be asked.
    Unchecked,
    /// It was fetched, and is kept.
    Miss,
    /// Another request was fetching it.
    Joined,
    /// It was fetched for this request alone.
    Passed,
}

impl Outcome {
    /// Its name in the access log.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Hit => "hit",
            Self::Revalidated => "revalidated",
            Self::Unchecked => "unchecked",
            Self::Miss => "miss",
            Self::Joined => "joined",
            Self::Passed => "passed",
        }
    }
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OutcomeLabels {
    outcome: Outcome,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct NodeLabels {
    node: String,
}

/// What came of asking a shield.
#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq, EncodeLabelValue)]
pub(super) enum ShieldOutcome {
    /// It had the answer.
    Hit,
    /// It has asked for it.
    Miss,
    /// Whoever it asks gives none.
    Unanswered,
    /// It does not answer this request.
    Refused,
    /// It has all the requests that it is sent.
    Busy,
    /// It failed.
    Failed,
}

impl ShieldOutcome {
    /// Whether it is an answer.
    pub(super) const fn is_answer(self) -> bool {
        matches!(self, Self::Hit | Self::Miss)
    }
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ShieldLabels {
    shield: String,
    outcome: ShieldOutcome,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ShieldedLabels {
    said: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct CodingLabels {
    coding: &'static str,
}

impl CodingLabels {
    const fn of(coding: Coding) -> Self {
        Self { coding: coding.as_str() }
    }
}

/// A metric that is told of.
fn registered<M: Metric + Clone + Default>(registry: &mut Registry, name: &str, help: &str) -> M {
    let metric = M::default();
    registry.register(name, help, metric.clone());
    metric
}

impl Metrics {
    pub(super) fn new() -> Self {
        let mut registry = Registry::with_prefix("metacdn_edge");
        let requests = registered(&mut registry, "requests", "Requests answered");
        let protocols = registered(&mut registry, "protocols", "Requests answered by how they came");
        let certificates = Family::default();
        let help = "When a certificate for users expires, in seconds since 1970";
        registry.register_with_unit("certificate_expiry", help, Unit::Seconds, certificates.clone());
        let routed = registered(&mut registry, "routed", "Answers by the node that gave them");
        let sent_bytes = Counter::default();
        registry.register_with_unit("sent", "Bytes of bodies sent to clients", Unit::Bytes, sent_bytes.clone());
        let retries = registered(&mut registry, "retries", "Tries that were made because the one before failed");
        let resumed = registered(&mut registry, "resumed", "Bodies that broke off and went on at another node");
        let purges = registered(&mut registry, "purges", "Purges that were heard of");
        let access_log = access_log::Counts::default();
        registry.register("access_log_lines", "Lines of the access log that were written", access_log.lines.clone());
        let help = "Lines of the access log that could not be written in time, or at all";
        registry.register("access_log_dropped_lines", help, access_log.dropped.clone());
        let early_hints =
            registered(&mut registry, "early_hints", "Interim answers with the links of answers that are kept");
        let hot = registered(&mut registry, "hot", "Answers from memory and the disk by the short way");
        let cache = registered(&mut registry, "cache", "Answers by what the cache did for them");
        let (fetches, fetched_bytes, fetching_seconds) = (Family::default(), Family::default(), Family::default());
        registry.register("fetches", "Requests to nodes", fetches.clone());
        let help = "Bytes of bodies that nodes sent";
        registry.register_with_unit("fetched", help, Unit::Bytes, fetched_bytes.clone());
        let help = "Time in which a node had a request of this edge, or several";
        registry.register_with_unit("fetching", help, Unit::Seconds, fetching_seconds.clone());
        let (encodings, encoded_source_bytes, encoded_bytes) =
            (Family::default(), Family::default(), Family::default());
        registry.register("encodings", "Answers that were coded to their end", encodings.clone());
        let help = "Bytes of those answers before";
        registry.register_with_unit("encoded_source", help, Unit::Bytes, encoded_source_bytes.clone());
        registry.register_with_unit("encoded", "Bytes of those answers after", Unit::Bytes, encoded_bytes.clone());
        let shields = registered(&mut registry, "shield_requests", "Requests to shields by what came of them");
        let shielded =
            registered(&mut registry, "shield_answers", "Answers to other edges by what this one said of them");
        // There from the start: a counter that begins with its first sample hides that one.
        for labels in Coding::ALL.map(CodingLabels::of) {
            for family in [&encodings, &encoded_source_bytes, &encoded_bytes] {
                drop(family.get_or_create(&labels));
            }
        }
        Self {
            registry,
            requests,
            protocols,
            certificates,
            routed,
            cache,
            fetches,
            fetched_bytes,
            fetching_seconds,
            encodings,
            encoded_source_bytes,
            encoded_bytes,
            shields,
            shielded,
            sent_bytes,
            hot,
            early_hints,
            retries,
            resumed,
            purges,
            access_log,
        }
    }

    /// What counts what `node` does, to be looked for once rather than for each request, and where it is charged.
    pub(super) fn of_node(&self, node: &NodeId, account: Option<Account>) -> NodeCounts {
        let labels = NodeLabels { node: node.to_string() };
        NodeCounts {
            fetches: self.fetches.get_or_create(&labels).clone(),
            fetched_bytes: self.fetched_bytes.get_or_create(&labels).clone(),
            fetching_seconds: self.fetching_seconds.get_or_create(&labels).clone(),
            account,
        }
    }

    /// An answer was coded to its end.
    pub(super) fn encoded(&self, made: &Made) {
        let labels = CodingLabels::of(made.coding);
        self.encodings.get_or_create(&labels).inc();
        self.encoded_source_bytes.get_or_create(&labels).inc_by(made.source_bytes);
        self.encoded_bytes.get_or_create(&labels).inc_by(made.size_bytes);
    }

    pub(super) fn answered(&self, status: StatusCode) {
        self.requests.get_or_create(&StatusLabels { status: status.as_u16() }).inc();
    }

    /// What counts the answers to requests that came so.
    pub(super) fn protocol(&self, version: Version, secured: bool) -> Counter {
        let scheme = if secured { "https" } else { "http" };
        self.protocols.get_or_create(&ProtocolLabels { protocol: protocol_name(version), scheme }).clone()
    }

    /// Certificates are others from now on.
    pub(super) fn forget_certificates(&self) {
        self.certificates.clear();
    }

    /// The certificate in this file expires then.
    pub(super) fn expires(&self, certificate: &Path, at: SystemTime) {
        let labels = CertificateLabels { certificate: certificate.display().to_string() };
        let seconds = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        self.certificates.get_or_create(&labels).set(i64::try_from(seconds).unwrap_or(i64::MAX));
    }

    pub(super) fn looked_up(&self, outcome: Outcome) {
        self.cache.get_or_create(&OutcomeLabels { outcome }).inc();
    }

    /// What counts the answers for which the cache did this.
    pub(super) fn lookups(&self, outcome: Outcome) -> Counter {
        self.cache.get_or_create(&OutcomeLabels { outcome }).clone()
    }

    /// What counts the answers with this status.
    pub(super) fn answers(&self, status: StatusCode) -> Counter {
        self.requests.get_or_create(&StatusLabels { status: status.as_u16() }).clone()
    }

    /// The shield was asked, with this outcome.
    pub(super) fn shield(&self, shield: &NodeId, outcome: ShieldOutcome) {
        self.shields.get_or_create(&ShieldLabels { shield: shield.to_string(), outcome }).inc();
    }

    /// Another edge was answered.
    pub(super) fn shielded(&self, said: Said) {
        self.shielded.get_or_create(&ShieldedLabels { said: said.as_str() }).inc();
    }

    pub(super) fn routed(&self, node: &NodeId) {
        self.routed.get_or_create(&NodeLabels { node: node.to_string() }).inc();
    }
}

/// The paths of the admin listener, for requests to `hosts` alone if there are any.
pub(super) fn router(core: &Arc<Core>, hosts: Option<AllowedHosts>) -> Router {
    let router = Router::new()
        .route(HEALTH, get(|| async { "ok\n" }))
        .route(READY, get(ready))
        .route(METRICS, get(metrics))
        .route(ROUTES, get(routes))
        .route(PURGES, post(purge))
        .route(RELOAD, post(reload))
        .fallback(|| async { refuse(StatusCode::NOT_FOUND, "there is no such path") })
        .with_state(core.clone());
    let Some(hosts) = hosts.map(Arc::new) else { return router };
    router.layer(from_fn(move |request: Request, next: Next| {
        let hosts = hosts.clone();
        async move {
            match guard::check(request.method(), request.uri(), request.headers(), &hosts) {
                Ok(()) => next.run(request).await,
                Err(refusal) => refuse(refusal.status(), refusal.to_string()),
            }
        }
    }))
}

/// `GET /ready`: the members are known, each was measured or found down, and one can be used now.
async fn ready(State(core): State<Arc<Core>>) -> Response {
    if core.routes.load().ready && !core.stop.is_cancelled() {
        "ready\n".into_response()
    } else {
        refuse(StatusCode::SERVICE_UNAVAILABLE, "no node is known, measured and alive")
    }
}

/// `GET /metrics`.
async fn metrics(State(core): State<Arc<Core>>, Extension(principal): Extension<Principal>) -> Response {
    if principal == Principal::Anonymous {
        return refuse(StatusCode::FORBIDDEN, "this needs a certificate of the cluster");
    }
    let mut text = String::new();
    match encode(&mut text, &core.metrics.registry) {
        Ok(()) => ([(CONTENT_TYPE, METRICS_TYPE)], text).into_response(),
        Err(_) => refuse(StatusCode::INTERNAL_SERVER_ERROR, "the metrics cannot be written"),
    }
}

/// `POST /v1/purges`: has this edge, and no other, forget what the body says.
async fn purge(
    State(core): State<Arc<Core>>,
    Extension(principal): Extension<Principal>,
    purge: Result<Json<Purge>, JsonRejection>,
) -> Response {
    if let Some(refusal) = refuse_to_change(&principal) {
        return refusal;
    }
    match purge {
        Ok(Json(purge)) => match core.purge_alone(&purge).await {
            Ok(()) => StatusCode::NO_CONTENT.into_response(),
            Err(error) => {
                let detail = format!(
                    "it is purged, but the folder of [edge.cache.disk] cannot take a note of it, so it may come back after a \
                         restart: {error}"
                );
                refuse(StatusCode::INTERNAL_SERVER_ERROR, detail)
            }
        },
        Err(rejection) => refuse(rejection.status(), rejection.body_text()),
    }
}

/// `POST /v1/reload`: has this edge read its configuration anew.
async fn reload(
    State(core): State<Arc<Core>>,
    Extension(principal): Extension<Principal>,
) -> Result<Json<Reloaded>, Response> {
    if let Some(refusal) = refuse_to_change(&principal) {
        return Err(refusal);
    }
    let Some(reloader) = &core.reloader else {
        return Err(refuse(StatusCode::CONFLICT, "this edge was started without a configuration that it could read"));
    };
    reloader.reload().await.map(Json).map_err(|error| match error {
        ReloadError::Unusable(reason) => {
            refuse(StatusCode::UNPROCESSABLE_ENTITY, format!("{reason}\nnothing has changed: what was before stays"))
        }
        ReloadError::Busy | ReloadError::Stopping => refuse(StatusCode::SERVICE_UNAVAILABLE, error.to_string()),
    })
}

/// Who may change something: the operator, and clients of the cluster.
fn refuse_to_change(principal: &Principal) -> Option<Response> {
    let may = matches!(principal, Principal::Operator | Principal::Client(_));
    (!may).then(|| refuse(StatusCode::FORBIDDEN, "this needs a client certificate of the cluster"))
}

/// What a route is asked for.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RoutesQuery {
    key: ObjectKey,
    size: Option<u64>,
    policy: Option<String>,
}

/// What a route is answered with.
#[derive(Debug, Serialize)]
struct RoutesAnswer {
    #[serde(flatten)]
    explanation: Explanation,
    /// Whether the object had this size when this edge last saw it.
    size_known: bool,
    price_basis: PriceBasis,
}

/// `GET /routes?key=KEY`: the nodes in the order in which they would be tried, why, and what would change that.
async fn routes(
    State(core): State<Arc<Core>>,
    Extension(principal): Extension<Principal>,
    query: Result<Query<RoutesQuery>, QueryRejection>,
) -> Result<Json<RoutesAnswer>, Response> {
    if principal == Principal::Anonymous {
        return Err(refuse(StatusCode::FORBIDDEN, "this needs a certificate of the cluster"));
    }
    let Query(RoutesQuery { key, size, policy }) =
        query.map_err(|rejection| refuse(StatusCode::BAD_REQUEST, rejection.body_text()))?;
    let policy: Option<Policy> = policy
        .map(|words| words.parse())
        .transpose()
        .map_err(|error: route::PolicyError| refuse(StatusCode::BAD_REQUEST, error.to_string()))?;
    let size = size.unwrap_or_else(|| core.sizes.guess(key.as_str()));
    let explanation = core.routes.load().table.explain(&route::Request { key: key.as_str(), size, policy });
    let size_known = core.sizes.seen(key.as_str()) == Some(size);
    Ok(Json(RoutesAnswer { explanation, size_known, price_basis: core.settings.load().config.route.price_basis }))
}

fn refuse(status: StatusCode, detail: impl Into<String>) -> Response {
    (status, [(CONTENT_TYPE, problem::MEDIA_TYPE)], Problem::new(status, detail).to_json()).into_response()
}
