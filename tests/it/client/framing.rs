//! What of the bytes of a server is an answer (RFC 9112 sections 4 to 7), and whether its connection is used again.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use http_body_util::BodyExt as _;
use metacdn::client::{ClientError, OnInterim, empty};

use super::{Server, get, request, text, whole};

/// What comes of an answer.
#[derive(Debug, Clone, Copy)]
enum Outcome {
    /// This body, and another request may follow.
    Body(&'static str),
    /// This body, and nothing may follow.
    Last(&'static str),
    /// An error with these words.
    Error(&'static str),
}

use Outcome::{Body, Error, Last};

/// Method, what the server says and then closes, and what it means.
const ANSWERS: &[(&str, &str, Outcome)] = &[
    ("GET", "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ntext", Body("text")),
    ("GET", "HTTP/1.1 200\r\ncontent-length:4\r\n\r\ntext", Body("text")),
    ("GET", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", Body("")),
    ("GET", "HTTP/1.1 200 OK\r\nContent-Length: 4\r\nContent-Length: 4\r\n\r\ntext", Body("text")),
    ("GET", "HTTP/1.1 200 OK\r\nContent-Length: 4, 4\r\n\r\ntext", Body("text")),
    ("GET", "HTTP/1.1 200 OK\r\nEmpty:\r\nContent-Length: 4\r\n\r\ntext", Body("text")),
    ("GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nte\r\n2;a=b\r\nxt\r\n0\r\n\r\n", Body("text")),
    ("GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n0\r\n\r\n", Body("")),
    ("GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\ntext\r\n0\r\nA: b\r\n\r\n", Body("text")),
    ("HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n", Body("")),
    ("HEAD", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", Body("")),
    ("GET", "HTTP/1.1 204 No Content\r\nContent-Length: 4\r\n\r\n", Body("")),
    ("GET", "HTTP/1.1 304 Not Modified\r\nContent-Length: 4\r\n\r\n", Body("")),
    ("GET", "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ntext", Body("text")),
    ("GET", "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 4\r\n\r\ntext", Body("text")),
    ("GET", "HTTP/1.0 200 OK\r\nContent-Length: 4\r\n\r\ntext", Last("text")),
    ("GET", "HTTP/1.1 200 OK\r\nConnection: x, CLOSE\r\nContent-Length: 4\r\n\r\ntext", Last("text")),
    ("GET", "HTTP/1.1 200 OK\r\n\r\ntext to the end", Last("text to the end")),
    ("GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: strange\r\n\r\ntext to the end", Last("text to the end")),
    ("GET", "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ntextHTTP/1.1 200 OK\r\n", Last("text")),
    ("GET", "HTTP/1.1 204 No Content\r\nContent-Length: 4\r\n\r\ntext", Last("")),
    ("GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n\r\n", Last("")),
    ("GET", "HTTP/1.1 200 OK\r\nContent-Length: 4, 5\r\n\r\ntext", Error("Content-Length is not one number")),
    ("GET", "HTTP/1.1 200 OK\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\ntext", Error("is not one number")),
    ("GET", "HTTP/1.1 200 OK\r\nContent-Length: +4\r\n\r\ntext", Error("Content-Length is not one number")),
    ("GET", "HTTP/1.1 200 OK\r\nContent-Length: 0x4\r\n\r\ntext", Error("Content-Length is not one number")),
    ("GET", "HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\ntext", Error("is not one number")),
    (
        "GET",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n",
        Error("either Content-Length or Transfer-Encoding"),
    ),
    ("GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", Error("only chunked is known")),
    ("GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n0\r\n\r\n", Error("only chunked is known")),
    ("GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n", Error("chunked, once")),
    ("GET", "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", Error("HTTP/1.0 has no Transfer")),
    ("GET", "HTTP/1.1 200 OK\nContent-Length: 4\n\ntext", Error("lines end in CR LF")),
    ("GET", "HTTP/1.1 200 OK\r\nContent-Length : 4\r\n\r\ntext", Error("a field has no valid name")),
    ("GET", "HTTP/1.1 200 OK\r\nA: b\r\n Content-Length: 4\r\n\r\ntext", Error("a field has no valid name")),
    ("GET", "HTTP/1.1 200 OK\r\nA: b\0\r\nContent-Length: 4\r\n\r\ntext", Error("bytes that are not allowed")),
    ("GET", "HTTP/2.0 200 OK\r\nContent-Length: 4\r\n\r\ntext", Error("the answer is not well formed")),
    ("GET", "HTTP/1.1 20 OK\r\nContent-Length: 4\r\n\r\ntext", Error("the first line is not that")),
    ("GET", "SSH-2.0-OpenSSH_9.2\r\n", Error("the first line is not that")),
    ("GET", "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n", Error("a protocol that nobody asked for")),
    ("GET", "", Error("closed the connection without an answer")),
    ("GET", "HTTP/1.1 200 OK\r\nContent-Le", Error("closed the connection without an answer")),
    ("GET", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\ntext", Error("closed the connection in the middle")),
    ("GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\ntext\r\n", Error("in the middle")),
    ("GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\ntext\r\n0\r\n", Error("in the middle")),
    ("GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nx\r\ntext\r\n0\r\n\r\n", Error("no valid size")),
    ("GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\ntext\r\n0\r\n\r\n", Error("end in CR LF")),
    ("GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\ntext\n0\n\n", Error("end in CR LF")),
];

/// How much of the end of an answer that is the last of its connection comes at once.
const END_BYTES: usize = 25;

/// A server that says `answer`, of which `outcome` comes, in pieces of so many bytes, ends its side where it has to, and
/// answers what follows.
async fn saying(answer: &'static str, piece: usize, outcome: Outcome) -> Server {
    Server::start(move |number, mut line| async move {
        line.request().await;
        if number > 0 {
            return line.say("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nother").await;
        }
        // The end comes with what stands behind it: a client that has a whole answer may send the next request, and would take
        // what comes then for the answer to that.
        let end = if matches!(outcome, Last(_)) { END_BYTES } else { 0 };
        let (begin, end) = answer.split_at(answer.len() - end);
        for piece in begin.as_bytes().chunks(piece) {
            line.say(piece).await;
            tokio::task::yield_now().await;
        }
        line.say(end).await;
        if matches!(outcome, Body(_)) && line.request().await.is_some() {
            line.say("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nsame").await;
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_mean_the_same_however_their_bytes_are_cut() {
    for (method, answer, outcome) in ANSWERS {
        for piece in [usize::MAX, 1, 7] {
            let server = saying(answer, piece, *outcome).await;
            let peer = server.peer();
            let answered = whole(peer.send(request(method, &[], empty())).await).await;
            match outcome {
                Body(expected) | Last(expected) => {
                    assert_eq!(text(answered), *expected, "{piece}: {answer:?}");
                    let next = if matches!(outcome, Body(_)) { "same" } else { "other" };
                    assert_eq!(text(get(&peer).await), next, "{piece}: {answer:?}");
                }
                Error(words) => {
                    let error = answered.unwrap_err();
                    assert!(error.contains(words), "{piece}: {answer:?}: {error}");
                    assert_eq!(text(get(&peer).await), "other", "{piece}: {answer:?}");
                }
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_says_what_is_no_answer_may_have_done_what_was_asked() {
    let server = Server::saying("HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n").await;
    let said = server.peer().send(request("GET", &[], empty())).await.unwrap_err();
    assert!(matches!(said, ClientError::Unreachable { .. }) && said.may_have_arrived(), "{said:?}");
    let peer = server.peer();
    drop(server);
    crate::cluster::wait_until("it is gone", async || {
        let said = peer.send(request("GET", &[], empty())).await.unwrap_err();
        matches!(said, ClientError::Unreachable { .. }) && said.is_transient() && !said.may_have_arrived()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn heads_are_limited_and_interim_answers_too() {
    let long = "a".repeat(4000);
    for (fields, fits) in [(7, true), (9, false)] {
        let line = format!("Long: {long}\r\n").repeat(fields);
        let answer: &'static str = format!("HTTP/1.1 200 OK\r\n{line}Content-Length: 4\r\n\r\ntext").leak();
        let server = Server::saying(answer).await;
        let answered = get(&server.peer()).await;
        assert_eq!(answered.is_ok(), fits, "{fields}");
        if let Err(error) = answered {
            assert!(error.contains("the head is too large"), "{error}");
        }
    }
    for (count, fits) in [(32, true), (33, false)] {
        let interim = "HTTP/1.1 102 Processing\r\n\r\n".repeat(count);
        let answer: &'static str = format!("{interim}HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ntext").leak();
        let server = Server::saying(answer).await;
        let answered = get(&server.peer()).await;
        assert_eq!(answered.is_ok(), fits, "{count}: {answered:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn interim_answers_are_told_in_their_order_and_trailers_come_last() {
    let answer = "HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\nHTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: b\r\n\r\n\
        HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\ntext\r\n0\r\nDigest: c\r\nContent-Length: 9\r\n\r\n";
    for piece in [usize::MAX, 1] {
        let server = saying(answer, piece, Body("")).await;
        let told = Arc::new(Mutex::new(Vec::new()));
        let mut asked = request("GET", &[], empty());
        let telling = told.clone();
        asked.extensions_mut().insert(OnInterim::new(move |status, headers: &HeaderMap| {
            telling.lock().unwrap().push((status.as_u16(), headers.get("link").cloned()));
        }));
        let mut body = server.peer().send(asked).await.unwrap().into_body();
        let links: Vec<_> = told.lock().unwrap().iter().map(|(status, link)| (*status, link.is_some())).collect();
        assert_eq!(links, [(103, true), (100, false), (103, true)]);
        let mut data = Vec::new();
        let trailers = loop {
            match body.frame().await.unwrap().unwrap().into_data() {
                Ok(bytes) => data.extend_from_slice(&bytes),
                Err(frame) => break frame.into_trailers().unwrap(),
            }
        };
        assert!(body.frame().await.is_none());
        assert_eq!((data.as_slice(), trailers.len()), (&b"text"[..], 1));
        assert_eq!(trailers["digest"], "c", "what changes the framing is no trailer");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn long_answers_come_whole_and_no_faster_than_they_are_read() {
    let sent: Bytes = (0..10_000_000_u32).map(|n| (n / 7) as u8).collect::<Vec<_>>().into();
    let taken = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let (bytes, counter) = (sent.clone(), taken.clone());
    let server = Server::start(move |_, mut line| {
        let (bytes, counter) = (bytes.clone(), counter.clone());
        async move {
            while line.request().await.is_some() {
                line.say(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", bytes.len())).await;
                for piece in bytes.chunks(50_000) {
                    line.say(piece).await;
                    counter.fetch_add(piece.len(), std::sync::atomic::Ordering::Relaxed);
                }
            }
        }
    })
    .await;
    let peer = server.peer();
    let answer = peer.send(request("GET", &[], empty())).await.unwrap();
    assert_eq!((answer.status(), answer.headers()["content-length"].to_str().unwrap()), (StatusCode::OK, "10000000"));
    // What the system holds for both sides is less than the answer.
    let standing = || taken.load(std::sync::atomic::Ordering::Relaxed);
    crate::cluster::wait_until("the server stands still", async || {
        let before = standing();
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        before > 0 && before == standing()
    })
    .await;
    assert!(standing() < 9_000_000, "{}", standing());
    assert!(answer.into_body().collect().await.unwrap().to_bytes() == sent);
    assert!(get(&peer).await.unwrap().into_body() == sent);
    assert_eq!(server.connections(), 1);
}
