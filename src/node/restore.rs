//! Bringing a backup back: what it has is withheld until the feeds of all members were read.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Extension, Query, State};
use http::StatusCode;
use serde::Deserialize;
use tracing::{info, warn};

use super::access::{Right, require};
use super::bytes::off_runtime;
use super::error::ApiError;
use super::{Core, unix_ms};
use crate::model::{Entry, EntryKey, Epoch, NodeId, Principal, Version, VersionVector};
use crate::protocol::status::Settled;
use crate::replicate::{self, Ledger as _, Released};
use crate::store::{StoreError, Transaction, mark_as_taken_in};

/// How many entries one commit looks at.
const PART: usize = 256;

/// How often it is looked whether all members were read.
const LOOK_PERIOD: Duration = Duration::from_millis(200);

/// How many entries one answer has.
const LISTED_MAX: usize = 1000;

/// Whose feeds were read to the end since the start.
#[derive(Debug, Default)]
pub(super) struct Restore {
    state: Mutex<Read>,
}

#[derive(Debug, Default)]
struct Read {
    /// What each peer had passed when the feed of its database was first read to the end.
    vectors: BTreeMap<NodeId, (Epoch, VersionVector)>,
    /// The newest deletion that one of them had forgotten.
    horizon: Option<Version>,
}

impl Restore {
    /// Notes that the feed of the database `epoch` of `peer`, which had passed `vector` and whose newest forgotten deletion
    /// is `horizon`, was read to its end.
    pub(super) fn read_to_end(&self, peer: &NodeId, epoch: Epoch, vector: &VersionVector, horizon: Option<Version>) {
        let mut state = self.state();
        state.horizon = state.horizon.take().max(horizon);
        // The first reading counts, or what is written meanwhile would put it off; but not that of a former life, whose
        // last writes may be lost.
        if state.vectors.get(peer).is_none_or(|(before, _)| *before != epoch) {
            state.vectors.insert(peer.clone(), (epoch, vector.clone()));
        }
    }

    fn state(&self) -> MutexGuard<'_, Read> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// If the database is a backup: waits until all members were read, and lists what none can have forgotten. What remains
/// is for a person.
pub(super) async fn run(core: Arc<Core>) {
    let catalog = core.catalog.clone();
    match off_runtime(move || catalog.is_backup()).await {
        Ok(true) => {}
        Ok(false) => return,
        Err(error) => {
            return warn!(error = &error as &dyn std::error::Error, "cannot tell whether the database is a backup");
        }
    }
    warn!("the database is a backup: what it has is listed when the feeds of all members were read");
    loop {
        match take_in(&core).await {
            Ok(Some(Released { listed, superseded, doubtful, .. })) => {
                return info!(listed, superseded, doubtful, "the backup was taken in");
            }
            Ok(None) => {}
            Err(error) => warn!(error = &error as &dyn std::error::Error, "the backup cannot be taken in, will retry"),
        }
        tokio::select! {
            () = core.stop.cancelled() => return,
            () = tokio::time::sleep(LOOK_PERIOD) => {}
        }
    }
}

/// Takes the backup in, if it is known by now what all members have; else `None`.
async fn take_in(core: &Arc<Core>) -> Result<Option<Released>, StoreError> {
    let Some(all) = read_of_all(core) else { return Ok(None) };
    // What is known of, but not held yet, would be taken for unknown.
    let catalog = core.catalog.clone();
    let own = off_runtime(move || catalog.vector()).await?;
    if !all.iter().all(|vector| own.covers(vector)) {
        return Ok(None);
    }
    release(core).await.map(Some)
}

/// What every registered member had passed when its feed was read to its end; `None` if that is still to be done for
/// one, or none is known: others may have joined after the backup was made, and only a person can say that there are none.
fn read_of_all(core: &Core) -> Option<Vec<VersionVector>> {
    let others = core.members.others();
    if others.is_empty() {
        return None;
    }
    let state = core.restore.state();
    others.iter().map(|node| state.vectors.get(&node.id).map(|(_, vector)| vector.clone())).collect()
}

async fn release(core: &Arc<Core>) -> Result<Released, StoreError> {
    let horizon = core.restore.state().horizon.clone();
    let (mut all, mut after) = (Released::default(), None::<EntryKey>);
    loop {
        let (horizon, from) = (horizon.clone(), after);
        let part = core.catalog.transact(move |transaction| {
            let part = replicate::release(transaction, horizon.as_ref(), from.as_ref(), PART)?;
            if part.after.is_none() {
                mark_as_taken_in(transaction)?;
            }
            Ok(part)
        });
        let part = part.await?;
        all.listed += part.listed;
        all.superseded += part.superseded;
        all.doubtful += part.doubtful;
        after = part.after;
        if after.is_none() {
            return Ok(all);
        }
    }
}

/// Which withheld entries are meant, as a query.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct WithheldQuery {
    /// Those below this prefix.
    prefix: String,
    /// Those after this key.
    after: Option<EntryKey>,
    /// Whether no member is left that could be read first.
    alone: bool,
}

/// `GET /v1/withheld`: the entries of a backup that are not listed, up to 1,000.
pub(super) async fn list(
    State(core): State<Arc<Core>>,
    Extension(principal): Extension<Principal>,
    query: Result<Query<WithheldQuery>, QueryRejection>,
) -> Result<Json<Vec<Entry>>, ApiError> {
    require(&principal, Right::Read)?;
    let Query(WithheldQuery { prefix, after, .. }) = query?;
    let catalog = core.catalog.clone();
    Ok(Json(off_runtime(move || catalog.withheld(&prefix, after.as_ref(), LISTED_MAX)).await?))
}

/// `POST /v1/withheld`: what is withheld is written anew, as if it were uploaded now.
pub(super) async fn take_back(
    State(core): State<Arc<Core>>,
    Extension(principal): Extension<Principal>,
    query: Result<Query<WithheldQuery>, QueryRejection>,
) -> Result<Json<Settled>, ApiError> {
    core.members.require_clock(&core.catalog)?;
    settle(&core, &principal, query, |transaction, entry| {
        transaction.forget_withheld(&entry)?;
        // What was written since is meant to stand, and a deletion of then is none of today.
        let is_newest = transaction.listed(&entry.key)?.is_none_or(|listed| entry.supersedes(&listed));
        if is_newest && !entry.is_deleted() {
            replicate::write(transaction, entry.key, entry.state, unix_ms())?;
        }
        Ok(())
    })
    .await
}

/// `DELETE /v1/withheld`: what is withheld is given up.
pub(super) async fn discard(
    State(core): State<Arc<Core>>,
    Extension(principal): Extension<Principal>,
    query: Result<Query<WithheldQuery>, QueryRejection>,
) -> Result<Json<Settled>, ApiError> {
    settle(&core, &principal, query, |transaction, entry| transaction.forget_withheld(&entry)).await
}

/// Does `work` with each withheld entry that `query` means.
async fn settle(
    core: &Arc<Core>,
    principal: &Principal,
    query: Result<Query<WithheldQuery>, QueryRejection>,
    work: fn(&mut Transaction<'_>, Entry) -> Result<(), StoreError>,
) -> Result<Json<Settled>, ApiError> {
    require(principal, Right::Write)?;
    let Query(WithheldQuery { prefix, mut after, alone }) = query?;
    let catalog = core.catalog.clone();
    if off_runtime(move || catalog.is_backup()).await? {
        if !alone {
            let detail = "the feeds of all members are still to be read: until then it is not known what is doubtful; \
                if there are no other members any more, add alone=true";
            return Err(ApiError::new(StatusCode::CONFLICT, detail));
        }
        release(core).await?;
    }
    let mut entries = 0;
    loop {
        let (from, prefix) = (after, prefix.clone());
        let part = core.catalog.transact(move |transaction| {
            let part = transaction.withheld(from.as_ref(), PART)?;
            let last = part.last().filter(|_| part.len() == PART).map(|entry| entry.key.clone());
            let mut done = 0;
            for entry in part.into_iter().filter(|entry| entry.key.as_str().starts_with(&prefix)) {
                work(transaction, entry)?;
                done += 1;
            }
            Ok((done, last))
        });
        let (done, last) = part.await?;
        entries += done;
        after = last;
        if after.is_none() {
            return Ok(Json(Settled { entries }));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Origin;

    #[test]
    fn the_first_reading_of_a_database_counts() {
        let peer: NodeId = "B".parse().expect("a name");
        let vector = |epoch, sequence| -> VersionVector {
            let origin = Origin { node: peer.clone(), epoch: Epoch::from_bits(epoch) };
            [(origin, sequence)].into_iter().collect()
        };
        let restore = Restore::default();
        for (epoch, sequence) in [(1, 5), (1, 6)] {
            restore.read_to_end(&peer, Epoch::from_bits(epoch), &vector(epoch, sequence), None);
        }
        let read = || restore.state().vectors.get(&peer).map(|(_, vector)| vector.clone());
        assert_eq!(read(), Some(vector(1, 5)), "what is written meanwhile would put it off");
        restore.read_to_end(&peer, Epoch::from_bits(2), &vector(2, 1), None);
        assert_eq!(read(), Some(vector(2, 1)), "the last writes of the former life may be lost");
    }
}
