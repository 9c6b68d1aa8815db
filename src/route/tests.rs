//! The laws of ranking: what must hold whatever the prices, times and nodes are.

use std::collections::HashMap;
use std::num::NonZeroU64;
use std::time::Duration;

use proptest::prelude::*;

use super::{
    Beta, Candidate, Config, FailureKind, Measurements, Policy, Ranking, Reason, Request, RouteTable, Standing, Try,
};
use crate::model::{ImageMode, Liveness, MemberState, NanoDollars, Node, Tariff};
use crate::price::{PriceBasis, Usage};

const fn answer(first_byte_ms: u64) -> Try {
    Try::FirstByte { after: Duration::from_millis(first_byte_ms) }
}

pub(super) fn candidate(name: &str, price: Option<&str>, first_byte_ms: Option<u64>) -> Candidate {
    let address: crate::model::Address = "127.0.0.1:22222".parse().expect("an address");
    let node = Node {
        id: name.parse().expect("a name"),
        provider: name.parse().expect("a name"),
        address: address.clone(),
        download: address,
        images: ImageMode::Off,
    };
    let mut measurements = Measurements::default();
    if let Some(first_byte_ms) = first_byte_ms {
        measurements.record(&answer(first_byte_ms), Duration::ZERO, &Config::default().measure);
    }
    let tariff = price.map(|price| Tariff {
        instance_hour: price.parse().expect("money"),
        network_hour: NanoDollars::default(),
        rates: None,
    });
    let (liveness, state) = (Liveness::Alive, MemberState::Active);
    Candidate {
        node: node.into(),
        liveness,
        state,
        tariff,
        used: Usage::default(),
        measurements,
        standing: Standing::In,
    }
}

pub(super) fn combined(beta: f64) -> Policy {
    Policy::Combined { beta: Beta::new(beta).expect("a beta") }
}

fn rank(config: &Config, candidates: &[Candidate], policy: Policy, key: &str) -> Ranking {
    RouteTable::new(config, candidates.to_vec()).rank(&Request { key, size: 0, policy: Some(policy) })
}

fn names(ranking: &Ranking) -> Vec<&str> {
    ranking.routes.iter().map(|route| route.node.id.as_str()).collect()
}

fn reasons(ranking: &Ranking) -> Vec<Reason> {
    ranking.routes.iter().map(|route| route.reason).collect()
}

fn by(candidates: &[Candidate], policy: Policy) -> Vec<String> {
    names(&rank(&Config::default(), candidates, policy, "cat.jpg")).into_iter().map(ToOwned::to_owned).collect()
}

pub(super) fn reference() -> [Candidate; 3] {
    [
        candidate("AWS", Some(".30"), Some(5)),
        candidate("GC", Some(".10"), Some(60)),
        candidate("Program", Some(".114"), Some(20)),
    ]
}

#[test]
fn the_references_prices_order_gc_program_aws() {
    let ranking = rank(&Config::default(), &reference(), Policy::Price, "cat.jpg");
    assert_eq!(names(&ranking), ["GC", "Program", "AWS"]);
    assert_eq!(reasons(&ranking), [Reason::Cheapest, Reason::Dearer, Reason::Dearer]);
    assert_eq!(ranking.routes[0].header_value(), "node=GC; score=0.1; price=0.10; time=0.06; reason=cheapest");
}

#[test]
fn time_orders_by_the_measured_delay() {
    let ranking = rank(&Config::default(), &reference(), Policy::Time, "cat.jpg");
    assert_eq!(names(&ranking), ["AWS", "Program", "GC"]);
    assert_eq!(reasons(&ranking), [Reason::Fastest, Reason::Slower, Reason::Slower]);
}

#[test]
fn combined_moves_with_beta_where_the_formula_says() {
    // AWS and Program meet at 0.186 beta = 0.015 (1 - beta), beta 0.0746; Program and GC at beta 0.741.
    for (beta, first) in [(0.05, "AWS"), (0.09, "Program"), (0.7, "Program"), (0.8, "GC")] {
        let ranking = rank(&Config::default(), &reference(), combined(beta), "cat.jpg");
        assert_eq!((names(&ranking)[0], ranking.routes[0].reason), (first, Reason::BestScore), "{beta}");
    }
}

#[test]
fn beta_zero_and_one_are_exactly_time_and_price() {
    // Within 1 % of each other in both, so that a band would mix them.
    let close = [candidate("A", Some("1.000"), Some(1_001)), candidate("B", Some("1.001"), Some(1_000))];
    for key in ["a", "b", "c", "d", "e", "f", "g", "h"] {
        assert_eq!(names(&rank(&Config::default(), &close, combined(1.0), key)), ["A", "B"]);
        assert_eq!(names(&rank(&Config::default(), &close, combined(0.0), key)), ["B", "A"]);
    }
}

#[test]
fn equal_metrics_are_decided_by_the_other() {
    let config = Config::default();
    let priced_alike = [candidate("A", Some("1"), Some(30)), candidate("B", Some("1"), Some(20))];
    let ranking = rank(&config, &priced_alike, Policy::Price, "cat.jpg");
    assert_eq!((names(&ranking), reasons(&ranking)), (vec!["B", "A"], vec![Reason::TieByTime, Reason::Slower]));
    let timed_alike = [candidate("A", Some("2"), Some(20)), candidate("B", Some("1"), Some(20))];
    let ranking = rank(&config, &timed_alike, Policy::Time, "cat.jpg");
    assert_eq!((names(&ranking), reasons(&ranking)), (vec!["B", "A"], vec![Reason::TieByPrice, Reason::Dearer]));
}

#[test]
fn a_node_that_is_set_apart_comes_last_and_keeps_nobody_in() {
    let mut nodes = reference();
    nodes[1].state = MemberState::Maintenance;
    nodes[2].state = MemberState::Draining;
    nodes[0].standing = Standing::Out(Duration::ZERO);
    for policy in [Policy::Price, Policy::Time, combined(0.5)] {
        let ranking = rank(&Config::default(), &nodes, policy, "cat.jpg");
        assert_eq!(names(&ranking), ["AWS", "Program", "GC"]);
        assert_eq!(reasons(&ranking)[1..], [Reason::Draining, Reason::InMaintenance]);
        assert_ne!(reasons(&ranking)[0], Reason::Ejected, "half of one is none");
    }
    nodes[2].state = MemberState::Active;
    let ranking = rank(&Config::default(), &nodes, Policy::Price, "cat.jpg");
    assert_eq!(reasons(&ranking), [Reason::Cheapest, Reason::Ejected, Reason::InMaintenance]);
}

#[test]
fn an_ejected_node_comes_last_and_gets_its_keys_back_step_by_step() {
    let mut nodes = reference();
    nodes[1].standing = Standing::Out(Duration::ZERO);
    nodes[0].liveness = Liveness::Suspect;
    let ranking = rank(&Config::default(), &nodes, Policy::Price, "cat.jpg");
    assert_eq!(names(&ranking), ["Program", "AWS", "GC"]);
    assert_eq!(reasons(&ranking), [Reason::Cheapest, Reason::Suspect, Reason::Ejected]);
    let keys_of_gc = |share| {
        let mut nodes = reference();
        nodes[1].standing = Standing::Recovering(share);
        let table = RouteTable::new(&Config::default(), nodes.into());
        let first = |key: &u32| {
            let key = key.to_string();
            let ranking = table.rank(&Request { key: &key, size: 0, policy: Some(Policy::Price) });
            let recovering = ranking.routes[2].reason == Reason::Recovering;
            assert_eq!(recovering, ranking.routes[0].node.id.as_str() == "Program");
            !recovering
        };
        (0..1_000).filter(first).collect::<Vec<_>>()
    };
    let (none, some, more, all) = (keys_of_gc(0.0), keys_of_gc(0.25), keys_of_gc(0.75), keys_of_gc(1.0));
    assert_eq!((none.len(), all.len()), (0, 1_000));
    assert!((200..300).contains(&some.len()) && (700..800).contains(&more.len()), "{} {}", some.len(), more.len());
    assert!(some.iter().all(|key| more.contains(key)), "no key goes away again");
}

#[test]
fn keys_spread_over_equals_and_each_keeps_its_node() {
    let equals: Vec<_> = ["A", "B", "C"].map(|name| candidate(name, Some("1"), Some(20))).into();
    let config = Config::default();
    for (policy, reason) in
        [(Policy::Price, Reason::TieByKey), (Policy::Time, Reason::TieByKey), (combined(0.5), Reason::WithinBand)]
    {
        let table = RouteTable::new(&config, equals.clone());
        let mut first: HashMap<String, u32> = HashMap::new();
        for key in 0..1_000 {
            let key = key.to_string();
            let request = Request { key: &key, size: 0, policy: Some(policy) };
            let ranking = table.rank(&request);
            assert_eq!(ranking.routes[0].reason, reason);
            *first.entry(names(&ranking)[0].to_owned()).or_default() += 1;
            // Without the first the second takes over: no other key moves.
            let others: Vec<_> = equals.iter().filter(|c| c.node.id != ranking.routes[0].node.id).cloned().collect();
            assert_eq!(names(&RouteTable::new(&config, others).rank(&request)), names(&ranking)[1..]);
        }
        // Five standard deviations of a fair choice are 75.
        assert!(first.len() == 3 && first.values().all(|count| count.abs_diff(333) < 75), "{first:?}");
    }
}

#[test]
fn only_scores_within_the_band_are_mixed() {
    let candidates = [
        candidate("A", Some("1.000"), Some(1_000)),
        candidate("B", Some("1.009"), Some(1_000)),
        candidate("C", Some("1.100"), Some(1_000)),
    ];
    let firsts: Vec<_> = (0..100)
        .map(|key| {
            let ranking = rank(&Config::default(), &candidates, combined(0.5), &key.to_string());
            assert_eq!(reasons(&ranking), [Reason::WithinBand, Reason::WithinBand, Reason::HigherScore]);
            names(&ranking)[0].to_owned()
        })
        .collect();
    assert!(firsts.iter().any(|name| name == "A") && firsts.iter().any(|name| name == "B"));
}

#[test]
fn suspect_after_alive_and_down_never() {
    let [aws, mut gc, mut program] = reference();
    gc.liveness = Liveness::Suspect;
    for policy in [Policy::Price, Policy::Time, combined(0.5)] {
        let ranking = rank(&Config::default(), &[aws.clone(), gc.clone(), program.clone()], policy, "cat.jpg");
        assert_eq!(names(&ranking)[2], "GC");
        assert_eq!(ranking.routes[2].reason, Reason::Suspect);
    }
    program.liveness = Liveness::Down;
    assert_eq!(by(&[aws, gc, program], Policy::Price), ["AWS", "GC"]);
    assert!(by(&[], Policy::Price).is_empty());
}

#[test]
fn unpriced_after_priced_and_unmeasured_after_measured() {
    let mut candidates = reference().to_vec();
    candidates.push(candidate("Free", None, Some(1)));
    candidates.push(candidate("New", Some(".01"), None));
    assert_eq!(by(&candidates, Policy::Price), ["New", "GC", "Program", "AWS", "Free"]);
    assert_eq!(by(&candidates, Policy::Time), ["Free", "AWS", "Program", "GC", "New"]);
    let ranking = rank(&Config::default(), &candidates, combined(0.5), "cat.jpg");
    assert_eq!(names(&ranking)[3..], ["New", "Free"]);
    assert_eq!(reasons(&ranking)[3..], [Reason::Unmeasured, Reason::Unpriced]);
}

#[test]
fn a_server_that_nobody_would_use_flips_no_others() {
    let mut candidates = vec![candidate("A", Some("0.09"), Some(40)), candidate("B", Some("0.05"), Some(90))];
    assert_eq!(by(&candidates, combined(0.3)), ["A", "B"]);
    candidates.push(candidate("C", Some("0.09"), Some(2_000)));
    assert_eq!(by(&candidates, combined(0.3)), ["A", "B", "C"]);
}

#[test]
fn size_sends_small_and_large_objects_to_different_nodes() {
    let config = Config::default();
    let mut candidates = vec![candidate("Near", Some("1"), Some(5)), candidate("Wide", Some("1"), Some(50))];
    for (candidate, transfer_ms) in candidates.iter_mut().zip([1_000, 100]) {
        let whole = Try::Body { bytes: 1_000_000, took: Duration::from_millis(transfer_ms) };
        candidate.measurements.record(&whole, Duration::ZERO, &config.measure);
    }
    let table = RouteTable::new(&config, candidates);
    let first = |size| {
        let request = Request { key: "film.mp4", size, policy: Some(Policy::Time) };
        names(&table.rank(&request))[0].to_owned()
    };
    assert_eq!((first(1_000).as_str(), first(1_000_000).as_str()), ("Near", "Wide"));
}

#[test]
fn a_failing_server_loses_its_share_and_regains_it_within_two_tau() {
    let config = Config::default();
    let mut failing = candidate("A", Some("1"), Some(50));
    let other = candidate("B", Some("1"), Some(300));
    let first = |failing: &Candidate| by(&[failing.clone(), other.clone()], Policy::Time)[0].clone();
    assert_eq!(first(&failing), "A");
    let mut now = Duration::ZERO;
    for _ in 0..50 {
        now += Duration::from_millis(200);
        // Refusals are fast: scored as answers they would make this the fastest node.
        let refused = Try::Failure { kind: FailureKind::Error, after: Duration::from_micros(100) };
        failing.measurements.record(&refused, now, &config.measure);
        assert_eq!(first(&failing), "B");
    }
    let two_tau = now + Duration::from_millis(2 * config.measure.decay_ms.get());
    while now < two_tau {
        now += Duration::from_secs(1);
        failing.measurements.record(&answer(50), now, &config.measure);
    }
    assert_eq!(first(&failing), "A");
}

#[test]
fn settings_have_defaults_and_refuse_nonsense() {
    assert_eq!(toml::from_str::<Config>(""), Ok(Config::default()));
    let config: Config =
        toml::from_str("policy = 'c 0.5'\nprice_basis = 'hours'\n[measure]\nretry_ms = 1").expect("good");
    assert_eq!((config.policy, config.measure.retry_ms), (combined(0.5), 1));
    for bad in ["policy = 'x'", "policy = 'c 2'", "time_scale_ms = 0", "price_scale_nano_dollars = 0", "beta = 1"] {
        assert!(toml::from_str::<Config>(bad).is_err(), "{bad}");
    }
}

/// Candidates on a coarse grid, so that floats cannot turn a tie into a difference.
pub(super) fn any_candidates() -> impl Strategy<Value = Vec<Candidate>> {
    proptest::collection::vec((1..50_u32, 1..50_u64), 1..10).prop_map(|metrics| {
        let each = |(number, (cents, tens_of_ms)): (usize, (u32, u64))| {
            candidate(
                &format!("N{number}"),
                Some(&format!("{}.{:02}", cents / 100, cents % 100)),
                Some(tens_of_ms * 10),
            )
        };
        metrics.into_iter().enumerate().map(each).collect()
    })
}

pub(super) fn any_policy() -> impl Strategy<Value = Policy> {
    prop_oneof![
        Just(Policy::Price),
        Just(Policy::Time),
        (0..=100_u32).prop_map(|beta| combined(f64::from(beta) / 100.0))
    ]
}

proptest! {
    #[test]
    fn irrelevant_servers_change_nothing(candidates in any_candidates(), policy in any_policy(), key in "[a-z]{1,8}") {
        let config = Config::default();
        let all = rank(&config, &candidates, policy, &key);
        // Under p and n every other server is irrelevant to the order of two; under c those that are not the best:
        // the best one places the band.
        let best = all.routes.iter().map(|route| route.score.expect("known")).fold(f64::INFINITY, f64::min);
        for (left_out, route) in all.routes.iter().enumerate() {
            if policy.uses_beta() && route.score <= Some(best) {
                continue;
            }
            let fewer: Vec<_> = candidates.iter().filter(|c| c.node.id != route.node.id).cloned().collect();
            let mut expected = names(&all);
            expected.remove(left_out);
            let without = rank(&config, &fewer, policy, &key);
            prop_assert_eq!(names(&without), expected);
        }
    }

    #[test]
    fn more_beta_never_costs_more_nor_less_never_slower(candidates in any_candidates(), key in "[a-z]{1,8}") {
        // Without the band: within it the key chooses, so cost and time are monotone only up to its width.
        let config = Config { band_per_mille: 0, ..Config::default() };
        let firsts = (0..=100).map(|beta| rank(&config, &candidates, combined(f64::from(beta) / 100.0), &key));
        let firsts: Vec<_> = firsts.map(|ranking| ranking.routes[0].clone()).collect();
        for pair in firsts.windows(2) {
            prop_assert!(pair[0].price >= pair[1].price && pair[0].time_s <= pair[1].time_s, "{} then {}", pair[0], pair[1]);
        }
    }

    #[test]
    fn the_pick_is_within_the_band_of_the_best(candidates in any_candidates(), beta in 1..100_u32, key in "[a-z]{1,8}") {
        let ranking = rank(&Config::default(), &candidates, combined(f64::from(beta) / 100.0), &key);
        let scores: Vec<f64> = ranking.routes.iter().map(|route| route.score.expect("known")).collect();
        prop_assert!(scores.iter().all(|score| scores[0] <= score * 1.01));
    }

    #[test]
    fn another_currency_leaves_the_order(candidates in any_candidates(), policy in any_policy(), rate in 1..1_000_u64) {
        let here = Config::default();
        let scale = NonZeroU64::new(here.price_basis.usual_scale().get() * rate);
        let there = Config { price_scale_nano_dollars: scale, ..here.clone() };
        let mut converted = candidates.clone();
        for tariff in converted.iter_mut().filter_map(|candidate| candidate.tariff.as_mut()) {
            tariff.instance_hour = NanoDollars::new(tariff.instance_hour.get() * rate);
        }
        let (before, after) = (rank(&here, &candidates, policy, "k"), rank(&there, &converted, policy, "k"));
        prop_assert_eq!(names(&before), names(&after));
    }

    #[test]
    fn an_unpriced_server_changes_no_order(candidates in any_candidates(), beta in 1..=100_u32, first_byte_ms in 1..500_u64) {
        let policy = combined(f64::from(beta) / 100.0);
        let mut more = candidates.clone();
        more.push(candidate("Unpriced", None, Some(first_byte_ms)));
        let mut expected = by(&candidates, policy);
        expected.push("Unpriced".to_owned());
        prop_assert_eq!(by(&more, policy), expected);
    }
}

#[test]
fn a_node_that_is_down_keeps_none_in_that_fails() {
    let out = |seconds| Standing::Out(Duration::from_secs(seconds));
    let [mut aws, mut gc, program] = reference();
    (aws.liveness, gc.standing) = (Liveness::Down, out(2));
    for standing in [Standing::In, out(1)] {
        aws.standing = standing;
        assert_eq!(by(&[aws.clone(), gc.clone(), program.clone()], Policy::Price), ["Program", "GC"]);
    }
}

/// Answers cost what the bytes do in the tier that the month has reached: what is free first, wherever it is.
#[test]
fn under_the_basis_egress_the_month_decides() {
    let candidate = |name: &str, sent_bytes: u64| {
        let tariff = Some(crate::price::published()[name].clone().into());
        let used = Usage { egress_bytes: [sent_bytes, 0, 0], ..Usage::default() };
        Candidate { tariff, used, ..candidate(name, None, Some(50)) }
    };
    let config = Config { price_basis: PriceBasis::Egress, ..Config::default() };
    let explain = |aws_bytes: u64, size: u64| {
        let candidates =
            vec![candidate("aws", aws_bytes), candidate("bunny", 0), self::candidate("GC", Some(".1"), Some(9))];
        RouteTable::new(&config, candidates).explain(&Request { key: "k", size, policy: Some(Policy::Price) })
    };
    let order = |aws_bytes, size| {
        let routes = explain(aws_bytes, size).routes;
        routes.iter().map(|each| each.route.node.id.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(order(0, 1_000_000), ["aws", "bunny", "GC"], "what is hourly says nothing of bytes");
    assert_eq!(order(100_000_000_000, 1_000_000), ["bunny", "aws", "GC"]);
    // A request costs 400 nano-dollars more at aws, 40 kB of bunny's bytes; a GB is free there still, and then costs nine times as much.
    let spans = explain(99_000_000_000, 1_000_000).changes.sizes;
    let (names, ends): (Vec<_>, Vec<_>) = spans.iter().map(|span| (span.node.as_str(), span.to)).unzip();
    assert_eq!(names, ["bunny", "aws", "bunny"]);
    assert!(ends[0].is_some_and(|end| end.abs_diff(40_000) <= 100), "{ends:?}");
    // 0.0000004 + 0.09 (s - 1 GB) = 0.01 s at 1.125 GB.
    assert!(ends[1].is_some_and(|end| end.abs_diff(1_124_995_000) <= 1_000), "{ends:?}");
}
