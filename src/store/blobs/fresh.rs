//! Blobs that were taken in and that no entry names yet.

use super::pins::Pin;
use crate::model::ContentHash;

/// The largest blob that is a row of the catalogue and not a file, in bytes. A file costs two syncs and a folder entry
/// of its own; a row shares the sync of the commit that names it, of which 256 of this size make four megabytes.
pub const SMALL_BLOB_BYTES_MAX: u64 = 16 << 10;

/// A blob that was taken in, whose bytes hash to its name: what an entry needs to be listed. Small ones become durable in
/// the commit that lists the entry, others are already, and no sweep takes them before this is dropped.
#[derive(Debug)]
pub struct FreshBlob {
    hash: ContentHash,
    size: u64,
    bytes: Bytes,
}

#[derive(Debug)]
enum Bytes {
    /// They are to become a row of the catalogue.
    Row(Vec<u8>),
    /// They are in a file, which stays there as long as this is not dropped.
    File { _pin: Pin },
}

impl FreshBlob {
    /// A blob that is to become a row.
    pub(super) const fn row(hash: ContentHash, bytes: Vec<u8>) -> Self {
        Self { hash, size: bytes.len() as u64, bytes: Bytes::Row(bytes) }
    }

    /// A blob whose file is durable.
    pub(super) const fn file(hash: ContentHash, size: u64, pin: Pin) -> Self {
        Self { hash, size, bytes: Bytes::File { _pin: pin } }
    }

    /// The hash of its bytes.
    pub const fn hash(&self) -> ContentHash {
        self.hash
    }

    /// How many bytes it has.
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// Its bytes, if they are to become a row of the catalogue.
    pub fn as_row(&self) -> Option<&[u8]> {
        match &self.bytes {
            Bytes::Row(bytes) => Some(bytes),
            Bytes::File { .. } => None,
        }
    }
}
