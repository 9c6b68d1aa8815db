//! Every node converges to every object, whatever was away and when.

use std::time::{Duration, Instant};

use metacdn::client::Peer;
use metacdn::model::{Epoch, Liveness, Principal};

use crate::cluster::{Cluster, get, key, objects, put, wait_until};
use crate::edge::fetch;

#[tokio::test(flavor = "multi_thread")]
async fn what_one_node_takes_every_node_holds() {
    let cluster = Cluster::start(&["AWS", "GC", "Program"]).await;
    let aws = cluster.client("AWS");
    let large: Vec<u8> = (0..3_000_000_u32).map(|i| (i ^ i >> 8) as u8).collect();
    let receipt = put(&aws, "films/large.bin", large.clone()).await;
    assert_eq!(receipt.content.size, 3_000_000);
    put(&cluster.client("GC"), "empty", "").await;
    for name in ["AWS", "GC", "Program"] {
        let client = cluster.client(name);
        wait_until(&format!("{name} holds both"), async || objects(&client).await.len() == 2).await;
        assert_eq!(get(&client, "films/large.bin").await.unwrap(), large, "{name}");
        assert_eq!(get(&client, "empty").await.unwrap(), b"", "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_write_wins_everywhere_and_a_deletion_is_a_write() {
    let cluster = Cluster::start(&["AWS", "GC", "Program"]).await;
    let (aws, gc) = (cluster.client("AWS"), cluster.client("GC"));
    put(&aws, "a", "first").await;
    wait_until("GC has the first", async || get(&gc, "a").await.is_some()).await;
    put(&gc, "a", "second").await;
    put(&aws, "b", "gone soon").await;
    aws.delete_object(&key("b")).await.unwrap();
    for name in ["AWS", "GC", "Program"] {
        let client = cluster.client(name);
        wait_until(&format!("{name} has the second alone"), async || {
            get(&client, "a").await.as_deref() == Some(b"second") && objects(&client).await.len() == 1
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_was_away_takes_in_what_it_missed() {
    let mut cluster = Cluster::start(&["AWS", "GC", "Program"]).await;
    let aws = cluster.client("AWS");
    put(&aws, "kept", "1").await;
    put(&aws, "deleted", "2").await;
    let gc = cluster.client("GC");
    wait_until("GC has both", async || objects(&gc).await.len() == 2).await;
    cluster.stop("GC").await;
    put(&aws, "new", "3").await;
    put(&aws, "kept", "changed").await;
    aws.delete_object(&key("deleted")).await.unwrap();
    cluster.restart("GC").await;
    let gc = cluster.client("GC");
    let expected = objects(&aws).await;
    wait_until("GC has caught up", async || objects(&gc).await == expected).await;
    assert_eq!(get(&gc, "kept").await.unwrap(), b"changed");
    // And what the returned node takes goes to the others.
    put(&gc, "from-gc", "4").await;
    wait_until("AWS has it", async || get(&aws, "from-gc").await.is_some()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_node_joins_by_one_seed_and_is_backfilled() {
    let mut cluster = Cluster::start(&["AWS", "GC"]).await;
    let aws = cluster.client("AWS");
    for number in 0..50 {
        put(&aws, &format!("file-{number}"), format!("text {number}")).await;
    }
    cluster.add("Program").await;
    let program = cluster.client("Program");
    let expected = objects(&aws).await;
    wait_until("Program is backfilled", async || objects(&program).await == expected).await;
    let gc = cluster.client("GC");
    wait_until("GC, which was not its seed, knows it", async || {
        gc.servers().await.unwrap().servers.iter().any(|server| server.node.id.as_str() == "Program")
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_node_is_noticed_everywhere_and_lag_is_shown() {
    let mut cluster = Cluster::start(&["AWS", "GC", "Program"]).await;
    let observers = [cluster.client("AWS"), cluster.client("Program")];
    let gc_seen = async |observer: &Peer| {
        let servers = observer.servers().await.unwrap().servers;
        servers.into_iter().find(|server| server.node.id.as_str() == "GC").unwrap()
    };
    for observer in &observers {
        wait_until("GC is alive and has read all", async || {
            let gc = gc_seen(observer).await;
            gc.liveness == Liveness::Alive && gc.behind == Some(0)
        })
        .await;
    }
    cluster.stop("GC").await;
    let died = Instant::now();
    put(&observers[0], "a", vec![0; 1_000]).await;
    for observer in &observers {
        wait_until("GC is down and behind", async || {
            let gc = gc_seen(observer).await;
            let is_behind = gc.behind.is_some_and(|entries| entries > 0) && gc.behind_bytes >= Some(1_000);
            gc.liveness == Liveness::Down && is_behind
        })
        .await;
    }
    // The bound that users are promised.
    assert!(died.elapsed() < Duration::from_secs(15), "{:?}", died.elapsed());
    cluster.restart("GC").await;
    for observer in &observers {
        wait_until("GC is back", async || {
            let gc = gc_seen(observer).await;
            gc.liveness == Liveness::Alive && gc.behind == Some(0)
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_moves_is_found_by_those_who_knew_it() {
    let mut cluster = Cluster::start(&["AWS", "GC"]).await;
    cluster.stop("GC").await;
    cluster.restart_elsewhere("GC").await;
    put(&cluster.client("GC"), "moved.txt", "moved").await;
    let aws = cluster.client("AWS");
    wait_until("AWS has it from the new address", async || get(&aws, "moved.txt").await.is_some()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_belongs_to_the_node_that_lives() {
    let mut cluster = Cluster::start(&["AWS", "GC"]).await;
    let aws = cluster.client("AWS");
    let listed = async || {
        let servers = aws.servers().await.unwrap().servers;
        servers.into_iter().find(|server| server.node.id.as_str() == "GC").unwrap().node
    };
    let own = listed().await;
    let mut other = own.clone();
    other.address = "127.0.0.1:9".parse().unwrap();
    let namesake = cluster.caller("AWS", Principal::Node("GC".parse().unwrap()));
    let refused = namesake.announce(&other, Epoch::from_bits(1)).await.unwrap_err();
    assert_eq!(refused.status().map(|status| status.as_u16()), Some(409), "{refused}");
    assert_eq!(listed().await, own);
    // A node that is gone may have been set up anew elsewhere.
    cluster.stop("GC").await;
    namesake.announce(&other, Epoch::from_bits(1)).await.unwrap();
    assert_eq!(listed().await, other);
    // Back again, it takes its name from the one that does not live.
    cluster.restart("GC").await;
    wait_until("GC is listed where it lives", async || listed().await == own).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_do_what_is_decided_by_the_certificate() {
    let cluster = Cluster::start(&["AWS"]).await;
    let writes = async |principal| {
        let key = key("a");
        let upload =
            metacdn::client::Upload { key: &key, size: 1, media_type: None, cache_control: None, wait_for: None };
        let peer = cluster.caller("AWS", principal);
        let answer = peer.put_object(&upload, metacdn::client::full("a")).await;
        answer.map(drop).map_err(|error| error.status().map(|status| status.as_u16()))
    };
    assert_eq!(writes(Principal::Edge("edge".parse().unwrap())).await, Err(Some(403)));
    assert_eq!(writes(Principal::Node("GC".parse().unwrap())).await, Err(Some(403)));
    assert_eq!(writes(Principal::Client("me".parse().unwrap())).await, Ok(()));
    // A node may announce itself, and nobody else.
    let gc = cluster.caller("AWS", Principal::Node("GC".parse().unwrap()));
    let mut node = cluster.client("AWS").servers().await.unwrap().servers.remove(0).node;
    node.id = "Program".parse().unwrap();
    let refused = gc.announce(&node, Epoch::from_bits(1)).await.unwrap_err();
    assert_eq!(refused.status().map(|status| status.as_u16()), Some(403));
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_and_edges_speak_ipv6() {
    let mut cluster = Cluster::start(&[]).await;
    for name in ["AWS", "GC"] {
        cluster.add_at(name, "[::1]:0".parse().unwrap(), |_| {}).await;
    }
    put(&cluster.client("AWS"), "six.txt", "six").await;
    let gc = cluster.client("GC");
    wait_until("GC holds it", async || get(&gc, "six.txt").await.is_some()).await;
    let (_edge, public, admin) = cluster.edge_at("[::1]:0", |_| {}).await;
    wait_until("the edge is ready", async || fetch(admin, "/ready").await.status().is_success()).await;
    assert!(public.is_ipv6());
    assert_eq!(fetch(public, "/six.txt").await.body(), b"six");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backfill_that_breaks_off_again_and_again_is_resumed() {
    let world = crate::edge::World::start([0, 0, 0]).await;
    // No connection lives to see the end of the object: only what is resumed ever arrives.
    for relay in world.relays.values() {
        relay.change(|link| link.cut_after_bytes = Some(1_000_000));
        relay.reset_all();
    }
    let large: Vec<u8> = (0..4_000_000_u32).map(|i| (i ^ (i >> 9)) as u8).collect();
    put(&world.cluster.client("AWS"), "large", large.clone()).await;
    for name in ["GC", "Program"] {
        let client = world.cluster.client(name);
        wait_until(&format!("{name} holds it"), async || objects(&client).await.len() == 1).await;
        assert!(get(&client, "large").await.unwrap() == large, "{name}");
    }
}
