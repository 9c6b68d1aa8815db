//! The files that keys and certificates lie in: written whole or not at all, keys readable by their owner alone.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use anyhow::{Context, bail};

/// Read and written by the owner alone.
const SECRET: u32 = 0o600;
/// Certificates are public.
const PUBLIC: u32 = 0o644;

/// Reads a file whole; certificates and keys are small, so a large file is a mistake.
pub(super) fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    const SIZE_MAX: u64 = 1 << 20;
    let size = fs::metadata(path).with_context(|| format!("cannot read {}", path.display()))?.len();
    if size > SIZE_MAX {
        bail!("{} has {size} bytes: too large for certificates and keys", path.display());
    }
    fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

/// As [`read`], for text.
pub(super) fn read_text(path: &Path) -> anyhow::Result<String> {
    String::from_utf8(read(path)?).with_context(|| format!("{} is not PEM", path.display()))
}

/// Makes the folder, for its owner alone, if it is missing.
pub(in crate::cli) fn create_folder(folder: &Path) -> anyhow::Result<()> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(folder);
    made.with_context(|| format!("cannot make the folder {}", folder.display()))
}

/// Fails if any of `paths` is there, unless `force` allows to overwrite it.
pub(super) fn refuse_existing(paths: &[&Path], force: bool) -> anyhow::Result<()> {
    for path in paths {
        if !force && path.symlink_metadata().is_ok() {
            bail!("{} exists already: keep it, choose another name, or overwrite it with --force", path.display());
        }
    }
    Ok(())
}

/// Writes a key, or a bundle with a key.
pub(in crate::cli) fn write_secret(path: &Path, text: &str, force: bool) -> anyhow::Result<()> {
    write(path, text, SECRET, force)
}

/// Writes a certificate or a request.
pub(in crate::cli) fn write_public(path: &Path, text: &str, force: bool) -> anyhow::Result<()> {
    write(path, text, PUBLIC, force)
}

fn write(path: &Path, text: &str, mode: u32, force: bool) -> anyhow::Result<()> {
    let written = write_whole(path, text.as_bytes(), mode, force);
    match &written {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => refuse_existing(&[path], force),
        _ => Ok(()),
    }?;
    written.with_context(|| format!("cannot write {}", path.display()))
}

fn write_whole(path: &Path, bytes: &[u8], mode: u32, force: bool) -> io::Result<()> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    let mut temporary = name.to_owned();
    temporary.push(format!(".{}.tmp", std::process::id()));
    let temporary = folder.join(temporary);
    // A crashed run of the same process number may have left one behind.
    let _ = fs::remove_file(&temporary);
    // Created with its final mode: a key is at no moment readable by others.
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&temporary)?;
    let placed = file.write_all(bytes).and_then(|()| file.sync_all()).and_then(|()| {
        if force {
            return fs::rename(&temporary, path);
        }
        // Unlike a rename, a link fails if the name is taken, also by someone faster.
        fs::hard_link(&temporary, path).and_then(|()| fs::remove_file(&temporary))
    });
    if placed.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    placed?;
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn secrets_are_for_their_owner_and_kept() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("a/certs");
        create_folder(&folder).unwrap();
        assert_eq!(mode(&folder), 0o700);
        let key = folder.join("a.key");
        write_secret(&key, "first", false).unwrap();
        assert_eq!(mode(&key), 0o600);
        let refused = write_secret(&key, "second", false).unwrap_err();
        assert!(refused.to_string().contains("--force"), "{refused}");
        assert_eq!(fs::read_to_string(&key).unwrap(), "first");
        write_secret(&key, "third", true).unwrap();
        assert_eq!(fs::read_to_string(&key).unwrap(), "third");
        assert_eq!(mode(&key), 0o600);
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 1, "temporary files are gone");
    }

    #[test]
    fn failed_write_says_where_and_leaves_nothing() {
        let root = tempfile::tempdir().unwrap();
        let lost = root.path().join("missing/a.key");
        assert!(write_secret(&lost, "key", false).unwrap_err().to_string().contains("missing/a.key"));
        fs::create_dir(root.path().join("folder")).unwrap();
        assert!(write_public(&root.path().join("folder"), "text", true).is_err());
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 1);
    }
}
