//! Shields: of what this edge lacks it asks another edge, and that asks the origin or the nodes for all of them.
//!
//! Which one is asked for what, the rendezvous hash says: the same on all edges, so that each thing is fetched once. It is
//! asked by a way in of its own ([`door`]), over TLS with certificates of the cluster's authority, and never asks a further one.

mod asking;
mod config;
mod door;
mod positions;
mod probe;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

pub use config::{Config, ShieldError};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use xxhash_rust::xxh3::xxh3_64;

use super::coding::Rules;
use super::observe::Observations;
use super::site::name_of;
use super::{Core, Upstream};
use crate::client::{Deadlines, Peer};
use crate::compress;
use crate::model::{Address, ImageMode, Node, NodeId};
use crate::protocol::identity::Identity;
use crate::protocol::shield::{Content, Demand};
use crate::route::first_of;
pub(super) use asking::{Asked, object, site};
pub(super) use door::{Admitted, object_for_edge};
pub(super) use positions::Positions;

/// How long a shield may take that has given a sign of life: whoever waits has a deadline of his own, which is shorter.
const FIRST_BYTE: Duration = Duration::from_secs(600);

/// How many things that writes have changed are told apart: of more, all that there is may be one.
const CHANGED_MAX: usize = 16_384;

/// The shields that this edge asks, and what it tells them.
pub(super) struct Shields {
    config: Config,
    all: Vec<Shield>,
    observations: Arc<Observations>,
    pub(super) positions: Positions,
    forgotten: Mutex<Forgotten>,
    /// What others are asked for at this moment.
    running: Mutex<BTreeMap<String, usize>>,
    /// What is done to answers for other edges: nothing.
    as_they_are: Rules,
}

/// What this edge has forgotten, and no feed tells others of.
#[derive(Debug)]
struct Forgotten {
    /// Since when anything may have been.
    any: Option<Instant>,
    /// By the hashes of their URIs, since when others were: what writes have changed.
    changed: HashMap<u64, Instant>,
}

impl Forgotten {
    fn all(&mut self) {
        self.any = Some(Instant::now());
        self.changed.clear();
    }

    fn one(&mut self, uri: &str) {
        if self.changed.len() >= CHANGED_MAX {
            return self.all();
        }
        self.changed.insert(xxh3_64(uri.as_bytes()), Instant::now());
    }

    /// When `uri` was, or may have been.
    fn when(&self, uri: &str) -> Option<Instant> {
        self.changed.get(&xxh3_64(uri.as_bytes())).copied().max(self.any)
    }
}

/// A question that runs.
struct Running<'s> {
    shields: &'s Shields,
    key: String,
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        let mut running = self.shields.running.lock().unwrap_or_else(PoisonError::into_inner);
        match running.get_mut(&self.key) {
            Some(count @ 2..) => *count -= 1,
            _ => _ = running.remove(&self.key),
        }
    }
}

/// An edge that is asked.
struct Shield {
    node: Arc<Node>,
    /// `None` of this edge itself.
    upstream: Option<Upstream>,
}

impl Shields {
    /// Those of an edge that is configured so, which may have been told of purges alone until `purged_alone`.
    pub(super) fn new(
        edge: &super::Config,
        tls: &Arc<rustls::ClientConfig>,
        purged_alone: Option<SystemTime>,
    ) -> Result<Self, ShieldError> {
        let config = edge.shield.clone();
        config.check()?;
        let connect = Duration::from_millis(config.answer_ms_max);
        let deadlines = Deadlines { connect, first_byte: FIRST_BYTE, idle: edge.body_stall() };
        let shield = |address: &Address| {
            let is_other = config.this.as_ref() != Some(address);
            let peer = || Peer::shield(tls.clone(), address.clone(), deadlines);
            let upstream = is_other.then(|| Upstream::new(peer(), config.requests_max, None));
            Shield { node: Arc::new(node(address)), upstream }
        };
        let all: Vec<_> = config.edges.iter().map(shield).collect();
        let observations = Arc::new(Observations::new(edge.route.clone(), &edge.membership));
        observations.expect(all.iter().map(|shield| &shield.node.id));
        let any = purged_alone.map(|at| {
            // By a clock that went back it is yet to come.
            let since = SystemTime::now().duration_since(at).unwrap_or_default();
            Instant::now().checked_sub(since).unwrap_or_else(Instant::now)
        });
        let forgotten = Mutex::new(Forgotten { any, changed: HashMap::new() });
        let as_they_are = Rules::new(compress::Config { codings: Vec::new(), ..compress::Config::default() });
        let (positions, running) = (Positions::default(), Mutex::default());
        Ok(Self { config, all, observations, positions, forgotten, running, as_they_are })
    }

    /// What is done to answers for other edges.
    pub(super) const fn as_they_are(&self) -> &Rules {
        &self.as_they_are
    }

    /// A purge is told to this edge alone: said before it is applied.
    pub(super) fn note_purge_alone(&self) {
        self.forgotten().all();
    }

    /// A write has changed what is at `uri`: said before it is forgotten.
    pub(super) fn note_change(&self, uri: &str) {
        if !self.all.is_empty() {
            self.forgotten().one(uri);
        }
    }

    fn forgotten(&self) -> MutexGuard<'_, Forgotten> {
        self.forgotten.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What this edge demands now of the shield for `uri`.
    fn demand(&self, content: Content, uri: &str) -> Demand {
        let since = self.forgotten().when(uri);
        Demand { content, since: since.map(|at| at.elapsed()), heard: self.positions.heard() }
    }

    /// Another edge is asked for `key`, until what this returns is dropped.
    fn begin(&self, key: &str) -> Running<'_> {
        *self.running.lock().unwrap_or_else(PoisonError::into_inner).entry(key.to_owned()).or_default() += 1;
        Running { shields: self, key: key.to_owned() }
    }

    /// Whether another edge is asked for `key` at this moment: one that waited for its answer here would wait in a circle, if
    /// that is asked which asks.
    fn is_asking(&self, key: &str) -> bool {
        self.running.lock().unwrap_or_else(PoisonError::into_inner).contains_key(key)
    }

    /// The shield for `key`, unless that is this edge itself, or none can be asked; those in `except` cannot.
    fn choose(&self, key: &str, except: &[NodeId]) -> Option<(&Shield, &Upstream)> {
        if self.all.is_empty() {
            return None;
        }
        let candidates = self.all.iter().map(|shield| {
            let id = &shield.node.id;
            (shield, id.as_str(), self.observations.of(id).standing)
        });
        let chosen = first_of(key, candidates)?;
        let upstream = chosen.upstream.as_ref().filter(|_| !except.contains(&chosen.node.id))?;
        Some((chosen, upstream))
    }
}

/// From now on this edge answers others at `listener`, if it is a shield, and looks after its own.
pub(super) fn begin(
    core: &Arc<Core>,
    listener: Option<TcpListener>,
    identity: Option<&Identity>,
    tasks: &mut JoinSet<()>,
) {
    if let (Some(listener), Some(identity)) = (listener, identity) {
        tasks.spawn(door::Door::new(listener, identity).serve(core.clone()));
    }
    if core.shields.all.iter().any(|shield| shield.upstream.is_some()) {
        tasks.spawn(probe::run(core.clone()));
    }
}

/// What an edge is to routes.
fn node(address: &Address) -> Node {
    Node {
        id: name_of(address),
        provider: "unknown".parse().expect("a name"),
        address: address.clone(),
        download: address.clone(),
        images: ImageMode::Off,
    }
}

/// Until when the asker has forgotten something that nobody else was told of.
fn not_before(demand: &Demand) -> Option<SystemTime> {
    demand.since.map(|since| SystemTime::now().checked_sub(since).unwrap_or(SystemTime::UNIX_EPOCH))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_forgotten_is_bounded_and_nothing_is_lost() {
        let mut forgotten = Forgotten { any: None, changed: HashMap::new() };
        forgotten.one("http://a/");
        assert!(forgotten.when("http://a/").is_some() && forgotten.when("http://b/").is_none());
        for number in 0..CHANGED_MAX {
            forgotten.one(&format!("http://a/{number}"));
        }
        assert!(forgotten.changed.len() <= CHANGED_MAX && forgotten.when("http://b/").is_some());
        let before = forgotten.when("http://a/");
        forgotten.one("http://a/");
        assert!(forgotten.when("http://a/") > before && forgotten.when("http://b/") == before);
    }
}
