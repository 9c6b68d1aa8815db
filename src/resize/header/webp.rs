//! The header of a WebP file (RFC 9649): the chunks of its container and the frame header of its image.

use std::io::{Read, Seek};

use super::{Format, Header, Orientation, Source, exif};
use crate::resize::Unsuitable;

/// Profile, alpha, image, Exif, XMP, and some that nobody knows.
const CHUNKS_MAX: usize = 64;

/// Flags of the extended header.
const ANIMATED: u8 = 0x02;
const EXIF: u8 = 0x08;
const ALPHA: u8 = 0x10;

pub(super) fn read<R: Read + Seek>(source: &mut Source<R>) -> Result<Header, Unsuitable> {
    let _riff: [u8; 12] = source.bytes()?;
    let kind: [u8; 4] = source.bytes()?;
    let length = u32::from_le_bytes(source.bytes()?);
    match &kind {
        b"VP8 " => {
            let [_, _, _, 0x9d, 0x01, 0x2a, width_low, width_high, height_low, height_high] = source.bytes()? else {
                return Err(Unsuitable::broken("its image does not begin with a key frame"));
            };
            // The two bits above are a hint how to enlarge it.
            let side = |low, high| u32::from(u16::from_le_bytes([low, high]) & 0x3fff);
            Ok(header([side(width_low, width_high), side(height_low, height_high)], false, false))
        }
        b"VP8L" => {
            let [0x2f, packed @ ..] = source.bytes::<5>()? else {
                return Err(Unsuitable::broken("its image does not begin as a lossless one"));
            };
            let packed = u32::from_le_bytes(packed);
            Ok(header([(packed & 0x3fff) + 1, (packed >> 14 & 0x3fff) + 1], packed >> 28 & 1 == 1, true))
        }
        b"VP8X" if length >= 10 => {
            let [flags, _, _, _, w0, w1, w2, h0, h1, h2] = source.bytes()?;
            if flags & ANIMATED != 0 {
                return Err(Unsuitable::Animated);
            }
            source.skip(length.saturating_add(length % 2) - 10)?;
            let size = [[w0, w1, w2, 0], [h0, h1, h2, 0]].map(|side| u32::from_le_bytes(side) + 1);
            extended(source, flags, header(size, flags & ALPHA != 0, false))
        }
        _ => Err(Unsuitable::broken("it does not begin with an image")),
    }
}

const fn header([width, height]: [u32; 2], alpha: bool, lossless: bool) -> Header {
    let channels = if alpha { 4 } else { 3 };
    Header { format: Format::WebP { lossless }, width, height, channels, orientation: Orientation::UPRIGHT }
}

/// Reads on to the image and to the Exif data, which come after it.
fn extended<R: Read + Seek>(source: &mut Source<R>, flags: u8, mut header: Header) -> Result<Header, Unsuitable> {
    let mut exif_expected = flags & EXIF != 0;
    let mut image_expected = true;
    for _ in 0..CHUNKS_MAX {
        if !image_expected && !exif_expected {
            return Ok(header);
        }
        let kind: [u8; 4] = source.bytes()?;
        let length = u32::from_le_bytes(source.bytes()?);
        match &kind {
            b"EXIF" => {
                header.orientation = exif::orientation(&source.up_to_64_kib(length)?);
                source.skip(length % 2)?;
                exif_expected = false;
                continue;
            }
            b"VP8 " => image_expected = false,
            b"VP8L" => {
                image_expected = false;
                header.format = Format::WebP { lossless: true };
            }
            b"ANIM" | b"ANMF" => return Err(Unsuitable::Animated),
            _ => {}
        }
        source.skip(length.saturating_add(length % 2))?;
    }
    Err(Unsuitable::broken("it has too many chunks"))
}
