//! Which version of an object was heard of lately: a node that lags behind may give an older one for a while.

use std::collections::HashMap;
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::time::Duration;

use crate::model::{ObjectKey, Version};

/// How many objects are remembered: the newest half at least. A node lags behind by seconds, not by so many writes.
const OBJECTS_MAX: usize = 1 << 16;

/// How long a version that no node could give is not looked for again: else each request for an object whose newest
/// version was lost with its node would be a request to every other one.
const SEEK_AGAIN: Duration = Duration::from_secs(1);

/// The newest versions, by the hash of the key.
#[derive(Debug, Default)]
pub(super) struct Heard {
    young: HashMap<u64, Known>,
    old: HashMap<u64, Known>,
}

#[derive(Debug)]
struct Known {
    version: Version,
    /// When it was last looked for in vain.
    missed: Option<Duration>,
}

impl Heard {
    /// The object was written, or deleted, as that version.
    pub(super) fn note(&mut self, key: &ObjectKey, version: &Version) {
        if self.young.len() >= OBJECTS_MAX / 2 {
            self.old = std::mem::take(&mut self.young);
        }
        let hash = hash(key);
        if self.known(hash).is_none_or(|known| known.version < *version) {
            self.young.insert(hash, Known { version: version.clone(), missed: None });
        }
    }

    /// Whether something newer than `version` was heard of.
    pub(super) fn is_newer(&self, key: &ObjectKey, version: &Version) -> bool {
        self.known(hash(key)).is_some_and(|known| known.version > *version)
    }

    /// The newest version that was heard of.
    pub(super) fn newest(&self, key: &ObjectKey) -> Option<&Version> {
        self.known(hash(key)).map(|known| &known.version)
    }

    /// The newest version that was heard of, if it is worth being looked for at `now`.
    pub(super) fn worth_seeking(&self, key: &ObjectKey, now: Duration) -> Option<&Version> {
        let known = self.known(hash(key))?;
        let just_missed = known.missed.is_some_and(|missed| now.saturating_sub(missed) < SEEK_AGAIN);
        (!just_missed).then_some(&known.version)
    }

    /// At `now` no node could give the newest version.
    pub(super) fn miss(&mut self, key: &ObjectKey, now: Duration) {
        let hash = hash(key);
        if let Some(known) = self.young.get_mut(&hash).or_else(|| self.old.get_mut(&hash)) {
            known.missed = Some(now);
        }
    }

    fn known(&self, hash: u64) -> Option<&Known> {
        self.young.get(&hash).or_else(|| self.old.get(&hash))
    }
}

fn hash(key: &ObjectKey) -> u64 {
    BuildHasherDefault::<DefaultHasher>::default().hash_one(key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Epoch, HybridTime, Origin};

    fn version(node: &str, at_ms: u64) -> Version {
        let origin = Origin { node: node.parse().expect("a name"), epoch: Epoch::from_bits(1) };
        Version { time: HybridTime::from_unix_ms(at_ms), origin, sequence: 1 }
    }

    fn key(number: usize) -> ObjectKey {
        number.to_string().parse().expect("a key")
    }

    #[test]
    fn the_newest_of_many_is_remembered() {
        let at = |ms| version("A", ms);
        let mut heard = Heard::default();
        heard.note(&key(0), &at(7));
        heard.note(&key(0), &at(5));
        assert!(heard.is_newer(&key(0), &at(6)) && !heard.is_newer(&key(0), &at(7)));
        assert!(!heard.is_newer(&key(1), &at(1)) && heard.newest(&key(1)).is_none());
        for number in 1..OBJECTS_MAX / 2 {
            heard.note(&key(number), &at(1));
        }
        assert_eq!(heard.newest(&key(0)), Some(&at(7)));
        for number in 1..10 * OBJECTS_MAX {
            heard.note(&key(number), &at(1));
        }
        assert!(heard.newest(&key(0)).is_none() && heard.young.len() + heard.old.len() <= OBJECTS_MAX);
    }

    #[test]
    fn of_two_writes_in_one_moment_the_greater_origin_is_newer() {
        let mut heard = Heard::default();
        heard.note(&key(0), &version("B", 7));
        assert!(heard.is_newer(&key(0), &version("A", 7)) && !heard.is_newer(&key(0), &version("B", 7)));
    }

    #[test]
    fn what_nobody_could_give_is_left_alone_for_a_while() {
        let mut heard = Heard::default();
        heard.note(&key(0), &version("A", 7));
        let worth = |heard: &Heard, at_ms| heard.worth_seeking(&key(0), Duration::from_millis(at_ms)).is_some();
        assert!(worth(&heard, 0));
        heard.miss(&key(0), Duration::from_secs(1));
        assert!(!worth(&heard, 1_999) && worth(&heard, 2_000));
        heard.note(&key(0), &version("A", 8));
        assert!(worth(&heard, 1_000), "something newer is another matter");
    }
}
