//! Shields: edges that ask origins and nodes for all others.

mod failing;
mod forgetting;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use metacdn::cache::SLICE_BYTES;
use metacdn::cli::demo::relay::{Link, Relay};
use metacdn::client::{AnswerBody, Deadlines, Peer, empty, full};
use metacdn::edge;
use metacdn::model::{Address, Principal};
use metacdn::protocol::feed::FeedQuery;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::cluster::{Cluster, Running, free_address, put, wait_until};
use crate::edge::text;
use crate::edge_cache::cache_status;
use crate::sites::origin::{Asked, Body, Origin, answer};
use crate::sites::{ask, fetch, field, send, site, whole};

/// An edge that runs, and where it answers users and operators.
struct Edge {
    running: Running,
    public: SocketAddr,
    admin: SocketAddr,
}

/// An edge that asks `shields`, of which it is the one with this socket.
async fn edge_among(
    cluster: &Cluster,
    origin: &Origin,
    shields: &[Address],
    this: Option<(TcpListener, Address)>,
    change: impl FnOnce(&mut edge::Config),
) -> Edge {
    let configure = |config: &mut edge::Config| {
        config.site = vec![toml::from_str(&site(&[origin])).unwrap()];
        config.shield.edges = shields.to_vec();
        config.shield.answer_ms_max = 5_000;
    };
    let (running, public, admin) = match this {
        Some((listener, this)) => {
            let at = listener.local_addr().unwrap();
            let configure = |config: &mut edge::Config| {
                configure(config);
                (config.shield.listen, config.shield.this) = (Some(at), Some(this));
                change(config);
            };
            cluster.shield(listener, configure).await
        }
        None => {
            let configure = |config: &mut edge::Config| {
                configure(config);
                change(config);
            };
            cluster.edge(configure).await
        }
    };
    crate::edge::ready(admin).await;
    Edge { running, public, admin }
}

/// Waits until the shield has read the feeds of all nodes.
async fn hears(cluster: &Cluster, shield: &Address) {
    let peer = another_edge(cluster, shield);
    for node in cluster.names() {
        let feed = FeedQuery { since: 0, epoch: None, limit: None, wait_ms: 0, records: false };
        let feed = cluster.client(node).feed(&feed).await.unwrap();
        let demand = format!("store; heard={node}:{}:{}", feed.epoch, feed.next);
        // What is at fault is then the path.
        let is_heard = async || at_door(&peer, "/", Some(&demand)).await.status() == StatusCode::BAD_REQUEST;
        wait_until("it has read the feed", is_heard).await;
    }
}

/// The shield, as another edge asks it.
fn another_edge(cluster: &Cluster, shield: &Address) -> Peer {
    let tls = cluster.identity(Principal::Edge("other".parse().unwrap())).client_config();
    Peer::shield(tls, shield.clone(), Deadlines::default())
}

async fn socket() -> (TcpListener, Address) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap().into();
    (listener, at)
}

/// An edge that asks, its one shield, and where that is asked.
async fn pair(cluster: &Cluster, origin: &Origin) -> (Edge, Edge, Address) {
    let (listener, at) = socket().await;
    let shields = [at.clone()];
    let shield = edge_among(cluster, origin, &shields, Some((listener, at.clone())), |_| {}).await;
    let asking = edge_among(cluster, origin, &shields, None, |_| {}).await;
    hears(cluster, &at).await;
    (asking, shield, at)
}

/// An origin whose answers last, have tags and a name, and count themselves.
async fn counting() -> Origin {
    counting_of(None).await
}

/// The same, where a cache had the answers for so many seconds.
async fn counting_of(age: Option<&'static str>) -> Origin {
    let number = AtomicUsize::new(0);
    Origin::start(move |asked: Asked| {
        let number = number.fetch_add(1, Ordering::Relaxed);
        let mut fields = vec![
            ("cache-control", "max-age=1000"),
            ("cdn-cache-control", "max-age=2000"),
            ("cache-tag", "all"),
            ("surrogate-key", "all"),
            ("etag", "\"1\""),
        ];
        fields.extend(age.map(|age| ("age", age)));
        match asked.field("if-none-match").as_str() {
            "" => answer(200, &fields, number.to_string()),
            _ => answer(304, &fields, ""),
        }
    })
    .await
}

/// An origin of these bytes, which gives parts.
async fn of_parts(all: Bytes) -> Origin {
    Origin::start(move |asked| part(&asked, &all)).await
}

fn part(asked: &Asked, all: &Bytes) -> Response<Body> {
    let fields = [("cache-control", "max-age=1000"), ("etag", "\"1\""), ("accept-ranges", "bytes")];
    let range = asked.field("range");
    let Some((first, last)) = range.strip_prefix("bytes=").and_then(|range| range.split_once('-')) else {
        return answer(200, &fields, all.clone());
    };
    let first: usize = first.parse().unwrap();
    let end = last.parse::<usize>().map_or(all.len(), |last| last + 1).min(all.len());
    let mut response = answer(206, &fields, all.slice(first..end));
    let range = format!("bytes {first}-{}/{}", end - 1, all.len());
    response.headers_mut().insert("content-range", range.parse().unwrap());
    response
}

fn pattern(length: usize) -> Bytes {
    (0..length).map(|position| (position % 251) as u8).collect()
}

/// How often `node` was asked, or a shield with an outcome, as the edge counts it.
async fn counted(admin: SocketAddr, line: &str) -> u64 {
    let metrics = String::from_utf8(crate::edge::fetch(admin, "/metrics").await.into_body()).unwrap();
    metrics.lines().find_map(|text| text.strip_prefix(line)).map_or(0, |count| count.trim().parse().unwrap())
}

async fn asked_shield(edge: &Edge, at: &Address, outcome: &str) -> u64 {
    let name = format!("{}-{}", at.host().replace('.', "-"), at.port());
    let line = format!("metacdn_edge_shield_requests_total{{shield=\"{name}\",outcome=\"{outcome}\"}}");
    counted(edge.admin, &line).await
}

/// What the last edge says that has passed an answer on.
fn own_status(answer: &Response<Bytes>) -> String {
    let mut lines = answer.headers().get_all("cache-status").iter();
    lines.next_back().map_or("", |line| line.to_str().unwrap()).to_owned()
}

/// Waits until `path` is answered from memory.
async fn kept(edge: SocketAddr, path: &str) {
    wait_until("it is kept", async || own_status(&fetch(edge, path).await).starts_with("metacdn; hit")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_thing_is_fetched_once_for_all_edges() {
    let (cluster, origin) = (Cluster::start(&["AWS"]).await, counting().await);
    let mut sockets = Vec::new();
    for _ in 0..6 {
        sockets.push(socket().await);
    }
    let shields: Vec<_> = sockets.iter().map(|(_, at)| at.clone()).collect();
    // By their disks they know that they were told of no purge.
    let folders: Vec<_> = shields.iter().map(|_| tempfile::tempdir().unwrap()).collect();
    let mut edges = Vec::new();
    for (this, folder) in sockets.into_iter().zip(&folders) {
        let on_disk = |config: &mut edge::Config| config.cache.disk.folder = Some(folder.path().to_owned());
        edges.push(edge_among(&cluster, &origin, &shields, Some(this), on_disk).await);
    }
    for shield in &shields {
        hears(&cluster, shield).await;
    }
    let mut readers = JoinSet::new();
    for number in 0..600 {
        let public = edges[number % 6].public;
        readers.spawn(async move { fetch(public, &format!("/{}", number / 60)).await });
    }
    assert!(readers.join_all().await.iter().all(|answer| answer.status() == StatusCode::OK));
    let asked = origin.asked();
    assert_eq!(asked.len(), 10, "there are 10 things");
    let said = |asked: &Asked| [asked.field("x-forwarded-for"), asked.field("host")];
    assert!(asked.iter().all(|asked| said(asked) == ["127.0.0.1", "site.example"]), "{asked:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_cache_needs_to_know_comes_through_the_shield() {
    let (cluster, origin) = (Cluster::start(&[]).await, counting_of(Some("7")).await);
    let (_, shield, at) = pair(&cluster, &origin).await;
    // By its disk it knows that it was told of no purge.
    let folder = tempfile::tempdir().unwrap();
    let on_disk = |config: &mut edge::Config| config.cache.disk.folder = Some(folder.path().to_owned());
    let asking = edge_among(&cluster, &origin, std::slice::from_ref(&at), None, on_disk).await;
    kept(shield.public, "/a").await;
    let answer = fetch(asking.public, "/a").await;
    assert_eq!(answer.body(), "0");
    let name = format!("node=127-0-0-1-{}; reason=shield", at.port());
    assert_eq!((field(&answer, "metacdn-route"), field(&answer, "metacdn-shield")), (name, String::new()));
    let said: Vec<_> = answer.headers().get_all("cache-status").iter().map(|line| line.to_str().unwrap()).collect();
    let said = said.join(", ");
    let (nearest, own) = said.split_once(", ").unwrap();
    assert!(nearest.starts_with("metacdn; hit; ttl=") && own == "metacdn; fwd=uri-miss; stored", "{said}");
    for (name, expected) in [("cdn-cache-control", "max-age=2000"), ("cache-tag", "all"), ("surrogate-key", "all")] {
        assert_eq!(field(&answer, name), expected);
    }
    assert_eq!(answer.headers().get_all("via").iter().count(), 2, "{:?}", answer.headers());
    assert!(field(&answer, "age").parse::<u32>().unwrap() >= 7);
    assert_eq!((asked_shield(&asking, &at, "Hit").await, origin.asked().len()), (1, 1));
    let line = "metacdn_edge_shield_answers_total{said=\"hit\"}";
    assert_eq!(counted(shield.admin, line).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_to_be_kept_goes_straight_to_the_origin() {
    let origin = Origin::start(|_| answer(200, &[("cache-control", "max-age=1000")], "")).await;
    let cluster = Cluster::start(&[]).await;
    let (asking, _shield, _) = pair(&cluster, &origin).await;
    whole(send(asking.public, "POST", "/a", &[], full("a body")).await).await;
    ask(asking.public, "GET", "/b", &[("authorization", "Basic YTpi")]).await;
    ask(asking.public, "GET", "/c", &[("cache-control", "no-store")]).await;
    ask(asking.public, "HEAD", "/d", &[]).await;
    ask(asking.public, "GET", "/e", &[("if-none-match", "\"x\"")]).await;
    let edges: Vec<_> = origin.asked().iter().map(|asked| asked.field("cdn-loop").split(',').count()).collect();
    assert_eq!(edges, [1, 1, 1, 2, 2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_but_an_edge_is_answered_as_one() {
    let (cluster, origin) = (Cluster::start(&[]).await, counting().await);
    let (asking, _shield, at) = pair(&cluster, &origin).await;
    let answer = ask(asking.public, "GET", "/a", &[("metacdn-shield", "http; since=0")]).await;
    assert_eq!((answer.status(), field(&answer, "metacdn-shield")), (StatusCode::OK, String::new()));
    assert!(origin.asked().iter().all(|asked| asked.field("metacdn-shield").is_empty()));
    assert_eq!(origin.asked()[0].field("cdn-loop"), "metacdn, metacdn", "it went through the shield all the same");
    let edge = cluster.identity(Principal::Edge("other".parse().unwrap())).client_config();
    let client = cluster.identity(Principal::Client("tester".parse().unwrap())).client_config();
    let demand = Some("http");
    for (tls, demand, status, said) in [
        (cluster.anonymous_tls(), demand, StatusCode::UNAUTHORIZED, ""),
        (client, demand, StatusCode::UNAUTHORIZED, ""),
        (edge.clone(), None, StatusCode::BAD_REQUEST, ""),
        (edge.clone(), Some("http; x"), StatusCode::BAD_REQUEST, ""),
        (edge, demand, StatusCode::OK, "hit"),
    ] {
        let answer = at_door(&Peer::shield(tls, at.clone(), Deadlines::default()), "/a", demand).await;
        assert_eq!((answer.status(), &*field(&answer, "metacdn-shield")), (status, said), "{demand:?}");
    }
}

/// Asks at the way in for edges.
async fn at_door(peer: &Peer, path: &str, demand: Option<&str>) -> Response<AnswerBody> {
    let mut request = Request::builder().method(Method::GET).uri(path).header("host", "site.example");
    if let Some(demand) = demand {
        request = request.header("metacdn-shield", demand);
    }
    peer.send(request.body(empty()).unwrap()).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shield_that_is_gone_is_set_aside() {
    let (cluster, origin) = (Cluster::start(&[]).await, counting().await);
    let gone: Address = free_address().into();
    let asking = edge_among(&cluster, &origin, std::slice::from_ref(&gone), None, |_| {}).await;
    for number in 0..20 {
        let answer = fetch(asking.public, &format!("/{number}")).await;
        assert_eq!(answer.status(), StatusCode::OK);
        let name = format!("; passed=127-0-0-1-{}", gone.port());
        assert_eq!(field(&answer, "metacdn-route").ends_with(&name), number < 3, "{:?}", answer.headers());
    }
    assert_eq!((asked_shield(&asking, &gone, "Failed").await, origin.asked().len()), (3, 20));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_shield_costs_one_wait_and_a_slow_origin_is_waited_for() {
    let origin = Origin::start(|asked| {
        if asked.uri.path() == "/a" {
            // Longer than a shield may be silent.
            std::thread::sleep(Duration::from_millis(1_500));
        }
        answer(200, &[("cache-control", "max-age=1000")], "")
    })
    .await;
    let cluster = Cluster::start(&[]).await;
    let (listener, real) = socket().await;
    let relay = Relay::start(real, Link::default(), "127.0.0.1:0".parse().unwrap()).await.unwrap();
    let at: Address = relay.address().into();
    let shields = [at.clone()];
    let _shield = edge_among(&cluster, &origin, &shields, Some((listener, at.clone())), |_| {}).await;
    let asking = edge_among(&cluster, &origin, &shields, None, |config| config.shield.answer_ms_max = 1_000).await;
    assert!(field(&fetch(asking.public, "/a").await, "metacdn-route").contains("reason=shield"));
    relay.set(Link { stalled: true, ..Link::default() });
    let start = Instant::now();
    assert!(field(&fetch(asking.public, "/b").await, "metacdn-route").contains("passed="));
    assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
    assert_eq!((asked_shield(&asking, &at, "Failed").await, origin.asked().len()), (1, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_breaks_off_at_the_shield_goes_on_at_the_origin() {
    for length in [1 << 20, 6 << 20] {
        let all = pattern(length);
        let origin = of_parts(all.clone()).await;
        let cluster = Cluster::start(&[]).await;
        let (listener, real) = socket().await;
        let relay = Relay::start(real, Link::default(), "127.0.0.1:0".parse().unwrap()).await.unwrap();
        let at: Address = relay.address().into();
        let shields = [at.clone()];
        let shield = edge_among(&cluster, &origin, &shields, Some((listener, at.clone())), |_| {}).await;
        let asking = edge_among(&cluster, &origin, &shields, None, |_| {}).await;
        kept(shield.public, "/a").await;
        let before = origin.asked().len();
        relay.set(Link { cut_after_bytes: Some(500_000), ..Link::default() });
        let answer = fetch(asking.public, "/a").await;
        assert!(*answer.body() == all, "{length}: {}", answer.body().len());
        assert!(field(&answer, "metacdn-route").contains("reason=shield"), "{:?}", answer.headers());
        let rest = &origin.asked()[before..];
        assert_eq!(rest.len(), 1, "{length}: {rest:?}");
        assert_eq!((rest[0].field("if-range").as_str(), rest[0].field("cdn-loop").as_str()), ("\"1\"", "metacdn"));
        let first: usize = rest[0].field("range")[6..].split('-').next().unwrap().parse().unwrap();
        assert!((1..500_000).contains(&first), "{length}: {first}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_what_is_large_the_shield_asks_for_slices() {
    let slice = usize::try_from(SLICE_BYTES).unwrap();
    let all = pattern(8 * slice);
    let origin = of_parts(all.clone()).await;
    let cluster = Cluster::start(&[]).await;
    let (asking, shield, _) = pair(&cluster, &origin).await;
    let range = |first: usize, last: usize| format!("bytes={first}-{last}");
    let (first, last) = (3 * slice + 5, 3 * slice + 1_000);
    for edge in [&asking, &shield] {
        let part = ask(edge.public, "GET", "/a", &[("range", &range(first, last))]).await;
        assert_eq!((part.status(), part.body()), (StatusCode::PARTIAL_CONTENT, &all.slice(first..=last)));
    }
    let asked = origin.asked();
    assert_eq!((asked.len(), asked[0].field("range")), (1, range(3 * slice, 4 * slice - 1)));
    assert!(*fetch(asking.public, "/a").await.body() == all);
    wait_until("the shield has all of it", async || {
        let asked = origin.asked().len();
        *fetch(shield.public, "/a").await.body() == all && origin.asked().len() == asked
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn edges_that_name_each_other_in_two_ways_ask_each_other_once() {
    let (cluster, origin) = (Cluster::start(&[]).await, counting().await);
    let ((one, at_one), (two, at_two)) = (socket().await, socket().await);
    let other_name = |at: &Address| Address::new("localhost", at.port()).unwrap();
    let (known_one, known_two) = (other_name(&at_one), other_name(&at_two));
    let of_one = [known_one.clone(), at_two.clone()];
    let of_two = [at_one, known_two.clone()];
    let first = edge_among(&cluster, &origin, &of_one, Some((one, known_one)), |_| {}).await;
    let second = edge_among(&cluster, &origin, &of_two, Some((two, known_two)), |_| {}).await;
    for number in 0..30 {
        assert_eq!(fetch(first.public, &format!("/{number}")).await.status(), StatusCode::OK);
    }
    let edges: Vec<_> = origin.asked().iter().map(|asked| asked.field("cdn-loop").split(',').count()).collect();
    assert!(edges.len() == 30 && edges.iter().all(|edges| *edges <= 2) && edges.contains(&2), "{edges:?}");
    // Nor do they wait for each other.
    let start = Instant::now();
    let mut readers = JoinSet::new();
    for number in 0..200 {
        let edge = if number % 2 == 0 { first.public } else { second.public };
        readers.spawn(async move { fetch(edge, &format!("/at-once/{}", number / 2)).await.status() });
    }
    assert!(readers.join_all().await.iter().all(|status| *status == StatusCode::OK));
    assert!(start.elapsed() < Duration::from_secs(30), "{:?}", start.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_of_the_store_come_through_the_shield_in_the_version_that_is_wanted() {
    let (cluster, origin) = (Cluster::start(&["AWS"]).await, counting().await);
    let (asking, shield, at) = pair(&cluster, &origin).await;
    let aws = cluster.client("AWS");
    let large = pattern(6 << 20);
    put(&aws, "a.txt", "old").await;
    put(&aws, "large", large.clone()).await;
    let answer = crate::edge::fetch(asking.public, "/a.txt").await;
    let route = format!("node=127-0-0-1-{}; reason=shield", at.port());
    assert_eq!((answer.body().as_slice(), text(answer.headers(), "metacdn-route")), (&b"old"[..], route));
    crate::edge_cache::kept(asking.public, "/a.txt").await;
    assert_eq!(cache_status(&crate::edge::fetch(shield.public, "/a.txt").await), "metacdn; hit");
    let part = crate::edge::ask(asking.public, Method::GET, "/large", &[("range", "bytes=5000000-5000009")]).await;
    assert_eq!((part.status(), part.body().as_slice()), (StatusCode::PARTIAL_CONTENT, &large[5_000_000..5_000_010]));
    assert!(crate::edge::fetch(asking.public, "/large").await.body().as_slice() == large);
    let receipt = put(&aws, "a.txt", "new").await;
    let version = receipt.version.to_string();
    let answer = crate::edge::ask(asking.public, Method::GET, "/a.txt", &[("metacdn-min-version", &version)]).await;
    assert_eq!((answer.status(), answer.body().as_slice()), (StatusCode::OK, &b"new"[..]));
    wait_until("it hears of the change", async || {
        crate::edge::fetch(asking.public, "/a.txt").await.body().as_slice() == b"new"
    })
    .await;
    assert_eq!(counted(asking.admin, "metacdn_edge_fetches_total{node=\"AWS\"}").await, 0, "nodes are the shield's");
    assert_eq!(crate::edge::fetch(asking.public, "/none").await.status(), StatusCode::NOT_FOUND);
}
