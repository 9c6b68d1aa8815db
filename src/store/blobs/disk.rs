//! What blobs ask of a file system, so that the sequence in which they are written also runs over one that loses at a
//! crash what was not synced.

use std::ffi::OsString;
use std::fmt::Debug;
use std::io;
use std::path::Path;

/// A file system, as far as blobs need one. Nothing is durable before its file, and its name in the folder, are synced.
pub trait Disk: Debug + Send + Sync + 'static {
    /// An open file.
    type File: DiskFile;

    /// Makes a new file, to be appended to.
    ///
    /// # Errors
    /// When there is one of that name, or the system refuses.
    fn create(&self, path: &Path) -> io::Result<Self::File>;

    /// Opens a file to be read and appended to.
    ///
    /// # Errors
    /// When there is none, or the system refuses.
    fn reopen(&self, path: &Path) -> io::Result<Self::File>;

    /// Opens a file to be read.
    ///
    /// # Errors
    /// When there is none, or the system refuses.
    fn open(&self, path: &Path) -> io::Result<Self::File>;

    /// Gives a file another name in the same file system; one that has it goes in the same moment.
    ///
    /// # Errors
    /// When there is no such file, or the system refuses.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a file; who has it open still reads it.
    ///
    /// # Errors
    /// When there is none, or the system refuses.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Makes a folder, and those above it, unless they are there.
    ///
    /// # Errors
    /// When the system refuses.
    fn make_folder(&self, path: &Path) -> io::Result<()>;

    /// Makes the names in a folder durable: a rename is lost in a crash unless its folder is synced, too.
    ///
    /// # Errors
    /// When there is no such folder, or the system refuses.
    fn sync_folder(&self, path: &Path) -> io::Result<()>;

    /// The names in a folder, in any order.
    ///
    /// # Errors
    /// When there is no such folder, or the system refuses.
    fn list(&self, folder: &Path) -> io::Result<Vec<OsString>>;

    /// The space of the file system that `folder` is on.
    ///
    /// # Errors
    /// When the system refuses.
    fn space(&self, folder: &Path) -> io::Result<Space>;
}

/// An open file of a [`Disk`].
pub trait DiskFile: Debug + Send + Sync + 'static {
    /// Writes all `bytes` at the end.
    ///
    /// # Errors
    /// When the system refuses; some of them may be written.
    fn append(&mut self, bytes: &[u8]) -> io::Result<()>;

    /// Makes all bytes durable.
    ///
    /// # Errors
    /// When the system refuses: nothing is known then of what was written since the last sync.
    fn sync(&mut self) -> io::Result<()>;

    /// How many bytes it has.
    ///
    /// # Errors
    /// When the system refuses.
    fn size(&self) -> io::Result<u64>;

    /// Reads bytes from `offset` on into `buffer` and answers how many; 0 only at the end.
    ///
    /// # Errors
    /// When the system refuses, or the disk cannot read what it once stored.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;
}

/// The space of a file system, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// All of it.
    pub total_bytes: u64,
    /// What this process may still take.
    pub free_bytes: u64,
}
