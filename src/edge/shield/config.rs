//! What is configured of shields: which edges they are, and which of them this one is.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::num::NonZeroUsize;

use serde::{Deserialize, Serialize};

use super::super::site::name_of;
use crate::model::Address;

/// The edges that ask origins and nodes for all others.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Where other edges ask this one; without it this edge is nobody's shield.
    pub listen: Option<SocketAddr>,
    /// Where all shields are asked, the same list on all edges: of two spellings of an address one is another shield.
    pub edges: Vec<Address>,
    /// Which of them this edge is.
    pub this: Option<Address>,
    /// How many requests a shield is sent at a time.
    pub requests_max: NonZeroUsize,
    /// How long a shield may take to give a sign of life, a connection included.
    pub answer_ms_max: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: None,
            edges: Vec::new(),
            this: None,
            // As many as a node.
            requests_max: NonZeroUsize::new(256).expect("256 is not 0"),
            // A handshake over an ocean takes half of it.
            answer_ms_max: 1_000,
        }
    }
}

/// Shields that contradict each other, or themselves.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ShieldError {
    /// One of them is listed twice.
    #[error("edge.shield.edges lists {0} twice, or another address that reads like it")]
    Twice(Address),
    /// Which one this edge is, is not said.
    #[error("others ask this edge at edge.shield.listen: say by edge.shield.this which of edge.shield.edges it is")]
    Unnamed,
    /// It is none of them.
    #[error("edge.shield.this is {0}, which is none of edge.shield.edges")]
    NotListed(Address),
    /// It is one of them, and nobody could ask it.
    #[error("this edge is the shield {0}, and could not be asked: set edge.shield.listen")]
    Deaf(Address),
}

impl Config {
    /// Whether it makes sense.
    ///
    /// # Errors
    /// With the first thing that is wrong with it.
    pub fn check(&self) -> Result<(), ShieldError> {
        let mut names = BTreeSet::new();
        if let Some(twice) = self.edges.iter().find(|edge| !names.insert(name_of(edge))) {
            return Err(ShieldError::Twice(twice.clone()));
        }
        match (&self.this, self.listen) {
            // It asks nobody, whoever asks it.
            _ if self.edges.is_empty() => Ok(()),
            (None, None) => Ok(()),
            (None, Some(_)) => Err(ShieldError::Unnamed),
            (Some(this), _) if !self.edges.contains(this) => Err(ShieldError::NotListed(this.clone())),
            (Some(this), None) => Err(ShieldError::Deaf(this.clone())),
            (Some(_), Some(_)) => Ok(()),
        }
    }

    /// Whether there is anything to do.
    pub const fn is_used(&self) -> bool {
        !self.edges.is_empty() || self.listen.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_edge_has_to_know_which_shield_it_is() {
        let of = |text: &str| toml::from_str::<Config>(text).expect("a configuration").check();
        let edges = "edges = [\"a:1\", \"b:1\"]";
        assert_eq!(of(""), Ok(()));
        assert_eq!(of("listen = \"0.0.0.0:1\""), Ok(()));
        assert_eq!(of(edges), Ok(()));
        assert_eq!(of(&format!("{edges}\nthis = \"a:1\"\nlisten = \"0.0.0.0:1\"")), Ok(()));
        assert_eq!(of(&format!("{edges}\nlisten = \"0.0.0.0:1\"")), Err(ShieldError::Unnamed));
        let (a, c): (Address, Address) = ("a:1".parse().expect("an address"), "c:1".parse().expect("an address"));
        assert_eq!(of(&format!("{edges}\nthis = \"c:1\"\nlisten = \"0.0.0.0:1\"")), Err(ShieldError::NotListed(c)));
        assert_eq!(of(&format!("{edges}\nthis = \"a:1\"")), Err(ShieldError::Deaf(a.clone())));
        assert_eq!(of("edges = [\"a:1\", \"b:1\", \"a:1\"]"), Err(ShieldError::Twice(a)));
    }
}
