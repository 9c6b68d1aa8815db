//! How many tries beyond the first the edge may make: when nodes are overloaded, asking each of them for every request
//! would bring down those that are left.

use std::sync::atomic::{AtomicI64, Ordering};

/// Hundredths of a try.
const TRY: i64 = 100;

/// A budget of retries: each request adds a share of one, each retry takes a whole one.
#[derive(Debug)]
pub(super) struct RetryBudget {
    hundredths: AtomicI64,
    per_request: i64,
    most: i64,
}

impl RetryBudget {
    /// A full budget: `per_cent` retries for a hundred requests, and up to `burst` saved.
    pub(super) fn new(per_cent: u32, burst: u32) -> Self {
        let most = i64::from(burst) * TRY;
        Self { hundredths: AtomicI64::new(most), per_request: i64::from(per_cent), most }
    }

    /// A request has come.
    pub(super) fn earn(&self) {
        if self.hundredths.load(Ordering::Relaxed) < self.most {
            self.hundredths.fetch_add(self.per_request, Ordering::Relaxed);
        }
    }

    /// Whether one more try may be made.
    pub(super) fn spend(&self) -> bool {
        let spent = |left: i64| (left >= TRY).then_some(left - TRY);
        self.hundredths.fetch_update(Ordering::Relaxed, Ordering::Relaxed, spent).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retries_are_a_share_of_the_requests_once_the_burst_is_spent() {
        let budget = RetryBudget::new(20, 3);
        assert!((0..3).all(|_| budget.spend()) && !budget.spend());
        for _ in 0..4 {
            budget.earn();
        }
        assert!(!budget.spend());
        budget.earn();
        assert!(budget.spend() && !budget.spend());
        (0..1_000).for_each(|_| budget.earn());
        assert_eq!((0..10).filter(|_| budget.spend()).count(), 3, "no more than the burst is saved");
    }
}
