//! Bytes are hashed as they are read, once a day for each blob: what went bad on the disk is not served to its end.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use axum::body::Body;
use bytes::Bytes;
use futures_util::stream;
use tracing::warn;

use super::mend::demand;
use crate::model::ContentHash;
use crate::node::Core;
use crate::node::bytes::{BlobBytes, READ_BYTES, off_runtime};
use crate::store::NamedBlob;

/// How long a blob is trusted that was hashed. What is read often lies in the system's memory, which does not go bad.
const TRUST: Duration = Duration::from_secs(24 * 3600);

/// Of how many blobs that is remembered.
const BLOBS_MAX: usize = 100_000;

/// Which blobs were hashed as they were read, and when.
#[derive(Debug, Default)]
pub(in crate::node) struct Verified(Mutex<HashMap<ContentHash, Instant>>);

impl Verified {
    /// Whether a read of `hash` is to be hashed.
    pub(in crate::node) fn is_due(&self, hash: &ContentHash) -> bool {
        self.blobs().get(hash).is_none_or(|since| since.elapsed() > TRUST)
    }

    /// Whether `bytes` are those of `hash`, which then need not be hashed for a while. Blocks on the disk.
    ///
    /// # Errors
    /// When they cannot be read.
    pub(in crate::node) fn verify(&self, hash: &ContentHash, bytes: &BlobBytes) -> io::Result<bool> {
        let mut hasher = blake3::Hasher::new();
        for start in (0..bytes.size()).step_by(READ_BYTES) {
            hasher.update(&bytes.read(start..bytes.size().min(start + READ_BYTES as u64))?);
        }
        Ok(self.end(hash, ContentHash::new(*hasher.finalize().as_bytes())))
    }

    fn end(&self, hash: &ContentHash, found: ContentHash) -> bool {
        let is_whole = found == *hash;
        let mut blobs = self.blobs();
        if is_whole {
            if blobs.len() >= BLOBS_MAX {
                blobs.clear();
            }
            blobs.insert(*hash, Instant::now());
        }
        is_whole
    }

    fn blobs(&self) -> MutexGuard<'_, HashMap<ContentHash, Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// All bytes of `blob`, hashed as they are read. If they are not what its name says, the body breaks off before its end,
/// and the blob is mended.
pub(in crate::node) fn whole(core: Arc<Core>, blob: NamedBlob, opened: BlobBytes) -> Body {
    let begin = (opened, 0, blake3::Hasher::new());
    Body::from_stream(stream::try_unfold(begin, move |(opened, start, hasher)| {
        let core = core.clone();
        async move {
            if start >= blob.size {
                return Ok(None);
            }
            match next(&core, blob, (opened, start, hasher)).await {
                Ok(next) => Ok(Some(next)),
                Err(error) => {
                    warn!(hash = %blob.hash, %error, "a read broke off");
                    // Whoever reads it has gone by the time that it is mended.
                    tokio::spawn(async move { demand(&core, blob, None).await.map(drop) });
                    Err(error)
                }
            }
        }
    }))
}

type Reading = (BlobBytes, u64, blake3::Hasher);

async fn next(core: &Core, blob: NamedBlob, reading: Reading) -> io::Result<(Bytes, Reading)> {
    let (opened, start, mut hasher) = reading;
    let end = blob.size.min(start + READ_BYTES as u64);
    let read = off_runtime(move || {
        let bytes = opened.read(start..end)?;
        hasher.update(&bytes);
        Ok::<_, io::Error>((bytes, opened, hasher))
    });
    let (bytes, opened, hasher) = read.await?;
    let found = || ContentHash::new(*hasher.finalize().as_bytes());
    if end == blob.size && !core.scrub.verified.end(&blob.hash, found()) {
        return Err(io::Error::other("the bytes on the disk are not those that were stored"));
    }
    Ok((bytes, (opened, end, hasher)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_hashed_is_trusted_and_what_was_wrong_is_not() {
        let (verified, hash) = (Verified::default(), ContentHash::of(b"right"));
        let verify = |hash: &ContentHash, bytes: &[u8]| {
            verified.verify(hash, &BlobBytes::Memory(Bytes::copy_from_slice(bytes))).expect("memory")
        };
        assert!(verified.is_due(&hash));
        assert!(!verify(&hash, b"wrong") && verified.is_due(&hash));
        assert!(verify(&hash, b"right") && !verified.is_due(&hash));
        for number in 0..BLOBS_MAX {
            let bytes = number.to_be_bytes();
            verify(&ContentHash::of(&bytes), &bytes);
        }
        assert!(verified.is_due(&hash) && verified.blobs().len() <= BLOBS_MAX, "bounded");
    }
}
