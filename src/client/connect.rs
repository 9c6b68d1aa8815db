//! Connections to one server: TCP, then TLS under the name that its certificate must carry. On loopback it may be TCP
//! alone.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use http::Uri;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::either::Either;
use tower::Service;

use crate::model::{Address, NodeId, Principal};

/// Opens connections to one server, whatever URI it is asked for: who answers is decided by the certificate's name,
/// never by the address.
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

    /// How URIs begin that lead through it: their port is left out where it is the scheme's own.
    pub(super) const fn scheme(&self) -> &'static str {
        if self.tls.is_some() { "https" } else { "http" }
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
        Expected::Node(id) => Principal::Node(id.clone()).dns_name().unwrap_or_default(),
        Expected::AnyNode => Principal::ANY_NODE.to_owned(),
        Expected::AnyEdge => Principal::ANY_EDGE.to_owned(),
    };
    ServerName::try_from(name).expect("the name of a node is a DNS label")
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

impl Service<Uri> for Connector {
    type Response = PooledStream;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<PooledStream>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let Self { tls, address, deadline } = self.clone();
        Box::pin(async move {
            let connecting = async {
                let stream = dial(&address).await?;
                Ok(match tls {
                    Some((tls, name)) => Either::Left(tls.connect(name, stream).await?),
                    None => Either::Right(stream),
                })
            };
            let stream = within(deadline, connecting).await?;
            Ok(PooledStream { stream: TokioIo::new(stream), opened: Opened(Instant::now()) })
        })
    }
}

/// A connection as the pool wants it.
pub(super) struct PooledStream {
    stream: TokioIo<Either<TlsStream<TcpStream>, TcpStream>>,
    opened: Opened,
}

/// The failure to read on, in words for those who know nothing of how TLS ends a connection.
fn cut_off(error: io::Error) -> io::Error {
    match error.kind() {
        kind @ io::ErrorKind::UnexpectedEof => {
            io::Error::new(kind, "the other side closed the connection in the middle")
        }
        _ => error,
    }
}

/// When the connection of an answer stood ready; in the extensions of the answer. It tells those who measure how much of
/// the time to the first byte was the handshake's.
#[derive(Debug, Clone, Copy)]
pub struct Opened(pub Instant);

impl Connection for PooledStream {
    fn connected(&self) -> Connected {
        Connected::new().extra(self.opened)
    }
}

impl hyper::rt::Read for PooledStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: hyper::rt::ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf).map_err(cut_off)
    }
}

impl hyper::rt::Write for PooledStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_that_is_cut_off_is_told_in_plain_words() {
        let of_tls =
            io::Error::new(io::ErrorKind::UnexpectedEof, "peer closed connection without sending TLS close_notify");
        let told = cut_off(of_tls);
        assert_eq!(told.kind(), io::ErrorKind::UnexpectedEof);
        assert_eq!(told.to_string(), "the other side closed the connection in the middle");
        let reset = io::Error::from(io::ErrorKind::ConnectionReset);
        assert_eq!(cut_off(reset).kind(), io::ErrorKind::ConnectionReset);
    }
}
