//! JPEG: by libjpeg-turbo or in Rust, as the build says; the colour profile is carried over here.

#[cfg(feature = "images")]
#[path = "turbo.rs"]
mod codec;
#[cfg(not(feature = "images"))]
#[path = "pure.rs"]
mod codec;

use super::Unsuitable;
use super::header::Header;
use super::pixels::Picture;

pub(super) use codec::{PLANES, SHRINKS};

/// Of 100; libjpeg's scale: at 80 a fifth smaller, but grainy photographs lose a twentieth of their structure. Colour has
/// half of the resolution each way.
const QUALITY: u8 = 85;

/// A photograph has about ten scans; thousands in a small file would be minutes of work.
const SCANS_MAX: u32 = 32;

/// Marks the segments of a profile (ICC.1, annex B.4), before the number of the segment and of all of them.
const PROFILE_MARK: &[u8] = b"ICC_PROFILE\0";
const PROFILE_BYTES_MAX: usize = 4 << 20;
/// A segment's length counts itself and is of 16 bits.
const PROFILE_PART_MAX: usize = 0xffff - 2 - PROFILE_MARK.len() - 2;

/// Decodes at one of `shrink` parts of the width and height, rounded up.
pub(super) fn decode(source: &[u8], header: &Header, shrink: u32) -> Result<Picture, Unsuitable> {
    codec::decode(source, header, shrink)
}

/// Encodes `picture`, with the profile of `source`.
pub(super) fn encode(source: &[u8], picture: &Picture) -> Result<Vec<u8>, Unsuitable> {
    let profile = profile(source)?;
    let mut file = codec::encode(picture)?;
    if !profile.is_empty() {
        // JFIF wants its own segment to be the first.
        let jfif = if file.get(2..4) == Some(&[0xff, 0xe0]) { 2 + segment_length(&file[4..]) } else { 0 };
        let position = 2 + jfif;
        if position > file.len() {
            return Err(Unsuitable::broken("the codec wrote no JPEG"));
        }
        file.splice(position..position, profile_segments(&profile));
    }
    Ok(file)
}

/// The colour profile of `source`, empty if it has none that is whole.
fn profile(source: &[u8]) -> Result<Vec<u8>, Unsuitable> {
    let mut parts: Vec<(u8, &[u8])> = Vec::new();
    let mut expected = 0;
    let mut rest = source.get(2..).unwrap_or_default();
    while let [0xff, marker, after @ ..] = rest {
        match marker {
            0xff => {
                rest = &rest[1..];
                continue;
            }
            0xda => break,
            _ => {}
        }
        let length = segment_length(after);
        let Some(segment) = after.get(2..length) else { break };
        if let (0xe2, Some([number, count, part @ ..])) = (marker, segment.strip_prefix(PROFILE_MARK)) {
            parts.push((*number, part));
            expected = usize::from(*count);
        }
        rest = &after[length..];
    }
    parts.sort_by_key(|(number, _)| *number);
    let whole = parts.len() == expected && parts.iter().zip(1..).all(|((number, _), due)| usize::from(*number) == due);
    if !whole {
        return Ok(Vec::new());
    }
    if parts.iter().map(|(_, part)| part.len()).sum::<usize>() > PROFILE_BYTES_MAX {
        return Err(Unsuitable::LargeProfile);
    }
    Ok(parts.into_iter().flat_map(|(_, part)| part).copied().collect())
}

/// How long the segment is whose length `bytes` begin with, that included.
fn segment_length(bytes: &[u8]) -> usize {
    bytes.first_chunk().map_or(0, |length| usize::from(u16::from_be_bytes(*length)))
}

fn profile_segments(profile: &[u8]) -> Vec<u8> {
    let parts = profile.chunks(PROFILE_PART_MAX);
    let count = parts.len() as u8;
    let mut segments = Vec::with_capacity(profile.len() + parts.len() * (0xffff + 2 - PROFILE_PART_MAX));
    for (part, number) in parts.zip(1..) {
        let length = (2 + PROFILE_MARK.len() + 2 + part.len()) as u16;
        segments.extend([0xff, 0xe2]);
        segments.extend(length.to_be_bytes());
        segments.extend(PROFILE_MARK);
        segments.extend([number, count]);
        segments.extend(part);
    }
    segments
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_profile_of_several_segments_survives_and_half_of_one_is_none() {
        let profile_of = |file: &[u8]| profile(file).unwrap();
        let original: Vec<u8> = (0..200_000_u32).map(|index| (index % 251) as u8).collect();
        let mut file = vec![0xff, 0xd8, 0xff, 0xe0, 0, 4, 0, 0];
        file.extend(profile_segments(&original));
        file.extend([0xff, 0xda, 0, 2]);
        assert_eq!(profile_of(&file), original);
        let second = 8 + 2 + 0xffff;
        assert_eq!(profile_of(&file[..second]), [0; 0]);
        file.drain(8..second);
        assert_eq!(profile_of(&file), [0; 0]);
        for length in 0..40 {
            assert_eq!(profile_of(&file[..length]), [0; 0]);
        }
    }
}
