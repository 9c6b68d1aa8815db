//! One fetch that all read who ask for the same: they get the bytes as they come, each at its own pace.
//!
//! A body whose size is known has its memory from the start. One that tells its size by ending takes memory as it grows;
//! when there is none left, or it is larger than what is kept, it *passes*: only what some reader still lacks stays, the
//! fetch waits for the slowest of them, and nobody joins any more.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::{Buf as _, Bytes, BytesMut};

use super::spool::Spool;
use super::stored::Birth;
use super::sync::{Mutex, MutexGuard};
use super::{Body, Cache, CacheKey, Head, Place, Reader, Stored, charge};

/// How much memory a body of unknown size takes at a time.
const GROWTH_BYTES: u64 = 64 << 10;

/// How far the slowest reader of a body that passes may be behind, where there is memory for that.
const PASSING_BYTES_MAX: u64 = 256 << 10;

/// The fetch has ended before its last byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the fetch that this answer reads along has failed")]
pub struct Broken;

#[derive(Debug)]
pub(super) struct Flight {
    state: Mutex<State>,
    /// The number of the newest purge when it began.
    pub(super) born: u64,
    /// Nobody joins it any more.
    passes: AtomicBool,
    /// The number of what it brings, which nothing else has. They are given in the order in which fetches begin.
    pub(super) representation: u64,
}

/// What is known of a fetch.
#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) phase: Phase,
    pub(super) readers: BTreeMap<u64, Reading>,
    pub(super) reader_numbers: u64,
    /// Whoever brings the bytes, where he waits for the readers.
    filler: Option<Waker>,
}

/// How far a reader is.
#[derive(Debug, Default)]
pub(super) struct Reading {
    pub(super) read: u64,
    pub(super) waker: Option<Waker>,
    /// He was too slow for the others.
    pub(super) left_behind: bool,
}

/// How far a fetch has come.
#[derive(Debug, Default)]
pub(super) enum Phase {
    /// Nothing has come yet.
    #[default]
    Waiting,
    /// The bytes come; those from `base` on are here: first those that had come `before` they passed, and go to the disk.
    Streaming { head: Arc<Head>, before: Bytes, bytes: BytesMut, base: u64, passes: bool },
    /// All bytes are there, from `base` on.
    Whole { head: Arc<Head>, before: Bytes, bytes: Bytes, base: u64 },
    /// No more bytes come, and some are missing.
    Failed { head: Arc<Head> },
    /// It is nothing that can be shared.
    Released,
    /// It is a part, and is not kept.
    Part,
    /// Whoever was to fetch it has gone.
    Left,
}

/// What those learn who wait for what another one is to fetch.
#[derive(Debug, Clone, PartialEq)]
pub enum Told {
    /// It comes.
    Comes(Arc<Head>),
    /// Everyone has to fetch for himself.
    Alone,
    /// What came is a part that is not kept, and says nothing of the whole: who wants a part has to fetch for himself, others
    /// look again.
    Part,
    /// Whoever was to fetch it has gone, or has found that what is kept is right still: look again.
    Again,
}

impl Flight {
    pub(super) const fn birth(&self) -> Birth {
        Birth { born: self.born, representation: self.representation, asked: self.representation }
    }

    pub(super) fn new(born: u64, representation: u64) -> Self {
        Self { state: Mutex::default(), born, passes: AtomicBool::new(false), representation }
    }

    pub(super) fn head(&self) -> Option<Arc<Head>> {
        match &self.state().phase {
            Phase::Streaming { head, .. } | Phase::Whole { head, .. } | Phase::Failed { head } => Some(head.clone()),
            Phase::Waiting | Phase::Released | Phase::Part | Phase::Left => None,
        }
    }

    pub(super) fn passes(&self) -> bool {
        self.passes.load(Ordering::Relaxed)
    }

    pub(super) fn pass(&self) {
        self.passes.store(true, Ordering::Relaxed);
    }

    /// Whoever waits looks again.
    pub(super) fn leave(&self) {
        self.change(|phase| *phase = Phase::Left);
    }

    fn change<T>(&self, change: impl FnOnce(&mut Phase) -> T) -> T {
        let mut state = self.state();
        let answer = change(&mut state.phase);
        let wakers: Vec<_> = state.readers.values_mut().filter_map(|reading| reading.waker.take()).collect();
        drop(state);
        wakers.into_iter().for_each(Waker::wake);
        answer
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Lets go of what all have read, where the bytes pass.
    pub(super) fn trim(&mut self) {
        let slowest = self.slowest();
        let end = self.end();
        let Phase::Streaming { before, bytes, base, passes: true, .. } = &mut self.phase else { return };
        let read = slowest.unwrap_or(end).saturating_sub(*base) as usize;
        let read_before = read.min(before.len());
        before.advance(read_before);
        if before.is_empty() {
            // With its memory.
            *before = Bytes::new();
        }
        bytes.advance((read - read_before).min(bytes.len()));
        *base += read as u64;
        if let Some(filler) = self.filler.take() {
            filler.wake();
        }
    }

    /// How far the slowest reader is; `None` if nobody reads.
    fn slowest(&self) -> Option<u64> {
        self.readers.values().filter(|reading| !reading.left_behind).map(|reading| reading.read).min()
    }

    /// How far the fetch is.
    fn end(&self) -> u64 {
        match &self.phase {
            Phase::Streaming { before, bytes, base, .. } => base + (before.len() + bytes.len()) as u64,
            _ => 0,
        }
    }

    /// How many bytes are here that come and pass.
    fn passing(&self) -> u64 {
        match &self.phase {
            Phase::Streaming { base, passes: true, .. } => self.end() - base,
            _ => 0,
        }
    }
}

/// The one who is to fetch something. Dropped, it lets one of those who wait do so.
#[derive(Debug)]
pub struct Lead {
    pub(super) cache: Arc<Cache>,
    pub(super) key: CacheKey,
    pub(super) flight: Option<Arc<Flight>>,
}

impl Lead {
    pub(super) const fn new(cache: Arc<Cache>, key: CacheKey, flight: Arc<Flight>) -> Self {
        Self { cache, key, flight: Some(flight) }
    }

    /// It comes: a way to pass its bytes on, and one to read them. `None` if there is no room for it, or something newer
    /// was heard of; all who wait then fetch for themselves, and whoever leads goes on as it does. `cost` is what it costs
    /// to fetch it again, in any unit that is the same for all.
    pub fn begin(mut self, head: Head, cost: f32) -> Option<(Fill, Reader)> {
        let expected = head.size.unwrap_or(GROWTH_BYTES);
        let charged = charge(&self.key, &head, expected);
        let room = self.cache.takes(expected) && !self.cache.is_outdated(&self.key, &head);
        let Some(place) = room.then(|| self.cache.reserve(charged)).flatten() else {
            self.refuse();
            return None;
        };
        // Heard of while there was no head to compare it with: whoever told so has found nothing to remove.
        if self.cache.is_outdated(&self.key, &head) {
            self.refuse();
            return None;
        }
        let flight = self.flight.take()?;
        let bytes = BytesMut::with_capacity(expected as usize);
        let head = Arc::new(head);
        flight.change(|phase| {
            *phase = Phase::Streaming { head: head.clone(), before: Bytes::new(), bytes, base: 0, passes: false };
        });
        let reader = Reader::new(flight.clone());
        let (cache, key) = (self.cache.clone(), self.key.clone());
        Some((
            Fill {
                cache,
                key,
                flight,
                head,
                place,
                cost,
                room: expected,
                pushed: 0,
                passes: false,
                spool: None,
                spooled: false,
            },
            reader,
        ))
    }

    /// One more who waits for it.
    pub fn reader(&self) -> Option<Reader> {
        self.flight.clone().map(Reader::new)
    }

    /// The number of what is to be fetched, greater than those of all that others were asked for before.
    pub fn representation(&self) -> u64 {
        self.flight.as_ref().map_or(0, |flight| flight.representation)
    }

    /// It is nothing that can be shared: all who wait fetch for themselves.
    pub fn refuse(mut self) {
        self.end(Phase::Released);
    }

    /// As [`Lead::refuse`], of what is a part, and of which nobody knows whether the whole can be shared.
    pub fn refuse_part(mut self) {
        self.end(Phase::Part);
    }

    fn end(&mut self, end: Phase) {
        if let Some(flight) = self.flight.take() {
            self.cache.release(&self.key, &flight);
            flight.change(|phase| *phase = end);
        }
    }
}

impl Drop for Lead {
    fn drop(&mut self) {
        self.end(Phase::Left);
    }
}

/// The bytes of an answer on their way into the cache. Dropped before [`Fill::finish`], it fails those who read along.
#[derive(Debug)]
pub struct Fill {
    cache: Arc<Cache>,
    key: CacheKey,
    flight: Arc<Flight>,
    head: Arc<Head>,
    /// The memory of the body.
    place: Place,
    /// What it costs to fetch it again.
    cost: f32,
    /// For how many bytes of the body that is enough; where it passes, for how many of those that come.
    room: u64,
    pushed: u64,
    passes: bool,
    /// What passes, on its way to the disk.
    spool: Option<Spool>,
    /// Whether it is all on its way there.
    spooled: bool,
}

impl Fill {
    /// Passes the next bytes on. Where they pass, [`Fill::poll_ready`] is to be awaited before.
    ///
    /// # Errors
    /// [`Broken`] when they are more than the head said, or nobody reads what will not be kept.
    pub fn push(&mut self, more: &[u8]) -> Result<(), Broken> {
        self.pushed += more.len() as u64;
        if self.head.size.is_some_and(|size| self.pushed > size) {
            return Err(Broken);
        }
        if !self.passes && self.pushed > self.room && !self.grow() {
            self.pass();
        }
        self.spool.take_if(|spool| !spool.push(more));
        let mut state = self.flight.state();
        let is_read = state.readers.values().any(|reading| !reading.left_behind);
        let Phase::Streaming { bytes, passes, .. } = &mut state.phase else { return Err(Broken) };
        if *passes && !is_read {
            return Err(Broken);
        }
        if *passes && self.room > PASSING_BYTES_MAX && bytes.len() as u64 <= PASSING_BYTES_MAX {
            // The slowest has what came before it passed: nobody will lack so much again.
            let mut rest = BytesMut::with_capacity(PASSING_BYTES_MAX as usize);
            rest.extend_from_slice(bytes);
            *bytes = rest;
            self.room = PASSING_BYTES_MAX;
            self.place.settle(charge(&self.key, &self.head, self.room), self.place.large);
        }
        bytes.extend_from_slice(more);
        drop(state);
        self.flight.change(|_| ());
        Ok(())
    }

    /// Whether somebody reads along at this moment.
    pub fn is_read(&self) -> bool {
        self.flight.state().readers.values().any(|reading| !reading.left_behind)
    }

    /// Whether more may be pushed: a body that passes waits for its slowest reader.
    pub fn poll_ready(&self, cx: &Context<'_>) -> Poll<()> {
        let mut state = self.flight.state();
        if state.passing() < self.room.min(PASSING_BYTES_MAX) {
            return Poll::Ready(());
        }
        state.filler = Some(cx.waker().clone());
        Poll::Pending
    }

    /// Goes on without those who are slowest, if others have read all that there is: else one reader that stands still
    /// would hold up all others.
    pub fn leave_slowest_behind(&self) {
        let mut state = self.flight.state();
        let end = state.end();
        let reads = |reading: &&mut Reading| !reading.left_behind;
        if !state.readers.values_mut().filter(reads).any(|reading| reading.read == end) {
            return;
        }
        let slowest = state.readers.values_mut().filter(reads).map(|reading| reading.read).min().unwrap_or(end);
        for reading in state.readers.values_mut().filter(reads).filter(|reading| reading.read == slowest) {
            reading.left_behind = slowest < end;
            reading.waker.take().into_iter().for_each(Waker::wake);
        }
        state.trim();
    }

    /// The bytes have ended: they are kept if they are as many as the head said, and did not pass. Answers what is kept.
    ///
    /// # Errors
    /// [`Broken`] when they are fewer.
    pub fn finish(self) -> Result<Option<Arc<Stored>>, Broken> {
        let head = self.head.clone();
        self.finish_as(head)
    }

    /// As [`Fill::finish`], with a head that says what is known now that all bytes are there: those who come later get
    /// this one.
    ///
    /// # Errors
    /// [`Broken`] when they are fewer.
    pub fn finish_as(mut self, known: Arc<Head>) -> Result<Option<Arc<Stored>>, Broken> {
        if self.head.size.is_some_and(|size| self.pushed != size) {
            return Err(Broken);
        }
        if !self.passes {
            let charged = charge(&self.key, &known, self.pushed);
            self.place.settle(charged, self.cache.is_large(charged));
        }
        let none = Place::take(&self.place.used, 0, false);
        let place = std::mem::replace(&mut self.place, none);
        let body = self.flight.change(|phase| match std::mem::take(phase) {
            Phase::Streaming { head, before, bytes, base, .. } => {
                // Whoever has a part of them, the connections that still write it too, has their place.
                let bytes = place.hold(exact(bytes, &head));
                *phase = Phase::Whole { head, before, bytes: bytes.clone(), base };
                Ok(bytes)
            }
            other => {
                *phase = other;
                Err(Broken)
            }
        })?;
        // Now its size is known.
        let size = Some(self.pushed);
        if self.passes {
            if let Some(spool) = self.spool.take() {
                self.spooled = true;
                spool.finish(Head { size, ..(*known).clone() });
            }
            return Ok(None);
        }
        let head = if known.size == size { known } else { Arc::new(Head { size, ..(*known).clone() }) };
        let stored = self.cache.keep(&self.key, &self.flight, head, Body::Memory(body), self.cost);
        if let Some(stored) = &stored {
            self.cache.to_disk(&self.key, stored, self.cost);
        }
        Ok(stored)
    }

    /// Takes more memory for what comes.
    fn grow(&mut self) -> bool {
        // By halves, so that a long body asks seldom.
        let more = (self.pushed - self.room).max(GROWTH_BYTES).max(self.room / 2);
        let grows = self.cache.takes(self.pushed) && self.cache.extend(&mut self.place, more);
        if grows {
            self.room += more;
        }
        grows
    }

    /// What comes is not kept.
    fn pass(&mut self) {
        self.passes = true;
        if self.cache.close_to_others(&self.key, &self.flight) {
            self.spool = Spool::begin(&self.cache, &self.key, &self.head, self.cost, &self.flight);
        }
        // Before the flight is locked: whoever makes room looks into others.
        let charged = charge(&self.key, &self.head, PASSING_BYTES_MAX);
        let place = self.spool.as_ref().and_then(|_| self.cache.reserve_for_disk(charged));
        // Without it all goes on with the place that it has, and leaves none for the disk.
        self.spool.take_if(|_| place.is_none());
        let mut so_far = Bytes::new();
        let mut state = self.flight.state();
        if let Phase::Streaming { before, bytes, passes, .. } = &mut state.phase {
            *passes = true;
            if let Some(place) = place {
                // With its memory, and not once more: readers have it from there.
                let all = std::mem::replace(bytes, BytesMut::with_capacity(PASSING_BYTES_MAX as usize)).freeze();
                so_far = std::mem::replace(&mut self.place, place).hold(all);
                *before = so_far.clone();
                self.room = PASSING_BYTES_MAX;
            }
        }
        state.trim();
        drop(state);
        // Without the lock: what is not written may look for this flight.
        self.spool.take_if(|spool| !spool.take_over(so_far));
        if self.spool.is_none() {
            self.cache.release(&self.key, &self.flight);
        }
    }
}

/// `bytes` in memory of their own size, if the size was not known before.
fn exact(bytes: BytesMut, head: &Head) -> Bytes {
    if head.size.is_some() { bytes.freeze() } else { Bytes::copy_from_slice(&bytes) }
}

impl Drop for Fill {
    fn drop(&mut self) {
        if !self.spooled {
            self.cache.release(&self.key, &self.flight);
        }
        self.flight.change(|phase| {
            if let Phase::Streaming { head, .. } = phase {
                *phase = Phase::Failed { head: head.clone() };
            }
        });
    }
}
