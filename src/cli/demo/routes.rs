//! What the proxy decides: its table of candidates under each policy, and where a request really went.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use serde::{Deserialize, Serialize};

use super::figures;
use super::screen::{Screen, Tone};
use super::web::{Answer, Web, route_field};
use crate::model::{ContentHash, Liveness, NanoDollars, ObjectKey};

/// The policies that are shown: price, time, and both at three weights.
pub(super) const POLICIES: [(&str, &str); 5] = [
    ("p", "the lowest price"),
    ("n", "the shortest time"),
    ("c 0.1", "both; time weighs nine times as much"),
    ("c 0.5", "both; a dollar an hour weighs as much as a second"),
    ("c 0.9", "both; price weighs nine times as much"),
];

/// How long the table may be unsettled. Measurements move between a look at it and the request that follows, and on a
/// busy machine a node is suspect for a moment and rightly ranked last; both pass soon.
const PATIENCE: Duration = Duration::from_secs(60);

/// How long is waited before an unsettled table is looked at again.
const LOOK_PERIOD: Duration = Duration::from_millis(100);

/// How far above the best score a node still counts as equal to it; the edge's default, and a rounding.
const BAND: f64 = 1.010_001;

/// A node as the proxy weighs it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Candidate {
    pub(super) node: String,
    pub(super) liveness: String,
    /// Dollars an hour.
    pub(super) price: Option<NanoDollarsText>,
    pub(super) time_s: Option<f64>,
    pub(super) score: Option<f64>,
    pub(super) reason: String,
}

/// Money as the proxy writes it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct NanoDollarsText(String);

impl NanoDollarsText {
    fn dollars(&self) -> anyhow::Result<f64> {
        Ok(self.0.parse::<NanoDollars>()?.get() as f64 / 1e9)
    }
}

#[derive(Debug, Deserialize)]
struct Ranking {
    routes: Vec<Candidate>,
}

/// What was decided for one request.
#[derive(Debug, Serialize)]
pub(super) struct Decision {
    pub(super) policy: String,
    pub(super) meaning: &'static str,
    pub(super) key: ObjectKey,
    /// The nodes in the order in which they would have been tried.
    pub(super) candidates: Vec<Candidate>,
    /// The node that answered.
    pub(super) node: String,
    /// Why.
    pub(super) reason: String,
    /// The `metacdn-route` header of the answer.
    pub(super) header: String,
    pub(super) bytes: u64,
    pub(super) seconds: f64,
}

/// Fetches `key` under `policy` and says what was decided, and by what.
///
/// # Errors
/// When the proxy fails, the bytes are not those of `hash`, or the choice is not what the policy says.
pub(super) async fn decide(
    web: &Web,
    key: &ObjectKey,
    hash: ContentHash,
    (policy, meaning): (&str, &'static str),
) -> anyhow::Result<Decision> {
    let started = Instant::now();
    loop {
        let Ranking { routes: candidates } = web.ranking(key, policy).await?;
        let patient = started.elapsed() < PATIENCE;
        if patient && !all_alive(&candidates) {
            tokio::time::sleep(LOOK_PERIOD).await;
            continue;
        }
        let begun = Instant::now();
        let answer = web.fetch(key, Some(policy)).await?;
        let seconds = begun.elapsed().as_secs_f64();
        ensure!(answer.hash == hash, "the bytes of {key} have the hash {}, not {hash}", answer.hash);
        let (node, reason) = (route_field(&answer.route, "node")?, route_field(&answer.route, "reason")?);
        let first = candidates.first().context("the proxy knows no node")?;
        if patient && first.node != node {
            tokio::time::sleep(LOOK_PERIOD).await;
            continue;
        }
        ensure!(first.node == node, "{node} answered, but {} is first in the table", first.node);
        check(policy, &candidates)?;
        let Answer { bytes, route: header, .. } = answer;
        let (policy, key) = (policy.to_owned(), key.clone());
        return Ok(Decision { policy, meaning, key, candidates, node, reason, header, bytes, seconds });
    }
}

/// Whether every node may be chosen: by the formulas alone, nothing is said of the others' places.
fn all_alive(candidates: &[Candidate]) -> bool {
    let alive = Liveness::Alive.to_string();
    candidates.iter().all(|candidate| candidate.liveness == alive)
}

/// Recomputes the choice from the figures of the table, by the formulas that the documentation gives.
fn check(policy: &str, candidates: &[Candidate]) -> anyhow::Result<()> {
    let weigh = |candidate: &Candidate| {
        let price = candidate.price.as_ref().with_context(|| format!("{} has no price", candidate.node))?.dollars()?;
        let time = candidate.time_s.with_context(|| format!("{} is not measured", candidate.node))?;
        anyhow::Ok(match policy.strip_prefix("c ") {
            Some(beta) => {
                let beta: f64 = beta.parse()?;
                beta * price + (1.0 - beta) * time
            }
            None if policy == "p" => price,
            None => time,
        })
    };
    let weights = candidates.iter().map(weigh).collect::<anyhow::Result<Vec<_>>>()?;
    let least = weights.iter().copied().fold(f64::INFINITY, f64::min);
    let band = if policy.starts_with('c') { BAND } else { 1.0 };
    for (candidate, weight) in candidates.iter().zip(&weights) {
        let score = candidate.score.with_context(|| format!("{} has no score", candidate.node))?;
        ensure!((score - weight).abs() < 1e-6, "{} scores {score}, by the formula {weight}", candidate.node);
    }
    ensure!(weights[0] <= least * band, "{} is chosen although another node is better", candidates[0].node);
    Ok(())
}

impl Decision {
    /// Shows the table, the chosen node first.
    pub(super) fn show(&self, screen: &Screen) {
        screen.line("");
        let title = format!("  {:<6} {}", self.policy, self.meaning);
        screen.line(&screen.toned(Tone::Strong, &title));
        let head = format!("      {:<9}{:>10}{:>11}{:>10}   {}", "node", "$/hour", "time", "score", "reason");
        screen.line(&screen.toned(Tone::Faint, &head));
        for (place, candidate) in self.candidates.iter().enumerate() {
            let price = candidate.price.as_ref().map_or("-", |price| price.0.as_str());
            let time = candidate.time_s.map_or("-".to_owned(), |s| figures::time(Duration::from_secs_f64(s)));
            let score = candidate.score.map_or("-".to_owned(), |score| format!("{score:.4}"));
            let arrow = if place == 0 { "→" } else { " " };
            let (node, reason) = (&candidate.node, &candidate.reason);
            let row = format!("    {arrow} {node:<9}{price:>10}{time:>11}{score:>10}   {reason}");
            screen.line(&if place == 0 { screen.toned(Tone::Good, &row) } else { row });
        }
    }

    /// What happened, in a line.
    pub(super) fn summary(&self) -> String {
        format!("{} gave {} ({}, hash equal)", self.node, self.key, figures::bytes(self.bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(node: &str, price: &str, time_s: f64, score: f64) -> Candidate {
        let (node, liveness, reason) = (node.to_owned(), "alive".to_owned(), "best-score".to_owned());
        let price = Some(NanoDollarsText(price.to_owned()));
        Candidate { node, liveness, price, time_s: Some(time_s), score: Some(score), reason }
    }

    #[test]
    fn a_table_with_a_suspect_is_unsettled() {
        let mut table = [candidate("near", "0.30", 0.01, 0.01), candidate("cheap", "0.10", 0.06, 0.06)];
        assert!(all_alive(&table));
        table[1].liveness = Liveness::Suspect.to_string();
        assert!(!all_alive(&table));
    }

    #[test]
    fn a_wrong_choice_is_noticed() {
        let (near, cheap) = (("near", "0.30", 0.01), ("cheap", "0.10", 0.06));
        let table = |policy: &str, [first, second]: [(&str, &str, f64, f64); 2]| {
            let row = |(node, price, time, score)| candidate(node, price, time, score);
            check(policy, &[row(first), row(second)]).is_ok()
        };
        let with = |(node, price, time): (&'static str, &'static str, f64), score| (node, price, time, score);
        assert!(table("p", [with(cheap, 0.10), with(near, 0.30)]));
        assert!(!table("p", [with(near, 0.30), with(cheap, 0.10)]));
        assert!(table("n", [with(near, 0.01), with(cheap, 0.06)]));
        assert!(!table("n", [with(cheap, 0.06), with(near, 0.01)]));
        assert!(table("c 0.1", [with(near, 0.039), with(cheap, 0.064)]));
        assert!(table("c 0.9", [with(cheap, 0.096), with(near, 0.271)]));
        assert!(!table("c 0.9", [with(cheap, 0.95), with(near, 0.271)]), "a score that is not the formula's");
        assert!(!table("c 0.9", [with(near, 0.271), with(cheap, 0.096)]));
    }
}
