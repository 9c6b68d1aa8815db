//! Messages that arrive, and answers that do not.

use super::World;
use crate::event::Task;
use crate::message::{Answer, Ask, Message};
use crate::model::EntryKey;
use crate::node::{Catalog, Job, Known, Purpose, Request, Status};
use crate::replicate::bucket_of;

/// How long a node rests after a request failed, in milliseconds.
const REST_MS: (u64, u64) = (500, 4_000);

impl World {
    pub(super) fn arrive(&mut self, from: usize, to: usize, message: Message) {
        if self.nodes[to].status != Status::Up || self.cuts.contains_key(&(from, to)) {
            return;
        }
        match message {
            Message::Ask(number, ask) => self.asked(to, from, number, ask),
            Message::Answer(number, answer) => {
                let Some(request) = self.nodes[to].memory.requests.remove(&number) else { return };
                self.answered(to, request, answer);
            }
        }
    }

    fn asked(&mut self, node: usize, from: usize, number: u64, ask: Ask) {
        let answer = match ask {
            Ask::Feed { since, epoch, wait_ms } => return self.asked_feed(node, from, number, (since, epoch, wait_ms)),
            Ask::Blob(hash, offset) => self.piece(node, &hash, offset),
            Ask::Ping => {
                let Catalog { ledger, .. } = &self.nodes[node].catalog;
                let Ok(vector) = crate::replicate::Ledger::vector(ledger);
                Answer::Pong { epoch: ledger.origin.epoch, vector, now_unix_ms: self.clock(node) }
            }
            Ask::Receipts(versions) => {
                self.receipts(node, from, &versions);
                Answer::Noted
            }
            Ask::Announce(id) => {
                let job = Job::Member { id, is_member: true, answer: Some((from, number)) };
                return self.enqueue(node, job);
            }
            Ask::Sums => {
                let ledger = &self.nodes[node].catalog.ledger;
                Answer::Sums(ledger.sums())
            }
            Ask::Bucket(bucket) => {
                let listed = self.nodes[node].catalog.ledger.entries.values().map(|(_, entry)| entry);
                Answer::Bucket(listed.filter(|entry| bucket_of(&entry.key) == bucket).cloned().collect())
            }
        };
        self.answer(node, from, number, answer);
    }

    fn answered(&mut self, node: usize, request: Request, answer: Answer) {
        let Request { peer, purpose } = request;
        match (purpose, answer) {
            (Purpose::Pull, Answer::Feed(part)) => self.read_feed(node, peer, part),
            (Purpose::Fetch(number), Answer::Blob(piece)) => self.got_piece(node, peer, number, piece),
            (Purpose::Ping, Answer::Pong { epoch, vector, now_unix_ms }) => {
                let ahead_ms = now_unix_ms.cast_signed() - self.clock(node).cast_signed();
                let id = self.nodes[peer].id.clone();
                let Ok(own) = crate::replicate::Ledger::vector(&self.nodes[node].catalog.ledger);
                let known = &mut self.nodes[node].memory.known;
                let before = known.remove(&id).filter(|before| before.epoch == epoch);
                let is_another = before.is_none();
                known.insert(id, Known::heard(before, (epoch, vector, ahead_ms), &own));
                // Its database may be of before it heard of this node; or it is welcome itself by now.
                if is_another || !self.nodes[node].catalog.belongs {
                    self.announce(node, peer);
                }
                self.count_copies(node);
            }
            (Purpose::Announce, Answer::Welcome { records, belongs }) => {
                // A seed that waits for the cluster itself may be welcome there later.
                let is_seed = self.nodes[node].seed == Some(peer);
                if is_seed && !belongs && !self.nodes[node].catalog.belongs {
                    self.later_within(REST_MS.0, REST_MS.1, node, Task::Announce(peer));
                }
                let records = records.into_iter().filter(|entry| matches!(entry.key, EntryKey::Record(_))).collect();
                self.enqueue(node, Job::Welcome(records, belongs));
            }
            (Purpose::Compare, Answer::Sums(sums)) => self.got_sums(node, peer, &sums),
            (Purpose::CompareBucket(passed), Answer::Bucket(entries)) => {
                self.enqueue(node, Job::Mend(peer, passed, entries));
            }
            _ => {}
        }
    }

    /// The request `number` of `node` was not answered in time.
    pub(super) fn silence(&mut self, node: usize, number: u64) {
        let Some(Request { peer, purpose }) = self.nodes[node].memory.requests.remove(&number) else { return };
        match purpose {
            Purpose::Pull => self.pull_again(node, peer),
            Purpose::Fetch(number) => self.ask_next_holder(node, number),
            Purpose::Announce => self.later_within(REST_MS.0, REST_MS.1, node, Task::Announce(peer)),
            Purpose::Ping | Purpose::Receipts | Purpose::Compare | Purpose::CompareBucket(_) => {}
        }
    }

    /// Reads the feed of `peer` again after a rest.
    pub(super) fn pull_again(&mut self, node: usize, peer: usize) {
        self.nodes[node].memory.pulling.remove(&peer);
        self.later_within(REST_MS.0, REST_MS.1, node, Task::Pull(peer));
    }
}
