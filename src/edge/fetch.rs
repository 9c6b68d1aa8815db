//! Fetching from the nodes in the order of the ranking: the next one is tried if one fails before the first byte.

use std::sync::Arc;
use std::time::Instant;

use http::header::HeaderName;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header};
use tokio::time::timeout_at;
use tracing::debug;

use super::Core;
use super::attempt::{Attempt, attempt};
use super::budget::Retries;
use super::download::{Download, Further, Rest};
use super::facts::{Tally, Way};
use super::freshness::{Sought, Worth, version_of};
use super::node_body::NodeBody;
use super::search::Search;
use super::shield;
use crate::cache::CacheKey;
use crate::model::{ImageMode, NodeId, ObjectKey, Variant, Version};
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
    /// The oldest version that will do.
    pub(super) min_version: Option<Version>,
    /// It is a matter between this edge and the nodes.
    pub(super) is_final: bool,
}

impl Wanted {
    /// The path at a node.
    pub(super) fn target(&self) -> PathAndQuery {
        let path = object_path(&self.key);
        let target = match self.variant {
            Variant::Original => path,
            variant => format!("{path}?{VARIANT_QUERY}={variant}"),
        };
        target.try_into().expect("keys are encoded for a path, and are shorter than what a URI holds")
    }

    /// Under what it is kept.
    pub(super) fn cache_key(&self) -> CacheKey {
        CacheKey::Object { key: self.key.clone(), variant: self.variant }
    }

    pub(super) fn rank(&self, core: &Core) -> Ranking {
        let size = core.sizes.guess(self.key.as_str());
        let mut ranking = core.routes.load().table.rank(&Request { key: self.key.as_str(), size, policy: self.policy });
        if self.variant != Variant::Original {
            // Who does not resize can but give the original: before that, those that do and seem well.
            let set_back =
                |reason| matches!(reason, Reason::Ejected | Reason::Suspect | Reason::Draining | Reason::InMaintenance);
            let makes = |route: &Route| route.node.images != ImageMode::Off && !set_back(route.reason);
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
    can_be_forwarded(headers).then(|| {
        let mut kept = HeaderMap::new();
        for (name, value) in for_nodes(headers) {
            kept.append(name, value.clone());
        }
        kept
    })
}

/// Whether those of `headers` that nodes have to know are no longer than a node takes.
pub(super) fn can_be_forwarded(headers: &HeaderMap) -> bool {
    // With `: ` and the line end.
    let bytes = for_nodes(headers).map(|(name, value)| name.as_str().len() + value.len() + 4);
    bytes.sum::<usize>() <= FORWARDED_BYTES_MAX
}

fn for_nodes(headers: &HeaderMap) -> impl Iterator<Item = (&HeaderName, &HeaderValue)> {
    FORWARDED.iter().flat_map(|name| headers.get_all(name).iter().map(move |value| (name, value)))
}

/// The answer of a node.
pub(super) struct Answer {
    /// By which way it came.
    pub(super) way: Arc<Way>,
    /// A success, 304, 412 or 416.
    pub(super) response: Response<Download>,
}

/// Why no node answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unanswered {
    /// Every node that can be reached says that there is no such object.
    Missing {
        /// One of them knows of its deletion.
        deleted: bool,
    },
    /// Every node that can be reached lacks the version that the client demands.
    Behind,
    /// A node says that the request itself is at fault, so every other one would.
    Refused(StatusCode),
    /// None can be reached.
    Unavailable {
        /// This many are only too busy.
        busy: usize,
    },
}

/// Asks for what is wanted until a node answers. A node that merely lacks the object does not end the search, because
/// another one may have taken it in this moment; one that knows of its deletion does. Nor does one that has an older
/// version than another was heard to have: that answer is given when nobody gives a newer one.
pub(super) async fn fetch(core: &Arc<Core>, wanted: &Arc<Wanted>, deadline: Instant) -> Result<Answer, Unanswered> {
    core.retries.earn();
    let routes = core.routes.load_full();
    let target = wanted.target();
    let sought = Sought::new(core, wanted);
    let Ranking { policy, routes: ranked } = wanted.rank(core);
    let mut search = Search::new(ranked, deadline);
    match shield::object(core, wanted, &sought, deadline).await {
        shield::Asked::Answer(answer) => return Ok(answer),
        shield::Asked::InVain(shield) => search.passed.push(shield),
        shield::Asked::Nobody => {}
    }
    let (mut retries, mut failed) = (Retries::default(), None);
    // The shield is no try.
    let passed_max = search.passed.len() + core.config.tries_max.get();
    while let Some(route) = search.next(&sought) {
        if search.passed.len() >= passed_max {
            break;
        }
        if let Some(reached) = failed.take() {
            if reached && !retries.may_go_on(&core.retries) {
                debug!(key = %wanted.key, "no retry is left");
                break;
            }
            core.metrics.retries.inc();
        }
        let id = route.node.id.clone();
        let trying = attempt(core, &routes, &id, &wanted.method, &target, &wanted.headers);
        let Ok(attempt) = timeout_at(search.deadline.into(), trying).await else { break };
        let (version, said) = match attempt {
            Attempt::Answer(response) => {
                let version = version_of(response.headers());
                (version, Ok(answer(core, wanted, (route, policy), response, &search.passed)))
            }
            Attempt::Missing { deleted: Some(version) } => (Some(version), Err(Unanswered::Missing { deleted: true })),
            Attempt::Refused(status) => return Err(Unanswered::Refused(status)),
            Attempt::Missing { deleted: None } => {
                search.misses(id, route.liveness);
                continue;
            }
            Attempt::Busy => {
                search.is_busy(id);
                continue;
            }
            Attempt::Failed { reached } => {
                failed = Some(reached);
                search.passed.push(id);
                continue;
            }
        };
        match (sought.worth(version.as_ref()), version) {
            (Worth::Older, Some(version)) => search.put_aside(id, version, said),
            (Worth::TooOld, _) => search.lags(id),
            (Worth::Good | Worth::Older, _) => return said,
        }
    }
    let (outcome, is_older) = search.end(&sought);
    if is_older {
        core.cache.missed(&wanted.key, core.started.elapsed());
    }
    outcome
}

/// What a node has answered, as it is passed on.
fn answer(
    core: &Arc<Core>,
    wanted: &Arc<Wanted>,
    (mut route, policy): (Route, Policy),
    response: Response<NodeBody>,
    passed: &[NodeId],
) -> Answer {
    if !passed.is_empty() {
        route.reason = Reason::NextBest;
    }
    if let Some(size) = whole_size(&response).filter(|_| wanted.variant == Variant::Original) {
        core.sizes.learn(wanted.key.as_str(), size);
    }
    let rest = Rest::of(&wanted.method, &response);
    let fetched = Arc::<Tally>::default();
    let further = Further::Nodes(wanted.clone());
    let response = response.map(|body| Download::new(core.clone(), further, body, rest, fetched.clone()));
    Answer { way: Arc::new(Way { route, policy, passed: passed.to_vec(), fetched }), response }
}

/// The size of the whole object, as the head of an answer tells it.
pub(super) fn whole_size<B>(response: &Response<B>) -> Option<u64> {
    let field = |name| response.headers().get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    match response.status() {
        StatusCode::OK => field(header::CONTENT_LENGTH)?.parse().ok(),
        StatusCode::PARTIAL_CONTENT => field(header::CONTENT_RANGE)?.rsplit_once('/')?.1.parse().ok(),
        _ => None,
    }
}
