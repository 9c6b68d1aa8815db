//! WebP by libwebp; the colour profile is carried over here.

mod codec;

use super::Unsuitable;
use super::header::Header;
use super::pixels::Pixels;

/// Of 100; libwebp's scale: as much of the structure is kept as by the quality of JPEG, in fewer bytes.
const QUALITY: f32 = 86.0;

/// How hard the encoder tries, 0 to 6: 4, its default, takes twice as long for 1.5 % fewer bytes.
const METHOD: i32 = 2;

const PROFILE_BYTES_MAX: usize = 4 << 20;

/// Flags of the extended header.
const PROFILE: u8 = 0x20;
const ALPHA: u8 = 0x10;

const RIFF_HEADER_SIZE: usize = 12;
const CHUNK_HEADER_SIZE: usize = 8;
const EXTENDED_HEADER_SIZE: usize = CHUNK_HEADER_SIZE + 10;

pub(super) fn decode(source: &[u8], header: &Header) -> Result<Pixels, Unsuitable> {
    let Header { width, height, channels, .. } = *header;
    codec::decode(source, [width, height], channels)
}

/// Encodes `pixels`, with the profile of `source`.
pub(super) fn encode(source: &[u8], pixels: &Pixels) -> Result<Vec<u8>, Unsuitable> {
    let file = codec::encode(pixels, QUALITY, METHOD)?;
    match profile(source) {
        Some(profile) if profile.len() > PROFILE_BYTES_MAX => Err(Unsuitable::LargeProfile),
        Some(profile) => with_profile(&file, pixels, profile).ok_or_else(|| Unsuitable::broken("no WebP was encoded")),
        None => Ok(file),
    }
}

/// The colour profile of `source`, which is before the image if there is one.
fn profile(source: &[u8]) -> Option<&[u8]> {
    let (kind, extended, rest) = split_chunk(source.get(RIFF_HEADER_SIZE..)?)?;
    let (second, profile, _) = split_chunk(rest)?;
    let flags = extended.first()?;
    (kind == b"VP8X" && flags & PROFILE != 0 && second == b"ICCP").then_some(profile)
}

/// Puts `profile` into `file`, an image of `pixels`.
fn with_profile(file: &[u8], pixels: &Pixels, profile: &[u8]) -> Option<Vec<u8>> {
    let chunks = file.get(RIFF_HEADER_SIZE..)?;
    let images = if chunks.starts_with(b"VP8X") { chunks.get(EXTENDED_HEADER_SIZE..)? } else { chunks };
    let alpha = if pixels.channels == 4 { ALPHA } else { 0 };
    let [w0, w1, w2, _] = (pixels.width - 1).to_le_bytes();
    let [h0, h1, h2, _] = (pixels.height - 1).to_le_bytes();
    let mut made = b"RIFF\0\0\0\0WEBP".to_vec();
    append_chunk(&mut made, b"VP8X", &[PROFILE | alpha, 0, 0, 0, w0, w1, w2, h0, h1, h2]);
    append_chunk(&mut made, b"ICCP", profile);
    made.extend(images);
    let length = u32::try_from(made.len() - CHUNK_HEADER_SIZE).ok()?;
    made[4..8].copy_from_slice(&length.to_le_bytes());
    Some(made)
}

/// The first of `chunks`: its kind and content, and what comes after it.
fn split_chunk(chunks: &[u8]) -> Option<(&[u8; 4], &[u8], &[u8])> {
    let (kind, rest) = chunks.split_first_chunk()?;
    let (length, rest) = rest.split_first_chunk()?;
    let length = u32::from_le_bytes(*length) as usize;
    let (content, rest) = rest.split_at_checked(length)?;
    Some((kind, content, rest.get(length % 2..).unwrap_or_default()))
}

fn append_chunk(file: &mut Vec<u8>, kind: &[u8; 4], content: &[u8]) {
    file.extend(kind);
    file.extend((content.len() as u32).to_le_bytes());
    file.extend(content);
    if content.len() % 2 == 1 {
        file.push(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_profile_survives_with_and_without_transparency() {
        for channels in [3, 4] {
            let bytes = (0..6 * 5 * u32::from(channels)).map(|index| (index * 7) as u8).collect::<Vec<_>>().into();
            let pixels = Pixels { width: 6, height: 5, channels, bytes };
            let file = codec::encode(&pixels, QUALITY, METHOD).unwrap();
            let marked = with_profile(&file, &pixels, b"abc").unwrap();
            assert_eq!(profile(&marked), Some(b"abc".as_slice()));
            assert_eq!(profile(&file), None);
            let [plain, marked] = [&file, &marked].map(|file| codec::decode(file, [6, 5], channels).unwrap());
            assert_eq!(plain, marked);
            for length in 0..file.len() {
                assert_eq!(profile(&file[..length]), None);
            }
        }
    }
}
