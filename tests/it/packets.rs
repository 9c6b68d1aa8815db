//! The packet entrance: the reference's uploads and heartbeats, by a client that shares no code with metacdn.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use metacdn::client::Peer;
use metacdn::model::{ContentHash, Liveness, Node, Principal};
use metacdn::node::Packets;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;

use crate::answers::{Answer, ask, connect_as, curl};
use crate::cluster::{Cluster, PATIENCE, get, objects, wait_until};

const NAMES: [&str; 3] = ["AWS", "GC", "Program"];

fn tester() -> Principal {
    Principal::Client("tester".parse().unwrap())
}

/// What the Python client says: its exit status, and the node's answer if there is one.
fn upload(at: SocketAddr, format: &str, file: &Path, options: &[&str]) -> (Option<i32>, Option<Value>) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let python = root.join(".tools/python/bin/python");
    assert!(python.exists(), "{} is not there: run ./test.sh setup", python.display());
    let output = Command::new(python)
        .arg(root.join("tests/python/packet_client.py"))
        .args([at.ip().to_string(), at.port().to_string(), format.to_owned()])
        .arg(file)
        .args(options)
        .output()
        .unwrap();
    (output.status.code(), serde_json::from_slice(&output.stdout).ok())
}

fn file(cluster: &Cluster, name: &str, bytes: &[u8]) -> PathBuf {
    let path = cluster.folder.path().join(name);
    std::fs::write(&path, bytes).unwrap();
    path
}

/// Sends a packet with code of ours, ends it by close_notify, and reads the line that comes back.
pub async fn send(cluster: &Cluster, name: &str, principal: Principal, packet: &[u8]) -> Value {
    let mut stream = connect_as(cluster, name, principal).await;
    // A node that has heard enough may end the connection before it has everything; its answer can still be read.
    let _ = stream.write_all(packet).await;
    let _ = stream.shutdown().await;
    let mut line = String::new();
    timeout(PATIENCE, stream.read_to_string(&mut line)).await.expect("an answer comes").unwrap();
    assert!(line.ends_with('\n') && line.matches('\n').count() == 1, "one line: {line:?}");
    serde_json::from_str(&line).unwrap()
}

async fn status(peer: &Peer) -> Value {
    let answer: Answer = ask(peer, "GET", "/v1/status", &[], "").await;
    answer.json()
}

#[tokio::test(flavor = "multi_thread")]
async fn uploads_in_both_formats_and_by_both_ends_reach_all_nodes() {
    let cluster = Cluster::start_with(&NAMES, |config| config.packets = Packets::Open).await;
    let large: Vec<u8> = (0..2_000_003_u32).map(|i| (i ^ i >> 7) as u8).collect();
    let mut expected = Vec::new();
    for format in ["Json", "PROTOBUF3"] {
        for end in ["close_notify", "fin"] {
            for (size, bytes) in [("empty", &b""[..]), ("large", &large)] {
                let name = format!("{format}/{end}/{size} ü.bin");
                let options = ["--insecure", "--end", end, "--name", &name];
                let (status, answer) = upload(cluster.ports("GC").api, format, &file(&cluster, "f", bytes), &options);
                let hash = ContentHash::of(bytes).to_string();
                let answered = json!({ "file_name": name, "size": bytes.len(), "hash": hash });
                assert_eq!((status, answer), (Some(0), Some(answered)), "{name}");
                expected.push((name, bytes));
            }
        }
    }
    for node in NAMES {
        let client = cluster.client(node);
        wait_until(&format!("{node} holds all"), async || objects(&client).await.len() == expected.len()).await;
        for (name, bytes) in &expected {
            assert!(get(&client, name).await.unwrap() == *bytes, "{node}: {name}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_distributed_already_stays_on_its_node() {
    let cluster = Cluster::start_with(&NAMES, |config| config.packets = Packets::Open).await;
    let (aws, gc) = (cluster.client("AWS"), cluster.client("GC"));
    let at = cluster.ports("GC").api;
    let upload = |text: &str, distributed: &str| {
        let options = ["--insecure", "--name", "a.txt", "--distributed", distributed];
        assert_eq!(upload(at, "json", &file(&cluster, "f", text.as_bytes()), &options).0, Some(0));
    };
    upload("only here", "T");
    // What is written later has passed the others by when they hold it.
    crate::cluster::put(&gc, "marker", "1").await;
    wait_until("AWS has the marker", async || get(&aws, "marker").await.is_some()).await;
    assert_eq!(get(&aws, "a.txt").await, None);
    assert_eq!(get(&gc, "a.txt").await.unwrap(), b"only here");
    assert_eq!(objects(&gc).await.len(), 2, "its own list has it");
    let here = curl(&[&format!("http://{}/get/download/a.txt", cluster.ports("GC").download)]);
    assert_eq!((here.status, here.text().as_str()), (200, "only here"));
    assert_eq!(status(&gc).await["strays"], 1);
    let feed = ask(&gc, "GET", "/v1/feed", &[], "").await.json();
    let keys: Vec<_> = feed["entries"].as_array().unwrap().iter().map(|entry| entry["key"].as_str().unwrap()).collect();
    assert!(keys.contains(&"marker") && !keys.contains(&"a.txt"), "{keys:?}");

    upload("for all", "F");
    for name in NAMES {
        let client = cluster.client(name);
        wait_until(&format!("{name} has the newer one"), async || {
            get(&client, "a.txt").await.as_deref() == Some(b"for all")
        })
        .await;
    }
    assert_eq!(status(&gc).await["strays"], 0);
    upload("again only here", "T");
    assert_eq!(get(&gc, "a.txt").await.unwrap(), b"again only here");
    crate::cluster::put(&aws, "a.txt", "newest").await;
    wait_until("what AWS wrote later replaces it", async || get(&gc, "a.txt").await.as_deref() == Some(b"newest"))
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_closed_entrance_wants_a_certificate() {
    let cluster = Cluster::start(&["AWS"]).await;
    let packet = br#"{"file_name": "a", "distributed": "F", "content": "QUJD"}"#;
    let (exit, answer) = upload(cluster.ports("AWS").api, "json", &file(&cluster, "f", b"x"), &["--insecure"]);
    assert_eq!(exit, Some(1));
    assert!(answer.unwrap()["error"].as_str().unwrap().contains("certificate"));
    for refused in [Principal::Anonymous, Principal::Edge("e".parse().unwrap()), Principal::Node("GC".parse().unwrap())]
    {
        let answer = send(&cluster, "AWS", refused.clone(), packet).await;
        assert!(answer["error"].as_str().unwrap().contains("certificate"), "{refused}: {answer}");
    }
    let client = cluster.client("AWS");
    assert!(objects(&client).await.is_empty());
    let answer = send(&cluster, "AWS", tester(), packet).await;
    assert_eq!(answer, json!({ "file_name": "a", "size": 3, "hash": ContentHash::of(b"ABC").to_string() }));
    assert_eq!(get(&client, "a").await.unwrap(), b"ABC");
}

#[tokio::test(flavor = "multi_thread")]
async fn old_tls_is_spoken_only_where_packets_are_open() {
    for (packets, version, exit) in [
        (Packets::Open, "1.2", Some(0)),
        (Packets::Open, "1.3", Some(0)),
        (Packets::Closed, "1.2", Some(3)),
        (Packets::Closed, "1.3", Some(1)),
    ] {
        let cluster = Cluster::start_with(&["AWS"], |config| config.packets = packets).await;
        let authority = file(&cluster, "authority.pem", cluster.authority_pem().as_bytes());
        let trust = ["--ca", authority.to_str().unwrap()];
        let options = [&trust[..], &["--tls", version]].concat();
        let uploaded = upload(cluster.ports("AWS").api, "protobuf3", &file(&cluster, "f", b"x"), &options);
        assert_eq!(uploaded.0, exit, "{packets:?} {version}: {uploaded:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn heartbeats_count_only_with_the_certificate_of_their_node() {
    let ghost = || Principal::Node("Ghost".parse().unwrap());
    for packets in [Packets::Open, Packets::Closed] {
        let cluster = Cluster::start_with(&["AWS"], |config| {
            config.packets = packets;
            config.membership.suspect_after_ms = 100;
            config.membership.down_after_ms = 200;
        })
        .await;
        // A member that never runs: only its packets can show that it lives.
        let node = Node {
            id: "Ghost".parse().unwrap(),
            provider: "Ghost".parse().unwrap(),
            address: "127.0.0.1:9".parse().unwrap(),
            download: "127.0.0.1:9".parse().unwrap(),
            images: Default::default(),
        };
        cluster.caller("AWS", ghost()).announce(&node, metacdn::model::Epoch::from_bits(1)).await.unwrap();
        let client = cluster.client("AWS");
        let liveness = async || {
            let servers = client.servers().await.unwrap().servers;
            servers.into_iter().find(|server| server.node.id.as_str() == "Ghost").map(|server| server.liveness)
        };
        wait_until("Ghost is down", async || liveness().await == Some(Liveness::Down)).await;
        let heartbeat = json!({
            "file_name": "heartbeat", "message": "I am alive", "ip_address": "6.6.6.6", "port": 22222, "name": "Ghost"
        })
        .to_string();
        for other in [Principal::Anonymous, tester(), Principal::Node("GC".parse().unwrap())] {
            let answer = send(&cluster, "AWS", other.clone(), heartbeat.as_bytes()).await;
            assert!(answer["error"].as_str().unwrap().contains("certificate"), "{other}: {answer}");
            assert_eq!(liveness().await, Some(Liveness::Down), "{other}");
        }
        wait_until("Ghost is alive", async || {
            let answer = send(&cluster, "AWS", ghost(), heartbeat.as_bytes()).await;
            assert_eq!(answer, json!({ "file_name": "heartbeat" }));
            liveness().await == Some(Liveness::Alive)
        })
        .await;
        let listed = client.servers().await.unwrap().servers;
        assert!(listed.iter().all(|server| !server.node.address.to_string().starts_with("6.6.6.6")));
        assert!(objects(&client).await.is_empty(), "a heartbeat is no file");
        wait_until("Ghost is down again", async || liveness().await == Some(Liveness::Down)).await;
    }
}
