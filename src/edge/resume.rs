//! Fetching the rest of a body that broke off.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::Method;
use tokio::time::timeout_at;
use tracing::{debug, info};

use super::Core;
use super::attempt::{Attempt, attempt};
use super::download::Rest;
use super::fetch::Wanted;
use super::node_body::NodeBody;
use crate::model::NodeId;

/// How long all nodes are left alone after the first round in which none of them could go on with a body; each further
/// time it is twice as long.
const WAIT_MIN: Duration = Duration::from_millis(200);

/// A node that is started anew is found within this.
const WAIT_MAX: Duration = Duration::from_secs(2);

/// Asks for `rest` of a body that broke off until a node has it: first those that have not failed in this body, then
/// those that `failed`, again and again until the deadline: a node that is started anew comes back within it.
pub(super) async fn fetch_rest(
    core: Arc<Core>,
    wanted: Arc<Wanted>,
    rest: Rest,
    failed: Vec<NodeId>,
) -> Option<NodeBody> {
    let start = Instant::now();
    let deadline = start + Duration::from_millis(core.config.request_ms_max);
    let (target, headers) = (wanted.target(), rest.headers(&wanted.headers));
    let mut search = Search::new(failed);
    loop {
        let ranked = wanted.rank(&core).routes.into_iter().map(|route| route.node.id.clone()).collect();
        let mut order = search.order(ranked);
        order.truncate(core.config.tries_max.get());
        for id in &order {
            if search.owes_a_try() && !core.retries.spend() {
                debug!(key = %wanted.key, "no retry is left");
                return None;
            }
            let routes = core.routes.load_full();
            let trying = attempt(&core, &routes, id, &Method::GET, &target, &headers);
            let said = match timeout_at(deadline.into(), trying).await {
                Err(_) => return None,
                Ok(Attempt::Answer(response)) if rest.is_answered_by(&response) => {
                    let resumed_ms = start.elapsed().as_millis() as u64;
                    let from = search.failed.last().map(tracing::field::display);
                    info!(key = %wanted.key, from, to = %id, resumed_ms, "resumed");
                    core.metrics.resumed.inc();
                    return Some(response.into_body());
                }
                Ok(attempt) => Said::by(&attempt),
            };
            debug!(node = %id, key = %wanted.key, ?said, "it does not go on");
            search.note(id, said);
        }
        // Without randomness the full wait is right, too.
        let random = getrandom::u32().map_or(1.0, |bits| f64::from(bits) / f64::from(u32::MAX));
        let wait = search.end_round(&order).map(|wait| wait.mul_f64(0.5 + 0.5 * random))?;
        if Instant::now() + wait >= deadline {
            return None;
        }
        tokio::time::sleep(wait).await;
    }
}

/// What a node says that does not go on with a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Said {
    /// It has something else, or knows that there is nothing: asked again it would say the same.
    Never,
    /// It has nothing yet.
    Missing,
    /// It was reached, and failed.
    Failed,
    /// Nothing: it was not reached, or is too busy to be asked.
    Nothing,
}

impl Said {
    const fn by(attempt: &Attempt) -> Self {
        match attempt {
            Attempt::Answer(_) | Attempt::Refused(_) | Attempt::Missing { deleted: Some(_) } => Self::Never,
            Attempt::Missing { deleted: None } => Self::Missing,
            Attempt::Failed { reached: true } => Self::Failed,
            Attempt::Busy | Attempt::Failed { reached: false } => Self::Nothing,
        }
    }
}

/// Whom to ask next for a rest, and for how long.
#[derive(Debug)]
struct Search {
    /// Those that broke off.
    failed: Vec<NodeId>,
    /// Those that will never have it.
    hopeless: BTreeSet<NodeId>,
    rounds: u32,
    /// Whether the next try has to be paid for. The first one of all is free, as the first retry of every request is.
    owes: bool,
}

impl Search {
    const fn new(failed: Vec<NodeId>) -> Self {
        Self { failed, hopeless: BTreeSet::new(), rounds: 0, owes: false }
    }

    /// Whom of `ranked` to ask in this round, those that broke off last.
    fn order(&self, ranked: Vec<NodeId>) -> Vec<NodeId> {
        let hopeful = ranked.into_iter().filter(|id| !self.hopeless.contains(id));
        let (again, mut order): (Vec<_>, Vec<_>) = hopeful.partition(|id| self.failed.contains(id));
        order.extend(again);
        order
    }

    /// Whether one more try has to be paid for.
    const fn owes_a_try(&mut self) -> bool {
        std::mem::replace(&mut self.owes, false)
    }

    fn note(&mut self, id: &NodeId, said: Said) {
        match said {
            Said::Never => _ = self.hopeless.insert(id.clone()),
            Said::Failed => self.owes = true,
            // Each node may be asked once whether it has an object; more than once is a retry.
            Said::Missing => self.owes = self.rounds > 0,
            Said::Nothing => {}
        }
    }

    /// How long to wait at most after a round in which those of `order` were asked; `None` if it is to no avail. Where
    /// all others have something else, those that broke off will have it too as soon as they are back.
    fn end_round(&mut self, order: &[NodeId]) -> Option<Duration> {
        let hopeful = order.iter().any(|id| !self.hopeless.contains(id) && !self.failed.contains(id));
        if !hopeful && !self.hopeless.is_empty() {
            return None;
        }
        let wait = WAIT_MIN.saturating_mul(1 << self.rounds.min(20)).min(WAIT_MAX);
        self.rounds += 1;
        Some(wait)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(names: &[&str]) -> Vec<NodeId> {
        names.iter().map(|name| name.parse().expect("a name")).collect()
    }

    /// A round in which the nodes say this.
    fn round(search: &mut Search, said: &[(&str, Said)]) -> Option<Duration> {
        let order = search.order(ids(&said.iter().map(|(name, _)| *name).collect::<Vec<_>>()));
        for id in &order {
            search.owes_a_try();
            let (_, said) = said.iter().find(|(name, _)| *name == id.as_str()).expect("it was ranked");
            search.note(id, *said);
        }
        search.end_round(&order)
    }

    #[test]
    fn those_that_broke_off_come_last_and_those_without_hope_never() {
        let mut search = Search::new(ids(&["GC"]));
        search.note(&ids(&["AWS"])[0], Said::Never);
        assert_eq!(search.order(ids(&["GC", "AWS", "Program"])), ids(&["Program", "GC"]));
    }

    #[test]
    fn a_rest_that_nobody_has_is_asked_for_once() {
        for gc in [Said::Never, Said::Missing, Said::Failed, Said::Nothing] {
            let mut search = Search::new(ids(&["GC"]));
            let said = [("GC", gc), ("AWS", Said::Never), ("Program", Said::Never)];
            assert_eq!(round(&mut search, &said), None, "{gc:?}");
        }
        let mut alone = Search::new(ids(&["GC"]));
        assert_eq!(round(&mut alone, &[("GC", Said::Never)]), None, "no one else was there");
    }

    #[test]
    fn a_node_that_may_come_back_is_asked_until_then() {
        let mut search = Search::new(ids(&["GC"]));
        assert!(round(&mut search, &[("GC", Said::Nothing)]).is_some(), "there is no other");
        assert!(round(&mut search, &[]).is_some(), "none is alive");
        assert!(round(&mut search, &[("AWS", Said::Never), ("Program", Said::Missing)]).is_some());
        assert_eq!(round(&mut search, &[("AWS", Said::Never), ("Program", Said::Never)]), None);
    }

    #[test]
    fn waits_double_up_to_a_bound() {
        let mut search = Search::new(Vec::new());
        let waits: Vec<_> = (0..6).filter_map(|_| search.end_round(&[])).map(|wait| wait.as_millis()).collect();
        assert_eq!(waits, [200, 400, 800, 1_600, 2_000, 2_000]);
    }

    #[test]
    fn failures_are_paid_for_and_so_are_all_answers_from_the_second_round_on() {
        let mut search = Search::new(ids(&["GC"]));
        assert!(!search.owes_a_try(), "the first one is free");
        for missing_costs in [false, true] {
            for (said, owes) in [(Said::Failed, true), (Said::Missing, missing_costs), (Said::Nothing, false)] {
                search.note(&ids(&["AWS"])[0], said);
                assert_eq!((search.owes_a_try(), search.owes_a_try()), (owes, false), "{said:?}");
            }
            search.end_round(&ids(&["AWS"]));
        }
    }
}
