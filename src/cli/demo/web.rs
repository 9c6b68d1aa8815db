//! Plain HTTP, as a browser speaks it: what the demonstration asks of the proxy.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, ensure};
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde::de::DeserializeOwned;
use tokio::time::timeout;

use crate::model::{ContentHash, ObjectKey};
use crate::protocol::{POLICY_HEADER, READY, ROUTE_HEADER, ROUTES, encode_path};

/// How long the proxy may be silent.
const PATIENCE: Duration = Duration::from_secs(30);

/// The proxy as its users, and its operator, see it. Clones share connections.
#[derive(Debug, Clone)]
pub(super) struct Web {
    client: Client<HttpConnector, Empty<Bytes>>,
    public: SocketAddr,
    admin: SocketAddr,
}

/// What the proxy answered.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) hash: ContentHash,
    pub(super) bytes: u64,
    /// Why this node: the `metacdn-route` header.
    pub(super) route: String,
}

impl Web {
    /// The proxy that answers users at `public` and operators at `admin`.
    pub(super) fn new(public: SocketAddr, admin: SocketAddr) -> Self {
        Self { client: Client::builder(TokioExecutor::new()).build_http(), public, admin }
    }

    /// Whether it has measured all nodes.
    pub(super) async fn is_ready(&self) -> bool {
        let answer = self.get(&format!("http://{}{READY}", self.admin), None).await;
        answer.is_ok_and(|answer| answer.status() == StatusCode::OK)
    }

    /// The ranking of the nodes for `key` under `policy`.
    pub(super) async fn ranking<T: DeserializeOwned>(&self, key: &ObjectKey, policy: &str) -> anyhow::Result<T> {
        // What a query separates by has to be encoded, too.
        let value = |text: &str| encode_path(text).replace('=', "%3D");
        let uri = format!("http://{}{ROUTES}?key={}&policy={}", self.admin, value(key.as_str()), value(policy));
        let answer = self.get(&uri, None).await?;
        let status = answer.status();
        let bytes = answer.into_body().collect().await?.to_bytes();
        ensure!(status == StatusCode::OK, "{uri} answered {status}: {}", String::from_utf8_lossy(&bytes));
        serde_json::from_slice(&bytes).with_context(|| format!("{uri} answered what is not understood"))
    }

    /// Fetches `key` and hashes what comes.
    pub(super) async fn fetch(&self, key: &ObjectKey, policy: Option<&str>) -> anyhow::Result<Answer> {
        let uri = format!("http://{}/{}", self.public, encode_path(key.as_str()));
        let answer = self.get(&uri, policy).await?;
        ensure!(answer.status() == StatusCode::OK, "{uri} answered {}", answer.status());
        let route = answer.headers().get(ROUTE_HEADER).and_then(|value| value.to_str().ok());
        let route = route.with_context(|| format!("{uri} came without {ROUTE_HEADER}"))?.to_owned();
        let (mut body, mut hasher, mut bytes) = (answer.into_body(), blake3::Hasher::new(), 0);
        while let Some(frame) = timeout(PATIENCE, body.frame()).await.with_context(|| format!("{uri} fell silent"))? {
            if let Ok(data) = frame.with_context(|| format!("{uri} broke off"))?.into_data() {
                hasher.update(&data);
                bytes += data.len() as u64;
            }
        }
        Ok(Answer { hash: ContentHash::new(*hasher.finalize().as_bytes()), bytes, route })
    }

    async fn get(&self, uri: &str, policy: Option<&str>) -> anyhow::Result<Response<Incoming>> {
        let mut request = Request::get(uri);
        if let Some(policy) = policy {
            request = request.header(POLICY_HEADER, policy);
        }
        let request = request.body(Empty::new())?;
        let answer = timeout(PATIENCE, self.client.request(request)).await;
        answer
            .map_err(anyhow::Error::from)
            .and_then(|answer| Ok(answer?))
            .with_context(|| format!("{uri} does not answer"))
    }
}
