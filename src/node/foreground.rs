//! Requests before repairs: what a node does for itself gives way while it answers users.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// So long after a request the node still counts as busy: users come in crowds.
const QUIET: Duration = Duration::from_millis(50);

/// The longest pause at once, so that a node that is never quiet is mended and filled, too.
const PAUSE_LONGEST: Duration = Duration::from_millis(100);

/// The requests that are being answered.
#[derive(Debug)]
pub(super) struct Foreground {
    since: Instant,
    running: AtomicUsize,
    /// When the last one ended, in milliseconds since the start.
    ended_ms: AtomicU64,
}

/// One request; it ends when this is dropped.
#[derive(Debug)]
pub(super) struct Running<'a>(&'a Foreground);

impl Foreground {
    pub(super) fn new() -> Self {
        Self { since: Instant::now(), running: AtomicUsize::new(0), ended_ms: AtomicU64::new(0) }
    }

    /// Notes that a request begins.
    pub(super) fn begin(&self) -> Running<'_> {
        self.running.fetch_add(1, Ordering::Relaxed);
        Running(self)
    }

    /// Whether users are being answered.
    pub(super) fn is_busy(&self) -> bool {
        let ended = Duration::from_millis(self.ended_ms.load(Ordering::Relaxed));
        self.running.load(Ordering::Relaxed) > 0 || (!ended.is_zero() && self.since.elapsed() < ended + QUIET)
    }

    /// After work that took so long: while users are answered it has at most every other moment.
    pub(super) async fn give_way(&self, worked: Duration) {
        if self.is_busy() {
            tokio::time::sleep(worked.min(PAUSE_LONGEST)).await;
        }
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        let now = u64::try_from(self.0.since.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.0.ended_ms.store(now.max(1), Ordering::Relaxed);
        self.0.running.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
    }
}
