//! Entries for the tests of this module.

use crate::model::{Content, ContentHash, Entry, EntryState, Epoch, HybridTime, Origin, Version};

fn entry(key: &str, sequence: u64, state: EntryState) -> Entry {
    let origin = Origin { node: "AWS".parse().expect("a name"), epoch: Epoch::from_bits(1) };
    let version = Version { time: HybridTime::from_unix_ms(sequence), origin, sequence };
    Entry { key: key.parse().expect("a key"), version, state }
}

pub(super) fn live(key: &str, sequence: u64, bytes: &[u8]) -> Entry {
    let content = Content {
        hash: ContentHash::of(bytes),
        size: bytes.len() as u64,
        media_type: "text/plain".parse().expect("a value"),
        cache_control: "max-age=60".parse().expect("a value"),
    };
    entry(key, sequence, EntryState::Live(content))
}

pub(super) fn deleted(key: &str, sequence: u64) -> Entry {
    entry(key, sequence, EntryState::Deleted)
}

pub(super) fn record(name: &str, sequence: u64, json: &str) -> Entry {
    entry(&format!(".metacdn/nodes/{name}"), sequence, EntryState::Record(json.to_owned()))
}
