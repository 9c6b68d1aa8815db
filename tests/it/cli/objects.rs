//! `metacdn get`, `list`, `stat` and `delete`.

use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Child, Stdio};

use metacdn::cli::demo::relay::{Link, Relay};
use metacdn::model::ContentHash;
use rustix::process::{Pid, Signal, kill_process};

use super::{User, below, noise};
use crate::cluster::{Cluster, get, key, objects, put, wait_until};

#[tokio::test(flavor = "multi_thread")]
async fn get_takes_care_of_the_users_files() {
    let cluster = Cluster::start(&["AWS"]).await;
    let user = User::of(&cluster, &["AWS"]);
    put(&cluster.client("AWS"), "a/cat.jpg", b"meow".to_vec()).await;
    let here = user.home.path().join("cat.jpg");
    let ended = user.run(&["get", "a/cat.jpg"]).await.ok();
    assert!(ended.stdout.starts_with("wrote cat.jpg, 4 B in "), "{ended:?}");
    assert_eq!(std::fs::read(&here).unwrap(), b"meow");

    std::fs::write(&here, "mine").unwrap();
    user.run(&["get", "a/cat.jpg"]).await.failed(1, &["cat.jpg exists already", "--force"]);
    assert_eq!(std::fs::read(&here).unwrap(), b"mine");
    let forced = user.run(&["get", "a/cat.jpg", "--force", "--json"]).await.ok();
    assert_eq!(forced.json()[0]["hash"], ContentHash::of(b"meow").to_string());

    let printed = user.run(&["get", "a/cat.jpg", "-o", "-"]).await.ok();
    assert_eq!((printed.stdout.as_str(), printed.stderr.as_str()), ("meow", ""));
    user.run(&["get", "a/cat.jpg", "-o", "demo"]).await.ok();
    assert_eq!(std::fs::read(user.home.path().join("demo/cat.jpg")).unwrap(), b"meow");
    user.run(&["get", "none"]).await.failed(1, &["there is no object none"]);
    user.run(&["get", "none", "--from", "Azure"]).await.failed(1, &["use AWS or HOST:PORT"]);
    assert!(!user.home.path().join("none").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_download_that_breaks_off_goes_on_elsewhere() {
    let free = "127.0.0.1:0".parse().unwrap();
    let relay = Relay::start("127.0.0.1:1".parse::<metacdn::model::Address>().unwrap(), Link::default(), free).await;
    let relay = relay.unwrap();
    let mut cluster = Cluster::start(&[]).await;
    cluster.add_with("AWS", |config| config.advertise = Some(relay.address().into())).await;
    relay.set_target(cluster.address("AWS"));
    cluster.add("GC").await;
    let bytes = noise(3_000_000, 4);
    put(&cluster.client("AWS"), "film", bytes.clone()).await;
    let gc = cluster.client("GC");
    wait_until("GC has the film", async || get(&gc, "film").await.is_some()).await;
    relay.change(|link| link.cut_after_bytes = Some(1_000_000));

    let user = User::of(&cluster, &["GC"]);
    let ended = user.run(&["get", "film"]).await.ok();
    assert!(ended.stderr.contains("going on after 9"), "{ended:?}");
    assert_eq!(std::fs::read(user.home.path().join("film")).unwrap(), bytes);

    // From one server alone, each connection brings a further part.
    let alone = user.run(&["get", "film", "-o", "again", "--from", &relay.address().to_string()]).await.ok();
    assert_eq!(alone.stderr.matches("going on after").count(), 3, "{alone:?}");
    assert_eq!(std::fs::read(user.home.path().join("again")).unwrap(), bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_ends_what_stands_still_and_leaves_nothing() {
    let mut cluster = Cluster::start(&[]).await;
    let free = "127.0.0.1:0".parse().unwrap();
    let relay = Relay::start("127.0.0.1:1".parse::<metacdn::model::Address>().unwrap(), Link::default(), free).await;
    let relay = relay.unwrap();
    cluster.add("AWS").await;
    relay.set_target(cluster.address("AWS"));
    let user = User::of(&cluster, &["AWS"]);
    put(&cluster.client("AWS"), "film", noise(3_000_000, 6)).await;
    let signal = |child: &Child, signal| {
        kill_process(Pid::from_raw(child.id().cast_signed()).unwrap(), signal).unwrap();
    };
    let end = async |mut child: Child| tokio::task::spawn_blocking(move || child.wait().unwrap().code()).await.unwrap();

    // Nobody reads on, so that a write never ends.
    let mut child =
        user.command(&["get", "film", "-o", "-"]).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut reader = child.stdout.take().unwrap();
    reader.read_exact(&mut [0]).unwrap();
    signal(&child, Signal::INT);
    assert_eq!(end(child).await, Some(130));
    drop(reader);

    // Half a file has come.
    relay.change(|link| link.rate_bytes_per_second = Some(100_000));
    let from = relay.address().to_string();
    let mut child = user.command(&["get", "film", "--from", &from]).stderr(Stdio::piped()).spawn().unwrap();
    let part = user.home.path().join(format!(".film.{}.part", child.id()));
    let mut progress = String::new();
    BufReader::new(child.stderr.take().unwrap()).read_line(&mut progress).unwrap();
    assert!(progress.contains(" of 3.0 MB (") && progress.ends_with(" left)\n"), "{progress:?}");
    assert!(part.exists());
    signal(&child, Signal::TERM);
    assert_eq!(end(child).await, Some(143));
    assert!(!part.exists() && !user.home.path().join("film").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_bytes_never_become_a_file() {
    let cluster = Cluster::start(&["AWS"]).await;
    let user = User::of(&cluster, &["AWS"]);
    put(&cluster.client("AWS"), "film", noise(300_000, 5)).await;
    let mut blobs = Vec::new();
    below(&cluster.data("AWS").join("blobs"), &mut blobs);
    assert_eq!(blobs.len(), 1);
    let mut bytes = std::fs::read(&blobs[0]).unwrap();
    bytes[150_000] ^= 1;
    // What it read lately the node does not hash once more.
    assert!(get(&cluster.client("AWS"), "film").await.is_some());
    std::fs::write(&blobs[0], bytes).unwrap();
    user.run(&["get", "film"]).await.failed(1, &["cannot fetch film", "what arrived is not what was sent"]);
    user.run(&["get", "film", "-o", "-"]).await.failed(1, &["is not to be used"]);
    let mut left = Vec::new();
    below(user.home.path(), &mut left);
    assert_eq!(left.len(), 4, "only the profile: {left:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_have_pages_and_limits() {
    let cluster = Cluster::start(&["AWS"]).await;
    let user = User::of(&cluster, &["AWS"]);
    for number in 0..1005 {
        user.file(&format!("site/{number:04}.txt"), b"x");
    }
    let site = user.path("site").to_str().unwrap().to_owned();
    let ended = user.run(&["upload", &site, "AWS", "--prefix", "n"]).await.ok();
    assert!(ended.stdout.starts_with("published 1005 files, 1.0 kB in "), "{ended:?}");
    let all = user.run(&["list", "--json"]).await.ok().json();
    assert_eq!((all.len(), &all[1004]["key"]), (1005, &"n/1004.txt".into()));
    let limit = async |limit: &str| user.run(&["list", "n/", "--limit", limit, "--json"]).await.ok().json().len();
    assert_eq!((limit("0").await, limit("7").await, limit("1002").await), (0, 7, 1002));
    let human = user.run(&["list", "n/100", "--from", "AWS"]).await.ok();
    let lines: Vec<_> = human.stdout.lines().collect();
    assert_eq!(lines.len(), 6);
    assert!(lines[0].contains("SIZE") && lines[0].ends_with("KEY"), "{human:?}");
    assert!(lines[1].contains("1 B  20") && lines[1].contains("+00:00  text/plain; charset=utf-8"), "{human:?}");
    assert!(lines[1].ends_with("  n/1000.txt"), "{human:?}");

    // A reader that has enough ends the list in peace.
    let mut child = user.command(&["list"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let ended = tokio::task::spawn_blocking(|| child.wait_with_output().unwrap()).await.unwrap();
    assert_eq!((ended.status.code(), String::from_utf8_lossy(&ended.stderr).as_ref()), (Some(0), ""));

    let error = user.run(&["delete", "--prefix", "n/"]).await.failed(2, &["1005 objects", "--yes"]);
    assert_eq!(error.stdout, "");
    let deleted = user.run(&["delete", "--prefix", "n/", "--yes"]).await.ok();
    assert_eq!(deleted.stdout, "deleted 1005 objects, on at least 1 node\n");
    assert!(objects(&cluster.client("AWS")).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn stat_shows_every_node_and_delete_reaches_them() {
    let mut cluster = Cluster::start(&["AWS", "GC", "Program"]).await;
    let user = User::of(&cluster, &["AWS", "GC", "Program"]);
    let hash = ContentHash::of(b"meow").to_string();
    put(&cluster.client("GC"), "cat.jpg", b"meow".to_vec()).await;
    for name in ["AWS", "Program"] {
        let peer = cluster.client(name);
        wait_until("all have the cat", async || objects(&peer).await.contains_key("cat.jpg")).await;
    }
    let never = user.run(&["stat", "never", "--json"]).await.failed(1, &["no node has never"]).json();
    assert_eq!((&never[0]["status"], &never[0]["version"]), (&"absent".into(), &serde_json::Value::Null));
    user.run(&["delete", "never"]).await.failed(1, &["cannot delete never", "404"]);
    cluster.stop("Program").await;
    let lines = user.run(&["stat", "cat.jpg", "--json"]).await.ok().json();
    let states: Vec<_> = lines.iter().map(|line| (line["node"].as_str(), line["status"].as_str())).collect();
    let expected = [("AWS", "present"), ("GC", "present"), ("Program", "unreachable")];
    assert_eq!(states, expected.map(|(node, status)| (Some(node), Some(status))));
    assert_eq!((&lines[0]["hash"], &lines[0]["size"]), (&hash.clone().into(), &4.into()));
    assert_eq!(lines[0]["version"], lines[1]["version"]);
    let table = user.run(&["stat", "cat.jpg"]).await.ok();
    assert!(table.stdout.contains("unreachable") && table.stdout.contains(&hash[..16]), "{table:?}");

    let deleted = user.run(&["delete", "cat.jpg"]).await.ok();
    assert!(deleted.stdout.starts_with("deleted cat.jpg, on at least "), "{deleted:?}");
    let gc = cluster.client("GC");
    wait_until("GC has heard of it", async || gc.head_object(&key("cat.jpg")).await.is_err()).await;
    let gone = user
        .run(&["stat", "cat.jpg", "--json"])
        .await
        .failed(1, &["cannot tell", "cat.jpg (Program: unreachable)"])
        .json();
    assert_eq!((&gone[0]["status"], &gone[1]["status"]), (&"deleted".into(), &"deleted".into()));
    put(&gc, "dog.jpg", b"woof".to_vec()).await;
    let mixed = user
        .run(&["delete", "never", "dog.jpg", "--json"])
        .await
        .failed(1, &["cannot delete never: cannot tell", "refused"])
        .json();
    let mut outcomes: Vec<_> = mixed.iter().map(|line| (line["key"].to_string(), line["deleted"].as_bool())).collect();
    outcomes.sort();
    assert_eq!(outcomes, [("\"dog.jpg\"".to_owned(), Some(true)), ("\"never\"".to_owned(), Some(false))]);
}
