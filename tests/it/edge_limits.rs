//! What users cannot do to nodes through an edge, and what an edge takes for no request.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use http::{Method, StatusCode};
use metacdn::cli::demo::relay::Link;
use metacdn::model::Principal;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::answers::{Answer, curl};
use crate::cluster::{Cluster, PATIENCE, put, wait_until};
use crate::edge::{World, ask, by_price_uncached, fetch, ready, text};

/// What comes back for these bytes until the other side ends.
pub async fn raw(at: SocketAddr, request: &str) -> Answer {
    let mut stream = TcpStream::connect(at).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("an answer comes").unwrap();
    Answer::parse(&answer)
}

/// What the edge thinks of a node: the time in which it would send nothing, in seconds.
async fn time_s(admin: SocketAddr, node: &str) -> f64 {
    let ranking = fetch(admin, "/routes?key=a.txt&size=0&policy=n").await;
    let ranking: serde_json::Value = serde_json::from_slice(ranking.body()).unwrap();
    let routes = ranking["routes"].as_array().unwrap();
    routes.iter().find(|route| route["node"] == node).unwrap()["time_s"].as_f64().unwrap()
}

/// A download of a large object of which nothing but the head is read.
async fn held_download(public: SocketAddr, target: &str) -> (TcpStream, StatusCode) {
    let mut stream = TcpStream::connect(public).await.unwrap();
    stream.write_all(format!("GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes()).await.unwrap();
    let mut head = [0; 12];
    timeout(PATIENCE, stream.read_exact(&mut head)).await.expect("an answer comes").unwrap();
    let status = std::str::from_utf8(&head[9..]).unwrap().parse().unwrap();
    (stream, status)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_has_one_host_and_a_path() {
    let cluster = Cluster::start(&["AWS"]).await;
    put(&cluster.client("AWS"), "a.txt", "text").await;
    let (_edge, public, admin) = cluster.edge(|_| {}).await;
    ready(admin).await;
    for (head, status) in [
        ("GET /a.txt HTTP/1.1\r\nHost: localhost", 200),
        ("GET http://localhost/a.txt HTTP/1.1\r\nHost: evil.example.org", 200),
        ("GET /././a.txt HTTP/1.1\r\nHost: localhost", 200),
        ("GET /%2e/a.txt HTTP/1.1\r\nHost: localhost", 200),
        ("GET /a.txt/. HTTP/1.1\r\nHost: localhost", 404),
        ("GET /./../a.txt HTTP/1.1\r\nHost: localhost", 400),
        ("GET http://evil.example.org/a.txt HTTP/1.1\r\nHost: localhost", 403),
        ("GET /a.txt HTTP/1.1\r\nHost: localhost\r\nHost: evil.example.org", 400),
        ("GET /a.txt HTTP/1.1\r\nHost: localhost\r\nHost: localhost", 400),
        ("GET /a.txt HTTP/1.1\r\nHost: user@localhost", 400),
        ("GET http://user@localhost/a.txt HTTP/1.1\r\nHost: localhost", 400),
        ("GET HTTP://localhost/a.txt HTTP/1.1\r\nHost: localhost", 200),
        ("GET https://localhost/a.txt HTTP/1.1\r\nHost: localhost", 421),
        ("GET ftp://localhost/a.txt HTTP/1.1\r\nHost: localhost", 421),
        ("GET http://localhost/a.txt HTTP/1.1", 400),
        ("GET /a.txt HTTP/1.1", 400),
        ("GET * HTTP/1.1\r\nHost: localhost", 400),
    ] {
        let answer = raw(public, &format!("{head}\r\nConnection: close\r\n\r\n")).await;
        assert_eq!(answer.status, status, "{head}: {answer:?}");
    }
    // A range means nothing to HEAD.
    let head = ask(public, Method::HEAD, "/a.txt", &[("range", "bytes=1-2")]).await;
    assert_eq!((head.status(), text(head.headers(), "content-length").as_str()), (StatusCode::OK, "4"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_nodes_refuse_is_the_clients_fault() {
    let cluster = Cluster::start_with(&["AWS", "GC"], |config| config.serve.header_bytes_max = 2048).await;
    put(&cluster.client("AWS"), "a.txt", "text").await;
    let (_edge, public, admin) = cluster.edge(|_| {}).await;
    ready(admin).await;
    for bytes in [3_000, 9_000] {
        for _ in 0..10 {
            let tags = format!("\"{}\"", "x".repeat(bytes));
            let answer = ask(public, Method::GET, "/a.txt", &[("if-none-match", &tags)]).await;
            assert_eq!(answer.status(), StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "{bytes}");
            assert_eq!(text(answer.headers(), "content-type"), "application/problem+json");
        }
    }
    for node in ["AWS", "GC"] {
        // One failure costs half a second.
        let time = time_s(admin, node).await;
        assert!(time < 0.45, "{node}: {time}");
    }
    // What no node needs to know goes to none.
    let answer = ask(public, Method::GET, "/a.txt", &[("accept", &"x".repeat(9_000))]).await;
    assert_eq!(answer.status(), StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread")]
async fn users_cannot_take_all_connections_of_a_node() {
    let mut cluster = Cluster::start(&[]).await;
    for name in ["AWS", "GC"] {
        cluster.add_with(name, |config| config.serve.connections_max = 16).await;
    }
    let large = vec![7; 64 << 20];
    for name in ["AWS", "GC"] {
        put(&cluster.client(name), "large", large.clone()).await;
    }
    let (_edge, public, admin) = cluster
        .edge(|config| {
            config.node_requests_max = 2.try_into().unwrap();
            // Else they share what they fetch.
            config.cache.capacity_bytes = 0;
        })
        .await;
    ready(admin).await;
    let mut held = Vec::new();
    for _ in 0..4 {
        let (stream, status) = held_download(public, "/large").await;
        assert_eq!(status, StatusCode::OK);
        held.push(stream);
    }
    let refused = fetch(public, "/large").await;
    assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(text(refused.headers(), "retry-after"), "1");
    for name in ["AWS", "GC"] {
        timeout(PATIENCE, cluster.client(name).ping()).await.expect("there is room for others").unwrap();
    }
    held.pop();
    wait_until("there is room again", async || held_download(public, "/large").await.1 == StatusCode::OK).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_download_costs_its_silence_and_not_its_length() {
    let world = World::start([0, 0, 0]).await;
    let large = "x".repeat(4 << 20);
    world.publish(&[("a.txt", "text"), ("large", &large)]).await;
    let (_edge, public, admin) = world.cluster.edge(by_price_uncached).await;
    ready(admin).await;
    world.relays["GC"].set(Link { rate_bytes_per_second: Some(400_000), ..Link::default() });
    let (mut stream, status) = held_download(public, "/large").await;
    assert_eq!(status, StatusCode::OK);
    let start = Instant::now();
    let mut part = [0; 16 << 10];
    while start.elapsed() < Duration::from_secs(4) {
        assert!(stream.read(&mut part).await.unwrap() > 0);
    }
    world.relays["GC"].reset_all();
    // The penalty is half a second, divided by a success rate of about 0.9.
    wait_until("the failure shows", async || time_s(admin, "GC").await > 0.4).await;
    let time = time_s(admin, "GC").await;
    assert!(time < 3.0, "{time}");
}

#[tokio::test(flavor = "multi_thread")]
async fn silent_nodes_together_have_one_deadline() {
    let world = World::start([0, 0, 0]).await;
    world.publish(&[("a.txt", "text")]).await;
    let (_edge, public, admin) = world
        .cluster
        .edge(|config| {
            config.request_ms_max = 400;
            config.cache.capacity_bytes = 0;
        })
        .await;
    ready(admin).await;
    for relay in world.relays.values() {
        relay.set(Link { stalled: true, ..Link::default() });
    }
    let start = Instant::now();
    let answer = fetch(public, "/a.txt").await;
    assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
    // One node alone may take five seconds.
    assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
    for relay in world.relays.values() {
        relay.set(Link::default());
    }
    wait_until("it is served again", async || fetch(public, "/a.txt").await.status() == StatusCode::OK).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn operators_reach_an_edge_off_loopback() {
    let cluster = Cluster::start(&["AWS"]).await;
    let (_edge, _, admin) = cluster.edge_at("0.0.0.0:0", |_| {}).await;
    let file = |name: &str, text: &str| {
        let path = cluster.folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let (certificate, key) = cluster.pem(Principal::Client("curl".parse().unwrap()));
    let (certificate, key) = (file("client.pem", &certificate), file("client.key", &key));
    let authority = file("authority.pem", cluster.authority_pem());
    let host = format!("edge.edge.metacdn.internal:{}", admin.port());
    let resolve = format!("{host}:127.0.0.1");
    let status = |path: &str| {
        let url = format!("https://{host}{path}");
        curl(&["--resolve", &resolve, "--cacert", &authority, "--cert", &certificate, "--key", &key, &url]).status
    };
    wait_until("the edge is ready", async || status("/ready") == 200).await;
    for path in ["/health", "/metrics", "/routes?key=a.txt"] {
        assert_eq!(status(path), 200, "{path}");
    }
}
