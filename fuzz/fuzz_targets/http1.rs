//! Heads and bodies from a hostile peer: what they are must not depend on how their bytes are cut, and what is taken has
//! one reading.
#![no_main]

use http::Method;
use libfuzzer_sys::fuzz_target;

#[path = "../../src/http1/mod.rs"]
#[expect(dead_code, unused_imports, reason = "what writes heads is not fuzzed")]
mod http1;

use http1::{BodyLength, ChunkDecoder, ChunkError, HeadError, Limits, RequestHead, ResponseHead, Slots};

const LIMITS: Limits = Limits { head_bytes: 2048, target_bytes: 512 };

fn request(bytes: &[u8]) -> Result<Option<(usize, BodyLength)>, HeadError> {
    let mut slots = Slots::new();
    let Some(head) = RequestHead::parse(bytes, &LIMITS, &mut slots)? else { return Ok(None) };
    let text = &bytes[..head.length()];
    let lines = text.windows(2).filter(|pair| pair == b"\r\n").count();
    assert!(text.ends_with(b"\r\n\r\n"));
    assert_eq!(text.iter().filter(|byte| **byte == b'\n').count(), lines);
    assert_eq!(text.iter().filter(|byte| **byte == b'\r').count(), lines);
    let codings = head.fields().all("transfer-encoding").count();
    let lengths = head.fields().all("content-length").count();
    assert!(head.fields().all("host").count() <= 1 && (codings == 0 || lengths == 0));
    assert_eq!(codings > 0, head.body() == BodyLength::Chunked);
    if let Ok(parts) = head.to_parts() {
        assert!(parts.headers.get_all("content-length").iter().count() <= 1);
        assert_eq!(parts.method.as_str(), head.method());
    }
    Ok(Some((head.length(), head.body())))
}

fn response(bytes: &[u8]) -> Result<Option<(usize, Result<BodyLength, HeadError>, bool)>, HeadError> {
    let mut slots = Slots::new();
    let Some(head) = ResponseHead::parse(bytes, &LIMITS, &mut slots)? else { return Ok(None) };
    let text = &bytes[..head.length()];
    let lines = text.windows(2).filter(|pair| pair == b"\r\n").count();
    assert!(text.ends_with(b"\r\n\r\n"));
    assert_eq!(text.iter().filter(|byte| **byte == b'\n').count(), lines);
    let codings = head.fields().all("transfer-encoding").count();
    let lengths = head.fields().all("content-length").count();
    let body = head.body(&Method::GET);
    match body {
        Ok(BodyLength::Exactly(_)) => assert!(lengths > 0 && codings == 0),
        Ok(BodyLength::Chunked) => assert!(codings > 0),
        Ok(BodyLength::UntilClose) => assert!(lengths == 0 && !head.keeps_alive(&Method::GET)),
        Ok(BodyLength::Empty) => {}
        Err(_) => assert!(!head.keeps_alive(&Method::GET)),
    }
    assert!(codings == 0 || lengths == 0 || !matches!(body, Ok(BodyLength::Chunked)) || !head.keeps_alive(&Method::GET));
    assert_eq!(head.body(&Method::HEAD), Ok(BodyLength::Empty));
    if let Ok(parts) = head.to_parts() {
        assert_eq!(parts.headers.len(), head.fields().len());
        for (name, value) in head.fields().iter() {
            assert!(parts.headers.get_all(name).iter().any(|kept| kept.as_bytes() == value));
        }
    }
    Ok(Some((head.length(), body, head.keeps_alive(&Method::GET))))
}

/// Heads that were not all there say nothing else than the whole does.
fn is_the_same_in_pieces<T: PartialEq + std::fmt::Debug>(
    bytes: &[u8],
    parse: impl Fn(&[u8]) -> Result<Option<T>, HeadError>,
) {
    let whole = parse(bytes);
    let first = (0..bytes.len()).map(|length| parse(&bytes[..length])).find(|found| *found != Ok(None));
    match (first, &whole) {
        // Of several faults a part may have another one first.
        (Some(Err(_)), whole) => assert!(whole.is_err()),
        (Some(taken), whole) => assert_eq!(taken, *whole),
        (None, _) => {}
    }
}

fn chunks<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> Result<(Vec<u8>, bool), ChunkError> {
    let mut decoder = ChunkDecoder::new();
    let mut data = Vec::new();
    for mut piece in pieces {
        loop {
            let decoded = decoder.decode(piece)?;
            data.extend_from_slice(&piece[decoded.framing..][..decoded.data]);
            piece = &piece[decoded.framing + decoded.data..];
            if decoded.ended {
                decoder.into_trailers();
                return Ok((data, true));
            }
            if decoded.data == 0 {
                assert!(piece.is_empty());
                break;
            }
        }
    }
    Ok((data, false))
}

fuzz_target!(|input: (&[u8], u8)| {
    let (bytes, size) = input;
    is_the_same_in_pieces(bytes, request);
    is_the_same_in_pieces(bytes, response);
    let cut = chunks(bytes.chunks(usize::from(size) + 1));
    assert_eq!(chunks(std::iter::once(bytes)), cut);
});
