//! `metacdn upload FILE… SERVER [FORMAT]`: publishes files and folders.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use anyhow::Context;
use clap::Args;
use futures_util::{StreamExt, stream};
use serde_json::json;

use super::failures::Failures;
use super::packet;
use super::plan::{Item, Plan, plan};
use super::raw::{self, Served};
use super::retry::{SendError, with_retries};
use crate::cli::failure::{Reported, UsageError};
use crate::cli::output::complain;
use crate::cli::progress::Progress;
use crate::cli::{Cluster, Options, Output, Target, human};
use crate::client::Peer;
use crate::model::{Address, ContentHash, FieldValue, NodeId, WaitFor};
use crate::protocol::packet::Format;

/// Files on their way at a time. Enough to hide the round trip that each small file waits for.
const PARALLEL_RAW: usize = 8;

/// A server holds JSON packets in memory until their end, so that they go one by one unless told otherwise.
const PARALLEL_PACKETS: usize = 1;

/// So many failures in a row mean that the server, not the files, is at fault.
const FAILURES_IN_A_ROW_MAX: usize = 16;

/// How many of the things that were passed over are named one by one.
const SKIPPED_SHOWN: usize = 5;

const EXAMPLES: &str = "Of a folder all files are published, also those outside it that links in it lead to; links to folders are not followed.

Examples:
  metacdn upload cat.jpg AWS                    publish one file as cat.jpg
  metacdn upload site/ GC --prefix www/         publish a folder below www/
  metacdn upload cat.jpg Program protobuf3      send it as one of the reference's packets";

/// The arguments of `metacdn upload`.
#[derive(Debug, Args)]
#[command(
    after_help = EXAMPLES,
    override_usage = "metacdn upload [OPTIONS] <FILE>... <SERVER> [json|protobuf3|raw]"
)]
pub struct UploadArgs {
    /// Files and folders, then the server (a node's name, or HOST:PORT), then the format [default: raw]
    #[arg(value_name = "FILE... SERVER [FORMAT]", required = true)]
    words: Vec<PathBuf>,
    /// Publish below this prefix
    #[arg(long, value_name = "P/", default_value = "", hide_default_value = true)]
    prefix: String,
    /// The media type of all files [default: by the ending of each]
    #[arg(long, value_name = "TYPE")]
    content_type: Option<FieldValue>,
    /// How caches may keep them [default: what the node says, max-age=60]
    #[arg(long, value_name = "VALUE")]
    cache_control: Option<FieldValue>,
    /// On how many nodes each file is to be durable: 1 to 64, quorum or all [default: two, as far as there are]
    #[arg(long, value_name = "N|quorum|all")]
    wait_for: Option<WaitFor>,
    /// How many files are on their way at a time [default: 8, packets: 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    parallel: Option<u16>,
}

/// What the words of the command line mean.
#[derive(Debug, PartialEq, Eq)]
struct Words {
    files: Vec<PathBuf>,
    server: String,
    /// `None` is raw.
    format: Option<Format>,
}

/// Publishes files.
///
/// # Errors
/// When the command line makes no sense, a file cannot be published, or the server is not known.
pub(crate) async fn run(args: UploadArgs, options: &Options) -> anyhow::Result<()> {
    let Words { files, server, format } = Words::parse(&args.words)?;
    if format.is_some() && (args.content_type.is_some() || args.cache_control.is_some() || args.wait_for.is_some()) {
        let reason = "a packet carries no --content-type, --cache-control or --wait-for: use raw, or leave them out";
        return Err(UsageError(reason.to_owned()).into());
    }
    let plan = plan(&files, &args.prefix).map_err(|error| hint_at_format(error, &files, &server))?;
    let output = options.output();
    for (path, why) in plan.skipped.iter().take(SKIPPED_SHOWN) {
        output.note(format_args!("warning: skipped {path:?}: {why}"));
    }
    if let more @ 1.. = plan.skipped.len().saturating_sub(SKIPPED_SHOWN) {
        output.note(format_args!("warning: skipped {more} more that are no files"));
    }
    let cluster = Cluster::open(options)?;
    let target = cluster.server(&server).await.context("nothing was sent")?;
    let way = match format {
        Some(format) => Way::Packet(format),
        None => {
            let UploadArgs { content_type: media_type, cache_control, wait_for, .. } = args;
            let served = Served { media_type, cache_control, wait_for };
            Way::Raw(cluster.peer(&target, raw::DEADLINES), served)
        }
    };
    let parallel = args.parallel.map_or(way.parallel(), usize::from);
    let progress = Progress::start(output, plan.items.len() as u64, plan.bytes());
    let failures = Failures::default();
    let upload = Upload { cluster, target, way, output, progress, failures_in_a_row: AtomicUsize::new(0), failures };
    upload.all(plan, parallel).await
}

impl Words {
    fn parse(words: &[PathBuf]) -> Result<Self, UsageError> {
        let format = words.last().and_then(|word| match word.to_str()?.to_ascii_lowercase().as_str() {
            "raw" => Some(None),
            word => word.parse().ok().map(Some),
        });
        let rest = if format.is_some() { &words[..words.len() - 1] } else { words };
        match rest {
            [files @ .., server] if !files.is_empty() => {
                let server = server.to_str().ok_or_else(|| UsageError(format!("{server:?} is no name of a server")))?;
                Ok(Self { files: files.to_vec(), server: server.to_owned(), format: format.flatten() })
            }
            _ => Err(UsageError(
                "say what to publish and where: metacdn upload FILE... SERVER [json|protobuf3|raw], such as `metacdn \
                 upload cat.jpg AWS` (`metacdn servers` lists the servers)"
                    .to_owned(),
            )),
        }
    }
}

/// A word that is no format is taken as the server, and the server as a file: say so where it looks like that.
fn hint_at_format(error: anyhow::Error, files: &[PathBuf], server: &str) -> anyhow::Error {
    let Some(last) = files.last().filter(|_| files.len() > 1).and_then(|last| last.to_str()) else { return error };
    let like_server = last.parse::<NodeId>().is_ok() || last.parse::<Address>().is_ok();
    if !like_server || files.iter().any(|file| file.to_str() != Some(last) && !file.exists()) {
        return error;
    }
    if PathBuf::from(last).exists() {
        return error;
    }
    UsageError(format!(
        "there is no file {last}; if that is the server, then {server} is not a format: use json, protobuf3 or raw"
    ))
    .into()
}

/// How files travel.
enum Way {
    Raw(Peer, Served),
    Packet(Format),
}

impl Way {
    const fn parallel(&self) -> usize {
        match self {
            Self::Raw(..) => PARALLEL_RAW,
            Self::Packet(_) => PARALLEL_PACKETS,
        }
    }
}

struct Upload {
    cluster: Cluster,
    target: Target,
    way: Way,
    output: Output,
    progress: Arc<Progress>,
    failures_in_a_row: AtomicUsize,
    failures: Failures,
}

/// A file that a server has.
struct Published {
    size: u64,
    hash: ContentHash,
    /// On how many nodes it was durable when the answer left; packets are not answered with that.
    copies: Option<u32>,
}

impl Upload {
    async fn all(self, plan: Plan, parallel: usize) -> anyhow::Result<()> {
        let files = plan.items.len();
        let single = (files == 1).then(|| plan.items[0].key.clone());
        let (mut published, mut bytes, mut copies) = (0, 0, None::<u32>);
        {
            let mut outcomes = stream::iter(&plan.items).map(|item| self.one(item)).buffer_unordered(parallel);
            while let Some(outcome) = outcomes.next().await {
                if let Some(file) = outcome? {
                    published += 1;
                    bytes += file.size;
                    copies = file.copies.map(|more| copies.map_or(more, |least| least.min(more)));
                }
            }
        }
        self.progress.finish();
        for line in self.failures.rest(FAILURES_IN_A_ROW_MAX) {
            complain(format_args!("error: {line}"));
        }
        let elapsed = self.progress.elapsed();
        let what = match single {
            Some(key) => human::shown(key.as_str()),
            None if published == files => format!("{files} files"),
            None => format!("{published} of {files} files"),
        };
        if published > 0 {
            let (amount, rate) = (human::size(bytes), human::rate(bytes, elapsed));
            let copies = copies.map_or_else(String::new, at_least);
            self.output
                .done(format_args!("published {what}, {amount} in {} ({rate}){copies}", human::time(elapsed)))?;
        }
        if published == files { Ok(()) } else { Err(Reported.into()) }
    }

    /// Publishes one file and tells what became of it; only an output that cannot be written ends it all.
    async fn one(&self, item: &Item) -> anyhow::Result<Option<Published>> {
        if self.failures_in_a_row.load(Ordering::Relaxed) >= FAILURES_IN_A_ROW_MAX {
            self.failures.note_not_tried();
            return self.answer_failed(item, &format!("not tried after {FAILURES_IN_A_ROW_MAX} failures in a row"));
        }
        let started = Instant::now();
        let name = human::shown(item.key.as_str());
        let outcome = with_retries(&name, &self.progress, &self.failures, async || self.send(item).await).await;
        self.progress.file_done();
        match outcome {
            Ok(file) => {
                self.failures_in_a_row.store(0, Ordering::Relaxed);
                self.failures.note_success();
                if self.output.is_json() {
                    self.output.answer_json(&json!({
                        "key": item.key, "size": file.size, "hash": file.hash, "server": self.target.to_string(),
                        "seconds": started.elapsed().as_secs_f64(), "copies": file.copies,
                    }))?;
                }
                Ok(Some(file))
            }
            Err(error) => {
                if !matches!(error, SendError::Source(_)) {
                    self.failures_in_a_row.fetch_add(1, Ordering::Relaxed);
                }
                if let Some(copies) = error.stored() {
                    return self.too_few_copies(item, copies, &error.explain());
                }
                self.failed(item, &error.explain())
            }
        }
    }

    async fn send(&self, item: &Item) -> Result<Published, SendError> {
        let Item { key, path, .. } = item;
        let (size, hash, copies) = match &self.way {
            Way::Raw(peer, served) => {
                let (size, hash, copies) = raw::send(peer, key, path, served, &self.progress).await?;
                (size, hash, Some(copies))
            }
            Way::Packet(format) => {
                let sent = packet::send(&self.cluster, &self.target, *format, key, path, &self.progress);
                let (size, hash) = sent.await?;
                (size, hash, None)
            }
        };
        Ok(Published { size, hash, copies })
    }

    /// The file is stored, and goes on to be distributed; but not as it was asked for.
    fn too_few_copies(&self, item: &Item, copies: u32, reason: &str) -> anyhow::Result<Option<Published>> {
        if self.failures.note(item, reason) {
            self.progress.alarm(&format!("error: {:?} is published, but not on enough nodes: {reason}", item.path));
        }
        if self.output.is_json() {
            let file = item.path.to_string_lossy();
            let line = json!({ "file": file, "key": item.key, "error": reason, "stored": true, "copies": copies });
            self.output.answer_json(&line)?;
        }
        Ok(None)
    }

    fn failed(&self, item: &Item, reason: &str) -> anyhow::Result<Option<Published>> {
        if self.failures.note(item, reason) {
            self.progress.alarm(&format!("error: cannot publish {:?}: {reason}", item.path));
        }
        self.answer_failed(item, reason)
    }

    fn answer_failed(&self, item: &Item, reason: &str) -> anyhow::Result<Option<Published>> {
        if self.output.is_json() {
            self.output.answer_json(&json!({ "file": item.path.to_string_lossy(), "error": reason }))?;
        }
        Ok(None)
    }
}

/// How safe something is that was answered.
pub(super) fn at_least(copies: u32) -> String {
    format!(", on at least {}", human::counted(copies.into(), "node", "nodes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &str) -> Result<Words, UsageError> {
        Words::parse(&words.split(' ').map(PathBuf::from).collect::<Vec<_>>())
    }

    #[test]
    fn the_last_words_are_server_and_format() {
        let words = |files: &str, format| {
            let files = files.split(' ').map(PathBuf::from).collect();
            Words { files, server: "AWS".to_owned(), format }
        };
        assert_eq!(parse("a AWS").unwrap(), words("a", None));
        assert_eq!(parse("a b AWS raw").unwrap(), words("a b", None));
        assert_eq!(parse("a AWS Json").unwrap(), words("a", Some(Format::Json)));
        assert_eq!(parse("a AWS PROTOBUF3").unwrap(), words("a", Some(Format::Protobuf3)));
        assert_eq!(parse("json AWS json").unwrap(), words("json", Some(Format::Json)));
        for few in ["a", "a json", "raw", "json raw"] {
            assert!(parse(few).unwrap_err().to_string().contains("metacdn upload cat.jpg AWS"), "{few}");
        }
    }

    #[test]
    fn a_wrong_format_is_recognised_where_the_server_stands_as_a_file() {
        let this = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml");
        let hinted =
            |files: &[PathBuf]| hint_at_format(anyhow::anyhow!("cannot read"), files, "xml").is::<UsageError>();
        assert!(hinted(&[this.clone(), "AWS".into()]));
        assert!(hinted(&[this.clone(), "10.0.0.7:22222".into()]));
        assert!(!hinted(&["AWS".into()]), "one file and a server");
        assert!(!hinted(&[this, "missing.jpg".into()]));
        assert!(!hinted(&["missing.jpg".into(), "AWS".into()]));
    }
}
