//! The only code that calls libwebp: whole images in and out of memory that Rust owns.
//!
//! Not by a safe crate: the one that exists carries a libwebp of 2023, and what is decoded here comes from strangers.
#![expect(unsafe_code, reason = "libwebp is C; every pointer given to it is to memory that outlives the call")]

use std::ffi::{c_int, c_void};
use std::mem::MaybeUninit;
use std::slice;

use libwebp_sys::{
    VP8StatusCode, WebPConfig, WebPDecodeRGBAInto, WebPDecodeRGBInto, WebPEncode, WebPGetFeatures, WebPMemoryWrite,
    WebPMemoryWriter, WebPMemoryWriterClear, WebPPicture, WebPPictureFree, WebPPictureImportRGB, WebPPictureImportRGBA,
};

use super::super::Unsuitable;
use super::super::pixels::Pixels;

/// Decodes a still image that is of this `size` and of 3 or 4 `channels`.
pub(super) fn decode(source: &[u8], size: [u32; 2], channels: u8) -> Result<Pixels, Unsuitable> {
    let [width, height] = size;
    let mut features = MaybeUninit::uninit();
    // SAFETY: `source` is readable for its length, and `features` is written before success is answered.
    let features = unsafe {
        match WebPGetFeatures(source.as_ptr(), source.len(), features.as_mut_ptr()) {
            VP8StatusCode::VP8_STATUS_OK => features.assume_init(),
            _ => return Err(Unsuitable::broken("its image does not begin as it should")),
        }
    };
    if features.has_animation != 0 {
        return Err(Unsuitable::Animated);
    }
    let found = [features.width, features.height].map(|side| u32::try_from(side).unwrap_or(0));
    if found != size || channels != if features.has_alpha == 0 { 3 } else { 4 } {
        return Err(Unsuitable::Changed);
    }
    let stride = stride(width, channels)?;
    let mut bytes = vec![0; stride as usize * height as usize];
    let decode_into = if channels == 4 { WebPDecodeRGBAInto } else { WebPDecodeRGBInto };
    // SAFETY: `source` is readable and `bytes` writable for the lengths given, and libwebp writes no more than `stride`
    // times the height that it has just told, or refuses.
    let decoded = unsafe { decode_into(source.as_ptr(), source.len(), bytes.as_mut_ptr(), bytes.len(), stride) };
    if decoded.is_null() {
        return Err(Unsuitable::broken("its image is cut off or damaged"));
    }
    Ok(Pixels { width, height, channels, bytes: bytes.into() })
}

/// Encodes `pixels`, grey ones not among them.
pub(super) fn encode(pixels: &Pixels, quality: f32, method: i32) -> Result<Vec<u8>, Unsuitable> {
    let not_encoded = || Unsuitable::broken("libwebp does not encode it");
    let mut config = WebPConfig::new().map_err(|()| not_encoded())?;
    config.quality = quality;
    config.method = method;
    let stride = stride(pixels.width, pixels.channels)?;
    if !matches!(pixels.channels, 3 | 4) || pixels.bytes.len() != stride as usize * pixels.height as usize {
        return Err(not_encoded());
    }
    let mut picture = Picture(WebPPicture::new().map_err(|()| not_encoded())?);
    picture.0.width = c_int::try_from(pixels.width).map_err(|_| not_encoded())?;
    picture.0.height = c_int::try_from(pixels.height).map_err(|_| not_encoded())?;
    let import = if pixels.channels == 4 { WebPPictureImportRGBA } else { WebPPictureImportRGB };
    let mut output = Output(WebPMemoryWriter { mem: std::ptr::null_mut(), size: 0, max_size: 0, pad: [0] });
    picture.0.writer = Some(WebPMemoryWrite);
    picture.0.custom_ptr = (&raw mut output.0).cast::<c_void>();
    // SAFETY: the picture is initialised, its pixels are `stride` times its height bytes, as compared above; `output` is
    // what its writer expects and is moved by nobody before it is read.
    let encoded = unsafe {
        import(&raw mut picture.0, pixels.bytes.as_ptr(), stride) != 0
            && WebPEncode(&raw const config, &raw mut picture.0) != 0
    };
    if !encoded || output.0.mem.is_null() {
        return Err(not_encoded());
    }
    // SAFETY: the writer has put `size` bytes at `mem`, which is freed only when `output` is dropped.
    Ok(unsafe { slice::from_raw_parts(output.0.mem, output.0.size) }.to_vec())
}

fn stride(width: u32, channels: u8) -> Result<c_int, Unsuitable> {
    let bytes = u64::from(width) * u64::from(channels);
    c_int::try_from(bytes).map_err(|_| Unsuitable::OtherCoding("wider than WebP can be"))
}

/// Frees what libwebp has allocated for the pixels.
struct Picture(WebPPicture);

impl Drop for Picture {
    fn drop(&mut self) {
        // SAFETY: it was initialised, and is used by nobody after this.
        unsafe { WebPPictureFree(&raw mut self.0) }
    }
}

/// Frees what libwebp has allocated for the file.
struct Output(WebPMemoryWriter);

impl Drop for Output {
    fn drop(&mut self) {
        // SAFETY: as initialised or as libwebp's writer has left it.
        unsafe { WebPMemoryWriterClear(&raw mut self.0) }
    }
}
