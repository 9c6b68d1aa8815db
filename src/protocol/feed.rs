//! The feed of a node as it travels: which entries it lists, in the order in which it listed them.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::model::{Entry, Epoch, NodeId, Version, VersionVector};

/// The format of the feed that this version writes. Each one can be read by the version before it, so that nodes of two
/// adjacent versions share a cluster while one after the other is upgraded. 2 added what stands at the end of a feed
/// and which entries are awaited.
pub const FORMAT: u32 = 2;

/// The format of answers that do not name one.
const FORMAT_UNNAMED: u32 = 1;

/// The newest format that this version can read.
pub const FORMAT_NEWEST_READ: u32 = FORMAT + 1;

/// The most versions that one message of receipts has: some 90 bytes each, within what a control request may have.
pub const RECEIPTS_MAX: usize = 256;

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
    /// The [`FORMAT`] of the answer.
    #[serde(default = "format_unnamed")]
    pub format: u32,
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
    /// At the end: which writes of each origin the node had passed in that moment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vector: Option<VersionVector>,
    /// At the end: the newest of the tombstones that the node has dropped, if it dropped any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub horizon: Option<Version>,
    /// The places of the entries, counted from 0, for whose copies somebody waits: a receipt for them is due as soon as
    /// they are held.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub awaited: Vec<usize>,
}

const fn format_unnamed() -> u32 {
    FORMAT_UNNAMED
}

/// The body of `POST /v1/receipts`: versions of the asked node that the sender holds now, or something newer for their
/// keys; at most [`RECEIPTS_MAX`].
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Receipts {
    /// The versions.
    pub versions: Vec<Version>,
}

/// The answer to `GET /v1/digests`: what the node lists, in short.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Digests {
    /// The sum of each bucket (`replicate::digest_of`), modulo 2^64, as 16 hex digits.
    pub sums: Vec<Sum>,
    /// Which writes of each origin the node had passed just before.
    pub vector: VersionVector,
}

/// A sum, as it travels: JSON numbers do not hold 64 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Sum(pub u64);

impl TryFrom<String> for Sum {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let digits = text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let bits = u64::from_str_radix(&text, 16).ok().filter(|_| digits);
        bits.map(Self).ok_or_else(|| format!("a sum is 16 hex digits, not {text:?}"))
    }
}

impl From<Sum> for String {
    fn from(Sum(bits): Sum) -> Self {
        format!("{bits:016x}")
    }
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
    /// Said by a node that does not belong to a cluster yet itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub newcomer: Option<Newcomer>,
}

/// A node that waits for a cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Newcomer {
    /// The node.
    pub id: NodeId,
    /// The nodes that it found at its seeds, once it has heard that all of them wait, too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seeds: Option<BTreeSet<NodeId>>,
}
