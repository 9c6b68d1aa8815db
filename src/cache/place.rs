//! The memory of what is kept, on its way, or still being read.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;

/// Memory that is taken until this is dropped.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) used: Arc<Used>,
    pub(super) bytes: u64,
    large: bool,
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
        used.all.fetch_add(bytes, Ordering::Relaxed);
        if large {
            used.large.fetch_add(bytes, Ordering::Relaxed);
        }
        Self { used: used.clone(), bytes, large }
    }

    /// `bytes` that have this place for as long as somebody has a part of them.
    pub(super) fn hold(self, bytes: Bytes) -> Bytes {
        Bytes::from_owner(Placed { bytes, _place: self })
    }

    /// Takes `more` for the same thing, which is large now or not.
    pub(super) fn grow(&mut self, more: u64, large: bool) {
        self.used.all.fetch_add(more, Ordering::Relaxed);
        if self.large {
            self.used.large.fetch_add(more, Ordering::Relaxed);
        } else if large {
            self.used.large.fetch_add(self.bytes + more, Ordering::Relaxed);
            self.large = true;
        }
        self.bytes += more;
    }

    /// Gives back what is more than `bytes`, or takes the little that is missing.
    pub(super) fn settle(&mut self, bytes: u64) {
        self.grow(bytes.saturating_sub(self.bytes), self.large);
        let less = self.bytes.saturating_sub(bytes);
        self.used.all.fetch_sub(less, Ordering::Relaxed);
        if self.large {
            self.used.large.fetch_sub(less, Ordering::Relaxed);
        }
        self.bytes -= less;
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
        self.used.all.fetch_sub(self.bytes, Ordering::Relaxed);
        if self.large {
            self.used.large.fetch_sub(self.bytes, Ordering::Relaxed);
        }
    }
}
