//! What a node keeps on disk: blobs by hash, and the catalogue of entries.
//!
//! Bytes come first, names second: a blob is durable before any entry points at it. Knows nothing of peers beyond
//! the names under which it keeps their cursors.

mod backup;
mod blobs;
mod catalog;
mod ledger;
mod query;
mod readers;
mod rows;
mod schema;
mod transaction;
mod variants;

use std::io;
use std::path::PathBuf;

use crate::model::{ContentHash, NodeId};

pub use backup::{mark_as_backup, mark_as_taken_in, mark_as_went_back};
pub use blobs::{BlobWriter, Blobs};
pub use catalog::Catalog;
pub use query::{FeedEnd, FeedPage, Listing, Select, Summary, Want};
pub use transaction::{Progress, Transaction};
pub use variants::{VariantBlob, VariantState};

/// Why the store could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// No space is left: nothing was stored, and what was stored before is untouched.
    #[error("no space is left in the data folder")]
    Full,
    /// A file or folder could not be read or written.
    #[error("cannot {action} {path}")]
    File {
        /// What was tried.
        action: &'static str,
        /// On which path.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The bytes are not those that the hash names.
    #[error("the bytes hash to {found}, not to {expected}")]
    Mismatch {
        /// The hash that was asked for.
        expected: ContentHash,
        /// The hash of the bytes.
        found: ContentHash,
    },
    /// The catalogue failed.
    #[error("the catalogue failed")]
    Catalog(#[source] rusqlite::Error),
    /// The catalogue could not commit: nothing of the group of changes was stored.
    #[error("the catalogue cannot commit: {0}")]
    Commit(String),
    /// The catalogue was written by a newer metacdn.
    #[error("the catalogue has schema {found}, this metacdn knows up to {known}: install a newer one")]
    NewerSchema {
        /// The schema of the file.
        found: u32,
        /// The newest one known here.
        known: u32,
    },
    /// The data folder is another node's.
    #[error("the data folder belongs to node {found}, not to {expected}: give each node a folder of its own")]
    OtherNode {
        /// Whose it is.
        found: NodeId,
        /// Whose it was taken for.
        expected: NodeId,
    },
    /// Another process works on the data folder.
    #[error("the data folder {0} is in use by another process")]
    InUse(PathBuf),
    /// The catalogue's writer has ended, because the node stops or after a failure that it logged.
    #[error("the catalogue is closed")]
    Closed,
}

impl StoreError {
    /// The same cause, as told to all whose changes stood in the group that it took back.
    fn of_group(&self) -> Self {
        match self {
            Self::Full => Self::Full,
            other => Self::Commit(other.to_string()),
        }
    }

    fn file(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::Full,
            _ => Self::File { action, path, source },
        }
    }
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        // The write-ahead log's index grows by its own call, which reports a full disk as an input/output error.
        let full = error.sqlite_error().is_some_and(|e| {
            e.code == rusqlite::ErrorCode::DiskFull || e.extended_code == rusqlite::ffi::SQLITE_IOERR_SHMSIZE
        });
        if full { Self::Full } else { Self::Catalog(error) }
    }
}
