//! Fetching from the nodes in the order of the ranking: the next one is tried if one fails before its first byte.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::HeaderName;
use http::{HeaderMap, Method, Response, StatusCode, header};
use http_body::{Body as _, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::Sleep;
use tracing::debug;

use super::observe::failure;
use super::refresh::since_sent;
use super::{Core, Routes};
use crate::client::empty;
use crate::model::{NodeId, ObjectKey};
use crate::protocol::{VERSION_HEADER, object_path};
use crate::route::{FailureKind, Policy, Request, Route, Try};

/// The request headers that decide what a node answers (RFC 9110 sections 13 and 14). No other travels on.
const FORWARDED: [HeaderName; 7] = [
    header::RANGE,
    header::IF_RANGE,
    header::IF_MATCH,
    header::IF_NONE_MATCH,
    header::IF_MODIFIED_SINCE,
    header::IF_UNMODIFIED_SINCE,
    header::ACCEPT,
];

/// What the nodes said.
#[expect(clippy::large_enum_variant, reason = "one exists for a request, and it is the common case that is large")]
pub(super) enum Fetched {
    /// This node answers.
    Answer {
        /// The node, and why it was chosen.
        route: Route,
        /// Its answer: a success, 304, 412 or 416.
        response: Response<NodeBody>,
    },
    /// Every node that answers says that there is no such object.
    Missing,
    /// No node answers.
    Unavailable,
}

/// Asks for `key` until a node answers. A node that merely lacks the object does not end the search, because another one
/// may have taken it in this moment; one that knows of its deletion does.
pub(super) async fn fetch(
    core: &Arc<Core>,
    key: &ObjectKey,
    method: &Method,
    headers: &HeaderMap,
    policy: Option<Policy>,
) -> Fetched {
    let routes = core.routes.load_full();
    let size = core.sizes.guess(key.as_str());
    let ranking = routes.table.rank(&Request { key: key.as_str(), size, policy });
    let mut missing = false;
    for route in ranking.routes.into_iter().take(core.config.tries_max.get()) {
        match attempt(core, &routes, &route.node.id, key, method, headers).await {
            Attempt::Answer(response) => return Fetched::Answer { route, response },
            Attempt::Missing { deleted: true } => return Fetched::Missing,
            Attempt::Missing { deleted: false } => missing = true,
            Attempt::Failed => {}
        }
    }
    if missing { Fetched::Missing } else { Fetched::Unavailable }
}

#[expect(clippy::large_enum_variant, reason = "one exists for a request, and it is the common case that is large")]
enum Attempt {
    Answer(Response<NodeBody>),
    Missing { deleted: bool },
    Failed,
}

/// Asks one node.
async fn attempt(
    core: &Arc<Core>,
    routes: &Routes,
    id: &NodeId,
    key: &ObjectKey,
    method: &Method,
    headers: &HeaderMap,
) -> Attempt {
    let Some(peer) = routes.peers.get(id) else { return Attempt::Failed };
    let Ok(mut request) = peer.request(method.clone(), &object_path(key), empty()) else { return Attempt::Failed };
    for name in &FORWARDED {
        for value in headers.get_all(name) {
            request.headers_mut().append(name, value.clone());
        }
    }
    let running = Running::begin(core.clone(), id.clone());
    let start = Instant::now();
    let response = match peer.send(request).await {
        Ok(response) => response,
        Err(error) => {
            debug!(node = %id, error = &error as &dyn std::error::Error, "try failed");
            running.end(&failure(&error, start.elapsed()));
            return Attempt::Failed;
        }
    };
    let first_byte = since_sent(response.extensions().get(), start);
    let status = response.status();
    if status == StatusCode::NOT_FOUND {
        running.end(&Try::Success { first_byte, bytes: 0, transfer: Duration::ZERO });
        return Attempt::Missing { deleted: response.headers().contains_key(VERSION_HEADER) };
    }
    let usable = status.is_success()
        || [StatusCode::NOT_MODIFIED, StatusCode::PRECONDITION_FAILED, StatusCode::RANGE_NOT_SATISFIABLE]
            .contains(&status);
    if !usable {
        debug!(node = %id, %status, "try failed");
        running.end(&Try::Failure { kind: FailureKind::Error, after: start.elapsed() });
        return Attempt::Failed;
    }
    if let Some(size) = whole_size(&response) {
        core.sizes.learn(key.as_str(), size);
    }
    let stall = core.config.body_stall();
    Attempt::Answer(response.map(|body| NodeBody::new(body, running, first_byte, stall)))
}

/// The size of the whole object, as the head of an answer tells it.
fn whole_size<B>(response: &Response<B>) -> Option<u64> {
    let field = |name| response.headers().get(name)?.to_str().ok();
    match response.status() {
        StatusCode::OK => field(header::CONTENT_LENGTH)?.parse().ok(),
        StatusCode::PARTIAL_CONTENT => field(header::CONTENT_RANGE)?.rsplit_once('/')?.1.parse().ok(),
        _ => None,
    }
}

/// A try that is under way. If it is dropped the client went away, which says nothing of the node.
struct Running {
    core: Arc<Core>,
    id: NodeId,
    ended: bool,
}

impl Running {
    fn begin(core: Arc<Core>, id: NodeId) -> Self {
        core.observations.begin(&id);
        Self { core, id, ended: false }
    }

    fn end(mut self, outcome: &Try) {
        self.finish(outcome);
    }

    fn finish(&mut self, outcome: &Try) {
        if !std::mem::replace(&mut self.ended, true) {
            self.core.observations.end(&self.id, Some(outcome));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.ended {
            self.core.observations.end(&self.id, None);
        }
    }
}

/// The body of a node's answer. It measures the node and gives it up when it falls silent.
pub(super) struct NodeBody {
    body: Incoming,
    running: Running,
    first_byte: Duration,
    stall: Duration,
    deadline: Option<Pin<Box<Sleep>>>,
    begun: Instant,
    bytes: u64,
    /// Time in which the node was waited for; the rest of the time the client was.
    waited: Duration,
    waiting_since: Option<Instant>,
}

/// A node's answer broke off.
#[derive(Debug, thiserror::Error)]
pub(super) enum NodeBodyError {
    #[error("the node fell silent for {} ms", .0.as_millis())]
    Silent(Duration),
    #[error("the node's answer broke off")]
    BrokenOff(#[source] hyper::Error),
}

impl NodeBody {
    fn new(body: Incoming, running: Running, first_byte: Duration, stall: Duration) -> Self {
        let mut this = Self {
            body,
            running,
            first_byte,
            stall,
            deadline: None,
            begun: Instant::now(),
            bytes: 0,
            waited: Duration::ZERO,
            waiting_since: None,
        };
        if this.body.is_end_stream() {
            this.succeed();
        }
        this
    }

    fn succeed(&mut self) {
        let transfer = self.begun.elapsed();
        // A slow client holds the node up: its transfer says nothing of the node's rate.
        let bytes = if self.waited * 2 >= transfer { self.bytes } else { 0 };
        self.running.finish(&Try::Success { first_byte: self.first_byte, bytes, transfer });
    }

    fn fail(&mut self, kind: FailureKind) {
        let after = self.first_byte + self.begun.elapsed();
        self.running.finish(&Try::Failure { kind, after });
    }
}

impl http_body::Body for NodeBody {
    type Data = Bytes;
    type Error = NodeBodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, NodeBodyError>>> {
        let this = &mut *self;
        let Poll::Ready(frame) = Pin::new(&mut this.body).poll_frame(cx) else {
            this.waiting_since.get_or_insert_with(Instant::now);
            let stall = this.stall;
            let deadline = this.deadline.get_or_insert_with(|| Box::pin(tokio::time::sleep(stall)));
            ready!(deadline.as_mut().poll(cx));
            this.fail(FailureKind::Timeout);
            return Poll::Ready(Some(Err(NodeBodyError::Silent(stall))));
        };
        this.deadline = None;
        if let Some(since) = this.waiting_since.take() {
            this.waited += since.elapsed();
        }
        match frame {
            Some(Ok(frame)) => {
                this.bytes += frame.data_ref().map_or(0, |bytes| bytes.len() as u64);
                // With a length, nobody asks again after the last byte.
                if this.body.is_end_stream() {
                    this.succeed();
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Some(Err(error)) => {
                this.fail(FailureKind::Error);
                Poll::Ready(Some(Err(NodeBodyError::BrokenOff(error))))
            }
            None => {
                this.succeed();
                Poll::Ready(None)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
