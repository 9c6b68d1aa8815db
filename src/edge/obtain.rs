//! Where an answer comes from: the edge's memory, a fetch that runs already, or the nodes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::header::{CACHE_CONTROL, CONTENT_LENGTH, ETAG, RANGE};
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode};
use http_body_util::BodyExt as _;
use tokio::time::{sleep_until, timeout_at};
use tracing::debug;

use super::Core;
use super::download::Download;
use super::fetch::{Answer, Unanswered, Wanted, fetch};
use super::freshness::{self, heard_of};
use super::proxy::end_to_end;
use super::revalidate::{Use, check};
use crate::cache::{CacheKey, Fill, Head, Lead, Lookup, Reader, Stored, Told};
use crate::model::{NodeId, Variant};
use crate::protocol::VARIANT_HEADER;
use crate::route::Route;

/// Where an answer comes from.
#[expect(clippy::large_enum_variant, reason = "one exists for a request, and it is the common case that is large")]
pub(super) enum Obtained {
    /// The edge's memory.
    Kept(Arc<Stored>, Use),
    /// A fetch that this request has begun and that others may read along.
    Led { route: Route, passed: Vec<NodeId>, head: Arc<Head>, reader: Reader },
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
    if wanted.policy.is_some() || !core.cache.takes(0) || has_several_ranges(&wanted.headers) {
        return alone().await;
    }
    let key = CacheKey { key: wanted.key.clone(), variant: wanted.variant };
    let leads = wanted.method == Method::GET && wanted.headers.is_empty();
    let will_do = |head: &Head| wanted.min_version.as_ref().is_none_or(|min| head.version >= *min);
    loop {
        let found = match leads {
            true => core.cache.join(&key),
            false => match core.cache.find(&key) {
                Some(stored) => Lookup::Found(stored),
                None => return alone().await,
            },
        };
        match found {
            // What the client has seen is not known here yet: that is no reason to forget what serves others.
            Lookup::Found(stored) if !will_do(&stored.head) => return alone().await,
            Lookup::Found(stored) => {
                // What is not kept any more is fetched, and the next one finds it.
                if let Some(usable) = check(core, &wanted, &key, &stored, deadline).await? {
                    return Ok(Obtained::Kept(stored, usable));
                }
            }
            Lookup::Flying(mut reader) => match timeout_at(deadline.into(), reader.head()).await {
                Ok(Told::Comes(head)) if will_do(&head) => return Ok(Obtained::Joined { head, reader }),
                Ok(Told::Comes(_) | Told::Alone) => return alone().await,
                Ok(Told::Again) => {}
                Err(_) => return Err(Unanswered::Unavailable { busy: 0 }),
            },
            Lookup::Lead(lead) => {
                let began = core.started.elapsed();
                return match fetch(core, &wanted, deadline).await {
                    Ok(answer) => Ok(share(core, &wanted, lead, began, answer)),
                    Err(unanswered) => {
                        lead.refuse();
                        Err(unanswered)
                    }
                };
            }
        }
    }
}

/// Whether the request asks for several ranges, whose answer only nodes make.
pub(super) fn has_several_ranges(headers: &HeaderMap) -> bool {
    headers.get(RANGE).is_some_and(|range| range.as_bytes().contains(&b','))
}

/// Lets others read along what was fetched, if it can be kept.
fn share(core: &Arc<Core>, wanted: &Wanted, lead: Lead, began: Duration, answer: Answer) -> Obtained {
    let Some(head) = head_of(core, wanted, &answer.response, began) else {
        lead.refuse();
        return Obtained::Fetched(answer);
    };
    let Some((fill, reader)) = lead.begin(head.clone()) else { return Obtained::Fetched(answer) };
    let Answer { route, response, passed } = answer;
    core.fills.spawn(core.drained.clone().run_until_cancelled_owned(fill_from(fill, response.into_body())));
    Obtained::Led { route, passed, head: Arc::new(head), reader }
}

/// What is kept of an answer; `None` if it must not be.
fn head_of(core: &Core, wanted: &Wanted, response: &Response<Download>, began: Duration) -> Option<Head> {
    let field =
        |name: http::HeaderName| response.headers().get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    if response.status() != StatusCode::OK || !field(ETAG)?.starts_with('"') {
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
    let version = freshness::version_of(response.headers())?;
    // Of what a node keeps for itself alone no feed tells when it changes.
    if !core.cache.takes(size) || version.sequence == 0 {
        return None;
    }
    let mut headers = response.headers().clone();
    end_to_end(&mut headers, &core.via);
    // Each answer says when it is given.
    headers.remove(http::header::DATE);
    Some(Head { headers, version, size, validated: began })
}

async fn fill_from(mut fill: Fill, mut body: Download) {
    while let Some(frame) = body.frame().await {
        let pushed = match frame {
            Ok(frame) => frame.data_ref().map_or(Ok(()), |bytes| fill.push(bytes)),
            Err(error) => return debug!(error = &error as &dyn std::error::Error, "a fetch for the cache failed"),
        };
        if pushed.is_err() {
            return;
        }
    }
    // What is too short fails its readers by being dropped.
    let _ = fill.finish();
}
