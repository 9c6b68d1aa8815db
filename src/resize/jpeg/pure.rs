//! JPEG in Rust: decoded by zune-jpeg, encoded by jpeg-encoder.

use jpeg_encoder::{ChromaSubsamplingMethod, ColorType, Encoder, SamplingFactor};
use zune_jpeg::JpegDecoder;
use zune_jpeg::zune_core::bytestream::ZCursor;
use zune_jpeg::zune_core::colorspace::ColorSpace;
use zune_jpeg::zune_core::options::DecoderOptions;

use super::super::Unsuitable;
use super::super::header::Header;
use super::super::pixels::{Picture, Pixels};
use super::{QUALITY, SCANS_MAX};

/// Whether a fraction of the size can be decoded for less than the whole.
pub(in super::super) const SHRINKS: bool = false;

/// Whether colour that is stored at half of the size stays so.
pub(in super::super) const PLANES: bool = false;

pub(super) fn decode(source: &[u8], header: &Header, _shrink: u32) -> Result<Picture, Unsuitable> {
    let Header { width, height, channels, .. } = *header;
    let colours = if channels == 1 { ColorSpace::Luma } else { ColorSpace::RGB };
    let options = DecoderOptions::default()
        // What is cut off would be grey.
        .set_strict_mode(true)
        .set_max_width(width as usize)
        .set_max_height(height as usize)
        .jpeg_set_max_scans(SCANS_MAX as usize)
        .jpeg_set_out_colorspace(colours);
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(source), options);
    decoder.decode_headers().map_err(Unsuitable::broken)?;
    if decoder.dimensions() != Some((width as usize, height as usize)) {
        return Err(Unsuitable::Changed);
    }
    let bytes = decoder.decode().map_err(Unsuitable::broken)?;
    if bytes.len() != width as usize * height as usize * usize::from(channels) {
        return Err(Unsuitable::Changed);
    }
    Ok(Picture::Packed(Pixels { width, height, channels, bytes: bytes.into() }))
}

pub(super) fn encode(picture: &Picture) -> Result<Vec<u8>, Unsuitable> {
    let pixels = picture.packed()?;
    let too_large = |_| Unsuitable::OtherCoding("larger than JPEG can be");
    let width = u16::try_from(pixels.width).map_err(too_large)?;
    let height = u16::try_from(pixels.height).map_err(too_large)?;
    let mut file = Vec::new();
    let mut encoder = Encoder::new(&mut file, QUALITY);
    encoder.set_sampling_factor(SamplingFactor::F_2_2);
    // The default takes one colour of four.
    encoder.set_chroma_subsampling_method(ChromaSubsamplingMethod::Average);
    let colours = if pixels.channels == 1 { ColorType::Luma } else { ColorType::Rgb };
    encoder.encode(&pixels.bytes, width, height, colours).map_err(Unsuitable::broken)?;
    Ok(file)
}
