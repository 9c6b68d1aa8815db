//! Nodes that die, freeze or are cut off while the edge answers: nobody notices.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use metacdn::cli::demo::relay::{Link, Relay};
use metacdn::edge;
use metacdn::model::{ContentHash, Tariff};
use metacdn::route::Policy;
use rustix::process::{Pid, Signal, kill_process};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::cluster::{free_address, objects, put, wait_until};
use crate::edge::{fetch, node_of, ready};
use crate::processes::Processes;

const NAMES: [&str; 3] = ["AWS", "GC", "Program"];

/// Three nodes in processes of their own, each behind a relay, and an edge in this one.
struct World {
    processes: Processes,
    relays: BTreeMap<&'static str, Relay>,
    public: SocketAddr,
    admin: SocketAddr,
    _edge: AbortOnDropHandle<()>,
}

impl World {
    async fn start(files: &[(&str, &[u8])]) -> Self {
        let mut processes = Processes::prepare(&NAMES);
        let mut relays = BTreeMap::new();
        for name in NAMES {
            let relay = Relay::start(processes.addresses(name).0, Link::default(), free_address()).await.unwrap();
            processes.advertise(name, relay.address());
            relays.insert(name, relay);
            processes.spawn(name);
            processes.up(name).await;
        }
        let first = processes.client("AWS");
        for (provider, price) in [("AWS", ".30"), ("GC", ".10"), ("Program", ".114")] {
            let tariff =
                Tariff { instance_hour: price.parse().unwrap(), network_hour: ".1".parse().unwrap(), rates: None };
            first.set_price(&provider.parse().unwrap(), &tariff).await.unwrap();
        }
        for (name, bytes) in files {
            put(&first, name, *bytes).await;
        }
        let expected = objects(&first).await;
        for name in NAMES {
            let node = processes.client(name);
            wait_until(&format!("{name} holds all"), async || objects(&node).await == expected).await;
        }
        let mut config = edge::Config {
            seeds: relays.values().map(|relay| relay.address().into()).collect(),
            // What is silent for longer would be noticed as well, only later.
            stall_ms_max: 500,
            ..edge::Config::default()
        };
        config.cache.capacity_bytes = 0;
        config.route.policy = Policy::Price;
        config.route.eject.out_ms = 100;
        config.route.eject.slow_start_ms = 1.try_into().unwrap();
        let bind = async || TcpListener::bind("127.0.0.1:0").await.unwrap();
        let listeners = edge::Listeners { public: bind().await, tls: None, shield: None, admin: bind().await };
        let (public, admin) = (listeners.public.local_addr().unwrap(), listeners.admin.local_addr().unwrap());
        let identity = processes.identity();
        let running =
            async move { edge::run(config, Some(identity), listeners, None, CancellationToken::new()).await.unwrap() };
        let edge = AbortOnDropHandle::new(tokio::spawn(running));
        ready(admin).await;
        Self { processes, relays, public, admin, _edge: edge }
    }

    /// Waits until the edge would send users to every node.
    async fn whole(&self) {
        wait_until("the edge would use all nodes", async || {
            let ranking = fetch(self.admin, "/routes?key=a").await;
            let ranking: serde_json::Value = serde_json::from_slice(ranking.body()).unwrap();
            let routes = ranking["routes"].as_array().unwrap();
            routes.len() == 3 && routes.iter().all(|r| r["liveness"] == "alive" && r["reason"] != "ejected")
        })
        .await;
    }

    async fn count(&self, metric: &str) -> u64 {
        let metrics = fetch(self.admin, "/metrics").await;
        let text = String::from_utf8(metrics.into_body()).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(metric)?.strip_prefix(' ').map(str::to_owned));
        line.unwrap_or_default().parse().unwrap_or(0)
    }
}

type Web = Client<HttpConnector, Empty<Bytes>>;

fn web() -> Web {
    Client::builder(TokioExecutor::new()).build_http()
}

async fn get(web: &Web, at: SocketAddr, path: &str) -> Response<Incoming> {
    web.request(Request::get(format!("http://{at}{path}")).body(Empty::new()).unwrap()).await.unwrap()
}

/// How a node is lost.
#[derive(Debug, Clone, Copy)]
enum Loss {
    Killed,
    Frozen,
    CutOff,
}

impl World {
    async fn lose(&mut self, node: &str, loss: Loss, round: usize) {
        match loss {
            Loss::Killed => self.processes.kill(node).await,
            Loss::Frozen => kill_process(self.pid(node), Signal::STOP).unwrap(),
            // Once by a reset of all connections, once by silence.
            Loss::CutOff => {
                self.relays[node].set(Link { stalled: true, refuse: true, ..Link::default() });
                if round.is_multiple_of(2) {
                    self.relays[node].reset_all();
                }
            }
        }
    }

    async fn bring_back(&mut self, node: &str, loss: Loss) {
        match loss {
            Loss::Killed => {
                let name = NAMES.into_iter().find(|name| *name == node).unwrap();
                self.processes.spawn(name);
            }
            Loss::Frozen => kill_process(self.pid(node), Signal::CONT).unwrap(),
            Loss::CutOff => {
                self.relays[node].set(Link::default());
                self.relays[node].reset_all();
            }
        }
        self.processes.up(node).await;
        self.whole().await;
    }

    fn pid(&self, node: &str) -> Pid {
        Pid::from_raw(self.processes.pid(node).try_into().unwrap()).unwrap()
    }
}

/// Loses the node that answers at `rounds` random offsets of a download and answers how often another went on.
async fn lose_at_random_offsets(loss: Loss, rounds: usize) -> u64 {
    const SIZE: usize = 64 << 20;
    let mut bytes = vec![0; SIZE];
    blake3::Hasher::new().update(format!("{loss:?}").as_bytes()).finalize_xof().fill(&mut bytes);
    let mut world = World::start(&[("large", &bytes)]).await;
    let expected = ContentHash::of(&bytes);
    drop(bytes);
    for round in 0..rounds {
        let offset = getrandom::u64().unwrap() as usize % SIZE;
        // A connection of its own: what the last one still had in its buffers is nobody's.
        let response = get(&web(), world.public, "/large").await;
        assert_eq!(response.status(), StatusCode::OK);
        let node = node_of(&response);
        let (mut body, mut hasher, mut read, mut lost) = (response.into_body(), blake3::Hasher::new(), 0, false);
        while let Some(frame) = body.frame().await {
            let data = frame.unwrap_or_else(|error| panic!("{loss:?} of {node} at {offset}: {error:?}"));
            let data = data.into_data().unwrap();
            hasher.update(&data);
            read += data.len();
            if read > offset && !lost {
                lost = true;
                world.lose(&node, loss, round).await;
            }
        }
        let hash = ContentHash::new(*hasher.finalize().as_bytes());
        assert_eq!((read, hash), (SIZE, expected), "{loss:?} of {node} at {offset}");
        world.bring_back(&node, loss).await;
    }
    world.count("metacdn_edge_resumed_total").await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_killed_at_any_offset_of_a_download_is_not_noticed() {
    let resumed = lose_at_random_offsets(Loss::Killed, 34).await;
    // Near the end all bytes may be on their way already.
    assert!(resumed >= 20, "{resumed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_frozen_at_any_offset_of_a_download_is_not_noticed() {
    let resumed = lose_at_random_offsets(Loss::Frozen, 33).await;
    assert!(resumed >= 20, "{resumed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_cut_off_at_any_offset_of_a_download_is_not_noticed() {
    let resumed = lose_at_random_offsets(Loss::CutOff, 33).await;
    assert!(resumed >= 20, "{resumed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_ten_thousand_requests_none_fails_when_one_of_three_nodes_dies() {
    const REQUESTS: usize = 10_000;
    const WORKERS: usize = 64;
    let body = vec![b'x'; 4_000];
    let mut world = World::start(&[("small", &body)]).await;
    let (web, public, begun) = (web(), world.public, Arc::new(AtomicUsize::new(0)));
    let mut workers = JoinSet::new();
    // A thousand a second, however long each takes.
    let mut ticks = tokio::time::interval(Duration::from_millis(1));
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Burst);
    let ticks = Arc::new(tokio::sync::Mutex::new(ticks));
    for _ in 0..WORKERS {
        let (web, begun, ticks, body) = (web.clone(), begun.clone(), ticks.clone(), body.clone());
        workers.spawn(async move {
            let mut nodes = BTreeMap::<String, usize>::new();
            while begun.fetch_add(1, Ordering::Relaxed) < REQUESTS {
                ticks.lock().await.tick().await;
                let response = get(&web, public, "/small").await;
                assert_eq!(response.status(), StatusCode::OK);
                *nodes.entry(node_of(&response)).or_default() += 1;
                assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), body);
            }
            nodes
        });
    }
    wait_until("a third is asked", async || begun.load(Ordering::Relaxed) > REQUESTS / 3).await;
    // The cheapest, which has all of them.
    world.processes.kill("GC").await;
    let mut nodes = BTreeMap::<String, usize>::new();
    while let Some(worker) = workers.join_next().await {
        for (node, count) in worker.unwrap() {
            *nodes.entry(node).or_default() += count;
        }
    }
    assert_eq!(nodes.values().sum::<usize>(), REQUESTS);
    assert!(nodes["GC"] > REQUESTS / 4 && nodes["Program"] > REQUESTS / 4, "{nodes:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn ranges_and_several_ranges_go_on_at_another_node_too() {
    let bytes: Vec<u8> = (0..8_u32 << 20).map(|n| ((n * 31) >> 7) as u8).collect();
    let mut world = World::start(&[("large", &bytes)]).await;
    for (round, range) in ["bytes=1000-8000000", "bytes=5-4000000,4000005-8000000"].into_iter().enumerate() {
        world.relays["GC"].set(Link { rate_bytes_per_second: Some(20_000_000), ..Link::default() });
        let whole = crate::edge::ask(world.public, http::Method::GET, "/large", &[("range", range)]).await;
        let request = Request::get(format!("http://{}/large", world.public)).header("range", range);
        let response = web().request(request.body(Empty::new()).unwrap()).await.unwrap();
        assert_eq!((response.status(), node_of(&response).as_str()), (StatusCode::PARTIAL_CONTENT, "GC"));
        let mut body = response.into_body();
        let mut read = body.frame().await.unwrap().unwrap().into_data().unwrap().to_vec();
        world.lose("GC", Loss::CutOff, 0).await;
        read.extend_from_slice(&body.collect().await.unwrap().to_bytes());
        assert!(read == *whole.body(), "{range}");
        assert_eq!(world.count("metacdn_edge_resumed_total").await, round as u64 + 1);
        world.bring_back("GC", Loss::CutOff).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_goes_on_at_the_same_node_when_there_is_no_other() {
    let bytes = vec![7; 8 << 20];
    let mut world = World::start(&[("large", &bytes)]).await;
    for name in ["AWS", "Program"] {
        world.processes.kill(name).await;
    }
    world.relays["GC"].set(Link { rate_bytes_per_second: Some(20_000_000), ..Link::default() });
    let response = get(&web(), world.public, "/large").await;
    let mut body = response.into_body();
    let mut read = body.frame().await.unwrap().unwrap().into_data().unwrap().len();
    world.processes.kill("GC").await;
    world.relays["GC"].set(Link::default());
    world.processes.spawn("GC");
    while let Some(frame) = body.frame().await {
        read += frame.unwrap().into_data().unwrap().len();
    }
    assert_eq!(read, bytes.len());
}
