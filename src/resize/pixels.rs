//! A decoded image: scaled and turned.
//!
//! Either pixels of all channels, or a plane for each channel of which those of colour are half as wide and high, which
//! is how JPEG stores photographs: half as many values to be scaled, and nothing to be converted.

use std::ops::{Deref, Range};
use std::rc::Rc;

use fast_image_resize::images::{Image, ImageRef};
use fast_image_resize::{FilterType, PixelType, ResizeAlg, ResizeOptions, Resizer};

use super::Unsuitable;
use super::header::Orientation;

/// As many rows at a time are scaled as their halfway form fits into the processor's cache: memory that is touched for
/// the first time costs as much as the work on it.
const BAND_ROWS: u32 = 1024;

/// A decoded image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Picture {
    /// All channels of a pixel together.
    Packed(Pixels),
    /// Brightness, and two of colour at half of its width and height, rounded up.
    Planes([Pixels; 3]),
}

impl Picture {
    /// Scales what lies within `extent` of the upper left corner to `size`. An image that was decoded at half of its
    /// size is rounded up, so that its last column may be half outside.
    pub(super) fn scaled(&self, extent: [f64; 2], size: [u32; 2]) -> Result<Self, Unsuitable> {
        let mut resizer = Resizer::new();
        match self {
            Self::Packed(pixels) => Ok(Self::Packed(pixels.scaled(extent, size, &mut resizer)?)),
            Self::Planes([brightness, blue, red]) => {
                let (half_extent, half_size) = (extent.map(|side| side / 2.0), size.map(|side| side.div_ceil(2)));
                Ok(Self::Planes([
                    brightness.scaled(extent, size, &mut resizer)?,
                    blue.scaled(half_extent, half_size, &mut resizer)?,
                    red.scaled(half_extent, half_size, &mut resizer)?,
                ]))
            }
        }
    }

    /// Turns the image to be seen as it was meant.
    pub(super) fn turned(self, orientation: Orientation) -> Self {
        match self {
            Self::Packed(pixels) => Self::Packed(pixels.turned(orientation)),
            Self::Planes(planes) => Self::Planes(planes.map(|plane| plane.turned(orientation))),
        }
    }

    /// The pixels, which planes have none of.
    pub(super) fn packed(&self) -> Result<&Pixels, Unsuitable> {
        match self {
            Self::Packed(pixels) => Ok(pixels),
            Self::Planes(_) => Err(Unsuitable::OtherCoding("planes where pixels belong")),
        }
    }
}

/// Rows of pixels without gaps, of 8 bits a channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pixels {
    pub(super) width: u32,
    pub(super) height: u32,
    /// Bytes of each: 1 grey, 2 grey and alpha, 3 RGB, 4 RGB and alpha.
    pub(super) channels: u8,
    pub(super) bytes: Bytes,
}

/// A part of memory that several may have parts of: planes come from the decoder in one piece.
#[derive(Debug, Clone)]
pub(super) struct Bytes {
    whole: Rc<Vec<u8>>,
    part: Range<usize>,
}

impl Bytes {
    /// The first `size` bytes of these, and the rest.
    #[cfg(feature = "images")]
    pub(super) fn split(self, size: usize) -> (Self, Self) {
        let Range { start, end } = self.part;
        let middle = (start + size).min(end);
        (Self { whole: Rc::clone(&self.whole), part: start..middle }, Self { whole: self.whole, part: middle..end })
    }
}

impl From<Vec<u8>> for Bytes {
    fn from(bytes: Vec<u8>) -> Self {
        Self { part: 0..bytes.len(), whole: Rc::new(bytes) }
    }
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.whole[self.part.clone()]
    }
}

impl PartialEq for Bytes {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl Eq for Bytes {}

impl Pixels {
    fn scaled(&self, extent: [f64; 2], size: [u32; 2], resizer: &mut Resizer) -> Result<Self, Unsuitable> {
        let kind = match self.channels {
            1 => PixelType::U8,
            2 => PixelType::U8x2,
            3 => PixelType::U8x3,
            _ => PixelType::U8x4,
        };
        let from = ImageRef::new(self.width, self.height, &self.bytes, kind).map_err(Unsuitable::broken)?;
        let alpha = self.channels.is_multiple_of(2);
        let options = ResizeOptions::new()
            .resize_alg(ResizeAlg::Convolution(FilterType::Lanczos3))
            // What is transparent has a colour, too, that must not bleed into its surroundings.
            .use_alpha(alpha);
        let [width, height] = size;
        let row_size = width as usize * usize::from(self.channels);
        let mut bytes = vec![0; row_size * height as usize];
        // Transparent images are multiplied whole, for each band anew.
        let rows_max = if alpha { height } else { BAND_ROWS };
        let rows_scale = extent[1] / f64::from(height);
        for (band, first_row) in bytes.chunks_mut(row_size * rows_max as usize).zip((0..).step_by(rows_max as usize)) {
            let rows = (band.len() / row_size) as u32;
            let top = f64::from(first_row) * rows_scale;
            let high = (f64::from(rows) * rows_scale).min(f64::from(self.height) - top);
            let mut to = Image::from_slice_u8(width, rows, band, kind).map_err(Unsuitable::broken)?;
            let options = options.crop(0.0, top, extent[0], high);
            resizer.resize(&from, &mut to, &options).map_err(Unsuitable::broken)?;
        }
        Ok(Self { width, height, channels: self.channels, bytes: bytes.into() })
    }

    fn turned(self, orientation: Orientation) -> Self {
        match self.channels {
            _ if orientation == Orientation::UPRIGHT => self,
            1 => self.turned_as::<1>(orientation),
            2 => self.turned_as::<2>(orientation),
            3 => self.turned_as::<3>(orientation),
            _ => self.turned_as::<4>(orientation),
        }
    }

    fn turned_as<const CHANNELS: usize>(self, orientation: Orientation) -> Self {
        let (pixels, _) = self.bytes.as_chunks::<CHANNELS>();
        let [columns, rows] = [self.width as usize, self.height as usize];
        let (right, bottom) = (columns - 1, rows - 1);
        // Where the pixel of column x and row y of the result comes from.
        let from: fn(usize, usize, usize, usize) -> (usize, usize) = match orientation.as_exif() {
            2 => |x, y, right, _| (right - x, y),
            3 => |x, y, right, bottom| (right - x, bottom - y),
            4 => |x, y, _, bottom| (x, bottom - y),
            5 => |x, y, _, _| (y, x),
            6 => |x, y, _, bottom| (y, bottom - x),
            7 => |x, y, right, bottom| (right - y, bottom - x),
            8 => |x, y, right, _| (right - y, x),
            _ => |x, y, _, _| (x, y),
        };
        let lies = orientation.as_exif() >= 5;
        let [width, height] = if lies { [self.height, self.width] } else { [self.width, self.height] };
        let mut bytes = Vec::with_capacity(self.bytes.len());
        for y in 0..height as usize {
            for x in 0..width as usize {
                let (column, row) = from(x, y, right, bottom);
                bytes.extend_from_slice(&pixels[row * columns + column]);
            }
        }
        Self { width, height, channels: self.channels, bytes: bytes.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_orientation_turns_as_exif_says() {
        // 1 2 3
        // 4 5 6
        for (orientation, width, turned) in [
            (1, 3, [1, 2, 3, 4, 5, 6]),
            (2, 3, [3, 2, 1, 6, 5, 4]),
            (3, 3, [6, 5, 4, 3, 2, 1]),
            (4, 3, [4, 5, 6, 1, 2, 3]),
            (5, 2, [1, 4, 2, 5, 3, 6]),
            (6, 2, [4, 1, 5, 2, 6, 3]),
            (7, 2, [6, 3, 5, 2, 4, 1]),
            (8, 2, [3, 6, 2, 5, 1, 4]),
        ] {
            let orientation = Orientation::of_exif(orientation).expect("it is one of eight");
            for channels in 1..=4 {
                let wide = |values: [u8; 6]| -> Bytes {
                    values.into_iter().flat_map(|value| vec![value; channels]).collect::<Vec<_>>().into()
                };
                let image = Pixels { width: 3, height: 2, channels: channels as u8, bytes: wide([1, 2, 3, 4, 5, 6]) };
                let expected = Pixels { width, height: 6 / width, channels: channels as u8, bytes: wide(turned) };
                assert_eq!(image.turned(orientation), expected, "{orientation:?}");
            }
        }
    }

    #[test]
    fn colours_of_transparent_pixels_do_not_bleed() {
        let column = |x| if x < 8 { [0, 0, 255, 0] } else { [255, 0, 0, 255] };
        let bytes = (0..16 * 16).flat_map(|index| column(index % 16)).collect::<Vec<_>>().into();
        let image = Pixels { width: 16, height: 16, channels: 4, bytes };
        let scaled = image.scaled([16.0, 16.0], [5, 5], &mut Resizer::new()).unwrap();
        for pixel in scaled.bytes.chunks_exact(4) {
            assert!(pixel[3] == 0 || pixel[2] == 0, "{pixel:?}");
        }
    }
}
