//! Conditional writes: each is decided at the home of its key, whichever node it comes to.
//!
//! The home first asks every node that is not down for the newest that it knows of the key. It decides in one commit,
//! and only while all registered nodes know each other (`replicate::decider`).

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::{Extension, State};
use axum::response::Response;
use futures_util::future::try_join_all;
use http::header::{
    CACHE_CONTROL, CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HeaderName, HeaderValue,
    IF_MATCH, IF_NONE_MATCH, IF_UNMODIFIED_SINCE, RETRY_AFTER, TRANSFER_ENCODING,
};
use http::{HeaderMap, Request, StatusCode};
use http_body_util::BodyExt as _;
use tokio::time::timeout;

use super::access::{Right, require};
use super::bytes::off_runtime;
use super::error::ApiError;
use super::feed::require_member;
use super::objects::key_of;
use super::states::require_active;
use super::{Core, unix_ms};
use crate::client::ClientError;
use crate::model::{Entry, EntryKey, Liveness, MemberSet, Node, NodeId, ObjectKey, Principal};
use crate::protocol::status::Known;
use crate::protocol::{ENTRIES, HOME_HEADER};
use crate::replicate::{Decider, decider, home, take_in};
use crate::store::{StoreError, Transaction};

/// How long a node is waited for that is asked what it knows of a key. One that needs longer will be found down, or is
/// cut off from this one.
const ASK_DEADLINE: Duration = Duration::from_secs(2);

/// The headers that make a write a conditional one (RFC 9110 section 13.1).
const CONDITIONS: [HeaderName; 3] = [IF_MATCH, IF_NONE_MATCH, IF_UNMODIFIED_SINCE];

/// What of a write is passed on besides its body: all headers that mean something to a node.
const PASSED_ON: [HeaderName; 8] = [
    IF_MATCH,
    IF_NONE_MATCH,
    IF_UNMODIFIED_SINCE,
    CONTENT_TYPE,
    CONTENT_LENGTH,
    CONTENT_ENCODING,
    CONTENT_RANGE,
    CACHE_CONTROL,
];

/// Fields of an answer that are of its connection alone (RFC 9110 section 7.6.1).
const OF_CONNECTION: [HeaderName; 3] = [CONNECTION, HeaderName::from_static("keep-alive"), TRANSFER_ENCODING];

/// Whether a write with `headers` depends on what is there.
pub(super) fn is_conditional(headers: &HeaderMap) -> bool {
    CONDITIONS.iter().any(|name| headers.contains_key(name))
}

/// Lets a write in: that of a client, or a conditional one that another member passes on, which has asked for the
/// client's right. Answers whether it was passed on.
pub(super) fn admit(core: &Core, principal: &Principal, headers: &HeaderMap) -> Result<bool, ApiError> {
    if let Principal::Node(id) = principal
        && headers.contains_key(HOME_HEADER)
        && is_conditional(headers)
    {
        require_member(core, id)?;
        return Ok(true);
    }
    require(principal, Right::Write)?;
    require_active(core)?;
    Ok(false)
}

/// The node that decides on the write of `key` with `headers`; `None` if this one does.
pub(super) fn elsewhere(core: &Core, key: &ObjectKey, headers: &HeaderMap) -> Result<Option<Node>, ApiError> {
    if !is_conditional(headers) {
        return Ok(None);
    }
    let view = core.members.view().borrow().clone();
    let registered: MemberSet = view.nodes().keys().cloned().collect();
    let home = home(key, &registered).and_then(|id| view.nodes().get(id)).filter(|node| node.id != core.me.id);
    let Some(node) = home else { return Ok(None) };
    // Who passed it on sees another home: one of the two knows of a node that the other does not know of yet.
    if headers.contains_key(HOME_HEADER) {
        return Err(moving(&core.me.id));
    }
    if core.members.liveness(&node.id) == Liveness::Down {
        return Err(away(&node.id));
    }
    Ok(Some(node.clone()))
}

/// Passes `request` on to `home`, and its answer back.
pub(super) async fn pass_on(core: &Core, home: &Node, request: Request<Body>) -> Result<Response, ApiError> {
    let (head, body) = request.into_parts();
    let target = head.uri.path_and_query().map_or("/", |target| target.as_str());
    let peer = core.members.peer(home);
    let body = body.map_err(Into::into).boxed_unsync();
    let mut request = peer.request(head.method, target, body).map_err(ApiError::bad_request)?;
    let headers = request.headers_mut();
    for name in &PASSED_ON {
        for value in head.headers.get_all(name) {
            headers.append(name, value.clone());
        }
    }
    let name = HeaderValue::from_str(home.id.as_str()).map_err(ApiError::bad_request)?;
    headers.insert(HOME_HEADER, name);
    let answer = peer.pass_on(request).await.map_err(|error| unanswered(&home.id, &error))?;
    let mut answer = answer.map(Body::new);
    let closes = answer.headers().contains_key(CONNECTION);
    for name in &OF_CONNECTION {
        answer.headers_mut().remove(name);
    }
    // What the home has not read of the body must not be taken for the next request here either.
    if closes {
        answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    Ok(answer)
}

/// Asks every node that is not down for the newest that it knows of `key`, takes that in, and answers the newest of
/// all.
pub(super) async fn catch_up(core: &Arc<Core>, key: &ObjectKey) -> Result<Option<Entry>, ApiError> {
    let catalog = core.catalog.clone();
    let (registered, settled) =
        off_runtime(move || Ok::<_, StoreError>((catalog.registered()?.0, catalog.settled()?))).await?;
    // The commit looks again; here nobody is asked, and no body read, in vain.
    if decider(key, &core.me.id, &registered, settled.as_ref()) != Decider::Here {
        return Err(moving(&core.me.id));
    }
    let others = core.members.others().into_iter();
    let asked = others.filter(|node| core.members.liveness(&node.id) != Liveness::Down).map(async |node| {
        let answer = timeout(ASK_DEADLINE, core.members.peer(&node).newest(key)).await;
        let Ok(Ok(Known { entry })) = answer else { return Err(silent(&node.id)) };
        let is_sound = |entry: &Entry| entry.check().is_ok() && entry.key.as_str() == key.as_str();
        if entry.as_ref().is_some_and(|entry| !is_sound(entry)) { Err(silent(&node.id)) } else { Ok((node.id, entry)) }
    });
    let told = try_join_all(asked).await?;
    let (catalog, entry_key) = (core.catalog.clone(), EntryKey::Object(key.clone()));
    let known = off_runtime(move || catalog.newest(&entry_key)).await?;
    let is_news = |entry: &Entry| known.as_ref().is_none_or(|known| entry.supersedes(known));
    let told = told.into_iter().filter_map(|(id, entry)| Some((id, entry.filter(is_news)?)));
    let news: Vec<_> = told.collect();
    if news.is_empty() {
        return Ok(known);
    }
    let entry_key = EntryKey::Object(key.clone());
    let work = move |transaction: &mut Transaction<'_>| {
        for (id, entry) in &news {
            take_in(transaction, entry, id, unix_ms())?;
        }
        transaction.newest(&entry_key)
    };
    Ok(core.catalog.transact(work).await?)
}

/// What a write of `key` with `headers` finds, in the commit in which it is made: a conditional one the newest that is
/// known, if this node is the one to decide; others what is served here.
pub(super) fn find(
    core: &Core,
    transaction: &Transaction<'_>,
    key: &ObjectKey,
    headers: &HeaderMap,
) -> Result<Result<Option<Entry>, ApiError>, StoreError> {
    let entry_key = EntryKey::Object(key.clone());
    if !is_conditional(headers) {
        return transaction.find(&entry_key).map(Ok);
    }
    let (registered, settled) = (transaction.registered()?, transaction.settled()?);
    match decider(key, &core.me.id, &registered, settled.as_ref()) {
        Decider::Here if transaction.withholds(&entry_key)? => {
            let detail = format!("it is not known yet what became of {key} since this node's backup");
            Ok(Err(try_again(detail)))
        }
        Decider::Here => {
            let newest = transaction.newest(&entry_key)?;
            if transaction.parks_newer(&entry_key, newest.as_ref())? {
                let detail =
                    format!("something newer is known of {key}, by a clock that is ahead: it waits for its time");
                return Ok(Err(try_again(detail)));
            }
            Ok(Ok(newest))
        }
        Decider::There(_) | Decider::Nobody => Ok(Err(moving(&core.me.id))),
    }
}

/// `GET /v1/entries/KEY`: the newest that this node knows of a key, whether it holds the bytes or not.
pub(super) async fn newest(
    State(core): State<Arc<Core>>,
    Extension(principal): Extension<Principal>,
    request: Request<Body>,
) -> Result<Json<Known>, ApiError> {
    require(&principal, Right::Read)?;
    if let Principal::Node(id) = &principal {
        require_member(&core, id)?;
    }
    let key = EntryKey::Object(key_of(request.uri(), ENTRIES)?);
    let catalog = core.catalog.clone();
    let Some(entry) = off_runtime(move || catalog.newest_unless_withheld(&key)).await? else {
        return Err(try_again("it is not known yet what became of the key since this node's backup".to_owned()));
    };
    Ok(Json(Known { entry }))
}

fn try_again(detail: String) -> ApiError {
    let error = ApiError::new(StatusCode::SERVICE_UNAVAILABLE, detail);
    error.with_header(RETRY_AFTER, HeaderValue::from_static("1"))
}

/// The registered nodes do not know each other yet.
fn moving(me: &NodeId) -> ApiError {
    try_again(format!(
        "the home of this key moves: conditional writes of it wait until all registered nodes, those that are down \
         included, know each other (seen from {me}); others go on"
    ))
}

fn away(home: &NodeId) -> ApiError {
    try_again(format!(
        "node {home}, the home of this key, cannot be reached: conditional writes of it wait until it is back, or \
         forgotten; others go on"
    ))
}

fn silent(id: &NodeId) -> ApiError {
    try_again(format!(
        "node {id} does not say what it knows of this key, and is not found down yet: conditional writes wait for that"
    ))
}

/// Why the home has not answered.
fn unanswered(home: &NodeId, error: &ClientError) -> ApiError {
    if !error.may_have_arrived() {
        return away(home);
    }
    let status = match error {
        ClientError::Late { .. } | ClientError::Silent { .. } => StatusCode::GATEWAY_TIMEOUT,
        _ => StatusCode::BAD_GATEWAY,
    };
    let detail = format!(
        "node {home}, the home of this key, got the write and did not answer: read the object to see if it was made"
    );
    ApiError::new(status, detail).closing()
}
