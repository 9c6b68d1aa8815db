//! Connections to one server: TCP, then TLS under the name that its certificate must carry.

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
use tower::Service;

use crate::model::{Address, NodeId, Principal};

/// Opens connections to one server, whatever URI it is asked for: who answers is decided by the certificate's name,
/// never by the address.
#[derive(Clone)]
pub(super) struct Connector {
    tls: TlsConnector,
    name: ServerName<'static>,
    address: Address,
    deadline: Duration,
}

impl std::fmt::Debug for Connector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connector").field("name", &self.name).field("address", &self.address).finish_non_exhaustive()
    }
}

impl Connector {
    pub(super) fn new(
        tls: Arc<rustls::ClientConfig>,
        expected: Option<&NodeId>,
        address: Address,
        deadline: Duration,
    ) -> Self {
        Self { tls: TlsConnector::from(tls), name: server_name(expected), address, deadline }
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
    open(TlsConnector::from(tls), server_name(expected), address.clone(), deadline).await
}

fn server_name(expected: Option<&NodeId>) -> ServerName<'static> {
    let name = match expected {
        Some(id) => Principal::Node(id.clone()).dns_name().unwrap_or_default(),
        None => Principal::ANY_NODE.to_owned(),
    };
    ServerName::try_from(name).expect("the name of a node is a DNS label")
}

async fn open(
    tls: TlsConnector,
    name: ServerName<'static>,
    address: Address,
    deadline: Duration,
) -> io::Result<TlsStream<TcpStream>> {
    let connecting = async {
        let stream = TcpStream::connect((address.host(), address.port())).await?;
        stream.set_nodelay(true)?;
        tls.connect(name, stream).await
    };
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
        let Self { tls, name, address, deadline } = self.clone();
        Box::pin(async move {
            let stream = open(tls, name, address, deadline).await?;
            Ok(PooledStream { stream: TokioIo::new(stream), opened: Opened(Instant::now()) })
        })
    }
}

/// A connection as the pool wants it.
pub(super) struct PooledStream {
    stream: TokioIo<TlsStream<TcpStream>>,
    opened: Opened,
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
        Pin::new(&mut self.stream).poll_read(cx, buf)
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
