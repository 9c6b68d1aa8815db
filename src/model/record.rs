//! Records: the cluster's own small facts, which travel in the same feed as objects.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{Address, ContentHash, MemberState, Node, NodeId, Provider, Purge, RESERVED_PREFIX, Tariff};

const DOWNLOADS: &str = "downloads";
const NODES: &str = "nodes";
const PRICES: &str = "prices";
const PURGES: &str = "purges";
const STATES: &str = "states";

/// The longest name of a record, in bytes.
const LENGTH_MAX: usize = 256;

/// The name of a record: `.metacdn/KIND/NAME`. Kinds that this version does not know are carried unread, so that
/// nodes of two versions can share a cluster.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RecordKey(String);

/// Why a text or a value is not a record.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// Not a record's name.
    #[error("{0:?} is not the name of a record ({RESERVED_PREFIX}KIND/NAME)")]
    Name(String),
    /// The value does not read as its kind says.
    #[error("the record {key} does not read: {reason}")]
    Value {
        /// Which record.
        key: RecordKey,
        /// What is wrong with it.
        reason: String,
    },
}

impl RecordKey {
    /// The record of a node.
    pub fn node(id: &NodeId) -> Self {
        Self(format!("{RESERVED_PREFIX}{NODES}/{id}"))
    }

    /// The record of where a node's downloads are to be listed, which an operator has set.
    pub fn download(id: &NodeId) -> Self {
        Self(format!("{RESERVED_PREFIX}{DOWNLOADS}/{id}"))
    }

    /// The record of a provider's prices.
    pub fn price(provider: &Provider) -> Self {
        Self(format!("{RESERVED_PREFIX}{PRICES}/{provider}"))
    }

    /// The record of a purge: the same purge again is a newer version of the same record.
    pub fn purge(purge: &Purge) -> Self {
        Self(format!("{RESERVED_PREFIX}{PURGES}/{}", ContentHash::of(purge.to_string().as_bytes())))
    }

    /// The names of the records of nodes, and no others.
    pub fn of_nodes() -> std::ops::Range<String> {
        // The character after the slash is the digit 0.
        format!("{RESERVED_PREFIX}{NODES}/")..format!("{RESERVED_PREFIX}{NODES}0")
    }

    /// The record of what a node is for, which an operator has set.
    pub fn state(id: &NodeId) -> Self {
        Self(format!("{RESERVED_PREFIX}{STATES}/{id}"))
    }

    /// Whether it is the record of a node.
    pub fn is_node(&self) -> bool {
        self.parts().0 == NODES
    }

    /// Whether it says something of a member: who it is, where it is, what it is for.
    pub fn is_of_member(&self) -> bool {
        [NODES, DOWNLOADS, STATES].contains(&self.parts().0)
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name without its kind: whom or what it is about.
    pub fn name(&self) -> &str {
        self.parts().1
    }

    fn parts(&self) -> (&str, &str) {
        self.0.strip_prefix(RESERVED_PREFIX).and_then(|rest| rest.split_once('/')).unwrap_or_default()
    }
}

impl FromStr for RecordKey {
    type Err = RecordError;

    fn from_str(text: &str) -> Result<Self, RecordError> {
        let key = Self(text.to_owned());
        let (kind, name) = key.parts();
        let plain = text.bytes().all(|b| b.is_ascii_graphic());
        if kind.is_empty() || name.is_empty() || text.len() > LENGTH_MAX || !plain {
            return Err(RecordError::Name(text.chars().take(80).collect()));
        }
        Ok(key)
    }
}

impl TryFrom<String> for RecordKey {
    type Error = RecordError;

    fn try_from(text: String) -> Result<Self, RecordError> {
        text.parse()
    }
}

impl From<RecordKey> for String {
    fn from(key: RecordKey) -> Self {
        key.0
    }
}

impl fmt::Display for RecordKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A record that this version understands. `None` inside means that it was removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record {
    /// A member of the cluster.
    Node(NodeId, Option<Node>),
    /// Where a member's downloads are listed, whatever the member says of itself.
    Download(NodeId, Option<Address>),
    /// What a provider charges.
    Price(Provider, Option<Tariff>),
    /// What a member is for; everything, without it.
    State(NodeId, Option<MemberState>),
    /// What caches are to forget of all that they fetched before they heard of it. Removed, it is no longer told to those who
    /// come.
    Purge(Option<Purge>),
}

impl Record {
    /// Reads the value `json` of the record `key`; `None` for a removed one. Answers `None` for a kind that this
    /// version does not know.
    ///
    /// # Errors
    /// When the name or value does not fit the kind.
    pub fn read(key: &RecordKey, json: Option<&str>) -> Result<Option<Self>, RecordError> {
        let error = |reason: String| RecordError::Value { key: key.clone(), reason };
        let (kind, name) = key.parts();
        match kind {
            NODES => {
                let id: NodeId = name.parse().map_err(|e| error(format!("{e}")))?;
                let node: Option<Node> = parse(json).map_err(error)?;
                if node.as_ref().is_some_and(|node| node.id != id) {
                    return Err(error("it describes another node".to_owned()));
                }
                Ok(Some(Self::Node(id, node)))
            }
            DOWNLOADS => {
                let id: NodeId = name.parse().map_err(|e| error(format!("{e}")))?;
                Ok(Some(Self::Download(id, parse(json).map_err(error)?)))
            }
            PRICES => {
                let provider: Provider = name.parse().map_err(|e| error(format!("{e}")))?;
                Ok(Some(Self::Price(provider, parse(json).map_err(error)?)))
            }
            PURGES => Ok(Some(Self::Purge(parse(json).map_err(error)?))),
            STATES => {
                let id: NodeId = name.parse().map_err(|e| error(format!("{e}")))?;
                Ok(Some(Self::State(id, parse(json).map_err(error)?)))
            }
            _ => Ok(None),
        }
    }
}

fn parse<T: for<'de> Deserialize<'de>>(json: Option<&str>) -> Result<Option<T>, String> {
    json.map(|json| serde_json::from_str(json).map_err(|e| e.to_string())).transpose()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_a_kind_and_a_name() {
        assert!(".metacdn/prices/AWS".parse::<RecordKey>().is_ok());
        for bad in ["", "a/b/c", ".metacdn/", ".metacdn/prices", ".metacdn/prices/", ".metacdn//a", ".metacdn/a/b c"] {
            assert!(bad.parse::<RecordKey>().is_err(), "{bad}");
        }
    }

    #[test]
    fn an_unknown_kind_is_carried_and_a_wrong_value_refused() {
        let key = |text: &str| text.parse::<RecordKey>().expect("a record's name");
        assert_eq!(Record::read(&key(".metacdn/future/x"), Some("{}")), Ok(None));
        assert!(Record::read(&key(".metacdn/prices/AWS"), Some("[")).is_err());
        let node = r#"{"id":"GC","provider":"GC","address":"h:1","download":"h:2"}"#;
        assert!(Record::read(&key(".metacdn/nodes/GC"), Some(node)).is_ok());
        assert!(Record::read(&key(".metacdn/nodes/AWS"), Some(node)).is_err());
    }
}
