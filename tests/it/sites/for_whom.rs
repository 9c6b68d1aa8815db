//! Whose answer goes to whom: nothing that is for one is given to another, and nobody decides what others get.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use http::StatusCode;
use metacdn::client::full;

use super::origin::{Origin, answer, streamed};
use super::{ask, fetch, field, in_front_of, kept, send, whole};
use crate::cluster::wait_until;
use crate::edge_cache::cache_status;

#[tokio::test(flavor = "multi_thread")]
async fn what_has_to_be_validated_for_each_is_not_the_answer_to_two() {
    let (parts, first) = streamed(&[("etag", "\"mine\""), ("set-cookie", "who=first")]);
    let first = Arc::new(Mutex::new(Some(first)));
    let origin = Origin::start(move |_| {
        let own = || answer(200, &[("etag", "\"yours\""), ("set-cookie", "who=other")], "of another");
        first.lock().unwrap().take().unwrap_or_else(own)
    })
    .await;
    let (_edge, public) = in_front_of(&origin).await;
    let one = tokio::spawn(async move { fetch(public, "/account").await });
    wait_until("the first has asked", async || origin.asked().len() == 1).await;
    let other = tokio::spawn(async move { fetch(public, "/account").await });
    parts.send("of the first").await;
    let other = other.await.unwrap();
    parts.end();
    assert_eq!((other.body().as_ref(), field(&other, "set-cookie").as_str()), (&b"of another"[..], "who=other"));
    assert_eq!(one.await.unwrap().body().as_ref(), b"of the first");
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_are_selected_by_what_the_origin_was_sent() {
    let origin = Origin::start(|asked| {
        let vary = if asked.uri.path() == "/from" { "x-forwarded-for" } else { "origin" };
        answer(200, &[("cache-control", "max-age=99"), ("vary", vary)], asked.field("origin"))
    })
    .await;
    let (_edge, public) = in_front_of(&origin).await;
    // Named in Connection, the field is not passed on: the origin has chosen for those who send none.
    ask(public, "GET", "/a", &[("origin", "https://good"), ("connection", "origin")]).await;
    let good = ask(public, "GET", "/a", &[("origin", "https://good")]).await;
    assert_eq!(good.body().as_ref(), b"https://good");
    ask(public, "GET", "/from", &[]).await;
    wait_until("what varies with what the edge adds is kept, too", async || {
        cache_status(&fetch(public, "/from").await).starts_with("metacdn; hit")
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stale_answer_beside_a_fresh_one_is_validated() {
    let number = AtomicUsize::new(0);
    let origin = Origin::start(move |asked| {
        let number = number.fetch_add(1, Ordering::Relaxed).to_string();
        match asked.field("accept-encoding").as_str() {
            "gzip" => {
                answer(200, &[("cache-control", "max-age=0"), ("etag", "\"g\""), ("vary", "accept-encoding")], number)
            }
            _ => answer(200, &[("cache-control", "max-age=99")], number),
        }
    })
    .await;
    let (_edge, public) = in_front_of(&origin).await;
    let gzip = [("accept-encoding", "gzip")];
    ask(public, "GET", "/a", &gzip).await;
    wait_until("the one that varies is kept", async || {
        cache_status(&ask(public, "GET", "/a", &gzip).await).contains("fwd=stale")
    })
    .await;
    fetch(public, "/a").await;
    kept(public, "/a").await;
    let again = cache_status(&ask(public, "GET", "/a", &gzip).await);
    assert_eq!(again, "metacdn; fwd=stale; stored");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_clients_say_that_no_key_has_does_not_reach_the_origin() {
    let origin = Origin::start(|_| answer(200, &[], "")).await;
    let (_edge, public) = in_front_of(&origin).await;
    let lies = [
        ("x-forwarded-port", "444"),
        ("x-forwarded-scheme", "http"),
        ("x_forwarded_host", "evil.example"),
        ("x-original-url", "/admin"),
        ("x-rewrite-url", "/admin"),
        ("x-http-method-override", "DELETE"),
        ("x-real-ip", "10.0.0.1"),
        ("http2-settings", "AAMAAABk"),
        ("upgrade", "h2c"),
    ];
    let headers: Vec<_> = lies.into_iter().chain([("connection", "upgrade, http2-settings")]).collect();
    assert_eq!(ask(public, "GET", "/", &headers).await.status(), StatusCode::OK);
    let asked = &origin.asked()[0];
    for (name, _) in lies {
        assert_eq!(asked.field(name), "", "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_was_done_is_not_told_to_have_failed() {
    let origin = Origin::start(|_| {
        let headers = [("etag", "\"new\""), ("content-location", "/doc"), ("cache-control", "max-age=99")];
        answer(200, &headers, "done")
    })
    .await;
    let (_edge, public) = in_front_of(&origin).await;
    let done = whole(send(public, "POST", "/doc", &[("if-match", "\"old\"")], full("x")).await).await;
    assert_eq!((done.status(), done.body().as_ref()), (StatusCode::OK, &b"done"[..]));
}

#[tokio::test(flavor = "multi_thread")]
async fn conditions_on_a_date_that_is_not_there_are_ignored() {
    let origin = Origin::start(|_| answer(200, &[("cache-control", "max-age=99")], "0123")).await;
    let (_edge, public) = in_front_of(&origin).await;
    fetch(public, "/a").await;
    kept(public, "/a").await;
    let past = "Sun, 06 Nov 1994 08:49:37 GMT";
    let answer = ask(public, "GET", "/a", &[("if-unmodified-since", past)]).await;
    assert_eq!(answer.status(), StatusCode::OK);
    let date = field(&answer, "date");
    let part = ask(public, "GET", "/a", &[("range", "bytes=1-2"), ("if-range", &date)]).await;
    assert_eq!((part.status(), part.body().as_ref()), (StatusCode::OK, &b"0123"[..]));
}
