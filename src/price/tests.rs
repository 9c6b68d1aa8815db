//! The laws of tariffs: what must hold whatever a provider charges, and bills that were worked out by hand.

use proptest::prelude::*;

use super::*;
use crate::model::{Allowance, Egress, Rates, Requests, Tariff, TariffDocument, Tier, Unit};

#[test]
fn a_tariff_is_priced_by_the_basis() {
    let tariff = Tariff { instance_hour: NanoDollars::new(3), network_hour: NanoDollars::new(4), rates: None };
    let price = |tariff: &Tariff, basis, bytes| Pricing::new(tariff, basis, sent(100_000_000_000))?.of(bytes);
    assert_eq!(price(&tariff, PriceBasis::ServerHour, 9), Some(NanoDollars::new(3)));
    assert_eq!(price(&tariff, PriceBasis::Hours, 9), Some(NanoDollars::new(7)));
    assert_eq!(price(&tariff, PriceBasis::Egress, 9), None, "it says nothing of bytes");
    // A GB at 0.09 and a request at 4e-7; what is free was used up.
    let aws = price(&shipped("aws"), PriceBasis::Egress, 1_000_000_000);
    assert_eq!(aws.map(|price| price.to_string()), Some("0.0900004".to_owned()));
    let bends = Pricing::new(&shipped("aws"), PriceBasis::Egress, sent(100_000_000_001)).map(|pricing| pricing.bends());
    assert_eq!(bends, Some(vec![10 * TB - 1, 50 * TB - 1, 150 * TB - 1]));
}

#[test]
fn names_read_back_and_others_are_refused() {
    for basis in [PriceBasis::ServerHour, PriceBasis::Hours, PriceBasis::Egress] {
        assert_eq!(basis.to_string().parse(), Ok(basis));
        assert_eq!(serde_json::to_string(&basis).expect("json"), format!("\"{basis}\""));
    }
    for bad in ["", "Egress", "Hours", "server-hour"] {
        assert!(bad.parse::<PriceBasis>().is_err(), "{bad}");
    }
}

const TB: u64 = 1_000_000_000_000;

/// A tariff that is shipped.
fn shipped(name: &str) -> Tariff {
    published()[name].clone().into()
}

fn schedule(name: &str) -> Schedule {
    Schedule::new(&shipped(name)).expect("it is shipped")
}

fn sent(bytes: u64) -> Usage {
    Usage { egress_bytes: [bytes, 0, 0], ..Usage::default() }
}

/// What sending so much in one month costs.
fn bill(name: &str, bytes: u64) -> NanoDollars {
    schedule(name).bill(&sent(bytes)).total
}

/// Egress alone, computed by hand from the published prices.
#[test]
fn worked_bills_match_to_the_cent() {
    for (tb, expected) in [
        (1, ["81.00", "78.30", "120.00", "0.00", "9.70", "10.00", "5.00"]),
        (10, ["891.00", "861.30", "1110.00", "0.00", "99.70", "100.00", "50.00"]),
        (50, ["4291.50", "4181.70", "4310.00", "340.00", "499.70", "500.00", "250.00"]),
        (150, ["11293.00", "11183.00", "12310.00", "1190.00", "1499.70", "1500.00", "750.00"]),
    ] {
        let names = ["aws", "azure", "google", "oracle", "backblaze", "bunny", "bunny-volume"];
        assert_eq!(names.map(|name| bill(name, tb * TB).to_string()), expected, "{tb} TB");
    }
}

#[test]
fn spreading_naively_is_dearer_than_the_best_split() {
    let sum =
        |parts: &[(&str, u64)]| parts.iter().map(|(name, bytes)| bill(name, *bytes).get()).sum::<u64>() / 10_000_000;
    let even = sum(&["aws", "azure", "google"].map(|name| (name, 50 * TB / 3)));
    let best = sum(&[("aws", TB / 10), ("azure", 50 * TB - TB / 10)]);
    assert_eq!((best, even), (417_340, 451_653), "in cents");
}

#[test]
fn every_server_brings_its_own_free_bytes_and_an_allowance_may_fill_tiers() {
    let hetzner = schedule("hetzner");
    let of = |servers| hetzner.bill(&Usage { servers, ..sent(50 * TB) }).total;
    // 30 TB at 1.00 EUR, at 1.10 dollars; two servers have 40 TB free.
    assert_eq!([of(1), of(2), of(3)].map(|total| total.to_string()), ["33.00", "11.00", "0.00"]);
    let mut tariff = shipped("aws");
    tariff.rates.as_mut().expect("rates").egress.allowance = Allowance::WithinTiers;
    // 100 GB of the first 10 TB are free, so 9.9 TB at 0.09 and 1 TB at 0.085.
    let bill = Schedule::new(&tariff).expect("it is right").bill(&sent(11 * TB));
    assert_eq!(bill.total.to_string(), "976.00");
}

#[test]
fn a_bill_has_an_item_for_each_kind_of_use() {
    let mut tariff = shipped("aws");
    let rates = tariff.rates.as_mut().expect("rates");
    rates.retrieval_per_gb = Some("0.01".parse().expect("an amount"));
    let usage = Usage {
        egress_bytes: [200_000_000_000, 0, 0],
        reads: 1_000_000,
        writes: 10,
        retrieved_bytes: 5_000_000_000,
        stored_byte_seconds: 10_000_000_000 * 30 * 24 * 3600,
        server_seconds: 3600 * 720,
        servers: 1,
    };
    let bill = Schedule::new(&tariff).expect("it is right").bill(&usage);
    let items: Vec<_> = bill.items.iter().map(|item| (item.kind, item.cost.to_string())).collect();
    let expected = [
        (Kind::Servers, "29.952"),
        (Kind::Egress(Destination::Internet), "9.00"),
        (Kind::Reads, "0.40"),
        (Kind::Writes, "0.00005"),
        (Kind::Retrieval, "0.05"),
        (Kind::Storage, "0.23"),
    ];
    assert_eq!(items, expected.map(|(kind, cost)| (kind, cost.to_owned())));
    assert_eq!(bill.total.to_string(), "39.63205");
    tariff.rates.as_mut().expect("rates").monthly_minimum = Some("50".parse().expect("an amount"));
    let bill = Schedule::new(&tariff).expect("it is right").bill(&usage);
    assert_eq!(bill.total.to_string(), "50.00");
}

/// A change to a tariff that cannot be, and the field that is named.
#[test]
fn bad_tariffs_are_refused_with_the_field_named() {
    let refused = |change: fn(&mut Rates)| {
        let mut tariff = shipped("aws");
        change(tariff.rates.as_mut().expect("rates"));
        Schedule::new(&tariff).expect_err("it cannot be").to_string()
    };
    assert_eq!(
        refused(|rates| rates.egress.tiers[1].up_to_gb = Some(10_000)),
        "rates.egress.tiers[1].up_to_gb: 10000 is not above 10000, where the tier begins"
    );
    assert_eq!(
        refused(|rates| rates.egress.tiers[0].up_to_gb = None),
        "rates.egress.tiers[0].up_to_gb: only the last tier has no end"
    );
    assert_eq!(
        refused(|rates| rates.egress.tiers[3].up_to_gb = Some(200_000)),
        "rates.egress.tiers[3].up_to_gb: the last tier has no end: leave it out"
    );
    assert_eq!(refused(|rates| rates.egress.tiers.clear()), "rates.egress.tiers: there are 1 to 16, not 0");
    assert!(
        refused(|rates| rates.currency = "usd".to_owned())
            .starts_with("rates.currency: \"usd\" is not a currency that is known")
    );
    assert_eq!(
        refused(|rates| rates.currency = "EUR".to_owned()),
        "rates.dollars_per_unit: say how many dollars one EUR is"
    );
    assert_eq!(
        refused(|rates| rates.as_of = Some("2026-02-30".to_owned())),
        "rates.as_of: \"2026-02-30\" is not a day: write it as 2026-11-01"
    );
    assert!(
        refused(|rates| rates.egress_other_region = Some(Egress { free_gb: u64::MAX, ..rates.egress.clone() }))
            .starts_with("rates.egress_other_region.free_gb: ")
    );
    let unread = |text: &str| read(text).expect_err("it does not read").to_string();
    assert!(unread("[a.rates]\negress.tiers = [{ price_per_gb = -0.01 }]").contains("-0.01"));
    assert!(unread("[a.rates]\nspeed = 1\negress.tiers = [{ price_per_gb = 1 }]").contains("speed"));
}

#[test]
fn what_the_minimum_of_the_month_covers_costs_nothing() {
    let mut tariff = shipped("bunny");
    tariff.rates.as_mut().expect("rates").monthly_minimum = Some("1".parse().expect("an amount"));
    // A dollar covers 100 GB.
    let pricing = |sent_bytes| Pricing::new(&tariff, PriceBasis::Egress, sent(sent_bytes)).expect("it prices bytes");
    let of = |sent_bytes, bytes| pricing(sent_bytes).of(bytes).map(|price| price.to_string());
    assert_eq!(of(90_000_000_000, 10_000_000_000).as_deref(), Some("0.00"));
    assert_eq!(of(90_000_000_000, 11_000_000_000).as_deref(), Some("0.01"));
    assert_eq!(of(100_000_000_000, 1_000_000_000).as_deref(), Some("0.01"));
    let bends = pricing(90_000_000_000).bends();
    assert!(matches!(bends[..], [bend] if bend.abs_diff(10_000_000_000) < 1_000), "{bends:?}");
}

#[test]
fn what_would_overflow_or_is_no_line_is_refused() {
    let refused = |change: fn(&mut Rates)| {
        let mut tariff = shipped("aws");
        change(tariff.rates.as_mut().expect("rates"));
        Schedule::new(&tariff).expect_err("it cannot be").field
    };
    let million = || "1000000".parse().expect("an amount");
    assert_eq!(refused(|rates| rates.source = Some("x".repeat(501))), "rates.source");
    assert_eq!(refused(|rates| rates.region = Some("a\nb".to_owned())), "rates.region");
    let mut tariff = shipped("aws");
    let rates = tariff.rates.as_mut().expect("rates");
    rates.egress.tiers[3].price_per_gb = million();
    let dearest = Schedule::new(&tariff).expect("it can be");
    assert_eq!(dearest.bill(&Usage { reads: u64::MAX, ..sent(u64::MAX) }).total, NanoDollars::new(u64::MAX));
    let rates = tariff.rates.as_mut().expect("rates");
    (rates.currency, rates.dollars_per_unit) = ("EUR".to_owned(), Some("2".parse().expect("an amount")));
    assert_eq!(Schedule::new(&tariff).expect_err("two million").field, "rates.egress.tiers[3].price_per_gb");
}

#[test]
fn tariffs_write_as_they_read() {
    for (name, document) in published() {
        let text = toml::to_string(&document).expect("TOML");
        assert_eq!(toml::from_str::<TariffDocument>(&text).expect(&text), document, "{name}");
        let tariff = Tariff::from(document.clone());
        let json = serde_json::to_string(&tariff).expect("JSON");
        assert_eq!(serde_json::from_str::<Tariff>(&json).expect(&json), tariff, "{name}, as a record");
        assert_eq!(TariffDocument::from(tariff), document, "{name}");
    }
}

/// Tiers, free bytes and fees of any kind.
fn any_tariff() -> impl Strategy<Value = Tariff> {
    let tiers = proptest::collection::vec((1..50_u64, 0..200_000_000_u64), 1..5);
    (tiers, 0..100_u64, any::<bool>(), any::<bool>(), 0..5_000_u64, 0..3_u64).prop_map(
        |(steps, free_gb, within, gib, read, minimum)| {
            let mut end = 0;
            let last = steps.len() - 1;
            let tier = |(place, (step, nano)): (usize, (u64, u64))| {
                end += step;
                let price_per_gb = NanoDollars::new(nano).to_string().parse().expect("an amount");
                Tier { up_to_gb: (place < last).then_some(end), price_per_gb }
            };
            let egress = Egress {
                unit: if gib { Unit::GiB } else { Unit::GB },
                free_gb,
                free_gb_per_server: 0,
                allowance: if within { Allowance::WithinTiers } else { Allowance::BeforeTiers },
                tiers: steps.into_iter().enumerate().map(tier).collect(),
            };
            let mut tariff = shipped("oracle");
            let rates = tariff.rates.as_mut().expect("rates");
            rates.egress = egress;
            rates.reads =
                Some(Requests { price: NanoDollars::new(read).to_string().parse().expect("an amount"), free: 3 });
            rates.monthly_minimum = Some(minimum.to_string().parse().expect("an amount"));
            tariff
        },
    )
}

proptest! {
    #[test]
    fn what_requests_cost_adds_up_to_the_bill(
        tariff in any_tariff(),
        requests in proptest::collection::vec(0..40_000_000_000_u64, 1..60),
    ) {
        let schedule = Schedule::new(&tariff).expect("it is right");
        let (mut month, mut sum) = (Usage::default(), schedule.bill(&Usage::default()).total.get());
        for bytes in requests {
            sum += schedule.answer(&month, bytes).expect("it prices bytes").get();
            month = month.plus(&Usage::of_answer(bytes));
        }
        prop_assert_eq!(sum, schedule.bill(&month).total.get());
    }

    #[test]
    fn more_never_costs_less(tariff in any_tariff(), bytes in 0..200_000_000_000_u64, more in 0..200_000_000_000_u64) {
        let schedule = Schedule::new(&tariff).expect("it is right");
        prop_assert!(schedule.bill(&sent(bytes)).total <= schedule.bill(&sent(bytes.saturating_add(more))).total);
    }

    #[test]
    fn another_currency_leaves_the_order(a in any_tariff(), b in any_tariff(), bytes in 0..200_000_000_000_u64) {
        let total = |tariff: &Tariff| Schedule::new(tariff).expect("it is right").bill(&sent(bytes)).total;
        let in_euro = |tariff: &Tariff| {
            let mut tariff = tariff.clone();
            let rates = tariff.rates.as_mut().expect("rates");
            (rates.currency, rates.dollars_per_unit) = ("EUR".to_owned(), Some("2".parse().expect("an amount")));
            tariff
        };
        // Fractions of a nano-dollar that were equal when they were dropped may show.
        let (cheap, dear) = if total(&a) <= total(&b) { (&a, &b) } else { (&b, &a) };
        prop_assert!(total(cheap) == total(dear) || total(&in_euro(cheap)) <= total(&in_euro(dear)));
    }
}
