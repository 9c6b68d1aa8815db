//! Blobs: immutable bytes in files that are named by their hash.
//!
//! A blob appears under its name only when it is whole and on stable storage: temporary file, fsync, rename, fsync of
//! the folder. All calls block on the disk; roles make them off their runtime's threads.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::StoreError;
use crate::model::ContentHash;

/// The folder of unfinished blobs, beside the finished ones so that a rename moves no bytes.
const UNFINISHED: &str = "unfinished";

/// The blobs of one node, below one folder: `HH/HASH`, where `HH` are the first two digits of the hash.
///
/// The 256 folders are made once, so that storing a blob never has to make one and sync its parents.
#[derive(Debug, Clone)]
pub struct Blobs {
    shared: Arc<Shared>,
}

/// The share of the disk that stays free of blobs, so that the catalogue can grow and objects can still be deleted: a
/// hundredth, and no more than 64 MiB.
const RESERVE_PARTS: u64 = 100;
const RESERVE_BYTES_MAX: u64 = 64 << 20;

/// After so many bytes a blob in the making is synced, so that the sync at its end is short.
const SYNC_BYTES: u64 = 256 << 20;

#[derive(Debug)]
struct Shared {
    root: PathBuf,
    /// Random, so that a writer of an earlier life that still ends cannot touch a file of this one.
    life: u64,
    next_unfinished: AtomicU64,
}

impl Blobs {
    /// Opens the blobs below `root`, making the folders that are missing and removing what a crash left unfinished.
    /// `life` are 64 random bits.
    ///
    /// # Errors
    /// When a folder cannot be made, read or synced.
    pub fn open(root: &Path, life: u64) -> Result<Self, StoreError> {
        let unfinished = root.join(UNFINISHED);
        fs::create_dir_all(&unfinished).map_err(StoreError::file("make", &unfinished))?;
        for leftover in fs::read_dir(&unfinished).map_err(StoreError::file("read", &unfinished))? {
            let path = leftover.map_err(StoreError::file("read", &unfinished))?.path();
            fs::remove_file(&path).map_err(StoreError::file("remove", &path))?;
        }
        for first in 0..=u8::MAX {
            let folder = root.join(format!("{first:02x}"));
            match fs::create_dir(&folder) {
                Err(error) if error.kind() != ErrorKind::AlreadyExists => {
                    return Err(StoreError::file("make", &folder)(error));
                }
                _ => {}
            }
        }
        sync_folder(root)?;
        if let Some(parent) = root.parent() {
            sync_folder(parent)?;
        }
        let shared = Shared { root: root.to_owned(), life, next_unfinished: AtomicU64::new(0) };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Starts a new blob.
    ///
    /// # Errors
    /// [`StoreError::Full`] if only the reserve is left, or when the temporary file cannot be made.
    pub fn create(&self) -> Result<BlobWriter, StoreError> {
        let Shared { root, life, next_unfinished } = &*self.shared;
        let number = next_unfinished.fetch_add(1, Ordering::Relaxed);
        let path = root.join(UNFINISHED).join(format!("{life:016x}-{number}"));
        let space = rustix::fs::statvfs(root).map_err(io::Error::from).map_err(StoreError::file("look at", root))?;
        let reserve = (space.f_blocks * space.f_frsize / RESERVE_PARTS).min(RESERVE_BYTES_MAX);
        if space.f_bavail * space.f_frsize < reserve {
            return Err(StoreError::Full);
        }
        let file =
            OpenOptions::new().write(true).create_new(true).open(&path).map_err(StoreError::file("make", &path))?;
        Ok(BlobWriter { blobs: self.clone(), file, path, hasher: blake3::Hasher::new(), size: 0, synced: 0 })
    }

    /// Opens the blob `hash` to be read from its start; `None` if it is not held.
    ///
    /// # Errors
    /// When the file is there but cannot be opened.
    pub fn read(&self, hash: &ContentHash) -> Result<Option<File>, StoreError> {
        let path = self.path(hash);
        match File::open(&path) {
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
pub struct BlobWriter {
    blobs: Blobs,
    file: File,
    path: PathBuf,
    hasher: blake3::Hasher,
    size: u64,
    synced: u64,
}

impl BlobWriter {
    /// Appends `bytes`.
    ///
    /// # Errors
    /// [`StoreError::Full`] when the disk is, otherwise what the system said.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        self.file.write_all(bytes).map_err(StoreError::file("write", &self.path))?;
        self.hasher.update(bytes);
        self.size += bytes.len() as u64;
        if self.size - self.synced >= SYNC_BYTES {
            self.file.sync_data().map_err(StoreError::file("sync", &self.path))?;
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
    pub fn finish(self, expected: Option<ContentHash>) -> Result<ContentHash, StoreError> {
        let hash = ContentHash::new(*self.hasher.finalize().as_bytes());
        if let Some(expected) = expected.filter(|expected| *expected != hash) {
            return Err(StoreError::Mismatch { expected, found: hash });
        }
        self.file.sync_all().map_err(StoreError::file("sync", &self.path))?;
        let target = self.blobs.path(&hash);
        fs::rename(&self.path, &target).map_err(StoreError::file("rename a blob to", &target))?;
        sync_folder(&self.blobs.folder(&hash))?;
        Ok(hash)
    }
}

impl Drop for BlobWriter {
    fn drop(&mut self) {
        // After a rename there is nothing under this name. A failure leaves a file that the next start removes.
        let _ = fs::remove_file(&self.path);
    }
}

/// Makes the names in `folder` durable: a rename is lost in a crash unless its folder is synced, too.
pub(super) fn sync_folder(folder: &Path) -> Result<(), StoreError> {
    File::open(folder).and_then(|file| file.sync_all()).map_err(StoreError::file("sync", folder))
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    fn files_below(root: &Path) -> usize {
        let folders = fs::read_dir(root).expect("the root").map(|entry| entry.expect("an entry").path());
        folders.map(|folder| fs::read_dir(folder).expect("a folder").count()).sum()
    }

    #[test]
    fn a_blob_reads_back_under_its_hash() {
        let root = tempfile::tempdir().expect("a folder");
        let blobs = Blobs::open(root.path(), 7).expect("blobs");
        let mut writer = blobs.create().expect("a writer");
        writer.write(b"meta").expect("space");
        writer.write(b"cdn").expect("space");
        assert_eq!(writer.size(), 7);
        let hash = writer.finish(Some(ContentHash::of(b"metacdn"))).expect("durable");
        let mut text = String::new();
        let mut file = blobs.read(&hash).expect("readable").expect("held");
        file.read_to_string(&mut text).expect("readable");
        assert_eq!(text, "metacdn");
        assert!(blobs.read(&ContentHash::of(b"other")).expect("readable").is_none());
    }

    #[test]
    fn other_bytes_and_dropped_writers_leave_nothing() {
        let root = tempfile::tempdir().expect("a folder");
        let blobs = Blobs::open(root.path(), 7).expect("blobs");
        let mut writer = blobs.create().expect("a writer");
        writer.write(b"torn").expect("space");
        let wrong = writer.finish(Some(ContentHash::of(b"whole")));
        assert!(matches!(wrong, Err(StoreError::Mismatch { .. })), "{wrong:?}");
        drop(blobs.create().expect("a writer"));
        assert_eq!(files_below(root.path()), 0);
    }

    #[test]
    fn what_a_crash_left_unfinished_is_removed_at_the_next_start() {
        let root = tempfile::tempdir().expect("a folder");
        let blobs = Blobs::open(root.path(), 7).expect("blobs");
        std::mem::forget(blobs.create().expect("a writer"));
        assert_eq!(files_below(root.path()), 1);
        Blobs::open(root.path(), 7).expect("blobs");
        assert_eq!(files_below(root.path()), 0);
    }
}
