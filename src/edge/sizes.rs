//! A rough memory of how large objects are, so that a route is chosen for the right size before the answer is there.

use std::sync::atomic::{AtomicU64, Ordering};

use xxhash_rust::xxh3::xxh3_64;

/// How many objects are remembered: 512 KiB of memory, whatever is asked for.
const PLACES: usize = 1 << 16;

/// Bits of a place that say which object it is about; the others hold the size, up to 1 TiB.
const TAG_BITS: u32 = 24;
const SIZE_BITS: u32 = u64::BITS - TAG_BITS;
const SIZE_MAX: u64 = (1 << SIZE_BITS) - 1;

/// Sizes by key. A place forgets one object for another; a wrong size only makes a choice a little worse.
pub(super) struct Sizes {
    places: Box<[AtomicU64]>,
    unknown: u64,
}

impl Sizes {
    /// An empty memory, which takes objects to have `unknown` bytes.
    pub(super) fn new(unknown: u64) -> Self {
        Self { places: (0..PLACES).map(|_| AtomicU64::new(0)).collect(), unknown }
    }

    /// How large the object is likely to be, in bytes.
    pub(super) fn guess(&self, key: &str) -> u64 {
        self.seen(key).unwrap_or(self.unknown)
    }

    /// How large the object was when it was last seen, if that is remembered.
    pub(super) fn seen(&self, key: &str) -> Option<u64> {
        let (place, tag) = self.place(key);
        let bits = place.load(Ordering::Relaxed);
        (bits != 0 && bits >> SIZE_BITS == tag).then_some(bits & SIZE_MAX)
    }

    /// Learns the size of an object.
    pub(super) fn learn(&self, key: &str, size: u64) {
        let (place, tag) = self.place(key);
        place.store(tag << SIZE_BITS | size.min(SIZE_MAX), Ordering::Relaxed);
    }

    fn place(&self, key: &str) -> (&AtomicU64, u64) {
        let hash = xxh3_64(key.as_bytes());
        // An empty place is all zeros, so no tag is.
        (&self.places[hash as usize % PLACES], (hash >> SIZE_BITS).max(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_remembered_per_object() {
        let sizes = Sizes::new(100);
        sizes.learn("film", 5_000_000_000);
        sizes.learn("empty", 0);
        assert_eq!((sizes.guess("film"), sizes.guess("empty"), sizes.guess("new")), (5_000_000_000, 0, 100));
        assert_eq!((sizes.seen("film"), sizes.seen("empty"), sizes.seen("new")), (Some(5_000_000_000), Some(0), None));
        sizes.learn("film", u64::MAX);
        assert_eq!(sizes.guess("film"), SIZE_MAX);
    }
}
