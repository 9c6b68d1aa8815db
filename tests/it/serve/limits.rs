//! Time and size: one caller's greed, slowness or trickery costs the others nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::Request;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use axum::routing::any;
use metacdn::protocol::identity::TlsVersions;
use metacdn::serve::Config;
use metacdn::serve::body::BodyError;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::{Cluster, GET, PATIENCE, Server, answer_head, callers, exchange};

#[tokio::test]
async fn silent_and_slow_callers_are_cut_off() {
    let cluster = Cluster::new();
    let config = Config { handshake_timeout_ms: 100, header_timeout_ms: 100, ..Config::default() };
    let tls = Server::start(cluster.transport(TlsVersions::Only13), config.clone(), callers(), None).await;
    exchange(tls.connect().await, b"").await.expect("no handshake");
    let plain = Server::plain(config, callers()).await;
    assert_eq!(exchange(plain.connect().await, b"").await.unwrap(), "", "no byte");
    assert_eq!(exchange(plain.connect().await, b"GET / HTTP/1.1\r\nHost: a").await.unwrap(), "", "half a head");

    // Every byte comes in time, the head does not.
    let (mut read, mut write) = plain.connect().await.into_split();
    let mut pace = tokio::time::interval(Duration::from_millis(5));
    let dripping = async {
        while write.write_all(b"x").await.is_ok() {
            pace.tick().await;
        }
    };
    let mut answer = Vec::new();
    tokio::select! {
        _ = read.read_to_end(&mut answer) => assert_eq!(answer, b""),
        () = dripping => {}
        () = tokio::time::sleep(PATIENCE) => panic!("a dripping caller is cut off"),
    }
    tls.stopped().await;
    plain.stopped().await;
}

#[tokio::test]
async fn idle_connections_are_closed() {
    let server = Server::plain(Config { idle_timeout_ms: 100, ..Config::default() }, callers()).await;
    let answer = exchange(server.connect().await, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "answered, then closed: {answer}");
    server.stopped().await;
}

#[tokio::test]
async fn a_stalled_body_is_an_error_that_the_handler_can_tell() {
    let router = Router::new().fallback(any(|request: Request| async move {
        let error = to_bytes(request.into_body(), 1024).await.unwrap_err();
        let mut cause: &dyn std::error::Error = &error;
        while let Some(source) = cause.source() {
            if matches!(source.downcast_ref(), Some(BodyError::Stalled(_))) {
                return StatusCode::REQUEST_TIMEOUT.into_response();
            }
            cause = source;
        }
        error.to_string().into_response()
    }));
    let server = Server::plain(Config { stall_timeout_ms: 100, ..Config::default() }, router).await;
    let answer = exchange(server.connect().await, b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nhalf").await;
    assert!(answer.unwrap().starts_with("HTTP/1.1 408"));
    server.stopped().await;
}

#[tokio::test]
async fn a_receiver_that_does_not_read_is_dropped() {
    struct Told(mpsc::Sender<()>);
    impl Drop for Told {
        fn drop(&mut self) {
            let _ = self.0.try_send(());
        }
    }
    let (told, mut dropped) = mpsc::channel(1);
    let router = Router::new().fallback(move || {
        let told = Told(told.clone());
        async move {
            Body::from_stream(futures_util::stream::repeat_with(move || {
                let _ = &told;
                Ok::<_, std::io::Error>(vec![0; 1 << 16])
            }))
        }
    });
    let server = Server::plain(Config { stall_timeout_ms: 100, ..Config::default() }, router).await;
    let mut stream = server.connect().await;
    stream.write_all(GET).await.unwrap();
    timeout(PATIENCE, dropped.recv()).await.expect("the endless answer is dropped");
    server.stopped().await;
}

#[tokio::test]
async fn oversized_heads_get_431_and_the_answer_arrives() {
    let server = Server::plain(Config::default(), callers()).await;
    // More than the buffers between the two hold, so the server must go on reading for the caller to hear the answer.
    let large = format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "x".repeat(32 << 20));
    let fields: String = (0..200).map(|number| format!("X-{number}: 1\r\n")).collect();
    let many = format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
    for head in [large, many] {
        let answer = exchange(server.connect().await, head.as_bytes()).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 431"), "{answer}");
    }
    let fits = format!("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nX: {}\r\n\r\n", "x".repeat(15_000));
    assert!(exchange(server.connect().await, fits.as_bytes()).await.unwrap().starts_with("HTTP/1.1 200"));
    server.stopped().await;
}

#[tokio::test]
async fn requests_with_an_unclear_length_get_400_and_reach_no_handler() {
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = calls.clone();
    let router = Router::new().fallback(move |body: String| {
        counted.fetch_add(1, Ordering::SeqCst);
        async move { body }
    });
    let server = Server::plain(Config::default(), router).await;
    let smuggled = "0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";
    for fields in [
        "HTTP/1.1\r\nContent-Length: 4\r\nTransfer-Encoding: chunked",
        "HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 4",
        "HTTP/1.1\r\nTransfer-Encoding: gzip\r\nContent-Length: 4",
        "HTTP/1.1\r\nContent-Length: 4\r\nContent-Length: 5",
        "HTTP/1.1\r\nContent-Length: 4, 5",
        "HTTP/1.1\r\nContent-Length: +4",
        "HTTP/1.0\r\nTransfer-Encoding: chunked",
    ] {
        let request = format!("POST / {fields}\r\nHost: a\r\n\r\n{smuggled}");
        let answer = exchange(server.connect().await, request.as_bytes()).await.unwrap();
        let version = &fields[..8];
        assert!(
            answer.starts_with(&format!("{version} 400")) || answer.starts_with("HTTP/1.1 400"),
            "{fields}: {answer}"
        );
        assert_eq!(answer.matches("HTTP/1.").count(), 1, "one answer, then the end: {answer}");
    }
    assert_eq!(calls.load(Ordering::SeqCst), 0);

    let good = "PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n0\r\n\r\n";
    let bad = "PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
    let answer = exchange(server.connect().await, format!("{good}{bad}{good}").as_bytes()).await.unwrap();
    let statuses: Vec<_> = answer.split("HTTP/1.1 ").skip(1).map(|answer| &answer[..3]).collect();
    assert_eq!(statuses, ["200", "400"], "{answer}");
    assert_eq!(calls.load(Ordering::SeqCst), 1);
    server.stopped().await;
}

#[tokio::test]
async fn more_connections_than_allowed_wait_their_turn() {
    let server = Server::plain(Config { connections_max: 2, ..Config::default() }, callers()).await;
    let mut held = Vec::new();
    for _ in 0..2 {
        let mut stream = server.connect().await;
        stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        answer_head(&mut stream).await;
        held.push(stream);
    }
    let mut third = server.connect().await;
    third.write_all(GET).await.unwrap();
    let mut byte = [0];
    let early = timeout(Duration::from_millis(200), third.read(&mut byte)).await;
    assert!(early.is_err(), "the third is not answered while two are open");
    held.pop();
    assert!(answer_head(&mut third).await.starts_with("HTTP/1.1 200"));
    server.stopped().await;
}
