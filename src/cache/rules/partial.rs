//! Parts of a representation, and how they are put together (RFC 9111 sections 3.3 and 3.4, RFC 9110 section 14.4).

use std::ops::Range;

use http::header::{ACCEPT_RANGES, CONTENT_LENGTH, CONTENT_RANGE, HeaderMap, HeaderValue};
use http::{Method, StatusCode};
use serde::{Deserialize, Serialize};

use super::validators::Validators;

/// The most gaps between the parts of one representation: who asks for a byte here and a byte there fills no memory.
const PARTS_MAX: usize = 256;

/// Whether parts of what has this head can be asked for (RFC 9110 section 14.3).
pub fn gives_parts(response: &HeaderMap) -> bool {
    response.get(ACCEPT_RANGES).is_some_and(|units| units.as_bytes().eq_ignore_ascii_case(b"bytes"))
}

/// Whether what is missing of what has this head can be asked for and put to the rest (RFC 9111 section 3.4).
pub fn is_completable(response: &HeaderMap) -> bool {
    gives_parts(response) && Validators::of(response).is_strong()
}

/// Where the content of a 206 stands in the whole (RFC 9110 section 14.4).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContentRange {
    /// The bytes, the end not among them; never empty.
    pub bytes: Range<u64>,
    /// How many bytes the whole has, if that is said.
    pub complete: Option<u64>,
}

impl ContentRange {
    /// That of a response; `None` where there is none, where it stands twice or does not read, and for other units than
    /// bytes. What has several ranges (`multipart/byteranges`) has none.
    pub fn of(response: &HeaderMap) -> Option<Self> {
        let mut lines = response.get_all(CONTENT_RANGE).iter();
        let line = lines.next().filter(|_| lines.next().is_none())?;
        let (unit, rest) = line.to_str().ok()?.trim().split_once(' ')?;
        let (range, complete) = rest.split_once('/')?;
        let (first, last) = range.split_once('-')?;
        let (first, last) = (number(first)?, number(last)?);
        let complete = if complete == "*" { None } else { Some(number(complete)?) };
        let fits = first <= last && complete.is_none_or(|complete| last < complete);
        let bytes = first..last.checked_add(1)?;
        (unit.eq_ignore_ascii_case("bytes") && fits).then_some(Self { bytes, complete })
    }
}

fn number(text: &str) -> Option<u64> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

/// The header of the whole of which a 206 with the header `part` brings a part: what is stored is an incomplete 200
/// (section 3.3). `None` where the length of the whole is not known.
pub fn header_of_whole(part: &HeaderMap) -> Option<HeaderMap> {
    let complete = ContentRange::of(part)?.complete?;
    let mut header = part.clone();
    header.remove(CONTENT_RANGE);
    header.insert(CONTENT_LENGTH, HeaderValue::from(complete));
    Some(header)
}

/// Whether what has come of a response that broke off may be kept (section 3.3): a 200 to a GET, with a strong entity
/// tag by which the rest can be fetched, and a length.
pub fn keeps_incomplete(method: &Method, status: StatusCode, response: &HeaderMap) -> bool {
    method == Method::GET
        && status == StatusCode::OK
        && Validators::of(response).is_strong()
        && response.contains_key(CONTENT_LENGTH)
}

/// Whether a part that came with the header `part` belongs to what is stored with the header `stored`, of `complete`
/// bytes: both have the same strong entity tag and length (section 3.4). If so, [`super::updated_header`] has the new
/// header of the whole.
pub fn combines(stored: &HeaderMap, complete: u64, part: &HeaderMap) -> bool {
    let (known, new) = (Validators::of(stored), Validators::of(part));
    let is_same = known.tag.zip(new.tag).is_some_and(|(known, new)| known.matches_strongly(&new));
    is_same && ContentRange::of(part).is_some_and(|range| range.complete == Some(complete))
}

/// The bytes of a representation that are there.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Parts {
    complete: u64,
    /// In order, none empty, none touching the next.
    there: Vec<Range<u64>>,
}

impl Parts {
    /// None, of a representation of `complete` bytes.
    pub const fn none_of(complete: u64) -> Self {
        Self { complete, there: Vec::new() }
    }

    /// How many bytes the representation has.
    pub const fn complete(&self) -> u64 {
        self.complete
    }

    /// These `bytes` are there, too. `false`, with nothing changed, where they lie outside, or where there are too many
    /// parts already.
    pub fn add(&mut self, bytes: Range<u64>) -> bool {
        if bytes.start > bytes.end || bytes.end > self.complete {
            return false;
        }
        if bytes.is_empty() {
            return true;
        }
        let from = self.there.partition_point(|part| part.end < bytes.start);
        let to = self.there.partition_point(|part| part.start <= bytes.end);
        if from == to && self.there.len() >= PARTS_MAX {
            return false;
        }
        let joined = match self.there.get(from..to) {
            Some([first, .., last]) => first.start.min(bytes.start)..last.end.max(bytes.end),
            Some([only]) => only.start.min(bytes.start)..only.end.max(bytes.end),
            _ => bytes,
        };
        self.there.splice(from..to, [joined]);
        true
    }

    /// Whether all of `bytes` is there: a request for them can be answered with a 206 (section 3.3).
    pub fn has(&self, bytes: &Range<u64>) -> bool {
        bytes.is_empty() || self.there.iter().any(|part| part.start <= bytes.start && bytes.end <= part.end)
    }

    /// Whether nothing is missing: it answers all that a complete response does.
    pub fn is_complete(&self) -> bool {
        self.has(&(0..self.complete))
    }

    /// What is missing of `bytes`, in order: the ranges to ask the origin for.
    pub fn missing(&self, bytes: Range<u64>) -> Vec<Range<u64>> {
        let end = bytes.end.min(self.complete);
        let mut from = bytes.start;
        let mut missing = Vec::new();
        for part in self.there.iter().filter(|part| part.end > bytes.start && part.start < end) {
            if from < part.start {
                missing.push(from..part.start);
            }
            from = from.max(part.end);
        }
        if from < end {
            missing.push(from..end);
        }
        missing
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::tests::headers;
    use super::*;

    #[test]
    fn a_content_range_reads_as_rfc_9110_has_it() {
        let read = |text: &str| ContentRange::of(&headers(&[("content-range", text)]));
        assert_eq!(read("bytes 4-9/10"), Some(ContentRange { bytes: 4..10, complete: Some(10) }));
        assert_eq!(read("Bytes 0-0/*"), Some(ContentRange { bytes: 0..1, complete: None }));
        for text in [
            "",
            "bytes",
            "bytes */10",
            "bytes 4-9",
            "bytes 9-4/10",
            "bytes 4-10/10",
            "lines 4-9/10",
            "bytes 4-9/x",
            "bytes -9/10",
            "bytes +4-9/10",
            "bytes 4-/10",
            "bytes=4-9/10",
            "bytes 0-18446744073709551615/*",
            "bytes 4-9/10, bytes 4-9/10",
        ] {
            assert_eq!(read(text), None, "{text}");
        }
        assert_eq!(
            ContentRange::of(&headers(&[("content-range", "bytes 0-1/9"), ("content-range", "bytes 0-1/9")])),
            None
        );
    }

    #[test]
    fn the_header_of_a_part_becomes_that_of_the_whole() {
        let part = headers(&[("content-range", "bytes 4-9/10"), ("content-length", "6"), ("etag", "\"a\"")]);
        let whole = header_of_whole(&part).expect("a header");
        assert_eq!(whole, headers(&[("content-length", "10"), ("etag", "\"a\"")]));
        assert_eq!(header_of_whole(&headers(&[("content-range", "bytes 4-9/*")])), None);
    }

    #[test]
    fn only_parts_of_one_strong_tag_are_put_together() {
        let range = ("content-range", "bytes 4-9/10");
        let combined = |stored: &[(&str, &str)], complete, part: &[(&str, &str)]| {
            combines(&headers(stored), complete, &headers(part))
        };
        assert!(combined(&[("etag", "\"a\"")], 10, &[("etag", "\"a\""), range]));
        assert!(!combined(&[("etag", "\"a\"")], 11, &[("etag", "\"a\""), range]));
        assert!(!combined(&[("etag", "\"a\"")], 10, &[("etag", "\"b\""), range]));
        assert!(!combined(&[("etag", "W/\"a\"")], 10, &[("etag", "W/\"a\""), range]));
        assert!(!combined(&[], 10, &[range]) && !combined(&[("etag", "\"a\"")], 10, &[("etag", "\"a\"")]));
    }

    #[test]
    fn what_breaks_off_is_kept_if_the_rest_can_be_fetched() {
        let fields = [("etag", "\"a\""), ("content-length", "10")];
        let keeps =
            |method: Method, status, fields: &[(&str, &str)]| keeps_incomplete(&method, status, &headers(fields));
        assert!(keeps(Method::GET, StatusCode::OK, &fields));
        assert!(!keeps(Method::POST, StatusCode::OK, &fields) && !keeps(Method::GET, StatusCode::NOT_FOUND, &fields));
        assert!(!keeps(Method::GET, StatusCode::OK, &fields[..1]) && !keeps(Method::GET, StatusCode::OK, &fields[1..]));
        assert!(!keeps(Method::GET, StatusCode::OK, &[("etag", "W/\"a\""), fields[1]]));
    }

    #[test]
    fn parts_join_where_they_touch() {
        let mut parts = Parts::none_of(10);
        assert!(parts.add(0..2) && parts.add(4..6) && parts.add(8..10) && !parts.add(9..11));
        assert_eq!(parts.missing(1..9), [2..4, 6..8]);
        assert!(parts.add(2..4) && parts.has(&(0..6)) && !parts.has(&(0..7)));
        assert!(parts.add(5..9) && parts.is_complete() && parts.missing(0..99).is_empty());
        assert!(Parts::none_of(0).is_complete() && !Parts::none_of(1).is_complete());
    }

    #[test]
    fn the_number_of_parts_is_bounded() {
        let mut parts = Parts::none_of(10_000);
        let added = (0..5_000).filter(|part| parts.add(part * 2..part * 2 + 1)).count();
        assert_eq!(added, PARTS_MAX);
        assert!(parts.add(1..2), "what closes a gap is no further part");
    }

    proptest! {
        #[test]
        fn parts_are_a_set_of_bytes(
            added in proptest::collection::vec((0..64_u64, 0..64_u64), 0..20),
            asked in (0..64_u64, 0..64_u64),
        ) {
            let mut parts = Parts::none_of(64);
            let mut bytes = [false; 64];
            for (one, other) in added {
                let range = one.min(other)..one.max(other);
                prop_assert!(parts.add(range.clone()));
                range.for_each(|byte| bytes[byte as usize] = true);
            }
            let asked = asked.0.min(asked.1)..asked.0.max(asked.1);
            prop_assert_eq!(parts.has(&asked), asked.clone().all(|byte| bytes[byte as usize]));
            let missing: Vec<u64> = parts.missing(asked.clone()).into_iter().flatten().collect();
            let expected: Vec<u64> = asked.filter(|byte| !bytes[*byte as usize]).collect();
            prop_assert_eq!(missing, expected);
            prop_assert!(parts.there.windows(2).all(|pair| pair[0].end < pair[1].start));
        }
    }
}
