//! Objects over HTTP: put, get, head, delete, list; and blobs by hash for peers.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::Json;
use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Extension, Query, State};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::header::{
    ACCEPT_RANGES, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, HeaderValue, LAST_MODIFIED, RANGE,
    X_CONTENT_TYPE_OPTIONS,
};
use http::{HeaderMap, Method, Request, StatusCode, Uri};
use http_body_util::BodyExt as _;
use serde::Deserialize;

use super::access::{Right, require};
use super::bytes::{Intake, Piece, body_of, off_runtime, read_range};
use super::error::ApiError;
use super::{Core, unix_ms};
use crate::model::{
    Content, ContentHash, Entry, EntryKey, EntryState, FieldValue, ObjectKey, ObjectMeta, Principal, Version,
};
use crate::protocol::status::{Objects, Receipt};
use crate::protocol::{BLOBS, OBJECTS, VERSION_HEADER, decode_key};
use crate::serve::body::BodyError;
use crate::serve::condition::{self, Validators, Verdict};
use crate::serve::range::{self, Selection};

/// The most objects of one answer.
const LIST_MAX: usize = 1000;

/// Bodies up to this size are read at once and sent with their head.
const SMALL_BYTES: u64 = 64 << 10;

/// `PUT /v1/objects/KEY`.
pub(super) async fn put(
    State(core): State<Arc<Core>>,
    Extension(principal): Extension<Principal>,
    request: Request<Body>,
) -> Result<Response, ApiError> {
    require(&principal, Right::Write)?;
    let (head, body) = request.into_parts();
    let key = key_of(&head.uri, OBJECTS)?;
    let field = |name| head.headers.get(name).map(parse_field).transpose();
    let guessed = || key.guessed_media_type().parse();
    let media_type = field(CONTENT_TYPE)?.map_or_else(guessed, Ok)?;
    let cache_control = field(CACHE_CONTROL)?.unwrap_or_else(|| core.config.cache_control.clone());
    let declared = head.headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    let (hash, size) = receive(&core, body, declared).await?;
    let content = Content { hash, size, media_type, cache_control };
    let receipt = store(&core, key, content, head.headers).await?;
    core.metrics.stored_bytes.inc_by(size);
    Ok((StatusCode::CREATED, [(ETAG, receipt.content.hash.etag())], Json(receipt)).into_response())
}

/// Reads a body into a blob, within the limits of size and space.
async fn receive(core: &Core, mut body: Body, declared: Option<u64>) -> Result<(ContentHash, u64), ApiError> {
    let limit = core.config.object_bytes_max;
    let too_large = || {
        let detail = format!("an object has at most {limit} bytes here (object_bytes_max)");
        ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, detail).closing()
    };
    if declared.is_some_and(|size| size > limit) {
        return Err(too_large());
    }
    let mut intake = Intake::new(core.blobs.clone());
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(broken_body)?;
        let Ok(bytes) = frame.into_data() else { continue };
        if intake.size() + bytes.len() as u64 > limit {
            return Err(too_large());
        }
        intake.write(bytes).await?;
    }
    let size = intake.size();
    Ok((intake.finish(None).await?, size))
}

/// Why a body did not come to its end.
fn broken_body(error: axum::Error) -> ApiError {
    let source = error.into_inner();
    match source.downcast_ref() {
        Some(stalled @ BodyError::<hyper::Error>::Stalled(_)) => {
            ApiError::new(StatusCode::REQUEST_TIMEOUT, stalled.to_string()).closing()
        }
        _ => ApiError::bad_request("the body broke off; nothing was stored").closing(),
    }
}

/// Points `key` at `content`, whose bytes are durable, if the conditions in `headers` hold in that moment.
async fn store(core: &Core, key: ObjectKey, content: Content, headers: HeaderMap) -> Result<Receipt, ApiError> {
    let entry_key = EntryKey::Object(key.clone());
    let state = EntryState::Live(content.clone());
    let written = core.catalog.transact(move |transaction| {
        let current = transaction.find(&entry_key)?;
        if !holds(&Method::PUT, &headers, current.as_ref()) {
            return Ok(None);
        }
        let entry = Entry { key: entry_key, version: transaction.stamp(unix_ms()), state };
        transaction.list(&entry)?;
        Ok(Some(entry.version))
    });
    let version =
        written.await?.ok_or_else(|| ApiError::new(StatusCode::PRECONDITION_FAILED, "the object has changed"))?;
    Ok(Receipt { key, content, version, copies: 1 })
}

/// `GET` and `HEAD /v1/objects/KEY`.
pub(super) async fn get(
    State(core): State<Arc<Core>>,
    Extension(principal): Extension<Principal>,
    request: Request<Body>,
) -> Result<Response, ApiError> {
    require(&principal, Right::Read)?;
    let key = key_of(request.uri(), OBJECTS)?;
    answer(&core, key, request.method(), request.headers()).await
}

/// Answers a request for `key` with its conditions and ranges.
pub(super) async fn answer(
    core: &Arc<Core>,
    key: ObjectKey,
    method: &Method,
    headers: &HeaderMap,
) -> Result<Response, ApiError> {
    let catalog = core.catalog.clone();
    let entry_key = EntryKey::Object(key.clone());
    let found = off_runtime(move || catalog.find(&entry_key)).await?;
    let deleted = found.as_ref().map(|entry| version_value(&entry.version));
    let Some(object) = found.and_then(Entry::into_object) else {
        // The version of the deletion tells an edge that this node has not merely missed the object.
        let error = ApiError::not_found(format!("object {key}"));
        return Err(match deleted {
            Some(version) => error.with_header(VERSION_NAME, version),
            None => error,
        });
    };
    let etag = object.content.hash.etag();
    let modified = modified(&object.version);
    let validators = Validators { etag: &etag, modified };
    let mut response = match condition::evaluate(method, headers, Some(validators)) {
        Verdict::Failed => return Err(ApiError::new(StatusCode::PRECONDITION_FAILED, "the object has changed")),
        Verdict::NotModified => StatusCode::NOT_MODIFIED.into_response(),
        Verdict::Go => {
            let range = condition::range_applies(headers, validators).then(|| headers.get(RANGE)).flatten();
            let selection = range
                .and_then(|value| value.to_str().ok())
                .map_or(Selection::Whole, |header| range::select(header, object.content.size));
            content(core, &object, method, selection).await?
        }
    };
    let fields = response.headers_mut();
    fields.insert(ETAG, text_value(&etag));
    fields.insert(LAST_MODIFIED, text_value(&httpdate::fmt_http_date(modified)));
    fields.insert(CACHE_CONTROL, text_value(object.content.cache_control.as_str()));
    fields.insert(VERSION_NAME, version_value(&object.version));
    Ok(response)
}

const VERSION_NAME: http::HeaderName = http::HeaderName::from_static(VERSION_HEADER);

/// The answer with the bytes that `selection` names.
async fn content(
    core: &Arc<Core>,
    object: &ObjectMeta,
    method: &Method,
    selection: Selection,
) -> Result<Response, ApiError> {
    let size = object.content.size;
    let media_type = object.content.media_type.as_str();
    let (status, pieces, content_type) = match selection {
        Selection::Whole => (StatusCode::OK, vec![Piece::File(0..size)], media_type.to_owned()),
        Selection::Unsatisfiable => {
            let error = ApiError::new(StatusCode::RANGE_NOT_SATISFIABLE, format!("the object has {size} bytes"));
            return Err(error.with_header(CONTENT_RANGE, text_value(&format!("bytes */{size}"))));
        }
        Selection::Parts(parts) => match parts.as_slice() {
            [part] => (StatusCode::PARTIAL_CONTENT, vec![Piece::File(part.clone())], media_type.to_owned()),
            parts => {
                // Bytes that cannot stand in the parts by accident: a hash of what they are parts of.
                let boundary = &ContentHash::of(object.content.hash.as_bytes()).to_string()[..32];
                let pieces = multipart(parts, size, media_type, boundary);
                (StatusCode::PARTIAL_CONTENT, pieces, format!("multipart/byteranges; boundary={boundary}"))
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
    let body = if method == Method::HEAD { Body::empty() } else { body(core, object, pieces, length).await? };
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
    let mut pieces = Vec::with_capacity(2 * parts.len() + 1);
    for part in parts {
        let (first, last) = (part.start, part.end - 1);
        let head = format!(
            "\r\n--{boundary}\r\nContent-Type: {media_type}\r\nContent-Range: bytes {first}-{last}/{size}\r\n\r\n"
        );
        pieces.push(Piece::Bytes(head.into()));
        pieces.push(Piece::File(part.clone()));
    }
    pieces.push(Piece::Bytes(format!("\r\n--{boundary}--\r\n").into()));
    pieces
}

fn length_of(pieces: &[Piece]) -> u64 {
    let length = |piece: &Piece| match piece {
        Piece::Bytes(bytes) => bytes.len() as u64,
        Piece::File(range) => range.end - range.start,
    };
    pieces.iter().map(length).sum()
}

async fn body(core: &Arc<Core>, object: &ObjectMeta, pieces: Vec<Piece>, length: u64) -> Result<Body, ApiError> {
    let blobs = core.blobs.clone();
    let hash = object.content.hash;
    let small = match pieces.as_slice() {
        [Piece::File(range)] if length <= SMALL_BYTES => Some(range.clone()),
        _ => None,
    };
    let opened = off_runtime(move || -> Result<_, ApiError> {
        let file = blobs.read(&hash)?.ok_or_else(|| lost(&hash))?;
        let bytes = small.map(|range| read_range(&file, range)).transpose().map_err(|_| lost(&hash))?;
        Ok((file, bytes))
    });
    Ok(match opened.await? {
        (_, Some(bytes)) => Body::from(bytes),
        (file, None) => body_of(Arc::new(file), pieces),
    })
}

/// The catalogue says that the bytes are held, the disk says that they are not: someone must look.
fn lost(hash: &ContentHash) -> ApiError {
    tracing::error!(%hash, "a blob is missing or cut short on the disk");
    ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "the bytes of the object are damaged on this node").closing()
}

/// `DELETE /v1/objects/KEY`.
pub(super) async fn delete(
    State(core): State<Arc<Core>>,
    Extension(principal): Extension<Principal>,
    request: Request<Body>,
) -> Result<Response, ApiError> {
    require(&principal, Right::Write)?;
    let key = key_of(request.uri(), OBJECTS)?;
    let entry_key = EntryKey::Object(key.clone());
    let headers = request.headers().clone();
    let deleted = core.catalog.transact(move |transaction| {
        let current = transaction.find(&entry_key)?;
        if current.as_ref().is_none_or(|entry| entry.content().is_none()) {
            return Ok(Err(StatusCode::NOT_FOUND));
        }
        if !holds(&Method::DELETE, &headers, current.as_ref()) {
            return Ok(Err(StatusCode::PRECONDITION_FAILED));
        }
        let entry = Entry { key: entry_key, version: transaction.stamp(unix_ms()), state: EntryState::Deleted };
        transaction.list(&entry)?;
        Ok(Ok(entry.version))
    });
    match deleted.await? {
        Ok(version) => Ok((StatusCode::NO_CONTENT, [(VERSION_NAME, version_value(&version))]).into_response()),
        Err(StatusCode::NOT_FOUND) => Err(ApiError::not_found(format!("object {key}"))),
        Err(status) => Err(ApiError::new(status, "the object has changed")),
    }
}

/// The query of a list.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ListQuery {
    #[serde(default)]
    prefix: String,
    after: Option<ObjectKey>,
    limit: Option<usize>,
}

/// `GET /v1/objects`.
pub(super) async fn list(
    State(core): State<Arc<Core>>,
    Extension(principal): Extension<Principal>,
    query: Result<Query<ListQuery>, QueryRejection>,
) -> Result<Json<Objects>, ApiError> {
    require(&principal, Right::Read)?;
    let Query(ListQuery { prefix, after, limit }) = query?;
    let limit = limit.unwrap_or(LIST_MAX).clamp(1, LIST_MAX);
    let catalog = core.catalog.clone();
    let listing = off_runtime(move || catalog.list(&prefix, after.as_ref(), limit)).await?;
    let next = listing.objects.last().filter(|_| listing.more).map(|object| object.key.clone());
    Ok(Json(Objects { objects: listing.objects, next }))
}

/// `GET /v1/blobs/HASH`: the bytes, with one range for those who resume.
pub(super) async fn blob(
    State(core): State<Arc<Core>>,
    Extension(principal): Extension<Principal>,
    request: Request<Body>,
) -> Result<Response, ApiError> {
    require(&principal, Right::Read)?;
    let text = request.uri().path().strip_prefix(BLOBS).and_then(|path| path.strip_prefix('/')).unwrap_or_default();
    let hash: ContentHash = text.parse().map_err(ApiError::bad_request)?;
    let blobs = core.blobs.clone();
    let opened = off_runtime(move || -> Result<_, ApiError> {
        let Some(file) = blobs.read(&hash)? else { return Ok(None) };
        let size = file.metadata().map_err(|_| lost(&hash))?.len();
        Ok(Some((file, size)))
    });
    let (file, size) = opened.await?.ok_or_else(|| ApiError::not_found(format!("blob {hash}")))?;
    let header = request.headers().get(RANGE).and_then(|value| value.to_str().ok());
    let (status, range) = match header.map_or(Selection::Whole, |header| range::select(header, size)) {
        Selection::Parts(parts) if parts.len() == 1 => (StatusCode::PARTIAL_CONTENT, parts[0].clone()),
        Selection::Unsatisfiable => {
            return Err(ApiError::new(StatusCode::RANGE_NOT_SATISFIABLE, format!("the blob has {size} bytes")));
        }
        _ => (StatusCode::OK, 0..size),
    };
    let length = range.end - range.start;
    let mut response = (status, body_of(Arc::new(file), vec![Piece::File(range)])).into_response();
    response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(length));
    Ok(response)
}

/// The key that follows `prefix` in a path.
pub(super) fn key_of(uri: &Uri, prefix: &str) -> Result<ObjectKey, ApiError> {
    let path = uri.path().strip_prefix(prefix).and_then(|path| path.strip_prefix('/')).unwrap_or_default();
    Ok(decode_key(path)?)
}

fn holds(method: &Method, headers: &HeaderMap, current: Option<&Entry>) -> bool {
    let live = current.and_then(|entry| entry.content().map(|content| (content.hash.etag(), &entry.version)));
    let validators = live.as_ref().map(|(etag, version)| Validators { etag, modified: modified(version) });
    condition::evaluate(method, headers, validators) == Verdict::Go
}

fn modified(version: &Version) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_millis(version.time.unix_ms())
}

fn parse_field(value: &HeaderValue) -> Result<FieldValue, ApiError> {
    let text = value.to_str().map_err(|_| ApiError::bad_request("a header has bytes that are not visible ASCII"))?;
    Ok(text.parse()?)
}

fn version_value(version: &Version) -> HeaderValue {
    text_value(&version.to_string())
}

/// A header value of text that is known to be visible ASCII.
fn text_value(text: &str) -> HeaderValue {
    HeaderValue::from_maybe_shared(Bytes::copy_from_slice(text.as_bytes()))
        .expect("values of the model are visible ASCII")
}
