//! What a routing decision costs, with 3 and with 100 nodes, under each policy.

use std::hint::black_box;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use metacdn::model::{Address, ImageMode, Liveness, MemberState, NanoDollars, Node, Tariff};
use metacdn::price::{PriceBasis, Usage, published};
use metacdn::route::{Candidate, Config, Measurements, Policy, Request, RouteTable, Standing, Try};

fn candidate(number: u64) -> Candidate {
    let name = format!("node-{number}");
    let address: Address = "127.0.0.1:22222".parse().expect("an address");
    let node = Node {
        id: name.parse().expect("a name"),
        provider: name.parse().expect("a name"),
        address: address.clone(),
        download: address,
        images: ImageMode::Off,
    };
    let mut measurements = Measurements::default();
    // Prices and delays in no order, some prices alike.
    let transfer = Duration::from_millis(100 + number * 37 % 50);
    for seen in [
        Try::FirstByte { after: Duration::from_millis(10 + number * 61 % 97) },
        Try::Body { bytes: 1 << 20, took: transfer },
    ] {
        measurements.record(&seen, Duration::ZERO, &Config::default().measure);
    }
    let tariff = Tariff {
        instance_hour: NanoDollars::new(10_000_000 * (1 + number * 29 % 31)),
        network_hour: NanoDollars::default(),
        rates: published()[if number.is_multiple_of(2) { "aws" } else { "azure" }].rates.clone(),
    };
    Candidate {
        node: node.into(),
        liveness: Liveness::Alive,
        state: MemberState::Active,
        tariff: Some(tariff),
        used: Usage { egress_bytes: [number << 40, 0, 0], reads: number << 20, ..Usage::default() },
        measurements,
        standing: Standing::In,
    }
}

fn decide(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("rank");
    for nodes in [3, 100] {
        let table = |price_basis| {
            let config = Config { price_basis, ..Config::default() };
            RouteTable::new(&config, (0..nodes).map(candidate).collect())
        };
        let (hourly, egress) = (table(PriceBasis::ServerHour), table(PriceBasis::Egress));
        for (name, words, table) in
            [("p", "p", &hourly), ("n", "n", &hourly), ("c 0.5", "c 0.5", &hourly), ("c 0.5, egress", "c 0.5", &egress)]
        {
            let policy: Policy = words.parse().expect("a policy");
            let request = Request { key: "photos/2026/cat.jpg", size: 100_000, policy: Some(policy) };
            group.bench_function(BenchmarkId::new(name, nodes), |bencher| {
                bencher.iter(|| table.rank(black_box(&request)));
            });
        }
    }
    group.finish();
}

criterion_group!(benches, decide);
criterion_main!(benches);
