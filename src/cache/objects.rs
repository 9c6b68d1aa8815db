//! Objects of the store in the cache: what was heard of their changes, and what that leaves of what is kept.

use std::sync::PoisonError;
use std::time::Duration;

use super::heard::Heard;
use super::sync::MutexGuard;
use super::{Cache, CacheKey, Head};
use crate::model::{ObjectKey, Variant, Version};

/// What was heard of.
#[derive(Debug, Default)]
pub(super) struct Objects {
    /// What was heard of lately: nothing older is kept, wherever it comes from.
    heard: Heard,
    /// The same of images, by the names of their variants: what was uploaded under such a name may be older and right.
    images: Heard,
}

impl Cache {
    /// The object `key` is now what `version` says: what is older is not served any more, and not kept either when a node
    /// that lags behind still gives it.
    pub fn invalidate(&self, key: &ObjectKey, version: &Version) {
        // Noted first: what is on its way either looks for the note after this, or has lost its place before it ends.
        self.objects().heard.note(key, version);
        self.forget_object(key, |known| known.is_none_or(|known| known < version));
    }

    /// As [`Cache::invalidate`], for the name of a variant whose image is now what `version` says.
    pub fn invalidate_variant(&self, key: &ObjectKey, version: &Version) {
        self.objects().images.note(key, version);
        self.forget_object(key, |known| known.is_none_or(|known| known < version));
    }

    /// Whether the object `key` was heard of in `version` or a newer one.
    pub fn has_heard(&self, key: &ObjectKey, version: &Version) -> bool {
        self.objects().heard.newest(key).is_some_and(|newest| newest >= version)
    }

    /// The version of the object `key` that is to be looked for at `now`: the newest that was heard of, unless no node
    /// could give it a moment ago.
    pub fn sought(&self, key: &ObjectKey, now: Duration) -> Option<Version> {
        self.objects().heard.worth_seeking(key, now).cloned()
    }

    /// At `now` no node could give the newest version of the object `key` that was heard of.
    pub fn missed(&self, key: &ObjectKey, now: Duration) {
        self.objects().heard.miss(key, now);
    }

    /// Nothing is known of the object `key` any more.
    pub fn remove_object(&self, key: &ObjectKey) {
        self.forget_object(key, |_| true);
    }

    /// Whether `head` is older than what was heard of `key`.
    pub(super) fn is_outdated(&self, key: &CacheKey, head: &Head) -> bool {
        let (CacheKey::Object { key, .. }, Some(version)) = (key, head.version()) else { return false };
        let objects = self.objects();
        objects.heard.is_newer(key, version) || objects.images.is_newer(key, version)
    }

    fn forget_object(&self, key: &ObjectKey, is_old: impl Fn(Option<&Version>) -> bool) {
        for variant in [Variant::Original, Variant::Medium, Variant::Low] {
            let key = CacheKey::Object { key: key.clone(), variant };
            // Whether what is on the disk alone is old, only the disk could say.
            self.forget_on_disk(&key);
            self.forget(&key, |head| is_old(head.and_then(Head::version)));
            // Memory may have let it go between the two.
            self.forget_on_disk(&key);
        }
    }

    fn objects(&self) -> MutexGuard<'_, Objects> {
        self.objects.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
