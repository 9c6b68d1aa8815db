//! Following the feeds of the other nodes: what distributes, catches up and backfills.
//!
//! What a peer lists is recorded durably, listed or wanted, together with the cursor; so a crash only repeats work, and
//! a large object does not hold up small ones.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use http::StatusCode;
use tokio::task::{AbortHandle, JoinSet};
use tracing::{debug, info, warn};

use super::bytes::off_runtime;
use super::{Backoff, Core, NodeError, heartbeat, receipts, unix_ms};
use crate::client::Peer;
use crate::model::{Address, Cursor, Entry, EntryKey, NodeId, UnsoundEntry, Version};
use crate::protocol::feed::{FORMAT_NEWEST_READ, FeedAnswer, FeedQuery, WAIT_MS_MAX};
use crate::replicate::{Ledger as _, Page, absorb};
use crate::store::{StoreError, Transaction};

/// How long a peer may wait for news: less than the deadline for the first byte, so that silence is a failure.
const FEED_WAIT_MS: u64 = WAIT_MS_MAX / 2;

/// An answer without entries that comes so early was not waited for.
const EARLY: Duration = Duration::from_millis(100);

/// How many entries are read at once while users are answered: the writer records them in one piece.
pub(super) const ENTRIES_MAX_BUSY: usize = 64;

/// Keeps one follower and one heartbeat for each other member, as the view says, until the node stops.
pub(super) async fn follow_members(core: Arc<Core>) {
    let mut view = core.members.view();
    let mut tasks = JoinSet::new();
    let mut followed: BTreeMap<NodeId, (Address, [AbortHandle; 3])> = BTreeMap::new();
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
            let pull = tasks.spawn(follow(core.clone(), node.id.clone(), peer.clone()));
            let receipts = tasks.spawn(receipts::send(core.clone(), node.id.clone(), peer));
            let ping = tasks.spawn(heartbeat::run(core.clone(), node.id.clone(), node.address.clone()));
            followed.insert(node.id, (node.address, [pull, receipts, ping]));
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

/// Reads the feed of one peer for as long as the node runs, which ends when the peer knows that it was forgotten.
async fn follow(core: Arc<Core>, id: NodeId, peer: Peer) {
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(2));
    let mut complained = false;
    // The first answer tells at once where the peer stands, which is news after a start.
    let mut wait_ms = 0;
    loop {
        let begun = Instant::now();
        match pull(&core, &id, &peer, wait_ms).await {
            // A peer that waits for nothing must not be asked without end.
            Ok(Pulled::Nothing) if begun.elapsed() < EARLY && wait_ms > 0 => backoff.wait().await,
            Ok(_) => {
                backoff.reset();
                wait_ms = FEED_WAIT_MS;
                complained = false;
            }
            Err(PullError::Peer(error)) if error.status() == Some(StatusCode::GONE) => {
                return core.fail(NodeError::Forgotten(core.me.id.clone()));
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
    #[error("the peer's feed has format {0}, this metacdn reads up to {FORMAT_NEWEST_READ}: install a newer one")]
    Newer(u32),
    #[error("the peer lists entries and goes no further than {0}, which was read before")]
    Stuck(u64),
}

impl PullError {
    fn is_transient(&self) -> bool {
        matches!(self, Self::Peer(error) if error.is_transient())
    }
}

/// What a part of a feed brought.
enum Pulled {
    Entries,
    Nothing,
}

/// Reads the next part of the feed of `id` and records it.
async fn pull(core: &Arc<Core>, id: &NodeId, peer: &Peer, wait_ms: u64) -> Result<Pulled, PullError> {
    let (catalog, name) = (core.catalog.clone(), id.clone());
    let cursor = off_runtime(move || catalog.cursor(&name)).await?;
    let query = FeedQuery {
        since: cursor.map_or(0, |cursor| cursor.since),
        epoch: cursor.map(|cursor| cursor.epoch),
        limit: core.foreground.is_busy().then_some(ENTRIES_MAX_BUSY),
        wait_ms,
        records: false,
    };
    let answer = peer.feed(&query).await?;
    if answer.format > FORMAT_NEWEST_READ {
        return Err(PullError::Newer(answer.format));
    }
    answer.entries.iter().try_for_each(Entry::check)?;
    let next = Cursor { epoch: answer.epoch, since: answer.next };
    if answer.entries.is_empty() && cursor == Some(next) && !brings_news(core, id, &answer).await? {
        return Ok(Pulled::Nothing);
    }
    if !answer.entries.is_empty()
        && cursor.is_some_and(|cursor| cursor.epoch == next.epoch && cursor.since >= next.since)
    {
        return Err(PullError::Stuck(next.since));
    }
    let pulled = if answer.entries.is_empty() { Pulled::Nothing } else { Pulled::Entries };
    core.metrics.pulled_entries.inc_by(answer.entries.len() as u64);
    // An upload that waits for this copy is a user, too.
    match answer.awaited.is_empty() {
        true => core.foreground.in_turn(record(core, id, answer)).await?,
        false => record(core, id, answer).await?,
    }
    Ok(pulled)
}

/// Whether an answer without entries says of `peer` that it has passed what this node has not.
async fn brings_news(core: &Arc<Core>, peer: &NodeId, answer: &FeedAnswer) -> Result<bool, StoreError> {
    let Some(theirs) = answer.vector.clone() else { return Ok(false) };
    core.restore.read_to_end(peer, answer.epoch, &theirs, answer.horizon.clone());
    let catalog = core.catalog.clone();
    off_runtime(move || Ok(!catalog.vector()?.covers(&theirs))).await
}

/// Records a part of the feed of `peer` and how far it was read, in one commit.
async fn record(core: &Arc<Core>, peer: &NodeId, answer: FeedAnswer) -> Result<(), StoreError> {
    let FeedAnswer { epoch, entries, next, end, vector, horizon, awaited, .. } = answer;
    let cursor = Cursor { epoch, since: next };
    let page = Page { peer: peer.clone(), entries, cursor, horizon: horizon.clone() };
    let shared = core.clone();
    let recorded = core.catalog.transact(move |transaction| {
        let parked = absorb(transaction, &page, unix_ms())?;
        let held = promised(&shared, transaction, &page, &awaited)?;
        Ok((parked, held, transaction.debt()?))
    });
    let (parked, held, debt) = recorded.await?;
    // Only now it is durable.
    for (key, version) in &held {
        core.receipts.held(key, version);
    }
    if parked > 0 {
        core.metrics.parked_entries.inc_by(parked as u64);
        warn!(%peer, parked, "a peer lists entries from the future: its clock, or this node's, is wrong");
    }
    if let Some(vector) = vector.filter(|_| end) {
        core.restore.read_to_end(peer, epoch, &vector, horizon);
        core.coverage.lock().unwrap_or_else(PoisonError::into_inner).read_to_end(peer, vector, debt);
        core.read_to_end.notify_one();
    }
    Ok(())
}

/// Promises receipts for what `page` lists at the places `awaited`; answers what is held now of all that was promised.
fn promised(
    core: &Core,
    transaction: &Transaction<'_>,
    page: &Page,
    awaited: &[usize],
) -> Result<Vec<(EntryKey, Version)>, StoreError> {
    let awaited = awaited.iter().filter_map(|place| page.entries.get(*place));
    // A node awaits copies of its own writes.
    for entry in awaited.filter(|entry| entry.version.origin.node == page.peer) {
        core.receipts.promise(&entry.key, &entry.version);
    }
    let mut held = Vec::new();
    for entry in page.entries.iter().filter(|entry| core.receipts.is_promised(&entry.key)) {
        held.extend(transaction.listed(&entry.key)?.map(|listed| (listed.key, listed.version)));
    }
    Ok(held)
}
