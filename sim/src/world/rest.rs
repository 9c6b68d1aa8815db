//! The end of a run: troubles are over, and all must come to rest with the same.

use super::{START_UNIX_MS, World};
use crate::model::{Entry, EntryKey, HybridTime};
use crate::node::Status;
use crate::oracle::Invariant;
use crate::replicate::Ledger as _;
use crate::replicate::memory::MemoryLedger;

/// How long it may take until nothing moves any more.
const PATIENCE_MS: u64 = 900_000;

/// How long it takes until a deletion is forgotten whose grace is over: all say what they passed, and look at old ones.
const FORGETTING_MS: u64 = 120_000;

/// How long it takes until what only comparing can bring is everywhere.
const MENDING_MS: u64 = 150_000;

/// How many steps are made between two looks.
const LOOK_STEPS: u64 = 40;

impl World {
    /// Ends all troubles, waits for rest, lets deletions be forgotten, and looks at what is left.
    pub(super) fn come_to_rest(&mut self) {
        self.is_calm = true;
        self.cuts.clear();
        for node in &mut self.nodes {
            node.disk.end_troubles();
            node.skew_ms = 0;
        }
        self.tell(|_| "all troubles are over".to_owned());
        self.wait_for_rest();
        self.go_on_for(MENDING_MS);
        if let Some(difference) = self.difference_of_deletions() {
            self.broken(Invariant::Converges, || difference);
        }
        self.go_on_for(self.plan.grace_ms);
        self.wait_for_rest();
        if self.oracle.violation.is_none() {
            let forgotten_by = (START_UNIX_MS + self.now_ms).saturating_sub(self.plan.grace_ms + FORGETTING_MS);
            self.oracle.at_rest(&self.nodes, HybridTime::from_unix_ms(forgotten_by));
        }
    }

    fn go_on_for(&mut self, duration_ms: u64) {
        let end_ms = self.now_ms + duration_ms;
        while self.oracle.violation.is_none() && self.now_ms < end_ms && self.step() {}
    }

    fn wait_for_rest(&mut self) {
        let end_ms = self.now_ms + PATIENCE_MS;
        while let Some(unrest) = self.unrest() {
            if self.now_ms > end_ms {
                return self.broken(Invariant::Converges, || unrest);
            }
            for _ in 0..LOOK_STEPS {
                if !self.step() {
                    return;
                }
            }
            for node in self.live() {
                self.forget_gone(node);
                self.introduce(node);
                self.release_if_all_were_read(node);
            }
        }
    }

    /// A person gives a `node` that knows nobody, or that nobody has welcomed, another seed: its first one is gone, or waits
    /// for one that is. One of the cluster is taken, if there is any.
    fn introduce(&mut self, node: usize) {
        let knows = self.others(node).iter().any(|other| self.nodes[*other].status != Status::Gone);
        let waits_in_vain = |node: usize| {
            let seed = self.nodes[node].seed;
            seed.is_none_or(|seed| self.nodes[seed].status == Status::Gone || !self.nodes[seed].catalog.belongs)
        };
        if knows && (self.nodes[node].catalog.belongs || !waits_in_vain(node)) {
            return;
        }
        let others: Vec<_> = self.live().into_iter().filter(|other| *other != node).collect();
        let member = others.iter().find(|other| self.nodes[**other].catalog.belongs);
        if let Some(seed) = member.or(others.first().filter(|_| !knows)).copied() {
            self.nodes[node].seed = Some(seed);
            self.announce(node, seed);
        }
    }

    fn live(&self) -> Vec<usize> {
        (0..self.nodes.len()).filter(|node| self.nodes[*node].status == Status::Up).collect()
    }

    /// What still has to come about; `None` if nothing has.
    fn unrest(&self) -> Option<String> {
        if let Some(node) = self.nodes.iter().find(|node| node.status == Status::Down) {
            return Some(format!("{} is down", node.id));
        }
        let live = self.live();
        for index in &live {
            let node = &self.nodes[*index];
            let (id, ledger, memory) = (&node.id, &node.catalog.ledger, &node.memory);
            if let Some(owed) = ledger.wants.iter().chain(&ledger.parked).next() {
                return Some(format!(
                    "{id} is owed {} {} that {} listed",
                    owed.entry.key, owed.entry.version, owed.peer
                ));
            }
            if !memory.coverage.is_settled() || !memory.awaited.is_empty() || !memory.jobs.is_empty() {
                return Some(format!("{id} still works"));
            }
            if node.catalog.is_backup {
                return Some(format!("{id} is a backup"));
            }
            if !node.catalog.belongs && live.iter().any(|other| self.nodes[*other].catalog.belongs) {
                return Some(format!("{id} is not welcome"));
            }
            if self.others(*index).len() + 1 != live.len() {
                return Some(format!("{id} knows {:?}", node.members()));
            }
        }
        self.difference(&live)
    }

    /// In what two of the nodes `live` differ.
    fn difference(&self, live: &[usize]) -> Option<String> {
        let (first, others) = live.split_first()?;
        let first = &self.nodes[*first];
        let lasting = |entry: &&Entry| entry.content().is_some() || matches!(entry.key, EntryKey::Record(_));
        for other in others {
            let other = &self.nodes[*other];
            let ours = first.catalog.ledger.entries.values().map(|(_, entry)| entry).filter(lasting);
            let theirs = other.catalog.ledger.entries.values().map(|(_, entry)| entry).filter(lasting);
            if !ours.clone().eq(theirs.clone()) {
                let told = |entry: &Entry| format!("{} {}", entry.key, entry.version);
                let (ours, theirs): (Vec<_>, Vec<_>) = (ours.map(told).collect(), theirs.map(told).collect());
                return Some(format!("{} lists {ours:?}, {} lists {theirs:?}", first.id, other.id));
            }
            let (Ok(ours), Ok(theirs)) = (first.catalog.ledger.vector(), other.catalog.ledger.vector());
            if ours != theirs {
                return Some(format!("{} has passed {ours:?}, {} has passed {theirs:?}", first.id, other.id));
            }
        }
        None
    }

    /// Which deletion that nobody may have forgotten yet is not listed by all.
    fn difference_of_deletions(&self) -> Option<String> {
        let live = self.live();
        let ledgers: Vec<_> = live.iter().map(|node| &self.nodes[*node].catalog.ledger).collect();
        // Of old deletions some nodes forget a moment before others.
        let horizon = ledgers.iter().filter_map(|ledger| ledger.told_horizon()).max();
        let grace_began = HybridTime::from_unix_ms(START_UNIX_MS + self.now_ms - self.plan.grace_ms);
        let is_remembered =
            |entry: &Entry| entry.version.time >= grace_began && Some(&entry.version) > horizon.as_ref();
        let listed = ledgers.iter().flat_map(|ledger| ledger.entries.values()).map(|(_, entry)| entry);
        for entry in listed.filter(|entry| entry.is_deleted() && is_remembered(entry)) {
            let differs =
                |ledger: &&MemoryLedger| ledger.entries.get(&entry.key).map(|(_, entry)| entry) != Some(entry);
            if let Some(other) = ledgers.iter().copied().find(differs) {
                let (node, Entry { key, version, .. }) = (&other.origin.node, entry);
                return Some(format!("{node} does not list that {key} was deleted as {version}"));
            }
        }
        None
    }
}
