//! Properties of generated heads and bodies.

use proptest::collection::vec;
use proptest::prelude::*;

use super::chunks::decode;
use super::*;

/// Heads that are nearly right: pieces of good ones and of bad ones in any order.
fn nearly_a_head() -> impl Strategy<Value = Vec<u8>> {
    const PIECES: &[&[u8]] = &[
        b"GET / HTTP/1.1\r\n",
        b"POST /a HTTP/1.0\r\n",
        b"Host: a\r\n",
        b"Host: a\r\n\r\n",
        b"Content-Length: 5\r\n",
        b"Content-Length: 5, 6\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"Transfer-Encoding: gzip, ",
        b"X: y\n",
        b" folded\r\n",
        b"\r\n",
        b"\r",
        b"\n",
        b"\0",
        b"\xff: \xff\r\n",
    ];
    let begin = prop_oneof![Just(&b""[..]), Just(PIECES[0]), Just(PIECES[1]), Just(&b"HTTP/1.1 200 OK\r\n"[..])];
    let piece = proptest::sample::select(PIECES);
    (begin, vec(piece, 0..12), vec(any::<u8>(), 0..4))
        .prop_map(|(begin, pieces, tail)| [begin.to_vec(), pieces.concat(), tail].concat())
}

proptest! {
    /// However the bytes of a head come, and whatever follows it, it is the same head.
    #[test]
    fn a_head_is_the_same_in_any_pieces(bytes in nearly_a_head(), tail in vec(any::<u8>(), 0..20)) {
        let parse = |bytes: &[u8]| {
            let mut slots = Slots::new();
            let parsed = RequestHead::parse(bytes, &LIMITS, &mut slots);
            // Of several faults a part may have another one first.
            parsed.map_or(Err(()), |head| Ok(head.map(|head| (head.length(), head.body()))))
        };
        let whole = parse(&bytes);
        let first = (0..=bytes.len()).map(|length| parse(&bytes[..length])).find(|found| *found != Ok(None));
        if let Some(first) = first {
            // What was found in a part is what is found in the whole.
            prop_assert_eq!(first, whole);
            prop_assert_eq!(parse(&[bytes, tail].concat()), whole);
        } else {
            prop_assert_eq!(whole, Ok(None));
        }
    }

    /// What is taken has no second reading: one host, one length, and no line that ends otherwise.
    #[test]
    fn a_head_that_is_taken_is_unambiguous(bytes in nearly_a_head()) {
        let mut slots = Slots::new();
        if let Ok(Some(head)) = RequestHead::parse(&bytes, &LIMITS, &mut slots) {
            let text = &bytes[..head.length()];
            prop_assert!(text.ends_with(b"\r\n\r\n"));
            prop_assert_eq!(memchr::memchr_iter(b'\n', text).count(), memchr::memmem::find_iter(text, b"\r\n").count());
            prop_assert_eq!(memchr::memchr_iter(b'\r', text).count(), memchr::memmem::find_iter(text, b"\r\n").count());
            prop_assert!(head.fields().all("host").count() <= 1);
            let codings = head.fields().all("transfer-encoding").count();
            prop_assert!(codings == 0 || head.body() == BodyLength::Chunked);
            prop_assert!(codings == 0 || head.fields().first("content-length").is_none());
            let parts = head.to_parts().unwrap();
            prop_assert!(parts.headers.get_all("content-length").iter().count() <= 1);
            prop_assert_eq!(parts.method.as_str(), head.method());
        }
    }

    /// The same of answers; and what is kept of their fields is what was said, wherever it stood.
    #[test]
    fn the_head_of_an_answer_is_the_same_in_any_pieces(bytes in nearly_a_head(), tail in vec(any::<u8>(), 0..20)) {
        let parse = |bytes: &[u8]| {
            let mut slots = Slots::new();
            let parsed = ResponseHead::parse(bytes, &LIMITS, &mut slots);
            parsed.map_or(Err(()), |head| Ok(head.map(|head| (head.length(), head.body(&http::Method::GET)))))
        };
        let whole = parse(&bytes);
        match (0..=bytes.len()).map(|length| parse(&bytes[..length])).find(|found| *found != Ok(None)) {
            Some(first) => {
                prop_assert_eq!(first, whole);
                prop_assert_eq!(parse(&[bytes.clone(), tail].concat()), whole);
            }
            None => prop_assert_eq!(whole, Ok(None)),
        }
        let mut slots = Slots::new();
        if let Ok(Some(head)) = ResponseHead::parse(&bytes, &LIMITS, &mut slots) {
            let kept = head.to_parts().unwrap().headers;
            let said: Vec<_> = head.fields().iter().map(|(name, value)| (name.to_ascii_lowercase(), value)).collect();
            prop_assert_eq!(kept.len(), said.len());
            for (name, value) in said {
                prop_assert!(kept.get_all(name).iter().any(|kept| kept.as_bytes() == value));
            }
        }
    }

    /// What is encoded decodes again, however it is cut, and what follows it is left.
    #[test]
    fn chunks_are_decoded_in_any_pieces(
        chunks in vec(vec(any::<u8>(), 1..600), 0..6), size in 1_usize..700, tail in vec(any::<u8>(), 0..20),
    ) {
        let mut wire = Vec::new();
        for chunk in &chunks {
            chunk_size_line(&mut wire, chunk.len());
            wire.extend_from_slice(chunk);
            wire.extend_from_slice(b"\r\n");
        }
        wire.extend_from_slice(LAST_CHUNK);
        wire.extend_from_slice(&tail);
        let (data, end) = decode(&wire, size).unwrap();
        prop_assert_eq!(data, chunks.concat());
        // Of the last piece all is left that was given beyond the end.
        prop_assert_eq!(end.map(|(trailers, left)| (trailers.len(), left)), Some((0, tail.len())));
    }

    /// Any bytes decode alike, cut or not.
    #[test]
    fn what_is_no_chunk_is_none_in_any_pieces(bytes in "[0-9a-f;x \r\n:A]{0,40}", size in 1_usize..10) {
        prop_assert_eq!(decode(bytes.as_bytes(), size), decode(bytes.as_bytes(), bytes.len().max(1)));
    }
}
