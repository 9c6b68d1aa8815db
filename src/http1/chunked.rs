//! The chunked transfer coding (RFC 9112 section 7.1).

use http::HeaderMap;

use super::HeadError;
use super::trailers::parse_trailers;

/// By how much extensions may outweigh the data of a body so far. They mean nothing here, and cost whoever reads them.
const EXTENSIONS_EXCESS_MAX: usize = 16 * 1024;

/// The bytes of a trailer section.
const TRAILER_BYTES_MAX: usize = 8 * 1024;

/// Why chunks were not understood. Where the next message begins is not known then.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ChunkError {
    /// The size is no hexadecimal number, or one beyond 64 bits.
    #[error("a chunk has no valid size")]
    Size,
    /// A line ended in LF alone, a CR stood alone, or a chunk is longer than its size.
    #[error("chunks and their sizes end in CR LF")]
    LineEnd,
    /// Control characters within.
    #[error("the extension of a chunk is invalid")]
    Extension,
    /// More of them than data.
    #[error("the extensions of chunks are too long")]
    ExtensionsTooLong,
    /// More than any trailer needs.
    #[error("the trailers are too long")]
    TrailersTooLong,
    /// They are no fields.
    #[error("the trailers are invalid")]
    Trailers(#[source] HeadError),
}

/// What is at the begin of the bytes that a decoder was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decoded {
    /// So many bytes of sizes, extensions and line ends: skip them.
    pub framing: usize,
    /// And then so many bytes of data.
    pub data: usize,
    /// There is nothing of this body behind them.
    pub ended: bool,
}

/// Tells the data of chunks from what is around it. What it keeps does not grow with the body, however its bytes are cut.
#[derive(Debug, Default)]
pub struct ChunkDecoder {
    state: State,
    excess: usize,
    trailers: Vec<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Size {
        size: u64,
        digits: u8,
    },
    /// White space behind a size, which is allowed before the semicolon alone.
    Blank(u64),
    Extension(u64),
    SizeLineFeed(u64),
    Data(u64),
    DataReturn,
    DataLineFeed,
    Trailers,
    Ended,
}

impl Default for State {
    fn default() -> Self {
        Self::Size { size: 0, digits: 0 }
    }
}

impl ChunkDecoder {
    /// A decoder at the begin of a body.
    pub fn new() -> Self {
        Self::default()
    }

    /// Looks at the next bytes of the body, up to the end of one piece of data. Whoever calls takes away what it was
    /// told of; with neither data nor the end, all of `input` was taken up and more is needed.
    ///
    /// # Errors
    /// When they are no chunks.
    pub fn decode(&mut self, input: &[u8]) -> Result<Decoded, ChunkError> {
        let mut framing = 0;
        loop {
            if let State::Data(left) = self.state {
                let data = usize::try_from(left).unwrap_or(usize::MAX).min(input.len() - framing);
                self.take(left, data);
                return Ok(Decoded { framing, data, ended: false });
            }
            let rest = &input[framing..];
            if rest.is_empty() || self.state == State::Ended {
                return Ok(Decoded { framing, data: 0, ended: self.state == State::Ended });
            }
            framing += if self.state == State::Trailers { self.trailer_bytes(rest)? } else { self.byte(rest[0])? };
        }
    }

    /// The trailers, once the body has ended; those that mean nothing there are dropped.
    pub fn into_trailers(self) -> HeaderMap {
        parse_trailers(&self.trailers).unwrap_or_default()
    }

    fn take(&mut self, left: u64, data: usize) {
        self.excess = self.excess.saturating_sub(data);
        let left = left - data as u64;
        self.state = if left == 0 { State::DataReturn } else { State::Data(left) };
    }

    /// Takes up one byte that is no data.
    fn byte(&mut self, byte: u8) -> Result<usize, ChunkError> {
        self.state = match (self.state, byte) {
            (State::Size { size, digits }, _) if byte.is_ascii_hexdigit() => {
                // Leading zeros are digits too: a size line without an end would be read for ever.
                if digits == 16 {
                    return Err(ChunkError::Size);
                }
                let digit = char::from(byte).to_digit(16).map_or(0, u64::from);
                State::Size { size: size << 4 | digit, digits: digits + 1 }
            }
            (State::Size { digits: 0, .. }, _) => return Err(ChunkError::Size),
            (State::Size { size, .. }, b' ' | b'\t') => State::Blank(size),
            (State::Size { size, .. } | State::Blank(size), b';') => State::Extension(size),
            (State::Size { size, .. } | State::Extension(size), b'\r') => State::SizeLineFeed(size),
            (State::Size { .. } | State::Extension(_), b'\n') => return Err(ChunkError::LineEnd),
            (State::Size { .. }, _) => return Err(ChunkError::Size),
            (State::Blank(size), b' ' | b'\t') => State::Blank(size),
            (State::Extension(size), b'\t' | b' '..=b'~' | 0x80..) => State::Extension(size),
            (State::Blank(_) | State::Extension(_), _) => return Err(ChunkError::Extension),
            (State::SizeLineFeed(0), b'\n') => State::Trailers,
            (State::SizeLineFeed(size), b'\n') => State::Data(size),
            (State::DataReturn, b'\r') => State::DataLineFeed,
            (State::DataLineFeed, b'\n') => State::default(),
            _ => return Err(ChunkError::LineEnd),
        };
        if matches!(self.state, State::Blank(_) | State::Extension(_)) {
            self.excess += 1;
            if self.excess > EXTENSIONS_EXCESS_MAX {
                return Err(ChunkError::ExtensionsTooLong);
            }
        }
        Ok(1)
    }

    /// Takes up a line of the trailer section, or the part of it that is there.
    fn trailer_bytes(&mut self, rest: &[u8]) -> Result<usize, ChunkError> {
        let line = memchr::memchr(b'\n', rest).map_or(rest, |end| &rest[..=end]);
        if self.trailers.len() + line.len() > TRAILER_BYTES_MAX {
            return Err(ChunkError::TrailersTooLong);
        }
        self.trailers.extend_from_slice(line);
        if line.ends_with(b"\n") {
            if !self.trailers.ends_with(b"\r\n") {
                return Err(ChunkError::LineEnd);
            }
            if self.trailers == b"\r\n" || self.trailers.ends_with(b"\r\n\r\n") {
                parse_trailers(&self.trailers).map_err(ChunkError::Trailers)?;
                self.state = State::Ended;
            }
        }
        Ok(line.len())
    }
}

/// Appends the line in front of a chunk of `bytes`, which must not be 0: that would be the last chunk.
pub fn chunk_size_line(out: &mut Vec<u8>, bytes: usize) {
    debug_assert!(bytes > 0, "an empty chunk would end the body");
    let digits = (usize::BITS - bytes.leading_zeros()).div_ceil(4);
    for place in (0..digits).rev() {
        out.push(b"0123456789abcdef"[bytes >> (4 * place) & 15]);
    }
    out.extend_from_slice(b"\r\n");
}
