//! A representation in the hands of whoever reads or writes it.

use std::fs::File;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;

use super::entry::Entry;
use super::queue::{Job, Put, Unwritten};
use super::record;
use super::slice::Claim;
use super::tier::Tier;
use crate::cache::Head;

/// How long a file is waited for: whoever gave it once gives it sooner than a disk that hangs.
const OPEN_MAX: Duration = Duration::from_secs(2);

/// A representation of the disk tier. All it says is of this moment: its slices may go at any time; what was opened
/// stays readable.
#[derive(Debug)]
pub struct Kept {
    tier: Arc<Tier>,
    entry: Arc<Entry>,
    /// What the index gets with the first slice.
    unwritten: Mutex<Option<Box<Unwritten>>>,
}

impl Kept {
    pub(super) fn new(tier: Arc<Tier>, entry: Arc<Entry>, unwritten: Option<Unwritten>) -> Self {
        entry.handles.fetch_add(1, Ordering::SeqCst);
        Self { tier, entry, unwritten: Mutex::new(unwritten.map(Box::new)) }
    }

    /// The length of its body, in bytes.
    pub fn size(&self) -> u64 {
        self.entry.size()
    }

    /// Whether the slice is there. Never waits, like all that follow but [`Kept::open`].
    pub fn has(&self, slice: u32) -> bool {
        !self.entry.is_removed() && self.entry.slice(slice).is_some_and(|state| state.sight().is_present())
    }

    /// Has the whole slice `bytes` written, if it fits in what waits for the disk; a body of up to 16 KiB is one slice,
    /// whatever their size.
    ///
    /// `written` is told whether it is there in the end: at once if that is known, else by the thread that writes. So it
    /// must be short, and must not wait.
    pub fn put(&self, slice: u32, bytes: Bytes, written: impl FnOnce(bool) + Send + 'static) {
        let is_whole = self.tier.length(&self.entry, slice) == Some(bytes.len() as u64);
        let Some(state) = self.entry.slice(slice).filter(|_| is_whole && !self.entry.is_removed()) else {
            return written(false);
        };
        match state.claim() {
            Claim::Granted => {}
            Claim::Present => return written(true),
            Claim::Pending => return written(false),
        }
        self.entry.held.fetch_add(1, Ordering::SeqCst);
        // Held until the job has its place: the index must know the representation before its other slices.
        let mut unwritten = self.unwritten();
        let put =
            Put { entry: self.entry.clone(), slice, bytes, unwritten: unwritten.take(), written: Box::new(written) };
        if let Err(Job::Put(put)) = self.tier.queue.offer(Job::Put(put)) {
            *unwritten = put.unwritten;
            drop(unwritten);
            state.give_up();
            self.entry.held.fetch_sub(1, Ordering::SeqCst);
            (put.written)(false);
        }
    }

    /// A body of which the size was not known has come, but for its last slice, which is to be put after this. False if it is
    /// not kept, for it is longer than was thought.
    pub(in crate::cache) fn end(&self, head: &Head) -> bool {
        let Some(size) = head.size.filter(|size| *size <= self.entry.size()) else { return false };
        self.entry.end(size);
        self.update(head);
        !self.entry.is_removed()
    }

    /// The file of the slice, at its beginning the slice's, if it is open already and known to be right. Counts a use.
    pub fn opened(&self, slice: u32) -> Option<Arc<File>> {
        let state = self.entry.slice(slice)?;
        if self.entry.is_removed() || !state.sight().is_verified() {
            return None;
        }
        let file = self.tier.files.find((self.entry.id, slice))?;
        state.count_use();
        Some(file)
    }

    /// As [`Kept::opened`]; it is opened if it must be, and its bytes are verified if this process neither wrote them nor has
    /// verified them before. What turns out to be wrong goes. `None` for a body that came with [`super::Loaded`], and where the
    /// disk takes longer than others would.
    pub async fn open(&self, slice: u32) -> Option<Arc<File>> {
        if let Some(file) = self.opened(slice) {
            return Some(file);
        }
        if !self.has(slice) || self.tier.is_inline(&self.entry) {
            return None;
        }
        tokio::time::timeout(OPEN_MAX, self.open_in_turn(slice)).await.ok().flatten()
    }

    /// Of many who want the same, one opens it. Others that share the turn wait no longer than for an opening.
    async fn open_in_turn(&self, slice: u32) -> Option<Arc<File>> {
        let turns = &self.tier.openings;
        let turn = self.entry.id.wrapping_mul(31).wrapping_add(u64::from(slice)) as usize % turns.len();
        let turn = turns[turn].clone().lock_owned().await;
        if let Some(file) = self.opened(slice) {
            return Some(file);
        }
        let seen = self.entry.slice(slice)?.sight();
        if !self.has(slice) || !seen.is_present() {
            return None;
        }
        let (tier, entry) = (self.tier.clone(), self.entry.clone());
        let opened = tokio::task::spawn_blocking(move || {
            // Here, whether or not somebody still waits: what hangs must not take all threads.
            let _turn = turn;
            tier.open(&entry, slice, seen)
        });
        // It panics never, and is cancelled where the runtime ends.
        let file = opened.await.ok().flatten()?;
        self.entry.slice(slice)?.count_use();
        Some(file)
    }

    /// The file of the slice could not be read, or had too few bytes: it is verified before anybody gets it again.
    pub fn doubt(&self, slice: u32) {
        if let Some(state) = self.entry.slice(slice) {
            state.doubt();
            self.tier.files.close((self.entry.id, slice));
        }
    }

    /// Whether it is not kept any more.
    pub fn is_removed(&self) -> bool {
        self.entry.is_removed()
    }

    /// Up to which purge it is known to stand: 0 if an earlier life has left it.
    pub fn settled(&self) -> u64 {
        self.entry.settled.load(Ordering::Relaxed)
    }

    /// It is known to stand up to the purge `number`.
    pub fn settle(&self, number: u64) {
        self.entry.settled.store(number, Ordering::Relaxed);
    }

    /// When in this life it was last asked for, or whether it is right, among all that was; 0 if that was in an earlier one.
    pub fn asked(&self) -> u64 {
        self.entry.asked.load(Ordering::Relaxed)
    }

    /// It was asked for, or whether it is right, at this number.
    pub fn asked_again(&self, number: u64) {
        self.entry.asked.fetch_max(number, Ordering::Relaxed);
    }

    /// Whether both are one representation.
    pub fn is_same(&self, other: &Self) -> bool {
        self.entry.id == other.entry.id
    }

    /// When in this life it was last known to be what the store has.
    pub fn validated(&self) -> Duration {
        Duration::from_micros(self.entry.validated_us.load(Ordering::Relaxed))
    }

    /// At `now` it is known to be what the store has; zero if it is not known any more.
    pub fn validate(&self, now: Duration) {
        self.entry.validated_us.store(now.as_micros() as u64, Ordering::Relaxed);
    }

    /// Counts a use of a body that came with [`super::Loaded`], and that memory keeps.
    pub fn use_inline(&self) {
        if let Some(state) = self.entry.slice(0) {
            state.count_use();
        }
    }

    pub(super) fn entry(&self) -> &Arc<Entry> {
        &self.entry
    }

    /// Its head is this one now, of the same bytes. Without a place in what waits for the disk, it is removed: an old head
    /// might say that it may be used for longer.
    pub(in crate::cache) fn update(&self, head: &Head) {
        if head.size != Some(self.entry.size()) {
            return self.tier.remove(&self.entry);
        }
        self.entry.selector.store(self.tier.selector_of(head), Ordering::Relaxed);
        let head = record::write(head);
        if let Some(unwritten) = &mut *self.unwritten() {
            unwritten.head = head;
            return;
        }
        if self.tier.queue.offer(Job::Update(self.entry.clone(), head)).is_err() {
            self.tier.remove(&self.entry);
        }
    }

    fn unwritten(&self) -> MutexGuard<'_, Option<Box<Unwritten>>> {
        self.unwritten.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.entry.handles.fetch_sub(1, Ordering::SeqCst);
        self.tier.collect(&self.entry);
    }
}
