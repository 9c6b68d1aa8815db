//! A file in one of the reference's packets: a TLS connection, one packet, close_notify, one line of answer.

use std::io;
use std::path::Path;
use std::time::Duration;

use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

use super::retry::SendError;
use super::source::{Source, SourceError};
use crate::cli::progress::Progress;
use crate::cli::{Cluster, Target};
use crate::client::connect;
use crate::model::{Address, ContentHash, ObjectKey};
use crate::protocol::packet::{Encoder, Format};

const CONNECT_DEADLINE: Duration = Duration::from_secs(10);

/// How long a server may take for a piece, and for its answer.
const STALL: Duration = Duration::from_secs(60);

/// How long the reason is waited for after the server stopped listening.
const REASON_DEADLINE: Duration = Duration::from_secs(2);

/// The longest answer that is read, in bytes.
const ANSWER_MAX: u64 = 64 << 10;

/// The line with which a node answers a packet.
#[derive(Debug, Default, Deserialize)]
struct Answer {
    hash: Option<ContentHash>,
    error: Option<String>,
}

/// Sends the file at `path` once; answers its size and hash, which the server has confirmed.
pub(super) async fn send(
    cluster: &Cluster,
    target: &Target,
    format: Format,
    key: &ObjectKey,
    path: &Path,
    progress: &Progress,
) -> Result<(u64, ContentHash), SendError> {
    let mut advanced = 0;
    let outcome = exchange(cluster, target, format, (key, path), |bytes| {
        advanced += bytes;
        progress.advance(bytes);
    });
    outcome.await.inspect_err(|_| progress.retreat(advanced))
}

async fn exchange(
    cluster: &Cluster,
    target: &Target,
    format: Format,
    (key, path): (&ObjectKey, &Path),
    advance: impl FnMut(u64),
) -> Result<(u64, ContentHash), SendError> {
    let address = &target.address;
    let failed = |source| SendError::Connection { address: address.clone(), source };
    let mut source = Source::open(path).await?;
    let size = source.size;
    let connecting = connect(cluster.tls().clone(), target.id.as_ref(), address, CONNECT_DEADLINE);
    let (mut from, mut to) = tokio::io::split(connecting.await.map_err(failed)?);
    let encoder = Encoder::new(format, key.as_str(), false, size);
    let mut answer = Box::pin(read_answer(&mut from));
    // A server that refuses says so before it has read everything; then the rest need not be sent.
    let text = tokio::select! {
        biased;
        early = &mut answer => early,
        written = write(&mut to, encoder, &mut source, advance) => match written {
            Ok(()) => timeout(STALL, answer).await.unwrap_or_else(|_| Err(late("no answer"))),
            Err(WriteError::Source(error)) => return Err(error.into()),
            Err(WriteError::Connection(error)) => match timeout(REASON_DEADLINE, answer).await {
                Ok(Ok(text)) if !text.is_empty() => Ok(text),
                _ => Err(error),
            },
        },
    };
    let stored = understand(&text.map_err(failed)?, address)?;
    // The hash is only there if the file was read to its end.
    let hash = source.hash.try_recv().map_err(|_| failed(io::ErrorKind::UnexpectedEof.into()))?;
    if stored == hash {
        Ok((size, hash))
    } else {
        Err(SendError::Corrupted { address: address.clone(), sent: hash, stored })
    }
}

/// The hash in an answer.
fn understand(text: &[u8], address: &Address) -> Result<ContentHash, SendError> {
    if text.is_empty() {
        // A node answers what it has stored. One that ends before that has nothing to show for it.
        let source = io::Error::new(io::ErrorKind::UnexpectedEof, "it ended without an answer");
        return Err(SendError::Connection { address: address.clone(), source });
    }
    let refused = |reason: &str| SendError::Refused { address: address.clone(), reason: reason.to_owned() };
    match serde_json::from_slice(text) {
        Ok(Answer { error: Some(reason), .. }) => Err(refused(&reason)),
        Ok(Answer { hash: Some(hash), .. }) => Ok(hash),
        Ok(Answer { hash: None, error: None }) | Err(_) => Err(refused("what is not understood")),
    }
}

enum WriteError {
    Source(SourceError),
    Connection(io::Error),
}

/// Writes the packet and says that it is whole.
async fn write(
    to: &mut (impl AsyncWrite + Unpin),
    mut encoder: Encoder,
    source: &mut Source,
    mut advance: impl FnMut(u64),
) -> Result<(), WriteError> {
    let mut text = encoder.head();
    while let Some(piece) = source.chunks.recv().await {
        let bytes = piece.map_err(WriteError::Source)?;
        encoder.content(&bytes, &mut text);
        write_piece(to, &text).await?;
        advance(bytes.len() as u64);
        text.clear();
    }
    let end = encoder.finish().map_err(|error| WriteError::Connection(io::Error::other(error)))?;
    text.extend(end);
    write_piece(to, &text).await?;
    let closed = timeout(STALL, to.shutdown()).await;
    closed
        .map_err(|_| late("no room for the end of the packet"))
        .and_then(|closed| closed)
        .map_err(WriteError::Connection)
}

async fn write_piece(to: &mut (impl AsyncWrite + Unpin), text: &[u8]) -> Result<(), WriteError> {
    let written = async {
        to.write_all(text).await?;
        to.flush().await
    };
    let written = timeout(STALL, written).await.unwrap_or_else(|_| Err(late("the server took nothing")));
    written.map_err(WriteError::Connection)
}

/// Everything that the server sends until it closes. Servers other than ours close without close_notify.
async fn read_answer(from: &mut (impl AsyncRead + Unpin)) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    match from.take(ANSWER_MAX).read_to_end(&mut text).await {
        Err(error) if error.kind() != io::ErrorKind::UnexpectedEof => Err(error),
        _ => Ok(text),
    }
}

fn late(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, format!("{what} for {} s", STALL.as_secs()))
}
