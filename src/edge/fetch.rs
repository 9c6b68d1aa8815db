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
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Sleep, timeout_at};
use tracing::debug;

use super::observe::failure;
use super::refresh::since_sent;
use super::{Core, Routes, Upstream};
use crate::client::empty;
use crate::model::{Liveness, NodeId, ObjectKey};
use crate::protocol::{VERSION_HEADER, object_path};
use crate::route::{FailureKind, Policy, Reason, Request, Route, Try};

/// The request headers that decide what a node answers (RFC 9110 sections 13 and 14). No other travels on.
const FORWARDED: [HeaderName; 6] = [
    header::RANGE,
    header::IF_RANGE,
    header::IF_MATCH,
    header::IF_NONE_MATCH,
    header::IF_MODIFIED_SINCE,
    header::IF_UNMODIFIED_SINCE,
];

/// How long those of one request may be together. With the longest path they are within the 16 KiB of a head that a
/// node takes by default; no honest list of entity tags comes near.
const FORWARDED_BYTES_MAX: usize = 8 * 1024;

/// What a client asks for, whatever object it maps to.
#[derive(Clone, Copy)]
pub(super) struct Asked<'a> {
    pub(super) method: &'a Method,
    pub(super) headers: &'a HeaderMap,
    pub(super) policy: Option<Policy>,
    /// When the client has waited long enough for an answer to begin.
    pub(super) deadline: Instant,
}

impl Asked<'_> {
    /// Whether what a node needs to know of it is short enough for a node.
    pub(super) fn fits(&self) -> bool {
        let forwarded = self.headers.iter().filter(|(name, _)| FORWARDED.contains(name));
        // With `: ` and the line end.
        let bytes: usize = forwarded.map(|(name, value)| name.as_str().len() + value.len() + 4).sum();
        bytes <= FORWARDED_BYTES_MAX
    }
}

/// What the nodes said.
#[expect(clippy::large_enum_variant, reason = "one exists for a request, and it is the common case that is large")]
pub(super) enum Fetched {
    /// This node answers.
    Answer {
        /// The node, and why it was chosen.
        route: Route,
        /// Its answer: a success, 304, 412 or 416.
        response: Response<NodeBody>,
        /// The nodes before it, which were asked in vain.
        passed: Vec<NodeId>,
    },
    /// Every node that answers says that there is no such object.
    Missing,
    /// A node says that the request itself is at fault, so every other one would.
    Refused(StatusCode),
    /// No node answers, and this many are only too busy to.
    Unavailable {
        /// How many.
        busy: usize,
    },
}

/// Asks for `key` until a node answers. A node that merely lacks the object does not end the search, because another one
/// may have taken it in this moment; one that knows of its deletion does.
pub(super) async fn fetch(core: &Arc<Core>, key: &ObjectKey, asked: &Asked<'_>) -> Fetched {
    let routes = core.routes.load_full();
    let size = core.sizes.guess(key.as_str());
    let ranking = routes.table.rank(&Request { key: key.as_str(), size, policy: asked.policy });
    // The best node that lacks the object, and how many were too busy to say.
    let (mut missing, mut busy, mut passed) = (None, 0, Vec::new());
    for mut route in ranking.routes.into_iter().take(core.config.tries_max.get()) {
        // All alive ones come before all suspect ones, whose silence would make each missing object a wait.
        if missing == Some(Liveness::Alive) && route.liveness == Liveness::Suspect {
            break;
        }
        match timeout_at(asked.deadline.into(), attempt(core, &routes, &route.node.id, key, asked)).await {
            Err(_) => break,
            Ok(Attempt::Answer(response)) => {
                if !passed.is_empty() {
                    route.reason = Reason::NextBest;
                }
                return Fetched::Answer { route, response, passed };
            }
            Ok(Attempt::Missing { deleted: true }) => return Fetched::Missing,
            Ok(Attempt::Missing { deleted: false }) => _ = missing.get_or_insert(route.liveness),
            Ok(Attempt::Refused(status)) => return Fetched::Refused(status),
            Ok(Attempt::Busy) => busy += 1,
            Ok(Attempt::Failed) => {}
        }
        passed.push(route.node.id.clone());
    }
    if missing.is_some() { Fetched::Missing } else { Fetched::Unavailable { busy } }
}

#[expect(clippy::large_enum_variant, reason = "one exists for a request, and it is the common case that is large")]
enum Attempt {
    Answer(Response<NodeBody>),
    Missing { deleted: bool },
    Refused(StatusCode),
    Busy,
    Failed,
}

/// Asks one node.
async fn attempt(core: &Arc<Core>, routes: &Routes, id: &NodeId, key: &ObjectKey, asked: &Asked<'_>) -> Attempt {
    let Some(Upstream { peer, free }) = routes.upstreams.get(id) else { return Attempt::Failed };
    let Ok(place) = free.clone().try_acquire_owned() else { return Attempt::Busy };
    let Ok(mut request) = peer.request(asked.method.clone(), &object_path(key), empty()) else {
        return Attempt::Failed;
    };
    for name in &FORWARDED {
        for value in asked.headers.get_all(name) {
            request.headers_mut().append(name, value.clone());
        }
    }
    let mut running = Running::begin(core.clone(), id.clone(), place);
    let response = match peer.send(request).await {
        Ok(response) => response,
        Err(error) => {
            debug!(node = %id, error = &error as &dyn std::error::Error, "try failed");
            running.saw(&failure(&error, running.start.elapsed()));
            return Attempt::Failed;
        }
    };
    let status = response.status();
    if is_failure(status) {
        debug!(node = %id, %status, "try failed");
        running.saw(&Try::Failure { kind: FailureKind::Error, after: running.start.elapsed() });
        return Attempt::Failed;
    }
    running.saw(&Try::FirstByte { after: since_sent(response.extensions().get(), running.start) });
    match status {
        StatusCode::NOT_FOUND => Attempt::Missing { deleted: response.headers().contains_key(VERSION_HEADER) },
        StatusCode::PRECONDITION_FAILED | StatusCode::RANGE_NOT_SATISFIABLE => {
            Attempt::Answer(response.map(|body| NodeBody::new(body, running)))
        }
        refused if refused.is_client_error() => Attempt::Refused(refused),
        _ => {
            if let Some(size) = whole_size(&response) {
                core.sizes.learn(key.as_str(), size);
            }
            Attempt::Answer(response.map(|body| NodeBody::new(body, running)))
        }
    }
}

/// Whether another node may do better. Of the statuses that blame the request, four are about this edge and this node:
/// the certificate, and how much or how slowly they speak.
fn is_failure(status: StatusCode) -> bool {
    let between_us =
        [StatusCode::UNAUTHORIZED, StatusCode::FORBIDDEN, StatusCode::REQUEST_TIMEOUT, StatusCode::TOO_MANY_REQUESTS];
    let answers = status.is_success() || status == StatusCode::NOT_MODIFIED || status.is_client_error();
    !answers || between_us.contains(&status)
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

/// A request to a node that is under way. If it is dropped before anything was seen, nobody waits for it any longer.
struct Running {
    core: Arc<Core>,
    id: NodeId,
    start: Instant,
    seen: bool,
    _place: OwnedSemaphorePermit,
}

impl Running {
    fn begin(core: Arc<Core>, id: NodeId, place: OwnedSemaphorePermit) -> Self {
        core.observations.begin(&id);
        Self { core, id, start: Instant::now(), seen: false, _place: place }
    }

    fn saw(&mut self, seen: &Try) {
        self.seen = true;
        self.core.observations.saw(&self.id, seen);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.seen {
            self.saw(&Try::Abandoned { after: self.start.elapsed() });
        }
        self.core.observations.end(&self.id);
    }
}

/// The body of a node's answer. It measures the node and gives it up when it falls silent.
pub(super) struct NodeBody {
    body: Incoming,
    /// Until the body has ended, well or not.
    running: Option<Running>,
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
    fn new(body: Incoming, running: Running) -> Self {
        let ended = body.is_end_stream();
        Self {
            body,
            stall: running.core.config.body_stall(),
            running: Some(running).filter(|_| !ended),
            deadline: None,
            begun: Instant::now(),
            bytes: 0,
            waited: Duration::ZERO,
            waiting_since: None,
        }
    }

    /// Whether most of the time the client was waited for: then the transfer says nothing of the node.
    fn client_is_slow(&self) -> bool {
        self.waited * 2 < self.begun.elapsed()
    }

    /// Ends the wait for the node, if there is one.
    fn end_wait(&mut self) -> Duration {
        let waited = self.waiting_since.take().map_or(Duration::ZERO, |since| since.elapsed());
        self.waited += waited;
        waited
    }

    fn succeed(&mut self) {
        let Some(mut running) = self.running.take() else { return };
        let bytes = if self.client_is_slow() { 0 } else { self.bytes };
        running.saw(&Try::Body { bytes, took: self.begun.elapsed() });
    }

    fn fail(&mut self, kind: FailureKind, after: Duration) {
        if let Some(mut running) = self.running.take() {
            running.saw(&Try::Failure { kind, after });
        }
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
            let waited = this.end_wait();
            this.fail(FailureKind::Timeout, waited);
            return Poll::Ready(Some(Err(NodeBodyError::Silent(stall))));
        };
        this.deadline = None;
        let waited = this.end_wait();
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
                // A node, too, gives up those who do not read.
                if this.client_is_slow() {
                    this.running = None;
                }
                this.fail(FailureKind::Error, waited);
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
