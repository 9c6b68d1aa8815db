//! The life of coded variants: made along with a fetch, broken with it, gone with what they are made of.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{Response, StatusCode};
use http_body_util::BodyExt as _;
use metacdn::cache::SLICE_BYTES;
use metacdn::client::empty;

use super::coding::{PAGE, decoded, encodings, get, page, text, variant};
use super::origin::{Asked, Body, Origin, Parts, answer, streamed};
use super::{edge_of_sites, edge_with, fetch, field, in_front_of, send, site, whole};
use crate::cluster::wait_until;
use crate::edge_cache::cache_status;

/// An origin that streams what is sent into the returned [`Parts`], one for each answer.
async fn streaming() -> (Origin, Arc<Mutex<Vec<Parts>>>) {
    let begun = Arc::new(Mutex::new(Vec::new()));
    let parts = begun.clone();
    let origin = Origin::start(move |_| -> Response<Body> {
        let (sender, response) = streamed(&PAGE);
        parts.lock().unwrap().push(sender);
        response
    })
    .await;
    (origin, begun)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_origin_that_breaks_off_breaks_the_coded_answer_and_nothing_is_kept() {
    let (origin, begun) = streaming().await;
    let (_edge, public, admin) = edge_of_sites(&[&site(&[&origin])]).await;
    for number in 1..3 {
        let reading =
            tokio::spawn(async move { send(public, "GET", "/a", &[("accept-encoding", "br")], empty()).await });
        wait_until("the origin is asked", async || begun.lock().unwrap().len() == 1).await;
        let parts = begun.lock().unwrap().pop().unwrap();
        parts.send(text(100_000)).await;
        let mut response = reading.await.unwrap();
        assert_eq!(field(&response, "content-encoding"), "br");
        // Something of it has come.
        assert!(!response.frame().await.unwrap().unwrap().into_data().unwrap().is_empty());
        drop(parts);
        assert!(response.into_body().collect().await.is_err());
        assert_eq!(origin.asked().len(), number, "nothing is there to answer with");
    }
    assert_eq!(encodings(admin).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_stands_still_holds_nobody_up() {
    let (origin, begun) = streaming().await;
    let (_edge, public) = in_front_of(&origin).await;
    let accepts = [("accept-encoding", "gzip")];
    let standing = tokio::spawn(async move { send(public, "GET", "/a", &accepts, empty()).await });
    wait_until("the origin is asked", async || begun.lock().unwrap().len() == 1).await;
    let parts = begun.lock().unwrap().pop().unwrap();
    parts.send(text(1000)).await;
    let standing = standing.await.unwrap();
    let going = tokio::spawn(async move { whole(send(public, "GET", "/a", &accepts, empty()).await).await });
    let page = text(4 << 20);
    parts.send(page.clone()).await;
    parts.end();
    let expected = [text(1000), page].concat();
    assert!(decoded("gzip", going.await.unwrap().body()) == expected);
    assert!(decoded("gzip", whole(standing).await.body()) == expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_variant_lives_and_dies_with_what_it_is_made_of() {
    let number = Arc::new(AtomicUsize::new(1));
    let current = number.clone();
    let origin = Origin::start(move |asked: Asked| {
        let number = current.load(Ordering::Relaxed);
        let (tag, round) = (format!("\"{}\"", number / 10), number.to_string());
        let fields = [("content-type", "text/plain"), ("cache-control", "max-age=0"), ("etag", &tag), ("x", &round)];
        match asked.field("if-none-match") == tag {
            true => answer(304, &fields, ""),
            false => answer(200, &fields, [format!("{} ", number / 10).into_bytes(), text(9000).to_vec()].concat()),
        }
    })
    .await;
    let (_edge, public, admin) = edge_of_sites(&[&site(&[&origin])]).await;
    let old = variant(public, "/a", "zstd").await;
    // It is freshened with its source, and not made again.
    number.store(2, Ordering::Relaxed);
    let fresh = get(public, "/a", "zstd", &[]).await;
    assert!(cache_status(&fresh).contains("fwd-status=304"), "{}", cache_status(&fresh));
    assert_eq!((field(&fresh, "x").as_str(), field(&fresh, "etag")), ("2", field(&old, "etag")));
    assert_eq!((fresh.body(), encodings(admin).await), (old.body(), 1));
    // What has changed has other variants.
    number.store(13, Ordering::Relaxed);
    let changed = variant(public, "/a", "zstd").await;
    assert!(decoded("zstd", changed.body()).starts_with(b"1 ") && field(&changed, "etag").starts_with("\"1~zstd~"));
    let host = admin.to_string();
    let fields = [("content-type", "application/json"), ("host", &*host)];
    let purge = metacdn::client::full(r#"{"url": "http://site.example/a"}"#);
    assert_eq!(whole(send(admin, "POST", "/v1/purges", &fields, purge).await).await.status(), StatusCode::NO_CONTENT);
    number.store(27, Ordering::Relaxed);
    let purged = get(public, "/a", "zstd", &[]).await;
    assert!(decoded("zstd", purged.body()).starts_with(b"2 "), "{:?}", purged.headers());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_text_in_slices_is_coded_as_a_whole() {
    let page = text(3 * SLICE_BYTES as usize + 1234);
    let size = page.len();
    let origin = page_of(page.clone()).await;
    let (_edge, public, admin) = edge_of_sites(&[&site(&[&origin])]).await;
    let part = get(public, "/a", "gzip", &[("range", "bytes=10-19")]).await;
    assert!(part.status() == StatusCode::PARTIAL_CONTENT && part.body() == &page[10..20]);
    assert_eq!(origin.asked()[0].field("accept-encoding"), "identity", "a part of a coding would be of no use");
    let first = get(public, "/a", "gzip", &[]).await;
    assert!(decoded("gzip", first.body()) == page, "{:?}", first.headers());
    let kept = variant(public, "/a", "gzip").await;
    assert!(kept.body() == first.body() && kept.body().len() < size / 2 && encodings(admin).await == 1);
    assert!(fetch(public, "/a").await.body() == &page);
}

/// An origin that gives parts of `page`.
async fn page_of(page: Bytes) -> Origin {
    Origin::start(move |asked: Asked| {
        let range = asked.field("range");
        let Some((first, last)) = range.strip_prefix("bytes=").and_then(|range| range.split_once('-')) else {
            return answer(200, &PAGE, page.clone());
        };
        let start: usize = first.parse().unwrap();
        let end = last.parse().map_or(page.len(), |last: usize| last + 1).min(page.len());
        let range = format!("bytes {start}-{}/{}", end - 1, page.len());
        let mut response = answer(206, &PAGE, page.slice(start..end));
        response.headers_mut().insert("content-range", range.parse().unwrap());
        response
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_asked_for_often_is_made_once_more_and_smaller() {
    let origin = page(100_000).await;
    let (_edge, public, admin) = edge_of_sites(&[&site(&[&origin])]).await;
    let quick = variant(public, "/a", "gzip").await;
    wait_until("there is a smaller one", async || {
        let again = get(public, "/a", "gzip", &[]).await;
        assert!(decoded("gzip", again.body()) == text(100_000));
        again.body().len() < quick.body().len() && field(&again, "etag") != field(&quick, "etag")
    })
    .await;
    assert_eq!(encodings(admin).await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_cache_each_answer_is_coded_for_itself() {
    let origin = page(50_000).await;
    let off = |config: &mut metacdn::edge::Config| config.cache.capacity_bytes = 0;
    let (_edge, public, admin) = edge_with(&[&site(&[&origin])], off).await;
    for number in 1..4 {
        let gzip = get(public, "/a", "gzip", &[]).await;
        assert!(decoded(&field(&gzip, "content-encoding"), gzip.body()) == text(50_000));
        assert_eq!(field(&gzip, "etag"), "W/\"v~gzip\"");
        assert_eq!(encodings(admin).await, number);
    }
}
