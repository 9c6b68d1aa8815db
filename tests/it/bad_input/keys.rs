//! Keys that are none, by HTTP and in packets.

use metacdn::model::Principal;
use serde_json::json;

use super::{nothing_stored, open_node};
use crate::answers::{Answer, ask, connect, exchange};
use crate::packets::send;

#[tokio::test(flavor = "multi_thread")]
async fn bad_keys_in_paths_are_refused_each_for_its_reason() {
    let (cluster, client) = open_node(|_| {}).await;
    let (long, long_encoded) = ("a".repeat(1025), "%C3%BC".repeat(513));
    for (path, reason) in [
        ("", "empty"),
        ("/etc/passwd", "leading slash"),
        ("%2Fetc/passwd", "leading slash"),
        ("..", "segments . or .."),
        ("../status", "segments . or .."),
        ("a/../../b", "segments . or .."),
        ("a/%2e%2e/b", "segments . or .."),
        ("a%2F..%2Fb", "segments . or .."),
        ("a/.", "segments . or .."),
        ("a//b", "empty segments"),
        ("a/", "empty segments"),
        ("a%00b", "control character U+0000"),
        ("a%0D%0Ab", "control character U+000D"),
        ("a%7F", "control character U+007F"),
        ("a%C2%85", "control character U+0085"),
        ("%FF", "not UTF-8"),
        ("a%C0%AFb", "not UTF-8"),
        (&long, "at most 1024 bytes, this one has 1025"),
        (&long_encoded, "at most 1024 bytes, this one has 1026"),
        (".metacdn/nodes/AWS", "the cluster's own"),
        (".metacdn", "the cluster's own"),
        ("%2Emetacdn/prices/AWS", "the cluster's own"),
    ] {
        for method in ["PUT", "GET", "DELETE"] {
            let refused = ask(&client, method, &format!("/v1/objects/{path}"), &[], "x").await;
            assert_eq!(refused.status, 400, "{method} {path}");
            assert!(refused.problem().contains(reason), "{method} {path}: {}", refused.problem());
        }
    }
    // What no client of ours would send: bytes that a path cannot have.
    for path in ["a\u{1}b", "a b", "a\tb"] {
        let request = format!("PUT /v1/objects/{path} HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx");
        let refused = Answer::parse(&exchange(connect(&cluster, "AWS").await, request.as_bytes()).await);
        assert_eq!(refused.status, 400, "{path:?}");
    }
    nothing_stored(&cluster, &client).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_keys_in_packets_are_refused_each_for_its_reason() {
    let (cluster, client) = open_node(|_| {}).await;
    let long = "a".repeat(1025);
    for (name, reason) in [
        ("", "no file_name"),
        ("/etc/passwd", "leading slash"),
        ("../../etc/passwd", "segments . or .."),
        ("a//b", "empty segments"),
        ("a\u{0}b", "control character U+0000"),
        ("a\nb", "control character U+000A"),
        (&long, "longer than the 1024 bytes"),
        (".metacdn/prices/AWS", "the cluster's own"),
    ] {
        let json = json!({ "file_name": name, "distributed": "F", "content": "QUJD" }).to_string().into_bytes();
        let length = name.len();
        let mut protobuf = vec![0x12];
        // A length beyond 127 takes two bytes.
        protobuf.extend(if length < 128 { vec![length as u8] } else { vec![length as u8 | 0x80, (length >> 7) as u8] });
        protobuf.extend(name.as_bytes());
        protobuf.extend(b"\x0A\x04QUJD\x1A\x01F");
        for packet in [json, protobuf] {
            let answer = send(&cluster, "AWS", Principal::Anonymous, &packet).await;
            let error = answer["error"].as_str().unwrap_or_else(|| panic!("{name:?}: {answer}"));
            assert!(error.contains(reason), "{name:?}: {error}");
        }
    }
    let status = ask(&client, "GET", "/v1/status", &[], "").await.json();
    assert_eq!((status["objects"].clone(), status["strays"].clone()), (json!(1), json!(0)));
    assert_eq!(ask(&client, "GET", "/v1/prices", &[], "").await.json(), json!({}));
}
