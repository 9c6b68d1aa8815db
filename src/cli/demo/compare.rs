//! Whether what was published is what is held: lists by hash, and every byte of every file.

use std::collections::BTreeMap;

use anyhow::{Context, bail, ensure};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};

use super::publish::Published;
use super::web::Web;
use crate::client::{Peer, Reader};
use crate::model::{ContentHash, ObjectKey};

/// Files read at a time from one place.
const READS_MAX: usize = 32;

/// Objects of one part of a list.
const LIST_MAX: usize = 1000;

/// Whether the list of `peer` has exactly the objects of `expected`, each with its hash and size.
///
/// # Errors
/// When the node does not answer, or with the first difference.
pub(super) async fn lists_equal(peer: &Peer, expected: &Published) -> anyhow::Result<()> {
    let mut listed = BTreeMap::new();
    let mut after = None;
    loop {
        let page = peer.list_objects("", after.as_ref(), LIST_MAX).await?;
        listed.extend(page.objects.into_iter().map(|object| (object.key, (object.content.hash, object.content.size))));
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    if let Some((key, _)) = expected.iter().find(|(key, stored)| listed.get(key) != Some(stored)) {
        match listed.get(key) {
            Some((hash, _)) => bail!("{key} is listed with the hash {hash}"),
            None => bail!("{key} is not listed"),
        }
    }
    if let Some(key) = listed.keys().find(|key| !expected.contains_key(key)) {
        bail!("{key} is listed but was not published");
    }
    Ok(())
}

/// Where files are read from.
#[derive(Debug, Clone)]
pub(super) enum Place {
    /// One node.
    Node(Peer),
    /// Whichever node the proxy chooses.
    Proxy(Web),
}

/// Reads every file of `expected` from `place` and compares its hash; tells `progress` the size of each.
///
/// # Errors
/// With the first file that cannot be read or differs.
pub(super) async fn contents_equal(place: &Place, expected: &Published, progress: impl Fn(u64)) -> anyhow::Result<()> {
    let progress = &progress;
    let one = |(key, (hash, size)): (&ObjectKey, &(ContentHash, u64))| {
        let (key, hash, size) = (key.clone(), *hash, *size);
        async move {
            let (found, bytes) = read(place, &key).await.with_context(|| format!("cannot read {key}"))?;
            ensure!((found, bytes) == (hash, size), "{key} has {bytes} bytes of hash {found}, not {size} of {hash}");
            progress(bytes);
            anyhow::Ok(())
        }
    };
    stream::iter(expected.iter().map(one)).buffer_unordered(READS_MAX).try_collect().await
}

async fn read(place: &Place, key: &ObjectKey) -> anyhow::Result<(ContentHash, u64)> {
    let peer = match place {
        Place::Node(peer) => peer,
        Place::Proxy(web) => return web.fetch(key, None).await.map(|answer| (answer.hash, answer.bytes)),
    };
    hash_of(peer.get_object(key, 0).await?.body).await
}

/// The hash and the length of all that comes.
///
/// # Errors
/// When it breaks off.
pub(super) async fn hash_of(mut body: Reader) -> anyhow::Result<(ContentHash, u64)> {
    let (mut hasher, mut bytes) = (blake3::Hasher::new(), 0);
    while let Some(chunk) = body.chunk().await? {
        hasher.update(&chunk);
        bytes += chunk.len() as u64;
    }
    Ok((ContentHash::new(*hasher.finalize().as_bytes()), bytes))
}
