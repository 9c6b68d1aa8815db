//! Packets: told from HTTP, and how they end.

use std::sync::Arc;

use metacdn::protocol::identity::TlsVersions;
use metacdn::serve::{Config, PacketConnection, PacketHandler, ReceiveError, Received, Transport};
use tokio::io::AsyncWriteExt;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::{Cluster, GET, PATIENCE, Server, callers, client, exchange};

/// Collects what comes, and how it ended; an empty packet tells that the first bytes of one are there.
pub(super) fn collector() -> (PacketHandler, mpsc::Receiver<(Vec<u8>, String)>) {
    let (send, packets) = mpsc::channel(8);
    let handler: PacketHandler = Arc::new(move |mut connection: PacketConnection| {
        let send = send.clone();
        Box::pin(async move {
            let mut packet = Vec::new();
            let end = loop {
                match connection.receive().await {
                    Ok(Received::Bytes(bytes)) => {
                        if packet.is_empty() {
                            send.send((Vec::new(), "begun".to_owned())).await.unwrap();
                        }
                        packet.extend_from_slice(&bytes);
                    }
                    Ok(Received::Closed) => break "closed".to_owned(),
                    Ok(Received::Ended) => break "ended".to_owned(),
                    Err(ReceiveError::Stalled(_)) => break "stalled".to_owned(),
                    Err(ReceiveError::Broken(error)) => break format!("broken: {:?}", error.kind()),
                }
            };
            let caller = format!("{} from {}", connection.principal(), connection.peer().ip());
            let _ = connection.answer(&format!("{} bytes of {caller}", packet.len())).await;
            send.send((packet, end)).await.unwrap();
        })
    });
    (handler, packets)
}

pub(super) async fn begun(packets: &mut mpsc::Receiver<(Vec<u8>, String)>) {
    let told = timeout(PATIENCE, packets.recv()).await.expect("a packet begins");
    assert_eq!(told, Some((Vec::new(), "begun".to_owned())));
}

pub(super) async fn ended(packets: &mut mpsc::Receiver<(Vec<u8>, String)>) -> (Vec<u8>, String) {
    timeout(PATIENCE, packets.recv()).await.expect("a packet ends").unwrap()
}

async fn next(packets: &mut mpsc::Receiver<(Vec<u8>, String)>) -> (Vec<u8>, String) {
    begun(packets).await;
    ended(packets).await
}

#[tokio::test]
async fn the_first_byte_tells_a_packet_from_http() {
    let cluster = Cluster::new();
    let (handler, mut packets) = collector();
    let transport = cluster.transport(TlsVersions::Only13);
    let server = Server::start(transport, Config::default(), callers(), Some(handler)).await;
    let config = cluster.identity(client("Ann")).client_config();
    for start in [b'{', 0x0A, 0x12, 0x1A, 0x2A] {
        let mut packet = vec![start];
        packet.resize(100_000, b'x');
        let mut stream = server.connect_tls(config.clone()).await.unwrap();
        stream.write_all(&packet).await.unwrap();
        stream.shutdown().await.unwrap();
        let answer = exchange(stream, b"").await.unwrap();
        assert_eq!(answer, "100000 bytes of client Ann from 127.0.0.1\n");
        assert_eq!(next(&mut packets).await, (packet, "closed".to_owned()));
    }
    for start in ["", "\r\n"] {
        let request = [start.as_bytes(), GET].concat();
        let answer = exchange(server.connect_tls(config.clone()).await.unwrap(), &request).await.unwrap();
        assert!(answer.ends_with("client Ann from 127.0.0.1"), "{answer}");
    }
    server.stopped().await;
}

#[tokio::test]
async fn the_ends_of_a_packet_are_told_apart() {
    let cluster = Cluster::new();
    for version in [&rustls::version::TLS13, &rustls::version::TLS12] {
        let (handler, mut packets) = collector();
        let config = Config { stall_timeout_ms: 300, ..Config::default() };
        let transport = cluster.transport(TlsVersions::Also12);
        let server = Server::start(transport, config, callers(), Some(handler)).await;
        let connect = || async { server.connect_tls(cluster.client(None, version)).await.unwrap() };
        let told = |end: &str| (b"{packet".to_vec(), end.to_owned());
        let answer = "7 bytes of anonymous from 127.0.0.1\n";

        let mut stream = connect().await;
        stream.write_all(b"{packet").await.unwrap();
        stream.shutdown().await.unwrap();
        assert_eq!(exchange(&mut stream, b"").await.unwrap(), answer, "close_notify is answered by close_notify");
        assert_eq!(next(&mut packets).await, told("closed"));

        let mut stream = connect().await;
        stream.write_all(b"{packet").await.unwrap();
        stream.flush().await.unwrap();
        stream.get_mut().0.shutdown().await.unwrap();
        assert_eq!(exchange(&mut stream, b"").await.unwrap(), answer, "a bare FIN still gets its answer");
        assert_eq!(next(&mut packets).await, told("ended"));

        let mut stream = connect().await;
        stream.write_all(b"{packet").await.unwrap();
        assert_eq!(exchange(&mut stream, b"").await.unwrap(), answer);
        assert_eq!(next(&mut packets).await, told("stalled"));

        let mut stream = connect().await;
        stream.write_all(b"{packet").await.unwrap();
        stream.flush().await.unwrap();
        // A reset destroys what was not read yet, and with it all trace of the packet.
        begun(&mut packets).await;
        let (tcp, _) = stream.into_inner();
        tcp.set_zero_linger().unwrap();
        drop(tcp);
        assert_eq!(ended(&mut packets).await, told("broken: ConnectionReset"));
        server.stopped().await;
    }
}

#[tokio::test]
async fn without_tls_every_end_is_unconfirmed() {
    let (handler, mut packets) = collector();
    let server = Server::start(Transport::Plain, Config::default(), callers(), Some(handler)).await;
    let mut stream = server.connect().await;
    stream.write_all(b"{packet").await.unwrap();
    stream.shutdown().await.unwrap();
    assert_eq!(exchange(stream, b"").await.unwrap(), "7 bytes of anonymous from 127.0.0.1\n");
    assert_eq!(next(&mut packets).await, (b"{packet".to_vec(), "ended".to_owned()));
    server.stopped().await;
}

#[tokio::test]
async fn a_sender_that_never_reads_loses_nothing() {
    let cluster = Cluster::new();
    let (handler, mut packets) = collector();
    let transport = cluster.transport(TlsVersions::Only13);
    let server = Server::start(transport, Config::default(), callers(), Some(handler)).await;
    let packet = vec![b'{'; 1 << 20];
    for _ in 0..5 {
        let mut stream = server.connect_tls(cluster.client(None, &rustls::version::TLS13)).await.unwrap();
        stream.write_all(&packet).await.unwrap();
        stream.flush().await.unwrap();
        drop(stream);
        let (received, end) = next(&mut packets).await;
        assert_eq!((received.len(), end.as_str()), (packet.len(), "ended"));
    }
    server.stopped().await;
}
