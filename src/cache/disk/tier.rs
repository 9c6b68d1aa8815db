//! What the handles, the writer and those who load share: entries, how much they take, and who has to go.
//!
//! Three locks, taken in this order: what was purged while loading, the queues, a shard of the entries. The queues' is held
//! wherever a slice comes, goes, or an entry is removed; a hit takes none of them.

use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;
use xxhash_rust::xxh3::{Xxh3, xxh3_64_with_seed};

use super::entry::{Entries, Entry, Place};
use super::files::Files;
use super::folder::Folder;
use super::index::{IndexError, Marks, Readers};
use super::queue::{Job, Queue, Unwritten};
use super::record;
use super::slice::Sight;
use crate::cache::queues::{Departed, Fate, Queues};
use crate::cache::rules::VARIANTS_MAX;
use crate::cache::{CacheKey, Head, Terms};

/// Bodies of up to so many bytes are in the index: a file would take as long to open as they take to read.
pub const INLINE_BYTES_MAX: u64 = 16 << 10;

/// What a file takes is a multiple of this.
const BLOCK_BYTES: u64 = 4096;

/// What a slice takes in the index.
const SLICE_ROW_BYTES: u64 = 64;

/// What the row of a body in the index is taken for by the queues: its head changes, what it weighs there does not.
const INLINE_ROW_BYTES: u64 = 1024;

/// A representation of more slices is not kept: what memory knows of them must stay a small part of what is on the disk, even
/// if but one of them is.
const SLICES_MAX: u64 = 1 << 14;

/// So many keys can be purged while the index is loaded; beyond, nothing of it that was not loaded by then is kept.
const PURGED_MAX: usize = 100_000;

/// How much is read at a time to verify a file.
const CHUNK_BYTES: usize = 256 << 10;

/// How far the start has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Stage {
    /// Entries are loaded; nothing is written.
    Loading,
    /// All entries are there; files that none of them knows are looked for.
    Scanning,
    /// Memory, index and files agree.
    Ready,
    /// The writer has ended.
    Ended,
}

/// What was purged, or replaced, while the index was loaded.
#[derive(Debug)]
pub(super) enum Purged {
    /// These: keys, and what of a key is selected by one selector.
    Some { keys: HashSet<u64>, selected: HashSet<(u64, u64)> },
    /// More than are remembered.
    All,
    /// All is loaded: nothing has to be remembered.
    Loaded,
}

impl Purged {
    pub(super) fn has(&self, hash: u64, selector: u64) -> bool {
        match self {
            Self::Some { keys, selected } => keys.contains(&hash) || selected.contains(&(hash, selector)),
            Self::All => true,
            Self::Loaded => false,
        }
    }
}

/// A slice that had to go; its file and its row are still there.
#[derive(Debug)]
pub(super) struct Evicted {
    pub(super) entry: Arc<Entry>,
    pub(super) slice: u32,
    /// Whether its entry went with it.
    pub(super) whole: bool,
}

/// What a look at a file has shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// It has the bytes that were written.
    Right,
    /// It has not.
    Wrong,
    /// The index could not say.
    Unknown,
}

/// The tier.
#[derive(Debug)]
pub(super) struct Tier {
    pub(super) folder: Folder,
    pub(super) capacity_bytes: u64,
    pub(super) slice_bytes: u64,
    pub(super) marks: Marks,
    pub(super) entries: Entries,
    pub(super) files: Files,
    pub(super) queue: Queue,
    pub(super) readers: Readers,
    pub(super) stage: watch::Sender<Stage>,
    pub(super) purged: Mutex<Purged>,
    /// Held while a file is opened, so that the others who want the same find it open.
    pub(super) openings: Box<[Arc<tokio::sync::Mutex<()>>]>,
    queues: Mutex<Queues<Place>>,
    used: AtomicU64,
    pub(super) ids: AtomicU64,
}

/// How many files are opened at a time.
const OPENINGS: usize = 32;

impl Tier {
    pub(super) fn new(folder: Folder, capacity_bytes: u64, slice_bytes: u64, marks: Marks) -> Self {
        Self {
            readers: Readers::new(folder.index()),
            folder,
            capacity_bytes,
            slice_bytes,
            marks,
            entries: Entries::default(),
            files: Files::default(),
            queue: Queue::default(),
            stage: watch::Sender::new(Stage::Loading),
            purged: Mutex::new(Purged::Some { keys: HashSet::new(), selected: HashSet::new() }),
            openings: std::iter::repeat_with(Arc::default).take(OPENINGS).collect(),
            queues: Mutex::new(Queues::new(capacity_bytes)),
            used: AtomicU64::new(0),
            ids: AtomicU64::new(marks.first_id()),
        }
    }

    /// The bytes of `key`, and their hash.
    pub(super) fn name(&self, key: &CacheKey) -> (Vec<u8>, u64) {
        let text = record::key(key);
        let hash = xxh3_64_with_seed(&text, self.marks.seed);
        (text, hash)
    }

    pub(super) fn used_bytes(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    pub(super) fn is_inline(&self, entry: &Entry) -> bool {
        entry.size() <= INLINE_BYTES_MAX
    }

    /// How many slices a body of `size` bytes has; `None` if none of that size is kept.
    pub(super) fn slices_of(&self, size: u64) -> Option<u32> {
        let slices = if size <= INLINE_BYTES_MAX { 1 } else { size.div_ceil(self.slice_bytes) };
        u32::try_from(slices).ok().filter(|_| slices <= SLICES_MAX && size <= self.capacity_bytes)
    }

    /// The length of a slice.
    pub(super) fn length(&self, entry: &Entry, slice: u32) -> Option<u64> {
        if self.is_inline(entry) {
            return (slice == 0).then_some(entry.size());
        }
        let start = u64::from(slice).checked_mul(self.slice_bytes)?;
        entry.size().checked_sub(start).filter(|&left| left > 0).map(|left| left.min(self.slice_bytes))
    }

    /// What a slice is counted as; a body in the index is part of its row.
    pub(super) fn charge(&self, entry: &Entry, slice: u32) -> u64 {
        match self.length(entry, slice) {
            Some(length) if !self.is_inline(entry) => length.next_multiple_of(BLOCK_BYTES) + SLICE_ROW_BYTES,
            _ => 0,
        }
    }

    /// What a slice weighs in the queues, always the same.
    fn weight(&self, entry: &Entry, slice: u32) -> u32 {
        let bytes = if self.is_inline(entry) { entry.size() + INLINE_ROW_BYTES } else { self.charge(entry, slice) };
        u32::try_from(bytes).unwrap_or(u32::MAX)
    }

    /// A new entry for what `head` is of, which is in no row yet and has `size` bytes, or at most so many where the head does
    /// not say; `None` if it must not come in.
    pub(super) fn begin(&self, key: &CacheKey, head: &Head, size: u64, cost: f32) -> Option<(Arc<Entry>, Unwritten)> {
        let slices = self.slices_of(size)?;
        if *self.stage.borrow() == Stage::Loading || !self.queue.accepts() {
            return None;
        }
        let site = self.site_of(key);
        let (key, hash) = self.name(key);
        let id = self.ids.fetch_add(1, Ordering::Relaxed);
        let entry = Entry::new(id, hash, size, cost, slices).of_site(site).selected(self.selector_of(head));
        let entry = Arc::new(if head.size.is_none() { entry.growing() } else { entry });
        let weight = self.weight(&entry, 0);
        if !self.queues().admits(&Place { entry: entry.clone(), slice: 0 }, u64::from(weight), cost) {
            return None;
        }
        if let Some(oldest) = self.entries.add(entry.clone(), VARIANTS_MAX) {
            self.remove(&oldest);
        }
        Some((entry, Unwritten { key, head: record::write(head) }))
    }

    /// The entry is not kept any more.
    pub(super) fn remove(&self, entry: &Arc<Entry>) {
        if self.take_out(&mut self.queues(), entry) {
            self.queue.push(Job::Remove(entry.clone()));
        }
    }

    /// Nothing of this hash is kept any more.
    pub(super) fn remove_all_of(&self, hash: u64) {
        {
            let mut purged = self.purged.lock().unwrap_or_else(PoisonError::into_inner);
            if let Purged::Some { keys, .. } = &mut *purged {
                keys.insert(hash);
                if keys.len() > PURGED_MAX {
                    *purged = Purged::All;
                }
            }
        }
        for entry in self.entries.of(hash) {
            self.remove(&entry);
        }
    }

    /// What is kept under this hash by the selector goes for something newer, which was asked for at the number `asked` and is
    /// `own` already, or is not on the disk; false if what is there was asked for later.
    pub(super) fn replace(&self, hash: u64, selector: u64, own: Option<u64>, asked: u64) -> bool {
        let mut same = self.entries.of(hash);
        same.retain(|entry| {
            Some(entry.id) != own && !entry.is_removed() && entry.selector.load(Ordering::Relaxed) == selector
        });
        if same.iter().any(|entry| entry.asked.load(Ordering::Relaxed) > asked) {
            return false;
        }
        let mut purged = self.purged.lock().unwrap_or_else(PoisonError::into_inner);
        if let Purged::Some { selected, .. } = &mut *purged {
            selected.insert((hash, selector));
            if selected.len() > PURGED_MAX {
                *purged = Purged::All;
            }
        }
        drop(purged);
        same.iter().for_each(|entry| self.remove(entry));
        true
    }

    /// The hash of what is selected by with this head.
    pub(super) fn selector_of(&self, head: &Head) -> u64 {
        match &head.terms {
            Terms::Answer { selector, .. } => xxh3_64_with_seed(&selector.text(), self.marks.seed),
            // Of those one is kept.
            Terms::Object { .. } | Terms::Slice | Terms::Coded { .. } => 0,
        }
    }

    /// Removes the entry if nothing of it is there and nobody could bring any.
    pub(super) fn collect(&self, entry: &Arc<Entry>) {
        if entry.is_forsaken() && !entry.is_removed() {
            let mut queues = self.queues();
            let goes = entry.is_forsaken() && self.take_out(&mut queues, entry);
            drop(queues);
            if goes {
                self.queue.push(Job::Remove(entry.clone()));
            }
        }
    }

    /// A slice that was seen as `seen` is not what was written.
    pub(super) fn lose(&self, entry: &Arc<Entry>, slice: u32, seen: Sight) {
        if self.is_inline(entry) {
            return self.remove(entry);
        }
        let Some(state) = entry.slice(slice) else { return };
        let mut queues = self.queues();
        if entry.is_removed() || !seen.is_same_file(state.sight()) {
            return;
        }
        state.doom();
        queues.removed(self.weight(entry, slice));
        self.release(self.charge(entry, slice));
        self.files.close((entry.id, slice));
        drop(queues);
        self.queue.push(Job::Lost(entry.clone(), slice));
    }

    /// Nothing of an entry is found any more; false if that was so before.
    pub(super) fn take_out(&self, queues: &mut Queues<Place>, entry: &Entry) -> bool {
        if !entry.remove() {
            return false;
        }
        let present = (0..entry.slices()).filter(|&slice| entry.slice(slice).is_some_and(|s| s.sight().is_present()));
        for slice in present {
            queues.removed(self.weight(entry, slice));
            self.release(self.charge(entry, slice));
            self.files.close((entry.id, slice));
        }
        if entry.is_listed() {
            self.release(u64::from(entry.row_bytes.load(Ordering::Relaxed)));
        }
        self.entries.remove(entry);
        true
    }

    /// Takes `bytes`, and lets others go for it; false if they cannot be had.
    pub(super) fn reserve(&self, bytes: u64) -> (Vec<Evicted>, bool) {
        let mut queues = self.queues();
        let mut evicted = Vec::new();
        if bytes > self.capacity_bytes {
            return (evicted, false);
        }
        while self.used_bytes() + bytes > self.capacity_bytes {
            let Some(one) = self.evict_one(&mut queues) else { return (evicted, false) };
            evicted.push(one);
        }
        self.take(bytes);
        (evicted, true)
    }

    /// Lets others go that take `bytes`, or all, and at least up to the capacity.
    pub(super) fn evict(&self, bytes: u64) -> Vec<Evicted> {
        let mut queues = self.queues();
        let goal = self.used_bytes().saturating_sub(bytes).min(self.capacity_bytes);
        let mut evicted = Vec::new();
        while self.used_bytes() > goal {
            let Some(one) = self.evict_one(&mut queues) else { break };
            evicted.push(one);
        }
        evicted
    }

    fn evict_one(&self, queues: &mut Queues<Place>) -> Option<Evicted> {
        let Departed { key: Place { entry, slice }, .. } =
            queues.evict(|place, number| match standing(place, number) {
                Some(state) => Fate::Used(state.take_uses()),
                None => Fate::Gone,
            })?;
        // It was there a moment ago, and comes and goes under this lock alone.
        entry.slice(slice)?.leave();
        entry.held.fetch_sub(1, Ordering::SeqCst);
        self.release(self.charge(&entry, slice));
        self.files.close((entry.id, slice));
        let whole = (self.is_inline(&entry) || entry.is_forsaken()) && self.take_out(queues, &entry);
        Some(Evicted { entry, slice, whole })
    }

    /// A slice for which `reserved` bytes were taken is on the disk, with its row, and that of its entry if it brought one
    /// of `row_bytes`; false if the entry was removed meanwhile.
    pub(super) fn arrive(&self, entry: &Arc<Entry>, slice: u32, row_bytes: Option<u32>, reserved: u64) -> bool {
        let mut queues = self.queues();
        let Some(state) = entry.slice(slice).filter(|_| !entry.is_removed()) else {
            self.release(reserved);
            return false;
        };
        if let Some(row_bytes) = row_bytes {
            entry.list(row_bytes);
        }
        state.arrive();
        let place = Place { entry: entry.clone(), slice };
        queues.insert(place, state.sight().number(), self.weight(entry, slice), entry.cost);
        queues.compact(|place, number| standing(place, number).is_some());
        true
    }

    /// An entry of an earlier life, with its slices.
    pub(super) fn adopt(&self, entry: Entry) {
        let entry = Arc::new(entry);
        let mut queues = self.queues();
        self.take(u64::from(entry.row_bytes.load(Ordering::Relaxed)));
        for slice in 0..entry.slices() {
            let Some(state) = entry.slice(slice).filter(|state| state.sight().is_present()) else { continue };
            self.take(self.charge(&entry, slice));
            let place = Place { entry: entry.clone(), slice };
            // It had its probation: else all of it would go before anything that is new.
            queues.insert_used(place, state.sight().number(), self.weight(&entry, slice), entry.cost);
        }
        self.entries.add(entry, usize::MAX);
    }

    /// The row of an entry, which says how long its body is, is counted as `row_bytes` from now on.
    pub(super) fn recount(&self, entry: &Entry, row_bytes: u32) {
        let _queues = self.queues();
        if !entry.is_removed() {
            entry.grown();
            let before = entry.row_bytes.swap(row_bytes, Ordering::Relaxed);
            self.take(u64::from(row_bytes));
            self.release(u64::from(before));
        }
    }

    fn take(&self, bytes: u64) {
        self.used.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Gives back bytes that were taken.
    pub(super) fn release(&self, bytes: u64) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Opens the file of a slice that was seen as `seen`; a wrong one is lost. Blocks on the disk.
    pub(super) fn open(&self, entry: &Arc<Entry>, slice: u32, seen: Sight) -> Option<Arc<File>> {
        let state = entry.slice(slice)?;
        let opened = File::open(self.folder.slice(entry.id, slice)).and_then(|file| {
            let verdict = if seen.is_verified() { Verdict::Right } else { self.judge(entry, slice, &file)? };
            Ok((file, verdict))
        });
        let file = match opened {
            Ok((file, Verdict::Right)) => Arc::new(file),
            Ok((_, Verdict::Wrong)) => return self.find_wrong(entry, slice, seen, None),
            Ok((_, Verdict::Unknown)) => return None,
            // Files that this process has open, or memory that it lacks, say nothing of the slice.
            Err(error) if is_of_process(&error) => return None,
            Err(error) => return self.find_wrong(entry, slice, seen, Some(&error)),
        };
        state.verify(seen);
        self.files.keep((entry.id, slice), file.clone());
        // Whoever lets it go closes it; if that was before it was kept, it is closed here.
        if entry.is_removed() || !seen.is_same_file(state.sight()) {
            self.files.close((entry.id, slice));
            return None;
        }
        Some(file)
    }

    /// Asks the index; the writer is told if it does not read. Blocks on the disk.
    pub(super) fn ask<T>(&self, ask: impl FnOnce(&Readers) -> Result<T, IndexError>) -> Result<T, IndexError> {
        let renewed = self.readers.renewed();
        ask(&self.readers).inspect_err(|error| {
            if error.is_of_file() {
                self.queue.push(Job::Damaged(renewed));
            }
        })
    }

    /// Nothing is wrong if the slice has gone meanwhile.
    fn find_wrong<T>(&self, entry: &Arc<Entry>, slice: u32, seen: Sight, error: Option<&io::Error>) -> Option<T> {
        if !entry.is_removed() && entry.slice(slice).is_some_and(|state| seen.is_same_file(state.sight())) {
            let error = error.map(tracing::field::display);
            tracing::debug!(id = entry.id, slice, error, "a slice on the disk is not what was written, and goes");
            self.lose(entry, slice, seen);
        }
        None
    }

    /// Whether a file has the length and the checksum that were written.
    fn judge(&self, entry: &Entry, slice: u32, file: &File) -> io::Result<Verdict> {
        let length = file.metadata()?.len();
        if Some(length) != self.length(entry, slice) {
            return Ok(Verdict::Wrong);
        }
        let expected = match self.ask(|readers| readers.sum(entry.id, slice)) {
            Ok(Some(expected)) => expected,
            Ok(None) | Err(IndexError::Damaged(_)) => return Ok(Verdict::Wrong),
            Err(IndexError::Full | IndexError::Failed(_)) => return Ok(Verdict::Unknown),
        };
        let mut sum = Xxh3::new();
        let mut chunk = vec![0; CHUNK_BYTES];
        let mut offset = 0;
        while offset < length {
            let most = chunk.len().min((length - offset) as usize);
            match file.read_at(&mut chunk[..most], offset) {
                Ok(0) => return Ok(Verdict::Wrong),
                Ok(read) => {
                    sum.update(&chunk[..read]);
                    offset += read as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(if sum.digest() == expected { Verdict::Right } else { Verdict::Wrong })
    }

    pub(super) fn queues(&self) -> MutexGuard<'_, Queues<Place>> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is known of the slice at a place; `None` if it went, whatever has come since.
fn standing(place: &Place, number: u32) -> Option<&super::slice::Slice> {
    let state = place.entry.slice(place.slice).filter(|_| !place.entry.is_removed())?;
    let sight = state.sight();
    (sight.is_present() && sight.number() == number).then_some(state)
}

/// Whether an error is one of this process, not of the file.
fn is_of_process(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let errno = Errno::from_io_error(error);
    matches!(errno, Some(Errno::MFILE | Errno::NFILE | Errno::NOMEM)) || error.kind() == io::ErrorKind::PermissionDenied
}
