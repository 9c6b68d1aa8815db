//! The scrub: a slow look through all blobs, whether they still are what their names say. What is damaged or missing is
//! mended from whoever holds it.

mod check;
mod mend;
mod reads;
mod sums;

use std::collections::HashSet;
use std::num::NonZeroU64;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Json;
use axum::extract::{Extension, State};
use http::StatusCode;
use tokio::sync::{Notify, watch};
use tracing::{info, warn};

use super::access::{Right, require};
use super::bytes::off_runtime;
use super::error::ApiError;
use super::pace::Pace;
use super::{Core, unix_ms};
use crate::model::{ContentHash, Principal};
use crate::protocol::scrub::{PARTS, Round, ScrubStatus, UNMENDED_MAX};
use crate::store::StoreError;
pub(super) use mend::{demand, mend_in_time, report_missing};
pub(super) use reads::{Verified, whole};

/// How long the scrub rests when the store fails.
const REST_OF_STORE: Duration = Duration::from_secs(60);

/// How often a resting scrub looks at the clock, which may be set meanwhile.
const LOOK_PERIOD: Duration = Duration::from_secs(600);

/// What the scrub shares with those who ask for it.
#[derive(Debug)]
pub(super) struct Scrub {
    round: Mutex<Round>,
    /// Somebody wants a round at full speed.
    demanded: AtomicBool,
    demand: Notify,
    /// Something was found damaged or missing.
    found: Notify,
    /// How many blobs were mended since the start.
    mended: watch::Sender<u64>,
    /// Blobs of which that was hashed which is set aside, and is damaged.
    hopeless: Mutex<HashSet<ContentHash>>,
    /// What was hashed as it was read.
    pub(super) verified: Verified,
    /// One mends at a time.
    mending: tokio::sync::Mutex<()>,
}

impl Default for Scrub {
    fn default() -> Self {
        Self {
            round: Mutex::default(),
            demanded: AtomicBool::new(false),
            demand: Notify::new(),
            found: Notify::new(),
            mended: watch::channel(0).0,
            hopeless: Mutex::default(),
            verified: Verified::default(),
            mending: tokio::sync::Mutex::default(),
        }
    }
}

impl Scrub {
    fn round(&self) -> MutexGuard<'_, Round> {
        self.round.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn hopeless(&self) -> MutexGuard<'_, HashSet<ContentHash>> {
        self.hopeless.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a new round at `now_unix_ms`.
    fn begin(&self, now_unix_ms: u64, full_speed: bool) {
        *self.round() = Round { started_unix_ms: now_unix_ms, full_speed, ..Round::default() };
    }
}

/// Looks through the blobs again and again until the node stops.
pub(super) async fn run(core: Arc<Core>) {
    let slow = NonZeroU64::new(core.config.scrub_bytes_per_second);
    let pace = Pace::new(slow);
    let stop = core.stop.clone();
    while !stop.is_cancelled() {
        match resume(&core).await {
            Ok(()) => break,
            Err(error) => warn!(error = &error as &dyn std::error::Error, "the scrub cannot begin, will retry"),
        }
        stop.run_until_cancelled(tokio::time::sleep(REST_OF_STORE)).await;
    }
    while !stop.is_cancelled() {
        if core.scrub.demanded.swap(false, Ordering::Relaxed) {
            core.scrub.begin(unix_ms(), true);
        }
        let Round { ended_unix_ms, full_speed, .. } = *core.scrub.round();
        if ended_unix_ms.is_some() || (slow.is_none() && !full_speed) {
            let rest = next_round(&core).map(|next| Duration::from_millis(next.saturating_sub(unix_ms())));
            if rest == Some(Duration::ZERO) {
                core.scrub.begin(unix_ms(), false);
                continue;
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = core.scrub.demand.notified() => {}
                () = tokio::time::sleep(rest.unwrap_or(LOOK_PERIOD).min(LOOK_PERIOD)) => {}
            }
            continue;
        }
        let pace = if full_speed { &Pace::new(None) } else { &pace };
        let looked = tokio::select! {
            () = stop.cancelled() => return,
            // A slow part takes hours where blobs are large; what it has seen is looked at anew.
            () = core.scrub.demand.notified() => continue,
            looked = part(&core, pace) => looked,
        };
        match looked {
            Ok(()) => {}
            Err(error) => {
                warn!(error = &error as &dyn std::error::Error, "blobs cannot be looked through, will retry");
                stop.run_until_cancelled(tokio::time::sleep(REST_OF_STORE)).await;
            }
        }
    }
}

/// Goes on with the round that an earlier life left.
async fn resume(core: &Arc<Core>) -> Result<(), StoreError> {
    let catalog = core.catalog.clone();
    let kept = off_runtime(move || catalog.scrub_state()).await?;
    let now = unix_ms();
    // What a fresh node holds was hashed when it came, so its first round is due after a rest.
    let fresh = || Round { started_unix_ms: now, ended_unix_ms: Some(now), ..Round::default() };
    *core.scrub.round() = kept.and_then(|json| serde_json::from_str(&json).ok()).unwrap_or_else(fresh);
    keep(core).await
}

async fn keep(core: &Core) -> Result<(), StoreError> {
    let json = serde_json::to_string(&*core.scrub.round()).expect("numbers are JSON");
    core.catalog.transact(move |transaction| transaction.keep_scrub_state(&json)).await
}

/// When the next round begins by itself.
fn next_round(core: &Core) -> Option<u64> {
    if core.config.scrub_bytes_per_second == 0 {
        return None;
    }
    let ended = core.scrub.round().ended_unix_ms?;
    Some(ended.saturating_add(core.config.scrub_rest_s.saturating_mul(1000)))
}

/// Looks through the next part of the blobs, or ends the round after the last one.
async fn part(core: &Arc<Core>, pace: &Pace) -> Result<(), StoreError> {
    let done = core.scrub.round().parts;
    let Ok(first) = u8::try_from(done) else {
        mend::mend_all(core).await?;
        let round = {
            let mut round = core.scrub.round();
            round.ended_unix_ms = Some(unix_ms());
            round.clone()
        };
        let Round { blobs, bytes, damaged, missing, mended, .. } = round;
        info!(blobs, bytes, damaged, missing, mended, "all blobs were looked through");
        return keep(core).await;
    };
    let looked = check::part(core, first, pace).await?;
    sums::part(core, first).await?;
    {
        let mut round = core.scrub.round();
        // Another round may have been asked for meanwhile; it begins with the next part.
        round.parts = done + 1;
        round.blobs += looked.blobs;
        round.bytes += looked.bytes;
        round.damaged += looked.damaged;
        round.missing += looked.missing;
    }
    if looked.damaged + looked.missing > 0 {
        core.scrub.found.notify_one();
    }
    keep(core).await
}

async fn status(core: &Arc<Core>) -> Result<Json<ScrubStatus>, ApiError> {
    let catalog = core.catalog.clone();
    let read = off_runtime(move || {
        Ok::<_, StoreError>((catalog.damaged_count()?, catalog.damaged_blobs(None, UNMENDED_MAX)?))
    });
    let (unmended, blobs) = read.await?;
    let round = core.scrub.round().clone();
    let demanded = core.scrub.demanded.load(Ordering::Relaxed);
    let waits = core.config.scrub_bytes_per_second == 0 && !round.full_speed;
    Ok(Json(ScrubStatus {
        running: demanded || (round.ended_unix_ms.is_none() && !waits),
        round,
        next_unix_ms: next_round(core),
        unmended,
        unmended_blobs: blobs.into_iter().map(|blob| blob.hash).collect(),
    }))
}

/// `GET /v1/scrub`: where the scrub stands, and what it found.
pub(super) async fn show(
    State(core): State<Arc<Core>>,
    Extension(principal): Extension<Principal>,
) -> Result<Json<ScrubStatus>, ApiError> {
    require(&principal, Right::Read)?;
    status(&core).await
}

/// `POST /v1/scrub`: looks through all blobs now, as fast as users let it.
pub(super) async fn start(
    State(core): State<Arc<Core>>,
    Extension(principal): Extension<Principal>,
) -> Result<(StatusCode, Json<ScrubStatus>), ApiError> {
    require(&principal, Right::Write)?;
    let runs = {
        let round = core.scrub.round();
        round.ended_unix_ms.is_none() && round.full_speed
    };
    if !runs {
        core.scrub.demanded.store(true, Ordering::Relaxed);
        core.scrub.demand.notify_one();
    }
    Ok((StatusCode::ACCEPTED, status(&core).await?))
}

const _: () = assert!(PARTS == u8::MAX as u32 + 1, "a part for each first byte");
