//! What a decision says of itself: one text for the `metacdn-route` header, tables and JSON.

use std::fmt::{self, Write as _};
use std::sync::Arc;

use serde::{Serialize, Serializer};

use super::Policy;
use crate::model::{Liveness, NanoDollars, Node};

/// What a [`Route::header_value`] seldom outgrows.
const HEADER_BYTES_USUAL: usize = 96;

/// Why a node stands where it does: the first one against the next, the others against the one before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    /// The lowest price.
    Cheapest,
    /// The shortest time.
    Fastest,
    /// The lowest score, and none within the band.
    BestScore,
    /// One of several whose scores are within the band; the key chose among them.
    WithinBand,
    /// No other is cheaper; time decided.
    TieByTime,
    /// No other is faster; price decided.
    TieByPrice,
    /// Equal in price and time; the key chose.
    TieByKey,
    /// Costs more than the one before.
    Dearer,
    /// Takes longer than the one before.
    Slower,
    /// Has a higher score than the one before.
    HigherScore,
    /// Its provider has no price.
    Unpriced,
    /// It was never tried.
    Unmeasured,
    /// It has been silent for longer than usual.
    Suspect,
    /// It failed too often of late.
    Ejected,
    /// It was ejected, and does not get all of its requests back at once.
    Recovering,
    /// An operator has said that it is to leave.
    Draining,
    /// An operator has said that it may be away at any moment.
    InMaintenance,
    /// It makes variants of images, and those before it do not.
    Resizes,
    /// Those before it were asked in vain.
    NextBest,
    /// It is another edge, which asks for all.
    Shield,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Cheapest => "cheapest",
            Self::Fastest => "fastest",
            Self::BestScore => "best-score",
            Self::WithinBand => "within-band",
            Self::TieByTime => "tie-by-time",
            Self::TieByPrice => "tie-by-price",
            Self::TieByKey => "tie-by-key",
            Self::Dearer => "dearer",
            Self::Slower => "slower",
            Self::HigherScore => "higher-score",
            Self::Unpriced => "unpriced",
            Self::Unmeasured => "unmeasured",
            Self::Suspect => "suspect",
            Self::Ejected => "ejected",
            Self::Recovering => "recovering",
            Self::Draining => "draining",
            Self::InMaintenance => "in-maintenance",
            Self::Resizes => "resizes",
            Self::NextBest => "next-best",
            Self::Shield => "shield",
        })
    }
}

impl Serialize for Reason {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// One node to try for a request.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Route {
    /// The node; its name in JSON.
    #[serde(serialize_with = "serialize_name")]
    pub node: Arc<Node>,
    /// What is seen of it.
    pub liveness: Liveness,
    /// What it costs under the price basis; decimal dollars in JSON.
    #[serde(serialize_with = "serialize_dollars")]
    pub price: Option<NanoDollars>,
    /// The time it is expected to take, retries included.
    pub time_s: Option<f64>,
    /// What it was ranked by, lower is better.
    pub score: Option<f64>,
    /// Why it stands where it does.
    pub reason: Reason,
}

impl Route {
    /// The value of the `metacdn-route` header: `node=GC; score=0.31; price=0.10; time=0.042; reason=cheapest`, ASCII,
    /// without what is unknown. Times are seconds, numbers have up to six digits after the point.
    pub fn header_value(&self) -> String {
        let mut text = String::with_capacity(HEADER_BYTES_USUAL);
        self.write_to(&mut text).expect("a String takes everything");
        text
    }

    fn write_to(&self, text: &mut String) -> fmt::Result {
        write!(text, "node={}", self.node.id)?;
        if let Some(score) = self.score {
            text.push_str("; score=");
            push_decimal(text, score)?;
        }
        if let Some(price) = self.price {
            write!(text, "; price={price}")?;
        }
        if let Some(time_s) = self.time_s {
            text.push_str("; time=");
            push_decimal(text, time_s)?;
        }
        write!(text, "; reason={}", self.reason)
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.header_value())
    }
}

/// The nodes to try for a request, best first.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Ranking {
    /// The policy that ordered them.
    pub policy: Policy,
    /// The nodes that are not down.
    pub routes: Vec<Route>,
}

/// Up to six digits after the point, without zeros at the end.
fn push_decimal(text: &mut String, value: f64) -> fmt::Result {
    write!(text, "{value:.6}")?;
    let length = text.trim_end_matches('0').trim_end_matches('.').len();
    text.truncate(length);
    Ok(())
}

pub(super) fn serialize_name<S: Serializer>(node: &Arc<Node>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&node.id)
}

pub(super) fn serialize_dollars<S: Serializer>(price: &Option<NanoDollars>, serializer: S) -> Result<S::Ok, S::Error> {
    match price {
        Some(price) => serializer.collect_str(price),
        None => serializer.serialize_none(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(price: Option<&str>, time_s: Option<f64>, score: Option<f64>) -> Route {
        let node = Node {
            id: "GC".parse().expect("a name"),
            provider: "GC".parse().expect("a name"),
            address: "127.0.0.1:22222".parse().expect("an address"),
            download: "127.0.0.1:8871".parse().expect("an address"),
            images: crate::model::ImageMode::Off,
        };
        let price = price.map(|price| price.parse().expect("money"));
        Route { node: Arc::new(node), liveness: Liveness::Alive, price, time_s, score, reason: Reason::Cheapest }
    }

    #[test]
    fn the_header_says_what_is_known() {
        let whole = route(Some(".10"), Some(0.042), Some(0.31));
        assert_eq!(whole.header_value(), "node=GC; score=0.31; price=0.10; time=0.042; reason=cheapest");
        assert_eq!(route(None, None, None).header_value(), "node=GC; reason=cheapest");
        assert_eq!(route(None, Some(20.0), None).header_value(), "node=GC; time=20; reason=cheapest");
        assert_eq!(route(None, Some(1e-9), None).header_value(), "node=GC; time=0; reason=cheapest");
    }

    #[test]
    fn json_has_the_words_of_the_header() {
        let ranking = Ranking { policy: Policy::Price, routes: vec![route(Some(".10"), None, Some(0.1))] };
        assert_eq!(
            serde_json::to_value(&ranking).expect("json"),
            serde_json::json!({"policy": "p", "routes": [{
                "node": "GC", "liveness": "alive", "price": "0.10", "time_s": null, "score": 0.1, "reason": "cheapest"
            }]})
        );
    }
}
