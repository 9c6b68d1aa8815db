//! What of compression can be configured.

use serde::{Deserialize, Deserializer, Serialize};

use super::{Coding, Codings, MediaPattern};

/// What is compressed, and how hard.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The codings that are made, best first: among those that a client likes equally, the first is taken. None turns
    /// compression off.
    pub codings: Vec<Coding>,
    /// What is compressed, by its media type.
    pub media_types: Vec<MediaPattern>,
    /// What is not compressed although it is in `media_types`. Unless said otherwise, streams of events: each would
    /// keep an encoder for hours.
    pub media_types_except: Vec<MediaPattern>,
    /// The smallest answer that is compressed, in bytes.
    pub size_bytes_min: u64,
    /// The largest answer that is compressed, in bytes.
    pub size_bytes_max: u64,
    /// Whether answers for one user alone are compressed, too. Where a secret, and text that somebody else chooses,
    /// stand in one answer, its compressed size gives the secret away letter by letter (the BREACH attack). So only
    /// answers that all may see are compressed unless a site is known to have no such pages.
    pub personal: bool,
    /// How hard for an answer that somebody waits for.
    #[serde(deserialize_with = "quick")]
    pub quick: Levels,
    /// How hard for a variant that is made once more because it is asked for often.
    #[serde(deserialize_with = "thorough")]
    pub thorough: Levels,
    /// The largest size of an answer from which a coding is taken off for a client that does not read it, in bytes.
    pub decoded_bytes_max: u64,
}

/// How hard, and with how much memory, each coding compresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
pub struct Levels {
    /// The level of zstd, 1 to 19: those above need windows that HTTP does not allow.
    pub zstd: u8,
    /// The quality of brotli, 0 to 11.
    pub br: u8,
    /// The level of gzip, 1 to 9.
    pub gzip: u8,
    /// How far zstd and brotli look back at most: 2 to this number of bytes, 17 to 23 (RFC 9659 section 3). It is most
    /// of the memory that an encoder takes.
    pub window_bits: u8,
}

/// Below, brotli has no table of matches of a fitting size from quality 5 on, and takes one of 32 MiB.
pub(super) const WINDOW_BITS_MIN: u8 = 17;

/// Where one level more costs much and gives little (docs/performance.md). In 256 KiB nearly all pages lie whole, and an
/// encoder of brotli takes 3.5 MiB instead of 8.
const QUICK: Levels = Levels { zstd: 3, br: 5, gzip: 4, window_bits: 18 };

/// What they cost is earned back in traffic after about five answers.
const THOROUGH: Levels = Levels { zstd: 17, br: 10, gzip: 6, window_bits: 22 };

/// For which of the [`Levels`] of a configuration something is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Effort {
    /// Somebody waits for it.
    Quick,
    /// It is asked for often.
    Thorough,
}

/// A value that does not work.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{effort}{field} is {value}: write {min} to {max}")]
pub struct ConfigError {
    /// For which levels, with a dot behind it; empty where nobody said so.
    pub effort: &'static str,
    /// What is wrong.
    pub field: &'static str,
    /// What it is.
    pub value: u8,
    /// The least that works.
    pub min: u8,
    /// The most that works.
    pub max: u8,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            codings: Coding::ALL.to_vec(),
            media_types: MediaPattern::compressible(),
            media_types_except: vec!["text/event-stream".parse().expect("it is a media type")],
            // Below, the answer fits into one packet with its head either way.
            size_bytes_min: 1 << 10,
            size_bytes_max: 256 << 20,
            personal: false,
            quick: QUICK,
            thorough: THOROUGH,
            decoded_bytes_max: 1 << 30,
        }
    }
}

impl Config {
    /// The codings that are made.
    pub fn made(&self) -> Codings {
        self.codings.iter().copied().collect()
    }

    /// The levels for an effort.
    pub const fn levels(&self, effort: Effort) -> Levels {
        match effort {
            Effort::Quick => self.quick,
            Effort::Thorough => self.thorough,
        }
    }

    /// Whether every level works.
    ///
    /// # Errors
    /// The first that does not.
    pub fn check(&self) -> Result<(), ConfigError> {
        let of = |effort| move |error| ConfigError { effort, ..error };
        self.quick.check().map_err(of("quick."))?;
        self.thorough.check().map_err(of("thorough."))
    }
}

impl Levels {
    /// Whether they work.
    ///
    /// # Errors
    /// The first that does not.
    pub fn check(&self) -> Result<(), ConfigError> {
        for (field, value, min, max) in [
            ("zstd", self.zstd, 1, 19),
            ("br", self.br, 0, 11),
            ("gzip", self.gzip, 1, 9),
            ("window_bits", self.window_bits, WINDOW_BITS_MIN, 23),
        ] {
            if !(min..=max).contains(&value) {
                return Err(ConfigError { effort: "", field, value, min, max });
            }
        }
        Ok(())
    }
}

fn quick<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Levels, D::Error> {
    levels(deserializer, QUICK)
}

fn thorough<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Levels, D::Error> {
    levels(deserializer, THOROUGH)
}

/// The levels that are said, and those of `default` for the others.
fn levels<'de, D: Deserializer<'de>>(deserializer: D, default: Levels) -> Result<Levels, D::Error> {
    #[derive(Default, Deserialize)]
    #[serde(default, deny_unknown_fields)]
    struct Said {
        zstd: Option<u8>,
        br: Option<u8>,
        gzip: Option<u8>,
        window_bits: Option<u8>,
    }

    let Said { zstd, br, gzip, window_bits } = Said::deserialize(deserializer)?;
    Ok(Levels {
        zstd: zstd.unwrap_or(default.zstd),
        br: br.unwrap_or(default.br),
        gzip: gzip.unwrap_or(default.gzip),
        window_bits: window_bits.unwrap_or(default.window_bits),
    })
}

#[cfg(test)]
mod tests;
