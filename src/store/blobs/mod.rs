//! Blobs: immutable bytes in files that are named by their hash.
//!
//! A blob appears under its name only when it is whole and on stable storage: temporary file, fsync, rename, fsync of
//! the folder. All calls block on the disk; roles make them off their runtime's threads.

mod disk;

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::StoreError;
use crate::model::ContentHash;
pub use disk::{Disk, DiskFile, Space};

/// The folder of unfinished blobs, beside the finished ones so that a rename moves no bytes.
const UNFINISHED: &str = "unfinished";

/// The blobs of one node, below one folder: `HH/HASH`, where `HH` are the first two digits of the hash.
///
/// The 256 folders are made once, so that storing a blob never has to make one and sync its parents.
#[derive(Debug)]
pub struct Blobs<D: Disk> {
    shared: Arc<Shared<D>>,
}

// Derived, it would ask for a disk that can be cloned.
impl<D: Disk> Clone for Blobs<D> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

/// The share of the disk that stays free of blobs, so that the catalogue can grow and objects can still be deleted: a
/// hundredth, and no more than 64 MiB.
const RESERVE_PARTS: u64 = 100;
const RESERVE_BYTES_MAX: u64 = 64 << 20;

/// After so many bytes a blob in the making is synced, so that the sync at its end is short.
const SYNC_BYTES: u64 = 256 << 20;

#[derive(Debug)]
struct Shared<D> {
    disk: D,
    root: PathBuf,
    /// Random, so that a writer of an earlier life that still ends cannot touch a file of this one.
    life: u64,
    next_unfinished: AtomicU64,
}

impl<D: Disk> Blobs<D> {
    /// Opens the blobs below `root`, making the folders that are missing and removing what a crash left unfinished.
    /// `life` are 64 random bits.
    ///
    /// # Errors
    /// When a folder cannot be made, read or synced.
    pub fn open(disk: D, root: &Path, life: u64) -> Result<Self, StoreError> {
        let unfinished = root.join(UNFINISHED);
        disk.make_folder(&unfinished).map_err(StoreError::file("make", &unfinished))?;
        for leftover in disk.list(&unfinished).map_err(StoreError::file("read", &unfinished))? {
            let path = unfinished.join(leftover);
            disk.remove(&path).map_err(StoreError::file("remove", &path))?;
        }
        for first in 0..=u8::MAX {
            let folder = root.join(format!("{first:02x}"));
            disk.make_folder(&folder).map_err(StoreError::file("make", &folder))?;
        }
        for folder in [Some(root), root.parent()].into_iter().flatten() {
            disk.sync_folder(folder).map_err(StoreError::file("sync", folder))?;
        }
        let shared = Shared { disk, root: root.to_owned(), life, next_unfinished: AtomicU64::new(0) };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Starts a new blob.
    ///
    /// # Errors
    /// [`StoreError::Full`] if only the reserve is left, or when the temporary file cannot be made.
    pub fn create(&self) -> Result<BlobWriter<D>, StoreError> {
        let Shared { disk, root, life, next_unfinished } = &*self.shared;
        let number = next_unfinished.fetch_add(1, Ordering::Relaxed);
        let path = root.join(UNFINISHED).join(format!("{life:016x}-{number}"));
        let Space { total_bytes, free_bytes } = disk.space(root).map_err(StoreError::file("look at", root))?;
        if free_bytes < (total_bytes / RESERVE_PARTS).min(RESERVE_BYTES_MAX) {
            return Err(StoreError::Full);
        }
        let file = disk.create(&path).map_err(StoreError::file("make", &path))?;
        Ok(BlobWriter { blobs: self.clone(), file, path, hasher: blake3::Hasher::new(), size: 0, synced: 0 })
    }

    /// Opens the blob `hash` to be read from its start; `None` if it is not held.
    ///
    /// # Errors
    /// When the file is there but cannot be opened.
    pub fn read(&self, hash: &ContentHash) -> Result<Option<D::File>, StoreError> {
        let path = self.path(hash);
        match self.shared.disk.open(&path) {
            Ok(file) => Ok(Some(file)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(StoreError::file("open", path)(error)),
        }
    }

    fn folder(&self, hash: &ContentHash) -> PathBuf {
        self.shared.root.join(format!("{:02x}", hash.as_bytes()[0]))
    }

    fn path(&self, hash: &ContentHash) -> PathBuf {
        self.folder(hash).join(hash.to_string())
    }
}

/// A blob that is being written. Dropped before [`BlobWriter::finish`], it leaves nothing behind.
#[derive(Debug)]
pub struct BlobWriter<D: Disk> {
    blobs: Blobs<D>,
    file: D::File,
    path: PathBuf,
    hasher: blake3::Hasher,
    size: u64,
    synced: u64,
}

impl<D: Disk> BlobWriter<D> {
    /// Appends `bytes`.
    ///
    /// # Errors
    /// [`StoreError::Full`] when the disk is, otherwise what the system said.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        self.file.append(bytes).map_err(StoreError::file("write", &self.path))?;
        self.hasher.update(bytes);
        self.size += bytes.len() as u64;
        if self.size - self.synced >= SYNC_BYTES {
            self.file.sync().map_err(StoreError::file("sync", &self.path))?;
            self.synced = self.size;
        }
        Ok(())
    }

    /// How many bytes were written.
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// Makes the blob durable under its hash and answers the hash. With `expected`, other bytes are refused.
    ///
    /// # Errors
    /// [`StoreError::Mismatch`] for other bytes than expected, else as [`BlobWriter::write`]. Nothing is left behind.
    pub fn finish(mut self, expected: Option<ContentHash>) -> Result<ContentHash, StoreError> {
        let hash = ContentHash::new(*self.hasher.finalize().as_bytes());
        if let Some(expected) = expected.filter(|expected| *expected != hash) {
            return Err(StoreError::Mismatch { expected, found: hash });
        }
        self.file.sync().map_err(StoreError::file("sync", &self.path))?;
        let (target, folder) = (self.blobs.path(&hash), self.blobs.folder(&hash));
        let disk = &self.blobs.shared.disk;
        disk.rename(&self.path, &target).map_err(StoreError::file("rename a blob to", &target))?;
        disk.sync_folder(&folder).map_err(StoreError::file("sync", &folder))?;
        Ok(hash)
    }
}

impl<D: Disk> Drop for BlobWriter<D> {
    fn drop(&mut self) {
        // After a rename there is nothing under this name. A failure leaves a file that the next start removes.
        let _ = self.blobs.shared.disk.remove(&self.path);
    }
}
