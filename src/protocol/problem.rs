//! Errors as they travel: JSON problem bodies (RFC 9457).

use http::StatusCode;
use serde::{Deserialize, Serialize};

/// The media type of a problem (RFC 9457 section 3).
pub const MEDIA_TYPE: &str = "application/problem+json";

/// What was wrong with a request, for a person and for a program.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// The HTTP status.
    pub status: u16,
    /// The status in words, the same for each problem of its kind.
    pub title: String,
    /// What was wrong this time, and what to do.
    pub detail: String,
    /// If the request was a write that was made all the same: true.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub stored: bool,
    /// On how many nodes that write is durable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub copies: Option<u32>,
}

impl Problem {
    /// A problem of the kind that `status` names.
    pub fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        let title = status.canonical_reason().unwrap_or("Error").to_owned();
        Self { status: status.as_u16(), title, detail: detail.into(), stored: false, copies: None }
    }

    /// The problem as the body of an answer.
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("text and a number are JSON")
    }
}
