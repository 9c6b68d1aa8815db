//! `metacdn load`: a cluster that was lost comes back from a dump, one that lives takes a dump for the backup that it is.

use std::collections::BTreeMap;
use std::path::Path;

use metacdn::client::Peer;
use metacdn::model::{ContentHash, MemberState, Tariff};

use super::{User, noise};
use crate::cluster::{Cluster, get, key, objects, put, wait_until};

/// A cluster that forgets its deletions at once.
async fn forgetful(names: &[&str]) -> Cluster {
    Cluster::start_with(names, |config| config.tombstone_grace_s = 1).await
}

async fn have_forgotten(nodes: &[Peer]) {
    for node in nodes {
        wait_until("deletions are forgotten", async || node.status().await.unwrap().tombstones == 0).await;
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A dump of three nodes with objects, prices and what operators say, all of which are lost then; and what it has.
async fn lost() -> (User, std::path::PathBuf, BTreeMap<String, ContentHash>, Tariff) {
    let names = ["AWS", "GC", "Program"];
    let mut lost = forgetful(&names).await;
    let nodes = names.map(|name| lost.client(name));
    for number in 0..40 {
        // Rows of the catalogue and files, some of them of the same bytes.
        put(&nodes[number % 3], &format!("file-{number}"), noise(200 + 900 * number, number as u64 / 2)).await;
    }
    put(&nodes[0], "file-1", "overwritten").await;
    for number in 30..40 {
        nodes[1].delete_object(&key(&format!("file-{number}"))).await.unwrap();
    }
    let tariff = Tariff { instance_hour: ".30".parse().unwrap(), network_hour: ".10".parse().unwrap(), rates: None };
    nodes[0].set_price(&"AWS".parse().unwrap(), &tariff).await.unwrap();
    nodes[0].set_state(&"GC".parse().unwrap(), MemberState::Maintenance).await.unwrap();
    have_forgotten(&nodes).await;
    let user = User::of(&lost, &names);
    user.run(&["verify", "--wait", "30"]).await.ok();
    let all = objects(&nodes[0]).await;
    assert_eq!(all.len(), 30);
    let dump = user.path("dump");
    user.run(&["dump", text(&dump), "--from", "GC"]).await.ok();
    for name in names {
        lost.stop(name).await;
    }
    (user, dump, all, tariff)
}

/// All nodes of the cluster come to have all of it, and distribute writes.
async fn has_all(cluster: &Cluster, names: [&str; 3], all: &BTreeMap<String, ContentHash>, tariff: &Tariff) {
    for name in names {
        let client = cluster.client(name);
        wait_until(&format!("{name} has all"), async || objects(&client).await == *all).await;
        assert_eq!(client.status().await.unwrap().withheld, 0, "{name}");
        assert_eq!(client.prices().await.unwrap().into_values().collect::<Vec<_>>(), std::slice::from_ref(tariff));
    }
    let user = User::of(cluster, &names[..1]);
    let verified = user.run(&["verify", "--bytes", "--wait", "30"]).await.ok();
    assert!(verified.stdout.contains("equal: 3 nodes"), "{verified:?}");
    put(&cluster.client(names[0]), "after", "text").await;
    let last = cluster.client(names[2]);
    wait_until("writes are distributed", async || get(&last, "after").await.is_some()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_that_was_lost_comes_back_under_new_names() {
    let (user, dump, all, tariff) = lost().await;
    let mut cluster = Cluster::start(&[]).await;
    let data = cluster.data("One");
    let load = ["load", text(&dump), "--data", text(&data), "--node", "One", "--authoritative"];
    let loaded = user.run(&[&load[..], &["--json"]].concat()).await.ok().json();
    assert_eq!((&loaded[0]["objects"], &loaded[0]["authoritative"]), (&30.into(), &true.into()));
    user.run(&load).await.failed(1, &["has a catalogue"]);
    let names = ["One", "Two", "GC"];
    for name in names {
        cluster.add(name).await;
    }
    has_all(&cluster, names, &all, &tariff).await;
    let servers = cluster.client("One").servers().await.unwrap().servers;
    let members: Vec<_> = servers.iter().map(|server| (server.node.id.as_str(), server.state)).collect();
    assert_eq!(members, ["GC", "One", "Two"].map(|name| (name, MemberState::Active)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_that_was_lost_comes_back_under_its_own_names_when_all_are_there() {
    let (user, dump, all, tariff) = lost().await;
    let mut cluster = Cluster::start(&[]).await;
    let data = cluster.data("AWS");
    let loaded = user.run(&["load", text(&dump), "--data", text(&data), "--node", "AWS"]).await.ok();
    assert!(loaded.stderr.contains("it waits for GC, Program: forget those"), "{loaded:?}");
    cluster.add("AWS").await;
    cluster.add("GC").await;
    let (aws, gc) = (cluster.client("AWS"), cluster.client("GC"));
    put(&gc, "early", "text").await;
    wait_until("AWS reads GC", async || get(&aws, "early").await.is_some()).await;
    assert_eq!(objects(&aws).await.len(), 1, "Program may know more");
    gc.delete_object(&key("early")).await.unwrap();
    let user = User::of(&cluster, &["AWS"]);
    user.run(&["withheld", "take-back", "AWS"]).await.failed(1, &["still to read other members", "--alone"]);
    cluster.add("Program").await;
    // Deletions were forgotten since all of it was written, so a person has to say that none was of it.
    wait_until("all are read", async || user.run(&["withheld", "take-back", "AWS"]).await.code == 0).await;
    has_all(&cluster, ["AWS", "GC", "Program"], &all, &tariff).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dump_brings_nothing_back_that_a_living_cluster_has_deleted_unless_it_is_told_to() {
    let mut cluster = forgetful(&["AWS", "GC"]).await;
    let user = User::of(&cluster, &["GC"]);
    let gc = cluster.client("GC");
    for name in ["changed", "deleted", "kept"] {
        put(&gc, name, "before").await;
    }
    let aws = cluster.client("AWS");
    wait_until("AWS has all", async || objects(&aws).await.len() == 3).await;
    let dump = user.path("dump");
    user.run(&["dump", text(&dump), "--from", "AWS"]).await.ok();
    put(&gc, "changed", "after").await;
    put(&gc, "new", "after").await;
    gc.delete_object(&key("deleted")).await.unwrap();
    have_forgotten(&[aws, gc.clone()]).await;

    let data = cluster.data("AWS");
    cluster.stop("AWS").await;
    std::fs::remove_dir_all(&data).unwrap();
    let loaded = user.run(&["load", text(&dump), "--data", text(&data), "--node", "AWS"]).await.ok();
    assert!(loaded.stdout.starts_with("loaded 3 objects, 6 B, into "), "{loaded:?}");
    assert!(loaded.stderr.contains("it waits for GC"), "{loaded:?}");
    cluster.restart("AWS").await;
    let aws = cluster.client("AWS");
    wait_until("AWS is as GC is", async || objects(&aws).await == objects(&gc).await).await;
    wait_until("AWS says what is doubtful", async || aws.status().await.unwrap().withheld == 1).await;
    assert_eq!((get(&gc, "changed").await.unwrap(), get(&gc, "deleted").await), (b"after".to_vec(), None));
    let withheld = user.run(&["withheld", "list", "AWS", "--json"]).await.ok().json();
    assert_eq!((withheld.len(), &withheld[0]["key"]), (1, &"deleted".into()));
    user.run(&["verify", "--bytes", "--wait", "30"]).await.ok();

    cluster.stop("AWS").await;
    std::fs::remove_dir_all(&data).unwrap();
    user.run(&["load", text(&dump), "--data", text(&data), "--node", "AWS", "--authoritative"]).await.ok();
    let seed = cluster.address("GC");
    cluster.change("AWS", |config| config.seeds = vec![seed]);
    cluster.restart("AWS").await;
    for name in ["changed", "deleted", "kept"] {
        wait_until("GC takes it for new", async || get(&gc, name).await.as_deref() == Some(b"before")).await;
    }
    assert_eq!(get(&gc, "new").await.unwrap(), b"after", "what the dump does not know stays");
    user.run(&["verify", "--bytes", "--wait", "30"]).await.ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_whole_is_not_loaded() {
    let cluster = Cluster::start(&["AWS"]).await;
    let user = User::of(&cluster, &["AWS"]);
    put(&cluster.client("AWS"), "small", "bytes").await;
    put(&cluster.client("AWS"), "large", noise(40_000, 7)).await;
    let (dump, data) = (user.path("dump"), user.path("data"));
    let load = async || user.run(&["load", text(&dump), "--data", text(&data), "--node", "AWS"]).await;
    load().await.failed(1, &["there is no folder", "metacdn dump"]);
    // As the data folder of a node has it, too.
    std::fs::create_dir_all(dump.join("blobs")).unwrap();
    let other = load().await.failed(1, &["is no dump"]);
    assert!(!other.stderr.contains("completes it"), "{other:?}");
    std::fs::write(dump.join("entries.jsonl.part"), "").unwrap();
    load().await.failed(1, &["is no whole dump", "completes it"]);
    user.run(&["dump", text(&dump)]).await.ok();

    let entries = dump.join("entries.jsonl");
    let whole = std::fs::read_to_string(&entries).unwrap();
    std::fs::write(&entries, whole.lines().next().unwrap()).unwrap();
    load().await.failed(1, &["its entries are others"]);
    std::fs::write(&entries, &whole).unwrap();
    for (name, content) in [("small", b"bytes".to_vec()), ("large", noise(40_000, 7))] {
        let hash = ContentHash::of(&content).to_string();
        let blob = dump.join("blobs").join(&hash[..2]).join(&hash);
        std::fs::write(&blob, vec![0; content.len()]).unwrap();
        load().await.failed(1, &[&format!("cannot load the bytes of {name}"), "is damaged"]);
        std::fs::remove_file(&blob).unwrap();
        load().await.failed(1, &[&format!("cannot load the bytes of {name}"), "No such file"]);
        std::fs::write(&blob, &content).unwrap();
    }
    assert!(!data.join("catalog.sqlite").exists());
    // Nothing of what broke off is in the way.
    load().await.ok();
    assert!(data.join("catalog.sqlite").exists() && !data.join("loading").exists());
    let running = cluster.data("AWS");
    let used = user.run(&["load", text(&dump), "--data", text(&running), "--node", "AWS"]).await;
    used.failed(1, &["another process uses"]);
}
