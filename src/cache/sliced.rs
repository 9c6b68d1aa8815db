//! Representations that are kept in slices: what is large is fetched, kept and forgotten by its parts.

use std::ops::Range;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError, Weak};

use bytes::Bytes;
use http::header::ETAG;
use http::{HeaderMap, StatusCode};

use super::run::{Bringer, Run};
use super::stored::Body;
use super::sync::Mutex;
use super::{Cache, CacheKey, Head, Lead, Lookup, Place, Reader, Stored, Terms, charge, disk};

/// How many bytes a slice has; the last one of a representation may have fewer.
///
/// A part of a slice is fetched with all of it, so a small slice is wasted on nobody; a large one costs less by byte.
pub const SLICE_BYTES: u64 = 2 << 20;

/// In a cache of less than so many slices nothing is sliced: those on their way for one reader would be most of it.
const SLICES_MIN: u64 = 4;

/// A representation in slices. Those of another one have other keys, so what has changed is never mixed with what it was.
#[derive(Debug)]
pub struct Sliced {
    number: u64,
    size: u64,
    /// Those by which slices come at this moment. Locked by whoever looks for a slice, until it is known who brings it.
    runs: Mutex<Vec<Weak<Run>>>,
    disk: Option<Arc<disk::Kept>>,
    /// The memory of what is known of it.
    _place: Place,
}

/// A slice from where it comes.
#[derive(Debug)]
pub enum Sought {
    /// It is in memory.
    Kept(Bytes),
    /// It comes, for somebody else.
    Along(Reader),
    /// It was asked for, of one who brings what is before it. Whoever wants that to go on holds it.
    Asked(Reader, Arc<Run>),
    /// As [`Sought::Asked`], of one who is to be begun: nobody brings it yet.
    Begun(Reader, Arc<Run>, Bringer),
}

/// What brings the slices of a representation from the one on with which its first answer begins.
#[derive(Debug)]
pub struct Begun {
    /// That slice.
    pub first: u32,
    /// As those who read know it.
    pub run: Arc<Run>,
    /// To be given what comes.
    pub bringer: Bringer,
}

impl Sliced {
    /// The slice `slice`, unless the disk has it. Of many who look for what follows, one begins to bring it, whatever the
    /// order in which they ask.
    pub fn seek(&self, cache: &Arc<Cache>, slice: u32) -> Sought {
        // What ends with its last holder may look for others: after this is unlocked.
        let running: Vec<Arc<Run>>;
        let mut runs = self.runs.lock().unwrap_or_else(PoisonError::into_inner);
        let mut lead = match cache.join(&self.key(slice), |_| true) {
            Lookup::Found(stored) => match &stored.body {
                Body::Memory(bytes) => return Sought::Kept(bytes.clone()),
                Body::Sliced(_) => unreachable!("a slice is not sliced"),
            },
            Lookup::Flying(reader) => return Sought::Along(reader),
            Lookup::Lead(lead) => lead,
        };
        let reader = lead.reader().expect("it was just begun");
        runs.retain(|run| run.strong_count() > 0);
        running = runs.iter().filter_map(Weak::upgrade).collect();
        for run in &running {
            match run.ask(slice, lead) {
                Ok(()) => return Sought::Asked(reader, run.clone()),
                Err(back) => lead = back,
            }
        }
        let (run, bringer) = Run::new(slice);
        run.ask(slice, lead).expect("it begins with this slice");
        runs.push(Arc::downgrade(&run));
        Sought::Begun(reader, run, bringer)
    }

    pub(super) fn new(number: u64, size: u64, disk: Option<Arc<disk::Kept>>, place: Place) -> Self {
        Self { number, size, runs: Mutex::new(Vec::new()), disk, _place: place }
    }

    /// What of it is on the disk.
    pub const fn on_disk(&self) -> Option<&Arc<disk::Kept>> {
        self.disk.as_ref()
    }

    /// Whether all of it is on the disk; then its files are open.
    pub async fn open_all(&self) -> bool {
        let Some(kept) = &self.disk else { return false };
        for slice in 0..self.slices() {
            if kept.open(slice).await.is_none() {
                return false;
            }
        }
        true
    }

    /// How many slices it has.
    pub const fn slices(&self) -> u32 {
        self.size.div_ceil(SLICE_BYTES) as u32
    }

    /// How many bytes it has.
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// The key of its slice `slice`, counted from 0.
    pub const fn key(&self, slice: u32) -> CacheKey {
        CacheKey::Slice { of: self.number, slice }
    }

    /// Where the bytes of a slice are.
    pub const fn bytes_of(&self, slice: u32) -> Range<u64> {
        let start = slice as u64 * SLICE_BYTES;
        let end = start.saturating_add(SLICE_BYTES);
        start..if end < self.size { end } else { self.size }
    }

    /// What is known of a slice before its bytes.
    pub fn head_of(&self, slice: u32) -> Head {
        let bytes = self.bytes_of(slice);
        let size = Some(bytes.end.saturating_sub(bytes.start));
        Head { status: StatusCode::PARTIAL_CONTENT, headers: HeaderMap::new(), size, terms: Terms::Slice }
    }
}

/// The slice that has the byte at `position`.
pub const fn slice_at(position: u64) -> u32 {
    (position / SLICE_BYTES) as u32
}

impl Cache {
    /// A number that no representation and no question has, greater than those that have one.
    pub fn next_number(&self) -> u64 {
        self.representations.fetch_add(1, Ordering::Relaxed)
    }

    /// Whether anything may be kept in slices.
    pub const fn has_slices(&self) -> bool {
        self.config.capacity_bytes >= SLICES_MIN * SLICE_BYTES && self.config.object_bytes_max >= SLICE_BYTES
    }

    /// Whether what comes with `head` is kept in slices, if its parts can be asked for: it is large, and a strong entity
    /// tag tells its bytes from others (RFC 9110 section 8.8.1).
    pub fn slices(&self, head: &Head) -> bool {
        let is_strong = head.headers.get(ETAG).is_some_and(|tag| tag.as_bytes().starts_with(b"\""));
        let fits = |size: u64| size > SLICE_BYTES && size / SLICE_BYTES < u64::from(u32::MAX);
        self.has_slices() && is_strong && head.size.is_some_and(fits) && head.status == StatusCode::OK
    }
}

impl Lead {
    /// It comes in slices, from `first` on: what is known of it is kept from now on, and each slice is somebody's to fetch.
    /// Who waits for it looks again. `None` if there is no room for it, or something newer is known.
    pub fn slice(mut self, head: Head, cost: f32, first: u32) -> Option<(Arc<Stored>, Begun)> {
        let cache = self.cache.clone();
        let size = head.size?;
        if cache.is_outdated(&self.key, &head) {
            self.refuse();
            return None;
        }
        let Some(place) = cache.reserve(charge(&self.key, &head, 0)) else {
            self.refuse();
            return None;
        };
        let flight = self.flight.take()?;
        let kept = cache.begin_on_disk(&self.key, &head, cost, flight.born, flight.representation);
        let sliced = Sliced::new(cache.next_number(), size, kept.clone(), place);
        // There before anybody finds it: all who look for what it brings ask here, and begin nothing of their own.
        let (run, bringer) = Run::new(first);
        sliced.runs.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::downgrade(&run));
        let head = Arc::new(head);
        let stored = cache.keep(&self.key, &flight, head.clone(), Body::Sliced(Arc::new(sliced)), cost);
        if let (Some(stored), Some(kept)) = (&stored, kept)
            && !cache.is_on_disk_as(&self.key, stored, &head, &kept)
        {
            cache.off_disk_at_all(&kept);
        }
        flight.leave();
        stored.map(|stored| (stored, Begun { first, run, bringer }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slices_of_a_representation_are_all_of_it() {
        for size in [1, SLICE_BYTES - 1, SLICE_BYTES, SLICE_BYTES + 1, 10 << 30] {
            let place = Place::take(&Arc::default(), 0, false);
            let sliced = Sliced::new(1, size, None, place);
            let mut at = 0;
            while at < size {
                let slice = slice_at(at);
                let bytes = sliced.bytes_of(slice);
                assert_eq!((bytes.start, sliced.head_of(slice).size), (at, Some(bytes.end - bytes.start)));
                at = bytes.end;
            }
            assert_eq!(at, size);
        }
    }
}
