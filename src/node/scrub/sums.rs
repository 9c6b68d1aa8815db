//! Looking whether the sums by which nodes compare what they list are those of what is listed here. If a row was lost, its
//! sum is made anew, and the next comparison brings the row back.

use std::sync::Arc;
use std::time::Instant;

use tracing::warn;

use crate::node::Core;
use crate::node::bytes::off_runtime;
use crate::protocol::scrub::PARTS;
use crate::replicate::BUCKETS;
use crate::store::StoreError;

/// How many buckets belong to a part.
const BUCKETS_OF_PART: usize = BUCKETS / PARTS as usize;

/// Looks through the buckets of the part `first`.
pub(super) async fn part(core: &Arc<Core>, first: u8) -> Result<(), StoreError> {
    let start = usize::from(first) * BUCKETS_OF_PART;
    for bucket in start..start + BUCKETS_OF_PART {
        let begun = Instant::now();
        let catalog = core.catalog.clone();
        // A look beside the writer first: nearly always nothing is to be written.
        let is_right = off_runtime(move || catalog.is_digest_right(bucket)).await?;
        if !is_right && core.catalog.transact(move |transaction| transaction.recount_digest(bucket)).await? {
            warn!(bucket, "the catalogue has lost or changed rows: they are compared with those of other nodes");
        }
        core.foreground.give_way(begun.elapsed()).await;
    }
    Ok(())
}

const _: () = assert!(BUCKETS_OF_PART * PARTS as usize == BUCKETS, "each bucket belongs to a part");
