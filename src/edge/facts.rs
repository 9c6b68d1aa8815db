//! What the edge knows of an answer and tells of it: in its fields, and to the access log.
//!
//! For the log handlers leave [`Facts`] in the extensions of their answers, hot ones in their receipts.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use http::{HeaderMap, HeaderName, HeaderValue, Response};

use super::Core;
use super::admin::Outcome;
use super::body::Inner;
use crate::cache::rules::CACHE_STATUS;
use crate::model::NodeId;
use crate::protocol::ROUTE_HEADER;
use crate::route::{Policy, Route};

/// What is known of one answer.
#[derive(Debug, Clone, Default)]
pub(super) struct Facts {
    /// The site that it is of; `None` for the store, and for nobody.
    pub(super) site: Option<Arc<str>>,
    /// What the cache did.
    pub(super) outcome: Option<Outcome>,
    /// By which way it was fetched.
    pub(super) way: Option<Arc<Way>>,
    /// What was fetched for it, if that is not what came by the way, and if any was.
    pub(super) fetched: Option<Arc<Tally>>,
    /// The size of all of what was sent, or a part of it.
    pub(super) size_bytes: Option<u64>,
    /// Its content coding.
    pub(super) coding: Option<HeaderValue>,
    /// For how long it is fresh; less than nothing if it is stale.
    pub(super) ttl_seconds: Option<i64>,
}

impl Facts {
    /// Those of `response`, to be added to.
    pub(super) fn of<B>(response: &mut Response<B>) -> &mut Self {
        response.extensions_mut().get_or_insert_default()
    }

    /// The node or origin that gave the answer.
    pub(super) fn node(&self) -> Option<&NodeId> {
        self.way.as_ref().map(|way| &way.route.node.id)
    }

    /// What was fetched for it.
    pub(super) fn fetched(&self) -> Option<&Tally> {
        let way = self.way.as_ref().map(|way| &*way.fetched);
        self.fetched.as_deref().filter(|fetched| fetched.bytes() > 0).or(way)
    }
}

/// The way by which an answer came.
#[derive(Debug)]
pub(super) struct Way {
    /// The node or origin that gave it, and why it was chosen.
    pub(super) route: Route,
    /// The policy by which it was.
    pub(super) policy: Policy,
    /// Those before it, which were asked in vain.
    pub(super) passed: Vec<NodeId>,
    /// What comes by it.
    pub(super) fetched: Arc<Tally>,
}

/// What was fetched for an answer until now.
#[derive(Debug, Default)]
pub(super) struct Tally {
    bytes: AtomicU64,
    resumed: AtomicU64,
}

impl Tally {
    /// So many bytes came.
    pub(super) fn came(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Another node goes on.
    pub(super) fn goes_on(&self) {
        self.resumed.fetch_add(1, Ordering::Relaxed);
    }

    /// The bytes of bodies that came.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// How often another node went on.
    pub(super) fn resumed(&self) -> u64 {
        self.resumed.load(Ordering::Relaxed)
    }
}

/// Notes what the cache did for an answer.
pub(super) fn looked_up(core: &Core, response: &mut Response<Inner>, outcome: Outcome) {
    core.metrics.looked_up(outcome);
    Facts::of(response).outcome = Some(outcome);
}

/// `response` with the node that gave it, and why.
pub(super) fn marked(core: &Core, mut response: Response<Inner>, way: &Arc<Way>) -> Response<Inner> {
    let Way { route, passed, .. } = &**way;
    let mut why = route.header_value();
    if !passed.is_empty() {
        let names: Vec<_> = passed.iter().map(NodeId::as_str).collect();
        why = format!("{why}; passed={}", names.join(","));
    }
    tell_route(response.headers_mut(), &why);
    core.metrics.routed(&route.node.id);
    Facts::of(&mut response).way = Some(way.clone());
    response
}

/// Says who gave an answer, and why it was asked.
pub(super) fn tell_route(headers: &mut HeaderMap, route: &str) {
    if let Ok(value) = HeaderValue::from_str(route) {
        headers.insert(HeaderName::from_static(ROUTE_HEADER), value);
    }
}

/// Says what the cache did for an answer (RFC 9211).
pub(super) fn tell_cache(headers: &mut HeaderMap, status: &'static str) {
    headers.insert(CACHE_STATUS, HeaderValue::from_static(status));
}
