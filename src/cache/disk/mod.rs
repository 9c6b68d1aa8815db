//! What an edge keeps on its disk: representations that outlive memory and restarts.
//!
//! A *representation* is one [`Head`] under one [`CacheKey`], and a body that is cut in slices. Each slice is a file, which
//! is created whole and deleted, never changed: whoever has it open reads its bytes to the end, whatever becomes of it. A
//! body of up to 16 KiB is part of the index (SQLite) instead.
//!
//! Nothing is synced to the disk. So what an earlier life has left is verified by checksums before it is served for the first
//! time, and what is wrong is a miss, and goes. A process that is killed at any moment leaves files that the index does not
//! know, and at worst rows without files: the next start looks for both in the background.
//!
//! One thread writes. What waits for it is bounded, and what does not fit is not written: a cache may forget. A removal is never
//! refused; one of the last moments before a process is killed may come to nothing, or before the power fails: an edge that was
//! away must ask whether what it has is right still.
//!
//! Knows no clock, nothing of the memory tier, and nothing of how answers are fetched.

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use super::{CacheKey, Head};

mod entry;
mod files;
mod folder;
mod index;
mod kept;
mod queue;
mod record;
mod recovery;
mod sites;
mod slice;
mod tier;
mod writer;

pub use index::IndexError;
pub use kept::Kept;
pub use tier::INLINE_BYTES_MAX;

use entry::Entry;
use folder::Folder;
use index::Index;
use queue::Job;
use tier::{Stage, Tier};
use writer::Writer;

/// How long [`Disk::close`] waits for what is still to be written: 64 MiB take no longer on a disk that works.
const CLOSE_PATIENCE: Duration = Duration::from_secs(10);

/// The longest body that is taken without its size being known.
const UNSIZED_BYTES_MAX: u64 = 1 << 30;

/// What is kept on the disk, and where.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// A folder of this edge alone; without one nothing is kept on the disk.
    pub folder: Option<PathBuf>,
    /// Bytes for all that is kept there; 0 keeps nothing.
    pub capacity_bytes: u64,
}

impl Default for Config {
    fn default() -> Self {
        // A small part of the smallest disk that a machine of a cloud comes with.
        Self { folder: None, capacity_bytes: 10 << 30 }
    }
}

/// Why there is no disk tier.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// The folder cannot be used.
    #[error("cannot {action} the cache's folder {path}")]
    Folder {
        /// What was tried.
        action: &'static str,
        /// The folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Another process works on the folder.
    #[error("the cache's folder {0} is in use by another process: give each edge a folder of its own")]
    InUse(PathBuf),
    /// The index cannot be opened.
    #[error("cannot open the index of the cache's folder {path}")]
    Index {
        /// The folder.
        path: PathBuf,
        /// Why not.
        source: IndexError,
    },
}

/// What an earlier moment, or an earlier life, has kept.
#[derive(Debug)]
pub struct Loaded {
    /// The head, as it was last written. An object of the store was validated at [`Duration::ZERO`].
    pub head: Head,
    /// The representation.
    pub kept: Arc<Kept>,
    /// Its body, if that has up to 16 KiB.
    pub body: Option<Bytes>,
}

/// The disk tier. Dropping it waits for the writer; handles may outlive it, and find nothing then.
#[derive(Debug)]
pub struct Disk {
    tier: Arc<Tier>,
    writer: Mutex<Option<JoinHandle<()>>>,
}

impl Disk {
    /// Opens the tier, if there is a folder for it, for slices of `slice_bytes`, up to 1 GiB each. What it has is loaded in the
    /// background, and found bit by bit. It starts empty if what is there was left by another format, for slices of another
    /// size, or does not read.
    ///
    /// # Errors
    /// When the folder cannot be used, or another process works on it.
    pub fn open(config: &Config, slice_bytes: u64) -> Result<Option<Arc<Self>>, DiskError> {
        let Some(path) = &config.folder else { return Ok(None) };
        let failed = |action| move |source| DiskError::Folder { action, path: path.clone(), source };
        let (folder, lock) = Folder::take(path)?;
        let seed = getrandom::u64().map_err(io::Error::other).map_err(failed("hash keys for"))?;
        let open = || Index::open(&folder.index(), slice_bytes, seed, || folder.discard());
        let opened = open().or_else(|error| match error {
            IndexError::Damaged(reason) => {
                let reason = reason.map_or_else(|| "it is of another format".to_owned(), |reason| reason.to_string());
                tracing::warn!(folder = %path.display(), reason, "the cache's disk tier starts empty");
                folder.discard().map_err(failed("empty"))?;
                open().map_err(|source| DiskError::Index { path: path.clone(), source })
            }
            source => Err(DiskError::Index { path: path.clone(), source }),
        });
        let (index, marks) = opened?;
        folder.make_slices().map_err(failed("make folders in"))?;
        let tier = Arc::new(Tier::new(folder, config.capacity_bytes, slice_bytes, marks));
        let writer = Writer::new(tier.clone(), index, lock);
        let writer = std::thread::Builder::new()
            .name("disk-cache".to_owned())
            .spawn(move || writer.run())
            .map_err(failed("start the writer of"))?;
        Ok(Some(Arc::new(Self { tier, writer: Mutex::new(Some(writer)) })))
    }

    /// Notes durably that something was purged at `at` by a rule that nobody will tell again. Blocks.
    ///
    /// # Errors
    /// When the folder cannot be written to.
    pub fn note_purge(&self, at: SystemTime) -> io::Result<()> {
        self.tier.folder.note_purge(at)
    }

    /// When something was last purged by such a rule, in this life or another one. Blocks.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn last_purge(&self) -> io::Result<Option<SystemTime>> {
        self.tier.folder.last_purge()
    }

    /// Whether [`Disk::load`] may find something; what is not loaded yet is not found. Never waits.
    pub fn may_have(&self, key: &CacheKey) -> bool {
        self.tier.entries.has(self.tier.name(key).1)
    }

    /// Whether [`Disk::load`] may find something besides `known`. Never waits.
    pub fn may_have_others(&self, key: &CacheKey, known: &[Arc<Kept>]) -> bool {
        self.tier.entries.of(self.tier.name(key).1).iter().any(|entry| is_other(entry, known))
    }

    /// What is kept under `key` besides what is `known`, the newest first. What does not read goes.
    pub async fn load(&self, key: &CacheKey, known: &[Arc<Kept>]) -> Vec<Loaded> {
        let (key, hash) = self.tier.name(key);
        if !self.tier.entries.has(hash) {
            return Vec::new();
        }
        let Some(turn) = self.tier.readers.turn().await else { return Vec::new() };
        let tier = self.tier.clone();
        let mut entries = tier.entries.of(hash);
        entries.retain(|entry| is_other(entry, known));
        let read = move || {
            // Here, whether or not somebody still waits: what hangs must not take all threads.
            let _turn = turn;
            entries
                .into_iter()
                .filter_map(|entry| read_one(&tier, Kept::new(tier.clone(), entry, None), &key))
                .collect()
        };
        let loaded = tokio::task::spawn_blocking(read).await;
        // It panics never, and is cancelled where the runtime ends.
        loaded.unwrap_or_default()
    }

    /// A representation that is to be kept, once slices of it come; `None` if it must not come in: its size is not
    /// known, it is too large, not worth what it would push out, or nothing is written at this moment.
    ///
    /// `cost` is what a miss of one slice of it costs, in the unit of all others.
    pub fn begin(&self, key: &CacheKey, head: &Head, cost: f32) -> Option<Arc<Kept>> {
        self.begin_of(key, head, head.size?, cost)
    }

    /// As [`Disk::begin`], where only the end tells the size: up to 1 GiB, and a quarter of the capacity, is taken. It is found
    /// once it has ended.
    pub(in crate::cache) fn begin_unsized(&self, key: &CacheKey, head: &Head, cost: f32) -> Option<Arc<Kept>> {
        let slices = UNSIZED_BYTES_MAX.min(self.tier.capacity_bytes / 4) / self.tier.slice_bytes;
        self.begin_of(key, head, slices * self.tier.slice_bytes, cost)
    }

    fn begin_of(&self, key: &CacheKey, head: &Head, size: u64, cost: f32) -> Option<Arc<Kept>> {
        let (entry, unwritten) = self.tier.begin(key, head, size, cost)?;
        Some(Arc::new(Kept::new(self.tier.clone(), entry, Some(unwritten))))
    }

    /// The head of `kept` is this one now: somebody who knows has said so of the same bytes. If it cannot be written,
    /// `kept` goes.
    pub fn update(&self, kept: &Kept, head: &Head) {
        kept.update(head);
    }

    /// `kept` is not found any more, nor are slices of it that are being written.
    pub fn remove(&self, kept: &Kept) {
        self.tier.remove(kept.entry());
    }

    /// Nothing is found under `key` any more, nor what is being written or loaded.
    pub fn remove_key(&self, key: &CacheKey) {
        self.tier.remove_all_of(self.tier.name(key).1);
    }

    /// What is kept under `key` for the same requests goes for what comes with `head`, was asked for at the number `asked`, and
    /// is `own`, or is not on the disk yet. False if what is there was asked for later.
    pub fn replace(&self, key: &CacheKey, head: &Head, own: Option<&Kept>, asked: u64) -> bool {
        let own = own.map(|own| own.entry().id);
        self.tier.replace(self.tier.name(key).1, self.tier.selector_of(head), own, asked)
    }

    /// The bytes that all of it takes: files in blocks of 4 KiB, and rows.
    pub fn used_bytes(&self) -> u64 {
        self.tier.used_bytes()
    }

    /// Waits until all that was asked before is done or given up, after the tier is loaded: from then on a process that is
    /// killed has it, and what was removed stays so.
    pub async fn settle(&self) {
        let (done, told) = oneshot::channel();
        self.tier.queue.push(Job::Tell(done));
        // An error says that the writer has ended: then all is done, too.
        let _ = told.await;
    }

    /// Writes what waits, for ten seconds at most, and ends: nothing is written from then on.
    pub async fn close(&self) {
        let mut stage = self.tier.stage.subscribe();
        self.tier.queue.close();
        let ended = tokio::time::timeout(CLOSE_PATIENCE, stage.wait_for(|stage| *stage == Stage::Ended)).await;
        if ended.is_err() {
            tracing::warn!("the cache's disk tier is slow, and what was to be written may be lost");
        }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        self.tier.queue.close();
        let writer = self.writer.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        // What the writer tells may have been the last to hold this: then it drops it itself, and ends by itself.
        let is_other = |writer: &JoinHandle<()>| writer.thread().id() != std::thread::current().id();
        if let Some(writer) = writer.filter(is_other) {
            // A writer that panicked has said so itself.
            let _ = writer.join();
        }
    }
}

/// Whether the index has it, and it is not among those that are `known`.
fn is_other(entry: &Entry, known: &[Arc<Kept>]) -> bool {
    entry.is_listed()
        && !entry.is_growing()
        && !entry.is_removed()
        && known.iter().all(|known| known.entry().id != entry.id)
}

/// Reads what the index has of one representation. Blocks on the disk.
fn read_one(tier: &Tier, kept: Kept, key: &[u8]) -> Option<Loaded> {
    let entry = kept.entry();
    let found = match tier.ask(|readers| readers.find(entry.id, entry.size())) {
        Ok(found) => found,
        Err(IndexError::Full | IndexError::Failed(_)) => return None,
        Err(IndexError::Damaged(_)) => None,
    };
    if entry.is_removed() {
        return None;
    }
    if found.as_ref().is_some_and(|found| found.key != key) {
        // Another key of the same hash.
        return None;
    }
    let sound = found.and_then(|found| {
        let head = record::read(&found.head).filter(|head| head.size == Some(entry.size()))?;
        (found.body.is_some() == tier.is_inline(entry)).then_some((head, found.body.map(Bytes::from)))
    });
    let Some((head, body)) = sound else {
        tracing::debug!(id = entry.id, "a representation on the disk does not read, and goes");
        tier.remove(entry);
        return None;
    };
    Some(Loaded { head, kept: Arc::new(kept), body })
}

#[cfg(test)]
mod tests;
