//! `metacdn upload`, raw.

use std::net::SocketAddr;
use std::os::unix::fs::symlink;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use metacdn::model::{Address, ContentHash, Principal};
use metacdn::protocol::identity::TlsVersions;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use super::{User, below, noise};
use crate::cluster::{Cluster, get, objects, put};

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_travels_there_and_back() {
    let cluster = Cluster::start(&["AWS"]).await;
    let user = User::of(&cluster, &["AWS"]);
    for (name, size) in
        [("index.html", 5000), ("empty", 0), ("ä ö/日本 100%?#.txt", 17), ("a/b/c/large.bin", 2_000_000)]
    {
        user.file(&format!("site/{name}"), noise(size, size as u64));
    }
    symlink(user.path("site/empty"), user.path("site/link")).unwrap();
    symlink(user.path("site/a"), user.path("site/folder")).unwrap();
    let site = user.path("site").to_str().unwrap().to_owned();

    let ended = user.run(&["upload", &site, "AWS", "--prefix", "www/", "--parallel", "3"]).await.ok();
    assert!(ended.stdout.starts_with("published 5 files, 2.0 MB in "), "{ended:?}");
    assert!(ended.stdout.ends_with("B/s), on at least 1 node\n") && ended.stdout.lines().count() == 1, "{ended:?}");
    assert!(ended.stderr.contains("skipped") && ended.stderr.contains("a link to a folder"), "{ended:?}");

    let listed = user.run(&["list", "www/", "--json"]).await.ok().json();
    assert_eq!(listed.len(), 5);
    for object in &listed {
        let name = object["key"].as_str().unwrap().strip_prefix("www/").unwrap();
        let original = std::fs::read(user.path("site").join(name)).unwrap();
        assert_eq!(object["size"], original.len());
        assert_eq!(object["hash"], ContentHash::of(&original).to_string());
        let copy = user.path("copy");
        user.run(&["get", object["key"].as_str().unwrap(), "-o", copy.to_str().unwrap(), "--force"]).await.ok();
        assert_eq!(std::fs::read(&copy).unwrap(), original, "{name}");
    }
    assert_eq!(listed[1]["key"], "www/empty");
    assert_eq!(listed[2]["media_type"], "text/html; charset=utf-8");
    assert_eq!(listed[2]["cache_control"], "max-age=60");
    let mut left = Vec::new();
    below(&user.path(""), &mut left);
    assert!(!left.iter().any(|path| path.to_string_lossy().contains(".part")), "{left:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn all_is_sent_although_nobody_reads_along() {
    let cluster = Cluster::start(&["AWS"]).await;
    let user = User::of(&cluster, &["AWS"]);
    for number in 0..40 {
        user.file(&format!("site/{number}"), b"x");
    }
    symlink(user.path("site"), user.path("site/again")).unwrap();
    let site = user.path("site").to_str().unwrap().to_owned();
    let mut command = user.command(&["upload", &site, "AWS"]);
    // As with `2>&1 | head -1`, but closed from the first line on.
    let (reader, writer) = std::io::pipe().unwrap();
    command.stdout(writer.try_clone().unwrap()).stderr(writer);
    drop(reader);
    let ended = tokio::task::spawn_blocking(move || command.status().unwrap()).await.unwrap();
    assert_eq!(ended.code(), Some(0));
    assert_eq!(objects(&cluster.client("AWS")).await.len(), 40);
    let mut failing = user.command(&["delete", "never", "neither"]);
    failing.stdout(Stdio::null()).stderr(std::io::pipe().unwrap().1);
    let ended = tokio::task::spawn_blocking(move || failing.status().unwrap()).await.unwrap();
    assert_eq!(ended.code(), Some(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_reads_what_was_published() {
    let cluster = Cluster::start(&["AWS"]).await;
    let user = User::of(&cluster, &["AWS"]);
    let cat = user.file("cat.jpg", b"meow");
    let args = ["upload", &cat, "aws", "--json", "--content-type", "image/x-cat", "--cache-control", "no-store"];
    let ended = user.run(&args).await.ok();
    assert_eq!(ended.stderr, "");
    let lines = ended.json();
    assert_eq!(lines.len(), 1);
    assert_eq!(lines[0]["key"], "cat.jpg");
    assert_eq!(lines[0]["size"], 4);
    assert_eq!(lines[0]["hash"], ContentHash::of(b"meow").to_string());
    assert_eq!(lines[0]["server"], "AWS");
    assert!(lines[0]["seconds"].as_f64().unwrap() > 0.0);
    let listed = user.run(&["list", "--json"]).await.ok().json();
    assert_eq!((&listed[0]["media_type"], &listed[0]["cache_control"]), (&"image/x-cat".into(), &"no-store".into()));

    let quiet = user.run(&["upload", &cat, "AWS", "RAW", "--quiet"]).await.ok();
    assert_eq!((quiet.stdout.as_str(), quiet.stderr.as_str()), ("", ""));
    let one = user.run(&["upload", &cat, "AWS"]).await.ok();
    assert!(one.stdout.starts_with("published cat.jpg, 4 B in "), "{one:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn copies_are_waited_for_and_told() {
    let mut cluster = Cluster::start(&["AWS", "GC", "Program"]).await;
    let user = User::of(&cluster, &["AWS"]);
    for number in 0..20 {
        user.file(&format!("site/{number}"), noise(30_000, number));
    }
    let site = user.path("site").to_str().unwrap().to_owned();
    let all = user.run(&["upload", &site, "AWS", "--wait-for", "all"]).await.ok();
    assert!(all.stdout.ends_with(", on at least 3 nodes\n"), "{all:?}");
    for name in ["GC", "Program"] {
        assert_eq!(objects(&cluster.client(name)).await.len(), 20, "{name}");
    }
    let json = user.run(&["upload", &site, "AWS", "--wait-for", "quorum", "--json"]).await.ok().json();
    assert!(json.len() == 20 && json.iter().all(|file| file["copies"].as_u64() >= Some(2)), "{json:?}");
    let deleted = user.run(&["delete", "0", "1", "--wait-for", "all"]).await.ok();
    assert_eq!(deleted.stdout, "deleted 2 objects, on at least 3 nodes\n");

    cluster.stop("Program").await;
    let cat = user.file("cat.jpg", b"meow");
    let few = user.run(&["upload", &cat, "AWS", "--wait-for", "all", "--json"]).await;
    let few = few.failed(1, &["cat.jpg\" is published, but not on enough nodes", "wait_for=all"]);
    assert!(!few.stderr.contains("retry"), "{few:?}");
    let line = &few.json()[0];
    assert_eq!((&line["key"], &line["stored"], &line["copies"]), (&"cat.jpg".into(), &true.into(), &2.into()));
    assert!(get(&cluster.client("GC"), "cat.jpg").await.is_some());
    let few = user.run(&["delete", "cat.jpg", "--wait-for", "3", "--json"]).await;
    let few = few.failed(1, &["cat.jpg is deleted, but too few nodes know it"]).json();
    assert_eq!((&few[0]["deleted"], &few[0]["copies"]), (&true.into(), &2.into()));
    user.run(&["upload", &cat, "AWS", "--wait-for", "0"]).await.failed(2, &["1 to 64, quorum or all"]);
    user.run(&["upload", &cat, "AWS", "json", "--wait-for", "2"]).await.failed(2, &["--wait-for", "use raw"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn mistakes_are_explained_and_nothing_is_sent() {
    let cluster = Cluster::start(&["AWS", "GC"]).await;
    let user = User::of(&cluster, &["AWS", "GC"]);
    let cat = user.file("cat.jpg", b"meow");
    let twin = user.file("twin/cat.jpg", b"woof");
    let bad = user.file("bad/new\nline", b"");

    user.run(&["upload", &cat, "Azure"]).await.failed(1, &["there is no server Azure: use AWS, GC or HOST:PORT"]);
    user.run(&["upload", &cat]).await.failed(2, &["metacdn upload cat.jpg AWS"]);
    user.run(&["upload", &cat, "json"]).await.failed(2, &["metacdn upload cat.jpg AWS"]);
    user.run(&["upload"]).await.failed(2, &["Usage: metacdn upload"]);
    user.run(&["upload", &cat, "AWS", "--nonsense"]).await.failed(2, &["--nonsense"]);
    user.run(&["upload", &cat, "AWS", "xml"]).await.failed(2, &["xml is not a format: use json, protobuf3 or raw"]);
    user.run(&["upload", &cat, "AWS", "json", "--content-type", "a/b"]).await.failed(2, &["use raw"]);
    user.run(&["upload", &cat, &bad, "AWS"]).await.failed(1, &["nothing was sent", "new\\nline", "U+000A"]);
    user.run(&["upload", &cat, "AWS", "--prefix", "a/../b"]).await.failed(1, &["nothing was sent", "cat.jpg"]);
    user.run(&["upload", &cat, &twin, "AWS"]).await.failed(1, &["would both become cat.jpg"]);
    user.run(&["upload", "missing.jpg", "AWS"]).await.failed(1, &["cannot read \"missing.jpg\": No such file"]);
    for name in ["AWS", "GC"] {
        assert!(objects(&cluster.client(name)).await.is_empty());
    }
    user.run(&["get", "../cat.jpg"]).await.failed(2, &["must not have the segments . or .."]);
    user.run(&["get", ".metacdn/prices/AWS"]).await.failed(2, &["the cluster's own"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_configuration_all_ways_to_name_one_are_said() {
    let cluster = Cluster::start(&["AWS"]).await;
    let user = User::of(&cluster, &["AWS"]);
    let profile = user.home.path().join("demo/client.toml");
    let moved = user.path("elsewhere.toml");
    let text = std::fs::read_to_string(&profile)
        .unwrap()
        .replace(" = '", &format!(" = '{}/demo/", user.home.path().display()));
    std::fs::write(&moved, text).unwrap();
    std::fs::remove_file(&profile).unwrap();

    let words = ["--config FILE", "METACDN_CONFIG", "metacdn demo", profile.to_str().unwrap()];
    user.run(&["servers"]).await.failed(1, &words);
    user.run(&["servers", "--config", moved.to_str().unwrap()]).await.ok();
    user.run(&["servers", "--config", "none.toml"]).await.failed(1, &["cannot read none.toml: No such file"]);
    let by_environment = user.command(&["servers"]).env("METACDN_CONFIG", &moved).output().unwrap();
    assert!(by_environment.status.success(), "{by_environment:?}");
    let of_a_node =
        user.command(&["servers"]).env("METACDN_CONFIG", &moved).env("METACDN_NODE_LISTEN", "[::]:1").output();
    assert!(of_a_node.as_ref().unwrap().status.success(), "{of_a_node:?}");
    let empty = user.command(&["servers"]).env("METACDN_CONFIG", "").output().unwrap();
    assert!(String::from_utf8_lossy(&empty.stderr).contains("no configuration: name one"), "{empty:?}");

    std::fs::write(&profile, "[identity]\nauthority = 'authority.pem'\ncertificate = 'me.pem'\nkey = 'me.key'\n")
        .unwrap();
    user.run(&["servers"]).await.failed(1, &["[client]", "seeds"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn seeds_that_do_not_answer_are_passed_over_and_named() {
    let mut cluster = Cluster::start(&["AWS"]).await;
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let user = User::with_seeds(&cluster, &[closed.into(), cluster.address("AWS")]);
    user.run(&["servers"]).await.ok();
    cluster.stop("AWS").await;
    let words = ["no node of the cluster answers", &closed.to_string(), "refused", &cluster.address("AWS").to_string()];
    user.run(&["servers"]).await.failed(1, &words);
}

/// Passes connections on; the first one only for so many bytes of what the client sends.
async fn cutting_proxy(target: Address, first_bytes: u64) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let seen = Arc::new(AtomicUsize::new(0));
    let count = seen.clone();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let limit = if count.fetch_add(1, Ordering::SeqCst) == 0 { first_bytes } else { u64::MAX };
            let node = TcpStream::connect((target.host(), target.port())).await.unwrap();
            tokio::spawn(async move {
                let (mut from_client, mut to_client) = client.into_split();
                let (mut from_node, mut to_node) = node.into_split();
                let answers = tokio::spawn(async move { tokio::io::copy(&mut from_node, &mut to_client).await });
                let _ = tokio::io::copy(&mut (&mut from_client).take(limit), &mut to_node).await;
                // Before the node can answer that its half broke off.
                if limit != u64::MAX {
                    answers.abort();
                }
                let _ = to_node.shutdown().await;
            });
        }
    });
    (address, seen)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_transfer_is_tried_again() {
    let cluster = Cluster::start(&["AWS"]).await;
    let user = User::of(&cluster, &["AWS"]);
    let bytes = noise(5_000_000, 1);
    let file = user.file("large.bin", &bytes);
    for format in ["raw", "json", "protobuf3"] {
        let (proxy, connections) = cutting_proxy(cluster.address("AWS"), 1_000_000).await;
        let ended = user.run(&["upload", &file, &proxy.to_string(), format]).await.ok();
        assert!(ended.stderr.contains("retry 2 of 4 in 0.5 s: large.bin: "), "{ended:?}");
        assert!(!ended.stderr.contains("close_notify"), "{ended:?}");
        assert_eq!(connections.load(Ordering::SeqCst), 2, "{format}");
        assert_eq!(objects(&cluster.client("AWS")).await["large.bin"], ContentHash::of(&bytes));
        user.run(&["delete", "large.bin"]).await.ok();
    }
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let ended = user.run(&["upload", &file, &closed.to_string()]).await;
    ended.failed(1, &["retry 4 of 4 in 2.0 s", "cannot publish", "refused"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_file_that_is_refused_does_not_keep_the_others() {
    let mut cluster = Cluster::start(&[]).await;
    cluster.add_with("AWS", |config| config.object_bytes_max = 1000).await;
    let user = User::of(&cluster, &["AWS"]);
    for (name, size) in [("a", 10), ("b", 2_000_000), ("c", 1000)] {
        user.file(&format!("site/{name}"), noise(size, 1));
    }
    let site = user.path("site").to_str().unwrap().to_owned();
    let ended =
        user.run(&["upload", &site, "AWS", "--json"]).await.failed(1, &["cannot publish", "at most 1000 bytes"]);
    let lines = ended.json();
    let errors: Vec<_> = lines.iter().filter(|line| !line["error"].is_null()).collect();
    assert_eq!((lines.len(), errors.len()), (3, 1), "{lines:?}");
    assert!(errors[0]["file"].as_str().unwrap().ends_with("site/b"), "{errors:?}");
    assert_eq!(objects(&cluster.client("AWS")).await.keys().collect::<Vec<_>>(), ["a", "c"]);
    let ended = user.run(&["upload", &site, "AWS"]).await.failed(1, &[]);
    assert!(ended.stdout.starts_with("published 2 of 3 files, 1.0 kB in "), "{ended:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_takes_nothing_is_given_up() {
    let mut cluster = Cluster::start(&[]).await;
    cluster.add_with("AWS", |config| config.object_bytes_max = 1).await;
    let user = User::of(&cluster, &["AWS"]);
    for number in 0..40 {
        user.file(&format!("site/{number}"), b"12");
    }
    let site = user.path("site").to_str().unwrap().to_owned();
    let ended = user
        .run(&["upload", &site, "AWS", "--json"])
        .await
        .failed(1, &["at most 1 bytes", "not tried after 16 failures"]);
    assert_eq!(ended.stderr.lines().count(), 3, "a cause, how many more it befell, and what was not tried: {ended:?}");
    let lines = ended.json();
    assert_eq!(lines.len(), 40);
    let tried = lines.iter().filter(|line| !line["error"].as_str().unwrap().contains("not tried")).count();
    assert!((16..24).contains(&tried), "{tried}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hash_that_comes_back_wrong_is_an_error() {
    let cluster = Cluster::start(&["AWS"]).await;
    let user = User::of(&cluster, &["AWS"]);
    // A node that stores other bytes than it was sent, but answers as a node does.
    let mut receipt = serde_json::to_value(put(&cluster.client("AWS"), "cat.jpg", b"woof".to_vec()).await).unwrap();
    receipt["key"] = "cat.jpg".into();
    let identity = cluster.identity(Principal::Node("Liar".parse().unwrap()));
    let acceptor = TlsAcceptor::from(identity.server_config(TlsVersions::Only13));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let serving = tokio::spawn(async move {
        let mut stream = acceptor.accept(listener.accept().await.unwrap().0).await.unwrap();
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\nmeow") {
            assert!(stream.read_buf(&mut request).await.unwrap() > 0);
        }
        let body = receipt.to_string();
        let head = format!("HTTP/1.1 201 Created\r\ncontent-length: {}\r\n\r\n", body.len());
        stream.write_all((head + &body).as_bytes()).await.unwrap();
        stream.shutdown().await.unwrap();
    });
    let cat = user.file("cat.jpg", b"meow");
    let ended = user.run(&["upload", &cat, &address]).await.failed(1, &["cannot publish", "corrupted on the way"]);
    assert!(!ended.stderr.contains("retry") && ended.stdout.is_empty(), "{ended:?}");
    serving.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_profile_of_another_cluster_is_told_so() {
    let (cluster, other) = (Cluster::start(&["AWS"]).await, Cluster::start(&[]).await);
    let user = User::with_seeds(&other, &[cluster.address("AWS")]);
    user.run(&["servers"]).await.failed(1, &["its certificate is of another cluster"]);
}
