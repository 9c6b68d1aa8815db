//! Giving peers many small blobs at once.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Instant;

use axum::Json;
use axum::body::Body;
use axum::extract::rejection::JsonRejection;
use axum::extract::{Extension, State};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::stream;
use http::header::{CONTENT_TYPE, HeaderValue};

use super::Core;
use super::access::{Right, require};
use super::bytes::{BlobBytes, off_runtime};
use super::error::ApiError;
use crate::model::{ContentHash, Principal};
use crate::protocol::blobs::{BLOB_BYTES_MAX, BlobsQuery, HASHES_MAX, MEDIA_TYPE, encode};

/// About how many bytes are read at once: what each answer takes in memory.
const PART_BYTES: usize = 256 << 10;

/// `POST /v1/blobs`: the small blobs of a list of hashes, each with its hash and size in front.
pub(super) async fn give(
    State(core): State<Arc<Core>>,
    Extension(principal): Extension<Principal>,
    query: Result<Json<BlobsQuery>, JsonRejection>,
) -> Result<Response, ApiError> {
    require(&principal, Right::Read)?;
    let Json(BlobsQuery { hashes }) = query?;
    if hashes.len() > HASHES_MAX {
        return Err(ApiError::bad_request(format!("at most {HASHES_MAX} blobs at once")));
    }
    // The first part is read before the head is sent: a store that fails is an error and no empty answer.
    let (first, rest) = part(&core, hashes.into_iter()).await?;
    let parts = stream::unfold((core, Some(first), rest), |(core, ready, rest)| async move {
        let (bytes, rest) = match ready {
            Some(first) => (first, rest),
            None if rest.len() == 0 => return None,
            // What is not in the answer is asked for again.
            None => part(&core, rest).await.ok()?,
        };
        Some((Ok::<_, Infallible>(bytes), (core, None, rest)))
    });
    let media_type = [(CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE))];
    Ok((media_type, Body::from_stream(parts)).into_response())
}

type Hashes = std::vec::IntoIter<ContentHash>;

/// The next part of the answer, and what is not in it yet.
async fn part(core: &Arc<Core>, mut hashes: Hashes) -> Result<(Bytes, Hashes), ApiError> {
    let (shared, begun) = (core.clone(), Instant::now());
    let core = core.clone();
    let read = move || -> Result<_, ApiError> {
        let mut answer = Vec::new();
        while answer.len() < PART_BYTES
            && let Some(hash) = hashes.next()
        {
            let found = BlobBytes::open(&core.catalog, &core.blobs, &hash)?;
            let bytes = found.filter(|found| found.size() <= BLOB_BYTES_MAX).and_then(|found| {
                // One that cannot be read is not given: another node has it.
                found.read(0..found.size()).ok()
            });
            encode(&hash, bytes.as_deref(), &mut answer);
        }
        Ok((answer.into(), hashes))
    };
    let part = off_runtime(read).await;
    shared.foreground.give_way(begun.elapsed()).await;
    part
}
