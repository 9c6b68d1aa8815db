//! What the edge keeps in memory: whole answers, bounded by bytes, each fetched once however many ask.
//!
//! Knows nothing of nodes, origins or routes: whoever asks first for what is not kept becomes its [`Lead`] and says how it
//! goes on; all others read along. Entries leave when room is needed (S3-FIFO), or when what they are has changed.
//!
//! Two locks, taken in this order: the queues, by whoever brings or removes something; then the shard of a key. Who only
//! looks for something takes the shard's alone.

use std::collections::HashMap;
use std::collections::hash_map::{Entry, RandomState};
use std::hash::BuildHasher as _;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};

use serde::{Deserialize, Serialize};

use crate::compress::Coding;
use crate::model::{ObjectKey, Variant};

pub mod disk;
mod flight;
mod heard;
mod objects;
mod place;
mod purges;
pub mod queues;
mod reader;
mod recall;
mod renew;
pub mod rules;
mod run;
mod sliced;
mod spool;
mod stored;
mod sync;

pub use flight::{Broken, Fill, Lead, Told};
pub use purges::Rule;
pub use reader::Reader;
pub use run::{Bringer, Run};
pub use sliced::{Begun, SLICE_BYTES, Sliced, Sought, slice_at};
pub use stored::{Body, Head, Stored, Terms};

use flight::Flight;
use objects::Objects;
use place::{Place, Used};
use purges::{Purges, Verdict};
use queues::{Departed, Queues};
use rules::VARIANTS_MAX;
use sync::{Mutex, MutexGuard};

/// What an entry takes besides its body, its key and its headers: maps and queues.
const ENTRY_BYTES: u64 = 1024;

/// Objects that take more than this part of the capacity are large: together they get half of it.
const LARGE_PART: u64 = 16;

/// In how many parts the keys are divided, so that those who look for different ones seldom meet.
const SHARDS: usize = 64;

/// How much is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Bytes of memory for what is kept and what is on its way there; 0 keeps nothing.
    pub capacity_bytes: u64,
    /// The largest object that is kept as one. What has a strong entity tag, by which its parts can be asked for, is kept
    /// in slices of [`SLICE_BYTES`], however large it is, if this is no less than a slice and there is room for some.
    pub object_bytes_max: u64,
    /// What is kept on the disk besides.
    pub disk: disk::Config,
}

impl Default for Config {
    fn default() -> Self {
        // Pages, images and the segments of a film; an edge with it runs on the smallest machine of every cloud.
        Self { capacity_bytes: 64 << 20, object_bytes_max: 16 << 20, disk: disk::Config::default() }
    }
}

/// What is kept.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum CacheKey {
    /// An object of the store.
    Object {
        /// Which.
        key: ObjectKey,
        /// Which of its sizes, of an image.
        variant: Variant,
    },
    /// What the origins of a site answer to a request for a URI: the primary cache key (RFC 9111 section 2).
    Answer {
        /// The name of the site.
        site: Arc<str>,
        /// The URI.
        uri: Arc<str>,
    },
    /// A slice of a representation.
    Slice {
        /// Of which one.
        of: u64,
        /// Which slice, counted from 0.
        slice: u32,
    },
    /// A representation in a coding that was made here: found through what it was made of, and of no use without that.
    Coded {
        /// The number of what it was made of.
        of: u64,
        /// The coding.
        coding: Coding,
    },
}

impl CacheKey {
    /// The bytes of its text.
    fn len(&self) -> u64 {
        match self {
            Self::Object { key, .. } => key.as_str().len() as u64,
            Self::Answer { uri, .. } => uri.len() as u64,
            Self::Slice { .. } | Self::Coded { .. } => 0,
        }
    }
}

/// What became of the wish to read something through the cache.
#[derive(Debug)]
pub enum Lookup {
    /// It is there.
    Found(Arc<Stored>),
    /// Somebody fetches it at this moment.
    Flying(Reader),
    /// Whoever asked is to fetch it.
    Lead(Lead),
}

/// The answers in memory. All methods are short and never wait.
#[derive(Debug)]
pub struct Cache {
    config: Config,
    used: Arc<Used>,
    queues: Mutex<Queues<CacheKey>>,
    hasher: RandomState,
    shards: Box<[Mutex<Shard>]>,
    objects: Mutex<Objects>,
    purges: Purges,
    /// What entries took that were purged, and that the queues have not heard of.
    purged: Mutex<Vec<u32>>,
    disk: Option<Arc<disk::Disk>>,
    /// Held by whoever looks on the disk for a key of this shard.
    recalling: Box<[tokio::sync::Mutex<()>]>,
    numbers: AtomicU32,
    representations: AtomicU64,
}

type Shard = HashMap<CacheKey, Slot>;

/// What there is under one key.
#[derive(Debug, Default)]
struct Slot {
    /// What is kept, the newest first.
    kept: Vec<Arc<Stored>>,
    /// What is on its way.
    flying: Vec<Arc<Flight>>,
}

impl Slot {
    fn is_empty(&self) -> bool {
        self.kept.is_empty() && self.flying.is_empty()
    }

    fn numbered(&self, number: u32) -> Option<&Arc<Stored>> {
        self.kept.iter().find(|stored| stored.number == number)
    }
}

impl Cache {
    /// A cache that has nothing in memory, over what is on the `disk`.
    pub fn new(config: Config, disk: Option<Arc<disk::Disk>>) -> Self {
        Self {
            used: Arc::default(),
            queues: Mutex::new(Queues::new(config.capacity_bytes).counting_large(config.capacity_bytes / LARGE_PART)),
            config,
            hasher: RandomState::new(),
            shards: std::iter::repeat_with(Mutex::default).take(SHARDS).collect(),
            objects: Mutex::default(),
            purges: Purges::default(),
            purged: Mutex::default(),
            disk,
            recalling: std::iter::repeat_with(tokio::sync::Mutex::default).take(SHARDS).collect(),
            numbers: AtomicU32::new(0),
            representations: AtomicU64::new(0),
        }
    }

    /// Whether something of `size` bytes can be kept at all.
    pub const fn takes(&self, size: u64) -> bool {
        size <= self.config.object_bytes_max && size.saturating_add(ENTRY_BYTES) <= self.config.capacity_bytes
    }

    /// Bytes that are taken, by what is kept, on its way, or still being read.
    pub fn used_bytes(&self) -> u64 {
        self.used.all.load(Ordering::Relaxed)
    }

    /// The newest of what is kept under `key` that `suits`.
    pub fn find(&self, key: &CacheKey, suits: impl Fn(&Head) -> bool) -> Option<Arc<Stored>> {
        self.pick(key, |kept| kept.iter().position(|stored| suits(&stored.head())))
    }

    /// The one of what is kept under `key` whose place `pick` tells.
    pub fn pick(&self, key: &CacheKey, pick: impl FnOnce(&[Arc<Stored>]) -> Option<usize>) -> Option<Arc<Stored>> {
        let mut shard = self.shard(key);
        let slot = self.settle(key, shard.get_mut(key)?);
        let picked = pick(&slot.kept).and_then(|place| slot.kept.get(place)).map(Stored::used);
        if slot.is_empty() {
            shard.remove(key);
        }
        picked
    }

    /// All that is kept under `key`, the newest first.
    pub fn all(&self, key: &CacheKey) -> Vec<Arc<Stored>> {
        self.shard(key).get_mut(key).map(|slot| self.settle(key, slot).kept.clone()).unwrap_or_default()
    }

    /// The newest of what is kept under `key` that `suits`, or a way to it. What comes may turn out not to suit.
    pub fn join(self: &Arc<Self>, key: &CacheKey, suits: impl Fn(&Head) -> bool) -> Lookup {
        self.join_with(key, |kept| kept.iter().position(|stored| suits(&stored.head())), &suits)
    }

    /// As [`Cache::join`], with the place of the one of what is kept that `pick` tells.
    pub fn join_with(
        self: &Arc<Self>,
        key: &CacheKey,
        pick: impl FnOnce(&[Arc<Stored>]) -> Option<usize>,
        suits: impl Fn(&Head) -> bool,
    ) -> Lookup {
        let mut shard = self.shard(key);
        let slot = self.settle(key, shard.entry(key.clone()).or_default());
        if let Some(stored) = pick(&slot.kept).and_then(|place| slot.kept.get(place)) {
            return Lookup::Found(Stored::used(stored));
        }
        let latest = self.purges.latest();
        let stands = |flight: &Flight, head: Option<&Head>| {
            flight.born == latest || self.purges.judge(key, head, flight.born) == Verdict::Stands
        };
        let may_suit = |flight: &&Arc<Flight>| {
            let head = flight.head();
            !flight.passes() && head.as_ref().is_none_or(|head| suits(head)) && stands(flight, head.as_deref())
        };
        if let Some(flight) = slot.flying.iter().find(may_suit) {
            return Lookup::Flying(Reader::new(flight.clone()));
        }
        let flight = Arc::new(Flight::new(latest, self.next_number()));
        slot.flying.push(flight.clone());
        Lookup::Lead(Lead::new(self.clone(), key.clone(), flight))
    }

    /// A fetch of its own for `key`, whatever is there or on its way.
    pub fn lead(self: &Arc<Self>, key: &CacheKey) -> Lead {
        let flight = Arc::new(Flight::new(self.purges.latest(), self.next_number()));
        self.shard(key).entry(key.clone()).or_default().flying.push(flight.clone());
        Lead::new(self.clone(), key.clone(), flight)
    }

    /// Nothing is known of `key` any more: what is on its way is not kept either.
    pub fn remove(&self, key: &CacheKey) {
        if let Some(disk) = &self.disk {
            disk.remove_key(key);
        }
        self.forget(key, |_| true);
    }

    /// `stored` is not kept under `key` any more.
    pub fn discard(&self, key: &CacheKey, stored: &Stored) {
        // Also where memory has let it go, or has it as a file by now.
        self.off_disk(stored);
        let mut queues = self.queues();
        let mut shard = self.shard(key);
        let Entry::Occupied(mut slot) = shard.entry(key.clone()) else { return };
        slot.get_mut().kept.retain(|kept| {
            let goes = kept.representation() == stored.representation();
            if goes {
                self.off_disk(kept);
                queues.removed(kept.charged);
            }
            !goes
        });
        if slot.get().is_empty() {
            slot.remove();
        }
    }

    /// Forgets what is under `key` and `is_old`, as far as its head is known; what is on its way without one is.
    fn forget(&self, key: &CacheKey, is_old: impl Fn(Option<&Head>) -> bool) {
        let mut queues = self.queues();
        let mut shard = self.shard(key);
        let Entry::Occupied(mut slot) = shard.entry(key.clone()) else { return };
        slot.get_mut().kept.retain(|stored| {
            let old = is_old(Some(&stored.head()));
            if old {
                self.off_disk(stored);
                queues.removed(stored.charged);
            }
            !old
        });
        slot.get_mut().flying.retain(|flight| !is_old(flight.head().as_deref()));
        if slot.get().is_empty() {
            slot.remove();
        }
    }

    /// Takes memory for something, and lets others go for it; `None` if those who still read take all of it.
    fn reserve(&self, bytes: u64) -> Option<Place> {
        self.reserve_as(bytes, self.is_large(bytes))
    }

    /// The same for what is on its way to the disk alone: all of it is one large thing.
    fn reserve_for_disk(&self, bytes: u64) -> Option<Place> {
        self.reserve_as(bytes, true)
    }

    fn reserve_as(&self, bytes: u64, large: bool) -> Option<Place> {
        let mut queues = self.queues();
        self.make_room(&mut queues, bytes, large)?;
        Some(Place::take(&self.used, bytes, large))
    }

    /// Takes `more` memory for what has `place` already; false if there is none.
    fn extend(&self, place: &mut Place, more: u64) -> bool {
        let mut queues = self.queues();
        let large = self.is_large(place.bytes + more);
        // What becomes large counts among the large ones as a whole.
        let makes_room = self.make_room(&mut queues, more, large).is_some();
        if makes_room {
            place.settle(place.bytes + more, large);
        }
        makes_room
    }

    const fn is_large(&self, bytes: u64) -> bool {
        bytes > self.config.capacity_bytes / LARGE_PART
    }

    /// Lets others go until there is room for `bytes`.
    fn make_room(&self, queues: &mut Queues<CacheKey>, bytes: u64, large: bool) -> Option<()> {
        let capacity = self.config.capacity_bytes;
        // A few slow readers of large objects must not take the place of all others.
        let large_used = || self.used.large.load(Ordering::Relaxed);
        let is_full = || {
            self.used_bytes().saturating_add(bytes) > capacity
                || large && large_used().saturating_add(bytes) > capacity / 2
        };
        let mut evicted = 0;
        while is_full() {
            // What is let go may still be read. So it is looked whether it would be enough before anything goes, and
            // no more than twice the size goes for it.
            let stays = self.used_bytes().saturating_sub(queues.kept_bytes());
            let large_stays = large_used().saturating_sub(queues.kept_large_bytes());
            let is_in_vain = stays + bytes > capacity || large && large_stays + bytes > capacity / 2;
            if is_in_vain || evicted > bytes.saturating_mul(2) {
                return None;
            }
            evicted += self.evict_one(queues)?;
        }
        Some(())
    }

    /// Lets one answer go and tells how many bytes that were; `None` if there is none.
    fn evict_one(&self, queues: &mut Queues<CacheKey>) -> Option<u64> {
        let Departed { key, number, .. } =
            queues.evict(|key, number| match self.shard(key).get(key).and_then(|slot| slot.numbered(number)) {
                None => queues::Fate::Gone,
                Some(stored) => queues::Fate::Used(stored.uses.swap(0, Ordering::Relaxed)),
            })?;
        let mut shard = self.shard(&key);
        let Entry::Occupied(mut slot) = shard.entry(key) else { return Some(0) };
        let place = slot.get().kept.iter().position(|stored| stored.number == number);
        let charged = place.map_or(0, |place| u64::from(slot.get_mut().kept.remove(place).charged));
        if slot.get().is_empty() {
            slot.remove();
        }
        Some(charged)
    }

    /// Keeps what `flight` has brought, if nothing has changed since it began, and nothing newer is kept for the same
    /// requests: else it takes the place of that, in memory and on the disk.
    fn keep(
        &self,
        key: &CacheKey,
        flight: &Arc<Flight>,
        head: Arc<Head>,
        body: Body,
        cost: f32,
    ) -> Option<Arc<Stored>> {
        let mut queues = self.queues();
        let mut shard = self.shard(key);
        let slot = shard.get_mut(key)?;
        let place = slot.flying.iter().position(|flying| Arc::ptr_eq(flying, flight))?;
        slot.flying.remove(place);
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        let in_memory = body.in_memory().map_or(0, |bytes| bytes.len() as u64);
        let charged = u32::try_from(charge(key, &head, in_memory)).ok()?;
        let birth = flight.birth();
        let is_newer =
            |stored: &Arc<Stored>| stored.head().is_replaced_by(&head) && stored.is_newer(&head, birth.asked);
        if slot.kept.iter().any(is_newer) || !self.replace_on_disk(key, &head, &body, birth.asked) {
            return None;
        }
        slot.kept.retain(|stored| {
            let goes = stored.head().is_replaced_by(&head);
            if goes {
                self.off_disk(stored);
                queues.removed(stored.charged);
            }
            !goes
        });
        for stored in slot.kept.drain((VARIANTS_MAX - 1).min(slot.kept.len())..) {
            queues.removed(stored.charged);
        }
        let stored = Arc::new(Stored::new(head, body, number, charged, birth));
        slot.kept.insert(0, stored.clone());
        drop(shard);
        queues.insert(key.clone(), number, charged, cost);
        queues.compact(|key, number| self.shard(key).get(key).is_some_and(|slot| slot.numbered(number).is_some()));
        Some(stored)
    }

    /// Nobody joins `flight`, which brings `key`, any more; false if there is another such one.
    fn close_to_others(&self, key: &CacheKey, flight: &Flight) -> bool {
        let shard = self.shard(key);
        let is_only = shard.get(key).is_some_and(|slot| !slot.flying.iter().any(|flying| flying.passes()));
        flight.pass();
        is_only
    }

    /// Nobody fetches `key` by `flight` any more.
    fn release(&self, key: &CacheKey, flight: &Arc<Flight>) {
        let mut shard = self.shard(key);
        let Entry::Occupied(mut slot) = shard.entry(key.clone()) else { return };
        slot.get_mut().flying.retain(|flying| !Arc::ptr_eq(flying, flight));
        if slot.get().is_empty() {
            slot.remove();
        }
    }

    fn queues(&self) -> MutexGuard<'_, Queues<CacheKey>> {
        let mut queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
        let purged = std::mem::take(&mut *self.purged.lock().unwrap_or_else(PoisonError::into_inner));
        purged.into_iter().for_each(|charged| queues.removed(charged));
        queues
    }

    fn shard(&self, key: &CacheKey) -> MutexGuard<'_, Shard> {
        let number = self.hasher.hash_one(key) as usize % SHARDS;
        self.shards[number].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What an answer with `size` bytes takes.
fn charge(key: &CacheKey, head: &Head, size: u64) -> u64 {
    size + key.len() + head.bytes() + ENTRY_BYTES
}

#[cfg(test)]
mod tests;
