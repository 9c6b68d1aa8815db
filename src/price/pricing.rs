//! What one request costs, at one moment of the month.

use super::{PriceBasis, Schedule, Usage};
use crate::model::{NanoDollars, Tariff};

/// What requests to a provider cost under a basis.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pricing {
    /// The same for each: an hour of what answers it.
    Hour(NanoDollars),
    /// By the bytes that are sent, after what was used of the month.
    Egress {
        /// What the provider charges.
        schedule: Schedule,
        /// What it was used for so far.
        so_far: Usage,
    },
}

impl Pricing {
    /// The pricing of `tariff` under `basis`, after what was used so far; `None` if the tariff says nothing of what the basis
    /// asks for, or cannot be.
    pub fn new(tariff: &Tariff, basis: PriceBasis, so_far: Usage) -> Option<Self> {
        match basis {
            PriceBasis::ServerHour => Some(Self::Hour(tariff.instance_hour)),
            PriceBasis::Hours => {
                let both = tariff.instance_hour.get().saturating_add(tariff.network_hour.get());
                Some(Self::Hour(NanoDollars::new(both)))
            }
            PriceBasis::Egress => {
                let schedule = Schedule::new(tariff).ok().filter(Schedule::prices_bytes)?;
                Some(Self::Egress { schedule, so_far })
            }
        }
    }

    /// What an answer of `bytes` costs.
    pub fn of(&self, bytes: u64) -> Option<NanoDollars> {
        match self {
            Self::Hour(price) => Some(*price),
            Self::Egress { schedule, so_far } => schedule.answer(so_far, bytes),
        }
    }

    /// The sizes of answers at which a byte more costs something else than the byte before, ascending.
    pub fn bends(&self) -> Vec<u64> {
        match self {
            Self::Hour(_) => Vec::new(),
            Self::Egress { schedule, so_far } => schedule.bends(so_far),
        }
    }
}
