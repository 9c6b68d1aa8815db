//! What a node takes in of what a peer lists when their digests differ: the safety net below the feeds.

use std::collections::BTreeSet;

use super::{Ledger, take_in};
use crate::model::{Entry, NodeId, Origin, VersionVector};

/// What a node knew when it began to compare itself with a peer.
#[derive(Debug, Clone)]
pub struct Comparison {
    /// Which writes it had passed.
    pub passed: VersionVector,
    /// The databases that the other members have now, as far as they have said.
    pub lives: BTreeSet<Origin>,
    /// For how many milliseconds deletions are remembered.
    pub grace_ms: u64,
}

impl Comparison {
    /// Takes in what `peer` lists as `entries`, and this node neither lists nor owes; answers how many of them those were.
    ///
    /// What is not passed yet comes by the feed. But nobody may ever pass the last writes of a database that is no more.
    /// Deletions whose time is over are left alone: one node forgets them a moment before another.
    ///
    /// # Errors
    /// When the ledger cannot be read or written.
    pub fn mend<L: Ledger>(
        &self,
        ledger: &mut L,
        peer: &NodeId,
        entries: &[Entry],
        now_unix_ms: u64,
    ) -> Result<usize, L::Error> {
        let mut mended = 0;
        for entry in entries.iter().filter(|entry| self.is_due(entry, now_unix_ms)) {
            let is_news = ledger.listed(&entry.key)?.is_none_or(|listed| entry.supersedes(&listed));
            if is_news && !ledger.owes(entry)? {
                take_in(ledger, entry, peer, now_unix_ms)?;
                mended += 1;
            }
        }
        Ok(mended)
    }

    fn is_due(&self, entry: &Entry, now_unix_ms: u64) -> bool {
        let is_forgotten =
            entry.is_deleted() && entry.version.time.unix_ms().saturating_add(self.grace_ms) < now_unix_ms;
        !is_forgotten && (self.passed.has_passed(&entry.version) || !self.lives.contains(&entry.version.origin))
    }
}

#[cfg(test)]
mod tests {
    use super::super::memory::tests::{live, replica};
    use super::super::write;
    use super::*;
    use crate::model::EntryState;

    #[test]
    fn what_the_feeds_have_lost_is_taken_in_and_nothing_else() {
        let mut peer = replica("B");
        let mut state = |key: &str, state, now| {
            let Ok(entry) = write(&mut peer, live(key, "").key, state, now);
            entry
        };
        let content = || live("x", "1").state;
        let first = state("a", content(), 1);
        let second = state("b", content(), 2);
        let deletion = state("c", EntryState::Deleted, 3);
        let entries = [first.clone(), second.clone(), deletion];
        let origin = first.version.origin.clone();
        let passed: VersionVector = [(origin.clone(), first.version.sequence)].into_iter().collect();
        let mended = |lives: &[Origin], now| {
            let mut ledger = replica("A");
            let comparison =
                Comparison { passed: passed.clone(), lives: lives.iter().cloned().collect(), grace_ms: 10 };
            let Ok(mended) = comparison.mend(&mut ledger, &origin.node, &entries, now);
            // What is owed already is not taken in once more.
            assert_eq!(comparison.mend(&mut ledger, &origin.node, &entries[..2], now), Ok(0));
            mended
        };
        assert_eq!(mended(std::slice::from_ref(&origin), 5), 1, "the others are on their way");
        assert_eq!(mended(&[], 5), 3, "of a database that is no more, nothing is on its way");
        assert_eq!(mended(&[], 14), 2, "a deletion of which all have heard is over");
    }
}
