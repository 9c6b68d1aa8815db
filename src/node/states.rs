//! What the members are for: an operator sets a node apart before he stops or removes it.

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::{JsonRejection, PathRejection};
use axum::extract::{Extension, Path, State};
use http::StatusCode;
use http::header::{HeaderValue, RETRY_AFTER};

use super::Core;
use super::access::{Right, require};
use super::belonging::require_welcomed;
use super::error::ApiError;
use super::records::{Change, change_record};
use crate::model::{MemberState, NodeId, Principal, RecordKey};

/// After how many seconds a client may ask again: maintenance takes minutes, and there are other nodes.
const RETRY_AFTER_SECONDS: &str = "60";

/// Refuses a client's write where an operator has set this node apart, or no cluster has welcomed it yet. What peers bring is
/// taken.
pub(super) fn require_active(core: &Core) -> Result<(), ApiError> {
    require_welcomed(core).map_err(ApiError::closing)?;
    let what = match core.members.state() {
        MemberState::Active => return Ok(()),
        MemberState::Draining => "is to leave the cluster",
        MemberState::Maintenance => "is in maintenance",
    };
    let detail = format!("node {} {what} and takes no writes: use another node", core.me.id);
    let error = ApiError::new(StatusCode::SERVICE_UNAVAILABLE, detail).closing();
    Err(error.with_header(RETRY_AFTER, HeaderValue::from_static(RETRY_AFTER_SECONDS)))
}

/// Refuses to store what was sent while this node was told to leave: others may hold all that it has by now, and it may
/// be forgotten in the next moment.
pub(super) fn require_staying(core: &Core) -> Result<(), ApiError> {
    if core.members.state() == MemberState::Draining { require_active(core) } else { Ok(()) }
}

/// `PUT /v1/servers/ID/state`: says what a member is for, as JSON: `"maintenance"`, `"draining"` or `"active"`.
pub(super) async fn put(
    State(core): State<Arc<Core>>,
    Extension(principal): Extension<Principal>,
    id: Result<Path<NodeId>, PathRejection>,
    state: Result<Json<MemberState>, JsonRejection>,
) -> Result<StatusCode, ApiError> {
    require(&principal, Right::Write)?;
    let Json(state) = state?;
    set(&core, id, state).await
}

/// `DELETE /v1/servers/ID/state`: the member is for everything again.
pub(super) async fn remove(
    State(core): State<Arc<Core>>,
    Extension(principal): Extension<Principal>,
    id: Result<Path<NodeId>, PathRejection>,
) -> Result<StatusCode, ApiError> {
    require(&principal, Right::Write)?;
    set(&core, id, MemberState::Active).await
}

async fn set(
    core: &Arc<Core>,
    id: Result<Path<NodeId>, PathRejection>,
    state: MemberState,
) -> Result<StatusCode, ApiError> {
    let Path(id) = id.map_err(|rejection| ApiError::bad_request(rejection.body_text()))?;
    if !core.members.view().borrow().nodes().contains_key(&id) {
        return Err(ApiError::not_found(format!("server {id}")));
    }
    let json = serde_json::to_string(&state).map_err(ApiError::bad_request)?;
    let decide = move |current: Option<&str>| {
        Ok(match (state, current) {
            (MemberState::Active, None) => Change::Keep,
            (MemberState::Active, Some(_)) => Change::Remove,
            (_, Some(current)) if current == json => Change::Keep,
            _ => Change::Set(json),
        })
    };
    change_record(core, RecordKey::state(&id), decide).await?;
    Ok(StatusCode::NO_CONTENT)
}
