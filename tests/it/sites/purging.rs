//! Purges: what was fetched before one is not used after it, at any edge, whatever runs meanwhile.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use http::StatusCode;
use metacdn::client::{empty, full};
use metacdn::model::{Purge, PurgeTarget};

use super::origin::{Asked, Origin, answer, streamed};
use super::{ask, edge_of_sites, fetch, field, kept, send, site, whole};
use crate::cluster::{Cluster, Running, put, wait_until};
use crate::edge_cache::cache_status;

/// An origin whose answers last, have a tag by their first folder and count themselves.
async fn counting() -> Origin {
    counting_with("max-age=1000").await
}

async fn counting_with(cache_control: &'static str) -> Origin {
    let number = AtomicUsize::new(0);
    Origin::start(move |asked: Asked| {
        let number = number.fetch_add(1, Ordering::Relaxed);
        let folder = asked.uri.path().split('/').nth(1).unwrap_or_default().to_owned();
        let fields = [("cache-control", cache_control), ("etag", "\"1\""), ("cache-tag", &format!("all, {folder}"))];
        match asked.field("if-none-match").as_str() {
            "" => answer(200, &fields, number.to_string()),
            _ => answer(304, &fields, ""),
        }
    })
    .await
}

pub async fn purge_at(admin: SocketAddr, json: &str) {
    let host = admin.to_string();
    let headers = [("content-type", "application/json"), ("host", &*host)];
    let purged = whole(send(admin, "POST", "/v1/purges", &headers, full(json.to_owned())).await).await;
    assert_eq!(purged.status(), StatusCode::NO_CONTENT, "{json}: {:?}", purged.body());
}

/// What the cache does for each of these paths.
async fn look(edge: SocketAddr, paths: &[&str]) -> Vec<String> {
    let mut seen = Vec::new();
    for path in paths {
        let status = cache_status(&fetch(edge, path).await);
        seen.push(status.split(';').nth(1).unwrap_or_default().trim().to_owned());
    }
    seen
}

#[tokio::test(flavor = "multi_thread")]
async fn a_purge_is_about_what_it_names_and_nothing_else() {
    let origin = counting().await;
    let (_edge, public, admin) = edge_of_sites(&[&site(&[&origin])]).await;
    let paths = ["/a/1", "/a/1?b", "/a/2", "/b/1"];
    for (json, expected) in [
        (r#"{"url": "http://site.example/a/1"}"#, ["fwd=uri-miss", "hit", "hit", "hit"]),
        (r#"{"url": "https://SITE.example:443/a/1?b"}"#, ["hit", "fwd=uri-miss", "hit", "hit"]),
        (r#"{"prefix": "site.example/a/1"}"#, ["fwd=uri-miss", "fwd=uri-miss", "hit", "hit"]),
        (r#"{"prefix": "site.example/a"}"#, ["fwd=uri-miss", "fwd=uri-miss", "fwd=uri-miss", "hit"]),
        (r#"{"host": "site.example"}"#, ["fwd=uri-miss"; 4]),
        (r#"{"host": "other.example"}"#, ["hit"; 4]),
        (r#"{"tag": "b"}"#, ["hit", "hit", "hit", "fwd=uri-miss"]),
        (r#"{"tag": "all"}"#, ["fwd=uri-miss"; 4]),
        (r#"{"tag": "al"}"#, ["hit"; 4]),
        (r#"{"url": "site.example/b/1", "soft": true}"#, ["hit", "hit", "hit", "fwd=stale"]),
        (r#"{"tag": "a", "soft": true}"#, ["fwd=stale", "fwd=stale", "fwd=stale", "hit"]),
    ] {
        for path in paths {
            kept(public, path).await;
        }
        purge_at(admin, json).await;
        assert_eq!(look(public, &paths).await, expected, "{json}");
    }
    let host = admin.to_string();
    let headers = [("content-type", "application/json"), ("host", &*host)];
    let refused = whole(send(admin, "POST", "/v1/purges", &headers, full("{}")).await).await;
    assert_eq!(refused.status(), StatusCode::UNPROCESSABLE_ENTITY);
    assert!(String::from_utf8_lossy(refused.body()).contains("exactly one of url, prefix, host and tag"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fetch_that_ran_when_it_was_purged_is_no_answer_to_those_who_come_after() {
    let (parts, response) = streamed(&[("cache-control", "max-age=1000")]);
    let first = Arc::new(Mutex::new(Some(response)));
    let origin = Origin::start(move |_| {
        first.lock().unwrap().take().unwrap_or_else(|| answer(200, &[("cache-control", "max-age=1000")], "new"))
    })
    .await;
    let (_edge, public, admin) = edge_of_sites(&[&site(&[&origin])]).await;
    let old = send(public, "GET", "/a", &[], empty());
    let (old, ()) = tokio::join!(old, parts.send("old "));
    purge_at(admin, r#"{"host": "site.example"}"#).await;
    // It runs still, and is not read along.
    assert_eq!(fetch(public, "/a").await.body(), "new");
    parts.send("bytes").await;
    parts.end();
    assert_eq!(whole(old).await.body(), "old bytes");
    // Nor is it kept when it ends, in the place of what is newer.
    assert_eq!(fetch(public, "/a").await.body(), "new");
    kept(public, "/a").await;
    assert_eq!(fetch(public, "/a").await.body(), "new");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_soft_purge_of_what_many_read_asks_the_origin_once() {
    let origin = counting().await;
    let (_edge, public, admin) = edge_of_sites(&[&site(&[&origin])]).await;
    kept(public, "/a").await;
    let before = origin.asked().len();
    purge_at(admin, r#"{"tag": "all", "soft": true}"#).await;
    let mut readers = tokio::task::JoinSet::new();
    for _ in 0..200 {
        readers.spawn(async move { fetch(public, "/a").await });
    }
    let answers = readers.join_all().await;
    assert!(answers.iter().all(|answer| answer.body() == "0"), "the bytes stay");
    let asked = origin.asked().len() - before;
    assert!(asked <= 2, "{asked} times");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_purged_softly_is_asked_about_whatever_may_be_used_stale() {
    let origin = counting_with("max-age=60, stale-while-revalidate=86400, stale-if-error=86400").await;
    let (_edge, public, admin) = edge_of_sites(&[&site(&[&origin])]).await;
    kept(public, "/a").await;
    let before = origin.asked().len();
    purge_at(admin, r#"{"tag": "all", "soft": true}"#).await;
    let answer = fetch(public, "/a").await;
    assert_eq!(answer.status(), StatusCode::OK);
    assert_eq!(origin.asked().len(), before + 1, "it was asked before it was used: {answer:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_each_reader_validates_is_validated_by_all_at_once() {
    let origin = counting_with("no-cache").await;
    let (_edge, public, _) = edge_of_sites(&[&site(&[&origin])]).await;
    fetch(public, "/a").await;
    let before = origin.asked().len();
    let mut readers = tokio::task::JoinSet::new();
    for _ in 0..100 {
        readers.spawn(async move { fetch(public, "/a").await });
    }
    let answers = readers.join_all().await;
    assert!(answers.iter().all(|answer| answer.body() == "0"));
    let asked = origin.asked().split_off(before);
    assert_eq!(asked.len(), 100);
    assert!(asked.iter().all(|asked| asked.field("if-none-match") == "\"1\""), "nobody fetches it whole");
}

async fn edge_of(cluster: &Cluster, origin: &Origin) -> (Running, SocketAddr, SocketAddr) {
    let site = toml::from_str(&site(&[origin])).unwrap();
    let (running, public, admin) = cluster.edge(|config| config.site = vec![site]).await;
    crate::edge::ready(admin).await;
    (running, public, admin)
}

#[tokio::test(flavor = "multi_thread")]
async fn all_edges_of_a_cluster_hear_of_a_purge_within_a_second() {
    let cluster = Cluster::start(&["AWS", "GC"]).await;
    let origin = counting().await;
    let (_one, first, _) = edge_of(&cluster, &origin).await;
    let (_two, second, _) = edge_of(&cluster, &origin).await;
    let mut took = Vec::new();
    for round in 0..10 {
        for edge in [first, second] {
            kept(edge, "/a").await;
        }
        let old = [fetch(first, "/a").await.into_body(), fetch(second, "/a").await.into_body()];
        let target =
            if round % 2 == 0 { PurgeTarget::Tag("all".into()) } else { PurgeTarget::Host("site.example".into()) };
        let node = if round % 3 == 0 { "AWS" } else { "GC" };
        cluster.client(node).purge(&Purge::new(target, false).unwrap()).await.unwrap();
        let start = Instant::now();
        wait_until("both have forgotten it", async || {
            fetch(first, "/a").await.body() != &old[0] && fetch(second, "/a").await.body() != &old[1]
        })
        .await;
        took.push(start.elapsed());
    }
    assert!(took.iter().all(|took| *took < Duration::from_secs(1)), "{took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edge_that_hears_nobody_asks_before_it_uses_what_it_has_and_knows_afterwards() {
    let mut cluster = Cluster::start(&["AWS"]).await;
    let origin = counting().await;
    let (_edge, public, _) = edge_of(&cluster, &origin).await;
    kept(public, "/a").await;
    cluster.stop("AWS").await;
    wait_until("it is asked about", async || {
        cache_status(&fetch(public, "/a").await).starts_with("metacdn; fwd=stale; fwd-status=304")
    })
    .await;
    cluster.restart("AWS").await;
    cluster.client("AWS").purge(&Purge::new(PurgeTarget::Tag("all".into()), false).unwrap()).await.unwrap();
    wait_until("it has heard", async || fetch(public, "/a").await.body() != "0").await;
    kept(public, "/a").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_of_the_store_are_purged_by_their_urls() {
    let cluster = Cluster::start(&["AWS"]).await;
    put(&cluster.client("AWS"), "docs/index.html", "page").await;
    put(&cluster.client("AWS"), "a b.txt", "text").await;
    let (_edge, public, admin) = cluster.edge(|_| {}).await;
    crate::edge::ready(admin).await;
    let local = [("host", "localhost")];
    let status = async |path: &str| cache_status(&ask(public, "GET", path, &local).await);
    for (purge, path) in [
        (r#"{"url": "localhost/docs/"}"#, "/docs/"),
        (r#"{"url": "http://localhost/a%20b.txt"}"#, "/a%20b.txt"),
        (r#"{"prefix": "localhost/docs"}"#, "/docs/"),
        (r#"{"host": "localhost"}"#, "/a%20b.txt"),
    ] {
        wait_until("it is kept", async || status(path).await == "metacdn; hit").await;
        purge_at(admin, purge).await;
        assert_eq!(status(path).await, "metacdn; fwd=uri-miss; stored", "{purge}");
    }
    let read = ask(public, "GET", "/docs/", &local).await;
    assert_eq!(
        (read.body().as_ref(), field(&read, "content-type")),
        (&b"page"[..], "text/html; charset=utf-8".to_owned())
    );
}

/// What the disk tier has of `path` came so many days earlier.
fn age(folder: &std::path::Path, path: &str, days: u64) {
    let index = rusqlite::Connection::open(folder.join("index.sqlite")).unwrap();
    let sql = "SELECT id, size, key, head FROM heads JOIN representations USING (id)";
    let row = |row: &rusqlite::Row<'_>| {
        Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?, row.get::<_, Vec<u8>>(2)?, row.get::<_, Vec<u8>>(3)?))
    };
    let mut statement = index.prepare(sql).unwrap();
    let rows: Vec<_> = statement.query_map([], row).unwrap().map(Result::unwrap).collect();
    let mut aged = 0;
    for (id, size, key, head) in rows.into_iter().filter(|(_, _, key, _)| key.ends_with(path.as_bytes())) {
        let mut head: serde_json::Value = serde_json::from_slice(&head).unwrap();
        let received = &mut head["terms"]["Answer"]["freshness"]["received_ms"];
        *received = (received.as_u64().unwrap() - days * 24 * 3_600_000).into();
        let head = serde_json::to_vec(&head).unwrap();
        let mut sum = xxhash_rust::xxh3::Xxh3::new();
        [id as u64, size as u64, key.len() as u64].iter().for_each(|number| sum.update(&number.to_le_bytes()));
        sum.update(&key);
        sum.update(&head);
        let sql = "UPDATE heads SET head = ?2, head_sum = ?3 WHERE id = ?1";
        aged += index.execute(sql, rusqlite::params![id, head, sum.digest() as i64]).unwrap();
    }
    assert_eq!(aged, 1, "{path} is on the disk");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edge_that_was_away_for_longer_than_purges_are_told_asks_before_it_uses_what_it_has() {
    let cluster = Cluster::start(&["AWS"]).await;
    let origin = Origin::start(|asked: Asked| {
        let fields = [("cache-control", "max-age=31536000"), ("etag", "\"1\"")];
        if asked.field("if-none-match").is_empty() { answer(200, &fields, "text") } else { answer(304, &fields, "") }
    })
    .await;
    let folder = tempfile::tempdir().unwrap();
    let start = async || {
        let sites = vec![toml::from_str(&site(&[&origin])).unwrap()];
        let on_disk = |config: &mut metacdn::edge::Config| {
            (config.site, config.cache.disk.folder) = (sites, Some(folder.path().to_owned()));
        };
        let (running, public, admin) = cluster.edge(on_disk).await;
        crate::edge::ready(admin).await;
        (running, public)
    };
    let (edge, public) = start().await;
    for path in ["/old", "/young"] {
        kept(public, path).await;
    }
    edge.stop().await;
    for (days, expected) in [(5, "hit"), (3, "fwd=stale"), (0, "hit")] {
        age(folder.path(), "/old", days);
        let (edge, public) = start().await;
        let only = [("cache-control", "only-if-cached")];
        let is_read = async || ask(public, "GET", "/young", &only).await.status() == StatusCode::OK;
        wait_until("the disk is read", is_read).await;
        // Given without a question, so all purges were heard.
        kept(public, "/new").await;
        assert_eq!(look(public, &["/young", "/old", "/old"]).await, ["hit", expected, "hit"], "{days} days more");
        edge.stop().await;
    }
}
