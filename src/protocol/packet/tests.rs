//! Packets as a whole: sizes and bytes on the wire, other implementations, every way to cut the stream.

use ::base64::Engine;
use ::base64::engine::general_purpose::STANDARD;
use proptest::collection::vec;
use proptest::prelude::{Strategy, any, prop_assert, prop_assert_eq, proptest};
use proptest::sample::Index;
use prost::Message;

use super::*;

/// The packet as prost reads and writes it.
#[derive(Clone, PartialEq, Message)]
struct Pack {
    #[prost(string, tag = "1")]
    content: String,
    #[prost(string, tag = "2")]
    file_name: String,
    #[prost(string, tag = "3")]
    distributed: String,
    #[prost(message, optional, tag = "5")]
    last_updated: Option<prost_types::Timestamp>,
}

fn encode(format: Format, file_name: &str, distributed: bool, content: &[u8], step: usize) -> Vec<u8> {
    let mut encoder = Encoder::new(format, file_name, distributed, content.len() as u64);
    let mut wire = encoder.head();
    content.chunks(step).for_each(|chunk| encoder.content(chunk, &mut wire));
    let wire_size = encoder.wire_size();
    wire.extend(encoder.finish().unwrap());
    assert_eq!(wire.len() as u64, wire_size);
    wire
}

fn decode<'a>(chunks: impl IntoIterator<Item = &'a [u8]>, limits: Limits) -> (Vec<u8>, Result<Packet, PacketError>) {
    let mut content = Vec::new();
    let mut sink = |bytes: &[u8]| content.extend_from_slice(bytes);
    let mut decoder = Decoder::new(limits);
    let pushed = chunks.into_iter().try_for_each(|chunk| decoder.push(chunk, &mut sink));
    let finished = decoder.finish(&mut sink);
    if let Err(error) = pushed {
        assert_eq!(finished, Err(error), "an error stays");
    }
    (content, finished)
}

/// Cuts `wire` at the given places.
fn cut(wire: &[u8], cuts: &[Index]) -> Vec<Vec<u8>> {
    let mut places: Vec<usize> = cuts.iter().map(|cut| cut.index(wire.len() + 1)).collect();
    places.extend([0, wire.len()]);
    places.sort_unstable();
    places.windows(2).map(|pair| wire[pair[0]..pair[1]].to_vec()).collect()
}

/// Decodes `wire` whole, byte by byte and cut as told, which must not make a difference.
fn decode_each_way(wire: &[u8], cuts: &[Index]) -> (Vec<u8>, Result<Packet, PacketError>) {
    let limits = Limits { content_size_max: 3000, json_size_max: 5000 };
    let whole = decode([wire], limits);
    assert_eq!(decode(wire.chunks(1), limits), whole);
    assert_eq!(decode(cut(wire, cuts).iter().map(Vec::as_slice), limits), whole);
    whole
}

fn formats() -> impl Strategy<Value = Format> {
    any::<bool>().prop_map(|json| if json { Format::Json } else { Format::Protobuf3 })
}

/// Bytes that look like a packet for a while.
fn nearly_packets() -> impl Strategy<Value = Vec<u8>> {
    let piece = any::<Index>().prop_map(|index| {
        let pieces: [&[u8]; 24] = [
            b"{",
            b"}",
            b"[",
            b"\"",
            b":",
            b",",
            b"\\",
            b"null",
            b"\"content\":\"",
            b"\"file_name\":\"a\"",
            b"QUJD",
            b"QQ==",
            b"\"distributed\":\"F\"",
            b"\"message\":\"x\"",
            b"\"port\":1",
            b"\x0A\x04",
            b"\x0A\x08",
            b"\x12\x01a",
            b"\x1A\x01F",
            b"\x1A\x01T",
            b"\x2A\x00",
            b"\x31",
            b"\x20\x01",
            b"\xFF",
        ];
        pieces[index.index(pieces.len())].to_vec()
    });
    vec(piece, 0..12).prop_map(|pieces| pieces.concat())
}

#[test]
fn sizes_on_the_wire_are_those_of_the_reference() {
    for (content_size, json, protobuf) in [
        (1 << 10, 1429, 1385),
        (10 << 10, 13_717, 13_673),
        (100 << 10, 136_597, 136_554),
        (1 << 20, 1_398_165, 1_398_122),
        (10 << 20, 13_981_077, 13_981_035),
    ] {
        let content = vec![0xA5; content_size];
        for (format, size) in [(Format::Json, json), (Format::Protobuf3, protobuf)] {
            let wire = encode(format, "ninechars", false, &content, 4096);
            assert_eq!(wire.len(), size, "{format} of {content_size}");
        }
    }
}

#[test]
fn bytes_on_the_wire_are_those_of_the_reference() {
    assert_eq!(
        encode(Format::Json, "a \"b\"\\\n.txt", true, b"hello", 2),
        br#"{"file_name": "a \"b\"\\\n.txt", "distributed": "T", "content": "aGVsbG8="}"#
    );
    assert_eq!(encode(Format::Protobuf3, "a.txt", false, b"hello", 2), b"\x0A\x08aGVsbG8=\x12\x05a.txt\x1A\x01F");
    assert_eq!(encode(Format::Protobuf3, "a.txt", false, b"", 2), b"\x12\x05a.txt\x1A\x01F");
}

#[test]
fn formats_are_named_in_any_case() {
    for (text, format) in [("Json", Format::Json), ("JSON", Format::Json), ("Protobuf3", Format::Protobuf3)] {
        assert_eq!(text.parse(), Ok(format));
        assert_eq!(format.to_string().parse(), Ok(format));
    }
    assert_eq!("xml".parse::<Format>(), Err(PacketError::UnknownFormat("xml".to_owned())));
}

#[test]
fn first_byte_tells_packets_from_http_and_tls() {
    assert!([b'{', 0x0A, 0x12, 0x1A, 0x2A].into_iter().all(is_packet_start));
    assert!(!(b'A'..=b'Z').chain([0x16, b' ', b'\r', b'[']).any(is_packet_start));
    assert_eq!(decode([&b"GET / HTTP/1.1"[..]], Limits::default()).1, Err(PacketError::NotAPacket(b'G')));
    assert_eq!(decode([&b""[..]], Limits::default()).1, Err(PacketError::Truncated));
}

#[test]
fn only_json_is_held_in_memory() {
    for (format, held) in [(Format::Json, 1429), (Format::Protobuf3, 0)] {
        let mut decoder = Decoder::new(Limits::default());
        decoder.push(&encode(format, "ninechars", false, &[0; 1024], 1024), &mut |_| ()).unwrap();
        assert_eq!(decoder.buffered_bytes(), held);
    }
}

#[test]
fn failed_decoder_holds_nothing_and_stays_failed() {
    let mut decoder = Decoder::new(Limits { json_size_max: 10, ..Limits::default() });
    let too_large = Err(PacketError::JsonTooLarge(10));
    assert_eq!(decoder.push(b"{\"content\"", &mut |_| ()), Ok(()));
    assert_eq!(decoder.push(b":", &mut |_| ()), too_large);
    assert_eq!(decoder.buffered_bytes(), 0);
    assert_eq!(decoder.push(b"", &mut |_| ()), too_large);
    assert_eq!(decoder.push(b"{}", &mut |_| ()), too_large);
}

proptest! {
    #[test]
    fn what_was_encoded_is_decoded(
        format in formats(), file_name in "\\PC{1,40}|[\\x01-\\x7f\"\\\\]{1,40}", distributed: bool,
        content in vec(any::<u8>(), 0..3000), step in 1..200_usize, cuts in vec(any::<Index>(), 0..9),
    ) {
        let wire = encode(format, &file_name, distributed, &content, step);
        prop_assert!(is_packet_start(wire[0]));
        prop_assert_eq!(decode_each_way(&wire, &cuts), (content, Ok(Packet::File { file_name, distributed })));
    }

    #[test]
    fn other_implementations_read_and_write_the_same(
        file_name in "\\PC{0,40}", content in vec(any::<u8>(), 0..300),
        seconds: Option<i64>, cuts in vec(any::<Index>(), 0..9),
    ) {
        let text = STANDARD.encode(&content);
        let mut pack = Pack {
            content: text.clone(), file_name: file_name.clone(), distributed: "F".to_owned(), last_updated: None,
        };
        prop_assert_eq!(encode(Format::Protobuf3, &file_name, false, &content, 7), pack.encode_to_vec());
        let json = serde_json::json!({ "content": text, "file_name": file_name, "distributed": "F" });
        let ours = encode(Format::Json, &file_name, false, &content, 7);
        prop_assert_eq!(serde_json::from_slice::<serde_json::Value>(&ours).unwrap(), json.clone());

        let expected = if file_name.is_empty() {
            Err(PacketError::Missing("file_name"))
        } else {
            Ok(Packet::File { file_name, distributed: false })
        };
        pack.last_updated = seconds.map(|seconds| prost_types::Timestamp { seconds, nanos: 5 });
        prop_assert_eq!(decode_each_way(&pack.encode_to_vec(), &cuts), (content.clone(), expected.clone()));
        let (decoded, result) = decode_each_way(json.to_string().as_bytes(), &cuts);
        prop_assert_eq!(&result, &expected);
        prop_assert!(result.is_err() || decoded == content);
    }

    #[test]
    fn arbitrary_bytes_decode_alike_however_cut(
        start in proptest::sample::select(&b"{\x0A\x12\x1A\x2A"[..]), bytes in vec(any::<u8>(), 0..200),
        cuts in vec(any::<Index>(), 0..9),
    ) {
        let _ = decode_each_way(&bytes, &cuts);
        let _ = decode_each_way(&[&[start][..], &bytes].concat(), &cuts);
    }

    #[test]
    fn nearly_packets_decode_as_prost_does(wire in nearly_packets(), cuts in vec(any::<Index>(), 0..9)) {
        let (content, result) = decode_each_way(&wire, &cuts);
        if let (Ok(Packet::File { file_name, distributed }), Some(0..0x20)) = (result, wire.first()) {
            let pack = Pack::decode(wire.as_slice()).unwrap();
            prop_assert_eq!(pack.file_name, file_name);
            prop_assert_eq!(pack.distributed == "T", distributed);
            prop_assert_eq!(pack.content, STANDARD.encode(content));
        }
    }
}
