//! JPEG by libjpeg-turbo.

use std::borrow::Cow;

use turbojpeg::{
    Colorspace, Compressor, DecompressHeader, Decompressor, Image, PixelFormat, ScalingFactor, Subsamp, YuvImage,
    YuvPlanesImage,
};

use super::super::Unsuitable;
use super::super::header::{Format, Header};
use super::super::pixels::{Bytes, Picture, Pixels};
use super::{QUALITY, SCANS_MAX};

/// Whether a fraction of the size can be decoded for less than the whole.
pub(in super::super) const SHRINKS: bool = true;

/// Whether colour that is stored at half of the size stays so.
pub(in super::super) const PLANES: bool = true;

pub(super) fn decode(source: &[u8], header: &Header, shrink: u32) -> Result<Picture, Unsuitable> {
    let mut decoder = Decompressor::new().map_err(Unsuitable::broken)?;
    decoder.set_scan_limit(SCANS_MAX).map_err(Unsuitable::broken)?;
    let found = decoder.read_header(source).map_err(Unsuitable::broken)?;
    if (found.width, found.height) != (header.width as usize, header.height as usize) {
        return Err(Unsuitable::Changed);
    }
    let factor = ScalingFactor::new(1, shrink as usize);
    decoder.set_scaling_factor(factor).map_err(Unsuitable::broken)?;
    let scaled = found.scaled(factor);
    match (header.format, header.channels, found.colorspace) {
        (Format::Jpeg { planes: true, .. }, 3, Colorspace::YCbCr) if found.subsamp == Subsamp::Sub2x2 => {
            decode_planes(source, &mut decoder, &scaled).map(Picture::Planes)
        }
        (Format::Jpeg { planes: false, .. }, 3, Colorspace::YCbCr | Colorspace::RGB) => {
            decode_packed(source, &mut decoder, &scaled, PixelFormat::RGB).map(Picture::Packed)
        }
        (_, 1, Colorspace::Gray) => {
            decode_packed(source, &mut decoder, &scaled, PixelFormat::GRAY).map(Picture::Packed)
        }
        _ => Err(Unsuitable::OtherCoding("colours of another kind than their resolution tells")),
    }
}

fn decode_packed(
    source: &[u8],
    decoder: &mut Decompressor,
    scaled: &DecompressHeader,
    format: PixelFormat,
) -> Result<Pixels, Unsuitable> {
    let DecompressHeader { width, height, .. } = *scaled;
    let pitch = width * format.size();
    let mut bytes = vec![0; pitch * height];
    let image = Image { pixels: bytes.as_mut_slice(), width, pitch, height, format };
    decoder.decompress(source, image).map_err(Unsuitable::broken)?;
    Ok(Pixels { width: width as u32, height: height as u32, channels: format.size() as u8, bytes: bytes.into() })
}

fn decode_planes(
    source: &[u8],
    decoder: &mut Decompressor,
    scaled: &DecompressHeader,
) -> Result<[Pixels; 3], Unsuitable> {
    let DecompressHeader { width, height, subsamp, .. } = *scaled;
    let image = YuvImage { pixels: (), width, align: 1, height, subsamp };
    let sizes = [image.y_size(), image.uv_size(), image.uv_size()];
    let mut bytes = vec![0; sizes.iter().map(|(width, height)| width * height).sum()];
    let YuvImage { width, align, height, subsamp, .. } = image;
    let image = YuvImage { pixels: bytes.as_mut_slice(), width, align, height, subsamp };
    decoder.decompress_to_yuv(source, image).map_err(Unsuitable::broken)?;
    let plane = |(width, height), bytes| Pixels { width: width as u32, height: height as u32, channels: 1, bytes };
    let [brightness_size, colour_size] = [sizes[0], sizes[1]];
    let (brightness, colours) = Bytes::from(bytes).split(brightness_size.0 * brightness_size.1);
    let (blue, red) = colours.split(colour_size.0 * colour_size.1);
    Ok([plane(brightness_size, brightness), plane(colour_size, blue), plane(colour_size, red)])
}

pub(super) fn encode(picture: &Picture) -> Result<Vec<u8>, Unsuitable> {
    let mut encoder = Compressor::new().map_err(Unsuitable::broken)?;
    encoder.set_quality(QUALITY.into()).map_err(Unsuitable::broken)?;
    match picture {
        Picture::Packed(pixels) => {
            let grey = pixels.channels == 1;
            encoder.set_subsamp(if grey { Subsamp::Gray } else { Subsamp::Sub2x2 }).map_err(Unsuitable::broken)?;
            let format = if grey { PixelFormat::GRAY } else { PixelFormat::RGB };
            let [width, height] = [pixels.width, pixels.height].map(|side| side as usize);
            let image = Image { pixels: pixels.bytes.as_ref(), width, pitch: width * format.size(), height, format };
            encoder.compress_to_vec(image).map_err(Unsuitable::broken)
        }
        Picture::Planes([brightness, blue, red]) => {
            let even = even(brightness);
            let image = YuvPlanesImage {
                y_plane: even.as_ref(),
                u_plane: blue.bytes.as_ref(),
                v_plane: red.bytes.as_ref(),
                width: brightness.width as usize,
                height: brightness.height as usize,
                y_stride: brightness.width.next_multiple_of(2) as usize,
                u_stride: blue.width as usize,
                v_stride: red.width as usize,
                subsamp: Subsamp::Sub2x2,
            };
            encoder.compress_yuv_planes_to_vec(&image).map_err(Unsuitable::broken)
        }
    }
}

/// The bytes of `plane`, its last column and row repeated where their number is odd: each colour belongs to four.
fn even(plane: &Pixels) -> Cow<'_, [u8]> {
    let (odd_column, odd_row) = (plane.width % 2 == 1, plane.height % 2 == 1);
    if !odd_column && !odd_row {
        return Cow::Borrowed(&plane.bytes);
    }
    let rows = plane.bytes.chunks_exact(plane.width as usize);
    let last = rows.clone().next_back().filter(|_| odd_row);
    let mut bytes = Vec::with_capacity(plane.bytes.len() + plane.height as usize + plane.width as usize + 1);
    for row in rows.chain(last) {
        bytes.extend_from_slice(row);
        bytes.extend(row.last().filter(|_| odd_column));
    }
    Cow::Owned(bytes)
}
