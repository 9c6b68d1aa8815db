//! How many durable copies an upload waits for.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::model::{NodeId, Provider};

/// The most copies that can be asked for.
const COPIES_MAX: u32 = 64;

/// How many copies an upload waits for before it is answered, the first one included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum WaitFor {
    /// So many.
    Copies(u32),
    /// More than half of the registered nodes.
    Quorum,
    /// All registered nodes.
    All,
}

/// The text says no number of copies.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no number of copies: write 1 to {COPIES_MAX}, quorum or all")]
pub struct WaitForError(String);

/// A node that holds a copy, and where it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CopyHolder<'a> {
    /// The node.
    pub id: &'a NodeId,
    /// Its provider, if the node is registered.
    pub provider: Option<&'a Provider>,
}

impl WaitFor {
    /// Whether copies at `holders` are enough in a cluster of `registered` nodes.
    pub fn is_met(self, holders: usize, registered: usize) -> bool {
        match self {
            Self::Copies(copies) => holders >= copies as usize,
            Self::Quorum => holders > registered / 2,
            Self::All => holders >= registered,
        }
    }

    /// Whether `holders` are as safe as the default of two copies asks for: two copies in two providers, or as many as
    /// the `others` that can be reached besides this node allow.
    pub fn default_is_met(holders: &[CopyHolder<'_>], others: &[CopyHolder<'_>]) -> bool {
        let providers: BTreeSet<_> = holders.iter().filter_map(|holder| holder.provider).collect();
        let elsewhere = |other: &CopyHolder<'_>| other.provider.is_some_and(|provider| !providers.contains(provider));
        let lacks = |other: &CopyHolder<'_>| !holders.iter().any(|holder| holder.id == other.id);
        if others.iter().any(|other| lacks(other) && elsewhere(other)) {
            return providers.len() >= 2;
        }
        holders.len() >= 2 || !others.iter().any(lacks)
    }
}

impl FromStr for WaitFor {
    type Err = WaitForError;

    fn from_str(text: &str) -> Result<Self, WaitForError> {
        match text {
            "quorum" => Ok(Self::Quorum),
            "all" => Ok(Self::All),
            _ => match text.parse() {
                Ok(copies) if (1..=COPIES_MAX).contains(&copies) && !text.starts_with('+') => Ok(Self::Copies(copies)),
                _ => Err(WaitForError(text.chars().take(80).collect())),
            },
        }
    }
}

impl TryFrom<String> for WaitFor {
    type Error = WaitForError;

    fn try_from(text: String) -> Result<Self, WaitForError> {
        text.parse()
    }
}

impl From<WaitFor> for String {
    fn from(wait_for: WaitFor) -> Self {
        wait_for.to_string()
    }
}

impl fmt::Display for WaitFor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Copies(copies) => write!(f, "{copies}"),
            Self::Quorum => f.pad("quorum"),
            Self::All => f.pad("all"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_is_two_copies_in_two_providers_if_there_are_two() {
        let (a, b, c): (NodeId, NodeId, NodeId) =
            ("A".parse().expect("a name"), "B".parse().expect("a name"), "C".parse().expect("a name"));
        let (aws, gc): (Provider, Provider) = ("AWS".parse().expect("a name"), "GC".parse().expect("a name"));
        let holder = |id, provider| CopyHolder { id, provider: Some(provider) };
        let (here, near, far) = (holder(&a, &aws), holder(&b, &aws), holder(&c, &gc));
        let met = WaitFor::default_is_met;
        assert!(met(&[here], &[]), "alone");
        assert!(!met(&[here], &[near]) && met(&[here, near], &[near]), "one provider");
        assert!(!met(&[here, near], &[near, far]) && met(&[here, far], &[near, far]), "two providers");
        assert!(met(&[here, near], &[near]), "the other provider is down");
    }

    #[test]
    fn copies_are_counted_with_the_first() {
        assert!(WaitFor::Copies(1).is_met(1, 3) && !WaitFor::Copies(2).is_met(1, 3));
        assert!(!WaitFor::Quorum.is_met(2, 4) && WaitFor::Quorum.is_met(3, 4) && WaitFor::Quorum.is_met(2, 3));
        assert!(!WaitFor::All.is_met(2, 3) && WaitFor::All.is_met(3, 3));
    }

    #[test]
    fn it_reads_back() {
        for good in ["1", "2", "64", "quorum", "all"] {
            assert_eq!(good.parse::<WaitFor>().map(|wait_for| wait_for.to_string()), Ok(good.to_owned()));
        }
        for bad in ["", "0", "65", "-1", "+1", "Quorum", "two"] {
            assert!(bad.parse::<WaitFor>().is_err(), "{bad}");
        }
    }
}
