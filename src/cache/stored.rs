//! An answer that is kept, and what is known of it.

use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::{HeaderMap, StatusCode};

use super::rules::{Freshness, Selector};
use super::sliced::Sliced;
use super::{disk, queues};
use crate::compress::{Effort, Made, Nature};
use crate::http1::Block;
use crate::model::Version;

/// What a header field takes besides its text.
const FIELD_BYTES: u64 = 64;

/// What is known of an answer before its bytes.
#[derive(Debug, Clone, PartialEq)]
pub struct Head {
    /// Its status.
    pub status: StatusCode,
    /// The headers with which it is served.
    pub headers: HeaderMap,
    /// The bytes of the body; `None` if only their end tells.
    pub size: Option<u64>,
    /// For what it may be used, and for how long.
    pub terms: Terms,
}

/// For what an answer may be used, and for how long.
#[derive(Debug, Clone, PartialEq)]
pub enum Terms {
    /// It is an object of the store, of whose changes the edge hears.
    Object {
        /// The version of the object.
        version: Version,
        /// When the fetch that brought it began.
        validated: Duration,
    },
    /// It is what an origin answers.
    Answer {
        /// How long it may be used.
        freshness: Freshness,
        /// For which requests; `None` stands for all.
        selector: Selector,
    },
    /// It is a slice of what is kept under another key, which says all that is known.
    Slice,
    /// It is a coding of what is kept, or comes, under another key.
    Coded {
        /// What was known of that when this head was made.
        source: Arc<Head>,
        /// How hard it was compressed.
        effort: Effort,
        /// What is known of its bytes, if there are all of them.
        made: Option<Made>,
    },
}

impl Head {
    /// The version of an object of the store.
    pub const fn version(&self) -> Option<&Version> {
        match &self.terms {
            Terms::Object { version, .. } => Some(version),
            Terms::Answer { .. } | Terms::Slice | Terms::Coded { .. } => None,
        }
    }

    /// Whether it is kept no longer once `newer` is, under the same key: they are for the same requests.
    pub(super) fn is_replaced_by(&self, newer: &Self) -> bool {
        match (&self.terms, &newer.terms) {
            (Terms::Answer { selector, .. }, Terms::Answer { selector: newer, .. }) => selector == newer,
            _ => true,
        }
    }

    /// What its headers take, as fields and as the lines that are sent, and what it is selected by.
    pub(super) fn bytes(&self) -> u64 {
        let text = |(name, value): (&http::HeaderName, &http::HeaderValue)| {
            2 * (name.as_str().len() as u64 + value.len() as u64) + FIELD_BYTES
        };
        let selector = match &self.terms {
            Terms::Answer { selector, .. } => selector.bytes(),
            Terms::Object { .. } | Terms::Slice | Terms::Coded { .. } => 0,
        };
        self.headers.iter().map(text).sum::<u64>() + selector
    }
}

/// A head, its lines as they are sent, and what codings mean to it.
#[derive(Debug)]
struct Known {
    head: Arc<Head>,
    /// With whether others get other forms of it.
    block: OnceLock<(bool, Block)>,
    /// With the number of the rules by which it was judged.
    nature: OnceLock<(u64, Nature)>,
}

impl Known {
    const fn new(head: Arc<Head>) -> Self {
        Self { head, block: OnceLock::new(), nature: OnceLock::new() }
    }
}

/// Where the bytes of an answer are.
#[derive(Debug, Clone)]
pub enum Body {
    /// In memory, all of them.
    Memory(Bytes),
    /// In slices, each of which is kept, on the disk or under a key of its own, or not.
    Sliced(Arc<Sliced>),
}

impl Body {
    /// How many bytes there are.
    pub fn size(&self) -> u64 {
        match self {
            Self::Memory(bytes) => bytes.len() as u64,
            Self::Sliced(sliced) => sliced.size(),
        }
    }

    /// All of them, if they are in memory.
    pub const fn in_memory(&self) -> Option<&Bytes> {
        match self {
            Self::Memory(bytes) => Some(bytes),
            Self::Sliced(_) => None,
        }
    }
}

/// What is known of an answer since its fetch began.
#[derive(Debug, Clone, Copy)]
pub(super) struct Birth {
    /// The number of the newest purge then.
    pub(super) born: u64,
    /// The number of what it is, which nothing else has.
    pub(super) representation: u64,
    /// When it was asked for: what was asked for later has a greater number. 0 if that was in an earlier life.
    pub(super) asked: u64,
}

/// An answer that is kept.
#[derive(Debug)]
pub struct Stored {
    head: ArcSwap<Known>,
    /// Its bytes.
    pub body: Body,
    /// The same on the disk.
    pub(super) disk: OnceLock<Arc<disk::Kept>>,
    /// Held by whoever asks the store whether it is right still; all others wait for what he hears.
    pub checking: tokio::sync::Mutex<()>,
    pub(super) number: u32,
    /// The number of what it is, which nothing else has.
    representation: u64,
    /// What it takes, for as long as somebody has a part of its body.
    pub(super) charged: u32,
    validated_us: AtomicU64,
    asked_us: AtomicU64,
    /// Up to which purge it is known to stand.
    settled: AtomicU64,
    /// When it was last asked for, or whether it is right: as [`Birth::asked`].
    asked: AtomicU64,
    pub(super) uses: AtomicU8,
    /// How often it was given, as far as somebody counts.
    given: AtomicU32,
}

impl Stored {
    pub(super) fn new(head: Arc<Head>, body: Body, number: u32, charged: u32, birth: Birth) -> Self {
        let validated = match head.terms {
            Terms::Object { validated, .. } => validated,
            Terms::Answer { .. } | Terms::Slice | Terms::Coded { .. } => Duration::ZERO,
        };
        Self {
            validated_us: AtomicU64::new(validated.as_micros() as u64),
            asked_us: AtomicU64::new(0),
            settled: AtomicU64::new(birth.born),
            asked: AtomicU64::new(birth.asked),
            representation: birth.representation,
            uses: AtomicU8::new(0),
            given: AtomicU32::new(0),
            checking: tokio::sync::Mutex::const_new(()),
            head: ArcSwap::from_pointee(Known::new(head)),
            disk: OnceLock::new(),
            body,
            number,
            charged,
        }
    }

    /// What came before its bytes.
    pub fn head(&self) -> Arc<Head> {
        self.head.load().head.clone()
    }

    /// What came before its bytes, and its lines, which `make` makes once, as long as it `varies` or does not.
    pub fn block(&self, varies: bool, make: impl Fn(&Head) -> Block) -> (Arc<Head>, Block) {
        let known = self.head.load();
        match known.block.get_or_init(|| (varies, make(&known.head))) {
            (of, block) if *of == varies => (known.head.clone(), block.clone()),
            _ => {
                let block = make(&known.head);
                self.remember(&known, |anew| _ = anew.block.set((varies, block.clone())));
                (known.head.clone(), block)
            }
        }
    }

    /// What may become of it by codings, which `judge` says once of each head, as long as the rules with this number hold.
    pub fn nature(&self, rules: u64, judge: impl Fn(&Head) -> Nature) -> Nature {
        let known = self.head.load();
        match *known.nature.get_or_init(|| (rules, judge(&known.head))) {
            (of, nature) if of == rules => nature,
            _ => {
                let nature = judge(&known.head);
                self.remember(&known, |anew| _ = anew.nature.set((rules, nature)));
                nature
            }
        }
    }

    /// What follows from the head `known` is found out anew, but for what `set` says; unless the head is another one by now.
    fn remember(&self, known: &Arc<Known>, set: impl FnOnce(&Known)) {
        let anew = Known::new(known.head.clone());
        set(&anew);
        self.head.compare_and_swap(known, Arc::new(anew));
    }

    /// The number of what it is, which nothing else has: what is made of it has it in its key.
    pub const fn representation(&self) -> u64 {
        self.representation
    }

    /// Its head is this one now: somebody who knows has said so of the same bytes. What an origin said goes by
    /// [`super::Cache::renew`].
    pub fn update(&self, head: Head) {
        if let Some(kept) = self.disk.get() {
            kept.update(&head);
        }
        self.head.store(Arc::new(Known::new(Arc::new(head))));
    }

    /// The disk, which began with the head `known`, learns what was said since.
    pub(super) fn tell_disk(&self, known: &Arc<Head>) {
        let Some(kept) = self.disk.get() else { return };
        let head = self.head();
        if !Arc::ptr_eq(&head, known) {
            kept.update(&head);
        }
        kept.asked_again(self.asked());
        kept.validate(self.validated());
    }

    /// It has to be validated before its next use, as if it had been stale since `at`. What somebody said of it goes by
    /// [`super::Cache::expire`].
    pub(super) fn expire(&self, at: SystemTime) {
        let mut head = (*self.head()).clone();
        if let Terms::Answer { .. } = head.terms {
            head.terms.expire(at);
            self.update(head);
        }
        self.validated_us.store(0, Ordering::Relaxed);
        if let Some(kept) = self.disk.get() {
            kept.validate(Duration::ZERO);
        }
    }

    /// It is known to stand up to the purge `number`.
    pub(super) fn settle(&self, number: u64) {
        self.settled.store(number, Ordering::Relaxed);
        if let Some(kept) = self.disk.get() {
            kept.settle(number);
        }
    }

    /// What was found out of `old`, which has the same bytes, holds for this one.
    pub(super) fn take_over(&self, old: &Self) {
        self.head.store(Arc::new(Known::new(old.head())));
        self.validated_us.store(old.validated_us.load(Ordering::Relaxed), Ordering::Relaxed);
        self.settled.store(old.settled(), Ordering::Relaxed);
        self.asked.store(old.asked(), Ordering::Relaxed);
    }

    /// As [`Stored::settle`], for memory alone: what the disk has may not say so yet.
    pub(super) fn settle_in_memory(&self, number: u64) {
        self.settled.store(number, Ordering::Relaxed);
    }

    /// Up to which purge it is known to stand.
    pub fn settled(&self) -> u64 {
        self.settled.load(Ordering::Relaxed)
    }

    /// When it was last asked for, or whether it is right: of two for the same requests that with the greater number is newer.
    pub(super) fn asked(&self) -> u64 {
        self.asked.load(Ordering::Relaxed)
    }

    /// Whether it is newer than what comes with `head` and was asked for at the number `asked`: of objects the version says so.
    pub(super) fn is_newer(&self, head: &Head, asked: u64) -> bool {
        match (self.head().version(), head.version()) {
            (Some(kept), Some(version)) if kept != version => kept > version,
            _ => self.asked() > asked,
        }
    }

    /// Somebody who was asked at `number` says that it is right.
    pub(super) fn asked_again(&self, number: u64) {
        self.asked.fetch_max(number, Ordering::Relaxed);
        if let Some(kept) = self.disk.get() {
            kept.asked_again(number);
        }
    }

    /// When it was last known to be what the store has.
    pub fn validated(&self) -> Duration {
        Duration::from_micros(self.validated_us.load(Ordering::Relaxed))
    }

    /// At `now` it was found to be what the store has.
    pub fn validate(&self, now: Duration) {
        self.validated_us.fetch_max(now.as_micros() as u64, Ordering::Relaxed);
        if let Some(kept) = self.disk.get() {
            kept.validate(now);
        }
    }

    /// When the store was last asked in vain whether it is right; zero if it never was.
    pub fn asked_in_vain(&self) -> Duration {
        Duration::from_micros(self.asked_us.load(Ordering::Relaxed))
    }

    /// At `now` nobody could say whether it is right.
    pub fn ask_in_vain(&self, now: Duration) {
        self.asked_us.fetch_max(now.as_micros() as u64, Ordering::Relaxed);
    }

    /// Counts that it is given once more, and tells whether that is the `time`th time. Beyond that nobody counts.
    pub fn is_given(&self, time: u32) -> bool {
        self.given.load(Ordering::Relaxed) < time && self.given.fetch_add(1, Ordering::Relaxed) + 1 == time
    }

    /// It is counted anew how often it is given.
    pub fn count_anew(&self) {
        self.given.store(0, Ordering::Relaxed);
    }

    /// The same, used once more.
    pub(super) fn used(stored: &Arc<Self>) -> Arc<Self> {
        if stored.uses.load(Ordering::Relaxed) < queues::USES_MAX {
            stored.uses.fetch_add(1, Ordering::Relaxed);
        }
        stored.clone()
    }
}
