//! Smaller variants of photographs: bytes in, bytes out.
//!
//! A [`Plan`] reads the header alone and says what the work would cost; whoever runs it admits it by that, and then
//! [`make`]s the variants. Knows nothing of objects, networks or tasks. Without the feature `images` of the build, JPEG
//! is decoded and encoded in Rust, slower ([`CODECS`] says which).
//!
//! A variant depends on its source alone, never on what else is wanted: what an upload made in advance and what a
//! download makes are the same bytes, as long as the build is the same.

pub mod choose;

use std::io::Cursor;

use serde::{Deserialize, Serialize};

use crate::model::Variant;

mod header;
mod jpeg;
mod pixels;
mod plan;
mod png;
mod webp;

use header::{Format, Header};
use pixels::Picture;
pub use plan::Plan;

/// Which variants this code makes of an image: another number wherever the bytes of one may have changed, by the code or
/// by the version of a codec.
pub const RECIPE: u32 = 1;

/// The codecs of this build, for people.
#[cfg(feature = "images")]
pub const CODECS: &str = "JPEG by libjpeg-turbo, PNG by png, WebP by libwebp";
/// The codecs of this build, for people.
#[cfg(not(feature = "images"))]
pub const CODECS: &str = "JPEG by zune-jpeg and jpeg-encoder (no libjpeg-turbo), PNG by png, WebP by libwebp";

/// Which images are resized.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The largest image file that is resized, in bytes.
    pub source_bytes_max: u64,
    /// The most pixels of an image that is resized.
    pub pixels_max: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self { source_bytes_max: 64 << 20, pixels_max: 100_000_000 }
    }
}

/// Why an image is served as it is.
#[derive(Debug, thiserror::Error)]
pub enum Unsuitable {
    /// No image of a kind that is resized.
    #[error("it is no image of a kind that is resized")]
    OtherType,
    /// Coded in a way of its format that is not read.
    #[error("it is coded in a way that is not read: {0}")]
    OtherCoding(&'static str),
    /// Inks instead of colours: how they would look depends on the printer.
    #[error("it is in the colours of print (CMYK)")]
    Cmyk,
    /// It moves.
    #[error("it is animated")]
    Animated,
    /// The file is larger than what is resized.
    #[error("its file is larger than {max} bytes")]
    TooManyBytes {
        /// The most.
        max: u64,
    },
    /// Wider times higher than what is resized.
    #[error("it is {width} by {height}, more than {max} pixels")]
    TooManyPixels {
        /// Its width, as stored.
        width: u32,
        /// Its height, as stored.
        height: u32,
        /// The most.
        max: u64,
    },
    /// A colour profile larger than any of a display or camera.
    #[error("its colour profile is too large to be kept")]
    LargeProfile,
    /// Truncated, or against the rules of its format.
    #[error("it is broken: {0}")]
    Broken(String),
    /// Its bytes are not those that the plan was made for.
    #[error("it is not the image that was planned for")]
    Changed,
    /// Its bytes cannot be read.
    #[error("it cannot be read")]
    Unreadable(#[source] std::io::Error),
}

impl Unsuitable {
    #[expect(clippy::needless_pass_by_value, reason = "it is what `map_err` gives")]
    fn broken(why: impl ToString) -> Self {
        Self::Broken(why.to_string())
    }
}

/// A variant that was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Made {
    /// Which.
    pub variant: Variant,
    /// Its file.
    pub bytes: Vec<u8>,
}

/// Makes the `wanted` variants of the image `source`, whose header `plan` has read: the same bytes each time, largest
/// variant first. The original is nothing to be made. A variant may be larger than its source, in bytes, where that was
/// compressed harder: the caller chooses. Blocks.
///
/// # Errors
/// When the image is broken, or more than its header said.
pub fn make(source: &[u8], plan: &Plan, wanted: &[Variant]) -> Result<Vec<Made>, Unsuitable> {
    let header = plan.header();
    if Header::read(Cursor::new(source))? != *header {
        return Err(Unsuitable::Changed);
    }
    let mut left = Variant::MADE.into_iter().filter(|variant| wanted.contains(variant)).peekable();
    let mut made = Vec::new();
    let mut decoded: Option<Picture> = None;
    while let Some(variant) = left.next() {
        let size = header.scaled(variant);
        let shrink = header.shrink(size);
        let image = match decoded.take() {
            Some(image) => image,
            None => decode(source, header, shrink)?,
        };
        let extent = [header.width, header.height].map(|side| f64::from(side) / f64::from(shrink));
        let scaled = image.scaled(extent, size)?;
        let of_use = left.peek().is_some_and(|next| header.shrink(header.scaled(*next)) == shrink);
        decoded = of_use.then_some(image);
        let turned = scaled.turned(header.orientation);
        made.push(Made { variant, bytes: encode(source, header.format, &turned)? });
    }
    Ok(made)
}

/// Decodes at one of `shrink` parts of the width and height.
fn decode(source: &[u8], header: &Header, shrink: u32) -> Result<Picture, Unsuitable> {
    match header.format {
        Format::Jpeg { .. } => jpeg::decode(source, header, shrink),
        Format::Png => png::decode(source, header).map(Picture::Packed),
        Format::WebP { .. } => webp::decode(source, header).map(Picture::Packed),
    }
}

/// Encodes `picture` in the format and with the colour profile of the image `source`.
fn encode(source: &[u8], format: Format, picture: &Picture) -> Result<Vec<u8>, Unsuitable> {
    match format {
        Format::Jpeg { .. } => jpeg::encode(source, picture),
        Format::Png => png::encode(source, picture.packed()?),
        Format::WebP { .. } => webp::encode(source, picture.packed()?),
    }
}

#[cfg(test)]
mod tests;
