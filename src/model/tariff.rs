//! What a provider charges, as it publishes it.
//!
//! The parts are as they were written; `price` computes with them, and refuses what cannot be.

use serde::{Deserialize, Serialize};

use super::{Amount, NanoDollars};

/// What a provider charges.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tariff {
    /// An hour of the server (the reference's `server_hourly_cost`).
    pub instance_hour: NanoDollars,
    /// An hour of its network, flat (the reference's `network_hourly_cost`).
    pub network_hour: NanoDollars,
    /// What bytes and requests cost, if that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rates: Option<Box<Rates>>,
}

/// A tariff as people write it, with decimal amounts: in files and over the API.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TariffDocument {
    /// Dollars for an hour of the server.
    #[serde(default)]
    pub instance_hour: Amount,
    /// Dollars for an hour of its network, flat.
    #[serde(default)]
    pub network_hour: Amount,
    /// What bytes and requests cost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rates: Option<Box<Rates>>,
}

impl From<TariffDocument> for Tariff {
    fn from(TariffDocument { instance_hour, network_hour, rates }: TariffDocument) -> Self {
        Self { instance_hour: instance_hour.in_dollars(), network_hour: network_hour.in_dollars(), rates }
    }
}

impl From<Tariff> for TariffDocument {
    fn from(Tariff { instance_hour, network_hour, rates }: Tariff) -> Self {
        Self { instance_hour: Amount::of_dollars(instance_hour), network_hour: Amount::of_dollars(network_hour), rates }
    }
}

/// What bytes and requests cost within a calendar month (UTC).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rates {
    /// The currency of all amounts here, by its code in ISO 4217.
    #[serde(default = "dollars")]
    pub currency: String,
    /// Dollars for one unit of the currency; needed for all but USD.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dollars_per_unit: Option<Amount>,
    /// Of which region of the provider it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// The day on which the provider charged this, as `2026-11-01`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub as_of: Option<String>,
    /// Where the provider says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// Bytes sent to users.
    pub egress: Egress,
    /// Bytes sent to the provider's other regions; as `egress` if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub egress_other_region: Option<Egress>,
    /// Bytes sent within the region; as `egress_other_region` if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub egress_same_region: Option<Egress>,
    /// Requests that read, as GET.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reads: Option<Requests>,
    /// Requests that write, as PUT.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub writes: Option<Requests>,
    /// What is stored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storage: Option<Storage>,
    /// A GB that is read from where it is stored, besides its egress.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retrieval_per_gb: Option<Amount>,
    /// What a month costs at least.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub monthly_minimum: Option<Amount>,
}

fn dollars() -> String {
    "USD".to_owned()
}

/// What bytes cost that are sent to one kind of destination.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Egress {
    /// What a GB is.
    #[serde(default)]
    pub unit: Unit,
    /// So many are free each month.
    #[serde(default)]
    pub free_gb: u64,
    /// So many more for each server.
    #[serde(default)]
    pub free_gb_per_server: u64,
    /// Where the free ones are taken from.
    #[serde(default)]
    pub allowance: Allowance,
    /// What the others cost, the first ones first.
    pub tiers: Vec<Tier>,
}

/// The bytes up to a volume of the month, and what they cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tier {
    /// Where the tier ends, in GB of the month; only the last tier has no end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub up_to_gb: Option<u64>,
    /// What a GB costs.
    pub price_per_gb: Amount,
}

/// What a GB is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Unit {
    /// 10^9 bytes.
    #[default]
    GB,
    /// 2^30 bytes.
    GiB,
}

impl Unit {
    /// In bytes.
    pub const fn bytes(self) -> u64 {
        match self {
            Self::GB => 1_000_000_000,
            Self::GiB => 1 << 30,
        }
    }
}

/// How free bytes count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Allowance {
    /// They are taken off first; the rest fills the tiers from zero.
    #[default]
    BeforeTiers,
    /// They are the first of the tiers, whose ends count them.
    WithinTiers,
}

/// What requests cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Requests {
    /// One of them.
    pub price: Amount,
    /// So many are free each month.
    #[serde(default)]
    pub free: u64,
}

/// What is stored, and for how long.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Storage {
    /// What a GB is.
    #[serde(default)]
    pub unit: Unit,
    /// What a GB costs that is stored for a month of 30 days.
    pub price_per_gb_month: Amount,
}
