//! Where a fetched object goes: a file that appears when it is whole, or standard output.

use std::io::SeekFrom;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use tokio::fs::File;
use tokio::io::{AsyncSeekExt, AsyncWriteExt, Stdout};

use crate::cli::output::written;

/// Where a fetched object goes.
pub(super) struct Sink {
    place: Place,
    received: u64,
}

enum Place {
    File { file: File, temporary: Temporary, target: PathBuf },
    Stdout(Stdout),
}

/// A file that goes when nobody wants it any more, also when the user interrupts.
struct Temporary(PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        // After a success it has its final name, and this finds nothing.
        let _ = std::fs::remove_file(&self.0);
    }
}

impl Sink {
    /// A file beside `target`, or standard output.
    pub(super) async fn open(target: Option<PathBuf>) -> anyhow::Result<Self> {
        let Some(target) = target else { return Ok(Self { place: Place::Stdout(tokio::io::stdout()), received: 0 }) };
        let name = target.file_name().with_context(|| format!("{} is no name of a file", target.display()))?;
        let temporary = target.with_file_name(format!(".{}.{}.part", short(name), std::process::id()));
        let opened = File::create_new(&temporary).await;
        let file = opened.with_context(|| format!("cannot write {}", target.display()))?;
        Ok(Self { place: Place::File { file, temporary: Temporary(temporary), target }, received: 0 })
    }

    /// How many bytes are there.
    pub(super) const fn received(&self) -> u64 {
        self.received
    }

    /// Takes the next bytes.
    pub(super) async fn write(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        match &mut self.place {
            Place::File { file, target, .. } => {
                file.write_all(bytes).await.with_context(|| cannot_write(target))?;
            }
            Place::Stdout(stdout) => written(stdout.write_all(bytes).await)?,
        }
        self.received += bytes.len() as u64;
        Ok(())
    }

    /// Takes everything back; what was printed cannot be.
    pub(super) async fn clear(&mut self, reason: &dyn std::error::Error) -> anyhow::Result<()> {
        match &mut self.place {
            Place::File { file, target, .. } => {
                let cleared = async {
                    file.flush().await?;
                    file.set_len(0).await?;
                    file.seek(SeekFrom::Start(0)).await
                };
                cleared.await.with_context(|| cannot_write(target))?;
            }
            Place::Stdout(_) if self.received > 0 => bail!("{reason}: what was printed is not to be used"),
            Place::Stdout(_) => {}
        }
        self.received = 0;
        Ok(())
    }

    /// Gives the file its name, which it answers; none for standard output.
    pub(super) async fn finish(self, force: bool) -> anyhow::Result<Option<PathBuf>> {
        match self.place {
            Place::Stdout(mut stdout) => {
                written(stdout.flush().await)?;
                Ok(None)
            }
            Place::File { mut file, temporary, target } => {
                // The last write may still be under way, and only a flush tells that it failed.
                file.flush().await.with_context(|| cannot_write(&target))?;
                check(&target, force)?;
                std::fs::rename(&temporary.0, &target).with_context(|| cannot_write(&target))?;
                Ok(Some(target))
            }
        }
    }
}

/// Whether a file may take the place of `target`: the user's files are only replaced with `force`, and what is no file,
/// such as a device or a link, not even then.
///
/// # Errors
/// With what is there, and what to do.
pub(super) fn check(target: &Path, force: bool) -> anyhow::Result<()> {
    let shown = target.display();
    match target.symlink_metadata() {
        Ok(there) if !there.is_file() => bail!(
            "{shown} is not a regular file, and nothing else is overwritten: choose another name with -o, or print the \
             object with -o - into it"
        ),
        Ok(_) if !force => bail!("{shown} exists already: choose another name with -o, or overwrite it with --force"),
        Ok(_) | Err(_) => Ok(()),
    }
}

/// A name that leaves room for what is put around it: file systems take 255 bytes.
fn short(name: &std::ffi::OsStr) -> String {
    name.to_string_lossy().chars().take(50).collect()
}

fn cannot_write(target: &Path) -> String {
    format!("cannot write {}", target.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let name = |entry: std::io::Result<std::fs::DirEntry>| entry.unwrap().file_name().into_string().unwrap();
        std::fs::read_dir(folder).unwrap().map(name).collect()
    }

    #[tokio::test]
    async fn a_file_appears_when_it_is_whole() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("name");
        let mut sink = Sink::open(Some(target.clone())).await.unwrap();
        sink.write(b"wrong").await.unwrap();
        sink.clear(&std::fmt::Error).await.unwrap();
        sink.write(b"ok").await.unwrap();
        assert!(!target.exists() && sink.received() == 2);
        assert_eq!(sink.finish(false).await.unwrap(), Some(target.clone()));
        assert_eq!(std::fs::read(&target).unwrap(), b"ok");
        assert_eq!(names(folder.path()), ["name"]);
    }

    #[tokio::test]
    async fn what_is_given_up_leaves_nothing_and_what_is_there_stays() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("name");
        drop(Sink::open(Some(target.clone())).await.unwrap());
        assert_eq!(names(folder.path()), [""; 0]);
        let sink = Sink::open(Some(target.clone())).await.unwrap();
        std::fs::write(&target, "faster").unwrap();
        assert!(sink.finish(false).await.unwrap_err().to_string().contains("--force"));
        assert_eq!(std::fs::read(&target).unwrap(), b"faster");
        assert_eq!(names(folder.path()), ["name"]);
        Sink::open(Some(target.clone())).await.unwrap().finish(true).await.unwrap();
        assert_eq!(std::fs::read(&target).unwrap(), b"");
    }

    #[tokio::test]
    async fn what_is_no_file_is_never_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let (device, link) = (folder.path().join("device"), folder.path().join("link"));
        let _listener = std::os::unix::net::UnixListener::bind(&device).unwrap();
        std::os::unix::fs::symlink("/dev/null", &link).unwrap();
        for target in [device, link] {
            assert!(check(&target, true).unwrap_err().to_string().contains("not a regular file"));
            let sink = Sink::open(Some(target.clone())).await.unwrap();
            assert!(sink.finish(true).await.is_err());
            assert!(!target.symlink_metadata().unwrap().is_file(), "{}", target.display());
        }
        assert_eq!(names(folder.path()).len(), 2);
    }
}
