//! What a provider charges: for a month, and for a request within it.
//!
//! Knows tariffs only: which node is chosen for its price is decided in `route`.

mod pricing;
mod published;
mod schedule;
#[cfg(test)]
mod tests;
mod usage;

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::model::NanoDollars;

pub use pricing::Pricing;
pub use published::{published, read};
pub use schedule::{Destination, Schedule, TariffError};
pub use usage::{Bill, Item, Kind, Usage};

/// Which of a tariff's figures a request is priced by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PriceBasis {
    /// An hour of the server, as the reference's policy `p` compares them.
    #[default]
    ServerHour,
    /// An hour of the server and an hour of its network together.
    Hours,
    /// What the bytes of the answer cost, and the request, in the tier that the month has reached.
    Egress,
}

impl PriceBasis {
    /// The price that weighs as much as a second, unless somebody says otherwise: a dollar for an hour of something; for bytes, what a
    /// megabyte costs at 0.09 dollars a GB, the list price of the largest providers.
    pub const fn usual_scale(self) -> NanoDollars {
        match self {
            Self::ServerHour | Self::Hours => NanoDollars::new(1_000_000_000),
            Self::Egress => NanoDollars::new(90_000),
        }
    }
}

/// The text is not a price basis.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a price basis: use server_hour, hours or egress")]
pub struct PriceBasisError(String);

impl fmt::Display for PriceBasis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::ServerHour => "server_hour",
            Self::Hours => "hours",
            Self::Egress => "egress",
        })
    }
}

impl FromStr for PriceBasis {
    type Err = PriceBasisError;

    fn from_str(text: &str) -> Result<Self, PriceBasisError> {
        match text {
            "server_hour" => Ok(Self::ServerHour),
            "hours" => Ok(Self::Hours),
            "egress" => Ok(Self::Egress),
            _ => Err(PriceBasisError(text.chars().take(40).collect())),
        }
    }
}
