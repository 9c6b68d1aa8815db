//! What a node lists, as 24 bytes for each key, so that a million keys of each of many nodes fit into memory, and where
//! such lists differ. Knows nothing of where the entries come from.

use crate::model::{Entry, EntryKey, EntryState};

/// So many bits of a digest say of what kind the state is.
const KIND_BITS: u32 = 2;
const KIND_MASK: u64 = (1 << KIND_BITS) - 1;
const LIVE: u64 = 0;
const DELETED: u64 = 1;
const RECORD: u64 = 2;

/// The hash of a key: 128 bits, so that no two keys of a cluster share one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct KeyHash([u64; 2]);

impl KeyHash {
    /// The hash of `key`.
    pub(super) fn of(key: &EntryKey) -> Self {
        let hash = blake3::hash(key.as_str().as_bytes());
        Self([word(hash.as_bytes(), 0), word(hash.as_bytes(), 8)])
    }
}

/// Of the digest of a deletion so many bits are a hash; above them is its time in milliseconds, of 48 bits.
const DELETED_HASH_BITS: u32 = 14;

/// What a key points at since which version, in 64 bits; two states of one key share them with a chance of 2^-62, two
/// deletions in the same millisecond with one of 2^-14.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Digest(u64);

impl Digest {
    fn of(entry: &Entry) -> Self {
        let mut hasher = blake3::Hasher::new();
        let mut part = |bytes: &[u8]| {
            // With its length in front, no part can be taken for the end of the one before.
            hasher.update(&(bytes.len() as u64).to_le_bytes());
            hasher.update(bytes);
        };
        part(entry.version.to_string().as_bytes());
        let kind = match &entry.state {
            EntryState::Live(content) => {
                part(content.hash.as_bytes());
                part(&content.size.to_le_bytes());
                part(content.media_type.as_str().as_bytes());
                part(content.cache_control.as_str().as_bytes());
                LIVE
            }
            EntryState::Deleted => DELETED,
            EntryState::Record(json) => {
                part(json.as_bytes());
                RECORD
            }
        };
        let hash = word(hasher.finalize().as_bytes(), 0) >> KIND_BITS;
        let bits = match kind {
            DELETED => entry.version.time.unix_ms() << DELETED_HASH_BITS | hash & ((1 << DELETED_HASH_BITS) - 1),
            _ => hash,
        };
        Self(bits << KIND_BITS | kind)
    }

    /// Whether it is that of a deletion which a node that has forgotten all up to `horizon_ms` need not list.
    fn is_forgotten(self, horizon_ms: Option<u64>) -> bool {
        let time_ms = self.0 >> (KIND_BITS + DELETED_HASH_BITS);
        self.kind() == DELETED && horizon_ms.is_some_and(|horizon_ms| time_ms <= horizon_ms)
    }

    const fn kind(self) -> u64 {
        self.0 & KIND_MASK
    }
}

fn word(bytes: &[u8; 32], at: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(word)
}

#[derive(Debug, Clone, Copy)]
struct Row {
    key: KeyHash,
    digest: Digest,
}

/// How many entries of each kind a node lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Counts {
    pub(super) live: u64,
    pub(super) deleted: u64,
    pub(super) records: u64,
}

impl Counts {
    /// All of them.
    pub(super) const fn entries(&self) -> u64 {
        self.live + self.deleted + self.records
    }
}

/// What one node lists.
#[derive(Debug, Default)]
pub(super) struct Digests {
    /// The time of the newest deletion that the node has forgotten, in milliseconds since 1970.
    pub(super) horizon_ms: Option<u64>,
    rows: Vec<Row>,
}

impl Digests {
    /// Notes what the node lists under the key of `entry` from now on.
    pub(super) fn note(&mut self, entry: &Entry) {
        self.rows.push(Row { key: KeyHash::of(&entry.key), digest: Digest::of(entry) });
    }

    /// Puts what was noted in order; of one key the last note counts.
    pub(super) fn settle(&mut self) {
        self.rows.sort_by_key(|row| row.key);
        self.rows.dedup_by(|later, kept| {
            let same = later.key == kept.key;
            if same {
                kept.digest = later.digest;
            }
            same
        });
    }

    /// How much it lists; after [`Digests::settle`].
    pub(super) fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        for row in &self.rows {
            match row.digest.kind() {
                DELETED => counts.deleted += 1,
                RECORD => counts.records += 1,
                _ => counts.live += 1,
            }
        }
        counts
    }
}

/// Where nodes differ.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Differing {
    /// How many keys not all nodes list alike.
    pub(super) keys: u64,
    /// The first of them, in the order of their hashes.
    pub(super) first: Vec<KeyHash>,
    /// How many of all keys each node does not list, in the order of the nodes.
    pub(super) missing: Vec<u64>,
}

/// Compares what `nodes` list, each settled, and names up to `first_max` keys that differ. Deletions that a node has
/// forgotten, as all may after some time, are no difference.
pub(super) fn compare(nodes: &[&Digests], first_max: usize) -> Differing {
    let mut rest: Vec<&[Row]> = nodes.iter().map(|node| node.rows.as_slice()).collect();
    let mut differing = Differing { keys: 0, first: Vec::new(), missing: vec![0; nodes.len()] };
    let mut listed: Vec<Option<Digest>> = vec![None; nodes.len()];
    while let Some(key) = rest.iter().filter_map(|rows| rows.first()).map(|row| row.key).min() {
        for (rows, listed) in rest.iter_mut().zip(&mut listed) {
            *listed = match rows.split_first() {
                Some((row, after)) if row.key == key => {
                    *rows = after;
                    Some(row.digest)
                }
                _ => None,
            };
        }
        let Some(first) = listed.iter().flatten().next().copied() else { break };
        let mut alike = listed.iter().flatten().all(|digest| *digest == first);
        for ((listed, node), missing) in listed.iter().zip(nodes).zip(&mut differing.missing) {
            if listed.is_none() && !(alike && first.is_forgotten(node.horizon_ms)) {
                alike = false;
                *missing += 1;
            }
        }
        if !alike {
            differing.keys += 1;
            if differing.first.len() < first_max {
                differing.first.push(key);
            }
        }
    }
    differing
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::verify::planted::{deleted, live, record};

    fn digests(entries: &[Entry]) -> Digests {
        let mut digests = Digests::default();
        entries.iter().for_each(|entry| digests.note(entry));
        digests.settle();
        digests
    }

    #[test]
    fn the_order_of_listing_does_not_matter_and_the_last_note_counts() {
        let one = digests(&[live("a", 1, b"x"), live("b", 2, b"y"), deleted("c", 3), record("AWS", 4, "{}")]);
        let two = digests(&[
            record("AWS", 4, "{}"),
            deleted("c", 3),
            live("b", 1, b"old"),
            live("a", 1, b"x"),
            live("b", 2, b"y"),
        ]);
        assert_eq!(one.counts(), Counts { live: 2, deleted: 1, records: 1 });
        assert_eq!(compare(&[&one, &two], 9), Differing { keys: 0, first: vec![], missing: vec![0, 0] });
    }

    #[test]
    fn every_kind_of_difference_is_found() {
        let base = || vec![live("a", 1, b"x"), live("b", 2, b"y")];
        let missing = vec![live("a", 1, b"x")];
        let older = vec![live("a", 1, b"x"), live("b", 1, b"y")];
        let bytes = vec![live("a", 1, b"x"), live("b", 2, b"z")];
        let tombstone = vec![live("a", 1, b"x"), deleted("b", 2)];
        let more = [base(), vec![live("c", 3, b"")]].concat();
        let mut field = base();
        if let EntryState::Live(content) = &mut field[1].state {
            content.cache_control = "no-store".parse().unwrap();
        }
        for (what, other, missed) in [
            ("missing", missing, [0, 1]),
            ("older", older, [0, 0]),
            ("bytes", bytes, [0, 0]),
            ("tombstone", tombstone, [0, 0]),
            ("more", more, [1, 0]),
            ("field", field, [0, 0]),
        ] {
            let differing = compare(&[&digests(&base()), &digests(&other)], 9);
            let key = if what == "more" { "c" } else { "b" };
            assert_eq!(differing.first, [KeyHash::of(&key.parse().unwrap())], "{what}");
            assert_eq!((differing.keys, differing.missing.as_slice()), (1, missed.as_slice()), "{what}");
        }
    }

    #[test]
    fn all_differences_are_counted_and_some_are_named() {
        let entries: Vec<_> = (0..100).map(|number| live(&format!("key-{number}"), 1, b"x")).collect();
        let differing = compare(&[&digests(&entries), &digests(&[]), &digests(&entries[..50])], 7);
        assert_eq!((differing.keys, differing.first.len(), differing.missing), (100, 7, vec![0, 100, 50]));
    }

    #[test]
    fn a_deletion_that_a_node_has_forgotten_is_no_difference() {
        let all = digests(&[deleted("a", 5), live("b", 6, b"x")]);
        let mut fewer = digests(&[live("b", 6, b"x")]);
        for (horizon_ms, keys) in [(None, 1), (Some(4), 1), (Some(5), 0), (Some(9), 0)] {
            fewer.horizon_ms = horizon_ms;
            assert_eq!(compare(&[&all, &fewer], 9).keys, keys, "{horizon_ms:?}");
            assert_eq!(compare(&[&fewer, &all], 9).missing, [keys, 0], "{horizon_ms:?}");
        }
        fewer.horizon_ms = Some(9);
        let resurrected = digests(&[live("a", 4, b"x"), live("b", 6, b"x")]);
        assert_eq!(compare(&[&fewer, &resurrected], 9).keys, 1, "what is live is not forgotten");
        assert_eq!(compare(&[&fewer, &all, &resurrected], 9).keys, 1);
        assert_eq!(compare(&[&all, &digests(&[deleted("a", 6), live("b", 6, b"x")])], 9).keys, 1);
    }

    #[test]
    fn a_row_takes_24_bytes() {
        assert_eq!(size_of::<Row>(), 24);
    }
}
