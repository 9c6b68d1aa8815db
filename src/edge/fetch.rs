//! Fetching from the nodes in the order of the ranking: the next one is tried if one fails, before the first byte or in
//! the middle of a body.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::header::HeaderName;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header};
use tokio::time::timeout_at;
use tracing::{debug, info};

use super::Core;
use super::attempt::{Attempt, attempt};
use super::download::{Download, Rest};
use super::node_body::NodeBody;
use crate::model::{Liveness, NodeId, ObjectKey, Variant};
use crate::protocol::{VARIANT_QUERY, object_path};
use crate::route::{Policy, Ranking, Reason, Request, Route};

/// The request headers that decide what a node answers (RFC 9110 sections 13 and 14). No other travels on.
const FORWARDED: [HeaderName; 6] = [
    header::RANGE,
    header::IF_RANGE,
    header::IF_MATCH,
    header::IF_NONE_MATCH,
    header::IF_MODIFIED_SINCE,
    header::IF_UNMODIFIED_SINCE,
];

/// How long those of one request may be together. With the longest path they are within the 16 KiB of a head that a
/// node takes by default; no honest list of entity tags comes near.
const FORWARDED_BYTES_MAX: usize = 8 * 1024;

/// How long all nodes are left alone when none of them could go on with a body.
const REST_OF_ALL: Duration = Duration::from_millis(200);

/// What nodes are asked for.
#[derive(Debug, Clone)]
pub(super) struct Wanted {
    pub(super) key: ObjectKey,
    /// Which of the sizes, of an image.
    pub(super) variant: Variant,
    pub(super) method: Method,
    /// Conditions and ranges.
    pub(super) headers: HeaderMap,
    /// A policy for this request alone.
    pub(super) policy: Option<Policy>,
}

impl Wanted {
    /// The path at a node.
    fn target(&self) -> String {
        let path = object_path(&self.key);
        match self.variant {
            Variant::Original => path,
            variant => format!("{path}?{VARIANT_QUERY}={variant}"),
        }
    }

    fn rank(&self, core: &Core) -> Ranking {
        let size = core.sizes.guess(self.key.as_str());
        core.routes.load().table.rank(&Request { key: self.key.as_str(), size, policy: self.policy })
    }
}

/// Those of `headers` that nodes have to know; `None` if they are longer than a node takes.
pub(super) fn forwarded(headers: &HeaderMap) -> Option<HeaderMap> {
    let mut kept = HeaderMap::new();
    let mut bytes = 0;
    for name in &FORWARDED {
        for value in headers.get_all(name) {
            // With `: ` and the line end.
            bytes += name.as_str().len() + value.len() + 4;
            kept.append(name, value.clone());
        }
    }
    (bytes <= FORWARDED_BYTES_MAX).then_some(kept)
}

/// The answer of a node.
pub(super) struct Answer {
    /// The node, and why it was chosen.
    pub(super) route: Route,
    /// A success, 304, 412 or 416.
    pub(super) response: Response<Download>,
    /// The nodes before it, which were asked in vain.
    pub(super) passed: Vec<NodeId>,
}

/// Why no node answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unanswered {
    /// Every node that can be reached says that there is no such object.
    Missing,
    /// A node says that the request itself is at fault, so every other one would.
    Refused(StatusCode),
    /// None can be reached.
    Unavailable {
        /// This many are only too busy.
        busy: usize,
    },
}

/// Asks for what is wanted until a node answers. A node that merely lacks the object does not end the search, because
/// another one may have taken it in this moment; one that knows of its deletion does.
pub(super) async fn fetch(core: &Arc<Core>, wanted: &Arc<Wanted>, deadline: Instant) -> Result<Answer, Unanswered> {
    core.retries.earn();
    let routes = core.routes.load_full();
    let target = wanted.target();
    // The best node that lacks the object, and how many were too busy to say.
    let (mut missing, mut busy, mut passed) = (None, 0, Vec::new());
    for mut route in wanted.rank(core).routes.into_iter().take(core.config.tries_max.get()) {
        // All alive ones come before all suspect ones, whose silence would make each missing object a wait.
        if missing == Some(Liveness::Alive) && route.liveness == Liveness::Suspect {
            break;
        }
        let trying = attempt(core, &routes, &route.node.id, &wanted.method, &target, &wanted.headers);
        match timeout_at(deadline.into(), trying).await {
            Err(_) => break,
            Ok(Attempt::Answer(response)) => {
                if !passed.is_empty() {
                    route.reason = Reason::NextBest;
                }
                if let Some(size) = whole_size(&response).filter(|_| wanted.variant == Variant::Original) {
                    core.sizes.learn(wanted.key.as_str(), size);
                }
                let rest = Rest::of(&response);
                let response = response.map(|body| Download::new(core.clone(), wanted.clone(), body, rest));
                return Ok(Answer { route, response, passed });
            }
            Ok(Attempt::Missing { deleted: true }) => return Err(Unanswered::Missing),
            Ok(Attempt::Missing { deleted: false }) => _ = missing.get_or_insert(route.liveness),
            Ok(Attempt::Refused(status)) => return Err(Unanswered::Refused(status)),
            Ok(Attempt::Busy) => busy += 1,
            Ok(Attempt::Failed { reached }) => {
                core.metrics.retries.inc();
                if reached && !core.retries.spend() {
                    debug!(key = %wanted.key, "no retry is left");
                    break;
                }
            }
        }
        passed.push(route.node.id.clone());
    }
    Err(if missing.is_some() { Unanswered::Missing } else { Unanswered::Unavailable { busy } })
}

/// Asks for `rest` of a body that broke off until a node has it: first those that have not failed in this body, then
/// those that `failed`, again and again until the deadline: a node that is started anew comes back within it.
pub(super) async fn fetch_rest(
    core: Arc<Core>,
    wanted: Arc<Wanted>,
    rest: Rest,
    failed: Vec<NodeId>,
) -> Option<NodeBody> {
    let start = Instant::now();
    let deadline = start + Duration::from_millis(core.config.request_ms_max);
    let (target, headers) = (wanted.target(), rest.headers(&wanted.headers));
    loop {
        let (again, mut order): (Vec<_>, Vec<_>) =
            wanted.rank(&core).routes.into_iter().partition(|route| failed.contains(&route.node.id));
        order.extend(again);
        for route in order.into_iter().take(core.config.tries_max.get()) {
            let routes = core.routes.load_full();
            let id = &route.node.id;
            let trying = attempt(&core, &routes, id, &Method::GET, &target, &headers);
            match timeout_at(deadline.into(), trying).await {
                Err(_) => return None,
                Ok(Attempt::Answer(response)) if rest.is_answered_by(&response) => {
                    let resumed_ms = start.elapsed().as_millis() as u64;
                    info!(key = %wanted.key, from = failed.last().map(tracing::field::display), to = %id, resumed_ms, "resumed");
                    core.metrics.resumed.inc();
                    return Some(response.into_body());
                }
                Ok(Attempt::Answer(_)) => debug!(node = %id, key = %wanted.key, "it has other bytes"),
                Ok(Attempt::Failed { reached: true }) if !core.retries.spend() => return None,
                Ok(Attempt::Failed { .. } | Attempt::Busy | Attempt::Missing { .. } | Attempt::Refused(_)) => {}
            }
        }
        if Instant::now() + REST_OF_ALL >= deadline {
            return None;
        }
        tokio::time::sleep(REST_OF_ALL).await;
    }
}

/// The size of the whole object, as the head of an answer tells it.
fn whole_size<B>(response: &Response<B>) -> Option<u64> {
    let field = |name| response.headers().get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    match response.status() {
        StatusCode::OK => field(header::CONTENT_LENGTH)?.parse().ok(),
        StatusCode::PARTIAL_CONTENT => field(header::CONTENT_RANGE)?.rsplit_once('/')?.1.parse().ok(),
        _ => None,
    }
}
