//! The download API sends each client the variant that suits its link.

use std::net::SocketAddr;

use metacdn::cli::demo::relay::{Link, Relay};
use metacdn::model::ImageMode;

use super::{Browser, get, photograph, resizing};
use crate::cluster::{Cluster, put};

const CAT: &str = "/get/download/cat.jpg";

/// A node with `cat.jpg`, whose thresholds are `thresholds`.
async fn node_with_cat(thresholds: &str) -> (Cluster, SocketAddr) {
    let cluster = Cluster::start_with(&["AWS"], |config| {
        resizing(ImageMode::Dynamic)(config);
        config.resize.thresholds = thresholds.parse().unwrap();
    })
    .await;
    put(&cluster.client("AWS"), "cat.jpg", photograph(1)).await;
    let download = cluster.ports("AWS").download;
    (cluster, download)
}

#[tokio::test(flavor = "multi_thread")]
async fn get_datarate_counts_for_its_client_alone() {
    let (_cluster, download) = node_with_cat("reference").await;
    let mut one = Browser::open_from("127.0.0.1", download).await;
    let mut other = Browser::open_from("127.0.0.2", download).await;
    assert_eq!(one.variant(CAT).await, "original", "nothing is known");
    for (milliseconds, variant) in [("500", "low"), ("50", "medium"), ("5.5", "original"), ("0", "original")] {
        let told = one.get(&format!("/datarate?bandwidth={milliseconds}"), &[]).await;
        assert_eq!((told.status, told.body.len()), (204, 0));
        assert_eq!(one.variant(CAT).await, variant, "{milliseconds}");
        // Another connection of the same client, and another client.
        assert_eq!(Browser::open(download).await.variant(CAT).await, variant);
        assert_eq!(other.variant(CAT).await, "original");
    }
    other.get("/datarate?bandwidth=101", &[]).await;
    assert_eq!((one.variant(CAT).await, other.variant(CAT).await), ("original".to_owned(), "low".to_owned()));
    for bad in ["", "?bandwidth=", "?bandwidth=-1", "?bandwidth=fast", "?bandwidth=NaN", "?bandwidth=inf", "?rate=1"] {
        let refused = one.get(&format!("/datarate{bad}"), &[]).await;
        assert_eq!(refused.status, 400, "{bad}");
        refused.problem();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn adaptive_answers_are_for_one_client_and_can_be_overridden() {
    let (cluster, download) = node_with_cat("default").await;
    let client = cluster.client("AWS");
    put(&client, "a.txt", "text").await;
    put(&client, "dog_low.jpg", photograph(2)).await;
    let original = photograph(1);
    let mut browser = Browser::open(download).await;
    browser.get("/datarate?bandwidth=10000", &[]).await;
    let medium = browser.get(CAT, &[]).await;
    assert_eq!(medium.header("metacdn-variant"), "medium");
    assert_eq!((medium.header("cache-control"), medium.header("vary")), ("private, max-age=60", "save-data"));
    assert_ne!(medium.header("etag"), get(&client, "/v1/objects/cat.jpg").await.header("etag"));
    assert_eq!(get(&client, "/v1/objects/cat.jpg").await.body, original, "edges and peers choose themselves");

    let saved = browser.get(CAT, &[("save-data", "on")]).await;
    assert_eq!((saved.header("metacdn-variant"), saved.header("cache-control")), ("low", "private, max-age=60"));
    let part = browser.get(CAT, &[("range", "bytes=0-9")]).await;
    assert_eq!((part.status, part.header("metacdn-variant"), &*part.body), (206, "original", &original[..10]));
    assert_eq!(part.header("cache-control"), "private, max-age=60");
    let tag = medium.header("etag");
    let part = browser.get(CAT, &[("range", "bytes=0-9"), ("if-range", tag)]).await;
    assert_eq!((part.status, part.header("metacdn-variant"), &*part.body), (206, "medium", &medium.body[..10]));
    assert_eq!(browser.get(CAT, &[("if-none-match", tag)]).await.status, 304);

    let date = get(&client, "/v1/objects/cat.jpg").await.header("last-modified").to_owned();
    let whole = browser.get(CAT, &[("range", "bytes=0-9"), ("if-range", &date)]).await;
    assert_eq!((whole.status, whole.body == medium.body), (200, true), "the date is that of all variants");
    assert_eq!((medium.header("last-modified"), whole.header("last-modified")), ("", ""));
    let exact = "/get/download/cat.jpg?variant=low";
    let part = browser.get(exact, &[("range", "bytes=0-9"), ("if-range", &date)]).await;
    assert_eq!((part.status, part.header("last-modified")), (206, &*date), "it is the date of one");

    let chosen = browser.get("/get/download/cat.jpg?variant=original", &[("save-data", "on")]).await;
    assert_eq!((chosen.body == original, chosen.header("cache-control")), (true, "max-age=60"));
    assert_eq!(browser.variant("/get/download/cat_low.jpg").await, "low");
    let named = browser.get("/get/download/dog_low.jpg", &[]).await;
    assert!(named.body == photograph(2), "who names a variant has chosen");
    let text = browser.get("/get/download/a.txt", &[("save-data", "on")]).await;
    assert_eq!((text.text().as_str(), text.header("cache-control")), ("text", "max-age=60"));
    assert_eq!((text.header("metacdn-variant"), text.header("vary")), ("", ""));
    let bad = browser.get("/get/download/cat.jpg?variant=tiny", &[]).await;
    assert_eq!(bad.status, 400);
}

/// A relay to `target` that carries `rate` bytes a second.
pub(super) async fn narrow(target: SocketAddr, rate: u64) -> Relay {
    let link = Link { rate_bytes_per_second: Some(rate), ..Link::default() };
    Relay::start(target, link, "127.0.0.1:0".parse().unwrap()).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_with_different_links_get_different_variants_at_the_same_time() {
    let (cluster, download) = node_with_cat("20000000 2500000").await;
    // Several times what the buffers on the way take without any rate.
    put(&cluster.client("AWS"), "large.bin", vec![7; 4 << 20]).await;
    put(&cluster.client("AWS"), "larger.bin", vec![7; 12 << 20]).await;
    let (slow, middling) = tokio::join!(narrow(download, 1_000_000), narrow(download, 8_000_000));
    let mut slow = Browser::open_through(slow.address(), download).await;
    let mut middling = Browser::open_through(middling.address(), download).await;
    let mut fast = Browser::open(download).await;
    let (_, _, _) = tokio::join!(
        slow.get("/get/download/large.bin", &[]),
        middling.get("/get/download/larger.bin", &[]),
        fast.get("/get/download/larger.bin", &[]),
    );
    for _ in 0..2 {
        let seen = tokio::join!(slow.variant(CAT), middling.variant(CAT), fast.variant(CAT));
        assert_eq!((&*seen.0, &*seen.1, &*seen.2), ("low", "medium", "original"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn get_getrandom_teaches_the_rate_of_its_client() {
    let (_cluster, download) = node_with_cat("20000000 4000000").await;
    let relay = narrow(download, 1_500_000).await;
    let mut measuring = Browser::open_through(relay.address(), download).await;
    assert_eq!(measuring.get("/getrandom", &[]).await.body.len(), 10_000_000);
    drop(measuring);
    assert_eq!(Browser::open(download).await.variant(CAT).await, "low", "a connection that has carried nothing itself");
    assert_eq!(Browser::open_from("127.0.0.2", download).await.variant(CAT).await, "original");
}
