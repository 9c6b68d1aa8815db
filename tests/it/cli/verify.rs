//! `metacdn verify`: equal nodes, every planted difference, nodes that cannot be read, damaged bytes.

use metacdn::model::ContentHash;
use rusqlite::Connection;
use serde_json::Value;

use super::{Ended, User};
use crate::cluster::{Cluster, get, objects, put, wait_until};

/// Enough to be a file, not a row of the catalogue.
fn content(number: usize) -> String {
    format!("content {number}.").repeat(2_000)
}

/// Three nodes that hold the same few objects, one of which is deleted.
async fn equal_cluster() -> (Cluster, User) {
    let cluster = Cluster::start(&["AWS", "GC", "Program"]).await;
    let user = User::of(&cluster, &["AWS", "GC", "Program"]);
    let aws = cluster.client("AWS");
    for number in 0..5 {
        put(&aws, &format!("file-{number}"), content(number)).await;
    }
    aws.delete_object(&"file-4".parse().unwrap()).await.unwrap();
    user.run(&["verify", "--wait", "30"]).await.ok();
    (cluster, user)
}

/// Changes the catalogue of a node behind its back.
async fn plant(cluster: &mut Cluster, name: &str, sql: &str) {
    cluster.stop(name).await;
    let catalog = Connection::open(cluster.data(name).join("catalog.sqlite")).unwrap();
    assert!(catalog.execute(sql, []).unwrap() > 0, "{sql} changed nothing");
    drop(catalog);
    cluster.restart(name).await;
}

fn last(ended: &Ended) -> Value {
    ended.json().pop().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn equal_nodes_are_found_equal() {
    let (_cluster, user) = equal_cluster().await;
    let ended = user.run(&["verify"]).await.ok();
    assert!(ended.stdout.ends_with("equal: 3 nodes list the same 8 entries\n"), "{ended:?}");
    let json = user.run(&["verify", "--json", "--bytes"]).await.ok().json();
    assert_eq!(json.len(), 7, "{json:?}");
    for node in &json[..3] {
        let figures = ["entries", "live", "deleted", "records", "missing"].map(|name| node[name].as_u64().unwrap());
        assert_eq!(figures, [8, 4, 1, 3, 0], "{node}");
    }
    for node in &json[3..6] {
        assert_eq!((&node["blobs"], &node["bytes"]), (&4.into(), &80_000.into()), "{node}");
    }
    assert_eq!(json[6]["equal"], true);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_planted_difference_is_named() {
    let (mut cluster, user) = equal_cluster().await;
    // Cursors and sums stay where they were, so that nothing of this is repaired by the feeds, or by comparing before a scrub.
    plant(&mut cluster, "GC", "DELETE FROM entries WHERE key = 'file-0'").await;
    plant(&mut cluster, "GC", "UPDATE entries SET time = time - 9999999 WHERE key = 'file-1'").await;
    let other = ContentHash::of(content(0).as_bytes());
    let set = other.as_bytes().iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    plant(&mut cluster, "Program", &format!("UPDATE entries SET hash = x'{set}' WHERE key = 'file-2'")).await;
    plant(&mut cluster, "Program", "UPDATE entries SET kind = 0, hash = NULL, time = time + 9 WHERE key = 'file-3'")
        .await;

    let ended = user.run(&["verify", "--json"]).await.failed(1, &["3 nodes differ in 4 keys"]);
    let lines = ended.json();
    let what = |key: &str, node: usize| {
        let line = lines.iter().find(|line| line["newest"].is_object() && line["key"] == key);
        line.unwrap_or_else(|| panic!("no {key} in {lines:?}"))["nodes"][node]["what"].as_str().unwrap().to_owned()
    };
    assert_eq!((what("file-0", 1), what("file-0", 0)), ("missing".to_owned(), "newest".to_owned()));
    assert_eq!(what("file-1", 1), "older");
    let bytes = [what("file-2", 0), what("file-2", 1), what("file-2", 2)];
    assert!(bytes.contains(&"other_bytes".to_owned()) && bytes.contains(&"newest".to_owned()), "{bytes:?}");
    assert_eq!((what("file-3", 0), what("file-3", 1)), ("not_deleted".to_owned(), "not_deleted".to_owned()));
    assert_eq!((&lines[1]["missing"], &lines[0]["missing"]), (&1.into(), &0.into()));
    assert_eq!((&last(&ended)["differences"], &last(&ended)["equal"]), (&4.into(), &false.into()));

    let table = user.run(&["verify", "--limit", "1"]).await.failed(1, &["4 keys, 3 of them not shown"]);
    assert!(table.stdout.contains("NEWEST") && table.stdout.contains("file-0"), "{table:?}");
    assert!(!table.stdout.contains("file-1"), "{table:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_cannot_be_read_is_no_success() {
    let (mut cluster, user) = equal_cluster().await;
    cluster.stop("Program").await;
    user.run(&["verify"]).await.failed(1, &["cannot read Program", "refused"]);
    // The same line again would say nothing.
    let waited = user.run(&["verify", "--wait", "3"]).await.failed(1, &["waiting: 0 keys differ, 1 node cannot be"]);
    assert_eq!(waited.stderr.matches("waiting").count(), 1, "{waited:?}");
    let ended = user.run(&["verify", "--json", "--wait", "1"]).await.failed(1, &[]);
    assert_eq!((&last(&ended)["unread"], &last(&ended)["differences"]), (&1.into(), &0.into()));
    user.run(&["verify", "--wait", "soon"]).await.failed(2, &["--wait"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn differences_are_waited_out() {
    let (mut cluster, user) = equal_cluster().await;
    cluster.stop("GC").await;
    let aws = cluster.client("AWS");
    put(&aws, "while-away", "1").await;
    cluster.restart("GC").await;
    user.run(&["verify", "--wait", "30"]).await.ok();
    assert_eq!(objects(&cluster.client("GC")).await, objects(&aws).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_and_lost_bytes_are_found() {
    let (cluster, user) = equal_cluster().await;
    let find = |number: usize| {
        let hash = ContentHash::of(content(number).as_bytes()).to_string();
        cluster.data("GC").join("blobs").join(&hash[..2]).join(hash)
    };
    // What it read lately the node does not hash once more.
    assert!(get(&cluster.client("GC"), "file-1").await.is_some());
    std::fs::write(find(1), "contend 1").unwrap();
    std::fs::remove_file(find(2)).unwrap();
    // A deleted object's bytes may be gone.
    std::fs::remove_file(find(4)).unwrap();
    user.run(&["verify"]).await.ok();
    let words =
        ["GC: file-1: blob", "another hash", "GC: file-2: blob", "is not held", "`metacdn repair GC --wait` mends it"];
    let ended = user.run(&["verify", "--bytes"]).await.failed(1, &words);
    assert!(!ended.stderr.contains("error: AWS") && !ended.stderr.contains("file-4"), "{ended:?}");
    let gc = cluster.client("GC");
    put(&gc, "file-1", "content, again").await;
    gc.delete_object(&"file-2".parse().unwrap()).await.unwrap();
    wait_until("all are whole", async || user.run(&["verify", "--bytes"]).await.code == 0).await;
}
