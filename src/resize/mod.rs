//! Smaller variants of photographs: bytes in, bytes out.
//!
//! A [`Plan`] reads the header alone and says what the work would cost; whoever runs it admits it by that, and then
//! [`make`]s the variants. Knows nothing of objects, networks or tasks. Without the feature `images` of the build it
//! decodes and encodes in pure Rust, slower ([`CODECS`] says which).

pub mod choose;

use std::io::{Read, Seek};

use serde::{Deserialize, Serialize};

use crate::model::Variant;

/// The codecs of this build, for people.
pub const CODECS: &str = "";

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
}

/// What resizing an image would take, as its header says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {}

impl Plan {
    /// Reads the header of the image of `size` bytes at the start of `source`.
    ///
    /// # Errors
    /// Why it is not resized.
    pub fn read<R: Read + Seek>(_source: R, _size: u64, _config: &Config) -> Result<Self, Unsuitable> {
        Err(Unsuitable::OtherType)
    }

    /// The most memory that [`make`] takes at a time, its source included, in bytes.
    pub const fn memory_bytes(&self) -> u64 {
        0
    }

    /// The media type of the image and its variants.
    pub const fn media_type(&self) -> &'static str {
        ""
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

/// Makes the `wanted` variants of the image `source`, whose header `plan` has read: the same bytes each time. Blocks.
///
/// # Errors
/// When the image is broken, or more than its header said.
pub fn make(_source: &[u8], _plan: &Plan, _wanted: &[Variant]) -> Result<Vec<Made>, Unsuitable> {
    Err(Unsuitable::OtherType)
}
