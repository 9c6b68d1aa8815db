//! Conditional requests (RFC 9110 section 13): whether what a client has is still right.

use std::time::SystemTime;

use http::header::{IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, IF_UNMODIFIED_SINCE, RANGE};
use http::{HeaderMap, Method};

/// What can be compared of the current representation.
#[derive(Debug, Clone, Copy)]
pub struct Validators<'a> {
    /// Its entity tag, with quotes; `W/` in front of a weak one.
    pub etag: &'a str,
    /// When it was written, if that is known.
    pub modified: Option<SystemTime>,
}

/// What the conditions of a request say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Do what was asked.
    Go,
    /// The client has it already: 304.
    NotModified,
    /// The client's assumption does not hold: 412.
    Failed,
}

/// Evaluates the preconditions of `headers` in the order of RFC 9110 section 13.2.2; `current` is `None` where nothing
/// exists.
pub fn evaluate(method: &Method, headers: &HeaderMap, current: Option<Validators<'_>>) -> Verdict {
    let reads = method == Method::GET || method == Method::HEAD;
    // Without a date, conditions on it are ignored (RFC 9110 sections 13.1.3 and 13.1.4).
    let modified = current.and_then(|current| current.modified).map(whole_seconds);
    if headers.contains_key(IF_MATCH) {
        if !matches_any(headers, &IF_MATCH, current, strong_match) {
            return Verdict::Failed;
        }
    } else if let Some((date, modified)) = date_of(headers, &IF_UNMODIFIED_SINCE).zip(modified)
        && modified > date
    {
        return Verdict::Failed;
    }
    if headers.contains_key(IF_NONE_MATCH) {
        if matches_any(headers, &IF_NONE_MATCH, current, weak_match) {
            return if reads { Verdict::NotModified } else { Verdict::Failed };
        }
    } else if reads
        && let Some((date, modified)) = date_of(headers, &IF_MODIFIED_SINCE).zip(modified)
        && modified <= date
    {
        return Verdict::NotModified;
    }
    Verdict::Go
}

/// Whether the `Range` of `headers` is to be honoured (RFC 9110 sections 13.1.5 and 14.2): `method` is GET, there is one,
/// and `If-Range` names what is current by a strong comparison.
pub fn range_applies(method: &Method, headers: &HeaderMap, current: Validators<'_>) -> bool {
    if method != Method::GET || !headers.contains_key(RANGE) {
        return false;
    }
    let Some(value) = headers.get(IF_RANGE) else { return true };
    let Ok(text) = value.to_str() else { return false };
    match text.trim() {
        tag if tag.starts_with('"') => strong_match(tag, current.etag),
        tag if tag.starts_with("W/") => false,
        date => httpdate::parse_http_date(date).is_ok_and(|date| current.modified.map(whole_seconds) == Some(date)),
    }
}

/// Whether `If-Range` names a date. Where each client may get another representation of the same date, one date stands for
/// several of them (RFC 9110 section 8.8.2.2): no part may be sent for it.
pub fn ranges_by_date(headers: &HeaderMap) -> bool {
    let is_tag = |value: &[u8]| value.starts_with(b"\"") || value.starts_with(b"W/");
    headers.get_all(IF_RANGE).iter().any(|value| !is_tag(value.as_bytes().trim_ascii()))
}

/// A date in a header has whole seconds.
fn whole_seconds(time: SystemTime) -> SystemTime {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(since.as_secs())
}

fn date_of(headers: &HeaderMap, name: &http::HeaderName) -> Option<SystemTime> {
    // A date that does not read, or a field that stands twice, is ignored (RFC 9110 sections 13.1.3 and 13.1.4).
    let mut values = headers.get_all(name).iter();
    let text = values.next()?.to_str().ok()?;
    if values.next().is_some() {
        return None;
    }
    httpdate::parse_http_date(text.trim()).ok()
}

fn matches_any(
    headers: &HeaderMap,
    name: &http::HeaderName,
    current: Option<Validators<'_>>,
    matches: fn(&str, &str) -> bool,
) -> bool {
    let Some(current) = current else { return false };
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .any(|list| list.trim() == "*" || tags(list).any(|tag| matches(tag, current.etag)))
}

/// The entity tags of a list. A comma within the quotes belongs to the tag.
fn tags(list: &str) -> impl Iterator<Item = &str> {
    let mut rest = list;
    std::iter::from_fn(move || {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        let weak = if rest.starts_with("W/") { 2 } else { 0 };
        let opaque = rest.get(weak..)?.strip_prefix('"')?;
        let end = weak + opaque.find('"')? + 2;
        let (tag, after) = rest.split_at_checked(end)?;
        rest = after;
        Some(tag)
    })
}

/// RFC 9110 section 8.8.3.2: both are strong and equal.
fn strong_match(one: &str, other: &str) -> bool {
    one == other && !one.starts_with("W/")
}

/// RFC 9110 section 8.8.3.2: equal but for weakness.
fn weak_match(one: &str, other: &str) -> bool {
    one.trim_start_matches("W/") == other.trim_start_matches("W/")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const DATE: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
    const LATER: &str = "Sun, 06 Nov 1994 08:49:38 GMT";
    const EARLIER: &str = "Sun, 06 Nov 1994 08:49:36 GMT";

    fn current() -> Option<Validators<'static>> {
        let modified = SystemTime::UNIX_EPOCH + Duration::from_millis(784_111_777_900);
        Some(Validators { etag: "\"a\"", modified: Some(modified) })
    }

    fn headers(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        let pair = |(name, value): &(&'static str, &'static str)| {
            (http::HeaderName::from_static(name), http::HeaderValue::from_static(value))
        };
        fields.iter().map(pair).collect()
    }

    #[test]
    fn the_conditions_of_rfc_9110_hold_in_their_order() {
        for (fields, get, put) in [
            (&[][..], Verdict::Go, Verdict::Go),
            (&[("if-match", "\"a\"")], Verdict::Go, Verdict::Go),
            (&[("if-match", "\"b\", \"a\"")], Verdict::Go, Verdict::Go),
            (&[("if-match", "\"b,\"")], Verdict::Failed, Verdict::Failed),
            (&[("if-match", "W/\"a\"")], Verdict::Failed, Verdict::Failed),
            (&[("if-none-match", "\"a\"")], Verdict::NotModified, Verdict::Failed),
            (&[("if-none-match", "W/\"a\"")], Verdict::NotModified, Verdict::Failed),
            (&[("if-none-match", "*")], Verdict::NotModified, Verdict::Failed),
            (&[("if-none-match", "\"b\"")], Verdict::Go, Verdict::Go),
            (&[("if-modified-since", DATE)], Verdict::NotModified, Verdict::Go),
            (&[("if-modified-since", EARLIER)], Verdict::Go, Verdict::Go),
            (&[("if-modified-since", "yesterday")], Verdict::Go, Verdict::Go),
            (&[("if-none-match", "\"b\""), ("if-modified-since", LATER)], Verdict::Go, Verdict::Go),
            (&[("if-unmodified-since", EARLIER)], Verdict::Failed, Verdict::Failed),
            (&[("if-unmodified-since", DATE)], Verdict::Go, Verdict::Go),
            (&[("if-match", "\"a\""), ("if-unmodified-since", EARLIER)], Verdict::Go, Verdict::Go),
        ] {
            let headers = headers(fields);
            assert_eq!(evaluate(&Method::GET, &headers, current()), get, "GET {fields:?}");
            assert_eq!(evaluate(&Method::PUT, &headers, current()), put, "PUT {fields:?}");
        }
    }

    #[test]
    fn nothing_matches_where_nothing_is() {
        let verdict = |field, value| evaluate(&Method::PUT, &headers(&[(field, value)]), None);
        assert_eq!(verdict("if-match", "*"), Verdict::Failed);
        assert_eq!(verdict("if-none-match", "*"), Verdict::Go);
    }

    #[test]
    fn a_range_applies_only_to_what_the_client_has() {
        let current = current().expect("a representation");
        let applies =
            |value| range_applies(&Method::GET, &headers(&[("range", "bytes=0-"), ("if-range", value)]), current);
        let range = headers(&[("range", "bytes=0-")]);
        assert!(range_applies(&Method::GET, &range, current) && !range_applies(&Method::HEAD, &range, current));
        assert!(!range_applies(&Method::GET, &headers(&[("if-range", "\"a\"")]), current));
        assert!(applies("\"a\"") && applies(DATE));
        assert!(!applies("\"b\"") && !applies("W/\"a\"") && !applies(LATER) && !applies("nonsense"));
    }

    #[test]
    fn what_is_no_entity_tag_counts_as_a_date() {
        let by_date = |value| ranges_by_date(&headers(&[("if-range", value)]));
        assert!(by_date(DATE) && by_date("nonsense") && by_date(""));
        assert!(!by_date("\"a\"") && !by_date("W/\"a\"") && !ranges_by_date(&headers(&[("range", "bytes=0-")])));
    }
}
