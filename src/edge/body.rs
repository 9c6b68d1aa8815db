//! The body of every answer, wherever its bytes come from, and the line in the log at its end.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use bytes::Bytes;
use http::{Method, StatusCode, Version};
use http_body_util::Full;
use hyper::body::{Body as _, Frame, SizeHint};
use tracing::info;

use super::Core;
use super::admin::protocol_name;
use super::coding::{RecodeError, Recoded};
use super::download::Download;
use super::facts::Tally;
use super::memory::Kept;
use super::node_body::{NodeBody, NodeBodyError};
use super::several::Several;
use super::slices::{SlicesError, Walk};
use crate::cache::{Broken, Reader};
use crate::model::NodeId;

/// Where the bytes of an answer come from.
pub(super) enum Inner {
    /// The nodes.
    Node(Box<Download>),
    /// An origin of a site.
    Origin(Box<NodeBody>),
    /// The edge's memory.
    Kept(Kept),
    /// A fetch that others read, too.
    Shared(Reader),
    /// What is kept in slices.
    Sliced(Box<Walk>),
    /// Several parts of one thing.
    Several(Box<Several>),
    /// What is coded or decoded on the way.
    Recoded(Recoded),
    /// The edge itself.
    Own(Full<Bytes>),
}

impl Inner {
    /// It is sent by this version of HTTP.
    pub(super) fn sent_by(&mut self, version: Version) {
        match self {
            Self::Sliced(walk) => walk.sent_by(version),
            Self::Several(parts) => parts.sent_by(version),
            Self::Node(_) | Self::Origin(_) | Self::Kept(_) | Self::Shared(_) | Self::Recoded(_) | Self::Own(_) => {}
        }
    }

    /// No bytes.
    pub(super) fn nothing() -> Self {
        Self::Own(Full::default())
    }

    /// How many bytes are to come, as far as that is known.
    pub(super) fn left(&self) -> u64 {
        self.size_hint().lower()
    }

    /// Has what comes from now on counted for an answer.
    pub(super) fn count_for(&mut self, tally: &Arc<Tally>) {
        match self {
            Self::Node(body) => body.count_for(tally),
            Self::Origin(body) => body.count_for(tally),
            _ => {}
        }
    }

    /// The next bytes, without what is no byte of the body.
    pub(super) fn poll_bytes(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, ProxyBodyError>>> {
        loop {
            match ready!(Pin::new(&mut *self).poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(bytes) if bytes.is_empty() => {}
                    Ok(bytes) => return Poll::Ready(Some(Ok(bytes))),
                    Err(_) => {}
                },
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => return Poll::Ready(None),
            }
        }
    }
}

impl hyper::body::Body for Inner {
    type Data = Bytes;
    type Error = ProxyBodyError;

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Node(body) => body.size_hint(),
            Self::Origin(body) => body.size_hint(),
            Self::Kept(body) => SizeHint::with_exact(body.left()),
            Self::Shared(reader) => reader.left().map_or_else(SizeHint::default, SizeHint::with_exact),
            Self::Sliced(walk) => SizeHint::with_exact(walk.left()),
            Self::Several(parts) => SizeHint::with_exact(parts.left()),
            Self::Recoded(_) => SizeHint::default(),
            Self::Own(body) => body.size_hint(),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Node(body) => body.is_end_stream(),
            Self::Origin(body) => body.is_end_stream(),
            Self::Kept(body) => body.left() == 0,
            Self::Shared(reader) => reader.left() == Some(0),
            Self::Sliced(walk) => walk.left() == 0,
            Self::Several(parts) => parts.left() == 0,
            Self::Recoded(_) => false,
            Self::Own(body) => body.is_end_stream(),
        }
    }

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ProxyBodyError>>> {
        let data = |next: Option<Result<Bytes, ProxyBodyError>>| next.map(|bytes| bytes.map(Frame::data));
        match &mut *self {
            Self::Node(body) => Pin::new(&mut **body).poll_frame(cx).map_err(ProxyBodyError::Node),
            Self::Origin(body) => Pin::new(&mut **body).poll_frame(cx).map_err(ProxyBodyError::Node),
            Self::Kept(body) => Poll::Ready(body.next().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Shared(reader) => reader.poll_bytes(cx).map(|next| next.map(|bytes| Ok(Frame::data(bytes?)))),
            Self::Sliced(walk) => walk.poll_bytes(cx).map(data),
            Self::Several(parts) => parts.poll_bytes(cx).map(data),
            Self::Recoded(body) => body.poll_bytes(cx).map(|next| next.map(|bytes| Ok(Frame::data(bytes?)))),
            Self::Own(body) => Pin::new(body).poll_frame(cx).map_err(|never| match never {}),
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
    /// It is in slices, of which some are missing.
    #[error(transparent)]
    Slices(#[from] SlicesError),
    /// Its coding was to change.
    #[error(transparent)]
    Recoded(#[from] RecodeError),
}

impl hyper::body::Body for ProxyBody {
    type Data = Bytes;
    type Error = ProxyBodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ProxyBodyError>>> {
        let frame = Pin::new(&mut self.body).poll_frame(cx);
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
        self.body.is_end_stream()
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
    pub(super) version: Version,
    /// Whether it came over TLS or QUIC.
    pub(super) secured: bool,
    pub(super) start: Instant,
    pub(super) bytes: u64,
    /// How often another node went on with the body.
    pub(super) resumed: usize,
    pub(super) broken: Option<String>,
}

impl Drop for Log {
    fn drop(&mut self) {
        let Self { core, method, path, status, node, client, version, secured, start, bytes, resumed, broken } = self;
        core.metrics.sent_bytes.inc_by(*bytes);
        let total_ms = start.elapsed().as_secs_f64() * 1_000.0;
        info!(
            %method, path, status = status.map(|status| status.as_u16()), node = node.as_ref().map(tracing::field::display),
            bytes, total_ms, resumed, protocol = protocol_name(*version), tls = *secured, client = client.map(tracing::field::display), broken, "served"
        );
    }
}
