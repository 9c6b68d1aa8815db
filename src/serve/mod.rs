//! What every server needs: accept, limits, drain, TLS, and who is calling.
//!
//! Knows nothing of what is served: a handler gets each HTTP request, and, where packets are spoken, each packet's
//! connection. Requests carry the caller ([`Principal`](crate::model::Principal)), [`PeerAddress`] and [`ClientLink`] in their extensions.

use std::error::Error;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use hyper::body::Body;
use rustls::ServerConfig;
use serde::{Deserialize, Serialize};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tower::Service;
use tracing::{debug, info};

mod accept;
pub mod body;
pub mod cache_control;
mod certificates;
pub mod condition;
mod framing;
pub mod guard;
mod guarded;
pub mod http1;
mod http2;
#[cfg(feature = "http3")]
pub mod http3;
mod link;
pub mod multipart;
mod packet;
mod proxied;
mod proxy_protocol;
pub mod range;
mod requests;
mod sniff;
mod stream;
mod streams;
mod tls;
mod witness;

use accept::{Place, WhenFull, accept_until};
pub use body::RequestBody;
pub use certificates::{Certificates, CertificatesError, Secured, Shown};
pub use link::{ClientLink, Sent};
pub use packet::{PacketConnection, PacketHandler, ReceiveError, Received};
pub use proxied::Proxies;
use tls::Accepted;
pub use witness::{AskedFor, Ended, Left, Witness};

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
    /// TLS with certificates for users, who are anonymous; what is spoken inside they choose. For [`http1`] alone.
    Public(Arc<Certificates>),
}

/// The limits of one listener.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Connections at a time; more wait to be accepted, or, where users are answered, get 503.
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
    let places = Arc::new(Semaphore::new(config.connections_max));
    let shared = Arc::new(Shared { transport, config, shutdown: shutdown.clone() });
    let start = |tcp, peer, place: Place| {
        let connection = connection(tcp, peer, handlers.clone(), shared.clone());
        async move {
            connection.await;
            drop(place);
        }
    };
    accept_until(&shutdown, listener, places, WhenFull::Wait, drain_timeout, start).await;
}

struct Shared {
    transport: Transport,
    config: Config,
    shutdown: CancellationToken,
}

async fn connection<S, B>(tcp: TcpStream, peer: SocketAddr, handlers: Handlers<S>, shared: Arc<Shared>)
where
    S: Service<Request<RequestBody>, Response = Response<B>> + Clone + Send + 'static,
    S::Error: Into<Box<dyn Error + Send + Sync>> + Send,
    B: Body<Data = Bytes> + 'static,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    let Shared { transport, config, shutdown } = &*shared;
    // Until the first byte nothing has been asked, so a stop need not wait.
    let begun = tokio::select! {
        () = shutdown.cancelled() => return,
        begun = begin(tcp, peer, transport, config, handlers.packets.is_some()) => begun,
    };
    let (Accepted { stream, principal, .. }, carried) = match begun {
        Ok(begun) => begun,
        Err(error) => return not_begun(peer, &error),
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

fn not_begun(peer: SocketAddr, error: &io::Error) {
    match error.kind() {
        // The operator of the caller will ask why; everything else is what an open port sees all day.
        io::ErrorKind::InvalidData | io::ErrorKind::PermissionDenied => info!(%peer, %error, "handshake refused"),
        _ => debug!(%peer, %error, "connection ended before a request"),
    }
}

/// The handshake, and the first byte if it decides.
async fn begin(
    tcp: TcpStream,
    peer: SocketAddr,
    transport: &Transport,
    config: &Config,
    packets: bool,
) -> io::Result<(Accepted, sniff::Carried)> {
    let late = |what: &'static str| move |_| io::Error::new(io::ErrorKind::TimedOut, what);
    let handshake = timeout(config.handshake_timeout(), tls::accept(tcp, peer, transport));
    let mut accepted = handshake.await.map_err(late("no TLS handshake in time"))??;
    if !packets {
        return Ok((accepted, sniff::Carried::Http));
    }
    let sniffed = timeout(config.header_timeout(), sniff::sniff(&mut accepted.stream)).await;
    let carried = sniffed.map_err(late("nothing was sent in time"))??;
    Ok((accepted, carried))
}
