//! What is agreed upon in the handshake, and what is said over TLS and over nothing else.

use std::sync::Arc;

use rustls::{AlertDescription, HandshakeKind, ProtocolVersion};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::clients::{Client, Protocol};
use super::{Secure, request, site};
use crate::cluster::PATIENCE;
use crate::edge::ask;
use crate::sites::origin::{Origin, answer};

async fn start() -> (Origin, Secure) {
    // What the origin offers is at its own place.
    let fields = [("cache-control", "max-age=99"), ("alt-svc", "h3=\":1\"")];
    let origin = Origin::start(move |_| answer(200, &fields, "text")).await;
    let secure = Secure::start(&[&site(&origin, "")]).await;
    (origin, secure)
}

#[tokio::test(flavor = "multi_thread")]
async fn both_sides_agree_upon_a_protocol() {
    let (_origin, secure) = start().await;
    for (offered, agreed) in [
        (&["h2", "http/1.1"][..], Some("h2")),
        (&["http/1.1", "h2"], Some("h2")),
        (&["http/1.1"], Some("http/1.1")),
        (&[], None),
    ] {
        let stream = secure.connect(&Arc::new(secure.authority.client(offered)), "site.example").await.unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), agreed.map(str::as_bytes), "{offered:?}");
    }
    let error = secure.connect(&Arc::new(secure.authority.client(&["spdy/3"])), "site.example").await.unwrap_err();
    let alert = error.get_ref().unwrap().downcast_ref::<rustls::Error>().unwrap();
    assert_eq!(*alert, rustls::Error::AlertReceived(AlertDescription::NoApplicationProtocol));
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_are_resumed_by_tickets_whichever_thread_answers() {
    let (_origin, secure) = start().await;
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let client = Arc::new(secure.authority.client_of(&["http/1.1"], &[version]));
        for number in 0..10 {
            let mut stream = secure.connect(&client, "site.example").await.unwrap();
            stream.write_all(b"GET / HTTP/1.1\r\nHost: site.example\r\nConnection: close\r\n\r\n").await.unwrap();
            let mut text = String::new();
            stream.read_to_string(&mut text).await.unwrap();
            assert!(text.starts_with("HTTP/1.1 200 OK\r\n") && text.ends_with("\r\n\r\ntext"), "{text}");
            let session = stream.get_ref().1;
            let expected = if version.version == ProtocolVersion::TLSv1_2 {
                rustls::ProtocolVersion::TLSv1_2
            } else {
                rustls::ProtocolVersion::TLSv1_3
            };
            assert_eq!(session.protocol_version(), Some(expected));
            let kind = if number == 0 { HandshakeKind::Full } else { HandshakeKind::Resumed };
            assert_eq!(session.handshake_kind(), Some(kind), "{version:?} {number}");
        }
        // A ticket is for the name that it was given for.
        let stream = secure.connect(&client, "localhost").await.unwrap();
        assert_eq!(stream.get_ref().1.handshake_kind(), Some(HandshakeKind::Full));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_requests_are_taken_before_the_handshake_has_ended() {
    let (_origin, secure) = start().await;
    let mut client = secure.authority.client(&["http/1.1"]);
    client.enable_early_data = true;
    let client = Arc::new(client);
    for _ in 0..2 {
        let mut stream = secure.connect(&client, "site.example").await.unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\nHost: site.example\r\nConnection: close\r\n\r\n").await.unwrap();
        stream.read_to_end(&mut Vec::new()).await.unwrap();
        assert!(!stream.get_ref().1.is_early_data_accepted());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn https_and_http_have_answers_of_their_own() {
    let origin = Origin::start(|asked| {
        let scheme = asked.field("x-forwarded-proto");
        answer(200, &[("cache-control", "max-age=99")], scheme)
    })
    .await;
    let secure = Secure::start(&[&site(&origin, "")]).await;
    let mut client = Client::connect(&secure, Protocol::Http2, "site.example").await;
    let host = [("host", "site.example")];
    for _ in 0..3 {
        assert_eq!(client.ask(request("GET", "site.example", "/", &[])).await.body, b"https");
        assert_eq!(ask(secure.plain, http::Method::GET, "/", &host).await.body(), b"http");
    }
    assert_eq!(origin.asked().len(), 2);
    // With its port named or not it is the same address.
    assert_eq!(client.ask(request("GET", "site.example:443", "/", &[])).await.body, b"https");
    assert_eq!(origin.asked().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_came_over_one_scheme_is_not_answered_for_the_other() {
    let (origin, secure) = start().await;
    let raw = async |text: &str| {
        let client = Arc::new(secure.authority.client(&["http/1.1"]));
        let mut stream = secure.connect(&client, "site.example").await.unwrap();
        stream.write_all(text.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer.split(' ').nth(1).unwrap().to_owned()
    };
    let head = "HTTP/1.1\r\nHost: site.example\r\nConnection: close\r\n\r\n";
    assert_eq!(raw(&format!("GET https://site.example/ {head}")).await, "200");
    assert_eq!(raw(&format!("GET http://site.example/ {head}")).await, "421");
    assert_eq!(raw(&format!("GET https://unknown.org/ {head}")).await, "421");
    let plain = crate::edge_limits::raw(secure.plain, &format!("GET https://site.example/ {head}")).await;
    assert_eq!(plain.status, 421);
    assert_eq!(origin.asked().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_says_nothing_is_left_and_plain_text_is_refused() {
    let origin = Origin::start(|_| answer(200, &[], "")).await;
    let secure = Secure::start_with(&[&site(&origin, "")], |config| config.serve.handshake_timeout_ms = 200).await;
    let mut silent = tokio::net::TcpStream::connect(secure.tls).await.unwrap();
    assert_eq!(silent.read(&mut [0; 10]).await.unwrap(), 0);
    let mut plain = tokio::net::TcpStream::connect(secure.tls).await.unwrap();
    plain.write_all(b"GET / HTTP/1.1\r\nHost: site.example\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    let _ = plain.read_to_end(&mut answer).await;
    assert!(!answer.starts_with(b"HTTP"), "{answer:?}");
}

#[cfg(feature = "http3")]
#[tokio::test(flavor = "multi_thread")]
async fn http3_is_offered_over_tls_alone_once_it_works() {
    let (_origin, secure) = start().await;
    for protocol in [Protocol::Http1, Protocol::Http2] {
        let mut client = Client::connect(&secure, protocol, "site.example").await;
        let offer = format!("h3=\":{}\"; ma=86400", secure.tls.port());
        let ask = || request("GET", "site.example", "/", &[]);
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while client.ask(ask()).await.field("alt-svc") != offer {
            assert!(tokio::time::Instant::now() < deadline, "it is never offered");
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        // By the short way and by the long one.
        let long = client.ask(request("GET", "site.example", "/", &[("pragma", "x")])).await;
        assert_eq!((long.field("alt-svc"), client.ask(ask()).await.field("alt-svc")), (offer.clone(), offer));
    }
    let mut client = Client::connect(&secure, Protocol::Http3, "site.example").await;
    assert_eq!(client.ask(request("GET", "site.example", "/", &[])).await.field("alt-svc"), "");
    let plain = ask(secure.plain, http::Method::GET, "/", &[("host", "site.example")]).await;
    assert!(!plain.headers().contains_key("alt-svc"));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_http3_nothing_is_offered() {
    let cluster = crate::cluster::Cluster::start(&[]).await;
    let (origin, secure) = start().await;
    let certificate = secure.path("usual.pem");
    let key = secure.path("usual.key");
    let site = toml::from_str(&site(&origin, "")).unwrap();
    let config = metacdn::edge::Config {
        site: vec![site],
        certificate: vec![metacdn::edge::CertificateConfig { certificate, key, hosts: Vec::new(), default: false }],
        ..metacdn::edge::Config::default()
    };
    let tls = metacdn::edge::TlsListeners { udp: None, ..super::tls_listeners().await };
    let bind = async || tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let listeners =
        metacdn::edge::Listeners { public: bind().await, tls: Some(tls), shield: None, admin: bind().await };
    let (at, admin) =
        (listeners.tls.as_ref().unwrap().tcp.local_addr().unwrap(), listeners.admin.local_addr().unwrap());
    let identity = cluster.identity(metacdn::model::Principal::Edge("edge".parse().unwrap()));
    let stop = tokio_util::sync::CancellationToken::new();
    let running = tokio::spawn(metacdn::edge::run(config, Some(identity), listeners, None, stop.clone()));
    crate::edge::ready(admin).await;
    let secure = Secure { tls: at, admin, ..secure };
    let mut client = Client::connect(&secure, Protocol::Http2, "site.example").await;
    assert_eq!(client.ask(request("GET", "site.example", "/", &[])).await.field("alt-svc"), "");
    drop(client);
    stop.cancel();
    running.await.unwrap().unwrap();
}
