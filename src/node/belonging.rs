//! Whether this node belongs to a cluster. A node that is to join one takes no writes of clients before a member has written
//! it down: until then the cluster does not wait for it, and may forget deletions of which it never heard.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use http::StatusCode;
use http::header::{HeaderValue, RETRY_AFTER};
use tracing::info;

use super::Core;
use super::error::ApiError;
use crate::model::{Address, NodeId};
use crate::protocol::feed::Newcomer;
use crate::replicate::have_met;

/// After how many seconds a client may ask again: seeds are asked at least every five.
const RETRY_AFTER_SECONDS: &str = "5";

/// Whether this node belongs to a cluster, and what its seeds say that do not belong to one either.
#[derive(Debug)]
pub(super) struct Belonging {
    me: NodeId,
    /// The addresses that it is to join by; none if it founds a cluster.
    seeds: BTreeSet<Address>,
    said: Mutex<Said>,
}

#[derive(Debug, Default)]
struct Said {
    belongs: bool,
    newcomers: BTreeMap<Address, Newcomer>,
}

impl Belonging {
    /// Of the node `me`, which listens at `address` and is to join by `seeds`. Who is told of no other node founds a cluster.
    pub(super) fn new(me: NodeId, address: &Address, seeds: &[Address]) -> Self {
        let seeds: BTreeSet<_> = seeds.iter().filter(|seed| *seed != address).cloned().collect();
        let said = Said { belongs: seeds.is_empty(), newcomers: BTreeMap::new() };
        Self { me, seeds, said: Mutex::new(said) }
    }

    /// Whether it founds a cluster.
    pub(super) fn founds(&self) -> bool {
        self.seeds.is_empty()
    }

    /// Whether it belongs to a cluster.
    pub(super) fn belongs(&self) -> bool {
        self.said().belongs
    }

    /// It does: it did before this start.
    pub(super) fn belong(&self) {
        self.said().belongs = true;
    }

    /// The node at `address` has written this one down, and belongs to a cluster or is a `newcomer` as well.
    ///
    /// Nodes that name only each other as seeds found a cluster together once all of them have met.
    pub(super) fn welcomed(&self, address: &Address, newcomer: Option<Newcomer>) {
        let mut said = self.said();
        let Some(newcomer) = newcomer else {
            said.belongs = true;
            return;
        };
        if !said.belongs && self.seeds.contains(address) {
            said.newcomers.insert(address.clone(), newcomer);
            let seeds: Vec<_> = said.newcomers.values().map(|one| (&one.id, one.seeds.as_ref())).collect();
            if self.all_answered(&said) && have_met(&self.me, &seeds) {
                info!(nodes = said.newcomers.len() + 1, "all nodes that are to be a cluster have met: it begins");
                said.belongs = true;
            }
        }
    }

    /// What this node says of itself to one that it writes down.
    pub(super) fn newcomer(&self) -> Option<Newcomer> {
        let said = self.said();
        let ids = || said.newcomers.values().map(|newcomer| newcomer.id.clone()).filter(|id| *id != self.me).collect();
        let seeds = self.all_answered(&said).then(ids);
        (!said.belongs).then(|| Newcomer { id: self.me.clone(), seeds })
    }

    fn all_answered(&self, said: &Said) -> bool {
        said.newcomers.len() == self.seeds.len()
    }

    /// For whom it waits, in words.
    fn waits_for(&self) -> String {
        let said = self.said();
        let told = |seed: &Address| match said.newcomers.get(seed) {
            Some(Newcomer { id, .. }) => format!("{seed} (node {id}, which waits as well)"),
            None => format!("{seed} (no answer yet)"),
        };
        self.seeds.iter().map(told).collect::<Vec<_>>().join(", ")
    }

    fn said(&self) -> MutexGuard<'_, Said> {
        self.said.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Refuses a client's write while no cluster has welcomed this node.
pub(super) fn require_welcomed(core: &Core) -> Result<(), ApiError> {
    if core.belonging.belongs() {
        return Ok(());
    }
    let (me, seeds) = (&core.me.id, core.belonging.waits_for());
    let detail =
        format!("node {me} takes no writes before a node of the cluster has welcomed it: it asks its seeds {seeds}");
    let error = ApiError::new(StatusCode::SERVICE_UNAVAILABLE, detail);
    Err(error.with_header(RETRY_AFTER, HeaderValue::from_static(RETRY_AFTER_SECONDS)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(name: &str) -> Address {
        format!("{name}.example:22222").parse().expect("an address")
    }

    fn node(name: &str, seeds: &[&str]) -> Belonging {
        let seeds: Vec<_> = seeds.iter().map(|seed| address(seed)).collect();
        Belonging::new(name.parse().expect("a name"), &address(name), &seeds)
    }

    /// Each asks all its seeds once.
    fn round(nodes: &[(&str, Belonging)]) {
        for (_, asker) in nodes {
            for seed in asker.seeds.clone() {
                let answer = nodes.iter().find(|(name, _)| address(name) == seed).map(|(_, node)| node.newcomer());
                if let Some(newcomer) = answer {
                    asker.welcomed(&seed, newcomer);
                }
            }
        }
    }

    #[test]
    fn who_founds_a_cluster_welcomes_others_and_they_still_others() {
        let nodes = [("a", node("a", &["a"])), ("b", node("b", &["a"])), ("c", node("c", &["b"]))];
        assert!(nodes[0].1.founds() && nodes[0].1.belongs() && !nodes[1].1.belongs());
        round(&nodes);
        assert!(nodes.iter().all(|(_, node)| node.belongs()));
    }

    #[test]
    fn nodes_that_name_each_other_begin_when_all_have_met() {
        let nodes = [("a", node("a", &["b", "c"])), ("b", node("b", &["a", "c"])), ("c", node("c", &["a", "b", "c"]))];
        round(&nodes[..2]);
        round(&nodes[..2]);
        assert!(nodes.iter().all(|(_, node)| !node.belongs()), "two of three could be the rest of a cluster");
        round(&nodes);
        round(&nodes);
        assert!(nodes.iter().all(|(_, node)| node.belongs()));
    }

    #[test]
    fn who_waits_for_one_that_nobody_reaches_does_not_begin() {
        let nodes = [("b", node("b", &["a"])), ("c", node("c", &["b"])), ("d", node("d", &["b", "c"]))];
        for _ in 0..4 {
            round(&nodes);
        }
        assert!(nodes.iter().all(|(_, node)| !node.belongs()), "a may live with a cluster of its own");
        assert!(nodes[2].1.waits_for().contains("b.example:22222 (node b, which waits as well)"));
    }

    #[test]
    fn a_chain_that_ends_in_two_who_name_each_other_begins() {
        let nodes = [("a", node("a", &["b"])), ("b", node("b", &["a"])), ("c", node("c", &["b"]))];
        round(&nodes);
        round(&nodes);
        round(&nodes);
        assert!(nodes.iter().all(|(_, node)| node.belongs()));
    }
}
