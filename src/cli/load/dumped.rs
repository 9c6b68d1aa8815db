//! A dump that is read: whether it is whole, its entries, and its blobs.

use std::fs::File;
use std::io::{BufRead as _, BufReader, ErrorKind, Read as _};
use std::path::Path;

use anyhow::{Context as _, bail};

use crate::cli::dump::folder::{FORMAT, Folder, Header, Summary};
use crate::cli::progress::Progress;
use crate::model::{Content, ContentHash, Entry};
use crate::store::{Blobs, FreshBlob};

/// How much of a file is read at once.
const PIECE_BYTES: usize = 1 << 20;

/// A dump that is whole.
#[derive(Debug)]
pub(super) struct Dumped {
    folder: Folder,
    summary: Summary,
}

/// Where reading the entries stands.
#[derive(Debug)]
pub(super) struct Entries {
    lines: BufReader<File>,
    number: u64,
}

impl Dumped {
    /// The dump in the folder at `path`.
    ///
    /// # Errors
    /// When there is none, it is not whole, or a newer program has written it.
    pub(super) fn open(path: &Path) -> anyhow::Result<Self> {
        let folder = Folder::at(path);
        let shown = path.display();
        let Some(summary) = folder.summary()? else {
            match (path.exists(), folder.is_begun()) {
                (false, _) => bail!("there is no folder {shown}: `metacdn dump FOLDER` makes a dump"),
                (true, false) => bail!("{shown} is no dump: name a folder that `metacdn dump FOLDER` has filled"),
                (true, true) => bail!("{shown} is no whole dump: `metacdn dump {shown}` completes it"),
            }
        };
        if summary.header.format > FORMAT {
            bail!("a newer version of this program has written the dump in {shown}: use that one");
        }
        let this = Self { folder, summary };
        let found = this.hash_of_entries().with_context(|| format!("cannot read the dump in {shown}"))?;
        if found != this.summary.entries_hash {
            bail!("{shown} is no whole dump, its entries are others: `metacdn dump {shown}` completes it");
        }
        Ok(this)
    }

    /// What the dump says of itself.
    pub(super) const fn summary(&self) -> &Summary {
        &self.summary
    }

    /// Begins to read the entries.
    ///
    /// # Errors
    /// When they cannot be read.
    pub(super) fn entries(&self) -> anyhow::Result<Entries> {
        let mut lines = BufReader::new(self.open_entries()?);
        let mut header = String::new();
        lines.read_line(&mut header)?;
        let header: Header = serde_json::from_str(&header).context("the dump does not begin with its header")?;
        if header != self.summary.header {
            bail!("the entries of the dump are those of another one");
        }
        Ok(Entries { lines, number: 1 })
    }

    /// Copies the bytes that `content` names into `blobs`, if they are those.
    ///
    /// # Errors
    /// When the dump does not have them, or they cannot be written.
    pub(super) fn copy(&self, content: &Content, blobs: &Blobs, progress: &Progress) -> anyhow::Result<FreshBlob> {
        let path = self.folder.blob(&content.hash);
        let mut file = File::open(&path).with_context(|| format!("cannot open {}", path.display()))?;
        let mut writer = blobs.create();
        let mut piece = vec![0; PIECE_BYTES.min(usize::try_from(content.size).unwrap_or(PIECE_BYTES).max(1))];
        loop {
            match file.read(&mut piece) {
                Ok(0) => break,
                Ok(count) => {
                    writer.write(&piece[..count])?;
                    progress.advance(count as u64);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
            }
        }
        writer.finish(Some(content.hash)).with_context(|| format!("{} is damaged", path.display()))
    }

    fn open_entries(&self) -> anyhow::Result<File> {
        let path = self.folder.entries();
        File::open(&path).with_context(|| format!("cannot open {}", path.display()))
    }

    fn hash_of_entries(&self) -> anyhow::Result<ContentHash> {
        let mut hasher = blake3::Hasher::new();
        hasher.update_reader(self.open_entries()?)?;
        Ok(ContentHash::new(*hasher.finalize().as_bytes()))
    }
}

impl Entries {
    /// Up to `count` further entries; none at the end.
    ///
    /// # Errors
    /// When they cannot be read, or one is none.
    pub(super) fn part(&mut self, count: usize) -> anyhow::Result<Vec<Entry>> {
        let mut entries = Vec::with_capacity(count);
        let mut line = String::new();
        while entries.len() < count {
            line.clear();
            self.number += 1;
            let wrong = || format!("line {} of the dump's entries is none", self.number);
            if self.lines.read_line(&mut line).with_context(wrong)? == 0 {
                break;
            }
            let entry: Entry = serde_json::from_str(&line).with_context(wrong)?;
            entry.check().with_context(wrong)?;
            entries.push(entry);
        }
        Ok(entries)
    }
}
