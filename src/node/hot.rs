//! Keys that somebody asked for here while their bytes were still to be fetched: these are fetched first.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use tokio::sync::Notify;

use crate::model::EntryKey;

/// How many are remembered; the others come in their turn.
const KEYS_MAX: usize = 1024;

/// The keys.
#[derive(Debug, Default)]
pub(super) struct Hot {
    keys: Mutex<BTreeSet<EntryKey>>,
    news: Notify,
}

impl Hot {
    /// Notes that `key`, which is wanted, was asked for.
    pub(super) fn ask(&self, key: &EntryKey) {
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        if keys.len() < KEYS_MAX && keys.insert(key.clone()) {
            self.news.notify_one();
        }
    }

    /// Remembers keys that were taken and whose bytes could not be fetched yet.
    pub(super) fn put_back(&self, keys: Vec<EntryKey>) {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner).extend(keys);
    }

    /// The keys that were asked for since the last call.
    pub(super) fn take(&self) -> BTreeSet<EntryKey> {
        std::mem::take(&mut *self.keys.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Waits until there is one.
    pub(super) async fn news(&self) {
        self.news.notified().await;
    }
}
