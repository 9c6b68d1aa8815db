//! The memory of what is kept, on its way, or still being read.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;

/// Memory that is taken until this is dropped.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) used: Arc<Used>,
    pub(super) bytes: u64,
    pub(super) large: bool,
}

/// Bytes that are taken.
#[derive(Debug, Default)]
pub(super) struct Used {
    pub(super) all: AtomicU64,
    /// By large objects.
    pub(super) large: AtomicU64,
}

impl Place {
    pub(super) fn take(used: &Arc<Used>, bytes: u64, large: bool) -> Self {
        let mut place = Self { used: used.clone(), bytes: 0, large };
        place.settle(bytes, large);
        place
    }

    /// `bytes` that have this place for as long as somebody has a part of them.
    pub(super) fn hold(self, bytes: Bytes) -> Bytes {
        Bytes::from_owner(Placed { bytes, _place: self })
    }

    /// Takes more, or gives back what is more, for what is `bytes` long now, and large or not.
    pub(super) fn settle(&mut self, bytes: u64, large: bool) {
        let part = |bytes, is_part: bool| if is_part { bytes } else { 0 };
        // Counts wrap around: adding what is less takes away.
        self.used.all.fetch_add(bytes.wrapping_sub(self.bytes), Ordering::Relaxed);
        let large_more = part(bytes, large).wrapping_sub(part(self.bytes, self.large));
        self.used.large.fetch_add(large_more, Ordering::Relaxed);
        (self.bytes, self.large) = (bytes, large);
    }
}

/// Bytes with the memory that they take.
struct Placed {
    bytes: Bytes,
    _place: Place,
}

impl AsRef<[u8]> for Placed {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.settle(0, false);
    }
}
