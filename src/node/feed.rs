//! Serving the feed, heartbeats and announcements.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::rejection::{JsonRejection, PathRejection, QueryRejection};
use axum::extract::{Extension, Path, Query, State};
use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderValue};
use http::{HeaderMap, StatusCode};
use tokio::time::Instant;

use super::access::{Right, require};
use super::announce::who_lives_at;
use super::bytes::off_runtime;
use super::error::ApiError;
use super::forget::gone;
use super::pull::ENTRIES_MAX_BUSY;
use super::records::{Change, write_record};
use super::{Core, unix_ms};
use crate::model::{Node, NodeId, Origin, Principal, RecordKey};
use crate::protocol::feed::{AnnounceQuery, ENTRIES_MAX, FORMAT, FeedAnswer, FeedQuery, WAIT_MS_MAX, Welcome};
use crate::protocol::status::{PingQuery, Pong};
use crate::replicate::resume_at;
use crate::store::{FeedEnd, FeedPage, Select, StoreError};

/// The largest probe.
const PROBE_BYTES_MAX: usize = 1 << 20;

/// `GET /v1/feed`: what is listed after a sequence; waits for something new if asked to.
pub(super) async fn read(
    State(core): State<Arc<Core>>,
    Extension(principal): Extension<Principal>,
    query: Result<Query<FeedQuery>, QueryRejection>,
) -> Result<Json<FeedAnswer>, ApiError> {
    require(&principal, Right::Read)?;
    if let Principal::Node(id) = &principal {
        require_member(&core, id)?;
    }
    let Query(query) = query?;
    let limit = query.limit.unwrap_or(ENTRIES_MAX).clamp(1, ENTRIES_MAX);
    // Users are answered first, also before a follower that has much to read.
    let limit = if core.foreground.is_busy() { limit.min(ENTRIES_MAX_BUSY) } else { limit };
    let select = if query.records { Select::Records } else { Select::All };
    let epoch = core.catalog.origin().epoch;
    let mut progress = core.catalog.progress();
    let mut position = (query.since, query.epoch);
    let deadline = Instant::now() + Duration::from_millis(query.wait_ms.min(WAIT_MS_MAX));
    loop {
        progress.mark_unchanged();
        let (catalog, (since, asked)) = (core.catalog.clone(), position);
        let resume = move |head| resume_at(since, asked, epoch, head);
        let begun = std::time::Instant::now();
        let page = off_runtime(move || catalog.feed_from(resume, limit, select)).await?;
        if let Principal::Node(id) = &principal {
            core.members.follows(id, page.since);
        }
        position = (page.next, Some(epoch));
        if page.entries.len() == limit {
            let answer = answer(&core, page);
            if answer.awaited.is_empty() {
                core.foreground.give_way(begun.elapsed()).await;
            }
            return Ok(Json(answer));
        }
        if !page.entries.is_empty() || Instant::now() >= deadline {
            return Ok(Json(answer(&core, page)));
        }
        tokio::select! {
            () = core.stop.cancelled() => return Ok(Json(answer(&core, page))),
            () = tokio::time::sleep_until(deadline) => return Ok(Json(answer(&core, page))),
            changed = progress.changed() => if changed.is_err() { return Ok(Json(answer(&core, page))) },
        }
    }
}

/// Refuses a node that is no member: what it would take from the feed no member would know of, and a deletion could be
/// forgotten before it has heard of it.
pub(super) fn require_member(core: &Core, id: &NodeId) -> Result<(), ApiError> {
    let view = core.members.view().borrow().clone();
    if *id == core.me.id || view.nodes().contains_key(id) {
        return Ok(());
    }
    if view.is_forgotten(id) {
        return Err(gone(id));
    }
    let detail = format!("node {id} is not known here yet: its announcement is on the way");
    Err(ApiError::new(StatusCode::SERVICE_UNAVAILABLE, detail))
}

fn answer(core: &Core, page: FeedPage) -> FeedAnswer {
    let FeedPage { entries, next, end, .. } = page;
    let Origin { node, epoch } = core.catalog.origin().clone();
    let own = entries.iter().enumerate().map(|(place, entry)| (place, &entry.version));
    let awaited = core.copies.awaited_among(own.filter(|(_, version)| version.origin == *core.catalog.origin()));
    let (end, vector, horizon) = match end {
        Some(FeedEnd { vector, horizon }) => (true, Some(vector), horizon),
        None => (false, None, None),
    };
    FeedAnswer { format: FORMAT, node, epoch, entries, next, end, vector, horizon, awaited }
}

/// `GET /v1/ping`.
pub(super) async fn ping(
    State(core): State<Arc<Core>>,
    Extension(principal): Extension<Principal>,
    query: Result<Query<PingQuery>, QueryRejection>,
) -> Result<Json<Pong>, ApiError> {
    require(&principal, Right::Read)?;
    let Query(PingQuery { vector }) = query?;
    // Asked before it is read what is known, so that what was welcomed is.
    let belongs = core.belonging.belongs();
    let catalog = core.catalog.clone();
    let read = move || Ok::<_, StoreError>((catalog.vector()?, catalog.registered()?));
    let (vector, known) = if vector { Some(off_runtime(read).await?) } else { None }.unzip();
    let (members, listed) = known.unzip();
    let progress = *core.catalog.progress().borrow();
    let origin = core.catalog.origin();
    Ok(Json(Pong {
        node: origin.node.clone(),
        epoch: origin.epoch,
        // A reader may see a commit before its progress is told.
        head: listed.unwrap_or(0).max(progress.head),
        wants: progress.wants,
        clock: progress.clock,
        format: Some(FORMAT),
        now_unix_ms: Some(unix_ms()),
        want_bytes: progress.want_bytes,
        members: members.filter(|_| belongs).map(|members| members.digest()),
        vector,
    }))
}

/// `GET /v1/probe/BYTES`: so many bytes, for edges that measure an idle path.
pub(super) async fn probe(
    Extension(principal): Extension<Principal>,
    size: Result<Path<usize>, PathRejection>,
) -> Result<(HeaderMap, Bytes), ApiError> {
    static ZEROS: [u8; PROBE_BYTES_MAX] = [0; PROBE_BYTES_MAX];
    require(&principal, Right::Read)?;
    let Path(size) = size.map_err(|rejection| ApiError::bad_request(rejection.body_text()))?;
    let bytes = ZEROS
        .get(..size)
        .ok_or_else(|| ApiError::bad_request(format!("a probe has at most {PROBE_BYTES_MAX} bytes")))?;
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_LENGTH, HeaderValue::from(size));
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    Ok((headers, Bytes::from_static(bytes)))
}

/// `PUT /v1/servers/ID`: a node announces itself; the answer holds the records by which it finds the others.
pub(super) async fn announce(
    State(core): State<Arc<Core>>,
    Extension(principal): Extension<Principal>,
    id: Result<Path<NodeId>, PathRejection>,
    query: Result<Query<AnnounceQuery>, QueryRejection>,
    node: Result<Json<Node>, JsonRejection>,
) -> Result<Json<Welcome>, ApiError> {
    let Path(id) = id.map_err(|rejection| ApiError::bad_request(rejection.body_text()))?;
    let Query(AnnounceQuery { epoch }) = query?;
    if principal != Principal::Node(id.clone()) {
        require(&principal, Right::Write)?;
    }
    let Json(node) = node?;
    if node.id != id {
        return Err(ApiError::bad_request(format!("the body describes node {}, the path names {id}", node.id)));
    }
    let view = core.members.view().borrow().clone();
    if view.is_forgotten(&id) {
        return Err(gone(&id));
    }
    // Certificates name servers by DNS names, which do not tell upper case from lower.
    let namesake = |known: &&NodeId| **known != id && known.as_str().eq_ignore_ascii_case(id.as_str());
    if let Some(known) = view.nodes().keys().find(namesake) {
        let detail = format!("{id} and {known} differ by case alone: choose another name");
        return Err(ApiError::new(StatusCode::CONFLICT, detail));
    }
    if let Some((known, epoch)) = view.nodes().get(&id).zip(epoch)
        && known.address != node.address
        && who_lives_at(&core, known).await.is_some_and(|other| other != epoch)
    {
        let detail =
            format!("another node {id} lives at {}: choose another name, or stop that one first", known.address);
        return Err(ApiError::new(StatusCode::CONFLICT, detail));
    }
    if id != core.me.id {
        let announced = serde_json::to_string(&node).map_err(ApiError::bad_request)?;
        let decide = move |current: Option<&str>| {
            Ok::<_, ApiError>(if current == Some(&announced) { Change::Keep } else { Change::Set(announced) })
        };
        let key = RecordKey::node(&id);
        write_record(&core, key.clone(), decide).await??;
        // It may have been forgotten while this was looked at.
        let catalog = core.catalog.clone();
        if off_runtime(move || catalog.find(&key.into())).await?.is_some_and(|entry| entry.is_deleted()) {
            return Err(gone(&id));
        }
    } else if node != core.me {
        let detail = format!("{id} is this node: two nodes must not have the same name");
        return Err(ApiError::new(StatusCode::CONFLICT, detail));
    }
    // Asked before the records are read: who belongs knows of the cluster's members.
    let newcomer = core.belonging.newcomer();
    let catalog = core.catalog.clone();
    let records = off_runtime(move || catalog.feed(0, ENTRIES_MAX, Select::Records)).await?.entries;
    Ok(Json(Welcome { records, newcomer }))
}
