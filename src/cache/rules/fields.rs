//! Which header fields are forwarded, stored and updated (RFC 9110 section 7.6.1, RFC 9111 sections 3.1 and 3.2).

use std::time::SystemTime;

use http::header::{
    AGE, CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, DATE, ETAG, HeaderMap, HeaderName,
    PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE, TRAILER, TRANSFER_ENCODING, UPGRADE,
};

use super::response::ResponseDirectives;
use super::storing::Terms;
use super::syntax::{date, date_value, members};

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_AUTHENTICATION_INFO: HeaderName = HeaderName::from_static("proxy-authentication-info");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");

/// What is about one connection, or about one proxy.
const HOP_BY_HOP: [HeaderName; 9] = [
    CONNECTION,
    KEEP_ALIVE,
    PROXY_AUTHENTICATE,
    PROXY_AUTHENTICATION_INFO,
    PROXY_AUTHORIZATION,
    PROXY_CONNECTION,
    TE,
    TRANSFER_ENCODING,
    UPGRADE,
];

/// What stays as it was stored: it describes the bytes, and those do not change when a response is updated. Section 3.2
/// leaves out of an update what the stored response depends on to be whole.
const OF_THE_BYTES: [HeaderName; 8] = [
    CONTENT_ENCODING,
    CONTENT_LENGTH,
    CONTENT_RANGE,
    ETAG,
    HeaderName::from_static("content-md5"),
    HeaderName::from_static("content-digest"),
    HeaderName::from_static("digest"),
    HeaderName::from_static("repr-digest"),
];

/// Takes out of a request or a response what is not to be forwarded: `Connection`, what it names, and what is known to
/// be about one connection or one proxy (RFC 9110 section 7.6.1). Whoever switches protocols puts `Upgrade` back.
pub fn strip_hop_by_hop(headers: &mut HeaderMap) {
    // Most have no such field, and to look at their few names takes less than to look for each of these.
    if !headers.keys().any(|name| HOP_BY_HOP.contains(name)) {
        return;
    }
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .flat_map(|line| members(line.as_bytes()))
        .filter_map(|(name, _)| HeaderName::from_bytes(name).ok())
        .collect();
    for name in named.iter().chain(&HOP_BY_HOP) {
        headers.remove(name);
    }
}

/// The header to store with a response that came at `received` (section 3.1). It lacks what [`strip_hop_by_hop`] takes,
/// `Trailer`, since trailers are not stored, the fields that `no-cache` and `private` name, and `Age`, which is made
/// anew for each use. A response without a readable `Date` gets one (RFC 9110 section 6.6.1). All else is kept,
/// `Set-Cookie`, too.
pub fn stored_header(terms: &Terms, response: &HeaderMap, received: SystemTime) -> HeaderMap {
    let mut header = response.clone();
    settle(&mut header, &ResponseDirectives::of(&terms.targets, response), received);
    header
}

/// The `stored` header with what a newer response without content says, received at `received` (section 3.2): each
/// field of it replaces those of its name, but for what describes the stored bytes.
pub fn updated_header(terms: &Terms, stored: &HeaderMap, newer: &HeaderMap, received: SystemTime) -> HeaderMap {
    let mut newer = newer.clone();
    strip_hop_by_hop(&mut newer);
    let mut header = stored.clone();
    // Without a date of its own the newer response is of now, not of when the older one was made.
    if date(&newer, &DATE).is_none() {
        newer.insert(DATE, date_value(received));
    }
    for name in newer.keys() {
        // A tag is added where there was none, since it names what the validation has found to be the same.
        if OF_THE_BYTES.contains(name) && (*name != ETAG || stored.contains_key(ETAG)) {
            continue;
        }
        header.remove(name);
        for value in newer.get_all(name) {
            header.append(name, value.clone());
        }
    }
    let said = ResponseDirectives::of(&terms.targets, &header);
    settle(&mut header, &said, received);
    header
}

fn settle(header: &mut HeaderMap, said: &ResponseDirectives, received: SystemTime) {
    strip_hop_by_hop(header);
    for name in said.withheld().chain(&[AGE, TRAILER]) {
        header.remove(name);
    }
    if date(header, &DATE).is_none() {
        header.insert(DATE, date_value(received));
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::super::tests::{headers, shown};
    use super::*;

    const DATED: (&str, &str) = ("date", "Sun, 06 Nov 1994 08:49:37 GMT");

    fn received() -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(784_111_778)
    }

    fn stored(fields: &[(&str, &str)]) -> Vec<(String, String)> {
        shown(&stored_header(&Terms::default(), &headers(fields), received()))
    }

    fn updated(stored: &[(&str, &str)], newer: &[(&str, &str)]) -> HeaderMap {
        updated_header(&Terms::default(), &headers(stored), &headers(newer), received())
    }

    #[test]
    fn what_is_about_one_connection_is_not_kept() {
        let fields = [
            ("connection", "a, B, close"),
            ("connection", "c"),
            ("a", "1"),
            ("b", "2"),
            ("c", "3"),
            ("keep-alive", "timeout=5"),
            ("proxy-authenticate", "Basic"),
            ("proxy-authentication-info", "x"),
            ("proxy-authorization", "x"),
            ("proxy-connection", "close"),
            ("te", "trailers"),
            ("trailer", "x"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "h2c"),
            ("age", "7"),
            DATED,
        ];
        assert_eq!(stored(&fields), shown(&headers(&[DATED])));
    }

    #[test]
    fn all_else_is_kept_as_it_came() {
        let fields = [
            ("test-header", "x"),
            ("x-unknown", "1"),
            ("x-unknown", "2"),
            ("cache-control", "max-age=3600"),
            ("content-encoding", "gzip"),
            ("content-md5", "N7UdGUp1E+RbVvZSTy1R8g=="),
            ("content-range", "x"),
            ("clear-site-data", "cookies"),
            ("etag", "\"a\""),
            ("set-cookie", "a=b"),
            ("set-cookie", "c=d"),
            ("set-cookie2", "a=c"),
            ("cache-status", "Origin; hit"),
            ("cdn-cache-control", "foo"),
            ("warning", "110 - stale"),
            DATED,
        ];
        assert_eq!(stored(&fields), shown(&headers(&fields)));
    }

    #[test]
    fn fields_that_a_directive_names_are_withheld() {
        let fields =
            [("cache-control", "no-cache=\"a, B\", private=\"set-cookie\""), ("a", "1"), ("b", "2"), ("c", "3")];
        let mut with_cookie = fields.to_vec();
        with_cookie.extend([("set-cookie", "x"), DATED]);
        assert_eq!(stored(&with_cookie), shown(&headers(&[fields[0], ("c", "3"), DATED])));
        // A targeted field speaks instead of Cache-Control.
        with_cookie.push(("cdn-cache-control", "max-age=5"));
        assert_eq!(stored(&with_cookie).len(), with_cookie.len());
    }

    #[test]
    fn a_response_without_a_date_gets_that_of_its_arrival() {
        let expected = ("date", "Sun, 06 Nov 1994 08:49:38 GMT");
        for fields in [&[][..], &[("date", "foo")], &[DATED, ("date", "Sun, 06 Nov 1994 08:49:39 GMT")]] {
            assert_eq!(stored(fields), shown(&headers(&[expected])), "{fields:?}");
        }
    }

    #[test]
    fn an_update_replaces_what_it_brings_and_leaves_the_rest() {
        let header = updated(
            &[
                DATED,
                ("a", "1"),
                ("a", "2"),
                ("b", "1"),
                ("cache-control", "max-age=2"),
                ("content-type", "text/plain"),
            ],
            &[
                ("date", "Sun, 06 Nov 1994 08:49:40 GMT"),
                ("a", "3"),
                ("content-type", "text/html"),
                ("age", "9"),
                ("connection", "b"),
                ("b", "5"),
            ],
        );
        let expected = [
            ("a", "3"),
            ("b", "1"),
            ("cache-control", "max-age=2"),
            ("content-type", "text/html"),
            ("date", "Sun, 06 Nov 1994 08:49:40 GMT"),
        ];
        assert_eq!(shown(&header), shown(&headers(&expected)));
    }

    #[test]
    fn an_update_leaves_what_describes_the_bytes() {
        for name in ["content-encoding", "content-length", "content-range", "content-md5", "etag", "content-digest"] {
            let header = updated(&[(name, "old"), DATED], &[(name, "new"), DATED]);
            assert_eq!(header[name], "old", "{name}");
        }
        assert_eq!(updated(&[DATED], &[("etag", "\"a\""), DATED])["etag"], "\"a\"");
        for name in ["content-encoding", "content-length", "content-range"] {
            assert!(!updated(&[DATED], &[(name, "new"), DATED]).contains_key(name), "{name}");
        }
    }

    #[test]
    fn an_update_without_a_date_is_of_now() {
        assert_eq!(updated(&[DATED], &[])["date"], "Sun, 06 Nov 1994 08:49:38 GMT");
    }

    #[test]
    fn an_update_may_withhold_fields() {
        let header = updated(&[("a", "1"), DATED], &[("cache-control", "no-cache=a"), ("a", "2")]);
        assert!(!header.contains_key("a"));
    }
}
