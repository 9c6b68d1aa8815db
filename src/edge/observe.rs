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
        }
        let gone: Vec<_> = state.detector.snapshot(now).into_keys().filter(|id| !ids.contains(&id)).collect();
        for id in gone {
            state.detector.forget(&id);
            state.measured.remove(&id);
        }
    }

    /// A try of `id` begins.
    pub(super) fn begin(&self, id: &NodeId) {
        self.state().measured.entry(id.clone()).or_default().measurements.begin();
        self.changed.notify_one();
    }

    /// A try of `id` that had begun ends.
    pub(super) fn end(&self, id: &NodeId, outcome: Option<&Try>) {
        self.record(id, outcome, true);
    }

    /// A probe of `id` ends.
    pub(super) fn probed(&self, id: &NodeId, outcome: &Try) {
        self.record(id, Some(outcome), false);
    }

    fn record(&self, id: &NodeId, outcome: Option<&Try>, begun: bool) {
        let now = self.started.elapsed();
        let mut state = self.state();
        let observed = state.measured.entry(id.clone()).or_default();
        if begun {
            observed.measurements.end();
        }
        if let Some(outcome) = outcome {
            observed.measurements.record(outcome, now, &self.config);
            if let Try::Success { bytes, .. } = outcome {
                if *bytes >= self.config.rate_bytes_min.get() {
                    observed.rate_at = Some(now);
                }
                state.detector.heard(id, now);
            }
        }
        drop(state);
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
