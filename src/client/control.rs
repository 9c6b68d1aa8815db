//! The control API: feed, heartbeat, members, prices.

use std::collections::BTreeMap;

use http::Method;

use super::objects::encode_query;
use super::{ClientError, Peer};
use crate::model::{
    Entry, EntryKey, Epoch, MemberState, Node, NodeId, Provider, Purge, Tariff, TariffDocument, Version,
};
use crate::protocol::feed::{Digests, FeedAnswer, FeedQuery, Receipts, Welcome};
use crate::protocol::reload::Reloaded;
use crate::protocol::scrub::ScrubStatus;
use crate::protocol::status::{Pong, Servers, Settled, Status};
use crate::protocol::{
    DIGESTS, FEED, PING, PRICES, PURGES, READY, RECEIPTS, RELOAD, SCRUB, SERVERS, STATUS, TARIFFS, WITHHELD,
    price_path, server_path, state_path, tariff_path,
};

/// What providers charge, by name.
pub type Prices = BTreeMap<Provider, Tariff>;

impl Peer {
    /// A heartbeat.
    ///
    /// # Errors
    /// When the node does not answer.
    pub async fn ping(&self) -> Result<Pong, ClientError> {
        self.ask_json(Method::GET, PING).await
    }

    /// A heartbeat between nodes: the answer has the version vector, too.
    ///
    /// # Errors
    /// When the node does not answer.
    pub async fn ping_for_vector(&self) -> Result<Pong, ClientError> {
        self.ask_json(Method::GET, &format!("{PING}?vector=true")).await
    }

    /// Tells the node that `versions` of its own are held by the caller now.
    ///
    /// # Errors
    /// When the node does not answer, or the caller is no node.
    pub async fn receipts(&self, versions: Vec<Version>) -> Result<(), ClientError> {
        self.send_json(Method::POST, RECEIPTS, &Receipts { versions }).await.map(drop)
    }

    /// The sum of each bucket of what the node lists.
    ///
    /// # Errors
    /// When the node does not answer.
    pub async fn digests(&self) -> Result<Digests, ClientError> {
        self.ask_json(Method::GET, DIGESTS).await
    }

    /// What the node lists in one bucket.
    ///
    /// # Errors
    /// When the node does not answer.
    pub async fn of_bucket(&self, bucket: usize) -> Result<Vec<Entry>, ClientError> {
        self.ask_json(Method::GET, &format!("{DIGESTS}/{bucket}")).await
    }

    /// What the node holds.
    ///
    /// # Errors
    /// When the node does not answer.
    pub async fn status(&self) -> Result<Status, ClientError> {
        self.ask_json(Method::GET, STATUS).await
    }

    /// The next part of the node's feed.
    ///
    /// # Errors
    /// When the node does not answer.
    pub async fn feed(&self, query: &FeedQuery) -> Result<FeedAnswer, ClientError> {
        let FeedQuery { since, epoch, limit, wait_ms, records } = query;
        let mut path = format!("{FEED}?since={since}&wait_ms={wait_ms}&records={records}");
        if let Some(epoch) = epoch {
            path.push_str(&format!("&epoch={epoch}"));
        }
        if let Some(limit) = limit {
            path.push_str(&format!("&limit={limit}"));
        }
        self.ask_json(Method::GET, &path).await
    }

    /// Announces the calling node, which joins or has moved; `epoch` is that of its database.
    ///
    /// # Errors
    /// When the node does not answer, or the caller's certificate is not that of `node`.
    pub async fn announce(&self, node: &Node, epoch: Epoch) -> Result<Welcome, ClientError> {
        let path = format!("{}?epoch={epoch}", server_path(&node.id));
        let response = self.send_json(Method::PUT, &path, node).await?;
        self.read_json(response).await
    }

    /// The members of the cluster, as the node sees them.
    ///
    /// # Errors
    /// When the node does not answer.
    pub async fn servers(&self) -> Result<Servers, ClientError> {
        self.ask_json(Method::GET, SERVERS).await
    }

    /// Asks whether the node takes what clients write.
    ///
    /// # Errors
    /// When the node does not answer, or is not ready (503).
    pub async fn ready(&self) -> Result<(), ClientError> {
        self.ask(self.request(Method::GET, READY, super::empty())?).await.map(drop)
    }

    /// Says what a member is for.
    ///
    /// # Errors
    /// When the node does not answer, or knows no such member (404).
    pub async fn set_state(&self, id: &NodeId, state: MemberState) -> Result<(), ClientError> {
        self.send_json(Method::PUT, &state_path(id), &state).await.map(drop)
    }

    /// Has the cluster forget a member; one that lives and has not handed over all that it holds only with `force`.
    ///
    /// # Errors
    /// When the node does not answer, knows no such member (404), or refuses (409).
    pub async fn forget(&self, id: &NodeId, force: bool) -> Result<(), ClientError> {
        let path = format!("{}?force={force}", server_path(id));
        self.ask(self.request(Method::DELETE, &path, super::empty())?).await.map(drop)
    }

    /// A part of what the node withholds of a backup: up to 1,000 entries below `prefix` after the key `after`.
    ///
    /// # Errors
    /// When the node does not answer.
    pub async fn withheld(&self, prefix: &str, after: Option<&EntryKey>) -> Result<Vec<Entry>, ClientError> {
        let mut path = withheld_path(prefix);
        if let Some(after) = after {
            path.push_str(&format!("&after={}", encode_query(after.as_str())));
        }
        self.ask_json(Method::GET, &path).await
    }

    /// Has the node write anew what it withholds below `prefix`; `alone` if no member is left that it could read first.
    ///
    /// # Errors
    /// When the node does not answer or refuses, with 409 while members are still to be read.
    pub async fn take_back_withheld(&self, prefix: &str, alone: bool) -> Result<Settled, ClientError> {
        self.ask_json(Method::POST, &format!("{}&alone={alone}", withheld_path(prefix))).await
    }

    /// Has the node give up what it withholds below `prefix`; `alone` as above.
    ///
    /// # Errors
    /// As above.
    pub async fn discard_withheld(&self, prefix: &str, alone: bool) -> Result<Settled, ClientError> {
        self.ask_json(Method::DELETE, &format!("{}&alone={alone}", withheld_path(prefix))).await
    }

    /// Where the node's look through all its blobs stands, and what it found.
    ///
    /// # Errors
    /// When the node does not answer.
    pub async fn scrub(&self) -> Result<ScrubStatus, ClientError> {
        self.ask_json(Method::GET, SCRUB).await
    }

    /// Has the node look through all its blobs now.
    ///
    /// # Errors
    /// When the node does not answer.
    pub async fn start_scrub(&self) -> Result<ScrubStatus, ClientError> {
        self.ask_json(Method::POST, SCRUB).await
    }

    /// What providers charge for hours.
    ///
    /// # Errors
    /// When the node does not answer.
    pub async fn prices(&self) -> Result<Prices, ClientError> {
        self.ask_json(Method::GET, PRICES).await
    }

    /// Sets what a provider charges for hours; what it charges for bytes and requests stays.
    ///
    /// # Errors
    /// When the node does not answer or refuses.
    pub async fn set_price(&self, provider: &Provider, tariff: &Tariff) -> Result<(), ClientError> {
        self.send_json(Method::PUT, &price_path(provider), tariff).await.map(drop)
    }

    /// All that providers charge.
    ///
    /// # Errors
    /// When the node does not answer.
    pub async fn tariffs(&self) -> Result<BTreeMap<Provider, TariffDocument>, ClientError> {
        self.ask_json(Method::GET, TARIFFS).await
    }

    /// Sets all that a provider charges.
    ///
    /// # Errors
    /// When the node does not answer or refuses.
    pub async fn set_tariff(&self, provider: &Provider, tariff: &TariffDocument) -> Result<(), ClientError> {
        self.send_json(Method::PUT, &tariff_path(provider), tariff).await.map(drop)
    }

    /// Has all edges of the cluster forget something, or, where the peer is the admin listener of an edge, this one.
    ///
    /// # Errors
    /// When the node does not answer.
    pub async fn purge(&self, purge: &Purge) -> Result<(), ClientError> {
        self.send_json(Method::POST, PURGES, purge).await.map(drop)
    }

    /// Has the edge whose admin listener the peer is read its configuration anew.
    ///
    /// # Errors
    /// When the edge does not answer, or refuses what it reads (422).
    pub async fn reload(&self) -> Result<Reloaded, ClientError> {
        self.ask_json(Method::POST, RELOAD).await
    }

    /// Removes the prices of a provider.
    ///
    /// # Errors
    /// When the node does not answer, or has no such prices (404).
    pub async fn remove_price(&self, provider: &Provider) -> Result<(), ClientError> {
        let request = self.request(Method::DELETE, &price_path(provider), super::empty())?;
        self.ask(request).await.map(drop)
    }
}

fn withheld_path(prefix: &str) -> String {
    format!("{WITHHELD}?prefix={}", encode_query(prefix))
}
