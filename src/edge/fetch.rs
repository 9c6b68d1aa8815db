//! Fetching from the nodes in the order of the ranking: the next one is tried if one fails before the first byte.

use std::sync::Arc;
use std::time::Instant;

use http::header::HeaderName;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header};
use tokio::time::timeout_at;
use tracing::debug;

use super::Core;
use super::attempt::{Attempt, attempt};
use super::budget::Retries;
use super::download::{Download, Rest};
use crate::model::{ImageMode, Liveness, NodeId, ObjectKey, Variant};
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
    pub(super) fn target(&self) -> String {
        let path = object_path(&self.key);
        match self.variant {
            Variant::Original => path,
            variant => format!("{path}?{VARIANT_QUERY}={variant}"),
        }
    }

    pub(super) fn rank(&self, core: &Core) -> Ranking {
        let size = core.sizes.guess(self.key.as_str());
        let mut ranking = core.routes.load().table.rank(&Request { key: self.key.as_str(), size, policy: self.policy });
        if self.variant != Variant::Original {
            // Who does not resize can but give the original: before that, those that do and seem well.
            let makes = |route: &Route| {
                route.node.images != ImageMode::Off && !matches!(route.reason, Reason::Ejected | Reason::Suspect)
            };
            let best = ranking.routes.first().map(|route| route.node.id.clone());
            ranking.routes.sort_by_key(|route| !makes(route));
            if let Some(first) = ranking.routes.first_mut().filter(|first| Some(&first.node.id) != best.as_ref()) {
                first.reason = Reason::Resizes;
            }
        }
        ranking
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
    Missing {
        /// One of them knows of its deletion.
        deleted: bool,
    },
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
    let (mut retries, mut failed) = (Retries::default(), None);
    for mut route in wanted.rank(core).routes {
        // The silence of suspect ones would make each missing object a wait. Behind them there may be one that is
        // alive: those that are ejected come last.
        if missing == Some(Liveness::Alive) && route.liveness == Liveness::Suspect {
            continue;
        }
        if passed.len() >= core.config.tries_max.get() {
            break;
        }
        if let Some(reached) = failed.take() {
            if reached && !retries.may_go_on(&core.retries) {
                debug!(key = %wanted.key, "no retry is left");
                break;
            }
            core.metrics.retries.inc();
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
                let rest = Rest::of(&wanted.method, &response);
                let response = response.map(|body| Download::new(core.clone(), wanted.clone(), body, rest));
                return Ok(Answer { route, response, passed });
            }
            Ok(Attempt::Missing { deleted: true }) => return Err(Unanswered::Missing { deleted: true }),
            Ok(Attempt::Missing { deleted: false }) => _ = missing.get_or_insert(route.liveness),
            Ok(Attempt::Refused(status)) => return Err(Unanswered::Refused(status)),
            Ok(Attempt::Busy) => busy += 1,
            Ok(Attempt::Failed { reached }) => failed = Some(reached),
        }
        passed.push(route.node.id.clone());
    }
    Err(match missing {
        Some(_) => Unanswered::Missing { deleted: false },
        None => Unanswered::Unavailable { busy },
    })
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
