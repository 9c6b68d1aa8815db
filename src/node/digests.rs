//! The safety net below the feeds: nodes compare what they list, and take in what the feeds should have brought.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Extension, Path, State};
use tracing::{debug, warn};

use super::access::{Right, require};
use super::bytes::off_runtime;
use super::error::ApiError;
use super::{Core, unix_ms};
use crate::client::{ClientError, Peer};
use crate::model::{Entry, Liveness, NodeId, Principal, UnsoundEntry};
use crate::protocol::feed::{Digests, Sum};
use crate::replicate::{BUCKETS, Comparison, differing};
use crate::store::StoreError;

/// How many buckets are looked into at one comparison; the next one looks into further ones.
const BUCKETS_LOOKED_INTO_MAX: usize = 64;

/// `GET /v1/digests`: the sum of each bucket of what this node lists.
pub(super) async fn sums(
    State(core): State<Arc<Core>>,
    Extension(principal): Extension<Principal>,
) -> Result<Json<Digests>, ApiError> {
    require(&principal, Right::Read)?;
    let catalog = core.catalog.clone();
    let (vector, sums) = off_runtime(move || Ok::<_, StoreError>((catalog.vector()?, catalog.digests()?))).await?;
    Ok(Json(Digests { sums: sums.into_iter().map(Sum).collect(), vector }))
}

/// `GET /v1/digests/BUCKET`: what this node lists in one bucket.
pub(super) async fn of_bucket(
    State(core): State<Arc<Core>>,
    Extension(principal): Extension<Principal>,
    bucket: Result<Path<usize>, PathRejection>,
) -> Result<Json<Vec<Entry>>, ApiError> {
    require(&principal, Right::Read)?;
    let Path(bucket) = bucket.map_err(|rejection| ApiError::bad_request(rejection.body_text()))?;
    if bucket >= BUCKETS {
        return Err(ApiError::not_found(format!("bucket {bucket}: there are {BUCKETS}")));
    }
    let catalog = core.catalog.clone();
    Ok(Json(off_runtime(move || catalog.of_bucket(bucket)).await?))
}

/// Compares with each other node in turn, until the node stops.
pub(super) async fn compare_in_time(core: Arc<Core>) {
    let period = Duration::from_secs(core.config.compare_period_s);
    if period.is_zero() {
        return;
    }
    for from in (0_usize..).step_by(BUCKETS_LOOKED_INTO_MAX) {
        tokio::select! {
            () = core.stop.cancelled() => return,
            () = tokio::time::sleep(period) => {}
        }
        for node in core.members.others() {
            if core.members.liveness(&node.id) != Liveness::Alive {
                continue;
            }
            match compare(&core, &node.id, &core.members.peer(&node), from).await {
                Ok(0) => {}
                Ok(mended) => {
                    core.metrics.mended_entries.inc_by(mended as u64);
                    warn!(peer = %node.id, mended, "a peer listed what its feed had not brought: taken in");
                }
                Err(error) => {
                    debug!(peer = %node.id, error = &error as &dyn std::error::Error, "cannot compare, will retry");
                }
            }
        }
    }
}

#[derive(Debug, thiserror::Error)]
enum CompareError {
    #[error("the peer does not say what it lists")]
    Peer(#[from] ClientError),
    #[error("what is listed here cannot be read or mended")]
    Store(#[from] StoreError),
    #[error("the peer lists what cannot be")]
    Unsound(#[from] UnsoundEntry),
}

/// Takes in what `peer` lists and this node neither lists nor owes; answers how many entries that were. Of the buckets that
/// differ it looks into a part, which begins at the place `from`.
async fn compare(core: &Arc<Core>, id: &NodeId, peer: &Peer, from: usize) -> Result<usize, CompareError> {
    let theirs = peer.digests().await?;
    let catalog = core.catalog.clone();
    let (vector, ours) = off_runtime(move || Ok::<_, StoreError>((catalog.vector()?, catalog.digests()?))).await?;
    let grace_ms = core.config.tombstone_grace_s.saturating_mul(1000);
    let comparison = Comparison { passed: vector, lives: core.members.lives(), grace_ms };
    let theirs: Vec<u64> = theirs.sums.iter().map(|Sum(bits)| *bits).collect();
    let mut mended = 0;
    let mut buckets = differing(&ours, &theirs);
    let begin = from.checked_rem(buckets.len()).unwrap_or(0);
    buckets.rotate_left(begin);
    for bucket in buckets.into_iter().take(BUCKETS_LOOKED_INTO_MAX) {
        // One that cannot be had, because it is too large, must not hide the others.
        let entries = match peer.of_bucket(bucket).await {
            Ok(entries) => entries,
            Err(error) => {
                debug!(peer = %id, bucket, error = &error as &dyn std::error::Error, "a bucket cannot be compared");
                continue;
            }
        };
        entries.iter().try_for_each(Entry::check)?;
        let (comparison, peer) = (comparison.clone(), id.clone());
        let work = core.catalog.transact(move |transaction| comparison.mend(transaction, &peer, &entries, unix_ms()));
        mended += work.await?;
    }
    Ok(mended)
}
