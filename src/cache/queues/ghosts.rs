//! What went lately: 40 bits of the hash of each key, and when it went, in 8 bytes.
//!
//! A table of rows with eight places. The oldest of a row makes room for what is new, so nothing has to be swept, and the
//! memory has a bound. It may take a key for one that went, once in some thousands; that only spares the key its probation.

use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher, Hash};

/// A ghost is known for at most so many others: half of what the clock can tell apart, 8 million slices.
const AGE_MAX: u32 = 1 << (CLOCK_BITS - 1);

/// The lower bits of a ghost are when it went; those above are of the hash of its key.
const CLOCK_BITS: u32 = 24;
const CLOCK_MASK: u64 = (1 << CLOCK_BITS) - 1;

/// A row is one line of the processor's cache.
const ROW: usize = 8;

/// Small caches remember so many all the same: it costs nothing.
const REMEMBERED_MIN: usize = 64;

/// What went lately.
#[derive(Debug, Default)]
pub(super) struct Ghosts {
    /// As many as a power of two; a place that was never taken is 0.
    rows: Vec<[u64; ROW]>,
    /// How many have gone, without the bits above the clock's.
    clock: u32,
}

impl Ghosts {
    /// Remembers `key`; the oldest beyond as many as are `kept` are forgotten.
    pub(super) fn remember<K: Hash>(&mut self, key: &K, kept: usize) {
        let limit = limit(kept);
        self.grow(limit as usize);
        self.clock = (self.clock + 1) & CLOCK_MASK as u32;
        let mark = mark(key);
        let clock = self.clock;
        let row = self.row(mark);
        let known = row.iter().position(|&ghost| ghost & !CLOCK_MASK == mark);
        let oldest = || (0..ROW).max_by_key(|&place| if row[place] == 0 { u32::MAX } else { age(row[place], clock) });
        if let Some(place) = known.or_else(oldest) {
            row[place] = mark | u64::from(clock);
        }
    }

    /// Whether `key` is remembered.
    pub(super) fn knows<K: Hash>(&self, key: &K, kept: usize) -> bool {
        self.find(key, kept).is_some()
    }

    /// Forgets `key`, and answers whether it was remembered.
    pub(super) fn forget<K: Hash>(&mut self, key: &K, kept: usize) -> bool {
        let Some((row, place)) = self.find(key, kept) else { return false };
        self.rows[row][place] = 0;
        true
    }

    fn find<K: Hash>(&self, key: &K, kept: usize) -> Option<(usize, usize)> {
        if self.rows.is_empty() {
            return None;
        }
        let mark = mark(key);
        let row = index(mark, self.rows.len());
        let is_it = |&ghost: &u64| ghost & !CLOCK_MASK == mark && age(ghost, self.clock) < limit(kept);
        Some((row, self.rows[row].iter().position(is_it)?))
    }

    fn row(&mut self, mark: u64) -> &mut [u64; ROW] {
        let index = index(mark, self.rows.len());
        &mut self.rows[index]
    }

    /// Makes place for `limit` ghosts, and a third more, so that few rows overflow before their oldest is too old.
    fn grow(&mut self, limit: usize) {
        let rows = (limit * 4 / 3).div_ceil(ROW).next_power_of_two();
        if rows <= self.rows.len() {
            return;
        }
        let old = std::mem::replace(&mut self.rows, vec![[0; ROW]; rows]);
        for ghost in old.into_iter().flatten().filter(|&ghost| ghost != 0) {
            let row = self.row(ghost & !CLOCK_MASK);
            if let Some(free) = row.iter().position(|&place| place == 0) {
                row[free] = ghost;
            }
        }
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.rows.capacity() * size_of::<[u64; ROW]>()
    }
}

/// As many as are kept: for so long could it have stayed if nothing had been worth more.
fn limit(kept: usize) -> u32 {
    kept.clamp(REMEMBERED_MIN, AGE_MAX as usize) as u32
}

/// How many have gone since `ghost` did.
fn age(ghost: u64, clock: u32) -> u32 {
    clock.wrapping_sub(ghost as u32) & CLOCK_MASK as u32
}

/// The upper bits choose the row, so that they need no bits of their own; a mark is never 0.
fn index(mark: u64, rows: usize) -> usize {
    (mark >> CLOCK_BITS) as usize & (rows - 1)
}

fn mark<K: Hash>(key: &K) -> u64 {
    let hash = BuildHasherDefault::<DefaultHasher>::default().hash_one(key) & !CLOCK_MASK;
    if hash == 0 { 1 << CLOCK_BITS } else { hash }
}
