//! The file of the log: opened anew when it was moved away, moved away when it is large, and without torn lines.
//!
//! What is at its path need not be a file: lines go through links, and into pipes and devices as far as those take them in time.
//! Only a file itself is moved away.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Write as _};
use std::num::{NonZeroU32, NonZeroU64};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use rustix::fs::OFlags;
use tracing::warn;

/// Its owner writes, and whoever is of the group may read what clients do.
const MODE: u32 = 0o640;

/// How long a pipe or a device may take nothing, and how often it is tried meanwhile: whoever reads there is busy for less.
const TAKES_NOTHING_MAX: Duration = Duration::from_secs(1);
const TRIED_EVERY: Duration = Duration::from_millis(10);

/// A file that lines are appended to.
#[derive(Debug)]
pub(super) struct LogFile {
    path: PathBuf,
    rotate_bytes: Option<NonZeroU64>,
    keep: NonZeroU32,
    file: Option<File>,
    /// It ends in the middle of a line that could not be taken back, or that a killed process left.
    torn: bool,
    /// That it cannot be moved away was said.
    stuck: bool,
}

/// Lines could not be written.
#[derive(Debug)]
pub(super) struct Unwritten {
    /// How many of them are there all the same.
    pub(super) lines: u64,
    pub(super) error: io::Error,
}

impl LogFile {
    /// Opens the file, which need not be there.
    pub(super) fn open(path: &Path, rotate_bytes: Option<NonZeroU64>, keep: NonZeroU32) -> io::Result<Self> {
        let mut log = Self { path: path.to_owned(), rotate_bytes, keep, file: None, torn: false, stuck: false };
        log.current(0)?;
        Ok(log)
    }

    /// Appends whole lines.
    pub(super) fn append(&mut self, text: &[u8]) -> Result<(), Unwritten> {
        let unwritten = |error| Unwritten { lines: 0, error };
        self.current(text.len() as u64).map_err(unwritten)?;
        let Some(file) = self.file.as_ref() else { return Err(unwritten(ErrorKind::NotFound.into())) };
        if self.torn {
            write(file, b"\n").map_err(|(_, error)| unwritten(error))?;
        }
        let Err((done, error)) = write(file, text) else {
            self.torn = false;
            return Ok(());
        };
        let whole = memchr::memrchr(b'\n', &text[..done]).map_or(0, |end| end + 1);
        let lines = memchr::memchr_iter(b'\n', &text[..whole]).count() as u64;
        self.torn = done > whole && take_back(file, (done - whole) as u64).is_err();
        Err(Unwritten { lines, error })
    }

    /// Goes on with the file that is at the path now, which has room for `bytes` more.
    fn current(&mut self, bytes: u64) -> io::Result<()> {
        let there = fs::metadata(&self.path).ok();
        let ours = self.file.as_ref().and_then(|file| file.metadata().ok());
        let same = there.as_ref().zip(ours).is_some_and(|(a, b)| (a.dev(), a.ino()) == (b.dev(), b.ino()));
        if !same {
            // If opening another one fails the next time tries again.
            self.file = None;
        }
        let size = there.filter(|_| same).map_or(0, |there| there.len());
        let too_large = self.rotate_bytes.is_some_and(|max| size > 0 && size + bytes > max.get());
        if too_large {
            match self.rotate() {
                Ok(()) => (self.file, self.stuck) = (None, false),
                Err(error) => {
                    if !std::mem::replace(&mut self.stuck, true) {
                        warn!(path = %self.path.display(), %error, "the access log cannot be rotated, and grows on");
                    }
                }
            }
        }
        if self.file.is_none() {
            let file = open(&self.path)?;
            // Whoever wrote it last may have been killed in the middle of a line.
            self.torn = ends_torn(&self.path);
            self.file = Some(file);
        }
        Ok(())
    }

    /// Moves the file to `PATH.1`, that to `PATH.2` and so on; the oldest goes. A link is not moved: it may be the system's, as
    /// `/dev/stdout` is, and the large file would be where it was.
    fn rotate(&self) -> io::Result<()> {
        if !fs::symlink_metadata(&self.path)?.is_file() {
            return Err(io::Error::new(ErrorKind::Unsupported, "it is a link"));
        }
        let numbered = |number: u32| {
            let mut name = self.path.clone().into_os_string();
            name.push(format!(".{number}"));
            PathBuf::from(name)
        };
        let is_free = |number: &u32| !numbered(*number).exists();
        let last = (1..self.keep.get()).find(is_free).unwrap_or(self.keep.get());
        for number in (1..last).rev() {
            fs::rename(numbered(number), numbered(number + 1))?;
        }
        fs::rename(&self.path, numbered(1))
    }
}

/// Opens what is at `path`. A pipe that nobody reads is an error at once: to wait for somebody is to wait without end.
fn open(path: &Path) -> io::Result<File> {
    let never_waits = OFlags::NONBLOCK.bits().cast_signed();
    File::options().append(true).create(true).mode(MODE).custom_flags(never_waits).open(path)
}

/// Writes all of `text`, or tells how much of it was written, and why no more.
fn write(mut file: &File, text: &[u8]) -> Result<(), (usize, io::Error)> {
    let (mut done, mut waited) = (0, Duration::ZERO);
    while done < text.len() {
        match file.write(&text[done..]) {
            Ok(0) => return Err((done, ErrorKind::WriteZero.into())),
            Ok(written) => (done, waited) = (done + written, Duration::ZERO),
            Err(error) if error.kind() == ErrorKind::WouldBlock && waited < TAKES_NOTHING_MAX => {
                thread::sleep(TRIED_EVERY);
                waited += TRIED_EVERY;
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err((done, error)),
        }
    }
    Ok(())
}

/// Whether the last line of a file has no end, as far as it can be read.
fn ends_torn(path: &Path) -> bool {
    let last = || {
        let about = fs::metadata(path).ok().filter(|about| about.is_file() && about.len() > 0)?;
        let mut last = [0];
        File::open(path).ok()?.read_exact_at(&mut last, about.len() - 1).ok()?;
        Some(last[0])
    };
    last().is_some_and(|last| last != b'\n')
}

/// Takes back the last bytes.
fn take_back(file: &File, bytes: u64) -> io::Result<()> {
    let size = file.metadata()?.len();
    file.set_len(size.saturating_sub(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read as _;
    use std::os::unix::fs::{PermissionsExt as _, symlink};
    use std::time::Instant;

    fn log(folder: &Path, rotate_bytes: u64, keep: u32) -> LogFile {
        let keep = NonZeroU32::new(keep).expect("some");
        LogFile::open(&folder.join("log"), NonZeroU64::new(rotate_bytes), keep).expect("it opens")
    }

    fn append(log: &mut LogFile, text: &str) {
        log.append(text.as_bytes()).expect("it is written");
    }

    fn read(folder: &Path, name: &str) -> Option<String> {
        fs::read_to_string(folder.join(name)).ok()
    }

    #[test]
    fn what_was_moved_away_or_removed_is_made_anew() {
        let folder = tempfile::tempdir().expect("a folder");
        let (path, moved) = (folder.path().join("log"), folder.path().join("moved"));
        let mut log = log(folder.path(), 0, 1);
        append(&mut log, "a\n");
        let mode = fs::metadata(&path).expect("it is there").permissions().mode();
        assert_eq!(mode & 0o777 & !0o640, 0, "{mode:o}");
        fs::rename(&path, &moved).expect("it moves");
        append(&mut log, "b\n");
        assert_eq!(
            (read(folder.path(), "moved"), read(folder.path(), "log")),
            (Some("a\n".into()), Some("b\n".into()))
        );
        fs::remove_file(&path).expect("it goes");
        append(&mut log, "c\n");
        assert_eq!(read(folder.path(), "log").as_deref(), Some("c\n"));
        // What somebody else has put there is gone on with.
        fs::rename(&path, &moved).expect("it moves");
        fs::write(&path, "new\n").expect("it is written");
        append(&mut log, "d\n");
        assert_eq!(read(folder.path(), "log").as_deref(), Some("new\nd\n"));
    }

    #[test]
    fn half_a_line_that_a_killed_process_left_stays_by_itself() {
        let folder = tempfile::tempdir().expect("a folder");
        fs::write(folder.path().join("log"), "whole\nhal").expect("it is written");
        let mut log = log(folder.path(), 0, 1);
        append(&mut log, "next\n");
        append(&mut log, "last\n");
        assert_eq!(read(folder.path(), "log").as_deref(), Some("whole\nhal\nnext\nlast\n"));
    }

    #[test]
    fn large_files_are_moved_away_and_the_oldest_goes() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut log = log(folder.path(), 4, 2);
        for text in ["a\n", "b\n", "c\n", "dddd\n", "e\n"] {
            append(&mut log, text);
        }
        let kept = ["log", "log.1", "log.2", "log.3"].map(|name| read(folder.path(), name));
        assert_eq!(kept, [Some("e\n".into()), Some("dddd\n".into()), Some("c\n".into()), None]);
    }

    #[test]
    fn a_folder_that_is_gone_is_waited_for() {
        let parent = tempfile::tempdir().expect("a folder");
        let folder = parent.path().join("logs");
        fs::create_dir(&folder).expect("it is made");
        let mut log = log(&folder, 0, 1);
        fs::remove_dir_all(&folder).expect("it goes");
        let unwritten = log.append(b"a\n").expect_err("there is no folder");
        assert_eq!((unwritten.lines, unwritten.error.kind()), (0, ErrorKind::NotFound));
        fs::create_dir(&folder).expect("it is made");
        append(&mut log, "b\n");
        assert_eq!(read(&folder, "log").as_deref(), Some("b\n"));
    }

    fn pipe(path: &Path) {
        use rustix::fs::{CWD, FileType, Mode, mknodat};
        mknodat(CWD, path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).expect("it is made");
    }

    #[test]
    fn pipes_are_written_to_as_far_as_somebody_reads() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("log");
        pipe(&path);
        let opened = || LogFile::open(&path, None, NonZeroU32::MIN);
        assert!(opened().is_err(), "nobody reads");
        let mut reader = File::options().read(true).custom_flags(OFlags::NONBLOCK.bits().cast_signed()).open(&path);
        let reader = reader.as_mut().expect("it opens");
        let mut log = opened().expect("it opens");
        append(&mut log, "a\n");
        // More than a pipe holds, of which nothing is read.
        let lines = "b\n".repeat(1 << 20);
        let unwritten = log.append(lines.as_bytes()).expect_err("it is full");
        assert!(unwritten.lines > 0 && unwritten.lines < 1 << 20, "{unwritten:?}");
        let mut text = vec![0; 1 << 20];
        let read = reader.read(&mut text).expect("it is full");
        assert!(text[..read].starts_with(b"a\nb\n"));
        append(&mut log, "c\n");
    }

    #[test]
    fn half_a_line_in_a_pipe_is_ended_as_patiently_as_others_are_written() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("log");
        pipe(&path);
        let mut reader = File::options().read(true).custom_flags(OFlags::NONBLOCK.bits().cast_signed()).open(&path);
        let reader = reader.as_mut().expect("it opens");
        let mut log = LogFile::open(&path, None, NonZeroU32::MIN).expect("it opens");
        // Its end is in the middle of a line.
        log.append("seven.\n".repeat(1 << 20).as_bytes()).expect_err("it is full");
        let begun = Instant::now();
        log.append(b"c\n").expect_err("it is full still");
        assert!(begun.elapsed() >= TAKES_NOTHING_MAX);
        let mut text = vec![0; 1 << 20];
        let read = reader.read(&mut text).expect("it is full");
        assert!(!text[..read].ends_with(b"\n"));
        append(&mut log, "d\n");
        let read = reader.read(&mut text).expect("it is there");
        assert_eq!(&text[..read], b"\nd\n");
    }

    #[test]
    fn what_is_no_file_is_not_moved_away() {
        let folder = tempfile::tempdir().expect("a folder");
        let (path, target) = (folder.path().join("log"), folder.path().join("elsewhere"));
        symlink(&target, &path).expect("it is made");
        let mut log = log(folder.path(), 4, 2);
        for text in ["a\n", "b\n", "c\n"] {
            append(&mut log, text);
        }
        assert_eq!(read(folder.path(), "elsewhere").as_deref(), Some("a\nb\nc\n"));
        assert!(path.is_symlink() && !folder.path().join("log.1").exists());
        // Nor a folder, which cannot be written to either.
        fs::remove_file(&path).expect("it goes");
        fs::create_dir(&path).expect("it is made");
        log.append(b"d\n").expect_err("it is a folder");
        assert!(path.is_dir());
        fs::remove_dir(&path).expect("it goes");
        append(&mut log, "e\n");
        assert_eq!(read(folder.path(), "log").as_deref(), Some("e\n"));
    }

    #[test]
    fn links_in_the_place_of_older_files_go_and_not_what_they_lead_to() {
        let folder = tempfile::tempdir().expect("a folder");
        let precious = folder.path().join("precious");
        fs::write(&precious, "precious").expect("it is written");
        for name in ["log.1", "log.2"] {
            symlink(&precious, folder.path().join(name)).expect("it is made");
        }
        let mut log = log(folder.path(), 4, 2);
        for text in ["aa\n", "bb\n", "cc\n"] {
            append(&mut log, text);
        }
        let kept = ["log", "log.1", "log.2", "precious"].map(|name| read(folder.path(), name));
        assert_eq!(kept, ["cc\n", "bb\n", "aa\n", "precious"].map(|text| Some(text.to_owned())));
    }
}
