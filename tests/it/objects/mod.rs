//! Objects over HTTP, as RFC 9110 says.

mod conditions;
mod keys;
mod ranges;
mod with_curl;

use std::time::SystemTime;

use metacdn::client::Peer;
use metacdn::model::ContentHash;
use metacdn::protocol::status::Receipt;

use crate::answers::{Answer, ask};
use crate::cluster::Cluster;

const TEXT: &str = "0123456789abcdef";

/// A cluster of one node, and a client of it.
async fn one_node() -> (Cluster, Peer) {
    let cluster = Cluster::start(&["AWS"]).await;
    let client = cluster.client("AWS");
    (cluster, client)
}

async fn put(peer: &Peer, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
    ask(peer, "PUT", path, headers, body).await
}

async fn get(peer: &Peer, path: &str, headers: &[(&str, &str)]) -> Answer {
    ask(peer, "GET", path, headers, "").await
}

fn etag(text: &str) -> String {
    format!("\"{}\"", ContentHash::of(text.as_bytes()))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_put_is_served_with_all_that_describes_it() {
    let (_cluster, client) = one_node().await;
    let before = SystemTime::now();
    let stored = put(&client, "/v1/objects/a/text.txt", &[], TEXT).await;
    assert_eq!((stored.status, stored.header("etag")), (201, etag(TEXT).as_str()), "{stored:?}");
    let receipt: Receipt = serde_json::from_slice(&stored.body).unwrap();
    assert_eq!((receipt.key.as_str(), receipt.content.size, receipt.copies), ("a/text.txt", 16, 1));
    assert_eq!(stored.header("metacdn-version"), receipt.version.to_string());

    let got = get(&client, "/v1/objects/a/text.txt", &[]).await;
    assert_eq!((got.status, got.text().as_str()), (200, TEXT));
    for (name, value) in [
        ("etag", etag(TEXT).as_str()),
        ("content-type", "text/plain; charset=utf-8"),
        ("content-length", "16"),
        ("cache-control", "max-age=60"),
        ("accept-ranges", "bytes"),
        ("metacdn-version", &receipt.version.to_string()),
    ] {
        assert_eq!(got.header(name), value, "{name}");
    }
    let date = |name: &str| httpdate::parse_http_date(got.header(name)).unwrap();
    let second = std::time::Duration::from_secs(1);
    assert!(date("last-modified") + second > before && date("last-modified") <= date("date"), "{got:?}");

    let head = ask(&client, "HEAD", "/v1/objects/a/text.txt", &[], "").await;
    assert_eq!((head.status, head.body.len()), (200, 0));
    for (name, value) in got.headers.iter().filter(|(name, _)| *name != "date") {
        assert_eq!(head.headers.get(name), Some(value), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_that_replaces_another_is_not_created() {
    let (_cluster, client) = one_node().await;
    let status = async |text: &str| put(&client, "/v1/objects/a", &[], text).await.status;
    assert_eq!((status("1").await, status("2").await, status("2").await), (201, 200, 200));
    assert_eq!(get(&client, "/v1/objects/a", &[]).await.text(), "2");
    assert_eq!(ask(&client, "DELETE", "/v1/objects/a", &[], "").await.status, 204);
    assert_eq!(status("3").await, 201, "what was deleted is created anew");
}

#[tokio::test(flavor = "multi_thread")]
async fn media_type_and_cache_control_are_those_given_or_guessed() {
    let (_cluster, client) = one_node().await;
    let given = [("content-type", "application/x-cat; purr=1"), ("cache-control", "public, max-age=7, immutable")];
    for (path, headers, media_type, cache_control) in [
        ("cat.jpg", &[][..], "image/jpeg", "max-age=60"),
        ("page.html", &[], "text/html; charset=utf-8", "max-age=60"),
        ("no-ending", &[], "application/octet-stream", "max-age=60"),
        ("cat.png", &given, "application/x-cat; purr=1", "public, max-age=7, immutable"),
    ] {
        let path = format!("/v1/objects/{path}");
        assert_eq!(put(&client, &path, headers, TEXT).await.status, 201);
        let got = get(&client, &path, &[]).await;
        assert_eq!((got.header("content-type"), got.header("cache-control")), (media_type, cache_control), "{path}");
    }
    let long = "x".repeat(257);
    for bad in [("content-type", long.as_str()), ("cache-control", long.as_str()), ("content-type", "")] {
        let refused = put(&client, "/v1/objects/bad", &[bad], TEXT).await;
        assert_eq!(refused.status, 400, "{bad:?}");
        assert!(refused.problem().contains("header value"), "{refused:?}");
    }
    assert_eq!(get(&client, "/v1/objects/bad", &[]).await.status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_object_is_an_object() {
    let (_cluster, client) = one_node().await;
    assert_eq!(put(&client, "/v1/objects/empty", &[], "").await.status, 201);
    for method in ["GET", "HEAD"] {
        let got = ask(&client, method, "/v1/objects/empty", &[], "").await;
        assert_eq!((got.status, got.header("content-length"), got.body.len()), (200, "0", 0), "{method}");
        assert_eq!(got.header("etag"), etag(""));
    }
    for (range, status) in [("bytes=0-", 416), ("bytes=0-0", 416), ("bytes=-1", 200), ("bytes=-0", 416)] {
        assert_eq!(get(&client, "/v1/objects/empty", &[("range", range)]).await.status, status, "{range}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_object_streams_in_and_out_unchanged() {
    let (_cluster, client) = one_node().await;
    let large: Vec<u8> = (0..5_000_001_u32).map(|i| (i ^ i >> 9) as u8).collect();
    assert_eq!(ask(&client, "PUT", "/v1/objects/large", &[], large.clone()).await.status, 201);
    let got = get(&client, "/v1/objects/large", &[]).await;
    assert_eq!(got.header("content-length"), "5000001");
    assert!(got.body == large);
    let part = get(&client, "/v1/objects/large", &[("range", "bytes=1000000-3999999")]).await;
    assert_eq!((part.status, part.header("content-length")), (206, "3000000"));
    assert!(part.body == large[1_000_000..4_000_000]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_there_and_what_is_not_allowed_are_problems() {
    let (_cluster, client) = one_node().await;
    let missing = get(&client, "/v1/objects/missing", &[]).await;
    assert_eq!((missing.status, missing.problem().as_str()), (404, "there is no object missing"));
    assert_eq!(missing.header("metacdn-version"), "");
    let nothing = ask(&client, "HEAD", "/v1/objects/missing", &[], "").await;
    assert_eq!((nothing.status, nothing.body.len()), (404, 0));
    assert_eq!(ask(&client, "DELETE", "/v1/objects/missing", &[], "").await.status, 404);
    assert_eq!(get(&client, "/v2", &[]).await.problem(), "there is no path /v2");

    for (method, path, allowed) in [
        ("POST", "/v1/objects/a", &["GET", "HEAD", "PUT", "DELETE"][..]),
        ("DELETE", "/v1/objects", &["GET", "HEAD"]),
        ("PUT", "/v1/status", &["GET", "HEAD"]),
    ] {
        let refused = ask(&client, method, path, &[], "").await;
        assert_eq!((refused.status, refused.problem()), (405, format!("{method} is not for {path}")));
        let mut named: Vec<_> = refused.header("allow").split(',').map(str::trim).collect();
        named.sort_unstable();
        let mut allowed = allowed.to_vec();
        allowed.sort_unstable();
        assert_eq!(named, allowed, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deletion_is_told_apart_from_what_never_was() {
    let (_cluster, client) = one_node().await;
    put(&client, "/v1/objects/a", &[], TEXT).await;
    let deleted = ask(&client, "DELETE", "/v1/objects/a", &[], "").await;
    assert_eq!((deleted.status, deleted.body.len()), (204, 0));
    assert!(!deleted.headers.contains_key("content-length"), "RFC 9110 section 8.6: {deleted:?}");
    let version = deleted.header("metacdn-version");
    assert!(!version.is_empty());
    let gone = get(&client, "/v1/objects/a", &[]).await;
    assert_eq!((gone.status, gone.header("metacdn-version")), (404, version));
    assert_eq!(ask(&client, "DELETE", "/v1/objects/a", &[], "").await.status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn parts_and_codings_that_would_spoil_an_object_are_refused() {
    let (_cluster, client) = one_node().await;
    put(&client, "/v1/objects/a", &[], TEXT).await;
    let part = put(&client, "/v1/objects/a", &[("content-range", "bytes 0-2/16")], "xyz").await;
    assert_eq!(part.status, 400);
    assert!(part.problem().contains("Content-Range"));
    let coded = put(&client, "/v1/objects/a", &[("content-encoding", "gzip")], "xyz").await;
    assert_eq!((coded.status, coded.header("accept-encoding")), (415, "identity"));
    assert_eq!(get(&client, "/v1/objects/a", &[]).await.text(), TEXT);
    assert_eq!(put(&client, "/v1/objects/a", &[("content-encoding", "identity")], "xyz").await.status, 200);
}
