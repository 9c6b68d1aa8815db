//! What the edge keeps in memory is never older than what it could have heard of, however its links to the nodes fail.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use http::{Method, StatusCode};
use metacdn::cli::demo::relay::{Link, Relay};
use metacdn::client::{Upload, full};
use metacdn::model::Tariff;
use metacdn::route::Policy;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::cluster::{Cluster, free_address, get, key, put, wait_until};
use crate::edge::{World, ask, fetch, ready, text};
use crate::edge_cache::{cache_status, counted, kept};

#[tokio::test(flavor = "multi_thread")]
async fn what_a_node_that_lags_behind_gives_is_not_kept() {
    let mut cluster = Cluster::start(&[]).await;
    let target = free_address();
    let relay = Relay::start(target, Link::default(), "127.0.0.1:0".parse().unwrap()).await.unwrap();
    let advertised = relay.address().into();
    cluster.add_at("AWS", target, |config| config.advertise = Some(advertised)).await;
    cluster.add("GC").await;
    let (aws, gc) = (cluster.client("AWS"), cluster.client("GC"));
    for (provider, price) in [("AWS", ".30"), ("GC", ".10")] {
        let tariff = Tariff { instance_hour: price.parse().unwrap(), network_hour: ".1".parse().unwrap(), rates: None };
        aws.set_price(&provider.parse().unwrap(), &tariff).await.unwrap();
    }
    put(&aws, "a.txt", "old").await;
    wait_until("GC holds it", async || get(&gc, "a.txt").await.as_deref() == Some(b"old")).await;
    wait_until("prices are everywhere", async || gc.prices().await.unwrap().len() == 2).await;
    let (_edge, public, admin) = cluster.edge(|config| config.route.policy = Policy::Price).await;
    ready(admin).await;
    kept(public, "/a.txt").await;
    // GC takes long to get the new version.
    relay.set(Link { rate_bytes_per_second: Some(100_000), ..Link::default() });
    let receipt = put(&aws, "a.txt", vec![b'n'; 8 << 20]).await;
    let version = async || text(ask(public, Method::HEAD, "/a.txt", &[]).await.headers(), "metacdn-version");
    wait_until("the edge passes GC over", async || version().await == receipt.version.to_string()).await;
    // Only GC is left, with what it had.
    relay.set(Link { refuse: true, ..Link::default() });
    relay.reset_all();
    for _ in 0..20 {
        let answer = fetch(public, "/a.txt").await;
        assert_eq!((answer.body().as_slice(), &*cache_status(&answer)), (&b"old"[..], "metacdn; fwd=uri-miss"));
    }
    // It is lost before it has the new one, and with it the old one.
    cluster.stop("GC").await;
    relay.set(Link::default());
    relay.reset_all();
    wait_until("AWS answers", async || fetch(public, "/a.txt").await.status() == StatusCode::OK).await;
    assert_ne!(fetch(public, "/a.txt").await.body(), b"old");
}

/// Passes connections on, until they are forgotten: then they stay open and silent, and only new ones are passed on.
async fn forgetful(target: SocketAddr) -> (SocketAddr, tokio::sync::watch::Sender<u32>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    let (forget, forgotten) = tokio::sync::watch::channel(0);
    tokio::spawn(async move {
        loop {
            let (mut client, _) = listener.accept().await.unwrap();
            let mut forgotten = forgotten.clone();
            forgotten.mark_unchanged();
            tokio::spawn(async move {
                let Ok(mut server) = TcpStream::connect(target).await else { return };
                let gone = tokio::select! {
                    _ = tokio::io::copy_bidirectional(&mut client, &mut server) => false,
                    _ = forgotten.changed() => true,
                };
                if gone {
                    tokio::time::sleep(Duration::from_secs(300)).await;
                }
            });
        }
    });
    (at, forget)
}

/// The feed's connection is lost as with a machine that lost its power, or a firewall that forgot it.
#[tokio::test(flavor = "multi_thread")]
async fn a_feed_that_dies_without_a_word_is_noticed() {
    let mut cluster = Cluster::start(&[]).await;
    let target = free_address();
    let (at, forget) = forgetful(target).await;
    cluster.add_at("GC", target, |config| config.advertise = Some(at.into())).await;
    let gc = cluster.client("GC");
    put(&gc, "a.txt", "old").await;
    let (_edge, public, admin) = cluster.edge(|_| {}).await;
    ready(admin).await;
    kept(public, "/a.txt").await;
    forget.send(1).unwrap();
    put(&gc, "a.txt", "new").await;
    let start = Instant::now();
    wait_until("the change is seen", async || fetch(public, "/a.txt").await.body() == b"new").await;
    // A ping fails by silence on its old connection (2 s), the next one tells of the change, and a second is its grace.
    assert!(start.elapsed() < Duration::from_secs(9), "{:?}", start.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_thousand_who_want_to_know_whether_it_is_right_one_asks() {
    let world = World::start([0, 20, 20]).await;
    let aws = world.cluster.client("AWS");
    // What may not be used unchecked.
    let (key, cache_control) = (key("a.txt"), "no-cache".parse().unwrap());
    let upload = Upload { key: &key, size: 4, media_type: None, cache_control: Some(&cache_control), wait_for: None };
    aws.put_object(&upload, full("text")).await.unwrap();
    world.publish(&[("b.txt", "x")]).await;
    let (_edge, public, admin) = world.cluster.edge(|config| config.route.policy = Policy::Price).await;
    ready(admin).await;
    kept(public, "/a.txt").await;
    world.relays["AWS"].set(Link { stalled: true, ..Link::default() });
    wait_until("it asks", async || cache_status(&fetch(public, "/a.txt").await).contains("stale")).await;
    wait_until("it would ask again", async || cache_status(&fetch(public, "/b.txt").await).contains("stale")).await;
    let before = counted(admin, "Revalidated").await;
    let mut asking = JoinSet::new();
    for _ in 0..1_000 {
        asking.spawn(async move { fetch(public, "/a.txt").await });
    }
    let mut statuses = BTreeMap::<(StatusCode, String), usize>::new();
    while let Some(answer) = asking.join_next().await {
        let answer = answer.unwrap();
        *statuses.entry((answer.status(), cache_status(&answer))).or_default() += 1;
    }
    assert!(statuses.keys().all(|(status, _)| *status == StatusCode::OK), "{statuses:?}");
    // One a second, for as long as it takes to answer all.
    let asked = counted(admin, "Revalidated").await - before;
    assert!(asked <= 20, "{asked}: {statuses:?}");
}
