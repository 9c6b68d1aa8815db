//! What an edge says to the edge that is its shield, and how that answers: one field, `metacdn-shield`.
//!
//! `https; since=12345; heard=AWS:0f…:17,GC:a0…:4` in a request, and one word in the answer.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use http::{HeaderMap, HeaderValue};

use super::SHIELD_HEADER;
use crate::model::{Epoch, NodeId};

/// How far the feed of a node was read, in one life of its database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// The life.
    pub epoch: Epoch,
    /// The sequence of the last entry.
    pub sequence: u64,
}

/// Whose content is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    /// A site's, by `http`.
    Http,
    /// A site's, by `https`.
    Https,
    /// The cluster's store: the path is that of a node.
    Store,
}

/// What an edge demands of its shield.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Demand {
    /// Whose content it wants.
    pub content: Content,
    /// How old at most what is kept of a site may be, by a purge that was told to the asker alone.
    pub since: Option<Duration>,
    /// How far the asker has read the feeds: what it has heard of is not to come back.
    pub heard: BTreeMap<NodeId, Position>,
}

/// What a shield says of its answer. Without it, the answer is that to somebody whom it does not take for an edge that asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Said {
    /// It was kept.
    Hit,
    /// It was asked for.
    Miss,
    /// None that could be asked has answered.
    Unanswered,
    /// It does not answer this request.
    Refused,
}

/// The text is no demand.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{SHIELD_HEADER} says {0:?}, which is no demand of an edge")]
pub struct DemandError(String);

impl Said {
    /// Its word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Hit => "hit",
            Self::Miss => "miss",
            Self::Unanswered => "unanswered",
            Self::Refused => "refused",
        }
    }

    /// What the answer with these fields says.
    pub fn of(headers: &HeaderMap) -> Option<Self> {
        let said = headers.get(SHIELD_HEADER)?;
        [Self::Hit, Self::Miss, Self::Unanswered, Self::Refused].into_iter().find(|word| said == word.as_str())
    }
}

impl Demand {
    /// As the value of a field.
    pub fn value(&self) -> HeaderValue {
        HeaderValue::try_from(self.to_string()).expect("names and numbers are visible ASCII")
    }

    /// What the request with these fields demands; `None` if it is none of an edge.
    ///
    /// # Errors
    /// When it is not understood.
    pub fn of(headers: &HeaderMap) -> Result<Option<Self>, DemandError> {
        let mut lines = headers.get_all(SHIELD_HEADER).iter();
        let Some(line) = lines.next() else { return Ok(None) };
        let text = line.to_str().unwrap_or_default();
        if lines.next().is_some() {
            return Err(DemandError(text.to_owned()));
        }
        text.parse().map(Some)
    }
}

impl fmt::Display for Demand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.content {
            Content::Http => "http",
            Content::Https => "https",
            Content::Store => "store",
        })?;
        if let Some(since) = self.since {
            write!(f, "; since={}", since.as_millis())?;
        }
        for (place, (node, Position { epoch, sequence })) in self.heard.iter().enumerate() {
            f.write_str(if place == 0 { "; heard=" } else { "," })?;
            write!(f, "{node}:{epoch}:{sequence}")?;
        }
        Ok(())
    }
}

impl FromStr for Demand {
    type Err = DemandError;

    fn from_str(text: &str) -> Result<Self, DemandError> {
        let read = || {
            let mut parts = text.split("; ");
            let content = match parts.next()? {
                "http" => Content::Http,
                "https" => Content::Https,
                "store" => Content::Store,
                _ => return None,
            };
            let mut demand = Self { content, since: None, heard: BTreeMap::new() };
            for part in parts {
                match part.split_once('=')? {
                    ("since", ms) => demand.since = Some(Duration::from_millis(ms.parse().ok()?)),
                    ("heard", all) => demand.heard = all.split(',').map(position).collect::<Option<_>>()?,
                    _ => return None,
                }
            }
            Some(demand)
        };
        read().ok_or_else(|| DemandError(text.chars().take(300).collect()))
    }
}

fn position(text: &str) -> Option<(NodeId, Position)> {
    let mut parts = text.split(':');
    let (node, epoch, sequence) = (parts.next()?, parts.next()?, parts.next()?);
    let position = Position { epoch: epoch.parse().ok()?, sequence: sequence.parse().ok()? };
    parts.next().is_none().then_some((node.parse().ok()?, position))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn demands_read_back() {
        let at = |bits, sequence| Position { epoch: Epoch::from_bits(bits), sequence };
        let heard = [("AWS", at(15, 17)), ("GC-2", at(u64::MAX, 4))];
        let heard: BTreeMap<_, _> = heard.into_iter().map(|(node, at)| (node.parse().unwrap(), at)).collect();
        for (demand, text) in [
            (Demand { content: Content::Http, since: None, heard: BTreeMap::new() }, "http"),
            (
                Demand { content: Content::Https, since: Some(Duration::from_millis(12_345)), heard },
                "https; since=12345; heard=AWS:000000000000000f:17,GC-2:ffffffffffffffff:4",
            ),
            (Demand { content: Content::Store, since: Some(Duration::ZERO), heard: BTreeMap::new() }, "store; since=0"),
        ] {
            assert_eq!(demand.to_string(), text);
            assert_eq!(text.parse(), Ok(demand));
        }
        for bad in ["", "ftp", "http;since=1", "http; since=-1", "http; heard=AWS:1:1", "http; x=1", "http; heard="] {
            assert!(bad.parse::<Demand>().is_err(), "{bad}");
        }
    }

    #[test]
    fn one_line_is_a_demand_and_two_are_a_mistake() {
        let of = |lines: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append(SHIELD_HEADER, HeaderValue::from_static(line));
            }
            Demand::of(&headers).map(|demand| demand.is_some())
        };
        assert_eq!((of(&[]), of(&["http"])), (Ok(false), Ok(true)));
        assert!(of(&["http", "http"]).is_err() && of(&["hit"]).is_err());
    }
}
