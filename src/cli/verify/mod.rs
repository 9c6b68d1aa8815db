//! `metacdn verify`: whether all nodes list the same, and hold the bytes that they list.
//!
//! Every node's feed is read from its beginning, so that deletions and records are compared, too. Entries that a node keeps
//! for itself alone are in no feed, and so are not compared.

mod bytes;
mod differences;
mod digests;
#[cfg(test)]
mod planted;
mod reading;
mod show;

use std::collections::HashSet;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::Args;
use futures_util::future::join_all;

use super::failure::{Reported, explain};
use super::waiting::Waiting;
use super::{Cluster, Options, Output, Target, human};
use crate::client::Deadlines;
use crate::model::NodeId;
use bytes::Checked;
use differences::{Difference, Gathering};
use digests::{Differing, Digests, KeyHash, compare};
use reading::{Reading, read_all};

/// Deadlines for a page of a feed, which a node reads from its disk.
const DEADLINES: Deadlines =
    Deadlines { connect: Duration::from_secs(5), first_byte: Duration::from_secs(10), idle: Duration::from_secs(10) };

/// The pause between two looks while differences are waited out: first, and at most.
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// Keys whose entries are read again to say what differs. Of each a node's entry is held, some hundred bytes.
const NAMED_MAX: usize = 10_000;

/// The arguments of `metacdn verify`.
#[derive(Debug, Args)]
#[command(after_help = "Exit codes: 0 all nodes are equal; 1 they differ, or one could not be read; 2 usage.")]
pub struct VerifyArgs {
    /// Also fetch every blob from every node, and hash it
    #[arg(long)]
    bytes: bool,
    /// Wait up to so many seconds until all nodes are equal
    #[arg(long, value_name = "SECONDS", default_value_t = 0, hide_default_value = true)]
    wait: u64,
    /// How many differences are shown
    #[arg(long, value_name = "N", default_value_t = 20)]
    limit: usize,
}

/// What was found.
struct Found {
    readings: Vec<Reading>,
    /// Why a node could not be read, in the order of `readings`.
    failures: Vec<Option<String>>,
    differing: Differing,
    differences: Vec<Difference>,
    /// What came of the bytes of each node, or why its feed could not be read again.
    checked: Vec<(NodeId, Result<Checked, String>)>,
}

/// Compares all nodes.
///
/// # Errors
/// When they differ, or one of them cannot be read.
pub(super) async fn run(args: VerifyArgs, options: &Options) -> anyhow::Result<()> {
    let cluster = Cluster::open(options)?;
    let members = cluster.members().await?;
    let readings = members.servers.into_iter().map(|server| {
        let target = Target { id: Some(server.node.id.clone()), address: server.node.address };
        Reading::new(server.node.id, cluster.peer(&target, DEADLINES))
    });
    let output = options.output();
    let named_max = args.limit.max(NAMED_MAX);
    let mut found = look(readings.collect(), Duration::from_secs(args.wait), named_max, output).await;
    found.name_differences().await?;
    if args.bytes {
        found.check_bytes(output).await;
    }
    show::show(&found, args.limit, output)?;
    if found.all_is_well() { Ok(()) } else { Err(Reported.into()) }
}

/// Reads what the nodes list until it is the same, or `wait` is over.
async fn look(mut readings: Vec<Reading>, wait: Duration, named_max: usize, output: Output) -> Found {
    let deadline = Instant::now() + wait;
    let mut pause = PAUSE_MIN;
    let mut waiting = None;
    loop {
        let outcomes = join_all(readings.iter_mut().map(Reading::advance)).await;
        let failures: Vec<_> = outcomes.into_iter().map(|outcome| outcome.err().map(|error| explain(&error))).collect();
        let read = readings.iter().zip(&failures).filter(|(_, failure)| failure.is_none());
        let lists: Vec<&Digests> = read.map(|(reading, _)| &reading.digests).collect();
        let differing = compare(&lists, named_max);
        let (keys, unread) = (differing.keys, failures.iter().flatten().count());
        let left = deadline.saturating_duration_since(Instant::now());
        if (keys == 0 && unread == 0) || left.is_zero() {
            return Found { readings, failures, differing, differences: Vec::new(), checked: Vec::new() };
        }
        if pause == PAUSE_MAX {
            let keys = human::counted(keys, "key differs", "keys differ");
            let unread = human::counted(unread as u64, "node", "nodes");
            let waiting = waiting.get_or_insert_with(|| Waiting::start(output));
            waiting.say(format!("waiting: {keys}, {unread} cannot be read"));
        }
        tokio::time::sleep(pause.min(left)).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

impl Found {
    /// The nodes that were read.
    fn read(&self) -> Vec<&Reading> {
        let all = self.readings.iter().zip(&self.failures);
        all.filter(|(_, failure)| failure.is_none()).map(|(reading, _)| reading).collect()
    }

    fn all_is_well(&self) -> bool {
        let whole =
            |checked: &Result<Checked, String>| checked.as_ref().is_ok_and(|checked| checked.damaged.is_empty());
        self.differing.keys == 0
            && self.failures.iter().all(Option::is_none)
            && self.checked.iter().all(|(_, checked)| whole(checked))
    }

    /// Reads the entries of keys that differ. What has become equal since is no difference any more.
    async fn name_differences(&mut self) -> anyhow::Result<()> {
        if self.differing.keys == 0 {
            return Ok(());
        }
        let wanted: HashSet<KeyHash> = self.differing.first.iter().copied().collect();
        let nodes = self.read();
        let horizons_ms = nodes.iter().map(|reading| reading.digests.horizon_ms).collect();
        let mut gathering = Gathering::new(horizons_ms);
        for (index, reading) in nodes.iter().enumerate() {
            let note = |entry: crate::model::Entry| {
                if wanted.contains(&KeyHash::of(&entry.key)) {
                    gathering.note(index, entry);
                }
            };
            read_all(&reading.peer, note).await.with_context(|| format!("cannot read {} again", reading.node))?;
        }
        self.differences = gathering.differences();
        self.differing.keys -= (wanted.len() - self.differences.len()) as u64;
        Ok(())
    }

    /// Fetches and hashes what each node lists, one node after the other.
    async fn check_bytes(&mut self, output: Output) {
        let mut all = Vec::new();
        for reading in self.read() {
            let checked = bytes::check(&reading.node, &reading.peer, output).await;
            all.push((reading.node.clone(), checked.map_err(|error| explain(&error))));
        }
        self.checked = all;
    }
}
