//! Several ranges in one answer: `multipart/byteranges` (RFC 9110 section 14.6).

use std::ops::Range;

use crate::model::ContentHash;

/// The characters of a boundary.
const BOUNDARY_LENGTH: usize = 32;

/// What stands between the parts of an object whose entity tag is the hash of its bytes. No part can have it: whoever makes
/// the bytes cannot know their hash before.
pub fn boundary(etag: &str) -> String {
    let mut text = ContentHash::of(etag.as_bytes()).to_string();
    text.truncate(BOUNDARY_LENGTH);
    text
}

/// What stands before each of `parts` of `size` bytes in a `multipart/byteranges` body with this boundary, and behind the
/// last (RFC 9110 section 14.6).
pub fn heads<'a>(
    parts: &'a [Range<u64>],
    size: u64,
    media_type: &'a str,
    boundary: &'a str,
) -> (impl Iterator<Item = (String, Range<u64>)> + 'a, String) {
    let heads = parts.iter().map(move |part| {
        let (first, last) = (part.start, part.end - 1);
        let head = format!(
            "\r\n--{boundary}\r\nContent-Type: {media_type}\r\nContent-Range: bytes {first}-{last}/{size}\r\n\r\n"
        );
        (head, part.clone())
    });
    (heads, format!("\r\n--{boundary}--\r\n"))
}
