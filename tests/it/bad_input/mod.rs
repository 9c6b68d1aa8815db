//! Bad input: each kind gets its clear error, costs bounded memory and time, stores nothing, and harms nobody else.

mod http;
mod keys;
pub mod memory;
mod packets;

use std::time::Duration;

use metacdn::client::Peer;
use metacdn::node::{self, Packets};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

use crate::blobs::held;
use crate::cluster::{Cluster, files_below, get, objects, put, wait_until};

/// Much less than the time after which a hanging node would answer, much more than a busy machine needs.
const LATENCY_MAX: Duration = Duration::from_secs(10);

/// A node that takes packets from anybody, with one object in it.
async fn open_node(change: impl Fn(&mut node::Config)) -> (Cluster, Peer) {
    let cluster = Cluster::start_with(&["AWS"], |config| {
        config.packets = Packets::Open;
        change(config);
    })
    .await;
    let client = cluster.client("AWS");
    put(&client, "kept", "kept").await;
    (cluster, client)
}

/// Waits until the node has nothing but its one object, on the disk either.
async fn nothing_stored(cluster: &Cluster, client: &Peer) {
    assert_eq!(objects(client).await.len(), 1);
    let data = cluster.data("AWS");
    let only_one = || held(&data).len() == 1 && files_below(&data.join("blobs")) == 0;
    wait_until("what was refused has left nothing", async || only_one()).await;
    assert_eq!(get(client, "kept").await.unwrap(), b"kept");
}

/// A caller who keeps asking, and fails if the node lets it wait.
struct Bystander {
    task: JoinHandle<u32>,
    stop: tokio_util::sync::CancellationToken,
}

impl Bystander {
    fn of(client: &Peer) -> Self {
        let stop = tokio_util::sync::CancellationToken::new();
        let (client, stopped) = (client.clone(), stop.clone());
        let task = tokio::spawn(async move {
            let mut answers = 0;
            while !stopped.is_cancelled() {
                let begun = Instant::now();
                let got = timeout(LATENCY_MAX, get(&client, "kept")).await;
                assert_eq!(got.expect("others are served meanwhile").unwrap(), b"kept");
                assert!(begun.elapsed() < LATENCY_MAX);
                answers += 1;
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            answers
        });
        Self { task, stop }
    }

    async fn was_served(self) {
        self.stop.cancel();
        assert!(self.task.await.unwrap() > 0);
    }
}
