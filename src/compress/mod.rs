//! Content codings: which one a request gets, and the making of it (RFC 9110 sections 8.4 and 12.5.3; zstd by RFC 8878
//! and 9659, brotli by RFC 7932, gzip by RFC 1952).
//!
//! [`Wish`] is what a request says of codings, [`Nature`] what may become of an answer, [`Nature::plan`] what becomes of
//! it for one request; [`head`] and [`tag`] change the fields, [`Encoder`] and [`Decoder`] the bytes. Knows nothing of caches, networks or tasks; whoever runs an encoder
//! gives it small chunks and bounds how many run at a time.
//!
//! The life of a coded answer:
//!
//! 1. The edge asks the origin with [`Accepted::ask`], so that what comes is mostly what the client takes.
//! 2. [`Nature::plan`] says whether it is passed as it is, coded, decoded, or whether a kept variant is sent.
//! 3. While it is coded for the first time it streams under a weak tag, without a length and without ranges.
//! 4. What was coded to the end is [`Made`]: it may be kept as a variant, and has from then on a length, ranges, and a
//!    strong tag of its own.

mod accept;
mod config;
mod decode;
mod encode;
pub mod head;
mod list;
mod media;
mod plan;
pub mod tag;

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

pub use accept::{Accepted, Codings};
pub use config::{Config, ConfigError, Effort, Levels};
pub use decode::{DecodeError, Decoder};
pub use encode::{CHUNK_BYTES_MAX, EncodeError, Encoder, Made};
pub use media::{MediaPattern, MediaPatternError};
pub use plan::{Answer, Nature, Plan, Unfit, Wish};

/// A content coding that is made and read here. The absence of one, `identity`, is `None` where a coding is optional.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Coding {
    /// Zstandard (RFC 8878), in windows of at most 8 MiB (RFC 9659).
    Zstd,
    /// Brotli (RFC 7932).
    #[serde(rename = "br")]
    Brotli,
    /// Deflate in the gzip format (RFC 1952).
    Gzip,
}

/// The text names no coding.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no content coding: write zstd, br or gzip")]
pub struct CodingError(String);

impl Coding {
    /// All of them, as they are preferred unless somebody says otherwise: zstd is read and made fastest, and gzip is
    /// what everybody has.
    pub const ALL: [Self; 3] = [Self::Zstd, Self::Brotli, Self::Gzip];

    /// Its name in fields.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Zstd => "zstd",
            Self::Brotli => "br",
            Self::Gzip => "gzip",
        }
    }

    /// The coding that `token` names, in any case; `x-gzip` is gzip (RFC 9110 section 8.4.1.3).
    pub(in crate::compress) fn of_token(token: &[u8]) -> Option<Self> {
        if token.eq_ignore_ascii_case(b"x-gzip") {
            return Some(Self::Gzip);
        }
        Self::ALL.into_iter().find(|coding| token.eq_ignore_ascii_case(coding.as_str().as_bytes()))
    }
}

impl fmt::Display for Coding {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

impl FromStr for Coding {
    type Err = CodingError;

    fn from_str(text: &str) -> Result<Self, CodingError> {
        Self::of_token(text.as_bytes()).ok_or_else(|| CodingError(text.to_owned()))
    }
}

#[cfg(test)]
mod tests;
