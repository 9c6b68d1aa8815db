//! How one process speaks to another: a [`Peer`] is one server, with its pooled connections.
//!
//! Every request has a deadline for its first byte and, by [`Reader`], for each further one. Retries are the caller's.

mod blobs;
mod connect;
mod control;
mod http1;
mod objects;
mod public;
mod reader;

use std::error::Error as StdError;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Empty, Full};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::model::{Address, NodeId};
use crate::protocol::CONTROL_BODY_MAX;
use crate::protocol::problem::Problem;
use connect::{Connector, Expected};
use http1::{AnswerLimits, Http, Moved};

pub use blobs::BlobsReply;
pub use connect::connect;
pub use control::Prices;
pub use http1::{AnswerBody, Asked, ExchangeError, OnInterim, Unsendable, Upgraded};
pub use objects::{ObjectReply, Upload};
pub use public::{public_tls, tls_of_authorities};
pub use reader::Reader;

/// The body of a request.
pub type Body = UnsyncBoxBody<Bytes, Box<dyn StdError + Send + Sync>>;

/// How long a peer is waited for.
#[derive(Debug, Clone, Copy)]
pub struct Deadlines {
    /// For a connection, with its TLS handshake.
    pub connect: Duration,
    /// For the head of the answer, from when the request is on its way.
    pub first_byte: Duration,
    /// For each further part of a body.
    pub idle: Duration,
}

impl Default for Deadlines {
    fn default() -> Self {
        // Between clouds a handshake takes under half a second; ten times that is a peer in trouble.
        Self { connect: Duration::from_secs(5), first_byte: Duration::from_secs(30), idle: Duration::from_secs(30) }
    }
}

/// Why a peer did not answer as asked.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No connection, or it broke before an answer, or what came is none.
    #[error("cannot reach {address}")]
    Unreachable {
        /// The peer.
        address: Address,
        /// What happened.
        source: Box<dyn StdError + Send + Sync>,
    },
    /// No answer in time.
    #[error("{address} did not answer within {} ms", .after.as_millis())]
    Late {
        /// The peer.
        address: Address,
        /// The deadline that passed.
        after: Duration,
    },
    /// The body of the request stood still: not the peer was waited for.
    #[error("no part of the body for {address} came within {} ms", .after.as_millis())]
    Silent {
        /// The peer.
        address: Address,
        /// The deadline that passed.
        after: Duration,
    },
    /// The answer broke off.
    #[error("the answer of {address} broke off")]
    BrokenOff {
        /// The peer.
        address: Address,
        /// What happened.
        source: Box<dyn StdError + Send + Sync>,
    },
    /// The peer refused.
    #[error("{address} answered {status}: {detail}")]
    Refused {
        /// The peer.
        address: Address,
        /// The status.
        status: StatusCode,
        /// What it said, or the status in words.
        detail: String,
    },
    /// The write was made, but fewer nodes have it than it asked for.
    #[error("{address} answered: {detail}")]
    FewerCopies {
        /// The peer.
        address: Address,
        /// On how many nodes it is durable.
        copies: u32,
        /// What it said.
        detail: String,
    },
    /// The answer is not what the protocol says.
    #[error("{address} answered what is not understood: {reason}")]
    NotUnderstood {
        /// The peer.
        address: Address,
        /// What is wrong with it.
        reason: String,
    },
}

impl ClientError {
    /// Whether the same request may succeed when it is tried again.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Late { .. } | Self::BrokenOff { .. } => true,
            Self::Refused { status, .. } => {
                matches!(
                    *status,
                    StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT
                )
            }
            // Made once more, it would be another write that waits for the same nodes.
            Self::FewerCopies { .. } | Self::NotUnderstood { .. } | Self::Silent { .. } => false,
        }
    }

    /// Whether the peer may have got the request, so that it may have been done.
    pub fn may_have_arrived(&self) -> bool {
        match self {
            Self::Unreachable { source, .. } => !source.downcast_ref().is_some_and(ExchangeError::is_unsent),
            _ => true,
        }
    }

    /// Whether the request itself was at fault, and nothing is said of the peer.
    pub fn is_of_request(&self) -> bool {
        match self {
            Self::Silent { .. } => true,
            Self::Unreachable { source, .. } => source.downcast_ref().is_some_and(ExchangeError::is_of_request),
            _ => false,
        }
    }

    /// The status with which the peer refused.
    pub const fn status(&self) -> Option<StatusCode> {
        match self {
            Self::Refused { status, .. } => Some(*status),
            Self::FewerCopies { .. } => Some(StatusCode::SERVICE_UNAVAILABLE),
            _ => None,
        }
    }
}

/// One server of the cluster. Clones share its connections.
#[derive(Debug, Clone)]
pub struct Peer {
    address: Address,
    deadlines: Deadlines,
    http: Arc<Http>,
}

impl Peer {
    /// The node at `address`, over TLS: `expected`, or any node of the cluster where the name is not known yet.
    pub fn new(
        tls: Arc<rustls::ClientConfig>,
        expected: Option<&NodeId>,
        address: Address,
        deadlines: Deadlines,
    ) -> Self {
        Self::through(Connector::new(tls, expected.into(), address.clone(), deadlines.connect), address, deadlines)
    }

    /// The edge whose admin address that is, over TLS: any edge of the cluster.
    pub fn edge(tls: Arc<rustls::ClientConfig>, address: Address, deadlines: Deadlines) -> Self {
        let connector = Connector::new(tls, Expected::AnyEdge, address.clone(), deadlines.connect);
        Self::through(connector, address, deadlines)
    }

    /// The edge that is asked as a shield at `address`, over TLS: any edge of the cluster. Requests keep their `Host`.
    pub fn shield(tls: Arc<rustls::ClientConfig>, address: Address, deadlines: Deadlines) -> Self {
        let connector = Connector::new(tls, Expected::AnyEdge, address.clone(), deadlines.connect);
        Self { http: Arc::new(Http::new(connector, None, AnswerLimits::OF_SHIELD)), address, deadlines }
    }

    /// Whoever answers at `address` over plain HTTP: on loopback, where listeners for this machine's operator speak it.
    pub fn plain(address: Address, deadlines: Deadlines) -> Self {
        Self::through(Connector::plain(address.clone(), deadlines.connect), address, deadlines)
    }

    /// An origin of a site: over TLS under the name of its address, if there is `tls`. Requests keep their `Host`.
    pub fn origin(tls: Option<Arc<rustls::ClientConfig>>, address: Address, deadlines: Deadlines) -> Self {
        let connector = match tls {
            Some(tls) => Connector::new(tls, Expected::Host(address.host()), address.clone(), deadlines.connect),
            None => Connector::plain(address.clone(), deadlines.connect),
        };
        Self { http: Arc::new(Http::new(connector, None, AnswerLimits::USUAL)), address, deadlines }
    }

    fn through(connector: Connector, address: Address, deadlines: Deadlines) -> Self {
        let host = connector.host();
        Self { http: Arc::new(Http::new(connector, Some(host), AnswerLimits::USUAL)), address, deadlines }
    }

    /// The same, with the same connections, which waits so long for answers; for connections as before.
    #[must_use]
    pub fn waiting(mut self, deadlines: Deadlines) -> Self {
        self.deadlines = Deadlines { connect: self.deadlines.connect, ..deadlines };
        self
    }

    /// Where the node is reached.
    pub const fn address(&self) -> &Address {
        &self.address
    }

    /// Sends `request`, whose target is a path, and answers the head of whatever comes back.
    ///
    /// # Errors
    /// [`ClientError::Unreachable`] or [`ClientError::Late`].
    pub async fn send(&self, request: Request<Body>) -> Result<Response<AnswerBody>, ClientError> {
        let (head, body) = request.into_parts();
        self.ask_for(&Asked::of(&head), body).await
    }

    /// As [`Peer::send`], of what others are asked for, too.
    ///
    /// # Errors
    /// As [`Peer::send`].
    pub async fn ask_for(&self, asked: &Asked<'_>, body: Body) -> Result<Response<AnswerBody>, ClientError> {
        let after = self.deadlines.connect + self.deadlines.first_byte;
        match tokio::time::timeout(after, self.http.send(asked, body, None)).await {
            Ok(answered) => answered.map_err(|error| self.failed(error)),
            Err(_) => Err(ClientError::Late { address: self.address.clone(), after }),
        }
    }

    /// As [`Peer::send`], for a request whose body may take any time as long as it moves: the deadline for the first
    /// byte counts from the last part of the body that went out.
    ///
    /// # Errors
    /// As [`Peer::send`].
    pub async fn send_while_moving(&self, request: Request<Body>) -> Result<Response<AnswerBody>, ClientError> {
        let (head, body) = request.into_parts();
        self.ask_for_while_moving(&Asked::of(&head), body).await
    }

    /// As [`Peer::send_while_moving`], of what others are asked for, too.
    ///
    /// # Errors
    /// As [`Peer::send`].
    pub async fn ask_for_while_moving(
        &self,
        asked: &Asked<'_>,
        body: Body,
    ) -> Result<Response<AnswerBody>, ClientError> {
        let moved = Arc::new(Moved::default());
        let mut seen = 0;
        let mut sending = pin!(self.http.send(asked, body, Some(moved.clone())));
        let after = self.deadlines.connect + self.deadlines.first_byte;
        loop {
            match tokio::time::timeout(after, &mut sending).await {
                Ok(answered) => return answered.map_err(|error| self.failed(error)),
                Err(_) if moved.parts() == seen => {
                    let address = self.address.clone();
                    return Err(match moved.waits() {
                        true => ClientError::Silent { address, after },
                        false => ClientError::Late { address, after },
                    });
                }
                Err(_) => seen = moved.parts(),
            }
        }
    }

    /// Sends `request` and answers the head of a success.
    ///
    /// # Errors
    /// [`ClientError::Refused`] for every status that is not a success, or as [`Peer::send`].
    pub async fn ask(&self, request: Request<Body>) -> Result<Response<AnswerBody>, ClientError> {
        let response = self.send(request).await?;
        if response.status().is_success() { Ok(response) } else { Err(self.refusal(response).await) }
    }

    /// Sends a request without a body and reads the JSON that comes back.
    ///
    /// # Errors
    /// As [`Peer::ask`], or [`ClientError::NotUnderstood`] for another body.
    pub async fn ask_json<T: DeserializeOwned>(&self, method: Method, path: &str) -> Result<T, ClientError> {
        let response = self.ask(self.request(method, path, empty())?).await?;
        self.read_json(response).await
    }

    /// Sends `value` as JSON and answers the head of a success.
    ///
    /// # Errors
    /// As [`Peer::ask`].
    pub async fn send_json<T: Serialize + Sync>(
        &self,
        method: Method,
        path: &str,
        value: &T,
    ) -> Result<Response<AnswerBody>, ClientError> {
        let json = serde_json::to_vec(value).map_err(|error| self.not_understood(&error))?;
        let mut request = self.request(method, path, full(json))?;
        request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        self.ask(request).await
    }

    /// Reads a body of JSON, up to [`CONTROL_BODY_MAX`] bytes.
    ///
    /// # Errors
    /// When it breaks off, is late, too large or not the JSON that is expected.
    pub async fn read_json<T: DeserializeOwned>(&self, response: Response<AnswerBody>) -> Result<T, ClientError> {
        let bytes = self.reader(response.into_body()).read_all(CONTROL_BODY_MAX).await?;
        serde_json::from_slice(&bytes).map_err(|error| self.not_understood(&error))
    }

    /// Reads the body of an answer with the deadline of each part.
    pub fn reader(&self, body: AnswerBody) -> Reader {
        Reader::new(body, self.address.clone(), self.deadlines.idle)
    }

    /// A request to `path`.
    ///
    /// # Errors
    /// When the path is none.
    pub fn request(&self, method: Method, path: &str, body: Body) -> Result<Request<Body>, ClientError> {
        Request::builder().method(method).uri(path).body(body).map_err(|error| self.not_understood(&error))
    }

    async fn refusal(&self, response: Response<AnswerBody>) -> ClientError {
        let status = response.status();
        let words = status.canonical_reason().unwrap_or("refused").to_owned();
        let address = self.address.clone();
        let body = self.reader(response.into_body()).read_all(64 << 10).await;
        match body.ok().and_then(|bytes| serde_json::from_slice::<Problem>(&bytes).ok()) {
            Some(Problem { stored: true, copies, detail, .. }) => {
                ClientError::FewerCopies { address, copies: copies.unwrap_or(1), detail }
            }
            Some(Problem { detail, .. }) => ClientError::Refused { address, status, detail },
            None => ClientError::Refused { address, status, detail: words },
        }
    }

    fn failed(&self, error: ExchangeError) -> ClientError {
        ClientError::Unreachable { address: self.address.clone(), source: error.into() }
    }

    fn not_understood(&self, error: &dyn StdError) -> ClientError {
        ClientError::NotUnderstood { address: self.address.clone(), reason: error.to_string() }
    }
}

/// A body without bytes.
pub fn empty() -> Body {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

/// A body of `bytes`.
pub fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}
