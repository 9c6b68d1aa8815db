//! Files of blobs that nothing names any more.

use std::io::ErrorKind;
use std::path::PathBuf;

use super::{Blobs, Disk, DiskFile as _};
use crate::model::ContentHash;
use crate::store::StoreError;

/// What came of taking the file of a blob away.
#[derive(Debug)]
pub enum Removal<D: Disk> {
    /// It stays: somebody is about to name the blob.
    Pinned,
    /// There was none.
    Absent,
    /// It is out of its place.
    Moved(Leftover<D>),
}

/// The file of a blob that lost its place; its space comes back when this is dropped.
#[derive(Debug)]
pub struct Leftover<D: Disk> {
    blobs: Blobs<D>,
    path: PathBuf,
    size: u64,
}

impl<D: Disk> Leftover<D> {
    /// Moves the file of `hash` to where the next start would remove it.
    pub(super) fn of(blobs: &Blobs<D>, hash: &ContentHash) -> Result<Removal<D>, StoreError> {
        let (path, target) = (blobs.path(hash), blobs.unfinished_path());
        let disk = blobs.disk();
        // Also what cannot be read goes.
        let size = disk.open(&path).and_then(|file| file.size()).unwrap_or_default();
        match disk.rename(&path, &target) {
            Ok(()) => Ok(Removal::Moved(Self { blobs: blobs.clone(), path: target, size })),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Removal::Absent),
            Err(error) => Err(StoreError::file("take away", path)(error)),
        }
    }

    /// How many bytes it has, as far as that can be read.
    pub const fn size(&self) -> u64 {
        self.size
    }
}

impl<D: Disk> Drop for Leftover<D> {
    fn drop(&mut self) {
        // A failure leaves a file that the next start removes.
        let _ = self.blobs.disk().remove(&self.path);
    }
}
