//! Becoming and staying known: a node announces itself to the cluster when it joins or has moved.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use tokio::task::JoinSet;
use tracing::{error, info, warn};

use super::records::{Change, write_record};
use super::{Backoff, Core, NodeError, unix_ms};
use crate::client::{ClientError, Deadlines, Peer};
use crate::model::{Address, Entry, EntryKey, Epoch, Node, NodeId, RecordKey, UnsoundEntry};
use crate::protocol::feed::Welcome;
use crate::replicate::take_in;
use crate::store::StoreError;

/// How long a node that may live under a name is waited for.
const LOOK_DEADLINE: Duration = Duration::from_secs(2);

/// After how long it is said, again and again, that no cluster has welcomed this node.
const WELCOME_PATIENCE: Duration = Duration::from_secs(15);

/// How often a node whose name another one has looks whether that is gone.
const NAME_PERIOD: Duration = Duration::from_secs(2);

/// Lists this node's own record, if it says anything new.
pub(super) async fn list_self(core: &Arc<Core>) -> Result<(), StoreError> {
    let me = serde_json::to_string(&core.me).expect("a node is JSON");
    let decide = move |current: Option<&str>| {
        let known = current.is_some_and(|current| current == me);
        Ok::<_, Infallible>(if known { Change::Keep } else { Change::Set(me) })
    };
    let Ok(_) = write_record(core, RecordKey::node(&core.me.id), decide).await?;
    Ok(())
}

/// Tells the seeds, and the members known from before, where this node is; each until it has understood.
///
/// One of them would do, for the feed carries the word further, but that one may die before it does.
pub(super) async fn run(core: Arc<Core>) {
    let mut complaint = pin!(complain_if_unwelcome(core.clone()));
    let mut targets: BTreeMap<Address, Option<NodeId>> =
        core.belonging.seeds().iter().map(|seed| (seed.clone(), None)).collect();
    targets.extend(core.members.others().into_iter().map(|node| (node.address, Some(node.id))));
    targets.remove(&core.me.address);
    let mut tasks: JoinSet<()> =
        targets.into_iter().map(|(address, id)| announce_until_heard(core.clone(), address, id)).collect();
    loop {
        tokio::select! {
            () = core.stop.cancelled() => break,
            ended = tasks.join_next() => if ended.is_none() { break },
            () = &mut complaint => complaint.set(complain_if_unwelcome(core.clone())),
        }
    }
    tasks.shutdown().await;
}

/// Says after a while for whom this node waits, if no cluster has welcomed it.
async fn complain_if_unwelcome(core: Arc<Core>) {
    tokio::time::sleep(WELCOME_PATIENCE).await;
    if !core.belonging.belongs() {
        let seeds = core.belonging.waits_for();
        warn!(seeds, "no node of the cluster has welcomed this one yet: it takes no writes");
    }
}

/// Sees to it that this node's record is its own: says so if another node lives under its name, and takes the name back
/// once that one is gone. A node whose record was removed ends.
pub(super) async fn keep_name(core: Arc<Core>) {
    let mut view = core.members.view();
    let mut complained = None;
    loop {
        let shown = view.borrow_and_update().clone();
        if shown.is_forgotten(&core.me.id) {
            return core.fail(NodeError::Forgotten(core.me.id.clone()));
        }
        let listed = shown.nodes().get(&core.me.id).cloned();
        let rest = match listed.filter(|listed| listed.address != core.me.address) {
            None => Duration::MAX,
            Some(other) => {
                match who_lives_at(&core, &other).await {
                    Some(epoch) if epoch == core.catalog.origin().epoch => {}
                    Some(_) if complained.as_ref() == Some(&other.address) => {}
                    Some(_) => {
                        error!(address = %other.address, "another node lives under this node's name: stop one of them");
                        complained = Some(other.address);
                    }
                    None => match list_self(&core).await {
                        Ok(()) => warn!(address = %other.address, "took this node's name back"),
                        Err(error) => {
                            warn!(error = &error as &dyn std::error::Error, "cannot take this node's name back");
                        }
                    },
                }
                NAME_PERIOD
            }
        };
        tokio::select! {
            () = core.stop.cancelled() => return,
            changed = view.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(rest) => {}
        }
    }
}

/// The life of the database of the node that answers where `node` is said to be; `None` if none does.
pub(super) async fn who_lives_at(core: &Core, node: &Node) -> Option<Epoch> {
    let deadlines = Deadlines { connect: LOOK_DEADLINE, first_byte: LOOK_DEADLINE, idle: LOOK_DEADLINE };
    let peer = Peer::new(core.tls.clone(), Some(&node.id), node.address.clone(), deadlines);
    let answer = tokio::time::timeout(LOOK_DEADLINE, peer.ping()).await;
    answer.ok().and_then(Result::ok).map(|pong| pong.epoch)
}

async fn announce_until_heard(core: Arc<Core>, address: Address, id: Option<NodeId>) {
    let peer = Peer::new(core.tls.clone(), id.as_ref(), address.clone(), Deadlines::default());
    let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(5));
    let mut complained = false;
    loop {
        let announced = announce(&core, &peer).await;
        if let Err(error) = &announced {
            core.belonging.failed(&address, error);
        }
        match announced {
            Ok(()) if core.belonging.belongs() => {
                info!(%address, "announced");
                return;
            }
            Ok(()) => tracing::debug!(%address, "announced, but no cluster has welcomed this node yet"),
            // A refusal is for a person to mend; a peer that is away will come back.
            Err(AnnounceError::Peer(error)) if error.status() == Some(StatusCode::GONE) => {
                return core.fail(NodeError::Forgotten(core.me.id.clone()));
            }
            Err(error) if !complained && !is_transient(&error) => {
                complained = true;
                warn!(%address, error = &error as &dyn std::error::Error, "the announcement was refused, will retry");
            }
            Err(error) => tracing::debug!(%address, error = &error as &dyn std::error::Error, "announcement failed"),
        }
        backoff.wait().await;
    }
}

#[derive(Debug, thiserror::Error)]
pub(super) enum AnnounceError {
    #[error("the announcement did not arrive")]
    Peer(#[from] ClientError),
    #[error("the cluster's records cannot be kept")]
    Store(#[from] StoreError),
    #[error("the peer lists what cannot be")]
    Unsound(#[from] UnsoundEntry),
}

fn is_transient(error: &AnnounceError) -> bool {
    matches!(error, AnnounceError::Peer(error) if error.is_transient())
}

/// Announces this node to `peer` and takes in the records that it answers with: the cluster's members.
pub(super) async fn announce(core: &Arc<Core>, peer: &Peer) -> Result<(), AnnounceError> {
    let Welcome { records, newcomer } = peer.announce(&core.me, core.catalog.origin().epoch).await?;
    records.iter().try_for_each(Entry::check)?;
    let me = core.me.id.clone();
    let is_welcome = newcomer.is_none() && !core.belonging.belongs();
    let work = core.catalog.transact(move |transaction| {
        // Records carry their value, so no bytes will be asked of the peer whose name is not known here.
        records
            .iter()
            .filter(|entry| matches!(entry.key, EntryKey::Record(_)))
            .try_for_each(|entry| take_in(transaction, entry, &me, unix_ms()).map(drop))?;
        if is_welcome { transaction.belong(false) } else { Ok(()) }
    });
    work.await?;
    if is_welcome {
        core.belonging.belong(false);
        info!(peer = %peer.address(), "welcomed by the cluster: this node takes writes");
    } else if let Some(newcomer) = newcomer
        && core.belonging.met(peer.address(), newcomer)
    {
        core.catalog.transact(|transaction| transaction.belong(true)).await?;
        core.belonging.belong(true);
        info!("all nodes that name each other as seeds have met: they are a cluster, which takes writes");
    }
    Ok(())
}
