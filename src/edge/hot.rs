//! Hits by the short way: answers with what is kept, all of it or a part, or that the client has it already, made without
//! an `http::Request`.
//!
//! It decides nothing that the full path would decide otherwise: what it judges it judges by the same functions, and
//! whatever else a request has that could matter sends it there.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use http::header::{
    ACCEPT_ENCODING, AGE, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE,
    RANGE, VIA,
};
use http::uri::Scheme;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version, header};
use prometheus_client::metrics::counter::Counter;

use super::Core;
use super::admin::Outcome;
use super::body::Log;
use super::coding::{self, AtOnce, Rules};
use super::facts::Facts;
use super::fetch::can_be_forwarded;
use super::memory::{content_range, select};
use super::proxy::{CACHED, HIT, INDEX, default_port};
use super::revalidate::is_fresh;
use super::site::Site;
use crate::cache::rules::{CACHE_STATUS, RequestDirectives, Selector, Use};
use crate::cache::{Body, CacheKey, Head, Sliced, Stored, Terms, slice_at};
use crate::compress::{self, Accepted, Wish};
use crate::http1::{Block, Extra};
use crate::model::{ObjectKey, Variant};
use crate::protocol::{ROUTE_HEADER, decode_path, without_dot_segments};
use crate::serve::guard::Target;
use crate::serve::http1::{Caller, Hot, HotAnswer, HotBody, HotFile, HotFiles, HotRequest, HotSent};

/// Fields that may change the answer, or say that somebody wants to know more of it.
const MEANINGFUL: [&str; 8] = [
    "cache-control",
    "cdn-loop",
    "if-match",
    "if-unmodified-since",
    "metacdn-min-version",
    "metacdn-policy",
    "pragma",
    "save-data",
];

/// The conditions and the range that are judged here.
const CONDITIONS: [HeaderName; 4] = [IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, RANGE];

/// How an answer may end that is given here.
const STATUSES: [StatusCode; 3] = [StatusCode::OK, StatusCode::PARTIAL_CONTENT, StatusCode::NOT_MODIFIED];

/// What has more slices is sent slice by slice, so that it does not keep all of its files open.
const SLICES_MAX: u32 = 64;

/// Answers plain hits.
pub(super) struct Hits {
    core: Arc<Core>,
    hits: Counter,
    answers: [(StatusCode, Counter); 3],
    /// By the version, and whether it came over TLS.
    protocols: [((Version, bool), Counter); 6],
}

/// What is to be told once an answer was sent.
pub(super) struct Receipt {
    log: Log,
    /// What is on the disk, if it was sent from there, and from which byte on.
    from: Option<(Arc<Sliced>, u64)>,
    /// Where there is an access log.
    facts: Option<Facts>,
}

impl Receipt {
    /// What the access log says of it.
    pub(super) const fn facts(&self) -> Option<&Facts> {
        self.facts.as_ref()
    }
}

impl Hits {
    pub(super) fn new(core: Arc<Core>) -> Self {
        let hits = core.metrics.lookups(Outcome::Hit);
        let answers = STATUSES.map(|status| (status, core.metrics.answers(status)));
        let protocols = [
            (Version::HTTP_10, false),
            (Version::HTTP_11, false),
            (Version::HTTP_10, true),
            (Version::HTTP_11, true),
            (Version::HTTP_2, true),
            (Version::HTTP_3, true),
        ];
        let protocols = protocols.map(|protocol| (protocol, core.metrics.protocol(protocol.0, protocol.1)));
        Self { core, hits, answers, protocols }
    }

    /// What is kept of an object of the store, if nobody need be asked for it.
    fn object(&self, asked: &Asked<'_>) -> Option<Arc<Stored>> {
        let head = asked.head;
        let (path, query) = match head.path_and_query().split_once('?') {
            Some((path, query)) => (path, query),
            None => (head.path_and_query(), ""),
        };
        // A variant may be asked for; and what no node would take is refused.
        if !query.is_empty() || !can_be_forwarded(&asked.conditions) {
            return None;
        }
        let mut name = without_dot_segments(&decode_path(path.strip_prefix('/')?).ok()?);
        if name.is_empty() || name.ends_with('/') {
            name.push_str(INDEX);
        }
        let key: ObjectKey = name.parse().ok()?;
        if super::choice::may_vary(&self.core, &key) {
            return None;
        }
        let stored = self.core.cache.find(&CacheKey::Object { key, variant: Variant::Original }, |_| true)?;
        Some(stored).filter(|stored| is_fresh(&self.core, stored))
    }

    /// What is kept of an answer of a site's origins, if nobody need be asked for it.
    fn answer_of(&self, site: &Site, scheme: &Scheme, target: &Target, asked: &Asked<'_>) -> Option<Arc<Stored>> {
        let head = asked.head;
        let host = target.authority(default_port(scheme));
        let mut uri = String::with_capacity(8 + host.len() + head.path_and_query().len());
        uri.push_str(scheme.as_str());
        uri.push_str("://");
        uri.push_str(&host);
        uri.push_str(head.path_and_query());
        let key = CacheKey::Answer { site: site.text().clone(), uri: uri.into() };
        // What varies otherwise is chosen by fields that are not read here.
        let chosen = |kept: &[Arc<Stored>]| match kept {
            [only] if is_selected(only, Selector::is_plain) => Some(0),
            [] => None,
            _ if site.compression().codings.is_empty() => None,
            several => by_coding(several, &asked.wish(site.compression()).ask(&asked.conditions)),
        };
        let stored = self.core.cache.pick(&key, chosen)?;
        let kept = stored.head();
        let Terms::Answer { freshness, .. } = &kept.terms else { return None };
        let fresh =
            freshness.use_for(&RequestDirectives::NONE, SystemTime::now()) == Use::Fresh && self.core.hears_purges();
        Some(stored).filter(|_| fresh && kept.status == StatusCode::OK)
    }

    /// What of what is `stored` is sent; `None` if that is to be waited for.
    fn form_of(&self, config: &Rules, asked: &Asked<'_>, stored: &Arc<Stored>) -> Option<Form> {
        let Asked { method, conditions, .. } = asked;
        let (nature, source) = (coding::nature(config, stored), stored.head());
        let AtOnce { stored: sent, head, headers } = if nature.varies() {
            let request = coding::Request { config, wish: asked.wish(config), method, headers: conditions };
            coding::at_once(&self.core.cache, request, stored, &source, nature)?
        } else {
            AtOnce { stored: stored.clone(), head: source.clone(), headers: Cow::Borrowed(conditions) }
        };
        let size = sent.body.size();
        let (status, part) =
            if headers.is_empty() { (head.status, 0..size) } else { portion(select(&head, size, method, &headers))? };
        let make = |head: &Head| block_of(&self.core, head, &source.terms, size, nature.varies());
        let (of, block) = sent.block(nature.varies(), make);
        // Somebody has just heard more of it.
        if !Arc::ptr_eq(&of, &head) {
            return None;
        }
        let coding = head.headers.get(CONTENT_ENCODING).cloned();
        let (block, content, coding) = match status {
            StatusCode::NOT_MODIFIED => (block.not_modified(), HotBody::None, None),
            StatusCode::PARTIAL_CONTENT => (block.of_part(), content_of(&sent.body, &part)?, coding),
            _ => (block, content_of(&sent.body, &part)?, coding),
        };
        // Here it is sure to be given, and given once.
        if !Arc::ptr_eq(&sent, stored) {
            coding::notice(&self.core, config, &sent, stored, &source);
        }
        let from = sliced_of(&sent.body).map(|sliced| (sliced, part.start));
        Some(Form { head: source, status, block, size, part, content, from, coding })
    }

    /// What is told of an answer at its end, but for how it ended.
    fn log(&self, asked: Asked<'_>, status: StatusCode, caller: &Caller, start: Instant) -> Log {
        let Asked { head, method, .. } = asked;
        let path = head.path_and_query().split('?').next().unwrap_or_default();
        Log {
            core: self.core.clone(),
            method,
            path: path.to_owned(),
            status: Some(status),
            node: None,
            client: Some(caller.address),
            version: head.version(),
            secured: caller.secured.is_some(),
            start,
            bytes: 0,
            resumed: 0,
            broken: None,
        }
    }
}

impl Hot for Hits {
    type Receipt = Receipt;

    fn answer(&self, head: &HotRequest<'_>, caller: &Caller) -> Option<HotAnswer<Receipt>> {
        let method = match head.method() {
            "GET" => Method::GET,
            "HEAD" => Method::HEAD,
            _ => return None,
        };
        let is_meaningful = |name: &str| MEANINGFUL.iter().any(|field| name.eq_ignore_ascii_case(field));
        if !head.is_origin_form() || head.has_field(is_meaningful) {
            return None;
        }
        let is_condition = |name: &str| CONDITIONS.iter().any(|field| name.eq_ignore_ascii_case(field.as_str()));
        let conditions = if head.has_field(is_condition) { head.map_of(&CONDITIONS)? } else { Cow::default() };
        let asked = Asked { head, method, conditions };
        let start = Instant::now();
        let target = Target::of_authority(head.host())?;
        let scheme = match &caller.secured {
            None => Scheme::HTTP,
            Some(secured) if secured.covers(target.host()) => Scheme::HTTPS,
            Some(_) => return None,
        };
        let settings = self.core.settings.load();
        let site = settings.sites.of(target.host());
        let config = site.map_or(&settings.compression, |site| site.compression());
        let stored = match site {
            Some(site) => self.answer_of(site, &scheme, &target, &asked)?,
            None if settings.hosts.contain(target.host()) => self.object(&asked)?,
            None => return None,
        };
        let Form { head: kept, status, block, size, part, content, from, coding } =
            self.form_of(config, &asked, &stored)?;
        let (mut extra, ttl_seconds) = extra_of(&kept)?;
        if status == StatusCode::PARTIAL_CONTENT {
            extra.push(&CONTENT_RANGE, &content_range(&part, size)).ok()?;
            extra.push_number(&CONTENT_LENGTH, part.end - part.start).ok()?;
        }
        let protocol = (head.version(), caller.secured.is_some());
        if let Some(offer) = self.core.alt_svc.for_answer(protocol.0, protocol.1) {
            extra.push(&header::ALT_SVC, &offer).ok()?;
        }
        let facts = self.core.config.access_log.path.is_some().then(|| Facts {
            site: site.map(|site| site.label().clone()),
            outcome: Some(Outcome::Hit),
            size_bytes: (status != StatusCode::NOT_MODIFIED).then_some(size),
            coding,
            ttl_seconds,
            ..Facts::default()
        });
        let body = if asked.method == Method::HEAD { HotBody::None } else { content };
        self.core.metrics.hot.inc();
        self.hits.inc();
        if let Some((_, counter)) = self.answers.iter().find(|(known, _)| *known == status) {
            counter.inc();
        }
        if let Some((_, counter)) = self.protocols.iter().find(|(known, _)| *known == protocol) {
            counter.inc();
        }
        self.core.links.watch(caller.address, &caller.link, body.length());
        let receipt = Receipt { log: self.log(asked, status, caller, start), from, facts };
        Some(HotAnswer { block, extra, body, receipt })
    }

    fn sent(&self, Receipt { mut log, from, .. }: Receipt, sent: HotSent) {
        log.bytes = sent.body_bytes;
        log.broken = (!sent.complete).then(|| match sent.unreadable {
            false => "the client left before the end".to_owned(),
            true => "a file of the disk tier cannot be read".to_owned(),
        });
        if let Some((sliced, start)) = from.filter(|_| sent.unreadable)
            && let Some(kept) = sliced.on_disk()
        {
            kept.doubt(slice_at(start + sent.body_bytes));
        }
    }
}

/// A request that may be answered here.
struct Asked<'a> {
    head: &'a HotRequest<'a>,
    method: Method,
    /// Its conditions and its range; nothing if it has none.
    conditions: Cow<'a, HeaderMap>,
}

impl Asked<'_> {
    /// What it says of codings. It has no `Cache-Control`.
    fn wish(&self, config: &compress::Config) -> Wish {
        let accepted = Accepted::of_lines(self.head.lines("accept-encoding"), &config.codings);
        Wish::accepting(accepted, &self.method, &self.conditions)
    }
}

/// The one part of what was selected; `None` of what is refused, and of several.
fn portion((status, parts): (StatusCode, Vec<Range<u64>>)) -> Option<(StatusCode, Range<u64>)> {
    match (status, parts.as_slice()) {
        (StatusCode::NOT_MODIFIED, _) => Some((status, 0..0)),
        (StatusCode::OK | StatusCode::PARTIAL_CONTENT, [part]) => Some((status, part.clone())),
        _ => None,
    }
}

/// The bytes `part` of what is kept, if they can be sent at once; else they have to be waited for, in the full path.
fn content_of(body: &Body, part: &Range<u64>) -> Option<HotBody> {
    let sliced = match body {
        Body::Memory(bytes) => return Some(HotBody::Memory(bytes.slice(part.start as usize..part.end as usize))),
        Body::Sliced(sliced) => sliced,
    };
    let slices = slice_at(part.start)..=slice_at(part.end.saturating_sub(1));
    let kept = sliced.on_disk().filter(|_| slices.end() - slices.start() < SLICES_MAX)?;
    let files = slices.map(|slice| {
        let bytes = sliced.bytes_of(slice);
        let (start, end) = (part.start.max(bytes.start), part.end.min(bytes.end));
        Some(HotFile { file: kept.opened(slice)?, offset: start - bytes.start, length: end - start })
    });
    Some(HotBody::Files(HotFiles::new(files.collect::<Option<Vec<_>>>()?)))
}

fn sliced_of(body: &Body) -> Option<Arc<Sliced>> {
    match body {
        Body::Memory(_) => None,
        Body::Sliced(sliced) => Some(sliced.clone()),
    }
}

/// What is sent.
struct Form {
    /// The head of what is kept, whatever form of it is sent.
    head: Arc<Head>,
    status: StatusCode,
    block: Block,
    /// The size of all of it.
    size: u64,
    /// Which of its bytes are sent.
    part: Range<u64>,
    content: HotBody,
    /// What of it is in slices, and the first byte that is sent.
    from: Option<(Arc<Sliced>, u64)>,
    /// The coding of the content.
    coding: Option<HeaderValue>,
}

fn is_selected(stored: &Stored, is: impl FnOnce(&Selector) -> bool) -> bool {
    matches!(&stored.head().terms, Terms::Answer { selector, .. } if is(selector))
}

/// Of answers that differ by `Accept-Encoding` alone the one for a request with which the origins are asked so, if it is
/// only one.
fn by_coding(kept: &[Arc<Stored>], accept_encoding: &HeaderValue) -> Option<usize> {
    if !kept.iter().all(|stored| is_selected(stored, |selector| selector.is_by(&ACCEPT_ENCODING))) {
        return None;
    }
    let asked = HeaderMap::from_iter([(ACCEPT_ENCODING, accept_encoding.clone())]);
    let matches = |(_, stored): &(usize, &Arc<Stored>)| is_selected(stored, |selector| selector.matches(&asked));
    let mut matching = kept.iter().enumerate().filter(matches);
    matching.next().filter(|_| matching.next().is_none()).map(|(place, _)| place)
}

/// The lines of a hit that are the same each time, of what is kept on these `terms`.
fn block_of(core: &Core, head: &Head, terms: &Terms, size: u64, varies: bool) -> Block {
    let mut headers = head.headers.clone();
    headers.insert(ROUTE_HEADER, HeaderValue::from_static(CACHED));
    headers.insert(CONTENT_LENGTH, HeaderValue::from(size));
    match terms {
        Terms::Object { .. } => _ = headers.insert(CACHE_STATUS, HeaderValue::from_static(HIT)),
        Terms::Answer { .. } => _ = headers.append(VIA, core.via.clone()),
        Terms::Slice | Terms::Coded { .. } => {}
    }
    if varies {
        compress::head::vary(&mut headers);
    }
    Block::new(head.status, &headers)
}

/// The lines that are of this moment, and for how long it is fresh if that is known.
fn extra_of(head: &Head) -> Option<(Extra, Option<i64>)> {
    let (mut extra, mut ttl_seconds) = (Extra::new(), None);
    if let Terms::Answer { freshness, .. } = &head.terms {
        let now = SystemTime::now();
        extra.push_number(&AGE, u64::from(freshness.age_seconds(now))).ok()?;
        let left = freshness.ttl_seconds(now);
        ttl_seconds = Some(left);
        let status = format!("{HIT}; ttl={left}");
        extra.push(&CACHE_STATUS, &HeaderValue::try_from(status).ok()?).ok()?;
    }
    Some((extra, ttl_seconds))
}
