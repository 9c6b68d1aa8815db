//! What the edge sees of each node: tries and probes, and whether it is heard of.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use crate::membership::{self, Detector};
use crate::model::{Liveness, NodeId};
use crate::route::{FailureKind, Measurements, Try, measure};

/// Measurements and signs of life of all nodes. All methods are short and never wait.
pub(super) struct Observations {
    started: Instant,
    config: measure::Config,
    state: Mutex<State>,
    changed: Notify,
}

struct State {
    detector: Detector,
    measured: BTreeMap<NodeId, Observed>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Observed {
    measurements: Measurements,
    /// When the rate was last taught.
    rate_at: Option<Duration>,
}

impl Observations {
    pub(super) fn new(config: measure::Config, membership: &membership::Config) -> Self {
        let state = State { detector: Detector::new(membership), measured: BTreeMap::new() };
        Self { started: Instant::now(), config, state: Mutex::new(state), changed: Notify::new() }
    }

    /// Waits until something was observed since the last call.
    pub(super) async fn changed(&self) {
        self.changed.notified().await;
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
        self.change(id, |observed, _| observed.measurements.begin());
    }

    /// A request to `id` is over.
    pub(super) fn end(&self, id: &NodeId) {
        self.change(id, |observed, _| observed.measurements.end());
    }

    /// This was seen of a request to `id`, or of a probe.
    pub(super) fn saw(&self, id: &NodeId, seen: &Try) {
        self.change(id, |observed, now| {
            observed.measurements.record(seen, now, &self.config);
            if let Try::Body { bytes, .. } = seen
                && *bytes >= self.config.rate_bytes_min.get()
            {
                observed.rate_at = Some(now);
            }
        });
        if matches!(seen, Try::FirstByte { .. } | Try::Body { .. }) {
            let mut state = self.state();
            if state.measured.contains_key(id) {
                state.detector.heard(id, self.started.elapsed());
            }
        }
    }

    /// A request may outlast its node: what is then learnt concerns nobody.
    fn change(&self, id: &NodeId, change: impl FnOnce(&mut Observed, Duration)) {
        if let Some(observed) = self.state().measured.get_mut(id) {
            change(observed, self.started.elapsed());
        }
        self.changed.notify_one();
    }

    /// What is known of `id`, and whether it is heard of.
    pub(super) fn of(&self, id: &NodeId) -> (Measurements, Liveness) {
        let state = self.state();
        let measurements = state.measured.get(id).map(|observed| observed.measurements).unwrap_or_default();
        (measurements, state.detector.liveness(id, self.started.elapsed()))
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
    fn a_request_that_outlasts_its_node_teaches_nothing() {
        let observations = Observations::new(measure::Config::default(), &membership::Config::default());
        let id: NodeId = "GC".parse().expect("a name");
        observations.expect(std::iter::once(&id));
        observations.begin(&id);
        observations.saw(&id, &Try::FirstByte { after: Duration::from_millis(1) });
        assert!(observations.of(&id).0.has_answered() && observations.of(&id).1 == Liveness::Alive);
        observations.expect(std::iter::empty());
        observations.saw(&id, &Try::FirstByte { after: Duration::from_millis(1) });
        observations.end(&id);
        assert_eq!(observations.of(&id), (Measurements::default(), Liveness::Down));
        assert!(observations.state().measured.is_empty());
    }
}
