//! Plain hits: answers from memory for requests without conditions, ranges or wishes, made without an `http::Request`.
//!
//! It decides nothing that the full path would decide otherwise: whatever a request has that could matter sends it there.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use http::header::{ACCEPT_ENCODING, AGE, CONTENT_ENCODING, CONTENT_LENGTH, VIA};
use http::uri::Scheme;
use http::{HeaderMap, HeaderValue, Method, StatusCode, Version, header};
use prometheus_client::metrics::counter::Counter;

use super::Core;
use super::admin::Outcome;
use super::body::Log;
use super::coding::{self, Given, Rules};
use super::facts::Facts;
use super::proxy::{CACHED, HIT, INDEX, default_port};
use super::revalidate::is_fresh;
use super::site::Site;
use crate::cache::rules::{CACHE_STATUS, RequestDirectives, Selector, Use};
use crate::cache::{Body, CacheKey, Head, Sliced, Stored, Terms, slice_at};
use crate::compress::{self, Accepted, Nature, Wish};
use crate::http1::{Block, Extra};
use crate::model::{ObjectKey, Variant};
use crate::protocol::{ROUTE_HEADER, decode_path, without_dot_segments};
use crate::serve::guard::Target;
use crate::serve::http1::{Caller, Hot, HotAnswer, HotBody, HotFile, HotFiles, HotRequest, HotSent};

/// Fields that may change the answer, or say that somebody wants to know more of it.
const MEANINGFUL: [&str; 12] = [
    "cache-control",
    "cdn-loop",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-range",
    "if-unmodified-since",
    "metacdn-min-version",
    "metacdn-policy",
    "pragma",
    "range",
    "save-data",
];

/// What has more slices is sent slice by slice, so that it does not keep all of its files open.
const SLICES_MAX: u32 = 64;

/// Answers plain hits.
pub(super) struct Hits {
    core: Arc<Core>,
    hits: Counter,
    oks: Counter,
    /// By the version, and whether it came over TLS.
    protocols: [((Version, bool), Counter); 6],
}

/// What is to be told once an answer was sent.
pub(super) struct Receipt {
    log: Log,
    /// What is on the disk, if it was sent from there.
    from: Option<Arc<Sliced>>,
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
        let (hits, oks) = (core.metrics.lookups(Outcome::Hit), core.metrics.answers(StatusCode::OK));
        let protocols = [
            (Version::HTTP_10, false),
            (Version::HTTP_11, false),
            (Version::HTTP_10, true),
            (Version::HTTP_11, true),
            (Version::HTTP_2, true),
            (Version::HTTP_3, true),
        ];
        let protocols = protocols.map(|protocol| (protocol, core.metrics.protocol(protocol.0, protocol.1)));
        Self { core, hits, oks, protocols }
    }

    /// What is kept of an object of the store, if nobody need be asked for it.
    fn object(&self, head: &HotRequest<'_>) -> Option<Arc<Stored>> {
        let (path, query) = match head.path_and_query().split_once('?') {
            Some((path, query)) => (path, query),
            None => (head.path_and_query(), ""),
        };
        // A variant may be asked for.
        if !query.is_empty() {
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
    fn answer_of(&self, site: &Site, scheme: &Scheme, target: &Target, head: &HotRequest<'_>) -> Option<Arc<Stored>> {
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
            several => by_coding(several, &wish_of(head, site.compression())),
        };
        let stored = self.core.cache.pick(&key, chosen)?;
        let kept = stored.head();
        let Terms::Answer { freshness, .. } = &kept.terms else { return None };
        let fresh =
            freshness.use_for(&RequestDirectives::NONE, SystemTime::now()) == Use::Fresh && self.core.hears_purges();
        Some(stored).filter(|_| fresh && kept.status == StatusCode::OK)
    }

    /// What of what is `stored` is sent to a request with this head; `None` if that is to be waited for.
    fn form_of(&self, config: &Rules, head: &HotRequest<'_>, stored: &Arc<Stored>) -> Option<Form> {
        let nature = coding::nature(config, stored);
        let given = match nature {
            Nature::Fixed => Given::AsIs,
            _ => {
                let wish = wish_of(head, config);
                coding::decide(&self.core.cache, config, &wish, nature, stored.representation())
            }
        };
        match given {
            Given::AsIs => {
                let content = content_of(&stored.body)?;
                let make = |head: &Head| block_of(&self.core, head, &head.terms, stored.body.size(), nature.varies());
                let (head, block) = stored.block(nature.varies(), make);
                let coding = head.headers.get(CONTENT_ENCODING).cloned();
                Some(Form { head, block, content, from: sliced_of(&stored.body), coding })
            }
            Given::Kept(variant) => {
                let head = stored.head();
                coding::current(&variant, &head);
                coding::notice(&self.core, config, &variant, stored, &head);
                let content = content_of(&variant.body)?;
                let make = |of: &Head| block_of(&self.core, of, &head.terms, variant.body.size(), true);
                let (_, block) = variant.block(true, make);
                let coding = variant.head().headers.get(CONTENT_ENCODING).cloned();
                Some(Form { head, block, content, from: sliced_of(&variant.body), coding })
            }
            Given::Encode(_) | Given::Decode(_) => None,
        }
    }

    /// What is told of an answer at its end, but for how it ended.
    fn log(&self, head: &HotRequest<'_>, method: Method, caller: &Caller, start: Instant) -> Log {
        let path = head.path_and_query().split('?').next().unwrap_or_default();
        Log {
            core: self.core.clone(),
            method,
            path: path.to_owned(),
            status: Some(StatusCode::OK),
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
            Some(site) => self.answer_of(site, &scheme, &target, head)?,
            None if settings.hosts.contain(target.host()) => self.object(head)?,
            None => return None,
        };
        let Form { head: kept, block, content, from, coding } = self.form_of(config, head, &stored)?;
        let (mut extra, ttl_seconds) = extra_of(&kept)?;
        let protocol = (head.version(), caller.secured.is_some());
        if let Some(offer) = self.core.alt_svc.for_answer(protocol.0, protocol.1) {
            extra.push(&header::ALT_SVC, &offer).ok()?;
        }
        let facts = self.core.config.access_log.path.is_some().then(|| Facts {
            site: site.map(|site| site.label().clone()),
            outcome: Some(Outcome::Hit),
            size_bytes: Some(content.length()),
            coding,
            ttl_seconds,
            ..Facts::default()
        });
        let body = if method == Method::HEAD { HotBody::None } else { content };
        self.core.metrics.hot.inc();
        self.hits.inc();
        self.oks.inc();
        if let Some((_, counter)) = self.protocols.iter().find(|(known, _)| *known == protocol) {
            counter.inc();
        }
        self.core.links.watch(caller.address, &caller.link, body.length());
        let receipt = Receipt { log: self.log(head, method, caller, start), from, facts };
        Some(HotAnswer { block, extra, body, receipt })
    }

    fn sent(&self, Receipt { mut log, from, .. }: Receipt, sent: HotSent) {
        log.bytes = sent.body_bytes;
        log.broken = (!sent.complete).then(|| match sent.unreadable {
            false => "the client left before the end".to_owned(),
            true => "a file of the disk tier cannot be read".to_owned(),
        });
        if let Some(kept) = from.as_ref().and_then(|sliced| sliced.on_disk()).filter(|_| sent.unreadable) {
            kept.doubt(slice_at(sent.body_bytes));
        }
    }
}

/// All bytes of what is kept, if they can be sent at once; else they have to be waited for, in the full path.
fn content_of(body: &Body) -> Option<HotBody> {
    let sliced = match body {
        Body::Memory(bytes) => return Some(HotBody::Memory(bytes.clone())),
        Body::Sliced(sliced) => sliced,
    };
    let kept = sliced.on_disk().filter(|_| sliced.slices() <= SLICES_MAX)?;
    let parts = (0..sliced.slices()).map(|slice| {
        let bytes = sliced.bytes_of(slice);
        Some(HotFile { file: kept.opened(slice)?, offset: 0, length: bytes.end - bytes.start })
    });
    Some(HotBody::Files(HotFiles::new(parts.collect::<Option<Vec<_>>>()?)))
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
    block: Block,
    content: HotBody,
    /// What of it is in slices.
    from: Option<Arc<Sliced>>,
    /// The coding of the content.
    coding: Option<HeaderValue>,
}

/// What a request says of codings: it has no range, and no `Cache-Control`.
fn wish_of(head: &HotRequest<'_>, config: &compress::Config) -> Wish {
    let accepted = Accepted::of_lines(head.lines("accept-encoding"), &config.codings);
    Wish { accepted, forbids: false, is_range: false }
}

fn is_selected(stored: &Stored, is: impl FnOnce(&Selector) -> bool) -> bool {
    matches!(&stored.head().terms, Terms::Answer { selector, .. } if is(selector))
}

/// Of answers that differ by `Accept-Encoding` alone the one for a request that says `wish`, if it is only one: by what
/// the origins are asked with for it.
fn by_coding(kept: &[Arc<Stored>], wish: &Wish) -> Option<usize> {
    if !kept.iter().all(|stored| is_selected(stored, |selector| selector.is_by(&ACCEPT_ENCODING))) {
        return None;
    }
    let asked = HeaderMap::from_iter([(ACCEPT_ENCODING, wish.accepted.ask())]);
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
