//! The sweep: bytes that nothing has named for a while are freed. A node where nothing was overwritten or deleted only
//! looks at an empty table and an empty folder once a minute, after it has looked at its start for what a crash has left.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tracing::{debug, warn};

use super::bytes::off_runtime;
use super::fetch::forget_unwanted;
use super::{Core, unix_ms};
use crate::model::ContentHash;
use crate::store::StoreError;

/// How often the sweep looks at most and at least, between which a quarter of the grace lies.
const PERIOD_SHORTEST: Duration = Duration::from_millis(100);
const PERIOD_LONGEST: Duration = Duration::from_secs(60);

/// Sweeps until the node stops.
pub(super) async fn run(core: Arc<Core>) {
    let grace = Duration::from_secs(core.config.blob_grace_s);
    let period = (grace / 4).clamp(PERIOD_SHORTEST, PERIOD_LONGEST);
    for first in 0..=u8::MAX {
        match core.stop.run_until_cancelled(note_unnamed(&core, first)).await {
            None => return,
            Some(Ok(())) => {}
            Some(Err(error)) => {
                let error = &error as &dyn std::error::Error;
                warn!(first, error, "what a crash left cannot be looked for, the scrub and the next start will");
            }
        }
    }
    let mut released = Vec::new();
    while core.stop.run_until_cancelled(tokio::time::sleep(period)).await.is_some() {
        if let Err(error) = sweep(&core, grace, &mut released).await {
            warn!(error = &error as &dyn std::error::Error, "blobs cannot be swept, will retry");
        }
        if let Err(error) = forget_unwanted(&core).await {
            warn!(error = &error as &dyn std::error::Error, "what was fetched by half cannot be removed, will retry");
        }
    }
}

/// Notes the files that nothing names, of those whose hash begins with `first`: a crash between the renaming of a file and
/// the commit that was to name it leaves such ones.
async fn note_unnamed(core: &Arc<Core>, first: u8) -> Result<(), StoreError> {
    let begun = Instant::now();
    let (catalog, blobs) = (core.catalog.clone(), core.blobs.clone());
    let unnamed = off_runtime(move || {
        let named = |hash: ContentHash| catalog.names(&hash).map(|named| (!named).then_some(hash)).transpose();
        blobs.files(first)?.into_iter().filter_map(named).collect::<Result<Vec<_>, StoreError>>()
    });
    let unnamed = unnamed.await?;
    if !unnamed.is_empty() {
        note(core, unnamed).await?;
    }
    core.foreground.give_way(begun.elapsed()).await;
    Ok(())
}

/// Notes that blobs may be unnamed, and when that was seen.
async fn note(core: &Core, unnamed: Vec<ContentHash>) -> Result<(), StoreError> {
    let note = core.catalog.transact(move |transaction| {
        unnamed.iter().try_for_each(|hash| transaction.note_loose(hash))?;
        transaction.date_loose(unix_ms())
    });
    note.await
}

/// Sweeps once. What was let go waits in `released` until it is noted.
async fn sweep(core: &Arc<Core>, grace: Duration, released: &mut Vec<ContentHash>) -> Result<(), StoreError> {
    let (catalog, blobs) = (core.catalog.clone(), core.blobs.clone());
    released.extend(off_runtime(move || blobs.take_released()).await);
    let mut unnamed = released.clone();
    let looked = off_runtime(move || {
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
        note(core, unnamed).await?;
        let catalog = core.catalog.clone();
        loose = off_runtime(move || catalog.loose()).await?;
    }
    released.clear();
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
