//! Making the variants of one image: admitted by the memory it takes, on threads that may be busy for long, and with a
//! panic of a codec taken for what it is, the fault of one image.

use std::io::{self, BufReader, Cursor};
use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::spawn_blocking;

use super::super::bytes::BlobBytes;
use super::threads::Threads;
use super::{Made, Product};
use crate::model::{ContentHash, Variant};
use crate::resize::{self, Plan, Unsuitable, make};
use crate::store::{Blobs, Catalog, StoreError};

/// Why there are no variants of an image.
#[derive(Debug, thiserror::Error)]
pub(super) enum WorkError {
    /// It is none that is resized.
    #[error(transparent)]
    Unsuitable(#[from] Unsuitable),
    /// It alone would take more memory than all may.
    #[error("it would take {0} bytes of memory (memory_bytes_max)")]
    TooLarge(u64),
    /// A codec failed in a way that it should not.
    #[error("a codec panicked")]
    Panicked,
    /// The original is not there as the catalogue says.
    #[error("the original cannot be read")]
    Read(#[source] io::Error),
    /// The system has no thread for it.
    #[error("no thread can be started")]
    Thread(#[source] io::Error),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The node is stopping.
    #[error("the node is stopping")]
    Stopping,
}

impl WorkError {
    /// Whether it will be the same the next time.
    pub(super) const fn lasts(&self) -> bool {
        match self {
            Self::Unsuitable(Unsuitable::Unreadable(_))
            | Self::Read(_)
            | Self::Thread(_)
            | Self::Store(_)
            | Self::Stopping => false,
            Self::Unsuitable(_) | Self::TooLarge(_) | Self::Panicked => true,
        }
    }
}

/// The memory that all work together may take.
#[derive(Debug, Clone)]
pub(super) struct Admission {
    free_kib: Arc<Semaphore>,
    all_kib: u32,
}

impl Admission {
    pub(super) fn new(memory_bytes_max: u64) -> Self {
        let all_kib = u32::try_from(memory_bytes_max >> 10).unwrap_or(u32::MAX);
        let permits = usize::try_from(all_kib).unwrap_or(usize::MAX).min(Semaphore::MAX_PERMITS);
        Self { free_kib: Arc::new(Semaphore::new(permits)), all_kib }
    }

    /// Waits until `bytes` are free.
    async fn admit(&self, bytes: u64) -> Result<OwnedSemaphorePermit, WorkError> {
        let kib = u32::try_from(bytes.div_ceil(1024)).ok().filter(|kib| *kib <= self.all_kib);
        let kib = kib.ok_or(WorkError::TooLarge(bytes))?;
        Ok(self.free_kib.clone().acquire_many_owned(kib).await.expect("the semaphore is never closed"))
    }
}

/// What was made, and its share of the memory while it is held.
pub(super) struct Products {
    pub(super) list: Vec<Product>,
    pub(super) admitted: OwnedSemaphorePermit,
}

/// Makes the `wanted` variants of the `original` of `size` bytes.
pub(super) async fn work(
    (catalog, blobs): (&Catalog, &Blobs),
    admission: &Admission,
    threads: &Threads,
    limits: &resize::Config,
    (original, size): (ContentHash, u64),
    wanted: &'static [Variant],
) -> Result<Products, WorkError> {
    let (catalog, blobs, limits) = (catalog.clone(), blobs.clone(), limits.clone());
    let (bytes, plan) = guarded(move || {
        let missing = || WorkError::Read(io::ErrorKind::NotFound.into());
        let bytes = BlobBytes::open(&catalog, &blobs, &original)?.ok_or_else(missing)?;
        // A file that was cut short says nothing of the image: it is mended one day.
        if bytes.size() != size {
            return Err(WorkError::Read(io::ErrorKind::UnexpectedEof.into()));
        }
        let plan = match &bytes {
            BlobBytes::Memory(bytes) => Plan::read(Cursor::new(bytes), size, &limits)?,
            BlobBytes::File(file, _) => Plan::read(BufReader::new(&**file), size, &limits)?,
        };
        Ok((bytes, plan))
    })
    .await?;
    // The bytes are read only now: whoever waits takes no memory.
    let admitted = admission.admit(plan.memory_bytes()).await?;
    let make = move || Ok(Products { list: products(&bytes, &plan, wanted)?, admitted });
    threads.run(make).await
}

fn products(bytes: &BlobBytes, plan: &Plan, wanted: &[Variant]) -> Result<Vec<Product>, WorkError> {
    let source = bytes.read(0..bytes.size()).map_err(WorkError::Read)?;
    let mut made = make(&source, plan, wanted)?;
    // One that is no smaller would cost those with slow links time and everybody quality.
    made.retain(|made| made.bytes.len() < source.len());
    let media_type = plan.media_type();
    let mut product = |variant: Variant| {
        let at = made.iter().position(|made| made.variant == variant)?;
        let bytes = made.swap_remove(at).bytes.into_boxed_slice();
        let media_type = media_type.parse().expect("media types of images are visible ASCII");
        Some(Made { hash: ContentHash::of(&bytes), media_type, bytes })
    };
    Ok(wanted.iter().map(|variant| Product { variant: *variant, made: product(*variant) }).collect())
}

/// Runs `work`, which is short, on a thread of the runtime that may wait; a panic becomes an error.
async fn guarded<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, WorkError> + Send + 'static,
) -> Result<T, WorkError> {
    match spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) if error.is_panic() => Err(WorkError::Panicked),
        Err(_) => Err(WorkError::Stopping),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn work_is_admitted_by_its_memory() {
        let admission = Admission::new(10 << 10);
        assert!(matches!(admission.admit((10 << 10) + 1).await, Err(WorkError::TooLarge(_))));
        let most = admission.admit(7 << 10).await.expect("free");
        let mut next = std::pin::pin!(admission.admit(4 << 10));
        assert!(futures_util::poll!(&mut next).is_pending());
        drop(most);
        assert!(next.await.is_ok());
    }

    #[tokio::test]
    async fn a_panic_is_the_fault_of_one_image() {
        let failed = guarded(|| -> Result<(), WorkError> { panic!("a codec's") }).await;
        assert!(matches!(&failed, Err(WorkError::Panicked)), "{failed:?}");
        assert!(!WorkError::Store(StoreError::Full).lasts());
    }
}
