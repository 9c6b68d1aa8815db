//! What was used of a provider within a month, and what that costs.

use serde::{Deserialize, Serialize};

use super::Destination;
use crate::model::NanoDollars;

/// What was used of one provider within one calendar month (UTC).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Usage {
    /// Bytes sent, by [`Destination::ALL`].
    pub egress_bytes: [u64; 3],
    /// Requests that read.
    pub reads: u64,
    /// Requests that write.
    pub writes: u64,
    /// Bytes read from where they are stored.
    pub retrieved_bytes: u64,
    /// Bytes, each times the seconds for which it was stored.
    pub stored_byte_seconds: u128,
    /// Seconds of all servers together.
    pub server_seconds: u64,
    /// How many servers there are: each has bytes of its own that are free.
    pub servers: u32,
}

impl Usage {
    /// That of an answer of so many bytes to a user.
    pub fn of_answer(bytes: u64) -> Self {
        Self { egress_bytes: [bytes, 0, 0], reads: 1, retrieved_bytes: bytes, ..Self::default() }
    }

    /// Both together, of the same servers.
    pub const fn plus(&self, more: &Self) -> Self {
        let [internet, other_region, same_region] = self.egress_bytes;
        Self {
            egress_bytes: [
                internet.saturating_add(more.egress_bytes[0]),
                other_region.saturating_add(more.egress_bytes[1]),
                same_region.saturating_add(more.egress_bytes[2]),
            ],
            reads: self.reads.saturating_add(more.reads),
            writes: self.writes.saturating_add(more.writes),
            retrieved_bytes: self.retrieved_bytes.saturating_add(more.retrieved_bytes),
            stored_byte_seconds: self.stored_byte_seconds.saturating_add(more.stored_byte_seconds),
            server_seconds: self.server_seconds.saturating_add(more.server_seconds),
            servers: if self.servers > more.servers { self.servers } else { more.servers },
        }
    }
}

/// For what money is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// Seconds of servers.
    Servers,
    /// Bytes sent.
    Egress(Destination),
    /// Requests that read.
    Reads,
    /// Requests that write.
    Writes,
    /// Bytes read from where they are stored.
    Retrieval,
    /// Byte-seconds of what is stored.
    Storage,
}

/// A line of a bill.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Item {
    /// For what.
    pub kind: Kind,
    /// How much of it, in the unit of its kind.
    pub quantity: u128,
    /// What it costs.
    pub cost: NanoDollars,
}

/// What a month costs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bill {
    /// Of what was used at all.
    pub items: Vec<Item>,
    /// All of them together, or the least that the provider asks.
    pub total: NanoDollars,
}
