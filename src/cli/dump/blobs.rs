//! Fetching the blobs of a dump: from the node that is dumped, else from any other, each verified by its hash.

use std::io::ErrorKind;
use std::time::Duration;

use anyhow::Context;
use http::StatusCode;
use tokio::fs::{self, File, OpenOptions};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::folder::Folder;
use crate::cli::failure::explain;
use crate::cli::progress::Progress;
use crate::client::{ClientError, Peer};
use crate::model::ContentHash;

/// How often all nodes are asked for a blob.
const ROUNDS_MAX: u32 = 4;

/// The wait before the second round; each further one is twice as long.
const FIRST_WAIT: Duration = Duration::from_millis(500);

/// How much of a file is read at once.
const PART_BYTES: usize = 256 << 10;

/// What came of a blob.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Fetched {
    /// It is in the folder.
    Held {
        /// Whether the first node gave it wrong or not at all, and another one had to.
        mended: bool,
    },
    /// No node has it any more, as when its object was overwritten meanwhile, or can give it; with what each said.
    Missing(String),
}

/// Fetches the blob `hash` of `size` bytes from the first of `sources` that gives it, going on where an earlier try ended.
///
/// # Errors
/// When the folder cannot be written.
pub(super) async fn fetch(
    folder: &Folder,
    sources: &[Peer],
    hash: ContentHash,
    size: u64,
    progress: &Progress,
) -> anyhow::Result<Fetched> {
    let path = folder.unfinished(&hash);
    let mut wait = FIRST_WAIT;
    let mut mended = false;
    for round in 1.. {
        let mut reasons: Vec<String> = Vec::new();
        let mut passing = false;
        for (place, peer) in sources.iter().enumerate() {
            let mut partial = Partial::open(&path).await.with_context(|| format!("cannot write {}", path.display()))?;
            let before = partial.received;
            let reason = match partial.fill(peer, &hash, size, progress).await {
                Ok(()) if partial.hash() == hash && partial.received == size => {
                    partial.end().await.with_context(|| format!("cannot write {}", path.display()))?;
                    let target = folder.blob(&hash);
                    fs::rename(&path, &target).await.with_context(|| format!("cannot make {}", target.display()))?;
                    return Ok(Fetched::Held { mended: mended && place > 0 });
                }
                Ok(()) => {
                    let _ = fs::remove_file(&path).await;
                    // What an earlier try has left in the folder may be wrong itself.
                    mended |= place == 0 && before == 0;
                    progress.retreat(partial.received - before);
                    format!("{} gives other bytes", peer.address())
                }
                Err(Broken::Local(error)) => {
                    return Err(error).with_context(|| format!("cannot write {}", path.display()));
                }
                Err(Broken::Client(error)) => {
                    // What has arrived is on the disk before the next node goes on from there.
                    partial.end().await.with_context(|| format!("cannot write {}", path.display()))?;
                    passing |= error.is_transient();
                    // That it cannot be reached, or breaks off, says nothing of its bytes.
                    mended |= place == 0 && error.status().is_some();
                    let lacks = error.status() == Some(StatusCode::NOT_FOUND);
                    if lacks { format!("{} does not hold it", peer.address()) } else { explain(&error) }
                }
            };
            reasons.push(reason);
        }
        if !passing || round >= ROUNDS_MAX {
            let _ = fs::remove_file(&path).await;
            return Ok(Fetched::Missing(reasons.join("; ")));
        }
        tokio::time::sleep(wait).await;
        wait *= 2;
    }
    unreachable!("the count of rounds has no end")
}

/// Why a try ended early.
#[derive(Debug)]
enum Broken {
    Client(ClientError),
    Local(std::io::Error),
}

/// A blob of which some bytes are there.
struct Partial {
    file: File,
    hasher: blake3::Hasher,
    received: u64,
}

impl Partial {
    /// Opens the file at `path`, hashing what an earlier try has left in it.
    async fn open(path: &std::path::Path) -> std::io::Result<Self> {
        let mut partial = Self {
            file: OpenOptions::new().read(true).append(true).create(true).open(path).await?,
            hasher: blake3::Hasher::new(),
            received: 0,
        };
        let mut part = vec![0; PART_BYTES];
        loop {
            match partial.file.read(&mut part).await {
                Ok(0) => return Ok(partial),
                Ok(count) => {
                    partial.hasher.update(&part[..count]);
                    partial.received += count as u64;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    async fn fill(&mut self, peer: &Peer, hash: &ContentHash, size: u64, progress: &Progress) -> Result<(), Broken> {
        if self.received >= size {
            return Ok(());
        }
        let mut reader = peer.blob(hash, self.received).await.map_err(Broken::Client)?;
        while let Some(bytes) = reader.chunk().await.map_err(Broken::Client)? {
            self.hasher.update(&bytes);
            self.file.write_all(&bytes).await.map_err(Broken::Local)?;
            self.received += bytes.len() as u64;
            progress.advance(bytes.len() as u64);
        }
        Ok(())
    }

    fn hash(&self) -> ContentHash {
        ContentHash::new(*self.hasher.finalize().as_bytes())
    }

    /// Waits until the last write has come to its end, which alone tells whether it failed.
    async fn end(&mut self) -> std::io::Result<()> {
        self.file.flush().await
    }
}
