//! What is wrong with a head, and what the server answers to it.

use http::StatusCode;

/// Why a head was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HeadError {
    /// RFC 9112 sections 3 and 4: the parts of the first line, one space between two of them.
    #[error("the first line is not that of an HTTP message")]
    StartLine,
    /// RFC 9110 section 15.6.6: another major version.
    #[error("only HTTP/1.0 and HTTP/1.1 are spoken here")]
    Version,
    /// RFC 9112 section 3: longer than any method that there is.
    #[error("the method is longer than any that is known here")]
    MethodTooLong,
    /// RFC 9110 section 15.5.15.
    #[error("the request target is too long")]
    TargetTooLong,
    /// RFC 9112 section 3.2: it has none of the four forms, or not the one that its method asks for.
    #[error("the request target is not a valid one for this method")]
    Target,
    /// RFC 6585 section 5.
    #[error("the head is too large")]
    TooLarge,
    /// RFC 6585 section 5.
    #[error("the head has too many fields")]
    TooManyFields,
    /// RFC 9112 section 2.2: a line ended in LF alone, or a CR stood alone.
    #[error("lines end in CR LF")]
    LineEnd,
    /// RFC 9112 section 5: the name is a token with the colon directly behind it; lines are not folded.
    #[error("a field has no valid name")]
    FieldName,
    /// RFC 9110 section 5.5: no controls but tabs.
    #[error("the value of a field has bytes that are not allowed there")]
    FieldValue,
    /// RFC 9112 section 3.2: none, more than one, or what is no host.
    #[error("a request has exactly one valid Host")]
    Host,
    /// RFC 9112 section 6.3: several different lengths, or what is no number.
    #[error("Content-Length is not one number")]
    ContentLength,
    /// RFC 9112 section 6.1: both kinds of length.
    #[error("a message has either Content-Length or Transfer-Encoding, not both")]
    TwoLengths,
    /// RFC 9112 section 6.1: HTTP/1.0 has no transfer codings.
    #[error("HTTP/1.0 has no Transfer-Encoding")]
    CodingInHttp10,
    /// RFC 9112 section 6.3: a request whose body has no end that could be found.
    #[error("the last transfer coding is chunked, once")]
    CodingUnframed,
    /// RFC 9112 section 6.1: a coding that is not implemented, under a last one that is.
    #[error("of the transfer codings only chunked is known here")]
    CodingUnknown,
}

impl HeadError {
    /// The status by which a server refuses a request with such a head. The connection ends with it: where the next
    /// request would begin is not known.
    pub const fn status(self) -> StatusCode {
        match self {
            Self::Version => StatusCode::HTTP_VERSION_NOT_SUPPORTED,
            Self::MethodTooLong | Self::CodingUnknown => StatusCode::NOT_IMPLEMENTED,
            Self::TargetTooLong => StatusCode::URI_TOO_LONG,
            Self::TooLarge | Self::TooManyFields => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            _ => StatusCode::BAD_REQUEST,
        }
    }
}

impl From<httparse::Error> for HeadError {
    fn from(error: httparse::Error) -> Self {
        match error {
            httparse::Error::HeaderName | httparse::Error::Token => Self::FieldName,
            httparse::Error::HeaderValue => Self::FieldValue,
            httparse::Error::NewLine => Self::LineEnd,
            httparse::Error::TooManyHeaders => Self::TooManyFields,
            httparse::Error::Status | httparse::Error::Version => Self::StartLine,
        }
    }
}
