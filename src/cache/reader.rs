//! Whoever reads along what somebody fetches, at his own pace.

use std::ops::Range;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;

use super::flight::{Broken, Flight, Phase, Reading, State, Told};

/// The most that is copied for a reader at a time while the bytes still come.
const COPY_BYTES_MAX: usize = 64 << 10;

/// The most that a reader gets at a time of what is there whole.
const PIECE_BYTES_MAX: usize = 512 << 10;

/// Reads along.
#[derive(Debug)]
pub struct Reader {
    flight: Arc<Flight>,
    number: u64,
    /// Where it ends, if it reads but a part.
    end: Option<u64>,
}

impl Reader {
    pub(super) fn new(flight: Arc<Flight>) -> Self {
        let number = {
            let mut state = flight.state();
            state.reader_numbers += 1;
            let number = state.reader_numbers;
            state.readers.insert(number, Reading::default());
            number
        };
        Self { flight, number, end: None }
    }

    /// The number of what comes, which nothing else has.
    pub fn representation(&self) -> u64 {
        self.flight.representation
    }

    /// What comes.
    pub async fn head(&mut self) -> Told {
        std::future::poll_fn(|cx| self.poll_head(cx)).await
    }

    /// As [`Reader::head`].
    pub fn poll_head(&mut self, cx: &Context<'_>) -> Poll<Told> {
        let mut state = self.flight.state();
        match &state.phase {
            Phase::Streaming { head, .. } | Phase::Whole { head, .. } | Phase::Failed { head } => {
                Poll::Ready(Told::Comes(head.clone()))
            }
            Phase::Released => Poll::Ready(Told::Alone),
            Phase::Part => Poll::Ready(Told::Part),
            Phase::Left => Poll::Ready(Told::Again),
            Phase::Waiting => {
                state.readers.entry(self.number).or_default().waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    /// Reads nothing but these bytes of a body of known size.
    pub fn restrict(&mut self, part: Range<u64>) {
        self.flight.state().readers.entry(self.number).or_default().read = part.start;
        self.end = Some(part.end);
    }

    /// The next bytes, `None` after the last.
    ///
    /// # Errors
    /// [`Broken`] when the fetch failed, or this reader was too slow for others.
    pub fn poll_bytes(&mut self, cx: &Context<'_>) -> Poll<Option<Result<Bytes, Broken>>> {
        let mut state = self.flight.state();
        let State { phase, readers, .. } = &mut *state;
        let reading = readers.entry(self.number).or_default();
        if reading.left_behind {
            return Poll::Ready(Some(Err(Broken)));
        }
        let left = self.end.map_or(u64::MAX, |end| end.saturating_sub(reading.read));
        if left == 0 {
            return Poll::Ready(None);
        }
        let mut next = match phase {
            Phase::Streaming { before, base, .. } | Phase::Whole { before, base, .. }
                if reading.read < *base + before.len() as u64 =>
            {
                let start = (reading.read - *base) as usize;
                before.slice(start..before.len().min(start + PIECE_BYTES_MAX))
            }
            Phase::Streaming { before, bytes, base, .. }
                if reading.read < *base + (before.len() + bytes.len()) as u64 =>
            {
                let start = (reading.read - *base) as usize - before.len();
                Bytes::copy_from_slice(&bytes[start..bytes.len().min(start + COPY_BYTES_MAX)])
            }
            Phase::Streaming { .. } | Phase::Waiting => {
                reading.waker = Some(cx.waker().clone());
                return Poll::Pending;
            }
            Phase::Whole { before, bytes, base, .. } if reading.read < *base + (before.len() + bytes.len()) as u64 => {
                let start = (reading.read - *base) as usize - before.len();
                bytes.slice(start..bytes.len().min(start + PIECE_BYTES_MAX))
            }
            Phase::Whole { .. } => return Poll::Ready(None),
            Phase::Failed { .. } | Phase::Released | Phase::Part | Phase::Left => {
                return Poll::Ready(Some(Err(Broken)));
            }
        };
        next.truncate(usize::try_from(left).unwrap_or(usize::MAX));
        reading.read += next.len() as u64;
        state.trim();
        Poll::Ready(Some(Ok(next)))
    }

    /// How many bytes are to come; `None` if only their end tells.
    pub fn left(&self) -> Option<u64> {
        let size = match self.end {
            Some(end) => end,
            None => self.flight.head()?.size?,
        };
        let read = self.flight.state().readers.get(&self.number).map_or(0, |reading| reading.read);
        Some(size.saturating_sub(read))
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let mut state = self.flight.state();
        state.readers.remove(&self.number);
        state.trim();
    }
}
