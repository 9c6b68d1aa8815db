//! Ranges of what nobody knows here yet: asked for up to the borders of slices, so that what comes can be kept.

use std::ops::Range;

use http::header::{IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, IF_UNMODIFIED_SINCE, RANGE};
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode};

use crate::cache::rules::{ContentRange, header_of_whole};
use crate::cache::{SLICE_BYTES, slice_at};

/// A range from the border of a slice to another one, or to the end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::edge) struct Widened {
    /// The slice that it begins with.
    pub(in crate::edge) first: u32,
    /// As the value of `Range`.
    pub(in crate::edge) value: HeaderValue,
}

/// The range that a request with `headers` asks for, from slice to slice; `None` if it asks for no range, for several, for
/// the last bytes of who knows how many, or on conditions that only whoever has it can judge.
pub(in crate::edge) fn widened(method: &Method, headers: &HeaderMap) -> Option<Widened> {
    let conditional = [IF_MATCH, IF_NONE_MATCH, IF_MODIFIED_SINCE, IF_UNMODIFIED_SINCE, IF_RANGE];
    if method != Method::GET || conditional.iter().any(|name| headers.contains_key(name)) {
        return None;
    }
    let mut lines = headers.get_all(RANGE).iter();
    let line = lines.next().filter(|_| lines.next().is_none())?.to_str().ok()?;
    let (unit, range) = line.split_once('=')?;
    let (first, last) = range.trim().split_once('-').filter(|_| unit.trim().eq_ignore_ascii_case("bytes"))?;
    let first = number(first)?;
    let slice = slice_at(first);
    if first / SLICE_BYTES >= u64::from(u32::MAX) {
        return None;
    }
    let start = u64::from(slice) * SLICE_BYTES;
    let value = if last.is_empty() {
        format!("bytes={start}-")
    } else {
        let last = number(last).filter(|last| *last >= first)?;
        let end = (last / SLICE_BYTES).checked_add(1)?.checked_mul(SLICE_BYTES)?;
        format!("bytes={start}-{}", end - 1)
    };
    Some(Widened { first: slice, value: HeaderValue::try_from(value).expect("digits are visible ASCII") })
}

fn number(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().ok())?
}

/// What of the whole an answer has, and the header of the whole: of a 200 everything. `None` of a 206 that does not tell
/// the length of the whole, has several parts, or does not begin at the border of a slice.
pub(in crate::edge) fn part_of<B>(response: &Response<B>) -> Option<(Range<u64>, HeaderMap)> {
    if response.status() != StatusCode::PARTIAL_CONTENT {
        return Some((0..u64::MAX, response.headers().clone()));
    }
    let part = ContentRange::of(response.headers())?.bytes;
    // It may have begun elsewhere than it was asked to.
    let is_aligned = part.start.is_multiple_of(SLICE_BYTES);
    is_aligned.then_some(())?;
    Some((part, header_of_whole(response.headers())?))
}

/// Whether `part` is all of `size` bytes.
pub(in crate::edge) fn covers(part: &Range<u64>, size: Option<u64>) -> bool {
    part.start == 0 && size.is_none_or(|size| part.end >= size)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(range: &str) -> Option<(u32, String)> {
        let headers = HeaderMap::from_iter([(RANGE, HeaderValue::from_str(range).expect("a value"))]);
        let widened = widened(&Method::GET, &headers)?;
        Some((widened.first, widened.value.to_str().expect("text").to_owned()))
    }

    #[test]
    fn a_range_is_asked_for_from_border_to_border() {
        let slice = SLICE_BYTES;
        for (range, first, wide) in [
            ("bytes=0-0".to_owned(), 0, format!("bytes=0-{}", slice - 1)),
            (format!("bytes={}-{slice}", slice - 1), 0, format!("bytes=0-{}", 2 * slice - 1)),
            (format!("bytes={slice}-{slice}"), 1, format!("bytes={slice}-{}", 2 * slice - 1)),
            (format!("Bytes = {}-", 3 * slice + 7), 3, format!("bytes={}-", 3 * slice)),
        ] {
            assert_eq!(of(&range), Some((first, wide)), "{range}");
        }
    }

    #[test]
    fn what_cannot_be_widened_is_left_alone() {
        let too_far = format!("bytes={}-", u64::MAX);
        for range in ["bytes=-5", "bytes=0-1,5-6", "lines=0-1", "bytes=5-4", "bytes=a-", "bytes=0-x", "0-1", &too_far] {
            assert_eq!(of(range), None, "{range}");
        }
        let mut headers = HeaderMap::from_iter([(RANGE, HeaderValue::from_static("bytes=0-1"))]);
        assert_eq!(widened(&Method::HEAD, &headers), None);
        headers.insert(IF_RANGE, HeaderValue::from_static("\"a\""));
        assert_eq!(widened(&Method::GET, &headers), None);
    }
}
