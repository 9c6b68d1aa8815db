//! HTTP/1.1 servers on the codec of [`crate::http1`]: what hyper's cannot do, and answers that cost little. Clients that
//! agree upon HTTP/2 by TLS are served by the same handlers, in the same threads.
//!
//! A request goes to a [`Hot`] first, which answers what is there already, and else to a handler, a `tower` service as
//! every server here has one. Both are told the same of a request, because one parser decides what it is.
//!
//! What a request has in its extensions besides what every listener tells: [`Interim`], which sends interim answers. An
//! answer may have [`OnUpgrade`] in its own.

mod answering;
mod connection;
mod exchange;
mod hits;
mod hot;
mod incoming;
mod interim;
mod limit;
mod outgoing;
mod overload;
mod receiving;
mod upgrade;
mod wire;
mod workers;

use std::error::Error;
use std::net::SocketAddr;
use std::sync::Arc;
use std::{fmt, io};

use bytes::Bytes;
use http::{Request, Response};
use hyper::body::Body;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tower::Service;

use super::accept::{Place, WhenFull, accept_until};
use super::tls::Accepted;
use super::witness::Witness;
use super::{Config, Proxies, RequestBody, Transport, http2, proxied};
pub(super) use connection::Common;
pub(super) use limit::Limit;
pub(super) use outgoing::{Asked, Clock, Outgoing, changes_protocol, framing, length_to_add};
use overload::Overload;

pub use hot::{Caller, Hot, HotAnswer, HotBody, HotFile, HotFiles, HotRequest, HotSent};
pub use incoming::{Incoming, IncomingError};
pub use interim::{Interim, InterimError};
pub use upgrade::{OnUpgrade, Upgraded};
pub use workers::{WorkerPanicked, Workers};

/// The bytes of a request's target. Half of a head by default; RFC 9112 section 3 asks for 8,000 with the method.
const TARGET_BYTES_MAX: usize = 8 * 1024;

/// What answers.
pub struct Handlers<S, H> {
    /// Answers everything.
    pub http: S,
    /// Is asked first; `()` answers nothing.
    pub hot: Arc<H>,
    /// Is told of each answer that has ended, if anybody wants to know.
    pub witness: Option<Arc<dyn Witness>>,
}

impl<S: Clone, H> Clone for Handlers<S, H> {
    fn clone(&self) -> Self {
        Self { http: self.http.clone(), hot: self.hot.clone(), witness: self.witness.clone() }
    }
}

impl<S: fmt::Debug, H: fmt::Debug> fmt::Debug for Handlers<S, H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handlers").field("http", &self.http).field("hot", &self.hot).finish_non_exhaustive()
    }
}

/// Serves `listener` until `shutdown`, as [`super::serve`] does and by the same limits: then no more connections are
/// accepted, running answers end, and what has not ended after the drain timeout is dropped. Connections for which there is
/// no place do not wait, though: they get 503 with `Retry-After`.
pub async fn serve<S, B, H>(
    listener: TcpListener,
    transport: Transport,
    config: Config,
    handlers: Handlers<S, H>,
    shutdown: CancellationToken,
) where
    S: Service<Request<RequestBody>, Response = Response<B>> + Clone + Send + Sync + 'static,
    S::Future: Send,
    S::Error: Into<Box<dyn Error + Send + Sync>> + Send,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
    H: Hot,
{
    let served = Served::new(transport, Proxies::default(), config, handlers);
    Arc::new(served).serve(listener, shutdown).await;
}

/// What the connections of one listener, in one thread, are served with.
struct Served<S, H> {
    transport: Transport,
    /// This is of all listeners of the thread.
    common: Arc<Common<S, H>>,
    /// These are of all listeners and threads.
    proxies: Proxies,
    places: Arc<Semaphore>,
    overload: Arc<Overload>,
}

impl<S, H> Served<S, H> {
    fn new(transport: Transport, proxies: Proxies, config: Config, handlers: Handlers<S, H>) -> Self {
        let places = Arc::new(Semaphore::new(config.connections_max));
        let common = Common::new(handlers, config);
        Self { transport, common: Arc::new(common), proxies, places, overload: Arc::new(Overload::new()) }
    }

    /// The same by another listener.
    fn by(&self, transport: Transport) -> Self {
        let (proxies, places, overload) = (self.proxies.clone(), self.places.clone(), self.overload.clone());
        Self { transport, common: self.common.clone(), proxies, places, overload }
    }

    /// The same with nothing that is written to often in common.
    fn for_another_thread(&self) -> Self
    where
        S: Clone,
    {
        let Common { handler, hot, config, watcher, .. } = &*self.common;
        let witness = watcher.as_ref().map(|watcher| watcher.for_another_thread());
        let common = Common::new(Handlers { http: handler.clone(), hot: hot.clone(), witness }, config.clone());
        Self { common: Arc::new(common), ..self.by(self.transport.clone()) }
    }
}

impl<S, B, H> Served<S, H>
where
    S: Service<Request<RequestBody>, Response = Response<B>> + Clone + Send + Sync + 'static,
    S::Future: Send,
    S::Error: Into<Box<dyn Error + Send + Sync>> + Send,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
    H: Hot,
{
    async fn serve(self: Arc<Self>, listener: TcpListener, shutdown: CancellationToken) {
        let drain_timeout = self.common.config.drain_timeout();
        let start = |tcp, peer, place: Place| {
            let served = self.clone();
            async move {
                match place {
                    Some(_place) => served.connection(tcp, peer).await,
                    None => {
                        let Self { overload, transport, common, proxies, .. } = &*served;
                        let from = (peer, proxies.contain(peer.ip()));
                        Box::pin(overload.turn_away(tcp, from, transport, common.watcher.as_ref())).await;
                    }
                }
            }
        };
        let accepted = accept_until(&shutdown, listener, self.places.clone(), WhenFull::Shed, drain_timeout, start);
        let told = async {
            shutdown.cancelled().await;
            self.common.stopping.stop();
        };
        tokio::join!(accepted, told);
    }

    async fn connection(&self, tcp: TcpStream, peer: SocketAddr) {
        let common = &self.common;
        let begun = tokio::select! {
            () = common.stopping.told() => return,
            begun = Box::pin(self.begin(tcp, peer)) => begun,
        };
        match begun {
            Ok((Accepted { stream, principal, secured, http2 }, address)) => {
                let caller = Caller { address, principal, link: stream.link(), secured };
                if http2 {
                    Box::pin(http2::run(stream, caller, common.clone())).await;
                } else {
                    connection::run(stream, caller, common.clone()).await;
                }
            }
            Err(error) => super::not_begun(peer, &error),
        }
    }

    /// What comes before the first byte that the client has sent of HTTP; with the address of the client, whoever has passed
    /// the connection on.
    async fn begin(&self, mut tcp: TcpStream, peer: SocketAddr) -> io::Result<(Accepted, SocketAddr)> {
        let config = &self.common.config;
        let address = match self.proxies.contain(peer.ip()) {
            true => {
                let received = timeout(config.header_timeout(), proxied::receive(&mut tcp, peer)).await;
                received.map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "no PROXY header in time"))??
            }
            false => peer,
        };
        let (accepted, _) = super::begin(tcp, address, &self.transport, config, false).await?;
        Ok((accepted, address))
    }
}
