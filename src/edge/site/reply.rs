//! An answer of a site on its way out: with its age, and with what the cache did for it (RFC 9211).

use std::ops::Range;
use std::sync::Arc;
use std::time::SystemTime;

use http::header::{AGE, UPGRADE};
use http::{HeaderValue, Response, StatusCode};

use super::super::admin::Outcome;
use super::super::body::Inner;
use super::super::facts::{Facts, Way, looked_up, marked, tell_route};
use super::super::slices::Walk;
use super::super::{Core, coding};
use super::origins::Answer;
use super::tunnel;
use crate::cache::rules::{CacheStatus, Forward, Freshness, Source, strip_hop_by_hop};
use crate::cache::{Head, Reader, Sliced, Stored, Terms};
use crate::serve::http1::OnUpgrade;

/// What the cache did for a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Why {
    /// It had an answer.
    Hit,
    /// It had one that is stale, and allowed to be used.
    StaleHit,
    /// It had one that is stale, and no origin had a better one.
    StaleOnError,
    /// It had none that it might use, for this reason.
    Asked(Forward),
}

/// An answer on its way out.
pub(super) struct Reply<'a> {
    core: &'a Arc<Core>,
    request: coding::Request<'a>,
    why: Why,
    forwarded: Option<StatusCode>,
    collapsed: bool,
    stored: bool,
    led: Option<&'a Arc<Way>>,
    outcome: Option<Outcome>,
}

impl<'a> Reply<'a> {
    pub(super) const fn new(core: &'a Arc<Core>, request: coding::Request<'a>, why: Why) -> Self {
        Self { core, request, why, forwarded: None, collapsed: false, stored: false, led: None, outcome: None }
    }

    /// An origin was asked and answered with this status.
    pub(super) const fn forwarded(mut self, status: StatusCode) -> Self {
        self.forwarded = Some(status);
        self
    }

    /// The fetch was begun by another request.
    pub(super) const fn collapsed(mut self) -> Self {
        self.collapsed = true;
        self
    }

    /// It comes by this route, and is kept.
    pub(super) const fn led(mut self, way: &'a Arc<Way>) -> Self {
        self.led = Some(way);
        self.stored = true;
        self
    }

    /// What is kept; what of it is in slices, as `walk` gives it.
    pub(super) async fn kept(
        mut self,
        stored: &Arc<Stored>,
        head: &Arc<Head>,
        freshness: &Freshness,
        walk: impl FnMut(&Arc<Sliced>, Range<u64>) -> Walk + Send,
    ) -> Response<Inner> {
        let mut response = coding::kept(self.core, self.request, stored, head, walk).await;
        let now = SystemTime::now();
        response.headers_mut().insert(AGE, HeaderValue::from(freshness.age_seconds(now)));
        let outcome = match (self.why, self.forwarded) {
            (Why::Hit | Why::StaleHit, _) => Outcome::Hit,
            (Why::StaleOnError, _) => Outcome::Unchecked,
            (Why::Asked(_), _) if self.stored => Outcome::Miss,
            (Why::Asked(_), _) => Outcome::Revalidated,
        };
        self.outcome = Some(outcome);
        self.finish(response, Some(freshness.ttl_seconds(now)))
    }

    /// What comes with this head.
    pub(super) async fn along(mut self, head: &Arc<Head>, reader: Reader) -> Response<Inner> {
        let mut response = coding::along(self.core, self.request, head, reader).await;
        // What caches before this one have added to its age stays.
        if let Terms::Answer { freshness, .. } = &head.terms
            && let age @ 1.. = freshness.age_seconds(SystemTime::now())
        {
            response.headers_mut().insert(AGE, HeaderValue::from(age));
        }
        self.outcome = Some(if self.collapsed { Outcome::Joined } else { Outcome::Miss });
        let ttl_seconds = match &head.terms {
            Terms::Answer { freshness, .. } => Some(freshness.ttl_seconds(SystemTime::now())),
            Terms::Object { .. } | Terms::Slice | Terms::Coded { .. } => None,
        };
        // What is not yet kept has no time left in the eyes of RFC 9211.
        let mut response = self.finish(response, None);
        Facts::of(&mut response).ttl_seconds = ttl_seconds;
        response
    }

    /// What an origin answers, for this request alone; what no shared cache may use (`is_shared`) is personal.
    pub(super) fn passed(mut self, answer: Answer, is_shared: bool) -> Response<Inner> {
        let Answer { way, mut response } = answer;
        let protocol = response.headers().get(UPGRADE).cloned();
        strip_hop_by_hop(response.headers_mut());
        if let Some(protocol) = protocol.filter(|_| response.status() == StatusCode::SWITCHING_PROTOCOLS) {
            response.headers_mut().insert(UPGRADE, protocol);
            let stop = self.core.stop.clone();
            if let Inner::Origin(body) = response.body_mut()
                && let Some(origin) = body.take_upgraded()
            {
                response.extensions_mut().insert(OnUpgrade::new(move |client| tunnel::run(client, origin, stop)));
            }
        }
        let response = coding::passed(self.core, self.request, is_shared, response);
        self.outcome = Some(Outcome::Passed);
        self.forwarded = Some(response.status());
        let core = self.core;
        marked(core, self.finish(response, None), &way)
    }

    /// What the edge itself has to say.
    pub(super) fn told(self, response: Response<Inner>) -> Response<Inner> {
        self.finish(response, None)
    }

    fn finish(self, mut response: Response<Inner>, ttl_seconds: Option<i64>) -> Response<Inner> {
        if let Some(outcome) = self.outcome {
            looked_up(self.core, &mut response, outcome);
        }
        Facts::of(&mut response).ttl_seconds = ttl_seconds;
        let response_status = response.status();
        let headers = response.headers_mut();
        headers.append(http::header::VIA, self.core.via.clone());
        let source = match self.why {
            Why::Hit | Why::StaleHit | Why::StaleOnError => Source::Hit,
            Why::Asked(why) => Source::Forwarded {
                why,
                status: self.forwarded.filter(|status| *status != response_status),
                stored: self.stored,
                collapsed: self.collapsed.then_some(true),
            },
        };
        let detail = match self.why {
            Why::StaleHit => Some("stale"),
            Why::StaleOnError => Some("stale-if-error"),
            Why::Hit | Why::Asked(_) => None,
        };
        CacheStatus { cache: "metacdn", source, ttl_seconds, key: None, detail }.append_to(headers);
        match self.led {
            Some(way) => marked(self.core, response, way),
            None => {
                if matches!(self.why, Why::Hit | Why::StaleHit | Why::StaleOnError) {
                    tell_route(headers, super::super::proxy::CACHED);
                }
                response
            }
        }
    }
}
