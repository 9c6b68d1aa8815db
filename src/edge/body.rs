//! The body of every answer, wherever its bytes come from, and the line in the log at its end.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::Bytes;
use http::{Method, StatusCode};
use http_body_util::Full;
use hyper::body::{Body as _, Frame, SizeHint};
use tracing::info;

use super::Core;
use super::download::Download;
use super::memory::Kept;
use super::node_body::NodeBodyError;
use crate::cache::{Broken, Reader};
use crate::model::NodeId;

/// Where the bytes of an answer come from.
pub(super) enum Inner {
    /// The nodes.
    Node(Box<Download>),
    /// The edge's memory.
    Kept(Kept),
    /// A fetch that others read, too.
    Shared(Reader),
    /// The edge itself.
    Own(Full<Bytes>),
}

impl Inner {
    /// How many bytes are to come, as far as that is known.
    pub(super) fn left(&self) -> u64 {
        self.size_hint().lower()
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Node(body) => body.size_hint(),
            Self::Kept(body) => SizeHint::with_exact(body.left()),
            Self::Shared(reader) => SizeHint::with_exact(reader.left()),
            Self::Own(body) => body.size_hint(),
        }
    }
}

/// The body of an answer; its end is the request's line in the log.
pub(super) struct ProxyBody {
    pub(super) body: Inner,
    pub(super) log: Log,
}

/// An answer broke off.
#[derive(Debug, thiserror::Error)]
pub(super) enum ProxyBodyError {
    /// Of the nodes none could go on with it.
    #[error(transparent)]
    Node(#[from] NodeBodyError),
    /// It read a fetch along that failed.
    #[error(transparent)]
    Shared(#[from] Broken),
}

impl hyper::body::Body for ProxyBody {
    type Data = Bytes;
    type Error = ProxyBodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ProxyBodyError>>> {
        let frame = match &mut self.body {
            Inner::Node(body) => Pin::new(&mut **body).poll_frame(cx).map_err(ProxyBodyError::Node),
            Inner::Kept(body) => Poll::Ready(body.next().map(|bytes| Ok(Frame::data(bytes)))),
            Inner::Shared(reader) => reader.poll_bytes(cx).map(|next| next.map(|bytes| Ok(Frame::data(bytes?)))),
            Inner::Own(body) => Pin::new(body).poll_frame(cx).map_err(|never| match never {}),
        };
        if let Inner::Node(body) = &self.body {
            self.log.resumed = body.resumed();
        }
        match &frame {
            Poll::Ready(Some(Ok(frame))) => self.log.bytes += frame.data_ref().map_or(0, |bytes| bytes.len() as u64),
            Poll::Ready(Some(Err(error))) => self.log.broken = Some(error.to_string()),
            Poll::Ready(None) | Poll::Pending => {}
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        match &self.body {
            Inner::Node(body) => body.is_end_stream(),
            Inner::Kept(body) => body.left() == 0,
            Inner::Shared(reader) => reader.left() == 0,
            Inner::Own(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// What the log says of a request, once it is over however it ended.
pub(super) struct Log {
    pub(super) core: Arc<Core>,
    pub(super) method: Method,
    pub(super) path: String,
    pub(super) status: Option<StatusCode>,
    pub(super) node: Option<NodeId>,
    pub(super) client: Option<SocketAddr>,
    pub(super) start: Instant,
    pub(super) bytes: u64,
    /// How often another node went on with the body.
    pub(super) resumed: usize,
    pub(super) broken: Option<String>,
}

impl Drop for Log {
    fn drop(&mut self) {
        let Self { core, method, path, status, node, client, start, bytes, resumed, broken } = self;
        core.metrics.sent_bytes.inc_by(*bytes);
        let total_ms = start.elapsed().as_secs_f64() * 1_000.0;
        info!(
            %method, path, status = status.map(|status| status.as_u16()), node = node.as_ref().map(tracing::field::display),
            bytes, total_ms, resumed, client = client.map(tracing::field::display), broken, "served"
        );
    }
}
