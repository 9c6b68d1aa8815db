//! Who has to go when room is needed: S3-FIFO (Yang et al., "FIFO queues are all you need for cache eviction", SOSP 2023).
//!
//! What is new waits in a small queue, from which most goes without ever having been asked for again; what was asked for
//! again moves to the main queue; what has just gone and comes back is put there at once.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};

use super::CacheKey;

/// The small queue has this share of the capacity, in per cent: the paper's.
const SMALL_PER_CENT: u64 = 10;

/// How often an entry of the small queue must have been used to move on.
const USES_TO_MOVE: u8 = 2;

/// Uses beyond these count for nothing.
pub(super) const USES_MAX: u8 = 3;

/// What is known of an entry that stands at the end of its queue.
pub(super) enum Fate {
    /// It is not kept any more.
    Gone,
    /// It was used so often since it last stood there.
    Used(u8),
}

#[derive(Debug)]
struct Place {
    key: CacheKey,
    number: u64,
    bytes: u64,
    /// In the main queue: how often it may go round without being used.
    rounds: u8,
}

/// The queues.
#[derive(Debug, Default)]
pub(super) struct Queues {
    small: VecDeque<Place>,
    small_bytes: u64,
    main: VecDeque<Place>,
    /// What has gone, with a number for each time that it did.
    ghosts: VecDeque<(u64, u64)>,
    ghost_numbers: HashMap<u64, u64>,
    ghosts_ever: u64,
    kept: usize,
    kept_bytes: u64,
}

impl Queues {
    /// Adds a new entry.
    pub(super) fn insert(&mut self, key: &CacheKey, number: u64, bytes: u64) {
        let place = Place { key: key.clone(), number, bytes, rounds: 0 };
        self.kept += 1;
        self.kept_bytes += bytes;
        if self.ghost_numbers.remove(&hash(key)).is_some() {
            self.main.push_back(place);
        } else {
            self.small_bytes += bytes;
            self.small.push_back(place);
        }
    }

    /// An entry was removed for another reason; its place is found to be empty when its turn comes.
    pub(super) const fn removed(&mut self, bytes: u64) {
        self.kept = self.kept.saturating_sub(1);
        self.kept_bytes = self.kept_bytes.saturating_sub(bytes);
    }

    /// The bytes of all entries.
    pub(super) const fn kept_bytes(&self) -> u64 {
        self.kept_bytes
    }

    /// The entry that has to go next; `fate` tells about those that are looked at, and forgets their uses.
    pub(super) fn evict(
        &mut self,
        capacity_bytes: u64,
        mut fate: impl FnMut(&CacheKey, u64) -> Fate,
    ) -> Option<CacheKey> {
        loop {
            let small_is_full = self.small_bytes * 100 > capacity_bytes * SMALL_PER_CENT;
            if let Some(place) = self.pop_small(small_is_full || self.main.is_empty()) {
                match fate(&place.key, place.number) {
                    Fate::Gone => {}
                    Fate::Used(uses) if uses >= USES_TO_MOVE => self.main.push_back(place),
                    Fate::Used(_) => {
                        self.removed(place.bytes);
                        self.remember(&place.key);
                        return Some(place.key);
                    }
                }
            } else {
                let place = self.main.pop_front()?;
                match fate(&place.key, place.number) {
                    Fate::Gone => {}
                    Fate::Used(uses) if uses + place.rounds > 0 => {
                        let rounds = (uses + place.rounds).min(USES_MAX) - 1;
                        self.main.push_back(Place { rounds, ..place });
                    }
                    Fate::Used(_) => {
                        self.removed(place.bytes);
                        return Some(place.key);
                    }
                }
            }
        }
    }

    fn pop_small(&mut self, due: bool) -> Option<Place> {
        if !due {
            return None;
        }
        let place = self.small.pop_front()?;
        self.small_bytes -= place.bytes;
        Some(place)
    }

    /// What has gone without having been used is known for as long as about as many others come.
    fn remember(&mut self, key: &CacheKey) {
        let hash = hash(key);
        self.ghosts_ever += 1;
        self.ghosts.push_back((hash, self.ghosts_ever));
        self.ghost_numbers.insert(hash, self.ghosts_ever);
        while self.ghosts.len() > self.kept.max(64) {
            // A later one of the same key stays.
            if let Some((oldest, number)) = self.ghosts.pop_front()
                && self.ghost_numbers.get(&oldest) == Some(&number)
            {
                self.ghost_numbers.remove(&oldest);
            }
        }
    }

    /// Forgets the places of what is not kept any more when they are the most.
    pub(super) fn compact(&mut self, is_kept: impl Fn(&CacheKey, u64) -> bool) {
        if self.small.len() + self.main.len() <= 2 * self.kept + 64 {
            return;
        }
        self.main.retain(|place| is_kept(&place.key, place.number));
        self.small.retain(|place| is_kept(&place.key, place.number));
        self.small_bytes = self.small.iter().map(|place| place.bytes).sum();
    }
}

fn hash(key: &CacheKey) -> u64 {
    BuildHasherDefault::<DefaultHasher>::default().hash_one(key)
}

#[cfg(test)]
impl Queues {
    /// How many places there are, taken or not.
    pub(super) fn places(&self) -> usize {
        self.small.len() + self.main.len()
    }
}
