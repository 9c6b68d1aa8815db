//! The proxy: which node answers, what the client gets, and what happens when nodes fail.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Empty};
use hyper_util::client::legacy;
use hyper_util::rt::TokioExecutor;
use metacdn::cli::demo::relay::{Link, Relay};
use metacdn::edge;
use metacdn::model::{Principal, Tariff};
use metacdn::route::Policy;

use crate::cluster::{Cluster, free_address, key, objects, put, wait_until};

/// An answer with its whole body.
pub async fn ask(at: SocketAddr, method: Method, target: &str, headers: &[(&str, &str)]) -> Response<Vec<u8>> {
    let client: legacy::Client<_, Empty<bytes::Bytes>> = legacy::Client::builder(TokioExecutor::new()).build_http();
    let mut request = Request::builder().method(method).uri(format!("http://{at}{target}"));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response = client.request(request.body(Empty::new()).unwrap()).await.unwrap();
    let (head, body) = response.into_parts();
    Response::from_parts(head, body.collect().await.unwrap().to_bytes().to_vec())
}

pub async fn fetch(at: SocketAddr, target: &str) -> Response<Vec<u8>> {
    ask(at, Method::GET, target, &[]).await
}

pub fn text(headers: &HeaderMap, name: &str) -> String {
    headers.get(name).map(|value| value.to_str().unwrap().to_owned()).unwrap_or_default()
}

/// The node that answered, as the route header says.
pub fn node_of<B>(response: &Response<B>) -> String {
    let header = text(response.headers(), "metacdn-route");
    header.split(';').next().unwrap().trim_start_matches("node=").to_owned()
}

pub async fn ready(admin: SocketAddr) {
    wait_until("the edge is ready", async || fetch(admin, "/ready").await.status() == StatusCode::OK).await;
}

/// The names of the nodes in the order in which they would be tried.
async fn ranked(admin: SocketAddr, key: &str) -> Vec<String> {
    let ranking = fetch(admin, &format!("/routes?key={key}")).await;
    let ranking: serde_json::Value = serde_json::from_slice(ranking.body()).unwrap();
    let routes = ranking["routes"].as_array().unwrap();
    routes.iter().map(|route| route["node"].as_str().unwrap().to_owned()).collect()
}

/// Three nodes, each behind a relay that delays it, with the reference's prices.
pub struct World {
    pub cluster: Cluster,
    pub relays: BTreeMap<&'static str, Relay>,
}

const PRICES: [(&str, &str, &str); 3] = [("AWS", ".30", ".10"), ("GC", ".10", ".20"), ("Program", ".114", ".75")];

impl World {
    pub async fn start(delays_ms: [u64; 3]) -> Self {
        let names = ["AWS", "GC", "Program"];
        let cluster = Cluster::start(&[]).await;
        let mut world = Self { cluster, relays: BTreeMap::new() };
        for (name, delay_ms) in names.into_iter().zip(delays_ms) {
            // The relay's port must be known before the node runs, and the node's before the relay does.
            let target = free_address();
            let link = Link { delay: Duration::from_millis(delay_ms), ..Link::default() };
            let relay = Relay::start(target, link, "127.0.0.1:0".parse().unwrap()).await.unwrap();
            let advertised = relay.address().into();
            world.cluster.add_at(name, target, |config| config.advertise = Some(advertised)).await;
            world.relays.insert(name, relay);
        }
        let client = world.cluster.client("AWS");
        for (provider, server, network) in PRICES {
            let tariff =
                Tariff { instance_hour: server.parse().unwrap(), network_hour: network.parse().unwrap(), rates: None };
            client.set_price(&provider.parse().unwrap(), &tariff).await.unwrap();
        }
        for name in names {
            let node = world.cluster.client(name);
            wait_until("prices are everywhere", async || {
                node.prices().await.unwrap().len() == 3 && node.servers().await.unwrap().servers.len() == 3
            })
            .await;
        }
        world
    }

    pub async fn publish(&self, files: &[(&str, &str)]) {
        for (name, content) in files {
            put(&self.cluster.client("AWS"), name, *content).await;
        }
        let expected = objects(&self.cluster.client("AWS")).await;
        for name in ["GC", "Program"] {
            let node = self.cluster.client(name);
            wait_until("all hold it", async || objects(&node).await == expected).await;
        }
    }
}

/// By price, each request from a node; and a node that failed gets all of its requests again soon.
pub fn by_price_uncached(config: &mut edge::Config) {
    config.route.policy = Policy::Price;
    config.cache.capacity_bytes = 0;
    config.route.eject.out_ms = 500;
    config.route.eject.slow_start_ms = 500.try_into().unwrap();
}

fn policy(words: &str) -> Policy {
    words.parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn price_time_and_both_choose_as_the_formula_says() {
    // Far apart, so that what a busy machine adds to them changes no order.
    let world = World::start([5, 250, 80]).await;
    world.publish(&[("a.txt", "text")]).await;
    for (words, order) in [
        ("p", ["GC", "Program", "AWS"]),
        ("n", ["AWS", "Program", "GC"]),
        ("c 0", ["AWS", "Program", "GC"]),
        ("c 1", ["GC", "Program", "AWS"]),
        // A round trip is twice the delay. AWS and Program meet where 0.186 $/h weigh as much as 0.15 s, at beta 0.45,
        // Program and GC where 0.014 $/h weigh as much as 0.34 s, at beta 0.96.
        ("c 0.1", ["AWS", "Program", "GC"]),
        ("c 0.999", ["GC", "Program", "AWS"]),
        // 0.119, 0.169 and 0.249.
        ("c 0.75", ["Program", "GC", "AWS"]),
    ] {
        let (edge, public, admin) = world.cluster.edge(|config| config.route.policy = policy(words)).await;
        ready(admin).await;
        // A hiccup of the machine fades from the measurements.
        wait_until(&format!("the order of {words}"), async || ranked(admin, "a.txt").await == order).await;
        let answer = fetch(public, "/a.txt").await;
        assert_eq!((answer.status(), answer.body().as_slice()), (StatusCode::OK, b"text".as_slice()));
        assert_eq!(node_of(&answer), order[0], "{words}");
        edge.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_node_is_passed_over_and_a_returned_one_used_again() {
    let mut world = World::start([0, 0, 0]).await;
    world.publish(&[("a.txt", "text")]).await;
    let (_edge, public, admin) = world.cluster.edge(by_price_uncached).await;
    ready(admin).await;
    world.cluster.stop("GC").await;
    for _ in 0..20 {
        let answer = fetch(public, "/a.txt").await;
        assert_eq!((answer.status(), node_of(&answer).as_str()), (StatusCode::OK, "Program"));
    }
    world.cluster.restart("GC").await;
    wait_until("GC is used again", async || node_of(&fetch(public, "/a.txt").await) == "GC").await;
    // A node that takes connections and says nothing is passed over, too.
    world.relays["GC"].set(Link { stalled: true, ..Link::default() });
    let answer = fetch(public, "/a.txt").await;
    assert_eq!((answer.status(), node_of(&answer).as_str()), (StatusCode::OK, "Program"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_key_is_found_while_only_one_node_holds_it() {
    let mut world = World::start([0, 0, 0]).await;
    let (_edge, public, admin) = world.cluster.edge(by_price_uncached).await;
    ready(admin).await;
    // A packet that was distributed already stays where it was sent to: on AWS, the last in the order of prices.
    let packet = serde_json::json!({ "file_name": "new.txt", "distributed": "T", "content": "bmV3" }).to_string();
    let tester = Principal::Client("tester".parse().unwrap());
    crate::packets::send(&world.cluster, "AWS", tester, packet.as_bytes()).await;
    let answer = fetch(public, "/new.txt").await;
    assert_eq!((answer.status(), answer.body().as_slice()), (StatusCode::OK, b"new".as_slice()));
    assert_eq!(node_of(&answer), "AWS");
    world.cluster.client("AWS").delete_object(&key("new.txt")).await.unwrap();
    wait_until("it is gone", async || fetch(public, "/new.txt").await.status() == StatusCode::NOT_FOUND).await;
    for name in ["AWS", "GC", "Program"] {
        world.cluster.stop(name).await;
    }
    let answer = fetch(public, "/new.txt").await;
    assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(text(answer.headers(), "retry-after"), "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_client_gets_is_the_object_with_its_headers() {
    let world = World::start([0, 0, 0]).await;
    world
        .publish(&[
            ("index.html", "<p>home"),
            ("docs/index.html", "<p>docs"),
            ("404.html", "<p>nothing here"),
            ("ä b.txt", "0123456789"),
        ])
        .await;
    let (_edge, public, admin) = world.cluster.edge(|_| {}).await;
    ready(admin).await;

    let home = fetch(public, "/").await;
    assert_eq!(
        (home.body().as_slice(), text(home.headers(), "content-type").as_str()),
        (&b"<p>home"[..], "text/html; charset=utf-8")
    );
    assert_eq!(text(home.headers(), "cache-control"), "max-age=60");
    assert_eq!(text(home.headers(), "via"), "1.1 metacdn");
    assert_eq!(fetch(public, "/docs/").await.body(), b"<p>docs");
    let moved = fetch(public, "/docs?a=b").await;
    assert_eq!(
        (moved.status(), text(moved.headers(), "location")),
        (StatusCode::MOVED_PERMANENTLY, "/docs/?a=b".to_owned())
    );
    let missing = fetch(public, "/nothing").await;
    assert_eq!((missing.status(), missing.body().as_slice()), (StatusCode::NOT_FOUND, &b"<p>nothing here"[..]));
    assert!(!missing.headers().contains_key("etag") && !missing.headers().contains_key("metacdn-version"));

    let target = "/%C3%A4%20b.txt?query=ignored";
    let whole = fetch(public, target).await;
    let etag = text(whole.headers(), "etag");
    assert_eq!((whole.body().as_slice(), etag.len()), (&b"0123456789"[..], 66));
    let head = ask(public, Method::HEAD, target, &[]).await;
    assert_eq!((head.body().len(), text(head.headers(), "content-length").as_str()), (0, "10"));
    let part = ask(public, Method::GET, target, &[("range", "bytes=2-4"), ("if-range", &etag)]).await;
    assert_eq!((part.status(), part.body().as_slice()), (StatusCode::PARTIAL_CONTENT, &b"234"[..]));
    assert_eq!(text(part.headers(), "content-range"), "bytes 2-4/10");
    let behind = ask(public, Method::GET, target, &[("range", "bytes=10-")]).await;
    assert_eq!(
        (behind.status(), text(behind.headers(), "content-range").as_str()),
        (StatusCode::RANGE_NOT_SATISFIABLE, "bytes */10")
    );
    let known = ask(public, Method::GET, target, &[("if-none-match", &etag)]).await;
    assert_eq!((known.status(), known.body().len()), (StatusCode::NOT_MODIFIED, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_for_the_edge_is_refused() {
    let world = World::start([0, 0, 0]).await;
    world.publish(&[("a.txt", "text")]).await;
    let (_edge, public, admin) = world.cluster.edge(|config| config.hosts = vec!["cdn.example.org".to_owned()]).await;
    ready(admin).await;
    let status = async |method: Method, target: &str, headers: &[(&str, &str)]| {
        let answer = ask(public, method, target, headers).await;
        assert!(
            answer.status().is_success()
                || text(answer.headers(), "content-type") == "application/problem+json"
                || answer.body().is_empty()
        );
        answer.status().as_u16()
    };
    assert_eq!(status(Method::GET, "/a.txt", &[("host", "cdn.example.org")]).await, 200);
    assert_eq!(status(Method::GET, "/a.txt", &[("host", "www.metacdn.internal:80")]).await, 200);
    assert_eq!(status(Method::GET, "/a.txt", &[("host", "evil.example.org")]).await, 403);
    assert_eq!(status(Method::POST, "/a.txt", &[]).await, 405);
    assert_eq!(status(Method::DELETE, "/a.txt", &[]).await, 405);
    for bad in ["/../etc/passwd", "/a/%2e%2e/b", "/a//b", "/%00", "/%ff", "/.metacdn/nodes/AWS"] {
        assert_eq!(status(Method::GET, bad, &[]).await, 400, "{bad}");
    }
    assert_eq!(status(Method::GET, "/a.txt", &[("metacdn-policy", "p")]).await, 403);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trusted_client_chooses_the_policy() {
    let world = World::start([4, 40, 15]).await;
    world.publish(&[("a.txt", "text")]).await;
    let trusted = vec!["127.0.0.1".parse().unwrap()];
    let (_edge, public, admin) = world.cluster.edge(|config| config.trusted = trusted).await;
    ready(admin).await;
    for (words, node) in [("p", "GC"), ("n", "AWS"), ("c 0.99", "GC")] {
        let answer = ask(public, Method::GET, "/a.txt", &[("metacdn-policy", words)]).await;
        assert_eq!(node_of(&answer), node, "{words}");
    }
    let wrong = ask(public, Method::GET, "/a.txt", &[("metacdn-policy", "c 2")]).await;
    assert_eq!(wrong.status(), StatusCode::BAD_REQUEST);
}
