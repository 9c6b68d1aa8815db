//! When the vector of a peer becomes this node's own, too.

use std::collections::BTreeMap;

use super::Debt;
use crate::model::{NodeId, Version, VersionVector};

/// Vectors of peers whose feeds were read to the end. One counts as soon as all is held that was owed at that moment,
/// and never before: a vector says "I have all of it".
///
/// It is kept in memory alone: after a restart the next answer of each peer brings its vector again.
#[derive(Debug, Clone, Default)]
pub struct Coverage {
    read: BTreeMap<NodeId, Read>,
}

/// Of each peer the first reading that does not count yet is kept, and the latest. Were there only the latest, it would
/// never count while new entries come without a pause.
#[derive(Debug, Clone)]
struct Read {
    first: Reading,
    latest: Option<Reading>,
}

#[derive(Debug, Clone)]
struct Reading {
    vector: VersionVector,
    /// The last debt that was recorded when the feed was read to its end.
    debt: u64,
}

impl Coverage {
    /// Notes that the feed of `peer` was read to its end, which had passed `vector`; `debt` is what was owed after that.
    pub fn read_to_end(&mut self, peer: &NodeId, vector: VersionVector, debt: Debt) {
        let reading = Reading { vector, debt: debt.last };
        match self.read.get_mut(peer) {
            Some(read) => read.latest = Some(reading),
            None => drop(self.read.insert(peer.clone(), Read { first: reading, latest: None })),
        }
    }

    /// What is passed with what is owed now.
    pub fn passed(&self, debt: Debt) -> VersionVector {
        let mut passed = VersionVector::default();
        for read in self.read.values() {
            for reading in read.latest.iter().chain([&read.first]).filter(|reading| reading.is_paid(debt)) {
                passed.merge(&reading.vector);
            }
        }
        passed
    }

    /// Forgets what is in `passed`, an answer of [`Coverage::passed`] that is written down by now. What was read
    /// meanwhile stays.
    pub fn settle(&mut self, passed: &VersionVector) {
        self.read.retain(|_, read| {
            read.latest = read.latest.take().filter(|latest| !passed.covers(&latest.vector));
            if !passed.covers(&read.first.vector) {
                return true;
            }
            read.latest.take().map(|rest| read.first = rest).is_some()
        });
    }

    /// Forgets what says that `version` is passed: its bytes are lost, and so may be all who held them.
    pub(super) fn give_up(&mut self, version: &Version) {
        self.read.retain(|_, read| {
            read.latest = read.latest.take().filter(|latest| !latest.vector.has_passed(version));
            !read.first.vector.has_passed(version)
        });
    }

    /// Whether nothing waits to count.
    pub fn is_settled(&self) -> bool {
        self.read.is_empty()
    }
}

impl Reading {
    fn is_paid(&self, debt: Debt) -> bool {
        debt.oldest.is_none_or(|oldest| oldest > self.debt)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Epoch, Origin};

    fn node(name: &str) -> NodeId {
        name.parse().expect("a name")
    }

    fn vector(sequence: u64) -> VersionVector {
        [(Origin { node: node("A"), epoch: Epoch::from_bits(1) }, sequence)].into_iter().collect()
    }

    const fn debt(last: u64, oldest: Option<u64>) -> Debt {
        Debt { last, oldest }
    }

    #[test]
    fn a_vector_counts_when_all_is_held_that_was_owed_when_it_was_read() {
        let mut coverage = Coverage::default();
        coverage.read_to_end(&node("A"), vector(7), debt(3, Some(2)));
        assert_eq!(coverage.passed(debt(3, Some(3))), VersionVector::default());
        assert_eq!(coverage.passed(debt(9, Some(4))), vector(7), "what was recorded later does not hold it up");
        coverage.settle(&vector(7));
        assert!(coverage.is_settled());
    }

    #[test]
    fn what_is_read_while_another_is_written_down_is_kept() {
        let mut coverage = Coverage::default();
        coverage.read_to_end(&node("A"), vector(7), debt(3, None));
        let passed = coverage.passed(debt(3, None));
        coverage.read_to_end(&node("A"), vector(9), debt(3, None));
        coverage.settle(&passed);
        assert_eq!(coverage.passed(debt(3, None)), vector(9));
    }

    #[test]
    fn a_peer_that_never_rests_is_covered_all_the_same() {
        let mut coverage = Coverage::default();
        let mut covered = VersionVector::default();
        for round in 1..100 {
            // What was owed in the round before is held by now, and something new is owed.
            coverage.read_to_end(&node("A"), vector(round), debt(round, Some(round)));
            let passed = coverage.passed(debt(round, Some(round)));
            covered.merge(&passed);
            coverage.settle(&passed);
            assert!(round < 3 || covered.covers(&vector(round - 2)), "{round}");
        }
    }
}
