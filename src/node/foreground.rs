//! Requests before repairs: what a node does for itself gives way while it answers users.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// So long after a request the node still counts as busy: users come in crowds.
const QUIET: Duration = Duration::from_millis(50);

/// So long a request keeps its node busy at most: a longer one waits for its client, or for copies.
const LONGEST: Duration = Duration::from_secs(1);

/// How many times as long as it worked a repair rests while users are answered.
const RESTS: u32 = 5;

/// How long a piece of work waits for its turn: one that hangs, at a peer that is silent, must not stop all others.
const TURN_WAIT: Duration = Duration::from_millis(500);

/// The longest pause at once, so that a node that is never quiet is mended and filled, too.
const PAUSE_LONGEST: Duration = Duration::from_millis(100);

/// The requests that are being answered.
#[derive(Debug)]
pub(super) struct Foreground {
    since: Instant,
    running: AtomicUsize,
    /// When the last one began, in milliseconds since the start.
    begun_ms: AtomicU64,
    /// When the last one ended, in milliseconds since the start.
    ended_ms: AtomicU64,
    /// Held by the one piece of work that is being done.
    turn: tokio::sync::Mutex<()>,
}

/// One request; it ends when this is dropped.
#[derive(Debug)]
pub(super) struct Running<'a>(&'a Foreground);

impl Foreground {
    pub(super) fn new() -> Self {
        Self {
            since: Instant::now(),
            running: AtomicUsize::new(0),
            begun_ms: AtomicU64::new(0),
            ended_ms: AtomicU64::new(0),
            turn: tokio::sync::Mutex::default(),
        }
    }

    /// Notes that a request begins.
    pub(super) fn begin(&self) -> Running<'_> {
        self.begun_ms.store(self.now_ms(), Ordering::Relaxed);
        self.running.fetch_add(1, Ordering::Relaxed);
        Running(self)
    }

    /// Whether users are being answered.
    pub(super) fn is_busy(&self) -> bool {
        let is_within = |since_ms: &AtomicU64, period: Duration| {
            let since = Duration::from_millis(since_ms.load(Ordering::Relaxed));
            !since.is_zero() && self.since.elapsed() < since + period
        };
        is_within(&self.ended_ms, QUIET)
            || (self.running.load(Ordering::Relaxed) > 0 && is_within(&self.begun_ms, LONGEST))
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX).max(1)
    }

    /// After work that took so long: while users are answered it has at most every sixth moment.
    pub(super) async fn give_way(&self, worked: Duration) {
        if self.is_busy() {
            tokio::time::sleep((worked * RESTS).min(PAUSE_LONGEST)).await;
        }
    }

    /// Does a piece of `work`; while users are answered one such piece is done at a time, and gives way; but
    /// none waits long for one that hangs.
    pub(super) async fn in_turn<T>(&self, work: impl Future<Output = T>) -> T {
        if !self.is_busy() {
            return work.await;
        }
        let _turn = tokio::time::timeout(TURN_WAIT, self.turn.lock()).await;
        let begun = Instant::now();
        let done = work.await;
        self.give_way(begun.elapsed()).await;
        done
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.ended_ms.store(self.0.now_ms(), Ordering::Relaxed);
        self.0.running.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn work_that_hangs_does_not_stop_all_other_work() {
        let foreground = Foreground::new();
        let _busy = foreground.begin();
        let hangs = foreground.in_turn(std::future::pending::<()>());
        tokio::select! {
            biased;
            () = hangs => unreachable!("it hangs"),
            done = foreground.in_turn(async { 7 }) => assert_eq!(done, 7),
        }
    }

    #[test]
    fn a_node_is_busy_while_requests_run_and_shortly_after() {
        let foreground = Foreground::new();
        assert!(!foreground.is_busy());
        let (one, two) = (foreground.begin(), foreground.begin());
        drop(one);
        assert!(foreground.is_busy());
        drop(two);
        assert!(foreground.is_busy());
        foreground.ended_ms.store(0, Ordering::Relaxed);
        assert!(!foreground.is_busy());
        let mut foreground = Foreground::new();
        std::mem::forget(foreground.begin());
        assert!(foreground.is_busy());
        foreground.since -= LONGEST + Duration::from_millis(2);
        assert!(!foreground.is_busy(), "it waits for its client");
    }
}
