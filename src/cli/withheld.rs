//! `metacdn withheld`: what a node that was brought back from a backup does not list, because it may have been deleted.

use anyhow::bail;
use clap::{Args, Subcommand};
use http::StatusCode;

use super::confirm::confirm;
use super::output::table;
use super::{Cluster, Options, Output, human};
use crate::client::{ClientError, Deadlines, Peer};
use crate::model::{Entry, EntryState, NodeId};
use crate::protocol::status::{Settled, Status};

/// How many entries a person is shown.
const ROWS_MAX: u64 = 1000;

/// The arguments of `metacdn withheld`.
#[derive(Debug, Args)]
pub struct WithheldArgs {
    #[command(subcommand)]
    what: What,
}

/// What to do with it.
#[derive(Debug, Subcommand)]
enum What {
    /// List it
    List(Which),
    /// Write it anew, as if it were uploaded now: all nodes get it
    TakeBack {
        #[command(flatten)]
        which: Which,
        /// Do not wait until the other members were read: there are none any more
        #[arg(long)]
        alone: bool,
    },
    /// Give it up
    Discard {
        #[command(flatten)]
        which: Which,
        /// Do not wait until the other members were read: there are none any more
        #[arg(long)]
        alone: bool,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
}

/// Which withheld entries are meant.
#[derive(Debug, Args)]
struct Which {
    /// The node (its name, or HOST:PORT)
    node: String,
    /// Only what begins with this
    #[arg(default_value = "", hide_default_value = true)]
    prefix: String,
}

/// Refuses what would leave out what `node`, which says `status`, withholds.
///
/// # Errors
/// When it withholds anything.
pub(super) fn require_settled(node: &NodeId, status: &Status) -> anyhow::Result<()> {
    if status.withheld == 0 {
        return Ok(());
    }
    bail!(
        "{node} withholds {} of a backup, which no other node may have: settle them first, `metacdn withheld list {node}` \
         shows them",
        human::counted(status.withheld, "entry", "entries")
    );
}

/// Shows or settles what a node withholds.
///
/// # Errors
/// When the node does not answer or refuses, or nobody says that something is to be given up.
pub(super) async fn run(args: WithheldArgs, options: &Options) -> anyhow::Result<()> {
    let cluster = Cluster::open(options)?;
    let output = options.output();
    let peer = async |which: &Which| -> anyhow::Result<Peer> {
        Ok(cluster.peer(&cluster.server(&which.node).await?, Deadlines::default()))
    };
    match args.what {
        What::List(which) => list(&peer(&which).await?, &which, options).await,
        What::TakeBack { which, alone } => {
            let taken = peer(&which).await?.take_back_withheld(&which.prefix, alone).await;
            match settled(taken)? {
                0 => nothing(&which, output),
                entries => {
                    let entries = human::counted(entries, "entry", "entries");
                    output.done(format_args!("{} writes {entries} anew, and all nodes get them", which.node))
                }
            }
        }
        What::Discard { which, alone, yes } => {
            let peer = peer(&which).await?;
            let mut found = 0;
            let count = |_| {
                found += 1;
                Ok(())
            };
            each(&peer, &which.prefix, count).await?;
            if found > 0 {
                let found = human::counted(found, "entry", "entries");
                confirm(format!("Give up {found} that {} withholds?", which.node), yes).await?;
            }
            match settled(peer.discard_withheld(&which.prefix, alone).await)? {
                0 => nothing(&which, output),
                entries => {
                    let entries = human::counted(entries, "entry", "entries");
                    output.done(format_args!("{} has given up {entries}", which.node))
                }
            }
        }
    }
}

/// Nothing was there to be settled: as it should be where all was meant, and a mistake where some of it was.
fn nothing(which: &Which, output: Output) -> anyhow::Result<()> {
    let nothing = format!("{} withholds nothing{}", which.node, below(&which.prefix));
    if which.prefix.is_empty() { output.done(nothing) } else { bail!(nothing) }
}

/// How many entries were settled, or what to do where it is too early for that.
fn settled(answer: Result<Settled, ClientError>) -> anyhow::Result<u64> {
    match answer {
        Ok(settled) => Ok(settled.entries),
        Err(error) if error.status() == Some(StatusCode::CONFLICT) => bail!(
            "it is not known yet what is doubtful: the node has still to read other members. Start them, forget those that \
             are gone for good (`metacdn servers`, `metacdn forget`), or repeat with --alone if none is left"
        ),
        Err(error) => Err(error.into()),
    }
}

async fn list(peer: &Peer, which: &Which, options: &Options) -> anyhow::Result<()> {
    let output = options.output();
    let node = &which.node;
    let mut shown = table(&["KEY", "SIZE", "WRITTEN", "BY"], &["SIZE"]);
    let (mut all, mut rows) = (0_u64, 0_u64);
    let see = |entry: Entry| {
        all += 1;
        if output.is_json() {
            return output.answer_json(&entry);
        }
        if all <= ROWS_MAX {
            rows += 1;
            shown.add_row(row(&entry));
        }
        Ok(())
    };
    each(peer, &which.prefix, see).await?;
    if output.is_json() {
        return Ok(());
    }
    if all == 0 {
        return output.done(format_args!("{node} withholds nothing{}", below(&which.prefix)));
    }
    output.answer(&shown)?;
    if all > rows {
        output.note(format_args!("and {} more: narrow them by a prefix, or read --json", human::count(all - rows)));
    }
    output.note(format_args!(
        "No other node has them, and they may have been deleted. A prefix says which are meant:\n  \
         metacdn withheld take-back {node} [PREFIX]   writes them anew, for all nodes\n  \
         metacdn withheld discard {node} [PREFIX]     gives them up"
    ));
    Ok(())
}

fn row(entry: &Entry) -> [String; 4] {
    let size = match &entry.state {
        EntryState::Live(content) => human::size(content.size),
        EntryState::Deleted => "deleted".to_owned(),
        EntryState::Record(_) => "record".to_owned(),
    };
    let written = human::local_time(entry.version.time.unix_ms());
    [human::shown(entry.key.as_str()), size, written, entry.version.origin.node.to_string()]
}

fn below(prefix: &str) -> String {
    if prefix.is_empty() { String::new() } else { format!(" below {}", human::shown(prefix)) }
}

/// Hands over each entry that the node withholds below `prefix`.
async fn each(peer: &Peer, prefix: &str, mut see: impl FnMut(Entry) -> anyhow::Result<()>) -> anyhow::Result<()> {
    let mut after = None;
    loop {
        let page = peer.withheld(prefix, after.as_ref()).await?;
        let Some(last) = page.last() else { return Ok(()) };
        after = Some(last.key.clone());
        page.into_iter().try_for_each(&mut see)?;
    }
}
