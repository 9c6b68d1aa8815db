//! What an edge keeps on its disk: it outlives restarts, and nothing wrong comes of it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use http::StatusCode;
use metacdn::cache::SLICE_BYTES;
use metacdn::client::full;

use super::origin::{Asked, Origin, answer};
use super::{ask, edge_with, fetch, kept, send, site, whole};
use crate::cluster::{Cluster, Running, put, wait_until};
use crate::edge_cache::cache_status;

fn content(path: &str) -> Vec<u8> {
    let size = match path {
        "/small" => 1_000,
        "/medium" => 100_000,
        _ => 3 * SLICE_BYTES as usize + 123,
    };
    (0..size as u64).map(|at| (at.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as u8 ^ path.as_bytes()[1]).collect()
}

const PATHS: [&str; 4] = ["/small", "/medium", "/large", "/weak"];

/// An origin of things of all sizes; one of them has no tag.
async fn origin() -> Origin {
    Origin::start(|asked: Asked| {
        let path = asked.uri.path().to_owned();
        let all = content(&path);
        let mut fields = vec![("cache-control", "max-age=1000"), ("cache-tag", "all")];
        if path != "/weak" {
            fields.extend([("etag", "\"1\""), ("accept-ranges", "bytes")]);
        }
        let range = asked.field("range");
        let Some((first, last)) = range.strip_prefix("bytes=").and_then(|range| range.split_once('-')) else {
            return answer(200, &fields, all);
        };
        let first: usize = first.parse().unwrap();
        let end = last.parse().map_or(all.len(), |last: usize| last + 1).min(all.len());
        let range = format!("bytes {first}-{}/{}", end - 1, all.len());
        fields.push(("content-range", &range));
        answer(206, &fields, all[first..end].to_vec())
    })
    .await
}

async fn edge_on(folder: &Path, origin: &Origin) -> (Running, SocketAddr, SocketAddr) {
    let folder = folder.to_owned();
    edge_with(&[&site(&[origin])], |config| config.cache.disk.folder = Some(folder)).await
}

/// Fetches everything until all of it is kept.
async fn fill(edge: SocketAddr) {
    for path in PATHS {
        kept(edge, path).await;
        assert!(fetch(edge, path).await.body() == &content(path), "{path}");
    }
}

/// Waits until an edge that has just started has found what it had.
async fn found(edge: SocketAddr, path: &str) {
    let only = [("cache-control", "only-if-cached")];
    wait_until("it is found", async || ask(edge, "GET", path, &only).await.status() == StatusCode::OK).await;
}

async fn purge(admin: SocketAddr, what: &'static str) {
    let host = admin.to_string();
    let headers = [("content-type", "application/json"), ("host", &*host)];
    let purged = whole(send(admin, "POST", "/v1/purges", &headers, full(what)).await).await;
    assert_eq!(purged.status(), StatusCode::NO_CONTENT);
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let folders = std::fs::read_dir(folder.join("slices")).unwrap();
    folders
        .flat_map(|folder| std::fs::read_dir(folder.unwrap().path()).unwrap())
        .map(|file| file.unwrap().path())
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_kept_outlives_a_restart() {
    let (origin, folder) = (origin().await, tempfile::tempdir().unwrap());
    let (edge, public, _) = edge_on(folder.path(), &origin).await;
    fill(public).await;
    edge.stop().await;
    let before = origin.asked().len();
    let (_edge, public, _) = edge_on(folder.path(), &origin).await;
    for path in PATHS {
        found(public, path).await;
        for _ in 0..3 {
            let again = fetch(public, path).await;
            assert!(cache_status(&again).starts_with("metacdn; hit"), "{path}: {}", cache_status(&again));
            assert!(again.body() == &content(path), "{path}");
        }
    }
    let part = ask(public, "GET", "/large", &[("range", "bytes=2097000-2098000")]).await;
    assert!(part.status() == StatusCode::PARTIAL_CONTENT && part.body() == &content("/large")[2_097_000..=2_098_000]);
    assert_eq!(origin.asked().len(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_disk_has_lost_or_changed_is_fetched_anew() {
    let (origin, folder) = (origin().await, tempfile::tempdir().unwrap());
    let (edge, public, _) = edge_on(folder.path(), &origin).await;
    fill(public).await;
    edge.stop().await;
    for (number, file) in files(folder.path()).iter().enumerate() {
        let mut bytes = std::fs::read(file).unwrap();
        let middle = bytes.len() / 2;
        match number % 3 {
            0 => bytes[middle] ^= 1,
            1 => bytes.truncate(middle),
            _ => std::fs::remove_file(file).unwrap(),
        }
        if number % 3 < 2 {
            std::fs::write(file, bytes).unwrap();
        }
    }
    let (_edge, public, _) = edge_on(folder.path(), &origin).await;
    found(public, "/small").await;
    for path in PATHS {
        let again = fetch(public, path).await;
        assert!(again.status() == StatusCode::OK && again.body() == &content(path), "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_purge_is_about_what_is_on_the_disk_too() {
    let (origin, folder) = (origin().await, tempfile::tempdir().unwrap());
    let (edge, public, _) = edge_on(folder.path(), &origin).await;
    fill(public).await;
    edge.stop().await;
    let (edge, public, admin) = edge_on(folder.path(), &origin).await;
    found(public, "/small").await;
    purge(admin, r#"{"tag": "all"}"#).await;
    for path in PATHS {
        assert!(cache_status(&fetch(public, path).await).starts_with("metacdn; fwd=uri-miss"), "{path}");
    }
    // What came after it stays, here and in the next life.
    fill(public).await;
    edge.stop().await;
    let (_edge, public, _) = edge_on(folder.path(), &origin).await;
    for path in PATHS {
        found(public, path).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_purge_that_only_this_edge_was_told_outlives_a_restart() {
    let (origin, folder) = (origin().await, tempfile::tempdir().unwrap());
    let (edge, public, admin) = edge_on(folder.path(), &origin).await;
    fill(public).await;
    // Nobody asks for it before the edge ends, so that nothing is removed from the disk.
    purge(admin, r#"{"tag": "all"}"#).await;
    edge.stop().await;
    let (edge, public, _) = edge_on(folder.path(), &origin).await;
    wait_until("it is asked about", async || {
        let asked = origin.asked().len();
        let answer = fetch(public, "/small").await;
        assert!(!cache_status(&answer).starts_with("metacdn; hit") || origin.asked().len() > asked, "{answer:?}");
        cache_status(&answer).starts_with("metacdn; fwd=stale")
    })
    .await;
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_of_the_store_are_asked_about_after_a_restart_and_new_ones_given() {
    let cluster = Cluster::start(&["AWS"]).await;
    let folder = tempfile::tempdir().unwrap();
    let node = cluster.client("AWS");
    for name in ["same", "other"] {
        put(&node, name, vec![1; 100_000]).await;
    }
    let on_disk = |config: &mut metacdn::edge::Config| config.cache.disk.folder = Some(folder.path().to_owned());
    let (edge, public, admin) = cluster.edge(on_disk).await;
    crate::edge::ready(admin).await;
    for path in ["/same", "/other"] {
        crate::edge_cache::kept(public, path).await;
    }
    edge.stop().await;
    put(&node, "other", vec![2; 100_000]).await;
    let (_edge, public, admin) = cluster.edge(on_disk).await;
    crate::edge::ready(admin).await;
    let same = crate::edge::fetch(public, "/same").await;
    assert!(same.body().iter().all(|byte| *byte == 1));
    assert!(crate::edge::fetch(public, "/other").await.body() == &vec![2; 100_000]);
    crate::edge_cache::kept(public, "/other").await;
    assert!(crate::edge::fetch(public, "/other").await.body() == &vec![2; 100_000]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_turns_bad_while_it_is_given_is_fetched_anew() {
    let (origin, content) = (origin().await, content("/large"));
    let (range, long) = (("range", "bytes=2097155-99999999"), ("pragma", "nothing"));
    // By the long way, and by the short one.
    for (headers, from) in [(&[range, long][..], 2_097_155), (&[range], 2_097_155), (&[], 0)] {
        let folder = tempfile::tempdir().unwrap();
        let (_edge, public, _) = edge_on(folder.path(), &origin).await;
        fill(public).await;
        let is_right = async || {
            let response = send(public, "GET", "/large", headers, metacdn::client::empty()).await;
            let body = http_body_util::BodyExt::collect(response.into_body()).await;
            body.is_ok_and(|body| body.to_bytes() == content[from..])
        };
        let is_whole = |file: &&PathBuf| file.metadata().is_ok_and(|file| file.len() == SLICE_BYTES);
        wait_until("its files are there", async || files(folder.path()).iter().filter(is_whole).count() == 6).await;
        // From its files, which are open from then on.
        assert!(is_right().await && is_right().await);
        for file in files(folder.path()) {
            std::fs::OpenOptions::new().write(true).open(file).unwrap().set_len(100).unwrap();
        }
        wait_until("it is right", is_right).await;
        assert!(is_right().await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_long_for_memory_and_of_unknown_size_is_found_on_the_disk_once_it_has_come() {
    let folder = tempfile::tempdir().unwrap();
    let (parts, response) =
        super::origin::streamed(&[("cache-control", "max-age=1000"), ("etag", "\"1\""), ("accept-ranges", "bytes")]);
    let first = std::sync::Mutex::new(Some(response));
    let origin = Origin::start(move |_| first.lock().unwrap().take().unwrap_or_else(|| answer(404, &[], "once"))).await;
    let start = async || {
        let folder = folder.path().to_owned();
        let config = |config: &mut metacdn::edge::Config| {
            config.cache.disk.folder = Some(folder);
            config.cache.object_bytes_max = SLICE_BYTES;
        };
        edge_with(&[&site(&[&origin])], config).await
    };
    let (edge, public, _) = start().await;
    let content = content("/large");
    let reading = tokio::spawn(async move { fetch(public, "/long").await });
    for part in content.chunks(100_000) {
        parts.send(part.to_vec()).await;
    }
    parts.end();
    assert!(reading.await.unwrap().body() == &content);
    found(public, "/long").await;
    let again = fetch(public, "/long").await;
    assert!(cache_status(&again).starts_with("metacdn; hit") && again.body() == &content);
    edge.stop().await;
    let (_edge, public, _) = start().await;
    found(public, "/long").await;
    assert!(fetch(public, "/long").await.body() == &content);
    let part = ask(public, "GET", "/long", &[("range", "bytes=2097000-2098000")]).await;
    assert!(part.status() == StatusCode::PARTIAL_CONTENT && part.body() == &content[2_097_000..=2_098_000]);
    assert_eq!(origin.asked().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_left_of_a_site_that_is_gone_is_not_given_for_another_one_of_its_name() {
    let (folder, origin) = (tempfile::tempdir().unwrap(), origin().await);
    let (running, edge, _) = edge_on(folder.path(), &origin).await;
    fill(edge).await;
    running.stop().await;
    let (running, edge, _) = edge_on(folder.path(), &origin).await;
    found(edge, "/large").await;
    running.stop().await;
    let other = site(&[&origin]).replace("name = \"site\"", "name = \"other\"");
    let disk = folder.path().to_owned();
    let (running, edge, _) = edge_with(&[&other], |config| config.cache.disk.folder = Some(disk)).await;
    wait_until("nothing is left", async || files(folder.path()).is_empty()).await;
    // This one is there.
    kept(edge, "/medium").await;
    running.stop().await;
    let (running, edge, _) = edge_on(folder.path(), &origin).await;
    for path in PATHS {
        let answer = fetch(edge, path).await;
        assert!(cache_status(&answer).starts_with("metacdn; fwd=uri-miss"), "{path}: {}", cache_status(&answer));
    }
    running.stop().await;
}
