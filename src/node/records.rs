//! The cluster's records: changing one (read, decide and write in one commit), and the view that they make.

use std::sync::Arc;
use std::time::Duration;

use tracing::warn;

use super::belonging::require_welcomed;
use super::bytes::off_runtime;
use super::error::ApiError;
use super::{Core, unix_ms};
use crate::model::{Entry, EntryState, RecordKey, Version, View};
use crate::protocol::feed::ENTRIES_MAX;
use crate::replicate::{Ledger as _, write};
use crate::store::{Select, StoreError};

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
        // That a member was removed is final.
        if key.is_node() && listed.as_ref().is_some_and(Entry::is_deleted) {
            return Ok(Ok(listed.map(|entry| entry.version)));
        }
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

/// As [`write_record`] for a client, and waits until this node's view shows the change: who makes it reads it back here at once.
pub(super) async fn change_record<F>(core: &Arc<Core>, key: RecordKey, decide: F) -> Result<(), ApiError>
where
    F: FnOnce(Option<&str>) -> Result<Change, ApiError> + Send + 'static,
{
    require_welcomed(core)?;
    // A time ahead of the others' would win against what is written after it.
    core.members.require_clock(&core.catalog)?;
    let Some(version) = write_record(core, key.clone(), decide).await?? else { return Ok(()) };
    let mut view = core.members.view();
    tokio::select! {
        // The view ends with the node, which then shows nothing to anybody.
        _ = view.wait_for(|view| view.version_of(&key).is_some_and(|shown| *shown >= version)) => {}
        () = core.stop.cancelled() => {}
    }
    Ok(())
}

/// This node's own records, as far as they were read.
#[derive(Default)]
pub(super) struct OwnRecords {
    view: View,
    since: u64,
}

impl OwnRecords {
    /// Reads what is new, and swaps the members' view if it says anything new.
    pub(super) async fn read(&mut self, core: &Core) -> Result<(), StoreError> {
        let mut changed = false;
        loop {
            let (catalog, since) = (core.catalog.clone(), self.since);
            let page = off_runtime(move || catalog.feed(since, ENTRIES_MAX, Select::Records)).await?;
            self.since = page.next;
            for entry in &page.entries {
                match self.view.merge(entry) {
                    Ok(news) => changed |= news,
                    Err(error) => warn!(%error, "a record is passed over"),
                }
            }
            if page.end.is_some() {
                break;
            }
        }
        if changed {
            core.members.set_view(self.view.clone());
        }
        Ok(())
    }

    /// Keeps the view at what the records say, until the node stops.
    pub(super) async fn follow(mut self, core: Arc<Core>) {
        let mut progress = core.catalog.progress();
        loop {
            progress.mark_unchanged();
            if let Err(error) = self.read(&core).await {
                warn!(error = &error as &dyn std::error::Error, "own records cannot be read, will retry");
                tokio::time::sleep(Duration::from_secs(1)).await;
                continue;
            }
            tokio::select! {
                () = core.stop.cancelled() => return,
                moved = progress.changed() => if moved.is_err() { return },
            }
        }
    }
}
