//! Tells how the cache handled a request (RFC 9211).

use std::fmt::{self, Write};

use http::StatusCode;
use http::header::{HeaderMap, HeaderName, HeaderValue};

use super::syntax::is_token;

/// The field.
pub const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");

/// The most of a key or a detail that is told: a header must not outgrow its answer.
const TEXT_BYTES_MAX: usize = 512;

/// What a value without key seldom outgrows.
const VALUE_BYTES_USUAL: usize = 64;

/// What the cache did with a request, a member of `Cache-Status`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CacheStatus<'a> {
    /// Who tells it: the name of this cache.
    pub cache: &'a str,
    /// Where the answer came from.
    pub source: Source,
    /// For how many more seconds the response is fresh; negative if it is stale.
    pub ttl_seconds: Option<i64>,
    /// The key of the cache, for who asks for it.
    pub key: Option<&'a str>,
    /// What else is to be told.
    pub detail: Option<&'a str>,
}

/// Where an answer came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// From the cache: nobody was asked, or nobody could be (section 2.1).
    Hit,
    /// From the next hop (section 2.2).
    Forwarded {
        /// Why it was asked.
        why: Forward,
        /// What it answered, if that is not the status code of this response (section 2.3).
        status: Option<StatusCode>,
        /// The answer is stored (section 2.5).
        stored: bool,
        /// The request waited for another of its kind: whether that one's answer was its own, too (section 2.6).
        collapsed: Option<bool>,
    },
}

/// Why a request went on (section 2.2), the most specific first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Forward {
    /// The cache is not to handle it.
    Bypass,
    /// Its method wants it.
    Method,
    /// Nothing is stored for its target.
    UriMiss,
    /// What is stored for its target is for other requests.
    VaryMiss,
    /// Nothing is stored that could be used, for either reason.
    Miss,
    /// What is stored is fresh, and the request wants better.
    Request,
    /// What is stored is stale.
    Stale,
    /// What is stored is a part, and not all that is wanted.
    Partial,
}

impl Forward {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Bypass => "bypass",
            Self::Method => "method",
            Self::UriMiss => "uri-miss",
            Self::VaryMiss => "vary-miss",
            Self::Miss => "miss",
            Self::Request => "request",
            Self::Stale => "stale",
            Self::Partial => "partial",
        }
    }
}

impl CacheStatus<'_> {
    /// Adds it behind what caches nearer to the origin wrote. Not for answers that we made of nothing stored (section
    /// 2).
    pub fn append_to(&self, response: &mut HeaderMap) {
        let mut text = String::with_capacity(VALUE_BYTES_USUAL);
        write!(text, "{self}").expect("a String takes everything");
        let value = HeaderValue::try_from(text).expect("all text in it is quoted or a token");
        response.append(CACHE_STATUS, value);
    }
}

impl fmt::Display for CacheStatus<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        token_or_string(out, self.cache)?;
        match self.source {
            Source::Hit => out.write_str("; hit")?,
            Source::Forwarded { why, status, stored, collapsed } => {
                write!(out, "; fwd={}", why.as_str())?;
                if let Some(status) = status {
                    write!(out, "; fwd-status={}", status.as_u16())?;
                }
                if stored {
                    out.write_str("; stored")?;
                }
                match collapsed {
                    Some(true) => out.write_str("; collapsed")?,
                    Some(false) => out.write_str("; collapsed=?0")?,
                    None => {}
                }
            }
        }
        if let Some(ttl) = self.ttl_seconds {
            write!(out, "; ttl={ttl}")?;
        }
        if let Some(key) = self.key {
            out.write_str("; key=")?;
            string(out, key)?;
        }
        if let Some(detail) = self.detail {
            out.write_str("; detail=")?;
            token_or_string(out, detail)?;
        }
        Ok(())
    }
}

/// RFC 9651 section 3.3.4: a token begins with a letter or an asterisk.
fn token_or_string(out: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
    let begins_one = text.starts_with(|first: char| first.is_ascii_alphabetic() || first == '*');
    let rest_is_one = || text.split([':', '/']).all(|part| part.is_empty() || is_token(part.as_bytes()));
    if begins_one && text.len() <= TEXT_BYTES_MAX && rest_is_one() { out.write_str(text) } else { string(out, text) }
}

/// RFC 9651 section 3.3.3: a string has printable ASCII; all else is written as in a URI.
fn string(out: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
    out.write_char('"')?;
    for byte in text.bytes().take(TEXT_BYTES_MAX) {
        match byte {
            b'"' | b'\\' => write!(out, "\\{}", char::from(byte))?,
            b' '..=b'~' => out.write_char(char::from(byte))?,
            _ => write!(out, "%{byte:02X}")?,
        }
    }
    out.write_char('"')
}

#[cfg(test)]
mod tests {
    use sfv::{List, Parser};

    use super::super::tests::headers;
    use super::*;

    const HIT: CacheStatus<'_> =
        CacheStatus { cache: "metacdn", source: Source::Hit, ttl_seconds: None, key: None, detail: None };

    const fn forwarded(why: Forward) -> Source {
        Source::Forwarded { why, status: None, stored: false, collapsed: None }
    }

    #[test]
    fn it_is_written_as_rfc_9211_has_it() {
        let all = Source::Forwarded {
            why: Forward::Stale,
            status: Some(StatusCode::NOT_MODIFIED),
            stored: true,
            collapsed: Some(true),
        };
        let lone = Source::Forwarded { why: Forward::UriMiss, status: None, stored: false, collapsed: Some(false) };
        for (status, expected) in [
            (HIT, "metacdn; hit"),
            (CacheStatus { ttl_seconds: Some(376), ..HIT }, "metacdn; hit; ttl=376"),
            (CacheStatus { ttl_seconds: Some(-412), ..HIT }, "metacdn; hit; ttl=-412"),
            (CacheStatus { source: forwarded(Forward::VaryMiss), ..HIT }, "metacdn; fwd=vary-miss"),
            (CacheStatus { source: all, ..HIT }, "metacdn; fwd=stale; fwd-status=304; stored; collapsed"),
            (CacheStatus { source: lone, ..HIT }, "metacdn; fwd=uri-miss; collapsed=?0"),
            (CacheStatus { detail: Some("MEMORY"), ..HIT }, "metacdn; hit; detail=MEMORY"),
            (CacheStatus { detail: Some("no room"), ..HIT }, "metacdn; hit; detail=\"no room\""),
            (
                CacheStatus { key: Some("http://a/\"b\\\u{e9}"), ..HIT },
                "metacdn; hit; key=\"http://a/\\\"b\\\\%C3%A9\"",
            ),
            (CacheStatus { cache: "edge-3.example.com:8080", ..HIT }, "edge-3.example.com:8080; hit"),
            (CacheStatus { cache: "127.0.0.1", ..HIT }, "\"127.0.0.1\"; hit"),
            (CacheStatus { cache: "", ..HIT }, "\"\"; hit"),
        ] {
            assert_eq!(status.to_string(), expected);
        }
    }

    #[test]
    fn every_reason_is_a_token() {
        for why in [
            Forward::Bypass,
            Forward::Method,
            Forward::UriMiss,
            Forward::VaryMiss,
            Forward::Miss,
            Forward::Request,
            Forward::Stale,
            Forward::Partial,
        ] {
            let text = CacheStatus { source: forwarded(why), ..HIT }.to_string();
            assert!(Parser::new(&text).parse::<List>().is_ok_and(|list| list.len() == 1), "{text}");
        }
    }

    #[test]
    fn it_comes_behind_what_others_wrote() {
        let mut response = headers(&[("cache-status", "Origin; hit")]);
        HIT.append_to(&mut response);
        let lines: Vec<_> = response.get_all(CACHE_STATUS).iter().collect();
        assert_eq!(lines, ["Origin; hit", "metacdn; hit"]);
    }

    proptest::proptest! {
        #[test]
        fn any_text_gives_a_valid_field(cache in ".*", key in ".{0,700}", detail in ".*") {
            let status = CacheStatus { cache: &cache, key: Some(&key), detail: Some(&detail), ..HIT };
            let mut response = HeaderMap::new();
            status.append_to(&mut response);
            let list: List = Parser::new(response[CACHE_STATUS].as_bytes()).parse().expect("a structured field");
            assert_eq!(list.len(), 1);
        }
    }
}
