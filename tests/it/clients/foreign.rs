//! Never an open relay: whatever a client asks for, the edge connects to nobody but its nodes.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use super::Site;
use crate::answers::Answer;
use crate::cluster::PATIENCE;
use crate::edge::fetch;

/// A server that the edge has no business with; it counts who comes.
struct Stranger {
    address: SocketAddr,
    visits: Arc<AtomicUsize>,
}

impl Stranger {
    async fn start() -> Self {
        // On all addresses, so that whatever a name or number stands for is heard.
        let listener = TcpListener::bind("0.0.0.0:0").await.unwrap();
        let (address, visits) = (listener.local_addr().unwrap(), Arc::new(AtomicUsize::new(0)));
        let counted = visits.clone();
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                counted.fetch_add(1, Ordering::SeqCst);
                let _ = stream.read(&mut [0; 1024]).await;
                let _ =
                    stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 7\r\nconnection: close\r\n\r\nforeign").await;
            }
        });
        Self { address, visits }
    }

    fn visits(&self) -> usize {
        self.visits.load(Ordering::SeqCst)
    }
}

/// All that comes back for these bytes. The client sends nothing more, but it stays: a tunnel would stay open, too.
async fn say(edge: SocketAddr, bytes: &str) -> Vec<u8> {
    let mut stream = TcpStream::connect(edge).await.unwrap();
    stream.write_all(bytes.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let ended = timeout(PATIENCE, stream.read_to_end(&mut answer)).await;
    ended.unwrap_or_else(|_| panic!("the connection stays open: {bytes}")).unwrap();
    answer
}

#[tokio::test(flavor = "multi_thread")]
async fn no_request_makes_the_edge_connect_to_a_stranger() {
    let site = Site::start().await;
    site.write("www/a.txt", "text");
    site.write("www/index.html", "home");
    site.publish().await;
    let stranger = Stranger::start().await;
    // A visit would be noticed.
    assert_eq!(fetch(SocketAddr::from(([127, 0, 0, 1], stranger.address.port())), "/").await.body(), b"foreign");
    assert_eq!(stranger.visits(), 1);

    let own = "Host: site.metacdn.internal";
    for (request, status) in [
        // Others by name and by number, whatever `Host` says.
        ("GET http://elsewhere.example:PORT/a.txt HTTP/1.1\r\nHost: elsewhere.example:PORT", 403),
        ("GET http://elsewhere.example:PORT/a.txt HTTP/1.1\r\nHost: site.metacdn.internal", 403),
        ("HEAD http://elsewhere.example:PORT/a.txt HTTP/1.1\r\nHost: site.metacdn.internal", 403),
        ("GET http://192.0.2.1:PORT/a.txt HTTP/1.1\r\nHost: 192.0.2.1:PORT", 403),
        ("GET http://169.254.169.254/latest/meta-data/ HTTP/1.1\r\nHost: 169.254.169.254", 403),
        ("GET http://10.0.0.1:PORT/a.txt HTTP/1.1\r\nHost: localhost", 403),
        ("GET http://[2001:db8::1]:PORT/a.txt HTTP/1.1\r\nHost: localhost", 403),
        ("GET http://[::ffff:192.0.2.1]:PORT/a.txt HTTP/1.1\r\nHost: localhost", 403),
        // Numbers in other clothes, which some resolvers take for 127.0.0.1.
        ("GET http://2130706433:PORT/a.txt HTTP/1.1\r\nHost: localhost", 403),
        ("GET http://0x7f000001:PORT/a.txt HTTP/1.1\r\nHost: localhost", 403),
        ("GET http://127.1:PORT/a.txt HTTP/1.1\r\nHost: localhost", 403),
        ("GET http://0.0.0.0:PORT/a.txt HTTP/1.1\r\nHost: localhost", 403),
        // Names that look like the cluster's own.
        ("GET http://site.metacdn.internal.elsewhere.example:PORT/a.txt HTTP/1.1\r\nHost: localhost", 403),
        ("GET http://elsewheremetacdn.internal:PORT/a.txt HTTP/1.1\r\nHost: localhost", 403),
        ("GET http://site.metacdn.internal@elsewhere.example:PORT/a.txt HTTP/1.1\r\nHost: localhost", 400),
        ("GET http://elsewhere.example:PORT@site.metacdn.internal/a.txt HTTP/1.1\r\nHost: localhost", 400),
        ("GET http://site.metacdn.internal%00.elsewhere.example/a.txt HTTP/1.1\r\nHost: localhost", 400),
        // The stranger's port on a host of the edge's own means the edge, whose store answers.
        ("GET http://127.0.0.1:PORT/a.txt HTTP/1.1\r\nHost: 127.0.0.1:PORT", 200),
        ("GET http://[::1]:PORT/a.txt HTTP/1.1\r\nHost: localhost", 200),
        ("GET http://localhost:PORT/a.txt HTTP/1.1\r\nHost: localhost:PORT", 200),
        ("GET http://site.metacdn.internal:PORT/a.txt HTTP/1.1\r\nHost: elsewhere.example:PORT", 200),
        // A target that holds another is a path.
        ("GET /http://127.0.0.1:PORT/ HTTP/1.1\r\nHost: site.metacdn.internal", 400),
        ("GET //127.0.0.1:PORT/ HTTP/1.1\r\nHost: site.metacdn.internal", 400),
        ("GET http://site.metacdn.internal?http://127.0.0.1:PORT/ HTTP/1.1\r\nHost: localhost", 200),
        // Other schemes.
        ("GET https://127.0.0.1:PORT/a.txt HTTP/1.1\r\nHost: localhost", 421),
        ("GET https://elsewhere.example:PORT/a.txt HTTP/1.1\r\nHost: localhost", 403),
        ("GET ftp://127.0.0.1:PORT/a.txt HTTP/1.1\r\nHost: localhost", 421),
        ("GET ws://127.0.0.1:PORT/a.txt HTTP/1.1\r\nHost: localhost", 421),
        ("GET file:///etc/passwd HTTP/1.1\r\nHost: localhost", 400),
        // Tunnels, and methods that proxies pass on.
        ("CONNECT 127.0.0.1:PORT HTTP/1.1\r\nHost: 127.0.0.1:PORT", 405),
        ("CONNECT elsewhere.example:443 HTTP/1.1\r\nHost: elsewhere.example:443", 405),
        ("CONNECT site.metacdn.internal:PORT HTTP/1.1\r\nHost: site.metacdn.internal", 405),
        ("CONNECT localhost:PORT HTTP/1.0\r\nHost: localhost", 405),
        ("POST http://127.0.0.1:PORT/ HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 0", 405),
        ("PUT http://elsewhere.example:PORT/ HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0", 403),
        ("OPTIONS http://127.0.0.1:PORT/ HTTP/1.1\r\nHost: 127.0.0.1\r\nMax-Forwards: 1", 405),
        ("TRACE http://127.0.0.1:PORT/ HTTP/1.1\r\nHost: 127.0.0.1", 405),
        // What other proxies are steered by.
        ("GET /a.txt HTTP/1.1\r\nHost: localhost\r\nX-Forwarded-Host: 127.0.0.1:PORT", 200),
        ("GET /a.txt HTTP/1.1\r\nHost: localhost\r\nForwarded: host=\"127.0.0.1:PORT\";proto=https", 200),
        ("GET /a.txt HTTP/1.1\r\nHost: localhost\r\nX-Original-URL: http://127.0.0.1:PORT/", 200),
        ("GET /a.txt HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket", 200),
    ] {
        let port = stranger.address.port().to_string();
        let sent = format!("{}\r\nConnection: close\r\n\r\n", request.replace("PORT", &port));
        let answer = say(site.tap.address, &sent).await;
        let answer = Answer::parse(&answer);
        assert_eq!(answer.status, status, "{sent}: {answer:?}");
        assert!(!answer.text().contains("foreign"), "{sent}: {answer:?}");
    }
    // What comes behind a refused CONNECT is neither passed on nor answered, not even by the edge itself.
    for port in [stranger.address.port(), site.tap.address.port()] {
        let tunnel = format!("CONNECT 127.0.0.1:{port} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n");
        let answers = say(site.tap.address, &format!("{tunnel}GET /a.txt HTTP/1.1\r\n{own}\r\n\r\n")).await;
        let answers = String::from_utf8(answers).unwrap();
        assert!(answers.starts_with("HTTP/1.1 405 ") && answers.matches("HTTP/1.1 ").count() == 1, "{answers}");
    }
    assert_eq!(stranger.visits(), 1, "the edge has been to a stranger");
    site.exchanges();
}
