//! Answers with many small blobs: any bytes, cut anywhere, read alike, and what was read encodes as it came.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../src/protocol/blobs.rs"]
#[expect(dead_code, reason = "the client's and the node's entrances are not fuzzed")]
mod blobs;
#[path = "../../src/model/mod.rs"]
#[expect(dead_code, unused_imports, reason = "blobs have hashes; the rest of the model is not needed")]
mod model;

use blobs::{BLOB_BYTES_MAX, Decoder, GivenBlob, TooLarge, encode};

/// What was read until the end or the first error.
fn read<'a>(parts: impl Iterator<Item = &'a [u8]>) -> (Vec<GivenBlob>, Option<TooLarge>) {
    let (mut decoder, mut given) = (Decoder::default(), Vec::new());
    for part in parts {
        decoder.push(part);
        loop {
            match decoder.blob() {
                Ok(Some(blob)) => given.push(blob),
                Ok(None) => break,
                Err(error) => return (given, Some(error)),
            }
        }
    }
    (given, None)
}

fuzz_target!(|data: &[u8]| {
    let Some((&size, answer)) = data.split_first() else { return };
    let (given, error) = read(std::iter::once(answer));
    assert_eq!(read(answer.chunks(usize::from(size) + 1)), (given.clone(), error));
    let mut again = Vec::new();
    for blob in &given {
        assert!(blob.bytes.as_ref().is_none_or(|bytes| bytes.len() as u64 <= BLOB_BYTES_MAX));
        encode(&blob.hash, blob.bytes.as_deref(), &mut again);
    }
    assert!(answer.starts_with(&again));
});
