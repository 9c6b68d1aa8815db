//! Fetching the bytes that are wanted: in parallel, from any holder, resumed where they broke off, verified by hash.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tracing::{debug, warn};

use super::bytes::{Intake, off_runtime};
use super::{Core, unix_ms};
use crate::client::{ClientError, Peer};
use crate::model::{Content, EntryKey};
use crate::store::{StoreError, Want};

/// How long a want waits after its first failure, and at most; it doubles in between.
const RETRY_MS_FIRST: u64 = 200;
const RETRY_MS_MAX: u64 = 5_000;

/// How often wants are looked at although nothing was reported: those put off come due.
const LOOK_PERIOD: Duration = Duration::from_millis(500);

/// Fetches what is wanted until the node stops.
pub(super) async fn run(core: Arc<Core>) {
    let mut progress = core.catalog.progress();
    let mut tasks = JoinSet::new();
    let mut fetching: HashSet<EntryKey> = HashSet::new();
    loop {
        let free = core.config.fetch_parallel.get().saturating_sub(fetching.len());
        let wanted = progress.borrow_and_update().wants;
        if free > 0 && wanted > 0 {
            for want in due(&core, free, &fetching).await {
                fetching.insert(want.entry.key.clone());
                tasks.spawn(fetch(core.clone(), want));
            }
        }
        tokio::select! {
            () = core.stop.cancelled() => break,
            Some(ended) = tasks.join_next() => match ended {
                Ok(key) => drop(fetching.remove(&key)),
                Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
                Err(_) => {}
            },
            // While all places are taken only an end of a fetch is news.
            changed = progress.changed(), if free > 0 => if changed.is_err() { break },
            () = tokio::time::sleep(LOOK_PERIOD), if wanted > 0 && free > 0 => {}
        }
    }
    tasks.shutdown().await;
}

/// Up to `free` wants whose time has come and that are not being fetched.
async fn due(core: &Arc<Core>, free: usize, fetching: &HashSet<EntryKey>) -> Vec<Want> {
    let catalog = core.catalog.clone();
    let limit = free + fetching.len();
    match off_runtime(move || catalog.wants(unix_ms(), limit)).await {
        Ok(wants) => wants.into_iter().filter(|want| !fetching.contains(&want.entry.key)).take(free).collect(),
        Err(error) => {
            warn!(error = &error as &dyn std::error::Error, "wants cannot be read, will retry");
            Vec::new()
        }
    }
}

/// Fetches one want; whatever comes of it, the catalogue knows afterwards.
async fn fetch(core: Arc<Core>, want: Want) -> EntryKey {
    let key = want.entry.key.clone();
    let result = match want.entry.content() {
        Some(content) => receive(&core, &want, content).await,
        None => Ok(()),
    };
    let recorded = match result {
        Ok(()) => {
            let entry = want.entry;
            core.catalog
                .transact(move |transaction| match transaction.listed(&entry.key)? {
                    Some(listed) if !entry.supersedes(&listed) => Ok(()),
                    _ => transaction.list(&entry),
                })
                .await
        }
        Err(error) => {
            core.metrics.failed_fetches.inc();
            debug!(%key, error = &error as &dyn std::error::Error, "fetch failed, will retry");
            let wait_ms = (RETRY_MS_FIRST << want.failures.min(10)).min(RETRY_MS_MAX);
            core.catalog.transact(move |transaction| transaction.postpone_want(&want.entry, unix_ms() + wait_ms)).await
        }
    };
    if let Err(error) = recorded {
        warn!(%key, error = &error as &dyn std::error::Error, "the end of a fetch cannot be recorded");
        // On a full disk the want cannot be put off in the catalogue; without a wait it would be fetched in a circle.
        tokio::time::sleep(Duration::from_millis(RETRY_MS_MAX)).await;
    }
    key
}

#[derive(Debug, thiserror::Error)]
enum FetchError {
    #[error("no peer could give the bytes")]
    NoHolder(#[source] Option<ClientError>),
    #[error("the bytes cannot be kept")]
    Store(#[from] StoreError),
}

/// Brings the bytes of `want` to the disk.
async fn receive(core: &Arc<Core>, want: &Want, content: &Content) -> Result<(), FetchError> {
    let mut holders = core.members.others();
    // The peer that listed the entry holds the bytes for certain, so among equals it goes first.
    holders.sort_by_key(|node| (core.members.liveness(&node.id), node.id != want.peer));
    let mut intake = Intake::new(core.blobs.clone());
    let mut last = None;
    for holder in holders {
        let peer = core.members.peer(&holder);
        match read_rest(&mut intake, &peer, content).await {
            Ok(()) => {}
            Err(FetchError::NoHolder(error)) => {
                last = error;
                continue;
            }
            Err(error) => return Err(error),
        }
        let whole = std::mem::replace(&mut intake, Intake::new(core.blobs.clone()));
        match whole.finish(Some(content.hash)).await {
            Ok(_) => return Ok(()),
            // Parts of several holders may be in it, so none is to blame for certain; the next one starts afresh.
            Err(error @ StoreError::Mismatch { .. }) => {
                warn!(peer = %holder.id, error = &error as &dyn std::error::Error, "fetched bytes are wrong");
            }
            Err(error) => return Err(error.into()),
        }
    }
    Err(FetchError::NoHolder(last))
}

/// Reads from `peer` what is still missing of the bytes.
async fn read_rest(intake: &mut Intake, peer: &Peer, content: &Content) -> Result<(), FetchError> {
    let failed = |error| FetchError::NoHolder(Some(error));
    if intake.size() >= content.size && content.size > 0 {
        return Ok(());
    }
    let mut body = peer.blob(&content.hash, intake.size()).await.map_err(failed)?;
    while let Some(bytes) = body.chunk().await.map_err(failed)? {
        // More than announced is wrong in any case; the hash will say so, and no more of it is read.
        let rest = content.size.saturating_sub(intake.size()).saturating_add(1);
        let kept = &bytes[..bytes.len().min(usize::try_from(rest).unwrap_or(usize::MAX))];
        intake.write(kept).await?;
        if intake.size() > content.size {
            break;
        }
    }
    Ok(())
}
