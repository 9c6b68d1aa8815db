//! The life of a request for a site: answered from the cache, or by an origin that is asked once for all who wait.

use std::ops::Range;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use http::header::{RANGE, RETRY_AFTER, UPGRADE};
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode};
use tokio::time::timeout_at;
use tracing::debug;

use super::super::Core;
use super::super::body::Inner;
use super::super::coding;
use super::super::facts::{Facts, Tally};
use super::super::proxy::problem;
use super::super::slices::{self, Walk, Widened};
use super::Site;
use super::incoming::Incoming;
use super::origins::{Answer, Unanswered};
use super::outgoing::Outgoing;
use super::reply::{Reply, Why};
use crate::cache::rules::{
    self, Answer as Verdict, Cause, Forward, Freshness, OnError, RequestDirectives, Use, Validators,
};
use crate::cache::{Body, CacheKey, Head, Lead, Lookup, Sliced, Stored, Terms, Told};

/// How often a request looks again for what another one brings before it asks for itself: once for each of the different
/// answers that others may wait for, as far as that is worth it.
const LOOKS_MAX: usize = 8;

type BodyError = Box<dyn std::error::Error + Send + Sync>;

/// Answers a request for `site`.
pub(super) async fn answer<B>(core: &Arc<Core>, site: &Arc<Site>, incoming: Incoming, body: B) -> Response<Inner>
where
    B: hyper::body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BodyError>,
{
    if incoming.loops() {
        return problem(
            StatusCode::LOOP_DETECTED,
            "the request goes round in circles: an origin leads back to this edge",
        );
    }
    let uri = incoming.text_of_target().into();
    let key = CacheKey::Answer { site: site.text.clone(), uri };
    // What a body means for a GET is not defined (RFC 9110 section 9.3.1): its answer is nobody else's.
    let reads =
        matches!(incoming.method, Method::GET | Method::HEAD) && body.is_end_stream() && incoming.upgrade().is_none();
    let forwarded = Arc::new(incoming.forwarded());
    let asked = Incoming::for_the_whole(&forwarded);
    let life = Life { core: core.clone(), site: site.clone(), incoming: Arc::new(incoming), forwarded, asked, key };
    if reads { life.read().await } else { life.pass(body).await }
}

/// A request on its way.
#[derive(Clone)]
pub(super) struct Life {
    pub(super) core: Arc<Core>,
    pub(super) site: Arc<Site>,
    pub(super) incoming: Arc<Incoming>,
    /// What an origin is asked with, with the conditions and ranges of the client.
    pub(super) forwarded: Arc<HeaderMap>,
    /// What an origin is asked with, for the whole. By this answers are selected, for by this the origin has chosen: the
    /// client's own headers lack what this edge adds, and have what it leaves out.
    pub(super) asked: Arc<HeaderMap>,
    pub(super) key: CacheKey,
}

/// What was asked for the cache, and what came of it.
struct Asked {
    answer: Answer,
    /// What it means for what is kept.
    verdict: Verdict,
    /// When the request left.
    sent: SystemTime,
}

/// What is known of an answer that is kept.
#[derive(Clone)]
pub(super) struct Kept {
    pub(super) stored: Arc<Stored>,
    pub(super) head: Arc<Head>,
    pub(super) freshness: Freshness,
    /// Up to which purge it stands.
    pub(super) settled: u64,
}

impl Kept {
    pub(super) fn of(stored: Arc<Stored>) -> Option<Self> {
        let head = stored.head();
        let Terms::Answer { freshness, .. } = &head.terms else { return None };
        Some(Self { freshness: *freshness, settled: stored.settled(), stored, head })
    }
}

impl Life {
    /// A request that the cache may answer.
    async fn read(&self) -> Response<Inner> {
        let directives = &self.incoming.directives;
        for look in 0..LOOKS_MAX {
            let kept = self.find().await;
            let use_of = |kept: &Kept| self.use_of(&kept.freshness);
            let why = match kept.as_ref().map(use_of) {
                Some(usage @ (Use::Fresh | Use::Stale)) => return self.reuse(&kept, usage).await,
                Some(Use::StaleWhileRevalidate) => {
                    self.revalidate_meanwhile(kept.as_ref());
                    return self.reuse(&kept, Use::StaleWhileRevalidate).await;
                }
                Some(Use::GatewayTimeout) => return self.only_if_cached(),
                None if directives.only_if_cached => return self.only_if_cached(),
                Some(Use::Validate(Cause::Stale)) => Why::Asked(Forward::Stale),
                Some(Use::Validate(Cause::Request)) => Why::Asked(Forward::Request),
                None if self.core.cache.all(&self.key).is_empty() => Why::Asked(Forward::UriMiss),
                None => Why::Asked(Forward::VaryMiss),
            };
            if let Some(kept) = kept.as_ref().filter(|_| look == 0) {
                self.hint(kept);
            }
            let alone = self.incoming.method == Method::HEAD
                || directives.no_store
                || !self.core.cache.takes(0)
                || kept.is_none() && self.incoming.has_range() && self.widened().is_none();
            if alone {
                return self.fetch_alone(kept.as_ref(), why).await;
            }
            // Whoever wants it validated, or has to, is helped by nothing that was asked for before.
            if directives.no_cache || kept.as_ref().is_some_and(|kept| kept.freshness.is_validated_always()) {
                let lead = self.core.cache.lead(&self.key);
                return self.fetch_for_all(kept.as_ref(), why, lead).await;
            }
            let usable = |kept: &[Arc<Stored>]| self.choose(kept).filter(|&place| self.is_usable(&kept[place].head()));
            match self.core.cache.join_with(&self.key, usable, |head| self.is_shared(head)) {
                Lookup::Found(_) => {}
                Lookup::Lead(lead) => return self.fetch_for_all(kept.as_ref(), why, lead).await,
                Lookup::Flying(mut reader) => match timeout_at(self.incoming.deadline.into(), reader.head()).await {
                    Ok(Told::Comes(head)) if self.is_shared(&head) => {
                        return self.reply(why).collapsed().along(&head, reader).await;
                    }
                    // It is for this request, and has to be validated for each: it is not the answer to two.
                    Ok(Told::Comes(head)) if self.selects(&head) => {
                        return self.fetch_alone(kept.as_ref(), why).await;
                    }
                    Ok(Told::Part) if self.widened().is_some() => return self.fetch_alone(kept.as_ref(), why).await,
                    Ok(Told::Comes(_) | Told::Part | Told::Again) => {}
                    Ok(Told::Alone) => return self.fetch_alone(kept.as_ref(), why).await,
                    Err(_) => return self.failed(kept.as_ref(), Unanswered::Late, why).await,
                },
            }
        }
        self.fetch_alone(None, Why::Asked(Forward::UriMiss)).await
    }

    /// What is kept for this request, in memory or on the disk.
    async fn find(&self) -> Option<Kept> {
        let cache = &self.core.cache;
        let pick = || cache.pick(&self.key, |kept| self.choose(kept));
        let kept = match pick() {
            Some(stored) => Some(stored),
            None => {
                cache.recall(&self.key).await;
                pick()
            }
        };
        let kept = kept.and_then(Kept::of)?;
        // What cannot be asked for in parts must be there whole.
        if let Body::Sliced(sliced) = &kept.stored.body
            && !rules::is_completable(&kept.head.headers)
            && !sliced.open_all().await
        {
            cache.discard(&self.key, &kept.stored);
            return None;
        }
        Some(kept)
    }

    /// Which of the answers that are kept is for this request.
    fn choose(&self, kept: &[Arc<Stored>]) -> Option<usize> {
        // Nearly always there is but one.
        if let [only] = kept {
            return self.selects(&only.head()).then_some(0);
        }
        let heads: Vec<_> = kept.iter().map(|stored| stored.head()).collect();
        let dated = heads.iter().map(|head| match &head.terms {
            Terms::Answer { selector, .. } => {
                (selector, Validators::of(&head.headers).date.unwrap_or(SystemTime::UNIX_EPOCH))
            }
            Terms::Object { .. } | Terms::Slice | Terms::Coded { .. } => unreachable!("they have keys of their own"),
        });
        rules::choose(dated, &self.asked)
    }

    /// Whether an answer is for this request (RFC 9111 section 4.1).
    pub(super) fn selects(&self, head: &Head) -> bool {
        matches!(&head.terms, Terms::Answer { selector, .. } if selector.matches(&self.asked))
    }

    /// Whether an answer is for this request and needs nobody to be asked.
    fn is_usable(&self, head: &Head) -> bool {
        let Terms::Answer { freshness, .. } = &head.terms else { return false };
        self.selects(head) && !matches!(self.use_of(freshness), Use::Validate(_) | Use::GatewayTimeout)
    }

    /// Whether what was fetched a moment ago, or comes, is the answer to this request.
    fn is_shared(&self, head: &Head) -> bool {
        let Terms::Answer { freshness, .. } = &head.terms else { return false };
        let usage = self.use_by_age(freshness);
        self.selects(head) && !matches!(usage, Use::Validate(_) | Use::GatewayTimeout)
    }

    /// What may be done with what is kept. Of what an edge has that does not hear of purges nobody knows whether it was
    /// purged.
    fn use_of(&self, freshness: &Freshness) -> Use {
        match self.use_by_age(freshness) {
            Use::Fresh | Use::StaleWhileRevalidate
                if !self.core.hears_purges() && !self.incoming.directives.only_if_cached =>
            {
                Use::Validate(Cause::Stale)
            }
            usage => usage,
        }
    }

    pub(super) fn reply(&self, why: Why) -> Reply<'_> {
        let Incoming { method, headers, wish, .. } = &*self.incoming;
        let request = coding::Request { config: self.compression(), wish: *wish, method, headers };
        Reply::new(&self.core, request, why)
    }

    /// What is kept of `uri` goes: by the rules of this request, and by those that hold since, if there are others.
    fn forget(&self, uri: &Arc<str>) {
        self.core.shields.note_change(uri);
        let settings = self.core.settings.load();
        let now = settings.sites.named(&self.site.name).unwrap_or(&self.site);
        for site in [&self.site, now] {
            self.core.cache.remove(&CacheKey::Answer { site: site.text.clone(), uri: uri.clone() });
        }
    }

    /// What is kept.
    async fn kept(&self, reply: Reply<'_>, kept: &Kept) -> Response<Inner> {
        let fetched = Arc::<Tally>::default();
        let walk = |sliced: &Arc<Sliced>, part| self.walk((sliced, &fetched), &kept.stored, part);
        let mut response = reply.kept(&kept.stored, &kept.head, &kept.freshness, walk).await;
        Facts::of(&mut response).fetched = Some(fetched);
        response
    }

    /// The bytes `part` of what is `stored` in slices; what is fetched of it is counted.
    pub(super) fn walk(
        &self,
        (sliced, fetched): (&Arc<Sliced>, &Arc<Tally>),
        stored: &Arc<Stored>,
        part: Range<u64>,
    ) -> Walk {
        let known = slices::Known { key: self.key.clone(), stored: stored.clone(), fetched: fetched.clone() };
        let source = slices::Answer::new(self.site.clone(), self.incoming.path(), self.asked.clone(), known);
        let source = source.by_shield(self.by_shield());
        Walk::new(&self.core, sliced, Arc::new(source), part)
    }

    /// The range that an origin is asked for where nothing is kept.
    pub(super) fn widened(&self) -> Option<Widened> {
        let can = self.core.cache.has_slices();
        can.then(|| slices::widened(&self.incoming.method, &self.incoming.headers)).flatten()
    }

    async fn reuse(&self, kept: &Option<Kept>, usage: Use) -> Response<Inner> {
        let Some(kept) = kept else { return self.only_if_cached() };
        let why = if usage == Use::Fresh { Why::Hit } else { Why::StaleHit };
        self.kept(self.reply(why), kept).await
    }

    /// Nothing is kept that would do, and the client wants nobody to be asked (RFC 9111 section 5.2.1.7).
    pub(super) fn only_if_cached(&self) -> Response<Inner> {
        let detail = "nothing is kept that may answer, and the request has only-if-cached";
        self.reply(Why::Asked(Forward::Request)).told(problem(StatusCode::GATEWAY_TIMEOUT, detail))
    }

    /// Asks for this request alone. What comes back is not kept, but tells of what is.
    async fn fetch_alone(&self, kept: Option<&Kept>, why: Why) -> Response<Inner> {
        let outgoing = Outgoing::new(self.incoming.method.clone(), self.incoming.path(), self.forwarded.clone())
            .by_shield(self.by_shield())
            .telling(self.incoming.interim.as_ref());
        let (sent, asked) = (SystemTime::now(), self.core.cache.next_number());
        match self.site.fetch(&self.core, &outgoing, self.incoming.deadline).await {
            Ok(answer) if rules::is_error(answer.response.status()) && self.may_stand_in(kept, true) => {
                self.stand_in(kept, why).await
            }
            Ok(answer) => {
                if self.incoming.method == Method::HEAD {
                    self.learn_from_head(&answer, sent, asked);
                }
                let is_shared = self.is_shared_with_all(&answer, sent);
                self.reply(why).passed(answer, is_shared)
            }
            Err(unanswered) => self.failed(kept, unanswered, why).await,
        }
    }

    /// Asks for the whole, for all who wait for it, and for the cache.
    async fn fetch_for_all(&self, kept: Option<&Kept>, why: Why, lead: Lead) -> Response<Inner> {
        let Asked { answer, verdict, sent } = match self.ask(kept).await {
            Ok(asked) => asked,
            Err(unanswered) => {
                lead.refuse();
                return self.failed(kept, unanswered, why).await;
            }
        };
        let status = answer.response.status();
        match (verdict, kept) {
            (Verdict::NotModified(_), Some(kept)) => {
                let (head, freshness) = self.freshen(kept, &answer, sent, lead.representation());
                drop(lead);
                let kept = Kept { head: Arc::new(head), freshness, ..kept.clone() };
                self.kept(self.reply(why).forwarded(status), &kept).await
            }
            (Verdict::Failed, Some(_)) if self.may_stand_in(kept, true) => {
                lead.refuse();
                self.stand_in(kept, why).await
            }
            (verdict, kept) => {
                // What is kept is wrong from now on, whether or not the answer may be kept in its place.
                if let Some(kept) = kept.filter(|_| verdict == Verdict::Replaces) {
                    self.core.cache.discard(&self.key, &kept.stored);
                }
                match self.take_in(why, lead, answer, sent).await {
                    Some(response) => response,
                    // It has more than the client wants, and is not kept.
                    None => self.fetch_alone(kept, why).await,
                }
            }
        }
    }

    /// Asks for the whole, on the condition that it is not what is kept.
    async fn ask(&self, kept: Option<&Kept>) -> Result<Asked, Unanswered> {
        let known: Vec<_> = kept.iter().map(|kept| Validators::of(&kept.head.headers)).collect();
        let mut headers = self.asked.clone();
        let conditional = !known.is_empty() && rules::make_conditional(Arc::make_mut(&mut headers), &known);
        if let Some(widened) = self.widened().filter(|_| kept.is_none()) {
            Arc::make_mut(&mut headers).insert(RANGE, widened.value);
        }
        let asked = self.ask_with(headers, conditional, &known).await?;
        // A 304 that is about nothing that is kept.
        if !matches!(asked.verdict, Verdict::Unusable | Verdict::ClientsOwn) {
            return Ok(asked);
        }
        let asked = self.ask_with(self.asked.clone(), false, &[]).await?;
        if matches!(asked.verdict, Verdict::Unusable | Verdict::ClientsOwn) {
            debug!(site = %self.site.name, "an origin answers 304 to a request without a condition");
            return Err(Unanswered::Unreachable);
        }
        Ok(asked)
    }

    async fn ask_with(
        &self,
        headers: Arc<HeaderMap>,
        conditional: bool,
        known: &[Validators],
    ) -> Result<Asked, Unanswered> {
        let interim = self.incoming.interim.as_ref();
        let outgoing =
            Outgoing::new(Method::GET, self.incoming.path(), headers).by_shield(self.by_shield()).telling(interim);
        let sent = SystemTime::now();
        let answer = self.site.fetch(&self.core, &outgoing, self.incoming.deadline).await?;
        let (status, headers) = (answer.response.status(), answer.response.headers());
        // The client's own conditions were not sent.
        let verdict = rules::read_answer(&HeaderMap::new(), conditional, known, status, headers);
        Ok(Asked { answer, verdict, sent })
    }

    /// Whether what is kept may stand in for an error (RFC 9111 section 4.2.4, RFC 5861 section 4).
    fn may_stand_in(&self, kept: Option<&Kept>, answered: bool) -> bool {
        let kept = kept.filter(|_| !self.is_for_edge());
        let on_error = kept.map(|kept| kept.freshness.on_error(&self.incoming.directives, SystemTime::now()));
        match on_error {
            Some(OnError::Allowed) => true,
            Some(OnError::WhenDisconnected) => !answered,
            Some(OnError::Forbidden) | None => false,
        }
    }

    async fn stand_in(&self, kept: Option<&Kept>, why: Why) -> Response<Inner> {
        match kept {
            Some(kept) => self.kept(self.reply(Why::StaleOnError), kept).await,
            None => self.reply(why).told(unavailable(Unanswered::Unreachable)),
        }
    }

    /// No origin answers.
    async fn failed(&self, kept: Option<&Kept>, unanswered: Unanswered, why: Why) -> Response<Inner> {
        if self.may_stand_in(kept, false) {
            return self.stand_in(kept, why).await;
        }
        self.reply(why).told(unavailable(unanswered))
    }

    /// Validates what is stale and was given all the same, unless somebody does already.
    fn revalidate_meanwhile(&self, kept: Option<&Kept>) {
        let Some(kept) = kept else { return };
        let fresh = |head: &Head| {
            let any = RequestDirectives::default();
            matches!(&head.terms, Terms::Answer { freshness, .. } if freshness.use_for(&any, SystemTime::now()) == Use::Fresh)
        };
        let chosen = |kept: &[Arc<Stored>]| self.choose(kept).filter(|&place| fresh(&kept[place].head()));
        let found = self.core.cache.join_with(&self.key, chosen, |head| self.selects(head) && fresh(head));
        let Lookup::Lead(lead) = found else {
            return;
        };
        let (life, kept) = (self.clone(), kept.clone());
        let running = async move { drop(life.fetch_for_all(Some(&kept), Why::Asked(Forward::Stale), lead).await) };
        self.core.fills.spawn(self.core.drained.clone().run_until_cancelled_owned(running));
    }

    /// A request that no cache can answer. What it changes is forgotten (RFC 9111 section 4.4).
    async fn pass<B>(&self, body: B) -> Response<Inner>
    where
        B: hyper::body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BodyError>,
    {
        let bytes_max = self.site.request_bytes_max;
        if body.size_hint().lower() > bytes_max {
            return self.too_large();
        }
        let method = self.incoming.method.clone();
        let mut headers = self.forwarded.clone();
        if let Some(protocol) = self.incoming.upgrade() {
            Arc::make_mut(&mut headers).insert(UPGRADE, protocol.clone());
        }
        let outgoing = Outgoing::new(method, self.incoming.path(), headers)
            .with_body(body, bytes_max)
            .telling(self.incoming.interim.as_ref());
        let why = Why::Asked(Forward::Method);
        let reply = self.reply(why);
        let mut doubt = Doubt { life: self, doubtful: rules::is_unsafe(&self.incoming.method) };
        let sent = SystemTime::now();
        match self.site.fetch(&self.core, &outgoing, self.incoming.deadline).await {
            Ok(answer) => {
                doubt.doubtful = false;
                let (method, target) = (&self.incoming.method, &self.incoming.target);
                for uri in rules::invalidated(method, target, answer.response.status(), answer.response.headers()) {
                    self.forget(&uri.to_string().into());
                }
                // An answer to POST that says so is what the next GET gets (RFC 9110 section 9.3.3).
                if *method == Method::POST && answer.response.status() != StatusCode::PARTIAL_CONTENT {
                    let lead = self.core.cache.lead(&self.key);
                    return self.take_in(why, lead, answer, sent).await.expect("it is no part");
                }
                let is_shared = self.is_shared_with_all(&answer, sent);
                reply.passed(answer, is_shared)
            }
            Err(_) if outgoing.is_too_long() => self.too_large(),
            Err(unanswered) => reply.told(unavailable(unanswered)),
        }
    }

    fn too_large(&self) -> Response<Inner> {
        let detail = format!("a request to this site may have {} bytes", self.site.request_bytes_max);
        self.reply(Why::Asked(Forward::Method)).told(problem(StatusCode::PAYLOAD_TOO_LARGE, detail))
    }
}

/// A write of which nobody knows whether it was done: dropped so, what is kept of its target is forgotten.
struct Doubt<'a> {
    life: &'a Life,
    doubtful: bool,
}

impl Drop for Doubt<'_> {
    fn drop(&mut self) {
        if self.doubtful {
            let CacheKey::Answer { uri, .. } = &self.life.key else { return };
            self.life.forget(uri);
        }
    }
}

fn unavailable(unanswered: Unanswered) -> Response<Inner> {
    let (status, detail) = match unanswered {
        Unanswered::Unreachable => (StatusCode::BAD_GATEWAY, "no origin of the site can be reached"),
        Unanswered::Late => (StatusCode::GATEWAY_TIMEOUT, "no origin of the site has answered in time"),
        Unanswered::Broken => (StatusCode::BAD_REQUEST, "the request broke off, or cannot be sent to an origin"),
        Unanswered::Stalled => (StatusCode::REQUEST_TIMEOUT, "no part of the body came for too long"),
        Unanswered::Busy => {
            (StatusCode::SERVICE_UNAVAILABLE, "the origins of the site have all the requests they take")
        }
    };
    let mut response = problem(status, detail);
    if status == StatusCode::SERVICE_UNAVAILABLE {
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
    }
    response
}
