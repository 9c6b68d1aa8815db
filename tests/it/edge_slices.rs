//! Large objects of the cluster through the edge: in slices, each fetched once, from whichever node lives.

use std::net::SocketAddr;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt as _;

use metacdn::cache::SLICE_BYTES;
use metacdn::client::{AnswerBody, Deadlines, Peer, empty};

use crate::cluster::{Cluster, put, wait_until};
use crate::edge::{ask, fetch, ready, text};
use crate::edge_cache::cache_status;

const SIZE: usize = 6 * SLICE_BYTES as usize + 12_345;

fn film(seed: u64) -> Vec<u8> {
    (0..SIZE as u64).map(|position| ((position.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) ^ seed) as u8).collect()
}

async fn begin(edge: SocketAddr, path: &str) -> Response<AnswerBody> {
    let peer = Peer::origin(None, edge.into(), Deadlines::default());
    let request = Request::get(path).header("host", "localhost").body(empty()).unwrap();
    peer.send(request).await.unwrap()
}

async fn rest(response: Response<AnswerBody>) -> Option<Bytes> {
    response.into_body().collect().await.ok().map(http_body_util::Collected::to_bytes)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_object_is_kept_in_slices_and_its_ranges_are_right() {
    let cluster = Cluster::start(&["AWS", "GC"]).await;
    let content = film(1);
    put(&cluster.client("AWS"), "film", content.clone()).await;
    let (_edge, public, admin) = cluster.edge(|_| {}).await;
    ready(admin).await;
    let slice = SLICE_BYTES as usize;
    let part = async |start: usize, end: usize| {
        let range = format!("bytes={start}-{}", end - 1);
        let part = ask(public, Method::GET, "/film", &[("range", &range)]).await;
        assert_eq!(part.status(), StatusCode::PARTIAL_CONTENT);
        assert_eq!(text(part.headers(), "content-range"), format!("bytes {start}-{}/{SIZE}", end - 1));
        assert!(part.body() == &content[start..end]);
        cache_status(&part)
    };
    assert_eq!(part(3 * slice + 5, 3 * slice + 10).await, "metacdn; fwd=uri-miss; stored");
    assert_eq!(part(3 * slice + 9, 4 * slice + 1).await, "metacdn; hit");
    let all = fetch(public, "/film").await;
    assert!(cache_status(&all) == "metacdn; hit" && all.body() == &content);
    let several = ask(public, Method::GET, "/film", &[("range", "bytes=0-1,-2")]).await;
    assert_eq!((several.status(), cache_status(&several)), (StatusCode::PARTIAL_CONTENT, "metacdn; hit".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_dies_in_the_middle_is_followed_by_another_one() {
    // Nobody reads the answer while its node stops: that ends it in the middle.
    let impatient = |config: &mut metacdn::node::Config| config.serve.drain_timeout_ms = 200;
    let mut cluster = Cluster::start_with(&["AWS", "GC"], impatient).await;
    let content = film(1);
    put(&cluster.client("AWS"), "film", content.clone()).await;
    wait_until("both have it", async || {
        crate::cluster::get(&cluster.client("GC"), "film").await.is_some_and(|got| got.len() == SIZE)
    })
    .await;
    let (_edge, public, admin) = cluster.edge(|_| {}).await;
    ready(admin).await;
    let download = begin(public, "/film").await;
    assert_eq!(download.status(), StatusCode::OK);
    let first = text(download.headers(), "metacdn-route");
    let dying = ["AWS", "GC"].into_iter().find(|name| first.contains(name)).unwrap();
    cluster.stop(dying).await;
    assert!(rest(download).await.unwrap() == content);
}

#[tokio::test(flavor = "multi_thread")]
async fn versions_are_never_mixed() {
    let cluster = Cluster::start(&["AWS"]).await;
    let (old, new) = (film(1), film(2));
    put(&cluster.client("AWS"), "film", old.clone()).await;
    let (_edge, public, admin) = cluster.edge(|_| {}).await;
    ready(admin).await;
    ask(public, Method::GET, "/film", &[("range", "bytes=0-9")]).await;
    let download = begin(public, "/film").await;
    put(&cluster.client("AWS"), "film", new.clone()).await;
    // It ends as it began, or breaks off.
    assert!(rest(download).await.is_none_or(|body| body == old));
    wait_until("the new one is given", async || {
        let body = rest(begin(public, "/film").await).await;
        assert!(body.as_ref().is_none_or(|body| *body == old || *body == new));
        body.is_some_and(|body| body == new)
    })
    .await;
}
