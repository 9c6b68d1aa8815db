//! The folder of a demonstration: claimed for as long as it runs, emptied only if an earlier one made it.

use std::fs::{self, DirEntry, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use crate::cli::certs::files::create_folder;

/// The file that says whose folder it is. It is locked while a demonstration runs there.
const MARKER: &str = ".metacdn-demo";

/// Where old content waits to be removed.
const OLD: &str = ".old";

const MARKER_TEXT: &str = "`metacdn demo` made this folder and empties it when it starts again. Keep nothing here.\n";

/// Demonstrations that run at a time.
const FOLDERS_MAX: usize = 9;

/// A folder that is this process's until it is dropped.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    _lock: File,
}

impl Folder {
    /// Claims `demo` in `home`, or `demo-2` and so on if that is taken, and empties it.
    ///
    /// # Errors
    /// When all are taken, or the disk fails.
    pub(super) fn claim(home: &Path) -> anyhow::Result<Self> {
        for number in 1..=FOLDERS_MAX {
            let path = home.join(if number == 1 { "demo".to_owned() } else { format!("demo-{number}") });
            let claimed = try_claim(&path).with_context(|| format!("cannot use the folder {}", path.display()))?;
            if let Some(lock) = claimed {
                empty(&path).with_context(|| format!("cannot empty the folder {}", path.display()))?;
                return Ok(Self { path, _lock: lock });
            }
        }
        bail!("{FOLDERS_MAX} folders for demonstrations in {} are taken: end one of them", home.display())
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

/// Locks the folder's marker; `None` if another demonstration runs there or the folder is someone else's.
fn try_claim(path: &Path) -> anyhow::Result<Option<File>> {
    create_folder(path)?;
    let marker = path.join(MARKER);
    if !marker.exists() && !entries(path)?.is_empty() {
        return Ok(None);
    }
    let mut file = OpenOptions::new().create(true).truncate(false).write(true).open(&marker)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Ok(None),
        Err(TryLockError::Error(error)) => return Err(error.into()),
    }
    file.set_len(0)?;
    file.write_all(MARKER_TEXT.as_bytes())?;
    Ok(Some(file))
}

/// Moves what is there aside, and removes it while the demonstration goes on: many files take their time.
fn empty(path: &Path) -> io::Result<()> {
    let old = path.join(OLD);
    fs::create_dir_all(&old)?;
    // What an earlier one did not come to remove bears the lower numbers.
    let mut number = entries(&old)?.len();
    for entry in entries(path)? {
        if [MARKER, OLD].iter().any(|kept| entry.file_name() == *kept) {
            continue;
        }
        while old.join(number.to_string()).symlink_metadata().is_ok() {
            number += 1;
        }
        fs::rename(entry.path(), old.join(number.to_string()))?;
    }
    // Whatever stays behind is removed by the next demonstration.
    let remove = move || fs::remove_dir_all(old);
    std::thread::Builder::new().name("remove old files".to_owned()).spawn(remove).map(drop)
}

fn entries(path: &Path) -> io::Result<Vec<DirEntry>> {
    fs::read_dir(path)?.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn demonstrations_at_a_time_have_folders_of_their_own() {
        let home = tempfile::tempdir().unwrap();
        let first = Folder::claim(home.path()).unwrap();
        let second = Folder::claim(home.path()).unwrap();
        assert_eq!(first.path(), home.path().join("demo"));
        assert_eq!(second.path(), home.path().join("demo-2"));
        drop(first);
        assert_eq!(Folder::claim(home.path()).unwrap().path(), home.path().join("demo"));
    }

    #[test]
    fn only_what_a_demonstration_made_is_removed() {
        let home = tempfile::tempdir().unwrap();
        fs::create_dir(home.path().join("demo")).unwrap();
        fs::write(home.path().join("demo/thesis.tex"), "years of work").unwrap();
        let folder = Folder::claim(home.path()).unwrap();
        assert_eq!(folder.path(), home.path().join("demo-2"));
        assert!(home.path().join("demo/thesis.tex").exists());

        fs::create_dir(folder.path().join("AWS")).unwrap();
        fs::write(folder.path().join("AWS/blob"), "old").unwrap();
        std::os::unix::fs::symlink(home.path().join("demo"), folder.path().join("link")).unwrap();
        drop(folder);
        let folder = Folder::claim(home.path()).unwrap();
        let left = entries(folder.path()).unwrap();
        assert!(left.iter().all(|entry| entry.file_name() == MARKER || entry.file_name() == OLD), "{left:?}");
        assert!(home.path().join("demo/thesis.tex").exists(), "a link is removed, not what it points at");
    }
}
