//! `metacdn maintenance NODE` and `metacdn resume NODE`: sets a node apart before it is stopped, and takes it back.

use anyhow::Context;
use clap::Args;

use super::{Cluster, Options};
use crate::model::{MemberState, NodeId};

/// The arguments of `metacdn maintenance` and `metacdn resume`.
#[derive(Debug, Args)]
pub struct NodeArgs {
    /// The node, as `metacdn servers` names it
    node: String,
}

/// Sets a node apart: clients and readers are sent to others.
///
/// # Errors
/// When no node answers, or none has that name.
pub(super) async fn begin(args: NodeArgs, options: &Options) -> anyhow::Result<()> {
    let node = set(&args.node, MemberState::Maintenance, options).await?;
    options.output().done(format_args!(
        "{node} is in maintenance: it takes no writes, and is read from where no other answers; end it with \
         `metacdn resume {node}`"
    ))
}

/// Takes a node back.
///
/// # Errors
/// As [`begin`].
pub(super) async fn end(args: NodeArgs, options: &Options) -> anyhow::Result<()> {
    let node = set(&args.node, MemberState::Active, options).await?;
    options.output().done(format_args!("{node} takes writes and answers readers again"))
}

async fn set(name: &str, state: MemberState, options: &Options) -> anyhow::Result<NodeId> {
    let (peer, node) = Cluster::open(options)?.member(name).await?;
    peer.set_state(&node, state).await.with_context(|| format!("cannot change what {node} is for"))?;
    Ok(node)
}
