//! Variants in memory, for nodes that make them when they are asked for: bounded by bytes, the longest unused go first.
//!
//! What is counted are bytes in memory, not entries: an answer that a slow client still reads keeps its bytes, and so its
//! share of the bound, after they went from here.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{Derived, DerivedBytes, Product};
use crate::model::{ContentHash, Variant};

/// An original and one of its variants.
type Key = (ContentHash, Variant);

/// The variants.
pub(super) struct Kept {
    budget_kib: Arc<Semaphore>,
    entries: HashMap<Key, Entry>,
    /// The entries by when they were last used.
    order: BTreeMap<u64, Key>,
    uses: u64,
}

struct Entry {
    derived: Derived,
    last_use: u64,
    /// What the knowledge that there is no variant takes; bytes carry their own permit.
    _permit: Option<OwnedSemaphorePermit>,
}

/// Bytes with their share of the bound.
struct Charged {
    bytes: Box<[u8]>,
    _permit: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for Charged {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Kept {
    pub(super) fn new(bytes_max: u64) -> Self {
        let kib = usize::try_from(bytes_max >> 10).unwrap_or(usize::MAX).min(Semaphore::MAX_PERMITS);
        Self { budget_kib: Arc::new(Semaphore::new(kib)), entries: HashMap::new(), order: BTreeMap::new(), uses: 0 }
    }

    pub(super) fn find(&mut self, key: Key) -> Option<Derived> {
        let entry = self.entries.get_mut(&key)?;
        self.uses += 1;
        self.order.remove(&entry.last_use);
        self.order.insert(self.uses, key);
        entry.last_use = self.uses;
        Some(entry.derived.clone())
    }

    /// Keeps what was made of an original; `None` if there is no room for it, even when all else goes.
    pub(super) fn keep(&mut self, original: ContentHash, product: Product) -> Option<Derived> {
        let key = (original, product.variant);
        self.remove(key);
        let size = product.made.as_ref().map_or(0, |made| made.bytes.len());
        let mut permit = Some(self.charge(size)?);
        let derived = match product.made {
            None => Derived::AsIs,
            Some(made) => {
                let permit = permit.take().expect("it was just charged");
                let bytes = Bytes::from_owner(Charged { bytes: made.bytes, _permit: permit });
                Derived::Memory(DerivedBytes { hash: made.hash, media_type: made.media_type, bytes })
            }
        };
        self.uses += 1;
        self.order.insert(self.uses, key);
        self.entries.insert(key, Entry { derived: derived.clone(), last_use: self.uses, _permit: permit });
        Some(derived)
    }

    fn charge(&mut self, size: usize) -> Option<OwnedSemaphorePermit> {
        // The entry itself takes some bytes, too.
        let kib = u32::try_from(size / 1024 + 1).ok()?;
        loop {
            if let Ok(permit) = self.budget_kib.clone().try_acquire_many_owned(kib) {
                return Some(permit);
            }
            let (_, oldest) = self.order.pop_first()?;
            self.entries.remove(&oldest);
        }
    }

    fn remove(&mut self, key: Key) {
        if let Some(entry) = self.entries.remove(&key) {
            self.order.remove(&entry.last_use);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Made;
    use super::*;

    fn product(size: usize) -> Product {
        let bytes = vec![7; size].into_boxed_slice();
        let made = Made { hash: ContentHash::of(&bytes), media_type: "image/png".parse().expect("a value"), bytes };
        Product { variant: Variant::Low, made: Some(made) }
    }

    fn original(name: &str) -> ContentHash {
        ContentHash::of(name.as_bytes())
    }

    #[test]
    fn the_longest_unused_make_room() {
        let mut kept = Kept::new(10 << 10);
        for name in ["a", "b", "c"] {
            assert!(kept.keep(original(name), product(2 << 10)).is_some());
        }
        assert!(kept.find((original("a"), Variant::Low)).is_some());
        assert!(kept.keep(original("d"), product(2 << 10)).is_some());
        let held = ["a", "b", "c", "d"].map(|name| kept.find((original(name), Variant::Low)).is_some());
        assert_eq!(held, [true, false, true, true]);
        assert!(kept.keep(original("e"), product(20 << 10)).is_none(), "larger than all room");
    }

    #[test]
    fn bytes_that_are_still_read_count() {
        let mut kept = Kept::new(10 << 10);
        let read = kept.keep(original("a"), product(7 << 10)).expect("room");
        assert!(kept.keep(original("b"), product(7 << 10)).is_none());
        drop(read);
        assert!(kept.keep(original("b"), product(7 << 10)).is_some());
    }

    #[test]
    fn what_has_no_variant_is_remembered_and_bounded() {
        let mut kept = Kept::new(4 << 10);
        for number in 0..100 {
            let product = Product { variant: Variant::Medium, made: None };
            assert!(matches!(kept.keep(original(&number.to_string()), product), Some(Derived::AsIs)));
        }
        assert_eq!((kept.entries.len(), kept.order.len()), (4, 4));
        assert!(kept.find((original("99"), Variant::Medium)).is_some());
    }
}
