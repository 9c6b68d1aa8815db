//! How connections live and end: pipelines, half-closed and slow clients, other protocols, and stops.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use hyper::body::Frame;
use metacdn::serve::Config;
use metacdn::serve::http1::OnUpgrade;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{Notify, mpsc};
use tokio::time::timeout;

use super::{Answer, PATIENCE, Server, answer_head, full, has, part, statuses, streamed, to_end};

/// RFC 9112 section 9.3.2.
#[tokio::test]
async fn pipelined_requests_are_answered_in_their_order() {
    let (server, record) = Server::recording(Config::default()).await;
    let requests: String = (0..50).map(|number| format!("GET /{number} HTTP/1.1\r\nHost: a\r\n\r\n")).collect();
    let last = "PUT /last HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 3\r\n\r\nend";
    let answer = server.exchange(format!("{requests}{last}{requests}")).await;
    assert_eq!(statuses(&answer).len(), 51, "after a close nothing is answered");
    let asked = record.take();
    assert!(asked.iter().take(50).enumerate().all(|(number, line)| *line == format!("GET /{number} ")), "{asked:?}");
    assert_eq!(asked[50], "PUT /last end");
    server.stopped().await;
}

#[tokio::test]
async fn a_half_closed_client_still_gets_its_answers() {
    let go = Arc::new(Notify::new());
    let wait = go.clone();
    let server = Server::start(Config::default(), move |request| {
        let wait = wait.clone();
        async move {
            if request.uri().path() == "/slow" {
                wait.notified().await;
            }
            Response::new(full("whole"))
        }
    });
    let server = server.await;
    let mut stream = server.connect().await;
    stream.write_all(b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut byte = [0];
    assert!(timeout(Duration::from_millis(100), stream.read(&mut byte)).await.is_err(), "the handler still runs");
    go.notify_one();
    assert_eq!(statuses(&to_end(&mut stream).await), [200, 200]);
    server.stopped().await;
}

/// A handler whose client is gone does not run on.
#[tokio::test]
async fn a_client_that_breaks_off_ends_its_handler() {
    struct Told(mpsc::Sender<()>);
    impl Drop for Told {
        fn drop(&mut self) {
            let _ = self.0.try_send(());
        }
    }
    let (begun, mut begins) = mpsc::channel(1);
    let (told, mut dropped) = mpsc::channel(1);
    let server = Server::start(Config::default(), move |_| {
        let (told, begun) = (Told(told.clone()), begun.clone());
        async move {
            let _told = told;
            begun.send(()).await.unwrap();
            std::future::pending::<Answer>().await
        }
    });
    let server = server.await;
    let mut stream = server.connect().await;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    timeout(PATIENCE, begins.recv()).await.unwrap();
    stream.set_zero_linger().unwrap();
    drop(stream);
    timeout(PATIENCE, dropped.recv()).await.expect("the handler is dropped");
    server.stopped().await;
}

#[tokio::test]
async fn silent_and_slow_clients_are_cut_off() {
    let config = Config { header_timeout_ms: 100, idle_timeout_ms: 200, stall_timeout_ms: 100, ..Config::default() };
    let (server, record) = Server::recording(config).await;
    assert_eq!(server.exchange("").await, "", "no byte");
    assert_eq!(server.exchange("GET / HTTP/1.1\r\nHost: a").await, "", "half a head");
    let answer = server.exchange("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert_eq!(statuses(&answer), [200], "answered, then idle for too long");
    let answer = server.exchange("GET / HTTP/1.1\r\nHost: a\r\n\r\nGET / HT").await;
    assert_eq!(statuses(&answer), [200], "answered, then half a head");
    assert_eq!(record.take().len(), 2);

    // Every byte comes in time, the head does not.
    for begin in ["GET / HTTP/1.1\r\nHost: a\r\nX: ", "GET / HTTP/1.1\r\nHost: a\r\n\r\nGET / HTTP/1.1\r\nX: "] {
        let (mut read, mut write) = server.connect().await.into_split();
        write.write_all(begin.as_bytes()).await.unwrap();
        let mut pace = tokio::time::interval(Duration::from_millis(5));
        let dripping = async {
            while write.write_all(b"x").await.is_ok() {
                pace.tick().await;
            }
        };
        let mut answer = Vec::new();
        tokio::select! {
            _ = read.read_to_end(&mut answer) => {}
            () = dripping => {}
            () = tokio::time::sleep(PATIENCE) => panic!("a dripping client is cut off"),
        }
    }
    server.stopped().await;
}

#[tokio::test]
async fn a_receiver_that_does_not_read_is_dropped() {
    let (told, mut dropped) = mpsc::channel::<()>(1);
    let server = Server::start(Config { stall_timeout_ms: 100, ..Config::default() }, move |_| {
        let told = told.clone();
        async move {
            let (send, body) = streamed();
            tokio::spawn(async move {
                while send.send(Ok(Frame::data(Bytes::from(vec![0; 1 << 16])))).await.is_ok() {}
                let _ = told.try_send(());
            });
            Response::new(body)
        }
    });
    let server = server.await;
    let mut stream = server.connect().await;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    timeout(PATIENCE, dropped.recv()).await.expect("the endless answer is dropped");
    server.stopped().await;
}

#[tokio::test]
async fn a_refusal_arrives_although_the_client_still_sends() {
    let (server, record) = Server::recording(Config::default()).await;
    // More than the buffers between the two hold, so the server must go on reading for the client to hear the answer.
    let large = format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "x".repeat(32 << 20));
    assert_eq!(statuses(&server.exchange(large).await), [431]);
    assert_eq!(record.take(), [""; 0]);
    let fits = format!("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nX: {}\r\n\r\n", "x".repeat(15_000));
    assert_eq!(statuses(&server.exchange(fits).await), [200]);
    server.stopped().await;
}

/// RFC 9110 section 7.8.
#[tokio::test]
async fn an_upgrade_has_the_raw_connection_and_what_came_ahead() {
    let server = Server::start(Config::default(), |request| async move {
        let mut answer = Response::new(full(""));
        *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let protocol = request.headers().get(header::UPGRADE).cloned().unwrap_or(HeaderValue::from_static("echo"));
        answer.headers_mut().insert(header::UPGRADE, protocol);
        answer.extensions_mut().insert(OnUpgrade::new(|mut connection| async move {
            let mut bytes = [0; 4];
            while connection.read_exact(&mut bytes).await.is_ok() {
                connection.write_all(&bytes).await.unwrap();
            }
            connection.shutdown().await.unwrap();
        }));
        answer
    });
    let server = server.await;
    let head = "POST / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: echo\r\nContent-Length: 2\r\n\r\nxx";
    let mut stream = server.connect().await;
    stream.write_all(format!("{head}pi").as_bytes()).await.unwrap();
    let answer = answer_head(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 101 Switching Protocols\r\n"), "{answer}");
    assert!(has(&answer, "connection: upgrade") && has(&answer, "upgrade: echo"), "{answer}");
    assert!(!answer.contains("content-length") && !answer.contains("transfer-encoding"), "{answer}");
    stream.write_all(b"ngpong").await.unwrap();
    assert_eq!(part(&mut stream, 8).await, "pingpong");
    stream.shutdown().await.unwrap();
    assert_eq!(to_end(&mut stream).await, "");
    for head in ["GET / HTTP/1.1\r\nHost: a", "GET / HTTP/1.0\r\nConnection: upgrade\r\nUpgrade: echo"] {
        assert_eq!(statuses(&server.exchange(format!("{head}\r\n\r\nping")).await), [500], "nobody asked for it");
    }
    server.stopped().await;
}

/// RFC 9110 section 9.3.6.
#[tokio::test]
async fn a_tunnel_begins_behind_a_success() {
    let server = Server::start(Config::default(), |request| async move {
        assert_eq!(request.uri().to_string(), "a.example:443");
        let mut answer = Response::new(full("not sent"));
        answer.extensions_mut().insert(OnUpgrade::new(|mut connection| async move {
            connection.write_all(b"hello").await.unwrap();
        }));
        answer
    });
    let server = server.await;
    let answer = server.exchange("CONNECT a.example:443 HTTP/1.1\r\nHost: a.example\r\n\r\n").await;
    let (head, tunnelled) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200") && !head.contains("content-length"), "{head}");
    assert_eq!(tunnelled, "hello");
    server.stopped().await;
}

#[tokio::test]
async fn stopping_lets_running_answers_end_and_closes_idle_connections() {
    let (asked, end) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (tell, wait) = (asked.clone(), end.clone());
    let server = Server::start(Config::default(), move |request| {
        let (tell, wait) = (tell.clone(), wait.clone());
        async move {
            if request.uri().path() == "/slow" {
                tell.notify_one();
                wait.notified().await;
            }
            Response::new(full("whole"))
        }
    });
    let server = server.await;
    let mut silent = server.connect().await;
    let mut idle = server.connect().await;
    idle.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    answer_head(&mut idle).await;
    assert_eq!(part(&mut idle, 5).await, "whole");
    let mut half = server.connect().await;
    half.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\nGET /half HTTP/1.1\r\n").await.unwrap();
    answer_head(&mut half).await;
    assert_eq!(part(&mut half, 5).await, "whole");
    let mut running = server.connect().await;
    running.write_all(b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    timeout(PATIENCE, asked.notified()).await.unwrap();

    let port = server.port;
    let stopped = tokio::spawn(server.stopped());
    assert_eq!(to_end(&mut silent).await, "");
    assert_eq!(to_end(&mut idle).await, "");
    let refused = TcpStream::connect(("127.0.0.1", port)).await;
    assert_eq!(refused.unwrap_err().kind(), std::io::ErrorKind::ConnectionRefused);
    half.write_all(b"Host: a\r\n\r\n").await.unwrap();
    let answer = to_end(&mut half).await;
    assert!(answer.ends_with("whole") && has(&answer, "connection: close"), "{answer}");
    assert!(!stopped.is_finished());
    end.notify_one();
    let answer = to_end(&mut running).await;
    assert!(answer.ends_with("whole") && has(&answer, "connection: close"), "{answer}");
    stopped.await.unwrap();
}

#[tokio::test]
async fn answers_that_never_end_are_dropped_after_the_drain_timeout() {
    let begun = Arc::new(Notify::new());
    let tell = begun.clone();
    let server = Server::start(Config { drain_timeout_ms: 100, ..Config::default() }, move |_| {
        tell.notify_one();
        std::future::pending::<Answer>()
    });
    let server = server.await;
    let mut stream = server.connect().await;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    timeout(PATIENCE, begun.notified()).await.unwrap();
    server.stopped().await;
    let mut answer = Vec::new();
    let _ = timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("it is closed");
    assert_eq!(answer, b"");
}
