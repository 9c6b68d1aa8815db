//! Answers of sites that are no more: nobody finds them, and they would wait for a site of the same name.

use std::collections::HashSet;
use std::sync::atomic::Ordering;

use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::Disk;
use super::entry::Entry;
use super::queue::Job;
use super::tier::Tier;
use crate::cache::CacheKey;

impl Disk {
    /// Of answers those stay that are of these sites, by their texts in keys, and those that are begun from now on. All others go
    /// as soon as the tier is loaded.
    pub fn keep_sites<'s>(&self, texts: impl Iterator<Item = &'s str>) {
        let sites = texts.map(|text| self.tier.site(text)).collect();
        let before = self.tier.ids.load(Ordering::Relaxed);
        self.tier.queue.push(Job::KeepSites { sites, before });
    }
}

impl Tier {
    /// The hash of the site whose answer has this key; 0 if that is of none.
    pub(super) fn site_of(&self, key: &CacheKey) -> u64 {
        if let CacheKey::Answer { site, .. } = key { self.site(site) } else { 0 }
    }

    fn site(&self, text: &str) -> u64 {
        xxh3_64_with_seed(text.as_bytes(), self.marks.seed)
    }

    /// Answers of no site of these go, if they were begun before the id `before`.
    pub(super) fn keep_sites(&self, sites: &HashSet<u64>, before: u64) {
        let goes = |entry: &Entry| entry.site != 0 && entry.id < before && !sites.contains(&entry.site);
        self.entries.all().iter().filter(|entry| goes(entry)).for_each(|entry| self.remove(entry));
    }
}
