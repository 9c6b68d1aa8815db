//! When variants are made, how often, and what they cost.

use base64::prelude::{BASE64_STANDARD, Engine as _};
use metacdn::model::{ImageMode, Principal};
use serde_json::json;

use super::{counted, get, photograph, photograph_of, resizing};
use crate::bad_input::memory::{alone, forget_peak, memory};
use crate::cluster::{Cluster, files_below, put, wait_until};
use crate::packets::send;

async fn made(cluster: &Cluster, name: &str, count: u64) {
    let client = cluster.client(name);
    wait_until(&format!("{count} variants are made"), async || counted(&client, "variants_made_total").await == count)
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_static_node_makes_variants_of_what_arrives_in_any_way() {
    let mut cluster = Cluster::start_with(&["AWS"], resizing(ImageMode::Static)).await;
    cluster.add_with("GC", resizing(ImageMode::Static)).await;
    put(&cluster.client("AWS"), "put.jpg", photograph(1)).await;
    made(&cluster, "AWS", 2).await;
    made(&cluster, "GC", 2).await;
    let content = BASE64_STANDARD.encode(photograph(2));
    let packet = json!({ "file_name": "packet.jpg", "distributed": "F", "content": content }).to_string();
    let answer = send(&cluster, "AWS", Principal::Client("tester".parse().unwrap()), packet.as_bytes()).await;
    assert_eq!(answer["file_name"], "packet.jpg", "{answer}");
    made(&cluster, "AWS", 4).await;
    made(&cluster, "GC", 4).await;
    // Another name of the same bytes, and a text, are no work.
    put(&cluster.client("AWS"), "again.jpg", photograph(1)).await;
    put(&cluster.client("AWS"), "a.txt", "text").await;
    put(&cluster.client("AWS"), "last.jpg", photograph(3)).await;
    made(&cluster, "AWS", 6).await;
    let files = files_below(&cluster.data("AWS").join("blobs"));
    let client = cluster.client("AWS");
    for path in ["put_low.jpg", "packet_medium.jpg", "again_low.jpg"] {
        assert_eq!(get(&client, &format!("/v1/objects/{path}")).await.status, 200);
    }
    assert_eq!(counted(&client, "variants_made_total").await, 6);
    assert_eq!(files_below(&cluster.data("AWS").join("blobs")), files, "nothing was made once more");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_static_node_makes_what_is_missing_and_nothing_else() {
    let mut cluster = Cluster::start(&["AWS"]).await;
    put(&cluster.client("AWS"), "cat.jpg", photograph(1)).await;
    put(&cluster.client("AWS"), "broken.jpg", &photograph(2)[..500]).await;
    cluster.stop("AWS").await;
    cluster.change("AWS", resizing(ImageMode::Static));
    cluster.restart("AWS").await;
    made(&cluster, "AWS", 2).await;
    let client = cluster.client("AWS");
    wait_until("the broken one was tried", async || counted(&client, "variants_unsuitable_total").await == 1).await;
    let low = get(&client, "/v1/objects/cat_low.jpg").await.body;
    cluster.stop("AWS").await;
    cluster.restart("AWS").await;
    let client = cluster.client("AWS");
    put(&client, "dog.jpg", photograph(3)).await;
    made(&cluster, "AWS", 2).await;
    assert_eq!(counted(&client, "variants_unsuitable_total").await, 0, "nobody tries again");
    assert!(get(&client, "/v1/objects/cat_low.jpg").await.body == low);
}

#[tokio::test(flavor = "multi_thread")]
async fn however_many_ask_a_variant_is_made_once() {
    let cluster = Cluster::start_with(&["AWS"], resizing(ImageMode::Dynamic)).await;
    let client = cluster.client("AWS");
    put(&client, "cat.jpg", photograph_of(1600, 1200, 1)).await;
    let asked = futures_util::future::join_all((0..40).map(|_| get(&client, "/v1/objects/cat_low.jpg"))).await;
    assert!(asked.iter().all(|answer| answer.status == 200 && answer.body == asked[0].body));
    assert_eq!(counted(&client, "variants_made_total").await, 1);
    assert_eq!(get(&client, "/v1/objects/cat.jpg?variant=low").await.body, asked[0].body);
    assert_eq!(counted(&client, "variants_made_total").await, 1);
    assert_eq!(counted(&client, "variants_queue").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_cannot_wait_gets_the_original_which_nobody_keeps() {
    let cluster = Cluster::start_with(&["AWS"], |config| {
        config.images = ImageMode::Dynamic;
        config.resize.wait_ms_max = 1;
    })
    .await;
    let client = cluster.client("AWS");
    let file = photograph_of(1600, 1200, 1);
    put(&client, "cat.jpg", file.clone()).await;
    let answer = get(&client, "/v1/objects/cat_low.jpg").await;
    assert_eq!((answer.status, answer.header("metacdn-variant")), (200, "original"));
    assert_eq!((answer.body == file, answer.header("cache-control")), (true, "no-store"));
    wait_until("the variant is made all the same", async || {
        get(&client, "/v1/objects/cat_low.jpg").await.header("metacdn-variant") == "low"
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_there_is_no_memory_for_is_served_as_it_is() {
    for mode in [ImageMode::Static, ImageMode::Dynamic] {
        let cluster = Cluster::start_with(&["AWS"], |config| {
            resizing(mode)(config);
            // The working memory of one, and little more.
            config.resize.memory_bytes_max = 12 << 20;
        })
        .await;
        let client = cluster.client("AWS");
        let (small, large) = (photograph(1), photograph_of(1600, 1200, 1));
        put(&client, "small.jpg", small).await;
        put(&client, "large.jpg", large.clone()).await;
        assert_eq!(get(&client, "/v1/objects/small_low.jpg").await.header("metacdn-variant"), "low");
        let answer = get(&client, "/v1/objects/large_low.jpg").await;
        assert_eq!((answer.body == large, answer.header("metacdn-variant")), (true, "original"));
        assert_eq!(answer.header("cache-control"), "max-age=60", "it stays so");
    }
}

/// A photograph with a comment, and so with a hash of its own.
fn with_comment(photograph: &[u8], number: u32) -> Vec<u8> {
    let comment = [&[0xff, 0xfe, 0, 6], number.to_be_bytes().as_slice()].concat();
    [&photograph[..2], &comment, &photograph[2..]].concat()
}

#[test]
fn five_hundred_photographs_take_bounded_memory() {
    const COUNT: u32 = 500;
    // Small ones, for resizing is slow where it is not optimized; all of them at a time would be 300 MiB.
    const GROWTH_MAX: u64 = 60 << 20;
    if !alone("images::life::five_hundred_photographs_take_bounded_memory") {
        return;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let cluster = Cluster::start_with(&["AWS"], |config| {
            resizing(ImageMode::Static)(config);
            config.resize.memory_bytes_max = 16 << 20;
        })
        .await;
        let client = cluster.client("AWS");
        let file = photograph_of(400, 300, 1);
        put(&client, "first.jpg", file.clone()).await;
        made(&cluster, "AWS", 2).await;
        forget_peak();
        let (before, _) = memory();
        for number in 0..COUNT {
            put(&client, &format!("{number}.jpg"), with_comment(&file, number)).await;
        }
        let all = u64::from(COUNT + 1) * 2;
        // For as long as it goes on, and no longer.
        for part in 1..=10 {
            let client = &client;
            wait_until("the next tenth is made", async || {
                counted(client, "variants_made_total").await >= all * part / 10
            })
            .await;
        }
        let (_, peak) = memory();
        assert!(peak - before < GROWTH_MAX, "{} MiB", (peak - before) >> 20);
        let last = get(&client, &format!("/v1/objects/{}_low.jpg", COUNT - 1)).await;
        assert_eq!(last.header("metacdn-variant"), "low");
    });
}
