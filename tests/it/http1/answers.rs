//! How answers are framed, and what becomes of those that break off.

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use hyper::body::Frame;
use metacdn::serve::{Config, RequestBody};

use super::{Answer, Server, full, has, statuses, streamed};

/// The body of an answer, without its head.
fn body(answer: &str) -> &str {
    answer.split_once("\r\n\r\n").unwrap().1
}

/// Answers by the path: a status, a letter for what is stated of the length, and a letter for the body.
async fn by_path(request: Request<RequestBody>) -> Answer {
    let parts: Vec<_> = request.uri().path()[1..].split('/').collect();
    let mut answer = Response::new(match parts[2] {
        "full" => full("hello"),
        "empty" => full(""),
        "stream" => {
            let (send, body) = streamed();
            for part in ["he", "", "llo"] {
                send.send(Ok(Frame::data(Bytes::from_static(part.as_bytes())))).await.unwrap();
            }
            body
        }
        "broken" => {
            let (send, body) = streamed();
            send.send(Ok(Frame::data(Bytes::from_static(b"he")))).await.unwrap();
            send.send(Err("broken".into())).await.unwrap();
            body
        }
        _ => panic!("on purpose"),
    });
    *answer.status_mut() = parts[0].parse().unwrap();
    if parts[1] != "-" {
        answer.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from_str(parts[1]).unwrap());
    }
    answer
}

/// RFC 9110 sections 8.6 and 15, RFC 9112 sections 6 and 7.
#[tokio::test]
async fn answers_are_framed_by_what_is_known_of_them() {
    let server = Server::start(Config::default(), by_path).await;
    for (method, path, version, length, chunked, wanted) in [
        ("GET", "/200/-/full", "1.1", Some("5"), false, "hello"),
        ("GET", "/200/5/full", "1.1", Some("5"), false, "hello"),
        ("GET", "/200/-/empty", "1.1", Some("0"), false, ""),
        ("GET", "/200/-/stream", "1.1", None, true, "2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n"),
        ("GET", "/200/5/stream", "1.1", Some("5"), false, "hello"),
        ("GET", "/200/-/stream", "1.0", None, false, "hello"),
        ("GET", "/200/-/full", "1.0", Some("5"), false, "hello"),
        ("HEAD", "/200/-/full", "1.1", Some("5"), false, ""),
        ("HEAD", "/200/7/empty", "1.1", Some("7"), false, ""),
        ("HEAD", "/200/-/empty", "1.1", None, false, ""),
        ("HEAD", "/200/-/stream", "1.1", None, false, ""),
        ("HEAD", "/404/-/full", "1.1", Some("5"), false, ""),
        ("GET", "/204/5/full", "1.1", None, false, ""),
        ("GET", "/204/-/stream", "1.1", None, false, ""),
        ("GET", "/205/-/full", "1.1", Some("0"), false, ""),
        ("GET", "/304/-/full", "1.1", None, false, ""),
        ("GET", "/304/9/empty", "1.1", Some("9"), false, ""),
        ("GET", "/404/-/stream", "1.1", None, true, "2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n"),
    ] {
        let last = "GET /299/-/empty HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
        let answer = server.exchange(format!("{method} {path} HTTP/{version}\r\nHost: a\r\n\r\n{last}")).await;
        let (head, rest) = answer.split_once("\r\n\r\n").unwrap();
        let case = format!("{method} {path} HTTP/{version}: {answer}");
        let stated = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        assert_eq!(stated, length, "{case}");
        assert_eq!(has(head, "transfer-encoding: chunked"), chunked, "{case}");
        assert!(head.contains("\r\ndate: "), "{case}");
        let rest = rest.find("HTTP/1.1 299").map_or(rest, |next| &rest[..next]);
        assert_eq!(rest, wanted, "{case}");
        assert_eq!(statuses(&answer).len(), if version == "1.1" { 2 } else { 1 }, "{case}");
    }
    server.stopped().await;
}

/// RFC 9112 section 8: the client can tell that something is missing.
#[tokio::test]
async fn an_answer_that_breaks_off_is_not_taken_for_whole() {
    let server = Server::start(Config::default(), by_path).await;
    for (path, wanted) in
        [("/200/-/broken", "2\r\nhe\r\n"), ("/200/5/broken", "he"), ("/200/9/full", "hello"), ("/200/3/full", "hel")]
    {
        let request = format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n").repeat(2);
        let answer = server.exchange(request).await;
        assert_eq!(statuses(&answer), [200], "nothing follows it: {answer}");
        assert_eq!(body(&answer), wanted, "{path}");
    }
    // To a client of HTTP/1.0 the end of the connection is the end of the body, so it has to hear of a failure.
    let mut stream = server.connect().await;
    tokio::io::AsyncWriteExt::write_all(&mut stream, b"GET /200/-/broken HTTP/1.0\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    let read = tokio::io::AsyncReadExt::read_to_end(&mut stream, &mut answer);
    let error = super::timeout(super::PATIENCE, read).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    server.stopped().await;
}

#[tokio::test]
async fn what_cannot_be_an_answer_is_a_500() {
    let server = Server::start(Config::default(), by_path).await;
    for path in ["/100/-/empty", "/103/-/empty", "/101/-/empty", "/200/x/full", "/200/-/panic"] {
        let answer = server.exchange(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n").repeat(2)).await;
        assert_eq!(statuses(&answer), [500], "{path}: {answer}");
        assert!(
            has(&answer, "connection: close") && has(&answer, "content-type: application/problem+json"),
            "{answer}"
        );
    }
    let head = server.exchange("HEAD /200/-/panic HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert!(head.starts_with("HTTP/1.1 500") && body(&head).is_empty(), "{head}");
    // Others are not concerned.
    let answer = server.exchange("GET /200/-/full HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;
    assert!(answer.ends_with("hello"));
    server.stopped().await;
}

/// RFC 9110 section 7.6.1: what a handler says of a connection concerns another one.
#[tokio::test]
async fn fields_of_the_connection_are_the_servers_own() {
    let server = Server::start(Config::default(), |request| async move {
        let mut answer = Response::new(full("hello"));
        let headers = answer.headers_mut();
        if request.method() == Method::GET {
            headers.insert(header::CONNECTION, HeaderValue::from_static("keep-alive, x-foo"));
            headers.insert("keep-alive", HeaderValue::from_static("timeout=5"));
            headers.insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
            headers.insert(header::DATE, HeaderValue::from_static("Sun, 06 Nov 1994 08:49:37 GMT"));
        } else {
            headers.insert(header::CONNECTION, HeaderValue::from_static("x, Close"));
            headers.insert(header::UPGRADE, HeaderValue::from_static("tls/1.3"));
            *answer.status_mut() = StatusCode::UPGRADE_REQUIRED;
        }
        answer
    });
    let server = server.await;
    let answer = server.exchange("GET / HTTP/1.1\r\nHost: a\r\n\r\nPUT / HTTP/1.1\r\nHost: a\r\n\r\n".repeat(2)).await;
    assert_eq!(statuses(&answer), [200, 426], "the handler ends the connection: {answer}");
    let (first, second) = answer.split_at(answer.find("HTTP/1.1 426").unwrap());
    for field in ["connection", "keep-alive", "transfer-encoding"] {
        assert!(!first.contains(&format!("\r\n{field}: ")), "{first}");
    }
    assert_eq!(first.matches("\r\ndate: ").count(), 1);
    assert!(has(first, "date: Sun, 06 Nov 1994 08:49:37 GMT") && has(first, "content-length: 5"), "{first}");
    assert!(has(second, "connection: close, upgrade") && has(second, "upgrade: tls/1.3"), "{second}");
    server.stopped().await;
}
