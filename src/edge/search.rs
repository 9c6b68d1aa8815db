//! One round through the nodes for one request: whom to ask next, and what the round comes to when none has the object.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::fetch::{Answer, Unanswered};
use super::freshness::Sought;
use crate::model::{Liveness, NodeId, Version};
use crate::route::Route;

/// How long nodes are asked for something newer when there is an answer that may be given: what they hold may have gone
/// with one of them, and its silence is not to become that of the edge.
const NEWER_WAIT: Duration = Duration::from_millis(500);

/// Whom a request has asked, and whom it may ask yet.
pub(super) struct Search {
    routes: VecDeque<Route>,
    /// Until when nodes are waited for.
    pub(super) deadline: Instant,
    /// The nodes that were asked in vain.
    pub(super) passed: Vec<NodeId>,
    /// The best node that says that there is no such object.
    missing: Option<Liveness>,
    /// Whether a node lacks what is looked for: the object, or its newest version.
    lacking: bool,
    /// Whether the node that wrote it was preferred already.
    preferred: bool,
    /// How many were too busy to say.
    busy: usize,
    /// The newest of the answers that may be given if nobody gives a newer one.
    older: Option<(Version, Result<Answer, Unanswered>)>,
}

impl Search {
    pub(super) fn new(routes: Vec<Route>, deadline: Instant) -> Self {
        Self {
            routes: routes.into(),
            deadline,
            passed: Vec::new(),
            missing: None,
            lacking: false,
            preferred: false,
            busy: 0,
            older: None,
        }
    }

    /// Whom to ask next.
    pub(super) fn next(&mut self, sought: &Sought<'_>) -> Option<Route> {
        // Where the best one lacks it, the one that wrote it has it.
        if self.lacking && !std::mem::replace(&mut self.preferred, true) {
            let writer = sought.writer().and_then(|id| self.routes.iter().position(|route| route.node.id == *id));
            if let Some(route) = writer.and_then(|place| self.routes.remove(place)) {
                self.routes.push_front(route);
            }
        }
        // The silence of suspect ones would make each missing object a wait. Behind them there may be one that is
        // alive: those that are ejected come last.
        let spares_suspects = self.missing == Some(Liveness::Alive) && !sought.is_demanded();
        while let Some(route) = self.routes.pop_front() {
            if !(spares_suspects && route.liveness == Liveness::Suspect) {
                return Some(route);
            }
        }
        None
    }

    /// A node says that there is no such object.
    pub(super) fn misses(&mut self, id: NodeId, liveness: Liveness) {
        self.missing.get_or_insert(liveness);
        self.lags(id);
    }

    /// A node has it in a version that is too old.
    pub(super) fn lags(&mut self, id: NodeId) {
        self.lacking = true;
        self.passed.push(id);
    }

    /// A node has it in a version that will do if nobody gives a newer one.
    pub(super) fn put_aside(&mut self, id: NodeId, version: Version, answer: Result<Answer, Unanswered>) {
        if self.older.is_none() {
            self.deadline = self.deadline.min(Instant::now() + NEWER_WAIT);
        }
        if self.older.as_ref().is_none_or(|(kept, _)| *kept < version) {
            self.older = Some((version, answer));
        }
        self.lags(id);
    }

    /// A node has all the requests that it takes.
    pub(super) fn is_busy(&mut self, id: NodeId) {
        self.busy += 1;
        self.passed.push(id);
    }

    /// What the round comes to, and whether it is an older version than was looked for.
    pub(super) fn end(self, sought: &Sought<'_>) -> (Result<Answer, Unanswered>, bool) {
        match (self.older, self.missing) {
            (Some((_, answer)), _) => (answer, true),
            (None, _) if self.lacking && sought.is_demanded() => (Err(Unanswered::Behind), false),
            (None, Some(_)) => (Err(Unanswered::Missing { deleted: false }), false),
            (None, None) => (Err(Unanswered::Unavailable { busy: self.busy }), false),
        }
    }
}
