//! `metacdn purge`: has the caches of all edges, or of one, forget something.

use anyhow::Context as _;
use clap::{Args, Subcommand};

use super::failure::UsageError;
use super::{Cluster, Options, explain, profile};
use crate::model::{Address, Purge, PurgeTarget};

/// The arguments of `metacdn purge`.
#[derive(Debug, Args)]
pub struct PurgeArgs {
    #[command(subcommand)]
    what: What,
    /// Keep it, and ask whether it is right before it is used again
    #[arg(long, global = true)]
    soft: bool,
    /// The admin address of an edge: this one forgets it, and no other [default: all edges of the cluster]
    #[arg(long, value_name = "HOST:PORT", global = true)]
    edge: Option<Address>,
}

/// What is to be forgotten.
#[derive(Debug, Subcommand)]
enum What {
    /// What a URL names, such as https://example.org/a.html
    Url {
        /// The URL; by http and https alike
        url: String,
    },
    /// All whose URLs begin so, such as https://example.org/img/
    Prefix {
        /// How they begin
        prefix: String,
    },
    /// All of a host
    Host {
        /// The host
        host: String,
    },
    /// All that have a tag in Cache-Tag or Surrogate-Key
    Tag {
        /// The tag
        tag: String,
    },
}

/// Has edges forget something.
///
/// # Errors
/// When it makes no sense, or neither a node nor the edge answers.
pub(super) async fn run(args: PurgeArgs, options: &Options) -> anyhow::Result<()> {
    let PurgeArgs { what, soft, edge } = args;
    let target = match what {
        What::Url { url } => PurgeTarget::Url(url),
        What::Prefix { prefix } => PurgeTarget::Prefix(prefix),
        What::Host { host } => PurgeTarget::Host(host),
        What::Tag { tag } => PurgeTarget::Tag(tag),
    };
    let purge = Purge::new(target, soft).map_err(|error| UsageError(error.to_string()))?;
    let Some(address) = edge else {
        let peer = Cluster::open(options)?.any().await?;
        peer.purge(&purge).await.with_context(|| format!("cannot purge {purge}"))?;
        return options.output().done(format_args!("purged {purge}; all edges hear of it within a second"));
    };
    let config = profile::profile(options)?.map(|path| profile::read(&path)).transpose()?;
    let ways = explain::ways(&address, config.as_ref())?;
    explain::ask(&ways, &address, async |peer| peer.purge(&purge).await).await?;
    options.output().done(format_args!("purged {purge} at the edge {address}"))
}
