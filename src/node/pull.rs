//! Following the feeds of the other nodes: what distributes, catches up and backfills.
//!
//! What a peer lists is recorded durably, listed or wanted, together with the cursor; so a crash only repeats work, and
//! a large object does not hold up small ones.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::{AbortHandle, JoinSet};
use tracing::{debug, info, warn};

use super::bytes::off_runtime;
use super::{Backoff, Core, unix_ms};
use crate::client::{Deadlines, Peer};
use crate::model::{Address, Cursor, Entry, Liveness, NodeId, UnsoundEntry, View};
use crate::protocol::feed::{ENTRIES_MAX, FeedAnswer, FeedQuery, WAIT_MS_MAX};
use crate::replicate::{Page, absorb};
use crate::store::{Select, StoreError};

/// How often each peer is pinged. A third of the silence that makes a node suspect.
const PING_PERIOD: Duration = Duration::from_secs(1);

/// How long a ping may take. A peer that needs longer is as good as silent.
const PING_DEADLINE: Duration = Duration::from_secs(2);

/// Keeps one follower and one heartbeat for each other member, as the view says, until the node stops.
pub(super) async fn follow_members(core: Arc<Core>) {
    let mut view = core.members.view();
    let mut tasks = JoinSet::new();
    let mut followed: BTreeMap<NodeId, (Address, [AbortHandle; 2])> = BTreeMap::new();
    loop {
        let members = core.members.others();
        followed.retain(|id, (address, handles)| {
            let stays = members.iter().any(|node| node.id == *id && node.address == *address);
            if !stays {
                handles.iter().for_each(AbortHandle::abort);
            }
            stays
        });
        for node in members {
            if followed.contains_key(&node.id) {
                continue;
            }
            info!(peer = %node.id, address = %node.address, "following");
            let peer = core.members.peer(&node);
            let pull = tasks.spawn(follow(core.clone(), node.id.clone(), peer));
            let ping = tasks.spawn(heartbeat(core.clone(), node.id.clone(), node.address.clone()));
            followed.insert(node.id, (node.address, [pull, ping]));
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

/// Reads the feed of one peer for as long as the node runs.
async fn follow(core: Arc<Core>, id: NodeId, peer: Peer) {
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(2));
    let mut complained = false;
    loop {
        match pull(&core, &id, &peer).await {
            Ok(()) => {
                backoff.reset();
                complained = false;
            }
            Err(error) => {
                // That a peer is away the heartbeat says; everything else lasts until a person mends it.
                if error.is_transient() || complained {
                    debug!(peer = %id, error = &error as &dyn std::error::Error, "pull failed, will retry");
                } else {
                    warn!(peer = %id, error = &error as &dyn std::error::Error, "cannot follow a peer, will retry");
                    complained = true;
                }
                backoff.wait().await;
            }
        }
    }
}

#[derive(Debug, thiserror::Error)]
enum PullError {
    #[error("the peer's feed cannot be read")]
    Peer(#[from] crate::client::ClientError),
    #[error("what the peer lists cannot be recorded")]
    Store(#[from] StoreError),
    #[error("the peer lists what cannot be")]
    Unsound(#[from] UnsoundEntry),
}

impl PullError {
    fn is_transient(&self) -> bool {
        matches!(self, Self::Peer(error) if error.is_transient())
    }
}

/// Reads the next part of the feed of `id` and records it.
async fn pull(core: &Arc<Core>, id: &NodeId, peer: &Peer) -> Result<(), PullError> {
    let (catalog, name) = (core.catalog.clone(), id.clone());
    let cursor = off_runtime(move || catalog.cursor(&name)).await?;
    let query = FeedQuery {
        since: cursor.map_or(0, |cursor| cursor.since),
        epoch: cursor.map(|cursor| cursor.epoch),
        limit: None,
        // The wait is shorter than the deadline for the first byte, so that silence is a failure.
        wait_ms: WAIT_MS_MAX / 2,
        records: false,
    };
    let answer = peer.feed(&query).await?;
    answer.entries.iter().try_for_each(Entry::check)?;
    let next = Cursor { epoch: answer.epoch, since: answer.next };
    if answer.entries.is_empty() && cursor == Some(next) {
        return Ok(());
    }
    core.metrics.pulled_entries.inc_by(answer.entries.len() as u64);
    record(core, id.clone(), answer).await?;
    Ok(())
}

/// Records a part of the feed of `peer` and how far it was read, in one commit.
async fn record(core: &Arc<Core>, peer: NodeId, answer: FeedAnswer) -> Result<(), StoreError> {
    let cursor = Cursor { epoch: answer.epoch, since: answer.next };
    let page = Page { peer, entries: answer.entries, cursor };
    core.catalog.transact(move |transaction| absorb(transaction, &page, unix_ms()).map(drop)).await
}

/// Pings one peer each second and notes its answers.
async fn heartbeat(core: Arc<Core>, id: NodeId, address: Address) {
    // Connections of its own: a ping must not wait behind the transfer of a large object.
    let deadlines = Deadlines { connect: PING_DEADLINE, first_byte: PING_DEADLINE, idle: PING_DEADLINE };
    let peer = Peer::new(core.tls.clone(), Some(&id), address, deadlines);
    let mut ticks = tokio::time::interval(PING_PERIOD);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut before = core.members.liveness(&id);
    loop {
        ticks.tick().await;
        match tokio::time::timeout(PING_DEADLINE, peer.ping()).await {
            Ok(Ok(pong)) => core.members.heard(&id, Some(&pong)),
            Ok(Err(error)) => debug!(peer = %id, error = &error as &dyn std::error::Error, "ping failed"),
            Err(_) => debug!(peer = %id, "ping took too long"),
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

/// This node's own records, as far as they were read.
#[derive(Default)]
pub(super) struct OwnRecords {
    view: View,
    since: u64,
}

impl OwnRecords {
    /// Reads what is new, and swaps the members' view if it says anything new.
    pub(super) async fn read(&mut self, core: &Core) -> Result<(), StoreError> {
        let mut changed = false;
        loop {
            let (catalog, since) = (core.catalog.clone(), self.since);
            let page = off_runtime(move || catalog.feed(since, ENTRIES_MAX, Select::Records)).await?;
            self.since = page.next;
            for entry in &page.entries {
                match self.view.merge(entry) {
                    Ok(news) => changed |= news,
                    Err(error) => warn!(%error, "a record is passed over"),
                }
            }
            if page.end.is_some() {
                break;
            }
        }
        if changed {
            core.members.set_view(self.view.clone());
        }
        Ok(())
    }

    /// Keeps the view at what the records say, until the node stops.
    pub(super) async fn follow(mut self, core: Arc<Core>) {
        let mut progress = core.catalog.progress();
        loop {
            progress.mark_unchanged();
            if let Err(error) = self.read(&core).await {
                warn!(error = &error as &dyn std::error::Error, "own records cannot be read, will retry");
                tokio::time::sleep(Duration::from_secs(1)).await;
                continue;
            }
            tokio::select! {
                () = core.stop.cancelled() => return,
                moved = progress.changed() => if moved.is_err() { return },
            }
        }
    }
}
