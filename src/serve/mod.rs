//! What every server needs: accept, limits, drain, TLS, and who is calling.
//!
//! Knows nothing of what is served: a handler gets each HTTP request, and, where packets are spoken, each packet's
//! connection. Requests carry the caller ([`Principal`]), [`PeerAddress`] and [`ClientLink`] in their extensions.

use std::error::Error;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use hyper::body::{Body, Incoming};
use rustls::ServerConfig;
use serde::{Deserialize, Serialize};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::{JoinError, JoinSet};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tower::Service;
use tracing::{debug, error, info, warn};

use crate::model::Principal;

pub mod body;
pub mod cache_control;
pub mod condition;
mod framing;
pub mod guard;
mod guarded;
mod link;
mod packet;
pub mod range;
mod requests;
mod sniff;
mod stream;
mod tls;

pub use link::{ClientLink, Sent};
pub use packet::{PacketConnection, PacketHandler, ReceiveError, Received};

/// How long accepting rests when the system has no resources for another connection.
const ACCEPT_REST: Duration = Duration::from_millis(100);

/// The body of a request: it fails when its sender stalls.
pub type RequestBody = body::Timed<Incoming>;

/// Where a request comes from; in its extensions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerAddress(pub SocketAddr);

/// What the bytes of a listener's connections travel in, and so what is known of the callers.
#[derive(Debug, Clone)]
pub enum Transport {
    /// As they are; callers are anonymous.
    Plain,
    /// As they are; callers on this machine are its operator, others are anonymous.
    Loopback,
    /// TLS; callers are who their certificate says, or anonymous without one.
    Tls(Arc<ServerConfig>),
}

/// The limits of one listener.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Connections at a time; more wait to be accepted.
    pub connections_max: usize,
    /// How long a TLS handshake may take.
    pub handshake_timeout_ms: u64,
    /// How long a request's head may take from its first byte, or a new connection's from its begin.
    pub header_timeout_ms: u64,
    /// The size of a request's head; larger ones (and those of more than 100 fields) get 431.
    pub header_bytes_max: usize,
    /// How long a connection is kept between requests.
    pub idle_timeout_ms: u64,
    /// How long a body's sender or an answer's receiver may stand still.
    pub stall_timeout_ms: u64,
    /// How long running answers have to end when the server stops.
    pub drain_timeout_ms: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            // At up to 128 KiB of buffers each, the rare worst case stays near 128 MiB.
            connections_max: 1024,
            handshake_timeout_ms: 10_000,
            header_timeout_ms: 10_000,
            // Browsers with many cookies send about 8 KiB.
            header_bytes_max: 16 * 1024,
            // Longer than the 30 s for which the long polls of peers and edges wait.
            idle_timeout_ms: 60_000,
            stall_timeout_ms: 30_000,
            drain_timeout_ms: 30_000,
        }
    }
}

impl Config {
    const fn handshake_timeout(&self) -> Duration {
        Duration::from_millis(self.handshake_timeout_ms)
    }

    const fn header_timeout(&self) -> Duration {
        Duration::from_millis(self.header_timeout_ms)
    }

    const fn idle_timeout(&self) -> Duration {
        Duration::from_millis(self.idle_timeout_ms)
    }

    const fn stall_timeout(&self) -> Duration {
        Duration::from_millis(self.stall_timeout_ms)
    }

    const fn drain_timeout(&self) -> Duration {
        Duration::from_millis(self.drain_timeout_ms)
    }
}

/// What answers.
#[derive(Clone)]
pub struct Handlers<S> {
    /// Answers HTTP requests: an axum `Router`, or any other service.
    pub http: S,
    /// Takes packets, where they are spoken: connections are then told apart by their first byte.
    pub packets: Option<PacketHandler>,
}

/// Serves `listener` until `shutdown`; then no more connections are accepted, running answers end, and what has not
/// ended after the drain timeout is dropped. Nothing of it runs on when this returns.
pub async fn serve<S, B>(
    listener: TcpListener,
    transport: Transport,
    config: Config,
    handlers: Handlers<S>,
    shutdown: CancellationToken,
) where
    S: Service<Request<RequestBody>, Response = Response<B>> + Clone + Send + Sync + 'static,
    S::Future: Send,
    S::Error: Into<Box<dyn Error + Send + Sync>> + Send,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    let drain_timeout = config.drain_timeout();
    let free = Arc::new(Semaphore::new(config.connections_max));
    let shared = Arc::new(Shared { transport, config, shutdown: shutdown.clone() });
    let mut connections = JoinSet::new();
    loop {
        let (tcp, peer, permit) = tokio::select! {
            () = shutdown.cancelled() => break,
            Some(ended) = connections.join_next() => {
                report(ended);
                continue;
            }
            accepted = accept(&listener, &free) => accepted,
        };
        let connection = connection(tcp, peer, handlers.clone(), shared.clone());
        connections.spawn(async move {
            connection.await;
            drop(permit);
        });
    }
    // Closed first, so that callers go elsewhere while the last answers end.
    drop(listener);
    let drained = timeout(drain_timeout, async {
        while let Some(ended) = connections.join_next().await {
            report(ended);
        }
    });
    if drained.await.is_err() {
        warn!(connections = connections.len(), "answers did not end in time, dropping them");
        connections.shutdown().await;
    }
}

struct Shared {
    transport: Transport,
    config: Config,
    shutdown: CancellationToken,
}

/// A connection and the place it takes. Dropped in the middle, no connection is lost: it stays in the system's queue.
async fn accept(
    listener: &TcpListener,
    free: &Arc<Semaphore>,
) -> (TcpStream, SocketAddr, tokio::sync::OwnedSemaphorePermit) {
    let permit = free.clone().acquire_owned().await.expect("the semaphore is never closed");
    loop {
        match listener.accept().await {
            Ok((tcp, peer)) => return (tcp, peer, permit),
            Err(error) if concerns_one_caller(&error) => debug!(%error, "a caller left before it was accepted"),
            Err(error) => {
                warn!(%error, "cannot accept connections, will retry");
                tokio::time::sleep(ACCEPT_REST).await;
            }
        }
    }
}

/// Linux hands errors that are already pending on a new connection to accept(2); the listener itself is well.
fn concerns_one_caller(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

fn report(ended: Result<(), JoinError>) {
    if let Err(error) = ended {
        error!(%error, "a connection's handler failed");
    }
}

async fn connection<S, B>(tcp: TcpStream, peer: SocketAddr, handlers: Handlers<S>, shared: Arc<Shared>)
where
    S: Service<Request<RequestBody>, Response = Response<B>> + Clone + Send + 'static,
    S::Error: Into<Box<dyn Error + Send + Sync>> + Send,
    B: Body<Data = Bytes> + 'static,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    let Shared { transport, config, shutdown } = &*shared;
    if let Err(error) = tcp.set_nodelay(true) {
        debug!(%peer, %error, "cannot send small answers at once");
    }
    // Until the first byte nothing has been asked, so a stop need not wait.
    let begun = tokio::select! {
        () = shutdown.cancelled() => return,
        begun = begin(tcp, peer, transport, config, handlers.packets.is_some()) => begun,
    };
    let (stream, principal, carried) = match begun {
        Ok(begun) => begun,
        // The operator of the caller will ask why; everything else is what an open port sees all day.
        Err(error) if matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::PermissionDenied) => {
            return info!(%peer, %error, "handshake refused");
        }
        Err(error) => return debug!(%peer, %error, "connection ended before a request"),
    };
    match (carried, handlers.packets) {
        (sniff::Carried::Nothing, _) => {}
        (sniff::Carried::Packet, Some(packets)) => {
            packets(PacketConnection::new(stream, principal, peer, config.stall_timeout())).await;
        }
        _ => {
            if let Err(error) = requests::serve(stream, principal, peer, handlers.http, config, shutdown).await {
                debug!(%peer, %error, "connection broke off");
            }
        }
    }
}

/// The handshake, and the first byte if it decides.
async fn begin(
    tcp: TcpStream,
    peer: SocketAddr,
    transport: &Transport,
    config: &Config,
    packets: bool,
) -> io::Result<(stream::Stream, Principal, sniff::Carried)> {
    let late = |what: &'static str| move |_| io::Error::new(io::ErrorKind::TimedOut, what);
    let handshake = timeout(config.handshake_timeout(), tls::accept(tcp, peer, transport));
    let (mut stream, principal) = handshake.await.map_err(late("no TLS handshake in time"))??;
    if !packets {
        return Ok((stream, principal, sniff::Carried::Http));
    }
    let sniffed = timeout(config.header_timeout(), sniff::sniff(&mut stream)).await;
    let carried = sniffed.map_err(late("nothing was sent in time"))??;
    Ok((stream, principal, carried))
}
