//! The header of a PNG file (W3C, third edition): the chunks before the image data.

use std::io::{Read, Seek};

use super::{Format, Header, Orientation, Source, exif};
use crate::resize::Unsuitable;

/// Texts are chunks, too; nobody has as many as this before the image.
const CHUNKS_MAX: usize = 1024;
const CHECKSUM_SIZE: u32 = 4;

pub(super) fn read<R: Read + Seek>(source: &mut Source<R>) -> Result<Header, Unsuitable> {
    let _signature: [u8; 8] = source.bytes()?;
    if source.bytes()? != [0, 0, 0, 13, b'I', b'H', b'D', b'R'] {
        return Err(Unsuitable::broken("it does not begin with its header"));
    }
    let [width, height] = [u32::from_be_bytes(source.bytes()?), u32::from_be_bytes(source.bytes()?)];
    let [_depth, colour, _compression, _filter, _interlace] = source.bytes()?;
    source.skip(CHECKSUM_SIZE)?;
    let mut transparent = false;
    let mut orientation = Orientation::UPRIGHT;
    for _ in 0..CHUNKS_MAX {
        let length = u32::from_be_bytes(source.bytes()?);
        if length > i32::MAX as u32 {
            return Err(Unsuitable::broken("a chunk is longer than the format allows"));
        }
        match &source.bytes()? {
            b"IDAT" => {
                let channels = match (colour, transparent) {
                    (0, false) => 1,
                    (0, true) | (4, _) => 2,
                    (2 | 3, false) => 3,
                    (2 | 3, true) | (6, _) => 4,
                    _ => return Err(Unsuitable::broken("its kind of colour does not exist")),
                };
                return Ok(Header { format: Format::Png, width, height, channels, orientation });
            }
            b"acTL" => return Err(Unsuitable::Animated),
            b"eXIf" => orientation = exif::orientation(&source.up_to_64_kib(length)?),
            b"tRNS" => {
                transparent = true;
                source.skip(length)?;
            }
            _ => source.skip(length)?,
        }
        source.skip(CHECKSUM_SIZE)?;
    }
    Err(Unsuitable::broken("it has too many chunks"))
}
