//! PNG by the crate `png`: whatever the depth and palette, eight bits a channel come out and go in.

use std::io::Cursor;

use ::png::{BitDepth, ColorType, Compression, Decoder, Encoder, Info, Limits, Transformations};

use super::Unsuitable;
use super::header::Header;
use super::pixels::Pixels;

/// What chunks beside the image may take: a profile, unpacked.
const CHUNKS_BYTES_MAX: usize = 2 << 20;

pub(super) fn decode(source: &[u8], header: &Header) -> Result<Pixels, Unsuitable> {
    let mut decoder = decoder(source);
    decoder.set_transformations(Transformations::normalize_to_color8());
    decoder.set_ignore_iccp_chunk(true);
    let mut reader = decoder.read_info().map_err(Unsuitable::broken)?;
    let (colour, depth) = reader.output_color_type();
    let Header { width, height, channels, .. } = *header;
    let size = width as usize * height as usize * usize::from(channels);
    if (colour.samples(), depth, reader.output_buffer_size()) != (channels.into(), BitDepth::Eight, Some(size)) {
        return Err(Unsuitable::Changed);
    }
    let mut bytes = vec![0; size];
    reader.next_frame(&mut bytes).map_err(Unsuitable::broken)?;
    Ok(Pixels { width, height, channels, bytes: bytes.into() })
}

/// Encodes `pixels` as quickly as can be, with what says how the colours of `source` are meant.
pub(super) fn encode(source: &[u8], pixels: &Pixels) -> Result<Vec<u8>, Unsuitable> {
    let reader = decoder(source).read_info().map_err(Unsuitable::broken)?;
    let of_source = reader.info();
    let mut info = Info::with_size(pixels.width, pixels.height);
    info.bit_depth = BitDepth::Eight;
    info.color_type = match pixels.channels {
        1 => ColorType::Grayscale,
        2 => ColorType::GrayscaleAlpha,
        3 => ColorType::Rgb,
        _ => ColorType::Rgba,
    };
    info.srgb = of_source.srgb;
    info.source_gamma = of_source.source_gamma;
    info.source_chromaticities = of_source.source_chromaticities;
    info.icc_profile.clone_from(&of_source.icc_profile);
    info.coding_independent_code_points = of_source.coding_independent_code_points;
    let mut bytes = Vec::new();
    let mut encoder = Encoder::with_info(&mut bytes, info).map_err(Unsuitable::broken)?;
    encoder.set_compression(Compression::Fast);
    let mut writer = encoder.write_header().map_err(Unsuitable::broken)?;
    writer.write_image_data(&pixels.bytes).map_err(Unsuitable::broken)?;
    writer.finish().map_err(Unsuitable::broken)?;
    Ok(bytes)
}

fn decoder(source: &[u8]) -> Decoder<Cursor<&[u8]>> {
    let mut decoder = Decoder::new_with_limits(Cursor::new(source), Limits { bytes: CHUNKS_BYTES_MAX });
    decoder.set_ignore_text_chunk(true);
    decoder
}
