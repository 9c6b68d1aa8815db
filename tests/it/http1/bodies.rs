//! How the bodies of requests come: only when they are wanted, as they are taken, and to an end in any case.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use http_body_util::BodyExt;
use hyper::body::Frame;
use metacdn::serve::http1::{Interim, InterimError};
use metacdn::serve::{Config, body::BodyError};
use tokio::io::AsyncWriteExt;

use super::{Server, answer_head, full, has, part, statuses, streamed, to_end};

/// RFC 9110 section 10.1.1.
#[tokio::test]
async fn a_client_is_told_to_continue_when_its_body_is_first_wanted() {
    let (server, record) = Server::recording(Config::default()).await;
    let head = "PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n";
    let mut stream = server.connect().await;
    stream.write_all(head.as_bytes()).await.unwrap();
    assert_eq!(answer_head(&mut stream).await, "HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(b"hello").await.unwrap();
    assert!(answer_head(&mut stream).await.starts_with("HTTP/1.1 200"));
    assert_eq!(part(&mut stream, 5).await, "hello");
    // Who does not wait is not told.
    let last =
        "PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\nConnection: close\r\n\r\nhello";
    stream.write_all(last.as_bytes()).await.unwrap();
    assert_eq!(statuses(&to_end(&mut stream).await), [200]);
    assert_eq!(record.take(), ["PUT / hello", "PUT / hello"]);
    let old = "PUT / HTTP/1.0\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\nhello";
    assert_eq!(statuses(&server.exchange(old).await), [200], "HTTP/1.0 knows no 100");
    server.stopped().await;
}

/// RFC 9110 section 10.1.1: whether a body follows is not known then.
#[tokio::test]
async fn who_is_refused_without_a_100_is_not_waited_for() {
    let server = Server::start(Config::default(), |_| async {
        let mut answer = Response::new(full("no"));
        *answer.status_mut() = StatusCode::FORBIDDEN;
        answer
    });
    let server = server.await;
    for length in ["Content-Length: 5", "Transfer-Encoding: chunked"] {
        let head = format!("PUT / HTTP/1.1\r\nHost: a\r\n{length}\r\nExpect: 100-continue\r\n\r\n");
        let answer = server.exchange(&head).await;
        assert_eq!(statuses(&answer), [403]);
        assert!(has(&answer, "connection: close"), "{answer}");
        let answer = server.exchange(format!("{head}GET / HTTP/1.1\r\nHost: a\r\n\r\n")).await;
        assert_eq!(statuses(&answer), [403], "what follows could be the body");
    }
    server.stopped().await;
}

/// RFC 9110 section 15.2.
#[tokio::test]
async fn interim_answers_go_before_the_answer_and_to_no_old_client() {
    let server = Server::start(Config::default(), |request| async move {
        let interim = request.extensions().get::<Interim>().unwrap().clone();
        let mut hints = HeaderMap::new();
        hints.insert(header::LINK, HeaderValue::from_static("</a>; rel=preload"));
        hints.insert(header::CONNECTION, HeaderValue::from_static("close"));
        interim.send(StatusCode::EARLY_HINTS, hints).unwrap();
        interim.send(StatusCode::PROCESSING, HeaderMap::new()).unwrap();
        for no in [StatusCode::OK, StatusCode::SWITCHING_PROTOCOLS] {
            assert_eq!(interim.send(no, HeaderMap::new()), Err(InterimError::Status(no)));
        }
        let late = interim.clone();
        let mut answer = Response::new(full("done"));
        answer.extensions_mut().insert(late);
        answer
    });
    let server = server.await;
    let answer = server.exchange("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;
    assert!(
        answer.starts_with(
            "HTTP/1.1 103 Early Hints\r\nlink: </a>; rel=preload\r\n\r\nHTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 200 OK\r\n"
        ),
        "{answer}"
    );
    assert_eq!(statuses(&server.exchange("GET / HTTP/1.0\r\n\r\n").await), [200]);
    server.stopped().await;
}

#[tokio::test]
async fn interim_answers_are_bounded_and_end_with_the_answer() {
    let (tell, mut told) = tokio::sync::mpsc::channel(1);
    let server = Server::start(Config::default(), move |request| {
        let tell = tell.clone();
        async move {
            let interim = request.extensions().get::<Interim>().unwrap().clone();
            let sent = std::iter::repeat_with(|| interim.send(StatusCode::PROCESSING, HeaderMap::new()));
            assert_eq!(sent.take(100).filter(Result::is_ok).count(), 8);
            assert_eq!(interim.send(StatusCode::PROCESSING, HeaderMap::new()), Err(InterimError::Full));
            tell.send(interim).await.unwrap();
            Response::new(full("done"))
        }
    });
    let server = server.await;
    let answer = server.exchange("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;
    assert_eq!(statuses(&answer), [102, 102, 102, 102, 102, 102, 102, 102, 200]);
    let interim = told.recv().await.unwrap();
    assert_eq!(interim.send(StatusCode::PROCESSING, HeaderMap::new()), Err(InterimError::Over));
    server.stopped().await;
}

#[tokio::test]
async fn an_answer_may_begin_while_the_body_still_comes() {
    let server = Server::start(Config::default(), |request| async move {
        Response::new(request.into_body().map_err(Into::into).boxed_unsync())
    });
    let server = server.await;
    let mut stream = server.connect().await;
    stream.write_all(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n").await.unwrap();
    assert!(has(&answer_head(&mut stream).await, "transfer-encoding: chunked"));
    for _ in 0..3 {
        stream.write_all(b"4\r\nping\r\n").await.unwrap();
        assert_eq!(part(&mut stream, 9).await, "4\r\nping\r\n");
    }
    stream.write_all(b"0\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await.unwrap();
    let rest = to_end(&mut stream).await;
    assert!(rest.starts_with("0\r\n\r\nHTTP/1.1 200"), "the connection goes on: {rest}");
    server.stopped().await;
}

/// Neither side reads before it has written: without both directions at once this would hang.
#[tokio::test]
async fn large_bodies_go_both_ways_at_once() {
    const SIZE: usize = 32 << 20;
    let server = Server::start(Config::default(), |request| async move {
        Response::new(request.into_body().map_err(Into::into).boxed_unsync())
    });
    let server = server.await;
    let (mut read, mut write) = server.connect().await.into_split();
    let sending = tokio::spawn(async move {
        let head = format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {SIZE}\r\nConnection: close\r\n\r\n");
        write.write_all(head.as_bytes()).await.unwrap();
        write.write_all(&vec![b'x'; SIZE]).await.unwrap();
        write
    });
    assert!(has(&answer_head(&mut read).await, &format!("content-length: {SIZE}")));
    assert_eq!(to_end(&mut read).await.len(), SIZE);
    sending.await.unwrap();
    server.stopped().await;
}

#[tokio::test]
async fn a_body_is_read_no_faster_than_it_is_taken() {
    let (go, wait) = (Arc::new(tokio::sync::Notify::new()), Arc::new(tokio::sync::Notify::new()));
    let (asked, waits) = (go.clone(), wait.clone());
    let server = Server::start(Config::default(), move |request| {
        let (asked, waits) = (asked.clone(), waits.clone());
        async move {
            let mut body = request.into_body();
            let first = body.frame().await.unwrap().unwrap().into_data().unwrap();
            asked.notify_one();
            waits.notified().await;
            let rest = body.collect().await.unwrap().to_bytes();
            Response::new(full(format!("{}", first.len() + rest.len())))
        }
    });
    let server = server.await;
    let mut stream = server.connect().await;
    stream
        .write_all(b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 67108864\r\nConnection: close\r\n\r\n")
        .await
        .unwrap();
    let mut sent = stream.write(&[b'x'; 65536]).await.unwrap();
    super::timeout(super::PATIENCE, go.notified()).await.unwrap();
    // Until the buffers of the system are full.
    while let Ok(more) = super::timeout(std::time::Duration::from_millis(300), stream.write(&[b'x'; 65536])).await {
        sent += more.unwrap();
    }
    assert!(sent < 64 << 20, "{sent} bytes were taken without being wanted");
    wait.notify_one();
    while sent < 64 << 20 {
        sent += stream.write(&vec![b'x'; ((64 << 20) - sent).min(65536)]).await.unwrap();
    }
    assert!(to_end(&mut stream).await.ends_with("67108864"));
    server.stopped().await;
}

/// RFC 9110 section 6.5.
#[tokio::test]
async fn trailers_of_requests_reach_the_handler_but_for_those_that_change_it() {
    let server = Server::start(Config::default(), |request| async move {
        let trailers = request.into_body().collect().await.unwrap().trailers().cloned().unwrap_or_default();
        Response::new(full(format!("{trailers:?}")))
    });
    let server = server.await;
    let answer = server
        .exchange(
            "PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n\
             1\r\na\r\n0\r\nX-Sum: 1\r\nContent-Length: 9\r\nHost: b\r\n\r\n",
        )
        .await;
    assert!(answer.ends_with(r#"{"x-sum": "1"}"#), "{answer}");
    server.stopped().await;
}

/// RFC 9110 section 6.5.1: to those who take them.
#[tokio::test]
async fn trailers_of_answers_reach_the_clients_that_take_them() {
    let server = Server::start(Config::default(), |_| async {
        let (send, body) = streamed();
        send.send(Ok(Frame::data(Bytes::from_static(b"data")))).await.unwrap();
        let mut trailers = HeaderMap::new();
        trailers.insert("x-sum", HeaderValue::from_static("1"));
        trailers.insert(header::CONTENT_LENGTH, HeaderValue::from_static("9"));
        send.send(Ok(Frame::trailers(trailers))).await.unwrap();
        let mut answer = Response::new(body);
        answer.headers_mut().insert(header::TRAILER, HeaderValue::from_static("x-sum"));
        answer
    });
    let server = server.await;
    let answer = server.exchange("GET / HTTP/1.1\r\nHost: a\r\nTE: trailers\r\nConnection: close, TE\r\n\r\n").await;
    assert!(
        answer.ends_with("\r\n\r\n4\r\ndata\r\n0\r\nx-sum: 1\r\n\r\n") && has(&answer, "trailer: x-sum"),
        "{answer}"
    );
    let answer = server.exchange("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;
    assert!(answer.ends_with("\r\n\r\n4\r\ndata\r\n0\r\n\r\n") && !has(&answer, "trailer: x-sum"), "{answer}");
    server.stopped().await;
}

/// RFC 9112 section 9.3: a small rest is read away, a large one is not worth it.
#[tokio::test]
async fn a_body_that_nobody_wants_ends_with_its_answer() {
    let server = Server::start(Config::default(), |_| async { Response::new(full("no, thank you")) }).await;
    let small = format!("PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n{}", "x".repeat(1000));
    let chunked = "PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n";
    let last = "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    assert_eq!(statuses(&server.exchange(format!("{small}{chunked}{last}")).await), [200, 200, 200]);

    let mut stream = server.connect().await;
    stream.write_all(b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000000\r\n\r\n").await.unwrap();
    let head = answer_head(&mut stream).await;
    assert!(has(&head, "connection: close"), "{head}");
    // More than the buffers between the two hold: it goes on reading for the answer to be heard.
    let _ = stream.write_all(&vec![b'x'; 16 << 20]).await;
    assert_eq!(to_end(&mut stream).await, "no, thank you");
    server.stopped().await;
}

#[tokio::test]
async fn a_body_that_stalls_or_ends_early_is_an_error_that_the_handler_can_tell() {
    let config = Config { stall_timeout_ms: 100, ..Config::default() };
    let server = Server::start(config, |request| async move {
        let status = match request.into_body().collect().await {
            Err(BodyError::Stalled(_)) => StatusCode::REQUEST_TIMEOUT,
            Err(BodyError::Broken(_)) => StatusCode::BAD_REQUEST,
            Ok(_) => StatusCode::OK,
        };
        let mut answer = Response::new(full(""));
        *answer.status_mut() = status;
        answer
    });
    let server = server.await;
    let half = "PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nhalf";
    let answer = server.exchange(half).await;
    assert_eq!(statuses(&answer), [408]);
    for half in [half, "PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nhalf"] {
        let mut stream = server.connect().await;
        stream.write_all(half.as_bytes()).await.unwrap();
        stream.shutdown().await.unwrap();
        let answer = to_end(&mut stream).await;
        assert_eq!(statuses(&answer), [400], "{answer}");
    }
    server.stopped().await;
}

/// A handler that keeps a body and answers all the same gets the rest of it.
#[tokio::test]
async fn a_body_may_be_read_after_the_answer_was_sent() {
    let read = Arc::new(AtomicU64::new(0));
    let (count, done) = (read.clone(), Arc::new(tokio::sync::Notify::new()));
    let ended = done.clone();
    let server = Server::start(Config::default(), move |request| {
        let (count, ended) = (count.clone(), ended.clone());
        async move {
            tokio::spawn(async move {
                let bytes = request.into_body().collect().await.unwrap().to_bytes();
                count.fetch_add(bytes.len() as u64, Ordering::SeqCst);
                ended.notify_one();
            });
            Response::new(full("later"))
        }
    });
    let server = server.await;
    let mut stream = server.connect().await;
    stream.write_all(b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhello").await.unwrap();
    answer_head(&mut stream).await;
    assert_eq!(part(&mut stream, 5).await, "later");
    stream.write_all(b"worldGET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await.unwrap();
    super::timeout(super::PATIENCE, done.notified()).await.unwrap();
    assert_eq!(read.load(Ordering::SeqCst), 10);
    assert_eq!(statuses(&to_end(&mut stream).await), [200]);
    server.stopped().await;
}
