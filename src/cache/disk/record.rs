//! Heads and keys as bytes of the index.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use serde::{Deserialize, Serialize};

use crate::cache::rules::{Freshness, Selector};
use crate::cache::{CacheKey, Head, Terms};
use crate::model::Version;

/// A head as it is written. Changing it takes a new format of the index.
#[derive(Serialize, Deserialize)]
struct Record {
    status: u16,
    /// Values may have any bytes above 31 (RFC 9110 section 5.5): each stands here as the letter of its number.
    headers: Vec<(String, String)>,
    size: Option<u64>,
    terms: RecordTerms,
}

#[derive(Serialize, Deserialize)]
enum RecordTerms {
    Object { version: Version },
    Answer { freshness: Freshness, selector: Selector },
    Slice,
}

/// The bytes of a head.
pub(super) fn write(head: &Head) -> Vec<u8> {
    let text = |value: &HeaderValue| value.as_bytes().iter().map(|&byte| char::from(byte)).collect();
    let terms = match &head.terms {
        Terms::Object { version, .. } => RecordTerms::Object { version: version.clone() },
        Terms::Answer { freshness, selector } => {
            RecordTerms::Answer { freshness: *freshness, selector: selector.clone() }
        }
        Terms::Slice | Terms::Coded { .. } => RecordTerms::Slice,
    };
    let record = Record {
        status: head.status.as_u16(),
        headers: head.headers.iter().map(|(name, value)| (name.as_str().to_owned(), text(value))).collect(),
        size: head.size,
        terms,
    };
    serde_json::to_vec(&record).expect("maps have names as keys")
}

/// The head that was written so. An object of the store has to be validated before it is served: the edge was away.
pub(super) fn read(bytes: &[u8]) -> Option<Head> {
    let record: Record = serde_json::from_slice(bytes).ok()?;
    let mut headers = HeaderMap::with_capacity(record.headers.len());
    for (name, text) in record.headers {
        let value: Vec<u8> = text.chars().map(|letter| u8::try_from(letter).ok()).collect::<Option<_>>()?;
        headers.append(HeaderName::from_bytes(name.as_bytes()).ok()?, HeaderValue::from_bytes(&value).ok()?);
    }
    let terms = match record.terms {
        RecordTerms::Object { version } => Terms::Object { version, validated: Duration::ZERO },
        RecordTerms::Answer { freshness, selector } => Terms::Answer { freshness, selector },
        RecordTerms::Slice => Terms::Slice,
    };
    Some(Head { status: StatusCode::from_u16(record.status).ok()?, headers, size: record.size, terms })
}

/// The bytes of a key: no two have the same.
pub(super) fn key(key: &CacheKey) -> Vec<u8> {
    match key {
        CacheKey::Object { key, variant } => format!("object {variant} {}", key.as_str()),
        // The length tells where the name of the site ends.
        CacheKey::Answer { site, uri } => format!("answer {} {site} {uri}", site.len()),
        CacheKey::Slice { of, slice } => format!("slice {of} {slice}"),
        CacheKey::Coded { of, coding } => format!("coded {of} {coding}"),
    }
    .into_bytes()
}
