//! The TLS handshake, and who the caller proves to be.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::pki_types::CertificateDer;
use rustls::server::Acceptor;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio_rustls::{LazyConfigAcceptor, TlsAcceptor};

use super::certificates::{ALPN_HTTP_2, Certificates};
use super::link::Tcp;
use super::stream::{Stream, Transported};
use super::{Secured, Transport};
use crate::model::Principal;
use crate::protocol::certificate::principal_of;

/// Tells a client that nobody here has the name it asks for (RFC 6066 section 3): a fatal alert, in plain text as all before
/// the keys are agreed upon (RFC 8446 sections 5.1 and 6.2).
const UNRECOGNIZED_NAME: [u8; 7] = [21, 3, 3, 0, 2, 2, 112];

/// A connection that was taken up.
pub(super) struct Accepted {
    pub(super) stream: Stream,
    pub(super) principal: Principal,
    /// By what certificate for users it is protected.
    pub(super) secured: Option<Secured>,
    /// Whether HTTP/2 was agreed upon.
    pub(super) http2: bool,
}

impl Accepted {
    const fn plain(tcp: Tcp, principal: Principal) -> Self {
        Self { stream: Stream::new(Transported::Plain(tcp)), principal, secured: None, http2: false }
    }
}

/// Takes up a connection as its listener's transport demands.
pub(super) async fn accept(tcp: TcpStream, peer: SocketAddr, transport: &Transport) -> io::Result<Accepted> {
    let tcp = Tcp::new(tcp);
    match transport {
        Transport::Plain => Ok(Accepted::plain(tcp, Principal::Anonymous)),
        Transport::Loopback => {
            // The listener may be bound wider than it should; the right is the caller's place, not the listener's.
            let here = peer.ip().to_canonical().is_loopback();
            Ok(Accepted::plain(tcp, if here { Principal::Operator } else { Principal::Anonymous }))
        }
        Transport::Tls(config) => accept_tls(tcp, config.clone()).await,
        Transport::Public(certificates) => accept_public(tcp, certificates).await,
    }
}

async fn accept_tls(tcp: Tcp, config: Arc<ServerConfig>) -> io::Result<Accepted> {
    let stream = TlsAcceptor::from(config).accept(tcp).await?;
    let (_, session) = stream.get_ref();
    let principal = match session.peer_certificates().and_then(<[CertificateDer<'_>]>::first) {
        None => Principal::Anonymous,
        Some(certificate) => {
            principal_of(certificate).map_err(|error| io::Error::new(io::ErrorKind::PermissionDenied, error))?
        }
    };
    let stream = Stream::new(Transported::Tls(Box::new(stream)));
    Ok(Accepted { stream, principal, secured: None, http2: false })
}

async fn accept_public(tcp: Tcp, certificates: &Certificates) -> io::Result<Accepted> {
    let start = LazyConfigAcceptor::new(Acceptor::default(), tcp).await?;
    let hello = start.client_hello();
    let Some(choice) = certificates.choose(hello.server_name(), hello.signature_schemes()) else {
        let asked = hello.server_name().unwrap_or_default();
        let error = io::Error::new(io::ErrorKind::NotFound, format!("no certificate is for {asked:?}"));
        let mut tcp = start.io;
        tcp.write_all(&UNRECOGNIZED_NAME).await?;
        tcp.shutdown().await?;
        return Err(error);
    };
    let stream = start.into_stream(choice.config()).await?;
    let http2 = stream.get_ref().1.alpn_protocol() == Some(ALPN_HTTP_2);
    let stream = Stream::new(Transported::Tls(Box::new(stream)));
    Ok(Accepted { stream, principal: Principal::Anonymous, secured: Some(choice.into_secured()), http2 })
}
