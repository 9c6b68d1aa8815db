//! Takes codings off, for clients that do not read what an origin sent although it was asked for something else.

use std::fmt;

use brotli::enc::StandardAlloc;
use brotli::{BrotliDecompressStream, BrotliResult, BrotliState};
use bytes::{Buf, Bytes};
use flate2::{Decompress, FlushDecompress, Status};
use zstd_safe::{DCtx, DParameter, InBuffer, OutBuffer};

use super::Coding;

/// The most that is given at a time, so that a few bytes that stand for many never take their memory.
const PIECE_BYTES_MAX: usize = 64 << 10;

/// Windows of zstd in HTTP have at most 8 MiB (RFC 9659 section 3).
const ZSTD_WINDOW_BITS_MAX: u32 = 23;

/// Bytes that cannot be decoded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// They are not in the coding, or need a larger window than HTTP allows, or more memory than there is.
    #[error("it cannot be read as {coding}: {why}")]
    Unreadable {
        /// Which coding they were said to have.
        coding: Coding,
        /// What the library says.
        why: &'static str,
    },
    /// They end too early.
    #[error("the {0} ends before its last byte")]
    Truncated(Coding),
    /// They stand for more than is allowed.
    #[error("decoded it has more than {max} bytes")]
    TooLarge {
        /// The most.
        max: u64,
    },
}

/// Decodes the bytes of one answer. A piece at a time is all that it makes, so a bomb costs the time of whoever reads
/// it and no memory; the limit bounds that. Its own memory is at most the window of the coding: 8 MiB for zstd, 16 MiB
/// for brotli, 32 KiB for gzip.
pub struct Decoder {
    coding: Coding,
    engine: Engine,
    given_bytes: u64,
    bytes_max: u64,
    place: Place,
    /// The last piece was full: there may be more without more to read.
    holds: bool,
}

/// Where in the coded bytes a decoder is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Start,
    Within,
    /// Behind a member or frame: another one may follow.
    Behind,
    /// What follows is ignored.
    Over,
}

enum Engine {
    Zstd(DCtx<'static>),
    Brotli(Box<BrotliState<StandardAlloc, StandardAlloc, StandardAlloc>>),
    Gzip(Decompress),
}

/// What one step of an engine did.
struct Step {
    taken: usize,
    /// A member or frame ends here.
    is_end: bool,
}

impl Decoder {
    /// A decoder that gives at most `bytes_max` bytes.
    ///
    /// # Errors
    /// When there is no memory.
    pub fn new(coding: Coding, bytes_max: u64) -> Result<Self, DecodeError> {
        let engine = match coding {
            Coding::Zstd => {
                let error = DecodeError::Unreadable { coding, why: "no memory" };
                let mut context = DCtx::try_create().ok_or(error)?;
                context.set_parameter(DParameter::WindowLogMax(ZSTD_WINDOW_BITS_MAX)).map_err(zstd_error)?;
                Engine::Zstd(context)
            }
            Coding::Brotli => {
                let allocator = StandardAlloc::default;
                Engine::Brotli(Box::new(BrotliState::new_strict(allocator(), allocator(), allocator())))
            }
            Coding::Gzip => Engine::Gzip(Decompress::new_gzip(15)),
        };
        Ok(Self { coding, engine, given_bytes: 0, bytes_max, place: Place::Start, holds: false })
    }

    /// The next piece of what `coded` stands for, which it takes from; `None` when all of it was taken and more is
    /// needed. Call it until then for each chunk.
    ///
    /// What follows the end is another member of gzip or frame of zstd (RFC 1952 section 2.2, RFC 8878 section 3).
    /// Anything else is ignored behind gzip and brotli, as browsers do.
    ///
    /// # Errors
    /// When the bytes are malformed, or stand for too many.
    pub fn decode(&mut self, coded: &mut Bytes) -> Result<Option<Bytes>, DecodeError> {
        let mut piece = Vec::new();
        while !coded.is_empty() || self.holds {
            if self.place == Place::Behind && !coded.is_empty() && !self.begins_again(coded) {
                self.place = Place::Over;
            }
            if self.place == Place::Over {
                coded.clear();
                break;
            }
            piece.reserve_exact(PIECE_BYTES_MAX - piece.len());
            let before = piece.len();
            let step = self.engine.run(coded, &mut piece)?;
            if step.taken == 0 && piece.len() == before && !step.is_end && !self.holds {
                return Err(DecodeError::Unreadable { coding: self.coding, why: "it goes on without an end" });
            }
            coded.advance(step.taken);
            self.holds = piece.len() == piece.capacity();
            match self.place {
                _ if step.is_end => self.place = Place::Behind,
                // Nothing was left behind the end.
                Place::Behind if step.taken == 0 => {}
                _ => self.place = Place::Within,
            }
            if self.holds {
                break;
            }
        }
        self.given_bytes += piece.len() as u64;
        if self.given_bytes > self.bytes_max {
            return Err(DecodeError::TooLarge { max: self.bytes_max });
        }
        if piece.len() < piece.capacity() / 2 {
            // Most of its memory is of no use to whoever waits for the bytes to be sent.
            return Ok((!piece.is_empty()).then(|| Bytes::copy_from_slice(&piece)));
        }
        Ok((!piece.is_empty()).then(|| piece.into()))
    }

    /// The coded bytes have ended. None at all are an empty answer, as some origins send it.
    ///
    /// # Errors
    /// When some are missing.
    pub fn finish(self) -> Result<(), DecodeError> {
        if matches!(self.place, Place::Within) { Err(DecodeError::Truncated(self.coding)) } else { Ok(()) }
    }

    /// After an end: whether `more` is a further member or frame. The decoder is ready for it then.
    fn begins_again(&mut self, more: &[u8]) -> bool {
        match &mut self.engine {
            // It is ready for the next frame by itself, and says what is none.
            Engine::Zstd(_) => true,
            Engine::Brotli(_) => false,
            Engine::Gzip(engine) => {
                let begins = more.starts_with(&[0x1f]);
                if begins {
                    engine.reset(true);
                }
                begins
            }
        }
    }
}

impl fmt::Debug for Decoder {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Decoder({}, {} bytes given)", self.coding, self.given_bytes)
    }
}

fn zstd_error(code: usize) -> DecodeError {
    DecodeError::Unreadable { coding: Coding::Zstd, why: zstd_safe::get_error_name(code) }
}

impl Engine {
    fn run(&mut self, coded: &[u8], piece: &mut Vec<u8>) -> Result<Step, DecodeError> {
        let position = piece.len();
        match self {
            Self::Zstd(context) => {
                let mut input = InBuffer::around(coded);
                let mut output = OutBuffer::around_pos(piece, position);
                let hint = context.decompress_stream(&mut output, &mut input).map_err(zstd_error)?;
                Ok(Step { taken: input.pos(), is_end: hint == 0 })
            }
            Self::Brotli(state) => {
                piece.resize(piece.capacity(), 0);
                let (mut coded_left, mut taken) = (coded.len(), 0);
                let (mut room_left, mut written) = (piece.len() - position, 0);
                let (room, mut total) = (&mut piece[position..], 0);
                let result = BrotliDecompressStream(
                    &mut coded_left,
                    &mut taken,
                    coded,
                    &mut room_left,
                    &mut written,
                    room,
                    &mut total,
                    state,
                );
                piece.truncate(position + written);
                if matches!(result, BrotliResult::ResultFailure) {
                    return Err(DecodeError::Unreadable { coding: Coding::Brotli, why: "corrupted" });
                }
                Ok(Step { taken, is_end: matches!(result, BrotliResult::ResultSuccess) })
            }
            Self::Gzip(engine) => {
                let before = engine.total_in();
                let status = engine.decompress_vec(coded, piece, FlushDecompress::None);
                let malformed = |_| DecodeError::Unreadable { coding: Coding::Gzip, why: "corrupted" };
                let status = status.map_err(malformed)?;
                let taken = (engine.total_in() - before) as usize;
                Ok(Step { taken, is_end: status == Status::StreamEnd })
            }
        }
    }
}

#[cfg(test)]
mod tests;
