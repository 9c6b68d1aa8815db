//! What an operator and a monitor ask: health, readiness, metrics, status, the description of the API.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Extension, State};
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use http::header::CONTENT_TYPE;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

use super::Core;
use super::access::{Right, require};
use super::belonging::require_welcomed_tersely;
use super::blob_metrics::BlobMetrics;
use super::bytes::off_runtime;
use super::error::ApiError;
use super::states::require_active;
use crate::model::{Liveness, Principal};
use crate::protocol::status::Status;
use crate::store::StoreError;

/// The media type of the metrics (OpenMetrics 1.0).
const METRICS_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What a node counts.
pub(super) struct Metrics {
    pub(super) registry: Registry,
    pub(super) requests: Family<RequestLabels, Counter>,
    pub(super) stored_bytes: Counter,
    pub(super) pulled_entries: Counter,
    pub(super) failed_fetches: Counter,
    pub(super) lost_wants: Counter,
    pub(super) late_copies: Counter,
    pub(super) parked_entries: Counter,
    pub(super) expired_tombstones: Counter,
    pub(super) mended_entries: Counter,
    pub(super) blobs: BlobMetrics,
    feed_head: Gauge,
    wants: Gauge,
    want_bytes: Gauge,
    parked: Gauge,
    clock_ahead_ms: Gauge,
    behind_seconds: Family<MemberLabels, Gauge>,
    members: Family<LivenessLabels, Gauge>,
}

/// Which interface answered, and how; closed sets, never paths or callers.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(super) struct RequestLabels {
    pub(super) listener: Listener,
    pub(super) status: u16,
}

/// The listeners of a node.
#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq, EncodeLabelValue)]
pub(super) enum Listener {
    /// The node API.
    Api,
    /// The server list and download API.
    Download,
    /// The price API.
    Price,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct LivenessLabels {
    liveness: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct MemberLabels {
    member: String,
}

impl Metrics {
    pub(super) fn new() -> Self {
        let mut registry = Registry::with_prefix("metacdn_node");
        let requests = Family::default();
        registry.register("requests", "Requests answered", requests.clone());
        let stored_bytes = Counter::default();
        registry.register_with_unit("stored", "Bytes taken from clients", Unit::Bytes, stored_bytes.clone());
        let pulled_entries = Counter::default();
        registry.register("pulled_entries", "Entries read from the feeds of peers", pulled_entries.clone());
        let failed_fetches = Counter::default();
        registry.register("failed_fetches", "Fetches of wanted bytes that no peer could serve", failed_fetches.clone());
        let blobs = BlobMetrics::register(&mut registry);
        let feed_head = Gauge::default();
        registry.register("feed_head", "The last sequence of the feed", feed_head.clone());
        let wants = Gauge::default();
        registry.register("wants", "Entries that wait for their bytes", wants.clone());
        let lost_wants = Counter::default();
        registry.register("lost_wants", "Wants given up because no member has the bytes", lost_wants.clone());
        let late_copies = Counter::default();
        registry.register("late_copies", "Writes whose further copies did not come in time", late_copies.clone());
        let parked_entries = Counter::default();
        registry.register("parked_entries", "Entries from the future that peers listed", parked_entries.clone());
        let expired_tombstones = Counter::default();
        registry.register("expired_tombstones", "Deletions that were forgotten", expired_tombstones.clone());
        let mended_entries = Counter::default();
        registry.register("mended_entries", "Entries that a comparison found missing", mended_entries.clone());
        let want_bytes = Gauge::default();
        registry.register_with_unit("wanted", "Bytes that are to be fetched", Unit::Bytes, want_bytes.clone());
        let parked = Gauge::default();
        registry.register("parked", "Entries from the future that wait for their time", parked.clone());
        let clock_ahead_ms = Gauge::default();
        let help = "Milliseconds by which this node's stamps are ahead of the median of its peers' clocks";
        registry.register("clock_ahead_ms", help, clock_ahead_ms.clone());
        let behind_seconds = Family::default();
        let help = "Seconds for which a member has not had all that this node had";
        registry.register("behind_seconds", help, behind_seconds.clone());
        let members = Family::default();
        registry.register("members", "Members of the cluster, as this node sees them", members.clone());
        Self {
            registry,
            requests,
            stored_bytes,
            pulled_entries,
            failed_fetches,
            lost_wants,
            late_copies,
            parked_entries,
            expired_tombstones,
            mended_entries,
            blobs,
            feed_head,
            wants,
            want_bytes,
            parked,
            clock_ahead_ms,
            behind_seconds,
            members,
        }
    }
}

/// `GET /health`: the process answers.
pub(super) async fn health() -> &'static str {
    "ok\n"
}

/// `GET /ready`: the node is one of the cluster's members, no other one has its name, and no operator has set it apart.
pub(super) async fn ready(State(core): State<Arc<Core>>) -> Result<&'static str, ApiError> {
    require_welcomed_tersely(&core)?;
    require_active(&core)?;
    let view = core.members.view();
    let known = view.borrow().nodes().get(&core.me.id).is_some_and(|listed| listed.address == core.me.address);
    if known && !core.stop.is_cancelled() {
        Ok("ready\n")
    } else {
        Err(ApiError::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "the node is starting or stopping, or another one has its name",
        ))
    }
}

/// `GET /metrics`.
pub(super) async fn metrics(
    State(core): State<Arc<Core>>,
    Extension(principal): Extension<Principal>,
) -> Result<Response, ApiError> {
    require(&principal, Right::Read)?;
    let progress = *core.catalog.progress().borrow();
    core.metrics.feed_head.set(progress.head.cast_signed());
    core.metrics.wants.set(progress.wants.cast_signed());
    let servers = core.members.servers(progress);
    core.metrics.want_bytes.set(progress.want_bytes.cast_signed());
    core.metrics.parked.set(progress.parked.cast_signed());
    core.metrics.clock_ahead_ms.set(core.members.clock_ahead_ms(&core.catalog));
    core.metrics.behind_seconds.clear();
    for server in &servers {
        let labels = MemberLabels { member: server.node.id.to_string() };
        let seconds = server.behind_seconds.unwrap_or(0);
        core.metrics.behind_seconds.get_or_create(&labels).set(seconds.cast_signed());
    }
    for liveness in [Liveness::Alive, Liveness::Suspect, Liveness::Down] {
        let count = servers.iter().filter(|server| server.liveness == liveness).count();
        let labels = LivenessLabels { liveness: liveness.to_string() };
        core.metrics.members.get_or_create(&labels).set(count as i64);
    }
    let mut text = String::new();
    encode(&mut text, &core.metrics.registry)
        .map_err(|_| ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "the metrics cannot be written"))?;
    Ok(([(CONTENT_TYPE, METRICS_TYPE)], text).into_response())
}

/// `GET /v1/status`.
pub(super) async fn status(
    State(core): State<Arc<Core>>,
    Extension(principal): Extension<Principal>,
) -> Result<Json<Status>, ApiError> {
    require(&principal, Right::Read)?;
    let catalog = core.catalog.clone();
    let read = move || {
        let (registered, _) = catalog.registered()?;
        Ok::<_, StoreError>((catalog.summary()?, catalog.settled()? == Some(registered)))
    };
    let (held, settled) = off_runtime(read).await?;
    let progress = *core.catalog.progress().borrow();
    Ok(Json(Status {
        program: env!("CARGO_PKG_VERSION").to_owned(),
        node: core.me.clone(),
        epoch: core.catalog.origin().epoch,
        head: progress.head,
        objects: held.objects,
        bytes: held.bytes,
        tombstones: held.tombstones,
        strays: held.strays,
        wants: progress.wants,
        want_bytes: progress.want_bytes,
        parked: progress.parked,
        withheld: held.withheld,
        settled,
        uptime_seconds: core.members.uptime().as_secs(),
    }))
}

/// `GET /v1/openapi.json`: the description of the node API (OpenAPI 3.1).
pub(super) async fn openapi() -> Response {
    ([(CONTENT_TYPE, "application/json")], include_str!("openapi.json")).into_response()
}
