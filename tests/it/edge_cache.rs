//! What the edge keeps in memory: answered without a node, and never older than what the edge has heard of.

use std::net::SocketAddr;
use std::time::Duration;

use http::{Method, Response, StatusCode};
use metacdn::cli::demo::relay::Link;
use metacdn::client::{Upload, full};
use metacdn::edge;
use metacdn::model::Principal;
use metacdn::route::Policy;
use tokio::time::Instant;

use crate::cluster::{Cluster, Running, key, put, wait_until};
use crate::edge::{World, ask, fetch, node_of, ready, text};

/// An edge in front of two nodes, and where it answers users and operators.
async fn two_nodes(change: impl FnOnce(&mut edge::Config)) -> (Cluster, Running, SocketAddr, SocketAddr) {
    let cluster = Cluster::start(&["AWS", "GC"]).await;
    let (running, public, admin) = cluster.edge(change).await;
    ready(admin).await;
    (cluster, running, public, admin)
}

pub fn cache_status<B>(response: &Response<B>) -> String {
    text(response.headers(), "cache-status")
}

/// Waits until an answer comes from memory.
pub async fn kept(public: SocketAddr, path: &str) {
    wait_until("it is kept", async || cache_status(&fetch(public, path).await) == "metacdn; hit").await;
}

/// How many requests a node has at this moment, as far as the edge has sent them.
async fn requests_to(admin: SocketAddr, node: &str) -> u64 {
    let ranking = fetch(admin, "/routes?key=a.txt").await;
    let ranking: serde_json::Value = serde_json::from_slice(ranking.body()).unwrap();
    let routes = ranking["routes"].as_array().unwrap();
    let route = routes.iter().find(|route| route["node"] == node).unwrap();
    route["time_parts"]["in_flight"].as_u64().unwrap()
}

pub async fn counted(admin: SocketAddr, outcome: &str) -> u64 {
    let metrics = fetch(admin, "/metrics").await;
    let prefix = format!("metacdn_edge_cache_total{{outcome=\"{outcome}\"}} ");
    let text = String::from_utf8(metrics.into_body()).unwrap();
    text.lines().find_map(|line| line.strip_prefix(&prefix)?.parse().ok()).unwrap_or(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_fetched_once_is_answered_from_memory() {
    let (mut cluster, _edge, public, _) = two_nodes(|_| {}).await;
    put(&cluster.client("AWS"), "a.txt", "text").await;
    let first = fetch(public, "/a.txt").await;
    assert_eq!(cache_status(&first), "metacdn; fwd=uri-miss; stored");
    kept(public, "/a.txt").await;
    let hit = fetch(public, "/a.txt").await;
    assert_eq!(
        (hit.status(), hit.body().as_slice(), node_of(&hit).as_str()),
        (StatusCode::OK, &b"text"[..], "reason=cached")
    );
    for name in ["etag", "content-type", "content-length", "cache-control", "last-modified", "metacdn-version", "via"] {
        assert_eq!(text(hit.headers(), name), text(first.headers(), name), "{name}");
        assert!(hit.headers().contains_key(name), "{name}");
    }
    // Within its minute it outlasts all nodes.
    cluster.stop("AWS").await;
    cluster.stop("GC").await;
    tokio::time::timeout(Duration::from_secs(25), async {
        while !fetch(public, "/a.txt").await.headers().contains_key("age") {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await
    .expect("it says how long nobody has looked");
    let unchecked = fetch(public, "/a.txt").await;
    assert_eq!((unchecked.status(), unchecked.body().as_slice()), (StatusCode::OK, &b"text"[..]));
    assert_eq!(cache_status(&unchecked), "metacdn; hit; detail=unchecked");
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_answers_as_a_node_does() {
    let (cluster, _edge, public, _) = two_nodes(|_| {}).await;
    let (_plain, from_nodes, admin) = cluster.edge(|config| config.cache.capacity_bytes = 0).await;
    ready(admin).await;
    let bytes: Vec<u8> = (0..=255).cycle().take(100_000).collect();
    put(&cluster.client("AWS"), "a.bin", bytes).await;
    kept(public, "/a.bin").await;
    let etag = text(fetch(public, "/a.bin").await.headers(), "etag");
    let modified = text(fetch(public, "/a.bin").await.headers(), "last-modified");
    let old = "Sat, 01 Jan 2000 00:00:00 GMT";
    for headers in [
        vec![],
        vec![("range", "bytes=10-19")],
        vec![("range", "bytes=-5")],
        vec![("range", "bytes=99990-")],
        vec![("range", "bytes=100000-")],
        vec![("range", "bytes=5-3")],
        vec![("range", "bytes=0-1"), ("if-range", etag.as_str())],
        vec![("range", "bytes=0-1"), ("if-range", "\"other\"")],
        vec![("range", "bytes=0-1"), ("if-range", modified.as_str())],
        vec![("if-none-match", etag.as_str())],
        vec![("if-none-match", "\"other\"")],
        vec![("if-match", etag.as_str())],
        vec![("if-match", "\"other\"")],
        vec![("if-modified-since", modified.as_str())],
        vec![("if-modified-since", old)],
        vec![("if-unmodified-since", old)],
        vec![("if-none-match", etag.as_str()), ("range", "bytes=0-1")],
    ] {
        for method in [Method::GET, Method::HEAD] {
            let [memory, node] = [
                ask(public, method.clone(), "/a.bin", &headers).await,
                ask(from_nodes, method.clone(), "/a.bin", &headers).await,
            ];
            assert_eq!(cache_status(&memory), "metacdn; hit", "{method} {headers:?}");
            assert_eq!(memory.status(), node.status(), "{method} {headers:?}");
            for name in ["content-range", "content-type", "etag", "accept-ranges", "cache-control"] {
                // What is refused tells of the refusal.
                let refused = node.status().is_client_error() && name != "content-range" && name != "content-type";
                assert!(
                    refused || memory.headers().get(name) == node.headers().get(name),
                    "{name}: {method} {headers:?}"
                );
            }
            if node.status().is_success() {
                assert_eq!(text(memory.headers(), "content-length"), text(node.headers(), "content-length"));
                assert!(memory.body() == node.body(), "{method} {headers:?}");
            }
        }
    }
    let several = [("range", "bytes=0-1,5-6")];
    let (memory, node) =
        (ask(public, Method::GET, "/a.bin", &several).await, ask(from_nodes, Method::GET, "/a.bin", &several).await);
    assert_eq!((memory.status(), memory.body()), (node.status(), node.body()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_who_ask_at_once_make_one_fetch() {
    let world = World::start([0, 0, 0]).await;
    let text: String = "0123456789".repeat(100_000);
    world.publish(&[("a.txt", &text)]).await;
    let (_edge, public, admin) = world.cluster.edge(|config| config.route.policy = Policy::Price).await;
    ready(admin).await;
    // So slowly that all have asked before it has come.
    world.relays["GC"].set(Link { rate_bytes_per_second: Some(1_000_000), ..Link::default() });
    let mut asking = tokio::task::JoinSet::new();
    for _ in 0..1_000 {
        asking.spawn(async move { fetch(public, "/a.txt").await });
    }
    while let Some(answer) = asking.join_next().await {
        let answer = answer.unwrap();
        assert_eq!(answer.status(), StatusCode::OK);
        assert!(answer.body() == text.as_bytes());
    }
    assert_eq!(counted(admin, "Miss").await, 1);
    assert!(counted(admin, "Joined").await > 500, "most have read along");
    assert_eq!(counted(admin, "Passed").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_is_seen_within_a_second() {
    let (cluster, _edge, public, admin) = two_nodes(|_| {}).await;
    let client = cluster.client("GC");
    put(&client, "page.html", "0").await;
    kept(public, "/page.html").await;
    for round in 1..=10 {
        put(&client, "page.html", round.to_string()).await;
        let start = Instant::now();
        wait_until("the change is seen", async || {
            fetch(public, "/page.html").await.body().as_slice() == round.to_string().as_bytes()
        })
        .await;
        assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
        kept(public, "/page.html").await;
    }
    client.delete_object(&key("page.html")).await.unwrap();
    let start = Instant::now();
    wait_until("it is gone", async || fetch(public, "/page.html").await.status() == StatusCode::NOT_FOUND).await;
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
    assert!(counted(admin, "Hit").await >= 11);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edge_that_was_away_asks_before_it_answers_from_memory() {
    let world = World::start([0, 0, 0]).await;
    world.publish(&[("a.txt", "old"), ("b.txt", "same")]).await;
    let (_edge, public, admin) = world.cluster.edge(|config| config.route.policy = Policy::Price).await;
    ready(admin).await;
    kept(public, "/a.txt").await;
    kept(public, "/b.txt").await;
    // The edge hears of no node, nodes hear of each other through the same relays: so the write goes past them.
    for relay in world.relays.values() {
        relay.set(Link { stalled: true, ..Link::default() });
    }
    for name in ["AWS", "GC", "Program"] {
        put(&world.cluster.client(name), "a.txt", "new").await;
    }
    wait_until("the edge knows that it knows nothing", async || {
        cache_status(&fetch(public, "/b.txt").await).contains("unchecked")
    })
    .await;
    for relay in world.relays.values() {
        relay.set(Link::default());
        relay.reset_all();
    }
    wait_until("the edge looks", async || !cache_status(&fetch(public, "/b.txt").await).contains("unchecked")).await;
    assert_ne!(cache_status(&fetch(public, "/a.txt").await), "metacdn; hit; detail=unchecked");
    assert_eq!(fetch(public, "/a.txt").await.body(), b"new");
    assert_eq!(fetch(public, "/b.txt").await.body(), b"same");
    kept(public, "/b.txt").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_must_not_be_kept_is_not() {
    let (cluster, _edge, public, _) = two_nodes(|config| config.cache.object_bytes_max = 1_000).await;
    let client = cluster.client("AWS");
    for (name, bytes, cache_control) in
        [("secret", 10, "no-store"), ("mine", 10, "max-age=9, Private"), ("large", 1_001, "max-age=60")]
    {
        let key = key(name);
        let cache_control = Some(&cache_control.parse().unwrap());
        let upload = Upload { key: &key, size: bytes, media_type: None, cache_control, wait_for: None };
        client.put_object(&upload, full(vec![b'x'; bytes as usize])).await.unwrap();
    }
    // What was distributed already is one node's own, and no feed tells when it changes.
    for content in ["MQ==", "Mg=="] {
        let packet = serde_json::json!({ "file_name": "own", "distributed": "T", "content": content }).to_string();
        let tester = Principal::Client("tester".parse().unwrap());
        crate::packets::send(&cluster, "AWS", tester, packet.as_bytes()).await;
        let expected = if content == "MQ==" { b"1" } else { b"2" };
        assert_eq!(fetch(public, "/own").await.body(), expected);
    }
    for name in ["secret", "mine", "large", "own"] {
        for _ in 0..3 {
            let answer = fetch(public, &format!("/{name}")).await;
            assert_eq!((answer.status(), cache_status(&answer).as_str()), (StatusCode::OK, "metacdn; fwd=uri-miss"));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn folders_and_the_page_for_what_is_missing_come_from_memory_too() {
    let (cluster, _edge, public, _) = two_nodes(|_| {}).await;
    let client = cluster.client("AWS");
    put(&client, "docs/index.html", "docs").await;
    put(&client, "404.html", "nothing").await;
    kept(public, "/docs/").await;
    kept(public, "/404.html").await;
    let missing = fetch(public, "/nowhere").await;
    assert_eq!((missing.status(), missing.body().as_slice()), (StatusCode::NOT_FOUND, &b"nothing"[..]));
    assert!(!missing.headers().contains_key("etag"));
    assert_eq!(cache_status(&missing), "metacdn; fwd=uri-miss", "the page was kept, but nodes were asked");
    assert_eq!(fetch(public, "/docs").await.status(), StatusCode::MOVED_PERMANENTLY);
}

#[tokio::test(flavor = "multi_thread")]
async fn when_the_first_who_asks_leaves_another_fetches_for_all() {
    // So far away that nothing has come when the first one leaves.
    let world = World::start([0, 400, 0]).await;
    world.publish(&[("a.txt", "text")]).await;
    let (_edge, public, admin) = world.cluster.edge(|config| config.route.policy = Policy::Price).await;
    ready(admin).await;
    let first = tokio::spawn(async move { fetch(public, "/a.txt").await });
    wait_until("a node is asked", async || requests_to(admin, "GC").await == 1).await;
    let mut others = tokio::task::JoinSet::new();
    for _ in 0..20 {
        others.spawn(async move { fetch(public, "/a.txt").await });
    }
    first.abort();
    while let Some(answer) = others.join_next().await {
        assert_eq!(answer.unwrap().body(), b"text");
    }
    assert_eq!((counted(admin, "Miss").await, counted(admin, "Passed").await), (1, 0));
}
