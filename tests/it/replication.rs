//! What replication promises beyond convergence: copies before an answer, deletions that are forgotten and do not
//! return, backups that bring nothing back, members that are gone for good.

use futures_util::StreamExt as _;
use metacdn::client::Peer;
use metacdn::model::{EntryState, Principal, RecordKey, WaitFor};
use metacdn::node;
use metacdn::protocol::status::Receipt;
use serde_json::Value;

use crate::answers::{Answer, ask};
use crate::cluster::{Cluster, get, key, objects, put, wait_until};

async fn put_waiting(client: &Peer, name: &str, query: &str) -> Answer {
    ask(client, "PUT", &format!("/v1/objects/{name}?{query}"), &[], "text").await
}

fn copies(answer: &Answer) -> (u16, &str, u64) {
    let copies = answer.json()["copies"].as_u64().unwrap_or_default();
    (answer.status, answer.headers.get("metacdn-copies").map_or("", |value| value.to_str().unwrap()), copies)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_waits_for_the_copies_that_it_asks_for() {
    let mut cluster = Cluster::start(&["AWS", "GC", "Program"]).await;
    let aws = cluster.client("AWS");
    assert_eq!(put(&aws, "default", "text").await.copies, 2, "two copies in two providers");
    assert_eq!(copies(&put_waiting(&aws, "one", "wait_for=1").await), (201, "1", 1));
    let too_many = put_waiting(&aws, "never", "wait_for=64").await;
    assert!(too_many.status == 409 && too_many.problem().contains("the cluster has"), "{too_many:?}");
    assert!(get(&aws, "never").await.is_none(), "what can but fail is not stored");
    // The third one may be as quick.
    let quorum = put_waiting(&aws, "quorum", "wait_for=quorum").await;
    assert!([(201, "2", 2), (201, "3", 3)].contains(&copies(&quorum)), "{quorum:?}");
    for round in 0..20 {
        let answer = put_waiting(&aws, &format!("all-{round}"), "wait_for=all").await;
        assert_eq!(copies(&answer), (201, "3", 3));
        for name in ["GC", "Program"] {
            assert!(get(&cluster.client(name), &format!("all-{round}")).await.is_some(), "{name} {round}");
        }
    }
    let deleted = ask(&aws, "DELETE", "/v1/objects/one?wait_for=all", &[], "").await;
    assert_eq!((deleted.status, deleted.header("metacdn-copies")), (204, "3"));
    assert!(get(&cluster.client("GC"), "one").await.is_none());
    assert_eq!(put_waiting(&aws, "bad", "wait_for=0").await.status, 400);
    cluster.stop("Program").await;
    let late = put_waiting(&aws, "late", "wait_for=all&wait_ms=300").await;
    assert_eq!((copies(&late), &late.json()["stored"]), ((503, "2", 2), &Value::Bool(true)));
    assert!(get(&aws, "late").await.is_some(), "it is stored all the same");
    assert_eq!(copies(&put_waiting(&aws, "enough", "wait_for=2").await), (201, "2", 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_alone_answers_at_once_and_says_so() {
    let mut cluster = Cluster::start_with(&["AWS", "GC"], |config| {
        config.membership.suspect_after_ms = 300;
        config.membership.down_after_ms = 600;
        config.copies_wait_ms = 20_000;
    })
    .await;
    cluster.stop("GC").await;
    let aws = cluster.client("AWS");
    // While GC is not known to be down its copy is waited for, and then no longer.
    let begun = std::time::Instant::now();
    assert_eq!(put(&aws, "a", "text").await.copies, 1);
    assert!(begun.elapsed() < std::time::Duration::from_secs(10), "it waited for a node that is down");
    cluster.restart("GC").await;
    let config = |config: &mut node::Config| config.wait_for = Some(WaitFor::All);
    cluster.stop("AWS").await;
    cluster.change("AWS", config);
    cluster.restart("AWS").await;
    let aws = cluster.client("AWS");
    wait_until("both are there", async || put(&aws, "b", "text").await.copies == 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn overwrites_in_a_row_are_all_answered_with_two_copies() {
    let cluster = Cluster::start_with(&["AWS", "GC"], |config| config.copies_wait_ms = 60_000).await;
    let aws = cluster.client("AWS");
    let writes = (0..50).map(|round| put(&aws, "same", format!("text {round}")));
    let receipts: Vec<Receipt> = futures_util::future::join_all(writes).await;
    assert!(receipts.iter().all(|receipt| receipt.copies == 2));
}

async fn tombstones(client: &Peer) -> u64 {
    client.status().await.unwrap().tombstones
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deletion_is_forgotten_when_all_have_passed_it_and_not_before() {
    let mut cluster = Cluster::start_with(&["AWS", "GC", "Program"], |config| config.tombstone_grace_s = 1).await;
    let aws = cluster.client("AWS");
    put(&aws, "a", "text").await;
    let program = cluster.client("Program");
    wait_until("Program has it", async || get(&program, "a").await.is_some()).await;
    cluster.stop("Program").await;
    aws.delete_object(&key("a")).await.unwrap();
    put(&aws, "b", "text").await;
    aws.delete_object(&key("b")).await.unwrap();
    // The grace passes; Program has not passed it.
    tokio::time::sleep(std::time::Duration::from_millis(2_500)).await;
    assert_eq!(tombstones(&aws).await, 2);
    cluster.restart("Program").await;
    for name in ["AWS", "GC", "Program"] {
        let client = cluster.client(name);
        wait_until(&format!("{name} has forgotten"), async || tombstones(&client).await == 0).await;
        assert!(objects(&client).await.is_empty(), "{name}");
    }
}

/// Copies the data folder of a stopped node, as a backup does.
fn copy(from: &std::path::Path, to: &std::path::Path) {
    let done = std::process::Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap();
    assert!(done.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_brings_back_what_nobody_else_has_and_nothing_that_was_deleted() {
    let mut cluster = Cluster::start_with(&["AWS", "GC"], |config| {
        config.tombstone_grace_s = 1;
        config.copies_wait_ms = 0;
    })
    .await;
    let (aws, gc) = (cluster.client("AWS"), cluster.client("GC"));
    put(&aws, "kept", "1").await;
    put(&aws, "changed", "1").await;
    put(&aws, "deleted", "1").await;
    wait_until("GC has all", async || objects(&gc).await.len() == 3).await;
    cluster.stop("AWS").await;
    let (data, backup) = (cluster.data("AWS"), cluster.folder.path().join("backup"));
    copy(&data, &backup);
    cluster.restart("AWS").await;
    put(&gc, "changed", "2").await;
    gc.delete_object(&key("deleted")).await.unwrap();
    wait_until("the deletion is forgotten", async || {
        tombstones(&aws).await + tombstones(&gc).await == 0 && objects(&aws).await.len() == 2
    })
    .await;
    cluster.stop("AWS").await;
    std::fs::remove_dir_all(&data).unwrap();
    copy(&backup, &data);
    cluster.restart("AWS").await;
    let aws = cluster.client("AWS");
    wait_until("AWS is as GC is", async || objects(&aws).await == objects(&gc).await).await;
    wait_until("the doubtful entry is told", async || aws.status().await.unwrap().withheld == 1).await;
    let withheld = ask(&aws, "GET", "/v1/withheld", &[], "").await.json();
    assert_eq!(withheld[0]["key"], "deleted");
    put(&aws, "after", "3").await;
    wait_until("GC hears of the new life", async || get(&gc, "after").await.is_some()).await;
    assert_eq!(objects(&gc).await.len(), 3);
    // A person may know better.
    let taken = ask(&aws, "POST", "/v1/withheld?prefix=del", &[], "").await.json();
    assert_eq!(taken["entries"], 1);
    wait_until("it is back everywhere", async || get(&gc, "deleted").await.as_deref() == Some(b"1")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_brings_back_what_was_never_replicated() {
    let mut cluster = Cluster::start_with(&["AWS", "GC"], |config| config.copies_wait_ms = 0).await;
    cluster.stop("GC").await;
    put(&cluster.client("AWS"), "alone", "1").await;
    cluster.stop("AWS").await;
    let (data, backup) = (cluster.data("AWS"), cluster.folder.path().join("backup"));
    copy(&data, &backup);
    std::fs::remove_dir_all(&data).unwrap();
    copy(&backup, &data);
    cluster.restart("AWS").await;
    let aws = cluster.client("AWS");
    // It cannot know yet whether GC has deleted it.
    assert_eq!((get(&aws, "alone").await, aws.status().await.unwrap().withheld > 0), (None, true));
    cluster.restart("GC").await;
    let gc = cluster.client("GC");
    wait_until("it is on both", async || get(&aws, "alone").await.is_some() && get(&gc, "alone").await.is_some()).await;
}

/// Waits until nothing has the catalogue of a stopped node open any more: then it is one file.
async fn closed(data: &std::path::Path) {
    wait_until("the catalogue is closed", async || !data.join("catalog.sqlite-wal").exists()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_went_back_begins_a_new_life() {
    let mut cluster = Cluster::start(&["AWS", "GC"]).await;
    let (aws, gc) = (cluster.client("AWS"), cluster.client("GC"));
    put(&aws, "before", "1").await;
    cluster.stop("AWS").await;
    closed(&cluster.data("AWS")).await;
    let (data, backup) = (cluster.data("AWS"), cluster.folder.path().join("backup"));
    copy(&data, &backup);
    cluster.restart("AWS").await;
    let after = put(&aws, "after", "2").await.version;
    // GC holds it by now, but is a moment later in saying so to all.
    wait_until("GC has passed it", async || gc.ping_for_vector().await.unwrap().vector.unwrap().has_passed(&after))
        .await;
    let before = aws.ping().await.unwrap().epoch;
    cluster.stop("AWS").await;
    closed(&data).await;
    // The same file with old contents, as a snapshot of the disk brings back: only a peer can tell.
    std::fs::write(data.join("catalog.sqlite"), std::fs::read(backup.join("catalog.sqlite")).unwrap()).unwrap();
    cluster.restart("AWS").await;
    let aws = cluster.client("AWS");
    wait_until("AWS has all again", async || objects(&aws).await.len() == 2).await;
    assert_ne!(aws.ping().await.unwrap().epoch, before);
    put(&aws, "later", "3").await;
    wait_until("GC follows the new life", async || get(&gc, "later").await.is_some()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_is_forgotten_is_not_waited_for_and_does_not_come_back() {
    let mut cluster = Cluster::start_with(&["AWS", "GC", "Program"], |config| {
        config.tombstone_grace_s = 1;
        config.membership.suspect_after_ms = 300;
        config.membership.down_after_ms = 600;
    })
    .await;
    let (aws, gc) = (cluster.client("AWS"), cluster.client("GC"));
    put(&aws, "a", "text").await;
    let program = cluster.client("Program");
    wait_until("Program has it", async || get(&program, "a").await.is_some()).await;
    cluster.stop("Program").await;
    aws.delete_object(&key("a")).await.unwrap();
    let forget = async |query: &str| ask(&aws, "DELETE", &format!("/v1/servers/{query}"), &[], "").await.status;
    assert_eq!((forget("AWS").await, forget("nobody").await), (409, 404));
    wait_until("it may be forgotten", async || forget("Program").await == 204).await;
    wait_until("the deletion is forgotten", async || tombstones(&aws).await + tombstones(&gc).await == 0).await;
    cluster.restart("Program").await;
    let said = cluster.take("Program").failed().await;
    assert!(said.contains("Forgotten"), "{said}");
    for client in [&aws, &gc] {
        assert!(objects(client).await.is_empty());
        assert_eq!(client.servers().await.unwrap().servers.len(), 2);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_nodes_send_receipts_and_only_members_follow() {
    let cluster = Cluster::start(&["AWS"]).await;
    let aws = cluster.client("AWS");
    assert_eq!(ask(&aws, "POST", "/v1/receipts", &[], r#"{"versions":[]}"#).await.status, 403);
    let stranger = cluster.caller("AWS", Principal::Node("stranger".parse().unwrap()));
    assert_eq!(ask(&stranger, "GET", "/v1/feed", &[], "").await.status, 503);
    let page =
        aws.feed(&metacdn::protocol::feed::FeedQuery { since: 0, epoch: None, limit: None, wait_ms: 0, records: true });
    let page = page.await.unwrap();
    assert!(page.entries.iter().any(|entry| entry.key.as_str() == RecordKey::node(&page.node).as_str()
        && matches!(entry.state, EntryState::Record(_))));
    assert!(page.vector.is_some() && page.format == 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_written_since_stands_when_a_backup_is_taken_back() {
    let mut cluster = Cluster::start_with(&["AWS"], |config| config.copies_wait_ms = 0).await;
    let aws = cluster.client("AWS");
    put(&aws, "overwritten", "1").await;
    put(&aws, "deleted", "1").await;
    put(&aws, "kept", "1").await;
    cluster.stop("AWS").await;
    let (data, backup) = (cluster.data("AWS"), cluster.folder.path().join("backup"));
    copy(&data, &backup);
    std::fs::remove_dir_all(&data).unwrap();
    copy(&backup, &data);
    cluster.restart("AWS").await;
    let aws = cluster.client("AWS");
    put(&aws, "overwritten", "2").await;
    // It may be listed later, so that this is no deletion of nothing.
    aws.delete_object(&key("deleted")).await.unwrap();
    let take_back = async |query: &str| ask(&aws, "POST", &format!("/v1/withheld{query}"), &[], "").await.status;
    assert_eq!(take_back("").await, 409, "others may have joined since, and are to be read first");
    assert_eq!(ask(&aws, "DELETE", "/v1/withheld", &[], "").await.status, 409);
    assert_eq!(take_back("?alone=true").await, 200);
    assert_eq!(get(&aws, "overwritten").await.as_deref(), Some(&b"2"[..]));
    assert_eq!((get(&aws, "deleted").await, get(&aws, "kept").await.is_some()), (None, true));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_node_that_lost_its_disk_finds_the_others() {
    let mut cluster = Cluster::start(&["AWS", "GC"]).await;
    put(&cluster.client("GC"), "a", "text").await;
    cluster.stop("AWS").await;
    std::fs::remove_dir_all(cluster.data("AWS")).unwrap();
    cluster.restart("AWS").await;
    let aws = cluster.client("AWS");
    wait_until("it has all again", async || get(&aws, "a").await.is_some()).await;
    put(&aws, "b", "text").await;
    let gc = cluster.client("GC");
    wait_until("it is followed again", async || get(&gc, "b").await.is_some()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_receipts_at_once_arrive() {
    let cluster = Cluster::start_with(&["AWS", "GC"], |config| config.copies_wait_ms = 60_000).await;
    let aws = cluster.client("AWS");
    let writes = (0..1_000).map(|number| {
        let aws = aws.clone();
        async move { put(&aws, &format!("{number:04}"), format!("text {number}")).await.copies }
    });
    let copies: Vec<u32> = futures_util::stream::iter(writes).buffer_unordered(900).collect().await;
    assert!(copies.iter().all(|copies| *copies == 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_only_a_lost_member_had_is_given_up_and_holds_nothing_up() {
    let mut cluster = Cluster::start_with(&["AWS", "GC", "Program"], |config| {
        config.tombstone_grace_s = 1;
        config.copies_wait_ms = 0;
        config.membership.suspect_after_ms = 300;
        config.membership.down_after_ms = 600;
    })
    .await;
    let (aws, gc) = (cluster.client("AWS"), cluster.client("GC"));
    put(&cluster.client("Program"), "lost", vec![7; 100_000]).await;
    wait_until("all have it", async || get(&aws, "lost").await.is_some() && get(&gc, "lost").await.is_some()).await;
    // Of a later version the others know, and have no bytes.
    cluster.stop("AWS").await;
    cluster.stop("GC").await;
    let receipt = put(&cluster.client("Program"), "lost", vec![8; 100_000]).await;
    let blob = cluster.data("Program").join("blobs").join(&receipt.content.hash.to_string()[..2]);
    std::fs::remove_file(blob.join(receipt.content.hash.to_string())).unwrap();
    cluster.restart("AWS").await;
    cluster.restart("GC").await;
    let (aws, gc) = (cluster.client("AWS"), cluster.client("GC"));
    wait_until("both want it", async || aws.ping().await.unwrap().wants + gc.ping().await.unwrap().wants == 2).await;
    cluster.stop("Program").await;
    put(&aws, "a", "text").await;
    aws.delete_object(&key("a")).await.unwrap();
    let forget = async || ask(&aws, "DELETE", "/v1/servers/Program", &[], "").await.status;
    wait_until("it may be forgotten", async || forget().await == 204).await;
    wait_until("it is given up", async || aws.ping().await.unwrap().wants + gc.ping().await.unwrap().wants == 0).await;
    wait_until("the deletion is forgotten", async || tombstones(&aws).await + tombstones(&gc).await == 0).await;
    assert_eq!(get(&aws, "lost").await.map(|bytes| bytes[0]), Some(7), "the version before stands");
}
