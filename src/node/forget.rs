//! Forgetting a member that is gone for good, or that has handed everything over.

use std::sync::Arc;

use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Extension, Path, Query, State};
use http::StatusCode;
use serde::Deserialize;

use super::Core;
use super::access::{Right, require};
use super::error::ApiError;
use super::records::{Change, change_record};
use crate::model::{Liveness, MemberState, NodeId, Principal, RecordKey};

/// The query of `DELETE /v1/servers/ID`.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct ForgetQuery {
    /// Whether to forget a member that lives and has not handed over all that it holds.
    force: bool,
}

/// `DELETE /v1/servers/ID`: the member is no longer waited for, and never taken in again under its name.
pub(super) async fn forget(
    State(core): State<Arc<Core>>,
    Extension(principal): Extension<Principal>,
    id: Result<Path<NodeId>, PathRejection>,
    query: Result<Query<ForgetQuery>, QueryRejection>,
) -> Result<StatusCode, ApiError> {
    require(&principal, Right::Write)?;
    let Path(id) = id.map_err(|rejection| ApiError::bad_request(rejection.body_text()))?;
    let Query(ForgetQuery { force }) = query?;
    let view = core.members.view().borrow().clone();
    if !view.nodes().contains_key(&id) {
        return Err(ApiError::not_found(format!("node {id}")));
    }
    let conflict = |detail: String| Err(ApiError::new(StatusCode::CONFLICT, detail));
    if id == core.me.id {
        return conflict(format!("{id} is the node that you ask: ask another one to forget it"));
    }
    let is_gone = core.members.liveness(&id) == Liveness::Down;
    // One that takes writes may have taken one since it was last heard of: it has to know that it is to leave.
    let told = view.version_of(&RecordKey::state(&id)).filter(|_| view.state(&id) == MemberState::Draining);
    let has_left = told.is_some_and(|told| core.members.has_handed_over(&id, told));
    if !force && !is_gone && !has_left {
        return conflict(format!(
            "{id} lives and may hold what others lack: drain it first and wait, stop it, or add ?force=true"
        ));
    }
    // The removal of a member's record is remembered for ever: by it all nodes know that the name is spent.
    change_record(&core, RecordKey::node(&id), |current| {
        Ok(if current.is_some() { Change::Remove } else { Change::Keep })
    })
    .await?;
    Ok(StatusCode::NO_CONTENT)
}

/// 410: the caller's name was forgotten.
pub(super) fn gone(id: &NodeId) -> ApiError {
    let detail = format!("node {id} was forgotten: start the machine under a new name, with an empty data folder");
    ApiError::new(StatusCode::GONE, detail)
}
