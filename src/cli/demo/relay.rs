//! A TCP relay that stands between two processes and behaves like a long, narrow or broken network path.
//!
//! The demo puts one in front of each node to emulate distance; the tests use it to make faults. It copies bytes and
//! knows nothing of what they mean, so a length it counts includes TLS records and handshakes.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream, lookup_host};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tracing::{debug, warn};

use crate::model::Address;

/// The most bytes read at once.
const CHUNK_BYTES_MAX: usize = 16 * 1024;

// 64 chunks of 16 KiB are the 1 MiB that may be under way in each direction, the window of a well-tuned TCP path. Small
// messages do not shrink it for long: while the queue is full they gather in the socket and are read as one chunk.
const CHUNKS_IN_FLIGHT_MAX: usize = 64;

/// The most connections open at once; further ones wait in the accept queue.
const CONNECTIONS_MAX: usize = 1024;

const BACKLOG: u32 = 1024;

// Targets are near: the distance is what the relay itself adds.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

// Running out of file descriptors passes when a connection ends; until then trying at once would only burn the CPU.
const ACCEPT_RETRY_DELAY: Duration = Duration::from_millis(50);

// A timer wakes a millisecond or two late, which is as long as a chunk takes on a fast link: what was lost by that is
// made good. What an idle link did not carry is not.
const LATENESS_MAX: Duration = Duration::from_millis(5);

/// How the path between the two sides behaves. The default passes everything at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Link {
    /// How long every byte takes in each direction, so that a round trip takes twice this. The handshake of TCP itself
    /// is not delayed.
    pub delay: Duration,
    /// How much each direction of a connection carries; `None` is as much as the machine can.
    pub rate_bytes_per_second: Option<u64>,
    /// Whether bytes stay where they are, on open connections and new ones, until this is false again.
    pub stalled: bool,
    /// Whether new connections are refused, as by a machine on which nothing listens. Open ones go on.
    pub refuse: bool,
    /// How many bytes of its answer a connection delivers before it is closed as if that were all. It applies to each
    /// connection by itself; `None` is no limit.
    pub cut_after_bytes: Option<u64>,
}

impl Link {
    /// A faultless link on which a byte takes `delay` in each direction.
    pub fn with_delay(delay: Duration) -> Self {
        Self { delay, ..Self::default() }
    }
}

/// A running relay. It ends, with all its connections, when it is dropped.
#[derive(Debug)]
pub struct Relay {
    address: SocketAddr,
    state: Arc<State>,
    _accepting: AbortOnDropHandle<()>,
}

#[derive(Debug)]
struct State {
    link: watch::Sender<Link>,
    target: Mutex<Address>,
    /// The address that targets see as their client's.
    source: Option<IpAddr>,
    /// Cancelled, and replaced by a fresh one, to reset the connections that carry it.
    open: Mutex<CancellationToken>,
}

impl Relay {
    /// Listens on `listen` (port 0 takes a free one) and passes every connection on to `target` over `link`.
    ///
    /// # Errors
    /// When `listen` cannot be listened on.
    pub async fn start(target: impl Into<Address>, link: Link, listen: SocketAddr) -> io::Result<Self> {
        Self::start_with(None, target.into(), link, listen).await
    }

    /// The same, with `source` for the address that the target sees as its client's; all of 127.0.0.0/8 are free to use.
    ///
    /// # Errors
    /// When `listen` cannot be listened on.
    pub async fn start_from(
        source: IpAddr,
        target: impl Into<Address>,
        link: Link,
        listen: SocketAddr,
    ) -> io::Result<Self> {
        Self::start_with(Some(source), target.into(), link, listen).await
    }

    async fn start_with(source: Option<IpAddr>, target: Address, link: Link, listen: SocketAddr) -> io::Result<Self> {
        // This socket is bound for as long as the relay lives but never listens: it keeps the port while connections
        // are refused and there is no listener.
        let reservation = bind(listen)?;
        let address = reservation.local_addr()?;
        let listener = bind(address)?.listen(BACKLOG)?;
        let state = Arc::new(State {
            link: watch::Sender::new(link),
            target: Mutex::new(target),
            source,
            open: Mutex::new(CancellationToken::new()),
        });
        let accepting = tokio::spawn(accept_all(reservation, address, listener, Arc::clone(&state)));
        Ok(Self { address, state, _accepting: AbortOnDropHandle::new(accepting) })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How it behaves now.
    pub fn link(&self) -> Link {
        *self.state.link.borrow()
    }

    /// Behaves like `link` from now on, on open connections too. Bytes already under way keep their time of arrival.
    pub fn set(&self, link: Link) {
        self.state.link.send_replace(link);
    }

    /// Changes one part of the behaviour and leaves the rest.
    pub fn change(&self, change: impl FnOnce(&mut Link)) {
        self.state.link.send_modify(change);
    }

    /// Passes new connections on to `target`, for a node that came back on another port.
    pub fn set_target(&self, target: impl Into<Address>) {
        *self.state.target.lock().unwrap_or_else(PoisonError::into_inner) = target.into();
    }

    /// Resets every open connection on both sides, as a machine does that lost its power and came back.
    pub fn reset_all(&self) {
        let mut open = self.state.open.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *open).cancel();
    }
}

/// A socket for `address` that may share it with one that does not listen (and only with such a one).
fn bind(address: SocketAddr) -> io::Result<TcpSocket> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    Ok(socket)
}

async fn accept_all(_reservation: TcpSocket, address: SocketAddr, first: TcpListener, state: Arc<State>) {
    let mut link = state.link.subscribe();
    let mut connections = JoinSet::new();
    let mut listener = Some(first);
    loop {
        let refuse = link.borrow_and_update().refuse;
        if refuse {
            listener = None;
        } else if listener.is_none() {
            match bind(address).and_then(|socket| socket.listen(BACKLOG)) {
                Ok(again) => listener = Some(again),
                Err(error) => {
                    warn!(%address, %error, "cannot listen, will retry");
                    sleep(ACCEPT_RETRY_DELAY).await;
                    continue;
                }
            }
        }
        tokio::select! {
            changed = link.changed() => if changed.is_err() { return },
            Some(_) = connections.join_next() => {}
            accepted = accept(listener.as_ref()), if connections.len() < CONNECTIONS_MAX => match accepted {
                Ok(client) => drop(connections.spawn(carry(client, Arc::clone(&state)))),
                Err(error) => {
                    warn!(%address, %error, "cannot accept, will retry");
                    sleep(ACCEPT_RETRY_DELAY).await;
                }
            },
        }
    }
}

async fn accept(listener: Option<&TcpListener>) -> io::Result<TcpStream> {
    match listener {
        Some(listener) => listener.accept().await.map(|(client, _)| client),
        None => std::future::pending().await,
    }
}

/// Why one direction of a connection ended without trouble on the side it was read from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// All was delivered, the end of the stream too.
    Whole,
    /// The receiver took no more. What it still has to say may be under way, so the other direction goes on.
    Refused,
}

/// Why both directions have to end at once.
#[derive(Debug, thiserror::Error)]
enum Stop {
    #[error("one side broke")]
    Broken(#[from] io::Error),
    #[error("the answer is as long as it may be")]
    Cut,
    #[error("connections are reset or refused")]
    Reset,
}

async fn carry(mut client: TcpStream, state: Arc<State>) {
    let open = state.open.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let target = state.target.lock().unwrap_or_else(PoisonError::into_inner).clone();
    // One that was accepted while the listener was about to close.
    let refused = state.link.borrow().refuse;
    let ended = match connect(&target, state.source).await {
        Ok(mut server) if !refused => {
            let passed = tokio::select! {
                () = open.cancelled() => Err(Stop::Reset),
                passed = pass_both_ways(&mut client, &mut server, &state.link) => passed,
            };
            if !matches!(passed, Ok((End::Whole, End::Whole)) | Err(Stop::Cut)) {
                reset(&server);
            }
            passed
        }
        Ok(_) => Err(Stop::Reset),
        Err(error) => Err(Stop::Broken(error)),
    };
    match ended {
        Ok((End::Whole, End::Whole)) => {}
        Err(Stop::Cut) => linger(client).await,
        Ok(_) | Err(_) => {
            debug!(%target, ?ended, "relayed connection broke");
            reset(&client);
        }
    }
}

async fn connect(target: &Address, source: Option<IpAddr>) -> io::Result<TcpStream> {
    let target = (target.host(), target.port());
    let connecting = async {
        let Some(source) = source else { return TcpStream::connect(target).await };
        let mut targets = lookup_host(target).await?.filter(|target| target.is_ipv4() == source.is_ipv4());
        let target = targets.next().ok_or(io::ErrorKind::AddrNotAvailable)?;
        let socket = if source.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        socket.bind(SocketAddr::new(source, 0))?;
        socket.connect(target).await
    };
    timeout(CONNECT_TIMEOUT, connecting).await?
}

async fn pass_both_ways(
    client: &mut TcpStream,
    server: &mut TcpStream,
    link: &watch::Sender<Link>,
) -> Result<(End, End), Stop> {
    // The relay delivers when the link says so; gathering small segments would add a delay of its own.
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (from_client, to_client) = client.split();
    let (from_server, to_server) = server.split();
    let request = pass(from_client, to_server, link.subscribe(), Direction::Request);
    let answer = pass(from_server, to_client, link.subscribe(), Direction::Answer);
    tokio::try_join!(request, answer)
}

/// Makes the drop of `stream` send a reset instead of an orderly end.
fn reset(stream: &TcpStream) {
    if let Err(error) = stream.set_zero_linger() {
        debug!(%error, "connection cannot be reset, it is closed instead");
    }
}

/// Closes `client` so that it receives all that was sent: closing with unread input would reset the connection and
/// could destroy bytes that the client has not read yet, and then the cut would not be exact.
async fn linger(mut client: TcpStream) {
    let mut discarded = [0; 1024];
    let _ = client.shutdown().await;
    while let Ok(1..) = client.read(&mut discarded).await {}
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Direction {
    Request,
    Answer,
}

/// What was read at one time: bytes (none at the end of the stream), or the failure that the other side shall see
/// after all that was sent before it.
struct Chunk {
    due: Instant,
    read: io::Result<Vec<u8>>,
}

async fn pass(
    from: impl AsyncRead + Unpin,
    to: impl AsyncWrite + Unpin,
    link: watch::Receiver<Link>,
    direction: Direction,
) -> Result<End, Stop> {
    let (queue, chunks) = mpsc::channel(CHUNKS_IN_FLIGHT_MAX);
    let sending = send(from, queue, link.clone());
    let delivering = deliver(chunks, to, link, direction);
    tokio::pin!(delivering);
    tokio::select! {
        end = &mut delivering => end,
        () = sending => delivering.await,
    }
}

/// Reads at the link's rate and stamps what it read with the time at which it shall arrive.
async fn send(mut from: impl AsyncRead + Unpin, queue: mpsc::Sender<Chunk>, link: watch::Receiver<Link>) {
    let mut buffer = vec![0; CHUNK_BYTES_MAX];
    let mut free_at = Instant::now();
    loop {
        let rate = link.borrow().rate_bytes_per_second.map(|rate| rate.max(1));
        // A slow link is read in pieces of about 20 ms, so that bytes arrive evenly and a new rate acts soon.
        let length_max = rate.map_or(CHUNK_BYTES_MAX, |rate| (rate / 50).clamp(1, CHUNK_BYTES_MAX as u64) as usize);
        let asked = Instant::now();
        let read = from.read(&mut buffer[..length_max]).await.map(|length| buffer[..length].to_vec());
        let length = read.as_ref().map_or(0, Vec::len);
        if let Some(rate) = rate {
            let latest = asked.checked_sub(LATENESS_MAX).unwrap_or(asked);
            let carried_in = Duration::from_secs_f64(length as f64 / rate as f64);
            free_at = free_at.max(latest) + asked.elapsed() + carried_in;
            wait_until(free_at).await;
        }
        let due = Instant::now() + link.borrow().delay;
        if queue.send(Chunk { due, read }).await.is_err() || length == 0 {
            return;
        }
    }
}

/// Writes each chunk when it is due and the link is not stalled.
async fn deliver(
    mut chunks: mpsc::Receiver<Chunk>,
    mut to: impl AsyncWrite + Unpin,
    mut link: watch::Receiver<Link>,
    direction: Direction,
) -> Result<End, Stop> {
    let mut delivered: u64 = 0;
    while let Some(Chunk { due, read }) = chunks.recv().await {
        wait_until(due).await;
        let Ok(now) = link.wait_for(|link| !link.stalled).await.map(|link| *link) else { return Err(Stop::Reset) };
        let bytes = read?;
        if bytes.is_empty() {
            break;
        }
        let left =
            now.cut_after_bytes.filter(|_| direction == Direction::Answer).map(|cut| cut.saturating_sub(delivered));
        let take = left.map_or(bytes.len(), |left| bytes.len().min(usize::try_from(left).unwrap_or(usize::MAX)));
        if to.write_all(&bytes[..take]).await.is_err() {
            return Ok(End::Refused);
        }
        delivered += take as u64;
        if left == Some(take as u64) {
            return Err(Stop::Cut);
        }
    }
    Ok(if to.shutdown().await.is_ok() { End::Whole } else { End::Refused })
}

async fn wait_until(time: Instant) {
    // The timer rounds up to its next millisecond even for a time that has passed.
    if time > Instant::now() {
        sleep_until(time).await;
    }
}
