//! HTTP/1.1 to one server, on the codec of [`crate::http1`].
//!
//! A connection is driven by the request that has it, in the task of whoever waits for the answer, and rests in the pool of
//! the runtime in which it was opened: no request wakes another thread. Only what is left of a request's body when its
//! answer has begun goes on in a task of its own, since nothing makes whoever reads the answer read it in time.
//!
//! Where an answer can be understood in two ways it is an error (RFC 9112 section 6.3), and whatever comes over a
//! connection for which nothing was asked ends it.

mod answer;
mod error;
mod exchange;
mod outgoing;
mod pool;
mod sending;
mod transport;
mod upgrade;
mod wire;

use std::fmt;
use std::future::poll_fn;
use std::sync::{Arc, LazyLock};

use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, request};

use super::Body;
use super::connect::Connector;
use exchange::Exchange;
use outgoing::Outgoing;
use pool::Pool;

pub use answer::AnswerBody;
pub use error::ExchangeError;
pub use outgoing::Unsendable;
pub(super) use sending::Moved;
pub(super) use transport::{Gulping, Transport};
pub use upgrade::Upgraded;
pub(super) use wire::Wire;

/// What comes of one server before the body of an answer.
#[derive(Debug, Clone, Copy)]
pub(super) struct AnswerLimits {
    /// The bytes of a head.
    head_bytes_max: usize,
    /// How many interim answers come before one answer.
    interim_count_max: usize,
}

impl AnswerLimits {
    /// More than anybody has a use for.
    pub(super) const USUAL: Self = Self { head_bytes_max: 32 * 1024, interim_count_max: 32 };

    /// Of one who passes on what others answer within [`AnswerLimits::USUAL`], with fields and interim answers of its own.
    pub(super) const OF_SHIELD: Self = Self { head_bytes_max: 64 * 1024, interim_count_max: 34 };
}

/// Who is told of interim answers (RFC 9110 section 15.2), all but `101`; in the extensions of a request.
#[derive(Clone)]
pub struct OnInterim(Arc<Tell>);

type Tell = dyn Fn(StatusCode, &HeaderMap) + Send + Sync;

impl OnInterim {
    /// Has `tell` called with the status and the fields of each, as they come.
    pub fn new(tell: impl Fn(StatusCode, &HeaderMap) + Send + Sync + 'static) -> Self {
        Self(Arc::new(tell))
    }
}

impl fmt::Debug for OnInterim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OnInterim")
    }
}

/// What is asked for, as whoever asks several servers for it has it.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// The method.
    pub method: &'a Method,
    /// The target.
    pub path: &'a PathAndQuery,
    /// The fields. Those of the connection are the client's own, but for `Upgrade` and whether `Connection` has `close`.
    pub headers: &'a HeaderMap,
    /// Who is told of interim answers.
    pub on_interim: Option<&'a OnInterim>,
}

impl<'a> Asked<'a> {
    /// What a request with this head asks for.
    pub fn of(head: &'a request::Parts) -> Self {
        static ROOT: LazyLock<PathAndQuery> = LazyLock::new(|| PathAndQuery::from_static("/"));
        let path = head.uri.path_and_query().unwrap_or(&ROOT);
        Self { method: &head.method, path, headers: &head.headers, on_interim: head.extensions.get() }
    }
}

/// One server, and the connections to it.
pub(super) struct Http {
    connector: Connector,
    pool: Arc<Pool>,
    /// The `Host` of each request; without it, requests have their own.
    host: Option<HeaderValue>,
    limits: AnswerLimits,
}

impl fmt::Debug for Http {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Http").field("connector", &self.connector).finish_non_exhaustive()
    }
}

impl Http {
    pub(super) fn new(connector: Connector, host: Option<HeaderValue>, limits: AnswerLimits) -> Self {
        Self { connector, pool: Arc::default(), host, limits }
    }

    /// Asks, and answers the head of what comes back. `moved` is told how the body goes out.
    ///
    /// A server may close a connection in the moment in which it is used again. What it cannot have done, or may do twice
    /// (RFC 9110 section 9.2.2), is said again on a new one, unless some of its body is gone.
    pub(super) async fn send(
        &self,
        asked: &Asked<'_>,
        body: Body,
        moved: Option<Arc<Moved>>,
    ) -> Result<Response<AnswerBody>, ExchangeError> {
        let mut outgoing = Outgoing::new(asked, body, self.host.as_ref())?;
        if let Some(wire) = self.pool.take() {
            let mut exchange = Exchange::new(wire, &mut outgoing, moved.clone(), (&self.pool, self.limits));
            match poll_fn(|cx| exchange.poll(cx)).await {
                Err(error) if exchange.may_be_repeated(&error) => outgoing.body = exchange.into_untouched_body(),
                answered => return answered,
            }
        }
        // A handshake is large, and few requests have to wait for one.
        let wire = Box::pin(self.connector.connect()).await.map_err(ExchangeError::Connect)?;
        let mut exchange = Exchange::new(wire, &mut outgoing, moved, (&self.pool, self.limits));
        poll_fn(|cx| exchange.poll(cx)).await
    }
}
