//! Many small blobs in one answer: what a node that catches up asks for.

use bytes::{Buf as _, Bytes, BytesMut};
use serde::{Deserialize, Serialize};

use crate::model::ContentHash;

/// The most blobs of one request.
pub const HASHES_MAX: usize = 256;

/// The largest blob that is given in this way, in bytes; larger ones are worth a request each.
pub const BLOB_BYTES_MAX: u64 = 16 << 10;

/// The media type of the answer.
pub const MEDIA_TYPE: &str = "application/vnd.metacdn.blobs";

/// In front of each blob: its hash, and its size as 8 bytes, the highest first.
const HEAD_BYTES: usize = 40;

/// The size of a blob that is not given.
const NOT_GIVEN: u64 = u64::MAX;

/// The body of `POST /v1/blobs`: at most [`HASHES_MAX`] of them.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BlobsQuery {
    /// The blobs that are asked for.
    pub hashes: Vec<ContentHash>,
}

/// One blob of the answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GivenBlob {
    /// The hash that was asked for.
    pub hash: ContentHash,
    /// The bytes; `None` if they are not held, or too many.
    pub bytes: Option<Bytes>,
}

/// The answer holds a blob of more than [`BLOB_BYTES_MAX`] bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a blob of {0} bytes in an answer of small ones")]
pub struct TooLarge(u64);

/// Appends one blob to an answer.
pub fn encode(hash: &ContentHash, bytes: Option<&[u8]>, answer: &mut Vec<u8>) {
    let size = bytes.map_or(NOT_GIVEN, |bytes| bytes.len() as u64);
    answer.extend_from_slice(hash.as_bytes());
    answer.extend_from_slice(&size.to_be_bytes());
    answer.extend_from_slice(bytes.unwrap_or_default());
}

/// Takes an answer apart as it comes.
#[derive(Debug, Default)]
pub struct Decoder {
    buffer: BytesMut,
}

impl Decoder {
    /// Takes what came next.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next blob, if it is there whole.
    ///
    /// # Errors
    /// When it is too large.
    pub fn blob(&mut self) -> Result<Option<GivenBlob>, TooLarge> {
        let Some((head, rest)) = self.buffer.split_at_checked(HEAD_BYTES) else { return Ok(None) };
        let (hash, size) = head.split_first_chunk::<32>().expect("a head has 40 bytes");
        let hash = ContentHash::new(*hash);
        let size = u64::from_be_bytes(size.try_into().expect("8 bytes are left of a head"));
        if size == NOT_GIVEN {
            self.buffer.advance(HEAD_BYTES);
            return Ok(Some(GivenBlob { hash, bytes: None }));
        }
        if size > BLOB_BYTES_MAX {
            return Err(TooLarge(size));
        }
        if (rest.len() as u64) < size {
            return Ok(None);
        }
        self.buffer.advance(HEAD_BYTES);
        Ok(Some(GivenBlob { hash, bytes: Some(self.buffer.split_to(size as usize).freeze()) }))
    }

    /// Whether all that came was taken.
    pub fn is_empty(&self) -> bool {
        self.buffer.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn an_answer_reads_back_however_it_is_cut(
            given in prop::collection::vec(prop::option::of(prop::collection::vec(any::<u8>(), 0..200)), 0..8),
            cut in 1..97_usize,
        ) {
            let mut answer = Vec::new();
            for bytes in &given {
                encode(&ContentHash::of(bytes.as_deref().unwrap_or(b"none")), bytes.as_deref(), &mut answer);
            }
            let (mut decoder, mut read) = (Decoder::default(), Vec::new());
            for part in answer.chunks(cut) {
                decoder.push(part);
                while let Some(blob) = decoder.blob().expect("small blobs") {
                    read.push(blob);
                }
            }
            prop_assert!(decoder.is_empty());
            prop_assert_eq!(read.len(), given.len());
            for (blob, bytes) in read.iter().zip(&given) {
                prop_assert_eq!(blob.hash, ContentHash::of(bytes.as_deref().unwrap_or(b"none")));
                prop_assert_eq!(blob.bytes.as_deref(), bytes.as_deref());
            }
        }
    }

    #[test]
    fn a_large_blob_is_refused_before_it_is_gathered() {
        let mut decoder = Decoder::default();
        decoder.push(&[0; 32]);
        assert_eq!(decoder.blob(), Ok(None));
        decoder.push(&(BLOB_BYTES_MAX + 1).to_be_bytes());
        assert_eq!(decoder.blob(), Err(TooLarge(BLOB_BYTES_MAX + 1)));
    }
}
