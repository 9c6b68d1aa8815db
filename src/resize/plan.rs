//! What resizing an image would take.

use std::io::{Read, Seek};

use super::header::{Format, Header};
use super::{Config, Unsuitable};
use crate::model::Variant;

/// The longest side of an image that is resized: the longest that a JPEG has.
const SIDE_MAX: u32 = 65_535;

/// What libwebp takes for each group of Huffman codes of a lossless image: its tables, with the largest colour cache.
const HUFFMAN_GROUP_BYTES: u64 = 20_016;

/// There may be one for each block of 4 by 4 pixels, up to this many: the image says how many only in its coded part.
const HUFFMAN_GROUPS_MAX: u64 = 1 << 16;

/// What resizing an image would take, as its header says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    size: u64,
    header: Header,
}

impl Plan {
    /// Reads the header of the image of `size` bytes at the start of `source`, not the image.
    ///
    /// # Errors
    /// Why it is not resized.
    pub fn read<R: Read + Seek>(source: R, size: u64, config: &Config) -> Result<Self, Unsuitable> {
        let header = Header::read(source)?;
        if size > config.source_bytes_max {
            return Err(Unsuitable::TooManyBytes { max: config.source_bytes_max });
        }
        // How a side is scaled is worked out for each of its pixels, whatever the other side is.
        if header.pixels() > config.pixels_max || header.width.max(header.height) > SIDE_MAX {
            let Header { width, height, .. } = header;
            return Err(Unsuitable::TooManyPixels { width, height, max: config.pixels_max });
        }
        Ok(Self { size, header })
    }

    pub(super) const fn header(&self) -> &Header {
        &self.header
    }

    /// The most memory that [`make`](super::make) takes at a time, its source included, in bytes.
    pub const fn memory_bytes(&self) -> u64 {
        /// Tables and rows of the codecs.
        const WORKING_BYTES: u64 = 8 << 20;
        let Header { format, width, height, channels, .. } = &self.header;
        let bytes_a_pixel = *channels as u64;
        let pixels = *width as u64 * *height as u64;
        let decoded = match format {
            // And a row and a column of colour where their number is odd.
            Format::Jpeg { planes: true, .. } => (pixels + *width as u64 + *height as u64) * 3 / 2,
            _ => pixels * bytes_a_pixel,
        };
        let hundredths = Variant::Medium.hundredths() as u64;
        // Scaled in one direction, then in both.
        let halfway = decoded * hundredths / 100;
        let medium = halfway * hundredths / 100;
        let blocks = (*width as u64).div_ceil(4) * (*height as u64).div_ceil(4);
        let groups = if blocks < HUFFMAN_GROUPS_MAX { blocks } else { HUFFMAN_GROUPS_MAX };
        let huffman = groups * HUFFMAN_GROUP_BYTES;
        let while_decoding = match format {
            Format::Jpeg { coefficients_bytes, .. } => *coefficients_bytes,
            Format::WebP { lossless: true } => pixels * 4 + huffman,
            // Transparency is coded as a lossless image.
            Format::WebP { lossless: false } if *channels == 4 => pixels * 2 + huffman,
            Format::WebP { lossless: false } => pixels,
            Format::Png => 0,
        };
        // Transparent images are scaled from a copy in which the colours are multiplied.
        let multiplied = if channels.is_multiple_of(2) { decoded } else { 0 };
        let while_scaling = multiplied + halfway + medium;
        // Turned, in the codec's own form, and encoded, as a rule to less than one byte in ten.
        let alpha_search = match format {
            // What libwebp searches for repetitions in the transparency, at worst; measured.
            Format::WebP { .. } if *channels == 4 => 6 * medium,
            _ => 0,
        };
        let while_encoding = 4 * medium + alpha_search;
        let mut most = while_decoding;
        if while_scaling > most {
            most = while_scaling;
        }
        if while_encoding > most {
            most = while_encoding;
        }
        self.size + decoded + most + WORKING_BYTES
    }

    /// The media type of the image and its variants.
    pub const fn media_type(&self) -> &'static str {
        match self.header.format {
            Format::Jpeg { .. } => "image/jpeg",
            Format::Png => "image/png",
            Format::WebP { .. } => "image/webp",
        }
    }
}
