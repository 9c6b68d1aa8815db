//! Looking whether blobs are there and are what their names say.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Instant;

use tracing::{error, warn};

use crate::model::ContentHash;
use crate::node::bytes::{BlobBytes, off_runtime};
use crate::node::pace::Pace;
use crate::node::{Core, unix_ms};
use crate::store::{NamedBlob, StoreError};

/// How much of a file is hashed at once.
const READ_BYTES: u64 = 1 << 20;

/// How many rows are read at once.
const ROWS_MAX: usize = 64;

/// What a look through a part of the blobs has seen.
#[derive(Debug, Default)]
pub(super) struct Looked {
    pub(super) blobs: u64,
    pub(super) bytes: u64,
    pub(super) damaged: u64,
    pub(super) missing: u64,
}

/// Looks through the blobs whose hash begins with `first`; what is damaged or missing is noted, and so is what nothing
/// names.
pub(super) async fn part(core: &Arc<Core>, first: u8, pace: &Pace) -> Result<Looked, StoreError> {
    let (catalog, blobs) = (core.catalog.clone(), core.blobs.clone());
    let read = move || Ok::<_, StoreError>((catalog.named_blobs(first)?, blobs.files(first)?));
    let (named, files) = off_runtime(read).await?;
    let mut unseen: BTreeMap<ContentHash, u64> = named.into_iter().map(|blob| (blob.hash, blob.size)).collect();
    let (mut unnamed, mut rows_whole) = (Vec::new(), HashSet::new());
    let mut looked = Looked::default();
    let mut after = None;
    loop {
        let catalog = core.catalog.clone();
        let rows = off_runtime(move || catalog.small_blobs(first, after, ROWS_MAX)).await?;
        let Some((last, _)) = rows.last() else { break };
        after = Some(*last);
        let begun = Instant::now();
        pace.take(rows.iter().map(|(_, bytes)| bytes.len()).sum()).await;
        for (hash, bytes) in rows {
            looked.blobs += 1;
            looked.bytes += bytes.len() as u64;
            match unseen.remove(&hash) {
                None => unnamed.push(hash),
                Some(size) if ContentHash::of(&bytes) != hash => {
                    note(core, NamedBlob { hash, size }, Some(bytes)).await?;
                    looked.damaged += 1;
                }
                Some(_) => drop(rows_whole.insert(hash)),
            }
        }
        core.foreground.give_way(begun.elapsed()).await;
    }
    for hash in files {
        if rows_whole.contains(&hash) {
            take_away(core, hash).await;
            continue;
        }
        let size = unseen.remove(&hash);
        let (is_whole, bytes) = is_whole(core, hash, pace).await?;
        looked.blobs += 1;
        looked.bytes += bytes;
        match size {
            None => unnamed.push(hash),
            Some(size) if !is_whole && suspect(core, NamedBlob { hash, size }).await? => looked.damaged += 1,
            Some(_) => {}
        }
    }
    looked.missing = look_for(core, unseen).await?;
    core.metrics.blobs.scrubbed_bytes.inc_by(looked.bytes);
    if !unnamed.is_empty() {
        // Most of them are on their way to a name, and the sweep will see it.
        let note =
            core.catalog.transact(move |transaction| unnamed.iter().try_for_each(|hash| transaction.note_loose(hash)));
        note.await?;
    }
    Ok(looked)
}

/// Takes the file of a blob away that is a whole row of the catalogue, too: nobody reads it.
async fn take_away(core: &Core, hash: ContentHash) {
    let blobs = core.blobs.clone();
    if let Err(error) = off_runtime(move || blobs.take_away(&hash).map(drop)).await {
        warn!(error = &error as &dyn std::error::Error, "the file of a blob cannot be taken away, the next round will");
    }
}

/// Looks once more for what was not seen: it may have come, gone or been overwritten meanwhile. Answers how many are
/// missing.
async fn look_for(core: &Arc<Core>, unseen: BTreeMap<ContentHash, u64>) -> Result<u64, StoreError> {
    let mut missing = 0;
    for (hash, size) in unseen {
        let (catalog, blobs) = (core.catalog.clone(), core.blobs.clone());
        let look =
            move || Ok::<_, StoreError>(catalog.names(&hash)? && BlobBytes::open(&catalog, &blobs, &hash)?.is_none());
        if off_runtime(look).await? {
            missing += u64::from(note(core, NamedBlob { hash, size }, None).await?);
        }
    }
    Ok(missing)
}

/// Puts a file that seems to be damaged where nobody is served by it, and looks once more: a disk may read well at the
/// second time, and a write may just have replaced it. Answers whether it is damaged.
pub(super) async fn suspect(core: &Arc<Core>, blob: NamedBlob) -> Result<bool, StoreError> {
    let (blobs, hash) = (core.blobs.clone(), blob.hash);
    match off_runtime(move || blobs.set_aside(&hash)).await {
        Ok(false) => return Ok(false),
        Ok(true) => {
            core.scrub.hopeless().remove(&hash);
            if put_back_if_whole(core, hash).await? {
                return Ok(false);
            }
        }
        // What is brought anew takes its name.
        Err(error) => warn!(%hash, error = &error as &dyn std::error::Error, "a damaged file cannot be set aside"),
    }
    note(core, blob, None).await?;
    Ok(true)
}

/// Puts the file of a blob back that was set aside, if there is one and it is whole; answers whether it was. A node that
/// ends before it has looked once more leaves such ones.
pub(super) async fn put_back_if_whole(core: &Arc<Core>, hash: ContentHash) -> Result<bool, StoreError> {
    if core.scrub.hopeless().contains(&hash) {
        return Ok(false);
    }
    let blobs = core.blobs.clone();
    let Some((file, size)) = off_runtime(move || blobs.read_aside(&hash)).await? else { return Ok(false) };
    let is_whole = hash_of(core, BlobBytes::File(Arc::new(file), size), &Pace::new(None)).await == Some(hash);
    if is_whole {
        let blobs = core.blobs.clone();
        off_runtime(move || blobs.put_back(&hash)).await?;
    } else {
        core.scrub.hopeless().insert(hash);
    }
    Ok(is_whole)
}

/// Notes that a blob is damaged or missing; of a row, which bytes it has. Answers whether that is news.
pub(super) async fn note(core: &Arc<Core>, blob: NamedBlob, row: Option<Vec<u8>>) -> Result<bool, StoreError> {
    let noted = core.catalog.transact(move |transaction| transaction.note_damaged(blob, row.as_deref(), unix_ms()));
    let news = noted.await?;
    if news {
        error!(hash = %blob.hash, size = blob.size, "a blob is damaged or missing on the disk");
        core.metrics.blobs.damaged_blobs.inc();
    }
    Ok(news)
}

/// Whether the file of `hash` is there and is what its name says, and its size.
async fn is_whole(core: &Arc<Core>, hash: ContentHash, pace: &Pace) -> Result<(bool, u64), StoreError> {
    let blobs = core.blobs.clone();
    let Some((file, size)) = off_runtime(move || blobs.read(&hash)).await? else { return Ok((false, 0)) };
    let found = hash_of(core, BlobBytes::File(Arc::new(file), size), pace).await;
    Ok((found == Some(hash), size))
}

/// The hash of bytes; `None` if they cannot be read.
pub(super) async fn hash_of(core: &Core, bytes: BlobBytes, pace: &Pace) -> Option<ContentHash> {
    let mut hasher = blake3::Hasher::new();
    let mut start = 0;
    while start < bytes.size() {
        let end = bytes.size().min(start + READ_BYTES);
        pace.take((end - start) as usize).await;
        let begun = Instant::now();
        let bytes = bytes.clone();
        let read = off_runtime(move || {
            bytes.read(start..end).map(|part| {
                hasher.update(&part);
                hasher
            })
        });
        hasher = read.await.ok()?;
        start = end;
        core.foreground.give_way(begun.elapsed()).await;
    }
    Some(ContentHash::new(*hasher.finalize().as_bytes()))
}
