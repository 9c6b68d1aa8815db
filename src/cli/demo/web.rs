//! Plain HTTP, as a browser speaks it: what the demonstration asks of the proxy.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, ensure};
use http::{HeaderValue, Method, Response, StatusCode};
use http_body_util::BodyExt as _;
use serde::de::DeserializeOwned;
use tokio::time::timeout;

use crate::client::{AnswerBody, Deadlines, Peer, empty};
use crate::model::{ContentHash, ObjectKey, Variant};
use crate::protocol::{METRICS, POLICY_HEADER, READY, ROUTE_HEADER, ROUTES, VARIANT_QUERY, encode_path};

/// How long the proxy may be silent.
const PATIENCE: Duration = Duration::from_secs(30);

/// The proxy as its users, and its operator, see it. Clones share connections.
#[derive(Debug, Clone)]
pub(super) struct Web {
    public: Peer,
    admin: Peer,
}

/// What the proxy answered.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) hash: ContentHash,
    pub(super) bytes: u64,
    /// Why this node: the `metacdn-route` header.
    pub(super) route: String,
}

/// What the proxy begins to answer.
#[derive(Debug)]
pub(super) struct Begun {
    route: String,
    body: AnswerBody,
}

impl Begun {
    /// Why this node: the `metacdn-route` header.
    pub(super) fn route(&self) -> &str {
        &self.route
    }

    /// Reads and hashes all that comes; tells `progress` the size of each piece as it comes.
    ///
    /// # Errors
    /// When it breaks off, or nothing comes for long.
    pub(super) async fn read(self, mut progress: impl FnMut(u64)) -> anyhow::Result<Answer> {
        let (mut body, mut hasher, mut bytes) = (self.body, blake3::Hasher::new(), 0);
        while let Some(frame) = timeout(PATIENCE, body.frame()).await.context("the answer fell silent")? {
            if let Ok(data) = frame.context("the answer broke off")?.into_data() {
                progress(data.len() as u64);
                hasher.update(&data);
                bytes += data.len() as u64;
            }
        }
        Ok(Answer { hash: ContentHash::new(*hasher.finalize().as_bytes()), bytes, route: self.route })
    }
}

/// One field of the value of a `metacdn-route` header.
///
/// # Errors
/// When it is not there.
pub(super) fn route_field(route: &str, name: &str) -> anyhow::Result<String> {
    let fields = || route.split("; ").filter_map(|field| field.split_once('='));
    let value = fields().find(|(found, _)| *found == name).map(|(_, value)| value.to_owned());
    value.with_context(|| format!("{name} is missing in {route}"))
}

/// The path and query by which `key` is asked for as it was published: of an image the client's link would else choose.
pub(super) fn target_of(key: &ObjectKey, variant: Variant) -> String {
    format!("/{}?{VARIANT_QUERY}={variant}", encode_path(key.as_str()))
}

impl Web {
    /// The proxy that answers users at `public` and operators at `admin`.
    pub(super) fn new(public: SocketAddr, admin: SocketAddr) -> Self {
        let deadlines = Deadlines { first_byte: PATIENCE, ..Deadlines::default() };
        let peer = |address: SocketAddr| Peer::plain(address.into(), deadlines);
        Self { public: peer(public), admin: peer(admin) }
    }

    /// Whether it has measured all nodes.
    pub(super) async fn is_ready(&self) -> bool {
        let answer = get(&self.admin, READY, None).await;
        answer.is_ok_and(|answer| answer.status() == StatusCode::OK)
    }

    /// The ranking of the nodes for `key` under `policy`.
    pub(super) async fn ranking<T: DeserializeOwned>(&self, key: &ObjectKey, policy: &str) -> anyhow::Result<T> {
        // What a query separates by has to be encoded, too.
        let value = |text: &str| encode_path(text).replace('=', "%3D");
        let path = format!("{ROUTES}?key={}&policy={}", value(key.as_str()), value(policy));
        let answer = get(&self.admin, &path, None).await?;
        let status = answer.status();
        let bytes = answer.into_body().collect().await?.to_bytes();
        ensure!(status == StatusCode::OK, "{path} answered {status}: {}", String::from_utf8_lossy(&bytes));
        serde_json::from_slice(&bytes).with_context(|| format!("{path} answered what is not understood"))
    }

    /// Fetches `key`, as it was published, and hashes what comes.
    pub(super) async fn fetch(&self, key: &ObjectKey, policy: Option<&str>) -> anyhow::Result<Answer> {
        self.begin(&target_of(key, Variant::Original), policy).await?.read(|_| {}).await
    }

    /// Asks for the path and query `target`.
    pub(super) async fn begin(&self, target: &str, policy: Option<&str>) -> anyhow::Result<Begun> {
        let answer = get(&self.public, target, policy).await?;
        ensure!(answer.status() == StatusCode::OK, "{target} answered {}", answer.status());
        let route = answer.headers().get(ROUTE_HEADER).and_then(|value| value.to_str().ok());
        let route = route.with_context(|| format!("{target} came without {ROUTE_HEADER}"))?.to_owned();
        Ok(Begun { route, body: answer.into_body() })
    }

    /// What the proxy counts, as it tells its monitors.
    pub(super) async fn metrics(&self) -> anyhow::Result<String> {
        let answer = get(&self.admin, METRICS, None).await?;
        ensure!(answer.status() == StatusCode::OK, "{METRICS} answered {}", answer.status());
        Ok(String::from_utf8(answer.into_body().collect().await?.to_bytes().into())?)
    }
}

async fn get(peer: &Peer, path: &str, policy: Option<&str>) -> anyhow::Result<Response<AnswerBody>> {
    let mut request = peer.request(Method::GET, path, empty())?;
    if let Some(policy) = policy {
        request.headers_mut().insert(POLICY_HEADER, HeaderValue::from_str(policy)?);
    }
    peer.send(request).await.with_context(|| format!("{path} does not answer"))
}
