//! How nodes begin, end, and come back.

use std::path::Path;

use super::World;
use crate::disk::SimDisk;
use crate::event::{Event, Task};
use crate::model::{ContentHash, Entry, Epoch, NodeId, Origin};
use crate::node::{BLOBS, Catalog, Job, Memory, SimNode, Status};
use crate::oracle::Invariant;
use crate::replicate::memory::MemoryLedger;
use crate::store::{Blobs, DiskFile as _};

impl World {
    /// Adds a node that will find the others by `seed`.
    pub(super) fn add_node(&mut self, seed: Option<usize>) {
        let index = self.nodes.len();
        let letter = char::from(b'A' + u8::try_from(index).expect("a run has few nodes"));
        let id: NodeId = letter.to_string().parse().expect("a letter is a name");
        let origin = Origin { node: id.clone(), epoch: Epoch::from_bits(self.random.bits()) };
        let catalog = Catalog {
            ledger: MemoryLedger::new(origin),
            rows: [].into(),
            loose: [].into(),
            belongs: seed.is_none(),
            is_backup: false,
        };
        let node = SimNode {
            id,
            status: Status::Down,
            life: 0,
            restores: 0,
            skew_ms: 0,
            seed,
            catalog,
            disk: SimDisk::new(self.random.fork()),
            backup: None,
            memory: Memory::default(),
        };
        self.oracle.meet(index, &node);
        self.nodes.push(node);
        let after_ms = self.random.below(2_000);
        self.queue.add(self.now_ms + after_ms, Event::Start(index));
    }

    /// Starts `index`, with what its disk has kept.
    pub(super) fn start(&mut self, index: usize) {
        if self.nodes[index].status != Status::Down {
            return;
        }
        let life = self.random.bits();
        let node = &mut self.nodes[index];
        node.life += 1;
        node.disk.power_on();
        let wants = &node.catalog.ledger.wants;
        let is_wanted = |hash: &ContentHash| {
            let mut contents = wants.iter().filter_map(|owed| owed.entry.content());
            contents.any(|content| content.hash == *hash)
        };
        let Ok(blobs) = Blobs::open(node.disk.clone(), Path::new(BLOBS), life, is_wanted) else {
            let after_ms = self.random.between(1_000, 20_000);
            self.queue.add(self.now_ms + after_ms, Event::Start(index));
            return;
        };
        node.memory = Memory { blobs: Some(blobs), ..Memory::default() };
        node.status = Status::Up;
        self.tell(|nodes| format!("{} starts, life {}", nodes[index].id, nodes[index].life));
        self.check_all_held(index);
        if self.nodes[index].seed.is_some_and(|seed| self.nodes[seed].status == Status::Gone) {
            let up: Vec<_> = (0..self.nodes.len()).filter(|other| self.nodes[*other].status == Status::Up).collect();
            let others: Vec<_> = up.into_iter().filter(|other| *other != index).collect();
            self.nodes[index].seed = self.random.pick(&others);
        }
        let id = self.nodes[index].id.clone();
        self.enqueue(index, Job::Member { id, is_member: true, answer: None });
        if let Some(seed) = self.nodes[index].seed {
            self.later_within(1, 1_000, index, Task::Announce(seed));
        }
        self.follow_members(index);
        for (task, last_ms) in
            [(Task::Expire, 40_000), (Task::Compare, 90_000), (Task::Unpark, 10_000), (Task::Sweep, 40_000)]
        {
            self.later_within(1_000, last_ms, index, task);
        }
        self.scrub_later(index);
        self.later(1, index, Task::Fetch);
        self.later(1, index, Task::Cover);
    }

    /// Follows the members that are not followed yet, and tells them that this node is there: whoever else knows of it may
    /// burn down before they hear.
    pub(super) fn follow_members(&mut self, index: usize) {
        for peer in self.others(index) {
            if self.nodes[index].memory.pinged.insert(peer) {
                self.later_within(1, 3_000, index, Task::Ping(peer));
                self.later_within(1, 500, index, Task::Pull(peer));
                self.later_within(1, 1_000, index, Task::Announce(peer));
            }
        }
        self.release_if_all_were_read(index);
    }

    /// The power of `index` fails; it comes back later.
    pub(super) fn crash(&mut self, index: usize) {
        self.end(index, Status::Down);
        self.counts.crashes += 1;
        self.tell(|nodes| format!("{} crashes", nodes[index].id));
        let after_ms = self.absence_ms(500, 40_000);
        self.queue.add(self.now_ms + after_ms, Event::Start(index));
    }

    /// How long something is away: mostly not for long, and now and then for longer than deletions are remembered at least.
    pub(super) fn absence_ms(&mut self, first_ms: u64, last_ms: u64) -> u64 {
        if self.random.happens(50) { 3 * self.plan.grace_ms / 2 } else { self.random.between(first_ms, last_ms) }
    }

    /// Ends `index`, with all that it only remembers.
    pub(super) fn end(&mut self, index: usize, status: Status) {
        let node = &mut self.nodes[index];
        node.disk.cut_power();
        // Unfinished files are removed by who drops them, which the disk must not hear of any more.
        drop(std::mem::take(&mut node.memory));
        node.status = status;
        node.life += 1;
    }

    /// Brings `index` back from its copy: a life of its own begins.
    pub(super) fn restore(&mut self, index: usize) {
        let Some((catalog, disk)) = self.nodes[index].backup.clone() else { return };
        if self.somebody_would_be_unknown(index, Some(&catalog)) || !self.somebody_remembers(index) {
            return;
        }
        let epoch = Epoch::from_bits(self.random.bits());
        self.end(index, Status::Down);
        let node = &mut self.nodes[index];
        node.restores += 1;
        node.catalog = catalog;
        node.disk = disk.copy();
        node.catalog.ledger.begin_anew(epoch);
        node.catalog.is_backup = true;
        self.oracle.meet(index, &self.nodes[index]);
        self.counts.restores += 1;
        self.tell(|nodes| {
            let ledger = &nodes[index].catalog.ledger;
            let withheld: Vec<_> =
                ledger.withheld.values().map(|entry| format!("{} {}", entry.key, entry.version)).collect();
            format!("{} is brought back from a copy, epoch {epoch}, withholds {withheld:?}", nodes[index].id)
        });
        let after_ms = self.random.between(1_000, 40_000);
        self.queue.add(self.now_ms + after_ms, Event::Start(index));
    }

    /// Whether there is anyone besides `lost` who is not a backup that has yet to ask the others. If all went back in time
    /// at once, nobody knows of a deletion that all had forgotten, and against that no rule helps either.
    fn somebody_remembers(&self, lost: usize) -> bool {
        let mut others = self.nodes.iter().enumerate().filter(|(index, _)| *index != lost);
        others.any(|(_, node)| node.status != Status::Gone && !node.catalog.is_backup)
    }

    /// Whether nobody would know any more that some node is a member, if `lost` knew no more than `left`. Against that no
    /// rule helps: a deletion waits only for those of whom somebody knows.
    pub(super) fn somebody_would_be_unknown(&self, lost: usize, left: Option<&Catalog>) -> bool {
        let members: Vec<_> = (0..self.nodes.len())
            .filter(|index| self.nodes[*index].status != Status::Gone)
            .map(|index| match index == lost {
                true => (index, left.map(Catalog::members).unwrap_or_default()),
                false => (index, self.nodes[index].members()),
            })
            .collect();
        let is_known = |index: usize| {
            let mut others = members.iter().filter(|(other, _)| *other != index);
            others.any(|(_, members)| members.contains(&self.nodes[index].id))
        };
        members.iter().any(|(index, _)| *index != lost && !is_known(*index))
    }

    /// Whether `index` holds the bytes of `entry`, all of them and right.
    pub(super) fn holds_bytes(&self, index: usize, entry: &Entry) -> bool {
        let Some(content) = entry.content() else { return true };
        let node = &self.nodes[index];
        let Some((_, right)) = self.contents.iter().find(|(hash, _)| *hash == content.hash) else { return false };
        if let Some(row) = node.catalog.rows.get(&content.hash) {
            return row == right;
        }
        let Some(Ok(Some((file, size)))) = node.memory.blobs.as_ref().map(|blobs| blobs.read(&content.hash)) else {
            return false;
        };
        let mut bytes = vec![0; right.len()];
        size == right.len() as u64 && file.read_at(&mut bytes, 0).is_ok() && bytes == *right
    }

    /// Checks that all that `index` lists, and all that it withholds, is held.
    pub(super) fn check_all_held(&mut self, index: usize) {
        let ledger = &self.nodes[index].catalog.ledger;
        let entries = ledger.entries.values().map(|(_, entry)| entry).chain(ledger.withheld.values());
        let missing = entries.into_iter().find(|entry| !self.holds_bytes(index, entry)).cloned();
        if let Some(entry) = missing {
            let detail = format!("{} has lost the bytes of {} {}", self.nodes[index].id, entry.key, entry.version);
            self.broken(Invariant::ListedIsHeld, || detail);
        }
    }
}
