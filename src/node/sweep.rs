//! The sweep: bytes that nothing has named for a while are freed. A node where nothing was overwritten or deleted only
//! looks at an empty table once a minute.

use std::sync::Arc;
use std::time::Duration;

use tracing::{debug, warn};

use super::bytes::off_runtime;
use super::{Core, unix_ms};
use crate::store::StoreError;

/// How often the sweep looks at most and at least, between which a quarter of the grace lies.
const PERIOD_SHORTEST: Duration = Duration::from_millis(100);
const PERIOD_LONGEST: Duration = Duration::from_secs(60);

/// Sweeps until the node stops.
pub(super) async fn run(core: Arc<Core>) {
    let grace = Duration::from_secs(core.config.blob_grace_s);
    let period = (grace / 4).clamp(PERIOD_SHORTEST, PERIOD_LONGEST);
    while core.stop.run_until_cancelled(tokio::time::sleep(period)).await.is_some() {
        if let Err(error) = sweep(&core, grace).await {
            warn!(error = &error as &dyn std::error::Error, "blobs cannot be swept, will retry");
        }
    }
}

async fn sweep(core: &Arc<Core>, grace: Duration) -> Result<(), StoreError> {
    let (catalog, blobs) = (core.catalog.clone(), core.blobs.clone());
    let looked = off_runtime(move || {
        let mut unnamed = blobs.take_released();
        unnamed.sort_unstable();
        unnamed.dedup();
        let mut failed = Ok(());
        unnamed.retain(|hash| match catalog.names(hash) {
            Ok(named) => !named,
            Err(error) => {
                failed = Err(error);
                true
            }
        });
        failed.and_then(|()| Ok((unnamed, catalog.loose()?)))
    });
    let (unnamed, mut loose) = looked.await?;
    if loose.undated || !unnamed.is_empty() {
        let date = core.catalog.transact(move |transaction| {
            unnamed.iter().try_for_each(|hash| transaction.note_loose(hash))?;
            transaction.date_loose(unix_ms())
        });
        date.await?;
        let catalog = core.catalog.clone();
        loose = off_runtime(move || catalog.loose()).await?;
    }
    let now = unix_ms();
    let until = now.saturating_sub(u64::try_from(grace.as_millis()).unwrap_or(u64::MAX));
    let mut more = loose.oldest_ms.is_some_and(|oldest| oldest <= until);
    while more && !core.stop.is_cancelled() {
        let blobs = core.blobs.clone();
        let swept = core.catalog.transact(move |transaction| transaction.sweep(&blobs, until, now)).await?;
        debug!(blobs = swept.blobs, bytes = swept.bytes, "swept");
        core.metrics.blobs.swept_bytes.inc_by(swept.bytes);
        for error in &swept.failed {
            warn!(error = error as &dyn std::error::Error, "the file of a blob cannot be taken away, will retry");
        }
        more = swept.more;
        off_runtime(move || drop(swept)).await;
    }
    Ok(())
}
