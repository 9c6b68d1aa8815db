//! The look through all that a node has, after whatever may have left something behind: bytes that nothing names are noted,
//! for the sweep, and sums that are wrong are made anew, for comparing. The glue of `src/node/scrub`.

use std::collections::BTreeSet;

use super::World;
use crate::event::Task;
use crate::model::ContentHash;
use crate::node::{BLOBS, Job, SimNode};

/// Up to how long it takes until a node looks.
const SCRUB_MS: u64 = 120_000;

impl World {
    /// Has `node` look through what it has, in its time. It does so only when it has to, so that what is forgotten without
    /// need is found at the end.
    pub(super) fn scrub_later(&mut self, node: usize) {
        self.later_within(1_000, SCRUB_MS, node, Task::Scrub);
    }

    pub(super) fn scrub(&mut self, node: usize) {
        let unnamed = self.nodes[node].unnamed();
        if !unnamed.is_empty() || self.nodes[node].catalog.ledger.clone().recount() {
            self.enqueue(node, Job::Scrub(unnamed));
        }
    }
}

impl SimNode {
    /// What it holds, as rows or files, and nothing names.
    pub fn unnamed(&self) -> BTreeSet<ContentHash> {
        let named = self.catalog.ledger.references();
        let rows = self.catalog.rows.keys().copied();
        let held = rows.chain(self.disk.files(BLOBS).into_iter().filter_map(|name| name.parse().ok()));
        held.filter(|hash| !named.contains(hash)).collect()
    }
}
