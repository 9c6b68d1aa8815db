//! Blobs as they lie on the disk of a node: small ones in the catalogue, others in files.

use std::collections::BTreeMap;
use std::path::Path;

use metacdn::model::{ContentHash, Principal};
use metacdn::node::Packets;
use metacdn::store::SMALL_BLOB_BYTES_MAX;
use rusqlite::{Connection, OpenFlags};
use serde_json::json;

use crate::cluster::{Cluster, get, objects, put, wait_until};
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
