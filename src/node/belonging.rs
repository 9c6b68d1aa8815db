//! Whether this node belongs to a cluster. A node that is to join one takes no writes of clients before a member has written
//! it down: until then the cluster does not wait for it, and may forget deletions of which it never heard.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use http::StatusCode;
use http::header::{HeaderValue, RETRY_AFTER};

use super::Core;
use super::announce::AnnounceError;
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
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    belongs: bool,
    founded: bool,
    /// What was heard last of each seed.
    seeds: BTreeMap<Address, Heard>,
}

#[derive(Debug)]
enum Heard {
    /// It waits for a cluster, too.
    Newcomer(Newcomer),
    /// It did not answer, or refused.
    Failure(String),
}

impl Belonging {
    /// Of the node `me`, which has the addresses `own` and is to join by `seeds`. Who is told of no other node founds a
    /// cluster.
    pub(super) fn new(me: NodeId, own: &[Address], seeds: &[Address]) -> Self {
        let seeds: BTreeSet<_> = seeds.iter().filter(|seed| !own.contains(seed)).cloned().collect();
        Self { me, seeds, state: Mutex::default() }
    }

    /// The addresses of other nodes that it is to join by.
    pub(super) const fn seeds(&self) -> &BTreeSet<Address> {
        &self.seeds
    }

    /// Whether it founds a cluster, or has founded one.
    pub(super) fn founds(&self) -> bool {
        self.seeds.is_empty() || self.state().founded
    }

    /// Whether it belongs to a cluster.
    pub(super) fn belongs(&self) -> bool {
        self.state().belongs
    }

    /// It belongs to a cluster, which it `founded` or which has welcomed it; so it is noted in its catalogue.
    pub(super) fn belong(&self, founded: bool) {
        let mut state = self.state();
        state.belongs = true;
        state.founded |= founded;
    }

    /// The node at `address` has written this one down, and is a `newcomer` as well. Answers whether there is a cluster now:
    /// nodes that name only each other as seeds found one together once all of them have met.
    pub(super) fn met(&self, address: &Address, newcomer: Newcomer) -> bool {
        if !self.seeds.contains(address) {
            return false;
        }
        let mut state = self.state();
        state.seeds.insert(address.clone(), Heard::Newcomer(newcomer));
        let newcomers = newcomers(&state);
        let seeds: Vec<_> = newcomers.iter().map(|newcomer| (&newcomer.id, newcomer.seeds.as_ref())).collect();
        seeds.len() == self.seeds.len() && have_met(&self.me, &seeds)
    }

    /// The seed at `address` could not be asked, or refused: what it said before may not be so any more.
    pub(super) fn failed(&self, address: &Address, error: &AnnounceError) {
        if self.seeds.contains(address) {
            let why = match error {
                AnnounceError::Peer(cause) => cause.to_string(),
                AnnounceError::Store(_) | AnnounceError::Unsound(_) => error.to_string(),
            };
            self.state().seeds.insert(address.clone(), Heard::Failure(why));
        }
    }

    /// What this node says of itself to one that it writes down, while it belongs to no cluster.
    pub(super) fn newcomer(&self) -> Option<Newcomer> {
        let state = self.state();
        if state.belongs {
            return None;
        }
        let newcomers = newcomers(&state);
        let ids = || newcomers.iter().map(|newcomer| newcomer.id.clone()).filter(|id| *id != self.me).collect();
        let seeds = (newcomers.len() == self.seeds.len()).then(ids);
        Some(Newcomer { id: self.me.clone(), seeds })
    }

    /// For whom it waits, in words.
    pub(super) fn waits_for(&self) -> String {
        let state = self.state();
        let told = |seed: &Address| match state.seeds.get(seed) {
            Some(Heard::Newcomer(Newcomer { id, .. })) if *id == self.me => {
                format!("{seed} (which is {id} itself: name another node)")
            }
            Some(Heard::Newcomer(Newcomer { id, .. })) => format!("{seed} (node {id}, which waits as well)"),
            Some(Heard::Failure(why)) => format!("{seed} ({why})"),
            None => format!("{seed} (no answer yet)"),
        };
        self.seeds.iter().map(told).collect::<Vec<_>>().join(", ")
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The seeds that wait for a cluster, too.
fn newcomers(state: &State) -> Vec<&Newcomer> {
    let heard = state.seeds.values();
    heard.filter_map(|heard| if let Heard::Newcomer(newcomer) = heard { Some(newcomer) } else { None }).collect()
}

/// As [`require_welcomed`], of whoever asks: where the others are is not for everybody.
pub(super) fn require_welcomed_tersely(core: &Core) -> Result<(), ApiError> {
    if core.belonging.belongs() { Ok(()) } else { Err(refusal("its log says for whom it waits")) }
}

/// Refuses a client's write while no cluster has welcomed this node, and says for whom it waits.
pub(super) fn require_welcomed(core: &Core) -> Result<(), ApiError> {
    if core.belonging.belongs() {
        return Ok(());
    }
    let seeds = core.belonging.waits_for();
    Err(refusal(&format!("it asks its seeds {seeds}; take out of `seeds` those that are gone for good")))
}

fn refusal(why: &str) -> ApiError {
    let detail = format!("the node takes no writes before a node of the cluster has welcomed it: {why}");
    let error = ApiError::new(StatusCode::SERVICE_UNAVAILABLE, detail);
    error.with_header(RETRY_AFTER, HeaderValue::from_static(RETRY_AFTER_SECONDS))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(name: &str) -> Address {
        format!("{name}.example:22222").parse().expect("an address")
    }

    fn node(name: &str, seeds: &[&str]) -> Belonging {
        let seeds: Vec<_> = seeds.iter().map(|seed| address(seed)).collect();
        Belonging::new(name.parse().expect("a name"), &[address(name)], &seeds)
    }

    /// Each asks all its seeds once.
    fn round(nodes: &[(&str, Belonging)]) {
        for (_, asker) in nodes {
            for seed in asker.seeds.clone() {
                let Some((_, asked)) = nodes.iter().find(|(name, _)| address(name) == seed) else { continue };
                match asked.newcomer() {
                    None => asker.belong(false),
                    Some(newcomer) => {
                        if asker.met(&seed, newcomer) {
                            asker.belong(true);
                        }
                    }
                }
            }
        }
    }

    fn all_belong(nodes: &[(&str, Belonging)]) -> bool {
        nodes.iter().all(|(_, node)| node.belongs())
    }

    #[test]
    fn who_founds_a_cluster_welcomes_others_and_they_still_others() {
        let nodes = [("a", node("a", &["a"])), ("b", node("b", &["a"])), ("c", node("c", &["b"]))];
        assert!(nodes[0].1.founds() && !nodes[1].1.founds());
        nodes[0].1.belong(true);
        round(&nodes);
        assert!(all_belong(&nodes) && !nodes[2].1.founds());
    }

    #[test]
    fn nodes_that_name_each_other_begin_when_all_have_met() {
        let nodes = [("a", node("a", &["b", "c"])), ("b", node("b", &["a", "c"])), ("c", node("c", &["a", "b", "c"]))];
        round(&nodes[..2]);
        round(&nodes[..2]);
        assert!(nodes.iter().all(|(_, node)| !node.belongs()), "two of three could be the rest of a cluster");
        round(&nodes);
        round(&nodes);
        assert!(all_belong(&nodes) && nodes.iter().any(|(_, node)| node.founds()));
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
        for _ in 0..3 {
            round(&nodes);
        }
        assert!(all_belong(&nodes));
    }

    #[test]
    fn who_finds_but_itself_waits() {
        let (alone, service) = (node("a", &["service"]), address("service"));
        assert!(!alone.met(&service, alone.newcomer().unwrap()));
        assert!(!alone.met(&service, alone.newcomer().unwrap()), "others may be behind that address");
        assert!(alone.waits_for().contains("service.example:22222 (which is a itself"), "{}", alone.waits_for());
    }

    #[test]
    fn what_a_seed_said_before_it_was_lost_counts_no_more() {
        let nodes = [("a", node("a", &["b", "c"])), ("b", node("b", &["a"])), ("c", node("c", &["a"]))];
        round(&nodes[..2]);
        nodes[0].1.failed(&address("b"), &AnnounceError::Store(crate::store::StoreError::Full));
        round(&nodes[2..]);
        let newcomer = nodes[2].1.newcomer().unwrap();
        assert!(!nodes[0].1.met(&address("c"), newcomer), "b may have found a cluster meanwhile");
    }
}
