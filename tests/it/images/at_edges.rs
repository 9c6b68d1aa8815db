//! The edge chooses the variant for each client; the nodes make it.

use std::net::SocketAddr;

use base64::prelude::{BASE64_STANDARD, Engine as _};
use metacdn::model::{ImageMode, Principal, Tariff};
use metacdn::route::Policy;
use serde_json::json;

use super::adaptive::narrow;
use super::{Browser, get, painting, photograph, resizing};
use crate::answers::Answer;
use crate::cluster::{self, Cluster, Running, put, wait_until};
use crate::edge::ready;
use crate::edge_cache::kept;
use crate::packets::send;

/// Two nodes that resize in `mode` with `cat.jpg`, and an edge in front of them.
async fn edge_with_cat(mode: ImageMode, thresholds: &str) -> (Cluster, Running, SocketAddr) {
    let cluster = Cluster::start_with(&["AWS", "GC"], resizing(mode)).await;
    put(&cluster.client("AWS"), "cat.jpg", photograph(1)).await;
    let (edge, public, admin) = cluster.edge(|config| config.thresholds = thresholds.parse().unwrap()).await;
    ready(admin).await;
    (cluster, edge, public)
}

#[tokio::test(flavor = "multi_thread")]
async fn each_client_of_an_edge_gets_what_its_link_bears_at_the_same_time() {
    let (cluster, _edge, public) = edge_with_cat(ImageMode::Dynamic, "20000000 2500000").await;
    // Several times what the buffers on the way take without any rate.
    put(&cluster.client("AWS"), "large.bin", vec![7; 4 << 20]).await;
    put(&cluster.client("AWS"), "larger.bin", vec![7; 12 << 20]).await;
    let (slow, middling) = tokio::join!(narrow(public, 1_000_000), narrow(public, 8_000_000));
    let mut slow_client = Browser::open_through(slow.address(), public).await;
    let mut middling_client = Browser::open_through(middling.address(), public).await;
    let mut fast = Browser::open_from("127.0.0.2", public).await;
    assert_eq!(slow_client.variant("/cat.jpg").await, "original", "nothing is known");
    let (_, _, _) = tokio::join!(
        slow_client.get("/large.bin", &[]),
        middling_client.get("/larger.bin", &[]),
        fast.get("/larger.bin", &[]),
    );
    for _ in 0..2 {
        let seen = tokio::join!(
            slow_client.variant("/cat.jpg"),
            middling_client.variant("/cat.jpg"),
            fast.variant("/cat.jpg")
        );
        assert_eq!((&*seen.0, &*seen.1, &*seen.2), ("low", "medium", "original"));
    }
    // A new connection of an address of which only slow ones are known, and of one of which nothing is.
    drop((slow_client, middling_client));
    wait_until("the address is known", async || Browser::open(public).await.variant("/cat.jpg").await != "original")
        .await;
    assert_eq!(Browser::open_from("127.0.0.3", public).await.variant("/cat.jpg").await, "original");
}

/// A browser all of whose answers come from memory, if they are to.
struct Asking<'a> {
    browser: &'a mut Browser,
    hits: bool,
}

impl Asking<'_> {
    async fn get(&mut self, path: &str, headers: &[(&str, &str)]) -> Answer {
        let answer = self.browser.get(path, headers).await;
        if self.hits {
            assert_eq!(answer.header("cache-status"), "metacdn; hit", "{path} {headers:?}");
        }
        answer
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_chosen_for_one_client_is_for_no_other() {
    for mode in [ImageMode::Static, ImageMode::Dynamic] {
        let (cluster, _edge, public) = edge_with_cat(mode, "default").await;
        let mut browser = Browser::open(public).await;
        for cached in [false, true] {
            if cached {
                for path in ["/cat.jpg", "/cat.jpg?variant=low", "/cat_low.jpg"] {
                    kept(public, path).await;
                }
            }
            let mut browser = Asking { browser: &mut browser, hits: cached };
            let original = browser.get("/cat.jpg", &[]).await;
            assert!(original.body == photograph(1));
            assert_eq!(
                (original.header("metacdn-variant"), original.header("cache-control"), original.header("vary")),
                ("original", "private, max-age=60", "save-data")
            );
            assert_eq!(original.header("last-modified"), "", "all variants have the same");
            let low = browser.get("/cat.jpg", &[("save-data", "on")]).await;
            assert_eq!((low.header("metacdn-variant"), low.header("cache-control")), ("low", "private, max-age=60"));
            assert_ne!(low.header("etag"), original.header("etag"));
            let asked = browser.get("/cat.jpg?variant=low", &[]).await;
            assert_eq!((asked.body == low.body, asked.header("cache-control")), (true, "max-age=60"));
            assert!(browser.get("/cat_low.jpg", &[]).await.body == low.body, "by the reference's name");
            let part = browser.get("/cat.jpg", &[("range", "bytes=0-9"), ("save-data", "on")]).await;
            assert_eq!((part.status, part.header("metacdn-variant")), (206, "original"));
            let tag = low.header("etag").to_owned();
            let part =
                browser.get("/cat.jpg", &[("range", "bytes=0-9"), ("save-data", "on"), ("if-range", &tag)]).await;
            assert_eq!((part.status, part.header("metacdn-variant"), &*part.body), (206, "low", &low.body[..10]));
            let date = get(&cluster.client("AWS"), "/v1/objects/cat.jpg").await.header("last-modified").to_owned();
            let by_date = [("range", "bytes=0-9"), ("if-range", &*date), ("save-data", "on")];
            let whole = browser.get("/cat.jpg", &by_date).await;
            assert_eq!((whole.status, whole.body == low.body, whole.header("last-modified")), (200, true, ""));
            let part = browser.get("/cat.jpg?variant=low", &by_date).await;
            assert_eq!((part.status, part.header("last-modified")), (206, &*date), "it is the date of one");
            let known = browser.get("/cat.jpg", &[("if-none-match", &tag), ("save-data", "on")]).await;
            assert_eq!((known.status, known.header("cache-control")), (304, "private, max-age=60"));
            for node in ["AWS", "GC"] {
                let made = get(&cluster.client(node), "/v1/objects/cat.jpg?variant=low").await;
                assert!(made.body == low.body, "every node makes the same, cached: {cached}");
            }
        }
        assert_eq!(browser.get("/cat.jpg?variant=tiny", &[]).await.status, 400);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn variants_in_memory_go_with_their_image_and_with_what_beats_them() {
    let (cluster, _edge, public) = edge_with_cat(ImageMode::Dynamic, "default").await;
    let client = cluster.client("GC");
    let low = async |name: &str| Browser::open(public).await.get(name, &[]).await.body;
    let names = ["/cat.jpg?variant=low", "/cat_low.jpg"];
    let derived = low(names[0]).await;
    assert!(low(names[1]).await == derived);
    let all_kept = async || {
        for name in names {
            kept(public, name).await;
        }
    };
    all_kept().await;
    put(&client, "cat_low.jpg", photograph(7)).await;
    for name in names {
        wait_until("the upload beats what is in memory", async || low(name).await == photograph(7)).await;
    }
    all_kept().await;
    client.delete_object(&"cat_low.jpg".parse().unwrap()).await.unwrap();
    for name in names {
        wait_until("the upload is gone from memory", async || low(name).await == derived).await;
    }
    all_kept().await;
    put(&client, "cat.jpg", photograph(2)).await;
    let newer = get(&client, "/v1/objects/cat.jpg?variant=low").await.body;
    assert_ne!(newer, derived);
    for name in names {
        wait_until("the variants go with their image", async || low(name).await == newer).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_node_that_resizes_images_are_files() {
    let (cluster, _edge, public) = edge_with_cat(ImageMode::Off, "default").await;
    put(&cluster.client("AWS"), "a.png", painting(1)).await;
    let mut browser = Browser::open(public).await;
    for (path, bytes) in [("/cat.jpg", photograph(1)), ("/a.png", painting(1)), ("/cat.jpg?variant=low", photograph(1))]
    {
        let answer = browser.get(path, &[("save-data", "on")]).await;
        assert!(answer.body == bytes);
        assert_eq!((answer.header("cache-control"), answer.header("vary")), ("max-age=60", ""));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_variant_that_one_node_keeps_for_itself_is_not_kept() {
    let cluster = Cluster::start_with(&["AWS"], resizing(ImageMode::Dynamic)).await;
    put(&cluster.client("AWS"), "cat.jpg", photograph(1)).await;
    let (_edge, public, admin) = cluster.edge(|_| {}).await;
    ready(admin).await;
    let mut browser = Browser::open(public).await;
    for seed in [7, 8] {
        let content = BASE64_STANDARD.encode(photograph(seed));
        let packet = json!({ "file_name": "cat_low.jpg", "distributed": "T", "content": content }).to_string();
        send(&cluster, "AWS", Principal::Client("tester".parse().unwrap()), packet.as_bytes()).await;
        for path in ["/cat.jpg?variant=low", "/cat_low.jpg"] {
            for _ in 0..2 {
                let answer = browser.get(path, &[]).await;
                assert!(answer.body == photograph(seed), "{path} {}", answer.header("cache-status"));
            }
        }
    }
}

/// Sets what the nodes of `cluster` cost an hour, and waits until all know it.
async fn priced(cluster: &Cluster, prices: [(&str, &str); 2]) {
    for (provider, price) in prices {
        let tariff = Tariff { instance_hour: price.parse().unwrap(), network_hour: ".1".parse().unwrap(), rates: None };
        cluster.client("AWS").set_price(&provider.parse().unwrap(), &tariff).await.unwrap();
    }
    for (name, _) in prices {
        let client = cluster.client(name);
        wait_until("it knows the prices", async || client.prices().await.unwrap().len() == 2).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_that_resize_are_asked_for_variants_and_what_others_give_is_not_kept() {
    let mut cluster = Cluster::start_with(&["AWS"], resizing(ImageMode::Dynamic)).await;
    cluster.add("GC").await;
    priced(&cluster, [("AWS", ".30"), ("GC", ".10")]).await;
    put(&cluster.client("AWS"), "cat.jpg", photograph(1)).await;
    let cheapest = cluster.client("GC");
    wait_until("it holds it", async || cluster::get(&cheapest, "cat.jpg").await.is_some()).await;
    let (_edge, public, admin) = cluster.edge(|config| config.route.policy = Policy::Price).await;
    ready(admin).await;
    let mut browser = Browser::open(public).await;
    let original = browser.get("/cat.jpg", &[]).await;
    assert!(original.header("metacdn-route").starts_with("node=GC;"), "{original:?}");
    let medium = browser.get("/cat.jpg?variant=medium", &[]).await;
    assert_eq!(medium.header("metacdn-variant"), "medium");
    assert!(medium.header("metacdn-route").starts_with("node=AWS;"), "{medium:?}");
    // While nobody resizes, the original is better than nothing; but not for longer.
    cluster.stop("AWS").await;
    for _ in 0..3 {
        let instead = browser.get("/cat.jpg?variant=low", &[]).await;
        assert_eq!((instead.body == photograph(1), instead.header("metacdn-variant")), (true, ""));
        assert_ne!(instead.header("cache-status"), "metacdn; hit");
    }
    cluster.restart("AWS").await;
    let low = async || Browser::open(public).await.variant("/cat.jpg?variant=low").await;
    wait_until("it is asked again", async || low().await == "low").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_off_does_not_hide_what_others_make() {
    let cluster = Cluster::start_with(&["AWS", "GC"], |config| {
        let mode = if config.id.as_str() == "GC" { ImageMode::Off } else { ImageMode::Dynamic };
        resizing(mode)(config);
    })
    .await;
    let (aws, gc) = (cluster.client("AWS"), cluster.client("GC"));
    for name in ["cat.jpg", "cat_low.jpg"] {
        put(&aws, name, photograph(1)).await;
    }
    aws.delete_object(&"cat_low.jpg".parse().unwrap()).await.unwrap();
    wait_until("GC knows of the deletion", async || {
        let listed = crate::cluster::objects(&gc).await;
        listed.len() == 1 && listed.contains_key("cat.jpg")
    })
    .await;
    // Where a node is asked by name first is chosen by time, so that each of them is first once in a while.
    let (_edge, public, admin) = cluster.edge(|config| config.cache.capacity_bytes = 0).await;
    ready(admin).await;
    for _ in 0..20 {
        let answer = Browser::open(public).await.get("/cat_low.jpg", &[]).await;
        assert_eq!((answer.status, answer.header("metacdn-variant")), (200, "low"));
    }
}
