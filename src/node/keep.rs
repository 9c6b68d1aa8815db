//! What time alone brings about: entries from the future whose time comes, deletions that may be forgotten.

use std::sync::Arc;
use std::time::Duration;

use tracing::{debug, warn};

use super::bytes::off_runtime;
use super::{Core, unix_ms};
use crate::model::{EntryKey, HybridTime, VersionVector};
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
            match core.catalog.transact(|transaction| unpark(transaction, unix_ms())).await {
                Ok(0) => {}
                // There may be more, which need not wait.
                Ok(_) => continue,
                Err(error) => {
                    warn!(error = &error as &dyn std::error::Error, "parked entries cannot be taken in, will retry");
                }
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
    let mut last = Pass::default();
    loop {
        tokio::select! {
            () = core.stop.cancelled() => return,
            () = tokio::time::sleep(period) => {}
        }
        match expire_all(&core, grace, &mut last).await {
            Ok(0) => {}
            Ok(dropped) => {
                core.metrics.expired_tombstones.inc_by(dropped as u64);
                debug!(dropped, "old deletions were forgotten");
            }
            Err(error) => warn!(error = &error as &dyn std::error::Error, "old deletions stay, will retry"),
        }
    }
}

/// How far the last look at old deletions came.
#[derive(Default)]
struct Pass {
    /// What all members had passed.
    passed: Option<VersionVector>,
    /// Up to which time all old deletions were looked at.
    until: Option<HybridTime>,
}

/// A key before most others: from which one an old deletion is looked at twice does not matter.
fn first_key() -> EntryKey {
    " ".parse().expect("a key may be a space")
}

/// Forgets what can be forgotten. While a member is away that is nothing new, and what was looked at is not looked at again.
async fn expire_all(core: &Arc<Core>, grace: Duration, last: &mut Pass) -> Result<usize, StoreError> {
    // Whom a new node would have to ask, it does not know: a seed may be as new.
    let catalog = core.catalog.clone();
    if off_runtime(move || catalog.settled()).await?.is_none() {
        return Ok(0);
    }
    let grace_ms = u64::try_from(grace.as_millis()).unwrap_or(u64::MAX);
    let time = HybridTime::from_unix_ms(unix_ms().saturating_sub(grace_ms));
    let Some(vectors) = core.members.vectors_of_all() else { return Ok(0) };
    let passed = vectors.iter().skip(1).fold(vectors.first().cloned(), |all, one| all.map(|all| all.common(one)));
    let until = last.until.filter(|_| last.passed == passed);
    let (mut dropped, mut after) = (0, until.map(|until| (until, first_key())));
    loop {
        let vectors = vectors.clone();
        let work = core.catalog.transact(move |transaction| {
            expire(transaction, time, after, EXPIRE_PART, |version| vectors.iter().all(|v| v.has_passed(version)))
        });
        let part = work.await?;
        dropped += part.dropped;
        after = part.after;
        if after.is_none() {
            *last = Pass { passed, until: Some(time) };
            return Ok(dropped);
        }
    }
}
