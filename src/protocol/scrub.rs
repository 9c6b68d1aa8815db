//! What a node says of the blobs that it has looked through.

use serde::{Deserialize, Serialize};

use crate::model::ContentHash;

/// In how many parts a round looks through the blobs: by the first byte of their hashes.
pub const PARTS: u32 = 256;

/// The most blobs that an answer names.
pub const UNMENDED_MAX: usize = 100;

/// One look through all blobs of a node, and what came of it so far.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Round {
    /// When it began, in milliseconds since 1970.
    pub started_unix_ms: u64,
    /// When it ended; `None` while it runs.
    pub ended_unix_ms: Option<u64>,
    /// Whether it runs as fast as it can, because somebody asked for it.
    pub full_speed: bool,
    /// How many of the [`PARTS`] are done.
    pub parts: u32,
    /// How many blobs were hashed.
    pub blobs: u64,
    /// Their bytes.
    pub bytes: u64,
    /// How many were not what their names say.
    pub damaged: u64,
    /// How many were not there.
    pub missing: u64,
    /// How many are whole again.
    pub mended: u64,
}

/// The answer to `GET` and `POST /v1/scrub`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScrubStatus {
    /// Whether a round is running.
    pub running: bool,
    /// That round, or the last one.
    pub round: Round,
    /// When the next one begins by itself, in milliseconds since 1970.
    pub next_unix_ms: Option<u64>,
    /// How many blobs are damaged or missing and wait for a peer that has them.
    pub unmended: u64,
    /// The first [`UNMENDED_MAX`] of them.
    pub unmended_blobs: Vec<ContentHash>,
}
