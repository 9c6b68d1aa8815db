//! `metacdn explain`: what a person and a program are told, and of whom the program asks it.

use std::net::SocketAddr;

use metacdn::model::Principal;
use serde_json::Value;

use super::User;
use crate::cluster::{Cluster, wait_until};
use crate::edge::{World, fetch, ready};

/// The lines of a page, each cut at its spaces.
fn rows(page: &str) -> Vec<Vec<&str>> {
    page.lines().map(|line| line.split_whitespace().collect()).collect()
}

async fn routes(admin: SocketAddr, query: &str) -> Value {
    serde_json::from_slice(fetch(admin, &format!("/routes?{query}")).await.body()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_table_says_why_and_what_would_change_it() {
    let mut world = World::start([5, 250, 80]).await;
    world.publish(&[("a b.txt", "text")]).await;
    let (_edge, public, admin) = world.cluster.edge(|_| {}).await;
    ready(admin).await;
    let user = User::of(&world.cluster, &["AWS"]);
    user.configure_edge(admin);

    let page = user.run(&["explain", "a b.txt"]).await.ok();
    let lines = rows(&page.stdout);
    assert!(page.stdout.starts_with("a b.txt, taken to have 100.0 kB (the edge has not seen it), by price (p)\n"));
    assert_eq!(lines[2], ["#", "NODE", "PROVIDER", "LIVENESS", "$/H", "TIME", "SCORE", "REASON"]);
    assert_eq!((&lines[3][..5], lines[3].last()), (&["1", "GC", "GC", "alive", "0.10"][..], Some(&"cheapest")));
    assert!(page.stdout.contains("\nGC is chosen: it is the cheapest, $0.10 against $0.114 at Program.\n"));
    for row in [&["GC", "below", "0.114", "any"][..], &["Program", "up", "to", "0.10", "never"]] {
        assert!(lines.iter().any(|line| line == row), "{row:?} is not in\n{}", page.stdout);
    }
    assert!(page.stdout.contains(" without GC  Program takes over"), "{page:?}");
    assert!(page.stdout.lines().all(|line| line.chars().count() <= 80 && !line.ends_with(' ')), "{page:?}");

    // What the edge has seen, and what is asked for instead.
    fetch(public, "/a%20b.txt").await;
    assert!(user.run(&["explain", "a b.txt"]).await.ok().stdout.starts_with("a b.txt, 4 B, by price (p)\n"));
    let other = ["explain", "a b.txt", "--policy", "c 0.75", "--size", "9"];
    let other = user.run(&other).await.ok().stdout;
    assert!(other.starts_with("a b.txt, if it had 9 B, by price and time (c 0.75)\n"), "{other}");
    assert!(other.contains("Program is chosen: it has the lowest score"), "{other}");

    world.cluster.stop("GC").await;
    wait_until("GC is down", async || {
        let page = user.run(&["explain", "a b.txt"]).await.ok().stdout;
        let lines = rows(&page);
        lines[3][..2] == ["1", "Program"] && lines[5][..5] == ["GC", "GC", "down", "0.10", "not"]
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn programs_get_the_document_of_the_edge() {
    let world = World::start([5, 250, 80]).await;
    let (_edge, _, admin) = world.cluster.edge(|_| {}).await;
    ready(admin).await;
    let user = User::of(&world.cluster, &["AWS"]);
    let edge = admin.to_string();
    let asked = ["explain", "new", "--json", "--edge", &edge, "--size", "1000", "--policy", "c 0.5"];
    let [document] = &user.run(&asked).await.ok().json()[..] else { panic!("more than a line") };
    let asked = routes(admin, "key=new&size=1000&policy=c%200.5").await;
    let names = |document: &Value| document.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!((names(document), &document["size"]), (names(&asked), &1000.into()));
    assert_eq!((&document["size_known"], &document["price_basis"]), (&false.into(), &"server_hour".into()));
    assert_eq!((&document["changes"]["by_price"], &document["policy"]), (&"GC".into(), &"c 0.5".into()));
    // The figure at which another is chosen is right, if asked of the edge itself.
    for span in document["changes"]["betas"].as_array().unwrap() {
        let beta = f64::midpoint(span["from"].as_f64().unwrap(), span["to"].as_f64().unwrap());
        wait_until(&format!("the choice at beta {beta}"), async || {
            routes(admin, &format!("key=new&size=1000&policy=c%20{beta}")).await["routes"][0]["node"] == span["node"]
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edge_elsewhere_is_asked_under_its_name() {
    let cluster = Cluster::start(&["AWS"]).await;
    let user = User::of(&cluster, &["AWS"]);
    let edge: Principal = Principal::Edge("paris".parse().unwrap());
    for principal in [edge.clone(), Principal::Node("AWS".parse().unwrap())] {
        let (_edge, _, admin) = cluster.edge_as(principal, "0.0.0.0:0", |_| {}).await;
        // Loopback, too, leads to a listener of TLS; the other is no loopback.
        for host in ["127.0.0.1", "0.0.0.0"] {
            let at = format!("{host}:{}", admin.port());
            wait_until("the edge knows the node", async || {
                user.run(&["explain", "a", "--edge", &at]).await.ok().stdout.contains("AWS is chosen")
            })
            .await;
        }
    }
    let refused = async |edge: SocketAddr, words: &[&str]| {
        let at = format!("0.0.0.0:{}", edge.port());
        user.run(&["explain", "a", "--edge", &at]).await.failed(1, words);
    };
    // A client is nobody's server, and another cluster's edge is not ours.
    let client = Principal::Client("eve".parse().unwrap());
    let (_impostor, _, admin) = cluster.edge_as(client, "0.0.0.0:0", |_| {}).await;
    refused(admin, &["no edge answers", "invalid peer certificate", "server authentication"]).await;
    let stranger = Cluster::start(&["AWS"]).await;
    let (_stranger, _, admin) = stranger.edge_as(edge, "0.0.0.0:0", |_| {}).await;
    refused(admin, &["its certificate is of another cluster"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_asked_is_explained() {
    let cluster = Cluster::start(&["AWS"]).await;
    let user = User::of(&cluster, &["AWS"]);
    let (_edge, public, _) = cluster.edge(|_| {}).await;
    let public = public.to_string();
    for (args, code, words) in [
        (["--edge", "127.0.0.1:1"], 1, &["no edge answers", "refused", "--edge HOST:PORT"][..]),
        (["--edge", &public], 1, &["404", "admin address"]),
        (["--edge", "edge"], 2, &["--edge"]),
        (["--policy", "c 2"], 2, &["beta is a number from 0"]),
        (["--policy", "x"], 2, &["not a policy"]),
        (["--size", "1MB"], 2, &["--size"]),
        (["--size", "-1"], 2, &["-1"]),
    ] {
        user.run(&["explain", "a.txt", args[0], args[1]]).await.failed(code, words);
    }
    user.run(&["explain", "../a"]).await.failed(2, &["../a"]);
    user.configure_edge("127.0.0.1:1".parse().unwrap());
    user.run(&["explain", "a.txt"]).await.failed(1, &["127.0.0.1:1"]);
    std::fs::remove_dir_all(user.home.path().join("demo")).unwrap();
    user.run(&["explain", "a.txt", "--edge", "192.0.2.1:8081"]).await.failed(1, &["wants a certificate", "--config"]);
}
