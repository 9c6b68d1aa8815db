//! `metacdn forget`, `drain` and `withheld`: nodes that leave, and what came back from a backup.

use metacdn::cli::demo::relay::{Link, Relay};
use metacdn::model::MemberState;
use serde_json::Value;

use super::User;
use crate::cluster::{Cluster, PATIENCE, free_address, get, key, objects, put, wait_until};
use crate::processes::Processes;

#[tokio::test(flavor = "multi_thread")]
async fn a_node_is_forgotten_when_somebody_says_so() {
    let mut cluster = Cluster::start_with(&["AWS", "GC", "Program"], |config| {
        config.membership.suspect_after_ms = 300;
        config.membership.down_after_ms = 600;
    })
    .await;
    let user = User::of(&cluster, &["AWS", "GC"]);
    put(&cluster.client("AWS"), "a", "text").await;
    user.run(&["forget", "Azure"]).await.failed(1, &["there is no node Azure: use AWS, GC, Program"]);
    user.run(&["forget", "AWS"]).await.failed(2, &["its name is spent", "Forget AWS?", "--yes"]);
    // It is the first one that is asked, and not asked about itself.
    user.run(&["forget", "AWS", "--yes"]).await.failed(1, &["AWS is not forgotten", "metacdn drain AWS", "--force"]);
    cluster.stop("Program").await;
    wait_until("Program is down and forgotten", async || {
        let ended = user.run(&["forget", "program", "--yes"]).await;
        assert!(ended.code == 0 || ended.stderr.contains("wait until it is down"), "{ended:?}");
        ended.code == 0
    })
    .await;
    // One that lives ends as soon as it hears of it.
    let forced = user.run(&["forget", "AWS", "--yes", "--force"]).await.ok();
    assert!(forced.stdout.contains("under a new name"), "{forced:?}");
    let said = cluster.take("AWS").failed().await;
    assert!(said.contains("Forgotten"), "{said}");
    let user = User::of(&cluster, &["GC"]);
    user.run(&["forget", "GC", "--yes"]).await.failed(1, &["GC is the only node"]);
    user.run(&["drain", "GC"]).await.failed(1, &["GC is the only node"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_whose_node_is_forgotten_ends_and_says_why() {
    let mut processes = Processes::prepare(&["AWS", "GC"]);
    for name in ["AWS", "GC"] {
        processes.spawn(name);
        processes.up(name).await;
    }
    let aws = processes.client("AWS");
    wait_until("AWS knows GC", async || aws.servers().await.is_ok_and(|servers| servers.servers.len() == 2)).await;
    aws.forget(&"GC".parse().unwrap(), true).await.unwrap();
    let ended = tokio::time::timeout(PATIENCE, processes.child("GC").wait()).await.expect("it ends").unwrap();
    assert_eq!(ended.code(), Some(1));
    let log = std::fs::read_to_string(processes.folder.path().join("GC.log")).unwrap();
    assert!(
        log.contains("the node ended: the cluster has forgotten node GC: start the machine under a new name"),
        "{log}"
    );
    // Nor does it come back.
    processes.spawn("GC");
    let ended = tokio::time::timeout(PATIENCE, processes.child("GC").wait()).await.expect("it ends").unwrap();
    assert_eq!(ended.code(), Some(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_is_drained_when_the_others_hold_all_that_it_has() {
    let mut cluster = Cluster::start(&[]).await;
    let target = free_address();
    let relay = Relay::start(target, Link::default(), "127.0.0.1:0".parse().unwrap()).await.unwrap();
    let advertised = relay.address().into();
    cluster.add_at("AWS", target, |config| config.advertise = Some(advertised)).await;
    cluster.add("GC").await;
    cluster.add("Program").await;
    let (aws, gc) = (cluster.client("AWS"), cluster.client("GC"));
    wait_until("GC knows all", async || gc.servers().await.unwrap().servers.len() == 3).await;
    let user = User::of(&cluster, &["GC"]);
    user.run(&["drain", "Azure"]).await.failed(1, &["there is no node Azure"]);
    // What AWS has, the others get in half a minute each.
    relay.set(Link { rate_bytes_per_second: Some(300_000), ..Link::default() });
    let content = vec![b'x'; 8 << 20];
    put(&aws, "large", content.clone()).await;
    let early = user.run(&["drain", "AWS", "--wait", "5"]).await;
    let words =
        ["AWS takes no more writes", "waiting for GC", "AWS stays draining", "metacdn resume AWS", "after 5.0 s"];
    early.failed(1, &words);
    let states = async || gc.servers().await.unwrap().servers.into_iter().map(|server| server.state);
    assert_eq!(states().await.next(), Some(MemberState::Draining));
    assert!(get(&gc, "large").await.is_none(), "it is too early");
    let file = user.file("a.txt", "text");
    user.run(&["upload", &file, "AWS"]).await.failed(1, &["AWS is to leave the cluster"]);

    relay.set(Link::default());
    relay.reset_all();
    let ended = user.run(&["drain", "AWS"]).await.ok();
    assert!(ended.stdout.contains("the others hold all that AWS had, and it is forgotten"), "{ended:?}");
    assert!(!ended.stderr.contains("stays draining"), "{ended:?}");
    for name in ["GC", "Program"] {
        assert_eq!(get(&cluster.client(name), "large").await, Some(content.clone()), "{name}");
    }
    let said = cluster.take("AWS").failed().await;
    assert!(said.contains("Forgotten"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_ends_after_its_node_was_to_leave_is_not_stored() {
    let cluster = Cluster::start(&["AWS", "GC"]).await;
    let (aws, gc) = (cluster.client("AWS"), cluster.client("GC"));
    let (mut more, body) = tokio::io::duplex(1 << 10);
    let body = http_body_util::StreamBody::new(futures_util::stream::try_unfold(body, async |mut body| {
        let mut piece = vec![0; 1 << 10];
        let read = tokio::io::AsyncReadExt::read(&mut body, &mut piece).await?;
        piece.truncate(read);
        Ok::<_, Box<dyn std::error::Error + Send + Sync>>(
            (read > 0).then(|| (hyper::body::Frame::data(bytes::Bytes::from(piece)), body)),
        )
    }));
    let name = key("late");
    let upload = metacdn::client::Upload { key: &name, size: 8, media_type: None, cache_control: None, wait_for: None };
    let put = aws.put_object(&upload, http_body_util::BodyExt::boxed_unsync(body));
    let meanwhile = async {
        tokio::io::AsyncWriteExt::write_all(&mut more, b"half").await.unwrap();
        gc.set_state(&"AWS".parse().unwrap(), MemberState::Draining).await.unwrap();
        wait_until("AWS knows", async || aws.servers().await.unwrap().servers[0].state == MemberState::Draining).await;
        tokio::io::AsyncWriteExt::write_all(&mut more, b"rest").await.unwrap();
        drop(more);
    };
    let (outcome, ()) = tokio::join!(put, meanwhile);
    assert_eq!(outcome.unwrap_err().status(), Some(http::StatusCode::SERVICE_UNAVAILABLE));
    assert!(get(&aws, "late").await.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_backup_withholds_is_listed_and_settled() {
    let mut cluster = Cluster::start_with(&["AWS", "GC"], |config| config.tombstone_grace_s = 1).await;
    let user = User::of(&cluster, &["GC", "AWS"]);
    let gc = cluster.client("GC");
    for name in ["a/1", "a/2", "b"] {
        put(&gc, name, "text").await;
    }
    wait_until("AWS has all", async || objects(&cluster.client("AWS")).await.len() == 3).await;
    cluster.stop("AWS").await;
    let (data, backup) = (cluster.data("AWS"), cluster.folder.path().join("backup"));
    let copy = |from: &std::path::Path, to: &std::path::Path| {
        assert!(std::process::Command::new("cp").arg("-a").args([from, to]).status().unwrap().success());
    };
    copy(&data, &backup);
    cluster.restart("AWS").await;
    user.run(&["delete", "a/1", "a/2", "b"]).await.ok();
    wait_until("the deletions are forgotten", async || gc.status().await.unwrap().tombstones == 0).await;
    cluster.stop("AWS").await;
    std::fs::remove_dir_all(&data).unwrap();
    copy(&backup, &data);
    cluster.restart("AWS").await;
    let aws = cluster.client("AWS");
    wait_until("AWS says what is doubtful", async || aws.status().await.unwrap().withheld == 3).await;

    let status = user.run(&["status"]).await.ok();
    assert!(status.stdout.lines().next().unwrap().contains("WITHHELD"), "{status:?}");
    assert!(status.stderr.contains("AWS withholds 3 entries of a backup: `metacdn withheld list AWS`"), "{status:?}");
    user.run(&["drain", "AWS"]).await.failed(1, &["AWS withholds 3 entries", "metacdn withheld list AWS"]);
    let dump = user.path("dump");
    let dump = ["dump", dump.to_str().unwrap(), "--from", "AWS"];
    user.run(&dump).await.failed(1, &["AWS withholds 3 entries", "metacdn withheld list AWS"]);
    let table = user.run(&["withheld", "list", "AWS", "a/"]).await.ok();
    assert_eq!(table.stdout.lines().count(), 3, "{table:?}");
    assert!(table.stdout.contains("a/1") && table.stderr.contains("take-back AWS"), "{table:?}");
    let keys =
        |json: Vec<Value>| json.iter().map(|entry| entry["key"].as_str().unwrap().to_owned()).collect::<Vec<_>>();
    assert_eq!(keys(user.run(&["withheld", "list", "AWS", "--json"]).await.ok().json()), ["a/1", "a/2", "b"]);

    user.run(&["withheld", "take-back", "AWS", "nokey"]).await.failed(1, &["AWS withholds nothing below nokey"]);
    let discard = ["withheld", "discard", "AWS", "nokey", "--yes"];
    user.run(&discard).await.failed(1, &["AWS withholds nothing below nokey"]);
    let taken = user.run(&["withheld", "take-back", "AWS", "a/1"]).await.ok();
    assert_eq!(taken.stdout, "AWS writes 1 entry anew, and all nodes get them\n");
    wait_until("it is back everywhere", async || get(&gc, "a/1").await.is_some()).await;
    user.run(&["withheld", "discard", "AWS"]).await.failed(2, &["Give up 2 entries that AWS withholds?", "--yes"]);
    let given_up = user.run(&["withheld", "discard", "AWS", "--yes"]).await.ok();
    assert_eq!(given_up.stdout, "AWS has given up 2 entries\n");
    let none = user.run(&["withheld", "list", "AWS", "b"]).await.ok();
    assert_eq!(none.stdout, "AWS withholds nothing below b\n");
    for what in [&["take-back", "AWS"][..], &["discard", "AWS", "--yes"]] {
        assert_eq!(user.run(&[&["withheld"], what].concat()).await.ok().stdout, "AWS withholds nothing\n");
    }
    assert_eq!(objects(&aws).await.into_keys().collect::<Vec<_>>(), ["a/1"]);
}
