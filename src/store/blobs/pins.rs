//! Which blobs have a file that no entry names yet, so that no sweep takes it before the entry is there.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::model::ContentHash;

/// The pinned blobs.
#[derive(Debug, Clone, Default)]
pub(super) struct Pins {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    /// How many hold each.
    pinned: HashMap<ContentHash, usize>,
    /// Those that were let go, whether an entry names them now or not.
    released: Vec<ContentHash>,
}

/// Keeps the file of one blob in its place until it is dropped.
#[derive(Debug)]
pub(super) struct Pin {
    pins: Pins,
    hash: ContentHash,
}

impl Pins {
    /// Pins `hash`, which a file is about to be named by.
    pub(super) fn pin(&self, hash: ContentHash) -> Pin {
        *self.state().pinned.entry(hash).or_default() += 1;
        Pin { pins: self.clone(), hash }
    }

    /// Does `work` while nobody can pin `hash`; `None` if somebody has.
    pub(super) fn unless_pinned<T>(&self, hash: &ContentHash, work: impl FnOnce() -> T) -> Option<T> {
        let state = self.state();
        let free = !state.pinned.contains_key(hash);
        free.then(work)
    }

    /// What was let go since the last call.
    pub(super) fn take_released(&self) -> Vec<ContentHash> {
        std::mem::take(&mut self.state().released)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        let mut state = self.pins.state();
        if let Some(count) = state.pinned.get_mut(&self.hash) {
            *count -= 1;
            if *count == 0 {
                state.pinned.remove(&self.hash);
            }
        }
        state.released.push(self.hash);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_blob_is_free_when_the_last_pin_goes() {
        let (pins, hash) = (Pins::default(), ContentHash::of(b"x"));
        let (first, second) = (pins.pin(hash), pins.pin(hash));
        assert_eq!(pins.unless_pinned(&ContentHash::of(b"y"), || 1), Some(1));
        drop(first);
        assert_eq!(pins.unless_pinned(&hash, || 1), None);
        drop(second);
        assert_eq!(pins.unless_pinned(&hash, || 1), Some(1));
        assert_eq!((pins.take_released(), pins.take_released()), (vec![hash, hash], vec![]));
    }
}
