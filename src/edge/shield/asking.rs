//! Asking a shield.

use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::header::HOST;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode};
use tokio::sync::Notify;
use tokio::time::{sleep_until, timeout_at};
use tracing::debug;

use super::super::admin::ShieldOutcome;
use super::super::attempt::Running;
use super::super::body::Inner;
use super::super::download::{Download, Further, Rest};
use super::super::facts::{Tally, Way};
use super::super::fetch::{self, Wanted};
use super::super::freshness::{Sought, Worth, version_of};
use super::super::node_body::NodeBody;
use super::super::observe::failure;
use super::super::site::{self, Outgoing, Site};
use super::super::{Core, Upstream};
use super::Shield;
use crate::cache::rules::CACHE_STATUS;
use crate::client::{self, OnInterim, empty};
use crate::model::{Liveness, NodeId};
use crate::protocol::shield::{Content, Said};
use crate::protocol::{MIN_VERSION_HEADER, ROUTE_HEADER, SHIELD_HEADER};
use crate::route::{FailureKind, Reason, Route, Try};
use crate::serve::http1::Interim;

/// What came of it.
pub(in crate::edge) enum Asked<A> {
    /// There is none to ask.
    Nobody,
    /// It has no answer, or none that can be used.
    InVain(NodeId),
    /// It answers.
    Answer(A),
}

/// What a shield is asked.
struct Question<'q> {
    content: Content,
    /// As what this edge may have forgotten it.
    uri: &'q str,
    method: &'q Method,
    target: &'q PathAndQuery,
    headers: HeaderMap,
    interim: Option<&'q Interim>,
    /// How long the body may be silent.
    stall: Duration,
    /// Until when there has to be an answer, of whomever.
    deadline: Instant,
}

/// Asks the shield for what the origins of `site` are asked for by `outgoing`.
pub(in crate::edge) async fn site(
    core: &Arc<Core>,
    site: &Arc<Site>,
    outgoing: &Outgoing,
    deadline: Instant,
) -> Asked<site::Answer> {
    let Some(uri) = &outgoing.by_shield else { return Asked::Nobody };
    let (scheme, key) = uri.split_once("://").unwrap_or(("http", uri));
    let Some((shield, upstream)) = core.shields.choose(key, &outgoing.rather_not) else { return Asked::Nobody };
    let _running = core.shields.begin(key);
    let question = Question {
        content: if scheme == "https" { Content::Https } else { Content::Http },
        uri,
        method: &outgoing.method,
        target: &outgoing.target,
        headers: (*outgoing.headers).clone(),
        interim: outgoing.interim.as_ref(),
        stall: site.stall(),
        deadline,
    };
    let Some(response) = ask(core, (shield, upstream), question).await else {
        return Asked::InVain(shield.node.id.clone());
    };
    let fetched = Arc::<Tally>::default();
    let further = Further::Origins(site.clone(), outgoing.target.clone(), outgoing.headers.clone());
    let response = on_its_way(core, &outgoing.method, response, further, &fetched);
    let response = response.map(|body| Inner::Node(Box::new(body)));
    Asked::Answer(site::Answer { way: way(core, shield, fetched), response })
}

/// Asks the shield for an object of the store, for which nodes are looked for in the versions that are `sought`.
pub(in crate::edge) async fn object(
    core: &Arc<Core>,
    wanted: &Arc<Wanted>,
    sought: &Sought<'_>,
    deadline: Instant,
) -> Asked<fetch::Answer> {
    // Whoever names a policy wants to see which node it chooses.
    if wanted.is_final || wanted.policy.is_some() {
        return Asked::Nobody;
    }
    let target = wanted.target();
    let Some((shield, upstream)) = core.shields.choose(target.as_str(), &[]) else { return Asked::Nobody };
    let mut headers = wanted.headers.clone();
    headers.insert(HOST, HeaderValue::from_static("metacdn.internal"));
    let version = sought.newest().and_then(|version| HeaderValue::try_from(version.to_string()).ok());
    headers.extend(version.map(|version| (HeaderName::from_static(MIN_VERSION_HEADER), version)));
    let _running = core.shields.begin(target.as_str());
    let question = Question {
        content: Content::Store,
        uri: target.as_str(),
        method: &wanted.method,
        target: &target,
        headers,
        interim: None,
        stall: core.config.body_stall(),
        deadline,
    };
    let in_vain = || Asked::InVain(shield.node.id.clone());
    let Some(mut response) = ask(core, (shield, upstream), question).await else { return in_vain() };
    // What it says of conditions that it does not meet, it says of its own version.
    let answers = response.status().is_success() || response.status() == StatusCode::NOT_MODIFIED;
    if !answers || sought.worth(version_of(response.headers()).as_ref()) != Worth::Good {
        return in_vain();
    }
    // Each answer says anew what the cache did for it.
    response.headers_mut().remove(CACHE_STATUS);
    let fetched = Arc::<Tally>::default();
    let response = on_its_way(core, &wanted.method, response, Further::Nodes(wanted.clone()), &fetched);
    Asked::Answer(fetch::Answer { way: way(core, shield, fetched), response })
}

/// The answer of a shield, whose body goes on elsewhere if it breaks off.
fn on_its_way(
    core: &Arc<Core>,
    method: &Method,
    response: Response<NodeBody>,
    further: Further,
    fetched: &Arc<Tally>,
) -> Response<Download> {
    let rest = Rest::of(method, &response);
    response.map(|body| Download::new(core.clone(), further, body, rest, fetched.clone()))
}

fn way(core: &Core, shield: &Shield, fetched: Arc<Tally>) -> Arc<Way> {
    let (node, reason) = (shield.node.clone(), Reason::Shield);
    let route = Route { node, liveness: Liveness::Alive, price: None, time_s: None, score: None, reason };
    let policy = core.settings.load().config.route.policy;
    Arc::new(Way { route, policy, passed: Vec::new(), fetched })
}

/// The answer of the shield, if it has one. It has to give a sign of life soon: its answer, or an interim one. Half of the time
/// is left for those who are asked without it.
async fn ask(
    core: &Arc<Core>,
    (shield, upstream): (&Shield, &Upstream),
    mut question: Question<'_>,
) -> Option<Response<NodeBody>> {
    let (shields, id) = (&core.shields, &shield.node.id);
    let count = |outcome| core.metrics.shield(id, outcome);
    let Ok(place) = upstream.free.clone().try_acquire_owned() else {
        count(ShieldOutcome::Busy);
        return None;
    };
    question
        .headers
        .insert(HeaderName::from_static(SHIELD_HEADER), shields.demand(question.content, question.uri).value());
    let lives = Arc::new(Notify::new());
    let asked = client::Asked {
        method: question.method,
        path: question.target,
        headers: &question.headers,
        on_interim: Some(&on_interim(&lives, question.interim)),
    };
    let counts = upstream.counts(&core.metrics, &core.ledger, id);
    let mut running = Running::begin(counts, shields.observations.clone(), id.clone(), place, question.stall);
    let now = Instant::now();
    let half = now + question.deadline.saturating_duration_since(now) / 2;
    let patience = now + Duration::from_millis(shields.config.answer_ms_max);
    let mut is_silent = false;
    let answered = {
        let mut asking = pin!(upstream.peer.ask_for(&asked, empty()));
        tokio::select! {
            biased;
            answered = &mut asking => Some(answered),
            () = lives.notified() => timeout_at(half.into(), asking).await.ok(),
            () = sleep_until(patience.min(half).into()) => {
                is_silent = patience <= half;
                None
            }
        }
    };
    let seen = match answered {
        Some(Ok(response)) => match judge(&response) {
            Ok(outcome) => {
                // That nobody answers it says neither good nor bad of it.
                if outcome != ShieldOutcome::Unanswered {
                    running.ended();
                }
                count(outcome);
                // From here on it may be the origin that fails.
                running.mute();
                return outcome.is_answer().then(|| passed_on(response, id, running));
            }
            Err(seen) => seen(running.start.elapsed()),
        },
        Some(Err(error)) => {
            debug!(shield = %id, error = &error as &dyn std::error::Error, "a shield fails");
            failure(&error, running.start.elapsed())
        }
        None if !is_silent => {
            // It lives, and whoever it asks is slow, or there was little time.
            running.mute();
            count(ShieldOutcome::Unanswered);
            return None;
        }
        None => Try::Failure { kind: FailureKind::Timeout, after: running.start.elapsed() },
    };
    running.saw(&seen);
    count(ShieldOutcome::Failed);
    None
}

/// Tells `lives` of each interim answer, and the client of those that are an origin's.
fn on_interim(lives: &Arc<Notify>, interim: Option<&Interim>) -> OnInterim {
    let (lives, interim) = (lives.clone(), interim.cloned());
    OnInterim::new(move |status, headers| {
        lives.notify_one();
        if let Some(interim) = interim.as_ref().filter(|_| status != StatusCode::PROCESSING) {
            site::tell(interim, status, headers);
        }
    })
}

/// What the answer of a shield is, or how it fails. What it refuses of one request says nothing of others, unless it does not
/// like who asks.
fn judge(response: &Response<client::AnswerBody>) -> Result<ShieldOutcome, fn(Duration) -> Try> {
    match Said::of(response.headers()) {
        Some(Said::Hit) => Ok(ShieldOutcome::Hit),
        Some(Said::Miss) => Ok(ShieldOutcome::Miss),
        Some(Said::Unanswered) => Ok(ShieldOutcome::Unanswered),
        Some(Said::Refused) => Ok(ShieldOutcome::Refused),
        None if response.status().is_client_error() && response.status() != StatusCode::UNAUTHORIZED => {
            Ok(ShieldOutcome::Refused)
        }
        None => Err(|after| Try::Failure { kind: FailureKind::Error, after }),
    }
}

/// The answer without what it says of the way to the shield's own.
fn passed_on(mut response: Response<client::AnswerBody>, id: &NodeId, running: Running) -> Response<NodeBody> {
    for name in [ROUTE_HEADER, SHIELD_HEADER] {
        response.headers_mut().remove(name);
    }
    response.map(|body| NodeBody::new(body, id, running))
}
