//! What nodes say to each other: the requests of metacdn's control API, and the answers.

use crate::model::{ContentHash, Entry, Epoch, NodeId, Version, VersionVector};

/// A message.
#[derive(Debug, Clone)]
pub enum Message {
    /// A request, under a number that the answer repeats.
    Ask(u64, Ask),
    /// The answer to the request of this number.
    Answer(u64, Answer),
}

/// A request.
#[derive(Debug, Clone)]
pub enum Ask {
    /// What is listed after a place, once there is something.
    Feed {
        /// The place.
        since: u64,
        /// The life of the database that it belongs to.
        epoch: Option<Epoch>,
        /// How long to wait for something.
        wait_ms: u64,
    },
    /// The bytes of a blob from an offset on.
    Blob(ContentHash, u64),
    /// How it goes.
    Ping,
    /// The asker holds these writes, which somebody waits for.
    Receipts(Vec<Version>),
    /// The asker is there.
    Announce(NodeId),
    /// The sums of all buckets.
    Sums,
    /// What is listed in a bucket.
    Bucket(usize),
}

/// An answer.
#[derive(Debug, Clone)]
pub enum Answer {
    /// A part of the feed.
    Feed(FeedPart),
    /// A piece of a blob, and whether it is the last; `None` if the blob is not held.
    Blob(Option<(Vec<u8>, bool)>),
    /// How it goes.
    Pong {
        /// The life of its database.
        epoch: Epoch,
        /// What was passed.
        vector: VersionVector,
        /// What the clock shows.
        now_unix_ms: u64,
    },
    /// It is noted.
    Noted,
    /// The records of the cluster.
    Welcome {
        /// The records.
        records: Vec<Entry>,
        /// Whether the node belongs to the cluster.
        belongs: bool,
    },
    /// The sums of all buckets.
    Sums(Vec<u64>),
    /// What is listed in a bucket.
    Bucket(Vec<Entry>),
}

/// A part of the feed of a node.
#[derive(Debug, Clone)]
pub struct FeedPart {
    /// The life of its database.
    pub epoch: Epoch,
    /// The entries.
    pub entries: Vec<Entry>,
    /// Where to read on.
    pub next: u64,
    /// Which of the entries somebody waits for.
    pub awaited: Vec<usize>,
    /// Where the node stood, if this is the end of its feed: what it had passed, and forgotten.
    pub end: Option<(VersionVector, Option<Version>)>,
}
