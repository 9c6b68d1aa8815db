//! Connections that a proxy passes on with the PROXY protocol: the client's address is that of the header, and nobody but
//! configured proxies may send one.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use metacdn::edge;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::cluster::{PATIENCE, wait_until};
use crate::edge::fetch;
use crate::protocols::{Secure, site};
use crate::sites::origin::{Origin, answer};

/// An origin that tells for whom it was asked, but for the path `/kept`, which lasts.
async fn origin() -> Origin {
    Origin::start(|asked| match asked.uri.path() {
        "/kept" => answer(200, &[("cache-control", "max-age=1000")], "kept"),
        _ => {
            let said = format!("{}|{}", asked.field("x-forwarded-for"), asked.field("forwarded"));
            answer(200, &[("cache-control", "no-store")], said)
        }
    })
    .await
}

async fn start(origin: &Origin, from: &[&str], change: impl FnOnce(&mut edge::Config)) -> Secure {
    let from = from.iter().map(|network| network.parse().unwrap()).collect();
    Secure::start_with(&[&site(origin, "")], |config| {
        config.proxy_protocol_from = from;
        change(config);
    })
    .await
}

/// A header of version 2.
fn version2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
    let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
    [b"\r\n\r\n\0\r\nQUIT\n", &[command, family][..], &length, rest].concat()
}

const V4: [u8; 12] = [192, 0, 2, 7, 198, 51, 100, 1, 0xdc, 4, 0, 80];

/// Headers, and what an origin then gets in `X-Forwarded-For`.
fn headers() -> Vec<(Vec<u8>, &'static str)> {
    let address = |text: &str| text.parse::<std::net::Ipv6Addr>().unwrap().octets();
    let v6 = [&address("2001:db8::7")[..], &address("2001:db8::1"), &[0xdc, 4, 0, 80]].concat();
    vec![
        (b"PROXY TCP4 192.0.2.7 198.51.100.1 56324 80\r\n".to_vec(), "192.0.2.7"),
        (b"PROXY TCP6 2001:db8::7 2001:db8::1 56324 80\r\n".to_vec(), "2001:db8::7"),
        (b"PROXY UNKNOWN\r\n".to_vec(), "127.0.0.1"),
        (version2(0x21, 0x11, &V4), "192.0.2.7"),
        (version2(0x21, 0x21, &v6), "2001:db8::7"),
        (version2(0x21, 0x11, &[&V4[..], &[4, 0x10, 0], &[0; 0x1000]].concat()), "192.0.2.7"),
        (version2(0x20, 0x00, &[]), "127.0.0.1"),
        (version2(0x21, 0x00, &[]), "127.0.0.1"),
    ]
}

const ASK: &str = "GET / HTTP/1.1\r\nHost: site.example\r\nConnection: close\r\n\r\n";

/// All that still comes; nothing more once the other side has reset the connection.
async fn rest(stream: &mut (impl AsyncRead + Unpin)) -> String {
    let mut text = Vec::new();
    let read = async { while stream.read_buf(&mut text).await.is_ok_and(|length| length > 0) {} };
    timeout(PATIENCE, read).await.expect("the connection ends");
    String::from_utf8_lossy(&text).into_owned()
}

/// What comes back for `bytes`, sent at once.
async fn exchange(at: SocketAddr, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(at).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    rest(&mut stream).await
}

fn forwarded_for(answer: &str) -> &str {
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    answer.rsplit_once("\r\n\r\n").unwrap().1.split('|').next().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_client_is_the_one_whom_the_header_names() {
    let origin = origin().await;
    let secure = start(&origin, &["127.0.0.0/8"], |_| {}).await;
    for (header, client) in headers() {
        let answer = exchange(secure.plain, &[&header, ASK.as_bytes()].concat()).await;
        assert_eq!(forwarded_for(&answer), client, "{header:?}");
        let forwarded = if client.contains(':') { format!("for=\"[{client}]\";") } else { format!("for={client};") };
        assert!(answer.contains(&forwarded), "{answer}");
    }
    // However it is cut.
    let (header, client) = headers().swap_remove(3);
    let mut stream = TcpStream::connect(secure.plain).await.unwrap();
    stream.set_nodelay(true).unwrap();
    for byte in [&header, ASK.as_bytes()].concat() {
        stream.write_all(&[byte]).await.unwrap();
        tokio::task::yield_now().await;
    }
    assert_eq!(forwarded_for(&rest(&mut stream).await), client);
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_begins_behind_the_header() {
    let origin = origin().await;
    let secure = start(&origin, &["127.0.0.1"], |_| {}).await;
    let name = ServerName::try_from("site.example").unwrap();
    for (header, client) in headers() {
        let connect = async |alpn: &[&str]| {
            let mut tcp = TcpStream::connect(secure.tls).await.unwrap();
            tcp.write_all(&header).await.unwrap();
            let connector = TlsConnector::from(Arc::new(secure.authority.client(alpn)));
            timeout(PATIENCE, connector.connect(name.clone(), tcp)).await.unwrap().unwrap()
        };
        let mut stream = connect(&["http/1.1"]).await;
        stream.write_all(ASK.as_bytes()).await.unwrap();
        assert_eq!(forwarded_for(&rest(&mut stream).await), client);

        let (requests, driver) = h2::client::handshake(connect(&["h2"]).await).await.unwrap();
        let driver = tokio::spawn(driver);
        let request = http::Request::get("https://site.example/").body(()).unwrap();
        let (response, _) = requests.ready().await.unwrap().send_request(request, true).unwrap();
        let mut body = response.await.unwrap().into_body();
        let said = body.data().await.unwrap().unwrap();
        assert!(said.starts_with(format!("{client}|").as_bytes()) && said.ends_with(b"proto=https"), "{said:?}");
        driver.abort();
    }
    // TLS without it is no header.
    let tcp = TcpStream::connect(secure.tls).await.unwrap();
    let connector = TlsConnector::from(Arc::new(secure.authority.client(&[])));
    assert!(timeout(PATIENCE, connector.connect(name, tcp)).await.unwrap().is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn hits_go_their_short_way_to_whom_the_header_names() {
    let origin = origin().await;
    let secure = start(&origin, &["127.0.0.1/32"], |_| {}).await;
    let header = "PROXY TCP4 192.0.2.7 198.51.100.1 56324 80\r\n";
    let ask = "GET /kept HTTP/1.1\r\nHost: site.example\r\n";
    let hot = async || {
        let metrics = String::from_utf8(fetch(secure.admin, "/metrics").await.into_body()).unwrap();
        let line = metrics.lines().find_map(|line| line.strip_prefix("metacdn_edge_hot_total ").map(str::to_owned));
        line.unwrap().parse::<u64>().unwrap()
    };
    wait_until("it is kept", async || {
        let answer = exchange(secure.plain, format!("{header}{ask}Connection: close\r\n\r\n").as_bytes()).await;
        answer.contains("metacdn; hit")
    })
    .await;
    let before = hot().await;
    // With the header in one piece, and several requests behind it.
    let all = format!("{header}{ask}\r\n{ask}\r\n{ask}Connection: close\r\n\r\n");
    let answers = exchange(secure.plain, all.as_bytes()).await;
    assert_eq!((answers.matches("metacdn; hit").count(), answers.matches("\r\n\r\nkept").count()), (3, 3), "{answers}");
    assert_eq!(hot().await, before + 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_client_of_the_header_is_the_one_who_is_trusted() {
    let origin = origin().await;
    let secure = start(&origin, &["127.0.0.0/8"], |config| config.trusted = vec!["192.0.2.7".parse().unwrap()]).await;
    let ask = |client: &str| {
        let head = "GET / HTTP/1.1\r\nHost: site.example\r\nX-Forwarded-For: 10.0.0.1\r\nConnection: close\r\n\r\n";
        format!("PROXY TCP4 {client} 198.51.100.1 56324 80\r\n{head}")
    };
    let answer = exchange(secure.plain, ask("192.0.2.7").as_bytes()).await;
    assert_eq!(forwarded_for(&answer), "10.0.0.1, 192.0.2.7");
    let answer = exchange(secure.plain, ask("192.0.2.8").as_bytes()).await;
    assert_eq!(forwarded_for(&answer), "192.0.2.8");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_without_a_right_header_is_left() {
    let origin = origin().await;
    let secure = start(&origin, &["127.0.0.0/8"], |config| config.serve.header_timeout_ms = 300).await;
    let mut wrong_sum = V4.to_vec();
    wrong_sum.extend([3, 0, 4, 1, 2, 3, 4]);
    let bad = [
        Vec::new(),
        b"PROXY TCP4 192.0.2.7 198.51.100.1 56324\r\n".to_vec(),
        b"PROXY TCP4 192.0.2.7 198.51.100.1 56324 80\n".to_vec(),
        [b"PROXY UNKNOWN ".to_vec(), vec![b'x'; 200]].concat(),
        version2(0x31, 0x11, &V4),
        version2(0x21, 0x11, &V4[..8]),
        version2(0x21, 0x11, &wrong_sum),
    ];
    for header in &bad {
        for at in [secure.plain, secure.tls] {
            assert_eq!(exchange(at, &[header, ASK.as_bytes()].concat()).await, "", "{header:?}");
        }
    }
    // What is not whole in time is not waited for: neither are those who drip, nor those who say that much will come.
    for begun in [&b""[..], b"PROXY ", b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff"] {
        assert_eq!(exchange(secure.plain, begun).await, "", "{begun:?}");
        let mut stream = TcpStream::connect(secure.plain).await.unwrap();
        stream.write_all(begun).await.unwrap();
        let dripping = async {
            while stream.write_all(b"P").await.is_ok() {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        timeout(PATIENCE, dripping).await.expect("it is left");
    }
    assert!(origin.asked().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn from_anybody_else_a_header_is_no_request() {
    for from in [&[][..], &["10.0.0.0/8", "::/0"]] {
        let origin = origin().await;
        let secure = start(&origin, from, |_| {}).await;
        for (header, _) in headers() {
            let answer = exchange(secure.plain, &[&header, ASK.as_bytes()].concat()).await;
            assert!(answer.starts_with("HTTP/1.1 400 "), "{header:?}: {answer}");
            let mut tcp = TcpStream::connect(secure.tls).await.unwrap();
            tcp.write_all(&header).await.unwrap();
            let connector = TlsConnector::from(Arc::new(secure.authority.client(&[])));
            let name = ServerName::try_from("site.example").unwrap();
            assert!(timeout(PATIENCE, connector.connect(name, tcp)).await.unwrap().is_err(), "{header:?}");
        }
        assert!(origin.asked().is_empty());
        assert_eq!(forwarded_for(&exchange(secure.plain, ASK.as_bytes()).await), "127.0.0.1");
    }
}
