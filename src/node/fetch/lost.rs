//! Bytes that nobody has any more: they went with a node that is gone, before another one had fetched them.
//!
//! Waiting for them would hold up this node's version vector for ever, and with it every deletion that is to be
//! forgotten.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::time::timeout;
use tracing::warn;

use crate::model::{Entry, Liveness};
use crate::node::Core;
use crate::replicate::{doubt, give_up};
use crate::store::{StoreError, Want};

/// After so many failures it is asked whether anybody holds the bytes at all.
const FAILURES: u32 = 3;

/// Of how many wants that is asked at a time.
const ASKED_MAX: usize = 16;

/// How long a member is waited for that is asked.
const ASK_DEADLINE: Duration = Duration::from_secs(2);

/// Gives those of `wants` up that every registered member says that it does not hold.
pub(super) async fn give_up_lost(core: &Arc<Core>, wants: &[Want]) -> Result<(), StoreError> {
    // One that cannot be asked may hold them; and asking it would hold up the fetches from others.
    if core.members.others().iter().any(|node| core.members.liveness(&node.id) != Liveness::Alive) {
        return Ok(());
    }
    let mut asked = 0;
    for want in wants.iter().filter(|want| want.failures >= FAILURES) {
        // Asked only after that: what they said before may be older than what they list.
        if !is_in_doubt(core, &want.entry).await? {
            continue;
        }
        asked += 1;
        if asked > ASKED_MAX {
            return Ok(());
        }
        let Ok(nobody_holds) = nobody_holds(core, &want.entry).await else { return Ok(()) };
        if nobody_holds {
            let (shared, entry) = (core.clone(), want.entry.clone());
            let lost = core.catalog.transact(move |transaction| {
                let mut coverage = shared.coverage.lock().unwrap_or_else(PoisonError::into_inner);
                give_up(transaction, &mut coverage, &entry)
            });
            if lost.await? {
                core.metrics.lost_wants.inc();
                warn!(key = %want.entry.key, version = %want.entry.version, "no member has the bytes: given up");
            }
        }
    }
    Ok(())
}

/// Puts the want of `entry` in doubt, unless a member is known to list it.
async fn is_in_doubt(core: &Arc<Core>, entry: &Entry) -> Result<bool, StoreError> {
    let (view, entry) = (core.members.view(), entry.clone());
    let work = core.catalog.transact(move |transaction| {
        let view = view.borrow().clone();
        doubt(transaction, &entry, |peer| view.nodes().contains_key(peer))
    });
    work.await
}

/// One of the members did not answer.
struct Silent;

/// Whether every other registered member answers that it does not hold the bytes of `entry`.
async fn nobody_holds(core: &Core, entry: &Entry) -> Result<bool, Silent> {
    let Some(content) = entry.content() else { return Ok(false) };
    let others = core.members.others();
    for node in &others {
        let answer = timeout(ASK_DEADLINE, core.members.peer(node).holds_blob(&content.hash)).await;
        if answer.map_err(|_| Silent)?.map_err(|_| Silent)? {
            return Ok(false);
        }
    }
    Ok(!others.is_empty())
}
