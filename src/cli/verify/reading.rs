//! Reading what a node lists: its feed from the beginning, and later only what is new in it.

use super::digests::Digests;
use crate::client::{ClientError, Peer};
use crate::model::{Entry, Epoch, NodeId};
use crate::protocol::feed::FeedQuery;

/// A node whose feed is read.
#[derive(Debug)]
pub(super) struct Reading {
    /// The node.
    pub(super) node: NodeId,
    /// How to ask it.
    pub(super) peer: Peer,
    /// What it lists, as far as it was read.
    pub(super) digests: Digests,
    position: Option<(Epoch, u64)>,
}

impl Reading {
    /// A node of which nothing was read yet.
    pub(super) fn new(node: NodeId, peer: Peer) -> Self {
        Self { node, peer, digests: Digests::default(), position: None }
    }

    /// Reads what the node has listed since it was last read.
    ///
    /// # Errors
    /// When it does not answer; what was read until then stays.
    pub(super) async fn advance(&mut self) -> Result<(), ClientError> {
        let read = self.read_on().await;
        self.digests.settle();
        read
    }

    async fn read_on(&mut self) -> Result<(), ClientError> {
        loop {
            let (since, epoch) = self.position.map_or((0, None), |(epoch, since)| (since, Some(epoch)));
            let answer = self.peer.feed(&query(since, epoch)).await?;
            if epoch.is_some_and(|epoch| epoch != answer.epoch) || answer.next < since {
                // Another life of the database, or a shorter feed: it answered from the beginning.
                self.digests = Digests::default();
            }
            answer.entries.iter().for_each(|entry| self.digests.note(entry));
            self.digests.horizon_ms = answer.horizon.map(|version| version.time.unix_ms()).max(self.digests.horizon_ms);
            self.position = Some((answer.epoch, answer.next));
            if answer.end {
                return Ok(());
            }
        }
    }
}

/// Reads all that a node lists now and hands over each entry; a key that changes meanwhile comes again.
///
/// # Errors
/// When the node does not answer.
pub(super) async fn read_all(peer: &Peer, mut see: impl FnMut(Entry)) -> Result<(), ClientError> {
    let (mut since, mut epoch) = (0, None);
    loop {
        let answer = peer.feed(&query(since, epoch)).await?;
        answer.entries.into_iter().for_each(&mut see);
        (since, epoch) = (answer.next, Some(answer.epoch));
        if answer.end {
            return Ok(());
        }
    }
}

const fn query(since: u64, epoch: Option<Epoch>) -> FeedQuery {
    FeedQuery { since, epoch, limit: None, wait_ms: 0, records: false }
}
