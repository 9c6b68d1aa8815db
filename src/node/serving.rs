//! Answers that carry bytes: objects with their conditions and ranges (RFC 9110 sections 13 and 14), blobs with ranges.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::body::Body;
use axum::extract::{Extension, State};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::stream;
use http::header::{
    ACCEPT_RANGES, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, HeaderValue, LAST_MODIFIED, RANGE,
    RETRY_AFTER, VARY, X_CONTENT_TYPE_OPTIONS,
};
use http::{HeaderMap, HeaderName, Method, Request, StatusCode};

use super::access::{Right, require};
use super::bytes::{BlobBytes, Piece, off_runtime};
use super::error::ApiError;
use super::min_version::min_version;
use super::resolve::{Caching, Found, Wish, resolve};
use super::{Core, scrub};
use crate::model::{ContentHash, Entry, ObjectKey, Principal, Version};
use crate::protocol::{BLOBS, VARIANT_HEADER, VERSION_HEADER};
use crate::serve::condition::{self, Validators, Verdict};
use crate::serve::multipart;
use crate::serve::range::{self, Selection};
use crate::store::{NamedBlob, StoreError};

/// The version of an object, or of its deletion.
pub(super) const VERSION_NAME: HeaderName = HeaderName::from_static(VERSION_HEADER);

/// Which variant of an image the answer carries.
const VARIANT_NAME: HeaderName = HeaderName::from_static(VARIANT_HEADER);

/// Bodies up to this size are read at once and sent with their head.
const SMALL_BYTES: u64 = 64 << 10;

/// Blobs up to this size are hashed before the first of their bytes is sent, which takes some milliseconds once a day;
/// larger ones as they are sent.
const VERIFIED_BYTES: u64 = 8 << 20;

/// The media type of a blob: what is in it only its entries know.
const BLOB_TYPE: &str = "application/octet-stream";

/// Answers a request for `key` with its conditions and ranges.
pub(super) async fn answer(
    core: &Arc<Core>,
    key: ObjectKey,
    wish: Wish,
    method: &Method,
    headers: &HeaderMap,
) -> Result<Response, ApiError> {
    let min = min_version(headers)?;
    let found = resolve(core, key, wish, min.as_ref()).await?;
    let Found { bytes, media_type, caching, version, written, variant, adaptive } = found;
    // Also what is refused tells of which version that is.
    let tell = |error: ApiError| error.with_header(VERSION_NAME, version_value(&version));
    let etag = bytes.hash.etag();
    let modified = modified(&written);
    let validators = Validators { etag: &etag, modified: Some(modified) };
    let mut response = match condition::evaluate(method, headers, Some(validators)) {
        Verdict::Failed => return Err(tell(changed())),
        Verdict::NotModified => not_modified(),
        Verdict::Go => {
            let by_date = adaptive && condition::ranges_by_date(headers);
            let selection = match !by_date && condition::range_applies(method, headers, validators) {
                true => selection(method, headers, bytes.size),
                false => Selection::Whole,
            };
            content(core, bytes, media_type.as_str(), method, selection).await.map_err(tell)?
        }
    };
    let fields = response.headers_mut();
    fields.insert(ETAG, text_value(&etag));
    // All variants have the same date, so that parts of two could be taken for one (RFC 9110 section 8.8.2.2).
    if !adaptive {
        fields.insert(LAST_MODIFIED, text_value(&httpdate::fmt_http_date(modified)));
    }
    fields.insert(CACHE_CONTROL, text_value(&caching.control()));
    fields.insert(VERSION_NAME, version_value(&version));
    if let Some(variant) = variant {
        fields.insert(VARIANT_NAME, HeaderValue::from_static(variant.as_str()));
    }
    if matches!(caching, Caching::OneClient(_)) {
        fields.insert(VARY, HeaderValue::from_static("save-data"));
    }
    Ok(response)
}

/// `GET` and `HEAD /v1/blobs/HASH`: the bytes, with ranges for those who resume.
pub(super) async fn blob(
    State(core): State<Arc<Core>>,
    Extension(principal): Extension<Principal>,
    request: Request<Body>,
) -> Result<Response, ApiError> {
    require(&principal, Right::Read)?;
    let text = request.uri().path().strip_prefix(BLOBS).and_then(|path| path.strip_prefix('/')).unwrap_or_default();
    let hash: ContentHash = text.parse().map_err(ApiError::bad_request)?;
    let (catalog, blobs) = (core.catalog.clone(), core.blobs.clone());
    let opened = off_runtime(move || BlobBytes::open(&catalog, &blobs, &hash)).await?;
    let Some(opened) = opened else {
        scrub::report_missing(&core, hash).await?;
        return Err(ApiError::not_found(format!("blob {hash}")));
    };
    let size = opened.size();
    let selection = selection(request.method(), request.headers(), size);
    let bytes = Held { hash, size, opened: Some(opened) };
    content(&core, bytes, BLOB_TYPE, request.method(), selection).await
}

/// What `headers` ask for. Only for GET a range means anything (RFC 9110 section 14.2).
fn selection(method: &Method, headers: &HeaderMap, size: u64) -> Selection {
    let header = headers.get(RANGE).filter(|_| method == Method::GET).and_then(|value| value.to_str().ok());
    header.map_or(Selection::Whole, |header| range::select(header, size))
}

/// Bytes that this node holds.
pub(super) struct Held {
    hash: ContentHash,
    size: u64,
    /// Those of a blob are opened when it is known that they are to be sent.
    opened: Option<BlobBytes>,
}

impl Held {
    /// The bytes of a blob.
    pub(super) const fn blob(hash: ContentHash, size: u64) -> Self {
        Self { hash, size, opened: None }
    }

    /// Bytes in memory.
    pub(super) const fn memory(hash: ContentHash, bytes: Bytes) -> Self {
        Self { hash, size: bytes.len() as u64, opened: Some(BlobBytes::Memory(bytes)) }
    }
}

/// The answer with the bytes that `selection` names.
async fn content(
    core: &Arc<Core>,
    bytes: Held,
    media_type: &str,
    method: &Method,
    selection: Selection,
) -> Result<Response, ApiError> {
    let size = bytes.size;
    let whole = |range: std::ops::Range<u64>| (vec![Piece::File(range)], media_type.to_owned());
    let (status, (pieces, content_type)) = match selection {
        Selection::Whole => (StatusCode::OK, whole(0..size)),
        Selection::Unsatisfiable => {
            let error = ApiError::new(StatusCode::RANGE_NOT_SATISFIABLE, format!("there are {size} bytes"));
            return Err(error.with_header(CONTENT_RANGE, text_value(&format!("bytes */{size}"))));
        }
        Selection::Parts(parts) => match parts.as_slice() {
            [part] => (StatusCode::PARTIAL_CONTENT, whole(part.clone())),
            parts => {
                let boundary = &multipart::boundary(&bytes.hash.etag());
                let pieces = multipart(parts, size, media_type, boundary);
                (StatusCode::PARTIAL_CONTENT, (pieces, format!("multipart/byteranges; boundary={boundary}")))
            }
        },
    };
    let range = match pieces.as_slice() {
        [Piece::File(part)] if status == StatusCode::PARTIAL_CONTENT => {
            Some(format!("bytes {}-{}/{size}", part.start, part.end - 1))
        }
        _ => None,
    };
    let length = length_of(&pieces);
    let body = if method == Method::HEAD { Body::empty() } else { body(core, bytes, pieces, length).await? };
    let mut response = (status, body).into_response();
    let fields = response.headers_mut();
    fields.insert(CONTENT_LENGTH, HeaderValue::from(length));
    fields.insert(CONTENT_TYPE, text_value(&content_type));
    fields.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    fields.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    if let Some(range) = range {
        fields.insert(CONTENT_RANGE, text_value(&range));
    }
    Ok(response)
}

/// The pieces of a `multipart/byteranges` body (RFC 9110 section 14.6).
fn multipart(parts: &[std::ops::Range<u64>], size: u64, media_type: &str, boundary: &str) -> Vec<Piece> {
    let (heads, end) = multipart::heads(parts, size, media_type, boundary);
    let pieces = heads.flat_map(|(head, part)| [Piece::Bytes(head.into()), Piece::File(part)]);
    pieces.chain([Piece::Bytes(end.into())]).collect()
}

fn length_of(pieces: &[Piece]) -> u64 {
    let length = |piece: &Piece| match piece {
        Piece::Bytes(bytes) => bytes.len() as u64,
        Piece::File(range) => range.end - range.start,
    };
    pieces.iter().map(length).sum()
}

async fn body(core: &Arc<Core>, bytes: Held, pieces: Vec<Piece>, length: u64) -> Result<Body, ApiError> {
    let Held { hash, size, opened } = bytes;
    if let Some(memory @ BlobBytes::Memory(_)) = opened {
        return Ok(memory.body(pieces));
    }
    let small = match pieces.as_slice() {
        [Piece::File(range)] if length <= SMALL_BYTES => Some(range.clone()),
        _ => None,
    };
    let blob = NamedBlob { hash, size };
    let (opened, read) = match open(core, blob, opened, small.clone()).await? {
        Ok(read) => read,
        // The catalogue says that the bytes are held, the disk says that they are not: they come from a peer.
        Err(Damaged { row }) => match scrub::demand(core, blob, row).await? {
            true => open(core, blob, None, small).await?.map_err(|_| damaged())?,
            false => return Err(damaged()),
        },
    };
    let is_whole = matches!(pieces.as_slice(), [Piece::File(range)] if *range == (0..size));
    Ok(match read {
        Some(read) => Body::from(read),
        None if is_whole && core.scrub.verified.is_due(&hash) => scrub::whole(core.clone(), blob, opened),
        None => opened.body(pieces),
    })
}

/// The bytes of a blob are missing, cut short, cannot be read, or are others.
struct Damaged {
    /// Those others, if they are a row of the catalogue.
    row: Option<Bytes>,
}

/// Opens a blob, unless that was done, hashes it, if that is due and soon done, and reads the part of it that is sent with
/// the head.
async fn open(
    core: &Arc<Core>,
    NamedBlob { hash, size }: NamedBlob,
    opened: Option<BlobBytes>,
    part: Option<std::ops::Range<u64>>,
) -> Result<Result<(BlobBytes, Option<Bytes>), Damaged>, StoreError> {
    let shared = core.clone();
    let open = move || {
        let opened = match opened {
            Some(opened) => Some(opened),
            None => BlobBytes::open(&shared.catalog, &shared.blobs, &hash)?,
        };
        let damaged = |row| Ok(Err(Damaged { row }));
        let Some(opened) = opened.filter(|opened| opened.size() == size) else { return damaged(None) };
        let verified = &shared.scrub.verified;
        if size <= VERIFIED_BYTES && verified.is_due(&hash) && !verified.verify(&hash, &opened).unwrap_or(false) {
            return damaged(opened.into_memory());
        }
        match part.map(|range| opened.read(range)).transpose() {
            Ok(read) => Ok(Ok((opened, read))),
            Err(_) => damaged(None),
        }
    };
    off_runtime(open).await
}

/// 503: the bytes are damaged here, and no peer has given them yet.
fn damaged() -> ApiError {
    let detail = "the bytes of the object are damaged or missing on this node, which asks the others for them";
    ApiError::new(StatusCode::SERVICE_UNAVAILABLE, detail).with_header(RETRY_AFTER, HeaderValue::from_static("5"))
}

/// 412: what the caller assumed of the object does not hold.
pub(super) fn changed() -> ApiError {
    ApiError::new(StatusCode::PRECONDITION_FAILED, "the object is not the one that the conditions name")
}

/// 304. Its body says nothing of its length, for a length of 0 would be taken for the object's (RFC 9110 section 8.6).
fn not_modified() -> Response {
    let nothing = stream::empty::<Result<Bytes, std::convert::Infallible>>();
    (StatusCode::NOT_MODIFIED, Body::from_stream(nothing)).into_response()
}

/// Whether the preconditions in `headers` allow `method` to change what is `current`.
pub(super) fn holds(method: &Method, headers: &HeaderMap, current: Option<&Entry>) -> bool {
    let live = current.and_then(|entry| entry.content().map(|content| (content.hash.etag(), &entry.version)));
    let validators = live.as_ref().map(|(etag, version)| Validators { etag, modified: Some(modified(version)) });
    condition::evaluate(method, headers, validators) == Verdict::Go
}

/// When an object was written. The clock of another node may be ahead, but no answer is older than what it tells of
/// (RFC 9110 section 8.8.2.1).
fn modified(version: &Version) -> SystemTime {
    (SystemTime::UNIX_EPOCH + Duration::from_millis(version.time.unix_ms())).min(SystemTime::now())
}

/// A version as a header says it.
pub(super) fn version_value(version: &Version) -> HeaderValue {
    text_value(&version.to_string())
}

/// A header value of text that is known to be visible ASCII.
fn text_value(text: &str) -> HeaderValue {
    HeaderValue::from_maybe_shared(Bytes::copy_from_slice(text.as_bytes()))
        .expect("values of the model are visible ASCII")
}
