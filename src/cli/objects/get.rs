//! `metacdn get KEY`: fetches an object, whole and verified or not at all.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::bail;
use clap::Args;
use http::StatusCode;
use http::header::{CONTENT_LENGTH, ETAG};
use serde_json::json;

use super::sink::{self, Sink};
use crate::cli::failure::explain;
use crate::cli::progress::Progress;
use crate::cli::{Cluster, Options, Output, Target, human};
use crate::client::{ClientError, Deadlines, Peer};
use crate::model::{ContentHash, ObjectKey};

/// How often all nodes are tried in turn.
const ROUNDS_MAX: u32 = 4;

/// The wait after the first round; each further one is twice as long.
const FIRST_WAIT: Duration = Duration::from_millis(500);

/// The arguments of `metacdn get`.
#[derive(Debug, Args)]
pub struct GetArgs {
    /// The object
    key: ObjectKey,
    /// Where to put it: a file, a folder, or - for standard output [default: its base name, in this folder]
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Fetch it from this node alone: its name, or HOST:PORT
    #[arg(long, value_name = "SERVER")]
    from: Option<String>,
    /// Overwrite the file if it is there
    #[arg(long)]
    force: bool,
}

/// Fetches an object.
///
/// # Errors
/// When no node has it, it does not arrive whole, or the file cannot be written.
pub(crate) async fn run(args: GetArgs, options: &Options) -> anyhow::Result<()> {
    let GetArgs { key, output: wanted, from, force } = args;
    let target = match wanted {
        Some(path) if path == Path::new("-") => None,
        Some(path) if path.is_dir() => Some(path.join(key.file_name())),
        Some(path) => Some(path),
        None => Some(PathBuf::from(key.file_name())),
    };
    if let Some(path) = &target {
        sink::check(path, force)?;
    }
    let cluster = Cluster::open(options)?;
    let sources = sources(&cluster, from.as_deref()).await?;
    let sink = Sink::open(target).await?;
    let output = options.output();
    let mut download = Download { key, sink, hasher: blake3::Hasher::new(), expected: None, progress: None, output };
    download.fetch(&sources).await?;
    download.finish(force).await
}

/// The servers to fetch from, the likeliest first.
async fn sources(cluster: &Cluster, from: Option<&str>) -> anyhow::Result<Vec<Peer>> {
    let targets = match from {
        Some(name) => vec![cluster.server(name).await?],
        None => {
            let mut servers = cluster.members().await?.servers;
            servers.sort_by_key(|server| server.liveness);
            let target = |server: crate::protocol::status::Server| Target {
                id: Some(server.node.id),
                address: server.node.address,
            };
            servers.into_iter().map(target).collect()
        }
    };
    Ok(targets.iter().map(|target| cluster.peer(target, Deadlines::default())).collect())
}

/// What the first node that answered said of the object. All bytes must be of this one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Expected {
    hash: ContentHash,
    size: u64,
}

struct Download {
    key: ObjectKey,
    sink: Sink,
    hasher: blake3::Hasher,
    expected: Option<Expected>,
    progress: Option<Arc<Progress>>,
    output: Output,
}

/// Why a try ended before the object was whole.
#[derive(Debug, thiserror::Error)]
enum Broken {
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error("the object changed while it was fetched")]
    Changed,
    #[error("what arrived is not what was sent")]
    Corrupted,
    #[error("{0}")]
    Local(anyhow::Error),
}

impl Download {
    /// Fetches from one server after the other, each going on where the one before broke off.
    async fn fetch(&mut self, sources: &[Peer]) -> anyhow::Result<()> {
        let mut wait = FIRST_WAIT;
        for round in 1.. {
            let mut reasons = Vec::new();
            let (mut missing, mut passing) = (0, false);
            for peer in sources {
                let reason = match self.fetch_once(peer).await {
                    Ok(()) => return Ok(()),
                    Err(Broken::Local(error)) => return Err(error),
                    Err(Broken::Client(error)) => {
                        missing += usize::from(error.status() == Some(StatusCode::NOT_FOUND));
                        passing |= error.is_transient();
                        explain(&error)
                    }
                    Err(restart @ (Broken::Changed | Broken::Corrupted)) => {
                        passing = true;
                        self.start_over(&restart).await?;
                        format!("{}: {restart}", peer.address())
                    }
                };
                if self.sink.received() > 0 || round > 1 {
                    self.note(&format!("{reason}; going on after {}", human::size(self.sink.received())));
                }
                reasons.push(reason);
            }
            if missing == sources.len() {
                bail!("there is no object {}", self.key);
            }
            if !passing || round >= ROUNDS_MAX {
                bail!("cannot fetch {}: {}", self.key, reasons.join("; "));
            }
            tokio::time::sleep(wait).await;
            wait *= 2;
        }
        unreachable!("the count of rounds has no end")
    }

    async fn fetch_once(&mut self, peer: &Peer) -> Result<(), Broken> {
        let from = self.sink.received();
        if self.expected.is_some_and(|expected| from == expected.size && from > 0) {
            // The last try broke off after the last byte.
            return self.verify();
        }
        let mut reply = peer.get_object(&self.key, from).await?;
        let offered = offered(peer, &reply.headers, from)?;
        match self.expected {
            Some(expected) if expected != offered => return Err(Broken::Changed),
            _ => self.expected = Some(offered),
        }
        let progress = self.progress.get_or_insert_with(|| Progress::start(self.output, 1, offered.size)).clone();
        while let Some(bytes) = reply.body.chunk().await? {
            self.hasher.update(&bytes);
            self.sink.write(&bytes).await.map_err(Broken::Local)?;
            progress.advance(bytes.len() as u64);
        }
        self.verify()
    }

    fn verify(&self) -> Result<(), Broken> {
        let hash = ContentHash::new(*self.hasher.finalize().as_bytes());
        match self.expected {
            Some(expected) if expected == (Expected { hash, size: self.sink.received() }) => Ok(()),
            _ => Err(Broken::Corrupted),
        }
    }

    /// Forgets what came so far.
    async fn start_over(&mut self, reason: &Broken) -> anyhow::Result<()> {
        if let Some(progress) = &self.progress {
            progress.retreat(self.sink.received());
        }
        self.hasher.reset();
        self.expected = None;
        self.sink.clear(reason).await
    }

    async fn finish(self, force: bool) -> anyhow::Result<()> {
        let Self { key, sink, expected, progress, output, .. } = self;
        let (Some(Expected { hash, size }), Some(progress)) = (expected, progress) else { return Ok(()) };
        progress.finish();
        let Some(path) = sink.finish(force).await? else { return Ok(()) };
        let time = progress.elapsed();
        if output.is_json() {
            let seconds = time.as_secs_f64();
            let file = path.to_string_lossy();
            return output
                .answer_json(&json!({ "key": key, "file": file, "size": size, "hash": hash, "seconds": seconds }));
        }
        let (amount, rate) = (human::size(size), human::rate(size, time));
        output.done(format_args!(
            "wrote {}, {amount} in {} ({rate})",
            human::shown(&path.to_string_lossy()),
            human::time(time)
        ))
    }

    fn note(&self, line: &str) {
        match &self.progress {
            Some(progress) => progress.note(line),
            None => self.output.note(line),
        }
    }
}

fn offered(peer: &Peer, headers: &http::HeaderMap, from: u64) -> Result<Expected, ClientError> {
    let text = |name| headers.get(name).and_then(|value: &http::HeaderValue| value.to_str().ok());
    let hash = text(ETAG).and_then(|etag| etag.trim_matches('"').parse().ok());
    let length = text(CONTENT_LENGTH).and_then(|length| length.parse::<u64>().ok());
    match hash.zip(length) {
        Some((hash, length)) => Ok(Expected { hash, size: from.saturating_add(length) }),
        None => Err(ClientError::NotUnderstood {
            address: peer.address().clone(),
            reason: "an object without its hash or its length".to_owned(),
        }),
    }
}
