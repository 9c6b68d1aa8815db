//! Fetching the bytes that are wanted: in parallel, from any holder, resumed where they broke off, verified by hash.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::{debug, warn};

use super::Core;
use super::bytes::{Intake, off_runtime};
use crate::client::{ClientError, Peer};
use crate::model::{Content, Liveness, Version};
use crate::replicate;
use crate::store::{FreshBlob, StoreError, Want};

/// Objects up to this size are small; a part of the places is theirs, so that large ones never hold them up.
const SMALL_BYTES: u64 = 1 << 20;

/// How long failed wants rest after a failure: this, doubled for each earlier failure, up to the last.
const REST_FIRST: Duration = Duration::from_millis(200);
const REST_LONGEST: Duration = Duration::from_secs(5);

/// How long everything rests when this node itself cannot store: on a full disk the next try would fail, too.
const REST_OF_STORE: Duration = Duration::from_secs(2);

/// After so many bytes a long fetch looks whether its object is still wanted.
const LOOK_BYTES: u64 = 16 << 20;

/// Fetches what is wanted until the node stops.
pub(super) async fn run(core: Arc<Core>) {
    let mut progress = core.catalog.progress();
    let mut arrivals = core.members.arrivals();
    let mut places = Places::new(core.config.fetch_parallel.get());
    let mut tasks = JoinSet::new();
    loop {
        if progress.borrow_and_update().wants > 0 && places.are_free() {
            match due(&core, &places).await {
                Ok(wants) => {
                    for want in wants {
                        places.take(&want);
                        tasks.spawn(fetch(core.clone(), want));
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
            // A node that came back may hold what the others lack.
            changed = arrivals.changed() => if changed.is_err() { break } else { places.failed_until = None },
            () = tokio::time::sleep_until(rest.unwrap_or_else(Instant::now)), if rest.is_some() => {}
        }
    }
    tasks.shutdown().await;
}

/// Which wants are being fetched, and which must rest.
struct Places {
    running: HashSet<Version>,
    running_large: usize,
    all: usize,
    large: usize,
    /// Wants that failed before rest until then.
    failed_until: Option<Instant>,
    /// All wants rest until then.
    store_until: Option<Instant>,
}

impl Places {
    fn new(all: usize) -> Self {
        let large = (all - all / 4).max(1);
        Self { running: HashSet::new(), running_large: 0, all, large, failed_until: None, store_until: None }
    }

    fn are_free(&self) -> bool {
        self.running.len() < self.all && !Self::rests(self.store_until)
    }

    /// The largest want that may be taken now.
    fn size_max(&self) -> u64 {
        if self.running_large < self.large { u64::MAX } else { SMALL_BYTES }
    }

    fn may_take(&self, want: &Want) -> bool {
        !self.running.contains(&want.entry.version) && (want.failures == 0 || !Self::rests(self.failed_until))
    }

    fn take(&mut self, want: &Want) {
        self.running.insert(want.entry.version.clone());
        self.running_large += usize::from(is_large(want));
    }

    fn give_back(&mut self, fetched: &Fetched) {
        self.running.remove(&fetched.want.entry.version);
        self.running_large -= usize::from(is_large(&fetched.want));
        match fetched.end {
            End::Kept => {}
            End::NoHolder => {
                let rest = REST_FIRST.saturating_mul(1 << fetched.want.failures.min(10)).min(REST_LONGEST);
                self.failed_until = self.failed_until.max(Some(Instant::now() + rest));
            }
            End::NotStored => self.rest_all(),
        }
    }

    /// Lets everything rest, because this node's own store fails.
    fn rest_all(&mut self) {
        self.store_until = Some(Instant::now() + REST_OF_STORE);
    }

    /// When the next rest ends.
    fn rest(&self) -> Option<Instant> {
        [self.failed_until, self.store_until].into_iter().flatten().filter(|until| *until > Instant::now()).min()
    }

    fn rests(until: Option<Instant>) -> bool {
        until.is_some_and(|until| until > Instant::now())
    }
}

fn is_large(want: &Want) -> bool {
    want.entry.content().is_some_and(|content| content.size > SMALL_BYTES)
}

/// The wants to be fetched next.
async fn due(core: &Arc<Core>, places: &Places) -> Result<Vec<Want>, StoreError> {
    let catalog = core.catalog.clone();
    let (size_max, free) = (places.size_max(), places.all - places.running.len());
    // Those that are being fetched may stand in front of the others.
    let limit = free + places.running.len();
    let wants = off_runtime(move || catalog.wants(size_max, limit)).await?;
    let mut large = places.large.saturating_sub(places.running_large);
    let fits = |want: &Want| {
        let fits = !is_large(want) || large > 0;
        large = large.saturating_sub(usize::from(is_large(want)));
        fits
    };
    Ok(wants.into_iter().filter(|want| places.may_take(want)).filter(fits).take(free).collect())
}

struct Fetched {
    want: Want,
    end: End,
}

enum End {
    /// Listed, or not wanted any more.
    Kept,
    /// No peer gave the bytes.
    NoHolder,
    /// This node could not store them.
    NotStored,
}

/// Fetches one want and records what came of it.
async fn fetch(core: Arc<Core>, want: Want) -> Fetched {
    let received = match want.entry.content() {
        Some(content) => receive(&core, &want, content).await.map(Some),
        None => Ok(None),
    };
    let end = match conclude(&core, &want, received).await {
        Ok(end) => end,
        Err(error) => {
            warn!(key = %want.entry.key, error = &error as &dyn std::error::Error, "fetched bytes cannot be stored");
            End::NotStored
        }
    };
    Fetched { want, end }
}

async fn conclude(
    core: &Core,
    want: &Want,
    received: Result<Option<FreshBlob>, FetchError>,
) -> Result<End, StoreError> {
    let entry = want.entry.clone();
    match received {
        Ok(blob) => {
            let (key, version) = (entry.key.clone(), entry.version.clone());
            let list = core.catalog.transact(move |transaction| {
                if replicate::conclude(transaction, &entry)?
                    && let Some(blob) = &blob
                {
                    transaction.keep_blob(blob)?;
                }
                Ok(())
            });
            list.await?;
            core.receipts.held(&key, &version);
            Ok(End::Kept)
        }
        Err(FetchError::Superseded) => Ok(End::Kept),
        Err(FetchError::Store(error)) => Err(error),
        Err(error @ FetchError::NoHolder(_)) => {
            core.metrics.failed_fetches.inc();
            // Once is a restart somewhere; what fails again and again someone should know of.
            if want.failures == 3 {
                warn!(key = %entry.key, error = &error as &dyn std::error::Error, "no peer gives the bytes, will retry");
            }
            core.catalog.transact(move |transaction| transaction.postpone_want(&entry)).await.map(|()| End::NoHolder)
        }
    }
}

#[derive(Debug, thiserror::Error)]
enum FetchError {
    #[error("no peer could give the bytes")]
    NoHolder(#[source] Option<ClientError>),
    #[error("the object was written or deleted anew")]
    Superseded,
    #[error("the bytes cannot be kept")]
    Store(#[from] StoreError),
}

/// Brings the bytes of `want` here: asks one holder after the other, and all of them again for as long as a round
/// brings anything.
async fn receive(core: &Arc<Core>, want: &Want, content: &Content) -> Result<FreshBlob, FetchError> {
    let mut intake = Intake::new(core.blobs.clone());
    let mut last = None;
    loop {
        let before = intake.size();
        let mut holders = core.members.others();
        holders.retain(|node| core.members.liveness(&node.id) != Liveness::Down);
        // The peer that listed the entry holds the bytes for certain, so among equals it goes first.
        holders.sort_by_cached_key(|node| (core.members.liveness(&node.id), node.id != want.peer));
        for holder in holders {
            match read_rest(core, want, &mut intake, &core.members.peer(&holder), content).await {
                Ok(()) => {}
                Err(FetchError::NoHolder(error)) => {
                    debug!(peer = %holder.id, key = %want.entry.key, ?error, "a holder failed");
                    last = error;
                    continue;
                }
                Err(error) => return Err(error),
            }
            let whole = std::mem::replace(&mut intake, Intake::new(core.blobs.clone()));
            let size = whole.size();
            match whole.finish(Some(content.hash)).await {
                Ok(blob) if size == content.size => return Ok(blob),
                // Parts of several holders may be in it, so none is to blame for certain; the next starts afresh.
                Ok(_) | Err(StoreError::Mismatch { .. }) => {
                    warn!(peer = %holder.id, key = %want.entry.key, size, "fetched bytes are not those announced");
                }
                Err(error) => return Err(error.into()),
            }
        }
        if intake.size() <= before {
            return Err(FetchError::NoHolder(last));
        }
    }
}

/// Reads from `peer` what is still missing of the bytes.
async fn read_rest(
    core: &Arc<Core>,
    want: &Want,
    intake: &mut Intake,
    peer: &Peer,
    content: &Content,
) -> Result<(), FetchError> {
    let failed = |error| FetchError::NoHolder(Some(error));
    if intake.size() >= content.size && content.size > 0 {
        return Ok(());
    }
    let mut look_at = intake.size() + LOOK_BYTES;
    let mut body = peer.blob(&content.hash, intake.size()).await.map_err(failed)?;
    while let Some(bytes) = body.chunk().await.map_err(failed)? {
        // More than announced is wrong in any case; the size will say so, and no more of it is read.
        let rest = content.size.saturating_sub(intake.size()).saturating_add(1);
        intake.write(&bytes[..bytes.len().min(usize::try_from(rest).unwrap_or(usize::MAX))]).await?;
        if intake.size() > content.size {
            break;
        }
        if intake.size() >= look_at {
            look_at = intake.size() + LOOK_BYTES;
            let (catalog, entry) = (core.catalog.clone(), want.entry.clone());
            if !off_runtime(move || catalog.wants_version(&entry)).await? {
                return Err(FetchError::Superseded);
            }
        }
    }
    Ok(())
}
