//! Objects over HTTP: put, get, head, delete, list.

use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Extension, Query, State};
use axum::response::{IntoResponse, Response};
use http::header::{
    ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, HeaderValue,
};
use http::{HeaderMap, HeaderName, Method, Request, StatusCode, Uri};
use http_body_util::BodyExt as _;
use serde::Deserialize;

use super::access::{Right, require};
use super::bytes::{Intake, off_runtime};
use super::copies::{self, Awaited, CopiesQuery};
use super::error::ApiError;
use super::home;
use super::resolve::{Wish, variant_of};
use super::serving::{VERSION_NAME, answer, changed, holds, version_value};
use super::states::require_staying;
use super::{Core, unix_ms};
use crate::model::{Content, EntryKey, EntryState, FieldValue, ObjectKey, Principal};
use crate::protocol::status::{Objects, Receipt};
use crate::protocol::{COPIES_HEADER, OBJECTS, decode_key};
use crate::replicate;
use crate::serve::body::BodyError;
use crate::store::{FreshBlob, SMALL_BLOB_BYTES_MAX};

/// On how many nodes a write is durable.
const COPIES_NAME: HeaderName = HeaderName::from_static(COPIES_HEADER);

/// The most objects of one answer.
const LIST_MAX: usize = 1000;

/// `PUT /v1/objects/KEY`: 201 for a new object, 200 for one that replaces another.
pub(super) async fn put(
    State(core): State<Arc<Core>>,
    Extension(principal): Extension<Principal>,
    copies: Result<Query<CopiesQuery>, QueryRejection>,
    request: Request<Body>,
) -> Result<Response, ApiError> {
    let passed_on = home::admit(&core, &principal, request.headers())?;
    let copies = copies::asked(&core, copies).map_err(ApiError::closing)?;
    let key = key_of(request.uri(), OBJECTS).map_err(ApiError::closing)?;
    if let Some(home) = home::elsewhere(&core, &key, request.headers()).map_err(ApiError::closing)? {
        return home::pass_on(&core, &home, request).await;
    }
    core.members.require_clock(&core.catalog).map_err(ApiError::closing)?;
    let (head, body) = request.into_parts();
    // A client that waits for 100 (Continue) hears of what is wrong before it sends the bytes.
    let accepted = accept(&core, key, &head.headers, passed_on).await;
    let Accepted { key, media_type, cache_control } = accepted.map_err(ApiError::closing)?;
    let declared = head.headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    let blob = receive(&core, body, declared).await?;
    require_staying(&core)?;
    let size = blob.size();
    let content = Content { hash: blob.hash(), size, media_type, cache_control };
    let (mut receipt, status, awaited) = store(&core, key, content, blob, head.headers).await?;
    core.metrics.stored_bytes.inc_by(size);
    receipt.copies = copies::wait(&core, awaited, copies).await?;
    let headers = [
        (ETAG, HeaderValue::try_from(receipt.content.hash.etag()).expect("a hash in hex is visible ASCII")),
        (VERSION_NAME, version_value(&receipt.version)),
        (COPIES_NAME, HeaderValue::from(receipt.copies)),
    ];
    Ok((status, headers, Json(receipt)).into_response())
}

/// What the head of a PUT says.
struct Accepted {
    key: ObjectKey,
    media_type: FieldValue,
    cache_control: FieldValue,
}

async fn accept(core: &Arc<Core>, key: ObjectKey, headers: &HeaderMap, passed_on: bool) -> Result<Accepted, ApiError> {
    // Taken for the whole object, a part of it would destroy the rest (RFC 9110 section 14.5).
    if headers.contains_key(CONTENT_RANGE) {
        return Err(ApiError::bad_request("a part of an object cannot be put: send the whole without Content-Range"));
    }
    // The coding is not kept with the object, so that everybody would get bytes that do not read.
    if headers.get_all(CONTENT_ENCODING).iter().any(|coding| !coding.as_bytes().eq_ignore_ascii_case(b"identity")) {
        let error = ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "send the bytes without Content-Encoding");
        return Err(error.with_header(ACCEPT_ENCODING, HeaderValue::from_static("identity")));
    }
    let field = |name| headers.get(name).map(parse_field).transpose();
    let guessed = || key.guessed_media_type().parse();
    let media_type = field(CONTENT_TYPE)?.map_or_else(guessed, Ok)?;
    let cache_control = field(CACHE_CONTROL)?.unwrap_or_else(|| core.config.cache_control.clone());
    if home::is_conditional(headers) {
        let newest = home::catch_up(core, &key).await?;
        // Of a write that was passed on the body is under way: who sends it would hear of a broken connection.
        if !passed_on && !holds(&Method::PUT, headers, newest.as_ref()) {
            return Err(changed());
        }
    }
    Ok(Accepted { key, media_type, cache_control })
}

/// Reads a body into a blob, within the limits of size and space.
async fn receive(core: &Core, mut body: Body, declared: Option<u64>) -> Result<FreshBlob, ApiError> {
    let limit = core.config.object_bytes_max;
    let too_large = || {
        let detail = format!("an object has at most {limit} bytes here (object_bytes_max)");
        ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, detail).closing()
    };
    if declared.is_some_and(|size| size > limit) {
        return Err(too_large());
    }
    // A small one is looked at when it is here.
    if let Some(size) = declared.filter(|size| *size > SMALL_BLOB_BYTES_MAX) {
        let blobs = core.blobs.clone();
        off_runtime(move || blobs.require_room(size)).await.map_err(|error| ApiError::from(error).closing())?;
    }
    let mut intake = Intake::new(core.blobs.clone());
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(broken_body)?;
        let Ok(bytes) = frame.into_data() else { continue };
        if intake.size() + bytes.len() as u64 > limit {
            return Err(too_large());
        }
        intake.write(&bytes).await?;
    }
    Ok(intake.finish(None).await?)
}

/// Why a body did not come to its end.
fn broken_body(error: axum::Error) -> ApiError {
    let source = error.into_inner();
    match source.downcast_ref() {
        Some(stalled @ BodyError::Stalled(_)) => {
            ApiError::new(StatusCode::REQUEST_TIMEOUT, stalled.to_string()).closing()
        }
        _ => ApiError::bad_request("the body broke off; nothing was stored").closing(),
    }
}

/// Points `key` at `content`, whose bytes `blob` has, if the conditions in `headers` hold in that moment.
async fn store(
    core: &Arc<Core>,
    key: ObjectKey,
    content: Content,
    blob: FreshBlob,
    headers: HeaderMap,
) -> Result<(Receipt, StatusCode, Awaited), ApiError> {
    let entry_key = EntryKey::Object(key.clone());
    let state = EntryState::Live(content.clone());
    let shared = core.clone();
    let name = key.clone();
    let written = core.catalog.transact(move |transaction| {
        let current = match home::find(&shared, transaction, &name, &headers)? {
            Ok(current) if holds(&Method::PUT, &headers, current.as_ref()) => current,
            Ok(_) => return Ok(Err(changed())),
            Err(refusal) => return Ok(Err(refusal)),
        };
        let replaced = current.is_some_and(|entry| entry.content().is_some());
        transaction.keep_blob(&blob)?;
        let entry = replicate::write(transaction, entry_key, state, unix_ms())?;
        let awaited = shared.copies.expect(&entry.version);
        Ok(Ok((entry.version, replaced, awaited)))
    });
    let (version, replaced, awaited) = written.await??;
    let status = if replaced { StatusCode::OK } else { StatusCode::CREATED };
    Ok((Receipt { key, content, version, copies: 1 }, status, awaited))
}

/// `GET` and `HEAD /v1/objects/KEY`.
pub(super) async fn get(
    State(core): State<Arc<Core>>,
    Extension(principal): Extension<Principal>,
    request: Request<Body>,
) -> Result<Response, ApiError> {
    require(&principal, Right::Read)?;
    let key = key_of(request.uri(), OBJECTS)?;
    let wish = variant_of(request.uri())?.map_or(Wish::AsPublished, Wish::Exactly);
    answer(&core, key, wish, request.method(), request.headers()).await
}

/// `DELETE /v1/objects/KEY`.
pub(super) async fn delete(
    State(core): State<Arc<Core>>,
    Extension(principal): Extension<Principal>,
    copies: Result<Query<CopiesQuery>, QueryRejection>,
    request: Request<Body>,
) -> Result<Response, ApiError> {
    home::admit(&core, &principal, request.headers())?;
    let copies = copies::asked(&core, copies)?;
    let key = key_of(request.uri(), OBJECTS)?;
    if let Some(home) = home::elsewhere(&core, &key, request.headers())? {
        return home::pass_on(&core, &home, request).await;
    }
    core.members.require_clock(&core.catalog)?;
    let headers = request.headers().clone();
    if home::is_conditional(&headers) {
        home::catch_up(&core, &key).await?;
    }
    let shared = core.clone();
    let deleted = core.catalog.transact(move |transaction| {
        if let Err(refusal) = require_staying(&shared) {
            return Ok(Err(refusal));
        }
        let current = match home::find(&shared, transaction, &key, &headers)? {
            Ok(current) => current,
            Err(refusal) => return Ok(Err(refusal)),
        };
        // What a backup has may be listed later: then it must find this deletion.
        if current.as_ref().is_none_or(|entry| entry.content().is_none())
            && !transaction.withholds(&key.clone().into())?
        {
            return Ok(Err(ApiError::not_found(format!("object {key}"))));
        }
        if !holds(&Method::DELETE, &headers, current.as_ref()) {
            return Ok(Err(changed()));
        }
        let entry = replicate::write(transaction, key.into(), EntryState::Deleted, unix_ms())?;
        let awaited = shared.copies.expect(&entry.version);
        Ok(Ok((entry.version, awaited)))
    });
    let (version, awaited) = deleted.await??;
    let copies = copies::wait(&core, awaited, copies).await?;
    let headers = [(VERSION_NAME, version_value(&version)), (COPIES_NAME, HeaderValue::from(copies))];
    Ok((StatusCode::NO_CONTENT, headers).into_response())
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

/// The key that follows `prefix` in a path.
pub(super) fn key_of(uri: &Uri, prefix: &str) -> Result<ObjectKey, ApiError> {
    let path = uri.path().strip_prefix(prefix).and_then(|path| path.strip_prefix('/')).unwrap_or_default();
    Ok(decode_key(path)?)
}

fn parse_field(value: &HeaderValue) -> Result<FieldValue, ApiError> {
    let text = value.to_str().map_err(|_| ApiError::bad_request("a header has bytes that are not visible ASCII"))?;
    Ok(text.parse()?)
}
