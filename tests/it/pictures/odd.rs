//! Odd images: every size, depth and turn, and what is broken, hostile, or not what its name says.

use std::fs;
use std::io::Cursor;
use std::path::{Path, PathBuf};

use image::codecs::jpeg::JpegEncoder;
use image::{DynamicImage, ImageOutputFormat, Rgb, RgbImage};

/// Writes them all into `folder`, the same each time: more than 300.
pub fn write(folder: &Path) -> Vec<PathBuf> {
    fs::create_dir_all(folder).unwrap();
    let all = [depths(), turned(), cut_off(), damaged(), hostile(), misnamed()].concat();
    let paths = all.into_iter().map(|(name, bytes)| {
        let path = folder.join(name);
        fs::write(&path, bytes).unwrap();
        path
    });
    paths.collect()
}

type Files = Vec<(String, Vec<u8>)>;

/// Waves of light on a slope of colours, which is as smooth as photographs are.
fn drawn(width: u32, height: u32) -> DynamicImage {
    let picture = RgbImage::from_fn(width, height, |x, y| {
        Rgb([0, 1, 2].map(|channel| {
            let wave = (f64::from(x * (channel + 1)) / 9.0).sin() + (f64::from(y) / 7.0).cos();
            (f64::from(x * 90 / width + y * 90 / height) + 16.0 * (wave + 2.0)) as u8
        }))
    });
    DynamicImage::ImageRgb8(picture)
}

fn png_of(picture: &DynamicImage) -> Vec<u8> {
    let mut file = Cursor::new(Vec::new());
    picture.write_to(&mut file, ImageOutputFormat::Png).unwrap();
    file.into_inner()
}

fn jpeg_of(picture: &DynamicImage) -> Vec<u8> {
    let mut file = Vec::new();
    JpegEncoder::new_with_quality(&mut file, 85).encode_image(picture).unwrap();
    file
}

fn depths() -> Files {
    let sizes = [(1, 1), (2, 1), (1, 2), (3, 3), (7, 5), (16, 16), (17, 33), (64, 48), (1, 500), (500, 1), (255, 257)];
    let mut all = Vec::new();
    for (width, height) in sizes {
        let colours = drawn(width, height);
        for (kind, picture) in [
            ("l8", DynamicImage::ImageLuma8(colours.to_luma8())),
            ("la8", DynamicImage::ImageLumaA8(colours.to_luma_alpha8())),
            ("rgba8", DynamicImage::ImageRgba8(colours.to_rgba8())),
            ("l16", DynamicImage::ImageLuma16(colours.to_luma16())),
            ("rgb16", DynamicImage::ImageRgb16(colours.to_rgb16())),
            ("rgba16", DynamicImage::ImageRgba16(colours.to_rgba16())),
            ("rgb8", colours.clone()),
        ] {
            all.push((format!("{kind}-{width}x{height}.png"), png_of(&picture)));
        }
        let grey = DynamicImage::ImageLuma8(colours.to_luma8());
        all.push((format!("rgb-{width}x{height}.jpg"), jpeg_of(&colours)));
        all.push((format!("grey-{width}x{height}.jpg"), jpeg_of(&grey)));
    }
    all
}

/// JPEG with each orientation, and with ones that do not exist.
fn turned() -> Files {
    let upright = jpeg_of(&drawn(90, 60));
    let turned = (0..=10_u8).map(|orientation| {
        let tiff = [b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0", &[orientation][..], &[0; 6]].concat();
        let length = (2 + 6 + tiff.len() as u16).to_be_bytes();
        let segment = [b"\xff\xe1", length.as_slice(), b"Exif\0\0", &tiff].concat();
        (format!("turned-{orientation}.jpg"), [&upright[..2], &segment, &upright[2..]].concat())
    });
    turned.collect()
}

fn whole() -> [(&'static str, Vec<u8>); 2] {
    let picture = drawn(120, 90);
    [("png", png_of(&picture)), ("jpg", jpeg_of(&picture))]
}

fn cut_off() -> Files {
    let cut = |(ending, file): (&'static str, Vec<u8>)| {
        let part = move |sixteenths| file[..file.len() * sixteenths / 16].to_vec();
        (0..16).map(move |sixteenths| (format!("cut-{sixteenths}.{ending}"), part(sixteenths)))
    };
    whole().into_iter().flat_map(cut).collect()
}

fn damaged() -> Files {
    let damage = |(ending, file): (&'static str, Vec<u8>)| {
        (0..80_usize).map(move |place| {
            let mut damaged = file.clone();
            // The headers closely, then ever more sparsely.
            let position = place * place * place / 320 + place;
            let length = damaged.len();
            damaged[position % length] ^= 1 << (place % 8);
            (format!("damaged-{place}.{ending}"), damaged)
        })
    };
    whole().into_iter().flat_map(damage).collect()
}

/// Small files that claim to be huge, or to be of a kind that is not resized.
fn hostile() -> Files {
    let frame = |[width, height]: [u16; 2], components: u8, marker: u8| {
        let [[h1, h0], [w1, w0]] = [height.to_be_bytes(), width.to_be_bytes()];
        let mut file = vec![0xff, 0xd8, 0xff, marker, 0, 8 + 3 * components, 8, h1, h0, w1, w0, components];
        (1..=components).for_each(|id| file.extend([id, 0x11, 0]));
        file.extend([0xff, 0xda, 0, 6 + 2 * components, components]);
        (1..=components).for_each(|id| file.extend([id, 0]));
        file.extend([0, 63, 0, 0xff, 0xd9]);
        file
    };
    let header = |flags: u8| [b"RIFF\x1a\0\0\0WEBPVP8X\x0a\0\0\0", &[flags, 0, 0, 0][..], &[0xff; 6]].concat();
    let bomb = bits_of_zeros(50_000, 50_000);
    let animated = {
        let mut file = png_of(&drawn(9, 9));
        file.splice(33..33, chunk(b"acTL", &[0, 0, 0, 1, 0, 0, 0, 0]));
        file
    };
    vec![
        ("bomb.png".to_owned(), bomb.clone()),
        ("bomb-header.png".to_owned(), bomb[..41].to_vec()),
        ("bomb-within-the-limit.png".to_owned(), bits_of_zeros(4_000, 4_000)),
        ("animated.png".to_owned(), animated),
        ("huge.jpg".to_owned(), frame([0xffff; 2], 3, 0xc0)),
        ("empty-scan.jpg".to_owned(), frame([5_000; 2], 3, 0xc2)),
        ("inks.jpg".to_owned(), frame([90; 2], 4, 0xc0)),
        ("two-colours.jpg".to_owned(), frame([90; 2], 2, 0xc0)),
        ("lossless.jpg".to_owned(), frame([90; 2], 3, 0xc3)),
        ("no-pixels.jpg".to_owned(), frame([0, 90], 3, 0xc0)),
        ("huge.webp".to_owned(), header(0)),
        ("animated.webp".to_owned(), header(2)),
        ("empty.jpg".to_owned(), Vec::new()),
    ]
}

/// A valid PNG of one bit a pixel, all black.
fn bits_of_zeros(width: u32, height: u32) -> Vec<u8> {
    let mut file = Vec::new();
    let mut encoder = png::Encoder::new(&mut file, width, height);
    encoder.set_color(png::ColorType::Grayscale);
    encoder.set_depth(png::BitDepth::One);
    encoder.set_compression(png::Compression::High);
    let mut writer = encoder.write_header().unwrap();
    let mut rows = writer.stream_writer().unwrap();
    let row = vec![0; width.div_ceil(8) as usize];
    (0..height).for_each(|_| std::io::Write::write_all(&mut rows, &row).unwrap());
    rows.finish().unwrap();
    writer.finish().unwrap();
    file
}

fn chunk(kind: &[u8; 4], content: &[u8]) -> Vec<u8> {
    let sum = kind.iter().chain(content).fold(u32::MAX, |sum, byte| {
        (0..8).fold(sum ^ u32::from(*byte), |sum, _| (sum >> 1) ^ if sum & 1 == 1 { 0xedb8_8320 } else { 0 })
    });
    [&(content.len() as u32).to_be_bytes(), kind.as_slice(), content, &(!sum).to_be_bytes()].concat()
}

/// Files whose ending says something else than their bytes.
fn misnamed() -> Files {
    let others =
        [("text", b"No image.\n".repeat(99)), ("zeros", vec![0; 4096]), ("gif", b"GIF89a\x01\0\x01\0".to_vec())];
    let named = whole()
        .into_iter()
        .chain(others)
        .flat_map(|(kind, file)| ["jpg", "png", "webp"].map(|ending| (format!("{kind}-as.{ending}"), file.clone())));
    named.collect()
}
