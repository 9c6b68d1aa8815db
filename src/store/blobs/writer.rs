//! Writing one blob: in memory while it is small, then in a file that gets its name when it is durable.

use std::path::PathBuf;

use super::pins::Pin;
use super::{Blobs, Disk, DiskFile as _, FreshBlob, SMALL_BLOB_BYTES_MAX, is_shortage};
use crate::model::ContentHash;
use crate::store::StoreError;

/// After so many bytes a blob in the making is synced, so that the sync at its end is short.
const SYNC_BYTES: u64 = 256 << 20;

/// After so many bytes it is looked whether there is room for more.
const LOOK_BYTES: u64 = 1 << 20;

/// How many bytes are read at once of a blob that goes on.
const READ_BYTES: usize = 256 << 10;

/// A blob that is being written. Dropped before [`BlobWriter::finish`], it leaves nothing behind, unless it can be
/// resumed.
#[derive(Debug)]
pub struct BlobWriter<D: Disk> {
    blobs: Blobs<D>,
    hasher: blake3::Hasher,
    size: u64,
    /// The bytes, for as long as they may become a row.
    row: Vec<u8>,
    file: Option<Unfinished<D>>,
    /// The hash under which it is resumed, if it can be.
    resumable: Option<ContentHash>,
}

/// The file of an unfinished blob; dropped, it is removed, unless it is to stay.
#[derive(Debug)]
struct Unfinished<D: Disk> {
    blobs: Blobs<D>,
    file: D::File,
    path: PathBuf,
    unsynced: u64,
    /// How many bytes were written since there was room for more.
    unlooked: u64,
    stays: bool,
}

impl<D: Disk> BlobWriter<D> {
    pub(super) fn new(blobs: Blobs<D>) -> Self {
        Self { blobs, hasher: blake3::Hasher::new(), size: 0, row: Vec::new(), file: None, resumable: None }
    }

    /// Goes on with the blob that is to become `hash`, with what is there of it and can be read.
    pub(super) fn resume(blobs: Blobs<D>, hash: ContentHash) -> Result<Self, StoreError> {
        let anew = Self { resumable: Some(hash), ..Self::new(blobs.clone()) };
        let Some(mut file) = Unfinished::reopen(&blobs, &hash)? else { return Ok(anew) };
        let mut writer = Self { resumable: Some(hash), ..Self::new(blobs) };
        let mut buffer = vec![0; READ_BYTES];
        loop {
            match file.file.read_at(&mut buffer, writer.size) {
                Ok(0) => break,
                Err(_) => {
                    file.stays = false;
                    return Ok(anew);
                }
                Ok(count) => {
                    writer.hasher.update(&buffer[..count]);
                    writer.size += count as u64;
                }
            }
        }
        writer.file = Some(file);
        Ok(writer)
    }

    /// Appends `bytes`.
    ///
    /// # Errors
    /// [`StoreError::Full`] when the disk is, or only the reserve is left; otherwise what the system said. After a sync that
    /// failed nothing of the blob is resumed.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        self.hasher.update(bytes);
        self.size += bytes.len() as u64;
        if let Some(file) = &mut self.file {
            return file.append(bytes);
        }
        self.row.extend_from_slice(bytes);
        if self.size > SMALL_BLOB_BYTES_MAX {
            let mut file = Unfinished::create(&self.blobs, self.resumable.as_ref())?;
            file.append(&std::mem::take(&mut self.row))?;
            self.file = Some(file);
        }
        Ok(())
    }

    /// How many bytes were written.
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// Gives the blob up, for good.
    pub fn discard(mut self) {
        if let Some(file) = &mut self.file {
            file.stays = false;
        }
    }

    /// Ends the blob: a file is durable under its hash then. With `expected`, other bytes are refused.
    ///
    /// # Errors
    /// [`StoreError::Mismatch`] for other bytes than expected, else as [`BlobWriter::write`]. Nothing is left behind.
    pub fn finish(self, expected: Option<ContentHash>) -> Result<FreshBlob, StoreError> {
        let Self { blobs, hasher, size, row, mut file, .. } = self;
        let hash = ContentHash::new(*hasher.finalize().as_bytes());
        if let Some(expected) = expected.filter(|expected| *expected != hash) {
            if let Some(file) = &mut file {
                file.stays = false;
            }
            return Err(StoreError::Mismatch { expected, found: hash });
        }
        match file {
            None => {
                // The catalogue takes no less space than a file would.
                blobs.require_room(size)?;
                Ok(FreshBlob::row(hash, row))
            }
            Some(file) => {
                let pin = file.publish(hash)?;
                Ok(FreshBlob::file(hash, size, pin))
            }
        }
    }
}

impl<D: Disk> Unfinished<D> {
    fn create(blobs: &Blobs<D>, resumable: Option<&ContentHash>) -> Result<Self, StoreError> {
        blobs.require_room(0)?;
        let path = resumable.map_or_else(|| blobs.unfinished_path(), |hash| blobs.resumable_path(hash));
        let file = blobs.disk().create(&path).map_err(StoreError::file("make", &path))?;
        Ok(Self { blobs: blobs.clone(), file, path, unsynced: 0, unlooked: 0, stays: resumable.is_some() })
    }

    fn reopen(blobs: &Blobs<D>, hash: &ContentHash) -> Result<Option<Self>, StoreError> {
        let path = blobs.resumable_path(hash);
        if blobs.spoiled().contains(&path) {
            blobs.remove_file(&path)?;
            blobs.spoiled().remove(&path);
        }
        match blobs.disk().reopen(&path) {
            Ok(file) => Ok(Some(Self { blobs: blobs.clone(), file, path, unsynced: 0, unlooked: 0, stays: true })),
            Err(error) if is_shortage(&error) => Err(StoreError::file("open", path)(error)),
            // What cannot be read makes room for what can.
            Err(_) => blobs.remove_file(&path).map(|()| None),
        }
    }

    fn append(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        if let Err(error) = self.append_within_room(bytes) {
            // What does not fit must not keep others out.
            self.stays &= !matches!(error, StoreError::Full);
            return Err(error);
        }
        self.unsynced += bytes.len() as u64;
        if self.unsynced >= SYNC_BYTES {
            self.sync()?;
        }
        Ok(())
    }

    fn append_within_room(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        self.unlooked += bytes.len() as u64;
        if self.unlooked >= LOOK_BYTES {
            self.blobs.require_room(bytes.len() as u64)?;
            self.unlooked = 0;
        }
        self.file.append(bytes).map_err(StoreError::file("write", &self.path))
    }

    fn sync(&mut self) -> Result<(), StoreError> {
        if let Err(error) = self.file.sync() {
            self.spoil();
            return Err(StoreError::file("sync", &self.path)(error));
        }
        self.unsynced = 0;
        Ok(())
    }

    /// Sees to it that nobody goes on with this file: what a failed sync did not write, the system takes for written. It
    /// still reads as if it were there, and the next sync succeeds.
    fn spoil(&mut self) {
        if std::mem::take(&mut self.stays) {
            // The file is removed when this is dropped, but that may fail, too.
            self.blobs.spoiled().insert(self.path.clone());
        }
    }

    /// Makes the file durable under the name of its `hash`.
    fn publish(mut self, hash: ContentHash) -> Result<Pin, StoreError> {
        self.sync()?;
        // Before the rename: from then on the file may be the one that a sweep looks at.
        let pin = self.blobs.pins().pin(hash);
        let (target, folder) = (self.blobs.path(&hash), self.blobs.folder(&hash));
        let disk = self.blobs.disk();
        disk.rename(&self.path, &target).map_err(StoreError::file("rename a blob to", &target))?;
        disk.sync_folder(&folder).map_err(StoreError::file("sync", &folder))?;
        Ok(pin)
    }
}

impl<D: Disk> Drop for Unfinished<D> {
    fn drop(&mut self) {
        // After a rename there is nothing under this name. A failure leaves a file that the next start removes.
        if !self.stays {
            let _ = self.blobs.disk().remove(&self.path);
        }
    }
}
