//! What a provider charges for a request.
//!
//! Knows tariffs only: which node is chosen for its price is decided in `route`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::model::{NanoDollars, Tariff};

/// Which of a tariff's figures a request is priced by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PriceBasis {
    /// An hour of the server, as the reference's policy `p` compares them.
    #[default]
    ServerHour,
    /// An hour of the server and an hour of its network together.
    Hours,
}

/// The text is not a price basis.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a price basis: use server_hour or hours")]
pub struct PriceBasisError(String);

impl fmt::Display for PriceBasis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::ServerHour => "server_hour",
            Self::Hours => "hours",
        })
    }
}

impl FromStr for PriceBasis {
    type Err = PriceBasisError;

    fn from_str(text: &str) -> Result<Self, PriceBasisError> {
        match text {
            "server_hour" => Ok(Self::ServerHour),
            "hours" => Ok(Self::Hours),
            _ => Err(PriceBasisError(text.chars().take(40).collect())),
        }
    }
}

/// The price that `tariff` has under `basis`: for both bases, of one hour.
pub const fn price(tariff: &Tariff, basis: PriceBasis) -> NanoDollars {
    match basis {
        PriceBasis::ServerHour => tariff.instance_hour,
        PriceBasis::Hours => NanoDollars::new(tariff.instance_hour.get().saturating_add(tariff.network_hour.get())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tariff_is_priced_by_the_basis() {
        let tariff = Tariff { instance_hour: NanoDollars::new(3), network_hour: NanoDollars::new(4) };
        assert_eq!(price(&tariff, PriceBasis::ServerHour), NanoDollars::new(3));
        assert_eq!(price(&tariff, PriceBasis::Hours), NanoDollars::new(7));
    }

    #[test]
    fn names_read_back_and_others_are_refused() {
        for basis in [PriceBasis::ServerHour, PriceBasis::Hours] {
            assert_eq!(basis.to_string().parse(), Ok(basis));
            assert_eq!(serde_json::to_string(&basis).expect("json"), format!("\"{basis}\""));
        }
        for bad in ["", "egress", "Hours", "server-hour"] {
            assert!(bad.parse::<PriceBasis>().is_err(), "{bad}");
        }
    }
}
