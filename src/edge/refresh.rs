//! Keeping the route table new: follows the cluster's records, probes the nodes, and swaps the table whole.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::Method;
use tokio::task::{AbortHandle, JoinSet};
use tracing::{debug, info, warn};

use super::observe::failure;
use super::{Core, Routes};
use crate::client::{ClientError, Deadlines, Opened, Peer, empty};
use crate::model::{Address, Liveness, NodeId};
use crate::protocol::feed::{FeedQuery, WAIT_MS_MAX};
use crate::protocol::{PING, PROBE};
use crate::route::{Candidate, RouteTable, Try};

/// How often a node is probed: tries keep its time and its signs of life fresh, also while nobody is sent there.
const PROBE_PERIOD: Duration = Duration::from_secs(1);

/// How long a probe may take.
const PROBE_DEADLINE: Duration = Duration::from_secs(2);

/// A probe that teaches the rate is this large, and made when nothing else taught it for this long.
const RATE_PROBE_BYTES: u64 = 128 << 10;
const RATE_PROBE_AGE: Duration = Duration::from_secs(60);

/// The table is built at most this often, however much is observed.
const REBUILD_PERIOD: Duration = Duration::from_millis(10);

/// Silence changes liveness without any event, so the table is built at least this often.
const REBUILD_PERIOD_MAX: Duration = Duration::from_millis(250);

/// How long to wait after a feed failed.
const RETRY: Duration = Duration::from_millis(500);

/// Builds and swaps the route table whenever something was observed, until the edge stops.
pub(super) async fn rebuild(core: Arc<Core>) {
    let mut view = core.view.subscribe();
    loop {
        core.routes.store(Arc::new(build(&core)));
        tokio::select! {
            () = core.stop.cancelled() => return,
            () = core.observations.changed() => {}
            changed = view.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(REBUILD_PERIOD_MAX) => {}
        }
        tokio::time::sleep(REBUILD_PERIOD).await;
    }
}

fn build(core: &Core) -> Routes {
    let view = core.view.borrow().clone();
    let known = core.routes.load();
    let mut peers = BTreeMap::new();
    let mut candidates = Vec::with_capacity(view.nodes().len());
    for node in view.nodes().values() {
        let peer = match known.peers.get(&node.id) {
            Some(peer) if *peer.address() == node.address => peer.clone(),
            _ => Peer::new(core.tls.clone(), Some(&node.id), node.address.clone(), core.deadlines()),
        };
        peers.insert(node.id.clone(), peer);
        let (measurements, liveness) = core.observations.of(&node.id);
        let tariff = view.tariffs().get(&node.provider).copied();
        candidates.push(Candidate { node: Arc::new(node.clone()), liveness, tariff, measurements });
    }
    let settled = |candidate: &Candidate| candidate.liveness == Liveness::Down || candidate.measurements.is_measured();
    let ready = candidates.iter().all(settled) && candidates.iter().any(|c| c.measurements.is_measured());
    Routes { table: RouteTable::new(&core.config.route, candidates), peers, ready }
}

/// Keeps one follower and one prober for each node, as the view says, until the edge stops.
pub(super) async fn follow_nodes(core: Arc<Core>) {
    let mut view = core.view.subscribe();
    let mut tasks = JoinSet::new();
    let mut followed: BTreeMap<NodeId, (Address, [AbortHandle; 2])> = BTreeMap::new();
    tasks.spawn(ask_seeds(core.clone()));
    loop {
        let nodes = view.borrow_and_update().nodes().clone();
        core.observations.expect(nodes.keys());
        followed.retain(|id, (address, handles)| {
            let stays = nodes.get(id).is_some_and(|node| node.address == *address);
            if !stays {
                handles.iter().for_each(AbortHandle::abort);
            }
            stays
        });
        for (id, node) in nodes {
            if followed.contains_key(&id) {
                continue;
            }
            info!(node = %id, address = %node.address, "routing to");
            let feed = Peer::new(core.tls.clone(), Some(&id), node.address.clone(), Deadlines::default());
            let follower = tasks.spawn(follow(core.clone(), feed));
            let prober = tasks.spawn(probe(core.clone(), id.clone(), node.address.clone()));
            followed.insert(id, (node.address, [follower, prober]));
        }
        tokio::select! {
            () = core.stop.cancelled() => break,
            Some(ended) = tasks.join_next() => {
                if let Err(error) = ended && error.is_panic() {
                    std::panic::resume_unwind(error.into_panic());
                }
            }
            changed = view.changed() => if changed.is_err() { break },
        }
    }
    tasks.shutdown().await;
}

/// Learns the members from the seeds at the start, and again whenever all known ones are silent: they may have moved.
async fn ask_seeds(core: Arc<Core>) {
    let seeds: Vec<_> = core
        .config
        .seeds
        .iter()
        .map(|seed| Peer::new(core.tls.clone(), None, seed.clone(), core.deadlines()))
        .collect();
    let mut complained = false;
    loop {
        let lost = core.view.borrow().nodes().keys().all(|id| core.observations.of(id).1 == Liveness::Down);
        if lost {
            for seed in &seeds {
                match read_records(&core, seed, None).await {
                    Ok(_) => complained = false,
                    Err(error) if complained => {
                        debug!(address = %seed.address(), error = &error as &dyn std::error::Error, "seed failed");
                    }
                    Err(error) => {
                        complained = true;
                        warn!(address = %seed.address(), error = &error as &dyn std::error::Error, "no seed answers yet");
                    }
                }
            }
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// Follows the records of one node.
async fn follow(core: Arc<Core>, peer: Peer) {
    let mut position = None;
    loop {
        match read_records(&core, &peer, position.as_ref()).await {
            Ok(next) => position = Some(next),
            Err(error) => {
                debug!(address = %peer.address(), error = &error as &dyn std::error::Error, "feed failed, will retry");
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

/// Reads the next records of `peer` into the view; without a position all of them, at once.
async fn read_records(core: &Core, peer: &Peer, position: Option<&FeedQuery>) -> Result<FeedQuery, ClientError> {
    let first = FeedQuery { since: 0, epoch: None, limit: None, wait_ms: 0, records: true };
    let answer = peer.feed(position.unwrap_or(&first)).await?;
    core.view.send_if_modified(|view| {
        let mut next = (**view).clone();
        let mut changed = false;
        for entry in &answer.entries {
            match next.merge(entry) {
                Ok(news) => changed |= news,
                Err(error) => warn!(%error, "a record is passed over"),
            }
        }
        if changed {
            *view = Arc::new(next);
        }
        changed
    });
    // At the end it pays to wait for news; before, the rest is there already.
    let wait_ms = if answer.end { WAIT_MS_MAX / 2 } else { 0 };
    Ok(FeedQuery { since: answer.next, epoch: Some(answer.epoch), wait_ms, ..first })
}

/// Probes one node each second.
async fn probe(core: Arc<Core>, id: NodeId, address: Address) {
    let deadlines = Deadlines { connect: PROBE_DEADLINE, first_byte: PROBE_DEADLINE, idle: PROBE_DEADLINE };
    let peer = Peer::new(core.tls.clone(), Some(&id), address, deadlines);
    let mut ticks = tokio::time::interval(PROBE_PERIOD);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let before = core.observations.of(&id).1;
        let bytes = if core.observations.rate_is_older_than(&id, RATE_PROBE_AGE) { RATE_PROBE_BYTES } else { 0 };
        let start = Instant::now();
        let outcome = match probe_once(&peer, bytes, start).await {
            Ok(outcome) => outcome,
            Err(error) => {
                debug!(node = %id, error = &error as &dyn std::error::Error, "probe failed");
                failure(&error, start.elapsed())
            }
        };
        core.observations.probed(&id, &outcome);
        let after = core.observations.of(&id).1;
        if before != after {
            warn!(node = %id, %before, %after, "liveness changed");
        }
    }
}

async fn probe_once(peer: &Peer, bytes: u64, start: Instant) -> Result<Try, ClientError> {
    let path = if bytes == 0 { PING.to_owned() } else { format!("{PROBE}/{bytes}") };
    let response = peer.ask(peer.request(Method::GET, &path, empty())?).await?;
    let first_byte = since_sent(response.extensions().get(), start);
    let begun = Instant::now();
    let mut body = peer.reader(response.into_body());
    let mut read = 0;
    while let Some(chunk) = body.chunk().await? {
        read += chunk.len() as u64;
    }
    // A ping's few bytes teach no rate.
    Ok(Try::Success { first_byte, bytes: if bytes == 0 { 0 } else { read }, transfer: begun.elapsed() })
}

/// How long the first byte took since the request could be sent: on a new connection, since that stood ready.
pub(super) fn since_sent(opened: Option<&Opened>, start: Instant) -> Duration {
    opened.map_or(start, |opened| opened.0.max(start)).elapsed()
}
