//! What the header of an image says: format, size, channels, orientation.
//!
//! Read from the first bytes and by seeking over the rest, in bounded memory and steps, so that nothing of a hostile
//! file is decoded or allocated before its size is known.

use std::io::{self, BufReader, ErrorKind, Read, Seek};

use super::Unsuitable;
use crate::model::Variant;

mod exif;
mod jpeg;
mod png;
mod webp;

/// How an image is stored. Two headers are equal if decoding both takes the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) format: Format,
    /// As stored, before it is turned.
    pub(super) width: u32,
    pub(super) height: u32,
    /// Of 8 bits each, once decoded: 1 grey, 2 grey and alpha, 3 RGB, 4 RGB and alpha.
    pub(super) channels: u8,
    pub(super) orientation: Orientation,
}

/// The formats that are resized, each into itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    Jpeg {
        /// What its coefficients take in memory while it is decoded, in bytes: those that come in several scans are
        /// kept whole.
        coefficients_bytes: u64,
        /// Whether it is decoded into planes, those of colour at half of the width and height.
        planes: bool,
    },
    Png,
    WebP {
        /// Lossless ones are decoded whole before they are given out, in 4 bytes a pixel.
        lossless: bool,
    },
}

/// How the stored image is to be turned to be seen: the value of the Exif tag, 1 to 8.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Orientation(u8);

impl Orientation {
    /// As it is stored.
    pub(super) const UPRIGHT: Self = Self(1);

    pub(super) fn of_exif(value: u16) -> Option<Self> {
        u8::try_from(value).ok().filter(|value| (1..=8).contains(value)).map(Self)
    }

    pub(super) const fn as_exif(self) -> u8 {
        self.0
    }
}

impl Header {
    /// Reads the header of the image at the start of `source`.
    pub(super) fn read<R: Read + Seek>(source: R) -> Result<Self, Unsuitable> {
        let mut source = Source(BufReader::with_capacity(4096, source));
        let header = match source.magic().map_err(Unsuitable::Unreadable)? {
            [0xff, 0xd8, 0xff, ..] => jpeg::read(&mut source),
            [0x89, b'P', b'N', b'G', b'\r', b'\n', 0x1a, b'\n', ..] => png::read(&mut source),
            [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P'] => webp::read(&mut source),
            _ => return Err(Unsuitable::OtherType),
        }?;
        if header.width == 0 || header.height == 0 {
            return Err(Unsuitable::broken("it has no pixels"));
        }
        Ok(header)
    }

    pub(super) fn pixels(&self) -> u64 {
        u64::from(self.width) * u64::from(self.height)
    }

    /// The width and height of `variant`, before it is turned: rounded down, as the reference does, but never nothing.
    pub(super) fn scaled(&self, variant: Variant) -> [u32; 2] {
        let of = |side: u32| (u64::from(side) * u64::from(variant.hundredths()) / 100).max(1) as u32;
        [of(self.width), of(self.height)]
    }

    /// At one of how many parts of its width and height the image is decoded, to be scaled to `size`.
    ///
    /// JPEG gives a half for two thirds of the time. It has to be 1.5 times what is wanted, or detail is lost; other
    /// fractions than powers of two are slower than the whole, and an eighth is blurred. Of several scans nearly all of
    /// the time goes into reading them, so there the whole is decoded, once for all variants.
    pub(super) fn shrink(&self, size: [u32; 2]) -> u32 {
        let halved = [self.width, self.height].map(|side| side.div_ceil(2));
        let enough = halved.into_iter().zip(size).all(|(half, wanted)| half * 2 >= wanted * 3);
        let one_scan = matches!(self.format, Format::Jpeg { coefficients_bytes: 0, .. });
        let shrinks = super::jpeg::SHRINKS && one_scan;
        if shrinks && enough { 2 } else { 1 }
    }
}

/// A file that is read from its start, whose end where more should come makes the image broken.
struct Source<R>(BufReader<R>);

impl<R: Read + Seek> Source<R> {
    /// The first bytes, all zero where there are none. What tells the format stays to be read by nobody.
    fn magic(&mut self) -> io::Result<[u8; 12]> {
        let mut magic = [0; 12];
        let mut filled = 0;
        while filled < magic.len() {
            match self.0.read(&mut magic[filled..]) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.0.seek_relative(-(filled as i64))?;
        Ok(magic)
    }

    fn bytes<const N: usize>(&mut self) -> Result<[u8; N], Unsuitable> {
        let mut bytes = [0; N];
        self.0.read_exact(&mut bytes).map_err(cut_off)?;
        Ok(bytes)
    }

    /// The next `length` bytes, or as many of them as are used for anything.
    fn up_to_64_kib(&mut self, length: u32) -> Result<Vec<u8>, Unsuitable> {
        let taken = length.min(1 << 16);
        let mut bytes = Vec::new();
        (&mut self.0).take(taken.into()).read_to_end(&mut bytes).map_err(cut_off)?;
        if bytes.len() < taken as usize {
            return Err(cut_off(ErrorKind::UnexpectedEof.into()));
        }
        self.skip(length - taken)?;
        Ok(bytes)
    }

    fn skip(&mut self, length: u32) -> Result<(), Unsuitable> {
        self.0.seek_relative(length.into()).map_err(cut_off)
    }
}

fn cut_off(error: io::Error) -> Unsuitable {
    match error.kind() {
        ErrorKind::UnexpectedEof => Unsuitable::broken("it ends within its header"),
        _ => Unsuitable::Unreadable(error),
    }
}
