//! Bytes between the network and the disk: bounded memory whatever their number, and the disk never on the runtime's
//! threads.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use axum::body::Body;
use bytes::Bytes;
use futures_util::stream;
use tokio::task::spawn_blocking;

use crate::model::ContentHash;
use crate::store::{BlobWriter, Blobs, Catalog, FreshBlob, SMALL_BLOB_BYTES_MAX, StoreError};

/// How many bytes are gathered before the disk is asked. Enough that the hop to another thread costs little beside the
/// hashing; little enough that a thousand transfers fit into memory.
pub(super) const GATHER_BYTES: usize = 128 << 10;

/// How many bytes are read from the disk at once for one answer, for the same reasons.
pub(super) const READ_BYTES: usize = 128 << 10;

/// Runs `work`, which may wait for the disk, on a thread that may.
pub(super) async fn off_runtime<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match spawn_blocking(work).await {
        Ok(value) => value,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime is being shut down: nobody waits for this any more.
            Err(_) => std::future::pending().await,
        },
    }
}

/// Bytes on their way into a blob.
pub(super) struct Intake {
    blobs: Blobs,
    writer: Option<BlobWriter>,
    // Copied together: a piece of one byte would keep the whole buffer alive that it was read into.
    gathered: Vec<u8>,
    size: u64,
}

impl Intake {
    /// A new blob among `blobs`.
    pub(super) const fn new(blobs: Blobs) -> Self {
        Self { blobs, writer: None, gathered: Vec::new(), size: 0 }
    }

    /// The blob that is to become `hash`, of `size` bytes, with what is here of it.
    pub(super) async fn resume(blobs: Blobs, hash: ContentHash, size: u64) -> Result<Self, StoreError> {
        if size <= SMALL_BLOB_BYTES_MAX {
            return Ok(Self::new(blobs));
        }
        let from = blobs.clone();
        let writer = off_runtime(move || from.resume(hash)).await?;
        Ok(Self { size: writer.size(), writer: Some(writer), ..Self::new(blobs) })
    }

    /// Gives up what was taken in, for good.
    pub(super) fn discard(self) {
        if let Some(writer) = self.writer {
            writer.discard();
        }
    }

    /// How many bytes were taken in.
    pub(super) const fn size(&self) -> u64 {
        self.size
    }

    /// Takes `bytes` in.
    pub(super) async fn write(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        self.size += bytes.len() as u64;
        self.gathered.extend_from_slice(bytes);
        if self.gathered.len() < GATHER_BYTES {
            return Ok(());
        }
        let (blobs, writer, mut gathered) = self.take();
        let flushed = off_runtime(move || {
            let writer = flush(&blobs, writer, &gathered)?;
            gathered.clear();
            Ok::<_, StoreError>((writer, gathered))
        });
        let (writer, gathered) = flushed.await?;
        self.writer = Some(writer);
        self.gathered = gathered;
        Ok(())
    }

    /// Ends the blob; with `expected`, other bytes are refused.
    pub(super) async fn finish(mut self, expected: Option<ContentHash>) -> Result<FreshBlob, StoreError> {
        let small = self.size <= SMALL_BLOB_BYTES_MAX;
        let (blobs, writer, gathered) = self.take();
        let finish = move || flush(&blobs, writer, &gathered)?.finish(expected);
        // A small blob is not written yet: to hash it takes less than the hop to another thread.
        if small { finish() } else { off_runtime(finish).await }
    }

    fn take(&mut self) -> (Blobs, Option<BlobWriter>, Vec<u8>) {
        (self.blobs.clone(), self.writer.take(), std::mem::take(&mut self.gathered))
    }
}

fn flush(blobs: &Blobs, writer: Option<BlobWriter>, gathered: &[u8]) -> Result<BlobWriter, StoreError> {
    let mut writer = writer.unwrap_or_else(|| blobs.create());
    writer.write(gathered)?;
    Ok(writer)
}

/// The bytes of a blob that is held.
#[derive(Debug, Clone)]
pub(super) enum BlobBytes {
    Memory(Bytes),
    /// A file, and its size.
    File(Arc<File>, u64),
}

impl BlobBytes {
    /// Opens the blob `hash`; `None` if it is not held. Blocks on the disk.
    pub(super) fn open(catalog: &Catalog, blobs: &Blobs, hash: &ContentHash) -> Result<Option<Self>, StoreError> {
        if let Some(row) = catalog.small_blob(hash)? {
            return Ok(Some(Self::Memory(row.into())));
        }
        Ok(blobs.read(hash)?.map(|(file, size)| Self::File(Arc::new(file), size)))
    }

    /// How many there are.
    pub(super) fn size(&self) -> u64 {
        match self {
            Self::Memory(bytes) => bytes.len() as u64,
            Self::File(_, size) => *size,
        }
    }

    /// Those in memory.
    pub(super) fn into_memory(self) -> Option<Bytes> {
        match self {
            Self::Memory(bytes) => Some(bytes),
            Self::File(..) => None,
        }
    }

    /// Reads a range of them, which they must have.
    pub(super) fn read(&self, range: Range<u64>) -> io::Result<Bytes> {
        match self {
            Self::Memory(bytes) => Ok(bytes.slice(range.start as usize..range.end as usize)),
            Self::File(file, _) => read_range(file, range),
        }
    }

    /// The body that `pieces` make of them, read as the client takes it.
    pub(super) fn body(self, pieces: Vec<Piece>) -> Body {
        match self {
            Self::Memory(bytes) => body_in_memory(&bytes, pieces),
            Self::File(file, _) => body_of(file, pieces),
        }
    }
}

/// A piece of an answer.
#[derive(Debug, Clone)]
pub(super) enum Piece {
    /// These bytes.
    Bytes(Bytes),
    /// This part of the file.
    File(Range<u64>),
}

/// The body that `pieces` make of `file`.
fn body_of(file: Arc<File>, pieces: Vec<Piece>) -> Body {
    let pieces = pieces.into_iter().rev().collect::<Vec<_>>();
    Body::from_stream(stream::try_unfold((file, pieces), |(file, mut pieces)| async move {
        let bytes = match pieces.pop() {
            None => return Ok::<_, io::Error>(None),
            Some(Piece::Bytes(bytes)) => bytes,
            Some(Piece::File(range)) => {
                let end = range.end.min(range.start + READ_BYTES as u64);
                if end < range.end {
                    pieces.push(Piece::File(end..range.end));
                }
                let file = Arc::clone(&file);
                off_runtime(move || read_range(&file, range.start..end)).await?
            }
        };
        Ok(Some((bytes, (file, pieces))))
    }))
}

/// The body that `pieces` make of `bytes`, which are a file in memory.
fn body_in_memory(bytes: &Bytes, mut pieces: Vec<Piece>) -> Body {
    let piece = |piece: Piece| match piece {
        Piece::Bytes(bytes) => bytes,
        Piece::File(range) => bytes.slice(range.start as usize..range.end as usize),
    };
    if pieces.len() == 1 {
        return pieces.pop().map_or_else(Body::empty, |one| Body::from(piece(one)));
    }
    let pieces: Vec<_> = pieces.into_iter().map(|one| Ok::<_, io::Error>(piece(one))).collect();
    Body::from_stream(stream::iter(pieces))
}

/// Reads a range of `file`, all of it.
fn read_range(file: &File, range: Range<u64>) -> io::Result<Bytes> {
    let mut bytes = vec![0; (range.end - range.start) as usize];
    file.read_exact_at(&mut bytes, range.start)?;
    Ok(bytes.into())
}
