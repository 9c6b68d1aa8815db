//! What is kept of the answers of origins, for how long, and for whom.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use http::{Method, StatusCode};
use http_body_util::BodyExt as _;
use metacdn::client::empty;
use metacdn::edge;

use super::origin::{Origin, Parts, answer, streamed};
use super::{ask, edge_with, fetch, field, in_front_of, kept, send, site, whole};
use crate::cluster::wait_until;
use crate::edge_cache::cache_status;

const LASTING: (&str, &str) = ("cache-control", "max-age=100");

#[tokio::test(flavor = "multi_thread")]
async fn what_is_fresh_is_answered_without_the_origin() {
    let origin = Origin::start(|asked| answer(200, &[LASTING, ("x-path", asked.uri.path())], "text")).await;
    let (_edge, public) = in_front_of(&origin).await;
    let first = fetch(public, "/a?b=1").await;
    assert_eq!(
        (first.status(), first.body().as_ref(), field(&first, "x-path").as_str()),
        (StatusCode::OK, &b"text"[..], "/a")
    );
    assert_eq!(cache_status(&first), "metacdn; fwd=uri-miss; stored");
    kept(public, "/a?b=1").await;
    let hit = fetch(public, "/a?b=1").await;
    assert_eq!((hit.body().as_ref(), field(&hit, "age").as_str()), (&b"text"[..], "0"));
    assert!(cache_status(&hit).starts_with("metacdn; hit; ttl="), "{}", cache_status(&hit));
    let other = fetch(public, "/a?b=2").await;
    assert_eq!(cache_status(&other), "metacdn; fwd=uri-miss; stored", "the query belongs to the key");
    assert_eq!(origin.asked().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_stale_is_validated_and_its_bytes_stay() {
    let origin = Origin::start(|asked| match asked.field("if-none-match").as_str() {
        "\"v1\"" => answer(304, &[("etag", "\"v1\""), ("cache-control", "max-age=0"), ("x-round", "2")], ""),
        _ => answer(200, &[("etag", "\"v1\""), ("cache-control", "max-age=0"), ("x-round", "1")], "bytes"),
    })
    .await;
    let (_edge, public) = in_front_of(&origin).await;
    fetch(public, "/a").await;
    wait_until("it is validated", async || {
        let again = fetch(public, "/a").await;
        assert_eq!(again.body().as_ref(), b"bytes");
        cache_status(&again).starts_with("metacdn; fwd=stale; fwd-status=304") && field(&again, "x-round") == "2"
    })
    .await;
    let mine = ask(public, "GET", "/a", &[("if-none-match", "\"v1\"")]).await;
    assert_eq!((mine.status(), mine.body().len()), (StatusCode::NOT_MODIFIED, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_who_miss_at_once_make_one_fetch() {
    let (parts, response) = streamed(&[LASTING]);
    let response = Arc::new(Mutex::new(Some(response)));
    let origin =
        Origin::start(move |_| response.lock().unwrap().take().unwrap_or_else(|| answer(500, &[], "asked twice")))
            .await;
    let (_edge, public) = in_front_of(&origin).await;
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..1_000 {
        tasks.spawn(async move { fetch(public, "/a").await });
    }
    parts.send("first ").await;
    // It streams: somebody has the head before the body has ended.
    let early = send(public, "GET", "/a", &[], empty()).await;
    assert_eq!(early.status(), StatusCode::OK);
    parts.send("second").await;
    parts.end();
    assert_eq!(whole(early).await.body().as_ref(), b"first second");
    let answers = tasks.join_all().await;
    assert!(answers.iter().all(|answer| answer.body().as_ref() == b"first second"));
    assert_eq!(origin.asked().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_may_not_be_shared_holds_nobody_up() {
    let number = AtomicUsize::new(0);
    let origin = Origin::start(move |_| {
        let number = number.fetch_add(1, Ordering::Relaxed);
        answer(200, &[("cache-control", "no-store")], number.to_string())
    })
    .await;
    let (_edge, public) = in_front_of(&origin).await;
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..50 {
        tasks.spawn(async move { fetch(public, "/a").await.into_body() });
    }
    let mut answers = tasks.join_all().await;
    answers.sort();
    answers.dedup();
    assert_eq!(answers.len(), 50, "each has its own");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_large_to_be_kept_passes_in_bounded_memory() {
    let (parts, response) = streamed(&[LASTING]);
    let response = Arc::new(Mutex::new(Some(response)));
    let origin = Origin::start(move |_| response.lock().unwrap().take().unwrap()).await;
    let small = |config: &mut edge::Config| config.cache.object_bytes_max = 1 << 20;
    let (_edge, public, _) = edge_with(&[&site(&[&origin])], small).await;
    let reading = tokio::spawn(async move { fetch(public, "/a").await });
    for _ in 0..128 {
        parts.send(vec![7; 64 << 10]).await;
    }
    parts.end();
    let read = reading.await.unwrap();
    assert!(read.body().len() == 8 << 20 && read.body().iter().all(|byte| *byte == 7));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_reads_slowly_what_is_not_kept_holds_the_origin_up_and_no_memory_grows() {
    let (parts, response) = streamed(&[LASTING]);
    let response = Arc::new(Mutex::new(Some(response)));
    let origin = Origin::start(move |_| response.lock().unwrap().take().unwrap()).await;
    let small = |config: &mut edge::Config| config.cache.object_bytes_max = 1 << 20;
    let (_edge, public, _) = edge_with(&[&site(&[&origin])], small).await;
    // It reads nothing but the head.
    let standing = send(public, "GET", "/a", &[], empty());
    let (standing, sent) = tokio::join!(standing, async {
        let mut sent = 0;
        while parts.try_send(vec![7; 64 << 10].into()).await {
            sent += 64 << 10;
            assert!(sent < 64 << 20, "nothing holds it up");
        }
        sent
    });
    assert!(sent < 32 << 20, "{sent} bytes are on their way");
    drop(standing);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_breaks_off_is_not_kept_and_ends_the_answer() {
    let number = AtomicUsize::new(0);
    let parts: Arc<Mutex<Vec<Parts>>> = Arc::default();
    let held = parts.clone();
    let origin = Origin::start(move |_| {
        if number.fetch_add(1, Ordering::Relaxed) > 0 {
            return answer(200, &[LASTING], "whole");
        }
        let (parts, response) = streamed(&[LASTING]);
        held.lock().unwrap().push(parts);
        response
    })
    .await;
    let (_edge, public) = in_front_of(&origin).await;
    let broken = send(public, "GET", "/a", &[], empty()).await;
    drop(parts.lock().unwrap().pop());
    assert!(broken.into_body().collect().await.is_err());
    wait_until("it is fetched anew", async || fetch(public, "/a").await.body().as_ref() == b"whole").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stale_while_revalidate_answers_at_once_and_asks_once_behind() {
    let number = AtomicUsize::new(0);
    let origin = Origin::start(move |_| {
        let number = number.fetch_add(1, Ordering::Relaxed).to_string();
        answer(200, &[("cache-control", "max-age=0, stale-while-revalidate=100")], number)
    })
    .await;
    let (_edge, public) = in_front_of(&origin).await;
    fetch(public, "/a").await;
    wait_until("it is kept", async || cache_status(&fetch(public, "/a").await).contains("hit; ttl")).await;
    wait_until("a newer one comes from behind", async || {
        let answer = fetch(public, "/a").await;
        let is_new = answer.body().as_ref() != b"0";
        // While a newer one comes it may be read along.
        assert!(is_new || cache_status(&answer).contains("detail=stale"), "{}", cache_status(&answer));
        is_new
    })
    .await;
    assert!(origin.asked().len() >= 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn stale_if_error_stands_in_for_an_origin_in_trouble() {
    let fails = Arc::new(AtomicUsize::new(0));
    let switch = fails.clone();
    let origin = Origin::start(move |_| match switch.load(Ordering::Relaxed) {
        0 => answer(200, &[("cache-control", "max-age=0, stale-if-error=100")], "good"),
        _ => answer(503, &[], "trouble"),
    })
    .await;
    let (_edge, public) = in_front_of(&origin).await;
    fetch(public, "/a").await;
    wait_until("it is kept", async || cache_status(&fetch(public, "/a").await).starts_with("metacdn; fwd=stale")).await;
    fails.store(1, Ordering::Relaxed);
    let stale = fetch(public, "/a").await;
    assert_eq!((stale.status(), stale.body().as_ref()), (StatusCode::OK, &b"good"[..]));
    let other = fetch(public, "/b").await;
    assert_eq!((other.status(), other.body().as_ref()), (StatusCode::SERVICE_UNAVAILABLE, &b"trouble"[..]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_succeeds_forgets_what_it_changes() {
    let number = AtomicUsize::new(0);
    let origin = Origin::start(move |asked| {
        let number = number.fetch_add(1, Ordering::Relaxed).to_string();
        match asked.method {
            Method::POST if asked.uri.path() == "/fail" => answer(403, &[], ""),
            Method::POST => answer(201, &[("location", "/made")], ""),
            _ => answer(200, &[LASTING], number),
        }
    })
    .await;
    let (_edge, public) = in_front_of(&origin).await;
    for path in ["/list", "/made", "/fail"] {
        fetch(public, path).await;
        kept(public, path).await;
    }
    ask(public, "POST", "/list", &[]).await;
    ask(public, "POST", "/fail", &[]).await;
    for (path, status) in [("/list", "metacdn; fwd"), ("/made", "metacdn; fwd"), ("/fail", "metacdn; hit")] {
        let answer = fetch(public, path).await;
        assert!(cache_status(&answer).starts_with(status), "{path}: {}", cache_status(&answer));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_that_vary_are_kept_side_by_side() {
    let origin =
        Origin::start(|asked| answer(200, &[LASTING, ("vary", "Accept-Language")], asked.field("accept-language")))
            .await;
    let (_edge, public) = in_front_of(&origin).await;
    for language in ["de", "fr"] {
        ask(public, "GET", "/a", &[("accept-language", language)]).await;
    }
    wait_until("both are kept", async || {
        let mut hits = 0;
        for language in ["de", "fr"] {
            let answer = ask(public, "GET", "/a", &[("accept-language", language)]).await;
            assert_eq!(answer.body().as_ref(), language.as_bytes());
            hits += usize::from(cache_status(&answer).starts_with("metacdn; hit"));
        }
        hits == 2
    })
    .await;
    let third = ask(public, "GET", "/a", &[("accept-language", "it")]).await;
    assert_eq!((third.body().as_ref(), cache_status(&third).as_str()), (&b"it"[..], "metacdn; fwd=vary-miss; stored"));
}

#[tokio::test(flavor = "multi_thread")]
async fn parts_of_what_is_kept_come_from_memory_and_others_from_the_origin() {
    let origin = Origin::start(|asked| match asked.field("range").as_str() {
        "" => answer(200, &[LASTING, ("etag", "\"v\"")], "0123456789"),
        _ => answer(206, &[LASTING, ("etag", "\"v\""), ("content-range", "bytes 1-2/10")], "12"),
    })
    .await;
    let (_edge, public) = in_front_of(&origin).await;
    let part = |headers: &'static [(&str, &str)]| ask(public, "GET", "/a", headers);
    let cold = part(&[("range", "bytes=1-2")]).await;
    assert_eq!((cold.status(), cold.body().as_ref()), (StatusCode::PARTIAL_CONTENT, &b"12"[..]));
    fetch(public, "/a").await;
    kept(public, "/a").await;
    let asked = origin.asked().len();
    let warm = part(&[("range", "bytes=-3"), ("if-range", "\"v\"")]).await;
    assert_eq!(
        (warm.status(), warm.body().as_ref(), field(&warm, "content-range").as_str()),
        (StatusCode::PARTIAL_CONTENT, &b"789"[..], "bytes 7-9/10")
    );
    let beyond = part(&[("range", "bytes=20-")]).await;
    assert_eq!(
        (beyond.status(), field(&beyond, "content-range").as_str()),
        (StatusCode::RANGE_NOT_SATISFIABLE, "bytes */10")
    );
    let head = ask(public, "HEAD", "/a", &[]).await;
    assert_eq!((field(&head, "content-length").as_str(), head.body().len()), ("10", 0));
    assert_eq!(origin.asked().len(), asked);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_if_cached_asks_nobody() {
    let origin = Origin::start(|_| answer(200, &[LASTING], "")).await;
    let (_edge, public) = in_front_of(&origin).await;
    let answer = ask(public, "GET", "/a", &[("cache-control", "only-if-cached")]).await;
    assert_eq!((answer.status(), origin.asked().len()), (StatusCode::GATEWAY_TIMEOUT, 0));
    fetch(public, "/a").await;
    kept(public, "/a").await;
    assert_eq!(ask(public, "GET", "/a", &[("cache-control", "only-if-cached")]).await.status(), StatusCode::OK);
}
