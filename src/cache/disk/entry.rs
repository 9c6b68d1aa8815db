//! A representation as memory knows it, and all of them by the hashes of their keys.

use std::collections::HashMap;
use std::collections::hash_map;
use std::hash::{BuildHasherDefault, Hash, Hasher};
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::slice::Slice;

/// The index has a row of it.
const LISTED: u8 = 1;
/// It is not kept any more.
const REMOVED: u8 = 2;
/// It comes still, and nobody knows how long it gets.
const GROWING: u8 = 4;

/// In how many parts the keys are divided, so that those who look for different ones seldom meet.
const SHARDS: usize = 64;

/// A representation. Its head, its key and the checksums of its slices are in the index.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) id: u64,
    pub(super) key_hash: u64,
    /// The hash of the site whose answer it is; 0 if it is of none.
    pub(super) site: u64,
    /// Of its body, in bytes; while that comes, at most.
    size: AtomicU64,
    /// What a miss of one slice of it costs.
    pub(super) cost: f32,
    /// What its row in the index is counted as.
    pub(super) row_bytes: AtomicU32,
    /// How many hold it outside of the tier.
    pub(super) handles: AtomicU32,
    /// How many of its slices are there or on their way.
    pub(super) held: AtomicU32,
    /// The hash of what it is selected by: of two with the same one is kept.
    pub(super) selector: AtomicU64,
    /// When in this life it was last asked for, or whether it is right, among all that was.
    pub(super) asked: AtomicU64,
    /// Up to which purge of this life it is known to stand.
    pub(super) settled: AtomicU64,
    /// When in this life it was last known to be what the store has, in microseconds.
    pub(super) validated_us: AtomicU64,
    flags: AtomicU8,
    // Most have one slice alone, which then needs no memory of its own.
    first: Slice,
    others: Box<[Slice]>,
}

impl Entry {
    /// One with so many `slices`, none of which is there.
    pub(super) fn new(id: u64, key_hash: u64, size: u64, cost: f32, slices: u32) -> Self {
        Self {
            id,
            key_hash,
            site: 0,
            size: AtomicU64::new(size),
            cost,
            row_bytes: AtomicU32::new(0),
            handles: AtomicU32::new(0),
            held: AtomicU32::new(0),
            selector: AtomicU64::new(0),
            asked: AtomicU64::new(0),
            settled: AtomicU64::new(0),
            validated_us: AtomicU64::new(0),
            flags: AtomicU8::new(0),
            first: Slice::default(),
            others: std::iter::repeat_with(Slice::default).take(slices.saturating_sub(1) as usize).collect(),
        }
    }

    /// The same, of what comes still: its size is at most what was said.
    pub(super) fn growing(mut self) -> Self {
        *self.flags.get_mut() |= GROWING;
        self
    }

    /// The same, selected by what has the hash `selector`.
    pub(super) fn selected(mut self, selector: u64) -> Self {
        *self.selector.get_mut() = selector;
        self
    }

    /// The same, of the site that has the hash `site`.
    pub(super) const fn of_site(mut self, site: u64) -> Self {
        self.site = site;
        self
    }

    /// As [`Entry::new`], of a row of the index that is counted as `row_bytes`.
    pub(super) fn listed(mut self, row_bytes: u32) -> Self {
        *self.row_bytes.get_mut() = row_bytes;
        *self.flags.get_mut() |= LISTED;
        self
    }

    /// The slice is there since an earlier life; false if it has no such slice.
    pub(super) fn add_left(&mut self, slice: u32) -> bool {
        let place = match slice {
            0 => Some(&mut self.first),
            _ => self.others.get_mut(slice as usize - 1),
        };
        place.is_some_and(|place| {
            *place = Slice::left();
            *self.held.get_mut() += 1;
            true
        })
    }

    pub(super) fn slice(&self, slice: u32) -> Option<&Slice> {
        match slice {
            0 => Some(&self.first),
            _ => self.others.get(slice as usize - 1),
        }
    }

    /// How many slices its body has, whether they are there or not.
    pub(super) const fn slices(&self) -> u32 {
        self.others.len() as u32 + 1
    }

    /// How many bytes its body has; at most, while it comes.
    pub(super) fn size(&self) -> u64 {
        self.size.load(Ordering::Acquire)
    }

    /// Its body has come, and has so many bytes.
    pub(super) fn end(&self, size: u64) {
        self.size.store(size, Ordering::Release);
    }

    /// Whether its body comes still, or the index does not know yet how long it is.
    pub(super) fn is_growing(&self) -> bool {
        self.flags.load(Ordering::Acquire) & GROWING != 0
    }

    /// The index knows how long its body is.
    pub(super) fn grown(&self) {
        self.flags.fetch_and(!GROWING, Ordering::AcqRel);
    }

    pub(super) fn is_listed(&self) -> bool {
        self.flags.load(Ordering::Acquire) & LISTED != 0
    }

    pub(super) fn is_removed(&self) -> bool {
        self.flags.load(Ordering::Acquire) & REMOVED != 0
    }

    /// The index has a row of it from now on, which is counted as `row_bytes`.
    pub(super) fn list(&self, row_bytes: u32) {
        self.row_bytes.store(row_bytes, Ordering::Relaxed);
        self.flags.fetch_or(LISTED, Ordering::AcqRel);
    }

    /// It is not kept from now on; false if it was not before.
    pub(super) fn remove(&self) -> bool {
        self.flags.fetch_or(REMOVED, Ordering::AcqRel) & REMOVED == 0
    }

    /// Whether nothing of its body is there or on its way, and nobody could bring any.
    pub(super) fn is_forsaken(&self) -> bool {
        // In one order for all: of two who take the last of each, one sees both gone.
        self.handles.load(Ordering::SeqCst) == 0 && self.held.load(Ordering::SeqCst) == 0
    }
}

/// One slice of an entry, as the queues know it.
#[derive(Debug, Clone)]
pub(super) struct Place {
    pub(super) entry: Arc<Entry>,
    pub(super) slice: u32,
}

impl PartialEq for Place {
    fn eq(&self, other: &Self) -> bool {
        self.entry.id == other.entry.id && self.slice == other.slice
    }
}

impl Eq for Place {}

impl Hash for Place {
    // By the key, not by the id, which is never used again: what comes back is known again by this.
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.entry.key_hash.hash(state);
        self.slice.hash(state);
    }
}

/// The entries of one hash, the newest last. Few keys have several.
#[derive(Debug)]
enum Few {
    One(Arc<Entry>),
    #[expect(clippy::box_collection, reason = "it is rare, and all others would take the place of a vector")]
    Many(Box<Vec<Arc<Entry>>>),
}

impl Few {
    fn as_slice(&self) -> &[Arc<Entry>] {
        match self {
            Self::One(entry) => std::slice::from_ref(entry),
            Self::Many(entries) => entries,
        }
    }

    fn push(&mut self, entry: Arc<Entry>) {
        match self {
            Self::One(first) => *self = Self::Many(Box::new(vec![first.clone(), entry])),
            Self::Many(entries) => entries.push(entry),
        }
    }
}

/// The hashes are as good as any already.
#[derive(Debug, Default)]
struct Passed(u64);

impl Hasher for Passed {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|&byte| self.0 = self.0.rotate_left(8) ^ u64::from(byte));
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}

type Shard = HashMap<u64, Few, BuildHasherDefault<Passed>>;

/// All entries, by the hashes of their keys.
#[derive(Debug)]
pub(super) struct Entries {
    shards: Box<[Mutex<Shard>]>,
}

impl Default for Entries {
    fn default() -> Self {
        Self { shards: std::iter::repeat_with(Mutex::default).take(SHARDS).collect() }
    }
}

impl Entries {
    /// Adds `entry`, and tells the oldest of its hash if there are more than `most`.
    pub(super) fn add(&self, entry: Arc<Entry>, most: usize) -> Option<Arc<Entry>> {
        match self.shard(entry.key_hash).entry(entry.key_hash) {
            hash_map::Entry::Vacant(vacant) => {
                vacant.insert(Few::One(entry));
                None
            }
            hash_map::Entry::Occupied(mut occupied) => {
                occupied.get_mut().push(entry);
                let entries = occupied.get().as_slice();
                (entries.len() > most).then(|| entries[0].clone())
            }
        }
    }

    /// Those of one hash, the newest first, whether the index knows them yet or not.
    pub(super) fn of(&self, hash: u64) -> Vec<Arc<Entry>> {
        let shard = self.shard(hash);
        shard.get(&hash).map(|few| few.as_slice().iter().rev().cloned().collect()).unwrap_or_default()
    }

    /// Whether there is one of this hash that the index knows.
    pub(super) fn has(&self, hash: u64) -> bool {
        self.shard(hash).get(&hash).is_some_and(|few| few.as_slice().iter().any(|entry| entry.is_listed()))
    }

    /// It is not found any more.
    pub(super) fn remove(&self, entry: &Entry) {
        let mut shard = self.shard(entry.key_hash);
        let hash_map::Entry::Occupied(mut occupied) = shard.entry(entry.key_hash) else { return };
        let is_last = match occupied.get_mut() {
            Few::One(one) => one.id == entry.id,
            Few::Many(entries) => {
                entries.retain(|other| other.id != entry.id);
                entries.is_empty()
            }
        };
        if is_last {
            occupied.remove();
        }
    }

    /// All of them, in no order.
    pub(super) fn all(&self) -> Vec<Arc<Entry>> {
        let mut all = Vec::new();
        for shard in &self.shards {
            let shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            all.extend(shard.values().flat_map(Few::as_slice).cloned());
        }
        all
    }

    fn shard(&self, hash: u64) -> MutexGuard<'_, Shard> {
        // The table takes the lowest bits and the highest.
        let shard = (hash >> 32) as usize % SHARDS;
        self.shards[shard].lock().unwrap_or_else(PoisonError::into_inner)
    }
}
