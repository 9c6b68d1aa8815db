//! Packets from a hostile sender: any bytes, cut anywhere, must decode alike, and what decodes must encode again.
//!
//! The module is included as a file, so that the sanitizer need not build TLS and SQLite for it.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../src/protocol/packet/mod.rs"]
#[expect(dead_code, reason = "the client's and the node's entrances are not fuzzed")]
mod packet;

use packet::{Decoder, Encoder, Format, Limits, Packet, PacketError};

type Decoded = (Vec<u8>, Result<Packet, PacketError>);

fn decode<'a>(chunks: impl Iterator<Item = &'a [u8]>) -> Decoded {
    let mut content = Vec::new();
    let mut sink = |bytes: &[u8]| content.extend_from_slice(bytes);
    let mut decoder = Decoder::new(Limits { content_size_max: 3000, json_size_max: 3000 });
    for chunk in chunks {
        if decoder.push(chunk, &mut sink).is_err() {
            break;
        }
        assert!(decoder.buffered_bytes() <= 3000);
    }
    let result = decoder.finish(&mut sink);
    (content, result)
}

/// Cuts `wire` into pieces whose sizes `sizes` gives in turn, over and over.
fn cut<'a>(mut wire: &'a [u8], sizes: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
    let mut sizes = sizes.iter().cycle();
    std::iter::from_fn(move || {
        let size = sizes.next().map_or(1, |size| usize::from(*size) + 1).min(wire.len());
        let (piece, rest) = wire.split_at(size);
        wire = rest;
        (!piece.is_empty()).then_some(piece)
    })
}

fn encode(format: Format, file_name: &str, distributed: bool, content: &[u8]) -> Vec<u8> {
    let mut encoder = Encoder::new(format, file_name, distributed, content.len() as u64);
    let mut wire = encoder.head();
    content.chunks(7).for_each(|chunk| encoder.content(chunk, &mut wire));
    wire.extend(encoder.finish().expect("all of the content was given"));
    wire
}

fuzz_target!(|data: &[u8]| {
    // The first byte tells how many of the next ones are sizes.
    let Some((&first, data)) = data.split_first() else { return };
    let (sizes, wire) = data.split_at(usize::from(first % 8).min(data.len()));

    let decoded = decode(std::iter::once(wire));
    assert_eq!(decode(cut(wire, sizes)), decoded);

    if let (content, Ok(Packet::File { file_name, distributed })) = &decoded {
        let again = encode(Format::Protobuf3, file_name, *distributed, content);
        assert_eq!(decode(cut(&again, sizes)), decoded);
    }
});
