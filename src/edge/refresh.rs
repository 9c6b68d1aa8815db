//! Keeping the route table new: follows the cluster's records, probes the nodes, and swaps the table whole.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::Method;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::timeout;
use tracing::{debug, info, warn};

use super::ledger::Charges;
use super::observe::{Seen, failure};
use super::{Core, Routes, Upstream, links};
use crate::client::{ClientError, Deadlines, Peer, empty};
use crate::model::{Address, EntryKey, ImageMode, Liveness, NodeId, ObjectKey, Variant, Version};
use crate::protocol::feed::{FeedAnswer, FeedQuery, WAIT_MS_MAX};
use crate::protocol::shield::Position;
use crate::protocol::status::Pong;
use crate::protocol::{PING, PROBE};
use crate::route::{Candidate, FailureKind, RouteTable, Source, Try};

/// How often a node is probed: tries keep its time and its signs of life fresh, also while nobody is sent there.
const PROBE_PERIOD: Duration = Duration::from_secs(1);

/// How long a probe may take.
const PROBE_DEADLINE: Duration = Duration::from_secs(2);

/// A probe that teaches the rate is this large, and made when nothing else taught it for this long.
const RATE_PROBE_BYTES: u64 = 128 << 10;
const RATE_PROBE_AGE: Duration = Duration::from_secs(60);

/// The largest answer to a ping.
const PONG_BYTES_MAX: usize = 4096;

/// The table is built at most this often, however much is observed.
const REBUILD_PERIOD: Duration = Duration::from_millis(10);

/// Silence changes liveness without any event, so the table is built at least this often.
const REBUILD_PERIOD_MAX: Duration = Duration::from_millis(250);

/// How long a feed is waited for: as long as it may wait for news, and a moment.
const FEED_DEADLINES: Deadlines = Deadlines {
    connect: Duration::from_secs(2),
    first_byte: Duration::from_millis(WAIT_MS_MAX / 2 + 1_000),
    idle: Duration::from_secs(5),
};

/// How long to wait after a feed failed.
const RETRY: Duration = Duration::from_millis(500);

/// Looks after nodes and the links of clients, until the edge stops.
pub(super) fn begin(core: &Arc<Core>, tasks: &mut JoinSet<()>) {
    tasks.spawn(rebuild(core.clone()));
    tasks.spawn(follow_nodes(core.clone()));
    tasks.spawn(links::run(core.clone()));
}

/// Builds and swaps the route table whenever something was observed, until the edge stops.
async fn rebuild(core: Arc<Core>) {
    let (mut view, mut observed) = (core.view.subscribe(), core.observations.changes());
    loop {
        core.routes.store(Arc::new(build(&core)));
        tokio::select! {
            () = core.stop.cancelled() => return,
            changed = observed.changed() => if changed.is_err() { return },
            changed = view.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(REBUILD_PERIOD_MAX) => {}
        }
        tokio::time::sleep(REBUILD_PERIOD).await;
    }
}

fn build(core: &Core) -> Routes {
    let view = core.view.borrow().clone();
    let known = core.routes.load();
    let charges = Charges { tariffs: view.tariffs(), ledger: &core.ledger };
    let mut upstreams = BTreeMap::new();
    let mut candidates = Vec::with_capacity(view.nodes().len());
    for node in view.nodes().values() {
        let upstream = match known.upstreams.get(&node.id) {
            Some(upstream)
                if *upstream.peer.address() == node.address && upstream.provider.as_ref() == Some(&node.provider) =>
            {
                upstream.clone()
            }
            _ => Upstream::new(
                Peer::new(core.tls.clone(), Some(&node.id), node.address.clone(), core.config.deadlines()),
                core.config.node_requests_max,
                Some(node.provider.clone()),
            ),
        };
        upstreams.insert(node.id.clone(), upstream);
        let Seen { measurements, liveness, standing } = core.observations.of(&node.id);
        let servers = view.nodes().values().filter(|other| other.provider == node.provider).count();
        let (tariff, used) = charges.of(&node.provider, servers);
        let (node, state) = (Arc::new(node.clone()), view.state(&node.id));
        candidates.push(Candidate { node, liveness, state, tariff, used, measurements, standing });
    }
    // An edge without a cluster has its sites alone, and nobody to look for.
    let (settled, ready) =
        if core.config.seeds.is_empty() { (true, true) } else { readiness(&candidates, known.settled) };
    let seen = candidates.iter().map(|candidate| (&candidate.node.id, candidate.liveness));
    let covered_since = core.coherence.since(seen, core.started.elapsed());
    if covered_since.is_some() {
        // Before anybody believes what was kept meanwhile.
        core.has_heard_all_purges();
    }
    let resizes = candidates.iter().any(|candidate| candidate.node.images != ImageMode::Off);
    let table = RouteTable::new(&core.settings.load().config.route, candidates);
    Routes { table, upstreams, settled, ready, covered_since, resizes }
}

/// Whether the first look at all nodes is over, now or `before`, and whether there is one to send users to. A node that
/// joins later, or is lost, takes an edge out of service only if no other is left.
fn readiness(candidates: &[Candidate], before: bool) -> (bool, bool) {
    let known = |candidate: &Candidate| candidate.liveness == Liveness::Down || candidate.measurements.is_measured();
    let usable = |candidate: &Candidate| candidate.liveness != Liveness::Down && candidate.measurements.has_answered();
    let usable = candidates.iter().any(usable);
    let settled = before || usable && candidates.iter().all(known);
    (settled, settled && usable)
}

/// Keeps one follower and one prober for each node, as the view says, until the edge stops.
async fn follow_nodes(core: Arc<Core>) {
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
                core.coherence.forget(id);
                core.shields.positions.forget(id);
            }
            stays
        });
        for (id, node) in nodes {
            if followed.contains_key(&id) {
                continue;
            }
            info!(node = %id, address = %node.address, "routing to");
            let feed = Peer::new(core.tls.clone(), Some(&id), node.address.clone(), FEED_DEADLINES);
            let follower = tasks.spawn(follow(core.clone(), id.clone(), feed));
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
    let peer = |seed: &Address| Peer::new(core.tls.clone(), None, seed.clone(), core.config.deadlines());
    // Each with whether its silence was complained of.
    let mut seeds: Vec<_> = core.config.seeds.iter().map(|seed| (peer(seed), false)).collect();
    loop {
        let lost = core.view.borrow().nodes().keys().all(|id| core.observations.of(id).liveness == Liveness::Down);
        if lost {
            for (seed, complained) in &mut seeds {
                match read_records(&core, seed, &FROM_THE_BEGIN).await {
                    Ok(_) => *complained = false,
                    Err(error) if *complained => {
                        debug!(address = %seed.address(), error = &error as &dyn std::error::Error, "seed failed");
                    }
                    Err(error) => {
                        *complained = true;
                        warn!(address = %seed.address(), error = &error as &dyn std::error::Error, "a seed does not answer");
                    }
                }
            }
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// The feed of a node from its begin: its records alone, for of what was written before the edge keeps nothing.
const FROM_THE_BEGIN: FeedQuery = FeedQuery { since: 0, epoch: None, limit: None, wait_ms: 0, records: true };

/// Follows the feed of one node: first all records, then everything that it lists.
async fn follow(core: Arc<Core>, id: NodeId, peer: Peer) {
    let mut query = FROM_THE_BEGIN;
    loop {
        match read_records(&core, &peer, &query).await {
            Ok(answer) => query = follow_on(&core, &id, &query, &answer),
            Err(error) => {
                debug!(node = %id, error = &error as &dyn std::error::Error, "feed failed, will retry");
                core.coherence.fail(&id);
                core.observations.note_change();
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

/// What to ask next of the feed of `id`, where `answer` came to `asked`.
fn follow_on(core: &Core, id: &NodeId, asked: &FeedQuery, answer: &FeedAnswer) -> FeedQuery {
    // Another life of its database, or one that went back: what it had listed meanwhile nobody will tell.
    let gap = asked.epoch.is_some_and(|epoch| epoch != answer.epoch) || answer.next < asked.since;
    let next = FeedQuery { since: answer.next, epoch: Some(answer.epoch), ..asked.clone() };
    if gap && !asked.records {
        core.coherence.forget(id);
        core.shields.positions.missed(id);
        core.observations.note_change();
        return FROM_THE_BEGIN;
    }
    let position = Position { epoch: answer.epoch, sequence: answer.next };
    if asked.records {
        if answer.end {
            core.coherence.begin(id, answer.next, core.started.elapsed());
            core.shields.positions.applied(id, position);
        }
        return FeedQuery { records: !answer.end, ..next };
    }
    core.coherence.read(id, answer.next, answer.end);
    core.shields.positions.applied(id, position);
    core.observations.note_change();
    // At the end it pays to wait for news; before, the rest is there already.
    FeedQuery { wait_ms: if answer.end { WAIT_MS_MAX / 2 } else { 0 }, ..next }
}

/// Reads what `query` asks of the feed of `peer`: records change the view, objects what is kept in memory.
async fn read_records(core: &Core, peer: &Peer, query: &FeedQuery) -> Result<FeedAnswer, ClientError> {
    let answer = peer.feed(query).await?;
    // Before any of it is applied: what is asked for from then on has to be as new.
    core.shields.positions.hears(&answer.node, Position { epoch: answer.epoch, sequence: answer.next });
    for entry in &answer.entries {
        if let EntryKey::Object(key) = &entry.key {
            invalidate(core, key, &entry.version);
        }
    }
    core.news.notify_waiters();
    if answer.entries.iter().all(|entry| matches!(entry.key, EntryKey::Object(_))) {
        return Ok(answer);
    }
    core.view.send_if_modified(|view| {
        let mut next = (**view).clone();
        let mut changed = false;
        for entry in &answer.entries {
            match next.merge(entry) {
                Ok(true) => {
                    changed = true;
                    if let EntryKey::Record(key) = &entry.key
                        && let Some(purge) = next.purge(key)
                    {
                        core.purge(purge);
                    }
                }
                Ok(false) => {}
                Err(error) => warn!(%error, "a record is passed over"),
            }
        }
        if changed {
            *view = Arc::new(next);
        }
        changed
    });
    Ok(answer)
}

/// The object `key` was written or deleted: forgets it, and the answers that depend on it by the names of variants.
fn invalidate(core: &Core, key: &ObjectKey, version: &Version) {
    core.cache.invalidate(key, version);
    for variant in Variant::MADE {
        if let Some(named) = variant.key_of(key) {
            core.cache.invalidate_variant(&named, version);
        }
    }
    // The variants of the image have its version, which says nothing of this object.
    if let Some((image, _)) = Variant::named_by(key) {
        core.cache.remove_object(&image);
    }
}

/// Probes one node each second.
async fn probe(core: Arc<Core>, id: NodeId, address: Address) {
    let deadlines = Deadlines { connect: PROBE_DEADLINE, first_byte: PROBE_DEADLINE, idle: PROBE_DEADLINE };
    let peer = Peer::new(core.tls.clone(), Some(&id), address, deadlines);
    let mut ticks = tokio::time::interval(PROBE_PERIOD);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let before = core.observations.of(&id).liveness;
        let bytes = if core.observations.rate_is_older_than(&id, RATE_PROBE_AGE) { RATE_PROBE_BYTES } else { 0 };
        let start = Instant::now();
        let learn = |seen: &Try| core.observations.saw(&id, seen, Source::Probe);
        // One bound around all, for each of its steps has a deadline of its own.
        match timeout(PROBE_DEADLINE, probe_once(&peer, bytes, start, learn)).await {
            Ok(Ok(pong)) => {
                if let Some(pong) = pong {
                    core.coherence.told(&id, pong.head, core.started.elapsed());
                }
            }
            Ok(Err(error)) => {
                debug!(node = %id, error = &error as &dyn std::error::Error, "probe failed");
                learn(&failure(&error, start.elapsed()));
            }
            Err(_) => {
                debug!(node = %id, "probe took too long");
                learn(&Try::Failure { kind: FailureKind::Timeout, after: start.elapsed() });
            }
        }
        let after = core.observations.of(&id).liveness;
        if before != after {
            warn!(node = %id, %before, %after, "liveness changed");
        }
    }
}

/// Asks where the node stands, or for so many bytes, and tells `learn` what was seen.
async fn probe_once(
    peer: &Peer,
    bytes: u64,
    start: Instant,
    learn: impl Fn(&Try),
) -> Result<Option<Pong>, ClientError> {
    let path = if bytes == 0 { PING.to_owned() } else { format!("{PROBE}/{bytes}") };
    let response = peer.ask(peer.request(Method::GET, &path, empty())?).await?;
    learn(&Try::FirstByte { after: since_sent(response.body().opened(), start) });
    let begun = Instant::now();
    let mut body = peer.reader(response.into_body());
    if bytes == 0 {
        let pong = body.read_all(PONG_BYTES_MAX).await?;
        learn(&Try::Body { bytes: 0, took: begun.elapsed() });
        return Ok(serde_json::from_slice(&pong).ok());
    }
    let mut read = 0;
    while let Some(chunk) = body.chunk().await? {
        read += chunk.len() as u64;
    }
    learn(&Try::Body { bytes: read, took: begun.elapsed() });
    Ok(None)
}

/// How long the first byte took since the request could be sent: on a new connection, since that stood ready.
pub(super) fn since_sent(opened: Instant, start: Instant) -> Duration {
    opened.max(start).elapsed()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{MemberState, Node};
    use crate::route::{Measurements, Standing, measure};

    fn candidate(liveness: Liveness, seen: &[Try]) -> Candidate {
        let address: Address = "127.0.0.1:22222".parse().expect("an address");
        let node = Node {
            id: "GC".parse().expect("a name"),
            provider: "GC".parse().expect("a name"),
            address: address.clone(),
            download: address,
            images: ImageMode::Off,
        };
        let mut measurements = Measurements::default();
        for seen in seen {
            measurements.record(seen, Duration::ZERO, &measure::Config::default());
        }
        let (node, state) = (Arc::new(node), MemberState::Active);
        Candidate {
            node,
            liveness,
            state,
            tariff: None,
            used: crate::price::Usage::default(),
            measurements,
            standing: Standing::In,
        }
    }

    #[test]
    fn an_edge_that_was_ready_is_as_long_as_one_node_can_be_used() {
        let answered = [Try::FirstByte { after: Duration::from_millis(1) }];
        let failed = [Try::Failure { kind: FailureKind::Error, after: Duration::from_millis(1) }];
        let good = candidate(Liveness::Alive, &answered);
        let (new, bad) = (candidate(Liveness::Alive, &[]), candidate(Liveness::Alive, &failed));
        let (silent, lost) = (candidate(Liveness::Suspect, &answered), candidate(Liveness::Down, &answered));
        for (candidates, before, expected) in [
            (vec![], false, (false, false)),
            (vec![&new], false, (false, false)),
            (vec![&bad], false, (false, false)),
            (vec![&good, &new], false, (false, false)),
            (vec![&good, &bad, &lost], false, (true, true)),
            (vec![&good, &new], true, (true, true)),
            (vec![&silent, &lost], true, (true, true)),
            (vec![&bad, &lost], true, (true, false)),
            (vec![], true, (true, false)),
        ] {
            let candidates: Vec<_> = candidates.into_iter().cloned().collect();
            assert_eq!(readiness(&candidates, before), expected, "{before} {candidates:?}");
        }
    }
}
