//! How price and time are weighed, and the order that follows.
//!
//! Scales are fixed, never those of the candidates at hand: with min-max, rank or z-score scaling a node that nobody
//! would use changes the order of the others.

use std::cmp::Ordering;

use super::{Policy, Reason};
use crate::model::{MemberState, NanoDollars};

/// The price and the time that weigh alike.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scales {
    pub(super) price: NanoDollars,
    pub(super) time_s: f64,
}

impl Scales {
    /// The weighed sum of what `policy` looks at, lower is better; `None` if one of that is unknown.
    pub(super) fn score(&self, policy: Policy, price: Option<NanoDollars>, time_s: Option<f64>) -> Option<f64> {
        // A quotient of integers, so that a change of currency in both leaves every bit of it.
        let price = price.map(|price| price.get() as f64 / self.price.get() as f64);
        let time = time_s.map(|time_s| time_s / self.time_s);
        match policy {
            Policy::Price => price,
            Policy::Time => time,
            Policy::Combined { beta } => Some(beta.get() * price? + (1.0 - beta.get()) * time?),
        }
    }
}

/// What sets a candidate behind all those without it, gravest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Handicap {
    pub(super) state: MemberState,
    pub(super) ejected: bool,
    pub(super) suspect: bool,
    pub(super) recovering: bool,
    pub(super) unpriced: bool,
    pub(super) unmeasured: bool,
}

impl Handicap {
    fn reason(self) -> Option<Reason> {
        if self.state == MemberState::Maintenance {
            Some(Reason::InMaintenance)
        } else if self.state == MemberState::Draining {
            Some(Reason::Draining)
        } else if self.ejected {
            Some(Reason::Ejected)
        } else if self.suspect {
            Some(Reason::Suspect)
        } else if self.recovering {
            Some(Reason::Recovering)
        } else if self.unpriced {
            Some(Reason::Unpriced)
        } else if self.unmeasured {
            Some(Reason::Unmeasured)
        } else {
            None
        }
    }
}

/// A candidate with all that its place depends on.
#[derive(Debug, Clone)]
pub(super) struct Scored {
    /// Its position in the table, which is by name: the last resort of every comparison.
    pub(super) index: usize,
    pub(super) handicap: Handicap,
    pub(super) price: Option<NanoDollars>,
    pub(super) time_s: Option<f64>,
    pub(super) score: Option<f64>,
    /// Its rendezvous weight for the key: the highest wins.
    pub(super) rendezvous: u64,
    /// Whether others share its place, so that rendezvous chose.
    pub(super) in_band: bool,
}

impl Scored {
    pub(super) fn by_price(&self, other: &Self) -> Ordering {
        let price = |scored: &Self| scored.price.map_or(u64::MAX, NanoDollars::get);
        price(self).cmp(&price(other))
    }

    pub(super) fn by_time(&self, other: &Self) -> Ordering {
        self.time_s.unwrap_or(f64::INFINITY).total_cmp(&other.time_s.unwrap_or(f64::INFINITY))
    }

    fn by_score(&self, other: &Self) -> Ordering {
        self.score.unwrap_or(f64::INFINITY).total_cmp(&other.score.unwrap_or(f64::INFINITY))
    }

    pub(super) fn by_rendezvous(&self, other: &Self) -> Ordering {
        other.rendezvous.cmp(&self.rendezvous).then(self.index.cmp(&other.index))
    }
}

/// Puts `scored` in the order of `policy` (a reduced one), best first.
pub(super) fn order(scored: &mut [Scored], policy: Policy, band_per_mille: u32) {
    scored.sort_unstable_by(|a, b| {
        let metrics = match policy {
            Policy::Price => a.by_price(b).then_with(|| a.by_time(b)),
            Policy::Time => a.by_time(b).then_with(|| a.by_price(b)),
            Policy::Combined { .. } => a.by_score(b).then_with(|| a.by_price(b)).then_with(|| a.by_time(b)),
        };
        a.handicap.cmp(&b.handicap).then(metrics).then_with(|| a.by_rendezvous(b))
    });
    if policy.uses_beta() {
        for equals in scored.chunk_by_mut(|a, b| a.handicap == b.handicap) {
            mix_band(equals, band_per_mille);
        }
    }
}

/// Orders those within the band of the first by rendezvous: it keeps caches warm and herds apart.
fn mix_band(ordered: &mut [Scored], band_per_mille: u32) {
    let Some(best) = ordered.first().and_then(|first| first.score) else { return };
    let limit = best * (1.0 + f64::from(band_per_mille) / 1_000.0);
    let members = ordered.partition_point(|scored| scored.score.is_some_and(|score| score <= limit));
    if members > 1 {
        let band = &mut ordered[..members];
        band.sort_unstable_by(Scored::by_rendezvous);
        band.iter_mut().for_each(|scored| scored.in_band = true);
    }
}

/// Why the candidate at `place` of `ordered` stands there: the first against the next, others against the one before.
pub(super) fn reason(ordered: &[Scored], place: usize, policy: Policy) -> Reason {
    let this = &ordered[place];
    if let Some(reason) = this.handicap.reason() {
        return reason;
    }
    let previous = place.checked_sub(1).map(|place| &ordered[place]);
    let next = ordered.get(place + 1).filter(|next| next.handicap == this.handicap);
    match (policy, previous) {
        (Policy::Combined { .. }, _) if this.in_band => Reason::WithinBand,
        (Policy::Combined { .. }, None) => Reason::BestScore,
        (Policy::Combined { .. }, Some(_)) => Reason::HigherScore,
        (Policy::Price, None) => match next {
            Some(next) if this.by_price(next).is_eq() => tie(this.by_time(next), Reason::TieByTime),
            _ => Reason::Cheapest,
        },
        (Policy::Time, None) => match next {
            Some(next) if this.by_time(next).is_eq() => tie(this.by_price(next), Reason::TieByPrice),
            _ => Reason::Fastest,
        },
        (Policy::Price, Some(previous)) if previous.by_price(this).is_lt() => Reason::Dearer,
        (Policy::Price, Some(previous)) => tie(previous.by_time(this), Reason::Slower),
        (Policy::Time, Some(previous)) if previous.by_time(this).is_lt() => Reason::Slower,
        (Policy::Time, Some(previous)) => tie(previous.by_price(this), Reason::Dearer),
    }
}

const fn tie(second_metric: Ordering, decided: Reason) -> Reason {
    match second_metric {
        Ordering::Equal => Reason::TieByKey,
        Ordering::Less | Ordering::Greater => decided,
    }
}
