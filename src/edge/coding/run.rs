//! Codes and decodes, piece by piece, beside the connections.

use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::spawn_blocking;
use tokio::time::timeout;
use tracing::debug;

use super::super::Core;
use super::super::body::Inner;
use super::super::fill;
use super::recoded::Pieces;
use super::{RecodeError, Recoded, head_of};
use crate::cache::{Fill, Head};
use crate::compress::{CHUNK_BYTES_MAX, Coding, Decoder, Effort, Encoder, Made};

/// How long a source may pause before those who wait get all that has come.
const FLUSH_AFTER: Duration = Duration::from_millis(50);

/// How much is coded on the spot: that takes less time than to have another thread do it would be felt.
const ON_THE_SPOT_BYTES_MAX: usize = 4 << 10;

/// So much is coded at most for nobody but the cache: what takes a few milliseconds more is worth having, a film is not.
const UNREAD_BYTES_MAX: u64 = 1 << 20;

/// How long an answer waits for a place in which its coding is taken off.
const PLACE_WAIT: Duration = Duration::from_secs(5);

/// Where coded bytes go.
pub(super) enum Sink {
    /// Into the cache, from where others read along: of what has this head.
    Cache(Fill, Arc<Head>),
    /// To one client.
    Client(Pieces),
}

impl Sink {
    /// Whether somebody reads what is coded at this moment. One client who leaves shows when he is sent something.
    fn is_read(&self) -> bool {
        match self {
            Self::Cache(fill, _) => fill.is_read(),
            Self::Client(_) => true,
        }
    }

    async fn push(&mut self, bytes: Bytes) -> Result<(), RecodeError> {
        match self {
            _ if bytes.is_empty() => Ok(()),
            Self::Cache(fill, _) => {
                fill::ready(fill).await;
                fill.push(&bytes).map_err(|_| RecodeError::Gone)
            }
            Self::Client(pieces) => pieces.push(bytes).await,
        }
    }

    async fn end(self, end: Result<Made, RecodeError>) {
        match (self, end) {
            (Self::Cache(fill, source), Ok(made)) => {
                let head = head_of(&source, made.coding, Effort::Quick, Some(&made));
                // Whoever reads along has all bytes, whether or not they are kept.
                let _ = fill.finish_as(Arc::new(head));
            }
            // Dropped, it fails those who read along.
            (Self::Cache(..), Err(_)) => {}
            (Self::Client(pieces), end) => pieces.end(end.map(drop)).await,
        }
    }
}

/// Codes `source` into `sink`, beside whoever asks for it.
pub(super) fn encode(core: &Arc<Core>, place: OwnedSemaphorePermit, source: Inner, encoder: Encoder, mut sink: Sink) {
    let counts = core.clone();
    spawn(core, async move {
        let end = encode_all(source, encoder, &mut sink).await;
        drop(place);
        match &end {
            Ok(made) => counts.metrics.encoded(made),
            Err(error) => debug!(error = error as &dyn std::error::Error, "an encoding ended early"),
        }
        sink.end(end).await;
    });
}

async fn encode_all(mut source: Inner, mut encoder: Encoder, sink: &mut Sink) -> Result<Made, RecodeError> {
    let mut unread_bytes = 0;
    loop {
        let next = match timeout(FLUSH_AFTER, next_of(&mut source)).await {
            Ok(next) => next?,
            Err(_) => {
                let flushed;
                (encoder, flushed) = at_work(usize::MAX, move || {
                    let flushed = encoder.flush()?;
                    Ok((encoder, flushed))
                })
                .await?;
                sink.push(flushed).await?;
                next_of(&mut source).await?
            }
        };
        let Some(mut bytes) = next else { break };
        while !bytes.is_empty() {
            let chunk = bytes.split_to(bytes.len().min(CHUNK_BYTES_MAX));
            unread_bytes += if sink.is_read() { 0 } else { chunk.len() as u64 };
            let is_long = unread_bytes.saturating_add(source.left()) > UNREAD_BYTES_MAX;
            if unread_bytes > 0 && is_long && !sink.is_read() {
                return Err(RecodeError::Gone);
            }
            let coded;
            (encoder, coded) = at_work(chunk.len(), move || {
                let coded = encoder.push(&chunk)?;
                Ok((encoder, coded))
            })
            .await?;
            sink.push(coded).await?;
        }
    }
    let (last, made) = at_work(usize::MAX, move || encoder.finish()).await?;
    sink.push(last).await?;
    Ok(made)
}

/// Does what `work` says, on another thread unless it is about few bytes: a worker has other connections, too.
async fn at_work<T: Send + 'static>(
    bytes: usize,
    work: impl FnOnce() -> Result<T, crate::compress::EncodeError> + Send + 'static,
) -> Result<T, RecodeError> {
    if bytes <= ON_THE_SPOT_BYTES_MAX {
        return Ok(work()?);
    }
    Ok(spawn_blocking(work).await.map_err(|_| RecodeError::Gone)??)
}

/// The body `source` without its `coding`: at most `bytes_max` bytes.
pub(super) fn decoded(core: &Arc<Core>, source: Inner, coding: Coding, bytes_max: u64) -> Inner {
    let (pieces, body) = Recoded::new();
    let places = core.coders.places.clone();
    spawn(core, async move {
        let end = match timeout(PLACE_WAIT, places.acquire()).await {
            Ok(Ok(_place)) => decode_all(source, coding, bytes_max, &pieces).await,
            Ok(Err(_)) | Err(_) => Err(RecodeError::Busy),
        };
        pieces.end(end).await;
    });
    Inner::Recoded(body)
}

async fn decode_all(mut source: Inner, coding: Coding, bytes_max: u64, pieces: &Pieces) -> Result<(), RecodeError> {
    let mut decoder = Decoder::new(coding, bytes_max)?;
    while let Some(mut coded) = next_of(&mut source).await? {
        // A piece at a time, so that the client's pace is that of the decoder.
        while let Some(piece) = decoder.decode(&mut coded)? {
            pieces.push(piece).await?;
        }
    }
    Ok(decoder.finish()?)
}

async fn next_of(source: &mut Inner) -> Result<Option<Bytes>, RecodeError> {
    let next = poll_fn(|cx| source.poll_bytes(cx)).await.transpose();
    next.map_err(|error| RecodeError::Source(Box::new(error)))
}

/// What it costs to code so many bytes again: the seconds that it takes.
pub(super) fn cost(source_bytes: u64) -> f32 {
    /// With the way to the source and back.
    const LEAST_S: f32 = 0.001;
    const BYTES_PER_S: f32 = 50e6;
    LEAST_S + source_bytes as f32 / BYTES_PER_S
}

/// Runs `task` until it, or the edge, ends.
pub(super) fn spawn(core: &Core, task: impl Future<Output = ()> + Send + 'static) {
    core.fills.spawn(core.drained.clone().run_until_cancelled_owned(task));
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, StatusCode};

    use super::*;
    use crate::cache::{self, Cache, CacheKey, Reader, Terms};
    use crate::compress::{Config, Effort};

    /// What comes into a cache, and who reads it.
    fn fill_of(cache: &Arc<Cache>, of: u64, size: Option<u64>) -> (Fill, Reader) {
        let head = Head { status: StatusCode::OK, headers: HeaderMap::new(), size, terms: Terms::Slice };
        cache.lead(&CacheKey::Slice { of, slice: 0 }).begin(head, 1.0).expect("there is room")
    }

    async fn code(size: usize, is_read: bool) -> Result<Made, RecodeError> {
        let cache = Arc::new(Cache::new(cache::Config::default(), None));
        let (mut source, bytes) = fill_of(&cache, 1, Some(size as u64));
        source.push(&vec![b'x'; size]).expect("as many as said");
        source.finish().expect("all of them");
        let (fill, reader) = fill_of(&cache, 2, None);
        let head =
            Arc::new(Head { status: StatusCode::OK, headers: HeaderMap::new(), size: None, terms: Terms::Slice });
        let reader = is_read.then_some(reader);
        let encoder = Encoder::new(Coding::Gzip, Config::default().levels(Effort::Quick), None).expect("an encoder");
        let end = encode_all(Inner::Shared(bytes), encoder, &mut Sink::Cache(fill, head)).await;
        drop(reader);
        end
    }

    #[tokio::test]
    async fn when_the_last_reader_has_left_only_what_is_short_is_coded_to_its_end() {
        assert!(code(4 << 20, true).await.is_ok());
        assert!(code(500 << 10, false).await.is_ok());
        assert!(matches!(code(4 << 20, false).await, Err(RecodeError::Gone)));
    }
}
