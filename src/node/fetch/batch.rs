//! Fetching many small blobs with one request, and listing them with one commit.

use std::collections::{BTreeSet, HashMap};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use tokio::time::timeout;
use tracing::{debug, warn};

use super::{End, came, holders, list, postpone};
use crate::client::{ClientError, Peer};
use crate::model::ContentHash;
use crate::node::Core;
use crate::node::bytes::off_runtime;
use crate::protocol::blobs::{BLOB_BYTES_MAX, HASHES_MAX};
use crate::store::{FreshBlob, SMALL_BLOB_BYTES_MAX, StoreError, Want};

/// How many wants are fetched together.
pub(super) const WANTS_MAX: usize = HASHES_MAX;

/// How many while users are answered: a core reads and hashes so many in a moment.
pub(super) const WANTS_MAX_BUSY: usize = 32;

const _: () = assert!(BLOB_BYTES_MAX == SMALL_BLOB_BYTES_MAX, "what is wanted in batches is given in batches");

/// How long a peer may take for each part of its answer: the rows are read at once, and another one may be quicker.
const PATIENCE: Duration = Duration::from_secs(5);

/// Fetches `wants`, whose blobs are small.
pub(super) async fn fetch(core: &Arc<Core>, wants: &[Want]) -> Result<End, StoreError> {
    let blobs = core.blobs.clone();
    off_runtime(move || blobs.require_room(0)).await?;
    // Many keys may have the same bytes, which came with the first of them.
    let mut missing = list_held(core, wants.to_vec()).await?;
    let mut last = None;
    let first = missing.first().map(|want| want.peer.clone());
    for holder in holders(core, first.as_ref()) {
        if missing.is_empty() {
            return Ok(End::Kept);
        }
        let sizes: HashMap<_, _> = missing
            .iter()
            .filter_map(|want| want.entry.content())
            .map(|content| (content.hash, content.size))
            .collect();
        let peer = core.members.peer(&holder);
        let receiving = receive(core, &peer, &sizes);
        // An upload that waits for this copy is a user, too.
        let hurries = missing.iter().any(|want| core.receipts.is_promised(&want.entry.key));
        let (came, failure) = if hurries { receiving.await } else { core.foreground.in_turn(receiving).await };
        if let Some(error) = failure {
            debug!(peer = %holder.id, error = &error as &dyn std::error::Error, "a holder failed");
            last = Some(error);
        }
        let came = take_in(core, came).await?;
        let (here, rest): (Vec<_>, Vec<_>) = missing
            .into_iter()
            .partition(|want| want.entry.content().is_some_and(|content| came.contains_key(&content.hash)));
        missing = rest;
        missing.extend(list(core, here, came).await?);
    }
    if missing.is_empty() {
        return Ok(End::Kept);
    }
    postpone(core, missing, last.as_ref()).await?;
    Ok(End::NoHolder)
}

/// Lists those of `wants` whose bytes are held, and answers the others.
async fn list_held(core: &Arc<Core>, wants: Vec<Want>) -> Result<Vec<Want>, StoreError> {
    let catalog = core.catalog.clone();
    let looked = off_runtime(move || -> Result<_, StoreError> {
        let (mut held, mut missing) = (Vec::new(), Vec::new());
        for want in wants {
            let named = want.entry.content().map(|content| catalog.names(&content.hash)).transpose()?;
            if named == Some(true) { held.push(want) } else { missing.push(want) }
        }
        Ok((held, missing))
    });
    let (held, mut missing) = looked.await?;
    missing.extend(list(core, held, HashMap::new()).await?);
    Ok(missing)
}

/// What `peer` gives of the blobs of these sizes, and why it did not go on.
async fn receive(
    core: &Core,
    peer: &Peer,
    sizes: &HashMap<ContentHash, u64>,
) -> (Vec<(ContentHash, Bytes)>, Option<ClientError>) {
    let hashes: BTreeSet<_> = sizes.keys().copied().collect();
    let mut given = Vec::with_capacity(hashes.len());
    let mut reply = match in_time(peer, peer.blobs(hashes.into_iter().collect())).await {
        Ok(reply) => reply,
        // A node of the version before does not know the question.
        Err(error) if matches!(error.status(), Some(StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED)) => {
            return receive_singly(core, peer, sizes).await;
        }
        Err(error) => return (given, Some(error)),
    };
    // One answer for each question: a peer that answers more would be heard for ever.
    for _ in 0..=sizes.len() {
        match in_time(peer, reply.blob()).await {
            Ok(None) => break,
            Err(error) => return (given, Some(error)),
            Ok(Some(blob)) => {
                let Some(bytes) = blob.bytes else { continue };
                came(core, bytes.len()).await;
                if sizes.get(&blob.hash) == Some(&(bytes.len() as u64)) && given.len() < sizes.len() {
                    given.push((blob.hash, bytes));
                }
            }
        }
    }
    (given, None)
}

/// As [`receive`], with a request for each.
async fn receive_singly(
    core: &Core,
    peer: &Peer,
    sizes: &HashMap<ContentHash, u64>,
) -> (Vec<(ContentHash, Bytes)>, Option<ClientError>) {
    let (mut given, mut last) = (Vec::with_capacity(sizes.len()), None);
    for (hash, size) in sizes {
        let read = async { peer.blob(hash, 0).await?.read_all(SMALL_BLOB_BYTES_MAX as usize).await };
        match in_time(peer, read).await {
            Ok(bytes) => {
                came(core, bytes.len()).await;
                if *size == bytes.len() as u64 {
                    given.push((*hash, bytes));
                }
            }
            Err(error) if error.status() == Some(StatusCode::NOT_FOUND) => {}
            Err(error) => {
                last = Some(error);
                break;
            }
        }
    }
    (given, last)
}

async fn in_time<T>(peer: &Peer, answer: impl Future<Output = Result<T, ClientError>>) -> Result<T, ClientError> {
    let late = |_| ClientError::Late { address: peer.address().clone(), after: PATIENCE };
    timeout(PATIENCE, answer).await.map_err(late)?
}

/// Verifies what came; what does not hash to its name is left out.
async fn take_in(
    core: &Arc<Core>,
    came: Vec<(ContentHash, Bytes)>,
) -> Result<HashMap<ContentHash, FreshBlob>, StoreError> {
    let blobs = core.blobs.clone();
    let take_in = move || {
        let mut taken = HashMap::with_capacity(came.len());
        for (hash, bytes) in came {
            let mut writer = blobs.create();
            writer.write(&bytes)?;
            match writer.finish(Some(hash)) {
                Ok(blob) => drop(taken.insert(hash, blob)),
                Err(StoreError::Mismatch { .. }) => warn!(%hash, "fetched bytes are not those announced"),
                Err(error) => return Err(error),
            }
        }
        Ok(taken)
    };
    off_runtime(take_in).await
}
