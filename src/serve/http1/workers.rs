//! One address served by several threads, a runtime of its own for each: what a connection needs stays in its thread, and
//! no two threads fight for a lock.

use std::error::Error;
use std::io;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::thread::JoinHandle;

use bytes::Bytes;
use http::{Request, Response};
use hyper::body::Body;
use tokio::net::{TcpListener, TcpSocket};
use tokio::runtime::Runtime;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use tower::Service;

use super::super::{Config, Proxies, RequestBody, Transport};
use super::hot::Hot;
use super::{Handlers, Served};

/// How many connections the system keeps for each thread until they are accepted: what tokio asks for.
const BACKLOG: u32 = 1024;

/// The threads that serve one listener. Dropped, they end and drop what they do.
#[derive(Debug)]
pub struct Workers {
    threads: Vec<Thread>,
    end: CancellationToken,
}

#[derive(Debug)]
struct Thread {
    handle: JoinHandle<()>,
    drained: oneshot::Receiver<()>,
}

/// A thread panicked: a part of the connections is served by nobody.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a thread that serves connections panicked")]
pub struct WorkerPanicked;

impl Workers {
    /// Has `count` threads serve `listeners` until `shutdown`, as [`super::serve`] does. The kernel shares the connections
    /// among them (`SO_REUSEPORT`, socket(7)); the limits of `config` are those of all together. Connections of `proxies` begin
    /// with a PROXY header, and are the client's whom that names. To be called within a tokio runtime.
    ///
    /// Handlers run in the thread of their connection, and so does what they spawn: until [`Self::end`], even when all
    /// answers have ended.
    ///
    /// # Errors
    /// When the system refuses a socket or a thread.
    pub fn start<S, B, H>(
        listeners: Vec<(TcpListener, Transport)>,
        proxies: Proxies,
        count: NonZeroUsize,
        config: Config,
        handlers: Handlers<S, H>,
        shutdown: &CancellationToken,
    ) -> io::Result<Self>
    where
        S: Service<Request<RequestBody>, Response = Response<B>> + Clone + Send + Sync + 'static,
        S::Future: Send,
        S::Error: Into<Box<dyn Error + Send + Sync>> + Send,
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<Box<dyn Error + Send + Sync>>,
        H: Hot,
    {
        let all = Served::new(Transport::Plain, proxies, config, handlers);
        let mut shared = Vec::new();
        for (listener, transport) in listeners {
            shared.push((share(listener, count)?.into_iter(), transport));
        }
        let mut workers = Self { threads: Vec::new(), end: CancellationToken::new() };
        for number in 0..count.get() {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let served = all.for_another_thread();
            let doors = shared
                .iter_mut()
                .filter_map(|(listeners, transport)| Some((listeners.next()?, Arc::new(served.by(transport.clone())))));
            let doors: Vec<_> = doors.collect();
            let (tell, drained) = oneshot::channel();
            let (shutdown, end) = (shutdown.clone(), workers.end.clone());
            let serving = async move {
                let serving = doors.into_iter().map(|(listener, served)| {
                    // It was a listener of another runtime.
                    let listener = TcpListener::from_std(listener)
                        .unwrap_or_else(|error| panic!("a runtime takes no listener: {error}"));
                    served.serve(listener, shutdown.clone())
                });
                futures_util::future::join_all(serving).await;
                let _ = tell.send(());
                std::future::pending::<()>().await;
            };
            let run = move || run(runtime, end.run_until_cancelled_owned(serving));
            let handle = std::thread::Builder::new().name(format!("serve-{number}")).spawn(run)?;
            workers.threads.push(Thread { handle, drained });
        }
        Ok(workers)
    }

    /// Waits until all answers have ended, after the shutdown.
    ///
    /// # Errors
    /// At once when a thread panics. Who goes on without it serves a part of its users.
    pub async fn drained(&mut self) -> Result<(), WorkerPanicked> {
        let drained = self.threads.iter_mut().filter(|thread| !thread.drained.is_terminated());
        let drained = drained.map(|thread| &mut thread.drained);
        futures_util::future::try_join_all(drained).await.map_err(|_| WorkerPanicked)?;
        Ok(())
    }

    /// Ends the threads, and with them whatever handlers have spawned there.
    pub async fn end(mut self) {
        self.end.cancel();
        let threads = std::mem::take(&mut self.threads);
        // A thread that panicked has said so.
        let join = move || threads.into_iter().for_each(|thread| drop(thread.handle.join()));
        let _ = tokio::task::spawn_blocking(join).await;
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.end.cancel();
    }
}

fn run(runtime: Runtime, serving: impl Future<Output = Option<()>>) {
    runtime.block_on(serving);
    // Blocking work of a handler is not waited for.
    runtime.shutdown_background();
}

/// `listener` and others at the same address.
fn share(listener: TcpListener, count: NonZeroUsize) -> io::Result<Vec<std::net::TcpListener>> {
    let address = listener.local_addr()?;
    if count.get() > 1 {
        // Linux lets a socket join a group when it is bound already, as long as all are of one user.
        rustix::net::sockopt::set_socket_reuseport(&listener, true)?;
    }
    let mut listeners = vec![listener.into_std()?];
    for _ in 1..count.get() {
        let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        socket.set_reuseaddr(true)?;
        socket.set_reuseport(true)?;
        socket.bind(address)?;
        listeners.push(socket.listen(BACKLOG)?.into_std()?);
    }
    Ok(listeners)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_thread_that_panics_is_noticed_while_others_serve() {
        let (_serving, drained) = oneshot::channel();
        let (dropped, panicked) = oneshot::channel();
        let thread = |drained| Thread { handle: std::thread::spawn(|| {}), drained };
        let mut workers = Workers { threads: vec![thread(drained), thread(panicked)], end: CancellationToken::new() };
        assert!(futures_util::poll!(std::pin::pin!(workers.drained())).is_pending());
        drop(dropped);
        assert_eq!(workers.drained().await, Err(WorkerPanicked));
        workers.end().await;
    }
}
