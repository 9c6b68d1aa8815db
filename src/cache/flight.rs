//! One fetch that all read who ask for the same object: they get the bytes as they come, each at its own pace.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::{Bytes, BytesMut};

use super::{Cache, CacheKey, Head, Place, charge};

/// The most that is copied for a reader at a time while the bytes still come.
const COPY_BYTES_MAX: usize = 64 << 10;

/// The most that a reader gets at a time of what is there whole.
const PIECE_BYTES_MAX: usize = 512 << 10;

/// Bytes with the memory that they take.
struct Placed {
    bytes: Bytes,
    _place: Place,
}

impl AsRef<[u8]> for Placed {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// The fetch has ended before its last byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the fetch that this answer reads along has failed")]
pub struct Broken;

#[derive(Debug, Default)]
pub(super) struct Flight {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    phase: Phase,
    readers: BTreeMap<u64, Waker>,
    reader_numbers: u64,
}

#[derive(Debug, Default)]
enum Phase {
    /// Nothing has come yet.
    #[default]
    Waiting,
    /// The bytes come.
    Streaming { head: Arc<Head>, bytes: BytesMut, place: Place },
    /// All bytes are there.
    Whole { head: Arc<Head>, bytes: Bytes },
    /// No more bytes come, and some are missing.
    Failed { head: Arc<Head> },
    /// It is nothing that can be shared.
    Released,
    /// Whoever was to fetch it has gone.
    Left,
}

/// What those learn who wait for an object that another one is to fetch.
#[derive(Debug, Clone, PartialEq)]
pub enum Told {
    /// It comes.
    Comes(Arc<Head>),
    /// Everyone has to fetch for himself.
    Alone,
    /// Whoever was to fetch it has gone: somebody else is to.
    Again,
}

impl Flight {
    pub(super) fn head(&self) -> Option<Arc<Head>> {
        match &self.state().phase {
            Phase::Streaming { head, .. } | Phase::Whole { head, .. } | Phase::Failed { head } => Some(head.clone()),
            Phase::Waiting | Phase::Released | Phase::Left => None,
        }
    }

    fn change<T>(&self, change: impl FnOnce(&mut Phase) -> T) -> T {
        let mut state = self.state();
        let answer = change(&mut state.phase);
        let wakers = std::mem::take(&mut state.readers);
        drop(state);
        wakers.into_values().for_each(Waker::wake);
        answer
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The one who is to fetch an object. Dropped, it lets one of those who wait do so.
#[derive(Debug)]
pub struct Lead {
    cache: Arc<Cache>,
    key: CacheKey,
    flight: Option<Arc<Flight>>,
}

impl Lead {
    pub(super) const fn new(cache: Arc<Cache>, key: CacheKey, flight: Arc<Flight>) -> Self {
        Self { cache, key, flight: Some(flight) }
    }

    /// The object comes: a way to pass its bytes on, and one to read them. `None` if there is no room for it; all who
    /// wait then fetch for themselves, and whoever leads goes on as it does.
    pub fn begin(mut self, head: Head) -> Option<(Fill, Reader)> {
        let room = if self.cache.takes(head.size) {
            self.cache.reserve(&self.key, charge(&self.key, head.size), &head.version)
        } else {
            None
        };
        let Some(place) = room else {
            self.refuse();
            return None;
        };
        let flight = self.flight.take()?;
        let bytes = BytesMut::with_capacity(head.size as usize);
        flight.change(|phase| *phase = Phase::Streaming { head: Arc::new(head), bytes, place });
        let reader = Reader::new(flight.clone());
        Some((Fill { cache: self.cache.clone(), key: self.key.clone(), flight }, reader))
    }
}

impl Lead {
    /// It is nothing that can be shared: all who wait fetch for themselves.
    pub fn refuse(mut self) {
        self.end(Phase::Released);
    }

    fn end(&mut self, end: Phase) {
        if let Some(flight) = self.flight.take() {
            self.cache.release(&self.key, &flight);
            flight.change(|phase| *phase = end);
        }
    }
}

impl Drop for Lead {
    fn drop(&mut self) {
        self.end(Phase::Left);
    }
}

/// The bytes of an object on their way into the cache. Dropped before [`Fill::finish`], it fails those who read along.
#[derive(Debug)]
pub struct Fill {
    cache: Arc<Cache>,
    key: CacheKey,
    flight: Arc<Flight>,
}

impl Fill {
    /// Passes the next bytes on.
    ///
    /// # Errors
    /// [`Broken`] when they are more than the head said.
    pub fn push(&mut self, more: &[u8]) -> Result<(), Broken> {
        self.flight.change(|phase| match phase {
            Phase::Streaming { head, bytes, .. } if (bytes.len() + more.len()) as u64 <= head.size => {
                bytes.extend_from_slice(more);
                Ok(())
            }
            _ => Err(Broken),
        })
    }

    /// The bytes have ended: they are kept if they are as many as the head said.
    ///
    /// # Errors
    /// [`Broken`] when they are fewer.
    pub fn finish(self) -> Result<(), Broken> {
        let (head, body) = self.flight.change(|phase| match std::mem::take(phase) {
            Phase::Streaming { head, bytes, place } if bytes.len() as u64 == head.size => {
                // Whoever has a part of them, the connections that still write it too, has their place.
                let bytes = Bytes::from_owner(Placed { bytes: bytes.freeze(), _place: place });
                *phase = Phase::Whole { head: head.clone(), bytes: bytes.clone() };
                Ok((head, bytes))
            }
            other => {
                *phase = other;
                Err(Broken)
            }
        })?;
        self.cache.keep(&self.key, &self.flight, head, body);
        Ok(())
    }
}

impl Drop for Fill {
    fn drop(&mut self) {
        self.cache.release(&self.key, &self.flight);
        self.flight.change(|phase| {
            if let Phase::Streaming { head, .. } = phase {
                *phase = Phase::Failed { head: head.clone() };
            }
        });
    }
}

/// Reads along.
#[derive(Debug)]
pub struct Reader {
    flight: Arc<Flight>,
    number: u64,
    read: usize,
}

impl Reader {
    pub(super) fn new(flight: Arc<Flight>) -> Self {
        let number = {
            let mut state = flight.state();
            state.reader_numbers += 1;
            state.reader_numbers
        };
        Self { flight, number, read: 0 }
    }

    /// What comes.
    pub async fn head(&mut self) -> Told {
        std::future::poll_fn(|cx| {
            let mut state = self.flight.state();
            match &state.phase {
                Phase::Streaming { head, .. } | Phase::Whole { head, .. } | Phase::Failed { head } => {
                    Poll::Ready(Told::Comes(head.clone()))
                }
                Phase::Released => Poll::Ready(Told::Alone),
                Phase::Left => Poll::Ready(Told::Again),
                Phase::Waiting => {
                    state.readers.insert(self.number, cx.waker().clone());
                    Poll::Pending
                }
            }
        })
        .await
    }

    /// The next bytes, `None` after the last.
    ///
    /// # Errors
    /// [`Broken`] when the fetch failed.
    pub fn poll_bytes(&mut self, cx: &Context<'_>) -> Poll<Option<Result<Bytes, Broken>>> {
        let mut state = self.flight.state();
        let next = match &state.phase {
            Phase::Streaming { bytes, .. } if self.read < bytes.len() => {
                let end = bytes.len().min(self.read + COPY_BYTES_MAX);
                Bytes::copy_from_slice(&bytes[self.read..end])
            }
            Phase::Streaming { .. } | Phase::Waiting => {
                state.readers.insert(self.number, cx.waker().clone());
                return Poll::Pending;
            }
            Phase::Whole { bytes, .. } if self.read < bytes.len() => {
                bytes.slice(self.read..bytes.len().min(self.read + PIECE_BYTES_MAX))
            }
            Phase::Whole { .. } => return Poll::Ready(None),
            Phase::Failed { .. } | Phase::Released | Phase::Left => return Poll::Ready(Some(Err(Broken))),
        };
        self.read += next.len();
        Poll::Ready(Some(Ok(next)))
    }

    /// How many bytes are to come.
    pub fn left(&self) -> u64 {
        self.flight.head().map_or(0, |head| head.size.saturating_sub(self.read as u64))
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.flight.state().readers.remove(&self.number);
    }
}
