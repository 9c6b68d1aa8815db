//! What an HTTP/2 client may do, and what ends its stream or its connection.

use bytes::Bytes;
use http::StatusCode;
use tokio::sync::mpsc;

use super::clients::{Client, Protocol};
use super::raw_http2::{
    ACK, CANCEL, CONTINUATION, DATA, END_HEADERS, END_STREAM, ENHANCE_YOUR_CALM, GOAWAY, HEADERS, PING, PROTOCOL_ERROR,
    RST_STREAM, Raw, WINDOW_UPDATE, fields, frame, get,
};
use super::{Secure, request, site};
use crate::sites::origin::{Origin, answer, streamed};

async fn start() -> (Origin, Secure) {
    let origin = Origin::start(|asked| {
        let keep = if asked.uri.path() == "/large" { "max-age=99" } else { "no-store" };
        let body = if asked.uri.path() == "/large" { vec![b'x'; 1 << 20].into() } else { asked.body };
        answer(200, &[("cache-control", keep)], body)
    })
    .await;
    let secure = Secure::start(&[&site(&origin, "")]).await;
    (origin, secure)
}

/// `HEADERS` that begin and end a request.
pub fn whole(stream: u32, block: &[u8]) -> Vec<u8> {
    frame(HEADERS, END_HEADERS | END_STREAM, stream, block)
}

#[tokio::test(flavor = "multi_thread")]
async fn many_requests_are_answered_on_one_connection_and_in_any_order() {
    let (_origin, secure) = start().await;
    let mut raw = Raw::connect(&secure, &[]).await;
    let burst: Vec<u8> = (0..100).flat_map(|number| whole(2 * number + 1, &get("/", &[]))).collect();
    raw.send(&burst).await;
    let mut ended = std::collections::BTreeSet::new();
    while ended.len() < 100 {
        let frame = raw.until(&[HEADERS, DATA, RST_STREAM, GOAWAY]).await.expect("it goes on");
        assert!(frame.kind == HEADERS || frame.kind == DATA, "{frame:?}");
        if frame.flags & END_STREAM != 0 {
            ended.insert(frame.stream);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_requests_reach_nobody() {
    let (origin, secure) = start().await;
    let pseudo = [(":method", "GET"), (":scheme", "https"), (":authority", "site.example"), (":path", "/")];
    let without = |name: &str| {
        let left: Vec<_> = pseudo.into_iter().filter(|(known, _)| *known != name).collect();
        fields(&left)
    };
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("no method", without(":method")),
        ("no scheme", without(":scheme")),
        ("no path", without(":path")),
        ("no host", without(":authority")),
        ("an empty path", fields(&[&pseudo[..3], &[(":path", "")]].concat())),
        ("a path without a slash", fields(&[&pseudo[..3], &[(":path", "x")]].concat())),
        ("two methods", fields(&[&pseudo[..], &[(":method", "GET")]].concat())),
        ("a status", fields(&[&pseudo[..], &[(":status", "200")]].concat())),
        ("an unknown pseudo-field", fields(&[&pseudo[..], &[(":x", "y")]].concat())),
        ("a pseudo-field too late", fields(&[&pseudo[..3], &[("x", "y"), (":path", "/")]].concat())),
        ("a capital letter", get("/", &[("X", "y")])),
        ("a field of a connection", get("/", &[("connection", "close")])),
        ("chunks", get("/", &[("transfer-encoding", "chunked")])),
        ("an upgrade", get("/", &[("upgrade", "websocket")])),
        ("another coding of trailers", get("/", &[("te", "gzip")])),
        ("another host", get("/", &[("host", "other.example")])),
        ("white space", get("/", &[("x", " y")])),
        ("a line end", get("/", &[("x", "y\r\nz: 1")])),
        ("a length and no body", get("/", &[("content-length", "5")])),
        ("two lengths", get("/", &[("content-length", "0"), ("content-length", "0")])),
        ("a length that is no number", get("/", &[("content-length", "+0")])),
    ];
    for (what, block) in cases {
        let mut raw = Raw::connect(&secure, &[]).await;
        raw.send(&whole(1, &block)).await;
        let frame = raw.until(&[HEADERS, RST_STREAM, GOAWAY]).await;
        assert!(
            frame.as_ref().is_some_and(|frame| frame.kind != HEADERS && frame.code() == PROTOCOL_ERROR),
            "{what}: {frame:?}"
        );
    }
    assert!(origin.asked().is_empty(), "{:?}", origin.asked());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_of_another_length_than_stated_is_malformed() {
    let (origin, secure) = start().await;
    for (stated, sent) in [("3", &b"four"[..]), ("5", b"four")] {
        let mut raw = Raw::connect(&secure, &[]).await;
        let method = [(":method", "POST"), (":scheme", "https"), (":authority", "site.example"), (":path", "/")];
        let block = fields(&[&method[..], &[("content-length", stated)]].concat());
        raw.send(&frame(HEADERS, END_HEADERS, 1, &block)).await;
        raw.send(&frame(DATA, END_STREAM, 1, sent)).await;
        let frame = raw.until(&[RST_STREAM, GOAWAY]).await.unwrap();
        assert_eq!((frame.kind, frame.code()), (RST_STREAM, PROTOCOL_ERROR), "{stated}");
    }
    // What came of it was no whole request.
    assert!(origin.asked().is_empty(), "{:?}", origin.asked());
}

#[tokio::test(flavor = "multi_thread")]
async fn heads_that_are_too_large_are_told_so_and_endless_ones_end_the_connection() {
    let (origin, secure) = start().await;
    let mut raw = Raw::connect(&secure, &[]).await;
    let long = "x".repeat(8_000);
    let block = get("/", &[("a", &long), ("b", &long), ("c", &long)]);
    let (first, rest) = block.split_at(10_000);
    raw.send(&frame(HEADERS, END_STREAM, 1, first)).await;
    raw.send(&frame(CONTINUATION, END_HEADERS, 1, rest)).await;
    let head = raw.until(&[HEADERS, RST_STREAM, GOAWAY]).await.unwrap();
    // 431 in the letters of HPACK.
    assert!(head.kind == HEADERS && head.payload.ends_with(&[0x69, 0x90, 0xff]), "{head:?}");

    let mut raw = Raw::connect(&secure, &[]).await;
    raw.send(&frame(HEADERS, END_STREAM, 1, &get("/", &[]))).await;
    let piece = fields(&[("x", &"y".repeat(1_000))]);
    for _ in 0..10_000 {
        raw.send(&frame(CONTINUATION, 0, 1, &piece)).await;
    }
    let end = raw.until(&[GOAWAY]).await;
    assert!(end.is_none_or(|end| end.code() != 0));
    assert!(origin.asked().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_begins_and_resets_without_end_is_sent_away() {
    let (origin, secure) = start().await;
    let mut raw = Raw::connect(&secure, &[]).await;
    let block = get("/", &[]);
    for burst in 0..40_u32 {
        let streams = (0..250).map(|number| 2 * (burst * 250 + number) + 1);
        let frames =
            streams.flat_map(|stream| [whole(stream, &block), frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes())]);
        raw.send(&frames.flatten().collect::<Vec<u8>>()).await;
    }
    let end = raw.until(&[GOAWAY]).await;
    assert!(end.is_none_or(|end| end.code() == ENHANCE_YOUR_CALM));
    // Of 10,000 few came so far.
    assert!(origin.asked().len() < 2_000, "{}", origin.asked().len());
    let mut client = Client::connect(&secure, Protocol::Http2, "site.example").await;
    assert_eq!(client.ask(request("GET", "site.example", "/", &[])).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_nobody_takes_is_dropped_and_others_go_on() {
    let (origin, secure) = {
        let origin = Origin::start(|asked| {
            let keep = if asked.uri.path().starts_with("/kept") { "max-age=99" } else { "no-store" };
            answer(200, &[("cache-control", keep)], vec![b'x'; 100_000])
        })
        .await;
        let change = |config: &mut metacdn::edge::Config| config.serve.stall_timeout_ms = 300;
        let secure = Secure::start_with(&[&site(&origin, "")], change).await;
        (origin, secure)
    };
    let mut client = Client::connect(&secure, Protocol::Http2, "site.example").await;
    for _ in 0..2 {
        client.ask(request("GET", "site.example", "/kept", &[])).await;
    }
    // No room at all for bodies.
    let mut raw = Raw::connect(&secure, &[(4, 0)]).await;
    for (stream, path) in [(1, "/kept"), (3, "/passed")] {
        raw.send(&whole(stream, &get(path, &[]))).await;
        let reset = raw.until(&[RST_STREAM, GOAWAY, DATA]).await.unwrap();
        assert_eq!((reset.kind, reset.stream, reset.code()), (RST_STREAM, stream, CANCEL), "{path}");
    }
    raw.send(&whole(5, &get("/kept", &[]))).await;
    raw.send(&frame(WINDOW_UPDATE, 0, 5, &200_000_u32.to_be_bytes())).await;
    raw.send(&frame(WINDOW_UPDATE, 0, 0, &200_000_u32.to_be_bytes())).await;
    let mut length = 0;
    loop {
        let data = raw.until(&[DATA, RST_STREAM, GOAWAY]).await.unwrap();
        assert_eq!((data.kind, data.stream), (DATA, 5));
        length += data.payload.len();
        if data.flags & END_STREAM != 0 {
            break;
        }
    }
    assert_eq!(length, 100_000);
    drop(origin);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_without_requests_is_ended_by_goaway() {
    let origin = Origin::start(|_| answer(200, &[], "")).await;
    let change = |config: &mut metacdn::edge::Config| {
        config.serve.idle_timeout_ms = 200;
        config.serve.header_timeout_ms = 200;
    };
    let secure = Secure::start_with(&[&site(&origin, "")], change).await;
    for requests in [0, 1] {
        let mut raw = Raw::connect(&secure, &[]).await;
        if requests > 0 {
            raw.send(&whole(1, &get("/", &[]))).await;
        }
        let mut ends = Vec::new();
        while let Some(frame) = raw.until(&[GOAWAY, PING]).await {
            match frame.kind {
                PING => raw.send(&frame_ack(&frame.payload)).await,
                _ => ends.push(frame.code()),
            }
        }
        assert!(!ends.is_empty() && ends.iter().all(|code| *code == 0), "{ends:?}");
    }
}

fn frame_ack(payload: &[u8]) -> Vec<u8> {
    frame(PING, ACK, 0, payload)
}

#[tokio::test(flavor = "multi_thread")]
async fn running_answers_end_when_the_edge_stops_and_no_others_begin() {
    let (tell, mut told) = mpsc::unbounded_channel();
    let origin = Origin::start(move |_| {
        let (parts, answer) = streamed(&[("cache-control", "no-store")]);
        tell.send(parts).unwrap();
        answer
    })
    .await;
    let secure = Secure::start(&[&site(&origin, "")]).await;
    let mut raw = Raw::connect(&secure, &[]).await;
    raw.send(&whole(1, &get("/", &[]))).await;
    let parts = told.recv().await.unwrap();
    parts.send("one ").await;
    assert_eq!(raw.until(&[DATA]).await.unwrap().payload, b"one ");
    let stopping = tokio::spawn(secure.edge.stop());
    assert_eq!(raw.until(&[GOAWAY]).await.unwrap().code(), 0);
    let ping = raw.until(&[PING]).await.unwrap();
    raw.send(&frame_ack(&ping.payload)).await;
    parts.send("two").await;
    parts.end();
    let mut rest = Vec::new();
    while let Some(data) = raw.until(&[DATA, RST_STREAM]).await {
        assert_eq!(data.kind, DATA);
        rest.extend(data.payload);
    }
    assert_eq!(rest, b"two");
    stopping.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn tunnels_are_refused() {
    let (origin, secure) = start().await;
    let mut raw = Raw::connect(&secure, &[]).await;
    raw.send(&whole(1, &fields(&[(":method", "CONNECT"), (":authority", "site.example:443")]))).await;
    let head = raw.until(&[HEADERS, RST_STREAM]).await.unwrap();
    assert_eq!(head.kind, HEADERS, "a status says so");
    let extended = [(":method", "CONNECT"), (":protocol", "websocket"), (":scheme", "https")];
    raw.send(&whole(3, &fields(&[&extended[..], &[(":authority", "site.example"), (":path", "/")]].concat()))).await;
    let reset = raw.until(&[HEADERS, RST_STREAM, GOAWAY]).await.unwrap();
    assert!(reset.kind == HEADERS || reset.code() == PROTOCOL_ERROR, "{reset:?}");
    assert!(origin.asked().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn interim_answers_pass_and_a_client_is_told_to_go_on() {
    let site = crate::sites::spoken(|mut stream| async move {
        use tokio::io::AsyncWriteExt as _;
        stream.write_all(b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\nConnection: x\r\nx: 1\r\n\r\n").await.unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ntext").await.unwrap();
    })
    .await;
    let secure = Secure::start(&[&site]).await;
    let client = std::sync::Arc::new(secure.authority.client(&["h2"]));
    let stream = secure.connect(&client, "site.example").await.unwrap();
    let (mut requests, connection) = h2::client::handshake(stream).await.unwrap();
    let driver = tokio::spawn(connection);
    let (mut response, _) = requests.send_request(request("GET", "site.example", "/", &[]), true).unwrap();
    let hints = std::future::poll_fn(|cx| response.poll_informational(cx)).await.unwrap().unwrap();
    assert_eq!((hints.status(), hints.headers().len()), (StatusCode::EARLY_HINTS, 1));
    assert_eq!(hints.headers()["link"], "</a.css>");
    let answer = response.await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    driver.abort();

    let (_origin, secure) = start().await;
    let stream = secure.connect(&std::sync::Arc::new(secure.authority.client(&["h2"])), "site.example").await.unwrap();
    let (mut requests, connection) = h2::client::handshake(stream).await.unwrap();
    let driver = tokio::spawn(connection);
    let ask = request("POST", "site.example", "/", &[("expect", "100-continue")]);
    let (mut response, mut send) = requests.send_request(ask, false).unwrap();
    let go_on = std::future::poll_fn(|cx| response.poll_informational(cx)).await.unwrap().unwrap();
    assert_eq!(go_on.status(), StatusCode::CONTINUE);
    send.send_data(Bytes::from_static(b"a body"), true).unwrap();
    assert_eq!(response.await.unwrap().status(), StatusCode::OK);
    driver.abort();
}
