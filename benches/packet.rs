//! How fast packets are written and read, in bytes of the file per second.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use metacdn::protocol::packet::{Decoder, Encoder, Format, Limits};

const CONTENT_SIZE: usize = 1 << 20;

/// As much as one TLS record carries, so as much as a connection usually gives at a time.
const CHUNK_SIZE: usize = 16 * 1024;

fn encode(format: Format, content: &[u8], wire: &mut Vec<u8>) {
    let mut encoder = Encoder::new(format, "cat.jpg", false, content.len() as u64);
    wire.extend(encoder.head());
    for chunk in content.chunks(CHUNK_SIZE) {
        encoder.content(chunk, wire);
    }
    wire.extend(encoder.finish().expect("all of the content was given"));
}

fn packets(criterion: &mut Criterion) {
    let content: Vec<u8> = (0..CONTENT_SIZE).map(|i| (i * 7 % 251) as u8).collect();
    for format in [Format::Json, Format::Protobuf3] {
        let mut group = criterion.benchmark_group(format!("packet/{format}"));
        group.throughput(Throughput::Bytes(CONTENT_SIZE as u64));

        let mut wire = Vec::new();
        group.bench_function("encode", |bencher| {
            bencher.iter(|| {
                wire.clear();
                encode(format, black_box(&content), &mut wire);
            });
        });

        wire.clear();
        encode(format, &content, &mut wire);
        group.bench_function("decode", |bencher| {
            bencher.iter(|| {
                let mut sink = |bytes: &[u8]| {
                    black_box(bytes);
                };
                let mut decoder = Decoder::new(Limits::default());
                for chunk in black_box(&wire).chunks(CHUNK_SIZE) {
                    decoder.push(chunk, &mut sink).expect("the encoder writes packets");
                }
                decoder.finish(&mut sink).expect("the encoder writes packets")
            });
        });
        group.finish();
    }
}

criterion_group!(benches, packets);
criterion_main!(benches);
