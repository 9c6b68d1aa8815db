//! Clients: they put and delete, and wait for copies. The glue of `src/node/objects.rs` and `copies.rs`.

use std::collections::BTreeSet;

use super::World;
use crate::event::{Event, Task};
use crate::model::{Content, ContentHash, EntryKey, EntryState, Version, WaitFor};
use crate::node::{Awaited, Job, Status, Upload};
use crate::oracle::Invariant;
use crate::random::Random;
use crate::replicate::{AHEAD_MAX_MS, ahead_of_peers_ms};
use crate::store::SMALL_BLOB_BYTES_MAX;

/// How many bytes of a body come at once.
const PIECE_BYTES: u64 = 9_000;

/// What a client asks for.
#[derive(Debug, Clone)]
pub struct ClientRequest {
    /// The key.
    pub key: EntryKey,
    /// How many copies it waits for.
    pub wait_for: WaitFor,
    /// How long.
    pub wait_ms: u64,
    /// Whether it deletes.
    pub is_deletion: bool,
}

/// One of the contents that clients put.
pub(super) fn content(random: &mut Random, large_per_mille: u64) -> (ContentHash, Vec<u8>) {
    let size = match random.happens(large_per_mille) {
        true => random.between(SMALL_BLOB_BYTES_MAX + 1, SMALL_BLOB_BYTES_MAX + 5_000),
        false => random.between(1, 40),
    };
    let mut bytes = Vec::with_capacity(size as usize + 7);
    while (bytes.len() as u64) < size {
        bytes.extend_from_slice(&random.bits().to_le_bytes());
    }
    bytes.truncate(size as usize);
    (ContentHash::of(&bytes), bytes)
}

impl World {
    /// A client asks some node for something.
    pub(super) fn client_request(&mut self) {
        if self.is_calm {
            return;
        }
        let gap_ms = self.random.between(1, self.plan.request_gap_ms);
        self.queue.add(self.now_ms + gap_ms, Event::Request);
        let up: Vec<_> = (0..self.nodes.len()).filter(|node| self.nodes[*node].status == Status::Up).collect();
        let (Some(node), Some(key)) = (self.random.pick(&up), self.random.pick(&self.keys)) else { return };
        let wait_for = match self.random.below(6) {
            0 => WaitFor::All,
            1 => WaitFor::Quorum,
            2 | 3 => WaitFor::Copies(2),
            _ => WaitFor::Copies(1),
        };
        let is_deletion = self.random.happens(self.plan.deletions_per_mille);
        let wait_ms = self.random.between(1_000, 10_000);
        if self.clock_ahead_ms(node) > AHEAD_MAX_MS.cast_signed() {
            return self.tell(|nodes| format!("{} refuses a write, its clock is ahead", nodes[node].id));
        }
        if !self.nodes[node].catalog.belongs {
            return self.tell(|nodes| format!("{} refuses a write, no cluster has welcomed it", nodes[node].id));
        }
        let request = self.requests.len();
        self.requests.push(ClientRequest { key: key.clone(), wait_for, wait_ms, is_deletion });
        if is_deletion {
            return self.enqueue(node, Job::Write { request, key, state: EntryState::Deleted, blob: None });
        }
        let content = self.random.below(self.contents.len() as u64) as usize;
        let Some(writer) = self.nodes[node].memory.blobs.as_ref().map(crate::store::Blobs::create) else { return };
        let number = self.number();
        self.nodes[node].memory.uploads.insert(number, Upload { request, key, content, writer });
        self.later(1, node, Task::Upload(number));
    }

    /// By how much what `node` would stamp now is ahead of the clocks of its peers.
    fn clock_ahead_ms(&self, node: usize) -> i64 {
        let now = self.clock(node);
        let SimNode { catalog, memory, .. } = &self.nodes[node];
        let own = now.max(catalog.ledger.clock.high().unix_ms());
        let peers: Vec<_> = memory.known.values().map(|known| now.saturating_add_signed(known.ahead_ms)).collect();
        ahead_of_peers_ms(own, &peers)
    }

    /// The next bytes of an upload arrive.
    pub(super) fn upload(&mut self, node: usize, number: u64) {
        let Some(mut upload) = self.nodes[node].memory.uploads.remove(&number) else { return };
        let (_, bytes) = &self.contents[upload.content];
        let from = upload.writer.size();
        let piece = &bytes[from as usize..(from + PIECE_BYTES).min(bytes.len() as u64) as usize];
        if upload.writer.write(piece).is_err() {
            return self.tell(|nodes| format!("{} cannot store an upload", nodes[node].id));
        }
        if upload.writer.size() < bytes.len() as u64 {
            self.nodes[node].memory.uploads.insert(number, upload);
            return self.later_within(1, 500, node, Task::Upload(number));
        }
        let Upload { request, key, writer, .. } = upload;
        match writer.finish(None) {
            Ok(blob) => {
                let content = Content {
                    hash: blob.hash(),
                    size: blob.size(),
                    media_type: "a/b".parse().expect("a value"),
                    cache_control: "no-cache".parse().expect("a value"),
                };
                let state = EntryState::Live(content);
                self.enqueue(node, Job::Write { request, key, state, blob: Some(blob) });
            }
            Err(_) => self.tell(|nodes| format!("{} cannot store an upload", nodes[node].id)),
        }
    }

    /// The write of `request` is durable at `node`.
    pub(super) fn written(&mut self, node: usize, request: usize, version: Option<&Version>) {
        let Some(version) = version else { return };
        let ClientRequest { wait_for, wait_ms, .. } = self.requests[request];
        if wait_for == WaitFor::Copies(1) {
            self.reply(node, version.sequence);
        } else {
            self.later(wait_ms, node, Task::EndWait(version.sequence));
            self.count_copies(node);
        }
    }

    /// `from` says that it holds these writes of `node`.
    pub(super) fn receipts(&mut self, node: usize, from: usize, versions: &[Version]) {
        let id = self.nodes[from].id.clone();
        let SimNode { catalog, memory, .. } = &mut self.nodes[node];
        for version in versions.iter().filter(|version| version.origin == catalog.ledger.origin) {
            if let Some(awaited) = memory.awaited.get_mut(&version.sequence) {
                awaited.holders.insert(id.clone());
            }
        }
        self.count_copies(node);
    }

    /// Answers the clients whose writes have as many copies as they asked for.
    pub(super) fn count_copies(&mut self, node: usize) {
        let registered = self.nodes[node].members().len();
        let awaited = self.nodes[node].memory.awaited.values();
        let met: Vec<_> = awaited
            .filter(|awaited| awaited.wait_for.is_met(self.holders(node, awaited).len(), registered))
            .map(|awaited| awaited.version.sequence)
            .collect();
        for sequence in met {
            self.check_count(node, sequence);
            self.reply(node, sequence);
        }
    }

    /// A write that asked for so many copies is answered in time only if so many nodes have it.
    fn check_count(&mut self, node: usize, sequence: u64) {
        let awaited = &self.nodes[node].memory.awaited[&sequence];
        let count = self.holders(node, awaited).len();
        let registered = self.nodes[node].members().len();
        let asked = match awaited.wait_for {
            WaitFor::Copies(copies) => copies as usize,
            WaitFor::Quorum => registered / 2 + 1,
            WaitFor::All => registered,
        };
        if count < asked {
            let detail = format!("{} is answered with {count} copies, and asked for {asked}", awaited.version);
            self.oracle.broken(Invariant::CopiesAreDurable, || detail);
        }
    }

    /// A client has waited long enough: it is told how many copies there are.
    pub(super) fn end_wait(&mut self, node: usize, sequence: u64) {
        self.reply(node, sequence);
    }

    /// The registered nodes that hold a write.
    fn holders(&self, node: usize, awaited: &Awaited) -> BTreeSet<usize> {
        let SimNode { id, memory, .. } = &self.nodes[node];
        let mut holders = awaited.holders.clone();
        let passed = memory.known.iter().filter(|(_, known)| known.vector.has_passed(&awaited.version));
        holders.extend(passed.map(|(id, _)| id.clone()));
        holders.insert(id.clone());
        let members = self.nodes[node].members();
        holders.iter().filter(|id| members.contains(*id)).filter_map(|id| self.index_of(id)).collect()
    }

    /// Answers the client that waits for the write at `sequence`.
    fn reply(&mut self, node: usize, sequence: u64) {
        let Some(awaited) = self.nodes[node].memory.awaited.get(&sequence).cloned() else { return };
        let holders: Vec<_> = self
            .holders(node, &awaited)
            .into_iter()
            .filter_map(|holder| Some((holder, *awaited.restores.get(holder)?)))
            .collect();
        self.nodes[node].memory.awaited.remove(&sequence);
        let ClientRequest { key, is_deletion, .. } = self.requests[awaited.request].clone();
        self.counts.deletions += u64::from(is_deletion);
        self.counts.writes += u64::from(!is_deletion);
        self.oracle.acknowledged(&self.nodes, &key, &awaited.version, &holders);
        self.tell(|nodes| {
            let holders: String = holders.iter().map(|(holder, _)| nodes[*holder].id.as_str()).collect();
            format!("{} answers: {key} {} is held by {holders}", nodes[node].id, awaited.version)
        });
    }
}

use crate::node::SimNode;
