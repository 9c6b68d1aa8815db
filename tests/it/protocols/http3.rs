//! What an HTTP/3 client may do, and what ends its stream or its connection.

use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{ClientConfig, Endpoint, TransportConfig};
use rustls::pki_types::CertificateDer;
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::clients::{Client, Protocol};
use super::{Secure, request, site};
use crate::cluster::PATIENCE;
use crate::sites::origin::{Origin, answer, streamed};
use crate::sites::spoken;

/// A QUIC connection to the host `name` of the edge.
pub async fn connect(secure: &Secure, name: &str) -> Result<(Endpoint, quinn::Connection), quinn::ConnectionError> {
    let tls = secure.authority.client(&["h3"]);
    connect_with(secure.tls, tls, name, TransportConfig::default()).await
}

pub async fn connect_with(
    at: SocketAddr,
    tls: rustls::ClientConfig,
    name: &str,
    transport: TransportConfig,
) -> Result<(Endpoint, quinn::Connection), quinn::ConnectionError> {
    let endpoint = Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
    let mut config = ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).unwrap()));
    config.transport_config(Arc::new(transport));
    let connection = endpoint.connect_with(config, at, name).unwrap().await?;
    Ok((endpoint, connection))
}

/// The certificate that HTTP/3 shows.
pub async fn shown(secure: &Secure, name: &str) -> CertificateDer<'static> {
    let (_endpoint, connection) = connect(secure, name).await.unwrap();
    let chain = connection.peer_identity().unwrap().downcast::<Vec<CertificateDer<'static>>>().unwrap();
    chain[0].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn hosts_without_a_certificate_are_refused() {
    let origin = Origin::start(|_| answer(200, &[], "")).await;
    let secure = Secure::start(&[&site(&origin, "")]).await;
    assert!(connect(&secure, "site.example").await.is_ok());
    let refused = connect(&secure, "unknown.example").await.err().unwrap();
    // No alert says it in other words here: QUIC has its own codes around them (RFC 9001 section 4.8).
    assert!(matches!(&refused, quinn::ConnectionError::ConnectionClosed(_)), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_requests_get_the_right_code_and_reach_nobody() {
    let origin = Origin::start(|asked| answer(200, &[("cache-control", "no-store")], asked.body)).await;
    let secure = Secure::start(&[&site(&origin, "")]).await;
    let mut python = Command::new(".tools/python/bin/python");
    python.arg("tests/python/http3_malformed.py").arg(secure.tls.port().to_string()).arg(secure.path("authority.pem"));
    let ran = python.stdin(Stdio::null()).kill_on_drop(true).output();
    let ran = timeout(4 * PATIENCE, ran).await.expect("it ends").expect("python is there: run ./test.sh setup");
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    let text = String::from_utf8(ran.stdout).unwrap();
    let cases: Vec<(String, String, String)> = text
        .lines()
        .map(|line| {
            let parts: Vec<_> = line.split('\t').map(str::to_owned).collect();
            (parts[0].clone(), parts[1].clone(), parts[2].clone())
        })
        .collect();
    assert!(cases.len() > 25, "{text}");
    for (case, expected, got) in &cases {
        assert!(expected.split('|').any(|one| one == got), "{case}: {got}, not {expected}\n{text}");
    }
    let reached: Vec<_> = origin.asked().iter().map(|asked| asked.uri.path().to_owned()).collect();
    let good = cases.iter().filter(|(_, expected, _)| expected == "200").count();
    assert_eq!(reached.len(), good, "{reached:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn large_answers_come_whole_through_small_windows() {
    let bytes: Vec<u8> = (0..20_000_000_u32).map(|number| (number / 3) as u8).collect();
    let (kept, sent) = (Bytes::from(bytes.clone()), Bytes::from(bytes.clone()));
    let origin = Origin::start(move |asked| match asked.uri.path() {
        "/kept" => answer(200, &[("cache-control", "max-age=99")], kept.slice(..4_000_000)),
        _ => answer(200, &[("cache-control", "no-store")], sent.clone()),
    })
    .await;
    let secure = Secure::start(&[&site(&origin, "")]).await;
    let mut transport = TransportConfig::default();
    transport.stream_receive_window(20_000_u32.into()).receive_window(40_000_u32.into());
    let tls = secure.authority.client(&["h3"]);
    let (_endpoint, connection) = connect_with(secure.tls, tls, "site.example", transport).await.unwrap();
    let (mut driver, mut requests) = h3::client::new(h3_quinn::Connection::new(connection)).await.unwrap();
    tokio::spawn(async move { driver.wait_idle().await });
    for (path, length) in [("/kept", 4_000_000), ("/kept", 4_000_000), ("/passed", 20_000_000)] {
        let mut stream = requests.send_request(request("GET", "site.example", path, &[])).await.unwrap();
        stream.finish().await.unwrap();
        assert_eq!(stream.recv_response().await.unwrap().status(), 200);
        let mut got = Vec::new();
        while let Some(mut data) = stream.recv_data().await.unwrap() {
            got.extend_from_slice(&data.copy_to_bytes(data.remaining()));
        }
        assert!(got == bytes[..length], "{path}: {} bytes", got.len());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_nobody_takes_is_dropped_and_others_go_on() {
    let origin = Origin::start(|_| answer(200, &[("cache-control", "no-store")], vec![b'x'; 8 << 20])).await;
    let change = |config: &mut metacdn::edge::Config| config.serve.stall_timeout_ms = 500;
    let secure = Secure::start_with(&[&site(&origin, "")], change).await;
    let mut transport = TransportConfig::default();
    transport.stream_receive_window(20_000_u32.into());
    let tls = secure.authority.client(&["h3"]);
    let (_endpoint, connection) = connect_with(secure.tls, tls, "site.example", transport).await.unwrap();
    let (mut driver, mut requests) = h3::client::new(h3_quinn::Connection::new(connection)).await.unwrap();
    tokio::spawn(async move { driver.wait_idle().await });
    let mut stream = requests.send_request(request("GET", "site.example", "/", &[])).await.unwrap();
    stream.finish().await.unwrap();
    stream.recv_response().await.unwrap();
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    // What had come before is taken; then the reset shows.
    let error = loop {
        match timeout(PATIENCE, stream.recv_data()).await.expect("the stream ends") {
            Ok(Some(_)) => {}
            Ok(None) => panic!("the answer looks whole"),
            Err(error) => break error,
        }
    };
    assert!(error.to_string().contains("H3_REQUEST_CANCELLED"), "{error}");
    let mut head = requests.send_request(request("HEAD", "site.example", "/", &[])).await.unwrap();
    head.finish().await.unwrap();
    assert_eq!(head.recv_response().await.unwrap().status(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interim_answer_that_is_too_large_for_a_client_is_left_out() {
    let site = spoken(|mut stream| async move {
        let early = format!("HTTP/1.1 103 Early Hints\r\nLink: </{}>; rel=preload\r\n\r\n", "x".repeat(3_000));
        stream.write_all(early.as_bytes()).await.unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\npage").await.unwrap();
    })
    .await;
    let secure = Secure::start(&[&site]).await;
    let (_endpoint, connection) = connect(&secure, "site.example").await.unwrap();
    let connection = h3_quinn::Connection::new(connection);
    let mut builder = h3::client::builder();
    let (mut driver, mut requests) =
        builder.max_field_section_size(2_000).build::<_, _, Bytes>(connection).await.unwrap();
    tokio::spawn(async move { driver.wait_idle().await });
    let mut stream = requests.send_request(request("GET", "site.example", "/", &[])).await.unwrap();
    stream.finish().await.unwrap();
    assert_eq!(stream.recv_response().await.unwrap().status(), 200);
    assert_eq!(&stream.recv_data().await.unwrap().unwrap().copy_to_bytes(4)[..], b"page");
}

#[tokio::test(flavor = "multi_thread")]
async fn running_answers_end_when_the_edge_stops() {
    let (tell, mut told) = mpsc::unbounded_channel();
    let origin = Origin::start(move |_| {
        let (parts, answer) = streamed(&[("cache-control", "no-store")]);
        tell.send(parts).unwrap();
        answer
    })
    .await;
    let secure = Secure::start(&[&site(&origin, "")]).await;
    let mut client = Client::connect(&secure, Protocol::Http3, "site.example").await;
    let asking = tokio::spawn(async move {
        let answer = client.ask(request("GET", "site.example", "/", &[])).await;
        (answer, client)
    });
    let parts = told.recv().await.unwrap();
    parts.send("one ").await;
    let at = secure.tls;
    let tls = secure.authority.client(&["h3"]);
    let stopping = tokio::spawn(secure.edge.stop());
    // Newcomers are refused while it waits.
    crate::cluster::wait_until("nobody is let in", async || {
        connect_with(at, tls.clone(), "site.example", TransportConfig::default()).await.is_err()
    })
    .await;
    assert!(!stopping.is_finished());
    parts.send("two").await;
    parts.end();
    let (answer, _client) = asking.await.unwrap();
    assert_eq!(answer.body, b"one two");
    stopping.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_come_in_crowds_show_where_they_are() {
    let origin = Origin::start(|_| answer(200, &[("cache-control", "max-age=99")], "text")).await;
    let secure = Secure::start(&[&site(&origin, "")]).await;
    // First packets of handshakes that never go on, as a sender with false addresses makes them.
    let mut silent = Vec::new();
    for _ in 0..300 {
        let endpoint = Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
        let tls = secure.authority.client(&["h3"]);
        let config = ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).unwrap()));
        let relay = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let connecting = endpoint.connect_with(config, relay.local_addr().unwrap(), "site.example").unwrap();
        relay.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut packet = [0; 2_000];
        let (length, _) = tokio::task::block_in_place(|| relay.recv_from(&mut packet)).unwrap();
        relay.send_to(&packet[..length], secure.tls).unwrap();
        silent.push((endpoint, connecting, relay));
    }
    // The last of them are asked to show it; answers of the first kind begin a handshake, the others are short.
    let retries = silent.iter().filter(|(_, _, relay)| {
        relay.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let mut packet = [0; 2_000];
        // A Retry packet (RFC 9000 section 17.2.5) has type 3 in its first byte.
        relay.recv(&mut packet).is_ok_and(|_| packet[0] & 0xf0 == 0xf0)
    });
    assert!(retries.count() >= 20);
    let mut client = Client::connect(&secure, Protocol::Http3, "site.example").await;
    assert_eq!(client.ask(request("GET", "site.example", "/", &[])).await.status, 200);
}
