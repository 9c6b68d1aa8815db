//! Blobs: immutable bytes in files that are named by their hash.
//!
//! A blob appears under its name only when it is whole and on stable storage: temporary file, fsync, rename, fsync of
//! the folder. Small ones are no files: they are handed to the catalogue, which keeps them in its commits. All calls
//! block on the disk; roles make them off their runtime's threads.

mod disk;
mod fresh;
mod leftover;
mod pins;
mod writer;

use std::collections::BTreeSet;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::StoreError;
use crate::model::ContentHash;
pub use disk::{Disk, DiskFile, Space};
pub use fresh::{FreshBlob, SMALL_BLOB_BYTES_MAX};
pub use leftover::{Leftover, Removal};
use pins::Pins;
pub use writer::BlobWriter;

/// What a process is told that is short of memory (`ENOMEM`), or of files that may be open (`ENFILE`, `EMFILE`).
const SHORTAGES: [i32; 3] = [12, 23, 24];

/// Whether `error` says nothing of the file that it came from.
fn is_shortage(error: &io::Error) -> bool {
    error.raw_os_error().is_some_and(|code| SHORTAGES.contains(&code))
}

/// The folder of unfinished blobs, beside the finished ones so that a rename moves no bytes.
const UNFINISHED: &str = "unfinished";

/// The folder of files whose bytes are not those that their names say: kept until the blob is mended.
const DAMAGED: &str = "damaged";

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

/// What stays free of blobs, so that the catalogue can grow and objects can still be deleted: a hundredth of the disk, within
/// these bounds, but of a small disk no more than an eighth.
const RESERVE_PARTS: u64 = 100;
const RESERVE_BYTES_MIN: u64 = 8 << 20;
const RESERVE_BYTES_MAX: u64 = 64 << 20;
const RESERVE_PARTS_MIN: u64 = 8;

#[derive(Debug)]
struct Shared<D> {
    disk: D,
    root: PathBuf,
    /// Random, so that a writer of an earlier life that still ends cannot touch a file of this one.
    life: u64,
    next_unfinished: AtomicU64,
    pins: Pins,
    /// Unfinished blobs of which a sync failed, by their names.
    spoiled: Mutex<BTreeSet<PathBuf>>,
}

impl<D: Disk> Blobs<D> {
    /// Opens the blobs below `root`, making the folders that are missing and removing what a crash left unfinished, but
    /// for what can be resumed and `is_wanted`. `life` are 64 random bits.
    ///
    /// # Errors
    /// When a folder cannot be made, read or synced.
    pub fn open(disk: D, root: &Path, life: u64, is_wanted: impl Fn(&ContentHash) -> bool) -> Result<Self, StoreError> {
        let [unfinished, damaged] = [UNFINISHED, DAMAGED].map(|name| root.join(name));
        for folder in [&unfinished, &damaged] {
            disk.make_folder(folder).map_err(StoreError::file("make", folder))?;
        }
        for leftover in disk.list(&unfinished).map_err(StoreError::file("read", &unfinished))? {
            let hash = leftover.to_str().and_then(|name| name.parse().ok());
            if hash.is_some_and(|hash| is_wanted(&hash)) {
                continue;
            }
            // One that stays takes space, and no more: no name is given twice.
            let _ = disk.remove(&unfinished.join(leftover));
        }
        for first in 0..=u8::MAX {
            let folder = root.join(format!("{first:02x}"));
            disk.make_folder(&folder).map_err(StoreError::file("make", &folder))?;
        }
        for folder in [Some(root), root.parent()].into_iter().flatten() {
            disk.sync_folder(folder).map_err(StoreError::file("sync", folder))?;
        }
        let shared = Shared {
            disk,
            root: root.to_owned(),
            life,
            next_unfinished: AtomicU64::new(0),
            pins: Pins::default(),
            spoiled: Mutex::default(),
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Starts a new blob, in memory.
    pub fn create(&self) -> BlobWriter<D> {
        BlobWriter::new(self.clone())
    }

    /// Goes on with the blob that is to become `hash` where it was left: a writer that is dropped, and a crash, leave what
    /// was written. Nobody else may write it meanwhile. What is there is read, which may take long.
    ///
    /// # Errors
    /// When that fails.
    pub fn resume(&self, hash: ContentHash) -> Result<BlobWriter<D>, StoreError> {
        BlobWriter::resume(self.clone(), hash)
    }

    /// The blobs that can be resumed, in any order.
    ///
    /// # Errors
    /// When their folder cannot be read.
    pub fn unfinished(&self) -> Result<Vec<ContentHash>, StoreError> {
        self.hashes_in(&self.shared.root.join(UNFINISHED))
    }

    /// Removes what there is of the blob that was to become `hash`. Nobody may write it meanwhile.
    ///
    /// # Errors
    /// When it is there but cannot be removed.
    pub fn forget_unfinished(&self, hash: &ContentHash) -> Result<(), StoreError> {
        self.remove_file(&self.resumable_path(hash))
    }

    /// Opens the file of the blob `hash`, and says its size; `None` if there is none that can be opened: one whose place on
    /// the disk is bad is no more than one that is lost.
    ///
    /// # Errors
    /// When the system has no room for one more open file.
    pub fn read(&self, hash: &ContentHash) -> Result<Option<(D::File, u64)>, StoreError> {
        self.open_file(self.path(hash))
    }

    fn open_file(&self, path: PathBuf) -> Result<Option<(D::File, u64)>, StoreError> {
        match self.shared.disk.open(&path).and_then(|file| file.size().map(|size| (file, size))) {
            Ok(found) => Ok(Some(found)),
            Err(error) if is_shortage(&error) => Err(StoreError::file("open", path)(error)),
            Err(_) => Ok(None),
        }
    }

    /// Takes the file of the blob `hash` away, which nothing names, unless somebody is about to name it.
    ///
    /// # Errors
    /// When the file cannot be moved.
    pub fn take_away(&self, hash: &ContentHash) -> Result<Removal<D>, StoreError> {
        self.pins().unless_pinned(hash, || Leftover::of(self, hash)).unwrap_or(Ok(Removal::Pinned))
    }

    /// The blobs whose hash begins with the byte `first` and that are files, in any order.
    ///
    /// # Errors
    /// When their folder cannot be read.
    pub fn files(&self, first: u8) -> Result<Vec<ContentHash>, StoreError> {
        self.hashes_in(&self.shared.root.join(format!("{first:02x}")))
    }

    fn hashes_in(&self, folder: &Path) -> Result<Vec<ContentHash>, StoreError> {
        let names = self.disk().list(folder).map_err(StoreError::file("read", folder))?;
        // What has another name is none of ours.
        Ok(names.iter().filter_map(|name| name.to_str()?.parse().ok()).collect())
    }

    /// Puts the file of the blob `hash`, which is damaged, where nobody is served by it; not if a write has just
    /// replaced it. Answers whether it was moved.
    ///
    /// # Errors
    /// When it cannot be moved.
    pub fn set_aside(&self, hash: &ContentHash) -> Result<bool, StoreError> {
        let moved = || self.move_file(&self.path(hash), &self.damaged_path(hash));
        self.pins().unless_pinned(hash, moved).unwrap_or(Ok(false))
    }

    /// Puts a file back that was set aside and is whole, unless another one has come.
    ///
    /// # Errors
    /// When it cannot be moved.
    pub fn put_back(&self, hash: &ContentHash) -> Result<(), StoreError> {
        self.move_file(&self.damaged_path(hash), &self.path(hash)).map(drop)
    }

    /// Opens a file that was set aside, as [`Blobs::read`] does.
    ///
    /// # Errors
    /// As there.
    pub fn read_aside(&self, hash: &ContentHash) -> Result<Option<(D::File, u64)>, StoreError> {
        self.open_file(self.damaged_path(hash))
    }

    /// Removes what was set aside of the blob `hash`, which is mended.
    ///
    /// # Errors
    /// When it is there but cannot be removed.
    pub fn forget_aside(&self, hash: &ContentHash) -> Result<(), StoreError> {
        self.remove_file(&self.damaged_path(hash))
    }

    /// Removes a file, if there is one.
    fn remove_file(&self, path: &Path) -> Result<(), StoreError> {
        match self.disk().remove(path) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(StoreError::file("remove", path)(error)),
            _ => Ok(()),
        }
    }

    /// Renames a file; answers whether there was one.
    fn move_file(&self, from: &Path, to: &Path) -> Result<bool, StoreError> {
        match self.disk().rename(from, to) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(StoreError::file("move", from)(error)),
        }
    }

    /// The blobs whose [`FreshBlob`] was dropped since the last call, whether an entry names them now or not.
    pub fn take_released(&self) -> Vec<ContentHash> {
        self.pins().take_released()
    }

    fn pins(&self) -> &Pins {
        &self.shared.pins
    }

    fn spoiled(&self) -> MutexGuard<'_, BTreeSet<PathBuf>> {
        self.shared.spoiled.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Refuses to store `bytes` more when only the reserve would be left.
    ///
    /// # Errors
    /// [`StoreError::Full`], or what the system says when it is asked.
    pub fn require_room(&self, bytes: u64) -> Result<(), StoreError> {
        let Shared { disk, root, .. } = &*self.shared;
        let Space { total_bytes, free_bytes } = disk.space(root).map_err(StoreError::file("look at", root))?;
        let reserve = (total_bytes / RESERVE_PARTS).clamp(RESERVE_BYTES_MIN, RESERVE_BYTES_MAX);
        let reserve = reserve.min(total_bytes / RESERVE_PARTS_MIN);
        if free_bytes < reserve.saturating_add(bytes) { Err(StoreError::Full) } else { Ok(()) }
    }

    fn disk(&self) -> &D {
        &self.shared.disk
    }

    /// A name for an unfinished blob that no other one has.
    fn unfinished_path(&self) -> PathBuf {
        let Shared { root, life, next_unfinished, .. } = &*self.shared;
        let number = next_unfinished.fetch_add(1, Ordering::Relaxed);
        root.join(UNFINISHED).join(format!("{life:016x}-{number}"))
    }

    /// The name of the unfinished blob that is to become `hash`.
    fn resumable_path(&self, hash: &ContentHash) -> PathBuf {
        self.shared.root.join(UNFINISHED).join(hash.to_string())
    }

    fn damaged_path(&self, hash: &ContentHash) -> PathBuf {
        self.shared.root.join(DAMAGED).join(hash.to_string())
    }

    fn folder(&self, hash: &ContentHash) -> PathBuf {
        self.shared.root.join(format!("{:02x}", hash.as_bytes()[0]))
    }

    fn path(&self, hash: &ContentHash) -> PathBuf {
        self.folder(hash).join(hash.to_string())
    }
}
