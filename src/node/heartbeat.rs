//! Pinging the other nodes: who is alive, how far each has come, what its clock shows.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use tracing::{debug, error, warn};

use super::announce::announce;
use super::bytes::off_runtime;
use super::{Core, NodeError, unix_ms};
use crate::client::{Deadlines, Peer};
use crate::model::{Address, Liveness, NodeId, VersionVector};
use crate::protocol::status::Pong;
use crate::store::mark_as_went_back;

/// How often each peer is pinged. A third of the silence that makes a node suspect.
const PERIOD: Duration = Duration::from_secs(1);

/// How long a ping may take. A peer that needs longer is as good as silent.
const DEADLINE: Duration = Duration::from_secs(2);

/// Pings one peer each second and notes its answers.
pub(super) async fn run(core: Arc<Core>, id: NodeId, address: Address) {
    let peer = peer(&core, &id, address);
    let mut ticks = tokio::time::interval(PERIOD);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut before = core.members.liveness(&id);
    loop {
        ticks.tick().await;
        if let Err(error) = ping(&core, &id, &peer).await {
            return core.fail(error);
        }
        let after = core.members.liveness(&id);
        if before != after {
            warn!(peer = %id, %before, %after, "liveness changed");
            if after == Liveness::Alive {
                core.members.arrived();
            }
            before = after;
        }
    }
}

/// Pings all members that are known, once, before this node takes anything in: one of them may know that its database
/// went back, or that its clock is wrong.
pub(super) async fn look_around(core: &Arc<Core>) -> Result<(), NodeError> {
    let looks = core.members.others().into_iter().map(async |node| {
        let peer = peer(core, &node.id, node.address);
        ping(core, &node.id, &peer).await
    });
    join_all(looks).await.into_iter().collect()
}

// Connections of its own: a ping must not wait behind the transfer of a large object.
fn peer(core: &Core, id: &NodeId, address: Address) -> Peer {
    let deadlines = Deadlines { connect: DEADLINE, first_byte: DEADLINE, idle: DEADLINE };
    Peer::new(core.tls.clone(), Some(id), address, deadlines)
}

async fn ping(core: &Arc<Core>, id: &NodeId, peer: &Peer) -> Result<(), NodeError> {
    let sent = Instant::now();
    let pong = match tokio::time::timeout(DEADLINE, peer.ping_for_vector()).await {
        Ok(Ok(pong)) => pong,
        Ok(Err(error)) => {
            debug!(peer = %id, error = &error as &dyn std::error::Error, "ping failed");
            return Ok(());
        }
        Err(_) => {
            debug!(peer = %id, "ping took too long");
            return Ok(());
        }
    };
    // The peer read its clock about half a round trip ago.
    let half = u64::try_from(sent.elapsed().as_millis() / 2).unwrap_or(0);
    let ahead_ms = pong.now_unix_ms.map(|theirs| theirs.saturating_add(half).cast_signed() - unix_ms().cast_signed());
    let catalog = core.catalog.clone();
    let own = match off_runtime(move || catalog.vector()).await {
        Ok(own) => own,
        Err(error) => {
            warn!(error = &error as &dyn std::error::Error, "the own version vector cannot be read");
            return Ok(());
        }
    };
    if has_passed_what_was_never_written(core, &own, &pong) {
        return went_back(core, id).await;
    }
    core.acknowledged.heard(id, &pong);
    let is_another = core.members.heard_pong(id, pong, ahead_ms, own);
    core.members.watch_clock(&core.catalog);
    // It may have lost what it knew of the members, or have joined when this node was away; or be welcome itself by now.
    if (is_another || !core.belonging.belongs())
        && let Err(error) = announce(core, peer).await
    {
        debug!(peer = %id, error = &error as &dyn std::error::Error, "the announcement failed, the feed will tell");
    }
    Ok(())
}

/// Whether the peer knows of writes of this very database that are not in it: then it went back in time.
fn has_passed_what_was_never_written(core: &Core, own: &VersionVector, pong: &Pong) -> bool {
    let origin = core.catalog.origin();
    pong.vector.as_ref().is_some_and(|theirs| theirs.get(origin) > own.get(origin))
}

/// Notes it in the database, which the next start opens as the backup that it is.
async fn went_back(core: &Arc<Core>, peer: &NodeId) -> Result<(), NodeError> {
    error!(%peer, "a peer knows of writes that are not in this node's database: it went back in time");
    core.catalog.transact(mark_as_went_back).await?;
    Err(NodeError::WentBack)
}
