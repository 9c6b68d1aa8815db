//! The other members: who they are by their records, who is alive by what this node hears.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::client::{Deadlines, Peer};
use crate::membership::Detector;
use crate::model::{Liveness, Node, NodeId, View};
use crate::protocol::status::{Pong, Server};

/// What is known of the members. All methods are short and never wait.
pub(super) struct Members {
    me: NodeId,
    tls: Arc<rustls::ClientConfig>,
    started: Instant,
    view: watch::Sender<Arc<View>>,
    arrivals: watch::Sender<u64>,
    seen: Mutex<Seen>,
}

struct Seen {
    detector: Detector,
    peers: BTreeMap<NodeId, Peer>,
    /// How far each member has read this node's feed, and how many of the entries wait for their bytes.
    followers: BTreeMap<NodeId, Follower>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Follower {
    since: Option<u64>,
    wants: u64,
}

impl Members {
    pub(super) fn new(me: NodeId, tls: Arc<rustls::ClientConfig>, detector: Detector) -> Self {
        let seen = Seen { detector, peers: BTreeMap::new(), followers: BTreeMap::new() };
        Self {
            me,
            tls,
            started: Instant::now(),
            view: watch::channel(Arc::default()).0,
            arrivals: watch::channel(0).0,
            seen: Mutex::new(seen),
        }
    }

    /// The members and prices, as they change.
    pub(super) fn view(&self) -> watch::Receiver<Arc<View>> {
        self.view.subscribe()
    }

    /// Swaps the view, and drops the connections to members that left or moved.
    pub(super) fn set_view(&self, view: View) {
        let mut seen = self.seen();
        let nodes = view.nodes();
        let now = self.started.elapsed();
        for id in nodes.keys().filter(|id| **id != self.me) {
            seen.detector.expect(id, now);
        }
        let gone: Vec<NodeId> = seen.detector.snapshot(now).into_keys().filter(|id| !nodes.contains_key(id)).collect();
        for id in &gone {
            seen.detector.forget(id);
            seen.followers.remove(id);
        }
        seen.peers.retain(|id, peer| nodes.get(id).is_some_and(|node| node.address == *peer.address()));
        drop(seen);
        self.view.send_replace(Arc::new(view));
    }

    /// The connections to the member `node`.
    pub(super) fn peer(&self, node: &Node) -> Peer {
        let open = || Peer::new(self.tls.clone(), Some(&node.id), node.address.clone(), Deadlines::default());
        let mut seen = self.seen();
        match seen.peers.get(&node.id) {
            Some(peer) if *peer.address() == node.address => peer.clone(),
            _ => {
                let peer = open();
                seen.peers.insert(node.id.clone(), peer.clone());
                peer
            }
        }
    }

    /// The members but this one.
    pub(super) fn others(&self) -> Vec<Node> {
        self.view.borrow().nodes().values().filter(|node| node.id != self.me).cloned().collect()
    }

    /// A sign of life of `id`, with where it stands if it said so.
    pub(super) fn heard(&self, id: &NodeId, pong: Option<&Pong>) {
        let mut seen = self.seen();
        seen.detector.heard(id, self.started.elapsed());
        if let Some(pong) = pong {
            seen.followers.entry(id.clone()).or_default().wants = pong.wants;
        }
    }

    /// Notes that `id` has read this node's feed up to `since`.
    pub(super) fn follows(&self, id: &NodeId, since: u64) {
        self.seen().followers.entry(id.clone()).or_default().since = Some(since);
    }

    /// Notes that a node is alive again.
    pub(super) fn arrived(&self) {
        self.arrivals.send_modify(|count| *count += 1);
    }

    /// How often a node came back, to be waited for.
    pub(super) fn arrivals(&self) -> watch::Receiver<u64> {
        self.arrivals.subscribe()
    }

    /// Whether `id` is heard of.
    pub(super) fn liveness(&self, id: &NodeId) -> Liveness {
        if *id == self.me { Liveness::Alive } else { self.seen().detector.liveness(id, self.started.elapsed()) }
    }

    /// All members as this node sees them, whose own feed ends at `head`.
    pub(super) fn servers(&self, head: u64, wants: u64) -> Vec<Server> {
        let view = self.view.borrow().clone();
        let server = |node: &Node| {
            let follower = self.seen().followers.get(&node.id).copied().unwrap_or_default();
            let behind = match follower.since {
                _ if node.id == self.me => Some(wants),
                since => since.map(|since| head.saturating_sub(since) + follower.wants),
            };
            let node = Node { download: view.download(node).clone(), ..node.clone() };
            Server { liveness: self.liveness(&node.id), node, behind }
        };
        view.nodes().values().map(server).collect()
    }

    /// How long this node has been running.
    pub(super) fn uptime(&self) -> Duration {
        self.started.elapsed()
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
