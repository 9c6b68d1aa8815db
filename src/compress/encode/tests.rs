//! Tests of encoders, by the decoders of the same libraries; other programs have read their output, too.

use proptest::prelude::*;

use super::*;
use crate::compress::{Config, Decoder};

/// All levels that are cheap enough to be tried often.
fn levels() -> impl Strategy<Value = Levels> {
    (1u8..=19, 0u8..=11, 1u8..=9, 17u8..=23).prop_map(|(zstd, br, gzip, window_bits)| Levels {
        zstd,
        br,
        gzip,
        window_bits,
    })
}

/// Something between noise and what repeats.
fn source() -> impl Strategy<Value = Vec<u8>> {
    let word = prop_oneof![
        4 => prop::sample::select(vec![&b"<div class=\"item\">"[..], b"</div>\n", b"function ", b"\0\0\0\0\0\0\0\0"])
            .prop_map(<[u8]>::to_vec),
        1 => prop::collection::vec(any::<u8>(), 0..40),
    ];
    (prop::collection::vec(word, 0..60), 1usize..200).prop_map(|(words, times)| words.concat().repeat(times))
}

fn decoded(coding: Coding, coded: &[u8]) -> Vec<u8> {
    let (decoded, decoder) = decoded_prefix(coding, coded);
    decoder.finish().expect("it is whole");
    decoded
}

fn decoded_prefix(coding: Coding, coded: &[u8]) -> (Vec<u8>, Decoder) {
    let mut decoder = Decoder::new(coding, u64::MAX).expect("memory");
    let mut coded = Bytes::copy_from_slice(coded);
    let mut decoded = Vec::new();
    while let Some(piece) = decoder.decode(&mut coded).expect("it is well formed") {
        decoded.extend_from_slice(&piece);
    }
    assert!(coded.is_empty(), "all is taken");
    (decoded, decoder)
}

/// `source` in chunks of the sizes that `cuts` gives again and again.
fn chunks<'a>(mut source: &'a [u8], cuts: &'a [usize]) -> impl Iterator<Item = &'a [u8]> {
    let mut cuts = cuts.iter().cycle();
    std::iter::from_fn(move || {
        let size = (*cuts.next()?).clamp(1, source.len().max(1)).min(source.len());
        let (chunk, rest) = source.split_at(size);
        source = rest;
        (!chunk.is_empty()).then_some(chunk)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn what_is_coded_in_any_chunks_is_decoded_to_the_same(
        source in source(),
        levels in levels(),
        cuts in prop::collection::vec(1usize..100_000, 1..6),
        is_announced: bool,
    ) {
        for coding in Coding::ALL {
            let announced = is_announced.then_some(source.len() as u64);
            let mut encoder = Encoder::new(coding, levels, announced).expect("memory");
            let mut coded = Vec::new();
            for chunk in chunks(&source, &cuts) {
                coded.extend_from_slice(&encoder.push(chunk).expect("it works"));
            }
            let (last, made) = encoder.finish().expect("it works");
            coded.extend_from_slice(&last);
            prop_assert_eq!(made.size_bytes, coded.len() as u64);
            prop_assert_eq!(made.source_bytes, source.len() as u64);
            prop_assert_eq!(made.fingerprint, Fingerprint::new(xxhash_rust::xxh3::xxh3_64(&coded)));
            prop_assert!(decoded(coding, &coded) == source, "{coding}");
        }
    }

    #[test]
    fn what_is_flushed_can_be_decoded_at_once(
        source in source(),
        levels in levels(),
        cuts in prop::collection::vec(1usize..20_000, 1..6),
    ) {
        for coding in Coding::ALL {
            let mut encoder = Encoder::new(coding, levels, None).expect("memory");
            let (mut coded, mut pushed) = (Vec::new(), Vec::new());
            for chunk in chunks(&source, &cuts).take(6) {
                pushed.extend_from_slice(chunk);
                coded.extend_from_slice(&encoder.push(chunk).expect("it works"));
                coded.extend_from_slice(&encoder.flush().expect("it works"));
                prop_assert!(decoded_prefix(coding, &coded).0 == pushed, "{coding} after {} bytes", pushed.len());
                prop_assert!(encoder.flush().expect("it works").is_empty());
            }
            coded.extend_from_slice(&encoder.finish().expect("it works").0);
            prop_assert!(decoded(coding, &coded) == pushed, "{coding}");
        }
    }
}

#[test]
fn every_level_makes_what_can_be_decoded() {
    let source: Vec<u8> = (0..30_000u32).flat_map(|number| format!("<p>{number}</p>\n").into_bytes()).collect();
    let right = Config::default().quick;
    let sizes = |coding, levels: Vec<Levels>| {
        let size = |levels| {
            let (coded, made) = Encoder::whole(coding, levels, &source).expect("it works");
            assert!(decoded(coding, &coded) == source, "{coding} at {levels:?}");
            assert!(made.size_bytes * 3 < made.source_bytes, "{coding} at {levels:?}: {}", made.size_bytes);
            coded.len()
        };
        levels.into_iter().map(size).collect::<Vec<_>>()
    };
    let zstd = sizes(Coding::Zstd, (1..=19).map(|zstd| Levels { zstd, window_bits: 23, ..right }).collect());
    let brotli = sizes(Coding::Brotli, (0..=11).map(|br| Levels { br, window_bits: 23, ..right }).collect());
    let gzip = sizes(Coding::Gzip, (1..=9).map(|gzip| Levels { gzip, ..right }).collect());
    for sizes in [zstd, brotli, gzip] {
        assert!(sizes.last() < sizes.first(), "the best level makes less than the fastest: {sizes:?}");
    }
}

#[test]
fn nothing_and_one_byte_are_coded_too() {
    for coding in Coding::ALL {
        for source in [&b""[..], b"a"] {
            let (coded, made) = Encoder::whole(coding, Config::default().quick, source).expect("it works");
            assert_eq!(decoded(coding, &coded), source);
            assert_eq!((made.coding, made.source_bytes), (coding, source.len() as u64));
        }
    }
}

#[test]
fn noise_hardly_grows() {
    let mut state = 1u64;
    let noise: Vec<u8> = std::iter::repeat_with(|| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 56) as u8
    })
    .take(1 << 20)
    .collect();
    for coding in Coding::ALL {
        let (coded, _) = Encoder::whole(coding, Config::default().quick, &noise).expect("it works");
        assert!(coded.len() < noise.len() + noise.len() / 1000, "{coding}: {}", coded.len());
        assert!(decoded(coding, &coded) == noise);
    }
}

#[test]
fn an_answer_of_another_length_than_announced_is_an_error() {
    for coding in Coding::ALL {
        let encoder = || Encoder::new(coding, Config::default().quick, Some(3)).expect("memory");
        let mut longer = encoder();
        longer.push(b"abc").expect("as announced");
        assert_eq!(longer.push(b"d"), Err(EncodeError::Length { announced: 3, pushed: 4 }));
        let mut shorter = encoder();
        shorter.push(b"ab").expect("less than announced");
        assert_eq!(shorter.finish().map(|_| ()), Err(EncodeError::Length { announced: 3, pushed: 2 }));
    }
}

#[test]
fn levels_that_do_not_exist_are_an_error() {
    let levels = Levels { zstd: 22, ..Config::default().quick };
    assert!(matches!(Encoder::new(Coding::Zstd, levels, None), Err(EncodeError::Levels(_))));
}

#[test]
fn what_is_coded_does_not_need_more_window_than_http_allows() {
    // The distance between what repeats is beyond 8 MiB, so a window that is larger would be of use.
    let mut state = 7u64;
    let mut noise = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 56) as u8
    };
    let start: Vec<u8> = std::iter::repeat_with(&mut noise).take(1 << 20).collect();
    let mut source = start.clone();
    source.extend(std::iter::repeat_n(0, 9 << 20));
    source.extend(&start);
    let levels = Levels { zstd: 19, br: 5, gzip: 1, window_bits: 23 };
    for coding in Coding::ALL {
        let mut encoder = Encoder::new(coding, levels, None).expect("memory");
        let mut coded = Vec::new();
        for chunk in source.chunks(CHUNK_BYTES_MAX) {
            coded.extend_from_slice(&encoder.push(chunk).expect("it works"));
        }
        coded.extend_from_slice(&encoder.finish().expect("it works").0);
        // The decoder refuses what needs more.
        assert!(decoded(coding, &coded) == source, "{coding}");
    }
}
