//! Whether a response may be stored (RFC 9111 section 3), and what the site has to say to that.

use std::time::SystemTime;

use http::header::{AUTHORIZATION, CONTENT_LOCATION, EXPIRES, HeaderMap, HeaderName};
use http::{Method, StatusCode, Uri};

use super::fields::updated_header;
use super::freshness::Freshness;
use super::invalidation::resolve;
use super::partial::ContentRange;
use super::request::RequestDirectives;
use super::response::ResponseDirectives;
use super::validators::Validators;
use super::vary;

/// The settings of a site that the rules take into account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Terms {
    /// Seconds for which a success or a redirect is fresh where its origin says nothing; 0 leaves it to the heuristic.
    pub default_lifetime_seconds: u32,
    /// Seconds for which an error is kept where its origin says nothing, if its status code is one of those that may be
    /// (404, 405, 410, 414, 501); 0 leaves it to the heuristic.
    pub error_lifetime_seconds: u32,
    /// The most that a tenth of the time since `Last-Modified` may give, in seconds (section 4.2.2); 0 forbids to
    /// guess.
    pub heuristic_lifetime_seconds_max: u32,
    /// Seconds of use while it is validated, for what says nothing of it (RFC 5861 section 3).
    pub stale_while_revalidate_seconds: u32,
    /// Seconds of use in place of an error, for what says nothing of it (RFC 5861 section 4). `None` leaves it to
    /// section 4.2.4: stale where the origin cannot be reached at all.
    pub stale_if_error_seconds: Option<u32>,
    /// The fields that speak to this cache, first the one that counts most (RFC 9213 section 2.2).
    pub targets: Vec<HeaderName>,
}

impl Default for Terms {
    fn default() -> Self {
        Self {
            default_lifetime_seconds: 0,
            error_lifetime_seconds: 0,
            // A day: what has not changed for ten days may do so today, and nobody has promised anything.
            heuristic_lifetime_seconds_max: 24 * 60 * 60,
            stale_while_revalidate_seconds: 0,
            stale_if_error_seconds: None,
            targets: vec![
                HeaderName::from_static("metacdn-cache-control"),
                HeaderName::from_static("cdn-cache-control"),
            ],
        }
    }
}

/// A request and what came back.
#[derive(Debug, Clone, Copy)]
pub struct Exchange<'a> {
    /// The method of the request.
    pub method: &'a Method,
    /// What it asked for, with scheme and host.
    pub target: &'a Uri,
    /// The header of the request as the client sent it.
    pub request: &'a HeaderMap,
    /// The status code of the response.
    pub status: StatusCode,
    /// The header of the response as it came: what [`super::stored_header`] takes out of it counts here.
    pub response: &'a HeaderMap,
    /// When the request left.
    pub request_time: SystemTime,
    /// When the header of the response had come.
    pub response_time: SystemTime,
}

/// Why a response is not stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotStored {
    /// Answers to this method are not kept. One to POST is if it says for how long, and `Content-Location` is its
    /// target (RFC 9110 section 9.3.3); one to HEAD can update what is stored (section 4.3.5).
    #[error("answers to this method are not kept")]
    Method,
    /// An interim response, a 304 that fits nothing, or one that is about the conditions, the range or the way of this
    /// request alone (407, 412, 416, 417): what it says holds for no other, whatever lifetime it has.
    #[error("the response is about this request alone")]
    Status,
    /// `must-understand`, with a status code that we do not know (section 5.2.2.3).
    #[error("the status code is not understood")]
    MustUnderstand,
    /// The request has `no-store` (section 5.2.1.5).
    #[error("the request forbids it")]
    RequestNoStore,
    /// The response has `no-store` (section 5.2.2.5).
    #[error("the response forbids it")]
    NoStore,
    /// The response has `private` (section 5.2.2.7).
    #[error("the response is for one user")]
    Private,
    /// The request is authorized, and nothing in the response shares it (section 3.5).
    #[error("the request is authorized, and the response is not shared")]
    Authorization,
    /// No lifetime, not `public`, and a status code that is not kept without.
    #[error("nothing in the response allows it")]
    NotCacheable,
    /// `Vary` has `*`, so that no request will ever match (section 4.1).
    #[error("it varies with what no request shows")]
    VariesAlways,
    /// A part of a representation without a strong entity tag, of unknown place, or of several ranges (section 3.4).
    #[error("the part cannot be put together with others")]
    Partial,
    /// Stale at once, and with nothing by which it could be validated.
    #[error("it could never be used again")]
    NeverReusable,
}

impl NotStored {
    /// Whether what is stored already stays as it was when an update of it ends so: the obstacle is the request's, not
    /// the response's.
    pub const fn spares_stored(self) -> bool {
        matches!(self, Self::RequestNoStore | Self::Authorization | Self::Method | Self::Status)
    }
}

/// Whether the response of `exchange` may be stored, and how long it may be used if so (sections 3 and 4.2).
///
/// # Errors
/// The first reason against it.
pub fn judge(terms: &Terms, exchange: &Exchange<'_>) -> Result<Freshness, NotStored> {
    let said = ResponseDirectives::of(&terms.targets, exchange.response);
    let method = exchange.method;
    if method != Method::GET && !(method == Method::POST && answers_later_gets(exchange, &said)) {
        return Err(NotStored::Method);
    }
    if exchange.status.is_informational() || matches!(exchange.status.as_u16(), 304 | 407 | 412 | 416 | 417) {
        return Err(NotStored::Status);
    }
    if exchange.status == StatusCode::PARTIAL_CONTENT {
        let whole = ContentRange::of(exchange.response).is_some_and(|range| range.complete.is_some());
        if method != Method::GET || !whole || !Validators::of(exchange.response).is_strong() {
            return Err(NotStored::Partial);
        }
    }
    weigh(terms, exchange, &said, exchange.response)
}

/// What became of a stored response that was validated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Freshened {
    /// The header to serve it with, and to store if it is kept.
    pub header: HeaderMap,
    /// How long it may be used now, or why it is not to be kept any more. It answers this request all the same. See
    /// [`NotStored::spares_stored`].
    pub freshness: Result<Freshness, NotStored>,
}

/// Updates the header of a response stored with `status`: `exchange` is the request that validated it and the 304, or
/// the 200 to a HEAD, that came back (sections 4.3.4 and 4.3.5).
pub fn freshen(terms: &Terms, stored: &HeaderMap, status: StatusCode, exchange: &Exchange<'_>) -> Freshened {
    let header = updated_header(terms, stored, exchange.response, exchange.response_time);
    let said = ResponseDirectives::of(&terms.targets, &header);
    let updated = Exchange { status, response: &header, ..*exchange };
    let freshness = weigh(terms, &updated, &said, exchange.response);
    Freshened { header, freshness }
}

/// The part of the rules that is the same for a response and for one that is updated. `hop` is the header that tells
/// the `Age` on arrival.
fn weigh(
    terms: &Terms,
    exchange: &Exchange<'_>,
    said: &ResponseDirectives,
    hop: &HeaderMap,
) -> Result<Freshness, NotStored> {
    if RequestDirectives::of(exchange.request).no_store {
        return Err(NotStored::RequestNoStore);
    }
    if said.must_understand && !is_understood(exchange.status) {
        return Err(NotStored::MustUnderstand);
    }
    if said.no_store && !said.must_understand {
        return Err(NotStored::NoStore);
    }
    if said.private.is_whole() {
        return Err(NotStored::Private);
    }
    if exchange.request.contains_key(AUTHORIZATION) && !said.shares_authorized() {
        return Err(NotStored::Authorization);
    }
    if !is_explicit(exchange.response, said) && !said.public && !is_heuristically_cacheable(exchange.status) {
        return Err(NotStored::NotCacheable);
    }
    if vary::varies_always(exchange.response) {
        return Err(NotStored::VariesAlways);
    }
    let freshness = Freshness::measure(terms, exchange, said, hop);
    if !freshness.is_of_use(exchange.response_time) && Validators::of(exchange.response).is_empty() {
        return Err(NotStored::NeverReusable);
    }
    Ok(freshness)
}

/// Whether a lifetime is given, a readable one or not (section 4.2.1).
pub(super) fn is_explicit(response: &HeaderMap, said: &ResponseDirectives) -> bool {
    said.lifetime().is_some() || !said.targeted && response.contains_key(EXPIRES)
}

/// RFC 9110 section 9.3.3: an answer to POST says for how long it is fresh, and that it is what the target is now.
fn answers_later_gets(exchange: &Exchange<'_>, said: &ResponseDirectives) -> bool {
    let mut locations = exchange.response.get_all(CONTENT_LOCATION).iter();
    let location = locations.next().and_then(|value| resolve(exchange.target, value.as_bytes()));
    is_explicit(exchange.response, said) && locations.next().is_none() && location.as_ref() == Some(exchange.target)
}

/// The status codes that may be kept without a word from the origin (RFC 9110 section 15.1).
pub(super) fn is_heuristically_cacheable(status: StatusCode) -> bool {
    matches!(status.as_u16(), 200 | 203 | 204 | 206 | 300 | 301 | 308 | 404 | 405 | 410 | 414 | 501)
}

/// The status codes of RFC 9110 section 15 that a response of its own can have. None of them but 206, which is dealt
/// with, asks more of a cache than these rules do.
fn is_understood(status: StatusCode) -> bool {
    matches!(status.as_u16(), 200..=206 | 300..=303 | 305 | 307 | 308 | 400..=415 | 421 | 422 | 426 | 500..=505)
}

/// Whether a response is an error in the sense of `stale-if-error` (RFC 5861 section 4): something stale may be better.
pub fn is_error(status: StatusCode) -> bool {
    matches!(status.as_u16(), 500 | 502 | 503 | 504)
}
