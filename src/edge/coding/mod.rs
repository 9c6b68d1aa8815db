//! Content codings at the edge: which form of a representation a request gets, and the making of it.
//!
//! What is kept stays as it came. A coded variant is an entry of its own in the cache, under a number that only the
//! representation has which it was made of: so it is found through that alone, whose freshness and purges count for it,
//! and cannot outlive it. [`Request::given`] is the one place that says what is sent; the short way of hits asks it, too.

mod answer;
mod recoded;
mod run;
mod thorough;

use std::borrow::Cow;
use std::hash::{BuildHasher as _, BuildHasherDefault, DefaultHasher};
use std::num::NonZeroUsize;
use std::ops::Deref;
use std::sync::Arc;

use http::header::{ETAG, IF_MATCH, IF_NONE_MATCH, IF_RANGE, RANGE};
use http::{HeaderMap, HeaderValue, Method};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::cache::{Cache, CacheKey, Head, Stored, Terms};
use crate::compress::{self, Coding, Codings, Config, Effort, Made, Nature, Plan, Wish, tag};
use crate::serve::condition::ranges_by_date;

pub(super) use answer::{along, is_for_all, kept, passed};
pub(super) use recoded::{RecodeError, Recoded};
pub(super) use thorough::notice;

/// How many answers are coded or decoded at a time, for each thread that answers users. Most wait for their bytes; all at
/// once take up to 4 MiB each at the levels that are the default.
const PLACES_PER_THREAD: usize = 8;

/// The places for those who code.
pub(super) struct Coders {
    places: Arc<Semaphore>,
    /// Of those who make something once more, while nobody waits.
    thorough: Arc<Semaphore>,
}

impl Coders {
    /// Those of an edge with so many threads.
    pub(super) fn new(threads: NonZeroUsize) -> Self {
        let places = PLACES_PER_THREAD.saturating_mul(threads.get());
        Self { places: Arc::new(Semaphore::new(places)), thorough: Arc::new(Semaphore::new(1)) }
    }

    /// A place, if one is free.
    fn place(&self) -> Option<OwnedSemaphorePermit> {
        self.places.clone().try_acquire_owned().ok()
    }
}

/// By what rules answers are compressed. What was found out by them has their number: others have others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Rules {
    config: Config,
    number: u64,
}

impl Rules {
    pub(super) fn new(config: Config) -> Self {
        Self { number: BuildHasherDefault::<DefaultHasher>::default().hash_one(&config), config }
    }
}

impl Deref for Rules {
    type Target = Config;

    fn deref(&self) -> &Config {
        &self.config
    }
}

/// What of a request matters to the form of its answer.
#[derive(Clone, Copy)]
pub(super) struct Request<'a> {
    pub(super) config: &'a Rules,
    pub(super) wish: Wish,
    pub(super) method: &'a Method,
    /// Its conditions and ranges, with the tags that the client knows.
    pub(super) headers: &'a HeaderMap,
}

/// What a request gets of a representation.
enum Given {
    /// It, as it is kept or comes.
    AsIs,
    /// A variant of it that is kept.
    Kept(Arc<Stored>),
    /// A variant of it that is to be made.
    Encode(Coding),
    /// It, without its coding.
    Decode(Coding),
}

/// What a request that says `wish` gets of the representation with this `nature` and `number`.
fn decide(cache: &Cache, config: &Config, wish: &Wish, nature: Nature, number: u64) -> Given {
    let variant = |coding| variant(cache, number, coding);
    // Which others are kept matters to ranges alone: all else is made.
    let looks = wish.is_range && nature == Nature::Plain;
    let kept: Codings = Coding::ALL.into_iter().filter(|coding| looks && variant(*coding).is_some()).collect();
    match nature.plan(wish, config.made(), kept) {
        Plan::AsIs => Given::AsIs,
        Plan::Kept(coding) => variant(coding).map_or(Given::AsIs, Given::Kept),
        Plan::Encode(coding) => variant(coding).map_or(Given::Encode(coding), Given::Kept),
        Plan::Decode(coding) => Given::Decode(coding),
    }
}

/// What may become of what is kept or comes with this head and so many bytes, if that is known. What is kept may be used
/// for all.
pub(super) fn nature_of(config: &Config, head: &Head, size_bytes: Option<u64>) -> Nature {
    config.nature(&compress::Answer { status: head.status, headers: &head.headers, size_bytes, is_shared: true })
}

/// What may become of what is `stored`.
pub(super) fn nature(rules: &Rules, stored: &Stored) -> Nature {
    stored.nature(rules.number, |head| nature_of(rules, head, Some(stored.body.size())))
}

/// The head of a variant that is kept of what has the head `source` by now: that may have been freshened since.
fn current(variant: &Stored, source: &Arc<Head>) -> Arc<Head> {
    let known = variant.head();
    let Terms::Coded { source: made_of, effort, made: Some(made) } = &known.terms else { return known };
    if Arc::ptr_eq(made_of, source) {
        return known;
    }
    variant.update(head_of(source, made.coding, *effort, Some(made)));
    variant.head()
}

/// What a request gets of what is kept, if that is kept itself.
pub(super) struct AtOnce<'a> {
    /// It, or a variant of it.
    pub(super) stored: Arc<Stored>,
    pub(super) head: Arc<Head>,
    /// The conditions and the range that mean something for it.
    pub(super) headers: Cow<'a, HeaderMap>,
}

/// What `request` gets of what is `stored` with the head `source` and this `nature`; `None` if it has to be made, or if the
/// client has it by another tag.
pub(super) fn at_once<'a>(
    cache: &Cache,
    request: Request<'a>,
    stored: &Arc<Stored>,
    source: &Arc<Head>,
    nature: Nature,
) -> Option<AtOnce<'a>> {
    let number = stored.representation();
    let (stored, head, nature) = match request.given(cache, source, nature, number) {
        Given::AsIs => (stored.clone(), source.clone(), nature),
        Given::Kept(variant) => {
            let head = current(&variant, source);
            (variant, head, Nature::Plain)
        }
        Given::Encode(_) | Given::Decode(_) => return None,
    };
    let is_named_so = Arc::ptr_eq(&request.tagged(head.clone(), source, nature), &head);
    is_named_so.then(|| AtOnce { stored, head, headers: without_range_by_date(request.headers) })
}

fn variant(cache: &Cache, number: u64, coding: Coding) -> Option<Arc<Stored>> {
    cache.find(&CacheKey::Coded { of: number, coding }, |_| true)
}

/// The head of a variant of what has the head `source`: without [`Made`] of one that is being made.
fn head_of(source: &Arc<Head>, coding: Coding, effort: Effort, made: Option<&Made>) -> Head {
    let mut headers = source.headers.clone();
    compress::head::coded(&mut headers, coding, made);
    let terms = Terms::Coded { source: source.clone(), effort, made: made.copied() };
    Head { status: source.status, headers, size: made.map(|made| made.size_bytes), terms }
}

/// The dates of all forms are the same, so no part is sent for one (RFC 9110 section 8.8.2.2).
fn without_range_by_date(headers: &HeaderMap) -> Cow<'_, HeaderMap> {
    if !ranges_by_date(headers) {
        return Cow::Borrowed(headers);
    }
    let mut headers = headers.clone();
    headers.remove(RANGE);
    headers.remove(IF_RANGE);
    Cow::Owned(headers)
}

impl Request<'_> {
    /// What it gets of the representation with this head, `nature` and `number`. Where it says of which form it has a
    /// part already, it gets more of that.
    fn given(&self, cache: &Cache, head: &Head, nature: Nature, number: u64) -> Given {
        let accepted = self.wish.accepted;
        if let Some(etag) = head.headers.get(ETAG) {
            let names = |name| self.headers.get(name) == Some(etag);
            if nature == Nature::Plain && accepted.accepts(None) && (names(IF_RANGE) || names(IF_MATCH)) {
                return Given::AsIs;
            }
        }
        if let Some(part_of) = self.headers.get(IF_RANGE).filter(|_| self.wish.is_range && nature == Nature::Plain) {
            let codings = Coding::ALL.into_iter().filter(|coding| accepted.accepts(Some(*coding)));
            let mut variants = codings.filter_map(|coding| variant(cache, number, coding));
            if let Some(named) = variants.find(|variant| variant.head().headers.get(ETAG) == Some(part_of)) {
                return Given::Kept(named);
            }
        }
        decide(cache, self.config, &self.wish, nature, number)
    }

    /// The tag by which the request says that the client has what has the tag `source`, or a variant of it.
    fn revalidates(&self, source: Option<&HeaderValue>, nature: Nature) -> Option<HeaderValue> {
        // If-Match is judged first (RFC 9110 section 13.2.2), by what is sent.
        if !self.headers.contains_key(IF_NONE_MATCH) || self.headers.contains_key(IF_MATCH) {
            return None;
        }
        let coding = if let Nature::Coded(coding) = nature { Some(coding) } else { None };
        tag::revalidated(self.headers, self.wish.accepted, source?, coding)
    }

    /// The head `sent`, of a form of what has the head `source`, with the tag of what the client has if that is current: a
    /// 304 has to name it (RFC 9111 section 4.3.4).
    fn tagged(&self, sent: Arc<Head>, source: &Head, nature: Nature) -> Arc<Head> {
        match self.revalidates(source.headers.get(ETAG), nature) {
            Some(tag) if sent.headers.get(ETAG) != Some(&tag) => {
                let mut head = (*sent).clone();
                head.headers.insert(ETAG, tag);
                Arc::new(head)
            }
            _ => sent,
        }
    }
}
