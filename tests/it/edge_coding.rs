//! Objects of the store in content codings: made once, kept as variants, gone with the object that they are made of.

use std::net::SocketAddr;

use http::{Method, Response, StatusCode};
use metacdn::cache::SLICE_BYTES;

use crate::cluster::{Cluster, put, wait_until};
use crate::edge::{ask, fetch, ready, text};
use crate::edge_cache::{cache_status, kept};
use crate::sites::coding::{decoded, encodings, text as words};

async fn coded(public: SocketAddr, path: &str, more: &[(&str, &str)]) -> Response<Vec<u8>> {
    let fields: Vec<_> = [("accept-encoding", "gzip, br, zstd")].iter().chain(more).copied().collect();
    ask(public, Method::GET, path, &fields).await
}

fn plain(response: &Response<Vec<u8>>) -> Vec<u8> {
    decoded(&text(response.headers(), "content-encoding"), response.body()).to_vec()
}

async fn variant(public: SocketAddr, path: &str) -> Response<Vec<u8>> {
    wait_until("the variant is kept", async || {
        let tag = text(coded(public, path, &[]).await.headers(), "etag");
        tag.starts_with('"') && tag.contains("~zstd~")
    })
    .await;
    coded(public, path, &[]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_is_coded_once_and_anew_when_it_changes() {
    let cluster = Cluster::start(&["AWS"]).await;
    let (_edge, public, admin) = cluster.edge(|_| {}).await;
    ready(admin).await;
    put(&cluster.client("AWS"), "page.html", words(50_000).to_vec()).await;
    put(&cluster.client("AWS"), "picture.bin", words(50_000).to_vec()).await;
    let first = coded(public, "/page.html", &[]).await;
    assert_eq!(text(first.headers(), "content-encoding"), "zstd");
    assert_eq!(
        (cache_status(&first).as_str(), plain(&first)),
        ("metacdn; fwd=uri-miss; stored", words(50_000).to_vec())
    );
    let kept = variant(public, "/page.html").await;
    assert_eq!(
        (cache_status(&kept).as_str(), text(kept.headers(), "vary").as_str()),
        ("metacdn; hit", "Accept-Encoding")
    );
    assert_eq!((plain(&kept), encodings(admin).await), (words(50_000).to_vec(), 1));
    let tag = text(kept.headers(), "etag");
    let same = coded(public, "/page.html", &[("if-none-match", &tag)]).await;
    assert_eq!((same.status(), text(same.headers(), "etag")), (StatusCode::NOT_MODIFIED, tag.clone()));
    let part = coded(public, "/page.html", &[("range", "bytes=100-"), ("if-range", &tag)]).await;
    assert!(part.status() == StatusCode::PARTIAL_CONTENT && part.body()[..] == kept.body()[100..]);
    let picture = coded(public, "/picture.bin", &[]).await;
    assert_eq!((text(picture.headers(), "content-encoding"), text(picture.headers(), "vary")), Default::default());

    put(&cluster.client("AWS"), "page.html", words(40_000).to_vec()).await;
    wait_until("it has changed", async || plain(&coded(public, "/page.html", &[]).await).len() == 40_000).await;
    let changed = coded(public, "/page.html", &[("if-none-match", &tag)]).await;
    assert_eq!((changed.status(), plain(&changed).len()), (StatusCode::OK, 40_000));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edge_that_has_nothing_knows_the_tags_of_variants() {
    let cluster = Cluster::start(&["AWS"]).await;
    put(&cluster.client("AWS"), "page.html", words(50_000).to_vec()).await;
    let (_edge, public, admin) = cluster.edge(|_| {}).await;
    ready(admin).await;
    let tag = text(variant(public, "/page.html").await.headers(), "etag");
    let (_other, fresh, admin) = cluster.edge(|_| {}).await;
    ready(admin).await;
    let same = coded(fresh, "/page.html", &[("if-none-match", &tag)]).await;
    assert_eq!((same.status(), text(same.headers(), "etag")), (StatusCode::NOT_MODIFIED, tag.clone()));
    assert_eq!(cache_status(&same), "metacdn; fwd=uri-miss");
    let fields = [("if-none-match", &*tag), ("accept-encoding", "gzip")];
    let unread = ask(fresh, Method::GET, "/page.html", &fields).await;
    assert_eq!((unread.status(), plain(&unread)), (StatusCode::OK, words(50_000).to_vec()));
    let head = ask(fresh, Method::HEAD, "/page.html", &[("accept-encoding", "gzip")]).await;
    assert_eq!(text(head.headers(), "content-encoding"), "gzip");
    assert!(text(head.headers(), "etag").ends_with("~gzip\"") && !head.headers().contains_key("content-length"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_large_or_missing_is_coded_too() {
    let cluster = Cluster::start(&["AWS"]).await;
    let large = words(2 * SLICE_BYTES as usize + 999).to_vec();
    put(&cluster.client("AWS"), "large.csv", large.clone()).await;
    put(&cluster.client("AWS"), "404.html", words(5000).to_vec()).await;
    let (_edge, public, admin) = cluster.edge(|_| {}).await;
    ready(admin).await;
    assert!(plain(&coded(public, "/large.csv", &[]).await) == large);
    assert!(plain(&variant(public, "/large.csv").await) == large && encodings(admin).await == 1);
    kept(public, "/large.csv").await;
    assert!(fetch(public, "/large.csv").await.body() == &large);
    for _ in 0..2 {
        let missing = coded(public, "/nothing", &[]).await;
        assert_eq!((missing.status(), plain(&missing)), (StatusCode::NOT_FOUND, words(5000).to_vec()));
        assert_eq!(text(missing.headers(), "content-encoding"), "zstd");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edge_may_code_nothing() {
    let cluster = Cluster::start(&["AWS"]).await;
    put(&cluster.client("AWS"), "page.html", words(50_000).to_vec()).await;
    let (_edge, public, admin) = cluster.edge(|config| config.compression.codings.clear()).await;
    ready(admin).await;
    let page = coded(public, "/page.html", &[]).await;
    assert_eq!((page.body(), text(page.headers(), "vary")), (&words(50_000).to_vec(), String::new()));
}
