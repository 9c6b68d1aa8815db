//! The thread that writes: files first, then the rows of a whole batch in one commit, then word to those who wait.
//!
//! Whoever has to go loses its file before its row, for a full disk lets no row go before there is room. A row that could not go is
//! tried again with the next batch; until then it names a file that is not there.

use std::error::Error as _;
use std::fs::File;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::oneshot;
use xxhash_rust::xxh3::xxh3_64;

use super::entry::Entry;
use super::folder::Folder;
use super::index::{Index, IndexError, Listing, row_bytes};
use super::queue::{Job, Put, Unwritten};
use super::recovery::Scan;
use super::tier::{Evicted, Stage, Tier};

/// For how long nothing is written after a failure: a disk that fails is not asked all the time.
const PAUSE: Duration = Duration::from_secs(3);

/// Between two folders that are looked through after a start, jobs have so much time to come.
const PACE: Duration = Duration::from_millis(1);

/// So much goes when the disk is full and the index cannot grow.
const MADE_ROOM_BYTES: u64 = 1 << 20;

/// So much of the disk is left free: the index grows, and its log, and others want to write, too.
const FREE_BYTES_MIN: u64 = 8 << 20;

/// The one who writes.
#[derive(Debug)]
pub(super) struct Writer {
    pub(super) tier: Arc<Tier>,
    /// `None` while there is none that could be used.
    pub(super) index: Option<Index>,
    /// Rows that have to go and could not yet.
    pub(super) undone: Vec<Gone>,
    /// Whether the last try to write has failed.
    failing: bool,
    /// A failure of this moment, after which a pause is due.
    pausing: bool,
    lock: File,
}

/// A row that has to go.
#[derive(Debug, Clone, Copy)]
pub(super) enum Gone {
    /// All of a representation.
    Whole(u64),
    /// One slice.
    Slice(u64, u32),
}

/// A change of the index.
#[derive(Debug)]
enum Change {
    /// The slice at this place of the batch is there.
    Put(usize),
    Update(Arc<Entry>, Vec<u8>),
    Gone(Gone),
}

/// What is done in one commit.
#[derive(Debug, Default)]
struct Batch {
    changes: Vec<Change>,
    puts: Vec<Written>,
    tell: Vec<oneshot::Sender<()>>,
    /// What the disk has left, about; looked at with the first slice.
    free_bytes: Option<u64>,
}

/// A slice whose file is written.
#[derive(Debug)]
struct Written {
    put: Put,
    sum: u64,
    row_bytes: Option<u32>,
    reserved: u64,
}

impl Writer {
    pub(super) fn new(tier: Arc<Tier>, index: Index, lock: File) -> Self {
        Self { tier, index: Some(index), undone: Vec::new(), failing: false, pausing: false, lock }
    }

    /// Works until the tier is closed and all is done.
    pub(super) fn run(mut self) {
        if let Err(error) = self.load() {
            self.fail(error);
        }
        let mut scan = Some(Scan::new(&self.tier));
        self.tier.stage.send_replace(Stage::Scanning);
        loop {
            if std::mem::take(&mut self.pausing) {
                self.tier.queue.pause(PAUSE);
                self.tier.queue.refuse(false);
            }
            let patience = match scan {
                Some(_) => Some(PACE),
                None if self.undone.is_empty() => None,
                None => Some(Duration::ZERO),
            };
            let Some((jobs, load)) = self.tier.queue.take(patience) else { break };
            if !jobs.is_empty() || !self.undone.is_empty() {
                self.work(jobs);
            }
            self.tier.queue.done(load);
            if scan.as_mut().is_some_and(|scan| !scan.step(&self.tier, &mut self.undone)) {
                scan = None;
                self.work(Vec::new());
                self.tier.stage.send_replace(Stage::Ready);
            }
        }
        self.end();
    }

    /// What was removed must not come back with the next start.
    fn end(mut self) {
        if !self.undone.is_empty() {
            self.work(Vec::new());
        }
        if !self.undone.is_empty() {
            self.index = None;
            if let Err(error) = self.tier.folder.discard() {
                tracing::warn!(%error, "what was removed from the cache's disk tier may come back");
            }
        }
        let tier = self.tier.clone();
        tier.readers.renew();
        self.index = None;
        // Another process may take the folder once the stage tells. A child of this one that has not begun its own program yet
        // has the lock, too.
        if let Err(error) = self.lock.unlock() {
            tracing::debug!(%error, "the lock goes with the process");
        }
        drop(self);
        tier.stage.send_replace(Stage::Ended);
    }

    /// Does `jobs`, and what is still to be done of earlier ones.
    pub(super) fn work(&mut self, jobs: Vec<Job>) {
        if self.index.is_none() {
            self.renew();
        }
        let mut batch = Batch::default();
        batch.changes.extend(self.undone.drain(..).map(Change::Gone));
        for job in jobs {
            match job {
                Job::Put(put) => self.put(put, &mut batch),
                Job::Update(entry, head) if !entry.is_removed() => batch.changes.push(Change::Update(entry, head)),
                Job::Update(..) => {}
                Job::Remove(entry) => {
                    self.delete_files(&entry);
                    batch.changes.push(Change::Gone(Gone::Whole(entry.id)));
                }
                Job::Lost(entry, slice) => {
                    self.tier.folder.delete(entry.id, slice);
                    batch.changes.push(Change::Gone(Gone::Slice(entry.id, slice)));
                    give_up(&self.tier, &entry, slice, false);
                }
                Job::Damaged(renewed) if renewed == self.tier.readers.renewed() => {
                    self.fail(IndexError::Damaged(None));
                    batch.changes.clear();
                }
                Job::Damaged(_) => {}
                Job::KeepSites { sites, before } => self.tier.keep_sites(&sites, before),
                Job::Tell(done) => batch.tell.push(done),
            }
        }
        match self.commit(&mut batch) {
            Ok(recounted) => {
                // First those that were new in this batch are counted at all.
                self.arrive(batch.puts);
                for (entry, row_bytes) in recounted {
                    self.tier.recount(&entry, row_bytes);
                }
            }
            Err(error) => self.take_back(batch.changes, batch.puts, error),
        }
        for done in batch.tell {
            // Whoever asked may have gone.
            let _ = done.send(());
        }
    }

    /// Writes the file of a slice, for which others go if they must.
    fn put(&mut self, put: Put, batch: &mut Batch) {
        let tier = self.tier.clone();
        if put.entry.is_removed() || self.pausing || self.index.is_none() {
            return refuse(&tier, put);
        }
        let is_inline = tier.is_inline(&put.entry);
        let body_bytes = if is_inline { put.bytes.len() } else { 0 };
        let row = |row: &Unwritten| row_bytes(row.key.len(), row.head.len(), body_bytes);
        let row_bytes = put.unwritten.as_deref().map(row);
        let reserved = tier.charge(&put.entry, put.slice) + row_bytes.map_or(0, u64::from);
        batch.yield_disk(&tier, reserved);
        let (evicted, fits) = tier.reserve(reserved);
        batch.evicted(&tier, evicted);
        if !fits {
            return refuse(&tier, put);
        }
        if !is_inline && let Err(error) = write_or_make_room(&tier, &put, batch) {
            tier.release(reserved);
            self.fail(error);
            return refuse(&tier, put);
        }
        let sum = xxh3_64(&put.bytes);
        batch.changes.push(Change::Put(batch.puts.len()));
        batch.puts.push(Written { put, sum, row_bytes, reserved });
    }

    /// Makes all changes of the index, and tells what rows are counted as that have changed.
    fn commit(&mut self, batch: &mut Batch) -> Result<Vec<(Arc<Entry>, u32)>, IndexError> {
        let mut recounted = Vec::new();
        if batch.changes.is_empty() {
            return Ok(recounted);
        }
        // Where there is no index there are no rows that have to go.
        let Some(index) = &self.index else { return Ok(recounted) };
        index.commit(|index| {
            for change in &batch.changes {
                match change {
                    Change::Put(place) => list(index, &self.tier, &batch.puts[*place])?,
                    Change::Gone(Gone::Whole(id)) => index.remove(*id)?,
                    Change::Gone(Gone::Slice(id, slice)) => index.remove_slice(*id, *slice)?,
                    Change::Update(entry, head) => {
                        let updated =
                            index.update(entry.id, entry.size(), entry.selector.load(Ordering::Relaxed), head)?;
                        recounted.extend(updated.map(|row_bytes| (entry.clone(), row_bytes)));
                    }
                }
            }
            Ok(())
        })?;
        Ok(recounted)
    }

    /// All is there; those who wait are told.
    fn arrive(&mut self, puts: Vec<Written>) {
        if self.failing && !puts.is_empty() && !self.pausing {
            self.failing = false;
            tracing::info!("the cache's disk tier is written again");
        }
        for Written { put, row_bytes, reserved, .. } in puts {
            let there = self.tier.arrive(&put.entry, put.slice, row_bytes, reserved);
            if !there {
                // Its rows go with its entry's, whose job comes still.
                self.tier.folder.delete(put.entry.id, put.slice);
            }
            (put.written)(there);
        }
    }

    /// The index has nothing of a batch: what was written for it goes, and what has to go is tried again.
    fn take_back(&mut self, changes: Vec<Change>, puts: Vec<Written>, error: IndexError) {
        // Before anybody is told, who would only try again.
        self.tier.queue.refuse(true);
        for Written { put, reserved, .. } in puts {
            self.tier.folder.delete(put.entry.id, put.slice);
            self.tier.release(reserved);
            refuse(&self.tier, put);
        }
        for change in changes {
            match change {
                Change::Put(_) => {}
                Change::Gone(gone) => self.undone.push(gone),
                // The old head might say that it may be used for longer.
                Change::Update(entry, _) => self.tier.remove(&entry),
            }
        }
        if matches!(error, IndexError::Full) {
            for Evicted { entry, slice, whole } in self.tier.evict(MADE_ROOM_BYTES) {
                self.tier.folder.delete(entry.id, slice);
                self.undone.push(if whole { Gone::Whole(entry.id) } else { Gone::Slice(entry.id, slice) });
            }
        }
        self.fail(error);
    }

    /// Writing has failed: it pauses, and starts anew if the index does not read.
    pub(super) fn fail(&mut self, error: impl Into<Failure>) {
        let error = error.into();
        self.pausing = true;
        self.tier.queue.refuse(true);
        if !std::mem::replace(&mut self.failing, true) {
            let reason = error.source().map(ToString::to_string);
            tracing::warn!(%error, reason, "the cache's disk tier cannot be written, and is served as it is");
        }
        let is_damaged = matches!(error, Failure::Index(IndexError::Damaged(_)));
        if is_damaged && self.index.is_some() {
            self.start_anew();
        }
    }

    /// Forgets all, and puts a new index in the place of one that does not read.
    fn start_anew(&mut self) {
        tracing::warn!("the cache's disk tier starts empty: its index does not read");
        for entry in self.tier.entries.all() {
            self.tier.take_out(&mut self.tier.queues(), &entry);
        }
        self.undone.clear();
        self.index = None;
        let discarded = self.tier.folder.discard().and_then(|()| self.tier.folder.make_slices());
        self.tier.readers.renew();
        if let Err(error) = discarded {
            tracing::debug!(%error, "the folder of the cache's disk tier cannot be emptied");
        }
    }

    /// Makes an index where there is none.
    fn renew(&mut self) {
        match Index::renew(&self.tier.folder.index(), self.tier.slice_bytes, self.tier.marks) {
            Ok(index) => self.index = Some(index),
            Err(error) => self.fail(error),
        }
    }

    fn delete_files(&self, entry: &Entry) {
        if !self.tier.is_inline(entry) {
            let may_have = |&slice: &u32| entry.slice(slice).is_some_and(|state| state.sight().may_have_file());
            (0..entry.slices()).filter(may_have).for_each(|slice| self.tier.folder.delete(entry.id, slice));
        }
    }
}

impl Batch {
    /// Where the disk has little left, twice as much goes as comes, until it has more: a disk that is smaller than the
    /// capacity, or that others fill, does not run full by this.
    fn yield_disk(&mut self, tier: &Tier, bytes: u64) {
        let free_bytes = *self.free_bytes.get_or_insert_with(|| tier.folder.free_bytes());
        let short_bytes = (FREE_BYTES_MIN + bytes).saturating_sub(free_bytes).min(2 * bytes);
        let before = tier.used_bytes();
        if short_bytes > 0 {
            self.evicted(tier, tier.evict(short_bytes));
        }
        let freed_bytes = before.saturating_sub(tier.used_bytes());
        self.free_bytes = Some((free_bytes.saturating_add(freed_bytes)).saturating_sub(bytes));
    }

    /// Deletes the files of those that had to go, and lets their rows go.
    fn evicted(&mut self, tier: &Tier, evicted: Vec<Evicted>) {
        for Evicted { entry, slice, whole } in evicted {
            if !tier.is_inline(&entry) {
                tier.folder.delete(entry.id, slice);
            }
            let gone = if whole { Gone::Whole(entry.id) } else { Gone::Slice(entry.id, slice) };
            self.changes.push(Change::Gone(gone));
        }
    }
}

/// Why nothing can be written.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// A file could not be.
    #[error("a file cannot be written")]
    File(#[from] io::Error),
    /// The index could not be.
    #[error(transparent)]
    Index(#[from] IndexError),
}

/// Writes the file of a slice. On a full disk others go, once, as if it had less room.
fn write_or_make_room(tier: &Tier, put: &Put, batch: &mut Batch) -> io::Result<()> {
    let write = |folder: &Folder| folder.write(put.entry.id, put.slice, &put.bytes);
    match write(&tier.folder) {
        Err(error) if matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) => {
            batch.evicted(tier, tier.evict(tier.charge(&put.entry, put.slice)));
            write(&tier.folder)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            // Somebody has deleted the folders.
            tier.folder.make_slices()?;
            write(&tier.folder)
        }
        written => written,
    }
}

fn list(index: &Index, tier: &Tier, written: &Written) -> Result<(), IndexError> {
    let Put { entry, slice, bytes, unwritten, .. } = &written.put;
    let is_inline = tier.is_inline(entry);
    if let Some(Unwritten { key, head }) = unwritten.as_deref() {
        let body = is_inline.then_some(&**bytes);
        let Entry { id, key_hash, site, cost, .. } = **entry;
        // With a size that none has it goes at the next start, if it does not get one before.
        let size = if entry.is_growing() { u64::MAX } else { entry.size() };
        let selector = entry.selector.load(Ordering::Relaxed);
        index.list(&Listing { id, key_hash, size, cost, selector, site, key, head, body })?;
    }
    if !is_inline {
        index.list_slice(entry.id, *slice, written.sum)?;
    }
    Ok(())
}

/// A slice that was to be written is not there.
fn refuse(tier: &Tier, put: Put) {
    // Without the row that came with it, nothing of the entry would be found again.
    give_up(tier, &put.entry, put.slice, put.unwritten.is_some());
    (put.written)(false);
}

fn give_up(tier: &Tier, entry: &Arc<Entry>, slice: u32, all: bool) {
    if all {
        tier.remove(entry);
    }
    if let Some(state) = entry.slice(slice) {
        state.give_up();
        entry.held.fetch_sub(1, Ordering::SeqCst);
    }
    tier.collect(entry);
}
