//! Which node answers a request, and why.
//!
//! A [`RouteTable`] is an immutable snapshot of nodes, prices and measurements: a request loads one and never sees
//! half a change. Ranking does no I/O and reads no clock.

use std::num::NonZeroU64;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use crate::model::{Liveness, MemberState, NanoDollars, Node, Tariff};
use crate::price::{PriceBasis, Pricing, Usage};

pub mod eject;
mod explain;
mod explanation;
pub mod measure;
mod policy;
mod score;
mod sweep;
#[cfg(test)]
mod tests;
mod threshold;

pub use eject::{Source, Standing};
pub use explain::{Ranking, Reason, Route};
pub use explanation::{Changes, ExplainedRoute, Explanation, LeftOut};
pub use measure::{FailureKind, Measurements, TimeParts, Try};
pub use policy::{Beta, Policy, PolicyError};
pub use sweep::Span;
pub use threshold::{Threshold, Wins};

use score::{Handicap, Scales, Scored};

/// How requests are routed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// What requests are routed by, unless a request says otherwise: `p`, `n` or `c BETA`.
    pub policy: Policy,
    /// Which of a tariff's figures a request is priced by.
    pub price_basis: PriceBasis,
    /// The price that weighs as much as `time_scale_ms` at a beta of one half, [`PriceBasis::usual_scale`] if left out. Constant, so that
    /// beta has a meaning: `(1 - beta) / beta` of this price buys that time.
    pub price_scale_nano_dollars: Option<NonZeroU64>,
    /// The time that weighs as much as `price_scale_nano_dollars`.
    pub time_scale_ms: NonZeroU64,
    /// How far above the best score of policy `c` a node still counts as equal to it.
    pub band_per_mille: u32,
    /// How tries are weighed.
    pub measure: measure::Config,
    /// When a node that fails is taken out of the choice.
    pub eject: eject::Config,
}

impl Default for Config {
    /// An hour of a small server costs some cents and an answer takes some hundredths of a second, so a dollar an
    /// hour against a second makes both count. Measurements are not exact to 1 %.
    fn default() -> Self {
        Self {
            policy: Policy::default(),
            price_basis: PriceBasis::default(),
            price_scale_nano_dollars: None,
            time_scale_ms: NonZeroU64::new(1_000).expect("not zero"),
            band_per_mille: 10,
            measure: measure::Config::default(),
            eject: eject::Config::default(),
        }
    }
}

/// A node as the observer knows it.
#[derive(Debug, Clone)]
pub struct Candidate {
    /// The node.
    pub node: Arc<Node>,
    /// What is seen of it; one that is down is never ranked.
    pub liveness: Liveness,
    /// What it is for.
    pub state: MemberState,
    /// What its provider charges, if that is known.
    pub tariff: Option<Tariff>,
    /// What it was used for this month, as far as is known.
    pub used: Usage,
    /// What tries have taught about it.
    pub measurements: Measurements,
    /// Whether its failures keep it out of the choice.
    pub standing: Standing,
}

/// What the choice of a node depends on.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// The object's key: equals are spread over keys, and each key keeps to its node.
    pub key: &'a str,
    /// The bytes to be sent; 0 if unknown.
    pub size: u64,
    /// A policy for this request alone.
    pub policy: Option<Policy>,
}

/// All candidates at one moment, with what they are weighed by. Built by whoever observes them, then swapped in whole.
#[derive(Debug, Clone)]
pub struct RouteTable {
    entries: Vec<Entry>,
    policy: Policy,
    scales: Scales,
    band_per_mille: u32,
    measure: measure::Config,
}

#[derive(Debug, Clone)]
struct Entry {
    node: Arc<Node>,
    name_hash: u64,
    liveness: Liveness,
    state: MemberState,
    pricing: Option<Pricing>,
    measurements: Measurements,
    standing: Standing,
}

impl Entry {
    fn price(&self, size: u64) -> Option<NanoDollars> {
        self.pricing.as_ref()?.of(size)
    }
}

impl RouteTable {
    /// The table of these candidates, in any order.
    pub fn new(config: &Config, mut candidates: Vec<Candidate>) -> Self {
        let is_usable = |each: &&mut Candidate| each.liveness != Liveness::Down && each.state == MemberState::Active;
        let usable = candidates.iter_mut().filter(is_usable);
        eject::keep_half_in(usable.map(|candidate| &mut candidate.standing));
        candidates.sort_unstable_by(|a, b| a.node.id.cmp(&b.node.id));
        let entry = |candidate: Candidate| Entry {
            name_hash: xxh3_64(candidate.node.id.as_str().as_bytes()),
            liveness: candidate.liveness,
            state: candidate.state,
            pricing: candidate.tariff.and_then(|tariff| Pricing::new(&tariff, config.price_basis, candidate.used)),
            measurements: candidate.measurements,
            standing: candidate.standing,
            node: candidate.node,
        };
        Self {
            entries: candidates.into_iter().map(entry).collect(),
            policy: config.policy,
            scales: Scales {
                price: config
                    .price_scale_nano_dollars
                    .map_or(config.price_basis.usual_scale(), |scale| NanoDollars::new(scale.get())),
                time_s: config.time_scale_ms.get() as f64 / 1_000.0,
            },
            band_per_mille: config.band_per_mille,
            measure: config.measure.clone(),
        }
    }

    /// The nodes to try for `request`, best first.
    ///
    /// Nodes that are down are left out. Those that an operator has set apart come last, before them ejected ones, then
    /// suspect ones after all alive ones; then those that are spared because they were out, those without a price after
    /// all priced ones and those never tried after all measured ones, where the policy needs the figure. `p` and `n`
    /// are exact: the metric, then the other, then the key. `c` takes the lowest score; those within the band of it
    /// are equals among which the key chooses.
    pub fn rank(&self, request: &Request<'_>) -> Ranking {
        let policy = request.policy.unwrap_or(self.policy);
        let reduced = policy.reduced();
        let scored = self.ordered(request, reduced);
        let route = |(place, each): (usize, &Scored)| Route {
            node: Arc::clone(&self.entries[each.index].node),
            liveness: self.entries[each.index].liveness,
            price: each.price,
            time_s: each.time_s,
            score: each.score,
            reason: score::reason(&scored, place, reduced),
        };
        Ranking { policy, routes: scored.iter().enumerate().map(route).collect() }
    }

    /// The candidates that are not down in the order of `policy` (a reduced one), best first.
    fn ordered(&self, request: &Request<'_>, policy: Policy) -> Vec<Scored> {
        let key_hash = xxh3_64(request.key.as_bytes());
        let alive = self.entries.iter().enumerate().filter(|(_, entry)| entry.liveness != Liveness::Down);
        let mut scored = Vec::with_capacity(self.entries.len());
        scored.extend(alive.map(|(index, entry)| self.score(index, entry, request.size, key_hash, policy)));
        score::order(&mut scored, policy, self.band_per_mille);
        scored
    }

    fn score(&self, index: usize, entry: &Entry, size: u64, key_hash: u64, policy: Policy) -> Scored {
        let (time_s, price) = (entry.measurements.time_s(size, &self.measure), entry.price(size));
        let rendezvous = rendezvous(key_hash, entry.name_hash);
        Scored {
            index,
            handicap: Handicap {
                state: entry.state,
                ejected: matches!(entry.standing, Standing::Out(_)),
                recovering: is_spared(entry.standing, rendezvous),
                suspect: entry.liveness == Liveness::Suspect,
                unpriced: price.is_none() && policy != Policy::Time,
                unmeasured: time_s.is_none() && policy != Policy::Price,
            },
            price,
            time_s,
            score: self.scales.score(policy, price, time_s),
            rendezvous,
            in_band: false,
        }
    }
}

/// The one of `servers`, each with its name and standing, that `key` belongs to: whoever knows the same of them chooses the
/// same. Those that are out are passed over, and for a share of the keys those that were.
pub fn first_of<'n, T>(key: &str, servers: impl Iterator<Item = (T, &'n str, Standing)>) -> Option<T> {
    let key_hash = xxh3_64(key.as_bytes());
    let weighed =
        servers.map(|(server, name, standing)| (server, standing, rendezvous(key_hash, xxh3_64(name.as_bytes()))));
    let usable =
        weighed.filter(|(_, standing, weight)| !matches!(standing, Standing::Out(_)) && !is_spared(*standing, *weight));
    usable.max_by_key(|(_, _, weight)| *weight).map(|(server, ..)| server)
}

/// Whether a node that was out is spared requests for a key: those that it weighs most come back first.
fn is_spared(standing: Standing, rendezvous: u64) -> bool {
    match standing {
        Standing::Recovering(share) => (rendezvous as f64) < (1.0 - share) * u64::MAX as f64,
        Standing::In | Standing::Out(_) => false,
    }
}

/// The weight of a node for a key (highest random weight): a node that comes or goes moves only its own keys.
fn rendezvous(key_hash: u64, name_hash: u64) -> u64 {
    let mut both = [0; 16];
    both[..8].copy_from_slice(&key_hash.to_le_bytes());
    both[8..].copy_from_slice(&name_hash.to_le_bytes());
    xxh3_64(&both)
}
