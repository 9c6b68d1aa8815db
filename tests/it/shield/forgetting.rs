//! What an edge has forgotten does not come back from its shield.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use http::StatusCode;
use metacdn::client::full;
use metacdn::edge;
use metacdn::model::{Purge, PurgeTarget};
use metacdn::protocol::feed::FeedQuery;

use super::{Edge, another_edge, asked_shield, at_door, counting, edge_among, kept, pair};
use crate::cluster::{Cluster, wait_until};
use crate::sites::origin::{Asked, Origin, answer};
use crate::sites::purging::purge_at;
use crate::sites::{ask, fetch, field, send, whole};

/// An origin whose answers last, and are numbered from 1 on.
async fn numbering(fields: &'static [(&'static str, &'static str)]) -> Origin {
    let number = AtomicUsize::new(1);
    Origin::start(move |_: Asked| answer(200, fields, number.fetch_add(1, Ordering::Relaxed).to_string())).await
}

async fn number_of(edge: &Edge, path: &str) -> u64 {
    String::from_utf8(fetch(edge.public, path).await.body().to_vec()).unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_edge_alone_was_told_to_forget_does_not_come_back_from_its_shield() {
    let number = Arc::new(AtomicUsize::new(0));
    let counted = number.clone();
    let origin = Origin::start(move |_| {
        let number = counted.fetch_add(1, Ordering::Relaxed);
        answer(200, &[("cache-control", "max-age=1000"), ("cache-tag", "all")], number.to_string())
    })
    .await;
    let cluster = Cluster::start(&[]).await;
    let (asking, shield, _) = pair(&cluster, &origin).await;
    kept(shield.public, "/a").await;
    for (edge, json) in [(&asking, r#"{"tag": "all"}"#), (&asking, r#"{"url": "http://site.example/a"}"#)] {
        kept(edge.public, "/a").await;
        let old = fetch(edge.public, "/a").await.into_body();
        purge_at(edge.admin, json).await;
        let new = fetch(edge.public, "/a").await;
        assert_ne!(*new.body(), old, "{json}");
        assert!(field(&new, "metacdn-route").contains("reason=shield"), "{:?}", new.headers());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shield_that_has_heard_less_does_not_answer() {
    let (cluster, origin) = (Cluster::start(&["AWS"]).await, counting().await);
    let (asking, shield, at) = pair(&cluster, &origin).await;
    kept(shield.public, "/a").await;
    let feed = FeedQuery { since: 0, epoch: None, limit: None, wait_ms: 0, records: false };
    let feed = cluster.client("AWS").feed(&feed).await.unwrap();
    let peer = another_edge(&cluster, &at);
    let heard = |epoch: &str, sequence| format!("http; heard=AWS:{epoch}:{sequence}");
    let epoch = feed.epoch.to_string();
    for (demand, status, said) in [
        (heard(&epoch, feed.next), StatusCode::OK, "hit"),
        (heard(&epoch, feed.next + 1), StatusCode::CONFLICT, ""),
        (heard("0123456789abcdef", 0), StatusCode::CONFLICT, ""),
        ("http; heard=GC:0123456789abcdef:0".to_owned(), StatusCode::CONFLICT, ""),
    ] {
        let answer = at_door(&peer, "/a", Some(&demand)).await;
        assert_eq!((answer.status(), &*field(&answer, "metacdn-shield")), (status, said), "{demand}");
    }
    // What comes in time is waited for.
    let demand = heard(&epoch, feed.next + 1);
    let target = PurgeTarget::Host("other.example".to_owned());
    let purge = async { cluster.client("AWS").purge(&Purge::new(target, false).unwrap()).await.unwrap() };
    let (answer, _) = tokio::join!(at_door(&peer, "/a", Some(&demand)), purge);
    assert_eq!((answer.status(), &*field(&answer, "metacdn-shield")), (StatusCode::OK, "hit"));
    drop(asking);
}

#[tokio::test(flavor = "multi_thread")]
async fn once_an_edge_has_heard_of_a_purge_nothing_older_comes() {
    let number = AtomicUsize::new(1);
    let origin = Origin::start(move |_| {
        let number = number.fetch_add(1, Ordering::Relaxed);
        answer(200, &[("cache-control", "max-age=1000"), ("cache-tag", "all")], number.to_string())
    })
    .await;
    let cluster = Cluster::start(&["AWS", "GC"]).await;
    let (asking, shield, at) = pair(&cluster, &origin).await;
    let seen = async |edge: &Edge| {
        let answer = fetch(edge.public, "/a").await;
        String::from_utf8(answer.body().to_vec()).unwrap().parse::<u64>().unwrap()
    };
    let mut newest = 0;
    for _ in 0..20 {
        kept(shield.public, "/a").await;
        kept(asking.public, "/a").await;
        let before = seen(&asking).await;
        assert!(before >= newest);
        cluster.client("AWS").purge(&Purge::new(PurgeTarget::Tag("all".to_owned()), false).unwrap()).await.unwrap();
        wait_until("it hears of the purge", async || seen(&asking).await > before).await;
        newest = seen(&asking).await;
        for _ in 0..10 {
            assert!(seen(&asking).await >= newest);
        }
    }
    assert!(asked_shield(&asking, &at, "Hit").await + asked_shield(&asking, &at, "Miss").await > 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_write_has_changed_does_not_come_back_and_all_else_does() {
    let origin = numbering(&[("cache-control", "max-age=1000")]).await;
    let cluster = Cluster::start(&[]).await;
    let (asking, shield, at) = pair(&cluster, &origin).await;
    kept(shield.public, "/b").await;
    for method in ["POST", "PUT", "DELETE"] {
        kept(shield.public, "/a").await;
        kept(asking.public, "/a").await;
        let old = number_of(&shield, "/a").await.max(number_of(&asking, "/a").await);
        whole(send(asking.public, method, "/a", &[], full("a body")).await).await;
        let new = fetch(asking.public, "/a").await;
        assert!(field(&new, "metacdn-route").contains("reason=shield"), "{:?}", new.headers());
        assert!(number_of(&asking, "/a").await > old, "{method}");
    }
    let before = asked_shield(&asking, &at, "Hit").await;
    assert_eq!(number_of(&asking, "/b").await, number_of(&shield, "/b").await);
    assert_eq!(asked_shield(&asking, &at, "Hit").await, before + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_purged_softly_at_the_shield_is_asked_about() {
    let origin =
        numbering(&[("cache-control", "max-age=1000, stale-while-revalidate=1000"), ("cache-tag", "all")]).await;
    let cluster = Cluster::start(&["AWS"]).await;
    let (asking, shield, _) = pair(&cluster, &origin).await;
    kept(shield.public, "/a").await;
    kept(asking.public, "/a").await;
    let old = number_of(&asking, "/a").await;
    cluster.client("AWS").purge(&Purge::new(PurgeTarget::Tag("all".to_owned()), true).unwrap()).await.unwrap();
    // Stale in the eyes of the edge that has the client, and validated behind.
    wait_until("it is renewed", async || number_of(&asking, "/a").await > old).await;
    drop(shield);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shield_gives_other_edges_nothing_stale() {
    let broken = Arc::new(AtomicBool::new(false));
    let is_broken = broken.clone();
    let origin = Origin::start(move |_| match is_broken.load(Ordering::Relaxed) {
        true => answer(503, &[], ""),
        false => answer(200, &[("cache-control", "max-age=1000"), ("cache-tag", "all")], "old"),
    })
    .await;
    let cluster = Cluster::start(&[]).await;
    let (asking, shield, at) = pair(&cluster, &origin).await;
    kept(shield.public, "/a").await;
    let peer = another_edge(&cluster, &at);
    let at_shield = async || {
        let answer = at_door(&peer, "/a", Some("http")).await;
        (answer.status(), field(&answer, "metacdn-shield"))
    };
    assert_eq!(at_shield().await, (StatusCode::OK, "hit".to_owned()));
    purge_at(shield.admin, r#"{"tag": "all", "soft": true}"#).await;
    broken.store(true, Ordering::Relaxed);
    assert_eq!(at_shield().await, (StatusCode::SERVICE_UNAVAILABLE, "miss".to_owned()));
    let answer = ask(asking.public, "GET", "/a", &[("cache-control", "max-stale=1000")]).await;
    assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_edge_alone_was_told_to_forget_does_not_come_back_after_its_restart() {
    let origin = numbering(&[("cache-control", "max-age=1000"), ("cache-tag", "all")]).await;
    let cluster = Cluster::start(&["AWS"]).await;
    let (_, shield, at) = pair(&cluster, &origin).await;
    let folder = tempfile::tempdir().unwrap();
    for (path, disk) in [("/a", None), ("/b", Some(folder.path().to_owned()))] {
        let start = async || {
            let on_disk = |config: &mut edge::Config| config.cache.disk.folder = disk.clone();
            edge_among(&cluster, &origin, std::slice::from_ref(&at), None, on_disk).await
        };
        let asking = start().await;
        kept(shield.public, path).await;
        let old = number_of(&shield, path).await;
        purge_at(asking.admin, r#"{"tag": "all"}"#).await;
        let after = format!("{path}/after");
        kept(shield.public, &after).await;
        asking.running.stop().await;
        let asking = start().await;
        assert!(number_of(&asking, path).await > old, "{path}");
        let after = fetch(asking.public, &after).await;
        assert_eq!(field(&after, "cache-status").contains("; hit"), disk.is_some(), "{:?}", after.headers());
    }
}
