//! The header of a JPEG file (ITU-T T.81, annex B): the segments before the first scan.

use std::io::{Read, Seek};

use super::{Format, Header, Orientation, Source, exif};
use crate::resize::Unsuitable;

/// Large profiles and the extended metadata of telephones come in segments of 64 KiB each; these are 64 MiB of them.
const SEGMENTS_MAX: usize = 1024;

/// The frame as the decoder sees it.
struct Frame {
    width: u32,
    height: u32,
    components: u8,
    progressive: bool,
    /// What its coefficients take if they are kept, in bytes.
    coefficients_bytes: u64,
    /// Whether its colour is stored at half of the width and height.
    halved: bool,
}

pub(super) fn read<R: Read + Seek>(source: &mut Source<R>) -> Result<Header, Unsuitable> {
    let _start_of_image: [u8; 2] = source.bytes()?;
    let mut frame: Option<Frame> = None;
    let mut orientation = None;
    for _ in 0..SEGMENTS_MAX {
        let marker = next_marker(source)?;
        let length = u32::from(u16::from_be_bytes(source.bytes()?));
        let length = length.checked_sub(2).ok_or_else(|| Unsuitable::broken("a segment is shorter than its length"))?;
        match marker {
            0xc0..=0xc2 if frame.is_none() => frame = Some(read_frame(marker, &source.up_to_64_kib(length)?)?),
            0xc0..=0xc2 => return Err(Unsuitable::OtherCoding("several frames")),
            0xc3 | 0xc5..=0xc7 | 0xc9..=0xcb | 0xcd..=0xcf => {
                return Err(Unsuitable::OtherCoding("lossless, hierarchical or arithmetic JPEG"));
            }
            0xe1 if orientation.is_none() => {
                let segment = source.up_to_64_kib(length)?;
                if segment.starts_with(b"Exif\0\0") {
                    orientation = Some(exif::orientation(&segment));
                }
            }
            0xda => {
                let frame = frame.ok_or_else(|| Unsuitable::broken("a scan comes before the frame"))?;
                let [components] = source.bytes()?;
                let kept = frame.progressive || components < frame.components;
                let coefficients_bytes = if kept { frame.coefficients_bytes } else { 0 };
                let planes = frame.halved && crate::resize::jpeg::PLANES;
                return Ok(Header {
                    format: Format::Jpeg { coefficients_bytes, planes },
                    width: frame.width,
                    height: frame.height,
                    channels: frame.components,
                    orientation: orientation.unwrap_or(Orientation::UPRIGHT),
                });
            }
            _ => source.skip(length)?,
        }
    }
    Err(Unsuitable::broken("it has too many segments"))
}

/// Reads up to the next marker that begins a segment.
fn next_marker<R: Read + Seek>(source: &mut Source<R>) -> Result<u8, Unsuitable> {
    // Fill bytes are allowed and used by nobody.
    const FILL_MAX: usize = 16;
    if source.bytes()? != [0xff] {
        return Err(Unsuitable::broken("no marker where a segment should begin"));
    }
    for _ in 0..FILL_MAX {
        match source.bytes()? {
            [0xff] => {}
            [0x00 | 0x01 | 0xd0..=0xd9] => break,
            [marker] => return Ok(marker),
        }
    }
    Err(Unsuitable::broken("no segment where one should begin"))
}

fn read_frame(marker: u8, segment: &[u8]) -> Result<Frame, Unsuitable> {
    let &[precision, height_high, height_low, width_high, width_low, components, ref table @ ..] = segment else {
        return Err(Unsuitable::broken("its frame header is too short"));
    };
    if precision != 8 {
        return Err(Unsuitable::OtherCoding("JPEG of more than 8 bits"));
    }
    match components {
        1 | 3 => {}
        4 => return Err(Unsuitable::Cmyk),
        _ => return Err(Unsuitable::OtherCoding("neither grey nor of three colours")),
    }
    let factors: Vec<[u8; 2]> = table.chunks_exact(3).map(|entry| [entry[1] >> 4, entry[1] & 15]).collect();
    let in_range = factors.as_flattened().iter().all(|factor| (1..=4).contains(factor));
    if factors.len() != usize::from(components) || !in_range {
        return Err(Unsuitable::broken("its components are not as its frame header says"));
    }
    let width = u32::from(u16::from_be_bytes([width_high, width_low]));
    let height = u32::from(u16::from_be_bytes([height_high, height_low]));
    let largest = |axis: usize| factors.iter().map(|factor| factor[axis]).max().unwrap_or(1);
    let units = |side: u32, factor: u8| u64::from(side.div_ceil(8 * u32::from(factor)));
    let blocks_a_unit: u64 = factors.iter().map(|factor| u64::from(factor[0]) * u64::from(factor[1])).sum();
    let blocks = units(width, largest(0)) * units(height, largest(1)) * blocks_a_unit;
    // 64 coefficients of two bytes.
    let coefficients_bytes = blocks * 128;
    let halved = factors == [[2, 2], [1, 1], [1, 1]];
    Ok(Frame { width, height, components, progressive: marker == 0xc2, coefficients_bytes, halved })
}
