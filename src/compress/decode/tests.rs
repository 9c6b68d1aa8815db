//! Tests of decoders: bytes that are cut, broken, put together, or stand for too many.

use proptest::prelude::*;

use super::*;
use crate::compress::{Config, Encoder};

const ENOUGH: u64 = 1 << 30;

fn coded(coding: Coding, source: &[u8]) -> Vec<u8> {
    Encoder::whole(coding, Config::default().quick, source).expect("it is coded").0.to_vec()
}

/// Decodes what comes in chunks of a size; the largest piece that came of it, too.
fn decode(coding: Coding, bytes: &[u8], chunk: usize, max: u64) -> Result<(Vec<u8>, usize), DecodeError> {
    let mut decoder = Decoder::new(coding, max)?;
    let (mut decoded, mut largest) = (Vec::new(), 0);
    for chunk in bytes.chunks(chunk) {
        let mut chunk = Bytes::copy_from_slice(chunk);
        while let Some(piece) = decoder.decode(&mut chunk)? {
            largest = largest.max(piece.len());
            decoded.extend_from_slice(&piece);
        }
        assert_eq!(decoder.decode(&mut chunk)?, None);
    }
    decoder.finish()?;
    Ok((decoded, largest))
}

fn text() -> Vec<u8> {
    (0..40_000u32).flat_map(|number| format!("{number},").into_bytes()).collect()
}

#[test]
fn chunks_of_any_size_are_decoded_to_the_same() {
    let source = text();
    for coding in Coding::ALL {
        let bytes = coded(coding, &source);
        for chunk in [1, 2, 7, 1000, bytes.len()] {
            let (decoded, largest) = decode(coding, &bytes, chunk, ENOUGH).expect("it is well formed");
            assert!(decoded == source && largest <= PIECE_BYTES_MAX, "{coding} by {chunk}");
        }
    }
}

#[test]
fn a_bomb_comes_in_small_pieces_and_ends_at_the_limit() {
    let zeros = vec![0; 32 << 20];
    for coding in Coding::ALL {
        let bomb = coded(coding, &zeros);
        assert!(bomb.len() < 64 << 10, "{coding}: {} bytes", bomb.len());
        let mut decoder = Decoder::new(coding, 10 << 20).expect("memory");
        let mut left = Bytes::from(bomb);
        let mut given = 0;
        let error = loop {
            match decoder.decode(&mut left) {
                Ok(Some(piece)) => {
                    assert!(piece.len() <= PIECE_BYTES_MAX);
                    given += piece.len();
                }
                Ok(None) => panic!("{coding} went on to its end"),
                Err(error) => break error,
            }
        };
        assert_eq!(error, DecodeError::TooLarge { max: 10 << 20 });
        assert_eq!(given, 10 << 20);
    }
}

#[test]
fn what_is_cut_off_is_noticed_wherever_that_is() {
    let source = &text()[..5000];
    for coding in Coding::ALL {
        let bytes = coded(coding, source);
        for length in 1..bytes.len() {
            let result = decode(coding, &bytes[..length], 100, ENOUGH);
            assert_eq!(result, Err(DecodeError::Truncated(coding)), "{length} of {} bytes", bytes.len());
        }
        assert_eq!(decode(coding, &[], 1, ENOUGH), Ok((vec![], 0)), "nothing is an empty answer");
    }
}

#[test]
fn members_and_frames_follow_each_other_and_what_else_follows_is_ignored() {
    let bytes = |coding| [coded(coding, b"one "), coded(coding, b""), coded(coding, b"two")].concat();
    for coding in [Coding::Zstd, Coding::Gzip] {
        for chunk in [1, 3, 1000] {
            assert_eq!(decode(coding, &bytes(coding), chunk, ENOUGH).expect("well formed").0, b"one two");
        }
    }
    for coding in [Coding::Brotli, Coding::Gzip] {
        for chunk in [1, 1000] {
            let padded = [coded(coding, b"one"), vec![0; 100], coded(coding, b"two")].concat();
            assert_eq!(decode(coding, &padded, chunk, ENOUGH).expect("the start is well formed").0, b"one");
        }
    }
    let garbage = [coded(Coding::Zstd, b"one"), b"garbage".to_vec()].concat();
    assert!(matches!(decode(Coding::Zstd, &garbage, 1000, ENOUGH), Err(DecodeError::Unreadable { .. })));
}

#[test]
fn a_checksum_that_does_not_fit_is_an_error() {
    let mut bytes = coded(Coding::Gzip, &text());
    let place = bytes.len() - 6;
    bytes[place] ^= 1;
    assert!(matches!(decode(Coding::Gzip, &bytes, 1000, ENOUGH), Err(DecodeError::Unreadable { .. })));
}

#[test]
fn windows_larger_than_http_allows_are_refused() {
    // Frames of one empty block (RFC 8878 section 3.1.1): no single segment, then a window of 2 to the 23rd, or of
    // twice that.
    let frame =
        |window_bits: u8| [&[0x28, 0xb5, 0x2f, 0xfd, 0x00, (window_bits - 10) << 3][..], &[0x01, 0x00, 0x00]].concat();
    assert_eq!(decode(Coding::Zstd, &frame(23), 100, ENOUGH), Ok((vec![], 0)));
    assert!(matches!(decode(Coding::Zstd, &frame(24), 100, ENOUGH), Err(DecodeError::Unreadable { .. })));
    // The start of a stream with a large window, which is no RFC 7932.
    assert!(matches!(decode(Coding::Brotli, &[0x11, 0x1e, 0x03], 100, ENOUGH), Err(DecodeError::Unreadable { .. })));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn broken_bytes_give_an_error_or_an_end(
        flips in prop::collection::vec((any::<prop::sample::Index>(), 1u8..), 1..4),
        chunk in 1usize..2000,
    ) {
        let source = &text()[..20_000];
        for coding in Coding::ALL {
            let mut bytes = coded(coding, source);
            for (place, flip) in &flips {
                let place = place.index(bytes.len());
                bytes[place] ^= flip;
            }
            if let Ok((_, largest)) = decode(coding, &bytes, chunk, 1 << 24) {
                prop_assert!(largest <= PIECE_BYTES_MAX);
            }
        }
    }

    #[test]
    fn noise_gives_an_error_or_an_end(noise in prop::collection::vec(any::<u8>(), 0..500), chunk in 1usize..200) {
        for (coding, start) in [
            (Coding::Zstd, &[0x28, 0xb5, 0x2f, 0xfd][..]),
            (Coding::Brotli, &[]),
            (Coding::Gzip, &[0x1f, 0x8b, 8]),
        ] {
            let _ = decode(coding, &[start, &noise].concat(), chunk, 1 << 24);
            let _ = decode(coding, &noise, chunk, 1 << 24);
        }
    }
}
