//! Where an answer comes from: the edge's memory, a fetch that runs already, or the nodes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::header::{CACHE_CONTROL, CONTENT_LENGTH, ETAG, IF_NONE_MATCH, RANGE};
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode};
use http_body_util::BodyExt as _;
use tokio::time::timeout_at;
use tracing::debug;

use super::Core;
use super::download::Download;
use super::fetch::{Answer, Unanswered, Wanted, fetch};
use super::proxy::end_to_end;
use crate::cache::{CacheKey, Fill, Head, Lead, Lookup, Reader, Stored, Told};
use crate::model::{NodeId, Version};
use crate::protocol::VERSION_HEADER;
use crate::route::Route;

/// What was found to be right so short ago is right still, whatever the edge hears of its nodes: changes have one
/// second to be seen.
const VALID_FOR: Duration = Duration::from_millis(900);

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

/// Why an object in memory may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Use {
    /// It is what the store has.
    Fresh,
    /// A node has just said that it is what the store has.
    Revalidated,
    /// No node can say so at this moment, and its lifetime allows it. It was right so many seconds ago.
    Unchecked(u64),
}

/// Obtains what is wanted.
pub(super) async fn obtain(core: &Arc<Core>, wanted: Arc<Wanted>, deadline: Instant) -> Result<Obtained, Unanswered> {
    let alone = || async { fetch(core, &wanted, deadline).await.map(Obtained::Fetched) };
    // Whoever names a policy wants to see which node it chooses.
    if wanted.policy.is_some() || !core.cache.takes(0) || has_several_ranges(&wanted.headers) {
        return alone().await;
    }
    let key = CacheKey { key: wanted.key.clone(), variant: wanted.variant };
    let leads = wanted.method == Method::GET && wanted.headers.is_empty();
    loop {
        let found = match leads {
            true => core.cache.join(&key),
            false => match core.cache.find(&key) {
                Some(stored) => Lookup::Found(stored),
                None => return alone().await,
            },
        };
        match found {
            Lookup::Found(stored) => {
                return match check(core, &wanted, &stored, deadline).await? {
                    Some(usable) => Ok(Obtained::Kept(stored, usable)),
                    None => alone().await,
                };
            }
            Lookup::Flying(mut reader) => match timeout_at(deadline.into(), reader.head()).await {
                Ok(Told::Comes(head)) => return Ok(Obtained::Joined { head, reader }),
                Ok(Told::Alone) => return alone().await,
                Ok(Told::Again) => {}
                Err(_) => return Err(Unanswered::Unavailable { busy: 0 }),
            },
            Lookup::Lead(lead) => {
                let began = core.started.elapsed();
                return match fetch(core, &wanted, deadline).await {
                    Ok(answer) => Ok(share(core, lead, began, answer)),
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
fn has_several_ranges(headers: &HeaderMap) -> bool {
    headers.get(RANGE).is_some_and(|range| range.as_bytes().contains(&b','))
}

/// Why what is in memory may be used; `None` if it may not, and has to be fetched.
async fn check(
    core: &Arc<Core>,
    wanted: &Wanted,
    stored: &Stored,
    deadline: Instant,
) -> Result<Option<Use>, Unanswered> {
    let now = core.started.elapsed();
    let age = now.saturating_sub(stored.validated());
    let covered = core.routes.load().covered_since;
    if age < VALID_FOR || covered.is_some_and(|since| stored.validated() >= since) {
        return Ok(Some(Use::Fresh));
    }
    let Some(etag) = stored.head.headers.get(ETAG) else { return Ok(None) };
    let headers = HeaderMap::from_iter([(IF_NONE_MATCH, etag.clone())]);
    let question = Wanted { method: Method::HEAD, headers, ..wanted.clone() };
    match fetch(core, &Arc::new(question), deadline).await {
        Ok(answer) if answer.response.status() == StatusCode::NOT_MODIFIED => {
            stored.validate(now);
            Ok(Some(Use::Revalidated))
        }
        Err(Unanswered::Unavailable { .. }) if may_be_used_unchecked(&stored.head.headers, age) => {
            Ok(Some(Use::Unchecked(age.as_secs())))
        }
        Err(unavailable @ Unanswered::Unavailable { .. }) => Err(unavailable),
        Err(gone) => {
            core.cache.remove(&wanted.key);
            Err(gone)
        }
        Ok(_) => {
            core.cache.remove(&wanted.key);
            Ok(None)
        }
    }
}

/// Whether an object that was right `age` ago may be used where no node can be asked: within its lifetime (RFC 9111
/// section 4.2) and what it allows beyond (RFC 5861 section 4).
fn may_be_used_unchecked(headers: &HeaderMap, age: Duration) -> bool {
    let directives = || headers.get_all(CACHE_CONTROL).iter().filter_map(|value| value.to_str().ok());
    let seconds = |name: &str| {
        let all = directives().flat_map(|value| value.split(','));
        let mut arguments = all.filter_map(|directive| {
            let (directive, argument) = directive.trim().split_once('=')?;
            directive.trim().eq_ignore_ascii_case(name).then(|| argument.trim().parse::<u64>().ok())
        });
        arguments.next().flatten()
    };
    let has =
        |name: &str| directives().flat_map(|value| value.split(',')).any(|word| word.trim().eq_ignore_ascii_case(name));
    if has("no-cache") {
        return false;
    }
    let lifetime = seconds("s-maxage").or_else(|| seconds("max-age")).unwrap_or(0);
    let strict = has("must-revalidate") || has("proxy-revalidate");
    let beyond = seconds("stale-if-error").filter(|_| !strict).unwrap_or(0);
    age.as_secs() < lifetime.saturating_add(beyond)
}

/// Lets others read along what was fetched, if it can be kept.
fn share(core: &Arc<Core>, lead: Lead, began: Duration, answer: Answer) -> Obtained {
    let Some(head) = head_of(core, &answer.response, began) else {
        lead.refuse();
        return Obtained::Fetched(answer);
    };
    let Some((fill, reader)) = lead.begin(head.clone()) else { return Obtained::Fetched(answer) };
    let Answer { route, response, passed } = answer;
    core.fills.spawn(core.drained.clone().run_until_cancelled_owned(fill_from(fill, response.into_body())));
    Obtained::Led { route, passed, head: Arc::new(head), reader }
}

/// What is kept of an answer; `None` if it must not be.
fn head_of(core: &Core, response: &Response<Download>, began: Duration) -> Option<Head> {
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
    let size: u64 = field(CONTENT_LENGTH)?.parse().ok()?;
    let version: Version = field(http::HeaderName::from_static(VERSION_HEADER))?.parse().ok()?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_checked_is_used_within_its_lifetime_alone() {
        let usable = |cache_control: &'static str, age_s| {
            let headers = HeaderMap::from_iter([(CACHE_CONTROL, HeaderValue::from_static(cache_control))]);
            may_be_used_unchecked(&headers, Duration::from_secs(age_s))
        };
        for (cache_control, age_s, expected) in [
            ("max-age=60", 59, true),
            ("max-age=60", 60, false),
            ("Max-Age = 60", 59, true),
            ("max-age=60, s-maxage=10", 10, false),
            ("max-age=60, stale-if-error=600", 659, true),
            ("max-age=60, stale-if-error=600", 660, false),
            ("max-age=60, stale-if-error=600, must-revalidate", 60, false),
            ("max-age=60, no-cache", 0, false),
            ("max-age=x", 0, false),
            ("public", 0, false),
        ] {
            assert_eq!(usable(cache_control, age_s), expected, "{cache_control} after {age_s} s");
        }
        assert!(!may_be_used_unchecked(&HeaderMap::new(), Duration::ZERO));
    }
}
