//! Commits: what waits becomes durable together, or none of it; then those who wait are told. The glue of
//! `src/store/catalog`.

use std::collections::BTreeMap;

use super::World;
use crate::disk::SimDisk;
use crate::event::Task;
use crate::message::Answer;
use crate::model::{
    ContentHash, Entry, EntryKey, EntryState, HybridTime, NodeId, Origin, RecordKey, Version, VersionVector,
};
use crate::node::{Awaited, Catalog, Effect, Job, SimNode};
use crate::replicate::memory::MemoryLedger;
use crate::replicate::{self, Ledger as _, Page};
use crate::store::{Blobs, FreshBlob, Removal};

/// What the record of a node says here.
const MEMBER: &str = "{}";

/// How long bytes are kept that nothing names.
const BLOB_GRACE_MS: u64 = 60_000;

/// How many old deletions, or entries of a backup, one commit looks at.
const PART: usize = 4;

impl World {
    /// Lets `job` wait for the next commit.
    pub(super) fn enqueue(&mut self, node: usize, job: Job) {
        let memory = &mut self.nodes[node].memory;
        memory.jobs.push(job);
        if !std::mem::replace(&mut memory.commits, true) {
            self.later_within(1, 30, node, Task::Commit);
        }
    }

    /// Commits a group of what waits.
    pub(super) fn commit(&mut self, node: usize) {
        let memory = &mut self.nodes[node].memory;
        memory.commits = false;
        let count = memory.jobs.len().min(self.plan.group);
        let jobs: Vec<_> = memory.jobs.drain(..count).collect();
        if !memory.jobs.is_empty() {
            memory.commits = true;
            self.later_within(1, 30, node, Task::Commit);
        }
        // Sweeps move files before the commit is durable, and they stay moved when it fails.
        let before = jobs.iter().any(|job| matches!(job, Job::Sweep(_))).then(|| self.nodes[node].catalog.clone());
        if before.is_none() && self.nodes[node].disk.touch().is_err() {
            self.tell(|nodes| format!("{} cannot commit {} jobs", nodes[node].id, jobs.len()));
            for job in jobs {
                self.failed(node, job);
            }
            return;
        }
        let head = self.nodes[node].catalog.ledger.sequence;
        let is_news = jobs.iter().any(|job| !matches!(job, Job::Cover));
        let members = self.nodes[node].members();
        let mut effects: Vec<_> = jobs.into_iter().map(|job| self.apply_and_note(node, job)).collect();
        if let Some(before) = before
            && self.nodes[node].disk.touch().is_err()
        {
            return self.roll_back(node, before, effects);
        }
        let now_unix_ms = self.clock(node);
        self.oracle.committed(node, &self.nodes, now_unix_ms);
        // The power may fail when all is durable and nobody was told.
        if self.nodes[node].disk.touch().is_err() && self.nodes[node].disk.is_off() {
            return;
        }
        // Those who wait are told at once, and go on in any order.
        self.random.shuffle(&mut effects);
        for effect in effects {
            self.take_effect(node, effect);
        }
        if self.nodes[node].catalog.ledger.sequence > head {
            self.answer_polls(node);
        }
        if self.nodes[node].members() != members {
            self.follow_members(node);
        }
        if !self.nodes[node].catalog.ledger.wants.is_empty() {
            self.later_within(1, self.plan.fetch_ms, node, Task::Fetch);
        }
        if is_news {
            self.later_within(1, 60, node, Task::Cover);
        }
    }

    /// Takes a group back that was not committed.
    fn roll_back(&mut self, node: usize, before: Catalog, effects: Vec<Effect>) {
        self.tell(|nodes| format!("{} cannot commit what it did", nodes[node].id));
        let memory = &mut self.nodes[node].memory;
        memory.awaited.retain(|sequence, _| *sequence <= before.ledger.origin_sequence);
        memory.releases = false;
        self.nodes[node].catalog = before;
        for effect in effects {
            match effect {
                Effect::Absorbed { peer, .. } => {
                    if let Some(peer) = self.index_of(&peer) {
                        self.pull_again(node, peer);
                    }
                }
                Effect::Concluded { number, .. } => drop(self.nodes[node].memory.fetches.remove(&number)),
                Effect::Swept(_, released) => self.nodes[node].memory.released.extend(released),
                _ => {}
            }
        }
        self.later_within(1_000, 3_000, node, Task::Fetch);
        self.later_within(1_000, 3_000, node, Task::Cover);
    }

    /// Makes the change of `job`, and notes the blobs that nothing may name any more.
    fn apply_and_note(&mut self, node: usize, job: Job) -> Effect {
        let named = self.nodes[node].catalog.ledger.references();
        let effect = self.apply(node, job);
        let Catalog { ledger, loose, .. } = &mut self.nodes[node].catalog;
        loose.extend(named.difference(&ledger.references()).map(|hash| (*hash, None)));
        effect
    }

    /// Makes the change of `job` in what is being committed.
    fn apply(&mut self, node: usize, job: Job) -> Effect {
        let now = self.clock(node);
        self.tell(|nodes| format!("{} commits {}", nodes[node].id, told(&job)));
        let others: Vec<_> = self.others(node).into_iter().map(|other| self.nodes[other].id.clone()).collect();
        let SimNode { catalog, memory, id, .. } = &mut self.nodes[node];
        let ledger = &mut catalog.ledger;
        match job {
            Job::Write { request, key, state, blob } => self.write_down(node, request, key, state, blob.as_ref()),
            Job::Member { id, is_member, answer } => {
                set_member(ledger, &id, is_member, now);
                Effect::Member { answer }
            }
            Job::Absorb { page, awaited, end } => {
                let Ok(parked) = replicate::absorb(ledger, &page, now);
                self.counts.parked += parked as u64;
                let Ok(debt) = ledger.debt();
                let held = promise(ledger, &mut memory.promised, &page, &awaited);
                Effect::Absorbed { peer: page.peer, epoch: page.cursor.epoch, held, end, debt }
            }
            Job::Conclude { number, entry, blob } => {
                let Ok(is_listed) = replicate::conclude(ledger, &entry);
                catalog.rows.extend(row_of(&blob).filter(|_| is_listed));
                let held = ledger.entries.get(&entry.key).map(|(_, entry)| (entry.key.clone(), entry.version.clone()));
                Effect::Concluded { number, held }
            }
            Job::Doubt(entry) => {
                let Ok(_) = replicate::doubt(ledger, &entry, |lister| others.contains(lister));
                Effect::Done
            }
            Job::GiveUp(entry) => {
                let Ok(_) = replicate::give_up(ledger, &mut memory.coverage, &entry);
                Effect::Done
            }
            Job::Cover => {
                let Ok(debt) = ledger.debt();
                let passed = memory.coverage.passed(debt);
                let Ok(()) = ledger.cover(&passed);
                Effect::Covered(passed)
            }
            Job::Unpark => {
                let Ok(_) = replicate::unpark(ledger, now);
                Effect::Done
            }
            Job::Expire(vectors) => {
                let time = HybridTime::from_unix_ms(now.saturating_sub(self.plan.grace_ms));
                self.counts.expired += expire_all(ledger, time, &vectors);
                Effect::Done
            }
            Job::Welcome(records, belongs) => be_welcome(catalog, id, &records, belongs, now),
            Job::Mend(peer, passed, entries) => self.mend(node, peer, &passed, &entries),
            Job::Sweep(released) => {
                catalog.note_loose(&released);
                let moved = memory.blobs.as_ref().map(|blobs| sweep(catalog, blobs, now));
                Effect::Swept(moved.unwrap_or_default(), released)
            }
            Job::Scrub(unnamed) => {
                catalog.note_loose(&unnamed);
                catalog.ledger.recount();
                Effect::Done
            }
            Job::Release(horizon) => {
                release_all(ledger, horizon.as_ref());
                catalog.is_backup = false;
                Effect::Done
            }
        }
    }

    /// Makes the write of a client, unless it is a deletion of nothing.
    fn write_down(
        &mut self,
        node: usize,
        request: usize,
        key: EntryKey,
        state: EntryState,
        blob: Option<&FreshBlob>,
    ) -> Effect {
        let now = self.clock(node);
        let restores = self.nodes.iter().map(|node| node.restores).collect();
        let SimNode { catalog, memory, .. } = &mut self.nodes[node];
        let ledger = &mut catalog.ledger;
        let is_there = ledger.entries.get(&key).is_some_and(|(_, entry)| entry.content().is_some());
        if state == EntryState::Deleted && !is_there && !ledger.withheld.contains_key(&key) {
            return Effect::Written { request, version: None };
        }
        catalog.rows.extend(blob.and_then(row_of));
        let Ok(Entry { version, .. }) = replicate::write(ledger, key, state, now);
        let wait_for = self.requests[request].wait_for;
        let awaited = Awaited { version: version.clone(), request, wait_for, holders: [].into(), restores };
        memory.awaited.insert(version.sequence, awaited);
        Effect::Written { request, version: Some(version) }
    }

    /// Takes in what a peer lists in a bucket and the feeds should have brought.
    fn mend(&mut self, node: usize, peer: usize, passed: &crate::model::VersionVector, entries: &[Entry]) -> Effect {
        let now = self.clock(node);
        let peer = self.nodes[peer].id.clone();
        let grace_ms = self.plan.grace_ms;
        let SimNode { catalog, memory, .. } = &mut self.nodes[node];
        let ledger = &mut catalog.ledger;
        let said = memory.known.iter().map(|(node, known)| Origin { node: node.clone(), epoch: known.epoch });
        let lives = said.filter(|origin| is_member(ledger, &origin.node)).collect();
        let comparison = replicate::Comparison { passed: passed.clone(), lives, grace_ms };
        let Ok(_) = comparison.mend(ledger, &peer, entries, now);
        Effect::Done
    }

    fn take_effect(&mut self, node: usize, effect: Effect) {
        match effect {
            Effect::Written { request, version } => self.written(node, request, version.as_ref()),
            Effect::Member { answer: Some((peer, number)) } => {
                let Catalog { ledger, belongs, .. } = &self.nodes[node].catalog;
                let listed = ledger.entries.values().map(|(_, entry)| entry);
                let records = listed.filter(|entry| matches!(entry.key, EntryKey::Record(_))).cloned().collect();
                self.answer(node, peer, number, Answer::Welcome { records, belongs: *belongs });
            }
            Effect::Absorbed { peer, epoch, held, end, debt } => {
                self.absorbed(node, (&peer, epoch), held, end, debt);
            }
            Effect::Concluded { number, held } => {
                self.nodes[node].memory.fetches.remove(&number);
                if let Some((key, version)) = held {
                    self.send_receipts(node, &key, &version);
                }
            }
            Effect::Covered(passed) => self.nodes[node].memory.coverage.settle(&passed),
            Effect::Swept(files, _) => drop(files),
            Effect::Member { answer: None } | Effect::Done => {}
        }
    }

    /// `job` was not committed.
    fn failed(&mut self, node: usize, job: Job) {
        match job {
            Job::Absorb { page, .. } => {
                if let Some(peer) = self.index_of(&page.peer) {
                    self.pull_again(node, peer);
                }
            }
            Job::Conclude { number, .. } => {
                self.nodes[node].memory.fetches.remove(&number);
                self.later_within(1_000, 3_000, node, Task::Fetch);
            }
            Job::Member { answer: None, id, is_member: true } if id == self.nodes[node].id => {
                self.enqueue(node, Job::Member { id, is_member: true, answer: None });
            }
            Job::Welcome(..) => self.enqueue(node, job),
            Job::Release(_) => {
                self.nodes[node].memory.releases = false;
                self.later_within(1_000, 3_000, node, Task::Cover);
            }
            Job::Cover => self.later_within(1_000, 3_000, node, Task::Cover),
            Job::Scrub(_) => self.scrub_later(node),
            _ => {}
        }
    }
}

/// Takes in the `records` that a node gave for an announcement, which `belongs` to the cluster or not.
fn be_welcome(catalog: &mut Catalog, id: &NodeId, records: &[Entry], belongs: bool, now_unix_ms: u64) -> Effect {
    for entry in records {
        let Ok(_) = replicate::take_in(&mut catalog.ledger, entry, id, now_unix_ms);
    }
    catalog.belongs |= belongs;
    Effect::Done
}

fn is_member(ledger: &MemoryLedger, id: &NodeId) -> bool {
    let record = ledger.entries.get(&EntryKey::Record(RecordKey::node(id)));
    record.is_some_and(|(_, entry)| !entry.is_deleted())
}

/// Writes the record of the node `id`, unless it says so already.
fn set_member(ledger: &mut crate::replicate::memory::MemoryLedger, id: &NodeId, is_member: bool, now_unix_ms: u64) {
    let key = EntryKey::Record(RecordKey::node(id));
    let state = if is_member { EntryState::Record(MEMBER.to_owned()) } else { EntryState::Deleted };
    // That a member was removed is final.
    let is_known = |entry: &Entry| entry.state == state || entry.is_deleted();
    if !ledger.entries.get(&key).map_or(!is_member, |(_, entry)| is_known(entry)) {
        let Ok(_) = replicate::write(ledger, key, state, now_unix_ms);
    }
}

/// Frees the blobs that nothing has named for long, unless somebody is about to; answers their files.
fn sweep(catalog: &mut Catalog, blobs: &Blobs<SimDisk>, now_unix_ms: u64) -> Vec<Removal<SimDisk>> {
    for since in catalog.loose.values_mut() {
        since.get_or_insert(now_unix_ms);
    }
    let named = catalog.ledger.references();
    let mut files = Vec::new();
    for (hash, since) in catalog.loose.clone() {
        if since.is_none_or(|since| since + BLOB_GRACE_MS > now_unix_ms) {
            continue;
        }
        if !named.contains(&hash) {
            match blobs.take_away(&hash) {
                Ok(Removal::Pinned) | Err(_) => {
                    catalog.loose.insert(hash, Some(now_unix_ms));
                    continue;
                }
                Ok(removal) => files.push(removal),
            }
            catalog.rows.remove(&hash);
        }
        catalog.loose.remove(&hash);
    }
    files
}

/// What the catalogue keeps of `blob`.
fn row_of(blob: &FreshBlob) -> Option<(ContentHash, Vec<u8>)> {
    blob.as_row().map(|bytes| (blob.hash(), bytes.to_vec()))
}

/// Drops what all of `vectors` have passed; answers how much that was.
fn expire_all(ledger: &mut MemoryLedger, time: HybridTime, vectors: &[VersionVector]) -> u64 {
    let (mut dropped, mut after) = (0, None);
    loop {
        let passed = |version: &_| vectors.iter().all(|vector| vector.has_passed(version));
        let Ok(part) = replicate::expire(ledger, time, after, PART, passed);
        dropped += part.dropped as u64;
        after = part.after;
        if after.is_none() {
            return dropped;
        }
    }
}

/// Lists what a backup has and nobody can have forgotten the deletion of.
fn release_all(ledger: &mut MemoryLedger, horizon: Option<&Version>) {
    let mut after = None;
    loop {
        let Ok(part) = replicate::release(ledger, horizon, after.as_ref(), PART);
        after = part.after;
        if after.is_none() {
            return;
        }
    }
}

/// Promises receipts for what `page` lists at the places `awaited`; answers what is held now of all that was promised.
fn promise(
    ledger: &MemoryLedger,
    promises: &mut BTreeMap<EntryKey, Vec<Version>>,
    page: &Page,
    awaited: &[usize],
) -> Vec<(EntryKey, Version)> {
    for entry in awaited.iter().filter_map(|place| page.entries.get(*place)) {
        promises.entry(entry.key.clone()).or_default().push(entry.version.clone());
    }
    let promised = page.entries.iter().filter(|entry| promises.contains_key(&entry.key));
    let listed = promised.filter_map(|entry| ledger.entries.get(&entry.key));
    listed.map(|(_, entry)| (entry.key.clone(), entry.version.clone())).collect()
}

fn told(job: &Job) -> String {
    let entries = |entries: &[Entry]| {
        let texts: Vec<_> = entries.iter().map(|entry| format!("{} {}", entry.key, entry.version)).collect();
        texts.join(", ")
    };
    match job {
        Job::Write { key, state, .. } => {
            format!("a {} of {key}", if *state == EntryState::Deleted { "deletion" } else { "write" })
        }
        Job::Member { id, is_member, .. } => format!("that {id} is {}a member", if *is_member { "" } else { "not " }),
        Job::Absorb { page, end, .. } => {
            let end = end.as_ref().map(|(vector, horizon)| {
                let vector: Vec<_> = vector
                    .iter()
                    .map(|(origin, passed)| format!("{}.{}:{passed}", origin.node, origin.epoch))
                    .collect();
                format!(", its end with {vector:?} horizon {horizon:?}")
            });
            let texts = entries(&page.entries);
            format!("{}'s feed to {}: [{texts}]{}", page.peer, page.cursor.since, end.unwrap_or_default())
        }
        Job::Conclude { entry, .. } => format!("the bytes of {} {}", entry.key, entry.version),
        Job::Welcome(records, _) => format!("records: {}", entries(records)),
        Job::Mend(_, _, mended) => format!("what a bucket has: {}", entries(mended)),
        Job::Release(horizon) => format!("the release of a backup, horizon {horizon:?}"),
        Job::Doubt(entry) => format!("that nobody gives the bytes of {} {}", entry.key, entry.version),
        Job::GiveUp(entry) => format!("that nobody has the bytes of {} {}", entry.key, entry.version),
        Job::Cover => "what was passed".to_owned(),
        Job::Unpark => "what was parked".to_owned(),
        Job::Sweep(released) => format!("a sweep; {} blobs were let go", released.len()),
        Job::Expire(_) => "what expires".to_owned(),
        Job::Scrub(unnamed) => format!("a scrub; nothing names {} blobs", unnamed.len()),
    }
}
