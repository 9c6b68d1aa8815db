//! How much is fetched at a time, and what must rest.

use std::collections::HashSet;
use std::time::Duration;

use tokio::time::Instant;

use super::{End, Fetched, batch};
use crate::model::{ContentHash, Version};
use crate::store::{SMALL_BLOB_BYTES_MAX, Want};

/// Objects above this size are large; a part of the places is for the others, so that large ones never hold them up.
const MEDIUM_BYTES_MAX: u64 = 1 << 20;

/// How many batches of small blobs are on their way at most: one that comes while another is committed, and two more for
/// peers that are slow.
const BATCHES_MAX: usize = 4;

/// How long failed wants rest after a failure: this, doubled for each earlier failure, up to the last.
const REST_FIRST: Duration = Duration::from_millis(200);
const REST_LONGEST: Duration = Duration::from_secs(5);

/// How long everything rests when this node itself cannot store: on a full disk the next try would fail, too.
const REST_OF_STORE: Duration = Duration::from_secs(2);

/// Which wants are being fetched, and which must rest.
pub(super) struct Places {
    running: HashSet<Version>,
    /// The blobs that are fetched one by one: several keys may want the same.
    hashes: HashSet<ContentHash>,
    running_small: usize,
    running_large: usize,
    batches: usize,
    all: usize,
    large: usize,
    /// Wants that failed before rest until then.
    failed_until: Option<Instant>,
    /// All wants rest until then.
    store_until: Option<Instant>,
}

impl Places {
    /// `all` places for blobs that are fetched one by one.
    pub(super) fn new(all: usize) -> Self {
        Self {
            running: HashSet::new(),
            hashes: HashSet::new(),
            running_small: 0,
            running_large: 0,
            batches: 0,
            all,
            large: (all - all / 4).max(1),
            failed_until: None,
            store_until: None,
        }
    }

    pub(super) fn are_free(&self) -> bool {
        (self.singles() < self.all || self.batches < BATCHES_MAX) && !rests(self.store_until)
    }

    fn singles(&self) -> usize {
        self.running.len() - self.running_small
    }

    /// How many small wants to look at: those that are being fetched may stand in front of the others.
    pub(super) fn small_limit(&self) -> usize {
        if self.batches < BATCHES_MAX { batch::WANTS_MAX + self.running_small } else { 0 }
    }

    /// How many others.
    pub(super) fn large_limit(&self) -> usize {
        if self.singles() < self.all { self.all + self.singles() } else { 0 }
    }

    /// The largest want that may be taken now.
    pub(super) const fn size_max(&self) -> u64 {
        if self.running_large < self.large { u64::MAX } else { MEDIUM_BYTES_MAX }
    }

    /// Whether `want` may be fetched now.
    pub(super) fn may_take(&self, want: &Want) -> bool {
        let fits = match is_small(want) {
            true => self.batches < BATCHES_MAX,
            false => {
                let place = self.singles() < self.all && (!is_large(want) || self.running_large < self.large);
                place && hash_of(want).is_none_or(|hash| !self.hashes.contains(&hash))
            }
        };
        let rested = want.failures == 0 || !rests(self.failed_until);
        fits && rested && !self.runs(want)
    }

    /// Whether `want` is being fetched.
    pub(super) fn runs(&self, want: &Want) -> bool {
        self.running.contains(&want.entry.version)
    }

    pub(super) fn take(&mut self, want: &Want) {
        self.running.insert(want.entry.version.clone());
        if is_small(want) {
            self.running_small += 1;
        } else {
            self.hashes.extend(hash_of(want));
        }
        self.running_large += usize::from(is_large(want));
    }

    /// Counts a batch, whose wants are taken.
    pub(super) const fn take_batch(&mut self) {
        self.batches += 1;
    }

    pub(super) fn give_back(&mut self, fetched: &Fetched) {
        let mut small = 0;
        for want in &fetched.wants {
            self.running.remove(&want.entry.version);
            self.running_large -= usize::from(is_large(want));
            small += usize::from(is_small(want));
            if let Some(hash) = hash_of(want) {
                self.hashes.remove(&hash);
            }
        }
        self.running_small -= small;
        self.batches -= usize::from(small > 0);
        match fetched.end {
            End::Kept => {}
            End::NoHolder => {
                let failures = fetched.wants.iter().map(|want| want.failures).min().unwrap_or(0);
                let rest = REST_FIRST.saturating_mul(1 << failures.min(10)).min(REST_LONGEST);
                self.failed_until = self.failed_until.max(Some(Instant::now() + rest));
            }
            End::NotStored => self.rest_all(),
        }
    }

    /// Lets what failed before be tried again.
    pub(super) const fn retry_failed(&mut self) {
        self.failed_until = None;
    }

    /// Lets everything rest, because this node's own store fails.
    pub(super) fn rest_all(&mut self) {
        self.store_until = Some(Instant::now() + REST_OF_STORE);
    }

    /// When the next rest ends.
    pub(super) fn rest(&self) -> Option<Instant> {
        [self.failed_until, self.store_until].into_iter().flatten().filter(|until| *until > Instant::now()).min()
    }
}

fn rests(until: Option<Instant>) -> bool {
    until.is_some_and(|until| until > Instant::now())
}

fn hash_of(want: &Want) -> Option<ContentHash> {
    want.entry.content().map(|content| content.hash)
}

fn size_of(want: &Want) -> u64 {
    want.entry.content().map_or(0, |content| content.size)
}

/// Whether the blob of `want` is fetched with others.
pub(super) fn is_small(want: &Want) -> bool {
    size_of(want) <= SMALL_BLOB_BYTES_MAX
}

fn is_large(want: &Want) -> bool {
    size_of(want) > MEDIUM_BYTES_MAX
}
