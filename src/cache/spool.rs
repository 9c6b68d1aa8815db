//! A body of which nobody knows the size, and that is too large for memory: it goes to the disk slice by slice while it passes,
//! and is found there once all of it is.
//!
//! A slice has its memory before its first byte comes, and until it is written. All such slices are part of what large objects
//! may take together, half of the capacity; what finds no room there passes, and is not kept.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, PoisonError};

use bytes::{Bytes, BytesMut};

use super::disk::Kept;
use super::flight::Flight;
use super::rules::is_completable;
use super::sliced::Sliced;
use super::sync::Mutex;
use super::{Body, Cache, CacheKey, Head, Place, SLICE_BYTES, charge};

/// A body on its way to the disk. Dropped, it leaves nothing there.
#[derive(Debug)]
pub(super) struct Spool {
    shared: Arc<Shared>,
    /// What is no whole slice yet, and the memory of one.
    rest: Option<(BytesMut, Place)>,
    next: u32,
}

/// What those share who bring the body, and who write it.
#[derive(Debug)]
struct Shared {
    cache: Arc<Cache>,
    key: CacheKey,
    flight: Arc<Flight>,
    kept: Arc<Kept>,
    cost: f32,
    written: AtomicU32,
    failed: AtomicBool,
    /// The head, and how many slices there are, once all have come.
    all: Mutex<Option<(Head, u32)>>,
}

impl Spool {
    /// A place on the disk for what `flight` brings for `key`, if there is one: nobody joins it any more.
    pub(super) fn begin(
        cache: &Arc<Cache>,
        key: &CacheKey,
        head: &Head,
        cost: f32,
        flight: &Arc<Flight>,
    ) -> Option<Self> {
        // It is read for as long as a client takes it, and slices that make room for others meanwhile have to be asked for.
        if !is_completable(&head.headers) {
            return None;
        }
        if head.size.is_some() || !cache.has_slices() || !matches!(key, CacheKey::Answer { .. }) {
            return None;
        }
        let kept = cache.begin_on_disk(key, head, cost, flight.born, flight.representation)?;
        let shared = Shared {
            cache: cache.clone(),
            key: key.clone(),
            flight: flight.clone(),
            kept,
            cost,
            written: AtomicU32::new(0),
            failed: AtomicBool::new(false),
            all: Mutex::new(None),
        };
        Some(Self { shared: Arc::new(shared), rest: None, next: 0 })
    }

    /// Adds all that came until now, which has its memory; false as for [`Spool::push`].
    pub(super) fn take_over(&mut self, mut so_far: Bytes) -> bool {
        while so_far.len() as u64 >= SLICE_BYTES {
            let slice = so_far.split_to(SLICE_BYTES as usize);
            self.put(slice);
        }
        self.push(&so_far)
    }

    /// Adds what has come; false if it is not kept after all: there is no memory for it, the disk is too slow, or the body too
    /// long.
    pub(super) fn push(&mut self, mut more: &[u8]) -> bool {
        while !more.is_empty() && !self.has_failed() {
            let room = || {
                Some((BytesMut::with_capacity(SLICE_BYTES as usize), self.shared.cache.reserve_for_disk(SLICE_BYTES)?))
            };
            let Some((mut bytes, place)) = self.rest.take().or_else(room) else {
                self.shared.fail();
                break;
            };
            let taken = more.len().min(SLICE_BYTES as usize - bytes.len());
            bytes.extend_from_slice(&more[..taken]);
            more = &more[taken..];
            if bytes.len() as u64 == SLICE_BYTES {
                self.put(place.hold(bytes.freeze()));
            } else {
                self.rest = Some((bytes, place));
            }
        }
        !self.has_failed()
    }

    fn has_failed(&self) -> bool {
        self.shared.failed.load(Ordering::Relaxed)
    }

    /// All has come, and `head` says how much. It is kept once it is written.
    pub(super) fn finish(mut self, head: Head) {
        // Where no slice was full the index knows nothing of it yet, and it is hardly worth it.
        let is_long = self.next > 0 && self.shared.kept.end(&head);
        if !is_long {
            return;
        }
        let last = self.rest.take().map_or_else(Bytes::new, |(bytes, place)| place.hold(bytes.freeze()));
        let slices = self.next + u32::from(!last.is_empty());
        *self.shared.all.lock().unwrap_or_else(PoisonError::into_inner) = Some((head, slices));
        if last.is_empty() {
            self.shared.keep_if_whole();
        } else {
            self.put(last);
        }
    }

    fn put(&mut self, bytes: Bytes) {
        let (slice, shared) = (self.next, self.shared.clone());
        self.next += 1;
        self.shared.kept.put(slice, bytes, move |written| {
            if written {
                shared.written.fetch_add(1, Ordering::AcqRel);
                shared.keep_if_whole();
            } else {
                shared.fail();
            }
        });
    }
}

impl Drop for Spool {
    fn drop(&mut self) {
        if self.shared.all.lock().unwrap_or_else(PoisonError::into_inner).is_none() {
            self.shared.fail();
        }
    }
}

impl Shared {
    fn fail(&self) {
        if !self.failed.swap(true, Ordering::AcqRel) {
            self.cache.release(&self.key, &self.flight);
            self.cache.off_disk_at_all(&self.kept);
        }
    }

    /// Keeps it, if all of it is on the disk, and nothing has changed since it was asked for.
    fn keep_if_whole(&self) {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        let written = self.written.load(Ordering::Acquire);
        let Some((head, _)) = all.take_if(|(_, slices)| *slices == written) else { return };
        // Whoever looks again finds nothing to do, and it has not failed.
        *all = Some((head.clone(), u32::MAX));
        drop(all);
        let cache = &self.cache;
        let (size, head) = (self.kept.size(), Arc::new(head));
        let stored = cache.reserve(charge(&self.key, &head, 0)).and_then(|place| {
            let sliced = Sliced::new(cache.next_number(), size, Some(self.kept.clone()), place);
            cache.keep(&self.key, &self.flight, head.clone(), Body::Sliced(Arc::new(sliced)), self.cost)
        });
        if !stored.is_some_and(|stored| cache.is_on_disk_as(&self.key, &stored, &head, &self.kept)) {
            self.fail();
        }
    }
}
