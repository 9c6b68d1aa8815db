//! What the proxy's answers cost by provider, at the reference's prices per hour.

use std::time::Duration;

use serde::Serialize;

use super::cluster::MACHINES;
use super::figures;
use super::screen::{Screen, Tone};
use super::traffic::{Totals, Traffic};
use crate::model::{NanoDollars, Tariff};

/// What is multiplied by what.
const RULE: &str = "cost = ($ an hour of the server + $ an hour of its network) x hours at work";

const MICROSECONDS_IN_AN_HOUR: u128 = 3_600_000_000;

/// What all answers cost.
#[derive(Debug, Serialize)]
pub(super) struct Costs {
    /// What is multiplied by what.
    pub(super) rule: &'static str,
    pub(super) providers: Vec<Cost>,
    /// The sum, in 10^-9 dollars.
    pub(super) total_nano_dollars: u64,
    /// Answers from the proxy's memory, for which no node was paid.
    pub(super) answers_from_memory: u64,
}

/// What the answers of one provider cost. Its one node bears its name.
#[derive(Debug, Serialize)]
pub(super) struct Cost {
    pub(super) provider: String,
    /// What an hour costs, of the server and its network together, in 10^-9 dollars.
    pub(super) hour_nano_dollars: u64,
    pub(super) requests: u64,
    pub(super) bytes: u64,
    /// How long it had a request of the proxy, or several.
    pub(super) microseconds: u64,
    /// What that costs, in 10^-9 dollars.
    pub(super) nano_dollars: u64,
}

/// What `totals` cost at the prices of the machines.
///
/// # Errors
/// When a price of the machines is none.
pub(super) fn costs(totals: &Totals) -> anyhow::Result<Costs> {
    let mut providers = Vec::new();
    for machine in &MACHINES {
        let Tariff { instance_hour, network_hour, .. } = machine.tariff()?;
        let Traffic { requests, bytes, worked } = totals.nodes.get(machine.name).copied().unwrap_or_default();
        let hour = instance_hour.get() + network_hour.get();
        providers.push(Cost {
            provider: machine.name.to_owned(),
            hour_nano_dollars: hour,
            requests,
            bytes,
            microseconds: worked.as_micros() as u64,
            nano_dollars: of_hours(hour, worked.as_micros()),
        });
    }
    let total_nano_dollars = providers.iter().map(|cost| cost.nano_dollars).sum();
    Ok(Costs { rule: RULE, providers, total_nano_dollars, answers_from_memory: totals.from_memory })
}

/// `hour` nano-dollars an hour for so many microseconds, rounded to the nearest.
fn of_hours(hour: u64, microseconds: u128) -> u64 {
    let amount = (u128::from(hour) * microseconds + MICROSECONDS_IN_AN_HOUR / 2) / MICROSECONDS_IN_AN_HOUR;
    u64::try_from(amount).unwrap_or(u64::MAX)
}

/// All nine digits, so that small amounts are seen and stand below each other.
fn dollars(nano_dollars: u64) -> String {
    format!("${}.{:09}", nano_dollars / 1_000_000_000, nano_dollars % 1_000_000_000)
}

impl Costs {
    /// Shows the table.
    pub(super) fn show(&self, screen: &Screen) {
        screen.note(self.rule);
        let head = format!(
            "    {:<9}{:>8}{:>11}{:>11}{:>11}{:>16}",
            "provider", "$/hour", "requests", "bytes", "at work", "cost"
        );
        screen.line(&screen.toned(Tone::Faint, &head));
        for cost in &self.providers {
            let hour = NanoDollars::new(cost.hour_nano_dollars).to_string();
            let (requests, bytes) = (figures::count(cost.requests), figures::bytes(cost.bytes));
            let (worked, dollars) =
                (figures::time(Duration::from_micros(cost.microseconds)), dollars(cost.nano_dollars));
            let name = &cost.provider;
            screen.line(&format!("    {name:<9}{hour:>8}{requests:>11}{bytes:>11}{worked:>11}{dollars:>16}"));
        }
    }

    /// The sum, in a line.
    pub(super) fn summary(&self) -> String {
        let (total, free) = (dollars(self.total_nano_dollars), figures::count(self.answers_from_memory));
        format!("{total} for all; {free} answers came free, from the proxy's memory")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn a_cost_is_hours_at_work_at_the_price_of_an_hour() {
        assert_eq!(of_hours(400_000_000, 3_600_000_000), 400_000_000);
        assert_eq!(of_hours(864_000_000, 1_000_000), 240_000, "a second of Program");
        assert_eq!([0, 1, 2, 3].map(|tenths| of_hours(36_000_000, tenths * 50)), [0, 1, 1, 2], "to the nearest");
        assert_eq!(of_hours(u64::MAX, u128::from(u64::MAX)), u64::MAX);
        assert_eq!([0, 240_000, 12_000_000_001].map(dollars), ["$0.000000000", "$0.000240000", "$12.000000001"]);
    }

    #[test]
    fn the_total_is_the_sum_and_idle_nodes_cost_nothing() {
        let second = Traffic { requests: 2, bytes: 10, worked: Duration::from_secs(1) };
        let nodes = BTreeMap::from([("AWS".to_owned(), second), ("Program".to_owned(), second)]);
        let costs = costs(&Totals { nodes, from_memory: 3 }).unwrap();
        let each: Vec<_> = costs.providers.iter().map(|cost| cost.nano_dollars).collect();
        assert_eq!(each, [111_111, 0, 240_000]);
        assert_eq!((costs.total_nano_dollars, costs.answers_from_memory), (351_111, 3));
    }
}
