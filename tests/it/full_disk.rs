//! Full disks: uploads get 507, nothing that was acknowledged is lost, and all goes on when space returns.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use futures_util::future::join_all;
use metacdn::model::{ContentHash, Principal};
use metacdn::node::Packets;
use serde_json::json;

use crate::answers::{Answer, ask};
use crate::cluster::{Cluster, get, objects, put, wait_until};
use crate::packets::send;

const MIB: usize = 1 << 20;

/// A file system of its own, small enough to be filled.
pub struct SmallDisk {
    folder: PathBuf,
}

impl SmallDisk {
    pub fn at(folder: PathBuf, mebibytes: usize) -> Self {
        std::fs::create_dir_all(&folder).unwrap();
        let size = format!("size={mebibytes}m");
        let mount = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(&folder).output().unwrap();
        let said = String::from_utf8_lossy(&mount.stderr);
        assert!(mount.status.success(), "only root can mount a disk to fill: sudo ./test.sh it ({})", said.trim());
        Self { folder }
    }

    fn filler(&self) -> PathBuf {
        self.folder.join("filler")
    }

    /// Fills it, but for about `left` bytes.
    pub fn fill(&self, left: usize) {
        let mut filler = File::create(self.filler()).unwrap();
        let zeros = vec![0; 4096];
        while filler.write_all(&zeros).is_ok() {}
        let size = filler.metadata().unwrap().len();
        filler.set_len(size - left as u64).unwrap();
        filler.sync_all().unwrap();
    }

    fn grow(&self, mebibytes: usize) {
        let size = format!("remount,size={mebibytes}m");
        assert!(Command::new("mount").args(["-o", &size]).arg(&self.folder).status().unwrap().success());
    }

    pub fn free(&self) {
        std::fs::remove_file(self.filler()).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // The node may still have files open; the disk goes when they are closed.
        let _ = Command::new("umount").arg("--lazy").arg(&self.folder).status();
    }
}

/// A node on a disk of its own.
async fn small_node(mebibytes: usize) -> (Cluster, SmallDisk) {
    let mut cluster = Cluster::start(&[]).await;
    let disk = SmallDisk::at(cluster.data("AWS"), mebibytes);
    cluster.add_with("AWS", |config| config.packets = Packets::Open).await;
    let client = cluster.client("AWS");
    wait_until("AWS is ready", async || ask(&client, "GET", "/ready", &[], "").await.status == 200).await;
    (cluster, disk)
}

fn assert_full(answer: &Answer) {
    assert_eq!((answer.status, answer.problem().as_str()), (507, "the node's disk is full; nothing was stored"));
}

fn unfinished(folder: &Path) -> usize {
    std::fs::read_dir(folder.join("blobs/unfinished")).unwrap().count()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_does_not_fit_is_refused_and_leaves_nothing() {
    let (cluster, disk) = small_node(24).await;
    let client = cluster.client("AWS");
    put(&client, "kept", "kept").await;
    disk.fill(4 * MIB);
    let large = vec![b'x'; 4 * MIB];
    assert_full(&ask(&client, "PUT", "/v1/objects/large", &[], large.clone()).await);
    let mut packet = b"\x0A\x80\x80\x80\x02".to_vec();
    packet.extend(vec![b'A'; 4 * MIB]);
    packet.extend(b"\x12\x05large\x1A\x01F");
    let refused = send(&cluster, "AWS", Principal::Anonymous, &packet).await;
    assert_eq!(refused, json!({ "error": "the node's disk is full; nothing was stored" }));
    wait_until("what did not fit is gone", async || unfinished(&disk.folder) == 0).await;
    // What fits is still taken, and reads go on.
    put(&client, "small", "small").await;
    assert_eq!(get(&client, "kept").await.unwrap(), b"kept");
    assert_eq!(get(&client, "large").await, None);

    disk.free();
    assert_eq!(ask(&client, "PUT", "/v1/objects/large", &[], large.clone()).await.status, 201);
    assert!(get(&client, "large").await.unwrap() == large);
    assert!(send(&cluster, "AWS", Principal::Anonymous, &packet).await["hash"].is_string());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_catalogue_that_cannot_grow_refuses_every_change_and_recovers() {
    let (mut cluster, disk) = small_node(16).await;
    let client = cluster.client("AWS");
    put(&client, "kept", "kept").await;
    disk.fill(0);
    // Changes may still fit into what the catalogue has reserved; they are many enough to exceed it.
    let mut acknowledged = BTreeMap::from([("kept".to_owned(), b"kept".to_vec())]);
    let mut refusals = 0;
    for number in 0..40 {
        let key = format!("{}-{number}", "long".repeat(100));
        // The same bytes as an object that is there need no space but for the entry.
        let answer = ask(&client, "PUT", &format!("/v1/objects/{key}"), &[], "kept").await;
        match answer.status {
            201 => drop(acknowledged.insert(key, b"kept".to_vec())),
            _ => {
                assert_full(&answer);
                refusals += 1;
            }
        }
    }
    assert!(refusals > 0, "the disk is full");
    let tariff = r#"{"instance_hour":1,"network_hour":1}"#;
    for (method, path, body) in [("DELETE", "/v1/objects/kept", ""), ("PUT", "/v1/prices/AWS", tariff)] {
        let json = [("content-type", "application/json")];
        assert_full(&ask(&client, method, path, &json, body).await);
    }
    assert_all(&cluster, &acknowledged).await;

    disk.free();
    put(&client, "after", "space").await;
    acknowledged.insert("after".to_owned(), b"space".to_vec());
    assert_eq!(ask(&client, "DELETE", "/v1/objects/kept", &[], "").await.status, 204);
    acknowledged.remove("kept");
    assert_all(&cluster, &acknowledged).await;
    cluster.stop("AWS").await;
    cluster.restart("AWS").await;
    assert_all(&cluster, &acknowledged).await;
}

/// The node has exactly these objects.
async fn assert_all(cluster: &Cluster, expected: &BTreeMap<String, Vec<u8>>) {
    let client = cluster.client("AWS");
    let hashes: BTreeMap<_, _> = expected.iter().map(|(key, bytes)| (key.clone(), ContentHash::of(bytes))).collect();
    assert_eq!(objects(&client).await, hashes);
    for (key, bytes) in expected {
        assert!(get(&client, key).await.as_ref() == Some(bytes), "{key}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn uploads_that_fill_the_disk_lose_nothing_acknowledged() {
    let (mut cluster, disk) = small_node(16).await;
    let mut acknowledged = BTreeMap::new();
    disk.fill(4 * MIB);
    for round in 0..2 {
        let client = cluster.client("AWS");
        let mut refusals = 0;
        for first in (0..60_usize).step_by(6) {
            // At the same time, so that some share a commit.
            let uploads = (first..first + 6).map(|number| {
                let key = format!("{round}/{number}");
                let bytes = vec![number as u8; if number % 3 == 0 { 700_000 } else { 20_000 } + round];
                let client = &client;
                async move {
                    let answer = ask(client, "PUT", &format!("/v1/objects/{key}"), &[], bytes.clone()).await;
                    (key, bytes, answer)
                }
            });
            for (key, bytes, answer) in join_all(uploads).await {
                match answer.status {
                    201 => drop(acknowledged.insert(key, bytes)),
                    _ => {
                        assert_full(&answer);
                        refusals += 1;
                    }
                }
            }
        }
        assert!(refusals > 0 && !acknowledged.is_empty(), "round {round}");
        assert_all(&cluster, &acknowledged).await;
        if round == 0 {
            disk.free();
        }
    }
    assert!(acknowledged.keys().any(|key| key.starts_with("1/")), "space returned");
    cluster.stop("AWS").await;
    // SQLite cannot even read without a little space for its own files.
    disk.grow(17);
    cluster.restart("AWS").await;
    assert_all(&cluster, &acknowledged).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_follower_catches_up_by_itself_when_space_returns() {
    for left in [MIB, 0] {
        let mut cluster = Cluster::start(&["AWS"]).await;
        let disk = SmallDisk::at(cluster.data("GC"), 16);
        cluster.add("GC").await;
        let (aws, gc) = (cluster.client("AWS"), cluster.client("GC"));
        put(&aws, "before", "1").await;
        wait_until("GC follows", async || get(&gc, "before").await.is_some()).await;
        disk.fill(left);
        for number in 0..10 {
            put(&aws, &format!("large-{number}"), vec![number; MIB]).await;
        }
        let behind = async || {
            let servers = aws.servers().await.unwrap().servers;
            servers.into_iter().find(|server| server.node.id.as_str() == "GC").and_then(|server| server.behind)
        };
        wait_until("GC is seen to be behind", async || behind().await.is_some_and(|behind| behind > 0)).await;
        assert_eq!(get(&gc, "before").await.unwrap(), b"1");
        disk.free();
        let expected = objects(&aws).await;
        wait_until("GC has caught up", async || objects(&gc).await == expected).await;
        wait_until("GC is seen to have caught up", async || behind().await == Some(0)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_fit_keeps_nothing_else_out() {
    let mut cluster = Cluster::start_with(&["AWS"], |config| config.copies_wait_ms = 0).await;
    let _disk = SmallDisk::at(cluster.data("GC"), 40);
    cluster.add("GC").await;
    let (aws, gc) = (cluster.client("AWS"), cluster.client("GC"));
    for number in 0..3 {
        put(&aws, &format!("large-{number}"), vec![number; 60 * MIB]).await;
    }
    for (number, size) in [(0, 1_000), (1, MIB), (2, 1_000)] {
        let name = format!("fits-{number}");
        put(&aws, &name, vec![number; size]).await;
        wait_until("what fits is fetched", async || get(&gc, &name).await.is_some()).await;
    }
    put(&gc, "own", "own").await;
    gc.delete_object(&"own".parse().unwrap()).await.unwrap();
    let unfinished = cluster.data("GC").join("blobs/unfinished");
    assert_eq!(std::fs::read_dir(unfinished).unwrap().count(), 0, "no half of what does not fit is kept");
    for number in 0..3 {
        aws.delete_object(&format!("large-{number}").parse().unwrap()).await.unwrap();
    }
    wait_until("GC wants nothing more", async || gc.status().await.unwrap().wants == 0).await;
    assert_eq!(objects(&gc).await, objects(&aws).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_starts_on_an_almost_full_disk_and_serves_what_it_has() {
    let (mut cluster, disk) = small_node(16).await;
    put(&cluster.client("AWS"), "kept", "kept").await;
    cluster.stop("AWS").await;
    // SQLite shares a file between its connections, without which it cannot read either.
    disk.fill(128 << 10);
    cluster.restart("AWS").await;
    let client = cluster.client("AWS");
    assert_eq!(get(&client, "kept").await.unwrap(), b"kept");
    assert_full(&ask(&client, "PUT", "/v1/objects/a", &[], vec![b'x'; MIB]).await);
    disk.free();
    put(&client, "a", "after").await;
}
