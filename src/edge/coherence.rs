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
    /// Up to which sequence it was read.
    position: u64,
    /// Since when the node has told of a later one, which the feed owes.
    owed_since: Option<Duration>,
}

/// How long a feed may owe what the node has told of: about a round trip. A connection that has died without a word
/// owes it for ever.
const OWED_MAX: Duration = Duration::from_secs(1);

impl Coherence {
    /// What `id` lists from `now` on will be heard of: its feed is read on from `position`.
    pub(super) fn begin(&self, id: &NodeId, position: u64, now: Duration) {
        let followed = Followed { since: now, at_end: false, position, owed_since: None };
        self.followed().insert(id.clone(), followed);
    }

    /// The feed of `id` was read up to `position`, to its end or not.
    pub(super) fn read(&self, id: &NodeId, position: u64, at_end: bool) {
        if let Some(followed) = self.followed().get_mut(id) {
            (followed.position, followed.at_end, followed.owed_since) = (position, at_end, None);
        }
    }

    /// The feed of `id` failed.
    pub(super) fn fail(&self, id: &NodeId) {
        if let Some(followed) = self.followed().get_mut(id) {
            followed.at_end = false;
        }
    }

    /// The node says at `now` that its feed ends at `head`.
    pub(super) fn told(&self, id: &NodeId, head: u64, now: Duration) {
        if let Some(followed) = self.followed().get_mut(id) {
            followed.owed_since = (head > followed.position).then(|| followed.owed_since.unwrap_or(now));
        }
    }

    /// Nothing is known of the feed of `id` any more.
    pub(super) fn forget(&self, id: &NodeId) {
        self.followed().remove(id);
    }

    /// Since when the edge would have heard of every change that one of `nodes` knows of; `None` if it would not. Those
    /// that are down can tell nobody.
    pub(super) fn since<'a>(
        &self,
        nodes: impl Iterator<Item = (&'a NodeId, Liveness)>,
        now: Duration,
    ) -> Option<Duration> {
        let all = self.followed();
        let mut latest = None;
        for (id, liveness) in nodes.filter(|(_, liveness)| *liveness != Liveness::Down) {
            let owes = |since: Duration| now.saturating_sub(since) > OWED_MAX;
            let is_right = |followed: &&Followed| followed.at_end && !followed.owed_since.is_some_and(owes);
            let followed = all.get(id).filter(is_right).filter(|_| liveness == Liveness::Alive)?;
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
        let since = |of_a, of_b| coherence.since([(&a, of_a), (&b, of_b)].into_iter(), secs(9));
        let (alive, suspect, down) = (Liveness::Alive, Liveness::Suspect, Liveness::Down);
        assert_eq!(since(alive, alive), None);
        coherence.begin(&a, 5, secs(1));
        coherence.read(&a, 5, true);
        assert_eq!((since(alive, alive), since(alive, down)), (None, Some(secs(1))));
        coherence.begin(&b, 5, secs(2));
        assert_eq!(since(alive, alive), None, "it may have listed something since");
        coherence.read(&b, 5, true);
        assert_eq!(since(alive, alive), Some(secs(2)));
        assert_eq!(since(alive, suspect), None, "it may take a write that nobody hears of");
        assert_eq!(since(down, down), None);
        coherence.fail(&a);
        assert_eq!(since(alive, alive), None);
        coherence.read(&a, 5, true);
        assert_eq!(since(alive, alive), Some(secs(2)), "without a gap nothing was missed");
        coherence.forget(&a);
        assert_eq!(since(alive, alive), None);
    }

    #[test]
    fn a_feed_that_owes_what_its_node_tells_of_is_not_trusted() {
        let a: NodeId = "A".parse().expect("a name");
        let coherence = Coherence::default();
        let since = |now| coherence.since(std::iter::once((&a, Liveness::Alive)), secs(now));
        coherence.begin(&a, 5, secs(1));
        coherence.read(&a, 5, true);
        coherence.told(&a, 5, secs(2));
        assert_eq!(since(100), Some(secs(1)), "there is no news");
        coherence.told(&a, 6, secs(100));
        coherence.told(&a, 7, secs(101));
        assert_eq!((since(101), since(102)), (Some(secs(1)), None), "news takes a moment to come, and no longer");
        coherence.read(&a, 7, true);
        assert_eq!(since(102), Some(secs(1)));
    }
}
