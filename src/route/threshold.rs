//! The price and the time at which a candidate would be the first, all others being as they are.
//!
//! Solved, not searched for: every order is one of metrics, or of a sum that is linear in both.

use std::cmp::Ordering;

use serde::{Deserialize, Serialize, Serializer};

use super::score::{Scales, Scored};
use super::{Beta, Policy};
use crate::model::NanoDollars;

/// The figures with which something holds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Threshold<T> {
    /// None.
    Never,
    /// All.
    Always,
    /// Those below this one.
    Below(T),
    /// This one, and those below it.
    UpTo(T),
}

/// With which figures a candidate would be the first. `None` where the policy needs a figure that is not known.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub struct Wins {
    /// With which price, its time being what it is; decimal dollars in JSON.
    #[serde(serialize_with = "serialize_price")]
    pub price: Option<Threshold<NanoDollars>>,
    /// With which time in seconds, its price being what it is.
    pub time_s: Option<Threshold<f64>>,
}

/// What scores are made with.
#[derive(Debug, Clone, Copy)]
pub(super) struct Weights {
    pub(super) policy: Policy,
    pub(super) scales: Scales,
    /// How much the best score may be exceeded by its equals: 1 for not at all.
    pub(super) band: f64,
}

impl<T> Threshold<T> {
    fn map<U>(self, change: impl FnOnce(T) -> U) -> Threshold<U> {
        match self {
            Self::Never => Threshold::Never,
            Self::Always => Threshold::Always,
            Self::Below(figure) => Threshold::Below(change(figure)),
            Self::UpTo(figure) => Threshold::UpTo(change(figure)),
        }
    }
}

/// With which figures the candidate at `place` of `ordered` would be the first.
///
/// A candidate that is set back behind another stays there whatever its figures; one that none is beside is the first
/// with any.
pub(super) fn wins(ordered: &[Scored], place: usize, weights: &Weights) -> Wins {
    let this = &ordered[place];
    let others = || ordered.iter().enumerate().filter(|(index, _)| *index != place).map(|(_, other)| other);
    let foremost = others().map(|other| other.handicap).min();
    match foremost.map_or(Ordering::Less, |foremost| this.handicap.cmp(&foremost)) {
        Ordering::Less => return Wins { price: Some(Threshold::Always), time_s: Some(Threshold::Always) },
        Ordering::Greater => return Wins { price: Some(Threshold::Never), time_s: Some(Threshold::Never) },
        Ordering::Equal => {}
    }
    let rivals: Vec<_> = others().filter(|other| other.handicap == this.handicap).collect();
    let Some(rival) = rivals.first() else { return Wins::default() };
    match weights.policy {
        Policy::Price => {
            let price = exact(rival.price, this.by_time(rival).then(this.by_rendezvous(rival)).is_lt());
            let time_s = tied(this.by_price(rival), exact(rival.time_s, this.by_rendezvous(rival).is_lt()));
            Wins { price: this.price.and(Some(price)), time_s: this.time_s.and(Some(time_s)) }
        }
        Policy::Time => {
            let time_s = exact(rival.time_s, this.by_price(rival).then(this.by_rendezvous(rival)).is_lt());
            let price = tied(this.by_time(rival), exact(rival.price, this.by_rendezvous(rival).is_lt()));
            Wins { price: this.price.and(Some(price)), time_s: this.time_s.and(Some(time_s)) }
        }
        Policy::Combined { beta } => combined(this, &rivals, beta, weights),
    }
}

/// The figures that are before the rival's, or equal to it if ties are won.
fn exact<T>(rival: Option<T>, wins_ties: bool) -> Threshold<T> {
    match rival {
        None => Threshold::Always,
        Some(figure) if wins_ties => Threshold::UpTo(figure),
        Some(figure) => Threshold::Below(figure),
    }
}

/// What the second figure can do when the first compares so.
const fn tied<T: Copy>(first: Ordering, second: Threshold<T>) -> Threshold<T> {
    match first {
        Ordering::Less => Threshold::Always,
        Ordering::Greater => Threshold::Never,
        Ordering::Equal => second,
    }
}

fn combined(this: &Scored, rivals: &[&Scored], beta: Beta, weights: &Weights) -> Wins {
    let Some(score) = score_limit(this, rivals, weights.band) else { return Wins::default() };
    let (beta, scales) = (beta.get(), weights.scales);
    let price_scale = scales.price.get() as f64;
    let price = this.time_s.map(|time_s| {
        let limit = score.map(|limit| (limit - (1.0 - beta) * time_s / scales.time_s) / beta * price_scale);
        match limit {
            // Money is whole, so both ends have a highest price that wins.
            Threshold::UpTo(most) if most >= 0.0 => Threshold::UpTo(NanoDollars::new(most.floor() as u64)),
            Threshold::Below(end) if end > 0.0 => Threshold::UpTo(NanoDollars::new((end.ceil() - 1.0) as u64)),
            Threshold::Always => Threshold::Always,
            Threshold::UpTo(_) | Threshold::Below(_) | Threshold::Never => Threshold::Never,
        }
    });
    let time_s = this.price.map(|price| {
        let limit =
            score.map(|limit| (limit - beta * (price.get() as f64 / price_scale)) / (1.0 - beta) * scales.time_s);
        match limit {
            // Nothing takes less time than none.
            Threshold::UpTo(end) | Threshold::Below(end) if end <= 0.0 => Threshold::Never,
            limit => limit,
        }
    });
    Wins { price, time_s }
}

/// The scores with which `this` would be the first among `rivals`.
///
/// It has to be within the band of the best, and no rival whom the key prefers may be: either because that rival is
/// outside the band of the other rivals already, or because `this` is so much better that the rival is outside of its.
fn score_limit(this: &Scored, rivals: &[&Scored], band: f64) -> Option<Threshold<f64>> {
    let least = |scores: &mut dyn Iterator<Item = f64>| scores.fold(f64::INFINITY, f64::min);
    this.score?;
    let best = least(&mut rivals.iter().filter_map(|rival| rival.score));
    let preferred = rivals.iter().filter(|rival| rival.by_rendezvous(this).is_lt());
    let best_preferred = least(&mut preferred.filter_map(|rival| rival.score));
    let limit = best * band;
    Some(if best_preferred > limit { Threshold::UpTo(limit) } else { Threshold::Below(best_preferred / band) })
}

fn serialize_price<S: Serializer>(price: &Option<Threshold<NanoDollars>>, serializer: S) -> Result<S::Ok, S::Error> {
    price.map(|threshold| threshold.map(|price| price.to_string())).serialize(serializer)
}
