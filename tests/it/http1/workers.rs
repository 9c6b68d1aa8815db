//! Several threads for one address, and more connections than there are places for.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex};

use http::{Request, Response};
use metacdn::serve::http1::{Handlers, Workers};
use metacdn::serve::{Config, Proxies, RequestBody, Transport};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tower::service_fn;

use super::{PATIENCE, Server, answer_head, full, has, part, statuses, to_end};

const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";

#[tokio::test]
async fn who_finds_no_place_is_told_at_once_to_come_again() {
    let config = Config { connections_max: 2, ..Config::default() };
    let server = Server::start(config, |_| async { Response::new(full("whole")) }).await;
    let mut held = Vec::new();
    for _ in 0..2 {
        let mut stream = server.connect().await;
        stream.write_all(GET).await.unwrap();
        answer_head(&mut stream).await;
        assert_eq!(part(&mut stream, 5).await, "whole");
        held.push(stream);
    }
    for _ in 0..10 {
        // Even before it asks.
        let answer = to_end(&mut server.connect().await).await;
        assert_eq!(statuses(&answer), [503]);
        assert!(has(&answer, "retry-after: 1") && has(&answer, "connection: close"), "{answer}");
        assert!(has(&answer, "content-type: application/problem+json"), "{answer}");
    }
    for stream in &mut held {
        stream.write_all(GET).await.unwrap();
        assert!(answer_head(stream).await.starts_with("HTTP/1.1 200"), "who has a place keeps it");
        assert_eq!(part(stream, 5).await, "whole");
    }
    held.pop();
    let again = async {
        while statuses(&server.exchange("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await) != [200] {}
    };
    timeout(PATIENCE, again).await.expect("there is a place again");
    server.stopped().await;
}

/// Waits at `/slow`, and tells in which thread it runs.
async fn in_thread(request: Request<RequestBody>, wait: Arc<Notify>) -> Result<super::Answer, Infallible> {
    if request.uri().path() == "/slow" {
        wait.notified().await;
    }
    Ok(Response::new(full(std::thread::current().name().unwrap_or_default().to_owned())))
}

async fn workers(config: Config, count: usize, wait: Arc<Notify>) -> (Workers, u16, CancellationToken) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let stop = CancellationToken::new();
    let http = service_fn(move |request| in_thread(request, wait.clone()));
    let handlers = Handlers { http, hot: Arc::new(()), witness: None };
    let count = NonZeroUsize::new(count).unwrap();
    (
        Workers::start(vec![(listener, Transport::Plain)], Proxies::default(), count, config, handlers, &stop).unwrap(),
        port,
        stop,
    )
}

async fn connect(port: u16) -> TcpStream {
    TcpStream::connect(("127.0.0.1", port)).await.unwrap()
}

#[tokio::test]
async fn threads_share_connections_limits_and_the_stop() {
    let wait = Arc::new(Notify::new());
    let config = Config { connections_max: 64, ..Config::default() };
    let (mut workers, port, stop) = workers(config, 3, wait.clone()).await;
    let mut held = Vec::new();
    let mut threads = BTreeSet::new();
    for _ in 0..64 {
        let mut stream = connect(port).await;
        stream.write_all(GET).await.unwrap();
        let head = answer_head(&mut stream).await;
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        threads.insert(part(&mut stream, 7).await);
        held.push(stream);
    }
    // Of 64 connections one of three gets none once in many millions of times.
    assert_eq!(threads.into_iter().collect::<Vec<_>>(), ["serve-0", "serve-1", "serve-2"]);
    assert_eq!(statuses(&to_end(&mut connect(port).await).await), [503], "the limit is that of all");
    for slow in &mut held[..8] {
        slow.write_all(b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    }
    stop.cancel();
    for idle in &mut held[8..] {
        assert_eq!(to_end(idle).await, "");
    }
    assert!(timeout(std::time::Duration::from_millis(50), workers.drained()).await.is_err(), "some still answer");
    // Requests that the stop overtook are not answered; those that were read are.
    let released = async {
        loop {
            wait.notify_waiters();
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        drained = timeout(PATIENCE, workers.drained()) => drained.expect("they end").unwrap(),
        () = released => {}
    }
    assert!(TcpStream::connect(("127.0.0.1", port)).await.is_err());
    timeout(PATIENCE, workers.end()).await.unwrap();
}

#[tokio::test]
async fn what_a_handler_spawned_runs_on_until_the_end() {
    let (spawned, go) = (Arc::new(Mutex::new(None)), Arc::new(Notify::new()));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (task, wait) = (spawned.clone(), go.clone());
    let http = service_fn(move |_: Request<RequestBody>| {
        let wait = wait.clone();
        *task.lock().unwrap() = Some(tokio::spawn(async move { wait.notified().await }));
        async { Ok::<_, Infallible>(Response::new(full("whole"))) }
    });
    let stop = CancellationToken::new();
    let handlers = Handlers { http, hot: Arc::new(()), witness: None };
    let count = NonZeroUsize::new(2).unwrap();
    let mut workers = Workers::start(
        vec![(listener, Transport::Plain)],
        Proxies::default(),
        count,
        Config::default(),
        handlers,
        &stop,
    )
    .unwrap();
    let mut stream = connect(port).await;
    stream.write_all(GET).await.unwrap();
    answer_head(&mut stream).await;
    stop.cancel();
    timeout(PATIENCE, workers.drained()).await.unwrap().unwrap();
    let task = spawned.lock().unwrap().take().unwrap();
    assert!(!task.is_finished());
    go.notify_one();
    timeout(PATIENCE, task).await.unwrap().expect("it came to its own end");
    timeout(PATIENCE, workers.end()).await.unwrap();
}

#[tokio::test]
async fn dropped_workers_drop_what_they_do() {
    let (workers, port, _stop) = workers(Config::default(), 2, Arc::new(Notify::new())).await;
    let mut stream = connect(port).await;
    stream.write_all(b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    drop(workers);
    let mut answer = Vec::new();
    let read = tokio::io::AsyncReadExt::read_to_end(&mut stream, &mut answer);
    let _ = timeout(PATIENCE, read).await.expect("it is closed");
    assert_eq!(answer, b"");
}
