//! Which connection a request goes over, and what becomes of it when the connection is gone.

use std::sync::Arc;
use std::time::Duration;

use http_body_util::BodyExt as _;
use metacdn::client::{ClientError, Deadlines, Peer, empty, full};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::Notify;

use super::{Server, get, request, text, whole};

const TEXT: &str = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ntext";

#[tokio::test(flavor = "multi_thread")]
async fn one_after_the_other_uses_one_connection_and_all_at_once_as_many() {
    let server = Server::saying(TEXT).await;
    let peer = server.peer();
    for _ in 0..100 {
        assert_eq!(text(get(&peer).await), "text");
    }
    assert_eq!(server.connections(), 1);
    let all: Vec<_> = (0..20).map(|_| peer.clone()).map(|peer| async move { text(get(&peer).await) }).collect();
    for answer in futures_util::future::join_all(all).await {
        assert_eq!(answer, "text");
    }
    assert!(server.connections() <= 21);
    let said = &server.heard()[0];
    assert_eq!(said, "GET /path?query HTTP/1.1\r\nhost: site.example\r\n\r\n");
}

#[test]
fn each_runtime_has_connections_of_its_own() {
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (serving, one, other) =
        (tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap(), runtime(), runtime());
    let server = serving.block_on(Server::saying(TEXT));
    let peer = server.peer();
    for _ in 0..3 {
        assert_eq!(text(one.block_on(get(&peer))), "text");
        assert_eq!(text(other.block_on(get(&peer))), "text");
    }
    assert_eq!(server.connections(), 2);
    // What a runtime that has ended had opened is of no use to the next one, even if it has the same number.
    drop((one, other));
    assert_eq!(text(runtime().block_on(get(&peer))), "text");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_ended_while_it_rested_is_not_used() {
    let (rests, ended) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (resting, ending) = (rests.clone(), ended.clone());
    let server = Server::start(move |_, mut line| {
        let (resting, ending) = (resting.clone(), ending.clone());
        async move {
            line.request().await;
            line.say(TEXT).await;
            resting.notified().await;
            drop(line);
            ending.notify_one();
        }
    })
    .await;
    let peer = server.peer();
    for round in 1..4 {
        // Even what may not be done twice is asked for.
        assert_eq!(text(whole(peer.send(request("POST", &[], empty())).await).await), "text");
        assert_eq!(server.connections(), round);
        rests.notify_one();
        ended.notified().await;
        // It takes a moment until the end is heard of here.
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_unasked_ends_a_connection() {
    let (asks, said) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (asking, saying) = (asks.clone(), said.clone());
    let server = Server::start(move |number, mut line| {
        let (asking, saying) = (asking.clone(), saying.clone());
        async move {
            line.request().await;
            line.say(TEXT).await;
            if number == 0 {
                asking.notified().await;
                line.say("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nlies").await;
                saying.notify_one();
            }
            assert!(line.ended().await);
        }
    })
    .await;
    let peer = server.peer();
    assert_eq!(text(get(&peer).await), "text");
    asks.notify_one();
    said.notified().await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(text(get(&peer).await), "text");
    assert_eq!(server.connections(), 2);
}

/// A server whose first connection answers once and then ends with the next request, which it has read.
async fn forgetful() -> Server {
    Server::start(|number, mut line| async move {
        line.request().await;
        line.say(TEXT).await;
        while line.request().await.is_some() && number > 0 {
            line.say("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nagain").await;
        }
    })
    .await
}

/// RFC 9110 section 9.2.2, RFC 9112 section 9.3.1.
#[tokio::test(flavor = "multi_thread")]
async fn what_changes_nothing_is_asked_for_again_and_nothing_else() {
    for (method, body, repeated) in [
        ("GET", empty(), true),
        // What another one writes between the two would be gone.
        ("DELETE", empty(), false),
        ("POST", empty(), false),
        ("BREW", empty(), false),
        ("PUT", full("abc"), false),
    ] {
        let server = forgetful().await;
        let peer = server.peer();
        assert_eq!(text(get(&peer).await), "text");
        let answer = peer.send(request(method, &[], body)).await;
        if repeated {
            assert_eq!(text(whole(answer).await), "text", "{method}");
            assert_eq!(server.connections(), 2, "{method}");
        } else {
            let error = answer.unwrap_err();
            assert!(
                matches!(error, ClientError::Unreachable { .. }) && error.may_have_arrived(),
                "{method}: {error:?}"
            );
            assert_eq!(server.connections(), 1, "{method}");
        }
        assert_eq!(server.heard().len(), if repeated { 3 } else { 2 }, "{method}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn on_a_new_connection_nothing_is_asked_for_twice() {
    let server = Server::start(|_, mut line| async move {
        line.request().await;
    })
    .await;
    assert!(get(&server.peer()).await.unwrap_err().contains("without an answer"));
    assert_eq!(server.connections(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_leaves_in_the_middle_ends_the_connection() {
    let (asked, ended) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (asking, ending) = (asked.clone(), ended.clone());
    let server = Server::start(move |number, mut line| {
        let (asking, ending) = (asking.clone(), ending.clone());
        async move {
            line.request().await;
            match number {
                0 => {}
                1 => line.say("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nsome").await,
                2 => line.say("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nsome\r\n").await,
                _ => return line.say(TEXT).await,
            }
            asking.notify_one();
            assert!(line.ended().await);
            ending.notify_one();
        }
    })
    .await;
    let peer = server.peer();
    // Before the answer.
    tokio::select! {
        answer = peer.send(request("GET", &[], empty())) => panic!("{answer:?}"),
        () = asked.notified() => {}
    }
    ended.notified().await;
    // Within its body.
    for _ in 0..2 {
        let mut answer = peer.send(request("GET", &[], empty())).await.unwrap();
        assert_eq!(answer.body_mut().frame().await.unwrap().unwrap().into_data().unwrap(), "some");
        drop(answer);
        ended.notified().await;
    }
    assert_eq!(text(get(&peer).await), "text");
    assert_eq!(server.connections(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_changes_its_protocol_if_both_sides_say_so() {
    let server = Server::start(|_, mut line| async move {
        line.request().await;
        line.say("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\nearly ").await;
        let (mut read, mut write) = line.stream.split();
        tokio::io::copy(&mut read, &mut write).await.unwrap();
        write.shutdown().await.unwrap();
    })
    .await;
    let peer = server.peer();
    let asked = request("GET", &[("upgrade", "echo"), ("connection", "upgrade")], empty());
    let mut answer = peer.send(asked).await.unwrap();
    assert_eq!(answer.status().as_u16(), 101);
    let mut upgraded = answer.body_mut().take_upgraded().unwrap();
    assert!(answer.body_mut().take_upgraded().is_none() && answer.body_mut().frame().await.is_none());
    upgraded.write_all(b"late").await.unwrap();
    upgraded.shutdown().await.unwrap();
    let mut read = String::new();
    upgraded.read_to_string(&mut read).await.unwrap();
    assert_eq!(read, "early late");
    let said = &server.heard()[0];
    assert!(said.ends_with("\r\nupgrade: echo\r\nconnection: upgrade\r\n\r\n"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_silent_is_given_up() {
    let server = Server::start(|_, mut line| async move {
        line.request().await;
        line.ended().await;
    })
    .await;
    let moment = Duration::from_millis(100);
    let peer = server.peer_within(Deadlines { connect: moment, first_byte: moment, idle: moment });
    let error = peer.send(request("GET", &[], empty())).await.unwrap_err();
    assert!(matches!(error, ClientError::Late { after, .. } if after == moment * 2), "{error:?}");
    // Nobody answers at an address that is kept for documentation (RFC 5737).
    let nobody =
        Peer::origin(None, "192.0.2.1:9".parse().unwrap(), Deadlines { connect: moment, ..Deadlines::default() });
    let error = nobody.send(request("GET", &[], empty())).await.unwrap_err();
    assert!(matches!(error, ClientError::Unreachable { .. }) && !error.may_have_arrived(), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_is_gone_holds_no_connection() {
    let ended = Arc::new(Notify::new());
    let ending = ended.clone();
    let server = Server::start(move |_, mut line| {
        let ending = ending.clone();
        async move {
            line.request().await;
            line.say(TEXT).await;
            assert!(line.ended().await);
            ending.notify_one();
        }
    })
    .await;
    let peer = server.peer();
    assert_eq!(text(get(&peer).await), "text");
    drop(peer);
    ended.notified().await;
}
