//! `metacdn forget NODE`: a member that is gone for good is no longer waited for.

use anyhow::anyhow;
use clap::Args;
use http::StatusCode;

use super::confirm::confirm;
use super::profile::Beside;
use super::{Cluster, Options, human};
use crate::client::{ClientError, Peer};
use crate::model::NodeId;
use crate::protocol::status::Server;

/// The arguments of `metacdn forget`.
#[derive(Debug, Args)]
pub struct ForgetArgs {
    /// The node, as `metacdn servers` names it
    node: String,
    /// Forget it although it lives and may hold what no other node has
    #[arg(long)]
    force: bool,
    /// Do not ask
    #[arg(long)]
    yes: bool,
}

/// Has the cluster forget a node.
///
/// # Errors
/// When no other node answers, none has that name, it lives and has not handed over what it holds, or nobody says yes.
pub(super) async fn run(args: ForgetArgs, options: &Options) -> anyhow::Result<()> {
    let Beside { peer, server } = Cluster::open(options)?.beside(&args.node).await?;
    let node = server.node.id.clone();
    let output = options.output();
    if !args.yes {
        output.note(meaning(&server));
    }
    confirm(format!("Forget {node}?"), args.yes).await?;
    forget(&peer, &node, args.force).await.map_err(|error| match error.status() {
        Some(StatusCode::CONFLICT) => anyhow!(
            "{node} is not forgotten: it lives and may hold what others lack. `metacdn drain {node}` hands that over \
             first; or stop it and wait until it is down; or give that up with --force"
        ),
        _ => anyhow::Error::new(error).context(format!("cannot forget {node}")),
    })?;
    output.done(format_args!(
        "{node} is forgotten: the machine can come back under a new name, with an empty data folder"
    ))
}

/// Has the cluster forget `node`.
///
/// # Errors
/// As [`Peer::forget`]. That somebody else has done it meanwhile is none.
pub(super) async fn forget(peer: &Peer, node: &NodeId, force: bool) -> Result<(), ClientError> {
    match peer.forget(node, force).await {
        Err(error) if error.status() == Some(StatusCode::NOT_FOUND) => Ok(()),
        outcome => outcome,
    }
}

/// What it means that a node is forgotten.
fn meaning(server: &Server) -> String {
    let (node, liveness) = (&server.node.id, server.liveness);
    let behind = human::behind(server.behind, server.behind_bytes, server.behind_seconds);
    format!(
        "{node} is {liveness}, behind: {behind}. Once it is forgotten\n\
         - its name is spent: the machine can come back under another one alone, empty;\n\
         - deletions that it has not passed are no longer remembered for it;\n\
         - what it alone holds is lost to the cluster."
    )
}
