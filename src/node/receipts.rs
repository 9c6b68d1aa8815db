//! Telling a peer as soon as this node holds what somebody waits for there.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tracing::debug;

use super::Core;
use crate::client::Peer;
use crate::model::{EntryKey, NodeId, Version};
use crate::protocol::feed::RECEIPTS_MAX;

/// How many receipts may be promised, or due to one peer. A lost one costs an upload its wait, never its bytes.
const HELD_MAX: usize = 100_000;

/// How many may be promised for one key.
const OF_KEY_MAX: usize = 256;

/// The receipts that this node owes.
#[derive(Debug, Default)]
pub(super) struct ReceiptsDue {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// What is awaited and not held yet, by its key.
    promised: HashMap<EntryKey, Vec<Version>>,
    due: BTreeMap<NodeId, Due>,
}

#[derive(Debug, Default)]
struct Due {
    versions: Vec<Version>,
    news: Arc<Notify>,
}

impl ReceiptsDue {
    /// Promises a receipt for `version` of `key` to its origin.
    pub(super) fn promise(&self, key: &EntryKey, version: &Version) {
        let mut state = self.state();
        // Some were promised for what never comes: they must not keep all others out for ever.
        if state.promised.len() >= HELD_MAX {
            state.promised.clear();
        }
        let promised = state.promised.entry(key.clone()).or_default();
        if !promised.contains(version) && promised.len() < OF_KEY_MAX {
            promised.push(version.clone());
        }
    }

    /// Whether something is promised for `key`.
    pub(super) fn is_promised(&self, key: &EntryKey) -> bool {
        self.state().promised.contains_key(key)
    }

    /// Notes that `version` of `key` is held: receipts for it and all before it are due.
    pub(super) fn held(&self, key: &EntryKey, version: &Version) {
        let mut state = self.state();
        let State { promised, due } = &mut *state;
        let Some(versions) = promised.get_mut(key) else { return };
        for held in versions.extract_if(.., |promised| *promised <= *version) {
            let due = due.entry(held.origin.node.clone()).or_default();
            if due.versions.len() < HELD_MAX {
                due.versions.push(held);
                due.news.notify_one();
            }
        }
        if versions.is_empty() {
            promised.remove(key);
        }
    }

    fn news(&self, peer: &NodeId) -> Arc<Notify> {
        self.state().due.entry(peer.clone()).or_default().news.clone()
    }

    fn take(&self, peer: &NodeId) -> Vec<Version> {
        let mut state = self.state();
        let Some(due) = state.due.get_mut(peer) else { return Vec::new() };
        let count = due.versions.len().min(RECEIPTS_MAX);
        due.versions.drain(..count).collect()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Sends the receipts that are due to `peer`, all that gathered while the ones before were on their way.
pub(super) async fn send(core: Arc<Core>, id: NodeId, peer: Peer) {
    let news = core.receipts.news(&id);
    loop {
        let versions = core.receipts.take(&id);
        if versions.is_empty() {
            news.notified().await;
            continue;
        }
        // Not tried again: the next heartbeat's vector says the same.
        if let Err(error) = peer.receipts(versions).await {
            debug!(peer = %id, error = &error as &dyn std::error::Error, "receipts did not arrive");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Epoch, HybridTime, Origin};

    #[test]
    fn what_never_comes_keeps_no_receipt_out() {
        let version = |sequence| {
            let origin = Origin { node: "A".parse().expect("a name"), epoch: Epoch::from_bits(1) };
            Version { time: HybridTime::from_bits(sequence), origin, sequence }
        };
        let due = ReceiptsDue::default();
        for number in 0..HELD_MAX as u64 + 1 {
            due.promise(&format!("k{number}").parse().expect("a key"), &version(number));
        }
        assert!(due.is_promised(&format!("k{HELD_MAX}").parse().expect("a key")));
        let key: EntryKey = "k".parse().expect("a key");
        (0..1_000).for_each(|number| due.promise(&key, &version(number)));
        due.held(&key, &version(1_000));
        assert_eq!(due.take(&"A".parse().expect("a name")).len(), OF_KEY_MAX.min(RECEIPTS_MAX));
    }

    #[test]
    fn what_is_newer_is_a_receipt_for_what_was_before() {
        let version = |time, node: &str| {
            let origin = Origin { node: node.parse().expect("a name"), epoch: Epoch::from_bits(1) };
            Version { time: HybridTime::from_bits(time), origin, sequence: time }
        };
        let (key, a): (EntryKey, NodeId) = ("k".parse().expect("a key"), "A".parse().expect("a name"));
        let due = ReceiptsDue::default();
        for version in [version(1, "A"), version(3, "A"), version(2, "B")] {
            due.promise(&key, &version);
        }
        due.held(&key, &version(2, "B"));
        assert_eq!((due.take(&a), due.take(&a)), (vec![version(1, "A")], Vec::new()));
        assert!(due.is_promised(&key));
        due.held(&key, &version(9, "B"));
        assert_eq!(due.take(&a), [version(3, "A")]);
        assert!(!due.is_promised(&key));
    }
}
