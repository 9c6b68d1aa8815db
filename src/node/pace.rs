//! A bound on bytes per second, for work that is never urgent.

use std::num::NonZeroU64;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// How much may be taken at once after a rest.
const BURST: Duration = Duration::from_millis(100);

/// Lets so many bytes a second pass, or all.
#[derive(Debug)]
pub(super) struct Pace {
    bytes_per_second: Option<NonZeroU64>,
    /// When all that was let pass so far is paid for.
    paid_at: Mutex<Option<Instant>>,
}

impl Pace {
    pub(super) const fn new(bytes_per_second: Option<NonZeroU64>) -> Self {
        Self { bytes_per_second, paid_at: Mutex::new(None) }
    }

    /// Waits until `bytes` may pass.
    pub(super) async fn take(&self, bytes: usize) {
        let Some(rate) = self.bytes_per_second else { return };
        let cost = Duration::from_secs_f64(bytes as f64 / rate.get() as f64);
        let now = Instant::now();
        let start = {
            let mut paid_at = self.paid_at.lock().unwrap_or_else(PoisonError::into_inner);
            let start = paid_at.unwrap_or(now).max(now);
            *paid_at = Some(start + cost);
            start
        };
        if start > now + BURST {
            tokio::time::sleep_until(start).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn bytes_pass_at_their_rate_whoever_takes_them() {
        let pace = Pace::new(NonZeroU64::new(1000));
        let begun = Instant::now();
        futures_util::future::join_all((0..50).map(|_| pace.take(100))).await;
        let taken = begun.elapsed();
        assert!(taken > Duration::from_millis(4700) && taken < Duration::from_millis(5100), "{taken:?}");
        Pace::new(None).take(usize::MAX).await;
        assert_eq!(begun.elapsed(), taken);
    }
}
