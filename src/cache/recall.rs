//! Memory over the disk: what is kept goes to both, and comes back from there.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::disk::{Disk, INLINE_BYTES_MAX, Kept, Loaded};
use super::rules::VARIANTS_MAX;
use super::sliced::Sliced;
use super::stored::Birth;
use super::{Body, Cache, CacheKey, Head, Place, SHARDS, SLICE_BYTES, Stored, Terms, charge};

/// How long the disk is waited for: whoever gave it once gives it sooner than a disk that hangs.
const RECALL_MAX: Duration = Duration::from_secs(1);

impl Cache {
    /// Brings what the disk has under `key`, and memory has not, to memory. Of many who ask at once one does it, and a disk that
    /// hangs is not waited for.
    pub async fn recall(&self, key: &CacheKey) {
        let Some(disk) = self.disk.as_ref().filter(|disk| disk.may_have_others(key, &self.known_of(key))) else {
            return;
        };
        let turn = std::hash::BuildHasher::hash_one(&self.hasher, key) as usize % SHARDS;
        let recalling = async {
            let _turn = self.recalling[turn].lock().await;
            let known = self.known_of(key);
            if disk.may_have_others(key, &known) {
                for loaded in disk.load(key, &known).await {
                    self.take_back(disk, key, loaded);
                }
            }
        };
        if tokio::time::timeout(RECALL_MAX, recalling).await.is_err() {
            tracing::debug!("the cache's disk tier is slow, and what it has is fetched");
        }
    }

    /// What of the disk memory has under `key`.
    fn known_of(&self, key: &CacheKey) -> Vec<Arc<Kept>> {
        let shard = self.shard(key);
        let kept = shard.get(key).into_iter().flat_map(|slot| &slot.kept);
        kept.filter_map(|stored| stored.disk.get().cloned()).collect()
    }

    /// Of what earlier lives and moments have left on the disk, answers stay that are of these sites, by their texts in keys.
    pub fn keep_sites<'s>(&self, texts: impl Iterator<Item = &'s str>) {
        if let Some(disk) = &self.disk {
            disk.keep_sites(texts);
        }
    }

    /// Writes what waits for the disk, and nothing after it.
    pub async fn close(&self) {
        if let Some(disk) = &self.disk {
            disk.close().await;
        }
    }

    /// Whether something is in memory under `key`.
    pub fn has_any(&self, key: &CacheKey) -> bool {
        self.shard(key).get(key).is_some_and(|slot| !slot.kept.is_empty())
    }

    /// A place on the disk for what comes with `head`; it stands up to the purge `settled`, and was `asked` for at this number.
    pub(super) fn begin_on_disk(
        &self,
        key: &CacheKey,
        head: &Head,
        cost: f32,
        settled: u64,
        asked: u64,
    ) -> Option<Arc<Kept>> {
        let disk = self.disk.as_ref()?;
        let begun = if head.size.is_some() { disk.begin(key, head, cost) } else { disk.begin_unsized(key, head, cost) };
        let kept = begun?;
        kept.settle(settled);
        kept.asked_again(asked);
        if let Terms::Object { validated, .. } = head.terms {
            kept.validate(validated);
        }
        Some(kept)
    }

    /// What the disk alone has for the same requests goes for what comes with `head` and was `asked` for at this number; false
    /// if that is newer.
    pub(super) fn replace_on_disk(&self, key: &CacheKey, head: &Head, body: &Body, asked: u64) -> bool {
        let (Some(disk), CacheKey::Object { .. } | CacheKey::Answer { .. }) = (&self.disk, key) else { return true };
        let own = match body {
            Body::Memory(_) => None,
            Body::Sliced(sliced) => sliced.on_disk().map(|kept| &**kept),
        };
        // Of an object the version says which is newer, and the disk alone knows it.
        let asked = if head.version().is_some() { u64::MAX } else { asked };
        disk.replace(key, head, own, asked)
    }

    /// What the disk alone has under `key` goes.
    pub(super) fn forget_on_disk(&self, key: &CacheKey) {
        if let Some(disk) = self.disk.as_ref().filter(|disk| disk.may_have(key) && !self.has_any(key)) {
            disk.remove_key(key);
        }
    }

    /// `stored` goes from the disk, too.
    pub(super) fn off_disk(&self, stored: &Stored) {
        if let (Some(disk), Some(kept)) = (&self.disk, stored.disk.get()) {
            disk.remove(kept);
        }
    }

    /// What comes goes from the disk.
    pub(super) fn off_disk_at_all(&self, kept: &Kept) {
        if let Some(disk) = &self.disk {
            disk.remove(kept);
        }
    }

    /// Has what is kept whole under `key` written to the disk. Once it is a file there, memory lets go of its bytes: the system
    /// keeps those that are read, and sends them without a copy.
    pub(super) fn to_disk(self: &Arc<Self>, key: &CacheKey, stored: &Arc<Stored>, cost: f32) {
        let (CacheKey::Object { .. } | CacheKey::Answer { .. }, Body::Memory(bytes)) = (key, &stored.body) else {
            return;
        };
        let head = stored.head();
        let Some(kept) = self.begin_on_disk(key, &head, cost, stored.settled(), stored.asked()) else {
            return;
        };
        if !self.is_on_disk_as(key, stored, &head, &kept) {
            return self.off_disk_at_all(&kept);
        }
        if bytes.len() as u64 <= INLINE_BYTES_MAX {
            return kept.put(0, bytes.clone(), |_| {});
        }
        let (cache, key, number) = (self.clone(), key.clone(), stored.number);
        let all = bytes.len().div_ceil(SLICE_BYTES as usize);
        let there = Arc::new(AtomicUsize::new(0));
        let slice_written = move |written| {
            if written && there.fetch_add(1, Ordering::AcqRel) + 1 == all {
                cache.let_go(&key, number, cost);
            }
        };
        for slice in 0..all {
            let start = slice * SLICE_BYTES as usize;
            let end = bytes.len().min(start + SLICE_BYTES as usize);
            kept.put(slice as u32, bytes.slice(start..end), slice_written.clone());
        }
    }

    /// What is `stored` under `key` is on the disk from now on, where it began as `kept` with this head; false if it is not kept
    /// any more.
    pub(super) fn is_on_disk_as(&self, key: &CacheKey, stored: &Stored, head: &Arc<Head>, kept: &Arc<Kept>) -> bool {
        let _ = stored.disk.set(kept.clone());
        // Whoever has removed it meanwhile, or said something else of it, has not seen that it goes to the disk.
        let mut shard = self.shard(key);
        let slot = shard.get_mut(key).map(|slot| self.settle(key, slot));
        let is_kept = slot.is_some_and(|slot| slot.numbered(stored.number).is_some());
        if is_kept {
            stored.tell_disk(head);
        }
        is_kept
    }

    /// What is kept under `key` with this number is a file now.
    fn let_go(&self, key: &CacheKey, number: u32, cost: f32) {
        let mut queues = self.queues();
        let mut shard = self.shard(key);
        let Some(slot) = shard.get_mut(key) else { return };
        let Some(place) = slot.kept.iter().position(|stored| stored.number == number) else { return };
        let old = slot.kept[place].clone();
        let Some(kept) = old.disk.get().cloned() else { return };
        let Some(new) = self.on_disk(key, old.head(), old.body.size(), kept, old.representation()) else { return };
        new.take_over(&old);
        queues.removed(old.charged);
        let (number, charged) = (new.number, new.charged);
        slot.kept[place] = Arc::new(new);
        drop(shard);
        queues.insert_used(key.clone(), number, charged, cost);
    }

    /// Puts what the disk has under `key` behind what memory has.
    fn take_back(&self, disk: &Disk, key: &CacheKey, loaded: Loaded) {
        let Loaded { head, kept, body } = loaded;
        if self.is_outdated(key, &head) {
            return disk.remove(&kept);
        }
        let bytes = charge(key, &head, body.as_ref().map_or(0, |body| body.len() as u64));
        let Some(room) = self.reserve(bytes) else { return };
        let mut queues = self.queues();
        let mut shard = self.shard(key);
        let slot = shard.entry(key.clone()).or_default();
        // Looked at here, for whoever removes it, or tells of a newer one, then looks into this shard.
        let is_there = |stored: &Arc<Stored>| stored.disk.get().is_some_and(|known| known.is_same(&kept));
        if kept.is_removed() || self.is_outdated(key, &head) || slot.kept.iter().any(is_there) {
            return;
        }
        if slot.kept.iter().any(|newer| head.is_replaced_by(&newer.head())) {
            drop(shard);
            return disk.remove(&kept);
        }
        if slot.kept.len() >= VARIANTS_MAX {
            return;
        }
        let (settled, asked, size) = (kept.settled(), kept.asked(), kept.size());
        let stored = match body {
            Some(body) => {
                kept.use_inline();
                let number = self.numbers.fetch_add(1, Ordering::Relaxed);
                let body = Body::Memory(room.hold(body));
                let birth = Birth { born: settled, representation: self.next_number(), asked };
                let stored = Stored::new(Arc::new(head), body, number, bytes as u32, birth);
                let _ = stored.disk.set(kept);
                Some(stored)
            }
            None => self.on_disk(key, Arc::new(head), size, kept, self.next_number()),
        };
        let Some(stored) = stored else { return };
        stored.validate(stored.disk.get().map_or(Duration::ZERO, |kept| kept.validated()));
        let (number, charged) = (stored.number, stored.charged);
        slot.kept.push(Arc::new(stored));
        drop(shard);
        // It was wanted before, and is wanted now.
        queues.insert_used(key.clone(), number, charged, 0.0);
    }

    /// What memory has of what is on the disk.
    fn on_disk(
        &self,
        key: &CacheKey,
        head: Arc<Head>,
        size: u64,
        kept: Arc<Kept>,
        representation: u64,
    ) -> Option<Stored> {
        let charged = u32::try_from(charge(key, &head, 0)).ok()?;
        let place = Place::take(&self.used, u64::from(charged), false);
        let sliced = Sliced::new(self.next_number(), size, Some(kept.clone()), place);
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        let birth = Birth { born: kept.settled(), representation, asked: kept.asked() };
        let stored = Stored::new(head, Body::Sliced(Arc::new(sliced)), number, charged, birth);
        let _ = stored.disk.set(kept);
        Some(stored)
    }
}
