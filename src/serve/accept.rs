//! Accepting connections until the server stops, and letting them end.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::{JoinError, JoinSet};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, warn};

/// How long accepting rests when the system has no resources for another connection.
const ACCEPT_REST: Duration = Duration::from_millis(100);

/// What becomes of connections for which there is no place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WhenFull {
    /// They wait in the system's queue.
    Wait,
    /// They are accepted without a place, to be told so.
    Shed,
}

/// The place of a connection; `None` if there was none.
pub(super) type Place = Option<OwnedSemaphorePermit>;

/// Runs a task for each connection of `listener` until `shutdown`; then no more are accepted, and what has not ended after
/// `drain_timeout` is dropped.
pub(super) async fn accept_until<F>(
    shutdown: &CancellationToken,
    listener: TcpListener,
    places: Arc<Semaphore>,
    when_full: WhenFull,
    drain_timeout: Duration,
    connection: impl Fn(TcpStream, SocketAddr, Place) -> F,
) where
    F: Future<Output = ()> + Send + 'static,
{
    let mut connections = JoinSet::new();
    loop {
        let (tcp, peer, place) = tokio::select! {
            () = shutdown.cancelled() => break,
            Some(ended) = connections.join_next() => {
                report(ended);
                continue;
            }
            accepted = accept(&listener, &places, when_full) => accepted,
        };
        if let Err(error) = tcp.set_nodelay(true) {
            debug!(%peer, %error, "cannot send small answers at once");
        }
        connections.spawn(connection(tcp, peer, place));
    }
    // Closed first, so that callers go elsewhere while the last answers end.
    drop(listener);
    let drained = timeout(drain_timeout, async {
        while let Some(ended) = connections.join_next().await {
            report(ended);
        }
    });
    if drained.await.is_err() {
        warn!(connections = connections.len(), "answers did not end in time, dropping them");
        connections.shutdown().await;
    }
}

/// A connection and the place it takes. Dropped in the middle, no connection is lost: it stays in the system's queue.
async fn accept(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
    when_full: WhenFull,
) -> (TcpStream, SocketAddr, Place) {
    let place = match when_full {
        WhenFull::Wait => Some(places.clone().acquire_owned().await.expect("the semaphore is never closed")),
        WhenFull::Shed => None,
    };
    loop {
        match listener.accept().await {
            Ok((tcp, peer)) => return (tcp, peer, place.or_else(|| places.clone().try_acquire_owned().ok())),
            Err(error) if concerns_one_caller(&error) => debug!(%error, "a caller left before it was accepted"),
            Err(error) => {
                warn!(%error, "cannot accept connections, will retry");
                tokio::time::sleep(ACCEPT_REST).await;
            }
        }
    }
}

/// Linux hands errors that are already pending on a new connection to accept(2); the listener itself is well.
fn concerns_one_caller(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

fn report(ended: Result<(), JoinError>) {
    if let Err(error) = ended {
        error!(%error, "a connection's handler failed");
    }
}
