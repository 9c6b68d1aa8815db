//! How long a stored response may be used, and for which requests (RFC 9111 section 4.2, RFC 5861).

use std::ops::RangeInclusive;
use std::time::SystemTime;

use http::header::{AGE, AUTHORIZATION, CACHE_CONTROL, COOKIE, DATE, EXPIRES, HeaderMap, LAST_MODIFIED, PRAGMA};
use serde::{Deserialize, Serialize};

use super::request::RequestDirectives;
use super::response::ResponseDirectives;
use super::storing::{Exchange, Terms, is_explicit, is_heuristically_cacheable};
use super::syntax::{SECONDS_MAX, date, directives, seconds, unix_ms};

/// The part of the time since the last change for which a response is taken to be fresh (section 4.2.2).
const HEURISTIC_PART: u64 = 10;

/// How long a stored response may be used: all that is needed of its header at a hit.
///
/// Times are compared in milliseconds: what is fresh for one second is so for 1,000 of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Freshness {
    /// When the origin was asked for it, as far as is known, in milliseconds since 1970; 0 of what was kept before that was
    /// noted.
    #[serde(default)]
    asked_ms: u64,
    /// When it came.
    received_ms: u64,
    /// How old it was then.
    initial_age_ms: u64,
    lifetime_ms: u64,
    stale_while_revalidate_seconds: u32,
    stale_if_error_seconds: Option<u32>,
    /// It has to be validated at each use.
    validated_always: bool,
    /// It must not be used once it is stale.
    never_stale: bool,
    /// Its content stays as it is.
    no_transform: bool,
    /// Whoever was given it last was nobody in particular, and nothing was said against it since. What an earlier build has
    /// written does not say.
    #[serde(default)]
    may_be_hinted: bool,
    /// It was purged softly, or something else was said against it, and nothing for it since.
    #[serde(default)]
    is_expired: bool,
}

/// What may be done with a stored response for a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    /// It is fresh: it is the answer.
    Fresh,
    /// It is stale, and the client says that it will do: it is the answer (section 5.2.1.2).
    Stale,
    /// It is stale and the answer, and is to be validated meanwhile (RFC 5861 section 3).
    StaleWhileRevalidate,
    /// It has to be validated before it can be an answer.
    Validate(Cause),
    /// It is no answer, and nobody else is to be asked: 504 (section 5.2.1.7).
    GatewayTimeout,
}

/// Why a stored response has to be validated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// It is stale, or has to be validated always.
    Stale,
    /// It is fresh, and the client wants better.
    Request,
}

/// Whether a stored response may stand in for an error (section 4.2.4, RFC 5861 section 4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnError {
    /// It may.
    Allowed,
    /// It may where the origin cannot be reached, not where it answers with an error.
    WhenDisconnected,
    /// It must not.
    Forbidden,
}

impl Freshness {
    /// What follows from the response of `exchange`, which has `said` this; `hop` is the header with its `Age`.
    pub(super) fn measure(terms: &Terms, exchange: &Exchange<'_>, said: &ResponseDirectives, hop: &HeaderMap) -> Self {
        let lifetime = lifetime_seconds(terms, exchange, said);
        let age = age_value(hop);
        let received_ms = unix_ms(exchange.response_time);
        // A cache before this one has it from then, at the latest: an `Age` is in whole seconds.
        let before_ms = if hop.contains_key(AGE) { (u64::from(age.unwrap_or(SECONDS_MAX)) + 1) * 1000 } else { 0 };
        Self {
            asked_ms: unix_ms(exchange.request_time).saturating_sub(before_ms),
            received_ms,
            initial_age_ms: initial_age_ms(exchange, age.unwrap_or(0)),
            // An age that does not read may be any: the response is stale (section 4.2.1, last paragraph).
            lifetime_ms: if age.is_some() { u64::from(lifetime) * 1000 } else { 0 },
            stale_while_revalidate_seconds: said.stale_while_revalidate.unwrap_or(terms.stale_while_revalidate_seconds),
            stale_if_error_seconds: said.stale_if_error.or(terms.stale_if_error_seconds),
            validated_always: said.no_cache.is_whole(),
            never_stale: said.forbids_stale(),
            no_transform: said.no_transform,
            may_be_hinted: !has_credentials(exchange.request),
            is_expired: false,
        }
    }

    /// The `Age` of the response at `now` (section 4.2.3), in whole seconds. If the clock goes back it is never less
    /// than on arrival.
    pub fn age_seconds(&self, now: SystemTime) -> u32 {
        u32::try_from(self.age_ms(now) / 1000).unwrap_or(SECONDS_MAX).min(SECONDS_MAX)
    }

    /// For how many more whole seconds the response is fresh at `now`; negative once it is stale.
    pub fn ttl_seconds(&self, now: SystemTime) -> i64 {
        self.left_ms(now).div_euclid(1000)
    }

    /// Whether the response is fresh at `now` (section 4.2). It may have to be validated all the same.
    pub fn is_fresh(&self, now: SystemTime) -> bool {
        self.left_ms(now) > 0
    }

    /// Whether the response, or what was last said of it, came in this time.
    pub fn was_received_within(&self, time: RangeInclusive<SystemTime>) -> bool {
        (unix_ms(*time.start())..=unix_ms(*time.end())).contains(&self.received_ms)
    }

    /// Whether the response, or what was last said of it, was asked for at `at` or later.
    pub fn was_asked_for_since(&self, at: SystemTime) -> bool {
        self.asked_ms >= unix_ms(at)
    }

    /// Whether its content may be changed, compressed say (section 5.2.2.6).
    pub const fn may_transform(&self) -> bool {
        !self.no_transform
    }

    /// Whether others may be told what is in its head before it was validated: it was given, or found to be right, for a request
    /// without credentials last, and was not expired or invalidated since.
    pub const fn may_be_hinted(&self) -> bool {
        self.may_be_hinted
    }

    /// From `now` on the response is stale, and only an error lets it be used without being validated: after a soft purge, or an
    /// answer to HEAD that does not fit it (section 4.3.5).
    pub fn expire(&mut self, now: SystemTime) {
        self.lifetime_ms = self.lifetime_ms.min(self.age_ms(now));
        self.may_be_hinted = false;
        self.is_expired = true;
    }

    /// The response has to be validated at each use from now on (section 4.4).
    pub const fn invalidate(&mut self) {
        self.validated_always = true;
        self.may_be_hinted = false;
    }

    /// Whether the response has to be validated at each use, so that it is the answer to nobody but whom it was validated for.
    pub const fn is_validated_always(&self) -> bool {
        self.validated_always
    }

    /// What may be done with the response for a request that said `request`, at `now` (section 4).
    pub fn use_for(&self, request: &RequestDirectives, now: SystemTime) -> Use {
        match self.suits(request, now) {
            Use::Validate(_) if request.only_if_cached => Use::GatewayTimeout,
            suited => suited,
        }
    }

    fn suits(&self, request: &RequestDirectives, now: SystemTime) -> Use {
        let left_ms = self.left_ms(now);
        if self.validated_always {
            return Use::Validate(Cause::Stale);
        }
        if left_ms > 0 {
            let wants_better = request.no_cache
                || request.max_age.is_some_and(|most| self.age_ms(now) > u64::from(most) * 1000)
                || request.min_fresh.is_some_and(|least| left_ms < i64::from(least) * 1000);
            return if wants_better { Use::Validate(Cause::Request) } else { Use::Fresh };
        }
        let wants_fresh = request.no_cache
            || request.min_fresh.is_some()
            // Section 5.2.1.1: who names an age wants nothing stale, unless it says so.
            || request.max_age.is_some() && request.max_stale.is_none()
            || request.max_age.is_some_and(|most| self.age_ms(now) > u64::from(most) * 1000);
        let is_stale_too_long = |limit: u32| left_ms < -i64::from(limit) * 1000;
        if self.never_stale || self.is_expired || wants_fresh || request.max_stale.is_some_and(is_stale_too_long) {
            return Use::Validate(Cause::Stale);
        }
        if self.stale_while_revalidate_seconds > 0 && !is_stale_too_long(self.stale_while_revalidate_seconds) {
            return Use::StaleWhileRevalidate;
        }
        if request.max_stale.is_some() { Use::Stale } else { Use::Validate(Cause::Stale) }
    }

    /// Whether the response may be used at `now` for a request that said `request` and would get an error else. To be
    /// asked when the error is there: time has passed.
    pub fn on_error(&self, request: &RequestDirectives, now: SystemTime) -> OnError {
        let left_ms = self.left_ms(now);
        if self.validated_always || request.no_cache && request.stale_if_error.is_none() {
            return OnError::Forbidden;
        }
        let is_usable_anyway = !matches!(self.suits(request, now), Use::Validate(_));
        if left_ms > 0 || is_usable_anyway {
            return OnError::Allowed;
        }
        if self.never_stale {
            return OnError::Forbidden;
        }
        let is_within = |limit: u32| left_ms >= -i64::from(limit) * 1000;
        let limits = [request.stale_if_error, self.stale_if_error_seconds, request.max_stale];
        if limits.iter().flatten().any(|&limit| limit > 0 && is_within(limit)) {
            return OnError::Allowed;
        }
        // RFC 5861 section 4: beyond a limit that somebody gave it is not used.
        if limits.iter().any(Option::is_some) { OnError::Forbidden } else { OnError::WhenDisconnected }
    }

    /// Whether it could be used at `now` or later without being validated, even if for those alone who take it stale.
    pub(super) fn is_of_use(&self, now: SystemTime) -> bool {
        let lasts_stale = self.lifetime_ms > 0
            || self.stale_while_revalidate_seconds > 0
            || self.stale_if_error_seconds.is_some_and(|limit| limit > 0);
        !self.validated_always && (self.is_fresh(now) || lasts_stale && !self.never_stale)
    }

    fn age_ms(&self, now: SystemTime) -> u64 {
        self.initial_age_ms.saturating_add(unix_ms(now).saturating_sub(self.received_ms))
    }

    fn left_ms(&self, now: SystemTime) -> i64 {
        let age_ms = i64::try_from(self.age_ms(now)).unwrap_or(i64::MAX);
        i64::try_from(self.lifetime_ms).unwrap_or(i64::MAX).saturating_sub(age_ms)
    }
}

/// Whether a request says who the client is (RFC 9110 section 11.6.2, RFC 6265 section 4.2): its answer may be for that one alone,
/// whatever it says of itself.
pub fn has_credentials(request: &HeaderMap) -> bool {
    request.contains_key(AUTHORIZATION) || request.contains_key(COOKIE)
}

/// Section 4.2.1: the first of what a directive says, `Expires` without `Date`, and a guess.
fn lifetime_seconds(terms: &Terms, exchange: &Exchange<'_>, said: &ResponseDirectives) -> u32 {
    if let Some(lifetime) = said.lifetime() {
        return lifetime;
    }
    let response = exchange.response;
    // Section 4.2.1: the time of arrival stands in for a date that is not there.
    let date_ms = unix_ms(date(response, &DATE).unwrap_or(exchange.response_time));
    if is_explicit(response, said) {
        // Section 5.3: what is no date is one in the past.
        let expires_ms = date(response, &EXPIRES).map_or(0, unix_ms);
        return whole_seconds(expires_ms.saturating_sub(date_ms));
    }
    // Section 5.4 does not say what `Pragma` means here; whoever sends it wants no guess.
    let forbids_guess =
        !response.contains_key(CACHE_CONTROL) && directives(response, &PRAGMA).any(|found| found.is("no-cache"));
    if forbids_guess || !said.public && !is_heuristically_cacheable(exchange.status) {
        return 0;
    }
    let is_error = exchange.status.is_client_error() || exchange.status.is_server_error();
    let default = if is_error { terms.error_lifetime_seconds } else { terms.default_lifetime_seconds };
    if default > 0 {
        return default.min(SECONDS_MAX);
    }
    let unchanged_ms = date(response, &LAST_MODIFIED).map_or(0, |changed| date_ms.saturating_sub(unix_ms(changed)));
    whole_seconds(unchanged_ms / HEURISTIC_PART).min(terms.heuristic_lifetime_seconds_max)
}

/// Section 4.2.3: `Date` by our clock, or what the caches before us tell and the time that the exchange took, whichever
/// is more.
fn initial_age_ms(exchange: &Exchange<'_>, age_value_seconds: u32) -> u64 {
    let (sent_ms, received_ms) = (unix_ms(exchange.request_time), unix_ms(exchange.response_time));
    // A date has whole seconds: so have both sides, or a response of this very second would seem old.
    let apparent_seconds =
        date(exchange.response, &DATE).map_or(0, |date| (received_ms / 1000).saturating_sub(unix_ms(date) / 1000));
    let corrected_ms = u64::from(age_value_seconds) * 1000 + received_ms.saturating_sub(sent_ms);
    corrected_ms.max(apparent_seconds.saturating_mul(1000))
}

/// The `Age` of a response (section 5.1), 0 where there is none, `None` where it does not read. Anything but one number
/// of seconds does not: a list or several lines come of caches that go wrong. Section 5.1 would rather have the first
/// member count, and what is invalid be ignored; but the first may be the least, and the true age is not known then.
fn age_value(headers: &HeaderMap) -> Option<u32> {
    let mut lines = headers.get_all(AGE).iter();
    match (lines.next(), lines.next()) {
        (None, _) => Some(0),
        (Some(line), None) => seconds(line.as_bytes().trim_ascii()),
        (Some(_), Some(_)) => None,
    }
}

fn whole_seconds(ms: u64) -> u32 {
    u32::try_from(ms / 1000).unwrap_or(SECONDS_MAX).min(SECONDS_MAX)
}
