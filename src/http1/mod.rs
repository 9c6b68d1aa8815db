//! HTTP/1.1 as bytes (RFC 9112), for servers and for clients: heads, how long bodies are, and chunks.
//!
//! Pure functions over what was read. They know no connection, no clock and no limit of time. One place decides here
//! what a request is; whoever answers it, from a borrowed [`RequestHead`] or from an `http::Request` that was made of
//! it, relies on the same decision.
//!
//! Where RFC 9112 lets a recipient repair what it gets, this one refuses: two recipients that repair differently are what
//! request smuggling lives on (section 11.2). So lines end in CR LF and in nothing else, in heads as between chunks.

mod chunked;
mod error;
mod fields;
mod framing;
mod request;
mod response;
mod target;
mod trailers;
mod write;

#[cfg(test)]
mod tests;

pub use chunked::{ChunkDecoder, ChunkError, Decoded, chunk_size_line};
pub use error::HeadError;
pub use fields::{Fields, Slots};
pub use framing::BodyLength;
pub use request::{Expectation, RequestHead};
pub use response::ResponseHead;
pub use target::TargetForm;
pub use trailers::{is_forbidden_in_trailers, parse_trailers};
pub use write::{
    Block, CONTINUE, DATE_BYTES, Extra, ExtraFull, HeadEnd, LAST_CHUNK, OF_CONTENT, Persistence, is_of_connection,
    write_fields, write_origin_line, write_request_line, write_status_line, write_trailers,
};

/// How many fields a head or a trailer section may have.
pub const FIELDS_MAX: usize = 100;

/// How large heads may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The bytes of a head with its empty line.
    pub head_bytes: usize,
    /// The bytes of a request's target. RFC 9112 section 3 wants request lines of 8,000 bytes to be taken at least.
    pub target_bytes: usize,
}

/// The versions that a head of this kind can have. A higher minor version counts as 1.1 (RFC 9110 section 2.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// HTTP/1.0: no chunks, no interim answers, and connections end unless both sides say otherwise.
    Http10,
    /// HTTP/1.1.
    Http11,
}

impl From<Version> for http::Version {
    fn from(version: Version) -> Self {
        match version {
            Version::Http10 => Self::HTTP_10,
            Version::Http11 => Self::HTTP_11,
        }
    }
}

impl Version {
    /// Reads `HTTP/1.1` (RFC 9112 section 2.3), in capitals.
    fn parse(text: &[u8]) -> Result<Self, HeadError> {
        match text {
            b"HTTP/1.1" => Ok(Self::Http11),
            b"HTTP/1.0" => Ok(Self::Http10),
            [b'H', b'T', b'T', b'P', b'/', major, b'.', minor] if major.is_ascii_digit() && minor.is_ascii_digit() => {
                if *major == b'1' {
                    Ok(Self::Http11)
                } else {
                    Err(HeadError::Version)
                }
            }
            _ => Err(HeadError::StartLine),
        }
    }
}

/// RFC 9110 section 5.6.2.
const fn is_token_byte(byte: u8) -> bool {
    matches!(byte, b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z')
        || matches!(
            byte,
            b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*' | b'+' | b'-' | b'.' | b'^' | b'_' | b'`' | b'|' | b'~'
        )
}

/// The length of the first line without its CR LF; `None` while the line has not ended.
fn first_line(bytes: &[u8]) -> Result<Option<usize>, HeadError> {
    match memchr::memchr(b'\n', bytes) {
        None => Ok(None),
        Some(end) if end > 0 && bytes[end - 1] == b'\r' => Ok(Some(end - 1)),
        Some(_) => Err(HeadError::LineEnd),
    }
}

/// The length of the empty lines that stand before a start line. RFC 9112 section 2.2: at least one is to be ignored,
/// since old clients send one behind a body.
pub fn empty_lines(bytes: &[u8]) -> usize {
    bytes.chunks_exact(2).take_while(|line| line == b"\r\n").count() * 2
}
