//! Taking a node that keeps failing out of the choice, and letting it back in step by step.
//!
//! An ejected node is not forgotten: it stands behind all others, so that it is still there when nothing else is.

use std::num::{NonZeroU32, NonZeroU64};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Try;

/// When a node is ejected, and how it comes back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// So many failures in a row eject a node.
    pub failures_in_row: NonZeroU32,
    /// So many failures of a hundred tries of late eject it, too.
    pub failures_per_cent: u32,
    /// Fewer tries than this, of late, are no share of anything.
    pub tries_min: NonZeroU32,
    /// How long it is out the first time; each time it is ejected again doubles that.
    pub out_ms: u64,
    /// The longest time out.
    pub out_ms_max: u64,
    /// How long it takes until a node that is back gets all requests again that it would get.
    pub slow_start_ms: NonZeroU64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            // One failure is a restart somewhere, two are bad luck.
            failures_in_row: NonZeroU32::new(3).expect("not zero"),
            failures_per_cent: 50,
            tries_min: NonZeroU32::new(20).expect("not zero"),
            out_ms: 5_000,
            out_ms_max: 300_000,
            slow_start_ms: NonZeroU64::new(30_000).expect("not zero"),
        }
    }
}

/// How long the outcomes of tries count for the share that fails.
const WINDOW: Duration = Duration::from_secs(10);

/// How much a time out is stretched or shortened at most, so that nodes that fell together do not come back together.
const SPREAD: f64 = 0.2;

/// What a try was made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// A user's request.
    Request,
    /// A look at whether the node lives. It touches no object, so where it succeeds requests may still fail.
    Probe,
}

/// Whether a node may be chosen.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Standing {
    /// As any other.
    In,
    /// For this share of the keys, from 0 to 1: it was out and may not bear everything yet.
    Recovering(f64),
    /// After all others, since then.
    Out(Duration),
}

/// What is held against one node.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Record {
    /// Of requests, since one of them succeeded.
    requests_failed: u32,
    /// Of probes, since anything succeeded.
    probes_failed: u32,
    /// Requests and those that failed, each decayed by [`WINDOW`].
    tries: f64,
    failures: f64,
    at: Duration,
    state: State,
    /// How often it was ejected without a long good time in between.
    times: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Default)]
enum State {
    #[default]
    In,
    Out {
        since: Duration,
        until: Duration,
    },
    Back {
        since: Duration,
    },
}

impl Record {
    /// Learns what was seen of a try for `source` at `now`; `chance` gives a number from 0 to 1 that spreads the
    /// returns.
    pub fn note(&mut self, seen: &Try, source: Source, now: Duration, chance: impl FnOnce() -> f64, config: &Config) {
        let failed = match seen {
            // A client that leaves says nothing of the node, and a node that begins all its answers may end none.
            Try::Abandoned { .. } | Try::FirstByte { .. } => return,
            Try::Failure { .. } => true,
            Try::Body { .. } => false,
        };
        self.count(failed, source, now);
        match self.state {
            // Answers of requests that were under way do not shorten the time out; the first one after it ends it.
            State::Out { until, .. } if now < until => {}
            State::Out { .. } if failed => self.eject(now, chance(), config),
            State::Out { .. } => {
                (self.requests_failed, self.tries, self.failures) = (0, 0.0, 0.0);
                self.state = State::Back { since: now };
            }
            State::In | State::Back { .. } if self.is_bad(config) => self.eject(now, chance(), config),
            State::In | State::Back { .. } => {}
        }
    }

    /// A probe that succeeds takes back what probes have held against the node, and nothing that requests have: a node
    /// whose disk is broken answers probes every second.
    fn count(&mut self, failed: bool, source: Source, now: Duration) {
        match (source, failed) {
            (Source::Probe, true) => self.probes_failed = self.probes_failed.saturating_add(1),
            (Source::Probe, false) => self.probes_failed = 0,
            (Source::Request, true) => self.requests_failed = self.requests_failed.saturating_add(1),
            (Source::Request, false) => (self.requests_failed, self.probes_failed) = (0, 0),
        }
        if source == Source::Request {
            let kept = (-now.saturating_sub(self.at).as_secs_f64() / WINDOW.as_secs_f64()).exp();
            self.at = now.max(self.at);
            self.tries = self.tries * kept + 1.0;
            self.failures = self.failures * kept + f64::from(u8::from(failed));
        }
    }

    fn is_bad(&self, config: &Config) -> bool {
        let share = self.failures * 100.0 > self.tries * f64::from(config.failures_per_cent);
        let failures_in_row = self.requests_failed.saturating_add(self.probes_failed);
        failures_in_row >= config.failures_in_row.get() || share && self.tries >= f64::from(config.tries_min.get())
    }

    fn eject(&mut self, now: Duration, chance: f64, config: &Config) {
        if let State::Back { since } = self.state {
            // Each slow start that went well makes up for one time out.
            let good = now.saturating_sub(since).as_millis() / u128::from(config.slow_start_ms.get());
            self.times = self.times.saturating_sub(u32::try_from(good).unwrap_or(u32::MAX));
        }
        let out_ms = config.out_ms.saturating_mul(1 << self.times.min(20)).min(config.out_ms_max);
        let spread = 1.0 + SPREAD * (2.0 * chance - 1.0);
        let since = match self.state {
            State::Out { since, .. } => since,
            State::In | State::Back { .. } => now,
        };
        self.state = State::Out { since, until: now + Duration::from_millis(out_ms).mul_f64(spread) };
        self.times = self.times.saturating_add(1);
    }

    /// Whether the node may be chosen at `now`.
    pub fn standing(&self, now: Duration, config: &Config) -> Standing {
        match self.state {
            State::In => Standing::In,
            State::Out { since, .. } => Standing::Out(since),
            State::Back { since } => {
                let share = now.saturating_sub(since).as_secs_f64() * 1_000.0 / config.slow_start_ms.get() as f64;
                if share >= 1.0 { Standing::In } else { Standing::Recovering(share) }
            }
        }
    }
}

/// Lets those back in that fell last where more than half are out: then it is not they who are at fault, and the few
/// that are left would have to bear everything. `standings` are those of the nodes that can be chosen at all: one that
/// is down bears nothing, and must not keep one in that fails.
pub(super) fn keep_half_in<'a>(standings: impl Iterator<Item = &'a mut Standing>) {
    let standings: Vec<_> = standings.collect();
    let out_max = standings.len() / 2;
    let mut out: Vec<_> = standings.into_iter().filter(|standing| matches!(standing, Standing::Out(_))).collect();
    let since = |standing: &Standing| if let Standing::Out(since) = standing { *since } else { Duration::ZERO };
    out.sort_by_key(|standing| since(standing));
    out.into_iter().skip(out_max).for_each(|standing| *standing = Standing::In);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::route::FailureKind;

    const ERROR: Try = Try::Failure { kind: FailureKind::Error, after: Duration::ZERO };
    const ANSWER: Try = Try::Body { bytes: 0, took: Duration::ZERO };

    const fn secs(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    struct Node {
        record: Record,
        config: Config,
    }

    impl Node {
        fn new() -> Self {
            Self { record: Record::default(), config: Config::default() }
        }

        fn saw(&mut self, now: Duration, tries: &[Try]) -> Standing {
            self.saw_by(Source::Request, now, tries)
        }

        fn saw_by(&mut self, source: Source, now: Duration, tries: &[Try]) -> Standing {
            tries.iter().for_each(|seen| self.record.note(seen, source, now, || 0.5, &self.config));
            self.at(now)
        }

        fn at(&self, now: Duration) -> Standing {
            self.record.standing(now, &self.config)
        }
    }

    #[test]
    fn three_failures_in_a_row_eject() {
        let mut node = Node::new();
        assert_eq!(node.saw(secs(1), &[ERROR, ERROR, ANSWER, ERROR, ERROR]), Standing::In);
        let gone = Try::Abandoned { after: secs(9) };
        assert_eq!(node.saw(secs(1), &[gone, gone]), Standing::In, "clients that leave are no failures");
        let begun = Try::FirstByte { after: secs(0) };
        assert_eq!(node.saw(secs(1), &[begun]), Standing::In, "an answer that began has not ended well yet");
        assert_eq!(node.saw(secs(2), &[ERROR]), Standing::Out(secs(2)));
    }

    #[test]
    fn more_failures_than_answers_eject_if_there_were_enough_tries() {
        let two_of_three: Vec<_> = [ERROR, ERROR, ANSWER].repeat(6);
        let mut node = Node::new();
        assert_eq!(node.saw(secs(1), &two_of_three), Standing::In);
        assert_eq!(node.saw(secs(1), &[ERROR, ANSWER, ERROR]), Standing::Out(secs(1)));
        let mut half = Node::new();
        assert_eq!(half.saw(secs(1), &[ANSWER, ERROR].repeat(100)), Standing::In);
    }

    #[test]
    fn a_success_after_the_time_out_readmits_and_requests_come_back_slowly() {
        let mut node = Node::new();
        node.saw(secs(0), &[ERROR; 3]);
        assert_eq!(node.saw(secs(4), &[ANSWER]), Standing::Out(secs(0)), "not before its time is over");
        assert_eq!(node.at(secs(60)), Standing::Out(secs(0)), "nobody knows yet whether it is well");
        assert_eq!(node.saw(secs(60), &[ANSWER]), Standing::Recovering(0.0));
        assert_eq!(node.at(secs(75)), Standing::Recovering(0.5));
        assert_eq!(node.at(secs(90)), Standing::In);
    }

    #[test]
    fn each_time_out_is_twice_as_long_and_good_times_make_up_for_it() {
        let mut node = Node::new();
        node.saw(secs(0), &[ERROR; 3]);
        // Its time is over after 5 s: the failed try of then is the second time, 10 s.
        assert_eq!(node.saw(secs(5), &[ERROR]), Standing::Out(secs(0)));
        assert_eq!(node.saw(secs(14), &[ANSWER]), Standing::Out(secs(0)));
        assert_eq!(node.saw(secs(15), &[ANSWER]), Standing::Recovering(0.0));
        let soon = Node { record: node.record, config: node.config.clone() };
        for (mut node, again, out_secs) in [(soon, 20, 20), (node, 80, 5)] {
            node.saw(secs(again), &[ERROR; 3]);
            assert_eq!(node.saw(secs(again + out_secs - 1), &[ANSWER]), Standing::Out(secs(again)));
            assert_eq!(node.saw(secs(again + out_secs), &[ANSWER]), Standing::Recovering(0.0));
        }
        let mut hopeless = Node::new();
        hopeless.saw(secs(0), &[ERROR; 3]);
        for n in 1..=100 {
            hopeless.saw(secs(n * 1_000), &[ERROR]);
        }
        assert_eq!(hopeless.saw(secs(100_301), &[ANSWER]), Standing::Recovering(0.0), "never longer than the bound");
    }

    #[test]
    fn chance_spreads_the_returns_by_a_fifth() {
        for (chance, back_ms) in [(0.0, 4_000), (1.0, 6_000)] {
            let (mut record, config) = (Record::default(), Config::default());
            let mut note = |seen, now_ms| {
                record.note(seen, Source::Request, Duration::from_millis(now_ms), || chance, &config);
                record
            };
            (0..3).for_each(|_| _ = note(&ERROR, 0));
            assert!(matches!(note(&ANSWER, back_ms - 1).standing(secs(6), &config), Standing::Out(_)));
            let record = note(&ANSWER, back_ms);
            assert!(matches!(record.standing(secs(6), &config), Standing::Recovering(_)));
        }
    }

    #[test]
    fn probes_that_succeed_excuse_no_request_that_failed() {
        let mut node = Node::new();
        for second in 0..3 {
            assert_eq!(node.saw_by(Source::Probe, secs(second), &[ANSWER; 9]), Standing::In);
            node.saw(secs(second), &[ERROR]);
        }
        assert_eq!(node.at(secs(2)), Standing::Out(secs(2)), "three in a row");
        assert_eq!(node.saw_by(Source::Probe, secs(6), &[ANSWER]), Standing::Out(secs(2)), "not before its time");
        assert_eq!(node.saw_by(Source::Probe, secs(7), &[ANSWER]), Standing::Recovering(0.0));
        assert_ne!(node.saw(secs(8), &[ERROR, ERROR]), Standing::Out(secs(8)), "what was before is forgiven");
        assert_eq!(node.saw(secs(8), &[ERROR]), Standing::Out(secs(8)));
        assert_eq!(node.saw_by(Source::Probe, secs(17), &[ANSWER]), Standing::Out(secs(8)), "twice as long");

        let mut half = Node::new();
        for second in 0..4 {
            half.saw_by(Source::Probe, secs(second), &[ANSWER; 9]);
            half.saw(secs(second), &[ERROR, ERROR, ANSWER].repeat(3));
        }
        assert!(matches!(half.at(secs(3)), Standing::Out(_)), "two thirds of the requests");
    }

    #[test]
    fn probes_that_fail_eject_unless_one_succeeds_in_between() {
        let mut node = Node::new();
        assert_eq!(node.saw_by(Source::Probe, secs(1), &[ERROR, ERROR, ANSWER, ERROR, ERROR]), Standing::In);
        assert_eq!(node.saw(secs(2), &[ERROR]), Standing::Out(secs(2)));
        let mut answering = Node::new();
        answering.saw_by(Source::Probe, secs(1), &[ERROR, ERROR]);
        answering.saw(secs(1), &[ANSWER]);
        assert_eq!(answering.saw_by(Source::Probe, secs(1), &[ERROR, ERROR]), Standing::In);
        assert_eq!(answering.saw_by(Source::Probe, secs(2), &[ERROR]), Standing::Out(secs(2)));
    }

    #[test]
    fn at_most_half_are_out_those_that_fell_first() {
        let out = |seconds| Standing::Out(secs(seconds));
        for (mut standings, expected) in [
            (vec![out(1)], vec![Standing::In]),
            (vec![out(2), out(1)], vec![Standing::In, out(1)]),
            (vec![out(3), out(1), out(2)], vec![Standing::In, out(1), Standing::In]),
            (
                vec![out(2), Standing::In, Standing::Recovering(0.1), out(1)],
                vec![out(2), Standing::In, Standing::Recovering(0.1), out(1)],
            ),
        ] {
            keep_half_in(standings.iter_mut());
            assert_eq!(standings, expected);
        }
    }
}
