//! Conditional requests (RFC 9110 section 13).

use super::{TEXT, etag, get, one_node, put};
use crate::answers::ask;

const PATH: &str = "/v1/objects/a";
const LONG_AGO: &str = "Sun, 06 Nov 1994 08:49:37 GMT";

#[tokio::test(flavor = "multi_thread")]
async fn reads_are_answered_by_their_conditions() {
    let (_cluster, client) = one_node().await;
    put(&client, PATH, &[("cache-control", "max-age=7")], TEXT).await;
    let modified = get(&client, PATH, &[]).await.header("last-modified").to_owned();
    let (current, weak) = (etag(TEXT), format!("W/{}", etag(TEXT)));
    let listed = format!("\"x\", {weak} , \"y\"");
    for (name, value, status) in [
        ("if-none-match", current.as_str(), 304),
        ("if-none-match", weak.as_str(), 304),
        ("if-none-match", listed.as_str(), 304),
        ("if-none-match", "*", 304),
        ("if-none-match", "\"other\"", 200),
        ("if-match", current.as_str(), 200),
        ("if-match", "*", 200),
        ("if-match", weak.as_str(), 412),
        ("if-match", "\"other\"", 412),
        ("if-modified-since", modified.as_str(), 304),
        ("if-modified-since", LONG_AGO, 200),
        ("if-modified-since", "yesterday", 200),
        ("if-unmodified-since", modified.as_str(), 200),
        ("if-unmodified-since", LONG_AGO, 412),
    ] {
        for method in ["GET", "HEAD"] {
            let got = ask(&client, method, PATH, &[(name, value)], "").await;
            assert_eq!(got.status, status, "{method} {name}: {value}");
            if status == 304 {
                assert_eq!((got.body.len(), got.header("content-length")), (0, ""), "{got:?}");
                for described in ["etag", "last-modified", "date", "metacdn-version"] {
                    assert!(got.headers.contains_key(described), "a 304 has {described}");
                }
                assert_eq!(got.header("cache-control"), "max-age=7");
            }
        }
    }
    let both = [("if-none-match", "\"other\""), ("if-modified-since", modified.as_str())];
    assert_eq!(get(&client, PATH, &both).await.status, 200, "the tag goes before the date");
    assert_eq!(get(&client, "/v1/objects/none", &[("if-none-match", "*")]).await.status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_happen_only_if_their_conditions_hold() {
    let (_cluster, client) = one_node().await;
    let (first, second) = (etag("1"), etag("2"));
    for (name, value, body, status, then) in [
        ("if-match", "*", "x", 412, None),
        ("if-none-match", "*", "1", 201, Some("1")),
        ("if-none-match", "*", "x", 412, Some("1")),
        ("if-match", second.as_str(), "x", 412, Some("1")),
        ("if-match", first.as_str(), "2", 200, Some("2")),
        ("if-match", first.as_str(), "x", 412, Some("2")),
        ("if-none-match", second.as_str(), "x", 412, Some("2")),
        ("if-none-match", first.as_str(), "3", 200, Some("3")),
        ("if-unmodified-since", LONG_AGO, "x", 412, Some("3")),
    ] {
        let stored = put(&client, PATH, &[(name, value)], body).await;
        assert_eq!(stored.status, status, "{name}: {value} with {body}");
        if status == 412 {
            stored.problem();
        }
        let got = get(&client, PATH, &[]).await;
        assert_eq!((got.status == 200).then(|| got.text()).as_deref(), then, "{name}: {value}");
    }
    let refused = ask(&client, "DELETE", PATH, &[("if-match", first.as_str())], "").await;
    assert_eq!(refused.status, 412);
    let third = etag("3");
    assert_eq!(ask(&client, "DELETE", PATH, &[("if-match", third.as_str())], "").await.status, 204);
    let gone = ask(&client, "DELETE", PATH, &[("if-match", third.as_str())], "").await;
    assert_eq!(gone.status, 404, "conditions count only where the request would succeed");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_who_create_at_once_one_succeeds() {
    let (_cluster, client) = one_node().await;
    let create = |number: usize| {
        let client = client.clone();
        async move {
            let body = format!("{number}");
            (put(&client, PATH, &[("if-none-match", "*")], &body).await.status, body)
        }
    };
    let answers = futures_util::future::join_all((0..16).map(create)).await;
    let created: Vec<_> = answers.iter().filter(|(status, _)| *status == 201).collect();
    assert_eq!(created.len(), 1, "{answers:?}");
    assert!(answers.iter().all(|(status, _)| matches!(status, 201 | 412)), "{answers:?}");
    assert_eq!(get(&client, PATH, &[]).await.text(), created[0].1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_range_goes_with_what_the_caller_has() {
    let (_cluster, client) = one_node().await;
    put(&client, PATH, &[], TEXT).await;
    let modified = get(&client, PATH, &[]).await.header("last-modified").to_owned();
    let (current, weak) = (etag(TEXT), format!("W/{}", etag(TEXT)));
    for (value, status, text) in [
        (current.as_str(), 206, "23"),
        (modified.as_str(), 206, "23"),
        (weak.as_str(), 200, TEXT),
        ("\"other\"", 200, TEXT),
        (LONG_AGO, 200, TEXT),
        ("nonsense", 200, TEXT),
    ] {
        let got = get(&client, PATH, &[("range", "bytes=2-3"), ("if-range", value)]).await;
        assert_eq!((got.status, got.text().as_str()), (status, text), "{value}");
    }
    let behind = [("range", "bytes=99-"), ("if-range", "\"other\"")];
    assert_eq!(get(&client, PATH, &behind).await.status, 200, "the range is not looked at");
    let unchanged = [("range", "bytes=2-3"), ("if-none-match", current.as_str())];
    assert_eq!(get(&client, PATH, &unchanged).await.status, 304, "conditions go before ranges");
}
