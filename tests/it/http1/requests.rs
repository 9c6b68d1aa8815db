//! What is a request and what is none, and that what is refused reaches no handler.

use metacdn::serve::Config;

use super::{Server, has, statuses};

/// What would be answered if it were taken for a request.
const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";

#[tokio::test]
async fn requests_are_taken_or_refused_as_their_rfc_says() {
    let (server, record) = Server::recording(Config::default()).await;
    let long = format!("GET /{} HTTP/1.1\r\nHost: a", "a".repeat(8192));
    let large = format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}", "x".repeat(16 << 10));
    let many = format!("GET / HTTP/1.1\r\nHost: a{}", "\r\nX: 1".repeat(100));
    for (section, head, status) in [
        ("9112 2.1", "GET / HTTP/1.1\r\nHost: a", 200),
        ("9112 2.2", "\r\nGET / HTTP/1.1\r\nHost: a", 200),
        ("9112 2.2", "GET / HTTP/1.1\nHost: a", 400),
        ("9112 2.2", "GET / HTTP/1.1\r\nHost: a\nX: y", 400),
        ("9112 2.2", "GET / HTTP/1.1\r\n Host: a", 400),
        ("9112 2.3", "GET / HTTP/1.0", 200),
        ("9112 2.3", "GET / HTTP/1.2\r\nHost: a", 200),
        ("9110 15.6.6", "GET / HTTP/2.0\r\nHost: a", 505),
        ("9110 15.6.6", "GET / HTTP/3.1\r\nHost: a", 505),
        ("9112 3", "GET /", 400),
        ("9112 3", "GET  / HTTP/1.1\r\nHost: a", 400),
        ("9112 3", &format!("{} / HTTP/1.1\r\nHost: a", "M".repeat(40)), 501),
        ("9112 3", &long, 414),
        ("6585 5", &large, 431),
        ("6585 5", &many, 431),
        ("9112 3.2", "GET / HTTP/1.1", 400),
        ("9112 3.2", "GET / HTTP/1.1\r\nHost: a\r\nHost: a", 400),
        ("9112 3.2", "GET / HTTP/1.1\r\nHost: a b", 400),
        ("9112 3.2.1", "GET a HTTP/1.1\r\nHost: a", 400),
        ("9112 3.2.2", "GET http://a/b HTTP/1.1\r\nHost: c", 200),
        ("9112 3.2.3", "CONNECT a HTTP/1.1\r\nHost: a", 400),
        ("9112 3.2.4", "OPTIONS * HTTP/1.1\r\nHost: a", 200),
        ("9112 3.2.4", "GET * HTTP/1.1\r\nHost: a", 400),
        ("9112 5", "GET / HTTP/1.1\r\nHost: a\r\nX : y", 400),
        ("9112 5.2", "GET / HTTP/1.1\r\nHost: a\r\nX: y\r\n z", 400),
        ("9110 5.5", "GET / HTTP/1.1\r\nHost: a\r\nX: y\0z", 400),
        ("9110 5.5", "GET / HTTP/1.1\r\nHost: a\r\nX: y\rz", 400),
        ("9110 10.1.1", "GET / HTTP/1.1\r\nHost: a\r\nExpect: miracles", 417),
    ] {
        let answer = server.exchange(format!("{head}\r\nConnection: close\r\n\r\n")).await;
        assert_eq!(statuses(&answer), [status], "RFC {section}: {head:?}: {answer}");
        assert!(has(&answer, "connection: close") && answer.contains("\r\ndate: "), "{answer}");
        assert_eq!(record.take().len(), usize::from(status == 200), "RFC {section}: {head:?}");
        if status != 200 {
            assert!(has(&answer, "content-type: application/problem+json"), "{answer}");
            assert!(answer.contains(&format!("{{\"status\":{status},")), "{answer}");
        }
    }
    assert_eq!(statuses(&server.exchange("\x16\x03\x01\x02\x00\x01").await), [400], "a TLS handshake");
    server.stopped().await;
}

/// RFC 9112 sections 6.1, 6.3 and 11.2: after a request whose end is not clear nothing is answered.
#[tokio::test]
async fn nothing_is_smuggled_behind_an_unclear_length() {
    let (server, record) = Server::recording(Config::default()).await;
    for (head, status) in [
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nTransfer-Encoding: chunked", 400),
        ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 4", 400),
        ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: x\r\nContent-Length: 4", 400),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nContent-Length: 5", 400),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4, 5", 400),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +4", 400),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4 4", 400),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length:\x0b4", 400),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length : 4", 400),
        ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip", 400),
        ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, gzip", 400),
        ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, chunked", 400),
        ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked", 501),
        ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked", 400),
        ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\x0bchunked", 400),
        ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding\r\n: chunked", 400),
        ("POST / HTTP/1.1\r\nHost: a\r\n X: y\r\nTransfer-Encoding: chunked", 400),
        ("POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked", 400),
        ("POST / HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked", 400),
    ] {
        let answer = server.exchange(format!("{head}\r\n\r\n0\r\n\r\n{SMUGGLED}")).await;
        assert_eq!(statuses(&answer), [status], "{head:?}: {answer}");
        assert_eq!(record.take(), [""; 0], "{head:?}");
    }
    server.stopped().await;
}

/// RFC 9112 section 7.1: what is behind broken chunks is no request.
#[tokio::test]
async fn nothing_is_smuggled_behind_broken_chunks() {
    let (server, record) = Server::recording(Config::default()).await;
    for chunks in [
        "5\nhello\r\n0\r\n\r\n",
        "5\r\nhello\n0\r\n\r\n",
        "5\r\nhelloo\r\n0\r\n\r\n",
        "5;a\nb\r\nhello\r\n0\r\n\r\n",
        "5;a\rb\r\nhello\r\n0\r\n\r\n",
        "0x5\r\nhello\r\n0\r\n\r\n",
        "10000000000000005\r\nhello\r\n0\r\n\r\n",
        "5 \r\nhello\r\n0\r\n\r\n",
        "\r\n5\r\nhello\r\n0\r\n\r\n",
        "0\r\nX : y\r\n\r\n",
        "0\r\n\n",
    ] {
        let head = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
        let answer = server.exchange(format!("{head}{chunks}{SMUGGLED}")).await;
        assert_eq!(statuses(&answer), [200], "the handler is told, and answers: {answer}");
        let asked = record.take();
        assert_eq!(asked.len(), 1, "{chunks:?}: {asked:?}");
        assert!(asked[0].starts_with("POST / ! "), "{chunks:?}: {asked:?}");
    }
    server.stopped().await;
}

#[tokio::test]
async fn bodies_end_where_they_say_and_the_next_request_begins() {
    let (server, record) = Server::recording(Config::default()).await;
    for (head, body, seen) in [
        ("Content-Length: 5", "hello", "hello"),
        ("Content-Length: 5, 5", "hello", "hello"),
        ("Content-Length: 0", "", ""),
        ("Transfer-Encoding: chunked", "5\r\nhello\r\n0\r\n\r\n", "hello"),
        ("Transfer-Encoding: Chunked", "2;x=\"0\"\r\nhe\r\n3\r\nllo\r\n00\r\nX: y\r\n\r\n", "hello"),
        ("X: y", "", ""),
    ] {
        for split in [false, true] {
            let request = format!("PUT /1 HTTP/1.1\r\nHost: a\r\n{head}\r\n\r\n{body}");
            let last = "GET /2 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
            let answer = if split {
                let mut stream = server.connect().await;
                for byte in format!("{request}{last}").bytes() {
                    tokio::io::AsyncWriteExt::write_all(&mut stream, &[byte]).await.unwrap();
                }
                super::to_end(&mut stream).await
            } else {
                server.exchange(format!("{request}\r\n{last}")).await
            };
            assert_eq!(statuses(&answer), [200, 200], "{head}: {answer}");
            assert_eq!(record.take(), [format!("PUT /1 {seen}"), "GET /2 ".to_owned()], "{head}");
        }
    }
    server.stopped().await;
}

/// RFC 9112 section 9.3.
#[tokio::test]
async fn connections_are_kept_as_both_sides_say() {
    let (server, _) = Server::recording(Config::default()).await;
    for (head, kept, said) in [
        ("GET / HTTP/1.1\r\nHost: a", true, None),
        ("GET / HTTP/1.1\r\nHost: a\r\nConnection: close", false, Some("connection: close")),
        ("GET / HTTP/1.0", false, Some("connection: close")),
        ("GET / HTTP/1.0\r\nConnection: keep-alive", true, Some("connection: keep-alive")),
    ] {
        let second = "GET /2 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
        let answer = server.exchange(format!("{head}\r\n\r\n{second}")).await;
        assert_eq!(statuses(&answer).len(), if kept { 2 } else { 1 }, "{head:?}: {answer}");
        let first = answer.split("\r\n\r\n").next().unwrap();
        assert_eq!(first.lines().find(|line| line.starts_with("connection")), said, "{head:?}");
    }
    server.stopped().await;
}
