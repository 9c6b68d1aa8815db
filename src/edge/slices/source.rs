//! Where missing slices come from: the nodes, or the origins of a site.

use std::ops::Range;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use http::header::{ETAG, IF_MATCH, IF_RANGE, RANGE};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode};

use super::super::Core;
use super::super::body::Inner;
use super::super::facts::Tally;
use super::super::fetch::{self, Wanted};
use super::super::obtain::cost;
use super::super::site::{self, Outgoing, Site};
use crate::cache::rules::{ContentRange, combines};
use crate::cache::{CacheKey, Stored};
use crate::model::NodeId;

/// An answer with a part of a representation.
pub(in crate::edge) struct Fetched {
    /// Its bytes, from the first that was asked for.
    pub(in crate::edge) body: Inner,
    /// What it costs to fetch it again.
    pub(in crate::edge) cost: f32,
    /// Who gives it.
    pub(in crate::edge) from: NodeId,
}

/// Nobody gives a part of the same representation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(in crate::edge) enum FetchedError {
    /// Nobody answers.
    #[error("nobody who has it answers")]
    Unanswered,
    /// What is given is not a part of it.
    #[error("what is given is not a part of it: the answer is {0}")]
    Another(StatusCode),
}

/// A request for a part that runs.
pub(in crate::edge) type Fetching = Pin<Box<dyn Future<Output = Result<Fetched, FetchedError>> + Send>>;

/// Who has all of one representation.
pub(in crate::edge) trait Source: Send + Sync {
    /// Asks for the bytes `range` of it, and of no other.
    fn fetch(&self, core: &Arc<Core>, range: Range<u64>) -> Fetching;

    /// What `from` gave broke off: others are asked before it.
    fn broke_off(&self, from: &NodeId);
}

/// A representation that is kept in slices.
#[derive(Clone)]
pub(in crate::edge) struct Known {
    pub(in crate::edge) key: CacheKey,
    pub(in crate::edge) stored: Arc<Stored>,
    /// What is fetched of it for one answer.
    pub(in crate::edge) fetched: Arc<Tally>,
}

impl Known {
    /// Whether the body of `response` begins with the first byte of `range` of it (RFC 9111 section 3.4: parts of one strong
    /// entity tag belong together). Where it does not, it has changed, and is kept no longer.
    fn check<B>(&self, core: &Core, response: &Response<B>, range: &Range<u64>) -> Result<(), FetchedError> {
        let (status, headers) = (response.status(), response.headers());
        let head = self.stored.head();
        let starts_right = ContentRange::of(headers).is_some_and(|given| given.bytes.start == range.start);
        let is_same = combines(&head.headers, self.stored.body.size(), headers);
        if status == StatusCode::PARTIAL_CONTENT && starts_right && is_same {
            return Ok(());
        }
        // Others say nothing of it: that whoever has it is in trouble, or does not like who asks.
        let contradicts = matches!(status.as_u16(), 200 | 206 | 404 | 410 | 412 | 416);
        if contradicts {
            core.cache.discard(&self.key, &self.stored);
        }
        Err(FetchedError::Another(status))
    }

    fn tag(&self) -> Option<HeaderValue> {
        self.stored.head().headers.get(ETAG).cloned()
    }
}

/// An object at the nodes.
pub(in crate::edge) struct Object {
    wanted: Arc<Wanted>,
    known: Known,
}

impl Object {
    /// The object that is wanted, in the version that is known.
    pub(in crate::edge) const fn new(wanted: Arc<Wanted>, known: Known) -> Self {
        Self { wanted, known }
    }
}

impl Source for Object {
    fn fetch(&self, core: &Arc<Core>, range: Range<u64>) -> Fetching {
        let (core, known) = (core.clone(), self.known.clone());
        let mut headers = HeaderMap::from_iter([(RANGE, range_value(&range))]);
        // Of another version no byte is wanted.
        headers.extend(known.tag().map(|tag| (IF_MATCH, tag)));
        let wanted = Wanted { method: Method::GET, headers, min_version: None, ..(*self.wanted).clone() };
        let deadline = Instant::now() + Duration::from_millis(core.config.request_ms_max);
        Box::pin(async move {
            let answer = fetch::fetch(&core, &Arc::new(wanted), deadline).await;
            let answer = answer.map_err(|_| FetchedError::Unanswered)?;
            known.check(&core, &answer.response, &range)?;
            let fetch::Answer { way, response } = answer;
            let mut body = response.into_body();
            body.count_for(&known.fetched);
            let body = Inner::Node(Box::new(body));
            Ok(Fetched { body, cost: cost(&way.route), from: way.route.node.id.clone() })
        })
    }

    fn broke_off(&self, _: &NodeId) {
        // Its body has gone from node to node by itself.
    }
}

/// An answer of the origins of a site.
pub(in crate::edge) struct Answer {
    site: Arc<Site>,
    /// The path and the query.
    target: PathAndQuery,
    /// What the origins are asked with, for the whole.
    headers: Arc<HeaderMap>,
    known: Known,
    /// The URI, if a shield may be asked for it.
    by_shield: Option<Arc<str>>,
    /// Those whose answers broke off.
    failed: Mutex<Vec<NodeId>>,
}

impl Answer {
    /// What is `known`, as `site` is asked for it by `target` and `headers`.
    pub(in crate::edge) const fn new(
        site: Arc<Site>,
        target: PathAndQuery,
        headers: Arc<HeaderMap>,
        known: Known,
    ) -> Self {
        Self { site, target, headers, known, by_shield: None, failed: Mutex::new(Vec::new()) }
    }

    /// The same, for which a shield may be asked, if it has a URI for that.
    pub(in crate::edge) fn by_shield(mut self, uri: Option<Arc<str>>) -> Self {
        self.by_shield = uri;
        self
    }

    fn failed(&self) -> MutexGuard<'_, Vec<NodeId>> {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Source for Answer {
    fn fetch(&self, core: &Arc<Core>, range: Range<u64>) -> Fetching {
        let (core, site, known) = (core.clone(), self.site.clone(), self.known.clone());
        let mut headers = (*self.headers).clone();
        headers.insert(RANGE, range_value(&range));
        // Servers that know nothing of If-Match give parts of whatever they have; If-Range all of them know.
        headers.extend(known.tag().map(|tag| (IF_RANGE, tag)));
        let outgoing = Outgoing::new(Method::GET, self.target.clone(), Arc::new(headers))
            .by_shield(self.by_shield.clone())
            .rather_not(self.failed().clone());
        let deadline = Instant::now() + site.patience();
        Box::pin(async move {
            let answer = site.fetch(&core, &outgoing, deadline).await.map_err(|_| FetchedError::Unanswered)?;
            known.check(&core, &answer.response, &range)?;
            let site::Answer { way, response } = answer;
            let mut body = response.into_body();
            body.count_for(&known.fetched);
            Ok(Fetched { body, cost: cost(&way.route), from: way.route.node.id.clone() })
        })
    }

    fn broke_off(&self, from: &NodeId) {
        let mut failed = self.failed();
        if !failed.contains(from) {
            failed.push(from.clone());
        }
    }
}

/// A range as the value of `Range` (RFC 9110 section 14.2).
pub(in crate::edge) fn range_value(range: &Range<u64>) -> HeaderValue {
    let value = format!("bytes={}-{}", range.start, range.end.saturating_sub(1));
    HeaderValue::try_from(value).expect("digits are visible ASCII")
}
