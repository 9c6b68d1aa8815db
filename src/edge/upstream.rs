//! Whoever requests are sent to, and how many at a time.

use std::num::NonZeroUsize;
use std::sync::{Arc, OnceLock};

use tokio::sync::Semaphore;

use super::admin::{Metrics, NodeCounts};
use super::ledger::{Account, Ledger};
use crate::client::{Deadlines, Peer};
use crate::model::{NodeId, Provider};

/// A node, an origin or a shield as requests are sent to it.
#[derive(Clone)]
pub(super) struct Upstream {
    pub(super) peer: Peer,
    /// A place for each request that it may be sent at a time.
    pub(super) free: Arc<Semaphore>,
    /// Who charges for what it sends, if anybody does.
    pub(super) provider: Option<Provider>,
    counts: Arc<OnceLock<Arc<NodeCounts>>>,
}

impl Upstream {
    pub(super) fn new(peer: Peer, requests_max: NonZeroUsize, provider: Option<Provider>) -> Self {
        Self { peer, free: Arc::new(Semaphore::new(requests_max.get())), provider, counts: Arc::default() }
    }

    /// The same, which waits so long for answers.
    pub(super) fn waiting(&self, deadlines: Deadlines) -> Self {
        Self { peer: self.peer.clone().waiting(deadlines), ..self.clone() }
    }

    /// What counts the requests to it, under the name `id`, and what they are charged to in `ledger`.
    pub(super) fn counts(&self, metrics: &Metrics, ledger: &Arc<Ledger>, id: &NodeId) -> Arc<NodeCounts> {
        let account = || self.provider.clone().map(|provider| Account { ledger: ledger.clone(), provider });
        self.counts.get_or_init(|| Arc::new(metrics.of_node(id, account()))).clone()
    }
}
