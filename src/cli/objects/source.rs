//! A file on its way to a server: read in pieces, hashed while it is read, and given up if it changes its size.
//!
//! Knows nothing of how the pieces travel.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

use crate::model::ContentHash;

/// How much is read at once: enough that a read costs little beside its bytes.
const CHUNK_BYTES: u64 = 256 << 10;

/// How many pieces may wait to be sent.
const CHUNKS_AHEAD: usize = 2;

/// Why a file cannot be sent.
#[derive(Debug, thiserror::Error)]
pub(super) enum SourceError {
    #[error("cannot read {path}")]
    Read { path: PathBuf, source: io::Error },
    #[error("{path} changed its size while it was read, {announced} bytes at first, then {read}: send it again")]
    Changed { path: PathBuf, announced: u64, read: u64 },
}

/// A file that is being read.
#[derive(Debug)]
pub(super) struct Source {
    /// How many bytes it has.
    pub(super) size: u64,
    /// Its bytes. The last piece is only there if the file has the announced size.
    pub(super) chunks: mpsc::Receiver<Result<Bytes, SourceError>>,
    /// The hash of all of it; there before the last piece is.
    pub(super) hash: oneshot::Receiver<ContentHash>,
}

impl Source {
    /// Begins to read the file at `path`.
    pub(super) async fn open(path: &Path) -> Result<Self, SourceError> {
        let (opened, size) = oneshot::channel();
        let (sender, chunks) = mpsc::channel(CHUNKS_AHEAD);
        let (hashed, hash) = oneshot::channel();
        let owned = path.to_owned();
        // One thread reads the whole file: a hand-over for each read would cost small files most of their time.
        tokio::task::spawn_blocking(move || {
            let outcome = File::open(&owned).and_then(|file| Ok((file.metadata()?.len(), file)));
            let read = |source| SourceError::Read { path: owned.clone(), source };
            let (size, file) = match outcome.map_err(read) {
                Ok((size, file)) => (opened.send(Ok(size)).map(|()| size).unwrap_or_default(), file),
                Err(error) => return drop(opened.send(Err(error))),
            };
            read_all(file, &owned, size, hashed, &sender);
        });
        match size.await {
            Ok(size) => Ok(Self { size: size?, chunks, hash }),
            // The thread is gone without a word only if the runtime is on its way down.
            Err(_) => {
                Err(SourceError::Read { path: path.to_owned(), source: io::Error::from(io::ErrorKind::Interrupted) })
            }
        }
    }
}

fn read_all(
    mut file: File,
    path: &Path,
    announced: u64,
    hashed: oneshot::Sender<ContentHash>,
    chunks: &mpsc::Sender<Result<Bytes, SourceError>>,
) {
    let mut hasher = blake3::Hasher::new();
    let (mut held, mut read) = (Bytes::new(), 0);
    loop {
        // One byte more than is announced, so that a small file and its end are seen in one go.
        let capacity = CHUNK_BYTES.min(announced.saturating_sub(read) + 1);
        let mut piece = Vec::with_capacity(capacity as usize);
        if let Err(source) = file.by_ref().take(CHUNK_BYTES).read_to_end(&mut piece) {
            let error = SourceError::Read { path: path.to_owned(), source };
            return drop(chunks.blocking_send(Err(error)));
        }
        read += piece.len() as u64;
        hasher.update(&piece);
        let end = piece.is_empty();
        if read > announced || (end && read < announced) {
            let error = SourceError::Changed { path: path.to_owned(), announced, read };
            return drop(chunks.blocking_send(Err(error)));
        }
        if end {
            // Nobody takes it, or the last piece, where the transfer has failed.
            let _ = hashed.send(ContentHash::new(*hasher.finalize().as_bytes()));
            if !held.is_empty() {
                let _ = chunks.blocking_send(Ok(held));
            }
            return;
        }
        // A piece is held back until the next one is read: nothing that is not whole may look so to a server.
        if !held.is_empty() && chunks.blocking_send(Ok(held)).is_err() {
            return;
        }
        held = piece.into();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The bytes that came, how it ended, and the hash; `change` happens when the first piece is there.
    async fn read(path: &Path, change: impl FnOnce()) -> (Vec<u8>, Option<SourceError>, Option<ContentHash>) {
        let mut source = Source::open(path).await.unwrap();
        let mut all = Vec::new();
        let mut change = Some(change);
        while let Some(piece) = source.chunks.recv().await {
            if let Some(change) = change.take() {
                change();
            }
            match piece {
                Ok(bytes) => all.extend_from_slice(&bytes),
                Err(error) => return (all, Some(error), source.hash.await.ok()),
            }
        }
        (all, None, source.hash.await.ok())
    }

    #[tokio::test]
    async fn a_file_of_any_size_is_read_and_hashed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let chunk = CHUNK_BYTES as usize;
        for size in [0, 1, 1000, chunk - 1, chunk, chunk + 1, 3 * chunk, 5 * chunk + 7] {
            let bytes: Vec<u8> = (0..size).map(|position| (position % 251) as u8).collect();
            std::fs::write(&path, &bytes).unwrap();
            let (all, error, hash) = read(&path, || {}).await;
            assert!(error.is_none() && all == bytes, "{size}: {error:?}");
            assert_eq!(hash, Some(ContentHash::of(&bytes)), "{size}");
        }
    }

    #[tokio::test]
    async fn a_file_that_changes_its_size_never_looks_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let size = 20 * CHUNK_BYTES;
        for changed in [size / 2, size + 1] {
            std::fs::write(&path, vec![1; size as usize]).unwrap();
            let resize = || File::options().write(true).open(&path).unwrap().set_len(changed).unwrap();
            let (all, error, hash) = read(&path, resize).await;
            assert!(matches!(error, Some(SourceError::Changed { announced, .. }) if announced == size), "{error:?}");
            assert!(hash.is_none() && (all.len() as u64) < size, "{} bytes", all.len());
        }
        assert!(matches!(Source::open(&folder.path().join("none")).await, Err(SourceError::Read { .. })));
    }
}
