//! Finding out when all registered nodes know each other: only then the home of a key that moves takes over.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tracing::{info, warn};

use super::Core;
use super::bytes::off_runtime;
use crate::model::{Cursor, MemberSet, NodeId};
use crate::protocol::status::Pong;
use crate::replicate::{Acknowledgement, is_settled};
use crate::store::StoreError;

/// How often it is looked while they do not: a ping of each is due every second.
const LOOK_PERIOD: Duration = Duration::from_millis(250);

/// Who has said to know which nodes.
#[derive(Debug, Default)]
pub(super) struct Acknowledged(Mutex<Said>);

#[derive(Debug, Default)]
struct Said {
    /// The nodes that are registered here, and the set that was settled here last.
    known: Option<(MemberSet, Option<MemberSet>)>,
    by: BTreeMap<NodeId, Acknowledgement>,
}

impl Acknowledged {
    /// What `id` says in answer to a ping.
    pub(super) fn heard(&self, id: &NodeId, pong: &Pong) {
        let head = Cursor { epoch: pong.epoch, since: pong.head };
        let mut said = self.said();
        match pong.members {
            Some(members) => _ = said.by.insert(id.clone(), Acknowledgement { members, head }),
            None => _ = said.by.remove(id),
        }
    }

    /// Who has said what since this node knows the `registered` nodes, and last saw the set `settled`.
    fn since(&self, registered: &MemberSet, settled: Option<&MemberSet>) -> BTreeMap<NodeId, Acknowledgement> {
        let mut said = self.said();
        let known = Some((registered.clone(), settled.cloned()));
        if said.known != known {
            said.known = known;
            // A set may come back: a node joins, and is forgotten. What was said of it before counts no more.
            said.by.clear();
        }
        said.by.clone()
    }

    fn said(&self) -> MutexGuard<'_, Said> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// At the start: whether this node belonged to a cluster before, or founds one.
pub(super) async fn begin(core: &Arc<Core>) -> Result<(), StoreError> {
    let catalog = core.catalog.clone();
    let (noted, settled) = off_runtime(move || Ok::<_, StoreError>((catalog.belongs()?, catalog.settled()?))).await?;
    // A version that noted nothing else settled what it belonged to.
    let belongs = noted.or(settled.map(|_| false));
    let founds = belongs.unwrap_or(false) || core.belonging.founds();
    if founds || belongs.is_some() {
        if noted != Some(founds) {
            core.catalog.transact(move |transaction| transaction.belong(founds)).await?;
        }
        core.belonging.belong(founds);
    }
    settle(core).await.map(drop)
}

/// Settles the set of registered nodes whenever it has changed, until the node stops.
pub(super) async fn run(core: Arc<Core>) {
    let mut view = core.members.view();
    loop {
        let rest = match settle(&core).await {
            Ok(true) => Duration::MAX,
            Ok(false) => LOOK_PERIOD,
            Err(error) => {
                warn!(
                    error = &error as &dyn std::error::Error,
                    "cannot see whether all nodes know each other, will retry"
                );
                LOOK_PERIOD
            }
        };
        tokio::select! {
            () = core.stop.cancelled() => return,
            changed = view.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(rest) => {}
        }
    }
}

/// Settles the set of registered nodes if they all know each other; answers whether it is settled.
async fn settle(core: &Arc<Core>) -> Result<bool, StoreError> {
    let catalog = core.catalog.clone();
    let look = move || {
        let ((registered, _), settled) = (catalog.registered()?, catalog.settled()?);
        let mut read = BTreeMap::new();
        for id in registered.iter().filter(|_| settled.as_ref() != Some(&registered)) {
            read.extend(catalog.cursor(id)?.map(|cursor| (id.clone(), cursor)));
        }
        Ok::<_, StoreError>((registered, settled, read))
    };
    let (registered, settled, read) = off_runtime(look).await?;
    let acknowledged = core.acknowledged.since(&registered, settled.as_ref());
    if settled.as_ref() == Some(&registered) {
        return Ok(true);
    }
    let founds = settled.is_some() || core.belonging.founds();
    let said = |id: &NodeId| acknowledged.get(id).copied();
    let is_settled =
        core.belonging.belongs() && is_settled(&core.me.id, &registered, founds, said, |id| read.get(id).copied());
    if !is_settled {
        return Ok(false);
    }
    let nodes = registered.len();
    let work = core.catalog.transact(move |transaction| {
        // A node that has become known meanwhile makes it another set.
        let is_same = transaction.registered()? == registered;
        if is_same {
            transaction.settle(&registered)?;
        }
        Ok(is_same)
    });
    let is_same = work.await?;
    if is_same {
        info!(nodes, "all registered nodes know each other: every key has its home");
    }
    Ok(is_same)
}
