//! The one place where failures become HTTP answers.

use axum::extract::rejection::{BytesRejection, FormRejection, JsonRejection, QueryRejection};
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use http::header::{CONNECTION, CONTENT_TYPE, HeaderName, HeaderValue};
use tracing::error;

use crate::model::{AddressError, FieldValueError, MoneyError, NameError};
use crate::protocol::problem::{self, Problem};
use crate::protocol::{COPIES_HEADER, PathError};
use crate::store::StoreError;

/// Why a request was not done.
#[derive(Debug)]
pub struct ApiError {
    status: StatusCode,
    detail: String,
    /// On how many nodes the write is durable that the request made all the same.
    stored: Option<u32>,
    headers: Vec<(HeaderName, HeaderValue)>,
}

impl ApiError {
    /// An error with its status and what was wrong, for a person.
    pub fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self { status, detail: detail.into(), stored: None, headers: Vec::new() }
    }

    /// 400: the request itself is wrong.
    pub fn bad_request(detail: impl std::fmt::Display) -> Self {
        Self::new(StatusCode::BAD_REQUEST, detail.to_string())
    }

    /// 404: there is no such thing.
    pub fn not_found(what: impl std::fmt::Display) -> Self {
        Self::new(StatusCode::NOT_FOUND, format!("there is no {what}"))
    }

    /// Adds a header to the answer.
    #[must_use]
    pub fn with_header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.push((name, value));
        self
    }

    /// Ends the connection after the answer, because the rest of the request is not read.
    #[must_use]
    pub fn closing(self) -> Self {
        self.with_header(CONNECTION, HeaderValue::from_static("close"))
    }

    /// Says that the write was made all the same, and is durable on `copies` nodes.
    #[must_use]
    pub fn stored(mut self, copies: u32) -> Self {
        self.stored = Some(copies);
        self.with_header(HeaderName::from_static(COPIES_HEADER), HeaderValue::from(copies))
    }

    /// What was wrong, for answers that are not HTTP.
    pub fn detail(&self) -> &str {
        &self.detail
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let problem =
            Problem { stored: self.stored.is_some(), copies: self.stored, ..Problem::new(self.status, self.detail) };
        let mut response = (self.status, problem.to_json()).into_response();
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(problem::MEDIA_TYPE));
        response.headers_mut().extend(self.headers);
        response
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Full => {
                Self::new(StatusCode::INSUFFICIENT_STORAGE, "the node's disk is full; nothing was stored").closing()
            }
            StoreError::Closed => Self::new(StatusCode::SERVICE_UNAVAILABLE, "the node is stopping").closing(),
            other => {
                error!(error = &other as &dyn std::error::Error, "the store failed");
                Self::new(StatusCode::INTERNAL_SERVER_ERROR, "the node's store failed; its log says why").closing()
            }
        }
    }
}

macro_rules! bad_request_from {
    ($($error:ty),*) => {
        $(impl From<$error> for ApiError {
            fn from(error: $error) -> Self {
                Self::bad_request(error)
            }
        })*
    };
}

bad_request_from!(PathError, FieldValueError, MoneyError, NameError, AddressError);

macro_rules! from_rejection {
    ($($rejection:ty),*) => {
        $(impl From<$rejection> for ApiError {
            fn from(rejection: $rejection) -> Self {
                Self::new(rejection.status(), rejection.body_text())
            }
        })*
    };
}

from_rejection!(QueryRejection, JsonRejection, FormRejection, BytesRejection);
