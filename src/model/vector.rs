//! How far a node has come: in the feed of another one (a cursor), and in the writes of all (a version vector).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Epoch, Origin, Version};

/// How far a follower has read a node's feed: all up to `since` is recorded at the follower, held or owed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cursor {
    /// The life of the node's database that the sequence belongs to.
    pub epoch: Epoch,
    /// The last sequence read.
    pub since: u64,
}

/// For each origin: up to which of its writes the node has all, or something newer for the same key (Parker et al.,
/// "Detection of Mutual Inconsistency in Distributed Systems", 1983). An origin that is not in it counts as 0.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(from = "Vec<Passed>", into = "Vec<Passed>")]
pub struct VersionVector(BTreeMap<Origin, u64>);

/// One place of a vector, as it travels: JSON has no keys but texts.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Passed {
    #[serde(flatten)]
    origin: Origin,
    sequence: u64,
}

impl VersionVector {
    /// Up to which write of `origin` all are passed.
    pub fn get(&self, origin: &Origin) -> u64 {
        self.0.get(origin).copied().unwrap_or(0)
    }

    /// Notes that all writes of `origin` up to `sequence` are passed; says whether that is news.
    pub fn raise(&mut self, origin: &Origin, sequence: u64) -> bool {
        if sequence <= self.get(origin) {
            return false;
        }
        self.0.insert(origin.clone(), sequence);
        true
    }

    /// Notes all that `other` has passed.
    pub fn merge(&mut self, other: &Self) {
        for (origin, sequence) in &other.0 {
            self.raise(origin, *sequence);
        }
    }

    /// What both this and `other` have passed.
    #[must_use]
    pub fn common(&self, other: &Self) -> Self {
        self.iter().map(|(origin, sequence)| (origin.clone(), sequence.min(other.get(origin)))).collect()
    }

    /// Whether the write `version` is passed.
    pub fn has_passed(&self, version: &Version) -> bool {
        version.sequence <= self.get(&version.origin)
    }

    /// Whether everything that `other` has passed is passed here.
    pub fn covers(&self, other: &Self) -> bool {
        other.0.iter().all(|(origin, sequence)| self.get(origin) >= *sequence)
    }

    /// The origins and how far each is passed.
    pub fn iter(&self) -> impl Iterator<Item = (&Origin, u64)> {
        self.0.iter().map(|(origin, sequence)| (origin, *sequence))
    }
}

impl From<Vec<Passed>> for VersionVector {
    fn from(places: Vec<Passed>) -> Self {
        places.into_iter().map(|Passed { origin, sequence }| (origin, sequence)).collect()
    }
}

impl From<VersionVector> for Vec<Passed> {
    fn from(vector: VersionVector) -> Self {
        vector.0.into_iter().map(|(origin, sequence)| Passed { origin, sequence }).collect()
    }
}

impl FromIterator<(Origin, u64)> for VersionVector {
    fn from_iter<I: IntoIterator<Item = (Origin, u64)>>(places: I) -> Self {
        let mut vector = Self::default();
        for (origin, sequence) in places {
            vector.raise(&origin, sequence);
        }
        vector
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Epoch;

    fn origin(name: &str) -> Origin {
        Origin { node: name.parse().expect("a name"), epoch: Epoch::from_bits(1) }
    }

    fn vector(places: &[(&str, u64)]) -> VersionVector {
        places.iter().map(|(name, sequence)| (origin(name), *sequence)).collect()
    }

    #[test]
    fn a_merge_has_the_greater_of_each_place() {
        let mut merged = vector(&[("A", 3), ("B", 1)]);
        merged.merge(&vector(&[("A", 2), ("B", 4), ("C", 1)]));
        assert_eq!(merged, vector(&[("A", 3), ("B", 4), ("C", 1)]));
        assert!(merged.covers(&vector(&[("B", 4)])) && !merged.covers(&vector(&[("D", 1)])));
        assert!(!merged.raise(&origin("A"), 3));
    }

    #[test]
    fn it_travels_as_a_list() {
        let sent = vector(&[("A", 3)]);
        let json = serde_json::to_string(&sent).expect("JSON");
        assert_eq!(json, r#"[{"node":"A","epoch":"0000000000000001","sequence":3}]"#);
        assert_eq!(serde_json::from_str::<VersionVector>(&json).expect("a vector"), sent);
    }
}
