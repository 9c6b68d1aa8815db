//! `metacdn drain NODE`: a node leaves the cluster, after the others have all that it has.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::Args;
use futures_util::future::join_all;
use http::StatusCode;
use tokio::time::Instant;

use super::failure::explain;
use super::forget::forget;
use super::profile::Beside;
use super::status::SHORT;
use super::waiting::Waiting;
use super::withheld::require_settled;
use super::{Cluster, Options, Output, Target, human};
use crate::client::{ClientError, Peer};
use crate::model::{Liveness, MemberState, NodeId, VersionVector};
use crate::protocol::status::{Server, Status};

/// How often it is looked how far the others are.
const LOOK_PERIOD: Duration = Duration::from_millis(500);

/// How long one of the others may take to say how far it is: it is asked again.
const PING_DEADLINE: Duration = Duration::from_secs(1);

/// How long the leaving node may be silent meanwhile.
const SILENCE_MAX: Duration = Duration::from_secs(15);

/// How many of those that lack something are named.
const NAMED_MAX: usize = 3;

/// The arguments of `metacdn drain`.
#[derive(Debug, Args)]
#[command(after_help = "Ctrl-C leaves it draining: the same command goes on, `metacdn resume NODE` takes it back.")]
pub struct DrainArgs {
    /// The node, as `metacdn servers` names it
    node: String,
    /// Give up after so long, and leave it draining [default: as long as it takes]
    #[arg(long, value_name = "SECONDS")]
    wait: Option<u64>,
}

/// Sends users and writes to other nodes, waits until those hold all that this one has, and forgets it.
///
/// # Errors
/// When the node or all others cannot be asked, it keeps what would be lost, or the time is over.
pub(super) async fn run(args: DrainArgs, options: &Options) -> anyhow::Result<()> {
    let output = options.output();
    let cluster = Cluster::open(options)?;
    let Beside { peer: beside, server } = cluster.beside(&args.node).await?;
    let node = server.node.id.clone();
    let leaving = peer_of(&cluster, &server);
    let status = leaving.status().await.with_context(|| {
        format!("{node} cannot be asked what it has: start it, or give it up with `metacdn forget {node}`")
    })?;
    check(&node, &status, output)?;
    beside.set_state(&node, MemberState::Draining).await.with_context(|| format!("cannot drain {node}"))?;
    let draining = Draining { node: &node, output, done: false };
    output.note(format_args!("{node} takes no more writes, and is read from where no other answers"));
    let handing_over = hand_over(&cluster, &leaving, &beside, &node, output);
    match args.wait.map(Duration::from_secs) {
        None => handing_over.await?,
        Some(wait) => match tokio::time::timeout(wait, handing_over).await {
            Ok(outcome) => outcome?,
            Err(_) => bail!("the others do not hold all that {node} has after {}", human::time(wait)),
        },
    }
    draining.end();
    output.done(format_args!(
        "the others hold all that {node} had, and it is forgotten: it ends by itself, and the machine may be stopped"
    ))
}

/// Refuses where something would be lost with the node that a person can keep, and tells what cannot be kept.
fn check(node: &NodeId, status: &Status, output: Output) -> anyhow::Result<()> {
    require_settled(node, status)?;
    if status.strays > 0 {
        let strays = human::counted(status.strays, "object", "objects");
        output.note(format_args!("warning: {strays} that {node} keeps for itself alone (distributed = T) go with it"));
    }
    Ok(())
}

/// A node that is left as it is, draining, unless it was forgotten; whoever gave up is told how to go on.
struct Draining<'a> {
    node: &'a NodeId,
    output: Output,
    done: bool,
}

impl Draining<'_> {
    fn end(mut self) {
        self.done = true;
    }
}

impl Drop for Draining<'_> {
    fn drop(&mut self) {
        if !self.done {
            let node = self.node;
            self.output.note(format_args!(
                "{node} stays draining: `metacdn drain {node}` goes on, `metacdn resume {node}` takes it back"
            ));
        }
    }
}

/// Waits until all others hold what the node has, and has it forgotten.
async fn hand_over(
    cluster: &Cluster,
    leaving: &Peer,
    beside: &Peer,
    node: &NodeId,
    output: Output,
) -> anyhow::Result<()> {
    let mut waiting = Waiting::start(output);
    waiting.say(format!("asking what {node} has"));
    let mut before: Option<Look> = None;
    let mut passed_over = BTreeSet::new();
    let mut answered = Instant::now();
    loop {
        match look(cluster, leaving, beside, node).await {
            Ok(look) => {
                answered = Instant::now();
                let was_draining = before.as_ref().is_some_and(|before| before.state == MemberState::Draining);
                if was_draining && look.state != MemberState::Draining {
                    bail!("somebody has taken {node} back meanwhile");
                }
                for down in look.down.iter().filter(|down| passed_over.insert((*down).clone())) {
                    waiting.note(&format!("warning: {down} is down and is not waited for"));
                }
                waiting.say(look.line(node));
                // A write that the node took just before it heard that it is to leave shows as another vector.
                let is_settled = before.is_some_and(|before| before.held == look.held);
                if is_settled && look.is_handed_over() && has_forgotten(beside, node).await? {
                    return Ok(());
                }
                before = Some(look);
            }
            Err(error) if answered.elapsed() < SILENCE_MAX => waiting.say(explain(&error)),
            Err(error) => return Err(error).with_context(|| format!("{node} is not drained")),
        }
        tokio::time::sleep(LOOK_PERIOD).await;
    }
}

/// Has the node forgotten, unless `beside`, whose knowledge of the others is a second old, does not agree yet.
async fn has_forgotten(beside: &Peer, node: &NodeId) -> Result<bool, ClientError> {
    match forget(beside, node, false).await {
        Ok(()) => Ok(true),
        Err(error) if error.status() == Some(StatusCode::CONFLICT) => Ok(false),
        Err(error) => Err(error),
    }
}

/// How far the others are.
struct Look {
    /// What the leaving node knows that it is for.
    state: MemberState,
    /// What it still waits for itself.
    wants: u64,
    want_bytes: u64,
    /// Which writes of each origin it has passed.
    held: VersionVector,
    /// Those that have not passed all of them, and how many entries and bytes they still have to take in.
    lacking: Vec<(NodeId, Option<u64>, Option<u64>)>,
    /// Those that cannot be waited for.
    down: Vec<NodeId>,
}

async fn look(cluster: &Cluster, leaving: &Peer, beside: &Peer, node: &NodeId) -> Result<Look, ClientError> {
    let seen = leaving.servers().await?.servers;
    // After its state: what it takes as a node that is to leave is in its vector.
    let own = leaving.ping_for_vector().await?;
    let held = own.vector.unwrap_or_default();
    let others = beside.servers().await?.servers.into_iter().filter(|server| server.node.id != *node);
    let (down, others): (Vec<_>, Vec<_>) = others.partition(|server| server.liveness == Liveness::Down);
    let covers = join_all(others.iter().map(async |server| {
        let peer = peer_of(cluster, server);
        let pong = tokio::time::timeout(PING_DEADLINE, peer.ping_for_vector()).await.ok()?.ok()?;
        Some(pong.vector?.covers(&held))
    }));
    let covers = covers.await;
    let as_seen = |id: &NodeId| seen.iter().find(|server| server.node.id == *id);
    let lacking = others.iter().zip(covers).filter(|(_, covers)| *covers != Some(true)).map(|(server, _)| {
        let id = &server.node.id;
        let (entries, bytes) = as_seen(id).map_or((None, None), |server| (server.behind, server.behind_bytes));
        (id.clone(), entries, bytes)
    });
    Ok(Look {
        state: as_seen(node).map_or(MemberState::Active, |server| server.state),
        wants: own.wants,
        want_bytes: own.want_bytes,
        lacking: lacking.collect(),
        held,
        down: down.into_iter().map(|server| server.node.id).collect(),
    })
}

impl Look {
    fn is_handed_over(&self) -> bool {
        self.state == MemberState::Draining && self.wants == 0 && self.lacking.is_empty()
    }

    /// In a line.
    fn line(&self, node: &NodeId) -> String {
        if self.state != MemberState::Draining {
            return format!("{node} has not heard yet that it is to leave");
        }
        if self.wants > 0 {
            return format!(
                "{node} itself still lacks {}",
                human::behind(Some(self.wants), Some(self.want_bytes), None)
            );
        }
        if self.lacking.is_empty() {
            return format!("the others hold all that {node} has");
        }
        let named = self.lacking.iter().take(NAMED_MAX).map(|(id, entries, bytes)| match entries {
            None | Some(0) => id.to_string(),
            _ => format!("{id} ({})", human::behind(*entries, *bytes, None)),
        });
        let more = match self.lacking.len().saturating_sub(NAMED_MAX) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        format!("waiting for {}{more}", named.collect::<Vec<_>>().join(", "))
    }
}

fn peer_of(cluster: &Cluster, server: &Server) -> Peer {
    let target = Target { id: Some(server.node.id.clone()), address: server.node.address.clone() };
    cluster.peer(&target, SHORT)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str) -> NodeId {
        name.parse().expect("a name")
    }

    #[test]
    fn a_line_says_who_lacks_how_much() {
        let lacking = |names: &[&str]| names.iter().map(|name| (node(name), Some(1204), Some(3_100_000))).collect();
        let mut look = Look {
            state: MemberState::Draining,
            wants: 2,
            want_bytes: 40,
            held: VersionVector::default(),
            lacking: lacking(&["A", "B", "C", "D", "E"]),
            down: Vec::new(),
        };
        assert_eq!(look.line(&node("X")), "X itself still lacks 2 · 40 B");
        look.wants = 0;
        let all = "waiting for A (1,204 · 3.1 MB), B (1,204 · 3.1 MB), C (1,204 · 3.1 MB) and 2 more";
        assert_eq!((look.line(&node("X")).as_str(), look.is_handed_over()), (all, false));
        look.lacking = vec![(node("A"), Some(0), Some(0))];
        assert_eq!((look.line(&node("X")).as_str(), look.is_handed_over()), ("waiting for A", false));
        look.lacking.clear();
        assert_eq!((look.line(&node("X")).as_str(), look.is_handed_over()), ("the others hold all that X has", true));
        look.state = MemberState::Active;
        assert!(!look.is_handed_over());
    }
}
