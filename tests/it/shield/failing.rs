//! What is held against a shield, and what it may cost.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use http::StatusCode;
use metacdn::edge;

use super::{another_edge, asked_shield, at_door, counting, edge_among, pair, socket};
use crate::cluster::{Cluster, free_address, put, wait_until};
use crate::sites::origin::{Origin, answer};
use crate::sites::{ask, fetch, field, site};

#[tokio::test(flavor = "multi_thread")]
async fn what_a_client_says_of_edges_ejects_no_shield() {
    let (cluster, origin) = (Cluster::start(&[]).await, counting().await);
    let (asking, _shield, at) = pair(&cluster, &origin).await;
    let loops = [("cdn-loop", "metacdn, metacdn, metacdn")];
    for number in 0..5 {
        let answer = ask(asking.public, "GET", &format!("/{number}"), &loops).await;
        assert_eq!(answer.status(), StatusCode::OK);
        assert!(!field(&answer, "metacdn-route").contains("passed="), "{:?}", answer.headers());
    }
    assert!(field(&fetch(asking.public, "/a").await, "metacdn-route").contains("reason=shield"));
    assert_eq!(asked_shield(&asking, &at, "Failed").await, 0);
    // What it answers to edges bears its mark, whatever the request is.
    let answer = at_door(&another_edge(&cluster, &at), "/v1/objects/none", Some("store; since=0")).await;
    assert_eq!(field(&answer, "metacdn-shield"), "unanswered", "{:?}", answer.headers());
    let answer = at_door(&another_edge(&cluster, &at), "/none", Some("store")).await;
    assert_eq!((answer.status(), &*field(&answer, "metacdn-shield")), (StatusCode::BAD_REQUEST, "refused"));
}

#[tokio::test(flavor = "multi_thread")]
async fn where_there_is_one_try_it_is_not_the_shield_s() {
    let (cluster, origin) = (Cluster::start(&["AWS"]).await, counting().await);
    put(&cluster.client("AWS"), "a.txt", "an object").await;
    let gone = free_address().into();
    let once = |config: &mut edge::Config| config.tries_max = 1.try_into().unwrap();
    let asking = edge_among(&cluster, &origin, &[gone], None, once).await;
    assert_eq!(fetch(asking.public, "/a").await.status(), StatusCode::OK);
    assert_eq!(crate::edge::fetch(asking.public, "/a.txt").await.body().as_slice(), b"an object");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shield_that_is_behind_is_not_held_as_failed_and_costs_no_wait() {
    let (cluster, origin) = (Cluster::start(&["AWS"]).await, counting().await);
    let (listener, at) = socket().await;
    let shields = [at.clone()];
    let this = Some((listener, at.clone()));
    let deaf = edge_among(&cluster, &origin, &shields, this, |config| config.seeds.clear()).await;
    let asking = edge_among(&cluster, &origin, &shields, None, |_| {}).await;
    let number = AtomicUsize::new(0);
    wait_until("the edge has heard more than its shield", async || {
        fetch(asking.public, &format!("/first/{}", number.fetch_add(1, Ordering::Relaxed))).await;
        asked_shield(&asking, &at, "Refused").await > 0
    })
    .await;
    let (start, refused) = (Instant::now(), asked_shield(&asking, &at, "Refused").await);
    for number in 0..10 {
        assert_eq!(fetch(asking.public, &format!("/{number}")).await.status(), StatusCode::OK);
    }
    assert!(start.elapsed() < Duration::from_secs(4), "{:?}", start.elapsed());
    let outcomes = [asked_shield(&asking, &at, "Refused").await, asked_shield(&asking, &at, "Failed").await];
    assert_eq!(outcomes, [refused + 10, 0]);
    drop(deaf);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shield_that_waits_in_vain_leaves_time_for_the_origin() {
    let never = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let (cluster, origin) = (Cluster::start(&[]).await, counting().await);
    let (listener, at) = socket().await;
    let shields = [at.clone()];
    let bounded = |config: &mut edge::Config| config.site[0].request_ms_max = 6_000;
    let elsewhere = |config: &mut edge::Config| {
        let text = site(&[&origin]).replace(&origin.url(), &format!("http://{}", never.local_addr().unwrap()));
        config.site = vec![toml::from_str(&text).unwrap()];
    };
    let _shield = edge_among(&cluster, &origin, &shields, Some((listener, at.clone())), elsewhere).await;
    let asking = edge_among(&cluster, &origin, &shields, None, bounded).await;
    let start = Instant::now();
    let answer = fetch(asking.public, "/a").await;
    assert_eq!(answer.status(), StatusCode::OK);
    assert!(field(&answer, "metacdn-route").contains("passed="), "{:?}", answer.headers());
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    let outcomes = [asked_shield(&asking, &at, "Unanswered").await, asked_shield(&asking, &at, "Failed").await];
    assert_eq!(outcomes, [1, 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_largest_head_of_an_origin_comes_through_a_shield() {
    let large = "a".repeat(32 * 1024 - 130);
    let origin = Origin::start(move |_| answer(200, &[("cache-control", "max-age=1000"), ("large", &large)], "")).await;
    let cluster = Cluster::start(&[]).await;
    let (_asking, _shield, at) = pair(&cluster, &origin).await;
    let answer = at_door(&another_edge(&cluster, &at), "/a", Some("http")).await;
    assert_eq!((answer.status(), &*field(&answer, "metacdn-shield")), (StatusCode::OK, "miss"));
}
