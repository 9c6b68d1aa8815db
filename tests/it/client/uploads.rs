//! Requests with bodies: how they are framed, and answers that begin before the request has ended.

use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Frame;
use metacdn::client::{Body, ClientError, Deadlines, full};
use tokio::io::AsyncWriteExt as _;
use tokio::sync::mpsc;

use super::{Server, get, request, text, whole};

/// A body whose parts come as they are sent; dropped, the sender ends it.
fn streamed() -> (mpsc::Sender<std::io::Result<Frame<Bytes>>>, Body) {
    let (send, mut parts) = mpsc::channel(1);
    let stream = futures_util::stream::poll_fn(move |cx| parts.poll_recv(cx));
    (send, StreamBody::new(stream).map_err(Into::into).boxed_unsync())
}

async fn put(send: &mpsc::Sender<std::io::Result<Frame<Bytes>>>, part: impl Into<Bytes>) {
    send.send(Ok(Frame::data(part.into()))).await.unwrap();
}

/// A server that answers with the body of each request as it came, of so many bytes on the wire.
async fn telling(length: usize) -> Server {
    Server::start(move |_, mut line| async move {
        while line.request().await.is_some() {
            let body = line.body(length).await;
            line.say(format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n")).await;
            line.say(body).await;
        }
    })
    .await
}

/// RFC 9112 section 7.1, RFC 9110 section 6.5.
#[tokio::test(flavor = "multi_thread")]
async fn a_body_of_unknown_length_goes_in_chunks_with_its_trailers() {
    let long = "x".repeat(2000);
    let expected = format!("4\r\nsome\r\n7d0\r\n{long}\r\n0\r\ndigest: a\r\n\r\n");
    let server = telling(expected.len()).await;
    let peer = server.peer();
    for _ in 0..2 {
        let (send, body) = streamed();
        let sending = async {
            put(&send, "some").await;
            put(&send, "").await;
            put(&send, long.clone()).await;
            let mut trailers = HeaderMap::new();
            trailers.insert("digest", "a".parse().unwrap());
            trailers.insert("content-length", "9".parse().unwrap());
            send.send(Ok(Frame::trailers(trailers))).await.unwrap();
        };
        let (answer, ()) = tokio::join!(peer.send(request("PUT", &[], body)), sending);
        assert_eq!(text(whole(answer).await), expected);
    }
    assert_eq!(server.connections(), 1);
    assert!(server.heard()[0].ends_with("\r\ntransfer-encoding: chunked\r\n\r\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_of_known_length_goes_as_it_is() {
    let server = telling(1_000_000).await;
    let sent: Bytes = (0..1_000_000_u32).map(|n| (n / 7) as u8).collect::<Vec<_>>().into();
    let answer = whole(server.peer().send(request("PUT", &[], full(sent.clone()))).await).await.unwrap();
    assert!(answer.into_body() == sent);
    assert!(server.heard()[0].ends_with("\r\ncontent-length: 1000000\r\n\r\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_is_not_what_it_says_fails_and_is_not_taken_for_whole() {
    for (parts, words) in [
        (&["abc"][..], "the body of the request is shorter than it says"),
        (&["abc", "def"], "the body of the request is longer than it says"),
    ] {
        let server = Server::start(|number, mut line| async move {
            line.request().await;
            if number > 0 {
                return line.say("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ntext").await;
            }
            assert!(line.ended().await);
        })
        .await;
        let peer = server.peer();
        let (send, body) = streamed();
        let sending = async move {
            for part in parts {
                let _ = send.send(Ok(Frame::data(Bytes::from_static(part.as_bytes())))).await;
            }
        };
        let asked = request("PUT", &[("content-length", "5")], body);
        let (answer, ()) = tokio::join!(peer.send(asked), sending);
        assert!(whole(answer).await.unwrap_err().contains(words), "{words}");
        assert_eq!(text(get(&peer).await), "text");
    }
    let server = Server::saying("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
    let (send, body) = streamed();
    send.send(Err(std::io::Error::other("lost"))).await.unwrap();
    let error = whole(server.peer().send(request("PUT", &[], body)).await).await.unwrap_err();
    assert!(error.contains("the body of the request broke off: lost"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_refuses_a_long_body_early_is_heard() {
    for closes in [true, false] {
        let server = Server::start(move |number, mut line| async move {
            line.request().await;
            if number > 0 {
                return line.say("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ntext").await;
            }
            line.say("HTTP/1.1 413 Content Too Large\r\nContent-Length: 8\r\n\r\ntoo long").await;
            if closes {
                line.stream.shutdown().await.unwrap();
            }
            // Who has the whole answer sends no more.
            assert!(line.ended().await);
        })
        .await;
        let peer = server.peer();
        let body = full(vec![b'x'; 100_000_000]);
        let answer = whole(peer.send(request("PUT", &[], body)).await).await.unwrap();
        assert_eq!((answer.status().as_u16(), answer.body().as_ref()), (413, &b"too long"[..]));
        assert_eq!(text(get(&peer).await), "text");
        assert_eq!(server.connections(), 2, "what is behind half a request is no request");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_may_go_along_with_its_request() {
    let server = Server::start(|_, mut line| async move {
        line.request().await;
        line.say("HTTP/1.1 200 OK\r\nContent-Length: 3000000\r\n\r\n").await;
        // It says its answer first: nobody reads it before the request has ended.
        line.say(vec![b'a'; 1_000_000]).await;
        for _ in 0..20 {
            let part = line.body(100_000).await;
            line.say(part).await;
        }
    })
    .await;
    let (send, body) = streamed();
    let asked = request("POST", &[("content-length", "2000000")], body);
    let answer = server.peer().send(asked).await.unwrap();
    // The request goes on although nobody looks at the answer, as far as the system holds what comes meanwhile.
    put(&send, vec![b'b'; 100_000]).await;
    put(&send, vec![b'b'; 100_000]).await;
    let sending = async {
        for _ in 2..20 {
            put(&send, vec![b'b'; 100_000]).await;
        }
    };
    let (answer, ()) = tokio::join!(answer.into_body().collect(), sending);
    let bytes = answer.unwrap().to_bytes();
    assert_eq!(bytes.len(), 3_000_000);
    assert!(bytes[..1_000_000].iter().all(|byte| *byte == b'a') && bytes[1_000_000..].iter().all(|byte| *byte == b'b'));
}

/// RFC 9110 section 10.1.1.
#[tokio::test(flavor = "multi_thread")]
async fn a_body_waits_for_a_server_that_is_asked_whether_it_wants_it() {
    let server = Server::start(|number, mut line| async move {
        let head = line.request().await.unwrap();
        assert!(head.contains("\r\nexpect: 100-continue\r\n"), "{head}");
        match number {
            0 => {
                let early = tokio::time::timeout(Duration::from_millis(200), line.body(1)).await;
                assert!(early.is_err(), "the body was not waited for");
                line.say("HTTP/1.1 100 Continue\r\n\r\n").await;
            }
            1 => {
                line.say("HTTP/1.1 417 Expectation Failed\r\nContent-Length: 2\r\n\r\nno").await;
                let mut scrap = Vec::new();
                tokio::io::AsyncReadExt::read_to_end(&mut line.stream, &mut scrap).await.unwrap();
                return assert!(scrap.is_empty(), "a body came that was not wanted");
            }
            // It knows of no such thing.
            _ => {}
        }
        assert_eq!(line.body(4).await, b"body");
        line.say("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nyes").await;
        line.ended().await;
    })
    .await;
    for expected in ["yes", "no", "yes"] {
        // A connection for each, as if each were the first one.
        let asked = request("PUT", &[("expect", "100-continue")], full("body"));
        assert_eq!(text(whole(server.peer().send(asked).await).await), expected);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_may_take_any_time_as_long_as_it_moves() {
    let server = telling(6).await;
    let moment = Duration::from_millis(150);
    let deadlines = Deadlines { first_byte: moment, connect: moment, idle: moment };
    for silent in [false, true] {
        let peer = server.peer_within(deadlines);
        let (send, body) = streamed();
        let asked = request("PUT", &[("content-length", "6")], body);
        let sending = async {
            for part in ["a", "b", "c", "d", "e", "f"] {
                if !silent || part < "c" {
                    put(&send, part).await;
                    tokio::time::sleep(moment).await;
                }
            }
            std::future::pending::<()>().await;
        };
        let answer = tokio::select! {
            answer = peer.send_while_moving(asked) => answer,
            () = sending => unreachable!("it waits for ever"),
        };
        if silent {
            assert!(matches!(answer, Err(ClientError::Silent { .. })), "{answer:?}");
        } else {
            assert_eq!(text(whole(answer).await), "abcdef");
        }
    }
}
