//! Bytes that nobody has any more: they went with a node that is gone, before another one had fetched them.
//!
//! Waiting for them would hold up this node's version vector for ever, and with it every deletion that is to be
//! forgotten.

use std::sync::{Arc, PoisonError};

use tracing::warn;

use crate::model::Entry;
use crate::node::Core;
use crate::replicate::give_up;
use crate::store::{StoreError, Want};

/// After so many failures it is asked whether anybody holds the bytes at all.
const FAILURES: u32 = 3;

/// Of how many wants that is asked at a time.
const ASKED_MAX: usize = 16;

/// Gives those of `wants` up that every registered member says that it does not hold.
pub(super) async fn give_up_lost(core: &Arc<Core>, wants: &[Want]) -> Result<(), StoreError> {
    for want in wants.iter().filter(|want| want.failures >= FAILURES).take(ASKED_MAX) {
        if nobody_holds(core, &want.entry).await {
            let (shared, entry) = (core.clone(), want.entry.clone());
            let lost = core.catalog.transact(move |transaction| {
                let view = shared.members.view().borrow().clone();
                let mut coverage = shared.coverage.lock().unwrap_or_else(PoisonError::into_inner);
                give_up(transaction, &mut coverage, &entry, |peer| view.nodes().contains_key(peer))
            });
            if lost.await? {
                core.metrics.lost_wants.inc();
                warn!(key = %want.entry.key, version = %want.entry.version, "no member has the bytes: given up");
            }
        }
    }
    Ok(())
}

/// Whether every other registered member answers that it does not hold the bytes of `entry`.
async fn nobody_holds(core: &Core, entry: &Entry) -> bool {
    let Some(content) = entry.content() else { return false };
    let others = core.members.others();
    for node in &others {
        if !matches!(core.members.peer(node).holds_blob(&content.hash).await, Ok(false)) {
            return false;
        }
    }
    !others.is_empty()
}
