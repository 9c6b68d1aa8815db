//! Tests of the whole of the module, over images that are drawn here.

use std::io::{Read, Seek, SeekFrom};

use super::pixels::Pixels;
use super::*;

/// Waves of light on a slope of colours, which is as smooth as photographs are.
fn drawn(width: u32, height: u32, channels: u8) -> Pixels {
    let value = |x: u32, y: u32, channel: u32| {
        let wave = (f64::from(x * (channel + 1)) / 9.0).sin() + (f64::from(y) / 7.0).cos();
        (f64::from(x * 90 / width + y * 90 / height) + 16.0 * (wave + 2.0)) as u8
    };
    let places = (0..height).flat_map(|y| (0..width).map(move |x| (x, y)));
    let bytes = places.flat_map(|(x, y)| (0..u32::from(channels)).map(move |channel| value(x, y, channel)));
    Pixels { width, height, channels, bytes: bytes.collect::<Vec<_>>().into() }
}

/// One of each kind that is made: JPEG, PNG, WebP.
fn files(width: u32, height: u32) -> [(&'static str, Vec<u8>); 3] {
    let image = drawn(width, height, 3);
    let empty_png = png_of(&[&chunk(b"IHDR", &[0, 0, 0, 1, 0, 0, 0, 1, 8, 0, 0, 0, 0]), &chunk(b"IDAT", &[])]);
    [
        ("image/jpeg", jpeg::encode(&[], &Picture::Packed(image.clone())).unwrap()),
        ("image/png", png::encode(&empty_png, &image).unwrap()),
        ("image/webp", webp::encode(&[], &image).unwrap()),
    ]
}

fn plan(file: &[u8]) -> Result<Plan, Unsuitable> {
    Plan::read(Cursor::new(file), file.len() as u64, &Config::default())
}

fn made(file: &[u8]) -> Result<Vec<Made>, Unsuitable> {
    make(file, &plan(file)?, &Variant::MADE)
}

fn size(file: &[u8]) -> [u32; 2] {
    let header = Header::read(Cursor::new(file)).unwrap();
    [header.width, header.height]
}

fn chunk(kind: &[u8; 4], content: &[u8]) -> Vec<u8> {
    let sum = kind.iter().chain(content).fold(u32::MAX, |sum, byte| {
        (0..8).fold(sum ^ u32::from(*byte), |sum, _| (sum >> 1) ^ if sum & 1 == 1 { 0xedb8_8320 } else { 0 })
    });
    [&(content.len() as u32).to_be_bytes(), kind.as_slice(), content, &(!sum).to_be_bytes()].concat()
}

fn png_of(chunks: &[&[u8]]) -> Vec<u8> {
    [b"\x89PNG\r\n\x1a\n", chunks.concat().as_slice()].concat()
}

fn png_header(width: u32, height: u32, depth: u8, colour: u8) -> Vec<u8> {
    chunk(b"IHDR", &[&width.to_be_bytes(), &height.to_be_bytes(), [depth, colour, 0, 0, 0].as_slice()].concat())
}

fn jpeg_segment(marker: u8, content: &[u8]) -> Vec<u8> {
    [&[0xff, marker], ((content.len() + 2) as u16).to_be_bytes().as_slice(), content].concat()
}

/// A file with `segment` after the start of `jpeg`.
fn with_segment(jpeg: &[u8], segment: &[u8]) -> Vec<u8> {
    [&jpeg[..2], segment, &jpeg[2..]].concat()
}

fn exif(orientation: u8) -> Vec<u8> {
    let tiff = b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\0\0\0\0\0\0\0";
    let mut exif = [b"Exif\0\0", tiff.as_slice()].concat();
    exif[6 + 19] = orientation;
    exif
}

#[test]
fn variants_are_of_their_size_whatever_else_is_wanted() {
    for (width, height) in [(300, 200), (301, 77), (16, 16), (3, 400), (2, 2), (1, 1)] {
        for (media_type, file) in files(width, height) {
            let plan = plan(&file).unwrap();
            assert_eq!(plan.media_type(), media_type);
            let both = make(&file, &plan, &[Variant::Low, Variant::Original, Variant::Medium]).unwrap();
            assert_eq!(both.iter().map(|made| made.variant).collect::<Vec<_>>(), Variant::MADE);
            for one in both {
                let hundredths = one.variant.hundredths();
                assert_eq!(size(&one.bytes), [width, height].map(|side| (side * hundredths / 100).max(1)));
                assert_eq!(make(&file, &plan, &[one.variant]).unwrap(), [one], "{media_type}");
            }
            assert_eq!(make(&file, &plan, &[Variant::Original]).unwrap(), []);
        }
    }
}

#[test]
fn variants_look_like_their_image() {
    for (media_type, file) in files(300, 200) {
        for made in made(&file).unwrap() {
            let [width, height] = size(&made.bytes);
            let mut header = Header::read(Cursor::new(&made.bytes)).unwrap();
            if let Format::Jpeg { planes, .. } = &mut header.format {
                *planes = false;
            }
            let picture = decode(&made.bytes, &header, 1).unwrap();
            let reference = Picture::Packed(drawn(300, 200, 3)).scaled([300.0, 200.0], [width, height]).unwrap();
            let [pixels, reference] = [&picture, &reference].map(|picture| picture.packed().unwrap());
            let differences = pixels.bytes.iter().zip(reference.bytes.iter()).map(|(a, b)| u64::from(a.abs_diff(*b)));
            let mean = differences.sum::<u64>() as f64 / pixels.bytes.len() as f64;
            assert!(mean < 4.0, "{media_type} {}: {mean}", made.variant);
        }
    }
}

#[test]
fn grey_and_transparent_images_stay_so() {
    let grey = jpeg::encode(&[], &Picture::Packed(drawn(90, 60, 1))).unwrap();
    for (file, channels) in [
        (grey, 1),
        (webp::encode(&[], &drawn(90, 60, 4)).unwrap(), 4),
        (png_file(9, 6, 1, 0, &[], 1 + 2), 1),
        (png_file(9, 6, 16, 4, &[], 1 + 9 * 4), 2),
        (png_file(9, 6, 4, 3, &[&chunk(b"PLTE", &[7; 48])], 1 + 5), 3),
        (png_file(9, 6, 2, 3, &[&chunk(b"PLTE", &[7; 12]), &chunk(b"tRNS", &[9])], 1 + 3), 4),
        (png_file(9, 6, 16, 2, &[], 1 + 9 * 6), 3),
    ] {
        for made in made(&file).unwrap() {
            assert_eq!(Header::read(Cursor::new(&made.bytes)).unwrap().channels, channels);
        }
    }
}

/// A black PNG of rows of `row_size` bytes each, with `chunks` before the image.
fn png_file(width: u32, height: u32, depth: u8, colour: u8, chunks: &[&[u8]], row_size: usize) -> Vec<u8> {
    let rows = vec![0; row_size * height as usize];
    let [low, high] = (rows.len() as u16).to_le_bytes();
    // One block of deflate that is stored as it is; a sum of zeros is their number in the upper half, and 1.
    let mut data = vec![0x78, 0x01, 0x01, low, high, !low, !high];
    data.extend(&rows);
    data.extend([high, low, 0, 1]);
    let header = [png_header(width, height, depth, colour), chunks.concat()].concat();
    png_of(&[&header, &chunk(b"IDAT", &data), &chunk(b"IEND", &[])])
}

#[test]
fn images_are_turned_and_what_cameras_wrote_is_dropped() {
    let [(_, jpeg), (_, png), (_, webp)] = files(60, 40);
    let webp_exif = exif(6);
    let mut extended = b"RIFF\0\0\0\0WEBPVP8X\x0a\0\0\0\x08\0\0\0\x3b\0\0\x27\0\0".to_vec();
    extended.extend(&webp[12..]);
    extended.extend([b"EXIF", (webp_exif.len() as u32).to_le_bytes().as_slice(), &webp_exif].concat());
    let length = extended.len() as u32 - 8;
    extended[4..8].copy_from_slice(&length.to_le_bytes());
    for file in [
        with_segment(&jpeg, &jpeg_segment(0xe1, &exif(6))),
        [&png[..33], &chunk(b"eXIf", &exif(6)[6..]), &png[33..]].concat(),
        extended,
    ] {
        let made = made(&file).unwrap();
        assert_eq!(made.iter().map(|made| size(&made.bytes)).collect::<Vec<_>>(), [[26, 39], [13, 19]]);
        for made in made {
            let text = String::from_utf8_lossy(&made.bytes).to_lowercase();
            assert!(!text.contains("exif"), "{}", plan(&file).unwrap().media_type());
        }
    }
}

#[test]
fn colour_profiles_are_kept() {
    let profile: Vec<u8> = (0..100_000_u32).map(|index| (index * 7919 % 253) as u8).collect();
    let image = drawn(60, 40, 3);
    let mark = [b"ICC_PROFILE\0\x01\x01".as_slice(), &profile[..50_000]].concat();
    let [(_, jpeg), _, (_, webp)] = files(60, 40);
    let jpeg = with_segment(&jpeg, &jpeg_segment(0xe2, &mark));
    for made in made(&jpeg).unwrap() {
        assert_eq!(made.bytes[2..4], [0xff, 0xe0]);
        assert!(made.bytes.windows(mark.len()).any(|window| window == mark));
    }

    let mut info = ::png::Info::with_size(60, 40);
    info.color_type = ::png::ColorType::Rgb;
    info.icc_profile = Some(profile.clone().into());
    let mut file = Vec::new();
    let mut writer = ::png::Encoder::with_info(&mut file, info).unwrap().write_header().unwrap();
    writer.write_image_data(&image.bytes).unwrap();
    writer.finish().unwrap();
    for made in made(&file).unwrap() {
        let reader = ::png::Decoder::new(Cursor::new(&made.bytes)).read_info().unwrap();
        assert_eq!(reader.info().icc_profile.as_deref(), Some(profile.as_slice()));
    }

    let mut extended = b"RIFF\0\0\0\0WEBPVP8X\x0a\0\0\0\x20\0\0\0\x3b\0\0\x27\0\0".to_vec();
    extended.extend([b"ICCP", (profile.len() as u32).to_le_bytes().as_slice(), &profile].concat());
    extended.extend(&webp[12..]);
    let length = extended.len() as u32 - 8;
    extended[4..8].copy_from_slice(&length.to_le_bytes());
    for made in made(&extended).unwrap() {
        assert!(made.bytes.windows(profile.len()).any(|window| window == profile));
    }
}

#[test]
fn bombs_are_refused_by_their_header() {
    let frame = |height: u16, width: u16, components: u8| {
        let [[h1, h0], [w1, w0]] = [height.to_be_bytes(), width.to_be_bytes()];
        let mut content = vec![8, h1, h0, w1, w0, components];
        (1..=components).for_each(|id| content.extend([id, 0x11, 0]));
        let scan = jpeg_segment(0xda, &[components, 1, 0, 0, 63, 0]);
        [&[0xff, 0xd8], jpeg_segment(0xc2, &content).as_slice(), &scan].concat()
    };
    let huge_png = png_of(&[&png_header(50_000, 50_000, 1, 0), &chunk(b"IDAT", &[])]);
    let huge_webp = b"RIFF\x1a\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0\xff\xff\xff\xff\xff\xffVP8 \0\0\0\0";
    // Few pixels, but so wide that what scaling works out for each column would be large.
    let line = png_of(&[&png_header(7_000_000, 1, 8, 0), &chunk(b"IDAT", &[])]);
    for file in [huge_png.as_slice(), &line, &frame(0xffff, 0xffff, 3), huge_webp] {
        assert!(matches!(plan(file), Err(Unsuitable::TooManyPixels { .. })), "{:?}", plan(file));
    }
    assert!(matches!(plan(&frame(9, 9, 4)), Err(Unsuitable::Cmyk)));
    assert!(matches!(plan(&frame(9, 9, 2)), Err(Unsuitable::OtherCoding(_))));
    assert!(matches!(plan(&frame(0, 9, 3)), Err(Unsuitable::Broken(_))));
    let moving = png_of(&[&png_header(9, 9, 8, 2), &chunk(b"acTL", &[0, 0, 0, 2, 0, 0, 0, 0])]);
    assert!(matches!(plan(&moving), Err(Unsuitable::Animated)));
    let moving = b"RIFF\x1a\0\0\0WEBPVP8X\x0a\0\0\0\x02\0\0\0\x09\0\0\x09\0\0";
    assert!(matches!(plan(moving), Err(Unsuitable::Animated)));
    for other in [b"".as_slice(), b"GIF89a", b"BM", b"<svg", b"\xff\xd8", b"RIFF\0\0\0\0WAVEfmt ", &[0; 4096]] {
        assert!(matches!(plan(other), Err(Unsuitable::OtherType)), "{other:?}");
    }
    let config = Config { source_bytes_max: 99, ..Config::default() };
    let [(_, jpeg), ..] = files(9, 9);
    let refused = Plan::read(Cursor::new(&jpeg), 100, &config);
    assert!(matches!(refused, Err(Unsuitable::TooManyBytes { max: 99 })), "{refused:?}");
}

#[test]
fn a_progressive_jpeg_of_thousands_of_scans_is_refused() {
    let image = drawn(64, 64, 1);
    let mut file = Vec::new();
    let mut encoder = jpeg_encoder::Encoder::new(&mut file, 80);
    encoder.set_progressive(true);
    encoder.encode(&image.bytes, 64, 64, jpeg_encoder::ColorType::Luma).unwrap();
    assert_eq!(made(&file).unwrap().len(), 2);
    let scan = file.windows(2).rposition(|window| window == [0xff, 0xda]).unwrap();
    let (head, last) = file[..file.len() - 2].split_at(scan);
    let many = [head, last.repeat(5_000).as_slice(), &[0xff, 0xd9]].concat();
    assert!(matches!(made(&many), Err(Unsuitable::Broken(_))), "{:?}", made(&many));
}

#[test]
fn what_is_cut_off_gives_no_variants() {
    for (media_type, file) in files(160, 120) {
        for sixteenths in 1..16 {
            let part = &file[..file.len() * sixteenths / 16];
            assert!(made(part).is_err(), "{media_type} {sixteenths}/16");
        }
        let whole = plan(&file).unwrap();
        assert!(matches!(make(&file[..file.len() / 2], &whole, &Variant::MADE), Err(Unsuitable::Broken(_))));
    }
    let [(_, jpeg), (_, png), (_, webp)] = files(160, 120);
    for (planned, given) in [(&jpeg, &png), (&png, &webp), (&webp, &jpeg)] {
        let planned = plan(planned).unwrap();
        assert!(matches!(make(given, &planned, &Variant::MADE), Err(Unsuitable::Changed)));
    }
}

#[test]
fn damaged_images_never_panic() {
    for (_, file) in files(40, 30) {
        for position in 0..file.len() {
            let mut damaged = file.clone();
            damaged[position] ^= 1 << (position % 8);
            for made in made(&damaged).unwrap_or_default() {
                assert!(size(&made.bytes).iter().all(|side| *side > 0));
            }
        }
    }
}

/// Counts what is read of it.
struct Counted<R>(R, usize);

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let read = self.0.read(buffer)?;
        self.1 += read;
        Ok(read)
    }
}

impl<R: Seek> Seek for Counted<R> {
    fn seek(&mut self, position: SeekFrom) -> std::io::Result<u64> {
        self.0.seek(position)
    }
}

#[test]
fn a_plan_reads_the_header_alone() {
    let (_, jpeg) = files(60, 40).into_iter().next().unwrap();
    let thumbnail = jpeg_segment(0xe5, &[7; 65_000]);
    let padded = with_segment(&jpeg, &thumbnail.repeat(500));
    let endless = with_segment(&jpeg, &thumbnail.repeat(2_000));
    for (file, suits) in [(padded, true), (endless, false)] {
        let mut source = Counted(Cursor::new(&file), 0);
        let plan =
            Plan::read(&mut source, file.len() as u64, &Config { source_bytes_max: u64::MAX, ..Config::default() });
        assert_eq!(plan.is_ok(), suits);
        assert!(source.1 < 5 << 20, "{}", source.1);
    }
}

#[test]
fn a_plan_tells_more_memory_for_more_pixels() {
    let mut before = 0;
    for side in [100, 1000, 2000] {
        let (_, jpeg) = files(side, side).into_iter().next().unwrap();
        let bytes = plan(&jpeg).unwrap().memory_bytes();
        assert!(bytes > before + jpeg.len() as u64 + u64::from(side * side * 3), "{bytes}");
        before = bytes;
    }
}
