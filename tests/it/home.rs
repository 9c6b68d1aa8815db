//! Conditional writes: at whatever node they come in, those of one key are decided one after the other.

use std::collections::BTreeMap;

use http::{Method, StatusCode};
use metacdn::cli::demo::relay::Link;
use metacdn::client::{Peer, full};
use metacdn::model::{MemberSet, MemberState, Principal};
use metacdn::replicate::home;
use tokio::task::JoinSet;

use crate::answers::{Answer, ask};
use crate::cluster::{Cluster, get, key, objects, put, wait_until};
use crate::edge::World;

const NAMES: [&str; 3] = ["AWS", "GC", "Program"];

/// Waits until all nodes know each other.
async fn settled(cluster: &Cluster, names: &[&str]) {
    for name in names {
        let client = cluster.client(name);
        wait_until(&format!("{name} is settled"), async || client.status().await.is_ok_and(|status| status.settled))
            .await;
    }
}

async fn three_nodes() -> (Cluster, [Peer; 3]) {
    let cluster = Cluster::start(&NAMES).await;
    settled(&cluster, &NAMES).await;
    let clients = NAMES.map(|name| cluster.client(name));
    (cluster, clients)
}

fn members(names: &[&str]) -> MemberSet {
    names.iter().map(|name| name.parse().unwrap()).collect()
}

/// A key with that home, which begins with `prefix`; with `joined` among the nodes its home is `moved_to`.
fn key_at(prefix: &str, home_before: &str, joined: &[&str], moved_to: &str) -> String {
    let (before, after) = (members(&NAMES), members(&[&NAMES[..], joined].concat()));
    let is_at = |name: &String, members: &MemberSet, home_name: &str| {
        home(&key(name), members).is_some_and(|id| id.as_str() == home_name)
    };
    let mut names = (0..10_000).map(|number| format!("{prefix}-{number}"));
    names.find(|name| is_at(name, &before, home_before) && is_at(name, &after, moved_to)).unwrap()
}

/// A conditional write that waits for no copies.
async fn write(peer: &Peer, method: &str, name: &str, condition: (&str, &str), body: &str) -> Answer {
    ask(peer, method, &format!("/v1/objects/{name}?wait_for=1"), &[condition], body).await
}

const NEW: (&str, &str) = ("if-none-match", "*");

/// Adds one to the number under `name` until it has succeeded `times` times; answers in how many tries it is not known
/// what came of them.
async fn add(peer: Peer, name: String, times: u32) -> u32 {
    let (mut succeeded, mut unknown) = (0, 0);
    let path = format!("/v1/objects/{name}?wait_for=1");
    while succeeded < times {
        let Ok(reply) = peer.get_object(&key(&name), 0).await else {
            tokio::task::yield_now().await;
            continue;
        };
        let etag = reply.headers["etag"].clone();
        let Ok(bytes) = reply.body.read_all(100).await else { continue };
        let number: u32 = std::str::from_utf8(&bytes).unwrap().parse().unwrap();
        let mut request = peer.request(Method::PUT, &path, full((number + 1).to_string())).unwrap();
        request.headers_mut().insert("if-match", etag);
        match peer.send(request).await.map(|response| response.status()) {
            Ok(StatusCode::OK) => succeeded += 1,
            Ok(StatusCode::PRECONDITION_FAILED) => {}
            // Nothing has changed, says the API.
            Ok(StatusCode::SERVICE_UNAVAILABLE) => tokio::task::yield_now().await,
            Ok(StatusCode::BAD_GATEWAY | StatusCode::GATEWAY_TIMEOUT) => unknown += 1,
            Ok(other) => panic!("{other}"),
            Err(error) => unknown += u32::from(error.may_have_arrived()),
        }
    }
    unknown
}

#[tokio::test(flavor = "multi_thread")]
async fn no_increment_is_lost_while_nodes_are_restarted() {
    let (mut cluster, clients) = three_nodes().await;
    let name = key_at("counter", "GC", &[], "GC");
    put(&clients[0], &name, "0").await;
    let mut adding = JoinSet::new();
    for client in 0..6 {
        adding.spawn(add(clients[client % 3].clone(), name.clone(), 15));
    }
    let value = async |peer: &Peer| String::from_utf8(get(peer, &name).await.unwrap_or_default()).unwrap();
    wait_until("they are at it", async || value(&clients[1]).await.parse::<u32>().is_ok_and(|value| value > 10)).await;
    for restarted in ["Program", "GC"] {
        cluster.stop(restarted).await;
        cluster.restart(restarted).await;
    }
    let mut unknown = 0;
    while let Some(ended) = adding.join_next().await {
        unknown += ended.unwrap();
    }
    settled(&cluster, &NAMES).await;
    for client in &clients {
        wait_until("all hold the same", async || objects(client).await == objects(&clients[1]).await).await;
    }
    let value: u32 = value(&clients[1]).await.parse().unwrap();
    assert!((90..=90 + unknown).contains(&value), "{value}, {unknown} unknown");
    assert!(unknown < 20, "{unknown}");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_fifty_who_create_an_object_one_does() {
    let (_cluster, clients) = three_nodes().await;
    for round in 0..3 {
        let name = format!("created-{round}");
        let mut creating = JoinSet::new();
        for number in 0..50 {
            let (client, name) = (clients[number % 3].clone(), name.clone());
            creating.spawn(async move { (number, write(&client, "PUT", &name, NEW, &number.to_string()).await) });
        }
        let mut answers = BTreeMap::<u16, Vec<usize>>::new();
        while let Some(answer) = creating.join_next().await {
            let (number, answer) = answer.unwrap();
            answers.entry(answer.status).or_default().push(number);
        }
        assert_eq!((answers[&201].len(), answers[&412].len()), (1, 49), "{answers:?}");
        for client in &clients {
            let winner = answers[&201][0].to_string();
            wait_until("all hold what was created", async || {
                get(client, &name).await.is_some_and(|bytes| bytes == winner.as_bytes())
            })
            .await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_that_depend_on_nothing_settle_to_one_winner_everywhere() {
    let (_cluster, clients) = three_nodes().await;
    let mut writing = JoinSet::new();
    for number in 0..60_usize {
        let client = clients[number % 3].clone();
        writing.spawn(async move {
            let name = format!("raced-{}", number % 4);
            match number % 7 {
                6 => ask(&client, "DELETE", &format!("/v1/objects/{name}?wait_for=1"), &[], "").await.status,
                _ => {
                    ask(&client, "PUT", &format!("/v1/objects/{name}?wait_for=1"), &[], number.to_string()).await.status
                }
            }
        });
    }
    while let Some(status) = writing.join_next().await {
        assert!([200, 201, 204, 404].contains(&status.unwrap()));
    }
    for client in &clients {
        wait_until("all hold the same", async || objects(client).await == objects(&clients[0]).await).await;
    }
    assert!(!objects(&clients[0]).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_answer_of_the_home_is_passed_back_as_it_is() {
    let (cluster, [aws, gc, program]) = three_nodes().await;
    let name = key_at("passed", "GC", &[], "GC");
    let large = "x".repeat(5_000_000);
    let headers = [NEW, ("content-type", "text/x-large"), ("cache-control", "max-age=7")];
    let created = ask(&aws, "PUT", &format!("/v1/objects/{name}?wait_for=2"), &headers, large.clone()).await;
    let copies: u32 = created.header("metacdn-copies").parse().unwrap();
    assert_eq!((created.status, copies >= 2), (201, true), "{}", created.text());
    assert!(created.header("metacdn-version").contains(".GC."), "{created:?}");
    assert_eq!(created.json()["size"], 5_000_000);
    let held = ask(&gc, "HEAD", &format!("/v1/objects/{name}"), &[], "").await;
    assert_eq!((held.header("content-type"), held.header("cache-control")), ("text/x-large", "max-age=7"));
    let etag = held.header("etag").to_owned();
    for (client, condition, status) in [
        (&aws, NEW, 412),
        (&program, ("if-match", "\"other\""), 412),
        (&aws, ("if-unmodified-since", "Sat, 01 Jan 2000 00:00:00 GMT"), 412),
        (&program, ("if-match", etag.as_str()), 200),
    ] {
        assert_eq!(write(client, "PUT", &name, condition, "small").await.status, status, "{condition:?}");
    }
    assert_eq!(write(&aws, "DELETE", &name, ("if-match", &etag), "").await.status, 412);
    assert_eq!(write(&aws, "DELETE", &name, ("if-match", "*"), "").await.status, 204);
    assert_eq!(write(&program, "DELETE", &name, ("if-match", "*"), "").await.status, 404);
    let refused = ask(&aws, "PUT", &format!("/v1/objects/{name}"), &[NEW, ("content-encoding", "br")], "x").await;
    assert_eq!((refused.status, refused.header("accept-encoding")), (415, "identity"));
    // Only a member may pass a write on, only a conditional one, and nobody makes a node pass it on twice.
    let (marked, unmarked) = ([NEW, ("metacdn-home", "GC")], [NEW]);
    let node = cluster.caller("GC", Principal::Node("AWS".parse().unwrap()));
    let stranger = cluster.caller("GC", Principal::Node("Azure".parse().unwrap()));
    let edge = cluster.caller("GC", Principal::Edge("edge".parse().unwrap()));
    let path = format!("/v1/objects/{name}");
    assert_eq!(ask(&node, "PUT", &path, &unmarked, "x").await.status, 403);
    assert_eq!(ask(&node, "PUT", &path, &marked[1..], "x").await.status, 403);
    assert_eq!(ask(&stranger, "PUT", &path, &marked, "x").await.status, 503);
    assert_eq!(ask(&edge, "PUT", &path, &marked, "x").await.status, 403);
    assert_eq!(ask(&aws, "PUT", &path, &marked, "x").await.status, 503);
    assert_eq!(ask(&node, "PUT", &path, &marked, "x").await.status, 201);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_another_node_has_taken_counts_though_its_bytes_are_under_way() {
    let world = World::start([0, 0, 0]).await;
    settled(&world.cluster, &NAMES).await;
    let (aws, gc) = (world.cluster.client("AWS"), world.cluster.client("GC"));
    let (fresh, known) = (key_at("fresh", "AWS", &[], "AWS"), key_at("known", "AWS", &[], "AWS"));
    let old = put(&aws, &known, "old").await.content.hash.etag();
    wait_until("GC holds it", async || get(&gc, &known).await.is_some()).await;
    // From GC's bytes nobody gets more than a trickle.
    world.relays["GC"].change(|link| *link = Link { rate_bytes_per_second: Some(100_000), ..Link::default() });
    for name in [&fresh, &known] {
        let large = vec![b'n'; 8 << 20];
        assert!(ask(&gc, "PUT", &format!("/v1/objects/{name}?wait_for=1"), &[], large).await.status < 300);
    }
    let new = put(&gc, "other", vec![b'n'; 8 << 20]).await.content.hash.etag();
    assert_eq!(get(&aws, &fresh).await, None);
    assert_eq!(write(&aws, "PUT", &fresh, NEW, "x").await.status, 412);
    assert_eq!(write(&aws, "PUT", &known, ("if-match", &old), "x").await.status, 412);
    assert_eq!(write(&aws, "PUT", &known, ("if-match", &new), "swapped").await.status, 200);
    wait_until("it is so everywhere", async || get(&gc, &known).await.as_deref() == Some(b"swapped")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_its_home_a_key_takes_plain_writes_alone() {
    let (mut cluster, [aws, _, program]) = three_nodes().await;
    let (at_gc, at_aws) = (key_at("a", "GC", &[], "GC"), key_at("b", "AWS", &[], "AWS"));
    cluster.stop("GC").await;
    // A connection that stood may have got the write before it broke, as far as AWS can tell.
    wait_until("it is refused", async || write(&aws, "PUT", &at_gc, NEW, "x").await.status == 503).await;
    let refused = write(&aws, "PUT", &at_gc, NEW, "x").await;
    assert_eq!((refused.status, refused.header("retry-after")), (503, "1"));
    assert!(refused.problem().contains("node GC, the home of this key"), "{}", refused.problem());
    assert_eq!(ask(&aws, "PUT", &format!("/v1/objects/{at_gc}?wait_for=1"), &[], "plain").await.status, 201);
    // Until it is found down, it may have taken something of which nobody has heard.
    wait_until("others go on", async || write(&program, "PUT", &at_aws, NEW, "x").await.status == 201).await;
    assert_eq!(write(&program, "PUT", &at_gc, NEW, "x").await.status, 503);
    cluster.restart("GC").await;
    wait_until("it decides again", async || write(&program, "PUT", &at_gc, NEW, "x").await.status == 412).await;
    let etag = metacdn::model::ContentHash::of(b"plain").etag();
    wait_until("all is as before", async || {
        write(&program, "PUT", &at_gc, ("if-match", &etag), "x").await.status == 200
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_move_to_a_node_that_joins_when_all_know_it() {
    let (mut cluster, [aws, gc, _]) = three_nodes().await;
    let (moving, staying) = (key_at("m", "AWS", &["New"], "New"), key_at("s", "GC", &["New"], "GC"));
    assert_eq!(write(&gc, "PUT", &moving, NEW, "before").await.status, 201);
    assert_eq!(write(&aws, "PUT", &staying, NEW, "before").await.status, 201);
    // One that is away cannot say that it has stopped to decide by the old set.
    cluster.stop("Program").await;
    cluster.add("New").await;
    let new = cluster.client("New");
    for client in [&aws, &gc, &new] {
        wait_until("they know it", async || client.servers().await.unwrap().servers.len() == 4).await;
    }
    let before = metacdn::model::ContentHash::of(b"before").etag();
    wait_until("what stays is decided as ever", async || {
        write(&new, "PUT", &staying, ("if-match", &before), "after").await.status == 200
    })
    .await;
    for client in [&aws, &gc, &new] {
        let refused = write(client, "PUT", &moving, ("if-match", &before), "after").await;
        assert_eq!(refused.status, 503);
        assert!(refused.problem().contains("the home of this key moves"), "{}", refused.problem());
        assert!(!client.status().await.unwrap().settled);
    }
    assert_eq!(ask(&aws, "PUT", "/v1/objects/plain?wait_for=1", &[], "plain").await.status, 201);
    cluster.restart("Program").await;
    settled(&cluster, &["AWS", "GC", "New", "Program"]).await;
    assert_eq!(write(&gc, "PUT", &moving, NEW, "again").await.status, 412);
    let swapped = write(&aws, "PUT", &moving, ("if-match", &before), "after").await;
    assert_eq!(swapped.status, 200);
    assert!(swapped.header("metacdn-version").contains(".New."), "{swapped:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_of_a_node_that_is_forgotten_move_to_the_others() {
    let (mut cluster, [aws, gc, _]) = three_nodes().await;
    let name = (0..).map(|number| format!("f-{number}")).find(|name| {
        let at = |names: &[&str]| home(&key(name), &members(names)).map(ToString::to_string);
        at(&NAMES).as_deref() == Some("Program") && at(&NAMES[..2]).as_deref() == Some("GC")
    });
    let name = name.unwrap();
    let path = format!("/v1/objects/{name}?wait_for=2");
    assert_eq!(ask(&aws, "PUT", &path, &[NEW], "before").await.status, 201);
    cluster.stop("Program").await;
    wait_until("it is refused", async || write(&aws, "PUT", &name, NEW, "x").await.status == 503).await;
    let forgotten = async || ask(&aws, "DELETE", "/v1/servers/Program?force=true", &[], "").await.status;
    assert_eq!(forgotten().await, 204);
    let before = metacdn::model::ContentHash::of(b"before").etag();
    wait_until("it has another home", async || {
        write(&aws, "PUT", &name, ("if-match", &before), "after").await.status == 200
    })
    .await;
    let held = ask(&gc, "HEAD", &format!("/v1/objects/{name}"), &[], "").await;
    assert!(held.header("metacdn-version").contains(".GC."), "{held:?}");
    settled(&cluster, &["AWS", "GC"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_home_that_is_set_apart_still_decides_what_is_passed_on() {
    let (_cluster, [aws, gc, _]) = three_nodes().await;
    let name = key_at("apart", "GC", &[], "GC");
    aws.set_state(&"GC".parse().unwrap(), MemberState::Maintenance).await.unwrap();
    wait_until("GC knows", async || gc.servers().await.unwrap().servers[1].state == MemberState::Maintenance).await;
    assert_eq!(write(&gc, "PUT", &name, NEW, "x").await.status, 503);
    assert_eq!(write(&aws, "PUT", &name, NEW, "x").await.status, 201);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_increment_is_lost_while_a_node_joins() {
    let (mut cluster, clients) = three_nodes().await;
    let name = key_at("counter", "AWS", &["New"], "New");
    put(&clients[0], &name, "0").await;
    let mut adding = JoinSet::new();
    for client in &clients {
        adding.spawn(add(client.clone(), name.clone(), 40));
    }
    cluster.add("New").await;
    let new = cluster.client("New");
    wait_until("it holds it", async || get(&new, &name).await.is_some()).await;
    adding.spawn(add(new.clone(), name.clone(), 20));
    let mut unknown = 0;
    while let Some(ended) = adding.join_next().await {
        unknown += ended.unwrap();
    }
    settled(&cluster, &["AWS", "GC", "New", "Program"]).await;
    let version = ask(&new, "HEAD", &format!("/v1/objects/{name}"), &[], "").await;
    assert!(version.header("metacdn-version").contains(".New."), "the last were decided there: {version:?}");
    let value: u32 = String::from_utf8(get(&new, &name).await.unwrap()).unwrap().parse().unwrap();
    assert!((140..=140 + unknown).contains(&value), "{value}, and {unknown} without an answer");
}
