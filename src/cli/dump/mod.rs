//! `metacdn dump FOLDER`: the whole catalogue of a node and all blobs, over the network.
//!
//! The feed is read to its end, and what it points at is fetched by hash; what was overwritten meanwhile, and is gone, comes
//! again in the rest of the feed. Blobs that are in the folder already are not fetched again: so a dump that broke off is
//! resumed, and an earlier one brought up to date, by the same command.

mod blobs;
pub(super) mod folder;

use std::collections::{BTreeMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail};
use clap::Args;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use serde_json::json;

use super::progress::Progress;
use super::withheld::require_settled;
use super::{Cluster, Options, Output, Target, human};
use crate::client::{Deadlines, Peer};
use crate::model::{ContentHash, Entry, EntryKey, Epoch, NodeId};
use crate::protocol::feed::{FORMAT_NEWEST_READ, FeedAnswer, FeedQuery};
use crate::protocol::status::Status;
use blobs::{Fetched, fetch};
use folder::{Entries, FORMAT, Folder, Header, Summary};

/// Blobs on their way at a time. Enough to hide the round trip that each small one waits for.
const PARALLEL: usize = 8;

/// How often the rest of the feed is read for what was overwritten while its bytes were fetched.
const ROUNDS_MAX: u32 = 5;

/// The arguments of `metacdn dump`.
#[derive(Debug, Args)]
pub struct DumpArgs {
    /// An empty folder, or that of an earlier dump, which is brought up to date
    folder: PathBuf,
    /// Dump this node: its name, or HOST:PORT [default: the first that answers]
    #[arg(long, value_name = "SERVER")]
    from: Option<String>,
}

/// A dump under way.
struct Dump {
    folder: Folder,
    /// The node that is dumped, then the others, which may give blobs, too.
    sources: Vec<Peer>,
    progress: Arc<Progress>,
    entries: Entries,
    /// Blobs that the entries point at, with their sizes; those that are overwritten meanwhile stay among them.
    blobs: BTreeMap<ContentHash, u64>,
    /// Of keys whose newest entry points at a blob that nobody gives: which, and why not.
    missing: BTreeMap<EntryKey, String>,
    /// Of keys whose newest entry points at a blob that the dumped node gave wrong or not at all, and another node gave: which.
    mended: BTreeMap<EntryKey, ContentHash>,
    position: (u64, Option<Epoch>),
}

/// Dumps a node.
///
/// # Errors
/// When the node cannot be read, a blob cannot be had from anywhere, or the folder cannot be written.
pub(super) async fn run(args: DumpArgs, options: &Options) -> anyhow::Result<()> {
    let folder = Folder::open(&args.folder)?;
    let cluster = Cluster::open(options)?;
    let peer = match &args.from {
        Some(name) => cluster.peer(&cluster.server(name).await?, Deadlines::default()),
        None => cluster.any().await?,
    };
    let status = peer.status().await.with_context(|| format!("cannot read {}", peer.address()))?;
    check(&status, options.output())?;
    let header = Header {
        format: FORMAT,
        node: status.node.id.clone(),
        epoch: status.epoch,
        begun_unix_ms: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_millis() as u64),
    };
    let output = options.output();
    let entries = folder.begin(&header)?;
    let sources = sources(&cluster, peer, &header.node).await?;
    // Several objects may have one blob, and the folder may have it already: what has to travel is seen on the way.
    let progress = Progress::start_open(output, status.objects);
    let (blobs, missing, mended, position) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new(), (0, None));
    let mut dump = Dump { folder, sources, progress, entries, blobs, missing, mended, position };
    let end = dump.read(&header).await?;
    let Dump { folder, progress, entries, blobs, mended, .. } = dump;
    progress.finish();
    let (path, counts, entries_hash) = entries.end()?;
    let (count, bytes) = (blobs.len() as u64, blobs.values().sum());
    let FeedAnswer { next: since, vector, horizon, .. } = end;
    let summary = Summary { header, since, vector, horizon, entries: counts, blobs: count, bytes, entries_hash };
    folder.finish(&path, &summary)?;
    warn_of_mended(&summary.header.node, &mended, output);
    if output.is_json() {
        return output.answer_json(&json!({ "folder": folder.path().to_string_lossy(), "dump": summary }));
    }
    output.done(format_args!(
        "dumped {}: {} objects, {} in {count} blobs, in {}",
        summary.header.node,
        counts.live,
        human::size(bytes),
        human::time(progress.elapsed())
    ))
}

/// Refuses where something would be left out that a person can keep, and tells what is left out.
fn check(status: &Status, output: Output) -> anyhow::Result<()> {
    let node = &status.node.id;
    require_settled(node, status)?;
    if status.strays > 0 {
        let strays = human::counted(status.strays, "object", "objects");
        output
            .note(format_args!("warning: {strays} that {node} keeps for itself alone (distributed = T) are left out"));
    }
    Ok(())
}

/// Tells of the blobs that other nodes had to give.
fn warn_of_mended(node: &NodeId, mended: &BTreeMap<EntryKey, ContentHash>, output: Output) {
    let blobs = mended.values().collect::<HashSet<_>>().len() as u64;
    if blobs > 0 {
        let blobs = human::counted(blobs, "blob that is", "blobs that are");
        output.note(format_args!(
            "warning: other nodes gave {blobs} damaged or missing on {node}: `metacdn repair {node} --wait` mends that"
        ));
    }
}

/// The node that is dumped, and then all others, by any of which a blob may be given.
async fn sources(cluster: &Cluster, peer: Peer, node: &NodeId) -> anyhow::Result<Vec<Peer>> {
    let mut sources = vec![peer];
    for server in cluster.members().await?.servers {
        if server.node.id != *node {
            let target = Target { id: Some(server.node.id), address: server.node.address };
            sources.push(cluster.peer(&target, Deadlines::default()));
        }
    }
    Ok(sources)
}

impl Dump {
    /// Reads the feed to its end, until all that its entries point at is in the folder; answers the end of the feed.
    async fn read(&mut self, header: &Header) -> anyhow::Result<FeedAnswer> {
        let mut wait = Duration::from_millis(100);
        for round in 1.. {
            let end = loop {
                let page = self.page(header).await?;
                self.take(&page).await?;
                if page.end {
                    break page;
                }
            };
            let Some((key, reason)) = self.missing.first_key_value() else { return Ok(end) };
            if round >= ROUNDS_MAX {
                let more = self.missing.len() - 1;
                let more = if more > 0 { format!(" (and {more} more)") } else { String::new() };
                bail!("nobody gives the bytes of {}{more}: {reason}", human::shown(key.as_str()));
            }
            // They may have been overwritten, which the rest of the feed tells.
            tokio::time::sleep(wait).await;
            wait *= 4;
        }
        unreachable!("the count of rounds has no end")
    }

    async fn page(&mut self, header: &Header) -> anyhow::Result<FeedAnswer> {
        let (since, epoch) = self.position;
        let query = FeedQuery { since, epoch, limit: None, wait_ms: 0, records: false };
        let node = &self.sources[0];
        let page = node.feed(&query).await.with_context(|| format!("cannot read the feed of {}", node.address()))?;
        if page.format > FORMAT_NEWEST_READ {
            bail!("{} is newer than this program, which cannot read its feed: use its version", header.node);
        }
        if page.epoch != header.epoch {
            bail!("{} has started a new database meanwhile: dump it again", header.node);
        }
        self.position = (page.next, Some(page.epoch));
        Ok(page)
    }

    /// Writes the entries of a page, and fetches what they point at and the folder lacks.
    async fn take(&mut self, page: &FeedAnswer) -> anyhow::Result<()> {
        let mut wanted: BTreeMap<ContentHash, Vec<&Entry>> = BTreeMap::new();
        for entry in &page.entries {
            entry.check()?;
            self.entries.add(entry)?;
            self.missing.remove(&entry.key);
            self.mended.remove(&entry.key);
            let Some(content) = entry.content() else { continue };
            self.progress.file_done();
            let is_known = self.blobs.insert(content.hash, content.size).is_some();
            if !is_known && !self.folder.has(&content.hash, content.size) {
                wanted.entry(content.hash).or_default().push(entry);
            }
        }
        let fetches = wanted.into_iter().map(async |(hash, entries)| {
            let size = entries.first().and_then(|entry| entry.content()).map_or(0, |content| content.size);
            let fetched = fetch(&self.folder, &self.sources, hash, size, &self.progress).await?;
            anyhow::Ok((hash, entries, fetched))
        });
        let fetched: Vec<_> = stream::iter(fetches).buffer_unordered(PARALLEL).try_collect().await?;
        let mut gone = HashSet::new();
        for (hash, entries, fetched) in fetched {
            match fetched {
                Fetched::Held { mended: false } => {}
                Fetched::Held { mended: true } => {
                    self.mended.extend(entries.into_iter().map(|entry| (entry.key.clone(), hash)));
                }
                Fetched::Missing(reason) => {
                    gone.insert(hash);
                    self.missing.extend(entries.into_iter().map(|entry| (entry.key.clone(), reason.clone())));
                }
            }
        }
        self.blobs.retain(|hash, _| !gone.contains(hash));
        Ok(())
    }
}
