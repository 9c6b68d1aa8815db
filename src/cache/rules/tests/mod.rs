//! The rules as one: tables of the situations that users of caches meet, and what holds of every response.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::{Method, StatusCode, Uri};

use super::*;

mod lifetimes;
mod properties;
mod second_opinion;
mod stale;
mod storage;

/// A header of these fields. Bytes beyond ASCII go in as they are in UTF-8.
pub(super) fn headers(fields: &[(&str, &str)]) -> HeaderMap {
    let pair = |&(name, value): &(&str, &str)| {
        let name = HeaderName::from_bytes(name.as_bytes()).expect("a name");
        (name, HeaderValue::from_bytes(value.as_bytes()).expect("a value"))
    };
    fields.iter().map(pair).collect()
}

/// All lines of a header, sorted by name.
pub(super) fn shown(headers: &HeaderMap) -> Vec<(String, String)> {
    let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    let mut lines: Vec<_> = headers.iter().map(|(name, value)| (name.to_string(), text(value))).collect();
    // Stable: the lines of one field stay in their order.
    lines.sort_by(|one, other| one.0.cmp(&other.0));
    lines
}

/// When the responses of these tests come.
fn arrival() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

fn later(seconds: u64) -> SystemTime {
    arrival() + Duration::from_secs(seconds)
}

/// The date that is so many seconds after the arrival.
fn date(seconds: i64) -> String {
    let span = Duration::from_secs(seconds.unsigned_abs());
    httpdate::fmt_http_date(if seconds < 0 { arrival() - span } else { arrival() + span })
}

/// A request for `http://example.com/a` and the response to it.
struct Case {
    method: Method,
    status: StatusCode,
    request: HeaderMap,
    response: HeaderMap,
    delay: Duration,
}

impl Case {
    fn new(response: &[(&str, &str)]) -> Self {
        Self {
            method: Method::GET,
            status: StatusCode::OK,
            request: HeaderMap::new(),
            response: headers(response),
            delay: Duration::ZERO,
        }
    }

    fn status(self, status: u16) -> Self {
        Self { status: StatusCode::from_u16(status).expect("a status code"), ..self }
    }

    fn method(self, method: &str) -> Self {
        Self { method: method.parse().expect("a method"), ..self }
    }

    fn request(self, request: &[(&str, &str)]) -> Self {
        Self { request: headers(request), ..self }
    }

    /// How long the exchange took.
    fn took(self, delay: Duration) -> Self {
        Self { delay, ..self }
    }

    fn judge_by(&self, terms: &Terms) -> Result<Freshness, NotStored> {
        judge(
            terms,
            &Exchange {
                method: &self.method,
                target: &Uri::from_static("http://example.com/a"),
                request: &self.request,
                status: self.status,
                response: &self.response,
                request_time: arrival() - self.delay,
                response_time: arrival(),
            },
        )
    }

    fn judge(&self) -> Result<Freshness, NotStored> {
        self.judge_by(&Terms::default())
    }

    /// What a request without directives gets so many seconds after the arrival; nothing where it was not stored.
    fn used_after(&self, seconds: u64) -> Option<Use> {
        self.judge().ok().map(|freshness| freshness.use_for(&RequestDirectives::NONE, later(seconds)))
    }

    fn is_reused_after(&self, seconds: u64) -> bool {
        self.used_after(seconds) == Some(Use::Fresh)
    }
}
