//! The other members: who they are by their records, who is alive by what this node hears.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use http::StatusCode;
use tokio::sync::watch;
use tracing::{info, warn};

use super::error::ApiError;
use super::unix_ms;
use crate::client::{Deadlines, Peer};
use crate::membership::Detector;
use crate::model::{Epoch, Liveness, MemberState, Node, NodeId, Origin, Version, VersionVector, View};
use crate::protocol::status::{Pong, Server};
use crate::replicate::{AHEAD_MAX_MS, ahead_of_peers_ms};
use crate::store::{Catalog, Progress};

/// What is known of the members. All methods are short and never wait.
pub(super) struct Members {
    me: NodeId,
    tls: Arc<rustls::ClientConfig>,
    started: Instant,
    view: watch::Sender<Arc<View>>,
    arrivals: watch::Sender<u64>,
    is_clock_wrong: AtomicBool,
    seen: Mutex<Seen>,
}

struct Seen {
    detector: Detector,
    peers: BTreeMap<NodeId, Peer>,
    /// How far each member has read this node's feed, and how many of the entries wait for their bytes.
    followers: BTreeMap<NodeId, Follower>,
}

/// What a member has said of itself.
#[derive(Debug, Clone, Default)]
struct Follower {
    since: Option<u64>,
    wants: u64,
    want_bytes: u64,
    /// The life of its database.
    epoch: Option<Epoch>,
    /// Which writes of each origin it had passed, when it last said so.
    vector: Option<VersionVector>,
    /// The latest such vector that this node itself has passed since: then it knows of every member that was known there.
    known_vector: Option<VersionVector>,
    /// The earliest such vector that it has not.
    next_vector: Option<VersionVector>,
    /// By how much its clock is ahead of this node's.
    ahead_ms: Option<i64>,
    lag: Option<Lag>,
}

/// Since when a member has not had all that this node had.
#[derive(Debug, Clone)]
struct Lag {
    /// What this node had passed at `since`.
    mark: VersionVector,
    since: Duration,
    /// When the member last had all that this node had passed at that time.
    caught_up: Duration,
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
            is_clock_wrong: AtomicBool::new(false),
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

    /// A sign of life of `id`.
    pub(super) fn heard(&self, id: &NodeId) {
        self.seen().detector.heard(id, self.started.elapsed());
    }

    /// The answer of `id` to a ping: where it stands, with a clock that is `ahead_ms` ahead of this node's, which had
    /// passed `own` by then. Says whether its database is another one than when it was last heard, if it was.
    pub(super) fn heard_pong(&self, id: &NodeId, pong: Pong, ahead_ms: Option<i64>, own: VersionVector) -> bool {
        let now = self.started.elapsed();
        let mut seen = self.seen();
        seen.detector.heard(id, now);
        let follower = seen.followers.entry(id.clone()).or_default();
        let is_another = follower.epoch != Some(pong.epoch);
        if is_another {
            *follower = Follower { since: follower.since, epoch: Some(pong.epoch), ..Follower::default() };
        }
        (follower.wants, follower.want_bytes, follower.ahead_ms) = (pong.wants, pong.want_bytes, ahead_ms);
        let Some(theirs) = pong.vector else { return is_another };
        if let Some(passed) = follower.next_vector.take_if(|next| own.covers(next)) {
            follower.known_vector = Some(passed);
        }
        if own.covers(&theirs) {
            follower.known_vector = Some(theirs.clone());
        } else {
            follower.next_vector.get_or_insert_with(|| theirs.clone());
        }
        match &mut follower.lag {
            Some(lag) if !theirs.covers(&lag.mark) => {}
            Some(lag) => *lag = Lag { mark: own, since: now, caught_up: lag.since },
            None => follower.lag = Some(Lag { mark: own, since: now, caught_up: now }),
        }
        follower.vector = Some(theirs);
        is_another
    }

    /// The members that are known to have passed the write `version`.
    pub(super) fn who_passed(&self, version: &Version) -> Vec<NodeId> {
        let passed = |follower: &Follower| follower.vector.as_ref().is_some_and(|vector| vector.has_passed(version));
        self.seen().followers.iter().filter(|(_, follower)| passed(follower)).map(|(id, _)| id.clone()).collect()
    }

    /// The databases of the other members, as far as they have said since this node started.
    pub(super) fn lives(&self) -> BTreeSet<Origin> {
        let view = self.view.borrow().clone();
        let seen = self.seen();
        let members = seen.followers.iter().filter(|(id, _)| view.nodes().contains_key(id));
        members.filter_map(|(id, follower)| Some(Origin { node: id.clone(), epoch: follower.epoch? })).collect()
    }

    /// Vectors of all other members that this node has passed itself: who reads a feed without being known there it would
    /// have heard of. `None` if there is none of a member since this node started.
    pub(super) fn vectors_of_all(&self) -> Option<Vec<VersionVector>> {
        let view = self.view.borrow().clone();
        let seen = self.seen();
        let others = view.nodes().keys().filter(|id| **id != self.me);
        others.map(|id| seen.followers.get(id).and_then(|follower| follower.known_vector.clone())).collect()
    }

    /// Whether every other member that is not down has passed all that `id` has, as far as it has said since it knows of
    /// the write `told`, and `id` itself waits for nothing.
    pub(super) fn has_handed_over(&self, id: &NodeId, told: &Version) -> bool {
        let others: Vec<_> = self.reachable().into_iter().filter(|other| other != id).collect();
        let seen = self.seen();
        let Some(leaving) = seen.followers.get(id) else { return false };
        let Some(held) = leaving.vector.as_ref().filter(|_| leaving.wants == 0) else { return false };
        if !held.has_passed(told) {
            return false;
        }
        let covers = |other: &NodeId| {
            let vector = seen.followers.get(other).and_then(|follower| follower.vector.as_ref());
            vector.is_some_and(|vector| vector.covers(held))
        };
        // This node's own vector is what the others were compared with; it is among them only if it is another one.
        seen.followers.get(id).and_then(|follower| follower.lag.as_ref()).is_some_and(|lag| lag.mark.covers(held))
            && others.iter().all(covers)
    }

    /// The other members that are not down.
    pub(super) fn reachable(&self) -> Vec<NodeId> {
        let others = self.others().into_iter().map(|node| node.id);
        others.filter(|id| self.liveness(id) != Liveness::Down).collect()
    }

    /// By how many milliseconds what this node would stamp now is ahead of the median of its peers' clocks.
    pub(super) fn clock_ahead_ms(&self, catalog: &Catalog) -> i64 {
        self.clocks(catalog).0
    }

    /// As [`Members::clock_ahead_ms`], and whose clocks those are.
    fn clocks(&self, catalog: &Catalog) -> (i64, Vec<NodeId>) {
        let now = unix_ms();
        let own = now.max(catalog.progress().borrow().clock.unix_ms());
        let reachable = self.reachable();
        let seen = self.seen();
        let ahead =
            |id: NodeId| seen.followers.get(&id).and_then(|follower| follower.ahead_ms).map(|ahead| (id, ahead));
        let (peers, ahead): (_, Vec<_>) = reachable.into_iter().filter_map(ahead).unzip();
        let clocks: Vec<_> = ahead.into_iter().map(|ahead| now.saturating_add_signed(ahead)).collect();
        (ahead_of_peers_ms(own, &clocks), peers)
    }

    /// Refuses writes while the clock is so wrong that the other nodes would not take them in.
    pub(super) fn require_clock(&self, catalog: &Catalog) -> Result<(), ApiError> {
        match self.wrong_clock(catalog) {
            Some(what) => {
                let detail = format!("{what}, so {} takes no writes meanwhile: write to another node", self.me);
                Err(ApiError::new(StatusCode::SERVICE_UNAVAILABLE, detail))
            }
            None => Ok(()),
        }
    }

    /// What is wrong with the clock, if it is so far ahead that the other nodes would not take in what it stamps.
    fn wrong_clock(&self, catalog: &Catalog) -> Option<String> {
        let (ahead_ms, peers) = self.clocks(catalog);
        if ahead_ms <= AHEAD_MAX_MS.cast_signed() {
            return None;
        }
        let (me, seconds) = (&self.me, ahead_ms / 1000);
        Some(match peers.as_slice() {
            // Of two clocks nobody can tell which one is right.
            [other] => format!(
                "the clock of node {me} is {seconds} s ahead of that of {other}, the only other node that answers: mend \
                 whichever is wrong"
            ),
            _ => format!("the clock of node {me} is {seconds} s ahead of the others': mend it"),
        })
    }

    /// Tells in the log when the clock goes wrong, and when it is right again.
    pub(super) fn watch_clock(&self, catalog: &Catalog) {
        let wrong = self.wrong_clock(catalog);
        if self.is_clock_wrong.swap(wrong.is_some(), Ordering::Relaxed) == wrong.is_some() {
            return;
        }
        match wrong {
            Some(what) => warn!("{what}; writes are refused meanwhile"),
            None => info!("the clock agrees with the others': writes are taken"),
        }
    }

    /// How far each other member has read this node's feed, as far as it has read any of it.
    pub(super) fn followed(&self) -> BTreeMap<NodeId, u64> {
        let seen = self.seen();
        seen.followers.iter().filter_map(|(id, follower)| Some((id.clone(), follower.since?))).collect()
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

    /// What an operator has said that this node is for.
    pub(super) fn state(&self) -> MemberState {
        self.view.borrow().state(&self.me)
    }

    /// All members as this node sees them, whose own catalogue stands at `progress`.
    pub(super) fn servers(&self, progress: Progress) -> Vec<Server> {
        let view = self.view.borrow().clone();
        let now = self.started.elapsed();
        let server = |node: &Node| {
            let follower = self.seen().followers.get(&node.id).cloned().unwrap_or_default();
            let is_me = node.id == self.me;
            let behind = match follower.since {
                _ if is_me => Some(progress.wants),
                since => since.map(|since| progress.head.saturating_sub(since) + follower.wants),
            };
            let node = Node { download: view.download(node).clone(), ..node.clone() };
            let (liveness, state) = (self.liveness(&node.id), view.state(&node.id));
            let behind_bytes = match is_me {
                true => Some(progress.want_bytes),
                false => follower.since.map(|_| follower.want_bytes),
            };
            let behind_seconds = follower.lag.filter(|_| behind != Some(0)).map(|lag| (now - lag.caught_up).as_secs());
            let clock_ahead_ms = follower.ahead_ms;
            Server { node, liveness, state, behind, behind_bytes, behind_seconds, clock_ahead_ms }
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
