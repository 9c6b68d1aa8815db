//! `metacdn load FOLDER`: a data folder from a dump, for a node that is to start on it.
//!
//! The folder is what a copy of the dumped node's data folder would be to a node that starts on it: a backup, of which the
//! members alone are listed until all of them were read. Only with `--authoritative` each entry becomes a new write, and
//! nobody is waited for. The catalogue gets its place last, so that a folder whose loading broke off has none.

mod dumped;

use std::collections::{BTreeMap, HashSet};
use std::fs::{self, File, TryLockError};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, anyhow, bail};
use clap::Args;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use serde_json::json;
use tokio::task::spawn_blocking;

use super::dump::folder::Summary;
use super::progress::Progress;
use super::{Options, human};
use crate::model::{Content, ContentHash, Entry, EntryKey, Epoch, NodeId, RecordKey};
use crate::replicate::{self, Ledger as _};
use crate::store::{Blobs, Catalog, FileSystem, FreshBlob, StoreError, Transaction, mark_as_backup};
use dumped::Dumped;

/// Entries that one commit takes.
const PART: usize = 256;

/// Blobs that are written at a time, so that they share syncs of the disk.
const PARALLEL: usize = 8;

/// The folder in the data folder in which the catalogue is made.
const LOADING: &str = "loading";

/// What a catalogue is called in a data folder.
const CATALOG: &str = "catalog.sqlite";

/// The arguments of `metacdn load`.
#[derive(Debug, Args)]
#[command(after_help = "\
The node that is started on it reads all members of the dump first, and then lists of its own only what none of them has and \
none can have deleted; `metacdn withheld` shows the rest. Members that are gone for good are to be forgotten.

A cluster that was lost as a whole comes back by --authoritative, on one node: others then join it empty.")]
pub struct LoadArgs {
    /// The folder that `metacdn dump` has filled
    folder: PathBuf,
    /// The data folder to make; one that has a catalogue is left alone
    #[arg(long, value_name = "FOLDER")]
    data: PathBuf,
    /// The name of the node that is to start on it
    #[arg(long, value_name = "NAME")]
    node: NodeId,
    /// Let all objects and prices count as written now, whatever other nodes have or have deleted
    #[arg(long)]
    authoritative: bool,
}

/// Makes a data folder of a dump.
///
/// # Errors
/// When the dump is not whole or the data folder cannot be written, or has a catalogue.
pub(super) async fn run(args: LoadArgs, options: &Options) -> anyhow::Result<()> {
    let LoadArgs { folder, data, node, authoritative } = args;
    let output = options.output();
    let opened = spawn_blocking(move || Dumped::open(&folder)).await?;
    let dumped = Arc::new(opened?);
    let summary = dumped.summary().clone();
    let progress = Progress::start(output, summary.entries.live, summary.bytes);
    let target = spawn_blocking({
        let (data, node) = (data.clone(), node.clone());
        move || Target::open(data, &node)
    });
    let (target, copied) = (target.await??, HashSet::new());
    let loading = Loading { dumped, node: node.clone(), target, progress, authoritative, copied };
    let progress = loading.progress.clone();
    let Loaded { objects, members } = loading.all(&summary).await?;
    progress.finish();
    if output.is_json() {
        return output.answer_json(&json!({
            "data": data.to_string_lossy(), "node": node, "objects": objects, "bytes": summary.bytes,
            "authoritative": authoritative,
        }));
    }
    output.done(format_args!(
        "loaded {}, {}, into {} in {}",
        human::counted(objects, "object", "objects"),
        human::size(summary.bytes),
        data.display(),
        human::time(progress.elapsed())
    ))?;
    output.note(match authoritative {
        true => format!("a node {node} that is started on it has all of it distributed, as if it were uploaded now"),
        false => format!("a node {node} that is started on it lists it when it knows what all members have"),
    });
    if !members.is_empty() {
        output.note(format_args!("it waits for {}: forget those that are gone for good", members.join(", ")));
    }
    Ok(())
}

/// What was loaded.
struct Loaded {
    objects: u64,
    /// The other members that the dump knows of, if they are to be asked.
    members: Vec<String>,
}

/// A data folder in the making, which nobody else may use meanwhile.
struct Target {
    data: PathBuf,
    catalog: Catalog,
    blobs: Blobs,
    _lock: File,
}

impl Target {
    /// Makes the data folder and what an earlier try has left in it anew.
    fn open(data: PathBuf, node: &NodeId) -> anyhow::Result<Self> {
        let making = || format!("cannot make the data folder {}", data.display());
        FileSystem.make_durable_folder(&data).with_context(making)?;
        let lock = File::create(data.join("lock")).with_context(making)?;
        lock.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => anyhow!("another process uses {}", data.display()),
            TryLockError::Error(error) => anyhow::Error::new(error).context(making()),
        })?;
        if data.join(CATALOG).exists() {
            bail!("{} has a catalogue: name a folder that is new or empty", data.display());
        }
        let loading = data.join(LOADING);
        if loading.exists() {
            fs::remove_dir_all(&loading).with_context(making)?;
        }
        fs::create_dir(&loading).with_context(making)?;
        let random = || getrandom::u64().map_err(std::io::Error::other);
        let catalog = Catalog::open(&loading, node, Epoch::from_bits(random()?)).with_context(making)?;
        let blobs = Blobs::open(FileSystem, &data.join("blobs"), random()?, |_| false).with_context(making)?;
        Ok(Self { data, catalog, blobs, _lock: lock })
    }

    /// Gives the catalogue its place.
    fn finish(self) -> anyhow::Result<()> {
        let Self { data, catalog, blobs, _lock } = self;
        // The last connection that closes writes everything into the one file.
        drop((catalog, blobs));
        let loading = data.join(LOADING);
        let finished = || -> std::io::Result<()> {
            File::open(loading.join(CATALOG))?.sync_all()?;
            fs::rename(loading.join(CATALOG), data.join(CATALOG))?;
            File::open(&data)?.sync_all()?;
            fs::remove_dir_all(&loading)
        };
        finished().with_context(|| format!("cannot finish the data folder {}", data.display()))
    }
}

/// A dump on its way into a data folder.
struct Loading {
    dumped: Arc<Dumped>,
    node: NodeId,
    target: Target,
    progress: Arc<Progress>,
    authoritative: bool,
    /// The hashes of blobs that are there.
    copied: HashSet<ContentHash>,
}

impl Loading {
    /// Loads all.
    async fn all(mut self, summary: &Summary) -> anyhow::Result<Loaded> {
        let members = self.withhold_all().await?;
        let members = if self.authoritative { Vec::new() } else { self.list_members(members).await? };
        let objects = self.complete_all().await?;
        let (horizon, authoritative) = (summary.horizon.clone(), self.authoritative);
        let marked = self.target.catalog.transact(move |transaction| {
            if let Some(horizon) = horizon {
                transaction.raise_horizon(&horizon)?;
            }
            if authoritative { Ok(()) } else { mark_as_backup(transaction) }
        });
        marked.await?;
        spawn_blocking(move || self.target.finish()).await??;
        Ok(Loaded { objects, members })
    }

    /// Takes over the entries but those of nodes, and answers these. Of those with one key the last one stays.
    async fn withhold_all(&self) -> anyhow::Result<BTreeMap<RecordKey, Entry>> {
        let mut reader = self.dumped.entries()?;
        let mut nodes = BTreeMap::new();
        let authoritative = self.authoritative;
        loop {
            let (entries, rest) = spawn_blocking(move || reader.part(PART).map(|part| (part, reader))).await??;
            reader = rest;
            if entries.is_empty() {
                return Ok(nodes);
            }
            let mut others = Vec::with_capacity(entries.len());
            for entry in entries {
                match &entry.key {
                    EntryKey::Record(key) if key.is_node() => drop(nodes.insert(key.clone(), entry)),
                    // What is said of a member now is no mistake of then.
                    EntryKey::Record(key) if authoritative && key.is_of_member() => {}
                    EntryKey::Record(_) | EntryKey::Object(_) => others.push(entry),
                }
            }
            let kept = self
                .target
                .catalog
                .transact(move |transaction| others.iter().try_for_each(|entry| transaction.withhold(entry)));
            kept.await?;
        }
    }

    /// Lists the members, by which the node finds those whose feeds it has to read; answers the names of the others.
    async fn list_members(&self, nodes: BTreeMap<RecordKey, Entry>) -> anyhow::Result<Vec<String>> {
        let own = RecordKey::node(&self.node);
        if nodes.get(&own).is_some_and(Entry::is_deleted) {
            bail!("the cluster has forgotten {}, and its name is spent: choose another one", self.node);
        }
        let others = nodes.iter().filter(|(key, entry)| **key != own && !entry.is_deleted());
        let names = others.map(|(key, _)| key.name().to_owned()).collect();
        let listed = self
            .target
            .catalog
            .transact(move |transaction| nodes.values().try_for_each(|entry| transaction.list(entry)));
        listed.await?;
        Ok(names)
    }

    /// Copies the bytes of all entries that have any; answers how many do.
    async fn complete_all(&mut self) -> anyhow::Result<u64> {
        let (mut objects, mut after) = (0, None::<EntryKey>);
        loop {
            let catalog = self.target.catalog.clone();
            let entries = spawn_blocking(move || catalog.withheld("", after.as_ref(), PART)).await??;
            let Some(last) = entries.last() else { return Ok(objects) };
            after = Some(last.key.clone());
            let live = entries.iter().filter_map(|entry| entry.content().map(|content| (&entry.key, content)));
            let mut wanted = Vec::new();
            for (key, content) in live {
                objects += 1;
                self.progress.file_done();
                if self.copied.insert(content.hash) {
                    wanted.push((key.clone(), content.clone()));
                }
            }
            let copies = wanted.into_iter().map(|(key, content)| self.copy(key, content));
            let blobs: Vec<_> = stream::iter(copies).buffer_unordered(PARALLEL).try_collect().await?;
            let (authoritative, now_unix_ms) = (self.authoritative, unix_ms());
            let done = self.target.catalog.transact(move |transaction| {
                blobs.iter().try_for_each(|blob| transaction.keep_blob(blob))?;
                if authoritative { write_anew(transaction, entries, now_unix_ms) } else { Ok(()) }
            });
            done.await?;
        }
    }

    /// Copies the bytes of one object, if they are what its entry says.
    async fn copy(&self, key: EntryKey, content: Content) -> anyhow::Result<FreshBlob> {
        let (dumped, blobs, progress) = (self.dumped.clone(), self.target.blobs.clone(), self.progress.clone());
        let copied = spawn_blocking(move || {
            let context = || format!("cannot load the bytes of {}", human::shown(key.as_str()));
            dumped.copy(&content, &blobs, &progress).with_context(context)
        });
        copied.await?
    }
}

/// Lists what is live of `entries` as writes of now, later than they were.
fn write_anew(transaction: &mut Transaction<'_>, entries: Vec<Entry>, now_unix_ms: u64) -> Result<(), StoreError> {
    for entry in entries {
        transaction.forget_withheld(&entry)?;
        if !entry.is_deleted() {
            // The clock of this machine may be behind that of the one that wrote it.
            let now_unix_ms = now_unix_ms.max(entry.version.time.unix_ms() + 1);
            replicate::write(transaction, entry.key, entry.state, now_unix_ms)?;
        }
    }
    Ok(())
}

fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
