//! Whether the edge would have heard of every change: then what it keeps in memory is what the store has.
//!
//! An object that changes is in the feed of every node that has the change. As long as the edge follows the feeds of
//! all nodes that could answer for it, to their end and without a gap, it knows of each change that they know of.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::model::{Liveness, NodeId};

/// How far the feed of each node was followed.
#[derive(Debug, Default)]
pub(super) struct Coherence {
    followed: Mutex<BTreeMap<NodeId, Followed>>,
}

#[derive(Debug, Clone, Copy)]
struct Followed {
    /// Of all changes since then the node's feed has told.
    since: Duration,
    /// Whether it was read to its end, and nothing has failed since.
    at_end: bool,
}

impl Coherence {
    /// What `id` lists from `now` on will be heard of: there is a position in its feed from which to read.
    pub(super) fn begin(&self, id: &NodeId, now: Duration) {
        self.followed().insert(id.clone(), Followed { since: now, at_end: false });
    }

    /// The feed of `id` was read on, to its end or not.
    pub(super) fn read(&self, id: &NodeId, at_end: bool) {
        if let Some(followed) = self.followed().get_mut(id) {
            followed.at_end = at_end;
        }
    }

    /// Nothing is known of the feed of `id` any more.
    pub(super) fn forget(&self, id: &NodeId) {
        self.followed().remove(id);
    }

    /// Since when the edge would have heard of every change that one of `nodes` knows of; `None` if it would not. Those
    /// that are down can tell nobody.
    pub(super) fn since<'a>(&self, nodes: impl Iterator<Item = (&'a NodeId, Liveness)>) -> Option<Duration> {
        let all = self.followed();
        let mut latest = None;
        for (id, liveness) in nodes.filter(|(_, liveness)| *liveness != Liveness::Down) {
            let followed = all.get(id).filter(|followed| followed.at_end && liveness == Liveness::Alive)?;
            latest = latest.max(Some(followed.since));
        }
        latest
    }

    fn followed(&self) -> MutexGuard<'_, BTreeMap<NodeId, Followed>> {
        self.followed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn secs(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn all_that_live_must_be_followed_to_their_end() {
        let (a, b): (NodeId, NodeId) = ("A".parse().expect("a name"), "B".parse().expect("a name"));
        let coherence = Coherence::default();
        let since = |of_a, of_b| coherence.since([(&a, of_a), (&b, of_b)].into_iter());
        let (alive, suspect, down) = (Liveness::Alive, Liveness::Suspect, Liveness::Down);
        assert_eq!(since(alive, alive), None);
        coherence.begin(&a, secs(1));
        coherence.read(&a, true);
        assert_eq!((since(alive, alive), since(alive, down)), (None, Some(secs(1))));
        coherence.begin(&b, secs(2));
        assert_eq!(since(alive, alive), None, "it may have listed something since");
        coherence.read(&b, true);
        assert_eq!(since(alive, alive), Some(secs(2)));
        assert_eq!(since(alive, suspect), None, "it may take a write that nobody hears of");
        assert_eq!(since(down, down), None);
        coherence.read(&a, false);
        assert_eq!(since(alive, alive), None);
        coherence.read(&a, true);
        assert_eq!(since(alive, alive), Some(secs(2)), "without a gap nothing was missed");
        coherence.forget(&a);
        assert_eq!(since(alive, alive), None);
    }
}
