//! Blobs that rot, are cut short or lost: found, never served, and mended from another node.

use std::num::NonZeroU64;
use std::path::Path;

use http::Method;
use metacdn::client::{Peer, empty};
use metacdn::model::ContentHash;
use metacdn::protocol::scrub::{PARTS, ScrubStatus};
use rusqlite::Connection;

use crate::answers::ask;
use crate::blobs::{file_of, held};
use crate::cluster::{Cluster, files_below, get, key, objects, put, wait_until};
use crate::fetching::figure;

const SMALL: usize = 1000;
const LARGE: usize = 100_000;

fn content(name: &str, size: usize) -> Vec<u8> {
    name.bytes().cycle().take(size).collect()
}

async fn status(client: &Peer) -> ScrubStatus {
    serde_json::from_value(ask(client, "GET", "/v1/scrub", &[], "").await.json()).unwrap()
}

/// Has a node look through all of its blobs, and answers what came of it.
async fn scrub(client: &Peer) -> ScrubStatus {
    assert_eq!(ask(client, "POST", "/v1/scrub", &[], "").await.status, 202);
    wait_until("all blobs were looked through", async || !status(client).await.running).await;
    let status = status(client).await;
    assert_eq!((status.round.parts, status.round.full_speed), (PARTS, true));
    status
}

fn change_row(data: &Path, sql: &str, bytes: &[u8]) {
    let catalog = Connection::open(data.join("catalog.sqlite")).unwrap();
    catalog.pragma_update(None, "busy_timeout", 10_000).unwrap();
    assert_eq!(catalog.execute(sql, [ContentHash::of(bytes).as_bytes()]).unwrap(), 1, "{sql}");
}

/// Two nodes that hold the same objects of both kinds.
async fn two_nodes(names: &[&str]) -> (Cluster, Peer, Peer) {
    let cluster = Cluster::start(&["AWS", "GC"]).await;
    let (aws, gc) = (cluster.client("AWS"), cluster.client("GC"));
    for name in names {
        put(&aws, &format!("{name}/small"), content(name, SMALL)).await;
        put(&aws, &format!("{name}/large"), content(name, LARGE)).await;
    }
    wait_until("GC holds all", async || objects(&gc).await.len() == 2 * names.len()).await;
    (cluster, aws, gc)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_damaged_or_lost_is_found_and_mended() {
    let names = ["rotten", "short", "lost", "whole"];
    let (cluster, aws, gc) = two_nodes(&names).await;
    let data = cluster.data("GC");
    let file = |name: &str| file_of(&data, &content(name, LARGE));
    let before = held(&data);
    std::fs::write(file("rotten"), content("Rotten", LARGE)).unwrap();
    std::fs::write(file("short"), &content("short", LARGE)[1..]).unwrap();
    std::fs::remove_file(file("lost")).unwrap();
    let rot = "UPDATE small_blobs SET bytes = zeroblob(length(bytes)) WHERE hash = ?1";
    change_row(&data, rot, &content("rotten", SMALL));
    change_row(&data, "UPDATE small_blobs SET bytes = x'00' WHERE hash = ?1", &content("short", SMALL));
    change_row(&data, "DELETE FROM small_blobs WHERE hash = ?1", &content("lost", SMALL));
    let found = scrub(&gc).await;
    assert_eq!((found.round.damaged, found.round.missing, found.round.mended), (4, 2, 6), "{found:?}");
    assert_eq!((found.unmended, found.unmended_blobs.len()), (0, 0));
    assert!(held(&data) == before);
    assert_eq!(std::fs::read_dir(data.join("blobs/damaged")).unwrap().count(), 0);
    assert_eq!(figure(&cluster, "GC", "metacdn_node_damaged_blobs_total").await, 6);
    assert_eq!(figure(&cluster, "GC", "metacdn_node_mended_blobs_total").await, 6);
    for name in names {
        assert!(get(&gc, &format!("{name}/small")).await.unwrap() == content(name, SMALL));
        assert!(get(&gc, &format!("{name}/large")).await.unwrap() == content(name, LARGE));
    }
    let again = scrub(&gc).await.round;
    assert_eq!((again.blobs, again.bytes), (8, 4 * (SMALL + LARGE) as u64));
    assert_eq!((again.damaged, again.missing), (0, 0));
    assert_eq!(scrub(&aws).await.round.damaged, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_that_misses_bytes_has_them_mended_and_waits() {
    let names = ["short", "lost"];
    let (cluster, _, gc) = two_nodes(&names).await;
    let data = cluster.data("GC");
    std::fs::write(file_of(&data, &content("short", LARGE)), b"short").unwrap();
    std::fs::remove_file(file_of(&data, &content("lost", LARGE))).unwrap();
    change_row(&data, "DELETE FROM small_blobs WHERE hash = ?1", &content("lost", SMALL));
    for (name, kind, size) in [("short", "large", LARGE), ("lost", "large", LARGE), ("lost", "small", SMALL)] {
        let answer = ask(&gc, "GET", &format!("/v1/objects/{name}/{kind}"), &[], "").await;
        assert_eq!(answer.status, 200, "{name} {kind}");
        assert!(answer.body == content(name, size), "{name} {kind}");
    }
    assert_eq!(status(&gc).await.unmended, 0);
    // A peer that asks for what should be here is told no, and the next one is not.
    std::fs::remove_file(file_of(&data, &content("lost", LARGE))).unwrap();
    let path = format!("/v1/blobs/{}", ContentHash::of(&content("lost", LARGE)));
    assert_eq!(ask(&gc, "GET", &path, &[], "").await.status, 404);
    wait_until("it is mended", async || ask(&gc, "GET", &path, &[], "").await.status == 200).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_of_rotten_bytes_has_them_mended_and_serves_none_to_the_end() {
    const HUGE: usize = 9 << 20;
    let (mut cluster, aws, gc) = two_nodes(&["rotten"]).await;
    let data = cluster.data("GC");
    put(&aws, "rotten/huge", content("rotten", HUGE)).await;
    wait_until("GC holds it", async || get(&gc, "rotten/huge").await.is_some()).await;
    // What was read lately is trusted, so that a popular object costs nothing; a restart trusts nothing.
    cluster.stop("GC").await;
    for size in [LARGE, HUGE] {
        let mut bytes = content("rotten", size);
        bytes[size - 100] ^= 1;
        std::fs::write(file_of(&data, &content("rotten", size)), bytes).unwrap();
    }
    let rot = "UPDATE small_blobs SET bytes = zeroblob(length(bytes)) WHERE hash = ?1";
    change_row(&data, rot, &content("rotten", SMALL));
    cluster.restart("GC").await;
    let gc = cluster.client("GC");
    let answer = ask(&gc, "GET", "/v1/objects/rotten/small", &[], "").await;
    assert!(answer.status == 200 && answer.body == content("rotten", SMALL), "{}", answer.status);
    let part = [("range", "bytes=99900-")];
    let answer = ask(&gc, "GET", "/v1/objects/rotten/large", &part, "").await;
    assert!(answer.status == 206 && answer.body == content("rotten", LARGE)[99_900..], "{}", answer.status);
    // A very large one is on its way when it is known.
    let request = gc.request(Method::GET, "/v1/objects/rotten/huge", empty()).unwrap();
    let read = async {
        let (_, body) = gc.send(request).await?.into_parts();
        gc.reader(body).read_all(HUGE).await
    };
    assert!(read.await.is_err(), "it ends as if it were right");
    wait_until("it is mended", async || figure(&cluster, "GC", "metacdn_node_mended_blobs_total").await == 3).await;
    assert!(get(&gc, "rotten/huge").await == Some(content("rotten", HUGE)));
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_that_nobody_has_are_not_served_and_come_when_a_holder_comes_back() {
    let (mut cluster, _, gc) = two_nodes(&["rotten"]).await;
    cluster.stop("AWS").await;
    let data = cluster.data("GC");
    let file = file_of(&data, &content("rotten", LARGE));
    std::fs::write(&file, content("Rotten", LARGE)).unwrap();
    let found = scrub(&gc).await;
    assert_eq!((found.unmended, found.unmended_blobs), (1, vec![ContentHash::of(&content("rotten", LARGE))]));
    assert!(!file.exists() && data.join("blobs/damaged").read_dir().unwrap().count() == 1);
    let refused = ask(&gc, "GET", "/v1/objects/rotten/large", &[], "").await;
    assert_eq!((refused.status, refused.header("retry-after")), (503, "5"));
    // What is unmended is known over a restart.
    cluster.stop("GC").await;
    cluster.restart("GC").await;
    let gc = cluster.client("GC");
    assert_eq!(status(&gc).await.unmended, 1);
    cluster.restart("AWS").await;
    wait_until("it is mended", async || status(&gc).await.unmended == 0).await;
    assert!(get(&gc, "rotten/large").await.unwrap() == content("rotten", LARGE));
    assert_eq!(data.join("blobs/damaged").read_dir().unwrap().count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_of_the_same_bytes_mends_them_too() {
    let cluster = Cluster::start(&["AWS"]).await;
    let aws = cluster.client("AWS");
    for size in [SMALL, LARGE] {
        put(&aws, "a", content("a", size)).await;
        if size == SMALL {
            change_row(&cluster.data("AWS"), "DELETE FROM small_blobs WHERE hash = ?1", &content("a", size));
        } else {
            std::fs::write(file_of(&cluster.data("AWS"), &content("a", size)), b"").unwrap();
        }
        assert_eq!(scrub(&aws).await.unmended, 1);
        put(&aws, "b", content("a", size)).await;
        assert_eq!(scrub(&aws).await.unmended, 0);
        assert!(get(&aws, "a").await.unwrap() == content("a", size));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_that_a_crash_left_without_an_entry_is_swept() {
    let cluster = Cluster::start_with(&["AWS"], |config| config.blob_grace_s = 1).await;
    let (aws, data) = (cluster.client("AWS"), cluster.data("AWS"));
    put(&aws, "kept", content("kept", LARGE)).await;
    let orphan = file_of(&data, &content("orphan", LARGE));
    std::fs::write(&orphan, content("orphan", LARGE)).unwrap();
    scrub(&aws).await;
    wait_until("it is swept", async || !orphan.exists()).await;
    assert!(get(&aws, "kept").await.unwrap() == content("kept", LARGE));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_round_goes_on_after_a_restart_where_it_was() {
    let mut cluster = Cluster::start_with(&["AWS"], |config| {
        config.scrub_bytes_per_second = 200_000;
        config.scrub_rest_s = 0;
    })
    .await;
    let aws = cluster.client("AWS");
    for number in 0..40 {
        put(&aws, &format!("{number}"), content(&format!("{number}."), LARGE)).await;
    }
    let amid = async |client: &Peer| {
        let round = status(client).await.round;
        (round.ended_unix_ms.is_none() && round.blobs > 2 && round.parts < PARTS / 2).then_some(round)
    };
    wait_until("a round is on its way", async || amid(&aws).await.is_some()).await;
    let before = amid(&aws).await.unwrap();
    assert!(!before.full_speed);
    cluster.stop("AWS").await;
    cluster.restart("AWS").await;
    let aws = cluster.client("AWS");
    wait_until("its place was read", async || status(&aws).await.round.started_unix_ms > 0).await;
    let after = status(&aws).await.round;
    assert_eq!(after.started_unix_ms, before.started_unix_ms);
    assert!(after.parts >= before.parts && after.blobs >= before.blobs, "{before:?} {after:?}");
}

/// Puts a file that cannot be opened in the place of that of a blob.
fn make_unreadable(data: &Path, bytes: &[u8]) {
    let file = file_of(data, bytes);
    std::fs::remove_file(&file).unwrap();
    std::os::unix::fs::symlink(&file, &file).unwrap();
    assert!(std::fs::File::open(&file).is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_opened_is_damaged_and_stops_nothing() {
    let names = ["scrubbed", "read", "asked"];
    let (mut cluster, aws, gc) = two_nodes(&names).await;
    let data = cluster.data("GC");
    make_unreadable(&data, &content("scrubbed", LARGE));
    let found = scrub(&gc).await;
    assert_eq!((found.round.damaged, found.round.mended, found.unmended), (1, 1, 0), "{found:?}");
    assert_eq!(std::fs::read(file_of(&data, &content("scrubbed", LARGE))).unwrap(), content("scrubbed", LARGE));
    make_unreadable(&data, &content("read", LARGE));
    assert!(get(&gc, "read/large").await.unwrap() == content("read", LARGE));
    make_unreadable(&data, &content("asked", LARGE));
    let path = format!("/v1/blobs/{}", ContentHash::of(&content("asked", LARGE)));
    assert_eq!(ask(&gc, "GET", &path, &[], "").await.status, 404);
    wait_until("it is mended", async || ask(&gc, "GET", &path, &[], "").await.status == 200).await;
    // Nor does one that nobody has hold up the others, also where the fetch goes on with a part that cannot be read.
    put(&gc, "lost", content("lost", LARGE)).await;
    wait_until("AWS holds it", async || get(&aws, "lost").await.is_some()).await;
    for name in ["lost", "read"] {
        make_unreadable(&data, &content(name, LARGE));
        let part = data.join("blobs/unfinished").join(ContentHash::of(&content(name, LARGE)).to_string());
        std::os::unix::fs::symlink(&part, &part).unwrap();
    }
    make_unreadable(&cluster.data("AWS"), &content("lost", LARGE));
    let found = scrub(&gc).await;
    assert_eq!((found.round.damaged, found.unmended), (2, 1), "{found:?}");
    assert!(get(&gc, "read/large").await.unwrap() == content("read", LARGE));
    cluster.stop("AWS").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_opened_is_swept_like_all_else() {
    let cluster = Cluster::start_with(&["AWS"], |config| config.blob_grace_s = 1).await;
    let (aws, data) = (cluster.client("AWS"), cluster.data("AWS"));
    for name in ["bad", "good"] {
        put(&aws, name, content(name, LARGE)).await;
    }
    make_unreadable(&data, &content("bad", LARGE));
    for name in ["bad", "good"] {
        aws.delete_object(&key(name)).await.unwrap();
    }
    for name in ["good", "bad"] {
        let file = file_of(&data, &content(name, LARGE));
        wait_until("it is swept", async || file.symlink_metadata().is_err()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_whole_file_that_was_set_aside_is_put_back() {
    let cluster = Cluster::start(&["AWS"]).await;
    let (aws, data) = (cluster.client("AWS"), cluster.data("AWS"));
    put(&aws, "a", content("a", LARGE)).await;
    let file = file_of(&data, &content("a", LARGE));
    // As if the node had been killed before it looked once more.
    std::fs::rename(&file, data.join("blobs/damaged").join(file.file_name().unwrap())).unwrap();
    assert_eq!(scrub(&aws).await.unmended, 0);
    assert!(get(&aws, "a").await.unwrap() == content("a", LARGE));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_is_noted_as_damaged_until_what_was_set_aside_is_gone() {
    let cluster = Cluster::start(&["AWS"]).await;
    let (aws, data) = (cluster.client("AWS"), cluster.data("AWS"));
    put(&aws, "a", content("a", LARGE)).await;
    let file = file_of(&data, &content("a", LARGE));
    let aside = data.join("blobs/damaged").join(file.file_name().unwrap());
    std::fs::remove_file(&file).unwrap();
    // What cannot be removed stands for a crash before it was.
    std::fs::create_dir(&aside).unwrap();
    assert_eq!(scrub(&aws).await.unmended, 1);
    put(&aws, "b", content("a", LARGE)).await;
    assert_eq!(scrub(&aws).await.unmended, 1);
    std::fs::remove_dir(&aside).unwrap();
    std::fs::write(&aside, b"damaged").unwrap();
    assert_eq!(scrub(&aws).await.unmended, 0);
    assert!(!aside.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_crash_left_without_a_name_is_found_at_the_start_though_nothing_is_scrubbed() {
    let mut cluster = Cluster::start_with(&["AWS"], |config| {
        config.blob_grace_s = 1;
        config.scrub_bytes_per_second = 0;
    })
    .await;
    let data = cluster.data("AWS");
    put(&cluster.client("AWS"), "kept", content("kept", LARGE)).await;
    cluster.stop("AWS").await;
    let orphan = file_of(&data, &content("orphan", LARGE));
    std::fs::write(&orphan, content("orphan", LARGE)).unwrap();
    cluster.restart("AWS").await;
    wait_until("it is swept", async || !orphan.exists()).await;
    assert!(get(&cluster.client("AWS"), "kept").await.unwrap() == content("kept", LARGE));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_fetched_by_half_goes_when_nobody_wants_it() {
    let mut cluster = Cluster::start_with(&["AWS"], |config| config.copies_wait_ms = 0).await;
    let aws = cluster.client("AWS");
    let wanted = content("wanted", 4_000_000);
    put(&aws, "wanted", wanted.clone()).await;
    let slowly = |config: &mut metacdn::node::Config| {
        config.fetch_bytes_per_second = NonZeroU64::new(1_000_000);
        config.blob_grace_s = 1;
    };
    cluster.add_with("GC", slowly).await;
    let unfinished = cluster.data("GC").join("blobs/unfinished");
    let part = |bytes: &[u8]| unfinished.join(ContentHash::of(bytes).to_string());
    wait_until("a part of it is there", async || part(&wanted).exists()).await;
    cluster.stop("AWS").await;
    let unwanted = part(b"unwanted");
    std::fs::write(&unwanted, b"unwa").unwrap();
    wait_until("it is removed", async || !unwanted.exists()).await;
    assert!(part(&wanted).exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_small_blob_that_is_a_file_too_loses_the_file() {
    let cluster = Cluster::start(&["AWS"]).await;
    let (aws, data) = (cluster.client("AWS"), cluster.data("AWS"));
    for name in ["twice", "file"] {
        put(&aws, name, content(name, SMALL)).await;
        std::fs::write(file_of(&data, &content(name, SMALL)), content(name, SMALL)).unwrap();
    }
    change_row(&data, "DELETE FROM small_blobs WHERE hash = ?1", &content("file", SMALL));
    assert_eq!(scrub(&aws).await.unmended, 0);
    assert!(!file_of(&data, &content("twice", SMALL)).exists());
    assert!(file_of(&data, &content("file", SMALL)).exists());
    for name in ["twice", "file"] {
        assert!(get(&aws, name).await.unwrap() == content(name, SMALL));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_just_being_stored_is_not_missing() {
    let cluster = Cluster::start(&["AWS"]).await;
    let aws = cluster.client("AWS");
    for number in 0..200 {
        let bytes = content(&format!("{number}."), SMALL);
        let path = format!("/v1/blobs/{}", ContentHash::of(&bytes));
        let seen = async || while ask(&aws, "GET", &path, &[], "").await.status == 404 {};
        tokio::join!(put(&aws, "a", bytes.clone()), seen(), seen(), seen(), seen());
    }
    assert_eq!(figure(&cluster, "AWS", "metacdn_node_damaged_blobs_total").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_could_not_be_listed_nor_noted_goes_when_the_catalogue_can_be_written_again() {
    let cluster = Cluster::start_with(&["AWS"], |config| config.blob_grace_s = 1).await;
    let (aws, data) = (cluster.client("AWS"), cluster.data("AWS"));
    let catalog = Connection::open(data.join("catalog.sqlite")).unwrap();
    catalog.pragma_update(None, "busy_timeout", 10_000).unwrap();
    for table in ["entries", "loose_blobs"] {
        let refuse =
            format!("CREATE TRIGGER refuse_{table} BEFORE INSERT ON {table} BEGIN SELECT RAISE(ABORT, 'refused'); END");
        catalog.execute_batch(&refuse).unwrap();
    }
    // For so long that the sweep tries to note them more than once.
    let begun = std::time::Instant::now();
    while begun.elapsed().as_millis() < 1500 {
        let bytes = content(&format!("{:?}", begun.elapsed()), LARGE);
        assert_eq!(ask(&aws, "PUT", "/v1/objects/a", &[], bytes).await.status, 500);
    }
    let files = || files_below(&data.join("blobs"));
    assert!(files() > 0);
    catalog.execute_batch("DROP TRIGGER refuse_entries; DROP TRIGGER refuse_loose_blobs").unwrap();
    wait_until("all files are gone", async || files() == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_set_aside_is_mended_too() {
    let (cluster, _, gc) = two_nodes(&["rotten", "lost"]).await;
    let data = cluster.data("GC");
    let file = file_of(&data, &content("rotten", LARGE));
    std::fs::write(&file, content("Rotten", LARGE)).unwrap();
    std::fs::remove_file(file_of(&data, &content("lost", LARGE))).unwrap();
    // No file takes the name of a folder, and none is removed that is one.
    let aside = data.join("blobs/damaged").join(file.file_name().unwrap());
    std::fs::create_dir(&aside).unwrap();
    let found = scrub(&gc).await;
    assert_eq!((found.round.damaged, found.round.missing, found.unmended), (1, 1, 1), "{found:?}");
    assert_eq!(std::fs::read(&file).unwrap(), content("rotten", LARGE));
    std::fs::remove_dir(&aside).unwrap();
    assert_eq!(scrub(&gc).await.unmended, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_the_catalogue_lost_comes_back_from_another_node() {
    let mut cluster = Cluster::start_with(&["AWS", "GC"], |config| config.compare_period_s = 1).await;
    let (aws, gc) = (cluster.client("AWS"), cluster.client("GC"));
    for size in [SMALL, LARGE] {
        put(&aws, &format!("{size}"), content("a", size)).await;
    }
    wait_until("GC has both", async || objects(&gc).await.len() == 2).await;
    cluster.stop("GC").await;
    let catalog = Connection::open(cluster.data("GC").join("catalog.sqlite")).unwrap();
    assert_eq!(catalog.execute("DELETE FROM entries WHERE hash IS NOT NULL", []).unwrap(), 2);
    drop(catalog);
    cluster.restart("GC").await;
    let gc = cluster.client("GC");
    assert!(objects(&gc).await.is_empty());
    scrub(&gc).await;
    wait_until("both are back", async || objects(&gc).await == objects(&aws).await).await;
    for size in [SMALL, LARGE] {
        assert!(get(&gc, &format!("{size}")).await.unwrap() == content("a", size));
    }
    assert!(figure(&cluster, "GC", "metacdn_node_mended_entries_total").await >= 2);
}
