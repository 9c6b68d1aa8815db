//! Connections to one server: TCP, then TLS under the name that its certificate must carry. On loopback it may be TCP
//! alone.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::HeaderValue;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::http1::{Gulping, Transport, Wire};
use crate::model::{Address, NodeId, Principal};

/// Opens connections to one server: who answers is decided by the certificate's name, never by the address.
#[derive(Clone)]
pub(super) struct Connector {
    /// With whom, and under which name; none for TCP alone.
    tls: Option<(TlsConnector, ServerName<'static>)>,
    address: Address,
    deadline: Duration,
}

/// Who has to answer.
#[derive(Debug, Clone, Copy)]
pub(super) enum Expected<'a> {
    /// This node.
    Node(&'a NodeId),
    /// Any node of the cluster.
    AnyNode,
    /// Any edge of the cluster.
    AnyEdge,
    /// Whoever has a certificate for this DNS name or IP address.
    Host(&'a str),
}

impl std::fmt::Debug for Connector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let name = self.tls.as_ref().map(|(_, name)| name);
        f.debug_struct("Connector").field("name", &name).field("address", &self.address).finish_non_exhaustive()
    }
}

impl Connector {
    pub(super) fn new(
        tls: Arc<rustls::ClientConfig>,
        expected: Expected<'_>,
        address: Address,
        deadline: Duration,
    ) -> Self {
        Self { tls: Some((TlsConnector::from(tls), server_name(expected))), address, deadline }
    }

    pub(super) const fn plain(address: Address, deadline: Duration) -> Self {
        Self { tls: None, address, deadline }
    }

    /// What requests say of whom they are for (RFC 9110 section 7.2): the port is left out where it is the scheme's own.
    pub(super) fn host(&self) -> HeaderValue {
        let text = self.address.to_string();
        let own = if self.tls.is_some() { ":443" } else { ":80" };
        HeaderValue::from_str(text.strip_suffix(own).unwrap_or(&text)).expect("an address is visible ASCII")
    }

    /// A new connection.
    pub(super) async fn connect(&self) -> io::Result<Wire> {
        let connecting = async {
            let tcp = dial(&self.address).await?;
            Ok(match &self.tls {
                Some((tls, name)) => Transport::Tls(Box::new(tls.connect(name.clone(), Gulping::new(tcp)).await?)),
                None => Transport::Plain(tcp),
            })
        };
        within(self.deadline, connecting).await.map(|transport| Wire::new(transport, Instant::now()))
    }
}

/// Opens a TLS connection to the node at `address`, for what is not HTTP.
///
/// # Errors
/// When it is not reached within `deadline`, or its certificate is not that of `expected` (or of any node).
pub async fn connect(
    tls: Arc<rustls::ClientConfig>,
    expected: Option<&NodeId>,
    address: &Address,
    deadline: Duration,
) -> io::Result<TlsStream<TcpStream>> {
    let (tls, name) = (TlsConnector::from(tls), server_name(expected.into()));
    within(deadline, async { tls.connect(name, dial(address).await?).await }).await
}

impl<'a> From<Option<&'a NodeId>> for Expected<'a> {
    fn from(node: Option<&'a NodeId>) -> Self {
        node.map_or(Self::AnyNode, Self::Node)
    }
}

fn server_name(expected: Expected<'_>) -> ServerName<'static> {
    let name = match expected {
        Expected::Host(name) => name.to_owned(),
        Expected::Node(id) => Principal::Node(id.clone()).dns_name().unwrap_or_default(),
        Expected::AnyNode => Principal::ANY_NODE.to_owned(),
        Expected::AnyEdge => Principal::ANY_EDGE.to_owned(),
    };
    ServerName::try_from(name)
        .expect("the name of a node is a DNS label, and an address has a DNS name or an IP address")
}

async fn dial(address: &Address) -> io::Result<TcpStream> {
    let stream = TcpStream::connect((address.host(), address.port())).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

async fn within<T>(deadline: Duration, connecting: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    let late = || io::Error::new(io::ErrorKind::TimedOut, format!("no connection within {} ms", deadline.as_millis()));
    tokio::time::timeout(deadline, connecting).await.map_err(|_| late())?
}
