//! Whether the nodes hold the bytes that they list: every distinct blob of each node is fetched and hashed.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use http::StatusCode;

use super::reading::read_all;
use crate::cli::failure::explain;
use crate::cli::output::Output;
use crate::cli::progress::Progress;
use crate::client::{ClientError, Peer};
use crate::model::{ContentHash, Entry, EntryKey, NodeId};

/// Blobs on their way from a node at a time. Enough to hide the round trip that each small one waits for.
const PARALLEL: usize = 8;

/// How often a blob is asked for while the connection fails.
const TRIES_MAX: u32 = 3;

/// The wait before another try.
const WAIT: Duration = Duration::from_millis(500);

/// A blob that a node lists and cannot give as it is.
#[derive(Debug)]
pub(super) struct Damage {
    /// A key that points at it.
    pub(super) key: EntryKey,
    /// The blob.
    pub(super) hash: ContentHash,
    /// What is wrong with it.
    pub(super) reason: String,
}

/// What came of the blobs of one node.
#[derive(Debug)]
pub(super) struct Checked {
    /// How many blobs were fetched.
    pub(super) blobs: u64,
    /// How many bytes they have.
    pub(super) bytes: u64,
    /// Those that are not what they should be.
    pub(super) damaged: Vec<Damage>,
}

/// Fetches and hashes every distinct blob that `node` lists.
///
/// # Errors
/// When its feed cannot be read.
pub(super) async fn check(node: &NodeId, peer: &Peer, output: Output) -> Result<Checked, ClientError> {
    let mut sizes = HashMap::new();
    read_all(peer, |entry| {
        if let Some(content) = entry.content() {
            sizes.insert(content.hash, content.size);
        }
    })
    .await?;
    let (blobs, bytes) = (sizes.len() as u64, sizes.values().sum());
    output.note(format_args!("reading the bytes of {node}"));
    let progress = Progress::start(output, blobs, bytes);
    let checks = sizes.into_iter().map(|(hash, size)| fetch(peer, hash, size, progress.clone()));
    let mut outcomes = stream::iter(checks).buffer_unordered(PARALLEL);
    let mut bad = BTreeMap::new();
    while let Some((hash, reason)) = outcomes.next().await {
        progress.file_done();
        if let Some(reason) = reason {
            bad.insert(hash, reason);
        }
    }
    drop(outcomes);
    progress.finish();
    let damaged = if bad.is_empty() { Vec::new() } else { still_listed(peer, bad).await? };
    Ok(Checked { blobs, bytes, damaged })
}

/// Of the blobs in `bad` those that the node lists now: what was overwritten or deleted meanwhile need not be there.
async fn still_listed(peer: &Peer, bad: BTreeMap<ContentHash, String>) -> Result<Vec<Damage>, ClientError> {
    let mut listed: BTreeMap<EntryKey, Entry> = BTreeMap::new();
    read_all(peer, |entry| {
        let of_bad = entry.content().is_some_and(|content| bad.contains_key(&content.hash));
        if of_bad {
            listed.insert(entry.key.clone(), entry);
        } else {
            listed.remove(&entry.key);
        }
    })
    .await?;
    let mut named = BTreeMap::new();
    for (key, entry) in listed {
        if let Some(content) = entry.content() {
            named.entry(content.hash).or_insert(key);
        }
    }
    let damage = |(hash, key): (ContentHash, EntryKey)| {
        bad.get(&hash).map(|reason| Damage { key, hash, reason: reason.clone() })
    };
    Ok(named.into_iter().filter_map(damage).collect())
}

/// Fetches one blob; answers what is wrong with it.
async fn fetch(peer: &Peer, hash: ContentHash, size: u64, progress: Arc<Progress>) -> (ContentHash, Option<String>) {
    for tried in 1.. {
        let mut received = 0;
        match fetch_once(peer, &hash, &mut received, &progress).await {
            Ok(found) if found == hash && received == size => return (hash, None),
            Ok(found) if found == hash => return (hash, Some(format!("has {received} bytes, not {size}"))),
            Ok(_) => return (hash, Some("its bytes have another hash".to_owned())),
            Err(error) if error.status() == Some(StatusCode::NOT_FOUND) => {
                return (hash, Some("is not held".to_owned()));
            }
            Err(error) if !error.is_transient() || tried >= TRIES_MAX => return (hash, Some(explain(&error))),
            Err(_) => {
                progress.retreat(received);
                tokio::time::sleep(WAIT).await;
            }
        }
    }
    unreachable!("the count of tries has no end")
}

async fn fetch_once(
    peer: &Peer,
    hash: &ContentHash,
    received: &mut u64,
    progress: &Progress,
) -> Result<ContentHash, ClientError> {
    let mut reader = peer.blob(hash, 0).await?;
    let mut hasher = blake3::Hasher::new();
    while let Some(bytes) = reader.chunk().await? {
        hasher.update(&bytes);
        *received += bytes.len() as u64;
        progress.advance(bytes.len() as u64);
    }
    Ok(ContentHash::new(*hasher.finalize().as_bytes()))
}
