//! What an edge says of the routes to an object: see `/routes` in `docs/edge.md`. What this program does not know is
//! passed over, so that it reads the answers of later edges, too.

use serde::{Deserialize, Deserializer};

use crate::model::{Liveness, NanoDollars, NodeId, Provider};
use crate::route::{Policy, Span, Threshold, TimeParts};

/// The whole of it.
#[derive(Debug, Deserialize)]
pub(super) struct Document {
    pub(super) policy: Policy,
    pub(super) size: u64,
    pub(super) size_known: bool,
    pub(super) price_basis: String,
    pub(super) routes: Vec<Route>,
    pub(super) left_out: Vec<LeftOut>,
    pub(super) changes: Changes,
}

#[derive(Debug, Deserialize)]
pub(super) struct Route {
    pub(super) node: NodeId,
    pub(super) provider: Provider,
    pub(super) liveness: Liveness,
    #[serde(deserialize_with = "dollars")]
    pub(super) price: Option<NanoDollars>,
    pub(super) time_s: Option<f64>,
    pub(super) time_parts: Option<TimeParts>,
    pub(super) score: Option<f64>,
    pub(super) reason: String,
    pub(super) wins: Wins,
}

#[derive(Debug, Deserialize)]
pub(super) struct Wins {
    pub(super) price: Option<Threshold<String>>,
    pub(super) time_s: Option<Threshold<f64>>,
}

#[derive(Debug, Deserialize)]
pub(super) struct LeftOut {
    pub(super) node: NodeId,
    pub(super) provider: Provider,
    pub(super) liveness: Liveness,
    #[serde(deserialize_with = "dollars")]
    pub(super) price: Option<NanoDollars>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Changes {
    pub(super) by_price: Option<NodeId>,
    pub(super) by_time: Option<NodeId>,
    pub(super) if_lost: Option<NodeId>,
    pub(super) betas: Vec<Span<f64>>,
    pub(super) sizes: Vec<Span<u64>>,
}

fn dollars<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<NanoDollars>, D::Error> {
    let text = Option::<String>::deserialize(deserializer)?;
    text.map(|text| text.parse().map_err(serde::de::Error::custom)).transpose()
}
