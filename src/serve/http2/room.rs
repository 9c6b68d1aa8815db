//! How much of all answers of a connection is handed to the codec ahead of what the client takes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::{Buf, Bytes};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::super::streams::Gone;

/// How much that is: what a link of 20 MB/s with a round trip of 12 ms carries. Without it each stream has a buffer of its
/// own, and a client that reads nothing a hundred of them.
pub(super) const ROOM_BYTES: usize = 256 * 1024;

/// The room of one connection.
#[derive(Debug)]
pub(super) struct Room {
    free: Semaphore,
    /// How often some was given back.
    returns: AtomicU64,
}

/// Some of it, until it is dropped.
#[derive(Debug)]
struct Held {
    room: Arc<Room>,
    bytes: usize,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.room.returns.fetch_add(1, Ordering::Relaxed);
        self.room.free.add_permits(self.bytes);
    }
}

/// A piece of an answer, which has its room until the codec has sent or dropped it.
#[derive(Debug)]
pub(super) struct Piece {
    bytes: Bytes,
    _held: Option<Held>,
}

impl Piece {
    /// No bytes, which always have room.
    pub(super) const EMPTY: Self = Self { bytes: Bytes::new(), _held: None };
}

impl Buf for Piece {
    fn remaining(&self) -> usize {
        self.bytes.remaining()
    }

    fn chunk(&self) -> &[u8] {
        self.bytes.chunk()
    }

    fn advance(&mut self, count: usize) {
        self.bytes.advance(count);
    }
}

impl Room {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self { free: Semaphore::new(ROOM_BYTES), returns: AtomicU64::new(0) })
    }

    /// The piece that these bytes are, if there is room for them now.
    pub(super) fn try_piece(self: &Arc<Self>, bytes: Bytes) -> Result<Piece, Bytes> {
        let count = bytes.len();
        match u32::try_from(count).ok().and_then(|count| self.free.try_acquire_many(count).ok()) {
            Some(permit) => {
                permit.forget();
                Ok(Piece { bytes, _held: Some(Held { room: self.clone(), bytes: count }) })
            }
            None => Err(bytes),
        }
    }

    /// Waits until there is room for these bytes. Who comes first has it first.
    ///
    /// # Errors
    /// When the client took nothing of any answer for as long as it may stand still.
    pub(super) async fn piece(self: &Arc<Self>, bytes: Bytes, stall: Duration) -> Result<Piece, Gone> {
        let bytes = match self.try_piece(bytes) {
            Ok(piece) => return Ok(piece),
            Err(bytes) => bytes,
        };
        self.wait(bytes.len(), stall).await?;
        let held = Held { room: self.clone(), bytes: bytes.len() };
        Ok(Piece { bytes, _held: Some(held) })
    }

    /// Waits until there is room for something.
    ///
    /// # Errors
    /// As [`Room::piece`].
    pub(super) async fn any(&self, stall: Duration) -> Result<(), Gone> {
        if self.free.available_permits() == 0 {
            self.wait(1, stall).await?;
            self.free.add_permits(1);
        }
        Ok(())
    }

    /// Takes room for so many bytes, which the caller has to give back.
    async fn wait(&self, bytes: usize, stall: Duration) -> Result<(), Gone> {
        let count = u32::try_from(bytes).map_err(|_| Gone)?;
        let mut waiting = std::pin::pin!(self.free.acquire_many(count));
        loop {
            let before = self.returns.load(Ordering::Relaxed);
            match timeout(stall, waiting.as_mut()).await {
                Ok(permit) => {
                    permit.map_err(|_| Gone)?.forget();
                    return Ok(());
                }
                // It takes what others have.
                Err(_) if self.returns.load(Ordering::Relaxed) != before => {}
                Err(_) => return Err(Gone),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn room_is_for_all_and_comes_back_with_what_had_it() {
        let (room, stall) = (Room::new(), Duration::from_secs(30));
        let bytes = |count: usize| Bytes::from(vec![b'x'; count]);
        let first = room.piece(bytes(ROOM_BYTES - 10), stall).await.unwrap();
        assert_eq!(room.try_piece(bytes(11)).unwrap_err().len(), 11);
        let second = room.try_piece(bytes(10)).unwrap();
        let mut third = std::pin::pin!(room.piece(bytes(20), stall));
        assert!(futures_util::poll!(third.as_mut()).is_pending());
        // Something moves, so it waits on.
        tokio::time::sleep(stall / 2).await;
        drop(second);
        tokio::time::sleep(stall - Duration::from_secs(1)).await;
        assert!(futures_util::poll!(third.as_mut()).is_pending());
        tokio::time::sleep(stall).await;
        assert_eq!(third.await.unwrap_err(), Gone, "nothing moved for so long");
        drop(first);
        assert_eq!(room.free.available_permits(), ROOM_BYTES);
        assert_eq!(room.any(stall).await, Ok(()));
    }
}
