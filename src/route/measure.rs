//! What tries teach about one node: how soon it answers, how fast it sends, how often it fails.
//!
//! Every estimate is weighted by elapsed time, so that neither a burst nor a lull changes how long the past counts.
//! Nothing is forgotten while nobody tries: a node's last bad moment stands until a try or a probe says otherwise.

use std::num::{NonZeroU32, NonZeroU64};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The least share of the success rate that outlasts the next try, however long ago it was: after a lull one failure
/// is one of two tries, not all that is known.
const RECORD_KEPT_MIN: f64 = 0.5;

/// The largest such share, however short the time: a burst of failures shows before it is over.
const RECORD_KEPT_MAX: f64 = 0.9;

/// The success rate below which time does not grow any further, so that it stays finite.
const SUCCESS_RATE_MIN: f64 = 0.01;

/// How tries are weighed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Time after which a measurement's weight has fallen to 37 % (1/e).
    pub decay_ms: NonZeroU64,
    /// What a failed try costs besides the time it took: the next node starts from nothing.
    pub retry_ms: u64,
    /// What an error counts above the time it took. Without it a node that refuses at once would look fast.
    pub error_penalty_ms: u64,
    /// The smallest transfer that teaches a rate; smaller ones fit the first packets and measure the buffers.
    pub rate_bytes_min: NonZeroU64,
    /// Requests in flight at which the time to the first byte is taken to double.
    pub capacity_requests: NonZeroU32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            decay_ms: NonZeroU64::new(10_000).expect("not zero"),
            retry_ms: 500,
            error_penalty_ms: 500,
            rate_bytes_min: NonZeroU64::new(64 * 1024).expect("not zero"),
            capacity_requests: NonZeroU32::new(64).expect("not zero"),
        }
    }
}

/// What was seen of a try at a node, each told when it is seen: a try is a head or a failure, and a head is followed by
/// a body or a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Try {
    /// The node began its answer.
    FirstByte {
        /// From sending the request to the first byte of the answer.
        after: Duration,
    },
    /// The node sent a body to its end.
    Body {
        /// Bytes of the body; 0 if its time says nothing of the node.
        bytes: u64,
        /// From the first byte of the answer to the last.
        took: Duration,
    },
    /// The node did not answer, or not to the end.
    Failure {
        /// How.
        kind: FailureKind,
        /// How long the node had been silent: since the request was sent, or since the last part of the body.
        after: Duration,
    },
    /// Nobody waits any longer for an answer that has not begun: the node is at least that slow, and has not failed.
    Abandoned {
        /// From sending the request to giving up.
        after: Duration,
    },
}

/// How a try fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureKind {
    /// A deadline passed: counts the full time.
    Timeout,
    /// Refused, broken off, or answered as a fault of the server: counts the time and a penalty.
    Error,
}

/// Time to the first byte: follows a rise at once, a fall slowly (peak-EWMA).
#[derive(Debug, Clone, Copy, PartialEq)]
struct FirstByte {
    seconds: f64,
    at: Duration,
}

/// Bytes over time, both decayed alike: a harmonic mean, in which slow transfers weigh as long as they took.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Rate {
    bytes: f64,
    seconds: f64,
    at: Duration,
}

/// What is known of one node. Begins with nothing but the benefit of the doubt: a success rate of 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Measurements {
    first_byte: Option<FirstByte>,
    rate: Option<Rate>,
    /// The share of time, of late, in which tries succeed. Not the share of tries: a node that failed under load and is
    /// now only probed would take as many probes to recover.
    success_rate: f64,
    /// When a try last succeeded or failed.
    tried_at: Option<Duration>,
    has_answered: bool,
    in_flight: u32,
}

/// What a node's expected time is made of: `first_byte_s` times `load_factor`, plus `transfer_s`, plus `failures_s`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct TimeParts {
    /// Time to the first byte of an idle node.
    pub first_byte_s: f64,
    /// Requests in flight.
    pub in_flight: u32,
    /// What those lengthen the time to the first byte by.
    pub load_factor: f64,
    /// Time of the body at the measured rate; 0 while that is unknown.
    pub transfer_s: f64,
    /// The measured rate.
    pub rate_bytes_per_s: Option<f64>,
    /// The share of time, of late, in which tries succeed.
    pub success_rate: f64,
    /// What tries in vain are expected to add.
    pub failures_s: f64,
}

impl Default for Measurements {
    fn default() -> Self {
        Self { first_byte: None, rate: None, success_rate: 1.0, tried_at: None, has_answered: false, in_flight: 0 }
    }
}

impl Measurements {
    /// Notes that a request to the node begins.
    pub const fn begin(&mut self) {
        self.in_flight = self.in_flight.saturating_add(1);
    }

    /// Notes that a request to the node is over, whoever ended it.
    pub const fn end(&mut self) {
        self.in_flight = self.in_flight.saturating_sub(1);
    }

    /// Learns what was seen of a try at `now`.
    pub fn record(&mut self, seen: &Try, now: Duration, config: &Config) {
        match *seen {
            Try::FirstByte { after } => {
                self.note_outcome(1.0, now, config);
                self.has_answered = true;
                self.learn_first_byte(after.as_secs_f64(), now, config);
            }
            Try::Body { bytes, took } => {
                self.note_outcome(1.0, now, config);
                if bytes >= config.rate_bytes_min.get() {
                    self.learn_rate(bytes, took, now, config);
                }
            }
            // Of a node that was never tried it would be all that is known, and too little.
            Try::Abandoned { after } if self.is_measured() => self.raise_first_byte(after.as_secs_f64(), now),
            Try::Abandoned { .. } => {}
            Try::Failure { kind: FailureKind::Timeout, after } => self.fail(after.as_secs_f64(), now, config),
            Try::Failure { kind: FailureKind::Error, after } => {
                self.fail(after.as_secs_f64() + seconds(config.error_penalty_ms), now, config);
            }
        }
    }

    /// Whether any try taught anything yet.
    pub const fn is_measured(&self) -> bool {
        self.first_byte.is_some()
    }

    /// Whether any try was answered yet.
    pub const fn has_answered(&self) -> bool {
        self.has_answered
    }

    /// The time in which the node is expected to have sent `size` bytes, retries elsewhere included, in seconds;
    /// `None` for a node that was never tried.
    ///
    /// An unknown rate costs no time: so the first large object teaches it, once, rather than never.
    pub fn time_s(&self, size: u64, config: &Config) -> Option<f64> {
        let time = self.first_byte?.seconds * self.load_factor(config) + self.transfer_s(size);
        let failure_rate = 1.0 - self.success_rate;
        Some(time / self.success_rate.max(SUCCESS_RATE_MIN) + failure_rate * seconds(config.retry_ms))
    }

    /// What [`Measurements::time_s`] is made of.
    pub fn time_parts(&self, size: u64, config: &Config) -> Option<TimeParts> {
        let first_byte_s = self.first_byte?.seconds;
        let load_factor = self.load_factor(config);
        let transfer_s = self.transfer_s(size);
        Some(TimeParts {
            first_byte_s,
            in_flight: self.in_flight,
            load_factor,
            transfer_s,
            // One that was taught by transfers that took no time at all is none that could be written down.
            rate_bytes_per_s: self.rate.map(|rate| rate.bytes / rate.seconds).filter(|rate| rate.is_finite()),
            success_rate: self.success_rate,
            failures_s: self.time_s(size, config)? - (first_byte_s * load_factor + transfer_s),
        })
    }

    fn load_factor(&self, config: &Config) -> f64 {
        1.0 + f64::from(self.in_flight) / f64::from(config.capacity_requests.get())
    }

    fn transfer_s(&self, size: u64) -> f64 {
        self.rate.map_or(0.0, |rate| size as f64 * rate.seconds / rate.bytes)
    }

    fn learn_first_byte(&mut self, sample: f64, now: Duration, config: &Config) {
        let Some(past) = self.first_byte else {
            self.first_byte = Some(FirstByte { seconds: sample, at: now });
            return;
        };
        let kept = kept_since(past.at, now, config);
        let smoothed = past.seconds * kept + sample * (1.0 - kept);
        self.first_byte = Some(FirstByte { seconds: smoothed.max(sample), at: now.max(past.at) });
    }

    /// A failure never lowers an estimate, not even a quick one on a node that was slower before.
    fn fail(&mut self, cost: f64, now: Duration, config: &Config) {
        self.note_outcome(0.0, now, config);
        self.raise_first_byte(cost, now);
    }

    fn raise_first_byte(&mut self, at_least: f64, now: Duration) {
        let past = self.first_byte.unwrap_or(FirstByte { seconds: 0.0, at: now });
        if at_least >= past.seconds {
            self.first_byte = Some(FirstByte { seconds: at_least, at: now.max(past.at) });
        }
    }

    fn note_outcome(&mut self, success: f64, now: Duration, config: &Config) {
        let kept = self.tried_at.map_or(0.0, |at| kept_since(at, now, config));
        self.tried_at = self.tried_at.max(Some(now));
        let kept = kept.clamp(RECORD_KEPT_MIN, RECORD_KEPT_MAX);
        self.success_rate = self.success_rate * kept + success * (1.0 - kept);
    }

    fn learn_rate(&mut self, bytes: u64, transfer: Duration, now: Duration, config: &Config) {
        let past = self.rate.unwrap_or(Rate { bytes: 0.0, seconds: 0.0, at: now });
        let kept = kept_since(past.at, now, config);
        self.rate = Some(Rate {
            bytes: past.bytes * kept + bytes as f64,
            seconds: past.seconds * kept + transfer.as_secs_f64(),
            at: now.max(past.at),
        });
    }
}

fn kept_since(then: Duration, now: Duration, config: &Config) -> f64 {
    (-now.saturating_sub(then).as_secs_f64() / seconds(config.decay_ms.get())).exp()
}

const fn seconds(ms: u64) -> f64 {
    ms as f64 / 1_000.0
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    impl Measurements {
        fn first_byte_s(&self) -> Option<f64> {
            self.first_byte.map(|first_byte| first_byte.seconds)
        }

        fn rate_bytes_per_s(&self) -> Option<f64> {
            self.rate.map(|rate| rate.bytes / rate.seconds)
        }
    }

    const fn ms(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    const fn answer(first_byte_ms: u64) -> Try {
        Try::FirstByte { after: ms(first_byte_ms) }
    }

    const fn failure(kind: FailureKind, after_ms: u64) -> Try {
        Try::Failure { kind, after: ms(after_ms) }
    }

    fn after(tries: &[(u64, Try)]) -> Measurements {
        let mut measurements = Measurements::default();
        for (at_ms, outcome) in tries {
            measurements.record(outcome, ms(*at_ms), &Config::default());
        }
        measurements
    }

    fn time_ms(measurements: &Measurements, size: u64) -> f64 {
        measurements.time_s(size, &Config::default()).expect("measured") * 1_000.0
    }

    fn near(value: f64, expected: f64) -> bool {
        (value - expected).abs() < 1e-6 * expected.abs().max(1.0)
    }

    #[test]
    fn what_was_never_tried_has_no_time() {
        assert_eq!(Measurements::default().time_s(0, &Config::default()), None);
        assert!(!Measurements::default().is_measured());
    }

    #[test]
    fn first_byte_rises_at_once_and_falls_with_elapsed_time() {
        assert!(near(time_ms(&after(&[(0, answer(40)), (0, answer(900))]), 0), 900.0));
        assert!(near(time_ms(&after(&[(0, answer(900)), (0, answer(40))]), 0), 900.0));
        let one_tau = 40.0 + 860.0 / std::f64::consts::E;
        assert!(near(time_ms(&after(&[(0, answer(900)), (10_000, answer(40))]), 0), one_tau));
        let often: Vec<_> = std::iter::once((0, answer(900))).chain((1..=100).map(|n| (n * 100, answer(40)))).collect();
        assert!(near(time_ms(&after(&often), 0), one_tau));
    }

    #[test]
    fn requests_in_flight_lengthen_the_first_byte() {
        let mut measurements = after(&[(0, answer(40))]);
        (0..64).for_each(|_| measurements.begin());
        assert!(near(time_ms(&measurements, 0), 80.0));
        (0..65).for_each(|_| measurements.end());
        assert!(near(time_ms(&measurements, 0), 40.0));
    }

    #[test]
    fn the_parts_of_a_time_make_it_up() {
        let body = Try::Body { bytes: 1_000_000, took: ms(500) };
        let mut measurements = after(&[(0, answer(40)), (0, body), (0, failure(FailureKind::Error, 0))]);
        (0..16).for_each(|_| measurements.begin());
        let parts = measurements.time_parts(100_000, &Config::default()).expect("measured");
        assert!(near(parts.first_byte_s, 0.5) && near(parts.load_factor, 1.25) && parts.in_flight == 16);
        assert!(near(parts.transfer_s, 0.05) && near(parts.rate_bytes_per_s.expect("taught"), 2_000_000.0));
        // 675 ms at a success rate of 0.9, and a tenth of a retry.
        assert!(near(parts.success_rate, 0.9) && near(parts.failures_s, 0.675 / 0.9 - 0.675 + 0.05));
        let sum = parts.first_byte_s * parts.load_factor + parts.transfer_s + parts.failures_s;
        assert!(near(sum * 1_000.0, time_ms(&measurements, 100_000)));
        assert_eq!(Measurements::default().time_parts(0, &Config::default()), None);
    }

    #[test]
    fn rates_average_by_time_and_only_large_transfers_teach_them() {
        let body = |bytes, took_ms| Try::Body { bytes, took: ms(took_ms) };
        // One MB in 1 s and one in 9 s: 2 MB in 10 s, not the 0.56 MB/s that the mean of both rates is.
        let both = after(&[(0, answer(0)), (0, body(1_000_000, 1_000)), (0, body(1_000_000, 9_000))]);
        assert!(near(both.rate_bytes_per_s().expect("taught"), 200_000.0));
        assert!(near(time_ms(&both, 100_000), 500.0));
        assert_eq!(after(&[(0, body(65_535, 1_000))]).rate_bytes_per_s(), None);
        let instant = after(&[(0, answer(0)), (0, body(65_536, 0))]);
        assert!(near(time_ms(&instant, u64::MAX), 0.0));
    }

    #[test]
    fn a_timeout_counts_its_time_and_an_error_a_penalty() {
        let timeout = after(&[(0, answer(40)), (1, failure(FailureKind::Timeout, 2_000))]);
        assert!(near(timeout.first_byte_s().expect("tried"), 2.0));
        let refused = after(&[(0, answer(40)), (1, failure(FailureKind::Error, 0))]);
        assert!(near(refused.first_byte_s().expect("tried"), 0.5));
        assert!(near(time_ms(&refused, 0), 500.0 / 0.9 + 0.1 * 500.0));
        assert!(near(after(&[(0, failure(FailureKind::Error, 0))]).success_rate, 0.5));
    }

    #[test]
    fn a_body_says_nothing_of_the_first_byte() {
        // A transfer of 60 s, in which others were answered ever sooner.
        let others: Vec<_> = (0..=60).map(|n| (n * 1_000, answer(if n == 0 { 900 } else { 40 }))).collect();
        let before = after(&others);
        let body = Try::Body { bytes: 1 << 30, took: ms(60_000) };
        let whole = after(&[&others[..], &[(60_000, body)]].concat());
        assert_eq!(whole.first_byte_s(), before.first_byte_s());
        let broken = after(&[&others[..], &[(60_000, failure(FailureKind::Error, 20))]].concat());
        assert!(near(broken.first_byte_s().expect("tried"), 0.52), "what it was silent for, and the penalty");
        assert!(broken.success_rate < before.success_rate);
    }

    #[test]
    fn an_abandoned_try_raises_the_first_byte_alone() {
        let past = [(0, answer(40)), (1_000, failure(FailureKind::Error, 0)), (2_000, answer(40))];
        let before = after(&past);
        let abandoned = |after_ms| after(&[&past[..], &[(3_000, Try::Abandoned { after: ms(after_ms) })]].concat());
        assert!(near(abandoned(2_000).first_byte_s().expect("tried"), 2.0));
        assert_eq!(abandoned(2_000).success_rate, before.success_rate);
        assert_eq!(abandoned(10), before, "a hasty client says nothing");
        assert!(!after(&[(0, Try::Abandoned { after: ms(9) })]).is_measured());
    }

    #[test]
    fn recovery_takes_two_tau() {
        let failures = (1..=100).map(|n| (n * 100, failure(FailureKind::Error, 1)));
        let mut tries: Vec<_> = std::iter::once((0, answer(50))).chain(failures).collect();
        let failing = time_ms(&after(&tries), 0);
        tries.extend((1..=20).map(|n| (10_000 + n * 1_000, answer(50))));
        let recovered = after(&tries);
        assert!(failing > 5_000.0, "{failing}");
        // What is left of the peak and of the record after two tau is e^-2, 14 %.
        assert!(recovered.success_rate > 0.85, "{}", recovered.success_rate);
        assert!(near(recovered.first_byte_s().expect("tried"), 0.05 + 0.451 * (-2.0_f64).exp()));
        assert!(time_ms(&recovered, 0) < 250.0, "{}", time_ms(&recovered, 0));
    }

    fn any_try() -> impl Strategy<Value = Try> {
        prop_oneof![
            (0..3_000_u64).prop_map(answer),
            (0..10_000_000_u64, 0..5_000_u64).prop_map(|(bytes, took)| Try::Body { bytes, took: ms(took) }),
            (0..3_000_u64).prop_map(|after| Try::Abandoned { after: ms(after) }),
            any_failure(),
        ]
    }

    fn any_failure() -> impl Strategy<Value = Try> {
        (any::<bool>(), 0..5_000_u64).prop_map(|(timeout, after)| {
            failure(if timeout { FailureKind::Timeout } else { FailureKind::Error }, after)
        })
    }

    proptest! {
        #[test]
        fn no_failure_ever_shortens_the_time(
            past in proptest::collection::vec((0..60_000_u64, any_try()), 1..20),
            last in any_failure(),
            later_ms in 0..600_000_u64,
            size in 0..100_000_000_u64,
        ) {
            let mut measurements = after(&[&[(0, answer(0))], &past[..]].concat());
            let before = time_ms(&measurements, size);
            prop_assert!(before.is_finite() && before >= 0.0);
            measurements.record(&last, ms(later_ms), &Config::default());
            prop_assert!(time_ms(&measurements, size) >= before);
            prop_assert!(measurements.success_rate >= 0.0 && measurements.success_rate <= 1.0);
        }
    }
}
