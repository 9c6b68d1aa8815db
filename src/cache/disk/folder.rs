//! Where the tier keeps what: the index, and a file for each slice, in 256 folders.
//!
//! ```text
//! FOLDER/lock                        held by the process that works on it
//! FOLDER/purged                      when this process alone was last told to purge something
//! FOLDER/index.sqlite                the index, with SQLite's own files beside it
//! FOLDER/slices/2a/000001000000002a.7    slice 7 of the representation 0x1000000002a
//! FOLDER/discarded.0/                what an index that did not read knew of: it is deleted in the background
//! ```
//!
//! Files are created and deleted, never overwritten. What has another name is left alone.

use std::collections::HashSet;
use std::fs::{self, File, TryLockError};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::DiskError;

/// The name of the note of the last purge.
const PURGED: &str = "purged";

/// In how many folders the files are.
pub(super) const FOLDERS: u32 = 256;

/// A folder of the tier, and its lock.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
}

impl Folder {
    /// Takes the folder, which is made if there is none; as long as the file lives, nobody else can.
    pub(super) fn take(path: &Path) -> Result<(Self, File), DiskError> {
        let failed = |action| move |source| DiskError::Folder { action, path: path.to_owned(), source };
        fs::create_dir_all(path).map_err(failed("make"))?;
        let lock = File::create(path.join("lock")).map_err(failed("write to"))?;
        lock.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => DiskError::InUse(path.to_owned()),
            TryLockError::Error(source) => failed("lock")(source),
        })?;
        Ok((Self { path: path.to_owned() }, lock))
    }

    pub(super) fn index(&self) -> PathBuf {
        self.path.join("index.sqlite")
    }

    /// Notes durably that something was purged at `at`.
    pub(super) fn note_purge(&self, at: SystemTime) -> io::Result<()> {
        let (path, new) = (self.path.join(PURGED), self.path.join("purged.new"));
        let since_epoch = at.duration_since(UNIX_EPOCH).unwrap_or_default();
        let mut file = File::create(&new)?;
        file.write_all(since_epoch.as_millis().to_string().as_bytes())?;
        file.sync_all()?;
        fs::rename(&new, &path)?;
        File::open(&self.path)?.sync_all()
    }

    /// When something was purged last, if it was noted.
    pub(super) fn last_purge(&self) -> io::Result<Option<SystemTime>> {
        match fs::read_to_string(self.path.join(PURGED)) {
            Ok(text) => {
                let at = text.parse().ok().and_then(|ms| UNIX_EPOCH.checked_add(Duration::from_millis(ms)));
                at.map(Some).ok_or_else(|| io::Error::other("the note of the last purge does not read"))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub(super) fn slice(&self, id: u64, slice: u32) -> PathBuf {
        self.slices(folder_of(id)).join(format!("{id:016x}.{slice}"))
    }

    /// Makes the folders of the slices.
    pub(super) fn make_slices(&self) -> io::Result<()> {
        (0..FOLDERS).try_for_each(|folder| fs::create_dir_all(self.slices(folder)))
    }

    /// Writes a file whole; what was left of it if that fails is deleted.
    pub(super) fn write(&self, id: u64, slice: u32, bytes: &[u8]) -> io::Result<()> {
        let path = self.slice(id, slice);
        let created = File::create_new(&path).or_else(|error| match error.kind() {
            // A file that could not be deleted once. Who reads it keeps it.
            io::ErrorKind::AlreadyExists => fs::remove_file(&path).and_then(|()| File::create_new(&path)),
            _ => Err(error),
        });
        created.and_then(|mut file| file.write_all(bytes)).inspect_err(|_| self.delete(id, slice))
    }

    /// Deletes a file, if it is there. One that cannot be deleted is an orphan, for which the next start looks.
    pub(super) fn delete(&self, id: u64, slice: u32) {
        let _ = fs::remove_file(self.slice(id, slice));
    }

    /// The slices that have files in one of the folders.
    pub(super) fn list(&self, folder: u32) -> io::Result<HashSet<(u64, u32)>> {
        let names = fs::read_dir(self.slices(folder))?;
        let parsed = names.filter_map(|entry| entry.map(|entry| parse(entry.file_name().to_str()?)).transpose());
        let found: HashSet<_> = parsed.collect::<io::Result<_>>()?;
        Ok(found.into_iter().filter(|&(id, _)| folder_of(id) == folder).collect())
    }

    /// What the disk has left for this process, in bytes; as much as can be where that is not known.
    pub(super) fn free_bytes(&self) -> u64 {
        rustix::fs::statvfs(&self.path).map_or(u64::MAX, |space| space.f_bavail.saturating_mul(space.f_frsize))
    }

    /// Puts the files of an earlier index out of the way, if there are any, to be deleted by [`Folder::delete_discarded`];
    /// and then the index itself: whoever is stopped between the two does the same again.
    pub(super) fn discard(&self) -> io::Result<()> {
        let slices = self.path.join("slices");
        if slices.exists() {
            let free = (0_u32..).map(|number| self.path.join(format!("discarded.{number}")));
            let free = free.into_iter().find(|path| !path.exists());
            free.map_or(Ok(()), |free| fs::rename(&slices, free))?;
        }
        // Without the log the index would be an older one.
        for ending in ["", "-wal", "-shm"] {
            let mut path = self.index().into_os_string();
            path.push(ending);
            fs::remove_file(path).or_else(|error| match error.kind() {
                io::ErrorKind::NotFound => Ok(()),
                _ => Err(error),
            })?;
        }
        Ok(())
    }

    /// Deletes one folder's worth of what was discarded; false once nothing is left that can go.
    pub(super) fn delete_discarded(&self) -> bool {
        let is_discarded = |path: &PathBuf| {
            let name = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_prefix("discarded."));
            name.is_some_and(|number| number.parse::<u32>().is_ok())
        };
        let discarded = fs::read_dir(&self.path).into_iter().flatten().flatten().map(|entry| entry.path());
        for discarded in discarded.filter(is_discarded) {
            for folder in 0..FOLDERS {
                let folder = discarded.join(format!("{folder:02x}"));
                let Ok(names) = fs::read_dir(&folder) else { continue };
                for entry in names.flatten() {
                    if entry.file_name().to_str().and_then(parse).is_some() {
                        let _ = fs::remove_file(entry.path());
                    }
                }
                // Something foreign keeps a folder; the next one is tried then.
                if fs::remove_dir(&folder).is_ok() {
                    return true;
                }
            }
            let _ = fs::remove_dir(&discarded);
        }
        false
    }

    fn slices(&self, folder: u32) -> PathBuf {
        self.path.join(format!("slices/{folder:02x}"))
    }
}

/// The folder of a representation's files.
pub(super) const fn folder_of(id: u64) -> u32 {
    // Ids are given one after another.
    (id % FOLDERS as u64) as u32
}

/// The slice of which this is the name of the file.
fn parse(name: &str) -> Option<(u64, u32)> {
    let (id, slice) = name.split_once('.')?;
    let parsed = (u64::from_str_radix(id, 16).ok()?, slice.parse().ok()?);
    // Names that would read the same, but were written by nobody here, are foreign.
    (name == format!("{:016x}.{}", parsed.0, parsed.1)).then_some(parsed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_its_own_names_are_read() {
        assert_eq!(parse("000000010000002a.7"), Some((0x1_0000_002a, 7)));
        let foreign = [
            "",
            "a",
            "10000002a.7",
            "000000010000002A.7",
            "000000010000002a.07",
            "000000010000002a",
            "+00000010000002a.7",
        ];
        for name in foreign {
            assert_eq!(parse(name), None, "{name}");
        }
    }

    #[test]
    fn foreign_files_outlive_what_is_discarded() {
        let root = tempfile::tempdir().expect("a folder");
        let (folder, _lock) = Folder::take(root.path()).expect("a folder");
        folder.make_slices().expect("folders");
        folder.write(7, 0, b"ours").expect("a file");
        folder.write(8, 0, b"ours").expect("a file");
        let foreign = root.path().join("slices/08/photo.jpg");
        fs::write(&foreign, b"theirs").expect("a file");
        folder.discard().expect("out of the way");
        folder.make_slices().expect("folders");
        while folder.delete_discarded() {}
        assert!(root.path().join("discarded.0/08/photo.jpg").exists());
        assert!(!root.path().join("discarded.0/08/0000000000000008.0").exists());
        assert!(!root.path().join("discarded.0/07").exists());
        folder.discard().expect("a second time");
        while folder.delete_discarded() {}
        assert!(!root.path().join("discarded.1").exists());
    }
}
