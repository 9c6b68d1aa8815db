//! `metacdn list [PREFIX]`: the objects, in the order of their keys.

use std::fmt::Write as _;

use clap::Args;
use serde_json::json;
use tokio::io::AsyncWriteExt as _;

use crate::cli::output::written;
use crate::cli::{Cluster, Options, human};
use crate::client::{ClientError, Deadlines, Peer};
use crate::model::{ObjectKey, ObjectMeta};

/// How many objects are asked for at once: the most that a node gives.
const PAGE: usize = 1000;

/// The arguments of `metacdn list`.
#[derive(Debug, Args)]
pub struct ListArgs {
    /// Only keys that begin with this
    #[arg(default_value = "", hide_default_value = true)]
    prefix: String,
    /// At most so many
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    /// Ask this node: its name, or HOST:PORT
    #[arg(long, value_name = "SERVER")]
    from: Option<String>,
}

/// Lists objects.
///
/// # Errors
/// When no node answers.
pub(crate) async fn run(args: ListArgs, options: &Options) -> anyhow::Result<()> {
    let cluster = Cluster::open(options)?;
    let peer = match &args.from {
        Some(name) => cluster.peer(&cluster.server(name).await?, Deadlines::default()),
        None => cluster.any().await?,
    };
    if !options.json {
        options.output().answer(format_args!("{:>10}  {:<25}  {:<26}  KEY", "SIZE", "MODIFIED", "TYPE"))?;
    }
    let mut pages = Pages::new(args.prefix, args.limit);
    // Such that a signal ends it, although the reader may stand still.
    let mut stdout = tokio::io::stdout();
    while let Some(page) = pages.next(&peer).await? {
        let mut text = String::new();
        for object in &page {
            let line = if options.json { json_line(object) } else { human_line(object) };
            writeln!(text, "{line}")?;
        }
        // A page at a time, so that a long list takes no memory and a reader that has enough ends it.
        written(stdout.write_all(text.as_bytes()).await)?;
        written(stdout.flush().await)?;
    }
    Ok(())
}

fn human_line(object: &ObjectMeta) -> String {
    let ObjectMeta { key, content, version } = object;
    let (size, modified) = (human::size(content.size), human::local_time(version.time.unix_ms()));
    let key = human::shown(key.as_str());
    format!("{size:>10}  {modified:<25}  {:<26}  {key}", content.media_type.as_str())
}

fn json_line(object: &ObjectMeta) -> String {
    let ObjectMeta { key, content, version } = object;
    let line = json!({
        "key": key, "size": content.size, "hash": content.hash, "media_type": content.media_type,
        "cache_control": content.cache_control, "modified": human::utc_time(version.time.unix_ms()),
        "version": version.to_string(),
    });
    line.to_string()
}

/// A list of objects, fetched page by page.
pub(super) struct Pages {
    prefix: String,
    after: Option<ObjectKey>,
    left: usize,
}

impl Pages {
    /// The objects below `prefix`, at most `limit`.
    pub(super) fn new(prefix: String, limit: Option<usize>) -> Self {
        Self { prefix, after: None, left: limit.unwrap_or(usize::MAX) }
    }

    /// The next page; none at the end.
    pub(super) async fn next(&mut self, peer: &Peer) -> Result<Option<Vec<ObjectMeta>>, ClientError> {
        if self.left == 0 {
            return Ok(None);
        }
        let limit = self.left.min(PAGE);
        let mut page = peer.list_objects(&self.prefix, self.after.as_ref(), limit).await?;
        page.objects.truncate(limit);
        self.left = if page.next.is_some() { self.left - page.objects.len() } else { 0 };
        self.after = page.next;
        Ok(Some(page.objects))
    }
}
