//! A tariff, ready to compute with.

use std::fmt;
use std::sync::Arc;

use super::{Bill, Item, Kind, Usage};
use crate::model::{Allowance, Amount, Egress, NanoDollars, Requests, Tariff, Tier};

/// More tiers than any provider has: what each request costs is looked up in them.
const TIERS_MAX: usize = 16;

/// The most GB that can be meant: an exabyte. Below it no sum overflows.
const GB_MAX: u64 = 1_000_000_000;

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
    const FREE: Self = Self { nano_dollars: 0, per: 1 };

    const fn cost(self, quantity: u128) -> u128 {
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
        let internet = currency.curve("egress", &rates.egress)?;
        let named = |name: &str, egress: &Option<Egress>, or: &Egress| match egress {
            Some(egress) => currency.curve(name, egress),
            None => currency.curve(name, or),
        };
        let other = rates.egress_other_region.as_ref().unwrap_or(&rates.egress);
        let other_region = named("egress_other_region", &rates.egress_other_region, &rates.egress)?;
        let same_region = named("egress_same_region", &rates.egress_same_region, other)?;
        let fee = |requests: Option<Requests>| {
            requests.map_or(Fee { nano_dollars: 0, free: 0 }, |requests| Fee {
                nano_dollars: currency.nano_dollars(requests.price),
                free: requests.free,
            })
        };
        let unit_bytes = u128::from(rates.egress.unit.bytes());
        let per_gb = |price: Amount| Rate { nano_dollars: currency.nano_dollars(price), per: unit_bytes };
        let storage = rates.storage.as_ref().map_or(Rate::FREE, |storage| Rate {
            nano_dollars: currency.nano_dollars(storage.price_per_gb_month),
            per: u128::from(storage.unit.bytes()) * SECONDS_PER_MONTH,
        });
        let traffic = Traffic {
            egress: [internet, other_region, same_region],
            reads: fee(rates.reads),
            writes: fee(rates.writes),
            retrieval: rates.retrieval_per_gb.map_or(Rate::FREE, per_gb),
            storage,
            minimum: rates.monthly_minimum.map_or(0, |minimum| currency.nano_dollars(minimum)),
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

    /// What sending `bytes` to users costs, for one request that reads them, as [`Schedule::marginal`]; `None` where the
    /// tariff does not say.
    pub fn send(&self, so_far: &Usage, bytes: u64) -> Option<NanoDollars> {
        let traffic = self.traffic.as_deref()?;
        let [sent, ..] = so_far.egress_bytes;
        let curve = &traffic.egress[0];
        let egress = curve.cost(sent.saturating_add(bytes), so_far.servers) - curve.cost(sent, so_far.servers);
        let request = traffic.reads.cost(so_far.reads.saturating_add(1)) - traffic.reads.cost(so_far.reads);
        let retrieved = u128::from(so_far.retrieved_bytes);
        let retrieval = traffic.retrieval.cost(retrieved + u128::from(bytes)) - traffic.retrieval.cost(retrieved);
        Some(amount(egress + request + retrieval))
    }

    /// The sizes at which what [`Schedule::send`] says bends: where a tier ends, or what is free.
    pub(super) fn bends(&self, so_far: &Usage) -> Vec<u64> {
        let Some(traffic) = self.traffic.as_deref() else { return Vec::new() };
        let [sent, ..] = so_far.egress_bytes;
        let ends = traffic.egress[0].ends(so_far.servers);
        let mut bends: Vec<_> = ends.filter_map(|end| end.checked_sub(sent)).filter(|&bend| bend > 0).collect();
        bends.sort_unstable();
        bends.dedup();
        bends
    }

    fn total(&self, usage: &Usage) -> u128 {
        let mut sum = 0;
        self.each_item(usage, |_, _, cost| sum += cost);
        sum.max(self.traffic.as_deref().map_or(0, |traffic| traffic.minimum))
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

    /// Rounded to the nearest, once for each price: so all that is computed is in one currency.
    const fn nano_dollars(&self, amount: Amount) -> u128 {
        (amount.nano_units() as u128 * self.nano_dollars_per_unit + NANO / 2) / NANO
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
            tiers.push((end, self.nano_dollars(*price_per_gb)));
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
