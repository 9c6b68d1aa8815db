//! Trailers (RFC 9110 section 6.5): fields behind a chunked body.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, header};

use super::HeadError;
use super::fields::{Fields, Slots};
use super::write::is_of_connection;

/// Fields that are needed before the body, or that would change what was decided by the head (RFC 9110 section 6.5.1):
/// framing, routing, authentication, request modifiers, and how the content is to be handled.
const FORBIDDEN: &[HeaderName] = &[
    header::ACCEPT_RANGES,
    header::AGE,
    header::AUTHORIZATION,
    header::CACHE_CONTROL,
    header::CONTENT_ENCODING,
    header::CONTENT_LENGTH,
    header::CONTENT_LOCATION,
    header::CONTENT_RANGE,
    header::CONTENT_TYPE,
    header::COOKIE,
    header::DATE,
    header::EXPECT,
    header::EXPIRES,
    header::HOST,
    header::IF_MATCH,
    header::IF_MODIFIED_SINCE,
    header::IF_NONE_MATCH,
    header::IF_RANGE,
    header::IF_UNMODIFIED_SINCE,
    header::LOCATION,
    header::MAX_FORWARDS,
    header::PRAGMA,
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::RANGE,
    header::RETRY_AFTER,
    header::SET_COOKIE,
    header::TRAILER,
    header::UPGRADE,
    header::VARY,
    header::WARNING,
    header::WWW_AUTHENTICATE,
];

/// Whether a field of this name must not stand in trailers.
pub fn is_forbidden_in_trailers(name: &HeaderName) -> bool {
    is_of_connection(name) || FORBIDDEN.contains(name)
}

/// The fields of a whole trailer section, its empty line included, without those that must not stand there.
///
/// # Errors
/// When they are no fields.
pub fn parse_trailers(section: &[u8]) -> Result<HeaderMap, HeadError> {
    let mut slots = Slots::new();
    let Some((fields, _)) = Fields::parse(section, &mut slots)? else { return Err(HeadError::LineEnd) };
    let mut trailers = HeaderMap::new();
    for (name, value) in &fields.to_map(section, &Bytes::copy_from_slice(section))? {
        if !is_forbidden_in_trailers(name) {
            trailers.append(name, value.clone());
        }
    }
    Ok(trailers)
}
