//! Entity tags of coded answers (RFC 9110 section 8.8.3).
//!
//! Two codings of one representation must not share a strong tag: a client would join parts of both. So a variant of
//! `"abc"` that was coded to the end and kept is `"abc~zstd~0123456789abcdef"`, where the digits stand for its very
//! bytes. No other edge, build, level or moment of a flush gives other bytes under that tag, so ranges and `If-Range`
//! are safe on it without any promise that coding is deterministic. While it is coded for the first time its bytes are
//! not known, and the tag is the weak `W/"abc~zstd"`, as it is for all variants of a weak tag. `Last-Modified` is the
//! same for all variants: no part may be sent for an `If-Range` that is a date (section 8.8.2.2).
//!
//! The source's tag can be read from each of them. So one that the client has from an earlier coding still revalidates
//! ([`revalidated`]), and origins are asked about their own tags ([`for_origin`]).

use std::fmt;

use http::header::{IF_MATCH, IF_NONE_MATCH};
use http::{HeaderMap, HeaderName, HeaderValue};
use serde::{Deserialize, Serialize};

use super::{Accepted, Coding, Made, list};

/// Stands before the coding and the digits. Servers hardly use it in tags, while `-gzip` is known from some.
const MARK: char = '~';

/// Stands for the bytes of a coded answer; it is no secret and no proof, as whoever makes two answers of one tag has
/// only himself to deceive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Fingerprint(u64);

impl Fingerprint {
    pub(super) const fn new(hash: u64) -> Self {
        Self(hash)
    }

    fn is_shown_as(digits: &str) -> bool {
        digits.len() == 16 && digits.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:016x}", self.0)
    }
}

/// An entity tag, taken apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Tag<'a> {
    weak: bool,
    /// What stands in the quotes, without what was added here.
    opaque: &'a str,
    /// Which variant it names: of a coding, or of none; `None` if it is the source itself.
    variant: Option<Option<Coding>>,
}

/// How the variant without a coding is named, of a source that has one.
const DECODED: &str = "identity";

/// The tag of a coded variant of what has the tag `source`: without [`Made`] of one that is being made. `None` if
/// `source` is no entity tag.
pub fn of_variant(source: &HeaderValue, coding: Coding, made: Option<&Made>) -> Option<HeaderValue> {
    let (weak, opaque) = parse(source.to_str().ok()?)?;
    let text = match made.filter(|_| !weak) {
        Some(made) => format!("\"{opaque}{MARK}{coding}{MARK}{}\"", made.fingerprint),
        None => format!("W/\"{opaque}{MARK}{coding}\""),
    };
    Some(HeaderValue::try_from(text).expect("a part of a field's value is one with visible ASCII around it"))
}

/// The tag of what has the tag `source` and from which the coding was taken off: weak, as the bytes are others. `None`
/// if `source` is no entity tag.
pub fn of_decoded(source: &HeaderValue) -> Option<HeaderValue> {
    let (_, opaque) = parse(source.to_str().ok()?)?;
    let text = format!("W/\"{opaque}{MARK}{DECODED}\"");
    Some(HeaderValue::try_from(text).expect("a part of a field's value is one with visible ASCII around it"))
}

/// The tag in the `If-None-Match` of `request` that says that its client has what is current: it is that of `source`,
/// or of a variant of it, and the request accepts the coding that this has. `source_coding` is that of the source. The
/// tag is the `ETag` of the 304 then, as that has to name what the client has (RFC 9111 section 4.3.4). Compares weakly
/// (RFC 9110 section 13.1.2); `*` is not looked at.
pub fn revalidated(
    request: &HeaderMap,
    accepted: Accepted,
    source: &HeaderValue,
    source_coding: Option<Coding>,
) -> Option<HeaderValue> {
    let (_, current) = parse(source.to_str().ok()?)?;
    let is_current = |text: &&str| {
        // What is the source's tag as it stands is that, even if it looks like one that was made here.
        if parse(text).is_some_and(|(_, opaque)| opaque == current) {
            return accepted.accepts(source_coding);
        }
        let tag = Tag::read(text).filter(|tag| tag.opaque == current);
        tag.and_then(|tag| tag.variant).is_some_and(|coding| accepted.accepts(coding))
    };
    list::tags(request, IF_NONE_MATCH).find(is_current).and_then(|text| HeaderValue::from_str(text).ok())
}

/// Puts the tags that the origin knows for those that were made here into `If-None-Match` and `If-Match`: for requests
/// that are passed on. In `If-None-Match` those of codings that the request does not accept stay: what the client has in
/// them would do for it no longer. `If-Range` stays: the origin does not know such a tag and sends the whole, which is
/// right, as its parts are none of a variant.
pub fn for_origin(request: &mut HeaderMap, accepted: Accepted) {
    if let Some(value) = translated(request, &IF_NONE_MATCH, |coding| accepted.accepts(coding)) {
        request.insert(IF_NONE_MATCH, value);
    }
    if let Some(value) = translated(request, &IF_MATCH, |_| true) {
        request.insert(IF_MATCH, value);
    }
}

/// The list `name` with the tags of sources for those of variants that are `known`; `None` if it has none of them.
fn translated(request: &HeaderMap, name: &HeaderName, known: impl Fn(Option<Coding>) -> bool) -> Option<HeaderValue> {
    let mut is_ours = false;
    let tags = list::tags(request, name).map(|text| {
        let tag = Tag::read(text).filter(|tag| tag.variant.is_some_and(&known));
        is_ours |= tag.is_some();
        tag.map_or_else(|| text.to_owned(), |tag| format!("{}\"{}\"", if tag.weak { "W/" } else { "" }, tag.opaque))
    });
    let value = tags.collect::<Vec<_>>().join(", ");
    is_ours.then(|| HeaderValue::try_from(value).ok())?
}

impl<'a> Tag<'a> {
    fn read(text: &'a str) -> Option<Self> {
        let (weak, whole) = parse(text)?;
        let variant = || {
            let marked = if weak {
                whole
            } else {
                let (marked, digits) = whole.rsplit_once(MARK)?;
                Fingerprint::is_shown_as(digits).then_some(marked)?
            };
            let (opaque, name) = marked.rsplit_once(MARK)?;
            let coding = Coding::ALL.into_iter().find(|coding| coding.as_str() == name);
            (coding.is_some() || weak && name == DECODED).then_some((opaque, coding))
        };
        let (opaque, variant) = variant().map_or((whole, None), |(opaque, coding)| (opaque, Some(coding)));
        Some(Self { weak, opaque, variant })
    }
}

/// Whether it is weak, and what stands in the quotes of an entity tag.
fn parse(text: &str) -> Option<(bool, &str)> {
    let (weak, quoted) = text.trim().strip_prefix("W/").map_or((false, text.trim()), |quoted| (true, quoted));
    let opaque = quoted.strip_prefix('"')?.strip_suffix('"')?;
    (!opaque.contains('"')).then_some((weak, opaque))
}

#[cfg(test)]
mod tests;
