//! What nodes do in time: pings, announcements, forgetting, comparing. The glue of `src/node/heartbeat.rs`,
//! `announce.rs`, `keep.rs` and `digests.rs`.

use std::collections::BTreeSet;

use super::World;
use crate::event::Task;
use crate::message::Ask;
use crate::node::{Job, Purpose, SimNode};
use crate::replicate::{Ledger as _, differing};

/// Up to how long it takes to the next ping, look at old deletions, comparison, look at parked entries, sweep.
const PING_MS: u64 = 20_000;
const EXPIRE_MS: u64 = 40_000;
const COMPARE_MS: u64 = 90_000;
const UNPARK_MS: u64 = 8_000;
const SWEEP_MS: u64 = 40_000;

impl World {
    pub(super) fn announce(&mut self, node: usize, peer: usize) {
        let id = self.nodes[node].id.clone();
        self.ask(node, peer, Purpose::Announce, Ask::Announce(id));
    }

    pub(super) fn ping(&mut self, node: usize, peer: usize) {
        if !self.others(node).contains(&peer) {
            return;
        }
        self.ask(node, peer, Purpose::Ping, Ask::Ping);
        self.later_within(PING_MS / 2, PING_MS, node, Task::Ping(peer));
    }

    pub(super) fn unpark(&mut self, node: usize) {
        if !self.nodes[node].catalog.ledger.parked.is_empty() {
            self.enqueue(node, Job::Unpark);
        }
        self.later_within(UNPARK_MS / 2, UNPARK_MS, node, Task::Unpark);
    }

    /// Forgets old deletions, if all members have said since the start what they passed. Whom else it would have to ask, a
    /// new node does not know.
    pub(super) fn expire(&mut self, node: usize) {
        let known = &self.nodes[node].memory.known;
        let others = self.others(node);
        let vectors: Option<Vec<_>> = others
            .iter()
            .map(|other| known.get(&self.nodes[*other].id).and_then(|known| known.passed.clone()))
            .collect();
        if let Some(vectors) = vectors.filter(|_| self.nodes[node].catalog.belongs) {
            self.enqueue(node, Job::Expire(vectors));
        }
        self.later_within(EXPIRE_MS / 2, EXPIRE_MS, node, Task::Expire);
    }

    /// Notes the blobs that were let go, and frees what nothing has named for long.
    pub(super) fn sweep(&mut self, node: usize) {
        let memory = &mut self.nodes[node].memory;
        if let Some(blobs) = &memory.blobs {
            let mut released = std::mem::take(&mut memory.released);
            released.extend(blobs.take_released());
            released.sort_unstable();
            released.dedup();
            let named = self.nodes[node].catalog.ledger.references();
            released.retain(|hash| !named.contains(hash));
            self.enqueue(node, Job::Sweep(released));
        }
        self.forget_unwanted(node);
        self.later_within(SWEEP_MS / 2, SWEEP_MS, node, Task::Sweep);
    }

    /// Removes what was fetched by half and is neither wanted nor being fetched.
    fn forget_unwanted(&mut self, node: usize) {
        let SimNode { memory, catalog, .. } = &self.nodes[node];
        let Some(blobs) = &memory.blobs else { return };
        let fetched = memory.fetches.values().map(|fetch| &fetch.entry);
        let wanted = catalog.ledger.wants.iter().map(|owed| &owed.entry);
        let kept: BTreeSet<_> =
            fetched.chain(wanted).filter_map(|entry| entry.content().map(|content| content.hash)).collect();
        for hash in blobs.unfinished().unwrap_or_default() {
            if !kept.contains(&hash) {
                // A failure leaves it for the next time.
                let _ = blobs.forget_unfinished(&hash);
            }
        }
    }

    pub(super) fn compare(&mut self, node: usize) {
        if !self.plan.compares {
            return;
        }
        let others = self.others(node);
        if let Some(peer) = self.random.pick(&others) {
            self.ask(node, peer, Purpose::Compare, Ask::Sums);
        }
        self.later_within(COMPARE_MS / 2, COMPARE_MS, node, Task::Compare);
    }

    /// `peer` has said which sums its buckets have.
    pub(super) fn got_sums(&mut self, node: usize, peer: usize, theirs: &[u64]) {
        let ledger = &self.nodes[node].catalog.ledger;
        let Ok(own) = ledger.vector();
        for bucket in differing(&ledger.sums(), theirs) {
            self.ask(node, peer, Purpose::CompareBucket(own.clone()), Ask::Bucket(bucket));
        }
    }
}
