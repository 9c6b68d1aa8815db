//! How far this edge has read the feeds of the nodes: what it has heard of, as it tells a shield, and what it has heard and
//! applied, as it answers for a shield.
//!
//! A purge, or a change of an object, stands in the feed of every node that has heard of it. A shield that has read as far as
//! the edge that asks it so gives nothing back that this edge has forgotten.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::timeout;

use crate::model::NodeId;
use crate::protocol::shield::Position;

/// How far the feeds were read.
#[derive(Debug, Default)]
pub(in crate::edge) struct Positions {
    state: Mutex<State>,
    moved: Notify,
}

#[derive(Debug, Default)]
struct State {
    heard: BTreeMap<NodeId, Position>,
    applied: BTreeMap<NodeId, Position>,
}

impl Positions {
    /// What `node` lists up to there has come, and is applied from now on: said before it is.
    pub(in crate::edge) fn hears(&self, node: &NodeId, at: Position) {
        let mut state = self.state();
        let is_behind = |known: &Position| known.epoch == at.epoch && known.sequence > at.sequence;
        if !state.heard.get(node).is_some_and(is_behind) {
            state.heard.insert(node.clone(), at);
        }
    }

    /// What `node` lists up to there is applied.
    pub(in crate::edge) fn applied(&self, node: &NodeId, at: Position) {
        self.state().applied.insert(node.clone(), at);
        self.moved.notify_waiters();
    }

    /// What `node` lists may have come with a gap.
    pub(in crate::edge) fn missed(&self, node: &NodeId) {
        self.state().applied.remove(node);
    }

    /// `node` is none any more.
    pub(in crate::edge) fn forget(&self, node: &NodeId) {
        let mut state = self.state();
        state.heard.remove(node);
        state.applied.remove(node);
    }

    /// What this edge has heard of.
    pub(super) fn heard(&self) -> BTreeMap<NodeId, Position> {
        self.state().heard.clone()
    }

    /// Waits until all of `heard` is applied here, too; `false` if that takes longer than `patience`, or if it is of a feed
    /// that was never read.
    pub(super) async fn reach(&self, heard: &BTreeMap<NodeId, Position>, patience: Duration) -> bool {
        if !self.reads(heard.keys()) {
            return false;
        }
        let reached = async {
            loop {
                let moved = self.moved.notified();
                tokio::pin!(moved);
                // From here on no move is missed.
                moved.as_mut().enable();
                if self.has_applied(heard) {
                    return;
                }
                moved.await;
            }
        };
        timeout(patience, reached).await.is_ok()
    }

    fn reads<'n>(&self, mut nodes: impl Iterator<Item = &'n NodeId>) -> bool {
        let state = self.state();
        nodes.all(|node| state.applied.contains_key(node))
    }

    fn has_applied(&self, heard: &BTreeMap<NodeId, Position>) -> bool {
        let state = self.state();
        heard.iter().all(|(node, wanted)| {
            let applied = state.applied.get(node);
            applied.is_some_and(|at| at.epoch == wanted.epoch && at.sequence >= wanted.sequence)
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Epoch;

    #[tokio::test(start_paused = true)]
    async fn what_the_asker_has_heard_of_is_waited_for() {
        let node: NodeId = "AWS".parse().expect("a name");
        let at = |bits, sequence| Position { epoch: Epoch::from_bits(bits), sequence };
        let (asker, shield) = (Positions::default(), Positions::default());
        let patience = Duration::from_secs(1);
        assert!(shield.reach(&asker.heard(), patience).await, "it has heard of nothing");
        asker.hears(&node, at(1, 5));
        asker.hears(&node, at(1, 4));
        let heard = asker.heard();
        assert!(!shield.reach(&heard, patience).await, "the node is unknown");
        shield.hears(&node, at(1, 5));
        let never_read = shield.reach(&heard, patience);
        assert_eq!(timeout(Duration::ZERO, never_read).await, Ok(false), "that is no matter of time");
        shield.applied(&node, at(1, 4));
        assert!(!shield.reach(&heard, patience).await, "it is not applied");
        let applying = async {
            tokio::task::yield_now().await;
            shield.applied(&node, at(1, 5));
        };
        assert!(tokio::join!(shield.reach(&heard, patience), applying).0);
        shield.applied(&node, at(2, 9));
        assert!(!shield.reach(&heard, patience).await, "it is another life of the node");
        asker.hears(&node, at(2, 1));
        assert!(shield.reach(&asker.heard(), patience).await);
        shield.missed(&node);
        assert!(!shield.reach(&asker.heard(), patience).await);
    }
}
