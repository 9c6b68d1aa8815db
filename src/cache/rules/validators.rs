//! Entity tags and dates by which a stored response is told from others (RFC 9110 section 8.8).

use std::time::{Duration, SystemTime};

use http::header::{DATE, ETAG, HeaderMap, HeaderName, HeaderValue, LAST_MODIFIED};

use super::syntax::{date, date_of};

/// An entity tag (RFC 9110 section 8.8.3).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EntityTag {
    value: HeaderValue,
}

impl EntityTag {
    /// The tag that `value` is: in quotes, with `W/` before them or not. `None` for everything else.
    pub fn parse(value: &HeaderValue) -> Option<Self> {
        let text = value.as_bytes().trim_ascii();
        let inner = match text.strip_prefix(b"W/").unwrap_or(text) {
            [b'"', inner @ .., b'"'] => inner,
            _ => return None,
        };
        if inner.contains(&b'"') {
            return None;
        }
        let value = if text.len() == value.len() { value.clone() } else { HeaderValue::from_bytes(text).ok()? };
        Some(Self { value })
    }

    /// Whether it is weak: what bears it means the same, byte for byte or not.
    pub fn is_weak(&self) -> bool {
        self.value.as_bytes().starts_with(b"W/")
    }

    /// With its quotes, and `W/` in front of a weak one.
    pub fn as_bytes(&self) -> &[u8] {
        self.value.as_bytes()
    }

    /// Both are strong and equal (RFC 9110 section 8.8.3.2).
    pub fn matches_strongly(&self, other: &Self) -> bool {
        self == other && !self.is_weak()
    }

    /// Equal but for weakness (RFC 9110 section 8.8.3.2).
    pub fn matches_weakly(&self, other: &Self) -> bool {
        self.opaque() == other.opaque()
    }

    fn opaque(&self) -> &[u8] {
        self.as_bytes().strip_prefix(b"W/").unwrap_or(self.as_bytes())
    }
}

/// The entity tags of a list, in all lines of the field `name`. A comma in a tag belongs to it; what is no tag is left
/// out, with the rest of its line.
pub(super) fn tags(headers: &HeaderMap, name: &HeaderName) -> impl Iterator<Item = EntityTag> {
    headers.get_all(name).iter().flat_map(|line| tags_of(line.as_bytes()))
}

/// A backslash in a tag is a letter like any other, so that this is no list of quoted strings.
fn tags_of(line: &[u8]) -> impl Iterator<Item = EntityTag> {
    let mut rest = line;
    std::iter::from_fn(move || {
        let start = rest.iter().position(|byte| !matches!(byte, b' ' | b'\t' | b','))?;
        rest = &rest[start..];
        let prefix = if rest.starts_with(b"W/") { 2 } else { 0 };
        let inner = rest[prefix..].strip_prefix(b"\"")?;
        let end = prefix + inner.iter().position(|&byte| byte == b'"')? + 2;
        let tag = EntityTag { value: HeaderValue::from_bytes(&rest[..end]).ok()? };
        rest = &rest[end..];
        Some(tag)
    })
}

/// What a stored response can be validated by, and how old it is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Validators {
    /// Its entity tag, if it has one that is valid.
    pub tag: Option<EntityTag>,
    /// Its `Last-Modified`, as it stands there, if that is a date.
    pub last_modified: Option<HeaderValue>,
    /// Its `Date`.
    pub date: Option<SystemTime>,
}

/// How sure it is that two responses have the same representation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Match {
    /// It means the same.
    Weak,
    /// It is the same, byte for byte.
    Strong,
}

impl Validators {
    /// Those in the header of a response. Of a field that stands there twice, none counts.
    pub fn of(response: &HeaderMap) -> Self {
        let single = |name: &HeaderName| {
            let mut lines = response.get_all(name).iter();
            lines.next().filter(|_| lines.next().is_none())
        };
        Self {
            tag: single(&ETAG).and_then(EntityTag::parse),
            last_modified: single(&LAST_MODIFIED).filter(|value| date_of(value).is_some()).cloned(),
            date: date(response, &DATE),
        }
    }

    /// Whether there is nothing to validate by.
    pub const fn is_empty(&self) -> bool {
        self.tag.is_none() && self.last_modified.is_none()
    }

    /// Whether the entity tag is a strong one, by which parts can be put together (RFC 9111 section 3.4).
    pub fn is_strong(&self) -> bool {
        self.tag.as_ref().is_some_and(|tag| !tag.is_weak())
    }

    /// When the representation last changed.
    pub fn modified(&self) -> Option<SystemTime> {
        self.last_modified.as_ref().and_then(date_of)
    }

    /// Whether the date of the last change is as good as a strong tag: the response is younger by a second at least, so
    /// that nothing else can have had the same date (RFC 9110 section 8.8.2.2).
    pub fn has_strong_date(&self) -> bool {
        let ages = self.modified().zip(self.date);
        ages.is_some_and(|(modified, date)| {
            date.duration_since(modified).is_ok_and(|gap| gap >= Duration::from_secs(1))
        })
    }

    /// Whether `newer`, of a 304, is about this stored response. Where both have a tag, the tags decide.
    pub(super) fn matches(&self, newer: &Self) -> Option<Match> {
        if let (Some(tag), Some(newer)) = (&self.tag, &newer.tag) {
            return match newer.is_weak() {
                true => tag.matches_weakly(newer).then_some(Match::Weak),
                false => tag.matches_strongly(newer).then_some(Match::Strong),
            };
        }
        let is_same = self.modified()? == newer.modified()?;
        is_same.then(|| if self.has_strong_date() { Match::Strong } else { Match::Weak })
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::headers;
    use super::*;

    fn tag(text: &str) -> Option<EntityTag> {
        EntityTag::parse(&HeaderValue::from_bytes(text.as_bytes()).expect("a value"))
    }

    #[test]
    fn a_tag_is_in_quotes() {
        for text in ["\"\"", "\"a\"", "W/\"a\"", " \"a b,\\\" ", "\"abcdef\u{fc}\""] {
            assert!(tag(text).is_some(), "{text}");
        }
        for text in ["", "a", "\"", "w/\"a\"", "W\\\"a\"", "W\"a\"", "W/a", "\"a\"b\"", "\"a\", \"b\"", "*"] {
            assert!(tag(text).is_none(), "{text}");
        }
    }

    #[test]
    fn tags_compare_as_rfc_9110_has_it() {
        for (one, other, strongly, weakly) in [
            ("W/\"1\"", "W/\"1\"", false, true),
            ("W/\"1\"", "W/\"2\"", false, false),
            ("W/\"1\"", "\"1\"", false, true),
            ("\"1\"", "\"1\"", true, true),
        ] {
            let (one, other) = (tag(one).expect("a tag"), tag(other).expect("a tag"));
            assert_eq!((one.matches_strongly(&other), one.matches_weakly(&other)), (strongly, weakly));
        }
    }

    #[test]
    fn a_list_of_tags_keeps_their_commas() {
        let name = HeaderName::from_static("if-none-match");
        let headers = headers(&[("if-none-match", "\"a,b\" , W/\"c\\\",, \"d\""), ("if-none-match", "\"e\" x \"f\"")]);
        let found: Vec<_> =
            tags(&headers, &name).map(|tag| String::from_utf8_lossy(tag.as_bytes()).into_owned()).collect();
        assert_eq!(found, ["\"a,b\"", "W/\"c\\\"", "\"d\"", "\"e\""]);
    }

    #[test]
    fn a_field_that_stands_twice_validates_nothing() {
        let found = Validators::of(&headers(&[("etag", "\"a\""), ("etag", "\"b\""), ("last-modified", "yesterday")]));
        assert!(found.is_empty() && !found.is_strong());
    }

    #[test]
    fn a_date_is_strong_if_the_response_is_younger() {
        let strong = |date| {
            let modified = ("last-modified", "Sun, 06 Nov 1994 08:49:37 GMT");
            Validators::of(&headers(&[modified, ("date", date)])).has_strong_date()
        };
        assert!(strong("Sun, 06 Nov 1994 08:49:38 GMT"));
        assert!(!strong("Sun, 06 Nov 1994 08:49:37 GMT") && !strong("Sun, 06 Nov 1994 08:49:36 GMT") && !strong("x"));
    }
}
