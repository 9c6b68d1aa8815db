//! Fetching what is wanted: from any holder, resumed where it broke off, verified by hash. The glue of
//! `src/node/fetch/`.

use super::World;
use crate::disk::SimDisk;
use crate::event::Task;
use crate::message::{Answer, Ask};
use crate::model::{Content, ContentHash, Entry};
use crate::node::{Fetch, Job, Purpose, SimNode};
use crate::replicate::Ledger as _;
use crate::store::{BlobWriter, Blobs, DiskFile as _, SMALL_BLOB_BYTES_MAX, StoreError};

/// How many blobs are fetched at once.
const PARALLEL: usize = 3;

/// How many bytes one answer has at most.
const PIECE_BYTES: usize = 7_000;

/// How long wants rest after one failed, in milliseconds.
const REST_MS: (u64, u64) = (1_000, 5_000);

impl World {
    /// Begins to fetch what is wanted and is not being fetched.
    pub(super) fn fetch(&mut self, node: usize) {
        let wants = self.nodes[node].catalog.ledger.wants.iter();
        let mut due: Vec<_> = wants.map(|owed| owed.entry.clone()).collect();
        self.random.shuffle(&mut due);
        for entry in due {
            let memory = &self.nodes[node].memory;
            let Some(blobs) = &memory.blobs else { return };
            if memory.fetches.len() >= PARALLEL {
                return;
            }
            // An unfinished blob has but one writer.
            if memory.fetches.values().any(|fetch| hash_of(&fetch.entry) == hash_of(&entry)) {
                continue;
            }
            let content = entry.content().expect("only bytes are wanted");
            let Ok(writer) = resume(blobs, content) else { continue };
            let SimNode { catalog, id, .. } = &self.nodes[node];
            let Ok(lister) = catalog.ledger.lister(&entry);
            let in_doubt = lister.as_ref() == Some(id);
            let fetch = Fetch { entry, holders: Vec::new(), writer, advanced: true, in_doubt, denied: [].into() };
            let number = self.number();
            self.nodes[node].memory.fetches.insert(number, fetch);
            self.ask_next_holder(node, number);
        }
    }

    /// Goes on with the fetch `number` at its next holder; when all were asked, anew if that brought anything.
    pub(super) fn ask_next_holder(&mut self, node: usize, number: u64) {
        let mut others = self.others(node);
        self.random.shuffle(&mut others);
        let wanted = &self.nodes[node].catalog.ledger.wants;
        let Some(fetch) = self.nodes[node].memory.fetches.get(&number) else { return };
        let is_wanted = wanted.iter().any(|owed| owed.entry.version == fetch.entry.version);
        if !is_wanted {
            if let Some(fetch) = self.nodes[node].memory.fetches.remove(&number) {
                fetch.writer.discard();
            }
            return self.end_fetch(node, number);
        }
        let fetch = self.nodes[node].memory.fetches.get_mut(&number).expect("it was there above");
        if fetch.holders.is_empty() && std::mem::take(&mut fetch.advanced) {
            fetch.holders = others;
        }
        let Some(holder) = fetch.holders.last().copied() else { return self.give_up(node, number) };
        let hash = fetch.entry.content().expect("only bytes are wanted").hash;
        let offset = fetch.writer.size();
        fetch.holders.pop();
        self.ask(node, holder, Purpose::Fetch(number), Ask::Blob(hash, offset));
    }

    /// All holders were asked. If every member has said that it lacks the bytes, the want is put in doubt; if it was when
    /// they were asked, they went with a node that is forgotten, and whoever gets hold of them in spite of that will list them
    /// anew.
    fn give_up(&mut self, node: usize, number: u64) {
        let others = self.others(node);
        let fetch = &self.nodes[node].memory.fetches[&number];
        if others.iter().all(|other| fetch.denied.contains(other)) {
            let entry = fetch.entry.clone();
            let job = if fetch.in_doubt { Job::GiveUp(entry) } else { Job::Doubt(entry) };
            self.enqueue(node, job);
        }
        self.end_fetch(node, number);
    }

    fn end_fetch(&mut self, node: usize, number: u64) {
        self.nodes[node].memory.fetches.remove(&number);
        self.later_within(REST_MS.0, REST_MS.1, node, Task::Fetch);
    }

    /// The piece of the blob `hash` from `offset` on.
    pub(super) fn piece(&mut self, node: usize, hash: &ContentHash, offset: u64) -> Answer {
        let SimNode { catalog, memory, .. } = &self.nodes[node];
        let offset = offset as usize;
        let found = match catalog.rows.get(hash) {
            Some(row) => Some((row[offset.min(row.len())..].to_vec(), row.len())),
            None => match memory.blobs.as_ref().map(|blobs| blobs.read(hash)) {
                Some(Ok(Some((file, size)))) => {
                    let size = size as usize;
                    let mut bytes = vec![0; size.saturating_sub(offset).min(PIECE_BYTES)];
                    file.read_at(&mut bytes, offset as u64).ok().map(|_| (bytes, size))
                }
                _ => None,
            },
        };
        let Some((mut bytes, size)) = found else { return Answer::Blob(None) };
        let is_last = offset + bytes.len() >= size;
        let corrupted_per_mille = if self.is_calm { 0 } else { self.plan.corrupted_per_mille };
        if !bytes.is_empty() && self.random.happens(corrupted_per_mille) {
            let place = self.random.below(bytes.len() as u64) as usize;
            bytes[place] ^= 1;
        }
        Answer::Blob(Some((bytes, is_last)))
    }

    /// `holder` has answered with a piece.
    pub(super) fn got_piece(&mut self, node: usize, holder: usize, number: u64, piece: Option<(Vec<u8>, bool)>) {
        let memory = &mut self.nodes[node].memory;
        let (Some(fetch), Some(blobs)) = (memory.fetches.get_mut(&number), &memory.blobs) else { return };
        let content = fetch.entry.content().expect("only bytes are wanted").clone();
        let Some((bytes, is_last)) = piece else {
            fetch.denied.insert(holder);
            return self.ask_next_holder(node, number);
        };
        fetch.denied.remove(&holder);
        let rest = (content.size - fetch.writer.size().min(content.size)) as usize + 1;
        if fetch.writer.write(&bytes[..bytes.len().min(rest)]).is_err() {
            return self.end_fetch(node, number);
        }
        fetch.advanced |= !bytes.is_empty();
        if !is_last && fetch.writer.size() < content.size {
            let offset = fetch.writer.size();
            // A transfer may break off anywhere; the next holder goes on from there.
            if self.random.happens(50) {
                return self.ask_next_holder(node, number);
            }
            return self.ask(node, holder, Purpose::Fetch(number), Ask::Blob(content.hash, offset));
        }
        let whole = std::mem::replace(&mut fetch.writer, blobs.create());
        let entry = fetch.entry.clone();
        match whole.finish(Some(content.hash)) {
            Ok(blob) => self.enqueue(node, Job::Conclude { number, entry, blob }),
            Err(StoreError::Mismatch { .. }) => match resume(blobs, &content) {
                Ok(writer) => {
                    fetch.writer = writer;
                    self.ask_next_holder(node, number);
                }
                Err(_) => self.end_fetch(node, number),
            },
            Err(_) => self.end_fetch(node, number),
        }
    }
}

/// The blob that is to become `content`, with what is here of it.
fn resume(blobs: &Blobs<SimDisk>, content: &Content) -> Result<BlobWriter<SimDisk>, StoreError> {
    if content.size <= SMALL_BLOB_BYTES_MAX { Ok(blobs.create()) } else { blobs.resume(content.hash) }
}

fn hash_of(entry: &Entry) -> Option<ContentHash> {
    entry.content().map(|content| content.hash)
}
