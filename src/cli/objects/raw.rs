//! A file over HTTP: streamed, whatever its size.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Frame;
use tokio::sync::mpsc;

use super::retry::SendError;
use super::source::{Source, SourceError};
use crate::cli::progress::Progress;
use crate::client::{Body, ClientError, Deadlines, Peer, Upload};
use crate::model::{ContentHash, FieldValue, ObjectKey, WaitFor};

/// Deadlines for uploads. A server that has all the bytes may take long to make them durable.
pub(super) const DEADLINES: Deadlines =
    Deadlines { connect: Duration::from_secs(10), first_byte: Duration::from_secs(60), idle: Duration::from_secs(30) };

/// How the objects are to be stored and served.
#[derive(Debug, Clone, Default)]
pub(super) struct Served {
    pub(super) media_type: Option<FieldValue>,
    pub(super) cache_control: Option<FieldValue>,
    pub(super) wait_for: Option<WaitFor>,
}

/// Sends the file at `path` once; answers its size and hash, which the server has confirmed, and on how many nodes it was
/// durable by then.
pub(super) async fn send(
    peer: &Peer,
    key: &ObjectKey,
    path: &Path,
    served: &Served,
    progress: &Arc<Progress>,
) -> Result<(u64, ContentHash, u32), SendError> {
    let Source { size, chunks, hash } = Source::open(path).await?;
    let sent = Arc::new(AtomicU64::new(0));
    let (media_type, cache_control) = (served.media_type.as_ref(), served.cache_control.as_ref());
    let upload = Upload { key, size, media_type, cache_control, wait_for: served.wait_for };
    let put = peer.put_object(&upload, body(chunks, size, sent.clone(), progress.clone()));
    if size == 0 {
        progress.file_sent();
    }
    let outcome = put.await;
    let sent = sent.load(Ordering::Relaxed);
    if sent == size {
        progress.file_answered();
    }
    let receipt = outcome.inspect_err(|_| progress.retreat(sent))?;
    let stored = receipt.content.hash;
    // Of a file without bytes no piece says that it was read to its end.
    let read = if sent == size { hash.await.ok() } else { None };
    match read {
        Some(hash) if hash == stored && size == receipt.content.size => Ok((size, hash, receipt.copies)),
        Some(sent) => Err(SendError::Corrupted { address: peer.address().clone(), sent, stored }),
        // It says that it has stored what was not sent to its end.
        None => {
            let reason = "an answer before the file was sent".to_owned();
            Err(ClientError::NotUnderstood { address: peer.address().clone(), reason }.into())
        }
    }
}

fn body(
    mut chunks: mpsc::Receiver<Result<Bytes, SourceError>>,
    size: u64,
    sent: Arc<AtomicU64>,
    progress: Arc<Progress>,
) -> Body {
    let frames = stream::poll_fn(move |context| {
        Poll::Ready(ready!(chunks.poll_recv(context)).map(|piece| {
            let bytes = piece?;
            let all = sent.fetch_add(bytes.len() as u64, Ordering::Relaxed) + bytes.len() as u64;
            progress.advance(bytes.len() as u64);
            if all == size {
                progress.file_sent();
            }
            Ok(Frame::data(bytes))
        }))
    });
    if size == 0 { crate::client::empty() } else { StreamBody::new(frames).boxed_unsync() }
}
