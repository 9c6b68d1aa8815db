//! Turns silence into suspicion, and long silence into absence.
//!
//! Knows neither how nodes are heard (a pull, a ping, a request that worked) nor what follows from their absence.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::model::{Liveness, NodeId};

/// How long a node may be silent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Silence after which a node is used after the others.
    pub suspect_after_ms: u64,
    /// Silence after which nobody is sent to a node.
    pub down_after_ms: u64,
}

impl Default for Config {
    /// Nodes are pinged each second. Three misses: one lost packet is common, three in a row on one path are not.
    /// Eight: well within the 15 s in which everybody must have noticed, well above a pause of the machine.
    fn default() -> Self {
        Self { suspect_after_ms: 3_000, down_after_ms: 8_000 }
    }
}

/// When each node was last heard.
///
/// ```
/// use std::time::Duration;
/// use metacdn::membership::{Config, Detector};
/// use metacdn::model::{Liveness, NodeId};
///
/// let aws: NodeId = "AWS".parse()?;
/// let mut detector = Detector::new(&Config::default());
/// detector.heard(&aws, Duration::ZERO);
/// assert_eq!(detector.liveness(&aws, Duration::from_secs(2)), Liveness::Alive);
/// assert_eq!(detector.liveness(&aws, Duration::from_secs(3)), Liveness::Suspect);
/// # Ok::<(), metacdn::model::NameError>(())
/// ```
#[derive(Debug, Clone)]
pub struct Detector {
    suspect_after: Duration,
    down_after: Duration,
    last_heard: BTreeMap<NodeId, Duration>,
}

impl Detector {
    /// A detector that watches nobody yet.
    pub fn new(config: &Config) -> Self {
        Self {
            suspect_after: Duration::from_millis(config.suspect_after_ms),
            down_after: Duration::from_millis(config.down_after_ms),
            last_heard: BTreeMap::new(),
        }
    }

    /// Watches `node`. One that was never heard counts as silent since it was first expected, so that a new member
    /// is alive until it had its time to speak; expecting a node again changes nothing.
    pub fn expect(&mut self, node: &NodeId, now: Duration) {
        if !self.last_heard.contains_key(node) {
            self.last_heard.insert(node.clone(), now);
        }
    }

    /// Notes that `node` spoke, and watches it if nobody expected it. Calls may come out of order.
    pub fn heard(&mut self, node: &NodeId, now: Duration) {
        match self.last_heard.get_mut(node) {
            Some(last) => *last = now.max(*last),
            None => drop(self.last_heard.insert(node.clone(), now)),
        }
    }

    /// Stops watching `node`.
    pub fn forget(&mut self, node: &NodeId) {
        self.last_heard.remove(node);
    }

    /// What is seen of `node`; one that is not watched is down.
    pub fn liveness(&self, node: &NodeId, now: Duration) -> Liveness {
        self.last_heard.get(node).map_or(Liveness::Down, |last| self.after_silence(now.saturating_sub(*last)))
    }

    /// What is seen of every watched node, by name.
    pub fn snapshot(&self, now: Duration) -> BTreeMap<NodeId, Liveness> {
        let seen = |last: &Duration| self.after_silence(now.saturating_sub(*last));
        self.last_heard.iter().map(|(node, last)| (node.clone(), seen(last))).collect()
    }

    fn after_silence(&self, silence: Duration) -> Liveness {
        if silence >= self.down_after {
            Liveness::Down
        } else if silence >= self.suspect_after {
            Liveness::Suspect
        } else {
            Liveness::Alive
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(name: &str) -> NodeId {
        name.parse().expect("a name")
    }

    const fn secs(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn silent_node_becomes_suspect_then_down() {
        let (mut members, id, t0) = (Detector::new(&Config::default()), id("AWS"), secs(1_000));
        members.heard(&id, t0);
        assert_eq!(members.liveness(&id, t0 + secs(2)), Liveness::Alive);
        assert_eq!(members.liveness(&id, t0 + secs(4)), Liveness::Suspect);
        assert_eq!(members.liveness(&id, t0 + secs(9)), Liveness::Down);
        members.heard(&id, t0 + secs(9));
        assert_eq!(members.liveness(&id, t0 + secs(9)), Liveness::Alive);
    }

    #[test]
    fn silence_counts_from_the_first_expectation() {
        let (mut members, id) = (Detector::new(&Config::default()), id("AWS"));
        assert_eq!(members.liveness(&id, secs(0)), Liveness::Down);
        members.expect(&id, secs(10));
        members.expect(&id, secs(17));
        assert_eq!(members.liveness(&id, secs(12)), Liveness::Alive);
        assert_eq!(members.liveness(&id, secs(18)), Liveness::Down);
        members.forget(&id);
        assert!(members.snapshot(secs(18)).is_empty());
    }

    #[test]
    fn an_older_word_does_not_undo_a_newer_one() {
        let (mut members, id) = (Detector::new(&Config::default()), id("AWS"));
        members.heard(&id, secs(10));
        members.heard(&id, secs(5));
        assert_eq!(members.liveness(&id, secs(12)), Liveness::Alive);
        assert_eq!(members.liveness(&id, secs(1)), Liveness::Alive);
    }

    #[test]
    fn unknown_settings_are_refused() {
        assert_eq!(toml::from_str::<Config>(""), Ok(Config::default()));
        assert!(toml::from_str::<Config>("suspect_after = 3").is_err());
    }
}
