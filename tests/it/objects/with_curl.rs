//! Objects through curl, a client that users have.

use super::{TEXT, etag, one_node};
use crate::answers::{Answer, curl, curl_access};
use crate::cluster::Cluster;

/// Runs curl against `path` of the node.
fn at(cluster: &Cluster, path: &str, arguments: &[&str]) -> Answer {
    let (access, base) = curl_access(cluster, "AWS");
    let url = format!("{base}{path}");
    let all: Vec<&str> =
        access.iter().map(String::as_str).chain(arguments.iter().copied()).chain([url.as_str()]).collect();
    curl(&all)
}

#[tokio::test(flavor = "multi_thread")]
async fn curl_puts_gets_resumes_and_deletes() {
    let (cluster, _) = one_node().await;
    let file = cluster.folder.path().join("upload");
    std::fs::write(&file, TEXT).unwrap();
    let upload = ["--upload-file", file.to_str().unwrap()];
    let stored = at(&cluster, "/v1/objects/a%20b.txt", &upload);
    assert_eq!((stored.status, stored.header("etag")), (201, etag(TEXT).as_str()));
    let got = at(&cluster, "/v1/objects/a%20b.txt", &[]);
    assert_eq!((got.status, got.text().as_str(), got.header("content-type")), (200, TEXT, "text/plain; charset=utf-8"));
    let head = at(&cluster, "/v1/objects/a%20b.txt", &["--head"]);
    assert_eq!((head.status, head.header("content-length")), (200, "16"));
    let resumed = at(&cluster, "/v1/objects/a%20b.txt", &["--range", "10-"]);
    assert_eq!((resumed.status, resumed.text().as_str()), (206, "abcdef"));
    let several = at(&cluster, "/v1/objects/a%20b.txt", &["--range", "0-1,-2"]);
    assert!(several.header("content-type").starts_with("multipart/byteranges; boundary="));
    let unchanged = at(&cluster, "/v1/objects/a%20b.txt", &["--header", &format!("If-None-Match: {}", etag(TEXT))]);
    assert_eq!((unchanged.status, unchanged.body.len()), (304, 0));
    // `--path-as-is` is given: curl would resolve the dots itself and ask for something else.
    assert_eq!(at(&cluster, "/v1/objects/../status", &[]).status, 400);
    assert_eq!(at(&cluster, "/v1/objects/a%20b.txt", &["--request", "DELETE"]).status, 204);
    assert_eq!(at(&cluster, "/v1/objects/a%20b.txt", &[]).status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_is_asked_for_only_if_it_will_be_taken() {
    let mut cluster = Cluster::start(&[]).await;
    cluster.add_with("AWS", |config| config.object_bytes_max = 1 << 20).await;
    let file = cluster.folder.path().join("upload");
    std::fs::write(&file, vec![b'x'; 1 << 20]).unwrap();
    let upload = ["--header", "Expect: 100-continue", "--expect100-timeout", "20", "--write-out", "%{size_upload}"];
    let sent = |path: &str, more: &[&str]| {
        let arguments: Vec<_> =
            upload.iter().chain(&["--upload-file", file.to_str().unwrap()]).chain(more).copied().collect();
        let answer = at(&cluster, path, &arguments);
        let text = answer.text();
        // What curl writes out stands behind the body.
        let bytes = text[text.rfind('}').unwrap() + 1..].parse::<u64>().unwrap();
        (answer.status, bytes)
    };
    assert_eq!(sent("/v1/objects/a", &[]), (201, 1 << 20));
    assert_eq!(sent("/v1/objects/a", &["--header", "If-None-Match: *"]), (412, 0));
    assert_eq!(sent("/v1/objects/.metacdn/a", &[]), (400, 0));
    std::fs::write(&file, vec![b'x'; (1 << 20) + 1]).unwrap();
    assert_eq!(sent("/v1/objects/b", &[]), (413, 0));
}
