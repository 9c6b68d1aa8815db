//! What time alone brings about: entries from the future whose time comes, deletions that may be forgotten.

use std::sync::Arc;
use std::time::Duration;

use tracing::{debug, warn};

use super::{Core, unix_ms};
use crate::model::HybridTime;
use crate::replicate::{expire, unpark};
use crate::store::StoreError;

/// How often it is looked whether the time of a parked entry has come.
const UNPARK_PERIOD: Duration = Duration::from_secs(1);

/// How often old deletions are looked at: a hundredth of the grace, within these bounds.
const EXPIRE_PERIOD_MIN: Duration = Duration::from_millis(500);
const EXPIRE_PERIOD_MAX: Duration = Duration::from_mins(10);

/// How many old deletions one commit looks at.
const EXPIRE_PART: usize = 256;

/// Takes in parked entries when their time has come, until the node stops.
pub(super) async fn unpark_in_time(core: Arc<Core>) {
    let mut progress = core.catalog.progress();
    loop {
        if progress.borrow_and_update().parked > 0 {
            let unparked = core.catalog.transact(|transaction| unpark(transaction, unix_ms())).await;
            if let Err(error) = unparked {
                warn!(error = &error as &dyn std::error::Error, "parked entries cannot be taken in, will retry");
            }
            tokio::select! {
                () = core.stop.cancelled() => return,
                () = tokio::time::sleep(UNPARK_PERIOD) => {}
            }
        } else {
            tokio::select! {
                () = core.stop.cancelled() => return,
                changed = progress.changed() => if changed.is_err() { return },
            }
        }
    }
}

/// Forgets deletions that are old and that every member has passed, until the node stops.
pub(super) async fn expire_in_time(core: Arc<Core>) {
    let grace = Duration::from_secs(core.config.tombstone_grace_s);
    let period = (grace / 100).clamp(EXPIRE_PERIOD_MIN, EXPIRE_PERIOD_MAX);
    loop {
        tokio::select! {
            () = core.stop.cancelled() => return,
            () = tokio::time::sleep(period) => {}
        }
        match expire_all(&core, grace).await {
            Ok(0) => {}
            Ok(dropped) => {
                core.metrics.expired_tombstones.inc_by(dropped as u64);
                debug!(dropped, "old deletions were forgotten");
            }
            Err(error) => warn!(error = &error as &dyn std::error::Error, "old deletions stay, will retry"),
        }
    }
}

async fn expire_all(core: &Arc<Core>, grace: Duration) -> Result<usize, StoreError> {
    let grace_ms = u64::try_from(grace.as_millis()).unwrap_or(u64::MAX);
    let time = HybridTime::from_unix_ms(unix_ms().saturating_sub(grace_ms));
    let (mut dropped, mut after) = (0, None);
    loop {
        let Some(vectors) = core.members.vectors_of_all() else { return Ok(dropped) };
        let work = core.catalog.transact(move |transaction| {
            expire(transaction, time, after, EXPIRE_PART, |version| vectors.iter().all(|v| v.has_passed(version)))
        });
        let part = work.await?;
        dropped += part.dropped;
        after = part.after;
        if after.is_none() {
            return Ok(dropped);
        }
    }
}
