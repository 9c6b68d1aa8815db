//! Requests that are not for this edge.

use http::header::{ALLOW, CONNECTION, HeaderValue};
use http::{Response, StatusCode};

use super::body::Inner;
use super::proxy::problem;

/// Why a request is not for this edge.
pub(super) struct Refusal {
    status: StatusCode,
    detail: String,
}

impl Refusal {
    /// With this status, for this reason.
    pub(super) fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self { status, detail: detail.into() }
    }

    /// The answer that says so.
    pub(super) fn into_response(self) -> Response<Inner> {
        let mut response = problem(self.status, self.detail);
        if self.status == StatusCode::METHOD_NOT_ALLOWED {
            response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        }
        // A body that is not read must not be taken for the next request.
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        response
    }
}
