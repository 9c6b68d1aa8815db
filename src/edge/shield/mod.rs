//! Shields: of what this edge lacks it asks another edge, and that asks the origin or the nodes for all of them.
//!
//! Which one is asked for what, the rendezvous hash says: the same on all edges, so that each thing is fetched once. It is
//! asked by a way in of its own ([`door`]), over TLS with certificates of the cluster's authority, and never asks a further one.

mod asking;
mod config;
mod door;
mod positions;
mod probe;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

pub use config::{Config, ShieldError};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

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

/// The shields that this edge asks, and what it tells them.
pub(super) struct Shields {
    config: Config,
    all: Vec<Shield>,
    observations: Arc<Observations>,
    pub(super) positions: Positions,
    /// When this edge was last told of a purge that no feed tells others of.
    purged_alone: Mutex<Option<Instant>>,
    /// What others are asked for at this moment.
    running: Mutex<BTreeMap<String, usize>>,
    /// What is done to answers for other edges: nothing.
    as_they_are: Rules,
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
    /// Those of an edge that is configured so.
    pub(super) fn new(edge: &super::Config, tls: &Arc<rustls::ClientConfig>) -> Result<Self, ShieldError> {
        let config = edge.shield.clone();
        config.check()?;
        let connect = Duration::from_millis(config.answer_ms_max);
        let deadlines = Deadlines { connect, first_byte: FIRST_BYTE, idle: edge.body_stall() };
        let shield = |address: &Address| {
            let is_other = config.this.as_ref() != Some(address);
            let peer = || Peer::shield(tls.clone(), address.clone(), deadlines);
            let upstream = is_other.then(|| Upstream::new(peer(), config.requests_max));
            Shield { node: Arc::new(node(address)), upstream }
        };
        let all: Vec<_> = config.edges.iter().map(shield).collect();
        let observations = Arc::new(Observations::new(edge.route.clone(), &edge.membership));
        observations.expect(all.iter().map(|shield| &shield.node.id));
        // Of an earlier life nobody knows what was purged where no feed tells it again.
        let purged_alone = Mutex::new(edge.seeds.is_empty().then(Instant::now));
        let as_they_are = Rules::new(compress::Config { codings: Vec::new(), ..compress::Config::default() });
        let (positions, running) = (Positions::default(), Mutex::default());
        Ok(Self { config, all, observations, positions, purged_alone, running, as_they_are })
    }

    /// What is done to answers for other edges.
    pub(super) const fn as_they_are(&self) -> &Rules {
        &self.as_they_are
    }

    /// A purge is told to this edge alone: said before it is applied.
    pub(super) fn note_purge_alone(&self) {
        *self.purged_alone.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    /// What this edge demands of a shield now.
    fn demand(&self, content: Content) -> Demand {
        let since = *self.purged_alone.lock().unwrap_or_else(PoisonError::into_inner);
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

/// Until when something was purged that was told to the asker alone.
fn not_before(demand: &Demand) -> Option<SystemTime> {
    demand.since.map(|since| SystemTime::now().checked_sub(since).unwrap_or(SystemTime::UNIX_EPOCH))
}
