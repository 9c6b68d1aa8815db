//! Fetching the bytes that are wanted, from any holder, verified by hash: small ones many at a time, others one by one and
//! resumed where they broke off. What was asked for here comes first, then what is new.

mod batch;
mod lost;
mod places;
mod single;

use std::collections::{HashMap, HashSet};
use std::num::NonZeroU64;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use prometheus_client::metrics::counter::Counter;
use tokio::task::JoinSet;
use tracing::{info, warn};

use super::Core;
use super::bytes::off_runtime;
use super::hot::Hot;
use super::pace::Pace;
use crate::client::ClientError;
use crate::model::{ContentHash, Liveness, Node, NodeId, Version};
use crate::replicate::{self, Ledger as _};
use crate::store::{FreshBlob, StoreError, Want};
use places::{Places, is_small};
pub(super) use single::{FetchError, forget_unwanted, receive};

/// How many wants one commit lists at most while users are answered: they wait for it.
const LISTED_MAX_BUSY: usize = 16;

/// What fetches share.
pub(super) struct Fetching {
    pub(super) hot: Hot,
    pace: Pace,
    /// Blobs that are being fetched: an unfinished one has but one writer.
    claimed: Mutex<HashSet<ContentHash>>,
    /// Whether it was told that the disk is full.
    is_full: AtomicBool,
}

/// The right to fetch one blob, until it is dropped.
struct Claim<'a> {
    fetching: &'a Fetching,
    hash: ContentHash,
}

impl Fetching {
    pub(super) fn new(bytes_per_second: Option<NonZeroU64>) -> Self {
        Self {
            hot: Hot::default(),
            pace: Pace::new(bytes_per_second),
            claimed: Mutex::default(),
            is_full: AtomicBool::default(),
        }
    }

    /// The right to fetch `hash`; `None` while somebody else does.
    fn claim(&self, hash: ContentHash) -> Option<Claim<'_>> {
        let fresh = self.claimed.lock().unwrap_or_else(PoisonError::into_inner).insert(hash);
        fresh.then_some(Claim { fetching: self, hash })
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        self.fetching.claimed.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.hash);
    }
}

/// Fetches what is wanted until the node stops.
pub(super) async fn run(core: Arc<Core>) {
    let mut progress = core.catalog.progress();
    let mut arrivals = core.members.arrivals();
    let mut places = Places::new(core.config.fetch_parallel.get());
    let mut tasks = JoinSet::new();
    loop {
        if progress.borrow_and_update().wants > 0 && places.are_free() {
            match due(&core, &mut places).await {
                Ok(works) => {
                    for work in works {
                        tasks.spawn(perform(core.clone(), work));
                    }
                }
                Err(error) => {
                    warn!(error = &error as &dyn std::error::Error, "wants cannot be read, will retry");
                    places.rest_all();
                }
            }
        }
        let rest = places.rest();
        tokio::select! {
            () = core.stop.cancelled() => break,
            Some(ended) = tasks.join_next() => match ended {
                Ok(fetched) => places.give_back(&fetched),
                Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
                Err(_) => {}
            },
            // While all places are taken only the end of a fetch is news.
            changed = progress.changed(), if places.are_free() => if changed.is_err() { break },
            () = core.fetching.hot.news(), if places.are_free() => {}
            // A node that came back may hold what the others lack.
            changed = arrivals.changed() => if changed.is_err() { break } else { places.retry_failed() },
            () = tokio::time::sleep_until(rest.unwrap_or_else(tokio::time::Instant::now)), if rest.is_some() => {}
        }
    }
    tasks.shutdown().await;
}

/// Wants that are fetched together: many small ones, or one other.
struct Work {
    wants: Vec<Want>,
}

/// Which work is done now.
async fn due(core: &Arc<Core>, places: &mut Places) -> Result<Vec<Work>, StoreError> {
    let (catalog, hot) = (core.catalog.clone(), core.fetching.hot.take());
    let (small, large, size_max) = (places.small_limit(), places.large_limit(), places.size_max());
    let read = off_runtime(move || -> Result<_, StoreError> {
        let mut wants = Vec::new();
        for key in hot {
            wants.extend(catalog.wants_of(&key)?);
        }
        let hot = wants.len();
        if small > 0 {
            wants.extend(catalog.small_wants(small)?);
        }
        if large > 0 {
            wants.extend(catalog.large_wants(size_max, large)?);
        }
        Ok((wants, hot))
    });
    let (wants, hot) = read.await?;
    let mut works: Vec<Work> = Vec::new();
    let (mut batch, mut not_yet) = (Vec::new(), Vec::new());
    let most = if core.foreground.is_busy() { batch::WANTS_MAX_BUSY } else { batch::WANTS_MAX };
    for (place, want) in wants.into_iter().enumerate() {
        let hot = place < hot;
        if !places.may_take(&want) {
            if hot && !places.runs(&want) {
                not_yet.push(want.entry.key);
            }
            continue;
        }
        places.take(&want);
        match is_small(&want) {
            true => batch.push(want),
            false => works.push(Work { wants: vec![want] }),
        }
        if batch.len() == most {
            places.take_batch();
            works.push(Work { wants: std::mem::take(&mut batch) });
        }
    }
    core.fetching.hot.put_back(not_yet);
    if !batch.is_empty() {
        places.take_batch();
        works.push(Work { wants: batch });
    }
    Ok(works)
}

/// Tells once that the disk is full, and once that it is not any more.
fn tell_of_room(core: &Core, is_full: bool) {
    match (core.fetching.is_full.swap(is_full, Ordering::Relaxed), is_full) {
        (false, true) => warn!("the disk is full: what others have is not fetched, will retry"),
        (true, false) => info!("there is room on the disk again"),
        _ => {}
    }
}

/// What came of wants that were fetched together.
struct Fetched {
    wants: Vec<Want>,
    end: End,
}

enum End {
    /// All are listed, or not wanted any more.
    Kept,
    /// Some no peer gave the bytes of.
    NoHolder,
    /// This node could not store them.
    NotStored,
}

/// Fetches wants and records what came of them.
async fn perform(core: Arc<Core>, Work { wants }: Work) -> Fetched {
    let fetched = match wants.as_slice() {
        [want] if !is_small(want) => single::fetch(&core, want).await,
        wants => batch::fetch(&core, wants).await,
    };
    let end = match fetched {
        Ok(end) => {
            tell_of_room(&core, false);
            end
        }
        Err(StoreError::Full) => {
            tell_of_room(&core, true);
            End::NotStored
        }
        Err(error) => {
            warn!(error = &error as &dyn std::error::Error, "fetched bytes cannot be stored");
            End::NotStored
        }
    };
    Fetched { wants, end }
}

/// Lists `wants`, whose bytes are in `blobs` or held already. Answers those for which neither is true any more.
async fn list(
    core: &Arc<Core>,
    mut wants: Vec<Want>,
    blobs: HashMap<ContentHash, FreshBlob>,
) -> Result<Vec<Want>, StoreError> {
    let blobs = Arc::new(blobs);
    let mut missing = Vec::new();
    // An upload that waits for this copy is a user, too.
    let hurries = wants.iter().any(|want| core.receipts.is_promised(&want.entry.key));
    while !wants.is_empty() {
        let gives_way = !hurries && core.foreground.is_busy();
        let count = if gives_way { wants.len().min(LISTED_MAX_BUSY) } else { wants.len() };
        let part: Vec<Want> = wants.drain(..count).collect();
        let blobs = blobs.clone();
        let work = core.catalog.transact(move |transaction| {
            let mut missing = Vec::new();
            let mut held: Vec<(_, Version)> = Vec::new();
            for want in part {
                let Some(content) = want.entry.content() else { continue };
                // One entry may lie about the size where another one does not.
                let blob = blobs.get(&content.hash).filter(|blob| blob.size() == content.size);
                if blob.is_none() && !transaction.holds(content)? {
                    missing.push(want);
                    continue;
                }
                if replicate::conclude(transaction, &want.entry)?
                    && let Some(blob) = blob
                {
                    transaction.keep_blob(blob)?;
                }
                held.push((want.entry.key, want.entry.version));
            }
            Ok((missing, held))
        });
        let listed = if gives_way { core.foreground.in_turn(work).await } else { work.await };
        let (still_missing, held) = listed?;
        missing.extend(still_missing);
        for (key, version) in &held {
            core.receipts.held(key, version);
        }
    }
    Ok(missing)
}

/// Notes that nobody gave the bytes of `wants`: what never failed is tried before them.
async fn postpone(core: &Arc<Core>, wants: Vec<Want>, last: Option<&ClientError>) -> Result<(), StoreError> {
    core.metrics.failed_fetches.inc_by(wants.len() as u64);
    // Once is a restart somewhere; what fails again and again someone should know of.
    if let Some(want) = wants.iter().find(|want| want.failures == 3) {
        let error = last.map(|error| error as &dyn std::error::Error);
        warn!(key = %want.entry.key, error, "no peer gives the bytes, will retry");
    }
    let postponed = wants.clone();
    let note = core
        .catalog
        .transact(move |transaction| postponed.iter().try_for_each(|want| transaction.postpone_want(&want.entry)));
    note.await?;
    lost::give_up_lost(core, &wants).await
}

/// Who may hold bytes that `peer` has listed, in the order in which they are asked.
fn holders(core: &Core, peer: Option<&NodeId>) -> Vec<Node> {
    let mut holders = core.members.others();
    holders.retain(|node| core.members.liveness(&node.id) != Liveness::Down);
    // The peer that listed the entry holds the bytes for certain, so among equals it goes first.
    holders.sort_by_cached_key(|node| (core.members.liveness(&node.id), Some(&node.id) != peer));
    holders
}

/// Counts bytes that came from peers, within the bound on them.
async fn came(core: &Core, bytes: usize) {
    let counted: &Counter = &core.metrics.blobs.fetched_bytes;
    counted.inc_by(bytes as u64);
    core.fetching.pace.take(bytes).await;
}
