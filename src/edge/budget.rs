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
        let full = i64::from(burst) * TRY;
        // What is less than a try must be saved, too, or no share would ever come to one.
        Self { hundredths: AtomicI64::new(full), per_request: i64::from(per_cent), most: full.max(TRY) }
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

/// The retries of one request. The first one is free: it is what makes the failure of a single node nobody's loss,
/// and it bounds what overloaded nodes are asked at twice the requests, and the budget.
#[derive(Debug, Default)]
pub(super) struct Retries {
    begun: bool,
}

impl Retries {
    /// Whether one more may be made.
    pub(super) fn may_go_on(&mut self, budget: &RetryBudget) -> bool {
        !std::mem::replace(&mut self.begun, true) || budget.spend()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_retry_of_a_request_is_free() {
        let budget = RetryBudget::new(0, 1);
        let (mut first, mut second) = (Retries::default(), Retries::default());
        assert!((0..2).all(|_| first.may_go_on(&budget)) && !first.may_go_on(&budget));
        assert!(second.may_go_on(&budget) && !second.may_go_on(&budget));
    }

    #[test]
    fn without_a_burst_retries_are_a_share_still() {
        let budget = RetryBudget::new(50, 0);
        assert!(!budget.spend());
        (0..10).for_each(|_| budget.earn());
        assert!(budget.spend() && !budget.spend());
        let none = RetryBudget::new(0, 0);
        (0..1_000).for_each(|_| none.earn());
        assert!(!none.spend());
    }

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
