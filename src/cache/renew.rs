//! What is kept and was asked about: that it is right is said of the moment of the question, and of nothing that came after it.

use std::io;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, SystemTime};

use super::purges::Verdict;
use super::{Cache, CacheKey, Head, Slot, Stored, Terms};

impl Cache {
    /// Somebody says that `stored`, which is kept under `key`, has this head now. He was asked at the number `asked`, when it
    /// stood up to the purge `settled`: what was purged since stays so, and what others have heard later, too.
    pub fn renew(&self, key: &CacheKey, stored: &Arc<Stored>, mut head: Head, settled: u64, asked: u64) {
        let shard = self.shard(key);
        // By now it may have another place, as a file.
        let stored = shard.get(key).and_then(|slot| slot.same_as(stored)).unwrap_or(stored);
        if asked < stored.asked() {
            return;
        }
        let verdict = self.purges.judge(key, Some(&stored.head()), settled);
        let stands = verdict == Verdict::Stands;
        match verdict {
            Verdict::Stands => {}
            Verdict::Stale(at) => head.terms.expire(at),
            Verdict::Gone => return,
        }
        stored.asked_again(asked);
        stored.update(head);
        if stands {
            stored.settle(settled);
        }
    }

    /// Somebody says that `stored`, which is kept under `key`, is not what he has any more: it is stale since `at`. He was asked
    /// at the number `asked`; what others have heard later stays so.
    pub fn expire(&self, key: &CacheKey, stored: &Arc<Stored>, at: SystemTime, asked: u64) {
        let shard = self.shard(key);
        let stored = shard.get(key).and_then(|slot| slot.same_as(stored)).unwrap_or(stored);
        if asked >= stored.asked() {
            stored.asked_again(asked);
            stored.expire(at);
        }
    }

    /// As [`Cache::renew`], of an object of the store, whose head stays as it is: it is what the store had at `now`.
    pub fn confirm(&self, key: &CacheKey, stored: &Arc<Stored>, now: Duration, settled: u64) {
        let shard = self.shard(key);
        let stored = shard.get(key).and_then(|slot| slot.same_as(stored)).unwrap_or(stored);
        if self.purges.judge(key, Some(&stored.head()), settled) == Verdict::Stands {
            stored.validate(now);
            // Once is enough: what it was in doubt about is settled on the disk, too.
            stored.settle(settled);
        }
    }

    /// Whether `stored` is kept under `key` still, as far as all purges say that came before.
    pub fn keeps(&self, key: &CacheKey, stored: &Stored) -> bool {
        self.shard(key).get_mut(key).is_some_and(|slot| self.settle(key, slot).numbered(stored.number).is_some())
    }

    /// The slot under `key` without what was purged.
    pub(super) fn settle<'s>(&self, key: &CacheKey, slot: &'s mut Slot) -> &'s mut Slot {
        let latest = self.purges.latest();
        if slot.kept.iter().any(|stored| stored.settled() < latest) {
            slot.kept.retain(|stored| match self.purges.judge(key, Some(&stored.head()), stored.settled()) {
                Verdict::Gone => {
                    self.off_disk(stored);
                    self.purged.lock().unwrap_or_else(PoisonError::into_inner).push(stored.charged);
                    false
                }
                Verdict::Stale(at) => {
                    stored.expire(at);
                    stored.settle_in_memory(latest);
                    true
                }
                Verdict::Stands => {
                    stored.settle(latest);
                    true
                }
            });
        }
        slot
    }

    /// What was received before `before`, and all objects of the store, may have been purged without a word: at `now` it becomes
    /// doubtful, and is validated before its next use. So does what seems to come from a time after `now`.
    pub fn doubt(&self, before: SystemTime, now: SystemTime) {
        self.purges.doubt(before, now);
    }

    /// Has the next lives doubt what was received before `now`, if there is a disk by which it gets there: something was purged
    /// that nobody will tell them. Blocks.
    ///
    /// # Errors
    /// When that cannot be written down.
    pub fn note_purge(&self, now: SystemTime) -> io::Result<()> {
        self.disk.as_ref().map_or(Ok(()), |disk| disk.note_purge(now))
    }
}

impl Slot {
    /// What is kept of the representation of `stored`.
    fn same_as(&self, stored: &Stored) -> Option<&Arc<Stored>> {
        self.kept.iter().find(|kept| kept.representation() == stored.representation())
    }
}

impl Terms {
    /// What an origin has answered is stale since `at`.
    pub(super) fn expire(&mut self, at: SystemTime) {
        if let Self::Answer { freshness, .. } = self {
            freshness.expire(at);
        }
    }
}
