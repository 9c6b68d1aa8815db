//! What the answers of origins leave in the cache.

use std::sync::Arc;
use std::time::SystemTime;

use http::header::ACCEPT_RANGES;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode};

use super::super::body::Inner;
use super::super::fill;
use super::super::obtain::cost;
use super::super::slices::{self, Fetched};
use super::answer::{Kept, Life};
use super::origins::Answer;
use super::reply::{Reply, Why};
use crate::cache::rules::{self, Exchange, Freshened, Freshness, HeadEffect, Selector};
use crate::cache::{Begun, Head, Lead, Sliced, Stored, Terms, slice_at};

impl Life {
    /// Keeps an answer and lets others read it along, if it may be kept; else it is for this request alone. `None` if it is
    /// a part of what is not kept, and larger than the client wants.
    pub(super) async fn take_in(
        &self,
        why: Why,
        lead: Lead,
        answer: Answer,
        sent: SystemTime,
    ) -> Option<Response<Inner>> {
        let status = answer.response.status();
        let is_part = status == StatusCode::PARTIAL_CONTENT && self.widened().is_some();
        let reply = self.reply(why).forwarded(status);
        let not_kept = |answer| {
            let is_shared = self.is_shared_with_all(&answer, sent);
            (!is_part).then(|| self.reply(why).forwarded(status).passed(answer, is_shared))
        };
        let part = slices::part_of(&answer.response).filter(|_| is_part || status != StatusCode::PARTIAL_CONTENT);
        let head = part.and_then(|(part, mut headers)| {
            if is_part {
                // It has just given one, and need not say so.
                headers.entry(ACCEPT_RANGES).or_insert(HeaderValue::from_static("bytes"));
            }
            Some((self.head_of(status, &headers, sent)?, part))
        });
        // A part says nothing of the whole, which others may want.
        let says_nothing = is_part || status == StatusCode::RANGE_NOT_SATISFIABLE;
        let refuse = if says_nothing { Lead::refuse_part } else { Lead::refuse };
        let Some((head, part)) = head else {
            refuse(lead);
            return not_kept(answer);
        };
        if let Some(size) = head.size {
            self.core.sizes.learn(self.incoming.path().as_str(), size);
        }
        let cost = cost(&answer.way.route);
        if self.core.cache.slices(&head) && rules::gives_parts(&head.headers) {
            let kept = lead.slice(head, cost, slice_at(part.start));
            let Some((stored, begun)) = kept else { return not_kept(answer) };
            return Some(self.begun(reply, &stored, begun, answer).await);
        }
        if !slices::covers(&part, head.size) {
            refuse(lead);
            return not_kept(answer);
        }
        let shared = Arc::new(head.clone());
        let Some((fill, reader)) = lead.begin(head, cost) else { return not_kept(answer) };
        let Answer { way, response } = answer;
        let filling = fill::run(fill, response.into_body());
        self.core.fills.spawn(self.core.drained.clone().run_until_cancelled_owned(filling));
        Some(reply.led(&way).along(&shared, reader).await)
    }

    /// What is kept in slices from now on, `begun` with those that an origin gives.
    async fn begun(&self, reply: Reply<'_>, stored: &Arc<Stored>, begun: Begun, answer: Answer) -> Response<Inner> {
        let Answer { way, response } = answer;
        let cost = cost(&way.route);
        let from = way.route.node.id.clone();
        let mut fetched = Some((begun, Fetched { body: response.into_body(), cost, from }));
        let Some(kept) = Kept::of(stored.clone()) else { return self.only_if_cached() };
        let walk = |sliced: &Arc<Sliced>, part| {
            let walk = self.walk((sliced, &way.fetched), stored, part);
            match fetched.take() {
                Some((begun, fetched)) => walk.with(begun, fetched),
                None => walk,
            }
        };
        reply.led(&way).kept(stored, &kept.head, &kept.freshness, walk).await
    }

    /// Whether a shared cache may use `answer` for all, whether or not it is kept here: HEAD as the GET that it stands for.
    pub(super) fn is_shared_with_all(&self, answer: &Answer, sent: SystemTime) -> bool {
        let exchange = self.exchange(answer.response.status(), answer.response.headers(), sent);
        let method = if self.incoming.method == Method::HEAD { &Method::GET } else { &self.incoming.method };
        rules::judge(&self.site.terms, &Exchange { method, ..exchange }).is_ok()
    }

    fn exchange<'e>(&'e self, status: StatusCode, response: &'e HeaderMap, sent: SystemTime) -> Exchange<'e> {
        Exchange {
            method: &self.incoming.method,
            target: &self.incoming.target,
            request: &self.incoming.headers,
            status,
            response,
            request_time: sent,
            response_time: SystemTime::now(),
        }
    }

    /// What is kept of an answer, or of the whole that it is a part of; `None` if it must not be.
    fn head_of(&self, status: StatusCode, headers: &HeaderMap, sent: SystemTime) -> Option<Head> {
        let terms = &self.site.terms;
        // A part is kept as an incomplete whole (RFC 9111 section 3.3).
        let status = if status == StatusCode::PARTIAL_CONTENT { StatusCode::OK } else { status };
        let exchange = self.exchange(status, headers, sent);
        let freshness = rules::judge(terms, &exchange).ok()?;
        let selector = Selector::of(headers, &self.asked)?;
        let length = headers.get(http::header::CONTENT_LENGTH);
        let size = length.and_then(|length| length.to_str().ok()?.parse().ok());
        let headers = rules::stored_header(terms, headers, exchange.response_time);
        Some(Head { status, headers, size, terms: Terms::Answer { freshness, selector } })
    }

    /// What is kept has been found to be right: its header and lifetime are those of now (RFC 9111 section 4.3.4).
    /// The origin was asked at the number `asked`.
    pub(super) fn freshen(&self, kept: &Kept, answer: &Answer, sent: SystemTime, asked: u64) -> (Head, Freshness) {
        let exchange = self.exchange(answer.response.status(), answer.response.headers(), sent);
        let Freshened { header, freshness } =
            rules::freshen(&self.site.terms, &kept.head.headers, kept.head.status, &exchange);
        let (fresh, keeps) = match freshness {
            Ok(freshness) => (freshness, true),
            Err(reason) => (kept.freshness, reason.spares_stored()),
        };
        // What it varies with may have changed, too.
        let selector = Selector::of(&header, &self.asked);
        let keeps = keeps && selector.is_some();
        let terms = Terms::Answer { freshness: fresh, selector: selector.unwrap_or_default() };
        let head = Head { headers: header, terms, ..(*kept.head).clone() };
        if !keeps {
            self.core.cache.discard(&self.key, &kept.stored);
        } else if freshness.is_ok() {
            self.core.cache.renew(&self.key, &kept.stored, head.clone(), kept.settled, asked);
        }
        (head, fresh)
    }

    /// What an answer to HEAD says of what is kept (RFC 9111 section 4.3.5).
    pub(super) fn learn_from_head(&self, answer: &Answer, sent: SystemTime, asked: u64) {
        for kept in self.core.cache.all(&self.key).into_iter().filter_map(Kept::of) {
            let (status, headers) = (answer.response.status(), answer.response.headers());
            match rules::head_effect(kept.head.status, &kept.head.headers, status, headers) {
                HeadEffect::Updates if self.selects(&kept.head) => _ = self.freshen(&kept, answer, sent, asked),
                HeadEffect::Expires if self.selects(&kept.head) => {
                    self.core.cache.expire(&self.key, &kept.stored, SystemTime::now(), asked);
                }
                HeadEffect::Updates | HeadEffect::Expires | HeadEffect::None => {}
            }
        }
    }
}
