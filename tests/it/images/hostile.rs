//! Broken and hostile images: they come and go like any file.

use metacdn::model::ImageMode;
use png::{BitDepth, Compression};

use super::{Browser, counted, get, painting, photograph, resizing};
use crate::cluster::{Cluster, put, wait_until};

/// A valid PNG of 50,000 by 50,000 pixels, of which each is a bit: 312 MB of zeros in a few hundred kilobytes.
fn bomb() -> Vec<u8> {
    use std::io::Write as _;
    let mut file = Vec::new();
    let mut encoder = png::Encoder::new(&mut file, 50_000, 50_000);
    encoder.set_color(png::ColorType::Grayscale);
    encoder.set_depth(BitDepth::One);
    encoder.set_compression(Compression::Fast);
    let mut writer = encoder.write_header().unwrap();
    let mut stream = writer.stream_writer().unwrap();
    let row = [0; 6250];
    for _ in 0..50_000 {
        stream.write_all(&row).unwrap();
    }
    stream.finish().unwrap();
    drop(writer);
    file
}

fn animated() -> Vec<u8> {
    let mut file = Vec::new();
    let mut encoder = png::Encoder::new(&mut file, 64, 64);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_animated(2, 0).unwrap();
    let mut writer = encoder.write_header().unwrap();
    for shade in [10, 200] {
        writer.write_image_data(&vec![shade; 64 * 64 * 3]).unwrap();
    }
    writer.finish().unwrap();
    file
}

fn inks() -> Vec<u8> {
    let mut file = Vec::new();
    let pixels = vec![60; 200 * 100 * 4];
    jpeg_encoder::Encoder::new(&mut file, 90).encode(&pixels, 200, 100, jpeg_encoder::ColorType::Cmyk).unwrap();
    file
}

fn files() -> Vec<(&'static str, Vec<u8>)> {
    let bomb = bomb();
    assert!(bomb.len() < 2 << 20, "{}", bomb.len());
    vec![
        ("header.png", bomb[..33].to_vec()),
        ("bomb.png", bomb),
        ("truncated.jpg", photograph(1)[..3000].to_vec()),
        ("truncated.png", painting(1)[..3000].to_vec()),
        ("text.jpg", b"no picture at all\n".repeat(100)),
        ("empty.webp", Vec::new()),
        ("riff.webp", b"RIFF\xff\xff\xff\xffWEBPVP8L\xff\xff\xff\xff/\0\0\0".to_vec()),
        ("inks.jpg", inks()),
        ("animated.png", animated()),
        ("moving.gif", b"GIF89a\x01\0\x01\0\0\0\0;".to_vec()),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_and_broken_images_are_stored_and_served_as_they_are() {
    let files = files();
    for mode in [ImageMode::Static, ImageMode::Dynamic] {
        let cluster = Cluster::start_with(&["AWS"], resizing(mode)).await;
        let client = cluster.client("AWS");
        for (name, file) in &files {
            put(&client, name, file.clone()).await;
        }
        let mut browser = Browser::open(cluster.ports("AWS").download).await;
        for (name, file) in &files {
            let (stem, ending) = name.split_once('.').unwrap();
            for path in [(*name).to_owned(), format!("{name}?variant=low"), format!("{stem}_medium.{ending}")] {
                let answer = get(&client, &format!("/v1/objects/{path}")).await;
                assert_eq!((answer.status, answer.header("metacdn-variant")), (200, "original"), "{mode} {path}");
                assert!(answer.body == *file, "{mode} {path}");
            }
            let saved = browser.get(&format!("/get/download/{name}"), &[("save-data", "on")]).await;
            assert!(saved.status == 200 && saved.body == *file, "{mode} {name}");
        }
        // Each once, whoever asks; in a node that makes them one by one, once for each variant.
        let tried = files.len() as u64 * if mode == ImageMode::Static { 1 } else { 2 };
        wait_until("all were tried", async || counted(&client, "variants_unsuitable_total").await == tried).await;
        put(&client, "good.jpg", photograph(1)).await;
        assert_eq!(get(&client, "/v1/objects/good_low.jpg").await.header("metacdn-variant"), "low");
        assert_eq!(counted(&client, "variants_unsuitable_total").await, tried);
    }
}
