//! A connection that carries one packet: read to its end, answered with one line, closed.
//!
//! Knows nothing of what a packet says.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::future::BoxFuture;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use super::stream::{Stream, linger};
use crate::model::Principal;

/// What takes packets: called once for each connection that carries one.
pub type PacketHandler = Arc<dyn Fn(PacketConnection) -> BoxFuture<'static, ()> + Send + Sync>;

/// As much as one TLS record holds.
const READ_BYTES: usize = 16 * 1024;

/// A connection that carries one packet.
pub struct PacketConnection {
    principal: Principal,
    peer: SocketAddr,
    stream: Stream,
    stall: Duration,
    buffer: BytesMut,
    ended: bool,
}

/// The next thing that comes over a packet's connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Received {
    /// Some bytes of the packet, at least one.
    Bytes(Bytes),
    /// The sender says that the packet is whole (TLS close_notify).
    Closed,
    /// The connection ended without a word, so the packet may be cut off; without TLS, every end is of this kind.
    Ended,
}

/// The packet did not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum ReceiveError {
    /// The sender fell silent.
    #[error("no part of the packet came for {0:?}")]
    Stalled(Duration),
    /// The connection was reset, or its TLS was broken.
    #[error("the connection broke off")]
    Broken(#[source] io::Error),
}

impl PacketConnection {
    pub(super) fn new(stream: Stream, principal: Principal, peer: SocketAddr, stall: Duration) -> Self {
        Self { principal, peer, stream, stall, buffer: BytesMut::new(), ended: false }
    }

    /// Who sends it.
    pub const fn principal(&self) -> &Principal {
        &self.principal
    }

    /// From where.
    pub const fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// Waits for the next bytes, or the end, which is given again if asked again. May be cancelled without loss.
    ///
    /// # Errors
    /// When nothing comes for too long, or the connection breaks.
    pub async fn receive(&mut self) -> Result<Received, ReceiveError> {
        self.buffer.reserve(READ_BYTES);
        let read = timeout(self.stall, self.stream.read_buf(&mut self.buffer)).await;
        match read.map_err(|_| ReceiveError::Stalled(self.stall))? {
            Ok(0) => {
                self.ended = true;
                Ok(if self.stream.is_tls() { Received::Closed } else { Received::Ended })
            }
            Ok(_) => Ok(Received::Bytes(self.buffer.split().freeze())),
            // How rustls reports the end of a connection without close_notify.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                self.ended = true;
                Ok(Received::Ended)
            }
            Err(error) => Err(ReceiveError::Broken(error)),
        }
    }

    /// Sends one line and closes; bytes of a refused packet that still come are dropped for a moment, so that the line
    /// arrives.
    ///
    /// # Errors
    /// When the sender is gone or does not take it; packet senders may ignore answers, so this is no fault.
    pub async fn answer(mut self, line: &str) -> io::Result<()> {
        let sent = async {
            self.stream.write_all(line.as_bytes()).await?;
            self.stream.write_all(b"\n").await?;
            self.stream.shutdown().await
        };
        timeout(self.stall, sent).await.map_err(|_| io::ErrorKind::TimedOut)??;
        if !self.ended {
            linger(&mut self.stream).await;
        }
        Ok(())
    }
}
