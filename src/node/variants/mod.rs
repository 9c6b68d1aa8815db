//! Smaller variants of images: made when an image arrives (`static`) or when one is asked for (`dynamic`).
//!
//! However many ask for a variant, it is made once; they wait for a bounded time and get the original after it. Nothing
//! that goes wrong here is an error to anybody: an image that cannot be resized is served as it is.

mod arrivals;
mod kept;
mod threads;
mod work;

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tracing::{debug, error, warn};

use super::Core;
use super::bytes::off_runtime;
use crate::model::{Content, ContentHash, FieldValue, ImageMode, Variant};
use crate::resize;
use crate::resize::choose::Thresholds;
use crate::store::{StoreError, VariantBlob, VariantState};
pub(super) use arrivals::follow;
use kept::Kept;
use threads::Threads;
use work::{Admission, Products, WorkError};

/// How many images may wait to be resized. Those who ask wait only so long, so a longer queue would be work for nobody.
const QUEUE_MAX: usize = 256;

/// How a node resizes images, if it does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The largest image file that is resized, in bytes.
    pub source_bytes_max: u64,
    /// The most pixels of an image that is resized.
    pub pixels_max: u64,
    /// The memory that resizing may take at a time, all images together, in bytes.
    pub memory_bytes_max: u64,
    /// The memory for variants that were made when they were asked for, in bytes.
    pub variants_bytes_max: u64,
    /// How long an answer waits for its variant before it has the original.
    pub wait_ms_max: u64,
    /// From which rate of a client's link on the download API sends the larger variants.
    pub thresholds: Thresholds,
}

impl Default for Config {
    fn default() -> Self {
        let resize::Config { source_bytes_max, pixels_max } = resize::Config::default();
        Self {
            source_bytes_max,
            pixels_max,
            // Three photographs of 12 megapixels at a time.
            memory_bytes_max: 256 << 20,
            variants_bytes_max: 64 << 20,
            // Below the 3 s after which an edge goes to the next node.
            wait_ms_max: 2000,
            thresholds: Thresholds::default(),
        }
    }
}

impl Config {
    const fn limits(&self) -> resize::Config {
        resize::Config { source_bytes_max: self.source_bytes_max, pixels_max: self.pixels_max }
    }
}

/// What is served for a variant.
#[derive(Debug, Clone)]
pub(super) enum Derived {
    /// A blob.
    Blob(VariantBlob),
    /// Bytes in memory.
    Memory(DerivedBytes),
    /// The original.
    AsIs,
}

/// A variant in memory.
#[derive(Debug, Clone)]
pub(super) struct DerivedBytes {
    pub(super) hash: ContentHash,
    pub(super) media_type: FieldValue,
    pub(super) bytes: Bytes,
}

/// What came of making a variant; without `made` the original is as good.
struct Product {
    variant: Variant,
    made: Option<Made>,
}

struct Made {
    hash: ContentHash,
    media_type: FieldValue,
    bytes: Box<[u8]>,
}

/// Which variants of an image are made together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Wanted {
    /// All: they share the decoding.
    All,
    /// The one that was asked for.
    One(Variant),
}

impl Wanted {
    const fn variants(self) -> &'static [Variant] {
        match self {
            Self::All => &Variant::MADE,
            Self::One(Variant::Original) => &[],
            Self::One(Variant::Medium) => &[Variant::Medium],
            Self::One(Variant::Low) => &[Variant::Low],
        }
    }
}

/// What is to be made: which variants of which bytes.
type JobKey = (ContentHash, Wanted);

/// What came of a job, once it is over: nothing, if it failed in a way that may pass.
type Outcome = Option<Option<Vec<(Variant, Derived)>>>;

/// Work that waits for its turn.
pub(super) struct Job {
    key: JobKey,
    size: u64,
    tell: watch::Sender<Outcome>,
}

/// The variants of one node.
pub(super) struct Variants {
    mode: ImageMode,
    config: Config,
    admission: Admission,
    kept: Mutex<Kept>,
    running: Mutex<HashMap<JobKey, watch::Receiver<Outcome>>>,
    queue: mpsc::Sender<Job>,
    /// Started with the first image.
    threads: OnceLock<Threads>,
    metrics: Metrics,
}

/// What is counted of the making of variants.
#[derive(Clone)]
struct Metrics {
    made: Counter,
    unsuitable: Counter,
    joined: Counter,
    seconds: Histogram,
    queue: Gauge,
}

impl Metrics {
    fn register(registry: &mut Registry) -> Self {
        // From a small picture to the largest photograph on a busy machine.
        let buckets = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
        let metrics = Self {
            made: Counter::default(),
            unsuitable: Counter::default(),
            joined: Counter::default(),
            seconds: Histogram::new(buckets),
            queue: Gauge::default(),
        };
        registry.register("variants_made", "Variants of images made", metrics.made.clone());
        let help = "Images that cannot be resized and are served as they are";
        registry.register("variants_unsuitable", help, metrics.unsuitable.clone());
        registry.register("variants_joined", "Requests that joined work under way", metrics.joined.clone());
        let help = "Time to resize an image, waiting included";
        registry.register_with_unit("variants", help, Unit::Seconds, metrics.seconds.clone());
        registry.register("variants_queue", "Images that wait to be resized", metrics.queue.clone());
        metrics
    }
}

impl Variants {
    /// The variants of a node in `mode`, and the jobs for [`run`].
    pub(super) fn new(mode: ImageMode, config: Config, registry: &mut Registry) -> (Self, mpsc::Receiver<Job>) {
        let (queue, jobs) = mpsc::channel(QUEUE_MAX);
        let variants = Self {
            mode,
            admission: Admission::new(config.memory_bytes_max),
            kept: Mutex::new(Kept::new(config.variants_bytes_max)),
            config,
            running: Mutex::default(),
            queue,
            threads: OnceLock::new(),
            metrics: Metrics::register(registry),
        };
        (variants, jobs)
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn running(&self) -> MutexGuard<'_, HashMap<JobKey, watch::Receiver<Outcome>>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    const fn wanted(&self, variant: Variant) -> Wanted {
        match self.mode {
            ImageMode::Static => Wanted::All,
            ImageMode::Off | ImageMode::Dynamic => Wanted::One(variant),
        }
    }

    /// The running job `key`, or a new one that takes the free `place`.
    fn job(&self, key: JobKey, size: u64, place: mpsc::Permit<'_, Job>) -> watch::Receiver<Outcome> {
        let mut running = self.running();
        if let Some(outcome) = running.get(&key) {
            return outcome.clone();
        }
        let (tell, outcome) = watch::channel(None);
        running.insert(key, outcome.clone());
        self.metrics.queue.inc();
        place.send(Job { key, size, tell });
        outcome
    }
}

/// What is served for `variant` of the image `content`; `None` if it could not be made in time.
pub(super) async fn derive(core: &Core, content: &Content, variant: Variant) -> Option<Derived> {
    match known(core, content.hash, variant).await {
        Ok(None) => {}
        Ok(found) => return found,
        Err(error) => {
            warn!(error = &error as &dyn std::error::Error, "variants cannot be looked up");
            return None;
        }
    }
    let variants = &core.variants;
    let key = (content.hash, variants.wanted(variant));
    let joined = variants.running().get(&key).cloned();
    let mut outcome = match joined {
        Some(outcome) => {
            variants.metrics.joined.inc();
            outcome
        }
        None => variants.job(key, content.size, variants.queue.try_reserve().ok()?),
    };
    let wait = Duration::from_millis(variants.config.wait_ms_max);
    let outcome = timeout(wait, outcome.wait_for(Option::is_some)).await.ok()?.ok()?.clone()??;
    outcome.into_iter().find(|(made, _)| *made == variant).map(|(_, derived)| derived)
}

/// What was made before.
async fn known(core: &Core, original: ContentHash, variant: Variant) -> Result<Option<Derived>, StoreError> {
    if core.variants.mode != ImageMode::Static {
        return Ok(core.variants.kept().find((original, variant)));
    }
    let catalog = core.catalog.clone();
    let state = off_runtime(move || catalog.variant(&original, variant)).await?;
    Ok(state.map(|state| match state {
        VariantState::Made(blob) => Derived::Blob(blob),
        VariantState::AsIs => Derived::AsIs,
    }))
}

/// Does the jobs until the node stops: at most as many at a time as there are cores.
pub(super) async fn run(core: Arc<Core>, mut jobs: mpsc::Receiver<Job>) {
    let parallel = parallel().get();
    let mut tasks = JoinSet::new();
    loop {
        tokio::select! {
            () = core.stop.cancelled() => break,
            Some(ended) = tasks.join_next() => {
                if let Err(error) = ended && error.is_panic() {
                    std::panic::resume_unwind(error.into_panic());
                }
            }
            Some(job) = jobs.recv(), if tasks.len() < parallel => {
                core.variants.metrics.queue.dec();
                tasks.spawn(perform(core.clone(), job));
            }
        }
    }
    tasks.shutdown().await;
}

fn parallel() -> NonZeroUsize {
    std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN)
}

async fn perform(core: Arc<Core>, Job { key, size, tell }: Job) {
    let begun = Instant::now();
    let made = perform_unless_done(&core, key, size).await;
    core.variants.metrics.seconds.observe(begun.elapsed().as_secs_f64());
    let outcome = made.inspect_err(|error| {
        warn!(original = %key.0, error = error as &dyn std::error::Error, "variants cannot be kept");
    });
    // What was made is known by now, so that whoever does not find the job finds that.
    core.variants.running().remove(&key);
    tell.send_replace(Some(outcome.ok()));
}

async fn perform_unless_done(core: &Core, key: JobKey, size: u64) -> Result<Vec<(Variant, Derived)>, WorkError> {
    let (original, wanted) = key;
    let mut done = Vec::new();
    for variant in wanted.variants() {
        done.extend(known(core, original, *variant).await?.map(|derived| (*variant, derived)));
    }
    if done.len() == wanted.variants().len() {
        return Ok(done);
    }
    let Variants { admission, config, metrics, mode, .. } = &core.variants;
    let as_is = || wanted.variants().iter().map(|variant| Product { variant: *variant, made: None }).collect();
    let threads = core.variants.threads.get_or_init(|| Threads::start(parallel()));
    let worked = work::work(
        (&core.catalog, &core.blobs),
        admission,
        threads,
        &config.limits(),
        (original, size),
        wanted.variants(),
    )
    .await;
    let (list, admitted) = match worked {
        Ok(Products { list, admitted }) => (list, Some(admitted)),
        Err(error) if error.lasts() => {
            match error {
                WorkError::Panicked => error!(%original, "a codec panicked; the image is served as it is"),
                error => debug!(%original, %error, "an image is served as it is"),
            }
            metrics.unsuitable.inc();
            (as_is(), None)
        }
        Err(error) => return Err(error),
    };
    let count = list.iter().filter(|product| product.made.is_some()).count() as u64;
    let kept = match mode {
        ImageMode::Static => keep_on_disk(core, original, list).await?,
        ImageMode::Off | ImageMode::Dynamic => keep_in_memory(core, original, list),
    };
    drop(admitted);
    metrics.made.inc_by(count);
    Ok(kept)
}

fn keep_in_memory(core: &Core, original: ContentHash, list: Vec<Product>) -> Vec<(Variant, Derived)> {
    let mut kept = core.variants.kept();
    let keep = |product: Product| Some((product.variant, kept.keep(original, product)?));
    list.into_iter().filter_map(keep).collect()
}

async fn keep_on_disk(
    core: &Core,
    original: ContentHash,
    list: Vec<Product>,
) -> Result<Vec<(Variant, Derived)>, StoreError> {
    let blobs = core.blobs.clone();
    let stored = off_runtime(move || {
        let store = |Product { variant, made }: Product| -> Result<_, StoreError> {
            let Some(Made { hash, media_type, bytes }) = made else { return Ok((variant, VariantState::AsIs, None)) };
            let mut writer = blobs.create();
            writer.write(&bytes)?;
            let blob = writer.finish(Some(hash))?;
            let state = VariantState::Made(VariantBlob { hash, size: blob.size(), media_type });
            Ok((variant, state, Some(blob)))
        };
        list.into_iter().map(store).collect::<Result<Vec<_>, _>>()
    });
    let stored = stored.await?;
    let note = core.catalog.transact(move |transaction| {
        for (variant, state, blob) in &stored {
            if let Some(blob) = blob {
                transaction.keep_blob(blob)?;
            }
            transaction.keep_variant(&original, *variant, state)?;
        }
        Ok(stored.into_iter().map(|(variant, state, _)| (variant, state)).collect::<Vec<_>>())
    });
    let stored = note.await?;
    let derived = |(variant, state)| match state {
        VariantState::Made(blob) => (variant, Derived::Blob(blob)),
        VariantState::AsIs => (variant, Derived::AsIs),
    };
    Ok(stored.into_iter().map(derived).collect())
}
