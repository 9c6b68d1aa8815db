//! What is known of one slice, in one byte: whether it is there, and how often it was used.
//!
//! A hit counts its use without a lock. Everything else changes under the lock of the tier's queues, but for the claim by
//! which one of several who bring the same slice may write it.

use std::sync::atomic::{AtomicU8, Ordering};

use crate::cache::queues::USES_MAX;

const USES: u8 = 0b11;
/// It is on the disk, and the index knows it.
const PRESENT: u8 = 1 << 2;
/// Its bytes are known to be those that were written.
const VERIFIED: u8 = 1 << 3;
/// It is on its way to the disk.
const PENDING: u8 = 1 << 4;
/// Which of several files that had the same name one after another.
const NUMBER_SHIFT: u32 = 5;

/// A slice, or the body in the index of a representation that has no files.
#[derive(Debug, Default)]
pub(super) struct Slice(AtomicU8);

/// A slice as it was in one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sight(u8);

/// What became of the wish to write a slice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Claim {
    /// Whoever asked is to write it.
    Granted,
    /// It is there.
    Present,
    /// Somebody else writes it at this moment.
    Pending,
}

impl Sight {
    /// Whether it is there.
    pub(super) const fn is_present(self) -> bool {
        self.0 & PRESENT != 0
    }

    /// Whether it is there and known to be right.
    pub(super) const fn is_verified(self) -> bool {
        self.0 & (PRESENT | VERIFIED) == PRESENT | VERIFIED
    }

    /// Whether it may have a file.
    pub(super) const fn may_have_file(self) -> bool {
        self.0 & (PRESENT | PENDING) != 0
    }

    /// Tells the file from those that had its name before: it counts to 8, and begins anew.
    pub(super) const fn number(self) -> u32 {
        (self.0 >> NUMBER_SHIFT) as u32
    }

    /// Whether `later` is about the same file, which is still there.
    pub(super) const fn is_same_file(self, later: Self) -> bool {
        self.is_present() && later.is_present() && self.number() == later.number()
    }
}

impl Slice {
    /// One that an earlier life of the tier has left.
    pub(super) const fn left() -> Self {
        Self(AtomicU8::new(PRESENT))
    }

    /// What is known of it.
    pub(super) fn sight(&self) -> Sight {
        Sight(self.0.load(Ordering::Acquire))
    }

    /// Asks for the right to write it.
    pub(super) fn claim(&self) -> Claim {
        let free = |state: u8| (state & (PRESENT | PENDING) == 0).then_some(state | PENDING);
        match self.0.fetch_update(Ordering::AcqRel, Ordering::Acquire, free) {
            Ok(_) => Claim::Granted,
            Err(state) if state & PRESENT != 0 => Claim::Present,
            Err(_) => Claim::Pending,
        }
    }

    /// What was claimed is there. It is right: this process wrote it.
    pub(super) fn arrive(&self) {
        self.change(|state| state & !(PENDING | USES) | PRESENT | VERIFIED);
    }

    /// What was claimed is not there.
    pub(super) fn give_up(&self) {
        self.change(|state| state & !PENDING);
    }

    /// What was there is not any more.
    pub(super) fn leave(&self) {
        self.change(|state| (state & !(PRESENT | VERIFIED | USES)).wrapping_add(1 << NUMBER_SHIFT));
    }

    /// What was there is not any more, and is claimed by whoever deletes it: nobody may write it until then.
    pub(super) fn doom(&self) {
        self.leave();
        self.change(|state| state | PENDING);
    }

    /// The file that was seen as `seen` has the right bytes.
    pub(super) fn verify(&self, seen: Sight) {
        let same = |state: u8| seen.is_same_file(Sight(state)).then_some(state | VERIFIED);
        // It may have gone meanwhile; whoever opened it looks again.
        let _ = self.0.fetch_update(Ordering::AcqRel, Ordering::Acquire, same);
    }

    /// Whether the file that is there has the right bytes is not known any more.
    pub(super) fn doubt(&self) {
        self.change(|state| state & !VERIFIED);
    }

    /// Counts a use.
    pub(super) fn count_use(&self) {
        let state = self.0.load(Ordering::Relaxed);
        if state & USES < USES_MAX {
            // Of two who use it at once one may not count: it was used all the same.
            let _ = self.0.compare_exchange(state, state + 1, Ordering::AcqRel, Ordering::Relaxed);
        }
    }

    /// The uses since the last call.
    pub(super) fn take_uses(&self) -> u8 {
        self.0.fetch_and(!USES, Ordering::AcqRel) & USES
    }

    fn change(&self, change: impl Fn(u8) -> u8) {
        // It cannot fail: there is always a new state.
        let _ = self.0.fetch_update(Ordering::AcqRel, Ordering::Acquire, |state| Some(change(state)));
    }
}

// Two bits hold all uses that count.
const _: () = assert!(USES_MAX <= USES);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_of_several_writes_a_slice() {
        let slice = Slice::default();
        assert_eq!((slice.claim(), slice.claim()), (Claim::Granted, Claim::Pending));
        assert!(!slice.sight().is_present() && slice.sight().may_have_file());
        slice.give_up();
        assert_eq!(slice.claim(), Claim::Granted);
        slice.arrive();
        assert!(slice.sight().is_verified());
        assert_eq!(slice.claim(), Claim::Present);
    }

    #[test]
    fn uses_count_up_to_three_and_touch_nothing_else() {
        let slice = Slice::left();
        (0..10).for_each(|_| slice.count_use());
        assert!(slice.sight().is_present() && !slice.sight().is_verified());
        assert_eq!((slice.take_uses(), slice.take_uses()), (3, 0));
    }

    #[test]
    fn a_file_that_takes_the_place_of_another_is_told_from_it() {
        let slice = Slice::left();
        let seen = slice.sight();
        slice.leave();
        assert_eq!(slice.claim(), Claim::Granted);
        slice.arrive();
        assert!(!seen.is_same_file(slice.sight()) && slice.sight().number() == 1);
        slice.leave();
        slice.verify(seen);
        assert!(!slice.sight().is_present() && !slice.sight().is_verified());
        (0..6).for_each(|_| slice.leave());
        assert_eq!((slice.sight().number(), slice.claim()), (0, Claim::Granted));
    }
}
