//! Nodes that live and answer probes, but fail or break off what they are asked for.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use http::{Method, StatusCode};
use metacdn::cli::demo::relay::{Link, Relay};
use metacdn::edge;
use metacdn::model::Principal;
use metacdn::protocol::identity::TlsVersions;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_util::task::AbortOnDropHandle;

use crate::answers::Answer;
use crate::cluster::{Cluster, PATIENCE, Running, free_address, wait_until};
use crate::edge::{World, ask, by_price_uncached, fetch, node_of, ready, text};

const FAILED: &str = "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n";
const MISSING: &str = "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n";
const CHANGED: &str = "HTTP/1.1 412 Precondition Failed\r\ncontent-length: 0\r\n\r\n";
const WHOLE: &str = "HTTP/1.1 200 OK\r\netag: \"a\"\r\ncontent-length: 4\r\n\r\ntext";
const HALF: &str = "HTTP/1.1 200 OK\r\netag: \"a\"\r\ncontent-length: 4\r\n\r\nte";
const REST: &str =
    "HTTP/1.1 206 Partial Content\r\netag: \"a\"\r\ncontent-range: bytes 2-3/4\r\ncontent-length: 2\r\n\r\nxt";

/// What a node does when it is asked for an object.
#[derive(Debug, Clone, Copy)]
enum Deed {
    Say(&'static str),
    /// Says it and nothing more until the edge lets it go.
    FallSilentAfter(&'static str),
    /// Says it once the edge has let go of the answer that fell silent.
    SayWhenLetGo(&'static str),
}

/// What stands behind a node's name and does these deeds, the last one again and again.
struct Liar {
    address: SocketAddr,
    state: Arc<State>,
    _accepting: AbortOnDropHandle<()>,
}

struct State {
    deeds: Vec<Deed>,
    asked: AtomicUsize,
    probed: AtomicUsize,
    let_go: Semaphore,
}

impl Liar {
    async fn behind(cluster: &Cluster, relay: &Relay, name: &str, deeds: &[Deed]) -> Self {
        let identity = cluster.identity(Principal::Node(name.parse().unwrap()));
        let acceptor = TlsAcceptor::from(identity.server_config(TlsVersions::Only13));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let counter = AtomicUsize::default;
        let state =
            Arc::new(State { deeds: deeds.to_vec(), asked: counter(), probed: counter(), let_go: Semaphore::new(0) });
        let told = state.clone();
        let accepting = async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (acceptor, state) = (acceptor.clone(), told.clone());
                tokio::spawn(async move {
                    // Whoever asks may leave at any time.
                    _ = state.answer(acceptor, stream).await;
                });
            }
        };
        let liar = Self { address, state, _accepting: AbortOnDropHandle::new(tokio::spawn(accepting)) };
        relay.set_target(liar.address);
        relay.reset_all();
        liar.probed_twice().await;
        liar
    }

    fn asked(&self) -> usize {
        self.state.asked.load(Ordering::Relaxed)
    }

    /// Waits until it was probed; the first of two probes may have begun before.
    async fn probed_twice(&self) {
        let before = self.state.probed.load(Ordering::Relaxed);
        wait_until("it is probed", async || self.state.probed.load(Ordering::Relaxed) >= before + 2).await;
    }
}

impl State {
    async fn answer(&self, acceptor: TlsAcceptor, stream: TcpStream) -> std::io::Result<()> {
        let mut stream = acceptor.accept(stream).await?;
        loop {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                if stream.read_buf(&mut head).await? == 0 {
                    return Ok(());
                }
            }
            let head = String::from_utf8(head).unwrap();
            let deed = if head.starts_with("GET /v1/ping") {
                self.probed.fetch_add(1, Ordering::Relaxed);
                Deed::Say("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
            } else if head.contains(" /v1/objects/") {
                let place = self.asked.fetch_add(1, Ordering::Relaxed).min(self.deeds.len() - 1);
                self.deeds[place]
            } else {
                Deed::Say(FAILED)
            };
            let (Deed::Say(words) | Deed::FallSilentAfter(words) | Deed::SayWhenLetGo(words)) = deed;
            if let Deed::SayWhenLetGo(_) = deed {
                self.let_go.acquire().await.unwrap().forget();
            }
            stream.write_all(words.as_bytes()).await?;
            if let Deed::FallSilentAfter(_) = deed {
                // An end and a reset are alike.
                _ = stream.read_u8().await;
                self.let_go.add_permits(1);
                return Ok(());
            }
        }
    }
}

/// One node behind a relay, and an edge.
struct Alone {
    cluster: Cluster,
    relay: Relay,
    _edge: Running,
    public: SocketAddr,
    admin: SocketAddr,
}

impl Alone {
    async fn start() -> Self {
        let mut cluster = Cluster::start(&[]).await;
        let target = free_address();
        let relay = Relay::start(target, Link::default(), "127.0.0.1:0".parse().unwrap()).await.unwrap();
        let advertised = relay.address().into();
        cluster.add_at("GC", target, |config| config.advertise = Some(advertised)).await;
        let change = |config: &mut edge::Config| {
            by_price_uncached(config);
            config.stall_ms_max = 300;
            // For one that makes the edge wait until something else has happened.
            config.first_byte_ms_max = 10_000;
        };
        let (edge, public, admin) = cluster.edge(change).await;
        ready(admin).await;
        Self { cluster, relay, _edge: edge, public, admin }
    }

    async fn lies(&self, deeds: &[Deed]) -> Liar {
        Liar::behind(&self.cluster, &self.relay, "GC", deeds).await
    }
}

/// All that comes for a request, however it ends.
async fn got(public: SocketAddr, fields: &str) -> Answer {
    let mut stream = TcpStream::connect(public).await.unwrap();
    let request = format!("GET /a.txt HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{fields}\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    // A reset is an end, too.
    _ = timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("it ends");
    Answer::parse(&answer)
}

async fn reason_of(admin: SocketAddr, node: &str) -> String {
    let ranking = fetch(admin, "/routes?key=a.txt").await;
    let ranking: serde_json::Value = serde_json::from_slice(ranking.body()).unwrap();
    let routes = ranking["routes"].as_array().unwrap();
    routes.iter().find(|route| route["node"] == node).unwrap()["reason"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn one_node_that_fails_is_nobodys_loss_and_its_probes_are_no_excuse() {
    let world = World::start([0, 0, 0]).await;
    world.publish(&[("a.txt", "text")]).await;
    let (_edge, public, admin) = world
        .cluster
        .edge(|config| {
            by_price_uncached(config);
            config.route.eject.out_ms = 600_000;
            config.route.eject.out_ms_max = 600_000;
            // Not one beyond the first of each request.
            (config.retry_per_cent, config.retry_burst) = (0, 0);
        })
        .await;
    ready(admin).await;
    let liar = Liar::behind(&world.cluster, &world.relays["GC"], "GC", &[Deed::Say(FAILED)]).await;
    // The change of its connections may have failed a request or a probe.
    wait_until("it is asked first", async || reason_of(admin, "GC").await != "ejected").await;
    while reason_of(admin, "GC").await != "ejected" {
        let answer = fetch(public, "/a.txt").await;
        assert_eq!((answer.status(), node_of(&answer).as_str()), (StatusCode::OK, "Program"));
        liar.probed_twice().await;
        assert!(liar.asked() <= 3);
    }
    assert!(liar.asked() >= 2, "its feed and its probes alone do not eject it");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ejected_node_that_lives_is_asked_for_what_the_others_lack() {
    let world = World::start([0, 0, 0]).await;
    world.publish(&[("a.txt", "text")]).await;
    let (_edge, public, admin) = world
        .cluster
        .edge(|config| {
            by_price_uncached(config);
            config.route.eject.out_ms = 600_000;
            config.route.eject.out_ms_max = 600_000;
            config.membership.down_after_ms = 600_000;
        })
        .await;
    ready(admin).await;
    let deeds = [Deed::Say(FAILED), Deed::Say(FAILED), Deed::Say(FAILED), Deed::Say(WHOLE)];
    let gc = Liar::behind(&world.cluster, &world.relays["GC"], "GC", &deeds).await;
    while gc.asked() < 3 {
        fetch(public, "/a.txt").await;
    }
    wait_until("it is ejected", async || reason_of(admin, "GC").await == "ejected").await;
    let _aws = Liar::behind(&world.cluster, &world.relays["AWS"], "AWS", &[Deed::Say(MISSING)]).await;
    world.relays["Program"].set(Link { stalled: true, ..Link::default() });
    wait_until("it is silent", async || reason_of(admin, "Program").await == "suspect").await;
    let answer = fetch(public, "/a.txt").await;
    assert_eq!((answer.status(), node_of(&answer).as_str()), (StatusCode::OK, "GC"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_fails_where_no_node_follows_is_no_retry() {
    let alone = Alone::start().await;
    let _gc = alone.lies(&[Deed::Say(FAILED)]).await;
    assert_eq!(fetch(alone.public, "/a.txt").await.status(), StatusCode::SERVICE_UNAVAILABLE);
    let metrics = String::from_utf8(fetch(alone.admin, "/metrics").await.into_body()).unwrap();
    assert!(metrics.contains("\nmetacdn_edge_retries_total 0\n"), "{metrics}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_ends_too_soon_goes_on_and_none_is_longer_than_it_should_be() {
    let alone = Alone::start().await;
    let short = "HTTP/1.1 206 Partial Content\r\netag: \"a\"\r\ncontent-range: bytes 1-8/9\r\n\
        transfer-encoding: chunked\r\n\r\n3\r\n123\r\n0\r\n\r\n";
    let long = "HTTP/1.1 206 Partial Content\r\netag: \"a\"\r\ncontent-range: bytes 4-8/9\r\n\
        transfer-encoding: chunked\r\n\r\n4\r\n4567\r\n6\r\n8-more\r\n0\r\n\r\n";
    let gc = alone.lies(&[Deed::Say(short), Deed::Say(long)]).await;
    let answer = ask(alone.public, Method::GET, "/a.txt", &[("range", "bytes=1-8")]).await;
    assert_eq!((answer.status(), answer.body().as_slice()), (StatusCode::PARTIAL_CONTENT, b"12345678".as_slice()));
    assert_eq!((text(answer.headers(), "content-length").as_str(), gc.asked()), ("8", 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_falls_silent_is_let_go_before_another_is_found() {
    let alone = Alone::start().await;
    let _gc = alone.lies(&[Deed::FallSilentAfter(HALF), Deed::SayWhenLetGo(REST)]).await;
    assert_eq!(got(alone.public, "").await.body, b"text");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rest_that_nobody_has_is_asked_for_once() {
    let alone = Alone::start().await;
    let gc = alone.lies(&[Deed::FallSilentAfter(HALF), Deed::Say(CHANGED)]).await;
    assert_eq!(got(alone.public, "").await.body, b"te");
    assert_eq!(gc.asked(), 2);
}
