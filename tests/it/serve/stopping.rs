//! Stops and failures: what runs may end, what hangs may not stay.

use std::future::pending;
use std::sync::Arc;

use axum::Router;
use axum::http::StatusCode;
use axum::routing::get;
use metacdn::serve::{Config, Transport};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::timeout;

use super::packets::{begun, collector, ended};
use super::{GET, PATIENCE, Server, answer_head, callers, exchange};

#[tokio::test]
async fn stopping_lets_running_answers_end_and_waits_for_nobody_else() {
    let (asked, end) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (tell, wait) = (asked.clone(), end.clone());
    let router = callers().route(
        "/slow",
        get(|| async move {
            tell.notify_one();
            wait.notified().await;
            "whole"
        }),
    );
    let (handler, mut packets) = collector();
    let server = Server::start(Transport::Plain, Config::default(), router, Some(handler)).await;

    let silent = server.connect().await;
    let mut idle = server.connect().await;
    idle.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    assert!(answer_head(&mut idle).await.starts_with("HTTP/1.1 200"));
    let mut packet = server.connect().await;
    packet.write_all(b"{half").await.unwrap();
    begun(&mut packets).await;
    let mut running = server.connect().await;
    running.write_all(b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    timeout(PATIENCE, asked.notified()).await.unwrap();

    let port = server.port;
    let stopped = tokio::spawn(server.stopped());
    for waiting in [silent, idle] {
        exchange(waiting, b"").await.expect("closed at once");
    }
    let refused = TcpStream::connect(("127.0.0.1", port)).await;
    assert_eq!(refused.unwrap_err().kind(), std::io::ErrorKind::ConnectionRefused);
    assert!(!stopped.is_finished());
    end.notify_one();
    let answer = exchange(running, b"").await.unwrap();
    assert!(answer.ends_with("whole") && answer.to_lowercase().contains("connection: close"), "{answer}");
    packet.write_all(b" and half}").await.unwrap();
    packet.shutdown().await.unwrap();
    assert_eq!(ended(&mut packets).await.0, b"{half and half}");
    stopped.await.unwrap();
}

#[tokio::test]
async fn answers_that_never_end_are_dropped_after_the_drain_timeout() {
    let begun = Arc::new(Notify::new());
    let tell = begun.clone();
    let router = Router::new().fallback(move || {
        tell.notify_one();
        pending::<StatusCode>()
    });
    let server = Server::plain(Config { drain_timeout_ms: 100, ..Config::default() }, router).await;
    let mut stream = server.connect().await;
    stream.write_all(GET).await.unwrap();
    timeout(PATIENCE, begun.notified()).await.unwrap();
    server.stopped().await;
    assert_eq!(exchange(stream, b"").await.unwrap_or_default(), "");
}

#[tokio::test]
async fn a_failing_handler_ends_its_connection_alone() {
    let router = callers().route("/panic", get(|| async { panic!("on purpose") as String }));
    let server = Server::plain(Config::default(), router).await;
    let failed = exchange(server.connect().await, b"GET /panic HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert_eq!(failed.unwrap_or_default(), "");
    assert!(exchange(server.connect().await, GET).await.unwrap().starts_with("HTTP/1.1 200"));
    server.stopped().await;
}
