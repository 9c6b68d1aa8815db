//! The server list: the reference's, with its download API, and `/v1/servers`.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::rejection::BytesRejection;
use axum::extract::{Extension, State};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::stream;
use http::header::{CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, HeaderValue};
use http::{Request, StatusCode};
use percent_encoding::percent_decode_str;
use serde::Serialize;

use super::Core;
use super::access::{Right, require};
use super::bytes::off_runtime;
use super::error::ApiError;
use super::links::{Client, learning};
use super::objects::key_of;
use super::records::{Change, change_record};
use super::resolve::{Wish, variant_of};
use super::serving::answer;
use crate::model::{Address, Node, NodeId, Principal, RecordKey};
use crate::protocol::status::Servers;
use crate::store::StoreError;

/// The path of the reference's downloads.
pub(super) const DOWNLOAD: &str = "/get/download";

/// What `GET /getrandom` answers: the reference's 10 MB.
const RANDOM_BYTES: u64 = 10_000_000;

/// A server in the reference's list.
#[derive(Debug, Serialize)]
pub(super) struct ListedServer {
    ip_address: String,
    port: u16,
}

/// `GET /api/get`: where each node serves downloads.
pub(super) async fn reference_list(
    State(core): State<Arc<Core>>,
    Extension(principal): Extension<Principal>,
) -> Result<Json<BTreeMap<NodeId, ListedServer>>, ApiError> {
    require(&principal, Right::Read)?;
    let view = core.members.view().borrow().clone();
    let listed = |node: &Node| {
        let download = view.download(node);
        ListedServer { ip_address: download.host().to_owned(), port: download.port() }
    };
    Ok(Json(view.nodes().iter().map(|(id, node)| (id.clone(), listed(node))).collect()))
}

/// `POST /servers`: changes where a node's downloads are listed, by the reference's form
/// `AWS=ip_address=10.0.0.7&port=8870`. It has a record of its own, because a node renews what it says of itself.
pub(super) async fn update(
    State(core): State<Arc<Core>>,
    Extension(principal): Extension<Principal>,
    body: Result<Bytes, BytesRejection>,
) -> Result<StatusCode, ApiError> {
    require(&principal, Right::Write)?;
    let (id, download) = parse_update(&body?)?;
    if !core.members.view().borrow().nodes().contains_key(&id) {
        return Err(ApiError::not_found(format!("server {id}: a node joins by its seeds, not by this form")));
    }
    let json = serde_json::to_string(&download).map_err(ApiError::bad_request)?;
    let decide = move |current: Option<&str>| Ok(if current == Some(&json) { Change::Keep } else { Change::Set(json) });
    change_record(&core, RecordKey::download(&id), decide).await?;
    Ok(StatusCode::OK)
}

fn parse_update(body: &[u8]) -> Result<(NodeId, Address), ApiError> {
    let error = || ApiError::bad_request("write NAME=ip_address=ADDRESS&port=PORT");
    let text = std::str::from_utf8(body).map_err(|_| error())?;
    let (server, port) = text.trim().split_once('&').ok_or_else(error)?;
    let decoded = |text: &str| percent_decode_str(text).decode_utf8().map(String::from).map_err(|_| error());
    let server = decoded(server)?;
    let (name, host) = server.split_once("=ip_address=").ok_or_else(error)?;
    let port = decoded(port)?;
    let port = port.strip_prefix("port=").and_then(|port| port.parse().ok()).ok_or_else(error)?;
    Ok((name.parse()?, Address::new(host, port)?))
}

/// `GET` and `HEAD /get/download/FILE`.
pub(super) async fn download(
    State(core): State<Arc<Core>>,
    Extension(principal): Extension<Principal>,
    request: Request<Body>,
) -> Result<Response, ApiError> {
    require_download(&core, &principal)?;
    let (head, _) = request.into_parts();
    let key = key_of(&head.uri, DOWNLOAD)?;
    let client = || Client::of(&head.extensions, &head.headers);
    let wish = match variant_of(&head.uri)? {
        Some(variant) => Wish::Exactly(variant),
        None => client().map_or(Wish::AsPublished, Wish::Suiting),
    };
    let response = answer(&core, key, wish, &head.method, &head.headers).await?;
    Ok(learning(&core, client(), response))
}

/// `GET /getrandom`: 10 MB of random bytes, by which the reference's proxy measures a link.
pub(super) async fn random(
    State(core): State<Arc<Core>>,
    Extension(principal): Extension<Principal>,
    request: Request<Body>,
) -> Result<Response, ApiError> {
    require_download(&core, &principal)?;
    let mut seed = [0; 32];
    getrandom::fill(&mut seed)
        .map_err(|_| ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "the system has no random bytes"))?;
    // The extendable output of a hash with a random key: as random as its seed, and fast.
    let output = blake3::Hasher::new_keyed(&seed).finalize_xof();
    let chunks = stream::unfold((output, RANDOM_BYTES), |(mut output, left)| async move {
        let size = left.min(64 << 10);
        if size == 0 {
            return None;
        }
        let mut bytes = vec![0; size as usize];
        output.fill(&mut bytes);
        Some((Ok::<_, std::convert::Infallible>(Bytes::from(bytes)), (output, left - size)))
    });
    let headers = [
        (CONTENT_TYPE, HeaderValue::from_static("application/octet-stream")),
        (CONTENT_LENGTH, HeaderValue::from(RANDOM_BYTES)),
        (CACHE_CONTROL, HeaderValue::from_static("no-store")),
    ];
    let response = (headers, Body::from_stream(chunks)).into_response();
    Ok(learning(&core, Client::of(request.extensions(), request.headers()), response))
}

pub(super) fn require_download(core: &Core, principal: &Principal) -> Result<(), ApiError> {
    if core.config.public_downloads { Ok(()) } else { require(principal, Right::Read) }
}

/// `GET /v1/servers`: the members, whether they are alive, and how far behind.
pub(super) async fn list(
    State(core): State<Arc<Core>>,
    Extension(principal): Extension<Principal>,
) -> Result<Json<Servers>, ApiError> {
    require(&principal, Right::Read)?;
    let progress = *core.catalog.progress().borrow();
    let mut servers = core.members.servers(progress);
    let (catalog, followed) = (core.catalog.clone(), core.members.followed());
    let unread = move || -> Result<BTreeMap<NodeId, u64>, StoreError> {
        let behind = followed.into_iter().filter(|(_, since)| *since < progress.head);
        behind.map(|(id, since)| Ok((id, catalog.bytes_since(since)?))).collect()
    };
    let unread = off_runtime(unread).await?;
    for server in &mut servers {
        // What it wants it has said; what it has not read of the feed yet, it will.
        let bytes = server.behind_bytes.as_mut().zip(unread.get(&server.node.id));
        bytes.into_iter().for_each(|(bytes, unread)| *bytes += unread);
    }
    Ok(Json(Servers { asked: core.me.id.clone(), servers }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_references_form_reads() {
        let read = |body: &str| parse_update(body.as_bytes()).ok().map(|(id, at)| (id.to_string(), at.to_string()));
        let aws = Some(("AWS".to_owned(), "10.0.0.7:8870".to_owned()));
        assert_eq!(read("AWS=ip_address=10.0.0.7&port=8870"), aws);
        assert_eq!(read("AWS=ip_address%3D10.0.0.7&port=8870"), aws);
        assert_eq!(read("GC=ip_address=::1&port=1"), Some(("GC".to_owned(), "[::1]:1".to_owned())));
        for bad in [
            "",
            "AWS",
            "AWS=10.0.0.7&port=1",
            "AWS=ip_address=a b&port=1",
            "=ip_address=a&port=1",
            "A=ip_address=a&port=0",
        ] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }
}
