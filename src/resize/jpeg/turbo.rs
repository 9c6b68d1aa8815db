//! JPEG by libjpeg-turbo.

use turbojpeg::{Colorspace, Compressor, Decompressor, Image, PixelFormat, ScalingFactor, Subsamp};

use super::super::Unsuitable;
use super::super::header::Header;
use super::super::pixels::Pixels;
use super::{QUALITY, SCANS_MAX};

/// Whether a fraction of the size can be decoded for less than the whole.
pub(in super::super) const SHRINKS: bool = true;

pub(super) fn decode(source: &[u8], header: &Header, shrink: u32) -> Result<Pixels, Unsuitable> {
    let mut decoder = Decompressor::new().map_err(Unsuitable::broken)?;
    decoder.set_scan_limit(SCANS_MAX).map_err(Unsuitable::broken)?;
    let found = decoder.read_header(source).map_err(Unsuitable::broken)?;
    let [width, height] = [header.width, header.height].map(|side| side as usize);
    if (found.width, found.height) != (width, height) {
        return Err(Unsuitable::Changed);
    }
    let (channels, format) = match (header.channels, found.colorspace) {
        (1, Colorspace::Gray) => (1, PixelFormat::GRAY),
        (3, Colorspace::YCbCr | Colorspace::RGB) => (3, PixelFormat::RGB),
        _ => return Err(Unsuitable::Changed),
    };
    let factor = ScalingFactor::new(1, shrink as usize);
    decoder.set_scaling_factor(factor).map_err(Unsuitable::broken)?;
    let [width, height] = [width, height].map(|side| factor.scale(side));
    let pitch = width * channels;
    let mut bytes = vec![0; pitch * height];
    let image = Image { pixels: bytes.as_mut_slice(), width, pitch, height, format };
    decoder.decompress(source, image).map_err(Unsuitable::broken)?;
    Ok(Pixels { width: width as u32, height: height as u32, channels: channels as u8, bytes })
}

pub(super) fn encode(pixels: &Pixels) -> Result<Vec<u8>, Unsuitable> {
    let (format, sampling) =
        if pixels.channels == 1 { (PixelFormat::GRAY, Subsamp::Gray) } else { (PixelFormat::RGB, Subsamp::Sub2x2) };
    let mut encoder = Compressor::new().map_err(Unsuitable::broken)?;
    encoder.set_quality(QUALITY.into()).map_err(Unsuitable::broken)?;
    encoder.set_subsamp(sampling).map_err(Unsuitable::broken)?;
    let [width, height] = [pixels.width, pixels.height].map(|side| side as usize);
    let pitch = width * usize::from(pixels.channels);
    let image = Image { pixels: pixels.bytes.as_slice(), width, pitch, height, format };
    encoder.compress_to_vec(image).map_err(Unsuitable::broken)
}
