//! The part of metacdn's store that runs here: blobs, on a disk of the simulation's own.

#[path = "../../src/store/blobs/mod.rs"]
mod blobs;
#[path = "../../src/store/error.rs"]
mod error;

pub use blobs::{BlobWriter, Blobs, Disk, DiskFile, FreshBlob, Removal, SMALL_BLOB_BYTES_MAX, Space};
pub use error::StoreError;
