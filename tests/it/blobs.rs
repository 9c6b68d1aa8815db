//! Blobs as they lie on the disk of a node: small ones in the catalogue, others in files.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use metacdn::model::{ContentHash, Principal};
use metacdn::node::Packets;
use metacdn::store::SMALL_BLOB_BYTES_MAX;
use rusqlite::{Connection, OpenFlags};
use serde_json::json;

use crate::cluster::{Cluster, files_below, get, key, objects, put, wait_until};
use crate::edge::fetch;
use crate::packets::send;

/// The finished blobs in the data folder of a node, by the hash that each is named by.
pub fn held(data: &Path) -> BTreeMap<ContentHash, Vec<u8>> {
    let mut held = rows(data);
    for folder in std::fs::read_dir(data.join("blobs")).unwrap().map(|folder| folder.unwrap()) {
        // The others are no blobs: unfinished ones, and those that are damaged.
        if folder.file_name().len() == 2 {
            for file in std::fs::read_dir(folder.path()).unwrap().map(|file| file.unwrap()) {
                let hash = file.file_name().to_str().unwrap().parse().unwrap();
                held.insert(hash, std::fs::read(file.path()).unwrap());
            }
        }
    }
    held
}

/// The file of a blob that is one.
pub fn file_of(data: &Path, bytes: &[u8]) -> PathBuf {
    let hash = ContentHash::of(bytes).to_string();
    data.join("blobs").join(&hash[..2]).join(hash)
}

/// Those that are rows of the catalogue.
fn rows(data: &Path) -> BTreeMap<ContentHash, Vec<u8>> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY;
    let catalog = Connection::open_with_flags(data.join("catalog.sqlite"), flags).unwrap();
    catalog.pragma_update(None, "busy_timeout", 10_000).unwrap();
    let mut statement = catalog.prepare("SELECT hash, bytes FROM small_blobs").unwrap();
    let rows = statement.query_map([], |row| Ok((ContentHash::new(row.get(0)?), row.get(1)?))).unwrap();
    rows.map(Result::unwrap).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn small_blobs_are_rows_and_others_files_wherever_they_come_from() {
    let cluster = Cluster::start_with(&["AWS", "GC"], |config| config.packets = Packets::Open).await;
    let (aws, gc) = (cluster.client("AWS"), cluster.client("GC"));
    let limit = SMALL_BLOB_BYTES_MAX as usize;
    let mut sent = BTreeMap::new();
    for size in [0, 1, limit - 1, limit, limit + 1, 5 * limit] {
        let bytes = vec![b'x'; size];
        put(&aws, &format!("put/{size}"), bytes.clone()).await;
        sent.insert(format!("put/{size}"), bytes);
    }
    let packet = b"\x0A\x08aGVsbG8=\x12\x05small\x1A\x01F";
    assert_eq!(send(&cluster, "AWS", Principal::Anonymous, packet).await["size"], json!(5));
    sent.insert("small".to_owned(), b"hello".to_vec());
    wait_until("GC holds all", async || objects(&gc).await.len() == sent.len()).await;
    for (name, client) in [("AWS", &aws), ("GC", &gc)] {
        for (key, bytes) in &sent {
            assert!(get(client, key).await.as_ref() == Some(bytes), "{key} at {name}");
        }
        let data = cluster.data(name);
        let hashes: BTreeMap<_, _> = sent.values().map(|bytes| (ContentHash::of(bytes), bytes.clone())).collect();
        assert!(held(&data) == hashes, "{name}");
        assert!(rows(&data).values().all(|bytes| bytes.len() <= limit));
        assert_eq!(rows(&data).len(), 5, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_space_of_what_was_deleted_or_overwritten_comes_back_on_all_nodes() {
    let cluster = Cluster::start_with(&["AWS", "GC"], |config| config.blob_grace_s = 1).await;
    let (aws, gc) = (cluster.client("AWS"), cluster.client("GC"));
    let content = |text: &str, size: usize| text.repeat(size);
    for size in [100, 100_000] {
        for name in ["deleted", "overwritten", "kept"] {
            put(&aws, &format!("{name}/{size}"), content(name, size)).await;
        }
    }
    wait_until("GC holds all", async || objects(&gc).await.len() == 6).await;
    assert_eq!(held(&cluster.data("GC")).len(), 6);
    for size in [100, 100_000] {
        gc.delete_object(&key(&format!("deleted/{size}"))).await.unwrap();
        put(&gc, &format!("overwritten/{size}"), content("new", size)).await;
    }
    let expected: BTreeSet<_> = ["new", "kept"]
        .iter()
        .flat_map(|text| [100, 100_000].map(|size| ContentHash::of(content(text, size).as_bytes())))
        .collect();
    for (name, client) in [("AWS", &aws), ("GC", &gc)] {
        let data = cluster.data(name);
        let swept = || held(&data).into_keys().collect::<BTreeSet<_>>() == expected;
        wait_until("what nothing names is gone", async || swept()).await;
        wait_until("its files are removed", async || files_below(&data.join("blobs")) == 2).await;
        for size in [100, 100_000] {
            assert!(get(client, &format!("kept/{size}")).await == Some(content("kept", size).into_bytes()));
        }
    }
    let metrics = String::from_utf8(fetch(cluster.ports("AWS").price, "/metrics").await.into_body()).unwrap();
    let freed = 100 * "deletedoverwritten".len() + 100_000 * "deletedoverwritten".len();
    assert!(metrics.contains(&format!("metacdn_node_swept_bytes_total {freed}\n")), "{metrics}");
}
