//! What the edge sees of each node: tries and probes, and whether it is heard of.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::membership::{self, Detector};
use crate::model::{Liveness, NodeId};
use crate::route::{self, FailureKind, Measurements, Source, Standing, Try, eject};

/// Measurements and signs of life of all nodes. All methods are short and never wait.
pub(super) struct Observations {
    started: Instant,
    config: route::Config,
    state: Mutex<State>,
    /// Sent to all who build a table of this: of a site whose configuration has changed several do, until the last request by an
    /// older one has ended.
    changed: watch::Sender<()>,
}

struct State {
    detector: Detector,
    measured: BTreeMap<NodeId, Observed>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Observed {
    measurements: Measurements,
    record: eject::Record,
    /// When the rate was last taught.
    rate_at: Option<Duration>,
    work: Work,
}

/// When a node has something to do for this edge. Requests at the same time take that time once.
#[derive(Debug, Clone, Copy, Default)]
struct Work {
    requests: u32,
    since: Duration,
}

impl Work {
    fn begin(&mut self, now: Duration) {
        if self.requests == 0 {
            self.since = now;
        }
        self.requests += 1;
    }

    /// A request has ended. If it was the last one, answers how long there was one without a pause.
    fn end(&mut self, now: Duration) -> Duration {
        // A node that went and came back knows nothing of requests from before.
        let Some(left) = self.requests.checked_sub(1) else { return Duration::ZERO };
        self.requests = left;
        if left == 0 { now.saturating_sub(self.since) } else { Duration::ZERO }
    }
}

/// What is known of one node.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Seen {
    pub(super) measurements: Measurements,
    /// Whether it is heard of.
    pub(super) liveness: Liveness,
    /// Whether it may be chosen.
    pub(super) standing: Standing,
}

impl Observations {
    pub(super) fn new(config: route::Config, membership: &membership::Config) -> Self {
        let state = State { detector: Detector::new(membership), measured: BTreeMap::new() };
        Self { started: Instant::now(), config, state: Mutex::new(state), changed: watch::Sender::default() }
    }

    /// What tells of each change from now on.
    pub(super) fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// Something else has changed that the route table depends on.
    pub(super) fn note_change(&self) {
        self.changed.send_replace(());
    }

    /// Observes `ids` and no others.
    pub(super) fn expect<'a>(&self, ids: impl Iterator<Item = &'a NodeId>) {
        let now = self.started.elapsed();
        let mut state = self.state();
        let ids: Vec<_> = ids.collect();
        for id in &ids {
            state.detector.expect(id, now);
            state.measured.entry((*id).clone()).or_default();
        }
        let gone: Vec<_> = state.detector.snapshot(now).into_keys().filter(|id| !ids.contains(&id)).collect();
        for id in gone {
            state.detector.forget(&id);
            state.measured.remove(&id);
        }
    }

    /// A request to `id` begins.
    pub(super) fn begin(&self, id: &NodeId) {
        self.change(id, |observed, now| {
            observed.measurements.begin();
            observed.work.begin(now);
        });
    }

    /// A request to `id` is over. If the node is idle now, answers how long it was at work without a pause.
    pub(super) fn end(&self, id: &NodeId) -> Duration {
        let mut worked = Duration::ZERO;
        self.change(id, |observed, now| {
            observed.measurements.end();
            worked = observed.work.end(now);
        });
        worked
    }

    /// This was seen of a try at `id`.
    pub(super) fn saw(&self, id: &NodeId, seen: &Try, source: Source) {
        let answers = matches!(seen, Try::FirstByte { .. } | Try::Body { .. });
        self.change_and(id, answers, |observed, now| {
            observed.measurements.record(seen, now, &self.config.measure);
            // Without randomness the full time is right, too.
            let chance = || getrandom::u32().map_or(1.0, |bits| f64::from(bits) / f64::from(u32::MAX));
            observed.record.note(seen, source, now, chance, &self.config.eject);
            if let Try::Body { bytes, .. } = seen
                && *bytes >= self.config.measure.rate_bytes_min.get()
            {
                observed.rate_at = Some(now);
            }
        });
    }

    /// A request may outlast its node: what is then learnt concerns nobody.
    fn change(&self, id: &NodeId, change: impl FnOnce(&mut Observed, Duration)) {
        self.change_and(id, false, change);
    }

    /// The same of a node that was `heard` of.
    fn change_and(&self, id: &NodeId, heard: bool, change: impl FnOnce(&mut Observed, Duration)) {
        let mut state = self.state();
        if let Some(observed) = state.measured.get_mut(id) {
            let now = self.started.elapsed();
            change(observed, now);
            if heard {
                state.detector.heard(id, now);
            }
        }
        drop(state);
        self.note_change();
    }

    /// What is known of `id` now.
    pub(super) fn of(&self, id: &NodeId) -> Seen {
        let state = self.state();
        let now = self.started.elapsed();
        let Observed { measurements, record, .. } = state.measured.get(id).copied().unwrap_or_default();
        let standing = record.standing(now, &self.config.eject);
        Seen { measurements, liveness: state.detector.liveness(id, now), standing }
    }

    /// Whether the rate of `id` is unknown or was taught longer than `age` ago.
    pub(super) fn rate_is_older_than(&self, id: &NodeId, age: Duration) -> bool {
        let taught = self.state().measured.get(id).and_then(|observed| observed.rate_at);
        taught.is_none_or(|at| self.started.elapsed().saturating_sub(at) > age)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How a failed try counts.
pub(super) const fn failure(error: &crate::client::ClientError, after: Duration) -> Try {
    let kind = match error {
        crate::client::ClientError::Late { .. } => FailureKind::Timeout,
        _ => FailureKind::Error,
    };
    Try::Failure { kind, after }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_at_the_same_time_are_work_once() {
        let seconds = Duration::from_secs;
        let mut work = Work::default();
        assert_eq!(work.end(seconds(1)), Duration::ZERO, "of a request from before");
        work.begin(seconds(10));
        work.begin(seconds(11));
        assert_eq!(work.end(seconds(12)), Duration::ZERO);
        assert_eq!(work.end(seconds(15)), seconds(5));
        work.begin(seconds(20));
        assert_eq!(work.end(seconds(21)), seconds(1), "the pause is no work");
    }

    #[test]
    fn a_request_that_outlasts_its_node_teaches_nothing() {
        let observations = Observations::new(route::Config::default(), &membership::Config::default());
        let id: NodeId = "GC".parse().expect("a name");
        observations.expect(std::iter::once(&id));
        observations.begin(&id);
        observations.saw(&id, &Try::FirstByte { after: Duration::from_millis(1) }, Source::Request);
        let seen = observations.of(&id);
        assert!(seen.measurements.has_answered() && seen.liveness == Liveness::Alive);
        observations.expect(std::iter::empty());
        observations.saw(&id, &Try::FirstByte { after: Duration::from_millis(1) }, Source::Request);
        observations.end(&id);
        let seen = observations.of(&id);
        assert_eq!((seen.measurements, seen.liveness), (Measurements::default(), Liveness::Down));
        assert!(observations.state().measured.is_empty());
    }
}
