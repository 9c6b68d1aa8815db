//! What the disk tier promises: what is served is what was written, whatever happened to process, disk and index.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::mpsc;

use http::{HeaderMap, HeaderValue, StatusCode};
use rusqlite::Connection;
use serde_json::json;

use super::*;
use crate::cache::Terms;
use crate::cache::rules::{Freshness, Selector};
use crate::model::{HybridTime, Origin, Variant, Version};

mod crash;
mod damage;
mod full;
mod keeping;
mod load;
mod memory;
mod races;
mod sites;

/// Small, so that bodies of some 100 KiB have several.
const SLICE: u64 = 32 << 10;

fn open_with(folder: &Path, capacity_bytes: u64, slice_bytes: u64) -> Result<Arc<Disk>, DiskError> {
    let config = Config { folder: Some(folder.to_owned()), capacity_bytes };
    Disk::open(&config, slice_bytes).map(|disk| disk.expect("it has a folder"))
}

/// A tier that is loaded and has looked through its folders.
async fn open(folder: &Path, capacity_bytes: u64) -> Arc<Disk> {
    let disk = open_with(folder, capacity_bytes, SLICE).expect("a tier");
    ready(&disk).await;
    disk
}

async fn ready(disk: &Disk) {
    disk.tier.stage.subscribe().wait_for(|stage| *stage >= Stage::Ready).await.expect("a writer");
    disk.settle().await;
}

/// Between two looks at something that takes its time.
async fn a_moment() {
    tokio::time::sleep(Duration::from_millis(20)).await;
}

fn page(name: &str) -> CacheKey {
    CacheKey::Answer { site: "shop".into(), uri: format!("https://shop.example/{name}").into() }
}

/// The bytes of the body that `seed` stands for.
fn body(seed: u64, size: u64) -> Bytes {
    let mut state = seed;
    let mut bytes = Vec::with_capacity(size as usize + 8);
    while (bytes.len() as u64) < size {
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        bytes.extend_from_slice(&(mixed ^ (mixed >> 27)).to_le_bytes());
    }
    bytes.truncate(size as usize);
    bytes.into()
}

/// The head of the body that `seed` stands for.
fn head(seed: u64, size: u64) -> Head {
    let freshness: Freshness = serde_json::from_value(json!({
        "received_ms": 1_700_000_000_000_u64 + seed, "initial_age_ms": 3, "lifetime_ms": 60_000,
        "stale_while_revalidate_seconds": 7, "stale_if_error_seconds": 9, "validated_always": false,
        "never_stale": true, "no_transform": false,
    }))
    .expect("a freshness");
    let mut headers = HeaderMap::new();
    headers.append("x-seed", HeaderValue::from(seed));
    headers.append("vary", HeaderValue::from_static("accept-language"));
    let mut request = HeaderMap::new();
    request.append("accept-language", HeaderValue::from(seed));
    let selector = Selector::of(&headers, &request).expect("a selector");
    Head { status: StatusCode::OK, headers, size: Some(size), terms: Terms::Answer { freshness, selector } }
}

fn seed_of(head: &Head) -> u64 {
    head.headers["x-seed"].to_str().expect("digits").parse().expect("a number")
}

/// Has a slice written, and waits for it.
async fn put(kept: &Kept, slice: u32, bytes: Bytes) -> bool {
    let (told, written) = oneshot::channel();
    kept.put(slice, bytes, move |there| told.send(there).expect("somebody waits"));
    written.await.expect("it is told")
}

/// The slices of a body, as the tier cuts it.
fn slices(bytes: &Bytes) -> Vec<Bytes> {
    if bytes.len() as u64 <= tier::INLINE_BYTES_MAX {
        return vec![bytes.clone()];
    }
    (0..bytes.len()).step_by(SLICE as usize).map(|at| bytes.slice(at..bytes.len().min(at + SLICE as usize))).collect()
}

/// Writes a whole representation.
async fn keep(disk: &Disk, key: &CacheKey, seed: u64, size: u64) -> Option<Arc<Kept>> {
    let kept = disk.begin(key, &head(seed, size), 1.0)?;
    for (slice, bytes) in slices(&body(seed, size)).into_iter().enumerate() {
        if !put(&kept, slice as u32, bytes).await {
            return None;
        }
    }
    Some(kept)
}

fn read_file(file: &File, size: u64) -> Vec<u8> {
    let mut bytes = vec![0; size as usize + 1];
    let read = file.read_at(&mut bytes, 0).expect("readable");
    bytes.truncate(read);
    bytes
}

/// Reads all that is there of a representation, and says how many slices of it are; what is there has to be right.
async fn read(loaded: &Loaded) -> usize {
    let seed = seed_of(&loaded.head);
    let size = loaded.head.size.expect("it is known");
    assert_eq!(loaded.head, head(seed, size));
    let expected = body(seed, size);
    if let Some(body) = &loaded.body {
        assert!(*body == expected, "the body of {seed} in the index");
        return 1;
    }
    let mut found = 0;
    for (slice, bytes) in slices(&expected).into_iter().enumerate() {
        if let Some(file) = loaded.kept.open(slice as u32).await {
            assert!(read_file(&file, SLICE) == bytes, "slice {slice} of {seed}");
            found += 1;
        }
    }
    found
}

/// What is there of a key: the seed of each representation, and how many slices of it are there.
async fn found(disk: &Disk, key: &CacheKey) -> Vec<(u64, usize)> {
    let mut found = Vec::new();
    for loaded in disk.load(key, &[]).await {
        found.push((seed_of(&loaded.head), read(&loaded).await));
    }
    found
}

/// Files and rows name the same slices, and what is counted is what they take.
async fn audit(folder: &Path, disk: &Disk) {
    // Twice: what is done may leave something to do.
    disk.settle().await;
    disk.settle().await;
    let index = Connection::open(folder.join("index.sqlite")).expect("an index");
    let mut rows = BTreeSet::new();
    let mut used: u64 = 0;
    let sql = "SELECT row_bytes, length(key) + length(head) + ifnull(length(body), 0) + 128
               FROM heads JOIN representations USING (id)";
    let mut statement = index.prepare(sql).expect("a table");
    let row = |row: &rusqlite::Row<'_>| {
        let (counted, bytes): (u64, u64) = (row.get::<_, u32>(0)?.into(), row.get::<_, u32>(1)?.into());
        // More than half of a page of 16 KiB leaves no room for another as large.
        assert_eq!(counted, if bytes > 8192 { bytes.next_multiple_of(16384) } else { bytes });
        Ok(counted)
    };
    let mut representations = 0;
    for bytes in statement.query_map([], row).expect("rows") {
        used += bytes.expect("a row");
        representations += 1;
    }
    let count = |table: &str| -> u64 {
        index
            .query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get::<_, u32>(0).map(u64::from))
            .expect("a number")
    };
    assert_eq!((count("heads"), count("representations")), (representations, representations));
    let mut statement = index.prepare("SELECT id, slice FROM slices").expect("a table");
    let row = |row: &rusqlite::Row<'_>| Ok((row.get::<_, i64>(0)? as u64, row.get::<_, u32>(1)?));
    rows.extend(statement.query_map([], row).expect("rows").map(|row| row.expect("a row")));
    let mut files = BTreeSet::new();
    for entry in (0..256).flat_map(|f| fs::read_dir(folder.join(format!("slices/{f:02x}"))).expect("a folder")) {
        let entry = entry.expect("an entry");
        used += entry.metadata().expect("a file").len().next_multiple_of(4096) + 64;
        let name = entry.file_name().into_string().expect("a name");
        let (id, slice) = name.split_once('.').expect("a name");
        files.insert((u64::from_str_radix(id, 16).expect("an id"), slice.parse().expect("a slice")));
    }
    assert_eq!(files, rows, "files and rows");
    assert_eq!(disk.used_bytes(), used, "what is counted, and what is there");
}
