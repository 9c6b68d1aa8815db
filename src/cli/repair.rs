//! `metacdn repair [NODE]`: nodes look through all their bytes now, and mend what is damaged or missing.

use std::time::Duration;

use clap::Args;
use futures_util::future::join_all;
use serde_json::json;
use tokio::time::Instant;

use super::failure::{Reported, explain};
use super::output::{complain, table};
use super::status::SHORT;
use super::waiting::Waiting;
use super::{Cluster, Options, Output, Target, human};
use crate::client::{ClientError, Peer};
use crate::protocol::scrub::{PARTS, Round, ScrubStatus};

/// How often the nodes are asked how far they are.
const LOOK_PERIOD: Duration = Duration::from_millis(500);

/// How long a node may be silent meanwhile.
const SILENCE_MAX: Duration = Duration::from_secs(30);

/// How many blobs that nobody gives are named.
const NAMED_MAX: usize = 5;

/// What helps where no node has the bytes any more.
pub(super) const UPLOAD_AGAIN: &str =
    "upload the files again, under any key: `metacdn verify --bytes` names a key of each blob";

/// What is said of one blob that nobody gives, and of several.
const UNMENDED: [&str; 2] = [
    "blob is damaged or missing, and no other node has it",
    "blobs are damaged or missing, and no other node has them",
];

/// The arguments of `metacdn repair`.
#[derive(Debug, Args)]
pub struct RepairArgs {
    /// The node (its name, or HOST:PORT) [default: all]
    node: Option<String>,
    /// Wait until it is done, and say what was found; 1 is the exit code if something could not be mended
    #[arg(long)]
    wait: bool,
}

/// A node that is to look through its bytes.
struct Repaired {
    name: String,
    peer: Peer,
    /// Where it stands, or why it cannot say.
    state: Result<ScrubStatus, String>,
    /// The round that was the last one before, if that does not count.
    before_unix_ms: Option<u64>,
    answered: Instant,
}

/// Has nodes look through all their bytes.
///
/// # Errors
/// When no node answers, or one of them cannot be asked; with `--wait`, when something was not mended, too.
pub(super) async fn run(args: RepairArgs, options: &Options) -> anyhow::Result<()> {
    let cluster = Cluster::open(options)?;
    let targets = match &args.node {
        Some(name) => vec![cluster.server(name).await?],
        None => {
            let servers = cluster.members().await?.servers.into_iter();
            servers.map(|server| Target { id: Some(server.node.id), address: server.node.address }).collect()
        }
    };
    let started = targets.iter().map(|target| Repaired::start(target.to_string(), cluster.peer(target, SHORT)));
    let mut nodes = join_all(started).await;
    let output = options.output();
    if args.wait {
        let mut waiting = Waiting::start(output);
        while !nodes.iter().all(Repaired::is_done) {
            waiting.say(nodes.iter().map(Repaired::line).collect::<Vec<_>>().join(", "));
            tokio::time::sleep(LOOK_PERIOD).await;
            join_all(nodes.iter_mut().map(Repaired::look)).await;
        }
    }
    show(&nodes, args.wait, output)?;
    let is_well = |node: &Repaired| node.state.as_ref().is_ok_and(|state| !args.wait || state.unmended == 0);
    if nodes.iter().all(is_well) { Ok(()) } else { Err(Reported.into()) }
}

impl Repaired {
    async fn start(name: String, peer: Peer) -> Self {
        let started = async {
            let before = peer.scrub().await?;
            let state = peer.start_scrub().await?;
            // One that somebody has asked for already does as well.
            let is_under_way = before.round.full_speed && before.round.ended_unix_ms.is_none();
            Ok::<_, ClientError>((state, (!is_under_way).then_some(before.round.started_unix_ms)))
        };
        let (state, before_unix_ms) = match started.await {
            Ok((state, before)) => (Ok(state), before),
            Err(error) => (Err(explain(&error)), None),
        };
        Self { name, peer, state, before_unix_ms, answered: Instant::now() }
    }

    async fn look(&mut self) {
        if self.is_done() {
            return;
        }
        let asked = match self.peer.scrub().await {
            // It has restarted before it began.
            Ok(state) if !state.running && Some(state.round.started_unix_ms) == self.before_unix_ms => {
                self.peer.start_scrub().await
            }
            asked => asked,
        };
        match asked {
            Ok(state) => (self.state, self.answered) = (Ok(state), Instant::now()),
            Err(_) if self.answered.elapsed() < SILENCE_MAX => {}
            Err(error) => self.state = Err(explain(&error)),
        }
    }

    /// The round that counts, once it has begun.
    fn round(&self) -> Option<&Round> {
        let round = &self.state.as_ref().ok()?.round;
        Some(round).filter(|round| self.before_unix_ms != Some(round.started_unix_ms))
    }

    /// Whether nothing more is to be waited for.
    fn is_done(&self) -> bool {
        self.state.is_err() || self.round().is_some_and(|round| round.ended_unix_ms.is_some())
    }

    /// How many blobs are damaged or missing and not mended, also those that an earlier round has found.
    fn unmended(&self) -> u64 {
        self.state.as_ref().map_or(0, |state| state.unmended)
    }

    /// How far it is.
    fn line(&self) -> String {
        let name = &self.name;
        match self.round() {
            _ if self.state.is_err() => format!("{name} failed"),
            Some(Round { ended_unix_ms: Some(_), .. }) => format!("{name} done"),
            round => format!("{name} {} %", round.map_or(0, |round| round.parts * 100 / PARTS)),
        }
    }
}

fn show(nodes: &[Repaired], is_done: bool, output: Output) -> anyhow::Result<()> {
    if output.is_json() {
        for Repaired { name, state, .. } in nodes {
            match state {
                Ok(state) => output.answer_json(&json!({ "node": name, "scrub": state }))?,
                Err(reason) => output.answer_json(&json!({ "node": name, "error": reason }))?,
            }
        }
    } else if is_done {
        output.answer(results(nodes))?;
    } else {
        for Repaired { name, state, .. } in nodes {
            let Ok(ScrubStatus { unmended, .. }) = state else { continue };
            let so_far = match unmended {
                0 => String::new(),
                _ => format!(
                    " ({} damaged or missing and not mended so far)",
                    human::counted(*unmended, "blob is", "blobs are")
                ),
            };
            output.done(format_args!(
                "{name} looks through all its bytes{so_far}: `metacdn repair {name} --wait` says what it finds"
            ))?;
        }
    }
    for Repaired { name, state, .. } in nodes {
        match state {
            Err(reason) => complain(format_args!("error: {name} cannot be asked: {reason}")),
            Ok(ScrubStatus { unmended: unmended @ 1.., unmended_blobs, .. }) if is_done => {
                let named =
                    unmended_blobs.iter().take(NAMED_MAX).map(ToString::to_string).collect::<Vec<_>>().join(", ");
                let blobs = human::counted(*unmended, UNMENDED[0], UNMENDED[1]);
                complain(format_args!("error: {name}: {blobs}: {named}"));
            }
            Ok(_) => {}
        }
    }
    if is_done && nodes.iter().any(|node| node.unmended() > 0) {
        complain(UPLOAD_AGAIN);
    }
    Ok(())
}

fn results(nodes: &[Repaired]) -> comfy_table::Table {
    let mut header = vec!["NODE", "BLOBS", "BYTES", "DAMAGED", "MISSING", "MENDED"];
    // What an earlier round has found and nobody could mend is none of this round's finds.
    let is_unmended = nodes.iter().any(|node| node.unmended() > 0);
    header.extend(is_unmended.then_some("UNMENDED"));
    let mut table = table(&header, &header[1..]);
    for node in nodes {
        let mut row = vec![node.name.clone()];
        if let Some(Round { blobs, bytes, damaged, missing, mended, .. }) = node.round() {
            let counts = [*damaged, *missing, *mended].map(human::count);
            row.extend([human::count(*blobs), human::size(*bytes)].into_iter().chain(counts));
            row.extend(is_unmended.then(|| human::count(node.unmended())));
        }
        table.add_row(row);
    }
    table
}
