//! What nodes say of themselves and of each other.

use serde::{Deserialize, Serialize};

use crate::model::{
    Content, Entry, Epoch, HybridTime, Liveness, MemberState, MembersDigest, Node, NodeId, ObjectKey, ObjectMeta,
    Version, VersionVector,
};

/// The answer to a heartbeat.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pong {
    /// Who answers.
    pub node: NodeId,
    /// The life of its database.
    pub epoch: Epoch,
    /// The last sequence of its feed.
    pub head: u64,
    /// How many entries wait for their bytes.
    pub wants: u64,
    /// The highest hybrid time it stamped or saw.
    pub clock: HybridTime,
    /// The format of its feed, `protocol::feed::FORMAT`; absent from the first one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<u32>,
    /// What its wall clock shows, in milliseconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub now_unix_ms: Option<u64>,
    /// How many bytes the entries have that wait for them.
    #[serde(default)]
    pub want_bytes: u64,
    /// Which nodes it knows, once it belongs to a cluster. All that it decided by another set stands before `head`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub members: Option<MembersDigest>,
    /// If it was asked for: which writes of each origin it has passed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vector: Option<VersionVector>,
}

/// The query of a heartbeat.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct PingQuery {
    /// Whether the answer is to have the version vector.
    pub vector: bool,
}

/// What a node holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The version of the program.
    pub program: String,
    /// The node, as it announces itself.
    pub node: Node,
    /// The life of its database.
    pub epoch: Epoch,
    /// The last sequence of its feed.
    pub head: u64,
    /// Live objects.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Deleted objects that are remembered.
    pub tombstones: u64,
    /// Objects of this node alone.
    pub strays: u64,
    /// Entries that wait for their bytes.
    pub wants: u64,
    /// The bytes that those have.
    pub want_bytes: u64,
    /// Entries from the future that wait for their time.
    pub parked: u64,
    /// Entries of a backup that are not listed: it is not known yet, or cannot be known, whether they were deleted.
    pub withheld: u64,
    /// Whether all registered nodes know each other, so that every key has a home that takes conditional writes.
    #[serde(default)]
    pub settled: bool,
    /// Seconds since the start.
    pub uptime_seconds: u64,
}

/// What was done with withheld entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settled {
    /// How many were written anew, or given up.
    pub entries: u64,
}

/// A member of the cluster, as the node that was asked sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Server {
    /// What the member says of itself.
    #[serde(flatten)]
    pub node: Node,
    /// Whether it is heard of.
    pub liveness: Liveness,
    /// What an operator has said that it is for.
    #[serde(default)]
    pub state: MemberState,
    /// How many entries of the asked node it has not taken in yet; `None` if it has not been heard of.
    pub behind: Option<u64>,
    /// How many bytes those have.
    #[serde(default)]
    pub behind_bytes: Option<u64>,
    /// For how many seconds it has not had everything that the asked node had.
    #[serde(default)]
    pub behind_seconds: Option<u64>,
    /// By how many milliseconds its clock is ahead of the asked node's.
    #[serde(default)]
    pub clock_ahead_ms: Option<i64>,
}

/// The members of the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Servers {
    /// The node that was asked.
    pub asked: NodeId,
    /// All members, by name.
    pub servers: Vec<Server>,
}

/// What a node knows of a key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Known {
    /// The newest entry, whether its bytes are held or wanted; `None` if it knows of none.
    pub entry: Option<Entry>,
}

/// What a node has stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// Under which key.
    pub key: ObjectKey,
    /// Which bytes.
    #[serde(flatten)]
    pub content: Content,
    /// As which version.
    pub version: Version,
    /// On how many nodes it was durable when the answer left.
    pub copies: u32,
}

/// A part of a list of objects.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Objects {
    /// The objects, in the order of their keys.
    pub objects: Vec<ObjectMeta>,
    /// The key after which to ask for more; `None` at the end.
    pub next: Option<ObjectKey>,
}
