//! The fields of an answer whose coding changes.

use http::header::{ACCEPT_RANGES, CONTENT_ENCODING, CONTENT_LENGTH, ETAG, VARY};
use http::{HeaderMap, HeaderName, HeaderValue};

use super::{Coding, Made, list, tag};

/// Fields that say something of the bytes as they were coded before (RFC 9530 sections 2 and 3; RFC 3230 section 4.3.2;
/// RFC 2616 section 14.15). They are none of the answer that is sent, and a wrong one makes clients throw it away.
/// `Unencoded-Digest` stays: it is of the bytes without any coding, wherever they come from.
const DIGESTS: [HeaderName; 4] = [
    HeaderName::from_static("content-digest"),
    HeaderName::from_static("content-md5"),
    HeaderName::from_static("digest"),
    HeaderName::from_static("repr-digest"),
];

/// How the content of an answer is coded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// Not at all.
    Plain,
    /// By one coding that is known here.
    Coded(Coding),
    /// Some other way, or more than once: it is passed as it is.
    Foreign,
}

impl Form {
    /// The form that the `Content-Encoding` in `headers` says (RFC 9110 section 8.4). `identity`, which should not
    /// stand there, is none.
    pub fn of(headers: &HeaderMap) -> Self {
        let is_said = |token: &&[u8]| !token.eq_ignore_ascii_case(b"identity");
        let mut tokens = list::members(headers, CONTENT_ENCODING).filter(is_said);
        match (tokens.next(), tokens.next()) {
            (None, _) => Self::Plain,
            (Some(token), None) => Coding::of_token(token).map_or(Self::Foreign, Self::Coded),
            (Some(_), Some(_)) => Self::Foreign,
        }
    }
}

/// Makes the fields of an answer those of its variant in `coding`: without [`Made`] of one that is being made, which
/// has no length, no ranges, and a weak tag. A tag that is none is dropped. Fits the answers to HEAD and 304, too.
pub fn coded(headers: &mut HeaderMap, coding: Coding, made: Option<&Made>) {
    let variant_tag = headers.get(ETAG).and_then(|source| tag::of_variant(source, coding, made));
    replaced(headers, variant_tag);
    headers.insert(CONTENT_ENCODING, HeaderValue::from_static(coding.as_str()));
    match made {
        Some(made) => {
            headers.insert(CONTENT_LENGTH, made.size_bytes.into());
        }
        // Nobody can ask for the rest of what has no strong tag.
        None => {
            headers.remove(ACCEPT_RANGES);
        }
    }
}

/// Makes the fields of a coded answer those of the same without its coding, whose length is not known yet.
pub fn decoded(headers: &mut HeaderMap) {
    let decoded_tag = headers.get(ETAG).and_then(tag::of_decoded);
    replaced(headers, decoded_tag);
    headers.remove(CONTENT_ENCODING);
    headers.remove(ACCEPT_RANGES);
}

/// Says that the answer depends on `Accept-Encoding`: in every answer, 304 too, of what is coded for some and not for
/// others (RFC 9110 section 12.5.5). What `Vary` says otherwise stays as it is.
pub fn vary(headers: &mut HeaderMap) {
    let says = |name: &str| list::has(headers, &VARY, name);
    if !says("*") && !says("accept-encoding") {
        headers.append(VARY, HeaderValue::from_static("Accept-Encoding"));
    }
}

/// Removes what says something of the bytes as they were coded before: for the trailers of an answer that is coded or
/// decoded, as [`coded`] and [`decoded`] do it for its head.
pub fn without_digests(fields: &mut HeaderMap) {
    for name in DIGESTS {
        fields.remove(name);
    }
}

fn replaced(headers: &mut HeaderMap, tag: Option<HeaderValue>) {
    without_digests(headers);
    headers.remove(CONTENT_LENGTH);
    match tag {
        Some(tag) => headers.insert(ETAG, tag),
        None => headers.remove(ETAG),
    };
    vary(headers);
}

#[cfg(test)]
mod tests;
