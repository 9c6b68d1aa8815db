//! Where an answer comes from: the edge's memory, a fetch that runs already, or the nodes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::header::{CACHE_CONTROL, CONTENT_LENGTH, ETAG, RANGE};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use tokio::time::{sleep_until, timeout_at};

use super::Core;
use super::body::Inner;
use super::facts::Way;
use super::fetch::{Answer, Unanswered, Wanted, fetch};
use super::fill;
use super::freshness::{self, heard_of};
use super::proxy::end_to_end;
use super::revalidate::{Use, check};
use super::slices::{Fetched, covers, part_of, widened};
use crate::cache::{Begun, Head, Lead, Lookup, Reader, Stored, Terms, Told, slice_at};
use crate::model::Variant;
use crate::protocol::VARIANT_HEADER;
use crate::route::Route;

/// Where an answer comes from.
#[expect(clippy::large_enum_variant, reason = "one exists for a request, and it is the common case that is large")]
pub(super) enum Obtained {
    /// The edge's memory.
    Kept(Arc<Stored>, Use),
    /// A fetch that this request has begun and that others may read along.
    Led { way: Arc<Way>, head: Arc<Head>, reader: Reader },
    /// As [`Obtained::Led`], of what is kept in slices: what was fetched is what it was `begun` with.
    Begun { way: Arc<Way>, stored: Arc<Stored>, begun: Begun, fetched: Fetched },
    /// A fetch that another request has begun.
    Joined { head: Arc<Head>, reader: Reader },
    /// A node, for this request alone.
    Fetched(Answer),
}

/// Obtains what is wanted. A version that no node has yet is waited for: until a feed tells of it, and once more at the
/// end of the patience, for a feed may be late.
pub(super) async fn obtain(core: &Arc<Core>, wanted: Arc<Wanted>, deadline: Instant) -> Result<Obtained, Unanswered> {
    let patience = deadline.min(Instant::now() + freshness::WAIT);
    loop {
        let news = wanted.min_version.as_ref().filter(|min| !core.cache.has_heard(&wanted.key, min));
        let outcome = obtain_now(core, wanted.clone(), deadline).await;
        if !matches!(outcome, Err(Unanswered::Behind)) || Instant::now() >= patience {
            return outcome;
        }
        match news {
            // That it took too long shows in the next round.
            Some(version) => _ = timeout_at(patience.into(), heard_of(core, &wanted.key, version)).await,
            None => sleep_until(patience.into()).await,
        }
    }
}

/// Obtains what is wanted, as the nodes have it at this moment.
async fn obtain_now(core: &Arc<Core>, wanted: Arc<Wanted>, deadline: Instant) -> Result<Obtained, Unanswered> {
    let alone = || async { fetch(core, &wanted, deadline).await.map(Obtained::Fetched) };
    // Whoever names a policy wants to see which node it chooses.
    if wanted.policy.is_some() || !core.cache.takes(0) {
        return alone().await;
    }
    let key = wanted.cache_key();
    // A part is fetched with all that its slices have.
    let widened = core.cache.has_slices().then(|| widened(&wanted.method, &wanted.headers)).flatten();
    let leads = wanted.method == Method::GET && (wanted.headers.is_empty() || widened.is_some());
    let will_do = |head: &Head| {
        wanted.min_version.as_ref().is_none_or(|min| head.version().is_some_and(|version| version >= min))
    };
    loop {
        if !core.cache.has_any(&key) {
            core.cache.recall(&key).await;
        }
        let found = match leads {
            true => core.cache.join(&key, |_| true),
            false => match core.cache.find(&key, |_| true) {
                Some(stored) => Lookup::Found(stored),
                None => return alone().await,
            },
        };
        match found {
            // What the client has seen is not known here yet: that is no reason to forget what serves others.
            Lookup::Found(stored) if !will_do(&stored.head()) => return alone().await,
            Lookup::Found(stored) => {
                // What is not kept any more is fetched, and the next one finds it.
                if let Some(usable) = check(core, &wanted, &key, &stored, deadline).await? {
                    return Ok(Obtained::Kept(stored, usable));
                }
            }
            Lookup::Flying(mut reader) => match timeout_at(deadline.into(), reader.head()).await {
                Ok(Told::Comes(head)) if will_do(&head) => return Ok(Obtained::Joined { head, reader }),
                Ok(Told::Comes(_) | Told::Alone) => return alone().await,
                Ok(Told::Part) if widened.is_some() => return alone().await,
                Ok(Told::Part | Told::Again) => {}
                Err(_) => return Err(Unanswered::Unavailable { busy: 0 }),
            },
            Lookup::Lead(lead) => {
                let began = core.started.elapsed();
                let asked = widened.as_ref().map_or_else(|| wanted.clone(), |wide| with_range(&wanted, &wide.value));
                let answer = match fetch(core, &asked, deadline).await {
                    Ok(answer) => answer,
                    Err(unanswered) => {
                        let is_of_part = widened.is_some() && matches!(unanswered, Unanswered::Refused(_));
                        let refuse = if is_of_part { Lead::refuse_part } else { Lead::refuse };
                        refuse(lead);
                        return Err(unanswered);
                    }
                };
                return match share(core, &asked, lead, began, answer) {
                    Shared::Obtained(obtained) => Ok(obtained),
                    // It has more than was asked for.
                    Shared::Wide => alone().await,
                };
            }
        }
    }
}

/// Whether the request asks for several ranges.
pub(super) fn has_several_ranges(headers: &HeaderMap) -> bool {
    headers.get(RANGE).is_some_and(|range| range.as_bytes().contains(&b','))
}

/// The same, of which this range is asked for.
fn with_range(wanted: &Wanted, range: &HeaderValue) -> Arc<Wanted> {
    Arc::new(Wanted { headers: HeaderMap::from_iter([(RANGE, range.clone())]), ..wanted.clone() })
}

/// What became of an answer.
#[expect(clippy::large_enum_variant, reason = "it lives for a moment, and it is the common case that is large")]
enum Shared {
    Obtained(Obtained),
    /// It is a part that is not kept, and more than the client wants.
    Wide,
}

/// Lets others read along what was fetched, if it can be kept.
fn share(core: &Arc<Core>, wanted: &Wanted, lead: Lead, began: Duration, answer: Answer) -> Shared {
    let is_part = answer.response.status() == StatusCode::PARTIAL_CONTENT;
    let (part, head) = match part_of(&answer.response) {
        Some((part, headers)) => (part, head_of(core, wanted, answer.response.status(), &headers, began)),
        None => (0..0, None),
    };
    let not_kept = |answer| if is_part { Shared::Wide } else { Shared::Obtained(Obtained::Fetched(answer)) };
    // A part says nothing of the whole, which others may want.
    let refuse = if is_part { Lead::refuse_part } else { Lead::refuse };
    let Some(head) = head else {
        refuse(lead);
        return not_kept(answer);
    };
    let cost = cost(&answer.way.route);
    if core.cache.slices(&head) {
        let Some((stored, begun)) = lead.slice(head, cost, slice_at(part.start)) else { return not_kept(answer) };
        let Answer { way, response } = answer;
        let from = way.route.node.id.clone();
        let fetched = Fetched { body: Inner::Node(Box::new(response.into_body())), cost, from };
        return Shared::Obtained(Obtained::Begun { way, stored, begun, fetched });
    }
    if !covers(&part, head.size) {
        refuse(lead);
        return not_kept(answer);
    }
    let Some((fill, reader)) = lead.begin(head.clone(), cost) else { return not_kept(answer) };
    let Answer { way, response } = answer;
    core.fills.spawn(core.drained.clone().run_until_cancelled_owned(fill::run(fill, response.into_body())));
    Shared::Obtained(Obtained::Led { way, head: Arc::new(head), reader })
}

/// What it costs to fetch again what came by `route`: the seconds that it takes, as far as they are known.
pub(super) fn cost(route: &Route) -> f32 {
    // Most clouds are nearer than this.
    const UNKNOWN_S: f64 = 0.1;
    route.time_s.unwrap_or(UNKNOWN_S) as f32
}

/// What is kept of an answer, or of the whole that it is a part of; `None` if it must not be.
fn head_of(core: &Core, wanted: &Wanted, status: StatusCode, headers: &HeaderMap, began: Duration) -> Option<Head> {
    let field = |name: http::HeaderName| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    let has_bytes = matches!(status, StatusCode::OK | StatusCode::PARTIAL_CONTENT);
    if !has_bytes || !field(ETAG)?.starts_with('"') {
        return None;
    }
    let refused = |directive: &str| {
        let name = directive.split('=').next().unwrap_or_default().trim();
        name.eq_ignore_ascii_case("no-store") || name.eq_ignore_ascii_case("private")
    };
    if field(CACHE_CONTROL).unwrap_or_default().split(',').any(refused) {
        return None;
    }
    // A node that does not resize gives the original for any variant, and does not say that there is none.
    if wanted.variant != Variant::Original {
        field(http::HeaderName::from_static(VARIANT_HEADER))?;
    }
    let size: u64 = field(CONTENT_LENGTH)?.parse().ok()?;
    let version = freshness::version_of(headers)?;
    // Of what a node keeps for itself alone no feed tells when it changes.
    if version.sequence == 0 {
        return None;
    }
    let mut headers = headers.clone();
    end_to_end(&mut headers, &core.via);
    // Each answer says when it is given.
    headers.remove(http::header::DATE);
    let terms = Terms::Object { version, validated: began };
    let head = Head { status: StatusCode::OK, headers, size: Some(size), terms };
    (core.cache.slices(&head) || core.cache.takes(size)).then_some(head)
}
