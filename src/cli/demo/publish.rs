//! Publishing many files to one node, each verified by the hash that comes back.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, ensure};
use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Frame;
use tokio_util::io::ReaderStream;

use super::site::{Item, Source};
use crate::client::{Body, Peer, Upload, full};
use crate::model::{ContentHash, ObjectKey};

/// Uploads at a time: enough that the node's commits are shared and the distance is not waited out file by file.
const UPLOADS_MAX: usize = 32;

/// How often one upload is tried.
const TRIES_MAX: usize = 3;

/// Files up to this size are read whole.
const WHOLE_BYTES_MAX: u64 = 256 << 10;

/// How much of a larger file is read at once.
const CHUNK_BYTES: usize = 64 << 10;

/// What was published: hash and size by key.
pub(super) type Published = BTreeMap<ObjectKey, (ContentHash, u64)>;

/// Publishes `items` to `peer` and tells `progress` of each file's size when it is stored.
///
/// # Errors
/// With the first file that cannot be read or is not taken.
pub(super) async fn publish(peer: &Peer, items: &[Item], progress: impl Fn(u64)) -> anyhow::Result<Published> {
    let progress = &progress;
    let one = |item: &Item| {
        let item = item.clone();
        async move {
            let stored = upload(peer, &item).await.with_context(|| format!("cannot publish {}", item.key))?;
            progress(stored.1);
            anyhow::Ok((item.key, stored))
        }
    };
    stream::iter(items.iter().map(one)).buffer_unordered(UPLOADS_MAX).try_collect().await
}

async fn upload(peer: &Peer, item: &Item) -> anyhow::Result<(ContentHash, u64)> {
    let mut tries = 1;
    loop {
        let (body, hash) = open(item).await?;
        let upload = Upload { key: &item.key, size: item.size, media_type: None, cache_control: None, wait_for: None };
        match peer.put_object(&upload, body).await {
            Ok(receipt) => {
                let sent = hash.finish();
                let stored = receipt.content;
                ensure!(stored.hash == sent, "the node stored bytes of hash {}, sent were {sent}", stored.hash);
                return Ok((sent, stored.size));
            }
            Err(error) if error.is_transient() && tries < TRIES_MAX => tries += 1,
            Err(error) => return Err(error.into()),
        }
    }
}

/// The hash of what is sent, known when all was sent.
enum Hash {
    Known(ContentHash),
    Growing(Arc<Mutex<blake3::Hasher>>),
}

impl Hash {
    fn finish(self) -> ContentHash {
        match self {
            Self::Known(hash) => hash,
            Self::Growing(hasher) => {
                let hasher = hasher.lock().unwrap_or_else(PoisonError::into_inner);
                ContentHash::new(*hasher.finalize().as_bytes())
            }
        }
    }
}

async fn open(item: &Item) -> anyhow::Result<(Body, Hash)> {
    let path = match &item.source {
        Source::Memory(bytes) => return Ok(whole(bytes.clone())),
        Source::File(path) => path,
    };
    if item.size <= WHOLE_BYTES_MAX {
        return Ok(whole(tokio::fs::read(path).await?.into()));
    }
    let file = tokio::fs::File::open(path).await?;
    let hasher = Arc::new(Mutex::new(blake3::Hasher::new()));
    let growing = hasher.clone();
    let chunks = ReaderStream::with_capacity(file, CHUNK_BYTES).map(move |chunk| {
        let chunk = chunk?;
        growing.lock().unwrap_or_else(PoisonError::into_inner).update(&chunk);
        Ok(Frame::data(chunk))
    });
    Ok((StreamBody::new(chunks).boxed_unsync(), Hash::Growing(hasher)))
}

fn whole(bytes: Bytes) -> (Body, Hash) {
    let hash = ContentHash::of(&bytes);
    (full(bytes), Hash::Known(hash))
}
