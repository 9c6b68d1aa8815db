//! Mending: bytes that are damaged or missing here come anew from a peer.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{TryStreamExt as _, stream};
use tracing::{info, warn};

use super::check::{hash_of, note, put_back_if_whole, suspect};
use crate::model::ContentHash;
use crate::node::bytes::{BlobBytes, off_runtime};
use crate::node::fetch::{FetchError, receive};
use crate::node::pace::Pace;
use crate::node::{Backoff, Core};
use crate::store::{NamedBlob, StoreError};

/// How many are mended at a time.
const PARALLEL: usize = 8;

/// How many are looked up at a time.
const PAGE: usize = 1000;

/// How long what no peer could give rests until it is tried again: this, doubled each time, up to the last.
const REST_FIRST: Duration = Duration::from_secs(1);
const REST_LONGEST: Duration = Duration::from_secs(60);

/// How long a read waits for the bytes that it found damaged: below the 3 s after which an edge goes to the next node.
const PATIENCE: Duration = Duration::from_secs(2);

/// Mends what is found, and what could not be mended before, until the node stops.
pub(in crate::node) async fn mend_in_time(core: Arc<Core>) {
    let mut arrivals = core.members.arrivals();
    let mut backoff = Backoff::new(REST_FIRST, REST_LONGEST);
    loop {
        let tried = mend_all(&core).await;
        if let Err(error) = &tried {
            warn!(error = error as &dyn std::error::Error, "blobs cannot be mended, will retry");
        }
        let all_mended = matches!(tried, Ok(true));
        tokio::select! {
            () = core.stop.cancelled() => return,
            () = core.scrub.found.notified() => backoff.reset(),
            // A node that came back may have what the others lack.
            changed = arrivals.changed() => if changed.is_err() { return },
            () = backoff.wait(), if !all_mended => {}
        }
    }
}

/// Tries once to mend all that waits for it, up to a failure of the catalogue or a full disk; answers whether nothing waits
/// any more.
pub(super) async fn mend_all(core: &Arc<Core>) -> Result<bool, StoreError> {
    let _alone = core.scrub.mending.lock().await;
    let mut after = None;
    loop {
        let catalog = core.catalog.clone();
        let damaged = off_runtime(move || catalog.damaged_blobs(after, PAGE)).await?;
        let Some(last) = damaged.last() else { break };
        after = Some(last.hash);
        let damaged = damaged.into_iter().filter(|_| !core.stop.is_cancelled());
        let mend = |blob| async move {
            match mend(core, blob).await {
                // What stands in the way of one says nothing of the others.
                Err(error @ StoreError::File { .. }) => {
                    warn!(hash = %blob.hash, error = &error as &dyn std::error::Error, "a blob cannot be mended");
                    Ok(())
                }
                tried => tried,
            }
        };
        stream::iter(damaged.map(Ok)).try_for_each_concurrent(PARALLEL, mend).await?;
    }
    let catalog = core.catalog.clone();
    off_runtime(move || Ok(catalog.damaged_count()? == 0)).await
}

async fn mend(core: &Arc<Core>, blob: NamedBlob) -> Result<(), StoreError> {
    let NamedBlob { hash, size } = blob;
    let (catalog, blobs) = (core.catalog.clone(), core.blobs.clone());
    let looked = off_runtime(move || {
        let named = catalog.names(&hash)?;
        Ok::<_, StoreError>((named, BlobBytes::open(&catalog, &blobs, &hash)?))
    });
    let (named, opened) = looked.await?;
    if !named {
        return forget(core, hash).await;
    }
    if let Some(bytes) = opened {
        // A write may have brought it.
        if hash_of(core, bytes, &Pace::new(None)).await == Some(hash) {
            return mended(core, hash).await;
        }
        suspect(core, blob).await?;
    }
    if put_back_if_whole(core, hash).await? {
        return mended(core, hash).await;
    }
    // What was made here from another blob is made again.
    let still_named = core.catalog.transact(move |transaction| transaction.forget_variant_blob(&hash)).await?;
    if !still_named {
        return forget(core, hash).await;
    }
    match receive(core, (hash, size), None, || std::future::ready(Ok(true))).await {
        Ok(fresh) => {
            core.catalog.transact(move |transaction| transaction.keep_mended(&fresh)).await?;
            mended(core, hash).await
        }
        Err(FetchError::Store(error)) => Err(error),
        Err(FetchError::NoHolder(_) | FetchError::OnTheirWay | FetchError::Superseded) => Ok(()),
    }
}

async fn mended(core: &Arc<Core>, hash: ContentHash) -> Result<(), StoreError> {
    forget(core, hash).await?;
    info!(%hash, "a blob is whole again");
    core.metrics.blobs.mended_blobs.inc();
    core.scrub.round().mended += 1;
    core.scrub.mended.send_modify(|count| *count += 1);
    Ok(())
}

async fn forget(core: &Arc<Core>, hash: ContentHash) -> Result<(), StoreError> {
    // In this order: without its note nobody would ever come back to the file.
    let blobs = core.blobs.clone();
    off_runtime(move || blobs.forget_aside(&hash)).await?;
    core.scrub.hopeless().remove(&hash);
    core.catalog.transact(move |transaction| transaction.forget_damaged(&hash)).await
}

/// Has the bytes of a blob mended that a read found to be damaged or missing (of a row, those that it has), and waits a
/// moment for it. Answers whether they are here again.
pub(in crate::node) async fn demand(core: &Arc<Core>, blob: NamedBlob, row: Option<Bytes>) -> Result<bool, StoreError> {
    let mut mended = core.scrub.mended.subscribe();
    let is_noted = match row {
        Some(row) => note(core, blob, Some(row.to_vec())).await.map(|_| true)?,
        None => suspect(core, blob).await?,
    };
    // The disk may read well at the second time, or a write have brought the bytes.
    if is_here(core, blob).await? {
        return Ok(true);
    }
    if !is_noted {
        note(core, blob, None).await?;
    }
    core.scrub.found.notify_one();
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while let Ok(Ok(())) = tokio::time::timeout_at(deadline, mended.changed()).await {
        if is_here(core, blob).await? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether a blob can be opened, and is not cut short.
async fn is_here(core: &Arc<Core>, blob: NamedBlob) -> Result<bool, StoreError> {
    let (catalog, blobs) = (core.catalog.clone(), core.blobs.clone());
    let opened = off_runtime(move || BlobBytes::open(&catalog, &blobs, &blob.hash)).await?;
    Ok(opened.is_some_and(|bytes| bytes.size() == blob.size))
}

/// Has a blob mended that a peer asks for, if it should be here.
pub(in crate::node) async fn report_missing(core: &Arc<Core>, hash: ContentHash) -> Result<(), StoreError> {
    let (catalog, blobs) = (core.catalog.clone(), core.blobs.clone());
    let look = move || {
        let size = catalog.named_size(&hash)?;
        // Whoever asked may have come just before it was listed.
        Ok::<_, StoreError>(if BlobBytes::open(&catalog, &blobs, &hash)?.is_none() { size } else { None })
    };
    if let Some(size) = off_runtime(look).await?
        && note(core, NamedBlob { hash, size }, None).await?
    {
        core.scrub.found.notify_one();
    }
    Ok(())
}
