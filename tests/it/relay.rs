//! The relay that emulates distance and faults, through real sockets.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use metacdn::cli::demo::relay::{Link, Relay};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::timeout;

const FREE_PORT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// Long enough that only a relay that never acts reaches it.
const PATIENCE: Duration = Duration::from_secs(30);

async fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind(FREE_PORT).await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// Sends back what it receives, one connection after the other.
async fn echo() -> (SocketAddr, JoinHandle<()>) {
    let (listener, address) = listener().await;
    let serving = tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let (mut from, mut to) = stream.split();
            if tokio::io::copy(&mut from, &mut to).await.is_ok() {
                let _ = to.shutdown().await;
            }
        }
    });
    (address, serving)
}

/// A relay in front of a listener, and both ends of one connection through it.
async fn connected(link: Link) -> (Relay, TcpStream, TcpStream) {
    let (listener, address) = listener().await;
    let relay = Relay::start(address, link, FREE_PORT).await.unwrap();
    let client = TcpStream::connect(relay.address()).await.unwrap();
    let (server, _) = timeout(PATIENCE, listener.accept()).await.unwrap().unwrap();
    (relay, client, server)
}

fn pattern(length: usize) -> Vec<u8> {
    // 251 is prime, so that a chunk that is lost, doubled or swapped shifts the pattern.
    (0..length).map(|position| (position % 251) as u8).collect()
}

async fn read_to_end(stream: &mut (impl AsyncReadExt + Unpin)) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    timeout(PATIENCE, stream.read_to_end(&mut bytes)).await.unwrap().map(|_| bytes)
}

#[tokio::test]
async fn eight_mebibytes_pass_both_ways_unchanged() {
    let (address, _serving) = echo().await;
    let relay = Relay::start(address, Link::with_delay(Duration::from_millis(5)), FREE_PORT).await.unwrap();
    let mut client = TcpStream::connect(relay.address()).await.unwrap();
    let sent = pattern(8 * 1024 * 1024);
    let (mut from, mut to) = client.split();
    let (written, received) = tokio::join!(
        async {
            to.write_all(&sent).await?;
            to.shutdown().await
        },
        read_to_end(&mut from)
    );
    written.unwrap();
    assert!(received.unwrap() == sent);
}

#[tokio::test]
async fn half_close_passes_and_the_answer_still_arrives() {
    let (_relay, mut client, mut server) = connected(Link::with_delay(Duration::from_millis(2))).await;
    client.write_all(b"question").await.unwrap();
    client.shutdown().await.unwrap();
    assert_eq!(read_to_end(&mut server).await.unwrap(), b"question");
    server.write_all(b"answer").await.unwrap();
    server.shutdown().await.unwrap();
    assert_eq!(read_to_end(&mut client).await.unwrap(), b"answer");
}

#[tokio::test]
async fn a_round_trip_takes_at_least_twice_the_delay() {
    let delay = Duration::from_millis(40);
    let (_relay, mut client, mut server) = connected(Link::with_delay(delay)).await;
    let start = Instant::now();
    client.write_all(b"?").await.unwrap();
    assert_eq!(server.read_u8().await.unwrap(), b'?');
    assert!(start.elapsed() >= delay);
    server.write_all(b"!").await.unwrap();
    assert_eq!(client.read_u8().await.unwrap(), b'!');
    assert!(start.elapsed() >= 2 * delay);
}

#[tokio::test]
async fn a_delay_holds_many_chunks_at_once() {
    // One chunk of 16 KiB per delay would take 96 seconds, far beyond the patience of the reader.
    let (_relay, mut client, mut server) = connected(Link::with_delay(Duration::from_millis(1500))).await;
    let sent = pattern(1024 * 1024);
    let (written, received) = tokio::join!(
        async {
            client.write_all(&sent).await?;
            client.shutdown().await
        },
        read_to_end(&mut server)
    );
    written.unwrap();
    assert!(received.unwrap() == sent);
}

#[tokio::test]
async fn a_rate_is_not_exceeded() {
    let link = Link { rate_bytes_per_second: Some(200_000), ..Link::default() };
    let (_relay, mut client, mut server) = connected(link).await;
    let start = Instant::now();
    client.write_all(&pattern(40_000)).await.unwrap();
    client.shutdown().await.unwrap();
    assert_eq!(read_to_end(&mut server).await.unwrap().len(), 40_000);
    assert!(start.elapsed() >= Duration::from_millis(200));
}

#[tokio::test]
async fn reset_all_is_seen_as_a_reset_on_both_sides() {
    let (relay, mut client, mut server) = connected(Link::default()).await;
    client.write_all(b"x").await.unwrap();
    assert_eq!(server.read_u8().await.unwrap(), b'x');
    relay.reset_all();
    assert_eq!(read_to_end(&mut client).await.unwrap_err().kind(), ErrorKind::ConnectionReset);
    assert_eq!(read_to_end(&mut server).await.unwrap_err().kind(), ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn connections_made_after_a_reset_work() {
    let (address, _serving) = echo().await;
    let relay = Relay::start(address, Link::default(), FREE_PORT).await.unwrap();
    relay.reset_all();
    let mut client = TcpStream::connect(relay.address()).await.unwrap();
    client.write_all(b"again").await.unwrap();
    client.shutdown().await.unwrap();
    assert_eq!(read_to_end(&mut client).await.unwrap(), b"again");
}

#[tokio::test]
async fn a_reset_by_the_target_arrives_after_what_it_sent() {
    let (_relay, mut client, mut server) = connected(Link::with_delay(Duration::from_millis(20))).await;
    client.write_all(b"x").await.unwrap();
    assert_eq!(server.read_u8().await.unwrap(), b'x');
    server.write_all(b"last words").await.unwrap();
    server.set_zero_linger().unwrap();
    drop(server);
    let mut words = [0; 10];
    timeout(PATIENCE, client.read_exact(&mut words)).await.unwrap().unwrap();
    assert_eq!(&words, b"last words");
    assert_eq!(read_to_end(&mut client).await.unwrap_err().kind(), ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn a_stall_holds_bytes_back_until_it_ends() {
    let (relay, mut client, mut server) = connected(Link::default()).await;
    relay.change(|link| link.stalled = true);
    client.write_all(b"late").await.unwrap();
    assert!(timeout(Duration::from_millis(100), server.read_u8()).await.is_err());
    relay.change(|link| link.stalled = false);
    let mut late = [0; 4];
    timeout(PATIENCE, server.read_exact(&mut late)).await.unwrap().unwrap();
    assert_eq!(&late, b"late");
}

#[tokio::test]
async fn an_answer_is_cut_exactly() {
    for cut in [0, 1, 16 * 1024, 100_003] {
        let link = Link { cut_after_bytes: Some(cut), ..Link::default() };
        let (_relay, mut client, mut server) = connected(link).await;
        let (mut from_relay, mut to_relay) = client.split();
        // A question that nobody reads: it is not counted, and being unread it must not turn the end into a reset.
        let question = pattern(8 * 1024 * 1024);
        let answer = pattern(300_000);
        let (_, received, _) =
            tokio::join!(to_relay.write_all(&question), read_to_end(&mut from_relay), server.write_all(&answer));
        assert!(received.unwrap() == answer[..cut as usize], "cut after {cut}");
    }
}

#[tokio::test]
async fn refused_connections_are_refused_and_later_accepted_at_the_same_port() {
    let (address, _serving) = echo().await;
    let relay = Relay::start(address, Link::default(), FREE_PORT).await.unwrap();
    relay.change(|link| link.refuse = true);
    let refused = async {
        // One that the kernel accepted before the listener closed is reset instead.
        while let Ok(mut early) = TcpStream::connect(relay.address()).await {
            assert_eq!(read_to_end(&mut early).await.unwrap_err().kind(), ErrorKind::ConnectionReset);
        }
    };
    timeout(PATIENCE, refused).await.unwrap();
    relay.set(Link::default());
    let accepted = async {
        loop {
            if let Ok(stream) = TcpStream::connect(relay.address()).await {
                return stream;
            }
            tokio::task::yield_now().await;
        }
    };
    let mut client = timeout(PATIENCE, accepted).await.unwrap();
    client.write_all(b"back").await.unwrap();
    client.shutdown().await.unwrap();
    assert_eq!(read_to_end(&mut client).await.unwrap(), b"back");
}

#[tokio::test]
async fn a_port_that_somebody_listens_on_is_not_shared() {
    let (_listener, address) = listener().await;
    let error = Relay::start(address, Link::default(), address).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AddrInUse);
    let relay = Relay::start(address, Link::default(), FREE_PORT).await.unwrap();
    let error = Relay::start(address, Link::default(), relay.address()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AddrInUse);
}

#[tokio::test]
async fn a_new_target_gets_new_connections() {
    let (gone, address) = listener().await;
    let relay = Relay::start(address, Link::default(), FREE_PORT).await.unwrap();
    drop(gone);
    let mut client = TcpStream::connect(relay.address()).await.unwrap();
    assert_eq!(read_to_end(&mut client).await.unwrap_err().kind(), ErrorKind::ConnectionReset);
    let (address, _serving) = echo().await;
    relay.set_target(address);
    let mut client = TcpStream::connect(relay.address()).await.unwrap();
    client.write_all(b"moved").await.unwrap();
    client.shutdown().await.unwrap();
    assert_eq!(read_to_end(&mut client).await.unwrap(), b"moved");
}

#[tokio::test]
async fn a_dropped_relay_ends_its_connections_and_frees_its_port() {
    let (relay, mut client, _server) = connected(Link::default()).await;
    let address = relay.address();
    drop(relay);
    assert_eq!(read_to_end(&mut client).await.unwrap(), b"");
    assert!(TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn a_relay_from_an_address_shows_it_to_its_target() {
    let (target, at) = listener().await;
    let source: IpAddr = "127.0.0.9".parse().unwrap();
    let relay = Relay::start_from(source, at, Link::default(), FREE_PORT).await.unwrap();
    let _client = TcpStream::connect(relay.address()).await.unwrap();
    let (_server, seen) = target.accept().await.unwrap();
    assert_eq!(seen.ip(), source);
}
