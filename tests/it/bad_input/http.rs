//! Requests that are too large, too slow or contradict themselves.

use std::time::Duration;

use futures_util::future::join_all;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;

use super::{Bystander, nothing_stored, open_node};
use crate::answers::{Answer, ask, connect, connect_as, exchange};
use crate::cluster::{PATIENCE, get};

const PUT: &str = "PUT /v1/objects/a HTTP/1.1\r\nHost: a\r\n";

#[tokio::test(flavor = "multi_thread")]
async fn heads_that_are_too_large_get_431() {
    let (cluster, client) = open_node(|_| {}).await;
    let bystander = Bystander::of(&client);
    let long_path = format!("GET /v1/objects/{} HTTP/1.1\r\nHost: a\r\n\r\n", "a".repeat(1 << 20));
    let long_field = format!("{PUT}X: {}\r\n\r\n", "x".repeat(4 << 20));
    let many_fields = format!("{PUT}{}\r\n", (0..200).map(|n| format!("X-{n}: 1\r\n")).collect::<String>());
    for (head, statuses) in [(long_path, &[414, 431][..]), (long_field, &[431]), (many_fields, &[431])] {
        let refused = Answer::parse(&exchange(connect(&cluster, "AWS").await, head.as_bytes()).await);
        assert!(statuses.contains(&refused.status), "{refused:?}");
    }
    bystander.was_served().await;
    nothing_stored(&cluster, &client).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_contradict_themselves_get_400() {
    let (cluster, client) = open_node(|_| {}).await;
    for fields in [
        "Content-Length: 1\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nContent-Length: 1",
        "Content-Length: 1\r\nContent-Length: 2",
        "Content-Length: -1",
        "Content-Length: one",
        "Transfer-Encoding: gzip",
    ] {
        let request = format!("{PUT}{fields}\r\n\r\n1\r\nx\r\n0\r\n\r\n");
        let bytes = exchange(connect(&cluster, "AWS").await, request.as_bytes()).await;
        let refused = Answer::parse(&bytes);
        assert_eq!(refused.status, 400, "{fields}: {refused:?}");
        let answers = bytes.windows(5).filter(|window| window == b"HTTP/").count();
        assert_eq!(answers, 1, "{fields}: what follows is not taken for a request");
    }
    let bad_chunk = format!("{PUT}Transfer-Encoding: chunked\r\n\r\nzz\r\nx\r\n0\r\n\r\n");
    let refused = Answer::parse(&exchange(connect(&cluster, "AWS").await, bad_chunk.as_bytes()).await);
    assert_eq!(refused.status, 400);
    for range in ["bytes=99-", "bytes=-0"] {
        let refused = ask(&client, "GET", "/v1/objects/kept", &[("range", range)], "").await;
        assert_eq!((refused.status, refused.header("content-range")), (416, "bytes */4"), "{range}");
    }
    nothing_stored(&cluster, &client).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_that_break_off_or_are_too_large_store_nothing() {
    let (cluster, client) = open_node(|config| config.object_bytes_max = 1 << 20).await;
    let half = |fields: &str| format!("{PUT}{fields}\r\n\r\n5\r\nhello\r\n");
    for fields in ["Content-Length: 100", "Transfer-Encoding: chunked"] {
        let mut stream = connect(&cluster, "AWS").await;
        stream.write_all(half(fields).as_bytes()).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = Vec::new();
        let _ = timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("the node ends the connection");
        if !answer.is_empty() {
            assert_eq!(Answer::parse(&answer).status, 400, "{fields}");
        }
    }
    let declared = ask(&client, "PUT", "/v1/objects/a", &[], vec![b'x'; (1 << 20) + 1]).await;
    assert_eq!(declared.status, 413);
    assert!(declared.problem().contains("object_bytes_max"));
    // Without a declared length it is cut off where it is too much.
    let mut chunked = format!("{PUT}Transfer-Encoding: chunked\r\n\r\n").into_bytes();
    for _ in 0..40 {
        chunked.extend(b"10000\r\n");
        chunked.extend(vec![b'x'; 0x10000]);
        chunked.extend(b"\r\n");
    }
    chunked.extend(b"0\r\n\r\n");
    let refused = Answer::parse(&exchange(connect(&cluster, "AWS").await, &chunked).await);
    assert_eq!(refused.status, 413);
    nothing_stored(&cluster, &client).await;
}

/// Reads what comes until the node ends the connection.
async fn until_cut_off(mut stream: TlsStream<TcpStream>) -> Vec<u8> {
    let mut answer = Vec::new();
    let read = timeout(PATIENCE, stream.read_to_end(&mut answer)).await;
    // How a connection is cut, with or without a last word of TLS, does not matter.
    let _ = read.expect("a slow caller is cut off");
    answer
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_heads_bodies_and_packets_are_cut_off_and_cost_the_others_nothing() {
    let (cluster, client) = open_node(|config| {
        config.serve.header_timeout_ms = 1_000;
        config.serve.stall_timeout_ms = 1_000;
    })
    .await;
    let bystander = Bystander::of(&client);
    let slow = async |bytes: String, statuses: &[u16]| {
        let mut stream = connect(&cluster, "AWS").await;
        stream.write_all(bytes.as_bytes()).await.unwrap();
        stream.flush().await.unwrap();
        let answer = until_cut_off(stream).await;
        let status = if answer.is_empty() { 0 } else { Answer::parse(&answer).status };
        assert!(statuses.contains(&status), "{bytes:?}: {status}");
    };
    let heads = (0..40).map(|_| slow("GET /v1/status HTTP/1.1\r\nHos".to_owned(), &[0, 408]));
    let bodies = (0..40).map(|_| slow(format!("{PUT}Content-Length: 100\r\n\r\nhalf"), &[408]));
    let packets = (0..40).map(|_| async {
        let mut stream = connect_as(&cluster, "AWS", metacdn::model::Principal::Anonymous).await;
        stream.write_all(br#"{"file_name": "a", "distr"#).await.unwrap();
        stream.flush().await.unwrap();
        let line = String::from_utf8(until_cut_off(stream).await).unwrap();
        assert!(line.contains("no part of the packet came"), "{line:?}");
    });
    let all = async { tokio::join!(join_all(heads), join_all(bodies), join_all(packets)) };
    timeout(Duration::from_secs(10), all).await.expect("all are cut off soon");
    bystander.was_served().await;
    assert_eq!(get(&client, "a").await, None);
    nothing_stored(&cluster, &client).await;
}
