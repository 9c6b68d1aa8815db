//! All that the choice of a node rests on, and what would change it: for people who ask, never on the way of a request.

use std::ops::Range;
use std::sync::Arc;

use serde::Serialize;

use super::explain::{serialize_dollars, serialize_name};
use super::measure::TimeParts;
use super::score::{self, Scored};
use super::sweep::{Line, Span, breaks, spans};
use super::threshold::{Weights, Wins, wins};
use super::{Beta, Entry, Policy, Ranking, Request, Route, RouteTable};
use crate::model::{Liveness, NanoDollars, Node, NodeId, Provider};
use crate::price::Pricing;

/// Sizes are looked at up to this one: no node takes a larger object by default.
const SIZE_MAX_BYTES: u64 = 1 << 40;

/// What a request is answered by, why, and what would change that.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Explanation {
    /// The policy that ordered the routes.
    pub policy: Policy,
    /// How many bytes the object was taken to have.
    pub size: u64,
    /// The nodes that would be tried, best first, as in [`Ranking`].
    pub routes: Vec<ExplainedRoute>,
    /// The nodes that would not be tried.
    pub left_out: Vec<LeftOut>,
    /// What would change the choice.
    pub changes: Changes,
}

/// A route with all that its place rests on.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ExplainedRoute {
    /// The route, as a request would get it.
    #[serde(flatten)]
    pub route: Route,
    /// Whose machine the node is.
    pub provider: Provider,
    /// What its time is made of; `None` if it was never tried.
    pub time_parts: Option<TimeParts>,
    /// With which figures it would be the first: for the one that is, how long it stays so.
    pub wins: Wins,
}

/// A node that nobody is sent to.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LeftOut {
    /// The node; its name in JSON.
    #[serde(serialize_with = "serialize_name")]
    pub node: Arc<Node>,
    /// Whose machine it is.
    pub provider: Provider,
    /// Why: it is down.
    pub liveness: Liveness,
    /// What it would cost.
    #[serde(serialize_with = "serialize_dollars")]
    pub price: Option<NanoDollars>,
}

/// What would change the choice, everything else being as it is.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Changes {
    /// The choice of policy `p`.
    pub by_price: Option<NodeId>,
    /// The choice of policy `n`.
    pub by_time: Option<NodeId>,
    /// The choice when the chosen node is down.
    pub if_lost: Option<NodeId>,
    /// The choice of policy `c` for each beta between 0 and 1. At both ends the policy is `n` and `p`.
    pub betas: Vec<Span<f64>>,
    /// The choice for each size in bytes; `from` is the first of a stretch, `to` the first of the next.
    pub sizes: Vec<Span<u64>>,
}

impl RouteTable {
    /// What [`RouteTable::rank`] answers, with what it rests on and what would change it.
    pub fn explain(&self, request: &Request<'_>) -> Explanation {
        let Ranking { policy, routes } = self.rank(request);
        let reduced = policy.reduced();
        let ordered = self.ordered(request, reduced);
        let weights = Weights { policy: reduced, scales: self.scales, band: self.band() };
        let routes = routes.into_iter().zip(&ordered).enumerate().map(|(place, (route, scored))| ExplainedRoute {
            provider: route.node.provider.clone(),
            time_parts: self.entries[scored.index].measurements.time_parts(request.size, &self.measure),
            wins: wins(&ordered, place, &weights),
            route,
        });
        let down = self.entries.iter().filter(|entry| entry.liveness == Liveness::Down);
        let left_out = |entry: &Entry| LeftOut {
            node: Arc::clone(&entry.node),
            provider: entry.node.provider.clone(),
            liveness: entry.liveness,
            price: entry.price(request.size),
        };
        Explanation {
            policy,
            size: request.size,
            routes: routes.collect(),
            left_out: down.map(left_out).collect(),
            changes: self.changes(request, reduced, &ordered),
        }
    }

    fn changes(&self, request: &Request<'_>, policy: Policy, ordered: &[Scored]) -> Changes {
        let mut others = ordered.get(1..).unwrap_or_default().to_vec();
        others.iter_mut().for_each(|scored| scored.in_band = false);
        score::order(&mut others, policy, self.band_per_mille);
        Changes {
            by_price: self.first(&self.ordered(request, Policy::Price)),
            by_time: self.first(&self.ordered(request, Policy::Time)),
            if_lost: self.first(&others),
            betas: self.betas(request),
            sizes: self.sizes(request, policy, ordered),
        }
    }

    /// The choice of policy `c` from a beta of 0 to one of 1: `J = beta x C/C0 + (1 - beta) x T/T0` is a line in beta.
    fn betas(&self, request: &Request<'_>) -> Vec<Span<f64>> {
        let at = |beta: f64| {
            let beta = Beta::new(beta)?;
            Some(self.ordered(request, Policy::Combined { beta }))
        };
        let lines = at(0.5).map(|ordered| {
            let ends = |scored: &Scored| {
                let score = |policy| self.scales.score(policy, scored.price, scored.time_s);
                Some(Line { start: score(Policy::Time)?, end: score(Policy::Price)? })
            };
            foremost(&ordered).iter().filter_map(ends).collect::<Vec<_>>()
        });
        let starts: Vec<_> = [0.0].into_iter().chain(breaks(&lines.unwrap_or_default(), self.band())).collect();
        spans(&starts, Some(1.0), |from, to| self.first(&at(f64::midpoint(from, to.unwrap_or(1.0)))?))
    }

    /// The choice from no byte to the most that there can be: between two sizes at which a price bends every time and every price is a
    /// line in the size, and so every score.
    fn sizes(&self, request: &Request<'_>, policy: Policy, ordered: &[Scored]) -> Vec<Span<u64>> {
        let entries: Vec<_> = foremost(ordered).iter().map(|scored| &self.entries[scored.index]).collect();
        let mut ends: Vec<_> =
            entries.iter().filter_map(|entry| entry.pricing.as_ref()).flat_map(Pricing::bends).collect();
        ends.retain(|&bend| bend < SIZE_MAX_BYTES);
        ends.extend([0, SIZE_MAX_BYTES]);
        ends.sort_unstable();
        ends.dedup();
        let mut starts = vec![0];
        for stretch in ends.windows(2).map(|ends| ends[0]..ends[1]) {
            starts.push(stretch.start);
            match policy {
                Policy::Combined { .. } => starts.extend(self.size_breaks(&entries, policy, &stretch, self.band())),
                // Equals are ordered by the other figure.
                Policy::Price => {
                    starts.extend(self.size_breaks_of_equals(&entries, [Policy::Price, Policy::Time], &stretch));
                }
                Policy::Time => {
                    starts.extend(self.size_breaks_of_equals(&entries, [Policy::Time, Policy::Price], &stretch));
                }
            }
        }
        starts.sort_unstable();
        starts.dedup();
        spans(&starts, None, |from, to| {
            let size = u64::midpoint(from, to.unwrap_or(SIZE_MAX_BYTES) - 1);
            self.first(&self.ordered(&Request { size, ..*request }, policy))
        })
    }

    /// Where within `stretch` the choice by the first of two figures can change, and among those that are equal in it that by
    /// the second.
    fn size_breaks_of_equals(&self, entries: &[&Entry], figures: [Policy; 2], stretch: &Range<u64>) -> Vec<u64> {
        let mut breaks = self.size_breaks(entries, figures[0], stretch, 1.0);
        let ends: Vec<_> = [stretch.start].into_iter().chain(breaks.iter().copied()).chain([stretch.end]).collect();
        for part in ends.windows(2).map(|ends| ends[0]..ends[1]) {
            let middle = u64::midpoint(part.start, part.end);
            let figure = |entry: &&Entry| self.score_of(entry, figures[0], middle).unwrap_or(f64::INFINITY);
            let best = entries.iter().map(figure).fold(f64::INFINITY, f64::min);
            let equals: Vec<_> = entries.iter().copied().filter(|entry| figure(entry) <= best).collect();
            breaks.extend(self.size_breaks(&equals, figures[1], &part, 1.0));
        }
        breaks
    }

    /// The sizes within `stretch` at which the lowest score under `policy` changes hands, or one comes within the band of it.
    fn size_breaks(&self, entries: &[&Entry], policy: Policy, stretch: &Range<u64>, band: f64) -> Vec<u64> {
        let line = |entry: &&Entry| {
            let start = self.score_of(entry, policy, stretch.start)?;
            Some(Line { start, end: self.score_of(entry, policy, stretch.end)? })
        };
        let lines: Vec<_> = entries.iter().filter_map(line).collect();
        let length = (stretch.end - stretch.start) as f64;
        // Who takes over between two whole sizes does so at the second.
        let whole = breaks(&lines, band).into_iter().map(|share| stretch.start + (share * length) as u64 + 1);
        whole.filter(|size| stretch.contains(size)).collect()
    }

    fn score_of(&self, entry: &Entry, policy: Policy, size: u64) -> Option<f64> {
        self.scales.score(policy, entry.price(size), entry.measurements.time_s(size, &self.measure))
    }

    fn first(&self, ordered: &[Scored]) -> Option<NodeId> {
        ordered.first().map(|scored| self.entries[scored.index].node.id.clone())
    }

    fn band(&self) -> f64 {
        1.0 + f64::from(self.band_per_mille) / 1_000.0
    }
}

/// Those beside the first: whoever is set back behind them is never chosen for its figures.
fn foremost(ordered: &[Scored]) -> &[Scored] {
    ordered.chunk_by(|a, b| a.handicap == b.handicap).next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::model::Tariff;
    use crate::route::tests::{any_candidates, any_policy, candidate, combined, reference};
    use crate::route::{Candidate, Config, Threshold, Try};

    fn explain(candidates: &[Candidate], policy: Policy, key: &str, size: u64) -> Explanation {
        let request = Request { key, size, policy: Some(policy) };
        RouteTable::new(&Config::default(), candidates.to_vec()).explain(&request)
    }

    fn first(candidates: &[Candidate], policy: Policy, key: &str, size: u64) -> NodeId {
        let request = Request { key, size, policy: Some(policy) };
        RouteTable::new(&Config::default(), candidates.to_vec()).rank(&request).routes[0].node.id.clone()
    }

    fn names<T>(spans: &[Span<T>]) -> Vec<&str> {
        spans.iter().map(|span| span.node.as_str()).collect()
    }

    fn dollars(text: &str) -> NanoDollars {
        text.parse().expect("money")
    }

    fn with_price(candidates: &[Candidate], id: &NodeId, nano_dollars: u64) -> Vec<Candidate> {
        let mut changed = candidates.to_vec();
        let candidate = changed.iter_mut().find(|candidate| candidate.node.id == *id).expect("there");
        let instance_hour = NanoDollars::new(nano_dollars);
        candidate.tariff = Some(Tariff { instance_hour, network_hour: NanoDollars::default(), rates: None });
        changed
    }

    fn with_time(candidates: &[Candidate], id: &NodeId, seconds: f64) -> Vec<Candidate> {
        let mut changed = candidates.to_vec();
        let candidate = changed.iter_mut().find(|candidate| candidate.node.id == *id).expect("there");
        let answer = Try::FirstByte { after: Duration::from_secs_f64(seconds) };
        candidate.measurements = crate::route::Measurements::default();
        candidate.measurements.record(&answer, Duration::ZERO, &Config::default().measure);
        changed
    }

    #[test]
    fn what_would_change_the_choice_of_the_reference() {
        let explained = explain(&reference(), Policy::Price, "cat.jpg", 0);
        let wins: Vec<_> = explained.routes.iter().map(|route| route.wins).collect();
        let price = |threshold| Some(threshold);
        // GC, Program, AWS: the first holds while it is cheaper than the second; the others are slower or faster.
        assert_eq!(wins[0], Wins { price: price(Threshold::Below(dollars(".114"))), time_s: Some(Threshold::Always) });
        assert_eq!(wins[1], Wins { price: price(Threshold::UpTo(dollars(".10"))), time_s: Some(Threshold::Never) });
        assert_eq!(wins[2], Wins { price: price(Threshold::UpTo(dollars(".10"))), time_s: Some(Threshold::Never) });
        let Changes { by_price, by_time, if_lost, betas, sizes } = explained.changes;
        let name = |text: &str| text.parse::<NodeId>().ok();
        assert_eq!((by_price, by_time, if_lost), (name("GC"), name("AWS"), name("Program")));
        assert_eq!((names(&sizes), sizes[0].from, sizes[0].to), (vec!["GC"], 0, None));
        assert_eq!(names(&betas), ["AWS", "Program", "GC"]);
        // Where the lines cross, give or take the band of 1 %.
        let meet = [0.015 / (0.015 + 0.186), 0.04 / (0.04 + 0.014)];
        for (span, beta) in betas.iter().zip(meet) {
            assert!((span.to.expect("an end") - beta).abs() < 0.02, "{span:?}");
        }
        assert_eq!((betas[0].from, betas[2].to), (0.0, Some(1.0)));
    }

    #[test]
    fn those_set_back_stay_there_whatever_their_figures() {
        let [aws, mut gc, mut program] = reference();
        gc.liveness = Liveness::Suspect;
        program.liveness = Liveness::Down;
        let explained = explain(&[aws, gc, program], combined(0.9), "cat.jpg", 0);
        let [first, set_back] = &explained.routes[..] else { panic!("{explained:?}") };
        assert_eq!((first.route.node.id.as_str(), first.wins.price), ("AWS", Some(Threshold::Always)));
        assert_eq!(set_back.wins, Wins { price: Some(Threshold::Never), time_s: Some(Threshold::Never) });
        assert_eq!((names(&explained.changes.betas), names(&explained.changes.sizes)), (vec!["AWS"], vec!["AWS"]));
        assert_eq!(explained.changes.if_lost.as_ref().map(NodeId::as_str), Some("GC"));
        let [down] = &explained.left_out[..] else { panic!("{explained:?}") };
        assert_eq!((down.node.id.as_str(), down.price), ("Program", Some(dollars(".114"))));
        let none = explain(&[], Policy::Price, "cat.jpg", 0);
        assert!(none.routes.is_empty() && none.changes.betas.is_empty() && none.changes.if_lost.is_none());
    }

    #[test]
    fn the_size_at_which_another_takes_over_is_that_where_the_times_meet() {
        // 5 ms and a microsecond a byte against 50 ms and a tenth of that: they meet at 50,000 bytes.
        let mut candidates = vec![candidate("Near", Some("1"), Some(5)), candidate("Wide", Some("1"), Some(50))];
        for (candidate, transfer_ms) in candidates.iter_mut().zip([1_000, 100]) {
            let whole = Try::Body { bytes: 1_000_000, took: Duration::from_millis(transfer_ms) };
            candidate.measurements.record(&whole, Duration::ZERO, &Config::default().measure);
        }
        for policy in [Policy::Time, Policy::Price] {
            let explained = explain(&candidates, policy, "film.mp4", 1_000);
            let sizes = &explained.changes.sizes;
            assert_eq!(names(sizes), ["Near", "Wide"], "equal prices leave it to time");
            assert!(sizes[1].from.abs_diff(50_000) <= 1 && sizes[0].to == Some(sizes[1].from), "{sizes:?}");
        }
        let parts = explain(&candidates, Policy::Time, "film.mp4", 100_000).routes[0].time_parts.expect("measured");
        assert!((parts.transfer_s - 0.01).abs() < 1e-9, "{parts:?}");
        candidates[0].tariff = None;
        assert_eq!(names(&explain(&candidates, Policy::Price, "film.mp4", 0).changes.sizes), ["Wide"]);
    }

    #[test]
    fn json_keeps_the_fields_of_the_ranking() {
        let json = serde_json::to_value(explain(&reference()[..2], Policy::Price, "cat.jpg", 7)).expect("json");
        assert_eq!((&json["policy"], &json["size"]), (&"p".into(), &7.into()));
        let first = &json["routes"][0];
        assert_eq!(
            (&first["node"], &first["price"], &first["reason"]),
            (&"GC".into(), &"0.10".into(), &"cheapest".into())
        );
        assert_eq!(first["wins"], serde_json::json!({"price": {"below": "0.30"}, "time_s": "always"}));
        assert_eq!(json["changes"]["betas"][0]["node"], "AWS");
        assert_eq!(json["changes"]["sizes"], serde_json::json!([{"node": "GC", "from": 0, "to": null}]));
    }

    proptest! {
        #[test]
        fn at_its_price_a_node_is_the_first_and_above_it_is_not(
            candidates in any_candidates(), policy in any_policy(), key in "[a-z]{1,8}",
        ) {
            for route in &explain(&candidates, policy, &key, 0).routes {
                let id = &route.route.node.id;
                let wins = |nano_dollars| first(&with_price(&candidates, id, nano_dollars), policy, &key, 0) == *id;
                let held = match route.wins.price.expect("known") {
                    Threshold::Never => !wins(0),
                    Threshold::Always => wins(0) && wins(1_000_000_000_000),
                    // A nano-dollar is what rounding may take or give.
                    Threshold::Below(end) => wins(end.get() - 1) && !wins(end.get() + 1),
                    Threshold::UpTo(most) => wins(most.get().saturating_sub(1)) && !wins(most.get() + 2),
                };
                prop_assert!(held, "{route:?}");
            }
        }

        #[test]
        fn with_its_time_a_node_is_the_first_and_with_more_it_is_not(
            candidates in any_candidates(), policy in any_policy(), key in "[a-z]{1,8}",
        ) {
            for route in &explain(&candidates, policy, &key, 0).routes {
                let id = &route.route.node.id;
                let wins = |seconds| first(&with_time(&candidates, id, seconds), policy, &key, 0) == *id;
                let held = match route.wins.time_s.expect("known") {
                    Threshold::Never => !wins(1e-9),
                    Threshold::Always => wins(1e-9) && wins(1e6),
                    // Times are taken in nanoseconds.
                    Threshold::Below(end) | Threshold::UpTo(end) => (end < 2e-9 || wins(end - 2e-9)) && !wins(end + 2e-9),
                };
                prop_assert!(held, "{route:?}");
            }
        }

        #[test]
        fn every_beta_is_in_the_stretch_of_its_choice(
            candidates in any_candidates(), per_mille in 1..1_000_u32, key in "[a-z]{1,8}",
        ) {
            let beta = f64::from(per_mille) / 1_000.0;
            let betas = explain(&candidates, Policy::Price, &key, 0).changes.betas;
            prop_assert!(betas[0].from == 0.0 && betas.windows(2).all(|pair| pair[0].to == Some(pair[1].from)));
            let at_an_end = betas.iter().any(|span| (span.from - beta).abs() < 1e-9);
            let span = betas.iter().rfind(|span| span.from <= beta).expect("from 0");
            prop_assert!(at_an_end || span.node == first(&candidates, combined(beta), &key, 0), "{betas:?}");
        }

        #[test]
        fn every_size_is_in_the_stretch_of_its_choice(
            candidates in any_candidates(),
            transfers_ms in proptest::collection::vec(1..500_u64, 10),
            policy in any_policy(),
            size in prop_oneof![0..1_000_000_u64, 0..1_000_000_000_u64],
            key in "[a-z]{1,8}",
        ) {
            let mut candidates = candidates;
            for (candidate, took_ms) in candidates.iter_mut().zip(transfers_ms) {
                let body = Try::Body { bytes: 1_000_000, took: Duration::from_millis(took_ms) };
                candidate.measurements.record(&body, Duration::ZERO, &Config::default().measure);
            }
            let sizes = explain(&candidates, policy, &key, 0).changes.sizes;
            let at_an_end = sizes.iter().any(|span| span.from.abs_diff(size) <= 1);
            let span = sizes.iter().rfind(|span| span.from <= size).expect("from 0");
            prop_assert!(at_an_end || span.node == first(&candidates, policy, &key, size), "{sizes:?}");
        }
    }
}
