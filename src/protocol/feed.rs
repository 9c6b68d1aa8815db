//! The feed of a node as it travels: which entries it lists, in the order in which it listed them.

use serde::{Deserialize, Serialize};

use crate::model::{Entry, Epoch, NodeId};

/// The most entries of one answer.
pub const ENTRIES_MAX: usize = 1000;

/// The longest wait for something new, in milliseconds.
pub const WAIT_MS_MAX: u64 = 30_000;

/// What a follower asks, as the query of `GET /v1/feed`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FeedQuery {
    /// The sequence after which to read.
    #[serde(default)]
    pub since: u64,
    /// The life of the database that the sequence belongs to. Without it, or with another one, reading starts over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<Epoch>,
    /// At most so many entries; [`ENTRIES_MAX`] if not given or more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<usize>,
    /// How long to wait for an entry if there is none yet, in milliseconds, up to [`WAIT_MS_MAX`].
    #[serde(default)]
    pub wait_ms: u64,
    /// Whether to pass over objects, so that only the cluster's records are read.
    #[serde(default)]
    pub records: bool,
}

/// What the node answers.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct FeedAnswer {
    /// The node.
    pub node: NodeId,
    /// The life of its database.
    pub epoch: Epoch,
    /// The entries.
    pub entries: Vec<Entry>,
    /// The sequence after which to read on.
    pub next: u64,
    /// Whether this was all there was.
    pub end: bool,
}

/// What a node says of itself when it joins or has moved, as the query of `PUT /v1/servers/ID`; the body is its record.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AnnounceQuery {
    /// The life of its database: it tells a node that moved from another one that took its name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<Epoch>,
}

/// What a node that joins, or has moved, gets for its announcement: the records that the other one lists, of which
/// one page is enough to find the members and read the rest from their feeds.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Welcome {
    /// The records.
    pub records: Vec<Entry>,
}
