//! Fetching one blob: resumed where it broke off, also after a restart, at whoever holds it.

use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;

use tracing::{debug, warn};

use super::{End, came, holders, list, postpone};
use crate::client::{ClientError, Peer};
use crate::model::{ContentHash, NodeId};
use crate::node::Core;
use crate::node::bytes::{Intake, off_runtime};
use crate::store::{FreshBlob, StoreError, Want};

/// After so many bytes a long fetch looks whether its object is still wanted.
const LOOK_BYTES: u64 = 16 << 20;

/// Why bytes did not come.
#[derive(Debug, thiserror::Error)]
pub(in crate::node) enum FetchError {
    /// Nobody has them, or gives them now.
    #[error("no peer could give the bytes")]
    NoHolder(#[source] Option<ClientError>),
    /// They are not wanted any more.
    #[error("the object was written or deleted anew")]
    Superseded,
    /// Somebody else is fetching them.
    #[error("the bytes are on their way")]
    OnTheirWay,
    /// This node cannot keep them.
    #[error("the bytes cannot be kept")]
    Store(#[from] StoreError),
}

/// Fetches the blob of one want.
pub(super) async fn fetch(core: &Arc<Core>, want: &Want) -> Result<End, StoreError> {
    let Some(content) = want.entry.content() else { return Ok(End::Kept) };
    let catalog = core.catalog.clone();
    let hash = content.hash;
    if off_runtime(move || catalog.names(&hash)).await?
        && list(core, vec![want.clone()], HashMap::new()).await?.is_empty()
    {
        return Ok(End::Kept);
    }
    let is_wanted = || {
        let (catalog, entry) = (core.catalog.clone(), want.entry.clone());
        off_runtime(move || catalog.wants_version(&entry))
    };
    match receive(core, (hash, content.size), Some(&want.peer), is_wanted).await {
        Ok(blob) => {
            list(core, vec![want.clone()], HashMap::from([(hash, blob)])).await?;
            Ok(End::Kept)
        }
        Err(FetchError::Superseded) => Ok(End::Kept),
        Err(FetchError::Store(StoreError::Full)) => no_room(core, want).await.map(|()| End::NoHolder),
        Err(FetchError::Store(error)) => Err(error),
        Err(FetchError::OnTheirWay) => postpone(core, vec![want.clone()], None).await.map(|()| End::NoHolder),
        Err(FetchError::NoHolder(last)) => {
            postpone(core, vec![want.clone()], last.as_ref()).await.map(|()| End::NoHolder)
        }
    }
}

/// Notes that there is no room for what `want` asks for: others may be smaller.
async fn no_room(core: &Core, want: &Want) -> Result<(), StoreError> {
    let (key, size) = (&want.entry.key, want.entry.content().map_or(0, |content| content.size));
    if want.failures.is_power_of_two() || want.failures == 0 {
        warn!(%key, size, failures = want.failures, "the disk has no room for the bytes, will retry");
    }
    core.metrics.failed_fetches.inc();
    let entry = want.entry.clone();
    core.catalog.transact(move |transaction| transaction.postpone_want(&entry)).await
}

/// Brings bytes here, for as long as they are wanted: asks one holder after the other, `first` before its equals, and all
/// of them again for as long as a round brings anything.
pub(in crate::node) async fn receive<W: Future<Output = Result<bool, StoreError>>>(
    core: &Arc<Core>,
    (hash, size): (ContentHash, u64),
    first: Option<&NodeId>,
    is_wanted: impl Fn() -> W,
) -> Result<FreshBlob, FetchError> {
    let _claim = core.fetching.claim(hash).ok_or(FetchError::OnTheirWay)?;
    let mut intake = Intake::resume(core.blobs.clone(), hash, size).await?;
    let (blobs, rest) = (core.blobs.clone(), size.saturating_sub(intake.size()));
    if let Err(error) = off_runtime(move || blobs.require_room(rest)).await {
        // What came of it must not keep others out.
        intake.discard();
        return Err(error.into());
    }
    let mut last = None;
    loop {
        let before = intake.size();
        for holder in holders(core, first) {
            match read_rest(core, &mut intake, &core.members.peer(&holder), (hash, size), &is_wanted).await {
                Ok(()) => {}
                Err(FetchError::NoHolder(error)) => {
                    debug!(peer = %holder.id, %hash, ?error, "a holder failed");
                    last = error;
                    continue;
                }
                Err(error) => {
                    if matches!(error, FetchError::Superseded) {
                        intake.discard();
                    }
                    return Err(error);
                }
            }
            let came = intake.size();
            match intake.finish(Some(hash)).await {
                Ok(blob) => return Ok(blob),
                // Parts of several holders may be in it, so none is to blame for certain; the next starts afresh.
                Err(StoreError::Mismatch { .. }) => {
                    warn!(peer = %holder.id, %hash, came, "fetched bytes are not those announced");
                    intake = Intake::resume(core.blobs.clone(), hash, size).await?;
                }
                Err(error) => return Err(error.into()),
            }
        }
        if intake.size() <= before {
            return Err(FetchError::NoHolder(last));
        }
    }
}

/// Removes what came of bytes that are not to be fetched any more and that nobody is fetching: who ended for want of a
/// holder left it, to go on there.
pub(in crate::node) async fn forget_unwanted(core: &Arc<Core>) -> Result<(), StoreError> {
    let blobs = core.blobs.clone();
    for hash in off_runtime(move || blobs.unfinished()).await? {
        let Some(_claim) = core.fetching.claim(hash) else { continue };
        let (catalog, blobs) = (core.catalog.clone(), core.blobs.clone());
        off_runtime(move || if catalog.awaits_blob(&hash)? { Ok(()) } else { blobs.forget_unfinished(&hash) }).await?;
    }
    Ok(())
}

/// Reads from `peer` what is still missing of the bytes.
async fn read_rest<W: Future<Output = Result<bool, StoreError>>>(
    core: &Core,
    intake: &mut Intake,
    peer: &Peer,
    (hash, size): (ContentHash, u64),
    is_wanted: &impl Fn() -> W,
) -> Result<(), FetchError> {
    let failed = |error| FetchError::NoHolder(Some(error));
    if intake.size() >= size && size > 0 {
        return Ok(());
    }
    let mut look_at = intake.size() + LOOK_BYTES;
    let mut body = peer.blob(&hash, intake.size()).await.map_err(failed)?;
    while let Some(bytes) = body.chunk().await.map_err(failed)? {
        came(core, bytes.len()).await;
        // More than announced is wrong in any case; the hash will say so, and no more of it is read.
        let rest = size.saturating_sub(intake.size()).saturating_add(1);
        intake.write(&bytes[..bytes.len().min(usize::try_from(rest).unwrap_or(usize::MAX))]).await?;
        if intake.size() > size {
            break;
        }
        if intake.size() >= look_at {
            look_at = intake.size() + LOOK_BYTES;
            if !is_wanted().await? {
                return Err(FetchError::Superseded);
            }
        }
    }
    Ok(())
}
