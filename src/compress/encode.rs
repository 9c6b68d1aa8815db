//! Makes the codings, chunk by chunk.

use std::fmt;

use brotli::enc::StandardAlloc;
use brotli::enc::backward_references::BrotliEncoderParams;
use brotli::enc::encode::{BrotliEncoderOperation, BrotliEncoderStateStruct};
use bytes::Bytes;
use flate2::{Compress, Compression, FlushCompress, Status};
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::Xxh3;
use zstd_safe::zstd_sys::ZSTD_EndDirective;
use zstd_safe::{CCtx, CParameter, InBuffer, OutBuffer};

use super::config::WINDOW_BITS_MIN;
use super::tag::Fingerprint;
use super::{Coding, Levels};

/// The most that should be pushed at a time by whoever shares a thread with others: at the quick levels that are the
/// default an encoder works at it for a millisecond or two. At the thorough ones a call may take a tenth of a second,
/// and most of the work may fall to [`Encoder::finish`].
pub const CHUNK_BYTES_MAX: usize = 64 << 10;

/// What an encoder writes to at a time; it grows while there is more.
const PIECE_BYTES: usize = 16 << 10;

/// An encoding that cannot go on; what came out of it is no whole answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// The levels are none of the coding.
    #[error(transparent)]
    Levels(#[from] super::ConfigError),
    /// There are more bytes, or fewer, than was said.
    #[error("{announced} bytes were announced, and {pushed} or more came")]
    Length {
        /// How many were announced.
        announced: u64,
        /// How many have been pushed.
        pushed: u64,
    },
    /// The library gave up, as it does without memory.
    #[error("{coding} failed: {why}")]
    Failed {
        /// Whose.
        coding: Coding,
        /// What it says.
        why: &'static str,
    },
}

/// What is known of an answer that was coded to the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Made {
    /// How it is coded.
    pub coding: Coding,
    /// Its size as it is coded, in bytes.
    pub size_bytes: u64,
    /// Its size before, in bytes.
    pub source_bytes: u64,
    /// What tells its bytes from all others.
    pub fingerprint: Fingerprint,
}

/// Codes the bytes of one answer. Its memory does not depend on their number; `docs/performance.md` says how much it
/// is.
pub struct Encoder {
    coding: Coding,
    engine: Engine,
    /// What was coded and not taken yet: empty between calls, kept for its memory.
    coded: Vec<u8>,
    announced: Option<u64>,
    source_bytes: u64,
    size_bytes: u64,
    hasher: Xxh3,
    /// Something was pushed since the last flush.
    holds: bool,
}

enum Engine {
    Zstd(CCtx<'static>),
    Brotli(Box<BrotliEncoderStateStruct<StandardAlloc>>),
    Gzip(Compress),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Push,
    Flush,
    Finish,
}

impl Encoder {
    /// An encoder for an answer of `size_bytes` before it is coded, if that is known: a smaller one takes less memory.
    ///
    /// # Errors
    /// When the levels do not work, or there is no memory.
    pub fn new(coding: Coding, levels: Levels, size_bytes: Option<u64>) -> Result<Self, EncodeError> {
        levels.check()?;
        let engine = match coding {
            Coding::Zstd => Engine::Zstd(zstd(levels, size_bytes)?),
            Coding::Brotli => Engine::Brotli(Box::new(brotli(levels, size_bytes))),
            // 15 bits: the window of gzip is 32 KiB, and no decoder counts on less.
            Coding::Gzip => Engine::Gzip(Compress::new_gzip(Compression::new(levels.gzip.into()), 15)),
        };
        let (coded, hasher) = (Vec::new(), Xxh3::new());
        Ok(Self { coding, engine, coded, announced: size_bytes, source_bytes: 0, size_bytes: 0, hasher, holds: false })
    }

    /// Takes the next bytes, and gives what is coded by now: often nothing, as codings work in blocks. Works as long as
    /// the chunk is large: see [`CHUNK_BYTES_MAX`].
    ///
    /// # Errors
    /// When there are more bytes than were announced, or the library gives up.
    pub fn push(&mut self, chunk: &[u8]) -> Result<Bytes, EncodeError> {
        self.source_bytes += chunk.len() as u64;
        if self.announced.is_some_and(|announced| self.source_bytes > announced) {
            return Err(self.length_error());
        }
        self.holds |= !chunk.is_empty();
        self.run(Step::Push, chunk)
    }

    /// Gives all that is needed to decode what was pushed by now; nothing if that was given already. A flush costs some
    /// bytes: it is for the moment when an origin pauses and the client waits.
    ///
    /// # Errors
    /// When the library gives up.
    pub fn flush(&mut self) -> Result<Bytes, EncodeError> {
        if !std::mem::take(&mut self.holds) {
            return Ok(Bytes::new());
        }
        self.run(Step::Flush, &[])
    }

    /// Gives the last bytes, and what is known of all.
    ///
    /// # Errors
    /// When fewer bytes came than were announced, or the library gives up.
    pub fn finish(mut self) -> Result<(Bytes, Made), EncodeError> {
        if self.announced.is_some_and(|announced| self.source_bytes != announced) {
            return Err(self.length_error());
        }
        let last = self.run(Step::Finish, &[])?;
        let fingerprint = Fingerprint::new(self.hasher.digest());
        let Self { coding, size_bytes, source_bytes, .. } = self;
        Ok((last, Made { coding, size_bytes, source_bytes, fingerprint }))
    }

    /// Codes an answer that is there whole: it has its length and its strong tag from the start. Blocks as long as it
    /// takes.
    ///
    /// # Errors
    /// When the levels do not work, or the library gives up.
    pub fn whole(coding: Coding, levels: Levels, source: &[u8]) -> Result<(Bytes, Made), EncodeError> {
        let mut encoder = Self::new(coding, levels, Some(source.len() as u64))?;
        let start = encoder.push(source)?;
        let (end, made) = encoder.finish()?;
        Ok((if start.is_empty() { end } else { [start, end].concat().into() }, made))
    }

    /// How many bytes have been pushed.
    pub const fn source_bytes(&self) -> u64 {
        self.source_bytes
    }

    fn length_error(&self) -> EncodeError {
        EncodeError::Length { announced: self.announced.unwrap_or_default(), pushed: self.source_bytes }
    }

    fn run(&mut self, step: Step, mut source: &[u8]) -> Result<Bytes, EncodeError> {
        loop {
            self.coded.reserve(PIECE_BYTES);
            let (taken, is_done) = self.engine.run(step, source, &mut self.coded)?;
            source = &source[taken..];
            if source.is_empty() && is_done {
                break;
            }
        }
        self.hasher.update(&self.coded);
        self.size_bytes += self.coded.len() as u64;
        if self.coded.len() < self.coded.capacity() / 2 {
            // Most of its memory is of no use to whoever waits for the bytes to be sent.
            let coded = Bytes::copy_from_slice(&self.coded);
            self.coded.clear();
            return Ok(coded);
        }
        Ok(std::mem::take(&mut self.coded).into())
    }
}

impl fmt::Debug for Encoder {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { coding, source_bytes, size_bytes, .. } = self;
        write!(formatter, "Encoder({coding}, {source_bytes} bytes to {size_bytes})")
    }
}

fn zstd(levels: Levels, size_bytes: Option<u64>) -> Result<CCtx<'static>, EncodeError> {
    let mut context = CCtx::try_create().ok_or(EncodeError::Failed { coding: Coding::Zstd, why: "no memory" })?;
    // No checksum: TLS and TCP have theirs, and browsers do not look at this one.
    for parameter in
        [CParameter::CompressionLevel(levels.zstd.into()), CParameter::WindowLog(levels.window_bits.into())]
    {
        context.set_parameter(parameter).map_err(zstd_error)?;
    }
    context.set_pledged_src_size(size_bytes).map_err(zstd_error)?;
    Ok(context)
}

fn zstd_error(code: usize) -> EncodeError {
    EncodeError::Failed { coding: Coding::Zstd, why: zstd_safe::get_error_name(code) }
}

fn brotli(levels: Levels, size_bytes: Option<u64>) -> BrotliEncoderStateStruct<StandardAlloc> {
    let mut state = BrotliEncoderStateStruct::new(StandardAlloc::default());
    // Its ring is as large as the window, even for a small answer.
    let bits_needed = size_bytes.map_or(u32::MAX, |size| u64::BITS - size.leading_zeros());
    state.params = BrotliEncoderParams {
        quality: levels.br.into(),
        lgwin: u32::from(levels.window_bits).min(bits_needed).max(WINDOW_BITS_MIN.into()) as i32,
        size_hint: size_bytes.map_or(0, |size| usize::try_from(size).unwrap_or(usize::MAX)),
        ..BrotliEncoderParams::default()
    };
    state
}

impl Engine {
    /// One step into the room that `coded` has: how much of the source was taken, and whether nothing of this step is
    /// left but for what was not taken.
    fn run(&mut self, step: Step, source: &[u8], coded: &mut Vec<u8>) -> Result<(usize, bool), EncodeError> {
        match self {
            Self::Zstd(context) => {
                let directive = match step {
                    Step::Push => ZSTD_EndDirective::ZSTD_e_continue,
                    Step::Flush => ZSTD_EndDirective::ZSTD_e_flush,
                    Step::Finish => ZSTD_EndDirective::ZSTD_e_end,
                };
                let mut input = InBuffer::around(source);
                let position = coded.len();
                let mut output = OutBuffer::around_pos(coded, position);
                let left = context.compress_stream2(&mut output, &mut input, directive).map_err(zstd_error)?;
                Ok((input.pos(), step == Step::Push || left == 0))
            }
            Self::Brotli(state) => run_brotli(state, step, source, coded),
            Self::Gzip(engine) => {
                let flush = match step {
                    Step::Push => FlushCompress::None,
                    Step::Flush => FlushCompress::Sync,
                    Step::Finish => FlushCompress::Finish,
                };
                let before = engine.total_in();
                let status = engine.compress_vec(source, coded, flush);
                let status = status.map_err(|_| EncodeError::Failed { coding: Coding::Gzip, why: "wrong state" })?;
                let is_done = match step {
                    Step::Push => true,
                    // It has flushed all when it did not need all of the room.
                    Step::Flush => coded.len() < coded.capacity(),
                    Step::Finish => status == Status::StreamEnd,
                };
                Ok(((engine.total_in() - before) as usize, is_done))
            }
        }
    }
}

fn run_brotli(
    state: &mut BrotliEncoderStateStruct<StandardAlloc>,
    step: Step,
    source: &[u8],
    coded: &mut Vec<u8>,
) -> Result<(usize, bool), EncodeError> {
    let operation = match step {
        Step::Push => BrotliEncoderOperation::BROTLI_OPERATION_PROCESS,
        Step::Flush => BrotliEncoderOperation::BROTLI_OPERATION_FLUSH,
        Step::Finish => BrotliEncoderOperation::BROTLI_OPERATION_FINISH,
    };
    let (mut source_left, mut taken) = (source.len(), 0);
    let start = coded.len();
    coded.resize(start + PIECE_BYTES, 0);
    let (mut room_left, mut written) = (PIECE_BYTES, 0);
    let works = state.compress_stream(
        operation,
        &mut source_left,
        source,
        &mut taken,
        &mut room_left,
        &mut coded[start..],
        &mut written,
        &mut None,
        &mut |_, _, _, _| (),
    );
    coded.truncate(start + written);
    if !works {
        return Err(EncodeError::Failed { coding: Coding::Brotli, why: "wrong state" });
    }
    let is_done = match step {
        Step::Push => true,
        Step::Flush => !state.has_more_output(),
        Step::Finish => state.is_finished(),
    };
    Ok((taken, is_done))
}

#[cfg(test)]
mod tests;
