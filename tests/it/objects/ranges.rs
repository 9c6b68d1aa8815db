//! Range requests (RFC 9110 section 14).

use super::{TEXT, get, one_node, put};
use crate::answers::{Answer, ask};

const PATH: &str = "/v1/objects/a.txt";

#[tokio::test(flavor = "multi_thread")]
async fn one_range_is_that_part() {
    let (_cluster, client) = one_node().await;
    put(&client, PATH, &[], TEXT).await;
    for (range, text, content_range) in [
        ("bytes=0-0", "0", "bytes 0-0/16"),
        ("bytes=2-5", "2345", "bytes 2-5/16"),
        ("bytes=10-", "abcdef", "bytes 10-15/16"),
        ("bytes=10-999", "abcdef", "bytes 10-15/16"),
        ("bytes=-3", "def", "bytes 13-15/16"),
        ("bytes=-99", TEXT, "bytes 0-15/16"),
        ("bytes=0-15", TEXT, "bytes 0-15/16"),
        ("bytes=1-1,99-", "1", "bytes 1-1/16"),
        ("BYTES=1-1", "1", "bytes 1-1/16"),
    ] {
        let got = get(&client, PATH, &[("range", range)]).await;
        assert_eq!((got.status, got.text().as_str()), (206, text), "{range}");
        assert_eq!(got.header("content-range"), content_range);
        assert_eq!(got.header("content-length"), text.len().to_string());
        assert_eq!(got.header("content-type"), "text/plain; charset=utf-8");
        assert!(got.headers.contains_key("etag") && got.headers.contains_key("last-modified"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_range_is_ignored() {
    let (_cluster, client) = one_node().await;
    put(&client, PATH, &[], TEXT).await;
    let overlapping = format!("bytes={}", ["0-15"; 10].join(","));
    let many = format!("bytes={}", vec!["0-0"; 100].join(","));
    for range in ["bytes=5-2", "bytes=a-b", "bytes=", "bytes", "items=0-1", "bytes=--1", &overlapping, &many] {
        let got = get(&client, PATH, &[("range", range)]).await;
        assert_eq!((got.status, got.text().as_str()), (200, TEXT), "{range}");
        assert!(!got.headers.contains_key("content-range"));
    }
    let head = ask(&client, "HEAD", PATH, &[("range", "bytes=0-1")], "").await;
    assert_eq!((head.status, head.header("content-length")), (200, "16"), "ranges are for GET alone");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_range_behind_the_end_gets_416_and_the_size() {
    let (_cluster, client) = one_node().await;
    put(&client, PATH, &[], TEXT).await;
    for range in ["bytes=16-", "bytes=99-100", "bytes=-0", "bytes=18446744073709551616-", "bytes=16-,20-30"] {
        let got = get(&client, PATH, &[("range", range)]).await;
        assert_eq!((got.status, got.header("content-range")), (416, "bytes */16"), "{range}");
        assert_eq!(got.problem(), "there are 16 bytes");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn several_ranges_are_parts_of_one_body() {
    let (_cluster, client) = one_node().await;
    put(&client, PATH, &[], TEXT).await;
    for (range, expected) in [
        ("bytes=0-1,4-4", &[("0-1", "01"), ("4-4", "4")][..]),
        ("bytes=14-, 0-0, -1", &[("14-15", "ef"), ("0-0", "0"), ("15-15", "f")]),
        ("bytes=0-0,99-,3-3", &[("0-0", "0"), ("3-3", "3")]),
    ] {
        let got = get(&client, PATH, &[("range", range)]).await;
        assert_eq!(got.status, 206, "{range}");
        assert_eq!(got.header("content-length"), got.body.len().to_string());
        assert!(!got.headers.contains_key("content-range"));
        let expected: Vec<_> =
            expected.iter().map(|(range, text)| (format!("bytes {range}/16"), (*text).to_owned())).collect();
        assert_eq!(parts(&got), expected, "{range}");
    }
}

/// The parts of a `multipart/byteranges` body: the range of each and its bytes.
fn parts(answer: &Answer) -> Vec<(String, String)> {
    let boundary = answer.header("content-type").strip_prefix("multipart/byteranges; boundary=").unwrap();
    let text = answer.text();
    let (body, epilogue) = text.split_once(&format!("\r\n--{boundary}--\r\n")).unwrap();
    assert_eq!(epilogue, "");
    let delimiter = format!("\r\n--{boundary}\r\n");
    let mut pieces = body.split(&delimiter);
    assert_eq!(pieces.next(), Some(""), "nothing before the first part");
    let part = |piece: &str| {
        let (head, bytes) = piece.split_once("\r\n\r\n").unwrap();
        let (media_type, range) = head.split_once("\r\n").unwrap();
        assert_eq!(media_type, "Content-Type: text/plain; charset=utf-8");
        (range.strip_prefix("Content-Range: ").unwrap().to_owned(), bytes.to_owned())
    };
    pieces.map(part).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn blobs_have_ranges_too() {
    let (_cluster, client) = one_node().await;
    let stored = put(&client, PATH, &[], TEXT).await;
    let path = format!("/v1/blobs/{}", stored.json()["hash"].as_str().unwrap());
    let whole = get(&client, &path, &[]).await;
    assert_eq!((whole.status, whole.text().as_str(), whole.header("content-length")), (200, TEXT, "16"));
    let part = get(&client, &path, &[("range", "bytes=4-")]).await;
    assert_eq!((part.status, part.text().as_str()), (206, "456789abcdef"));
    assert_eq!(part.header("content-range"), "bytes 4-15/16");
    let behind = get(&client, &path, &[("range", "bytes=16-")]).await;
    assert_eq!((behind.status, behind.header("content-range")), (416, "bytes */16"));
    assert_eq!(get(&client, &format!("/v1/blobs/{}", "0".repeat(64)), &[]).await.status, 404);
    assert_eq!(get(&client, "/v1/blobs/abc", &[]).await.status, 400);
}
