//! One try: a request to one node, and what it teaches about the node.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::uri::PathAndQuery;
use http::{HeaderMap, Method, Response, StatusCode};
use tokio::sync::OwnedSemaphorePermit;
use tracing::debug;

use super::admin::NodeCounts;
use super::freshness::version_of;
use super::node_body::NodeBody;
use super::observe::{Observations, failure};
use super::refresh::since_sent;
use super::{Core, Routes};
use crate::client::{Asked, ClientError, empty};
use crate::model::{NodeId, Version};
use crate::route::{FailureKind, Source, Try};

/// What came of a try.
#[expect(clippy::large_enum_variant, reason = "one exists for a request, and it is the common case that is large")]
pub(super) enum Attempt {
    /// A success, 304, 412 or 416.
    Answer(Response<NodeBody>),
    /// The node has no such object; perhaps because it knows of its deletion, in this version.
    Missing { deleted: Option<Version> },
    /// The request itself is at fault.
    Refused(StatusCode),
    /// The node has all the requests that it takes.
    Busy,
    /// Another node may do better. If the node was reached, the try has cost it something.
    Failed { reached: bool },
}

/// Asks the node `id` for `target` with these headers and no others.
pub(super) async fn attempt(
    core: &Arc<Core>,
    routes: &Routes,
    id: &NodeId,
    method: &Method,
    target: &PathAndQuery,
    headers: &HeaderMap,
) -> Attempt {
    let unreached = Attempt::Failed { reached: false };
    let Some(upstream) = routes.upstreams.get(id) else { return unreached };
    let Ok(place) = upstream.free.clone().try_acquire_owned() else { return Attempt::Busy };
    let asked = Asked { method, path: target, headers, on_interim: None };
    let stall = core.config.body_stall();
    let counts = upstream.counts(&core.metrics, &core.ledger, id);
    let mut running = Running::begin(counts, core.observations.clone(), id.clone(), place, stall);
    let response = match upstream.peer.ask_for(&asked, empty()).await {
        Ok(response) => response,
        Err(error) => {
            debug!(node = %id, error = &error as &dyn std::error::Error, "try failed");
            running.saw(&failure(&error, running.start.elapsed()));
            return Attempt::Failed { reached: matches!(error, ClientError::Late { .. }) };
        }
    };
    let status = response.status();
    if is_failure(status) {
        debug!(node = %id, %status, "try failed");
        running.saw(&Try::Failure { kind: FailureKind::Error, after: running.start.elapsed() });
        return Attempt::Failed { reached: true };
    }
    running.saw(&Try::FirstByte { after: since_sent(response.body().opened(), running.start) });
    match status {
        StatusCode::PRECONDITION_FAILED | StatusCode::RANGE_NOT_SATISFIABLE => {}
        refused if refused.is_client_error() => {
            // What it says of that is nobody's, so its answer has ended well.
            running.ended();
            let deleted = version_of(response.headers());
            let missing = refused == StatusCode::NOT_FOUND;
            return if missing { Attempt::Missing { deleted } } else { Attempt::Refused(refused) };
        }
        _ => {}
    }
    Attempt::Answer(response.map(|body| NodeBody::new(body, id, running)))
}

/// Whether another node may do better. Of the statuses that blame the request, four are about this edge and this node:
/// the certificate, and how much or how slowly they speak.
fn is_failure(status: StatusCode) -> bool {
    let between_us =
        [StatusCode::UNAUTHORIZED, StatusCode::FORBIDDEN, StatusCode::REQUEST_TIMEOUT, StatusCode::TOO_MANY_REQUESTS];
    let answers = status.is_success() || status == StatusCode::NOT_MODIFIED || status.is_client_error();
    !answers || between_us.contains(&status)
}

/// A request to a node that is under way. If it is dropped before anything was seen, nobody waits for it any longer.
pub(super) struct Running {
    counts: Arc<NodeCounts>,
    /// Whom it teaches.
    observations: Arc<Observations>,
    /// Under which name.
    observed: NodeId,
    pub(super) start: Instant,
    /// How long its body may be silent.
    pub(super) stall: Duration,
    seen: bool,
    /// What comes now says nothing of it.
    muted: bool,
    /// What its body had so far.
    bytes: u64,
    _place: OwnedSemaphorePermit,
}

impl Running {
    pub(super) fn begin(
        counts: Arc<NodeCounts>,
        observations: Arc<Observations>,
        observed: NodeId,
        place: OwnedSemaphorePermit,
        stall: Duration,
    ) -> Self {
        observations.begin(&observed);
        Self {
            counts,
            observations,
            observed,
            start: Instant::now(),
            stall,
            seen: false,
            muted: false,
            bytes: 0,
            _place: place,
        }
    }

    /// So many bytes of the body came.
    pub(super) const fn received(&mut self, bytes: u64) {
        self.bytes += bytes;
    }

    pub(super) fn saw(&mut self, seen: &Try) {
        self.seen = true;
        if !self.muted {
            self.observations.saw(&self.observed, seen, Source::Request);
        }
    }

    /// Nothing that is seen from now on teaches anything: the body of an answer that tells of a failure is no success.
    pub(super) const fn mute(&mut self) {
        self.muted = true;
    }

    /// The answer has ended well and had no body worth a measurement.
    pub(super) fn ended(&mut self) {
        self.saw(&Try::Body { bytes: 0, took: std::time::Duration::ZERO });
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.seen {
            self.saw(&Try::Abandoned { after: self.start.elapsed() });
        }
        let worked = self.observations.end(&self.observed);
        self.counts.fetched(self.bytes, worked);
    }
}
