//! Variants of hundreds of real and odd images, compared with what other code makes of the same.

use std::collections::BTreeMap;
use std::fs;
use std::io::Cursor;
use std::path::Path;
use std::time::{Duration, Instant};

use image::imageops::FilterType;
use image::{DynamicImage, GenericImageView as _, GrayImage};
use metacdn::model::Variant;
use metacdn::resize::{Config, Made, Plan, Unsuitable, make};

use crate::pictures::{corpus, photographs};

/// Without optimisation and beside other tests.
const TIME_MAX: Duration = Duration::from_secs(30);

/// As much as the largest images of the default configuration may take: lossless WebP, whose tables may be larger than it.
const MEMORY_BYTES_MAX: u64 = 2 << 30;

/// The least similarity of a photograph's variant to what another library scales it to.
const SIMILARITY_MIN: f64 = 0.95;

fn variants(source: &[u8]) -> Result<Vec<Made>, Unsuitable> {
    let plan = Plan::read(Cursor::new(source), source.len() as u64, &Config::default())?;
    assert!(plan.memory_bytes() < MEMORY_BYTES_MAX, "{}", plan.memory_bytes());
    make(source, &plan, &Variant::MADE)
}

/// How alike the brightness of two images is: the mean of the structural similarity of windows of 8 by 8, 1 for equal
/// ones (Wang et al., 2004).
fn similarity(one: &GrayImage, other: &GrayImage) -> f64 {
    const SIDE: u32 = 8;
    const STEP: usize = 4;
    assert_eq!(one.dimensions(), other.dimensions());
    let (width, height) = one.dimensions();
    let columns = (0..=width.saturating_sub(SIDE)).step_by(STEP);
    let windows: Vec<f64> = columns
        .flat_map(|x| (0..=height.saturating_sub(SIDE)).step_by(STEP).map(move |y| (x, y)))
        .map(|(x, y)| {
            let mut sums = [0.0; 5];
            let mut count = 0.0;
            for row in y..(y + SIDE).min(height) {
                for column in x..(x + SIDE).min(width) {
                    let [a, b] = [one, other].map(|image| f64::from(image.get_pixel(column, row).0[0]));
                    [a, b, a * a, b * b, a * b].iter().zip(&mut sums).for_each(|(value, sum)| *sum += value);
                    count += 1.0;
                }
            }
            let [a, b, a_a, b_b, a_b] = sums.map(|sum| sum / count);
            let (c1, c2) = (6.5025, 58.5225);
            let spread = (a_a - a * a) + (b_b - b * b);
            (2.0 * a * b + c1) * (2.0 * (a_b - a * b) + c2) / ((a * a + b * b + c1) * (spread + c2))
        })
        .collect();
    windows.iter().sum::<f64>() / windows.len() as f64
}

/// What another library scales `original` to, and how it sees the variant.
fn compared(original: &DynamicImage, made: &Made) -> f64 {
    let variant = image::load_from_memory(&made.bytes).unwrap();
    let (width, height) = variant.dimensions();
    similarity(&original.resize_exact(width, height, FilterType::Lanczos3).to_luma8(), &variant.to_luma8())
}

fn name(path: &Path) -> String {
    path.file_name().unwrap().to_string_lossy().into_owned()
}

#[test]
fn every_image_gives_variants_of_its_size_or_a_reason() {
    let corpus = corpus();
    let mut outcomes: BTreeMap<String, usize> = BTreeMap::new();
    let lying = ["turned-5.jpg", "turned-6.jpg", "turned-7.jpg", "turned-8.jpg"];
    for path in &corpus {
        let source = fs::read(path).unwrap();
        let started = Instant::now();
        let made = variants(&source);
        assert!(started.elapsed() < TIME_MAX, "{} takes {:?}", path.display(), started.elapsed());
        let outcome = match &made {
            Ok(_) => "made".to_owned(),
            Err(Unsuitable::Unreadable(error)) => panic!("{}: {error}", path.display()),
            Err(reason) => format!("{reason:?}").split([' ', '(']).next().unwrap().to_owned(),
        };
        *outcomes.entry(outcome).or_default() += 1;
        let Ok(made) = made else { continue };
        assert_eq!(made.len(), 2, "{}", path.display());
        let Ok(original) = image::load_from_memory(&source) else { continue };
        for made in made {
            let variant = image::load_from_memory(&made.bytes).unwrap();
            let scaled = |side: u32| (side * made.variant.hundredths() / 100).max(1);
            let mut expected = [scaled(original.width()), scaled(original.height())];
            if lying.contains(&name(path).as_str()) {
                expected.reverse();
            }
            assert_eq!([variant.width(), variant.height()], expected, "{} {}", path.display(), made.variant);
        }
    }
    println!("{} images: {outcomes:?}", corpus.len());
    for (outcome, least) in
        [("made", 250), ("OtherType", 80), ("Broken", 60), ("Animated", 2), ("TooManyPixels", 3), ("Cmyk", 1)]
    {
        assert!(outcomes.get(outcome).is_some_and(|count| *count >= least), "{outcome}: {outcomes:?}");
    }
}

#[test]
fn variants_of_photographs_are_what_others_scale_them_to() {
    let photographs = photographs();
    for path in &photographs {
        let source = fs::read(path).unwrap();
        let original = image::load_from_memory(&source).unwrap();
        for made in variants(&source).unwrap() {
            let similarity = compared(&original, &made);
            println!("{} {}: {similarity:.4}", name(path), made.variant);
            assert!(similarity >= SIMILARITY_MIN, "{} {}: {similarity}", path.display(), made.variant);
        }
    }
}

#[test]
fn webp_of_photographs_is_what_others_scale_it_to() {
    let published = corpus().into_iter().filter(|path| path.extension().is_some_and(|ending| ending == "webp"));
    let mut compared_count = 0;
    for path in published {
        let source = fs::read(&path).unwrap();
        let (Ok(made), Ok(original)) = (variants(&source), image::load_from_memory(&source)) else { continue };
        // The reference lets the colours of what is transparent bleed into the rest.
        if original.color().has_alpha() {
            continue;
        }
        for made in made {
            let similarity = compared(&original, &made);
            println!("{} {}: {similarity:.4}", name(&path), made.variant);
            assert!(similarity >= SIMILARITY_MIN, "{} {}: {similarity}", path.display(), made.variant);
            compared_count += 1;
        }
    }
    assert!(compared_count >= 4, "only {compared_count} compared");
}
