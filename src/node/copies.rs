//! Waiting until a write is durable on more nodes than this one.
//!
//! Followers send a receipt as soon as they hold what is awaited, whatever else they still fetch; a version vector that
//! covers the write counts as one, too.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Json;
use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{Extension, Query, State};
use http::StatusCode;
use serde::Deserialize;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::Core;
use super::error::ApiError;
use crate::model::{NodeId, Principal, Version, WaitFor};
use crate::protocol::feed::{RECEIPTS_MAX, Receipts};
use crate::replicate::CopyHolder;

/// How long a write waits for the copies that it asked for, if it does not say.
const ASKED_WAIT_MS: u64 = 10_000;

/// The longest such wait: not longer than a node that passed the write on waits for an answer.
const ASKED_WAIT_MS_MAX: u64 = 30_000;

/// How often it is looked whether a vector covers a write, or a node went down: receipts come by themselves.
const LOOK_PERIOD: Duration = Duration::from_millis(200);

/// The writes that somebody waits for, by their place among this node's writes.
#[derive(Debug, Default)]
pub(super) struct Copies {
    awaited: Arc<Mutex<BTreeMap<u64, Receivers>>>,
}

#[derive(Debug, Default)]
struct Receivers {
    holders: BTreeSet<NodeId>,
    more: Arc<Notify>,
}

/// A write that somebody waits for, until this is dropped.
#[derive(Debug)]
pub(super) struct Awaited {
    version: Version,
    more: Arc<Notify>,
    awaited: Arc<Mutex<BTreeMap<u64, Receivers>>>,
}

/// How many copies a write asks for, as the query of a `PUT` or `DELETE`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(default)]
pub(super) struct CopiesQuery {
    pub(super) wait_for: Option<WaitFor>,
    pub(super) wait_ms: Option<u64>,
}

impl Copies {
    /// Begins to count the copies of the write `version`. To be called before the write can be read in the feed.
    pub(super) fn expect(&self, version: &Version) -> Awaited {
        let more = Arc::<Notify>::default();
        let receivers = Receivers { holders: BTreeSet::new(), more: more.clone() };
        lock(&self.awaited).insert(version.sequence, receivers);
        Awaited { version: version.clone(), more, awaited: self.awaited.clone() }
    }

    /// Which of `versions`, all of this node's own writes or of others, somebody waits for: their places.
    pub(super) fn awaited_among<'a>(&self, own: impl Iterator<Item = (usize, &'a Version)>) -> Vec<usize> {
        let awaited = lock(&self.awaited);
        if awaited.is_empty() {
            return Vec::new();
        }
        own.filter(|(_, version)| awaited.contains_key(&version.sequence)).map(|(place, _)| place).collect()
    }

    /// Notes that `holder` holds the write at `sequence`, or something newer for its key.
    fn note(&self, holder: &NodeId, sequence: u64) {
        if let Some(receivers) = lock(&self.awaited).get_mut(&sequence)
            && receivers.holders.insert(holder.clone())
        {
            receivers.more.notify_one();
        }
    }
}

impl Awaited {
    fn holders(&self) -> BTreeSet<NodeId> {
        lock(&self.awaited).get(&self.version.sequence).map(|receivers| receivers.holders.clone()).unwrap_or_default()
    }
}

impl Drop for Awaited {
    fn drop(&mut self) {
        lock(&self.awaited).remove(&self.version.sequence);
    }
}

fn lock(awaited: &Mutex<BTreeMap<u64, Receivers>>) -> MutexGuard<'_, BTreeMap<u64, Receivers>> {
    awaited.lock().unwrap_or_else(PoisonError::into_inner)
}

/// `POST /v1/receipts`: a follower holds what somebody waits for.
pub(super) async fn receipts(
    State(core): State<Arc<Core>>,
    Extension(principal): Extension<Principal>,
    receipts: Result<Json<Receipts>, JsonRejection>,
) -> Result<StatusCode, ApiError> {
    let Principal::Node(id) = &principal else {
        return Err(ApiError::new(StatusCode::FORBIDDEN, "receipts come from nodes"));
    };
    let Json(Receipts { versions }) = receipts?;
    if versions.len() > RECEIPTS_MAX {
        return Err(ApiError::bad_request(format!("at most {RECEIPTS_MAX} receipts at a time")));
    }
    for version in versions.iter().filter(|version| version.origin == *core.catalog.origin()) {
        core.copies.note(id, version.sequence);
    }
    Ok(StatusCode::NO_CONTENT)
}

/// What a write asks for, from the `query` of its request.
///
/// # Errors
/// 400 for another query, 409 for more copies than there are nodes: nothing is stored that can but fail.
pub(super) fn asked(core: &Core, query: Result<Query<CopiesQuery>, QueryRejection>) -> Result<CopiesQuery, ApiError> {
    let Query(asked) = query?;
    let nodes = core.members.view().borrow().nodes().len();
    match asked.wait_for {
        Some(WaitFor::Copies(copies)) if copies as usize > nodes.max(1) => {
            let detail = format!("wait_for={copies}: the cluster has {nodes}, one copy each");
            Err(ApiError::new(StatusCode::CONFLICT, detail))
        }
        _ => Ok(asked),
    }
}

/// Waits until the write is as durable as it asks for, or as this node's configuration does.
///
/// # Errors
/// 503 if it asked for more copies than came in time: it is stored all the same, and the answer says so.
pub(super) async fn wait(core: &Core, awaited: Awaited, query: CopiesQuery) -> Result<u32, ApiError> {
    let asked = query.wait_for.or(core.config.wait_for);
    let wait_ms = match asked {
        Some(_) => query.wait_ms.unwrap_or(ASKED_WAIT_MS).min(ASKED_WAIT_MS_MAX),
        None => query.wait_ms.unwrap_or(core.config.copies_wait_ms).min(ASKED_WAIT_MS_MAX),
    };
    let deadline = Instant::now() + Duration::from_millis(wait_ms);
    loop {
        let (copies, is_met) = count(core, &awaited, asked);
        if is_met {
            return Ok(copies);
        }
        if Instant::now() >= deadline || core.stop.is_cancelled() {
            return late(core, &awaited, copies, asked);
        }
        tokio::select! {
            () = awaited.more.notified() => {}
            () = tokio::time::sleep_until(deadline.min(Instant::now() + LOOK_PERIOD)) => {}
            () = core.stop.cancelled() => {}
        }
    }
}

/// How many nodes hold the write, and whether that is enough.
fn count(core: &Core, awaited: &Awaited, asked: Option<WaitFor>) -> (u32, bool) {
    if asked == Some(WaitFor::Copies(1)) {
        return (1, true);
    }
    let mut holders = awaited.holders();
    holders.extend(core.members.who_passed(&awaited.version));
    holders.insert(core.me.id.clone());
    let view = core.members.view().borrow().clone();
    let nodes = view.nodes();
    holders.retain(|id| nodes.contains_key(id));
    let holder = |id| CopyHolder { id, provider: nodes.get(id).map(|node| &node.provider) };
    let is_met = match asked {
        Some(wait_for) => wait_for.is_met(holders.len(), nodes.len()),
        None => {
            let reachable = core.members.reachable();
            let others: Vec<_> = reachable.iter().filter(|id| nodes.contains_key(*id)).map(holder).collect();
            WaitFor::default_is_met(&holders.iter().map(holder).collect::<Vec<_>>(), &others)
        }
    };
    (u32::try_from(holders.len()).unwrap_or(u32::MAX), is_met)
}

/// The time is over: a write that asked for more copies is told so, another one is answered openly with those it has.
fn late(core: &Core, awaited: &Awaited, copies: u32, asked: Option<WaitFor>) -> Result<u32, ApiError> {
    core.metrics.late_copies.inc();
    let Some(wait_for) = asked else { return Ok(copies) };
    let detail = format!(
        "stored as version {}, but only {copies} of the copies asked for (wait_for={wait_for}) came in time",
        awaited.version
    );
    Err(ApiError::new(StatusCode::SERVICE_UNAVAILABLE, detail).stored(copies))
}
