//! Whether what is in memory may be used: because it is what the store has, or because nobody can say.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::header::{CACHE_CONTROL, ETAG, IF_NONE_MATCH};
use http::{HeaderMap, Method, StatusCode};
use tokio::time::timeout_at;

use super::Core;
use super::fetch::{Answer, Unanswered, Wanted, fetch};
use super::freshness;
use crate::cache::{CacheKey, Stored};
use crate::model::Version;

/// What was found to be right so short ago is right still, whatever the edge hears of its nodes.
const VALID_FOR: Duration = Duration::from_millis(900);

/// How long a node is waited for where the answer may be given without it, and for how long nobody asks again when none
/// came.
const QUESTION_MAX: Duration = Duration::from_millis(500);
const ASK_AGAIN: Duration = Duration::from_secs(1);

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

/// Why what is in memory may be used; `None` if it may not, and is not kept any more. Of many who want to know one asks.
pub(super) async fn check(
    core: &Arc<Core>,
    wanted: &Wanted,
    key: &CacheKey,
    stored: &Arc<Stored>,
    deadline: Instant,
) -> Result<Option<Use>, Unanswered> {
    if let Some(usable) = known(core, stored) {
        return Ok(Some(usable));
    }
    let Ok(_one) = timeout_at(deadline.into(), stored.checking.lock()).await else {
        return Err(Unanswered::Unavailable { busy: 0 });
    };
    // Another one may have asked meanwhile.
    if !core.cache.keeps(key, stored) {
        return Ok(None);
    }
    match known(core, stored) {
        Some(usable) => Ok(Some(usable)),
        None => ask(core, wanted, key, stored, deadline).await,
    }
}

/// Whether it is what the store has, as far as is known.
pub(super) fn is_fresh(core: &Core, stored: &Stored) -> bool {
    known(core, stored) == Some(Use::Fresh)
}

/// Why it may be used, without asking anyone.
fn known(core: &Core, stored: &Stored) -> Option<Use> {
    let now = core.started.elapsed();
    let (validated, in_vain) = (stored.validated(), stored.asked_in_vain());
    let age = now.saturating_sub(validated);
    let covered = core.routes.load().covered_since;
    // Zero is not the begin of this edge: what an earlier life has left, or was purged softly, nobody has looked at.
    let looked_at = !validated.is_zero();
    if looked_at && (age < VALID_FOR || covered.is_some_and(|since| validated >= since)) {
        return Some(Use::Fresh);
    }
    let asked_just_now = !in_vain.is_zero() && now.saturating_sub(in_vain) < ASK_AGAIN;
    let usable = asked_just_now && may_be_used_unchecked(&stored.head().headers, age);
    usable.then_some(Use::Unchecked(age.as_secs()))
}

/// Asks a node whether `stored` is right.
async fn ask(
    core: &Arc<Core>,
    wanted: &Wanted,
    key: &CacheKey,
    stored: &Arc<Stored>,
    deadline: Instant,
) -> Result<Option<Use>, Unanswered> {
    let (now, settled) = (core.started.elapsed(), stored.settled());
    let age = now.saturating_sub(stored.validated());
    let head = stored.head();
    let usable = may_be_used_unchecked(&head.headers, age);
    let deadline = if usable { deadline.min(Instant::now() + QUESTION_MAX) } else { deadline };
    let headers = head.headers.get(ETAG).map(|etag| (IF_NONE_MATCH, etag.clone()));
    // A shield would have to ask, too, and there is no time for two.
    let (method, headers) = (Method::HEAD, headers.into_iter().collect());
    let question = Wanted { method, headers, is_final: true, ..wanted.clone() };
    let version = match fetch(core, &Arc::new(question), deadline).await {
        Ok(answer) => version_of(&answer),
        // A node that merely lacks the object says nothing of it.
        Err(Unanswered::Unavailable { .. } | Unanswered::Missing { deleted: false } | Unanswered::Behind) if usable => {
            stored.ask_in_vain(now);
            return Ok(Some(Use::Unchecked(age.as_secs())));
        }
        Err(unanswered @ (Unanswered::Unavailable { .. } | Unanswered::Behind)) => return Err(unanswered),
        Err(gone) => {
            core.cache.remove_object(&wanted.key);
            return Err(gone);
        }
    };
    // A node that has something older lags behind. What is newer may have the same bytes, and other headers.
    let is_right = |known: &Version, (version, same): (Version, bool)| version < *known || same && version == *known;
    if head.version().zip(version).is_some_and(|(known, told)| is_right(known, told)) {
        // This request came before what was purged meanwhile; those that come after it ask again.
        core.cache.confirm(key, stored, now, settled);
        return Ok(Some(Use::Revalidated));
    }
    core.cache.remove_object(&wanted.key);
    Ok(None)
}

/// The version that a node has, and whether its bytes are the same.
fn version_of(answer: &Answer) -> Option<(Version, bool)> {
    let version = freshness::version_of(answer.response.headers())?;
    Some((version, answer.response.status() == StatusCode::NOT_MODIFIED))
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

#[cfg(test)]
mod tests {
    use http::HeaderValue;

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
