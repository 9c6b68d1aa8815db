//! Whether two nodes list the same, in 32 KiB: sums of hashes over a part of the keys each (rule of anti-entropy).
//!
//! Sums can be kept up to date entry by entry, and do not depend on the order.

use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use crate::model::{Entry, EntryKey, EntryState};

/// Into how many parts the keys are divided.
pub const BUCKETS: usize = 4096;

/// The part to which `key` belongs: the first 12 bits of the XXH3 hash (64 bits, seed 0) of its UTF-8 text.
pub fn bucket_of(key: &EntryKey) -> usize {
    (xxh3_64(key.as_str().as_bytes()) >> 52) as usize
}

/// What `entry` adds to the sum of its bucket, modulo 2^64: the XXH3 hash (64 bits, seed 0) of its key, a zero byte, its
/// version as text, a zero byte, and the 32 bytes of the hash of its content, or the text of a record, or nothing.
pub fn digest_of(entry: &Entry) -> u64 {
    let mut hasher = Xxh3::new();
    hasher.update(entry.key.as_str().as_bytes());
    hasher.update(&[0]);
    hasher.update(entry.version.to_string().as_bytes());
    hasher.update(&[0]);
    match &entry.state {
        EntryState::Live(content) => hasher.update(content.hash.as_bytes()),
        EntryState::Record(json) => hasher.update(json.as_bytes()),
        EntryState::Deleted => {}
    }
    hasher.digest()
}

/// The sum of a bucket that has these `entries`.
pub fn sum_of<'a>(entries: impl IntoIterator<Item = &'a Entry>) -> u64 {
    entries.into_iter().map(digest_of).fold(0, u64::wrapping_add)
}

/// The buckets whose sums differ.
pub fn differing(ours: &[u64], theirs: &[u64]) -> Vec<usize> {
    let pairs = ours.iter().zip(theirs).enumerate();
    pairs.filter(|(_, (our, their))| our != their).map(|(bucket, _)| bucket).collect()
}

#[cfg(test)]
mod tests {
    use super::super::memory::tests::{live, replica};
    use super::super::write;
    use super::*;

    #[test]
    fn the_formula_is_the_same_for_ever() {
        // Nodes of all versions compare these figures.
        let mut ledger = replica("A");
        let Ok(entry) = write(&mut ledger, live("a/b", "").key, live("a/b", "1").state, 1_000);
        assert_eq!((bucket_of(&entry.key), digest_of(&entry)), (1167, 1_296_234_819_513_608_994));
        assert_eq!(differing(&[1, 2, 3], &[1, 0, 3]), [1]);
        assert_eq!(sum_of([&entry, &entry]), digest_of(&entry).wrapping_mul(2));
    }
}
