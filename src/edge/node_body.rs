//! The body of one node's answer.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hyper::body::{Body as _, Frame, SizeHint};
use tokio::time::Sleep;

use super::attempt::Running;
use super::facts::Tally;
use crate::client::{AnswerBody, ExchangeError, Upgraded};
use crate::model::NodeId;
use crate::route::{FailureKind, Try};

/// The body of a node's answer. It measures the node and gives it up when it falls silent.
pub(super) struct NodeBody {
    body: AnswerBody,
    node: NodeId,
    /// Until the body has ended, well or not.
    running: Option<Running>,
    stall: Duration,
    deadline: Option<Pin<Box<Sleep>>>,
    begun: Instant,
    bytes: u64,
    /// Time in which the node was waited for; the rest of the time the client was.
    waited: Duration,
    waiting_since: Option<Instant>,
    /// For whom it is fetched.
    tally: Option<Arc<Tally>>,
}

/// A node's answer broke off.
#[derive(Debug, thiserror::Error)]
pub(super) enum NodeBodyError {
    #[error("the node fell silent for {} ms", .0.as_millis())]
    Silent(Duration),
    #[error("the node's answer broke off")]
    BrokenOff(#[source] ExchangeError),
    #[error("the node's answer ended {0} bytes too soon")]
    TooShort(u64),
}

impl NodeBody {
    pub(super) fn new(body: AnswerBody, node: &NodeId, mut running: Running) -> Self {
        let ended = body.is_end_stream();
        if ended {
            running.ended();
        }
        Self {
            body,
            node: node.clone(),
            stall: running.stall,
            running: Some(running).filter(|_| !ended),
            deadline: None,
            begun: Instant::now(),
            bytes: 0,
            waited: Duration::ZERO,
            waiting_since: None,
            tally: None,
        }
    }

    /// Has what comes counted for an answer.
    pub(super) fn count_for(&mut self, tally: &Arc<Tally>) {
        self.tally = Some(tally.clone());
    }

    /// Whose answer it is.
    pub(super) const fn node(&self) -> &NodeId {
        &self.node
    }

    /// The connection, behind an answer that changes its protocol.
    pub(super) fn take_upgraded(&mut self) -> Option<Upgraded> {
        self.body.take_upgraded()
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

impl hyper::body::Body for NodeBody {
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
                let length = frame.data_ref().map_or(0, |bytes| bytes.len() as u64);
                this.bytes += length;
                if let Some(tally) = &this.tally {
                    tally.came(length);
                }
                if let Some(running) = &mut this.running {
                    running.received(length);
                }
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
