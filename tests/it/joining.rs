//! What a node does before a cluster has welcomed it.

use std::net::SocketAddr;

use metacdn::client::Peer;
use metacdn::protocol::READY;

use crate::answers::{Answer, ask};
use crate::cluster::{Cluster, Ports, free_address, get, put, wait_until};

/// Asks for all that a client may change.
async fn writes(client: &Peer) -> Vec<Answer> {
    let tariff = r#"{"instance_hour": 100000000, "network_hour": 100000000}"#;
    let requests = [
        ("PUT", "/v1/objects/a", "text"),
        ("DELETE", "/v1/objects/a", ""),
        ("PUT", "/v1/prices/GC", tariff),
        ("POST", "/v1/purges", r#"{"host": "a.example"}"#),
        ("PUT", "/v1/servers/GC/state", r#""maintenance""#),
    ];
    let mut answers = Vec::new();
    for (method, path, body) in requests {
        answers.push(ask(client, method, path, &[("content-type", "application/json")], body).await);
    }
    answers
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_no_cluster_has_welcomed_takes_no_writes() {
    let mut cluster = Cluster::start(&[]).await;
    let seed = free_address();
    cluster.begin("GC", |config| config.seeds = vec![seed.into()]).await;
    let gc = cluster.client("GC");
    for answer in writes(&gc).await {
        assert!(answer.status == 503 && answer.header("retry-after") == "5", "{answer:?}");
        assert!(answer.problem().contains(&format!("it asks its seeds {seed} (")), "{answer:?}");
    }
    let ready = ask(&gc, "GET", READY, &[], "").await;
    assert!(ready.status == 503 && !ready.problem().contains(&seed.to_string()), "{ready:?}");

    // One that waits as well makes no cluster of it.
    let address = cluster.address("GC");
    cluster.begin("Program", |config| config.seeds = vec![seed.into(), address]).await;
    let program = cluster.client("Program");
    wait_until("Program has heard of GC", async || {
        ask(&program, "PUT", "/v1/objects/a", &[], "text").await.problem().contains("(node GC, which waits as well)")
    })
    .await;

    cluster.add_at("AWS", seed, |config| config.seeds.clear()).await;
    for name in ["GC", "Program"] {
        cluster.is_ready(name).await;
        put(&cluster.client(name), name, "text").await;
        wait_until("AWS has it", async || get(&cluster.client("AWS"), name).await.is_some()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_that_name_only_each_other_as_seeds_are_a_cluster_once_all_are_there() {
    let mut cluster = Cluster::start(&[]).await;
    let names = ["AWS", "GC", "Program"];
    let addresses = names.map(|_| free_address());
    let seeds: Vec<_> = addresses.iter().map(|address| (*address).into()).collect();
    let at = |api: SocketAddr| {
        let free = "127.0.0.1:0".parse().unwrap();
        Ports { api, download: free, price: free }
    };
    for (name, address) in names.into_iter().zip(addresses).take(2) {
        cluster.begin_on(name, at(address), |config| config.seeds.clone_from(&seeds)).await;
    }
    for name in &names[..2] {
        let client = cluster.client(name);
        wait_until(&format!("{name} has heard of the other"), async || {
            ask(&client, "PUT", "/v1/objects/a", &[], "text").await.problem().contains("which waits as well")
        })
        .await;
    }
    cluster.begin_on(names[2], at(addresses[2]), |config| config.seeds.clone_from(&seeds)).await;
    for name in names {
        cluster.is_ready(name).await;
    }
    put(&cluster.client("Program"), "a", "text").await;
    for name in names {
        let client = cluster.client(name);
        wait_until(&format!("{name} has it"), async || get(&client, "a").await.is_some()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_was_welcomed_belongs_to_its_cluster_for_good() {
    let mut cluster = Cluster::start(&["AWS", "GC"]).await;
    // One that is away keeps the set of nodes from being settled.
    cluster.stop("GC").await;
    cluster.add("Program").await;
    assert!(!cluster.client("Program").status().await.unwrap().settled);
    cluster.stop("Program").await;
    cluster.stop("AWS").await;
    cluster.restart("Program").await;
    cluster.is_ready("Program").await;
    put(&cluster.client("Program"), "a", "text").await;
}
