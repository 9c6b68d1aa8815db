//! Byte ranges (RFC 9110 section 14).

use std::ops::Range;

/// More ranges than this in one request serve nobody but an attacker (RFC 9110 section 17.15): it gets the whole.
const RANGES_MAX: usize = 32;

/// What a `Range` header asks of a representation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selection {
    /// Everything: the header is no byte range, malformed, or asks for too much at once, and so is ignored.
    Whole,
    /// These parts, in the order asked for; none is empty. One part is one range, several are `multipart/byteranges`.
    Parts(Vec<Range<u64>>),
    /// No part of it exists: 416.
    Unsatisfiable,
}

/// Reads the value of a `Range` header for a representation of `size` bytes.
pub fn select(header: &str, size: u64) -> Selection {
    let Some((unit, set)) = header.split_once('=') else { return Selection::Whole };
    if !unit.trim().eq_ignore_ascii_case("bytes") {
        return Selection::Whole;
    }
    // The last bytes of nothing are nothing, which is satisfiable but has no Content-Range (RFC 9110 section 14.1.2).
    if size == 0 && set.trim().strip_prefix('-').is_some_and(|length| length.bytes().any(|digit| digit != b'0')) {
        return Selection::Whole;
    }
    let mut parts = Vec::new();
    for (count, spec) in set.split(',').map(str::trim).filter(|spec| !spec.is_empty()).enumerate() {
        match part(spec, size) {
            _ if count == RANGES_MAX => return Selection::Whole,
            None => return Selection::Whole,
            Some(part) if part.is_empty() => {}
            Some(part) => parts.push(part),
        }
    }
    if set.trim_matches([',', ' ', '\t']).is_empty() {
        return Selection::Whole;
    }
    // Overlapping parts would send more than there is (RFC 9110 section 14.2).
    let total: u64 = parts.iter().map(|part| part.end - part.start).fold(0, u64::saturating_add);
    match parts.len() {
        0 => Selection::Unsatisfiable,
        1 => Selection::Parts(parts),
        _ if total > size => Selection::Whole,
        _ => Selection::Parts(parts),
    }
}

/// One range; empty if it lies behind the end, `None` if it does not read.
fn part(spec: &str, size: u64) -> Option<Range<u64>> {
    let (first, last) = spec.split_once('-')?;
    let number = |text: &str| {
        let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        // A number beyond 64 bits is beyond every end.
        digits.then(|| text.parse::<u64>().unwrap_or(u64::MAX))
    };
    if first.is_empty() {
        return Some(size.saturating_sub(number(last)?)..size);
    }
    let start = number(first)?;
    let end = if last.is_empty() { size } else { number(last)?.checked_add(1).map_or(size, |end| end.min(size)) };
    if !last.is_empty() && number(last)? < start {
        return None;
    }
    Some(start.min(size)..end)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parts<const N: usize>(list: [(u64, u64); N]) -> Selection {
        Selection::Parts(list.map(|(start, end)| start..end).to_vec())
    }

    #[test]
    fn ranges_read_as_rfc_9110_says() {
        for (header, expected) in [
            ("bytes=0-0", parts([(0, 1)])),
            ("bytes=0-99", parts([(0, 10)])),
            ("bytes=9-", parts([(9, 10)])),
            ("bytes=-3", parts([(7, 10)])),
            ("bytes=-30", parts([(0, 10)])),
            ("Bytes = 2-3", parts([(2, 4)])),
            ("bytes=0-0, -1", parts([(0, 1), (9, 10)])),
            ("bytes=0-0,,20-", parts([(0, 1)])),
            ("bytes=10-", Selection::Unsatisfiable),
            ("bytes=-0", Selection::Unsatisfiable),
            ("bytes=99999999999999999999-", Selection::Unsatisfiable),
            ("bytes=3-2", Selection::Whole),
            ("bytes=a-b", Selection::Whole),
            ("bytes=+1-2", Selection::Whole),
            ("bytes=-", Selection::Whole),
            ("bytes=", Selection::Whole),
            ("items=0-1", Selection::Whole),
            ("bytes=0-8,1-9", Selection::Whole),
        ] {
            assert_eq!(select(header, 10), expected, "{header}");
        }
        for (header, expected) in [
            ("bytes=0-", Selection::Unsatisfiable),
            ("bytes=-0", Selection::Unsatisfiable),
            ("bytes=-5", Selection::Whole),
        ] {
            assert_eq!(select(header, 0), expected, "{header} of nothing");
        }
        assert_eq!(select(&format!("bytes={}", "0-0,".repeat(33)), 100), Selection::Whole);
    }

    proptest! {
        #[test]
        fn parts_lie_within_the_size_and_are_never_empty(header in "bytes=[0-9,-]{0,20}", size in 0..200_u64) {
            if let Selection::Parts(parts) = select(&header, size) {
                prop_assert!(!parts.is_empty());
                prop_assert!(parts.iter().all(|part| part.start < part.end && part.end <= size));
            }
        }
    }
}
