//! Which entry has to go when room is needed: GreedyDual (Cao and Irani, USITS 1997) over S3-FIFO (Yang et al., SOSP 2023).
//!
//! S3-FIFO says *where* an entry stands. What is new is on probation, in a small part of the capacity, from which most goes
//! without ever having been asked for again. What was asked for again moves to the main part. What went is remembered for
//! about as long as others come that take its place, and goes to the main part when it comes back by then.
//!
//! GreedyDual says *who of them* goes. An entry is worth what a miss of it costs by byte that it takes: `cost / bytes`; in the
//! main part times one more than its frequency, the uses since it last was at the end, and half of those before. It is due
//! at the level that its part had when it joined, plus its worth; the one that is due first goes, and the level rises to what
//! it was due at. So what is worth a hundred times as much stays a hundred times as long without being used, and no longer.
//! Worths are rounded to four steps an octave, and each step has a queue of its own, first in, first out: what is due
//! first stands at the end of one of these few queues (Ghandeharizadeh et al., CAMP, Middleware 2014), so nothing is sorted.
//!
//! A hit takes no lock and moves nothing. It counts a use in the entry, wherever the caller keeps that, up to
//! [`USES_MAX`]; the queues ask for the uses by `fate` when the entry stands at the end.
//!
//! Which unit a cost has does not matter, if it is the same for all: only their ratios count. Whoever pays in money and in
//! time adds what a miss costs in dollars to its seconds times what a second is worth in dollars. If all costs are equal,
//! most requests are answered from the cache; if they are as the bytes, most bytes are.
//!
//! What stops a flood of what is asked for once, however much a miss of it costs: it competes on probation alone, for
//! [`PROBATION_PER_CENT`] of the bytes, and dear newcomers that nobody uses push out other newcomers only, which come back
//! by what is remembered of them. What stops a few large entries: [`Queues::admits`].
//!
//! Knows no clock, no chance, no disk: the same calls have the same results. Serves memory and disk alike.

use std::hash::Hash;

mod ghosts;
mod ranks;

use ghosts::Ghosts;
use ranks::{Place, Ranks};

/// Newcomers have this share of the capacity, in per cent, once there is no room. S3-FIFO has ten; there a newcomer is used twice
/// before it moves on, which takes longer.
pub const PROBATION_PER_CENT: u64 = 3;

/// An entry on probation moves on when it was used so often.
const USES_TO_MOVE: u8 = 1;

/// Uses beyond these count for nothing, so that what was asked for very often, and is not any more, goes soon.
pub const USES_MAX: u8 = 3;

/// What takes more than this part of the capacity is large.
const LARGE_PART: u64 = 20;

/// Of what is large and asked for again so many uses are expected, when it is weighed against what it would push out. Nothing
/// is known of it yet: with none, one object that has most of the bytes of a list was turned away too often; with three, large
/// ones came and went on others.
const USES_EXPECTED: u8 = 2;

/// What is known of an entry that stands at the end of its queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It is not kept any more, and [`Queues::removed`] was told so.
    Gone,
    /// It is kept, and good for nothing: it was purged, or is too old to be served. It goes, and is not remembered.
    Useless,
    /// It was used so often since it was last asked for; from now on that counts from 0.
    Used(u8),
}

/// An entry that has to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Departed<K> {
    /// Its key.
    pub key: K,
    /// Which entry of that key.
    pub number: u32,
    /// What it took.
    pub bytes: u32,
}

/// Where all entries of a cache or of one of its tiers stand.
///
/// A place takes the size of the key and 24 bytes, what is remembered of an entry that went 8, and the growth of the queues and
/// the table up to as much again. An entry has at most 4 GiB: what is larger is kept in slices.
#[derive(Debug)]
pub struct Queues<K> {
    capacity_bytes: u64,
    probation: Ranks<K>,
    main: Ranks<K>,
    ghosts: Ghosts,
    kept: usize,
    kept_bytes: u64,
    /// What is kept and has more bytes than this is counted apart.
    large_above_bytes: u64,
    kept_large_bytes: u64,
}

impl<K: Hash + Eq + Clone> Queues<K> {
    /// No entries, and room for `capacity_bytes`.
    pub fn new(capacity_bytes: u64) -> Self {
        Self {
            capacity_bytes,
            probation: Ranks::default(),
            main: Ranks::default(),
            ghosts: Ghosts::default(),
            kept: 0,
            kept_bytes: 0,
            large_above_bytes: u64::MAX,
            kept_large_bytes: 0,
        }
    }

    /// The same, where [`Queues::kept_large_bytes`] counts the entries that take more than `above_bytes`.
    pub const fn counting_large(mut self, above_bytes: u64) -> Self {
        self.large_above_bytes = above_bytes;
        self
    }

    /// From now on there is room for `capacity_bytes`; the caller evicts until what is kept fits.
    pub const fn resize(&mut self, capacity_bytes: u64) {
        self.capacity_bytes = capacity_bytes;
    }

    /// Whether an entry of `key` that takes `bytes`, and a miss of which costs `cost`, may come in: to be asked before room is
    /// made for it.
    ///
    /// A twentieth of the capacity or less always may. What is larger would push out many others before anything is known
    /// of it. It may if it was wanted before, or has gone, not long ago (so this remembers that it was wanted); and only if
    /// what is due before it would be, if it were used twice, makes room for it together with what is free: what it pushes
    /// out is worth less than it is, byte by byte.
    pub fn admits(&mut self, key: &K, bytes: u64, cost: f32) -> bool {
        let Some(entry_bytes) = u32::try_from(bytes).ok().filter(|_| bytes <= self.capacity_bytes) else {
            return false;
        };
        if bytes <= self.capacity_bytes / LARGE_PART {
            return true;
        }
        let free_bytes = self.capacity_bytes.saturating_sub(self.kept_bytes);
        let mut place = Place::new(key.clone(), 0, entry_bytes, cost);
        place.used(USES_EXPECTED);
        let newcomers_bytes = self.probation.bytes_due_before(&place).min(self.probation_excess_bytes());
        let room_bytes = free_bytes + newcomers_bytes + self.main.bytes_due_before(&place);
        if room_bytes >= bytes && self.ghosts.knows(key, self.kept) {
            return true;
        }
        self.ghosts.remember(key, self.kept);
        false
    }

    /// Adds a new entry, a miss of which costs `cost` (in the same unit for all; 0, or what is no number, is the least).
    ///
    /// `number` tells it from earlier and later entries of the same key.
    pub fn insert(&mut self, key: K, number: u32, bytes: u32, cost: f32) {
        if self.ghosts.forget(&key, self.kept) {
            return self.insert_used(key, number, bytes, cost);
        }
        self.added(bytes);
        self.probation.push(Place::new(key, number, bytes, cost));
    }

    /// As [`Queues::insert`], for what is known to be asked for again: the new bytes of an entry that was used, or what
    /// another tier gives up because it was used there.
    pub fn insert_used(&mut self, key: K, number: u32, bytes: u32, cost: f32) {
        self.added(bytes);
        self.main.push(Place::new(key, number, bytes, cost));
    }

    fn added(&mut self, bytes: u32) {
        self.kept += 1;
        self.kept_bytes += u64::from(bytes);
        self.kept_large_bytes += self.large_of(bytes);
    }

    /// What of an entry of `bytes` is that of a large one.
    fn large_of(&self, bytes: u32) -> u64 {
        Some(u64::from(bytes)).filter(|&bytes| bytes > self.large_above_bytes).unwrap_or(0)
    }

    /// An entry of `bytes` was removed for another reason; its place is found to be empty when its turn comes.
    pub fn removed(&mut self, bytes: u32) {
        self.kept = self.kept.saturating_sub(1);
        self.kept_bytes = self.kept_bytes.saturating_sub(u64::from(bytes));
        self.kept_large_bytes = self.kept_large_bytes.saturating_sub(self.large_of(bytes));
    }

    /// How many entries are kept.
    pub const fn kept(&self) -> usize {
        self.kept
    }

    /// The bytes of all entries that are kept.
    pub const fn kept_bytes(&self) -> u64 {
        self.kept_bytes
    }

    /// The bytes of the large ones of them.
    pub const fn kept_large_bytes(&self) -> u64 {
        self.kept_large_bytes
    }

    /// The entry that has to go next, `None` if there is none; `fate` tells about those that are looked at, and forgets their
    /// uses.
    ///
    /// Amortised O(1): every look at an entry that stays was paid by a use.
    pub fn evict(&mut self, mut fate: impl FnMut(&K, u32) -> Fate) -> Option<Departed<K>> {
        loop {
            let probation_is_over = self.probation_excess_bytes() > 0 || self.main.is_empty();
            let (mut place, uses_to_stay) = match self.probation.pop_if(probation_is_over) {
                Some(place) => (place, USES_TO_MOVE),
                None => (self.main.pop_if(true)?, 1),
            };
            match fate(&place.key, place.number) {
                Fate::Gone => {}
                Fate::Used(uses) if uses >= uses_to_stay => {
                    place.used(uses.min(USES_MAX));
                    self.main.push(place);
                }
                Fate::Useless => return Some(self.depart(place)),
                Fate::Used(_) => {
                    self.ghosts.remember(&place.key, self.kept);
                    return Some(self.depart(place));
                }
            }
        }
    }

    /// What newcomers have beyond their share: it goes before anything of the main part.
    const fn probation_excess_bytes(&self) -> u64 {
        self.probation.bytes().saturating_sub(self.capacity_bytes / 100 * PROBATION_PER_CENT)
    }

    fn depart(&mut self, place: Place<K>) -> Departed<K> {
        self.removed(place.bytes);
        Departed { key: place.key, number: place.number, bytes: place.bytes }
    }

    /// Forgets the places of what is not kept any more when they are the most: to be called after each insertion.
    pub fn compact(&mut self, is_kept: impl Fn(&K, u32) -> bool) {
        if self.places() <= 2 * self.kept + 64 {
            return;
        }
        self.main.retain(&is_kept);
        self.probation.retain(&is_kept);
    }

    /// How many places there are, of entries that are kept and of those that were removed.
    pub fn places(&self) -> usize {
        self.probation.len() + self.main.len()
    }

    /// The memory that all of this takes, in bytes.
    pub fn memory_bytes(&self) -> usize {
        size_of::<Self>() + self.probation.memory_bytes() + self.main.memory_bytes() + self.ghosts.memory_bytes()
    }
}

#[cfg(test)]
mod tests;
