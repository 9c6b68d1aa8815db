//! Feeds: how they are asked for, answered and recorded, and what follows from that. The glue of `src/node/pull.rs`,
//! `feed.rs`, `passed.rs`, `receipts.rs` and `restore.rs`.

use super::World;
use crate::event::Task;
use crate::message::{Answer, Ask, FeedPart};
use crate::model::{Cursor, EntryKey, Epoch, NodeId, Version, VersionVector};
use crate::node::{Job, Poll, Purpose};
use crate::oracle::Invariant;
use crate::replicate::{Debt, Ledger as _, Page, resume_at};

/// How long a peer may wait for news.
const WAIT_MS: u64 = 15_000;

impl World {
    pub(super) fn pull(&mut self, node: usize, peer: usize) {
        if !self.others(node).contains(&peer) {
            self.nodes[node].memory.pinged.remove(&peer);
            self.nodes[node].memory.pulling.remove(&peer);
            return;
        }
        if !self.nodes[node].memory.pulling.insert(peer) {
            return;
        }
        let cursor = self.nodes[node].catalog.ledger.cursors.get(&self.nodes[peer].id).copied();
        let is_first = !self.nodes[node].memory.read.contains_key(&self.nodes[peer].id);
        let ask = Ask::Feed {
            since: cursor.map_or(0, |cursor| cursor.since),
            epoch: cursor.map(|cursor| cursor.epoch),
            wait_ms: if is_first { 0 } else { WAIT_MS },
        };
        self.ask(node, peer, Purpose::Pull, ask);
    }

    pub(super) fn asked_feed(
        &mut self,
        node: usize,
        from: usize,
        number: u64,
        (since, asked, wait_ms): (u64, Option<Epoch>, u64),
    ) {
        let ledger = &self.nodes[node].catalog.ledger;
        let since = resume_at(since, asked, ledger.origin.epoch, ledger.sequence);
        let part = self.nodes[node].feed_part(since, self.plan.page);
        if !part.entries.is_empty() || wait_ms == 0 {
            return self.answer_feed(node, from, number, part);
        }
        self.nodes[node].memory.polls.insert(number, Poll { peer: from, since: part.next });
        self.later(wait_ms, node, Task::AnswerPoll(number));
    }

    pub(super) fn answer_poll(&mut self, node: usize, number: u64) {
        let Some(Poll { peer, since }) = self.nodes[node].memory.polls.remove(&number) else { return };
        let part = self.nodes[node].feed_part(since, self.plan.page);
        self.answer_feed(node, peer, number, part);
    }

    /// Answers those who wait for news, if there is some.
    pub(super) fn answer_polls(&mut self, node: usize) {
        let head = self.nodes[node].catalog.ledger.sequence;
        let polls = &self.nodes[node].memory.polls;
        let due: Vec<_> = polls.iter().filter(|(_, poll)| poll.since < head).map(|(number, _)| *number).collect();
        for number in due {
            self.answer_poll(node, number);
        }
    }

    fn answer_feed(&mut self, node: usize, peer: usize, number: u64, part: FeedPart) {
        if let Some(entry) = part.entries.iter().find(|entry| !self.holds_bytes(node, entry)) {
            let detail = format!("{} lists {} {} without its bytes", self.nodes[node].id, entry.key, entry.version);
            self.broken(Invariant::ListedIsHeld, || detail);
        }
        self.answer(node, peer, number, Answer::Feed(part));
    }

    /// `peer` has answered with a part of its feed.
    pub(super) fn read_feed(&mut self, node: usize, peer: usize, part: FeedPart) {
        let id = self.nodes[peer].id.clone();
        let FeedPart { epoch, entries, next, awaited, end } = part;
        let cursor = Cursor { epoch, since: next };
        let ledger = &self.nodes[node].catalog.ledger;
        if entries.is_empty() && ledger.cursors.get(&id) == Some(&cursor) {
            let mut brings_news = false;
            if let Some((vector, horizon)) = &end {
                let Ok(own) = ledger.vector();
                brings_news = !own.covers(vector);
                self.was_read_to_end(node, &id, (epoch, vector), horizon.clone());
            }
            if !brings_news {
                self.nodes[node].memory.pulling.remove(&peer);
                return self.later_within(1, 10, node, Task::Pull(peer));
            }
        }
        let horizon = end.as_ref().and_then(|(_, horizon)| horizon.clone());
        self.enqueue(node, Job::Absorb { page: Page { peer: id, entries, cursor, horizon }, awaited, end });
    }

    /// A part of the feed of `peer` is recorded.
    pub(super) fn absorbed(
        &mut self,
        node: usize,
        (peer, epoch): (&NodeId, Epoch),
        held: Vec<(EntryKey, Version)>,
        end: Option<(VersionVector, Option<Version>)>,
        debt: Debt,
    ) {
        for (key, version) in held {
            self.send_receipts(node, &key, &version);
        }
        if let Some((vector, horizon)) = end {
            self.was_read_to_end(node, peer, (epoch, &vector), horizon);
            self.nodes[node].memory.coverage.read_to_end(peer, vector, debt);
            self.later_within(1, 50, node, Task::Cover);
        }
        if let Some(peer) = self.index_of(peer) {
            self.nodes[node].memory.pulling.remove(&peer);
            self.later_within(1, 10, node, Task::Pull(peer));
        }
    }

    fn was_read_to_end(
        &mut self,
        node: usize,
        peer: &NodeId,
        (epoch, vector): (Epoch, &VersionVector),
        horizon: Option<Version>,
    ) {
        let memory = &mut self.nodes[node].memory;
        // The first reading counts, or what is written meanwhile would put it off; but not that of a former life.
        if memory.read.get(peer).is_none_or(|(before, _)| *before != epoch) {
            memory.read.insert(peer.clone(), (epoch, vector.clone()));
        }
        memory.read_horizon = memory.read_horizon.take().max(horizon);
        self.release_if_all_were_read(node);
    }

    /// Looks at the entries of a backup, if that can be done now. Only a person can say that there are no others.
    pub(super) fn release_if_all_were_read(&mut self, node: usize) {
        let others = self.others(node);
        let SimNode { catalog, memory, .. } = &self.nodes[node];
        let is_alone = others.is_empty() && !self.is_calm;
        let Ok(own) = catalog.ledger.vector();
        // What is known of, but not held yet, would be taken for unknown.
        let was_read =
            |other: &usize| memory.read.get(&self.nodes[*other].id).is_some_and(|(_, read)| own.covers(read));
        let were_read = others.iter().all(was_read);
        if catalog.is_backup && !memory.releases && !is_alone && were_read {
            let horizon = memory.read_horizon.clone();
            self.nodes[node].memory.releases = true;
            self.enqueue(node, Job::Release(horizon));
        }
    }

    /// `version` of `key` is held: whoever waits for it, or for something before it, is told.
    pub(super) fn send_receipts(&mut self, node: usize, key: &EntryKey, version: &Version) {
        let Some(promised) = self.nodes[node].memory.promised.get_mut(key) else { return };
        let due: Vec<_> = promised.extract_if(.., |promised| *promised <= *version).collect();
        for version in due {
            if let Some(origin) = self.index_of(&version.origin.node).filter(|origin| *origin != node) {
                self.ask(node, origin, Purpose::Receipts, Ask::Receipts(vec![version]));
            }
        }
    }

    /// Writes down what was passed, if that is news.
    pub(super) fn cover(&mut self, node: usize) {
        let memory = &self.nodes[node].memory;
        if !memory.coverage.is_settled() && !memory.jobs.iter().any(|job| matches!(job, Job::Cover)) {
            self.enqueue(node, Job::Cover);
        }
    }
}

use crate::node::SimNode;
