//! What a node keeps on disk: blobs by hash, and the catalogue of entries.
//!
//! Bytes come first, names second: a blob is durable before an entry points at it, or in the same commit. Knows nothing
//! of peers beyond the names under which it keeps their cursors.

mod backup;
mod blobs;
mod catalog;
mod digests;
mod error;
mod file_system;
mod homes;
mod ledger;
mod query;
mod readers;
mod rows;
mod schema;
mod scrub;
mod small;
mod sweep;
mod transaction;
mod variants;
mod wants;

pub use backup::{mark_as_backup, mark_as_taken_in, mark_as_went_back};
pub use blobs::{Disk, DiskFile, FreshBlob, SMALL_BLOB_BYTES_MAX, Space};
pub use catalog::Catalog;
pub use error::StoreError;
pub use file_system::FileSystem;
pub use query::{FeedEnd, FeedPage, Listing, Select, Summary, Want};
pub use scrub::NamedBlob;
pub use sweep::{Loose, Swept};
pub use transaction::{Progress, Transaction};
pub use variants::{VariantBlob, VariantState};

/// The blobs of a node, on the file system of this machine.
pub type Blobs = blobs::Blobs<FileSystem>;

/// The file of a blob that was swept.
pub type Leftover = blobs::Leftover<FileSystem>;

/// A blob that is being written to the file system of this machine.
pub type BlobWriter = blobs::BlobWriter<FileSystem>;
