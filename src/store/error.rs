//! Why the store could not do what was asked. Knows nothing of the library that keeps the catalogue.

use std::error::Error;
use std::io;
use std::path::PathBuf;

use crate::model::{ContentHash, NodeId};

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
    Catalog(#[source] Box<dyn Error + Send + Sync>),
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
    pub(super) fn of_group(&self) -> Self {
        match self {
            Self::Full => Self::Full,
            other => Self::Commit(other.to_string()),
        }
    }

    /// What `action` on `path` failed with; a full disk is told from everything else.
    pub(super) fn file(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::Full,
            _ => Self::File { action, path, source },
        }
    }
}
