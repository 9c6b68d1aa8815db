//! What a request says to caches (RFC 9111 section 5.2.1).

use http::header::{CACHE_CONTROL, HeaderMap, PRAGMA};

use super::syntax::{Directive, SECONDS_MAX, directives};

/// The cache directives of a request.
///
/// They are advice, and a site may choose not to take it by passing [`RequestDirectives::NONE`]. Where one does not
/// read, the client gets what is fresher: a `max-age` or `min-fresh` that is no number of seconds lets nothing be used
/// that is not validated, a `max-stale` or `stale-if-error` that is none allows nothing. Of several, the strictest
/// counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RequestDirectives {
    /// Nothing is used that is not validated (section 5.2.1.4), or `Pragma` says so to an old cache (section 5.4).
    pub no_cache: bool,
    /// Nothing of the answer is stored (section 5.2.1.5).
    pub no_store: bool,
    /// Nobody else is to be asked (section 5.2.1.7).
    pub only_if_cached: bool,
    /// The content stays as it is (section 5.2.1.6).
    pub no_transform: bool,
    /// The greatest age, in seconds (section 5.2.1.1).
    pub max_age: Option<u32>,
    /// For how many seconds it has to stay fresh (section 5.2.1.3).
    pub min_fresh: Option<u32>,
    /// For how many seconds it may have been stale (section 5.2.1.2); the greatest number where any time will do.
    pub max_stale: Option<u32>,
    /// For how many seconds it may have been stale if an error would be the answer else (RFC 5861 section 4).
    pub stale_if_error: Option<u32>,
}

impl RequestDirectives {
    /// Those of a request that says nothing.
    pub const NONE: Self = Self {
        no_cache: false,
        no_store: false,
        only_if_cached: false,
        no_transform: false,
        max_age: None,
        min_fresh: None,
        max_stale: None,
        stale_if_error: None,
    };

    /// The directives of the request with these `headers`. A request without any costs two look-ups.
    pub fn of(headers: &HeaderMap) -> Self {
        if headers.contains_key(CACHE_CONTROL) {
            return Self::parse(headers);
        }
        // Section 5.4: `Pragma` counts where there is no Cache-Control.
        let no_cache = headers.contains_key(PRAGMA) && directives(headers, &PRAGMA).any(|found| found.is("no-cache"));
        Self { no_cache, ..Self::NONE }
    }

    fn parse(headers: &HeaderMap) -> Self {
        let mut said = Self::NONE;
        let mut torn = false;
        for found in directives(headers, &CACHE_CONTROL) {
            torn |= found.torn;
            said.take(&found);
        }
        if torn {
            // What stands behind a quote that does not end may be no directive at all: it must not loosen anything.
            (said.max_stale, said.stale_if_error) = (None, None);
        }
        said
    }

    fn take(&mut self, found: &Directive<'_>) {
        let least = |known: Option<u32>, new: u32| Some(known.map_or(new, |known| known.min(new)));
        if found.is("no-cache") {
            self.no_cache = true;
        } else if found.is("no-store") {
            self.no_store = true;
        } else if found.is("only-if-cached") {
            self.only_if_cached = true;
        } else if found.is("no-transform") {
            self.no_transform = true;
        } else if found.is("max-age") {
            self.max_age = least(self.max_age, found.seconds().unwrap_or(0));
        } else if found.is("min-fresh") {
            self.min_fresh = self.min_fresh.max(Some(found.seconds().unwrap_or(u32::MAX)));
        } else if found.is("stale-if-error") {
            self.stale_if_error = least(self.stale_if_error, found.seconds().unwrap_or(0));
        } else if found.is("max-stale") {
            let limit = if found.is_bare() { SECONDS_MAX } else { found.seconds().unwrap_or(0) };
            self.max_stale = least(self.max_stale, limit);
        }
    }
}

#[cfg(test)]
mod tests {
    use http::header::HeaderValue;

    use super::*;

    fn of(lines: &[&str]) -> RequestDirectives {
        let pair = |line: &&str| (CACHE_CONTROL, HeaderValue::from_str(line).expect("a value"));
        RequestDirectives::of(&lines.iter().map(pair).collect())
    }

    #[test]
    fn every_directive_is_read() {
        const NONE: RequestDirectives = RequestDirectives::NONE;
        for (lines, expected) in [
            (&["no-cache"][..], RequestDirectives { no_cache: true, ..NONE }),
            (&["NO-Store"], RequestDirectives { no_store: true, ..NONE }),
            (&["only-if-cached"], RequestDirectives { only_if_cached: true, ..NONE }),
            (&["no-transform"], RequestDirectives { no_transform: true, ..NONE }),
            (&["max-age=10"], RequestDirectives { max_age: Some(10), ..NONE }),
            (&["max-age=\"10\""], RequestDirectives { max_age: Some(10), ..NONE }),
            (&["min-fresh=20"], RequestDirectives { min_fresh: Some(20), ..NONE }),
            (&["max-stale"], RequestDirectives { max_stale: Some(SECONDS_MAX), ..NONE }),
            (&["max-stale=5"], RequestDirectives { max_stale: Some(5), ..NONE }),
            (&["stale-if-error=7"], RequestDirectives { stale_if_error: Some(7), ..NONE }),
            (&["max-age=1, min-fresh=2"], RequestDirectives { max_age: Some(1), min_fresh: Some(2), ..NONE }),
            (&["max-age=1", "no-cache"], RequestDirectives { max_age: Some(1), no_cache: true, ..NONE }),
            (&["unknown=3, \"max-age=3\", max-aged=3"], NONE),
            (&[""], NONE),
        ] {
            assert_eq!(of(lines), expected, "{lines:?}");
        }
    }

    #[test]
    fn what_does_not_read_loosens_nothing() {
        for value in ["", "=", "=-1", "=1.5", "='1'", "=\"", "=abc", " =1", "= 1"] {
            assert_eq!(of(&[&format!("max-age{value}")]).max_age, Some(0), "{value}");
            assert_eq!(of(&[&format!("min-fresh{value}")]).min_fresh, Some(u32::MAX), "{value}");
            let said = of(&[&format!("stale-if-error{value}"), &format!("max-stale{value}")]);
            assert!(matches!(said.stale_if_error, Some(0) | None), "{value}");
            assert!(value.is_empty() || matches!(said.max_stale, Some(0) | None), "{value}");
        }
        assert_eq!(of(&["x=\"a, max-stale, stale-if-error=60"]), RequestDirectives::NONE);
    }

    #[test]
    fn the_strictest_of_several_counts() {
        let said = of(&["max-age=5, min-fresh=1, max-stale, stale-if-error=9", "max-age=3, min-fresh=4, max-stale=2"]);
        assert_eq!((said.max_age, said.min_fresh, said.max_stale), (Some(3), Some(4), Some(2)));
    }

    #[test]
    fn pragma_counts_where_there_is_no_cache_control() {
        let pragma = |value: &'static str| (PRAGMA, HeaderValue::from_static(value));
        let no_cache = |headers: HeaderMap| RequestDirectives::of(&headers).no_cache;
        assert!(no_cache([pragma("no-cache")].into_iter().collect()));
        assert!(no_cache([pragma("x, No-Cache")].into_iter().collect()));
        assert!(!no_cache([pragma("other")].into_iter().collect()));
        let both = [pragma("no-cache"), (CACHE_CONTROL, HeaderValue::from_static("max-age=60"))];
        assert!(!no_cache(both.into_iter().collect()));
    }
}
