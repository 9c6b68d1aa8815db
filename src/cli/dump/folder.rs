//! What a dump is on the disk.
//!
//! A folder with `entries.jsonl`: a [`Header`], then an entry a line, of which the later one counts where a key comes twice;
//! `blobs/HH/HASH`, where `HH` are the first two digits of the hash; and `dump.json`, the [`Summary`], which is written last:
//! a dump without it, or whose `entries.jsonl` has another hash, is not whole.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};

use crate::model::{ContentHash, Entry, EntryState, Epoch, NodeId, Version, VersionVector};

/// The format of dumps that this version writes and reads.
pub(in crate::cli) const FORMAT: u32 = 1;

const ENTRIES: &str = "entries.jsonl";
const SUMMARY: &str = "dump.json";
const BLOBS: &str = "blobs";
const UNFINISHED: &str = "unfinished";

/// The first line of `entries.jsonl`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::cli) struct Header {
    /// The format of the dump.
    pub(in crate::cli) format: u32,
    /// The node that was read.
    pub(in crate::cli) node: NodeId,
    /// The life of its database.
    pub(in crate::cli) epoch: Epoch,
    /// When reading began, in milliseconds since 1970.
    pub(in crate::cli) begun_unix_ms: u64,
}

/// How many there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(in crate::cli) struct Counts {
    pub(in crate::cli) lines: u64,
    pub(in crate::cli) live: u64,
    pub(in crate::cli) deleted: u64,
    pub(in crate::cli) records: u64,
}

impl Counts {
    fn count(&mut self, entry: &Entry) {
        self.lines += 1;
        match entry.state {
            EntryState::Live(_) => self.live += 1,
            EntryState::Deleted => self.deleted += 1,
            EntryState::Record(_) => self.records += 1,
        }
    }
}

/// `dump.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::cli) struct Summary {
    /// What the first line of `entries.jsonl` says.
    #[serde(flatten)]
    pub(in crate::cli) header: Header,
    /// The sequence of the node's feed up to which it was read.
    pub(in crate::cli) since: u64,
    /// Which writes of each origin the node had passed then.
    pub(in crate::cli) vector: Option<VersionVector>,
    /// The newest of the deletions that the node had forgotten, if any.
    pub(in crate::cli) horizon: Option<Version>,
    /// How many lines, and of which kinds.
    pub(in crate::cli) entries: Counts,
    /// How many blobs they point at.
    pub(in crate::cli) blobs: u64,
    /// How many bytes these have.
    pub(in crate::cli) bytes: u64,
    /// The hash of `entries.jsonl`.
    pub(in crate::cli) entries_hash: ContentHash,
}

/// The folder of a dump.
#[derive(Debug, Clone)]
pub(in crate::cli) struct Folder {
    root: PathBuf,
}

impl Folder {
    /// The folder `root`, which is made where it is missing; one that holds something else is left alone.
    ///
    /// # Errors
    /// When it cannot be made or is no dump.
    pub(super) fn open(root: &Path) -> anyhow::Result<Self> {
        let context = || format!("cannot make the folder {}", root.display());
        fs::create_dir_all(root).with_context(context)?;
        let known = [ENTRIES, SUMMARY, BLOBS].map(|name| root.join(name).exists());
        let mut names = fs::read_dir(root).with_context(|| format!("cannot read {}", root.display()))?;
        if names.next().is_some() && !known.contains(&true) {
            bail!("{} holds something else: name a folder that is empty, or an earlier dump", root.display());
        }
        for first in 0..=u8::MAX {
            fs::create_dir_all(root.join(BLOBS).join(format!("{first:02x}"))).with_context(context)?;
        }
        fs::create_dir_all(root.join(BLOBS).join(UNFINISHED)).with_context(context)?;
        Ok(Self { root: root.to_owned() })
    }

    /// The folder `root`, to be read.
    pub(in crate::cli) fn at(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    /// What the dump says of itself; `None` if it is not whole.
    ///
    /// # Errors
    /// When that cannot be read.
    pub(in crate::cli) fn summary(&self) -> anyhow::Result<Option<Summary>> {
        let path = self.root.join(SUMMARY);
        match fs::read(&path) {
            Ok(json) => {
                Ok(Some(serde_json::from_slice(&json).with_context(|| format!("{} does not read", path.display()))?))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
        }
    }

    /// Whether a dump into it was begun at least.
    pub(in crate::cli) fn is_begun(&self) -> bool {
        self.entries().exists() || self.entries_under_way().exists()
    }

    /// Where the entries are.
    pub(in crate::cli) fn entries(&self) -> PathBuf {
        self.root.join(ENTRIES)
    }

    /// Where the entries are while they are read.
    fn entries_under_way(&self) -> PathBuf {
        self.root.join(format!("{ENTRIES}.part"))
    }

    /// Where the folder is.
    pub(super) fn path(&self) -> &Path {
        &self.root
    }

    /// Where a blob is.
    pub(in crate::cli) fn blob(&self, hash: &ContentHash) -> PathBuf {
        self.root.join(BLOBS).join(format!("{:02x}", hash.as_bytes()[0])).join(hash.to_string())
    }

    /// Where a blob is while it is fetched.
    pub(super) fn unfinished(&self, hash: &ContentHash) -> PathBuf {
        self.root.join(BLOBS).join(UNFINISHED).join(hash.to_string())
    }

    /// Whether a blob of this size is there. It got its name when its hash was verified.
    pub(super) fn has(&self, hash: &ContentHash, size: u64) -> bool {
        self.blob(hash).metadata().is_ok_and(|file| file.len() == size)
    }

    /// Begins `entries.jsonl` anew, beside the one that is there.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(super) fn begin(&self, header: &Header) -> anyhow::Result<Entries> {
        let path = self.entries_under_way();
        let file = File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
        let mut entries =
            Entries { file: BufWriter::new(file), path, hasher: blake3::Hasher::new(), counts: Counts::default() };
        entries.line(header)?;
        Ok(entries)
    }

    /// Makes all of it durable, and says with `dump.json` that it is whole.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(super) fn finish(&self, path: &Path, summary: &Summary) -> anyhow::Result<()> {
        let context = || format!("cannot finish the dump in {}", self.root.display());
        let root = File::open(&self.root).with_context(context)?;
        // One call for what may be millions of files.
        rustix::fs::syncfs(&root).map_err(io::Error::from).with_context(context)?;
        let partial = self.root.join(format!("{SUMMARY}.part"));
        let mut file = File::create(&partial).with_context(context)?;
        serde_json::to_writer_pretty(&mut file, summary).with_context(context)?;
        file.write_all(b"\n").and_then(|()| file.sync_all()).with_context(context)?;
        // Between the two the hash does not fit, which shows that the dump is not whole.
        fs::rename(path, self.root.join(ENTRIES)).with_context(context)?;
        fs::rename(&partial, self.root.join(SUMMARY)).with_context(context)?;
        root.sync_all().with_context(context)
    }
}

/// The entries of a dump that is being written.
#[derive(Debug)]
pub(super) struct Entries {
    file: BufWriter<File>,
    path: PathBuf,
    hasher: blake3::Hasher,
    counts: Counts,
}

impl Entries {
    /// Adds an entry.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(super) fn add(&mut self, entry: &Entry) -> anyhow::Result<()> {
        self.counts.count(entry);
        self.line(entry)
    }

    /// Ends the file: where it is, what it has, and its hash.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(super) fn end(mut self) -> anyhow::Result<(PathBuf, Counts, ContentHash)> {
        self.file.flush().with_context(|| format!("cannot write {}", self.path.display()))?;
        Ok((self.path, self.counts, ContentHash::new(*self.hasher.finalize().as_bytes())))
    }

    fn line(&mut self, value: &impl Serialize) -> anyhow::Result<()> {
        let mut line = serde_json::to_vec(value)?;
        line.push(b'\n');
        self.hasher.update(&line);
        self.file.write_all(&line).with_context(|| format!("cannot write {}", self.path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_with_something_else_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("dump");
        Folder::open(&root).unwrap();
        Folder::open(&root).unwrap();
        fs::write(folder.path().join("letter.txt"), "dear").unwrap();
        let other = folder.path().join("other");
        fs::create_dir(&other).unwrap();
        fs::write(other.join("letter.txt"), "dear").unwrap();
        let error = Folder::open(&other).unwrap_err().to_string();
        assert!(error.contains("something else"), "{error}");
        assert_eq!(fs::read_dir(&other).unwrap().count(), 1);
    }

    #[test]
    fn the_hash_is_that_of_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let dump = Folder::open(folder.path()).unwrap();
        let header =
            Header { format: FORMAT, node: "AWS".parse().unwrap(), epoch: Epoch::from_bits(1), begun_unix_ms: 5 };
        let mut entries = dump.begin(&header).unwrap();
        let json = r#"{"key":"a","version":{"time":1,"node":"AWS","epoch":"0000000000000001","sequence":1},"state":"deleted"}"#;
        entries.add(&serde_json::from_str(json).unwrap()).unwrap();
        let (path, counts, entries_hash) = entries.end().unwrap();
        assert_eq!((counts.lines, counts.deleted), (1, 1));
        let summary = Summary {
            header,
            since: 1,
            vector: None,
            horizon: None,
            entries: counts,
            blobs: 0,
            bytes: 0,
            entries_hash,
        };
        dump.finish(&path, &summary).unwrap();
        let written = fs::read(folder.path().join(ENTRIES)).unwrap();
        assert_eq!(ContentHash::of(&written), entries_hash);
        let read: Summary = serde_json::from_slice(&fs::read(folder.path().join(SUMMARY)).unwrap()).unwrap();
        assert_eq!(read, summary);
    }
}
