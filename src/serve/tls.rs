//! The TLS handshake, and who the caller proves to be.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::pki_types::CertificateDer;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

use super::Transport;
use super::link::Tcp;
use super::stream::{Stream, Transported};
use crate::model::Principal;
use crate::protocol::certificate::principal_of;

/// Takes up a connection as its listener's transport demands.
pub(super) async fn accept(tcp: TcpStream, peer: SocketAddr, transport: &Transport) -> io::Result<(Stream, Principal)> {
    let tcp = Tcp::new(tcp);
    match transport {
        Transport::Plain => Ok((Stream::new(Transported::Plain(tcp)), Principal::Anonymous)),
        Transport::Loopback => {
            // The listener may be bound wider than it should; the right is the caller's place, not the listener's.
            let here = peer.ip().to_canonical().is_loopback();
            let principal = if here { Principal::Operator } else { Principal::Anonymous };
            Ok((Stream::new(Transported::Plain(tcp)), principal))
        }
        Transport::Tls(config) => accept_tls(tcp, config.clone()).await,
    }
}

async fn accept_tls(tcp: Tcp, config: Arc<ServerConfig>) -> io::Result<(Stream, Principal)> {
    let stream = TlsAcceptor::from(config).accept(tcp).await?;
    let (_, session) = stream.get_ref();
    let principal = match session.peer_certificates().and_then(<[CertificateDer<'_>]>::first) {
        None => Principal::Anonymous,
        Some(certificate) => {
            principal_of(certificate).map_err(|error| io::Error::new(io::ErrorKind::PermissionDenied, error))?
        }
    };
    Ok((Stream::new(Transported::Tls(Box::new(stream))), principal))
}
