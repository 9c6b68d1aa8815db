//! `/v1/purges`: what the caches of all edges are to forget.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::rejection::JsonRejection;
use axum::extract::{Extension, State};
use http::StatusCode;

use super::access::{Right, require};
use super::error::ApiError;
use super::records::{Change, change_record};
use super::{Core, unix_ms};
use crate::model::{HybridTime, Principal, Purge, RecordKey};

/// For how long a purge is told to edges that come. Of what an edge has kept for longer it does not know whether it was purged,
/// and asks: edges reckon with a day less (`edge::purge`).
const TOLD_FOR: Duration = Duration::from_secs(7 * 24 * 3600);

/// How many older ones are removed with each new one: so they never become more.
const REMOVED_MAX: usize = 8;

/// `POST /v1/purges`: has all edges forget what the body says, of all that they fetched before they hear of it.
pub(super) async fn post(
    State(core): State<Arc<Core>>,
    Extension(principal): Extension<Principal>,
    purge: Result<Json<Purge>, JsonRejection>,
) -> Result<StatusCode, ApiError> {
    require(&principal, Right::Write)?;
    let Json(purge) = purge?;
    let json = serde_json::to_string(&purge).map_err(ApiError::bad_request)?;
    change_record(&core, RecordKey::purge(&purge), move |_| Ok(Change::Set(json))).await?;
    let long_ago = HybridTime::from_unix_ms(unix_ms().saturating_sub(TOLD_FOR.as_millis() as u64));
    let old: Vec<_> = core.members.view().borrow().purges_before(long_ago).take(REMOVED_MAX).cloned().collect();
    for key in old {
        change_record(&core, key, |current| Ok(current.map_or(Change::Keep, |_| Change::Remove))).await?;
    }
    Ok(StatusCode::NO_CONTENT)
}
