//! A slice from its file, off the thread that serves: the disk may take its time.

use std::fs::File;
use std::future::Future as _;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use tokio::task::{JoinHandle, spawn_blocking};
use tracing::debug;

/// Reads a part of a file.
pub(super) struct FileReader {
    file: Arc<File>,
    left: Range<u64>,
    reading: Option<JoinHandle<std::io::Result<Bytes>>>,
}

impl FileReader {
    pub(super) const fn new(file: Arc<File>, part: Range<u64>) -> Self {
        Self { file, left: part, reading: None }
    }

    /// The next bytes, at most so many; `None` if they cannot be read.
    pub(super) fn poll_bytes(&mut self, cx: &mut Context<'_>, bytes_max: usize) -> Poll<Option<Bytes>> {
        let (file, left) = (&self.file, &self.left);
        let reading = self.reading.get_or_insert_with(|| {
            let (file, start) = (file.clone(), left.start);
            let length = (left.end - start).min(bytes_max as u64) as usize;
            spawn_blocking(move || read(&file, start, length))
        });
        let read = ready!(Pin::new(reading).poll(cx));
        self.reading = None;
        Poll::Ready(match read {
            Ok(Ok(bytes)) => {
                self.left.start += bytes.len() as u64;
                Some(bytes)
            }
            Ok(Err(error)) => {
                debug!(%error, "a slice cannot be read");
                None
            }
            // The runtime ends.
            Err(_) => None,
        })
    }
}

fn read(file: &File, start: u64, length: usize) -> std::io::Result<Bytes> {
    let mut bytes = vec![0; length];
    file.read_exact_at(&mut bytes, start)?;
    Ok(bytes.into())
}
