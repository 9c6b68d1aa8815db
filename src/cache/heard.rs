//! Which version of an object was heard of lately: a node that lags behind may give an older one for a while.

use std::collections::HashMap;
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};

use crate::model::{HybridTime, ObjectKey};

/// How many objects are remembered: the newest half at least. A node lags behind by seconds, not by so many writes.
const OBJECTS_MAX: usize = 1 << 16;

/// The times of the newest versions, by the hash of the key.
#[derive(Debug, Default)]
pub(super) struct Heard {
    young: HashMap<u64, HybridTime>,
    old: HashMap<u64, HybridTime>,
}

impl Heard {
    /// The object was written, or deleted, at that time.
    pub(super) fn note(&mut self, key: &ObjectKey, time: HybridTime) {
        if self.young.len() >= OBJECTS_MAX / 2 {
            self.old = std::mem::take(&mut self.young);
        }
        let newest = self.time(key).map_or(time, |known| known.max(time));
        self.young.insert(hash(key), newest);
    }

    /// Whether something newer than of that time was heard of.
    pub(super) fn is_newer(&self, key: &ObjectKey, time: HybridTime) -> bool {
        self.time(key).is_some_and(|known| known > time)
    }

    fn time(&self, key: &ObjectKey) -> Option<HybridTime> {
        let hash = hash(key);
        self.young.get(&hash).or_else(|| self.old.get(&hash)).copied()
    }
}

fn hash(key: &ObjectKey) -> u64 {
    BuildHasherDefault::<DefaultHasher>::default().hash_one(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_of_many_is_remembered() {
        let key = |number: usize| number.to_string().parse::<ObjectKey>().expect("a key");
        let at = HybridTime::from_unix_ms;
        let mut heard = Heard::default();
        heard.note(&key(0), at(7));
        heard.note(&key(0), at(5));
        assert!(heard.is_newer(&key(0), at(6)) && !heard.is_newer(&key(0), at(7)) && !heard.is_newer(&key(1), at(1)));
        for number in 1..OBJECTS_MAX / 2 {
            heard.note(&key(number), at(1));
        }
        assert!(heard.is_newer(&key(0), at(6)));
        for number in 1..10 * OBJECTS_MAX {
            heard.note(&key(number), at(1));
        }
        assert!(!heard.is_newer(&key(0), at(6)) && heard.young.len() + heard.old.len() <= OBJECTS_MAX);
    }
}
