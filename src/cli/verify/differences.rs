//! What exactly differs: the entries of some keys at all nodes, and how each stands to the newest.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::{Value, json};

use crate::model::{Entry, EntryKey, EntryState};

/// How what one node lists under a key stands to the newest that any node lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum What {
    /// It is the newest.
    Newest,
    /// The node lists nothing.
    Missing,
    /// An older version of the same kind.
    Older,
    /// A live object that was deleted since.
    NotDeleted,
    /// A deletion, after which the object was written again.
    StillDeleted,
    /// The same version of something else, which must not be.
    OtherBytes,
}

impl What {
    /// In words.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Newest => "newest",
            Self::Missing => "missing",
            Self::Older => "older",
            Self::NotDeleted => "not deleted",
            Self::StillDeleted => "still deleted",
            Self::OtherBytes => "other bytes",
        }
    }
}

/// A key that not all nodes list alike.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Difference {
    /// The key.
    pub(super) key: EntryKey,
    /// What each node lists, in the order of the nodes.
    pub(super) nodes: Vec<Option<Entry>>,
    newest: Entry,
}

impl Difference {
    /// The difference in what `nodes` list under `key`; `None` if they list the same. Those with a horizon need not list
    /// deletions up to that time.
    pub(super) fn of(key: EntryKey, nodes: Vec<Option<Entry>>, horizons_ms: &[Option<u64>]) -> Option<Self> {
        let newest = nodes.iter().flatten().fold(None, |newest: Option<&Entry>, entry| match newest {
            Some(newest) if !entry.supersedes(newest) => Some(newest),
            _ => Some(entry),
        });
        let newest = newest?.clone();
        let forgotten = |horizon_ms: &Option<u64>| {
            newest.state == EntryState::Deleted && horizon_ms.is_some_and(|ms| newest.version.time.unix_ms() <= ms)
        };
        let alike = nodes.iter().zip(horizons_ms).all(|(entry, horizon_ms)| match entry {
            Some(entry) => *entry == newest,
            None => forgotten(horizon_ms),
        });
        (!alike).then_some(Self { key, nodes, newest })
    }

    /// The newest that any node lists.
    pub(super) const fn newest(&self) -> &Entry {
        &self.newest
    }

    /// How what the node at `index` lists stands to the newest.
    pub(super) fn at(&self, index: usize) -> What {
        let Some(entry) = self.nodes.get(index).and_then(Option::as_ref) else { return What::Missing };
        if *entry == self.newest {
            return What::Newest;
        }
        if entry.version == self.newest.version {
            return What::OtherBytes;
        }
        match (&entry.state, &self.newest.state) {
            (EntryState::Deleted, EntryState::Live(_) | EntryState::Record(_)) => What::StillDeleted,
            (EntryState::Live(_) | EntryState::Record(_), EntryState::Deleted) => What::NotDeleted,
            _ => What::Older,
        }
    }
}

/// An entry's state for a program.
pub(super) fn state_json(state: &EntryState) -> Value {
    match state {
        EntryState::Live(content) => json!({ "hash": content.hash, "size": content.size }),
        EntryState::Deleted => json!({ "deleted": true }),
        EntryState::Record(_) => json!({ "record": true }),
    }
}

/// The entries of some keys at all nodes, as they are read one node after the other.
#[derive(Debug)]
pub(super) struct Gathering {
    /// Up to when each node has forgotten deletions.
    horizons_ms: Vec<Option<u64>>,
    entries: BTreeMap<EntryKey, Vec<Option<Entry>>>,
}

impl Gathering {
    /// For nodes that have forgotten deletions up to these times.
    pub(super) const fn new(horizons_ms: Vec<Option<u64>>) -> Self {
        Self { horizons_ms, entries: BTreeMap::new() }
    }

    /// Notes that the node at `index` lists `entry`, rather than what it was seen to list before.
    pub(super) fn note(&mut self, index: usize, entry: Entry) {
        let count = self.horizons_ms.len();
        let nodes = self.entries.entry(entry.key.clone()).or_insert_with(|| vec![None; count]);
        nodes[index] = Some(entry);
    }

    /// The differences, in the order of their keys.
    pub(super) fn differences(self) -> Vec<Difference> {
        let differ = |(key, nodes)| Difference::of(key, nodes, &self.horizons_ms);
        self.entries.into_iter().filter_map(differ).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::verify::planted::{deleted, live};

    fn whats(nodes: Vec<Option<Entry>>) -> Vec<What> {
        let count = nodes.len();
        let difference = Difference::of("a".parse().unwrap(), nodes, &vec![None; count]).expect("they differ");
        (0..count).map(|index| difference.at(index)).collect()
    }

    #[test]
    fn each_node_stands_somewhere_to_the_newest() {
        let (old, new) = (live("a", 1, b"old"), live("a", 2, b"new"));
        assert_eq!(whats(vec![Some(old.clone()), None, Some(new.clone())]), [What::Older, What::Missing, What::Newest]);
        assert_eq!(whats(vec![Some(old), Some(deleted("a", 2))]), [What::NotDeleted, What::Newest]);
        assert_eq!(whats(vec![Some(new.clone()), Some(deleted("a", 1))]), [What::Newest, What::StillDeleted]);
        let others = whats(vec![Some(new), Some(live("a", 2, b"other"))]);
        assert!(others.contains(&What::Newest) && others.contains(&What::OtherBytes), "{others:?}");
    }

    #[test]
    fn a_forgotten_deletion_need_not_be_listed() {
        let of = |horizon| Difference::of("a".parse().unwrap(), vec![Some(deleted("a", 5)), None], &[None, horizon]);
        assert_eq!((of(None).is_some(), of(Some(4)).is_some(), of(Some(5)).is_some()), (true, true, false));
    }

    #[test]
    fn what_became_equal_is_no_difference() {
        let mut gathering = Gathering::new(vec![None; 2]);
        gathering.note(0, live("a", 1, b"x"));
        gathering.note(1, live("a", 2, b"y"));
        gathering.note(0, live("a", 2, b"y"));
        gathering.note(0, live("b", 3, b"z"));
        let differences = gathering.differences();
        assert_eq!(differences.len(), 1);
        assert_eq!((differences[0].key.as_str(), differences[0].at(1)), ("b", What::Missing));
        assert!(Gathering::new(vec![None; 2]).differences().is_empty());
    }
}
