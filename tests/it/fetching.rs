//! How a node gets the bytes that it wants: many at once, each blob once, resumed, what is asked for first.

use std::num::NonZeroU64;
use std::path::Path;

use futures_util::future::join_all;
use metacdn::client::Peer;
use metacdn::model::ContentHash;
use rusqlite::Connection;

use crate::cluster::{Cluster, get, objects, put, wait_until};
use crate::edge::fetch;

/// A counter or gauge of a node.
pub async fn figure(cluster: &Cluster, node: &str, name: &str) -> u64 {
    let text = String::from_utf8(fetch(cluster.ports(node).price, "/metrics").await.into_body()).unwrap();
    let of = |line: &str| Some(line.strip_prefix(name)?.rsplit_once(' ')?.1.parse::<u64>().unwrap());
    let found: Vec<u64> = text.lines().filter_map(of).collect();
    assert!(!found.is_empty(), "{name} is not in\n{text}");
    found.iter().sum()
}

async fn holds(client: &Peer, count: usize) -> bool {
    objects(client).await.len() == count
}

fn content(number: usize, size: usize) -> Vec<u8> {
    format!("{number}/").bytes().cycle().take(size).collect()
}

async fn put_many(client: &Peer, count: usize, size: usize) {
    let numbers: Vec<usize> = (0..count).collect();
    for part in numbers.chunks(50) {
        join_all(part.iter().map(async |number| {
            put(client, &format!("{number:04}"), content(*number, size)).await;
        }))
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_small_objects_come_with_few_requests() {
    let mut cluster = Cluster::start_with(&["AWS"], |config| config.copies_wait_ms = 0).await;
    let aws = cluster.client("AWS");
    put_many(&aws, 600, 1000).await;
    let before = figure(&cluster, "AWS", "metacdn_node_requests_total").await;
    cluster.add("GC").await;
    let gc = cluster.client("GC");
    wait_until("GC holds all", async || gc.ping().await.unwrap().wants == 0 && holds(&gc, 600).await).await;
    for number in [0, 299, 599] {
        assert!(get(&gc, &format!("{number:04}")).await.unwrap() == content(number, 1000));
    }
    assert_eq!(figure(&cluster, "GC", "metacdn_node_fetched_bytes_total").await, 600_000);
    let requests = figure(&cluster, "AWS", "metacdn_node_requests_total").await - before;
    assert!(requests < 150, "{requests} requests for 600 objects");
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_that_many_keys_share_come_about_once() {
    let mut cluster = Cluster::start_with(&["AWS"], |config| config.copies_wait_ms = 0).await;
    let aws = cluster.client("AWS");
    for size in [1000, 100_000] {
        join_all((0..300).map(async |number| {
            put(&aws, &format!("{size}/{number}"), content(1, size)).await;
        }))
        .await;
    }
    cluster.add("GC").await;
    let gc = cluster.client("GC");
    wait_until("GC holds all", async || holds(&gc, 600).await).await;
    let fetched = figure(&cluster, "GC", "metacdn_node_fetched_bytes_total").await;
    // Batches that are on their way together may bring the same bytes.
    assert!((101_000..=104_000).contains(&fetched), "{fetched}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fetch_goes_on_after_a_restart_where_it_was_within_its_rate() {
    const SIZE: usize = 4_000_000;
    let mut cluster = Cluster::start_with(&["AWS"], |config| config.copies_wait_ms = 0).await;
    let aws = cluster.client("AWS");
    put(&aws, "large", content(1, SIZE)).await;
    let begun = std::time::Instant::now();
    cluster.begin("GC", |config| config.fetch_bytes_per_second = NonZeroU64::new(1_000_000)).await;
    let unfinished = cluster.data("GC").join("blobs/unfinished").join(ContentHash::of(&content(1, SIZE)).to_string());
    let there = |path: &Path| path.metadata().map_or(0, |file| file.len());
    wait_until("a part of it is there", async || there(&unfinished) > 1_000_000).await;
    assert!(begun.elapsed().as_millis() > 800, "faster than its bound: {:?}", begun.elapsed());
    cluster.stop("GC").await;
    let kept = there(&unfinished);
    assert!(kept < SIZE as u64, "{kept}");
    cluster.change("GC", |config| config.fetch_bytes_per_second = None);
    cluster.restart("GC").await;
    let gc = cluster.client("GC");
    wait_until("GC holds it", async || holds(&gc, 1).await).await;
    assert!(get(&gc, "large").await.unwrap() == content(1, SIZE));
    assert_eq!(figure(&cluster, "GC", "metacdn_node_fetched_bytes_total").await, SIZE as u64 - kept);
    assert_eq!(there(&unfinished), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_somebody_asks_for_comes_first() {
    let mut cluster = Cluster::start_with(&["AWS"], |config| config.copies_wait_ms = 0).await;
    let aws = cluster.client("AWS");
    for number in 0..60 {
        put(&aws, &format!("{number:04}"), content(number, 30_000)).await;
    }
    let slowly = |config: &mut metacdn::node::Config| {
        config.fetch_parallel = std::num::NonZeroUsize::MIN;
        config.fetch_bytes_per_second = NonZeroU64::new(200_000);
    };
    cluster.add_with("GC", slowly).await;
    let gc = cluster.client("GC");
    wait_until("the first are here", async || !objects(&gc).await.is_empty()).await;
    // The newest come first, so that this one would be the last.
    wait_until("the oldest is here", async || get(&gc, "0000").await.is_some()).await;
    let there = objects(&gc).await.len();
    assert!(there < 60, "{there} were fetched before the one that was asked for");
}

#[tokio::test(flavor = "multi_thread")]
async fn small_bytes_that_are_damaged_at_one_peer_come_from_another() {
    let mut cluster = Cluster::start(&["AWS", "GC"]).await;
    let aws = cluster.client("AWS");
    put_many(&aws, 20, 1000).await;
    let gc = cluster.client("GC");
    wait_until("GC holds all", async || holds(&gc, 20).await).await;
    cluster.stop("GC").await;
    let catalog = Connection::open(cluster.data("AWS").join("catalog.sqlite")).unwrap();
    catalog.pragma_update(None, "busy_timeout", 10_000).unwrap();
    let hash = ContentHash::of(&content(7, 1000));
    let damage = "UPDATE small_blobs SET bytes = zeroblob(length(bytes)) WHERE hash = ?1";
    assert_eq!(catalog.execute(damage, [hash.as_bytes()]).unwrap(), 1);
    cluster.add("Program").await;
    let program = cluster.client("Program");
    wait_until("Program holds all others", async || holds(&program, 19).await).await;
    assert_eq!(get(&program, "0007").await, None);
    cluster.restart("GC").await;
    wait_until("Program holds all", async || holds(&program, 20).await).await;
    assert!(get(&program, "0007").await.unwrap() == content(7, 1000));
}
