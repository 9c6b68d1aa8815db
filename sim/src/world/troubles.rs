//! Troubles: what comes from outside, and when.

use super::World;
use crate::event::{Ailment, Event};
use crate::model::EntryKey;
use crate::node::{Job, Status};
use crate::plan::{NODES_MAX, Trouble};

/// By how much a clock is wrong at most. Twice that, and the time that messages take, is less than any grace.
const SKEW_MS_MAX: u64 = 100_000;

impl World {
    /// One of the troubles that the plan has.
    pub(super) fn trouble(&mut self) {
        if self.is_calm {
            return;
        }
        let gap_ms = self.random.between(1, self.plan.trouble_gap_ms);
        self.queue.add(self.now_ms + gap_ms, Event::Trouble);
        let Some(trouble) = self.random.pick(&self.plan.troubles) else { return };
        let up: Vec<_> = (0..self.nodes.len()).filter(|node| self.nodes[*node].status == Status::Up).collect();
        let Some(node) = self.random.pick(&up) else { return };
        match trouble {
            Trouble::Crash => self.crash(node),
            Trouble::CrashInCall => {
                let calls = self.random.below(12);
                self.nodes[node].disk.light_fuse(calls as u32);
            }
            Trouble::Cut => self.cut(node),
            Trouble::Disk => {
                let is_full = self.random.happens(500);
                let failures_per_mille = if is_full { 0 } else { self.random.between(50, 400) };
                self.nodes[node].disk.set_trouble(is_full, failures_per_mille);
                let after_ms = self.random.between(5_000, 60_000);
                self.queue.add(self.now_ms + after_ms, Event::Heal(Ailment::Disk(node)));
            }
            Trouble::Clock => {
                let skew_ms = self.random.between(0, 2 * SKEW_MS_MAX).cast_signed() - SKEW_MS_MAX.cast_signed();
                self.nodes[node].skew_ms = if self.random.happens(200) { 0 } else { skew_ms };
            }
            // An old one is the more dangerous the older it is.
            Trouble::Backup if self.nodes[node].backup.is_some() && self.random.happens(700) => {}
            Trouble::Backup => {
                let copy = (self.nodes[node].catalog.clone(), self.nodes[node].disk.copy());
                self.nodes[node].backup = Some(copy);
            }
            Trouble::Restore => self.restore(node),
            Trouble::Join => {
                if self.nodes.len() < NODES_MAX {
                    self.counts.joined += 1;
                    self.add_node(Some(node));
                    // It may not reach anybody at first, for longer than deletions are remembered.
                    if self.random.happens(200) {
                        let newcomer = self.nodes.len() - 1;
                        let ways = (0..newcomer).flat_map(|other| [(newcomer, other), (other, newcomer)]).collect();
                        self.cut_ways(ways, 3 * self.plan.grace_ms / 2);
                    }
                }
            }
            Trouble::Forget => self.burn(node),
            Trouble::LoseRow => self.lose_row(node),
        }
        self.tell(|nodes| format!("{trouble:?} at {}", nodes[node].id));
    }

    /// Cuts some ways of `node`.
    fn cut(&mut self, node: usize) {
        let others: Vec<_> = (0..self.nodes.len()).filter(|other| *other != node).collect();
        let Some(other) = self.random.pick(&others) else { return };
        let ways = match self.random.below(3) {
            0 => vec![(node, other)],
            1 => vec![(node, other), (other, node)],
            _ => others.iter().flat_map(|other| [(node, *other), (*other, node)]).collect(),
        };
        let after_ms = self.absence_ms(1_000, 150_000);
        self.cut_ways(ways, after_ms);
    }

    /// Cuts `ways` for so long.
    fn cut_ways(&mut self, ways: Vec<(usize, usize)>, after_ms: u64) {
        for (from, to) in ways {
            self.counts.cuts += 1;
            *self.cuts.entry((from, to)).or_default() += 1;
            self.queue.add(self.now_ms + after_ms, Event::Heal(Ailment::Cut(from, to)));
        }
    }

    /// `node` is gone for good, and a person says so, if two others are left.
    fn burn(&mut self, node: usize) {
        let up = |other: &usize| *other != node && self.nodes[*other].status == Status::Up;
        let others: Vec<_> = (0..self.nodes.len()).filter(up).collect();
        if others.len() < 2 || self.somebody_would_be_unknown(node, None) {
            return;
        }
        self.end(node, Status::Gone);
        self.counts.forgotten += 1;
        self.forget_gone(others[self.now_ms as usize % others.len()]);
    }

    /// A person tells `node` which nodes are gone, as far as it does not know. One that knows none of those who are left has to
    /// meet them first: else it would be a cluster of its own.
    pub(super) fn forget_gone(&mut self, node: usize) {
        let is_left = |other: &usize| self.nodes[*other].status != Status::Gone;
        let knows_any = self.others(node).iter().any(is_left);
        let is_last = !(0..self.nodes.len()).filter(is_left).any(|other| other != node);
        if !knows_any && !is_last {
            return;
        }
        for other in self.others(node) {
            if self.nodes[other].status == Status::Gone {
                let id = self.nodes[other].id.clone();
                self.enqueue(node, Job::Member { id, is_member: false, answer: None });
            }
        }
    }

    /// `node` loses a row that another one has, too.
    fn lose_row(&mut self, node: usize) {
        let lists = |other: &usize, key: &EntryKey| {
            let row = |node: usize| self.nodes[node].catalog.ledger.entries.get(key).map(|(_, entry)| entry);
            *other != node && self.nodes[*other].status == Status::Up && row(*other) == row(node)
        };
        let others: Vec<_> = (0..self.nodes.len()).collect();
        let rows = self.nodes[node].catalog.ledger.entries.values().map(|(_, entry)| entry);
        let live: Vec<_> = rows
            .filter(|entry| entry.content().is_some() && others.iter().any(|other| lists(other, &entry.key)))
            .map(|entry| entry.key.clone())
            .collect();
        if let Some(key) = self.random.pick(&live) {
            self.nodes[node].catalog.ledger.entries.remove(&key);
            self.oracle.lose(node, &key);
            self.scrub_later(node);
        }
    }
}
