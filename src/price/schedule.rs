//! A tariff, ready to compute with.

use std::fmt;
use std::sync::Arc;

use super::{Bill, Item, Kind, Usage};
use crate::model::{Allowance, Amount, Egress, NanoDollars, Requests, Tariff, Tier};

/// More tiers than any provider has: what each request costs is looked up in them.
const TIERS_MAX: usize = 16;

/// The most GB that can be meant: an exabyte. Below it no sum overflows.
const GB_MAX: u64 = 1_000_000_000;

/// What a region or a source is said in: it is a record, which all who know the cluster have.
const TEXT_BYTES_MAX: usize = 500;

/// The currencies that are known (ISO 4217): a code that was mistyped would otherwise pass for one.
const CURRENCIES: [&str; 22] = [
    "AUD", "BRL", "CAD", "CHF", "CNY", "CZK", "DKK", "EUR", "GBP", "HKD", "HUF", "INR", "JPY", "KRW", "MXN", "NOK",
    "NZD", "PLN", "SEK", "SGD", "USD", "ZAR",
];

const NANO: u128 = 1_000_000_000;
const SECONDS_PER_HOUR: u128 = 3_600;
/// Storage is charged by months of 30 days.
const SECONDS_PER_MONTH: u128 = 30 * 24 * SECONDS_PER_HOUR;

/// A part of a tariff that cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {reason}")]
pub struct TariffError {
    /// Which one, as `rates.egress.tiers[1].up_to_gb`.
    pub field: String,
    /// What is wrong with it.
    pub reason: String,
}

fn wrong<T>(field: impl fmt::Display, reason: impl Into<String>) -> Result<T, TariffError> {
    Err(TariffError { field: format!("rates.{field}"), reason: reason.into() })
}

/// Where bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Destination {
    /// Users.
    Internet,
    /// Another region of the same provider.
    OtherRegion,
    /// The same region.
    SameRegion,
}

impl Destination {
    /// All of them, in the order in which [`Usage`] counts them.
    pub const ALL: [Self; 3] = [Self::Internet, Self::OtherRegion, Self::SameRegion];
}

/// What a provider charges for a month's usage, in whole nano-dollars: each item is rounded down, once, so that what two
/// bills differ by is exact, and what requests cost adds up to the bill.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schedule {
    instance_hour: u128,
    /// `None` where the tariff says nothing of bytes.
    traffic: Option<Arc<Traffic>>,
}

#[derive(Debug, PartialEq, Eq)]
struct Traffic {
    egress: [Curve; 3],
    reads: Fee,
    writes: Fee,
    retrieval: Rate,
    storage: Rate,
    minimum: u128,
}

/// Nano-dollars for so many units.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Rate {
    nano_dollars: u128,
    per: u128,
}

impl Rate {
    const fn cost(self, quantity: u128) -> u128 {
        // Nearly all that a request does not use costs nothing, and a division of 128 bits is not free.
        if quantity == 0 || self.nano_dollars == 0 {
            return 0;
        }
        quantity.saturating_mul(self.nano_dollars) / self.per
    }
}

/// What requests of a class cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Fee {
    nano_dollars: u128,
    free: u64,
}

impl Fee {
    fn cost(self, requests: u64) -> u128 {
        u128::from(requests.saturating_sub(self.free)) * self.nano_dollars
    }
}

/// The price of bytes by the volume of the month.
#[derive(Debug, PartialEq, Eq)]
struct Curve {
    free_bytes: u64,
    free_bytes_per_server: u64,
    allowance: Allowance,
    unit_bytes: u128,
    /// Each with the byte at which it ends, and nano-dollars for a unit.
    tiers: Vec<(u64, u128)>,
}

impl Curve {
    fn cost(&self, bytes: u64, servers: u32) -> u128 {
        if bytes == 0 {
            return 0;
        }
        let free = self.free(servers);
        let numerator = match self.allowance {
            Allowance::BeforeTiers => self.filled(bytes.saturating_sub(free)),
            Allowance::WithinTiers => self.filled(bytes) - self.filled(bytes.min(free)),
        };
        numerator / self.unit_bytes
    }

    fn free(&self, servers: u32) -> u64 {
        self.free_bytes.saturating_add(self.free_bytes_per_server.saturating_mul(u64::from(servers)))
    }

    /// Where the price of a byte changes, in bytes of the month.
    fn ends(&self, servers: u32) -> impl Iterator<Item = u64> {
        let free = self.free(servers);
        let shift = if self.allowance == Allowance::BeforeTiers { free } else { 0 };
        let ends = self.tiers.iter().filter(|(end, _)| *end < u64::MAX);
        std::iter::once(free).chain(ends.map(move |(end, _)| end.saturating_add(shift)))
    }

    /// What the first `bytes` of the tiers cost, in nano-dollars times the bytes of a unit.
    fn filled(&self, bytes: u64) -> u128 {
        let mut begin = 0;
        let mut numerator = 0;
        for &(end, nano_dollars) in &self.tiers {
            numerator += u128::from(bytes.min(end) - begin) * nano_dollars;
            if bytes <= end {
                break;
            }
            begin = end;
        }
        numerator
    }
}

impl Schedule {
    /// The schedule of a tariff.
    ///
    /// # Errors
    /// When a part of the tariff cannot be, which is named.
    pub fn new(tariff: &Tariff) -> Result<Self, TariffError> {
        let instance_hour = tariff.instance_hour.get().into();
        let Some(rates) = tariff.rates.as_deref() else { return Ok(Self { instance_hour, traffic: None }) };
        let currency = Currency::new(&rates.currency, rates.dollars_per_unit)?;
        if let Some(day) = &rates.as_of
            && !is_day(day)
        {
            return wrong("as_of", format!("{day:?} is not a day: write it as 2026-11-01"));
        }
        for (field, text) in [("region", &rates.region), ("source", &rates.source)] {
            let is_line = |text: &str| text.len() <= TEXT_BYTES_MAX && !text.contains(char::is_control);
            if !text.as_deref().is_none_or(is_line) {
                return wrong(field, format!("it is one line of up to {TEXT_BYTES_MAX} bytes"));
            }
        }
        let internet = currency.curve("egress", &rates.egress)?;
        let named = |name: &str, egress: &Option<Egress>, or: &Egress| match egress {
            Some(egress) => currency.curve(name, egress),
            None => currency.curve(name, or),
        };
        let other = rates.egress_other_region.as_ref().unwrap_or(&rates.egress);
        let other_region = named("egress_other_region", &rates.egress_other_region, &rates.egress)?;
        let same_region = named("egress_same_region", &rates.egress_same_region, other)?;
        let price =
            |field: &str, amount: Option<Amount>| amount.map_or(Ok(0), |amount| currency.nano_dollars(field, amount));
        let fee = |field: &str, requests: Option<Requests>| -> Result<Fee, TariffError> {
            let nano_dollars = price(field, requests.map(|requests| requests.price))?;
            Ok(Fee { nano_dollars, free: requests.map_or(0, |requests| requests.free) })
        };
        let stored = rates.storage.as_ref().map(|storage| storage.price_per_gb_month);
        let stored_unit = rates.storage.as_ref().map_or(1, |storage| u128::from(storage.unit.bytes()));
        let traffic = Traffic {
            egress: [internet, other_region, same_region],
            reads: fee("reads.price", rates.reads)?,
            writes: fee("writes.price", rates.writes)?,
            retrieval: Rate {
                nano_dollars: price("retrieval_per_gb", rates.retrieval_per_gb)?,
                per: u128::from(rates.egress.unit.bytes()),
            },
            storage: Rate {
                nano_dollars: price("storage.price_per_gb_month", stored)?,
                per: stored_unit * SECONDS_PER_MONTH,
            },
            minimum: price("monthly_minimum", rates.monthly_minimum)?,
        };
        Ok(Self { instance_hour, traffic: Some(Arc::new(traffic)) })
    }

    /// Whether the tariff says what bytes cost.
    pub const fn prices_bytes(&self) -> bool {
        self.traffic.is_some()
    }

    /// The bill for a month in which this was used.
    pub fn bill(&self, usage: &Usage) -> Bill {
        let mut items = Vec::with_capacity(8);
        self.each_item(usage, |kind, quantity, cost| {
            if quantity > 0 {
                items.push(Item { kind, quantity, cost: amount(cost) });
            }
        });
        Bill { items, total: amount(self.total(usage)) }
    }

    /// What `more` costs in a month in which `so_far` was used: what the two bills differ by, so that all that is used costs
    /// what the month's bill says, whatever it is divided into.
    pub fn marginal(&self, so_far: &Usage, more: &Usage) -> NanoDollars {
        amount(self.total(&so_far.plus(more)).saturating_sub(self.total(so_far)))
    }

    /// What an answer of `bytes` to a user costs, as [`Schedule::marginal`]; `None` where the tariff says nothing of bytes.
    pub fn answer(&self, so_far: &Usage, bytes: u64) -> Option<NanoDollars> {
        self.prices_bytes().then(|| self.marginal(so_far, &Usage::of_answer(bytes)))
    }

    /// The sizes at which what [`Schedule::answer`] says bends: where a tier ends, or what is free, or the month's minimum.
    pub(super) fn bends(&self, so_far: &Usage) -> Vec<u64> {
        let Some(traffic) = self.traffic.as_deref() else { return Vec::new() };
        let [sent, ..] = so_far.egress_bytes;
        let ends = traffic.egress[0].ends(so_far.servers).filter_map(|end| end.checked_sub(sent));
        let mut bends: Vec<_> = ends.chain(self.minimum_reached(traffic, so_far)).filter(|&bend| bend > 0).collect();
        bends.sort_unstable();
        bends.dedup();
        bends
    }

    /// The largest answer that costs nothing because the month's minimum covers it, if there is one.
    fn minimum_reached(&self, traffic: &Traffic, so_far: &Usage) -> Option<u64> {
        let is_covered = |bytes: u64| self.used(&so_far.plus(&Usage::of_answer(bytes))) <= traffic.minimum;
        if !is_covered(0) {
            return None;
        }
        let (mut covered, mut beyond) = (0, u64::MAX);
        while beyond - covered > 1 {
            let middle = u64::midpoint(covered, beyond);
            if is_covered(middle) { covered = middle } else { beyond = middle }
        }
        Some(covered)
    }

    fn total(&self, usage: &Usage) -> u128 {
        self.used(usage).max(self.traffic.as_deref().map_or(0, |traffic| traffic.minimum))
    }

    /// All items together.
    fn used(&self, usage: &Usage) -> u128 {
        let mut sum = 0;
        self.each_item(usage, |_, _, cost| sum += cost);
        sum
    }

    fn each_item(&self, usage: &Usage, mut item: impl FnMut(Kind, u128, u128)) {
        let seconds = u128::from(usage.server_seconds);
        item(Kind::Servers, seconds, seconds * self.instance_hour / SECONDS_PER_HOUR);
        let Some(traffic) = self.traffic.as_deref() else { return };
        for (place, destination) in Destination::ALL.into_iter().enumerate() {
            let bytes = usage.egress_bytes[place];
            item(Kind::Egress(destination), bytes.into(), traffic.egress[place].cost(bytes, usage.servers));
        }
        item(Kind::Reads, usage.reads.into(), traffic.reads.cost(usage.reads));
        item(Kind::Writes, usage.writes.into(), traffic.writes.cost(usage.writes));
        let retrieved = u128::from(usage.retrieved_bytes);
        item(Kind::Retrieval, retrieved, traffic.retrieval.cost(retrieved));
        let stored = usage.stored_byte_seconds;
        item(Kind::Storage, stored, traffic.storage.cost(stored));
    }
}

fn amount(nano_dollars: u128) -> NanoDollars {
    NanoDollars::new(u64::try_from(nano_dollars).unwrap_or(u64::MAX))
}

/// What a unit of the tariff's currency is worth.
struct Currency {
    nano_dollars_per_unit: u128,
}

impl Currency {
    fn new(code: &str, dollars_per_unit: Option<Amount>) -> Result<Self, TariffError> {
        if !CURRENCIES.contains(&code) {
            let known = CURRENCIES.join(", ");
            return wrong("currency", format!("{code:?} is not a currency that is known: one of {known}"));
        }
        match dollars_per_unit.map(|amount| u128::from(amount.nano_units())) {
            None if code == "USD" => Ok(Self { nano_dollars_per_unit: NANO }),
            None => wrong("dollars_per_unit", format!("say how many dollars one {code} is")),
            Some(0) => wrong("dollars_per_unit", "it is above 0"),
            Some(rate) if code == "USD" && rate != NANO => {
                wrong("dollars_per_unit", "one USD is one dollar: leave it out")
            }
            Some(nano_dollars_per_unit) => Ok(Self { nano_dollars_per_unit }),
        }
    }

    /// Rounded to the nearest, once for each price: so all that is computed is in one currency. Refused above the highest price: below
    /// it no sum overflows.
    fn nano_dollars(&self, field: &str, amount: Amount) -> Result<u128, TariffError> {
        let nano_dollars = (u128::from(amount.nano_units()) * self.nano_dollars_per_unit + NANO / 2) / NANO;
        match u64::try_from(nano_dollars).ok().and_then(|nano_dollars| NanoDollars::try_from(nano_dollars).ok()) {
            Some(_) => Ok(nano_dollars),
            None => wrong(field, format!("{amount} is, in dollars, above the highest price")),
        }
    }

    fn curve(&self, name: &str, egress: &Egress) -> Result<Curve, TariffError> {
        let unit = egress.unit.bytes();
        for (field, gb) in [("free_gb", egress.free_gb), ("free_gb_per_server", egress.free_gb_per_server)] {
            if gb > GB_MAX {
                return wrong(format!("{name}.{field}"), format!("{gb} is above {GB_MAX}"));
            }
        }
        if egress.tiers.is_empty() || egress.tiers.len() > TIERS_MAX {
            return wrong(format!("{name}.tiers"), format!("there are 1 to {TIERS_MAX}, not {}", egress.tiers.len()));
        }
        let last = egress.tiers.len() - 1;
        let mut begin = 0;
        let mut tiers = Vec::with_capacity(egress.tiers.len());
        for (place, Tier { up_to_gb, price_per_gb }) in egress.tiers.iter().enumerate() {
            let field = format!("{name}.tiers[{place}].up_to_gb");
            let end = match *up_to_gb {
                None if place < last => return wrong(field, "only the last tier has no end"),
                None => u64::MAX,
                Some(_) if place == last => return wrong(field, "the last tier has no end: leave it out"),
                Some(end) if end > GB_MAX => return wrong(field, format!("{end} is above {GB_MAX}")),
                Some(end) if end <= begin => {
                    return wrong(field, format!("{end} is not above {begin}, where the tier begins"));
                }
                Some(end) => {
                    begin = end;
                    end * unit
                }
            };
            tiers.push((end, self.nano_dollars(&format!("{name}.tiers[{place}].price_per_gb"), *price_per_gb)?));
        }
        Ok(Curve {
            free_bytes: egress.free_gb * unit,
            free_bytes_per_server: egress.free_gb_per_server * unit,
            allowance: egress.allowance,
            unit_bytes: unit.into(),
            tiers,
        })
    }
}

/// Whether a text is a day of the calendar, as `2026-11-01` (RFC 3339 section 5.6).
fn is_day(text: &str) -> bool {
    let bytes = text.as_bytes();
    let digits = |range: std::ops::Range<usize>| text.get(range)?.parse::<u32>().ok();
    let shaped = bytes.len() == 10 && bytes[4] == b'-' && bytes[7] == b'-' && !text.contains('+');
    let within = |month: u32, day: u32| {
        let days = match month {
            2 => 29,
            4 | 6 | 9 | 11 => 30,
            _ => 31,
        };
        (1..=12).contains(&month) && (1..=days).contains(&day)
    };
    shaped && digits(0..4).is_some() && digits(5..7).zip(digits(8..10)).is_some_and(|(month, day)| within(month, day))
}
