//! The file system of this machine, as blobs see it.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::blobs::{Disk, DiskFile, Space};

/// The file system of this machine.
#[derive(Debug, Clone, Copy, Default)]
pub struct FileSystem;

impl Disk for FileSystem {
    type File = File;

    fn create(&self, path: &Path) -> io::Result<File> {
        OpenOptions::new().append(true).create_new(true).open(path)
    }

    fn reopen(&self, path: &Path) -> io::Result<File> {
        OpenOptions::new().read(true).append(true).open(path)
    }

    fn open(&self, path: &Path) -> io::Result<File> {
        File::open(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn make_folder(&self, path: &Path) -> io::Result<()> {
        fs::create_dir_all(path)
    }

    fn sync_folder(&self, path: &Path) -> io::Result<()> {
        File::open(path)?.sync_all()
    }

    fn list(&self, folder: &Path) -> io::Result<Vec<OsString>> {
        fs::read_dir(folder)?.map(|entry| entry.map(|entry| entry.file_name())).collect()
    }

    fn space(&self, folder: &Path) -> io::Result<Space> {
        let space = rustix::fs::statvfs(folder)?;
        Ok(Space { total_bytes: space.f_blocks * space.f_frsize, free_bytes: space.f_bavail * space.f_frsize })
    }
}

impl FileSystem {
    /// Makes `folder`, and what is missing of the folders that it is in, so that they outlast the machine.
    ///
    /// # Errors
    /// When a folder cannot be made or synced.
    pub fn make_durable_folder(&self, folder: &Path) -> io::Result<()> {
        if folder.is_dir() {
            return Ok(());
        }
        let parent = folder.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        self.make_durable_folder(parent)?;
        fs::create_dir(folder)?;
        self.sync_folder(parent)
    }
}

impl DiskFile for File {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.write_all(bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.sync_all()
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        loop {
            match FileExt::read_at(self, buffer, offset) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                read => return read,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;
    use crate::model::ContentHash;
    use crate::store::{Blobs, SMALL_BLOB_BYTES_MAX, StoreError};

    /// Of a blob that is a file.
    const LARGE: usize = SMALL_BLOB_BYTES_MAX as usize + 1;

    fn files_below(root: &Path) -> usize {
        let folders = fs::read_dir(root).expect("the root").map(|entry| entry.expect("an entry").path());
        folders.map(|folder| fs::read_dir(folder).expect("a folder").count()).sum()
    }

    #[test]
    fn a_blob_reads_back_under_its_hash() {
        let root = tempfile::tempdir().expect("a folder");
        let blobs = Blobs::open(FileSystem, root.path(), 7, |_| false).expect("blobs");
        let bytes = [b"meta".repeat(4096), b"cdn".to_vec()].concat();
        let mut writer = blobs.create();
        writer.write(&bytes[..4]).expect("space");
        writer.write(&bytes[4..]).expect("space");
        let fresh = writer.finish(Some(ContentHash::of(&bytes))).expect("durable");
        assert_eq!((fresh.size(), fresh.as_row()), (16387, None));
        let mut read = Vec::new();
        let (mut file, size) = blobs.read(&fresh.hash()).expect("readable").expect("held");
        file.read_to_end(&mut read).expect("readable");
        assert!(size == 16387 && read == bytes);
        assert!(blobs.read(&ContentHash::of(b"other")).expect("readable").is_none());
    }

    #[test]
    fn a_small_blob_is_handed_on_and_makes_no_file() {
        let root = tempfile::tempdir().expect("a folder");
        let blobs = Blobs::open(FileSystem, root.path(), 7, |_| false).expect("blobs");
        let mut writer = blobs.create();
        writer.write(&[7; SMALL_BLOB_BYTES_MAX as usize]).expect("space");
        let fresh = writer.finish(None).expect("a blob");
        assert_eq!(fresh.as_row(), Some(&[7; SMALL_BLOB_BYTES_MAX as usize][..]));
        assert_eq!(files_below(root.path()), 0);
    }

    #[test]
    fn other_bytes_and_dropped_writers_leave_nothing() {
        let root = tempfile::tempdir().expect("a folder");
        let blobs = Blobs::open(FileSystem, root.path(), 7, |_| false).expect("blobs");
        for size in [4, LARGE] {
            let mut writer = blobs.create();
            writer.write(&vec![7; size]).expect("space");
            let wrong = writer.finish(Some(ContentHash::of(b"whole")));
            assert!(matches!(wrong, Err(StoreError::Mismatch { .. })), "{wrong:?}");
        }
        let mut writer = blobs.create();
        writer.write(&[7; LARGE]).expect("space");
        drop(writer);
        assert_eq!(files_below(root.path()), 0);
    }

    #[test]
    fn what_a_crash_left_unfinished_is_removed_at_the_next_start() {
        let root = tempfile::tempdir().expect("a folder");
        let blobs = Blobs::open(FileSystem, root.path(), 7, |_| false).expect("blobs");
        let mut writer = blobs.create();
        writer.write(&[7; LARGE]).expect("space");
        std::mem::forget(writer);
        assert_eq!(files_below(root.path()), 1);
        Blobs::open(FileSystem, root.path(), 7, |_| false).expect("blobs");
        assert_eq!(files_below(root.path()), 0);
    }

    #[test]
    fn what_cannot_be_removed_stops_no_start() {
        let root = tempfile::tempdir().expect("a folder");
        fs::create_dir_all(root.path().join("unfinished/folder")).expect("a folder");
        Blobs::open(FileSystem, root.path(), 7, |_| false).expect("blobs");
    }

    #[test]
    fn a_wanted_blob_goes_on_after_a_crash_where_it_was_left() {
        let root = tempfile::tempdir().expect("a folder");
        let open = |wanted: bool| Blobs::open(FileSystem, root.path(), 7, |_| wanted).expect("blobs");
        let bytes: Vec<u8> = (0..3 * LARGE).map(|at| at as u8).collect();
        let hash = ContentHash::of(&bytes);
        let start = |blobs: &Blobs| {
            let mut writer = blobs.resume(hash).expect("a writer");
            assert_eq!(writer.size(), 0);
            writer.write(&bytes[..2 * LARGE]).expect("space");
            std::mem::forget(writer);
        };
        start(&open(true));
        let mut writer = open(true).resume(hash).expect("a writer");
        assert_eq!(writer.size(), 2 * LARGE as u64);
        writer.write(&bytes[2 * LARGE..]).expect("space");
        assert_eq!(writer.finish(Some(hash)).expect("whole").size(), 3 * LARGE as u64);
        assert_eq!(files_below(root.path()), 1);

        // Given up, not wanted any more, or other bytes: it starts anew.
        open(true).resume(hash).expect("a writer").discard();
        start(&open(true));
        start(&open(false));
        let blobs = open(true);
        let mut writer = blobs.resume(hash).expect("a writer");
        writer.write(b"other").expect("space");
        assert!(writer.finish(Some(hash)).is_err());
        start(&blobs);
        drop(blobs.resume(hash).expect("a writer"));
        blobs.resume(hash).expect("a writer").discard();
        start(&blobs);
    }
}
