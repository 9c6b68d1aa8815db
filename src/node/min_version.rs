//! The oldest version that a client puts up with: what it has seen, or written, through another node.

use std::time::Duration;

use http::header::{HeaderValue, RETRY_AFTER};
use http::{HeaderMap, StatusCode};

use super::error::ApiError;
use super::serving::{VERSION_NAME, version_value};
use crate::model::Version;
use crate::protocol;

/// How long a version is waited for that is not here yet. A write comes within a round trip; large bytes would take
/// longer than anybody waits for an answer.
pub(super) const WAIT: Duration = Duration::from_secs(1);

/// How often is looked at most while a node takes in other things.
pub(super) const LOOK_PERIOD: Duration = Duration::from_millis(20);

/// The version that the answer to a request with `headers` must at least have.
pub(super) fn min_version(headers: &HeaderMap) -> Result<Option<Version>, ApiError> {
    protocol::min_version(headers).map_err(ApiError::bad_request)
}

/// 503: of the object this node has but `version`, or nothing.
pub(super) fn behind(what: &str, version: Option<&Version>, min: &Version) -> ApiError {
    let error = ApiError::new(
        StatusCode::SERVICE_UNAVAILABLE,
        format!("this node does not have {what} in version {min} yet; try again in a moment, or another node"),
    );
    let error = error.with_header(RETRY_AFTER, HeaderValue::from_static("1"));
    match version {
        Some(version) => error.with_header(VERSION_NAME, version_value(version)),
        None => error,
    }
}
