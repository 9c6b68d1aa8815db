//! A node that is killed in the middle of a large download, and what the client notices of it.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use serde::Serialize;

use super::cluster::{Cluster, MACHINES};
use super::figures;
use super::screen::Screen;
use super::traffic::totals;
use super::web::{Web, route_field, target_of};
use crate::model::{ContentHash, ObjectKey, Variant};

/// What every connection to a node carries meanwhile: so slowly that half of the download is a moment of its own.
pub(super) const BYTES_PER_SECOND: u64 = 6_000_000;

/// Asked for by a policy, an answer comes from a node and never from the proxy's memory.
const POLICY: &str = "n";

/// A download whose node was killed when half of the bytes had come.
#[derive(Debug, Serialize)]
pub(super) struct Loss {
    pub(super) key: ObjectKey,
    pub(super) bytes: u64,
    pub(super) seconds: f64,
    /// Whether the bytes are those that were published.
    pub(super) hash_equal: bool,
    /// The node that was killed, and what it had sent.
    pub(super) killed: Share,
    /// Who went on. It is one, unless that one fails, too.
    pub(super) went_on: Vec<Share>,
    /// The longest wait for the next bytes.
    pub(super) gap_max_seconds: f64,
    /// The usual wait: half of all waits were shorter.
    pub(super) gap_usual_seconds: f64,
    /// What the client lost: the longest wait without the usual one.
    pub(super) lost_seconds: f64,
}

/// What of a download one node sent.
#[derive(Debug, Serialize)]
pub(super) struct Share {
    pub(super) node: String,
    pub(super) bytes: u64,
}

/// Downloads `key`, which has `hash` and `size`, and kills the node that sends it half way. The node stays away.
///
/// # Errors
/// When the download does not arrive as it was published, or no other node went on with it.
pub(super) async fn lose_half_way(
    screen: &Screen,
    cluster: &mut Cluster,
    web: &Web,
    key: &ObjectKey,
    (hash, size): (ContentHash, u64),
) -> anyhow::Result<Loss> {
    let before = totals(web).await?.nodes;
    let answer = web.begin(&target_of(key, Variant::Original), Some(POLICY)).await?;
    let killed = route_field(answer.route(), "node")?;
    let number = MACHINES.iter().position(|machine| machine.name == killed).context("the node is one of the three")?;
    let bars = screen.bars(&[("download".to_owned(), size)]);
    let (begun, mut heard_at, mut read, mut gaps) = (Instant::now(), Instant::now(), 0, Vec::new());
    let mut alive = true;
    let answer = answer.read(|bytes| {
        gaps.push(heard_at.elapsed());
        heard_at = Instant::now();
        read += bytes;
        if alive && read >= size / 2 {
            cluster.kill_node(number);
            alive = false;
        }
        let from = if alive { format!("from {killed}") } else { format!("{killed} is dead") };
        bars.set(0, read, format!("{}  {from}", figures::bytes(read)));
    });
    let answer = answer.await?;
    let seconds = begun.elapsed().as_secs_f64();
    drop(bars);
    let hash_equal = (answer.hash, answer.bytes) == (hash, size);
    ensure!(hash_equal, "{} bytes of hash {} came, not {size} of {hash}", answer.bytes, answer.hash);
    let shares = totals(web).await?.nodes.into_iter().map(|(node, traffic)| {
        let earlier = before.get(&node).copied().unwrap_or_default();
        Share { node, bytes: traffic.bytes - earlier.bytes }
    });
    let (mut lost, went_on): (Vec<_>, Vec<_>) =
        shares.filter(|share| share.bytes > 0).partition(|share| share.node == killed);
    let killed = lost.pop().with_context(|| format!("{killed} sent nothing"))?;
    let sum = killed.bytes + went_on.iter().map(|share| share.bytes).sum::<u64>();
    ensure!(!went_on.is_empty() && sum == size, "the nodes together sent {sum} bytes, not {size}: {went_on:?}");
    gaps.sort_unstable();
    let (usual, longest) = (gaps[gaps.len() / 2], gaps[gaps.len() - 1]);
    Ok(Loss {
        key: key.clone(),
        bytes: answer.bytes,
        seconds,
        hash_equal,
        killed,
        went_on,
        gap_max_seconds: longest.as_secs_f64(),
        gap_usual_seconds: usual.as_secs_f64(),
        lost_seconds: (longest - usual).as_secs_f64(),
    })
}

impl Loss {
    /// Shows who sent what, and what it cost the client.
    pub(super) fn show(&self, screen: &Screen) {
        let time = |seconds| figures::time(Duration::from_secs_f64(seconds));
        let line = |label: &str, figure: String, words: String| {
            screen.line(&format!("    {label:<9}{figure:>9}   {words}"));
        };
        let Share { node, bytes } = &self.killed;
        line(node, figures::bytes(*bytes), "then it was killed: connections reset, nothing drained".to_owned());
        for share in &self.went_on {
            line(&share.node, figures::bytes(share.bytes), format!("went on by range where {node} broke off"));
        }
        let lost = format!("the longest wait for bytes, less the usual {}", time(self.gap_usual_seconds));
        line("time lost", time(self.lost_seconds), lost);
    }

    /// What the client has, in a line.
    pub(super) fn summary(&self) -> String {
        format!("the client has all {}, hash equal, in one answer", figures::bytes(self.bytes))
    }
}
