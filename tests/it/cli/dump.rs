//! `metacdn dump`: whole, resumed, brought up to date, and honest about what it cannot have.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use metacdn::model::{ContentHash, Entry, EntryState};
use serde_json::Value;

use super::{User, noise};
use crate::blobs::file_of;
use crate::cluster::{Cluster, put};

/// What a dump holds: its newest entry of each key, after all of it was checked.
fn read(folder: &Path) -> (Value, BTreeMap<String, Entry>) {
    let text = fs::read(folder.join("entries.jsonl")).unwrap();
    let summary: Value = serde_json::from_slice(&fs::read(folder.join("dump.json")).unwrap()).unwrap();
    assert_eq!(summary["entries_hash"], ContentHash::of(&text).to_string());
    let mut lines = std::str::from_utf8(&text).unwrap().lines();
    let header: Value = serde_json::from_str(lines.next().unwrap()).unwrap();
    for name in ["format", "node", "epoch", "begun_unix_ms"] {
        assert!(!header[name].is_null() && header[name] == summary[name], "{name}: {header} {summary}");
    }
    let mut entries = BTreeMap::new();
    for line in lines {
        let entry: Entry = serde_json::from_str(line).unwrap();
        entries.insert(entry.key.to_string(), entry);
    }
    for entry in entries.values() {
        let Some(content) = entry.content() else { continue };
        let hash = content.hash.to_string();
        let bytes = fs::read(folder.join("blobs").join(&hash[..2]).join(&hash)).unwrap();
        assert_eq!((ContentHash::of(&bytes), bytes.len() as u64), (content.hash, content.size), "{}", entry.key);
    }
    (summary, entries)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dump_has_everything_and_is_brought_up_to_date() {
    let cluster = Cluster::start(&["AWS", "GC"]).await;
    let user = User::of(&cluster, &["AWS", "GC"]);
    let aws = cluster.client("AWS");
    for (number, size) in [(0, 0), (1, 100), (2, 100_000), (3, 3_000_000)] {
        put(&aws, &format!("file-{number}"), noise(size, number)).await;
    }
    put(&aws, "same", noise(100_000, 2)).await;
    put(&aws, "gone", "gone").await;
    aws.delete_object(&"gone".parse().unwrap()).await.unwrap();
    user.run(&["verify", "--wait", "30"]).await.ok();
    let folder = user.path("dump");
    let dump = ["dump", folder.to_str().unwrap()];
    let said = user.run(&dump).await.ok();
    assert_eq!(said.stderr, "", "nothing is to be warned of");
    assert!(said.stdout.starts_with("dumped AWS: 5 objects, 3.1 MB in 4 blobs"), "{said:?}");
    let (summary, entries) = read(&folder);
    assert_eq!((&summary["entries"]["deleted"], &summary["blobs"]), (&1.into(), &4.into()), "{summary}");
    assert_eq!(entries["gone"].state, EntryState::Deleted);
    assert!(matches!(&entries[".metacdn/nodes/GC"].state, EntryState::Record(json) if json.contains("GC")));
    assert_eq!(fs::read_dir(folder.join("blobs/unfinished")).unwrap().count(), 0);

    // What is there stays as it is, and what is new is added; of another node just as well.
    let written = || file_of(&folder, &noise(3_000_000, 3)).metadata().unwrap().modified().unwrap();
    let before = written();
    put(&aws, "file-1", "another").await;
    user.run(&["verify", "--wait", "30"]).await.ok();
    user.run(&[dump[0], dump[1], "--from", "GC", "--json"]).await.ok();
    assert_eq!(before, written(), "it was fetched again");
    let (summary, entries) = read(&folder);
    assert_eq!((&summary["node"], entries["file-1"].content().unwrap().size), (&"GC".into(), 7));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_that_one_node_has_damaged_comes_from_another_and_half_a_one_is_resumed() {
    let cluster = Cluster::start(&["AWS", "GC"]).await;
    let user = User::of(&cluster, &["AWS", "GC"]);
    let aws = cluster.client("AWS");
    let (damaged, half) = (noise(500_000, 1), noise(900_000, 2));
    put(&aws, "damaged", damaged.clone()).await;
    put(&aws, "half", half.clone()).await;
    user.run(&["verify", "--wait", "30"]).await.ok();
    let of = |node: &str, bytes: &[u8]| file_of(&cluster.data(node), bytes);
    fs::write(of("AWS", &damaged), noise(500_000, 3)).unwrap();
    let folder = user.path("dump");
    let unfinished = folder.join("blobs/unfinished");
    fs::create_dir_all(&unfinished).unwrap();
    fs::write(unfinished.join(ContentHash::of(&half).to_string()), &half[..400_000]).unwrap();
    let said = user.run(&["dump", folder.to_str().unwrap(), "--from", "AWS"]).await.ok().stderr;
    assert!(
        said.contains("1 blob that is damaged or missing on AWS") && said.contains("`metacdn repair AWS"),
        "{said}"
    );
    let (_, entries) = read(&folder);
    assert!(entries.contains_key("damaged") && entries.contains_key("half"));

    // What nobody gives makes it fail, and the earlier dump stays whole.
    fs::remove_file(file_of(&folder, &damaged)).unwrap();
    put(&aws, "later", "later").await;
    fs::remove_file(of("GC", &damaged)).unwrap();
    user.run(&["dump", folder.to_str().unwrap(), "--from", "AWS"]).await.failed(1, &["damaged", "other bytes"]);
    let text = fs::read(folder.join("entries.jsonl")).unwrap();
    assert!(!String::from_utf8(text).unwrap().contains("later"));

    let other = user.path("photos");
    fs::create_dir(&other).unwrap();
    fs::write(other.join("cat.jpg"), "cat").unwrap();
    user.run(&["dump", other.to_str().unwrap()]).await.failed(1, &["something else"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dump_of_a_node_that_is_written_to_is_consistent() {
    // What is overwritten goes at once, so that the dump often finds it gone.
    let cluster = Cluster::start_with(&["AWS"], |config| config.blob_grace_s = 0).await;
    let user = User::of(&cluster, &["AWS"]);
    let aws = cluster.client("AWS");
    for number in 0..50 {
        put(&aws, &format!("file-{number}"), noise(30_000, number)).await;
    }
    let writing = tokio::spawn({
        let aws = aws.clone();
        async move {
            for number in 50.. {
                put(&aws, &format!("file-{}", number % 50), noise(30_000, number)).await;
            }
        }
    });
    let folder = user.path("dump");
    for _ in 0..3 {
        user.run(&["dump", folder.to_str().unwrap(), "--quiet"]).await.ok();
        assert!(read(&folder).1.len() >= 51);
    }
    writing.abort();
}
