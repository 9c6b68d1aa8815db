//! `metacdn delete KEY…`: deletes objects, on all nodes.

use anyhow::bail;
use clap::Args;
use futures_util::{StreamExt, stream};
use http::StatusCode;
use serde_json::json;

use super::list::Pages;
use super::upload::at_least;
use crate::cli::failure::{Reported, UsageError, explain};
use crate::cli::output::complain;
use crate::cli::{Cluster, Options, Target, human};
use crate::client::{ClientError, Deadlines, Peer};
use crate::model::{ObjectKey, WaitFor};

/// Deletions on their way at a time.
const PARALLEL: usize = 8;

/// The arguments of `metacdn delete`.
#[derive(Debug, Args)]
pub struct DeleteArgs {
    /// The objects
    #[arg(required_unless_present = "prefix")]
    keys: Vec<ObjectKey>,
    /// Delete everything whose key begins with this; needs --yes
    #[arg(long, value_name = "P", conflicts_with = "keys")]
    prefix: Option<String>,
    /// How many nodes are to know of each deletion: 1 to 64, quorum or all [default: two, as far as there are]
    #[arg(long, value_name = "N|quorum|all")]
    wait_for: Option<WaitFor>,
    /// Do it, however many there are
    #[arg(long)]
    yes: bool,
}

/// Deletes objects.
///
/// # Errors
/// When no node answers, or an object is not there.
pub(crate) async fn run(args: DeleteArgs, options: &Options) -> anyhow::Result<()> {
    let cluster = Cluster::open(options)?;
    let peer = cluster.any().await?;
    let keys = match args.prefix {
        Some(prefix) => below(&peer, prefix, args.yes).await?,
        None => args.keys,
    };
    let output = options.output();
    let (mut deleted, mut least) = (0, None::<u32>);
    {
        let delete = async |key| (key, delete(&cluster, &peer, key, args.wait_for).await);
        let mut outcomes = stream::iter(&keys).map(delete).buffer_unordered(PARALLEL);
        while let Some((key, outcome)) = outcomes.next().await {
            let shown = human::shown(key.as_str());
            let (copies, error) = match outcome {
                Ok(copies) => (Some(copies), None),
                Err(error) => (fewer(&error), Some(explain(error.as_ref()))),
            };
            match (&error, copies) {
                (None, _) => {
                    deleted += 1;
                    least = least.min(copies).or(copies);
                }
                (Some(reason), None) => complain(format_args!("error: cannot delete {shown}: {reason}")),
                (Some(reason), Some(_)) => {
                    complain(format_args!("error: {shown} is deleted, but too few nodes know it: {reason}"));
                }
            }
            if output.is_json() {
                let deleted = copies.is_some();
                output.answer_json(&json!({ "key": key, "deleted": deleted, "copies": copies, "error": error }))?;
            }
        }
    }
    let copies = least.map_or_else(String::new, at_least);
    match keys.as_slice() {
        [key] if deleted == 1 => output.done(format_args!("deleted {}{copies}", human::shown(key.as_str())))?,
        keys if deleted == keys.len() => output.done(format_args!("deleted {deleted} objects{copies}"))?,
        keys => output.done(format_args!("deleted {deleted} of {} objects{copies}", keys.len()))?,
    }
    if deleted == keys.len() { Ok(()) } else { Err(Reported.into()) }
}

/// How many nodes know of a deletion that more were to know of.
fn fewer(error: &anyhow::Error) -> Option<u32> {
    match error.downcast_ref() {
        Some(ClientError::FewerCopies { copies, .. }) => Some(*copies),
        _ => None,
    }
}

/// The keys that begin with `prefix`, if it is sure that they are to go.
async fn below(peer: &Peer, prefix: String, sure: bool) -> anyhow::Result<Vec<ObjectKey>> {
    let mut pages = Pages::new(prefix.clone(), None);
    let mut keys = Vec::new();
    while let Some(page) = pages.next(peer).await? {
        keys.extend(page.into_iter().map(|object| object.key));
    }
    if !sure && !keys.is_empty() {
        let count = keys.len();
        return Err(
            UsageError(format!("{count} objects begin with {prefix:?}: repeat with --yes to delete them")).into()
        );
    }
    Ok(keys)
}

/// Deletes one object; answers how many nodes know it. A node that lags may not have it yet, so that the others are asked, too.
async fn delete(cluster: &Cluster, peer: &Peer, key: &ObjectKey, wait_for: Option<WaitFor>) -> anyhow::Result<u32> {
    let missing = match peer.delete_object_waiting(key, wait_for).await {
        Err(error) if error.status() == Some(StatusCode::NOT_FOUND) => error,
        outcome => return Ok(outcome?),
    };
    let mut reasons = Vec::new();
    for server in cluster.members().await?.servers {
        let target = Target { id: Some(server.node.id), address: server.node.address };
        match cluster.peer(&target, Deadlines::default()).delete_object_waiting(key, wait_for).await {
            Ok(copies) => return Ok(copies),
            Err(error @ ClientError::FewerCopies { .. }) => return Err(error.into()),
            Err(error) if error.status() == Some(StatusCode::NOT_FOUND) => {}
            Err(error) => reasons.push(explain(&error)),
        }
    }
    // One node that does not have it says nothing of those that did not answer.
    if reasons.is_empty() { Err(ClientError::into(missing)) } else { bail!("cannot tell: {}", reasons.join("; ")) }
}
