//! A node that an operator has set apart: no writes of clients, readers elsewhere, and peers as ever.

use http::{Method, StatusCode};
use metacdn::client::empty;
use metacdn::model::{MemberState, Principal};
use metacdn::protocol::{READY, object_path};

use crate::answers;
use crate::cluster::{get, key, put, wait_until};
use crate::edge::{World, by_price_uncached, fetch, node_of, ready};
use crate::packets::send;

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_set_apart_is_read_from_last_and_written_to_by_peers_alone() {
    let mut world = World::start([0, 0, 0]).await;
    world.publish(&[("a.txt", "text")]).await;
    let (aws, gc) = (world.cluster.client("AWS"), world.cluster.client("GC"));
    let (_edge, public, admin) = world.cluster.edge(by_price_uncached).await;
    ready(admin).await;
    assert_eq!(node_of(&fetch(public, "/a.txt").await), "GC");
    for state in [MemberState::Maintenance, MemberState::Draining] {
        aws.set_state(&"GC".parse().unwrap(), state).await.unwrap();
        wait_until("the edge knows", async || node_of(&fetch(public, "/a.txt").await) == "Program").await;
        let word = if state == MemberState::Draining { "draining" } else { "in-maintenance" };
        wait_until("its table says why", async || {
            let ranking = fetch(admin, "/routes?key=a.txt").await;
            let ranking: serde_json::Value = serde_json::from_slice(ranking.body()).unwrap();
            (&ranking["routes"][2]["node"], &ranking["routes"][2]["reason"]) == (&"GC".into(), &word.into())
        })
        .await;
        wait_until("it knows", async || gc.servers().await.unwrap().servers[1].state == state).await;
        wait_until("it is not ready", async || answers::ask(&gc, "GET", READY, &[], "").await.status == 503).await;
    }
    let refused = answers::ask(&gc, "PUT", "/v1/objects/b.txt", &[], "b").await;
    assert_eq!((refused.status, refused.header("retry-after")), (503, "60"));
    assert!(refused.json()["detail"].as_str().unwrap().contains("is to leave the cluster"), "{refused:?}");
    let delete = gc.request(Method::DELETE, &object_path(&key("a.txt")), empty()).unwrap();
    assert_eq!(gc.send(delete).await.unwrap().status(), StatusCode::SERVICE_UNAVAILABLE);
    let packet = serde_json::json!({ "file_name": "c.txt", "distributed": "F", "content": "MQ==" }).to_string();
    let answer = send(&world.cluster, "GC", Principal::Client("me".parse().unwrap()), packet.as_bytes()).await;
    assert!(answer["error"].as_str().unwrap().contains("takes no writes"), "{answer}");
    // It goes on as a member: it takes in what others have, and answers who asks it.
    put(&aws, "d.txt", "d").await;
    wait_until("it is not behind", async || get(&gc, "d.txt").await.as_deref() == Some(b"d")).await;
    world.cluster.stop("AWS").await;
    world.cluster.stop("Program").await;
    wait_until("it is the last resort", async || node_of(&fetch(public, "/a.txt").await) == "GC").await;
    // And it can be taken back through itself.
    gc.set_state(&"GC".parse().unwrap(), MemberState::Active).await.unwrap();
    put(&gc, "b.txt", "b").await;
    wait_until("it is ready", async || answers::ask(&gc, "GET", READY, &[], "").await.status == 200).await;
}
