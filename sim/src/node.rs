//! One node: what its disk keeps, and what is lost when it ends. What it does is in `world`, in the order in which
//! `src/node` does it.

use std::collections::{BTreeMap, BTreeSet};

use crate::disk::SimDisk;
use crate::message::FeedPart;
use crate::model::{ContentHash, Entry, EntryKey, EntryState, Epoch, NodeId, Version, VersionVector, WaitFor};
use crate::replicate::memory::MemoryLedger;
use crate::replicate::{Coverage, Page};
use crate::store::{BlobWriter, Blobs, FreshBlob, Removal};

/// Where the blobs lie on a node's disk.
pub const BLOBS: &str = "/data/blobs";

/// Whether a node runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// It runs.
    Up,
    /// It does not, and will.
    Down,
    /// It burnt down.
    Gone,
}

/// What the catalogue keeps: a commit makes all of it durable.
#[derive(Debug, Clone)]
pub struct Catalog {
    /// Entries, wants, cursors and all that.
    pub ledger: MemoryLedger,
    /// The small blobs.
    pub rows: BTreeMap<ContentHash, Vec<u8>>,
    /// The blobs that nothing may name any more, and since when, once a sweep has seen them.
    pub loose: BTreeMap<ContentHash, Option<u64>>,
    /// Whether it belongs to the cluster: it founded it, or one that does has written it down as a member. Before that it
    /// takes no writes of clients, and forgets no deletions.
    pub belongs: bool,
    /// Whether entries of a backup are still to be looked at.
    pub is_backup: bool,
}

/// A node.
#[derive(Debug)]
pub struct SimNode {
    /// Its name.
    pub id: NodeId,
    /// Whether it runs.
    pub status: Status,
    /// How often it started or ended.
    pub life: u32,
    /// How often it was brought back from a copy.
    pub restores: u32,
    /// By how much its clock is wrong.
    pub skew_ms: i64,
    /// Whom it knew first.
    pub seed: Option<usize>,
    /// Its catalogue.
    pub catalog: Catalog,
    /// The disk that its blobs lie on.
    pub disk: SimDisk,
    /// A copy that was put aside.
    pub backup: Option<(Catalog, SimDisk)>,
    /// What it only remembers.
    pub memory: Memory,
}

/// What a node loses when it ends.
#[derive(Debug, Default)]
pub struct Memory {
    /// Its blobs, while it runs.
    pub blobs: Option<Blobs<SimDisk>>,
    /// What waits for the next commit.
    pub jobs: Vec<Job>,
    /// Whether a commit is on its way.
    pub commits: bool,
    /// What it asked for.
    pub requests: BTreeMap<u64, Request>,
    /// Who waits for news of its feed.
    pub polls: BTreeMap<u64, Poll>,
    /// Which feeds it is reading.
    pub pulling: BTreeSet<usize>,
    /// Whom it pings.
    pub pinged: BTreeSet<usize>,
    /// Vectors that do not count yet.
    pub coverage: Coverage,
    /// What others said of themselves.
    pub known: BTreeMap<NodeId, Known>,
    /// Receipts that it has promised.
    pub promised: BTreeMap<EntryKey, Vec<Version>>,
    /// Its writes for which somebody waits.
    pub awaited: BTreeMap<u64, Awaited>,
    /// What it fetches.
    pub fetches: BTreeMap<u64, Fetch>,
    /// Blobs that were let go and of which no note is durable yet.
    pub released: Vec<ContentHash>,
    /// What is being uploaded to it.
    pub uploads: BTreeMap<u64, Upload>,
    /// Whose feeds it has read to the end and what they had passed then, and the newest deletion that any had forgotten.
    pub read: BTreeMap<NodeId, (Epoch, VersionVector)>,
    /// See above.
    pub read_horizon: Option<Version>,
    /// Whether the entries of a backup are being looked at.
    pub releases: bool,
}

/// What a node said of itself.
#[derive(Debug, Clone)]
pub struct Known {
    /// The life of its database.
    pub epoch: Epoch,
    /// What it had passed.
    pub vector: VersionVector,
    /// The latest such vector that the node itself has passed since: then it knows of every member that was known there.
    pub passed: Option<VersionVector>,
    /// The earliest such vector that it has not.
    pub next: Option<VersionVector>,
    /// By how much its clock is ahead.
    pub ahead_ms: i64,
}

impl Known {
    /// What is known once a node has said that it has passed `vector`, to one that has passed `own`.
    pub fn heard(before: Option<Self>, said: (Epoch, VersionVector, i64), own: &VersionVector) -> Self {
        let (epoch, vector, ahead_ms) = said;
        let (mut passed, mut next) = before.map_or((None, None), |before| (before.passed, before.next));
        if let Some(reached) = next.take_if(|next| own.covers(next)) {
            passed = Some(reached);
        }
        if own.covers(&vector) {
            passed = Some(vector.clone());
        } else {
            next.get_or_insert_with(|| vector.clone());
        }
        Self { epoch, vector, passed, next, ahead_ms }
    }
}

/// A request that is on its way.
#[derive(Debug, Clone)]
pub struct Request {
    /// Who is asked.
    pub peer: usize,
    /// What for.
    pub purpose: Purpose,
}

/// What a request is for.
#[derive(Debug, Clone)]
pub enum Purpose {
    /// To read the feed.
    Pull,
    /// To go on with a fetch.
    Fetch(u64),
    /// To ping.
    Ping,
    /// To be known.
    Announce,
    /// To send receipts.
    Receipts,
    /// To compare sums.
    Compare,
    /// To compare a bucket, with what was passed here before.
    CompareBucket(VersionVector),
}

/// Somebody who waits for news of the feed.
#[derive(Debug, Clone)]
pub struct Poll {
    /// Who.
    pub peer: usize,
    /// From where on.
    pub since: u64,
}

/// A write whose copies are counted.
#[derive(Debug, Clone)]
pub struct Awaited {
    /// Which one.
    pub version: Version,
    /// For which request of a client.
    pub request: usize,
    /// How many copies it waits for.
    pub wait_for: WaitFor,
    /// Who has them, besides this node.
    pub holders: BTreeSet<NodeId>,
    /// How often each node was brought back when it was written: what a receipt says of a node that was brought back
    /// since says nothing.
    pub restores: Vec<u32>,
}

/// Bytes on their way here.
#[derive(Debug)]
pub struct Fetch {
    /// The entry that wants them.
    pub entry: Entry,
    /// Who is asked next, the last first.
    pub holders: Vec<usize>,
    /// What has come so far.
    pub writer: BlobWriter<SimDisk>,
    /// Whether anything came since all holders were asked.
    pub advanced: bool,
    /// Whether the want was in doubt when this began.
    pub in_doubt: bool,
    /// Who has said that it does not have them.
    pub denied: BTreeSet<usize>,
}

/// A body on its way here.
#[derive(Debug)]
pub struct Upload {
    /// The request of the client.
    pub request: usize,
    /// What it puts.
    pub key: EntryKey,
    /// Which of the contents.
    pub content: usize,
    /// What has come so far.
    pub writer: BlobWriter<SimDisk>,
}

/// A change that waits for its commit.
#[derive(Debug)]
pub enum Job {
    /// A client's write.
    Write {
        /// The client's request.
        request: usize,
        /// What it writes.
        key: EntryKey,
        /// What it writes there.
        state: EntryState,
        /// The blob.
        blob: Option<FreshBlob>,
    },
    /// A node's record is set or removed, and who asked for it is told.
    Member {
        /// Which node's.
        id: NodeId,
        /// Whether it stays.
        is_member: bool,
        /// Who asked, under which number.
        answer: Option<(usize, u64)>,
    },
    /// A part of a feed.
    Absorb {
        /// The part.
        page: Page,
        /// Which of its entries somebody waits for.
        awaited: Vec<usize>,
        /// Where the peer stood.
        end: Option<(VersionVector, Option<Version>)>,
    },
    /// Fetched bytes.
    Conclude {
        /// The fetch.
        number: u64,
        /// The entry.
        entry: Entry,
        /// The blob.
        blob: FreshBlob,
    },
    /// A want whose bytes nobody gives.
    Doubt(Entry),
    /// A want whose bytes nobody has had since it was put in doubt.
    GiveUp(Entry),
    /// What was passed.
    Cover,
    /// Parked entries.
    Unpark,
    /// Old deletions, of which these vectors say that all others have passed them.
    Expire(Vec<VersionVector>),
    /// The records of the cluster, and whether who gave them belongs to it.
    Welcome(Vec<Entry>, bool),
    /// Bytes that nothing may name any more: blobs that were let go are noted, notes get their time, old ones are swept.
    Sweep(Vec<ContentHash>),
    /// What a scrub has found: bytes that nothing names; sums are made anew.
    Scrub(BTreeSet<ContentHash>),
    /// Entries of a bucket that a peer lists, with what was passed here before.
    Mend(usize, VersionVector, Vec<Entry>),
    /// Entries of a backup, with the newest deletion that a member had forgotten.
    Release(Option<Version>),
}

/// What is done after a commit.
#[derive(Debug)]
pub enum Effect {
    /// A write is durable.
    Written {
        /// The client's request.
        request: usize,
        /// The version; `None` if there was nothing to delete.
        version: Option<Version>,
    },
    /// A record is.
    Member {
        /// Who is to be told, under which number.
        answer: Option<(usize, u64)>,
    },
    /// A part of a feed is.
    Absorbed {
        /// Of whom.
        peer: NodeId,
        /// In which life of its database.
        epoch: Epoch,
        /// What is held now, and somebody waits for.
        held: Vec<(EntryKey, Version)>,
        /// Where the peer stood.
        end: Option<(VersionVector, Option<Version>)>,
        /// What was owed then.
        debt: crate::replicate::Debt,
    },
    /// A fetch is.
    Concluded {
        /// Which one.
        number: u64,
        /// What is held under its key now.
        held: Option<(EntryKey, Version)>,
    },
    /// What was passed is written down, with what was owed then.
    Covered(crate::model::VersionVector),
    /// Bytes are freed; their files go now. What was let go is noted.
    Swept(Vec<Removal<SimDisk>>, Vec<ContentHash>),
    /// Nothing more.
    Done,
}

impl Catalog {
    /// Notes that these blobs may be unnamed.
    pub fn note_loose<'a>(&mut self, hashes: impl IntoIterator<Item = &'a ContentHash>) {
        for hash in hashes {
            self.loose.entry(*hash).or_insert(None);
        }
    }

    /// The names of the registered nodes that it lists.
    pub fn members(&self) -> BTreeSet<NodeId> {
        let listed = self.ledger.entries.values().map(|(_, entry)| entry);
        listed.filter(|entry| matches!(entry.state, EntryState::Record(_))).filter_map(member_of).collect()
    }
}

impl SimNode {
    /// The names of the registered nodes, as this one has them listed.
    pub fn members(&self) -> BTreeSet<NodeId> {
        self.catalog.members()
    }

    /// The feed part after `since`.
    pub fn feed_part(&self, since: u64, limit: usize) -> FeedPart {
        let ledger = &self.catalog.ledger;
        let mut rows = ledger.feed(since);
        let is_end = rows.len() < limit;
        rows.truncate(limit);
        let next = if is_end { ledger.sequence.max(since) } else { rows.last().map_or(since, |(place, _)| *place) };
        let entries: Vec<_> = rows.into_iter().map(|(_, entry)| entry).collect();
        let is_awaited = |entry: &Entry| {
            entry.version.origin == ledger.origin && self.memory.awaited.contains_key(&entry.version.sequence)
        };
        let awaited = (0..entries.len()).filter(|place| is_awaited(&entries[*place])).collect();
        let Ok(vector) = crate::replicate::Ledger::vector(ledger);
        let end = is_end.then(|| (vector, ledger.told_horizon()));
        FeedPart { epoch: ledger.origin.epoch, entries, next, awaited, end }
    }
}

/// The node whose record `entry` is.
pub fn member_of(entry: &Entry) -> Option<NodeId> {
    match &entry.key {
        EntryKey::Record(key) if key.is_node() => key.as_str().rsplit('/').next().and_then(|name| name.parse().ok()),
        _ => None,
    }
}
