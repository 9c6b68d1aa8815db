//! What concurrent clients did and saw, with real times, and a proof from that record and the final state that the
//! cluster kept its promises, whatever happened to its nodes meanwhile.

pub mod checker;
pub mod clients;
mod mixed;
mod planted;

use std::collections::BTreeMap;
use std::time::Duration;

use metacdn::client::Peer;
use metacdn::model::{ContentHash, EntryKey, Version};
use metacdn::protocol::feed::FeedQuery;

/// The bytes that a key points at; `None` once it is deleted.
pub type State = Option<ContentHash>;

/// What a key points at since which version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    pub version: Version,
    pub state: State,
}

/// What a cluster holds, by key. A key that was never written is missing.
pub type Contents = BTreeMap<String, Listed>;

/// One thing that a client did at a node. What certainly had no effect and told nothing is not recorded.
#[derive(Debug, Clone)]
pub struct Operation {
    #[expect(dead_code, reason = "for who reads the history of a failure")]
    pub client: usize,
    pub node: &'static str,
    pub key: String,
    /// Before the request left, since the begin of the history.
    pub invoked: Duration,
    /// After the answer had come.
    pub returned: Duration,
    pub did: Did,
}

/// What it did, and what came of it.
#[derive(Debug, Clone)]
pub enum Did {
    /// A write that was acknowledged as this version.
    Wrote(State, Version),
    /// A write without an answer that says whether it happened; it may happen at any later time.
    MayHaveWritten(State),
    /// A read; `None` if the node had never heard of the key.
    Read(Option<Listed>),
}

/// A source of choices that can be repeated: splitmix64 (Steele, Lea, Flood, 2014).
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    pub const fn from_seed(seed: u64) -> Self {
        Self(seed)
    }

    pub const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `end`.
    pub const fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    pub fn one_of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len() as u64) as usize]
    }
}

/// The objects that a node lists, deleted ones included.
pub async fn contents(peer: &Peer) -> Option<Contents> {
    let mut contents = Contents::new();
    let (mut since, mut epoch) = (0, None);
    loop {
        let query = FeedQuery { since, epoch, limit: None, wait_ms: 0, records: false };
        let answer = peer.feed(&query).await.ok()?;
        for entry in answer.entries {
            let state = entry.content().map(|content| content.hash);
            if let EntryKey::Object(key) = entry.key {
                contents.insert(key.to_string(), Listed { version: entry.version, state });
            }
        }
        (since, epoch) = (answer.next, Some(answer.epoch));
        if answer.end {
            return Some(contents);
        }
    }
}
