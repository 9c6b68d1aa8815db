//! Whoever requests are sent to, and how many at a time.

use std::num::NonZeroUsize;
use std::sync::{Arc, OnceLock};

use tokio::sync::Semaphore;

use super::admin::{Metrics, NodeCounts};
use crate::client::{Deadlines, Peer};
use crate::model::NodeId;

/// A node, an origin or a shield as requests are sent to it.
#[derive(Clone)]
pub(super) struct Upstream {
    pub(super) peer: Peer,
    /// A place for each request that it may be sent at a time.
    pub(super) free: Arc<Semaphore>,
    counts: Arc<OnceLock<Arc<NodeCounts>>>,
}

impl Upstream {
    pub(super) fn new(peer: Peer, requests_max: NonZeroUsize) -> Self {
        Self { peer, free: Arc::new(Semaphore::new(requests_max.get())), counts: Arc::default() }
    }

    /// The same, which waits so long for answers.
    pub(super) fn waiting(&self, deadlines: Deadlines) -> Self {
        Self { peer: self.peer.clone().waiting(deadlines), ..self.clone() }
    }

    /// What counts the requests to it, under the name `id`.
    pub(super) fn counts(&self, metrics: &Metrics, id: &NodeId) -> Arc<NodeCounts> {
        self.counts.get_or_init(|| Arc::new(metrics.of_node(id))).clone()
    }
}
