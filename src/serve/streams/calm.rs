//! How much a client may do for nothing on one connection: begin requests and take them back, send what is no request, or
//! frames that carry nothing.
//!
//! Each of these is allowed and cheap; without end they are an attack (CVE-2023-44487, RFC 9113 section 10.5, RFC 9114
//! section 10.5). What is asked for in earnest, and time, make up for them.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How much may be spent at once: a map that is zoomed through ten levels takes some thousand requests for its tiles back.
const LEFT_MAX: u32 = 10_000;

/// How much of it comes back with time: thirty such requests a second, and more pings than anybody needs.
const BACK_PER_SECOND: u32 = 200;

/// What a frame costs that carries nothing of a request.
pub(in crate::serve) const FRAME_COST: u32 = 1;

/// What a request costs that nobody wants to have answered, or that is none.
pub(in crate::serve) const IN_VAIN_COST: u32 = 10;

/// What a request makes up for: its priority, and the windows of its answer.
pub(in crate::serve) const REQUEST_WORTH: u32 = 4;

/// What an answer makes up for that was taken.
pub(in crate::serve) const ANSWER_WORTH: u32 = 10;

/// What a piece of an answer makes up for: the windows of its stream and its connection, which clients that read 4 KiB at a
/// time (as those in Go) open anew after each.
pub(in crate::serve) const fn worth_of_piece(bytes: usize) -> u32 {
    2 * bytes.div_ceil(4 << 10) as u32
}

/// What one connection has left.
#[derive(Debug)]
pub(in crate::serve) struct Calm(Mutex<State>);

#[derive(Debug)]
struct State {
    left: u32,
    /// Since when nothing has come back.
    since: Instant,
    exhausted: bool,
}

impl Calm {
    pub(in crate::serve) fn new() -> Self {
        Self(Mutex::new(State { left: LEFT_MAX, since: Instant::now(), exhausted: false }))
    }

    /// Takes account of something that is for nothing.
    pub(in crate::serve) fn spend(&self, cost: u32) {
        self.lock().spend(cost, Instant::now);
    }

    /// Takes account of something that is in earnest.
    pub(in crate::serve) fn earn(&self, worth: u32) {
        self.lock().earn(worth);
    }

    /// Whether it was too much: the client has to be sent away.
    pub(in crate::serve) fn is_exhausted(&self) -> bool {
        self.lock().exhausted
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// The clock is asked where there is nothing left without it.
    fn spend(&mut self, cost: u32, now: impl FnOnce() -> Instant) {
        if self.left < cost {
            let now = now();
            let waited = now.duration_since(self.since).min(Duration::from_secs(3600));
            let back = (waited.as_millis() * u128::from(BACK_PER_SECOND) / 1000) as u32;
            if back > 0 {
                self.since = now;
                self.earn(back);
            }
        }
        match self.left.checked_sub(cost) {
            Some(left) => self.left = left,
            None => self.exhausted = true,
        }
    }

    fn earn(&mut self, worth: u32) {
        self.left = self.left.saturating_add(worth).min(LEFT_MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_has_so_much_and_time_and_earnest_give_it_back() {
        let begin = Instant::now();
        let mut state = State { left: LEFT_MAX, since: begin, exhausted: false };
        for _ in 0..LEFT_MAX / IN_VAIN_COST {
            state.spend(IN_VAIN_COST, || begin);
        }
        assert!(state.left == 0 && !state.exhausted);
        state.earn(ANSWER_WORTH);
        state.spend(IN_VAIN_COST, || begin);
        assert!(state.left == 0 && !state.exhausted);
        let later = begin + Duration::from_millis(1_510);
        for _ in 0..BACK_PER_SECOND * 151 / 100 {
            state.spend(FRAME_COST, || later);
        }
        assert!(state.left == 0 && !state.exhausted);
        state.spend(FRAME_COST, || later);
        assert!(state.exhausted);

        let mut state = State { left: 0, since: begin, exhausted: false };
        state.spend(FRAME_COST, || begin + Duration::from_secs(1 << 40));
        assert_eq!(state.left, LEFT_MAX - FRAME_COST, "no more comes back than there was");
    }

    #[test]
    fn who_opens_both_windows_after_each_4_kib_may_read_on() {
        let calm = Calm::new();
        for _ in 0..100_000 {
            calm.earn(worth_of_piece(16 << 10));
            (0..8).for_each(|_| calm.spend(FRAME_COST));
        }
        assert!(!calm.is_exhausted());
    }
}
