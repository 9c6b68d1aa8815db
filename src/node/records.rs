//! Changing the cluster's records: read, decide and write in one commit.

use std::sync::Arc;

use super::error::ApiError;
use super::{Core, unix_ms};
use crate::model::{EntryState, RecordKey, Version};
use crate::replicate::{Ledger as _, write};
use crate::store::StoreError;

/// What is to become of a record.
pub(super) enum Change {
    /// Nothing: it says so already.
    Keep,
    /// It gets this JSON value.
    Set(String),
    /// It goes.
    Remove,
}

/// Changes the record `key` as `decide` says, which sees its current JSON; a refusal leaves it as it is. Answers the
/// version that the record then has.
pub(super) async fn write_record<E, F>(
    core: &Arc<Core>,
    key: RecordKey,
    decide: F,
) -> Result<Result<Option<Version>, E>, StoreError>
where
    E: Send + 'static,
    F: FnOnce(Option<&str>) -> Result<Change, E> + Send + 'static,
{
    let work = core.catalog.transact(move |transaction| {
        let listed = transaction.listed(&key.clone().into())?;
        let current = listed.as_ref().and_then(|entry| match &entry.state {
            EntryState::Record(json) => Some(json.as_str()),
            EntryState::Deleted | EntryState::Live(_) => None,
        });
        let state = match decide(current) {
            Ok(Change::Keep) => return Ok(Ok(listed.map(|entry| entry.version))),
            Ok(Change::Set(json)) => EntryState::Record(json),
            Ok(Change::Remove) => EntryState::Deleted,
            Err(refusal) => return Ok(Err(refusal)),
        };
        let entry = write(transaction, key.into(), state, unix_ms())?;
        Ok(Ok(Some(entry.version)))
    });
    work.await
}

/// As [`write_record`], and waits until this node's view shows the change: who makes it reads it back here at once.
pub(super) async fn change_record<F>(core: &Arc<Core>, key: RecordKey, decide: F) -> Result<(), ApiError>
where
    F: FnOnce(Option<&str>) -> Result<Change, ApiError> + Send + 'static,
{
    let Some(version) = write_record(core, key.clone(), decide).await?? else { return Ok(()) };
    let mut view = core.members.view();
    tokio::select! {
        // The view ends with the node, which then shows nothing to anybody.
        _ = view.wait_for(|view| view.version_of(&key).is_some_and(|shown| *shown >= version)) => {}
        () = core.stop.cancelled() => {}
    }
    Ok(())
}
