//! What readers are promised: new keys at once, overwrites within a second, one's own writes at once, through any edge.

use std::net::SocketAddr;
use std::time::Duration;

use http::{Method, Response, StatusCode};
use metacdn::cli::demo::relay::{Link, Relay};
use metacdn::client::{Peer, empty};
use metacdn::model::Version;
use metacdn::protocol::object_path;
use metacdn::route::Policy;
use tokio::time::Instant;

use crate::cluster::{Cluster, Running, free_address, get, key, put, wait_until};
use crate::edge::{World, ask, fetch, ready, text};
use crate::edge_cache::kept;

const MIN_VERSION: &str = "metacdn-min-version";

/// Asks an edge for what is at least as new as `version`.
async fn fetch_since(public: SocketAddr, target: &str, version: &Version) -> Response<Vec<u8>> {
    ask(public, Method::GET, target, &[(MIN_VERSION, &version.to_string())]).await
}

/// Asks a node for it; answers also the body of a refusal.
async fn node_since(peer: &Peer, method: Method, name: &str, version: &str) -> Response<Vec<u8>> {
    let mut request = peer.request(method, &object_path(&key(name)), empty()).unwrap();
    request.headers_mut().insert(MIN_VERSION, version.parse().unwrap());
    let (head, body) = peer.send(request).await.unwrap().into_parts();
    let body = peer.reader(body).read_all(1 << 20).await.unwrap();
    Response::from_parts(head, body.to_vec())
}

/// Deletes an object and answers the version of its deletion.
async fn delete(peer: &Peer, name: &str) -> Version {
    let request = peer.request(Method::DELETE, &object_path(&key(name)), empty()).unwrap();
    text(peer.ask(request).await.unwrap().headers(), "metacdn-version").parse().unwrap()
}

async fn two_edges(cluster: &Cluster) -> [(Running, SocketAddr); 2] {
    let mut edges = Vec::new();
    for _ in 0..2 {
        let (running, public, admin) = cluster.edge(|config| config.route.policy = Policy::Price).await;
        ready(admin).await;
        edges.push((running, public));
    }
    edges.try_into().ok().unwrap()
}

/// AWS behind a relay of its own, GC beside it.
async fn two_nodes_and_a_relay() -> (Cluster, Relay) {
    let mut cluster = Cluster::start(&[]).await;
    let target = free_address();
    let relay = Relay::start(target, Link::default(), "127.0.0.1:0".parse().unwrap()).await.unwrap();
    let advertised = relay.address().into();
    cluster.add_at("AWS", target, |config| config.advertise = Some(advertised)).await;
    cluster.add("GC").await;
    let gc = cluster.client("GC");
    wait_until("GC knows AWS", async || gc.servers().await.unwrap().servers.len() == 2).await;
    (cluster, relay)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_written_anywhere_is_read_at_once_through_every_edge() {
    let cluster = Cluster::start(&["AWS", "GC", "Program"]).await;
    let nodes = ["AWS", "GC", "Program"].map(|name| cluster.client(name));
    let edges = two_edges(&cluster).await;
    let mut late = Vec::new();
    for round in 0..200 {
        let receipt = put(&nodes[round % 3], "page", round.to_string()).await;
        for (_, public) in &edges {
            let answer = fetch_since(*public, "/page", &receipt.version).await;
            assert_eq!((answer.status(), answer.body().as_slice()), (StatusCode::OK, round.to_string().as_bytes()));
            assert_eq!(text(answer.headers(), "metacdn-version"), receipt.version.to_string());
        }
        // Whoever does not ask for it sees it by itself.
        let start = Instant::now();
        for (_, public) in &edges {
            let seen = async || fetch(*public, "/page").await.body().as_slice() == round.to_string().as_bytes();
            wait_until("the overwrite is seen", seen).await;
        }
        late.extend((start.elapsed() >= Duration::from_secs(1)).then(|| start.elapsed()));
    }
    // A machine on which all tests run at once holds one up now and then.
    assert!(late.len() <= 4, "of 200 rounds: {late:?}");
    let gone = delete(&nodes[1], "page").await;
    for (_, public) in &edges {
        assert_eq!(fetch_since(*public, "/page", &gone).await.status(), StatusCode::NOT_FOUND);
    }
    for node in &nodes {
        let answer = node_since(node, Method::GET, "page", &gone.to_string()).await;
        assert_eq!(answer.status(), StatusCode::NOT_FOUND);
        assert_eq!(text(answer.headers(), "metacdn-version"), gone.to_string());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_key_is_there_at_once_through_every_edge() {
    let cluster = Cluster::start(&["AWS", "GC", "Program"]).await;
    let nodes = ["AWS", "GC", "Program"].map(|name| cluster.client(name));
    let edges = two_edges(&cluster).await;
    for round in 0..50 {
        let name = format!("new-{round}");
        let receipt = put(&nodes[round % 3], &name, "new").await;
        for (_, public) in &edges {
            assert_eq!(fetch(*public, &format!("/{name}")).await.body(), b"new");
            assert_eq!(fetch_since(*public, &format!("/{name}"), &receipt.version).await.body(), b"new");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_lags_behind_is_passed_over() {
    let (cluster, relay) = two_nodes_and_a_relay().await;
    let (aws, gc) = (cluster.client("AWS"), cluster.client("GC"));
    for (provider, price) in [("AWS", ".30"), ("GC", ".10")] {
        let tariff = metacdn::model::Tariff {
            instance_hour: price.parse().unwrap(),
            network_hour: ".1".parse().unwrap(),
            rates: None,
        };
        aws.set_price(&provider.parse().unwrap(), &tariff).await.unwrap();
    }
    put(&aws, "a.txt", "old").await;
    wait_until("GC holds it", async || get(&gc, "a.txt").await.as_deref() == Some(b"old")).await;
    wait_until("prices are everywhere", async || gc.prices().await.unwrap().len() == 2).await;
    let edges = two_edges(&cluster).await;
    for (_, public) in &edges {
        kept(*public, "/a.txt").await;
    }
    // What AWS has now GC gets in a minute and a half.
    relay.set(Link { rate_bytes_per_second: Some(100_000), ..Link::default() });
    let receipt = put(&aws, "a.txt", vec![b'n'; 8 << 20]).await;
    let start = Instant::now();
    for (_, public) in &edges {
        let version = async || text(ask(*public, Method::HEAD, "/a.txt", &[]).await.headers(), "metacdn-version");
        wait_until("the new one is seen", async || version().await == receipt.version.to_string()).await;
    }
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
    for (_, public) in &edges {
        let answer = ask(*public, Method::HEAD, "/a.txt", &[]).await;
        let route = text(answer.headers(), "metacdn-route");
        assert!(route.starts_with("node=AWS") && route.contains("passed=GC"), "{route}");
    }
    let behind = node_since(&gc, Method::GET, "a.txt", &receipt.version.to_string()).await;
    assert_eq!(behind.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(text(behind.headers(), "retry-after"), "1");
    assert!(text(behind.headers(), "metacdn-version") < receipt.version.to_string());
    assert_eq!(get(&gc, "a.txt").await.unwrap(), b"old", "who does not ask for more gets what there is");
    // With AWS gone there is nothing newer to be had.
    relay.set(Link { refuse: true, ..Link::default() });
    relay.reset_all();
    for (_, public) in &edges {
        assert_eq!(fetch(*public, "/a.txt").await.body(), b"old");
        assert_eq!(fetch_since(*public, "/a.txt", &receipt.version).await.status(), StatusCode::SERVICE_UNAVAILABLE);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_died_with_its_node_is_not_replaced_by_an_older_one() {
    let (mut cluster, relay) = two_nodes_and_a_relay().await;
    let (aws, gc) = (cluster.client("AWS"), cluster.client("GC"));
    put(&aws, "a.txt", "old").await;
    wait_until("GC holds it", async || get(&gc, "a.txt").await.is_some()).await;
    let edges = two_edges(&cluster).await;
    kept(edges[0].1, "/a.txt").await;
    // Nobody hears of the new one before its node dies.
    relay.set(Link { stalled: true, ..Link::default() });
    let new = put(&aws, "a.txt", "new").await;
    cluster.stop("AWS").await;
    relay.set(Link { refuse: true, ..Link::default() });
    relay.reset_all();
    for (_, public) in &edges {
        let start = Instant::now();
        let answer = fetch_since(*public, "/a.txt", &new.version).await;
        assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(text(answer.headers(), "retry-after"), "1");
        assert!(String::from_utf8_lossy(answer.body()).contains(&new.version.to_string()));
        // A second of patience, and what a busy machine adds.
        assert!(start.elapsed() < Duration::from_secs(4), "{:?}", start.elapsed());
        assert_eq!(fetch(*public, "/a.txt").await.body(), b"old", "others are served");
    }
    cluster.restart("AWS").await;
    relay.set(Link::default());
    for (_, public) in &edges {
        let back = async || fetch_since(*public, "/a.txt", &new.version).await.body().as_slice() == b"new";
        wait_until("it is back", back).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fetch_that_began_before_the_write_is_not_read_along() {
    let world = World::start([0, 0, 0]).await;
    let old = "o".repeat(1 << 20);
    world.publish(&[("a.txt", &old)]).await;
    let (_edge, public, admin) = world.cluster.edge(|config| config.route.policy = Policy::Price).await;
    ready(admin).await;
    world.relays["GC"].set(Link { rate_bytes_per_second: Some(300_000), ..Link::default() });
    let slow = tokio::spawn(async move { fetch(public, "/a.txt").await });
    wait_until("it flies", async || {
        let metrics = fetch(admin, "/metrics").await;
        String::from_utf8_lossy(metrics.body()).contains("metacdn_edge_cache_total{outcome=\"Miss\"} 1")
    })
    .await;
    let new = put(&world.cluster.client("AWS"), "a.txt", "new").await;
    assert_eq!(fetch_since(public, "/a.txt", &new.version).await.body(), b"new");
    assert!(slow.await.unwrap().body() == old.as_bytes(), "who asked before gets what there was");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_waits_a_moment_for_what_comes_and_refuses_what_is_no_version() {
    let cluster = Cluster::start(&["AWS", "GC"]).await;
    let (aws, gc) = (cluster.client("AWS"), cluster.client("GC"));
    for round in 0..50 {
        let version = put(&aws, "a.txt", round.to_string()).await.version.to_string();
        let answer = node_since(&gc, Method::GET, "a.txt", &version).await;
        assert_eq!((answer.status(), answer.body().as_slice()), (StatusCode::OK, round.to_string().as_bytes()));
        assert_eq!(node_since(&gc, Method::HEAD, "a.txt", &version).await.status(), StatusCode::OK);
    }
    let (_edge, public, admin) = cluster.edge(|_| {}).await;
    ready(admin).await;
    for bad in ["", "7", "ffffffffffffffff.AWS.0000000000000001"] {
        assert_eq!(node_since(&gc, Method::GET, "a.txt", bad).await.status(), StatusCode::BAD_REQUEST, "{bad}");
        let answer = ask(public, Method::GET, "/a.txt", &[(MIN_VERSION, bad)]).await;
        assert_eq!(answer.status(), StatusCode::BAD_REQUEST, "{bad}");
    }
    // Nobody has written that, and nothing is there to be older.
    let never = "ffffffffffffffff.AWS.0000000000000001.9";
    for name in ["a.txt", "missing"] {
        let answer = node_since(&gc, Method::GET, name, never).await;
        assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(answer.headers().contains_key("metacdn-version"), name == "a.txt");
        let answer = ask(public, Method::GET, &format!("/{name}"), &[(MIN_VERSION, never)]).await;
        assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deletion_that_is_forgotten_is_still_read_by_its_version() {
    let cluster = Cluster::start_with(&["AWS", "GC"], |config| config.tombstone_grace_s = 1).await;
    let (aws, gc) = (cluster.client("AWS"), cluster.client("GC"));
    put(&aws, "a.txt", "text").await;
    let gone = delete(&aws, "a.txt").await;
    for client in [&aws, &gc] {
        wait_until("it is forgotten", async || client.status().await.unwrap().tombstones == 0).await;
        let answer = node_since(client, Method::GET, "a.txt", &gone.to_string()).await;
        assert_eq!(answer.status(), StatusCode::NOT_FOUND);
        assert_eq!(text(answer.headers(), "metacdn-version"), gone.to_string());
    }
    let unknown = gone.to_string().rsplit_once('.').map(|(head, _)| format!("{head}.999999")).unwrap();
    let answer = node_since(&gc, Method::GET, "a.txt", &unknown).await;
    assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE, "that write is not known here");
}
