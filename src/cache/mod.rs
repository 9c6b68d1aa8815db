//! What the edge keeps in memory: whole objects, bounded by bytes, each fetched once however many ask.
//!
//! Knows nothing of nodes or routes: whoever asks first for what is not kept becomes its [`Lead`] and says how it goes
//! on; all others read along. Entries leave when room is needed (S3-FIFO), or when an object has changed.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use serde::{Deserialize, Serialize};

use crate::model::{ObjectKey, Variant, Version};

mod flight;
mod heard;
mod queues;

pub use flight::{Broken, Fill, Lead, Reader, Told};

use flight::Flight;
use heard::Heard;
use queues::Queues;

/// What an entry takes besides its body and its key: headers, maps and queues.
const ENTRY_BYTES: u64 = 2048;

/// Objects that take more than this part of the capacity are large: together they get half of it.
const LARGE_PART: u64 = 16;

/// How much is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Bytes of memory for what is kept and what is on its way there; 0 keeps nothing.
    pub capacity_bytes: u64,
    /// The largest object that is kept.
    pub object_bytes_max: u64,
}

impl Default for Config {
    fn default() -> Self {
        // Pages, images and the segments of a film; an edge with it runs on the smallest machine of every cloud.
        Self { capacity_bytes: 64 << 20, object_bytes_max: 16 << 20 }
    }
}

/// What is kept: an object, or a variant of an image.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct CacheKey {
    /// The object.
    pub key: ObjectKey,
    /// Which of its sizes.
    pub variant: Variant,
}

/// What is known of an object before its bytes.
#[derive(Debug, Clone, PartialEq)]
pub struct Head {
    /// The headers with which it is served.
    pub headers: HeaderMap,
    /// The version of the object.
    pub version: Version,
    /// The bytes of the body.
    pub size: u64,
    /// When the fetch that brought it began.
    pub validated: Duration,
}

/// An object in memory.
#[derive(Debug)]
pub struct Stored {
    /// What came before its bytes.
    pub head: Arc<Head>,
    /// Its bytes.
    pub body: Bytes,
    /// Held by whoever asks the store whether it is right still; all others wait for what he hears.
    pub checking: tokio::sync::Mutex<()>,
    number: u64,
    /// What it takes, for as long as somebody has a part of its body.
    charged: u64,
    validated_us: AtomicU64,
    asked_us: AtomicU64,
    uses: AtomicU8,
}

impl Stored {
    /// When it was last known to be what the store has.
    pub fn validated(&self) -> Duration {
        Duration::from_micros(self.validated_us.load(Ordering::Relaxed))
    }

    /// At `now` it was found to be what the store has.
    pub fn validate(&self, now: Duration) {
        self.validated_us.fetch_max(now.as_micros() as u64, Ordering::Relaxed);
    }

    /// When the store was last asked in vain whether it is right; zero if it never was.
    pub fn asked_in_vain(&self) -> Duration {
        Duration::from_micros(self.asked_us.load(Ordering::Relaxed))
    }

    /// At `now` nobody could say whether it is right.
    pub fn ask_in_vain(&self, now: Duration) {
        self.asked_us.fetch_max(now.as_micros() as u64, Ordering::Relaxed);
    }
}

/// What became of the wish to read an object through the cache.
#[derive(Debug)]
pub enum Lookup {
    /// It is there.
    Found(Arc<Stored>),
    /// Somebody fetches it at this moment.
    Flying(Reader),
    /// Whoever asked is to fetch it.
    Lead(Lead),
}

/// The objects in memory. All methods are short and never wait.
#[derive(Debug)]
pub struct Cache {
    config: Config,
    used: Arc<Used>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    slots: HashMap<CacheKey, Slot>,
    queues: Queues,
    /// What was heard of lately: nothing older is kept, wherever it comes from.
    heard: Heard,
    /// The same of images, by the names of their variants: what was uploaded under such a name may be older and right.
    images: Heard,
    numbers: u64,
}

#[derive(Debug)]
enum Slot {
    Kept(Arc<Stored>),
    Flying(Arc<Flight>),
}

/// Memory that is taken until this is dropped.
#[derive(Debug)]
struct Place {
    used: Arc<Used>,
    bytes: u64,
    large: bool,
}

/// Bytes that are taken.
#[derive(Debug, Default)]
struct Used {
    all: AtomicU64,
    /// By large objects.
    large: AtomicU64,
}

impl Place {
    fn take(used: &Arc<Used>, bytes: u64, large: bool) -> Self {
        used.all.fetch_add(bytes, Ordering::Relaxed);
        if large {
            used.large.fetch_add(bytes, Ordering::Relaxed);
        }
        Self { used: used.clone(), bytes, large }
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

impl Cache {
    /// An empty cache.
    pub fn new(config: Config) -> Self {
        Self { config, used: Arc::default(), state: Mutex::default() }
    }

    /// Whether an object of `size` bytes can be kept at all.
    pub const fn takes(&self, size: u64) -> bool {
        size <= self.config.object_bytes_max && size.saturating_add(ENTRY_BYTES) <= self.config.capacity_bytes
    }

    /// Bytes that are taken, by what is kept, on its way, or still being read.
    pub fn used_bytes(&self) -> u64 {
        self.used.all.load(Ordering::Relaxed)
    }

    /// What is kept under `key`.
    pub fn find(&self, key: &CacheKey) -> Option<Arc<Stored>> {
        match self.state().slots.get(key)? {
            Slot::Kept(stored) => Some(used(stored)),
            Slot::Flying(_) => None,
        }
    }

    /// What is kept under `key`, or a way to it.
    pub fn join(self: &Arc<Self>, key: &CacheKey) -> Lookup {
        let mut state = self.state();
        match state.slots.get(key) {
            Some(Slot::Kept(stored)) => Lookup::Found(used(stored)),
            Some(Slot::Flying(flight)) => Lookup::Flying(Reader::new(flight.clone())),
            None => {
                let flight = Arc::new(Flight::default());
                state.slots.insert(key.clone(), Slot::Flying(flight.clone()));
                Lookup::Lead(Lead::new(self.clone(), key.clone(), flight))
            }
        }
    }

    /// The object `key` is now what `version` says: what is older is not served any more, and not kept either when a node
    /// that lags behind still gives it.
    pub fn invalidate(&self, key: &ObjectKey, version: &Version) {
        self.state().heard.note(key, version);
        self.forget(key, |known| known.is_some_and(|known| known >= version));
    }

    /// As [`Cache::invalidate`], for the name of a variant whose image is now what `version` says.
    pub fn invalidate_variant(&self, key: &ObjectKey, version: &Version) {
        self.state().images.note(key, version);
        self.forget(key, |known| known.is_some_and(|known| known >= version));
    }

    /// Whether the object `key` was heard of in `version` or a newer one.
    pub fn has_heard(&self, key: &ObjectKey, version: &Version) -> bool {
        self.state().heard.newest(key).is_some_and(|newest| newest >= version)
    }

    /// The version of the object `key` that is to be looked for at `now`: the newest that was heard of, unless no node
    /// could give it a moment ago.
    pub fn sought(&self, key: &ObjectKey, now: Duration) -> Option<Version> {
        self.state().heard.worth_seeking(key, now).cloned()
    }

    /// At `now` no node could give the newest version of the object `key` that was heard of.
    pub fn missed(&self, key: &ObjectKey, now: Duration) {
        self.state().heard.miss(key, now);
    }

    /// Whether `stored` is what is kept under `key` still.
    pub fn keeps(&self, key: &CacheKey, stored: &Stored) -> bool {
        matches!(self.state().slots.get(key), Some(Slot::Kept(kept)) if kept.number == stored.number)
    }

    /// Nothing is known of the object `key` any more.
    pub fn remove(&self, key: &ObjectKey) {
        self.forget(key, |_| false);
    }

    fn forget(&self, key: &ObjectKey, is_current: impl Fn(Option<&Version>) -> bool) {
        let mut state = self.state();
        for variant in [Variant::Original, Variant::Medium, Variant::Low] {
            let key = CacheKey { key: key.clone(), variant };
            let current = match state.slots.get(&key) {
                None => continue,
                Some(Slot::Kept(stored)) => is_current(Some(&stored.head.version)),
                Some(Slot::Flying(flight)) => is_current(flight.head().map(|head| head.version.clone()).as_ref()),
            };
            if !current && let Some(Slot::Kept(stored)) = state.slots.remove(&key) {
                let size = stored.head.size;
                state.queues.removed(charge(&key, size));
            }
        }
    }

    /// Takes memory for an object, and lets others go for it; `None` if there is something newer than `version`, or
    /// those who still read take all of it.
    fn reserve(&self, key: &CacheKey, bytes: u64, version: &Version) -> Option<Place> {
        let capacity = self.config.capacity_bytes;
        let mut state = self.state();
        if state.heard.is_newer(&key.key, version) || state.images.is_newer(&key.key, version) {
            return None;
        }
        // A few slow readers of large objects must not take the place of all others.
        let large = bytes > capacity / LARGE_PART;
        let large_used = || self.used.large.load(Ordering::Relaxed);
        let is_full = || {
            self.used_bytes().saturating_add(bytes) > capacity
                || large && large_used().saturating_add(bytes) > capacity / 2
        };
        let mut evicted = 0;
        while is_full() {
            // What is let go may still be read. So it is looked whether it would be enough before anything goes, and
            // no more than twice the size goes for it.
            let freed_at_most = state.queues.kept_bytes();
            if self.used_bytes().saturating_sub(freed_at_most) + bytes > capacity || evicted > bytes.saturating_mul(2) {
                return None;
            }
            evicted += state.evict_one(capacity)?;
        }
        Some(Place::take(&self.used, bytes, large))
    }

    /// Keeps what `flight` has brought, if nothing has changed since it began.
    fn keep(&self, key: &CacheKey, flight: &Arc<Flight>, head: Arc<Head>, body: Bytes) {
        let mut state = self.state();
        if !matches!(state.slots.get(key), Some(Slot::Flying(current)) if Arc::ptr_eq(current, flight)) {
            return;
        }
        state.numbers += 1;
        let number = state.numbers;
        let charged = charge(key, head.size);
        let stored = Stored {
            validated_us: AtomicU64::new(head.validated.as_micros() as u64),
            asked_us: AtomicU64::new(0),
            uses: AtomicU8::new(0),
            checking: tokio::sync::Mutex::const_new(()),
            head,
            body,
            number,
            charged,
        };
        state.slots.insert(key.clone(), Slot::Kept(Arc::new(stored)));
        state.queues.insert(key, number, charged);
        let State { slots, queues, .. } = &mut *state;
        queues.compact(|key, number| matches!(slots.get(key), Some(Slot::Kept(stored)) if stored.number == number));
    }

    /// Nobody fetches `key` by `flight` any more.
    fn release(&self, key: &CacheKey, flight: &Arc<Flight>) {
        let mut state = self.state();
        if matches!(state.slots.get(key), Some(Slot::Flying(current)) if Arc::ptr_eq(current, flight)) {
            state.slots.remove(key);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Lets one object go and answers how many bytes that were; `None` if there is none.
    fn evict_one(&mut self, capacity_bytes: u64) -> Option<u64> {
        let Self { slots, queues, .. } = self;
        let uses = |key: &CacheKey, number: u64| match slots.get(key) {
            Some(Slot::Kept(stored)) if stored.number == number => Some(&stored.uses),
            _ => None,
        };
        let key = queues.evict(capacity_bytes, |key, number| match uses(key, number) {
            None => queues::Fate::Gone,
            Some(uses) => queues::Fate::Used(uses.swap(0, Ordering::Relaxed)),
        })?;
        match slots.remove(&key) {
            Some(Slot::Kept(stored)) => Some(stored.charged),
            _ => Some(0),
        }
    }
}

fn used(stored: &Arc<Stored>) -> Arc<Stored> {
    if stored.uses.load(Ordering::Relaxed) < queues::USES_MAX {
        stored.uses.fetch_add(1, Ordering::Relaxed);
    }
    stored.clone()
}

/// What an object of `size` bytes takes.
fn charge(key: &CacheKey, size: u64) -> u64 {
    size + key.key.as_str().len() as u64 + ENTRY_BYTES
}

#[cfg(test)]
mod tests;
