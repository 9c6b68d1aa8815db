//! HTTP/3 (RFC 9114) over QUIC: the same handlers and the same hot answers as over TLS, and the same certificates.
//!
//! QUIC is `quinn`'s, HTTP/3 the codec of `h3`. What that leaves unchecked is seen to here: the size of frames before they
//! are held (`frames`), the order of pseudo-fields (`pseudo`), and all that HTTP/2 has too (`streams`). Both stay within
//! this module; `quic` is what joins them.
//!
//! A task runs a connection with all its streams, by the runtime that calls [`serve`]. Clients move between addresses, so
//! one socket serves all of them.

mod connection;
mod frames;
mod incoming;
mod probe;
mod pseudo;
mod quic;
mod sending;

use std::error::Error;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use h3::error::Code;
use http::{Request, Response};
use hyper::body::Body;
use quinn::crypto::rustls::{HandshakeData, QuicServerConfig};
use quinn::{Endpoint, EndpointConfig, IdleTimeout, TransportConfig};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tower::Service;
use tracing::{debug, error, warn};

use super::http1::{Caller, Common, Handlers, Hot};
use super::streams::{CONNECTION_WINDOW_BYTES, STREAM_WINDOW_BYTES, STREAMS_MAX};
use super::{Certificates, ClientLink, Config, RequestBody};
use crate::model::Principal;
pub(super) use incoming::Incoming;
pub use incoming::IncomingError;
pub use probe::{ProbeError, probe};

/// Streams that go one way: one for control, two for the compression of heads, and some that mean nothing (RFC 9114
/// section 6.2).
const ONE_WAY_STREAMS_MAX: u32 = 8;

/// How much of answers is sent and not acknowledged: what a link of 100 Mbit/s with a round trip of 160 ms carries.
const SEND_WINDOW_BYTES: u64 = 2 << 20;

/// How many handshakes with clients who have not shown that they are where they say may go on at a time; further ones have
/// to show it first (RFC 9000 section 8.1.2).
const UNVALIDATED_MAX: usize = 256;

/// How long the other sides have to hear that the last connections are closed.
const CLOSED_TIME: Duration = Duration::from_secs(1);

/// Serves the QUIC of `socket` until `shutdown`, by the limits of [`super::http1::serve`]. Then running answers end, and
/// what has not ended after the drain timeout is dropped. To be called within a tokio runtime of several threads.
///
/// # Errors
/// When the system refuses the socket.
pub async fn serve<S, B, H>(
    socket: UdpSocket,
    certificates: Arc<Certificates>,
    config: Config,
    handlers: Handlers<S, H>,
    shutdown: CancellationToken,
) -> io::Result<()>
where
    S: Service<Request<RequestBody>, Response = Response<B>> + Clone + Send + Sync + 'static,
    S::Future: Send,
    S::Error: Into<Box<dyn Error + Send + Sync>> + Send,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
    H: Hot,
{
    let settings = settings(&certificates, &config)?;
    let runtime = Arc::new(quinn::TokioRuntime);
    let endpoint = Endpoint::new(EndpointConfig::default(), Some(settings), socket, runtime)?;
    let door = Door {
        certificates,
        places: Arc::new(Semaphore::new(config.connections_max)),
        unvalidated: Arc::new(Semaphore::new(UNVALIDATED_MAX)),
        handshake: config.handshake_timeout(),
    };
    let drain_timeout = config.drain_timeout();
    let common = Arc::new(Common::new(handlers, config));
    let mut connections = JoinSet::new();
    loop {
        let incoming = tokio::select! {
            () = shutdown.cancelled() => break,
            Some(ended) = connections.join_next() => {
                report(ended);
                continue;
            }
            incoming = endpoint.accept() => incoming,
        };
        let Some(incoming) = incoming else { break };
        let Some(admitted) = door.admit(incoming) else { continue };
        let common = common.clone();
        connections.spawn(async move {
            if let Some((connection, caller, _place)) = admitted.await {
                connection::run(connection, caller, common).await;
            }
        });
    }
    common.stopping.stop();
    let drained = timeout(drain_timeout, async {
        loop {
            tokio::select! {
                ended = connections.join_next() => match ended {
                    Some(ended) => report(ended),
                    None => break,
                },
                // Who is told goes elsewhere; who is not asks again and again.
                Some(incoming) = endpoint.accept() => incoming.refuse(),
            }
        }
    });
    if drained.await.is_err() {
        warn!(connections = connections.len(), "answers did not end in time, dropping them");
        connections.shutdown().await;
    }
    endpoint.close(quic::number(Code::H3_NO_ERROR.value()), b"");
    let _ = timeout(CLOSED_TIME, endpoint.wait_idle()).await;
    Ok(())
}

fn report(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended {
        error!(%error, "a connection's handler failed");
    }
}

fn settings(certificates: &Arc<Certificates>, config: &Config) -> io::Result<quinn::ServerConfig> {
    let tls = QuicServerConfig::try_from(certificates.quic_config()).map_err(io::Error::other)?;
    let mut transport = TransportConfig::default();
    let idle = IdleTimeout::try_from(config.idle_timeout()).map_err(io::Error::other)?;
    transport
        .max_concurrent_bidi_streams(STREAMS_MAX.into())
        .max_concurrent_uni_streams(ONE_WAY_STREAMS_MAX.into())
        .stream_receive_window(STREAM_WINDOW_BYTES.into())
        .receive_window(CONNECTION_WINDOW_BYTES.into())
        .send_window(SEND_WINDOW_BYTES)
        .datagram_receive_buffer_size(None)
        .max_idle_timeout(Some(idle));
    let mut settings = quinn::ServerConfig::with_crypto(Arc::new(tls));
    settings.transport_config(Arc::new(transport));
    Ok(settings)
}

/// Who is let in.
struct Door {
    certificates: Arc<Certificates>,
    places: Arc<Semaphore>,
    unvalidated: Arc<Semaphore>,
    handshake: Duration,
}

impl Door {
    /// The handshake of a client that is let in; all others have been told.
    fn admit(
        &self,
        incoming: quinn::Incoming,
    ) -> Option<impl Future<Output = Option<(quinn::Connection, Caller, OwnedSemaphorePermit)>> + use<>> {
        let peer = incoming.remote_address();
        let unvalidated = if incoming.remote_address_validated() {
            None
        } else if let Ok(permit) = self.unvalidated.clone().try_acquire_owned() {
            Some(permit)
        } else {
            if let Err(error) = incoming.retry() {
                error.into_incoming().refuse();
            }
            return None;
        };
        let Ok(place) = self.places.clone().try_acquire_owned() else {
            incoming.refuse();
            return None;
        };
        let connecting = match incoming.accept() {
            Ok(connecting) => connecting,
            Err(error) => {
                debug!(%peer, %error, "connection ended before a request");
                return None;
            }
        };
        let (certificates, handshake) = (self.certificates.clone(), self.handshake);
        Some(async move {
            let connection = match timeout(handshake, connecting).await {
                Ok(Ok(connection)) => connection,
                Ok(Err(error)) => {
                    debug!(%peer, %error, "connection ended before a request");
                    return None;
                }
                Err(_) => return None,
            };
            drop(unvalidated);
            let caller = caller(&connection, peer, &certificates)?;
            Some((connection, caller, place))
        })
    }
}

fn caller(connection: &quinn::Connection, peer: SocketAddr, certificates: &Certificates) -> Option<Caller> {
    let data = connection.handshake_data()?.downcast::<HandshakeData>().ok()?;
    // It was found a moment ago. If it is gone since, so is the right to speak for its hosts.
    let secured = certificates.choose(data.server_name.as_deref(), &[])?.into_secured();
    let link = ClientLink::unknown();
    Some(Caller { address: peer, principal: Principal::Anonymous, link, secured: Some(secured) })
}
