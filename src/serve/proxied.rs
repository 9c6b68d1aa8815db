//! Connections that proxies pass on: whom they are for, by the PROXY protocol, and which proxies are believed.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;

use super::proxy_protocol::{self, Header};
use crate::model::Network;

/// How much is looked at at a time; nearly all headers are shorter.
const LOOK_BYTES: usize = 512;

/// The proxies whose connections begin with a PROXY header, and of nobody else's. They are known by their addresses, not by what
/// they send: else everybody could pass for anybody ("Security considerations" of `proxy-protocol.txt`).
#[derive(Debug, Clone, Default)]
pub struct Proxies(Arc<ArcSwap<Vec<Network>>>);

impl Proxies {
    /// Those in these networks.
    pub fn new(networks: Vec<Network>) -> Self {
        Self(Arc::new(ArcSwap::from_pointee(networks)))
    }

    /// From now on they are those in these networks.
    pub fn exchange(&self, networks: Vec<Network>) {
        self.0.store(Arc::new(networks));
    }

    /// Whether the one at `ip` is one of them.
    pub(super) fn contain(&self, ip: IpAddr) -> bool {
        self.0.load().iter().any(|network| network.contains(ip))
    }
}

/// Takes the header that the connection of the proxy at `peer` begins with, and not a byte more. Answers whose address
/// counts.
pub(super) async fn receive(tcp: &mut TcpStream, peer: SocketAddr) -> io::Result<SocketAddr> {
    let mut known = Vec::new();
    let mut look = [0; LOOK_BYTES];
    loop {
        let seen = tcp.peek(&mut look).await?;
        if seen == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let taken_before = known.len();
        known.extend_from_slice(&look[..seen]);
        let parsed = proxy_protocol::parse(&known);
        let header = parsed.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        // While it is not whole, all that came is a part of it.
        let taken = header.map_or(known.len(), |header| header.length) - taken_before;
        tcp.read_exact(&mut look[..taken]).await?;
        if let Some(Header { source, .. }) = header {
            return Ok(source.unwrap_or(peer));
        }
    }
}
