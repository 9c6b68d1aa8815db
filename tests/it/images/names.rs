//! What a variant is called, and that it is served like any object.

use metacdn::model::{ContentHash, ImageMode};

use super::{Browser, HEIGHT, WIDTH, get, painting, photograph, resizing, size_of};
use crate::answers::ask;
use crate::cluster::{Cluster, objects, put, wait_until};

/// A static and a dynamic node.
async fn both_modes() -> Cluster {
    let mut cluster = Cluster::start_with(&["AWS"], resizing(ImageMode::Static)).await;
    cluster.add_with("GC", resizing(ImageMode::Dynamic)).await;
    cluster
}

async fn arrives(cluster: &Cluster, name: &str, path: &str, status: u16) {
    let client = cluster.client(name);
    wait_until("it arrives", async || get(&client, path).await.status == status).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn variants_are_the_same_by_name_and_by_query_in_both_modes() {
    let cluster = both_modes().await;
    let client = cluster.client("AWS");
    for (name, file) in [("pictures/cat.jpg", photograph(1)), ("cat.png", painting(1))] {
        put(&client, name, file.clone()).await;
        arrives(&cluster, "GC", &format!("/v1/objects/{name}"), 200).await;
        let original = get(&client, &format!("/v1/objects/{name}")).await;
        assert_eq!((original.header("metacdn-variant"), &original.body), ("original", &file));
        let (stem, ending) = name.split_once('.').unwrap();
        let mut larger = file.len();
        for variant in ["medium", "low"] {
            let mut seen = None;
            for node in ["AWS", "GC"] {
                let client = cluster.client(node);
                let mut browser = Browser::open(cluster.ports(node).download).await;
                let paths = [format!("{name}?variant={variant}"), format!("{stem}_{variant}.{ending}")];
                for path in paths {
                    let answer = get(&client, &format!("/v1/objects/{path}")).await;
                    assert_eq!((answer.status, answer.header("metacdn-variant")), (200, variant), "{path}");
                    let tag = format!("\"{}\"", ContentHash::of(&answer.body));
                    assert_eq!(answer.header("etag"), tag);
                    for same in ["content-type", "metacdn-version", "last-modified", "cache-control"] {
                        assert_eq!(answer.header(same), original.header(same), "{path}");
                    }
                    assert_eq!(answer.header("content-length"), answer.body.len().to_string());
                    let head = ask(&client, "HEAD", &format!("/v1/objects/{path}"), &[], "").await;
                    assert_eq!(head.header("content-length"), answer.header("content-length"));
                    assert_eq!(head.header("etag"), tag);
                    let download = browser.get(&format!("/get/download/{path}"), &[]).await;
                    assert!(download.body == answer.body && download.header("etag") == tag, "{path}");
                    assert_eq!(*seen.get_or_insert_with(|| answer.body.clone()), answer.body, "{node} {path}");
                }
            }
            let made = seen.unwrap();
            assert!(made.len() < larger, "{variant} of {name}");
            larger = made.len();
            if ending == "jpg" {
                let hundredths = if variant == "low" { 33 } else { 66 };
                assert_eq!(size_of(&made), (WIDTH * hundredths / 100, HEIGHT * hundredths / 100));
            }
        }
    }
    for name in ["AWS", "GC"] {
        let listed = objects(&cluster.client(name)).await;
        assert_eq!(listed.keys().collect::<Vec<_>>(), ["cat.png", "pictures/cat.jpg"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_variant_is_refused_and_other_fields_are_not_looked_at() {
    let cluster = both_modes().await;
    let client = cluster.client("GC");
    put(&client, "cat.jpg", photograph(1)).await;
    put(&client, "a.txt", "text").await;
    for bad in ["tiny", "", "LOW", "low&variant=low"] {
        let refused = get(&client, &format!("/v1/objects/cat.jpg?variant={bad}")).await;
        assert_eq!(refused.status, 400, "{bad}");
        refused.problem();
    }
    assert_eq!(get(&client, "/v1/objects/cat.jpg?width=3").await.header("metacdn-variant"), "original");
    let text = get(&client, "/v1/objects/a.txt?variant=low").await;
    assert_eq!((text.text().as_str(), text.header("metacdn-variant")), ("text", "original"));
    for missing in ["dog_low.jpg", "cat_tiny.jpg", "cat_low_low.jpg", "a_low.txt", "dog.jpg?variant=low"] {
        assert_eq!(get(&client, &format!("/v1/objects/{missing}")).await.status, 404, "{missing}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn conditions_and_ranges_hold_for_variants() {
    let cluster = both_modes().await;
    put(&cluster.client("AWS"), "cat.jpg", photograph(1)).await;
    arrives(&cluster, "GC", "/v1/objects/cat.jpg", 200).await;
    for node in ["AWS", "GC"] {
        let client = cluster.client(node);
        let path = "/v1/objects/cat_low.jpg";
        let whole = get(&client, path).await;
        let (tag, size) = (whole.header("etag").to_owned(), whole.body.len());
        let asked = async |headers: &[(&str, &str)]| ask(&client, "GET", path, headers, "").await;
        assert_eq!(asked(&[("if-none-match", &tag)]).await.status, 304);
        assert_eq!(asked(&[("if-match", "\"other\"")]).await.status, 412);
        assert_eq!(asked(&[("range", &format!("bytes={size}-"))]).await.status, 416);
        let part = asked(&[("range", "bytes=10-99"), ("if-range", &tag)]).await;
        assert_eq!((part.status, part.header("content-range")), (206, &*format!("bytes 10-99/{size}")));
        assert_eq!(part.body, whole.body[10..100]);
        let parts = asked(&[("range", "bytes=0-9,20-29")]).await;
        assert_eq!((parts.status, parts.header("content-length")), (206, &*parts.body.len().to_string()));
        assert!(parts.body.windows(10).any(|window| window == &whole.body[20..30]), "{node}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_uploaded_variant_beats_a_derived_one() {
    let cluster = both_modes().await;
    let uploaded = photograph(9);
    for (node, order) in [("AWS", "before"), ("AWS", "after"), ("GC", "before"), ("GC", "after")] {
        let client = cluster.client(node);
        let (name, low) = (format!("{node}-{order}.jpg"), format!("{node}-{order}_low.jpg"));
        let by_name = format!("/v1/objects/{low}");
        let by_query = format!("/v1/objects/{name}?variant=low");
        if order == "before" {
            put(&client, &low, uploaded.clone()).await;
            put(&client, &name, photograph(1)).await;
        } else {
            put(&client, &name, photograph(1)).await;
            assert_ne!(get(&client, &by_name).await.body, uploaded);
            put(&client, &low, uploaded.clone()).await;
        }
        assert_eq!(get(&client, &by_name).await.body, uploaded, "{name}");
        let answer = get(&client, &by_query).await;
        assert_eq!((answer.body == uploaded, answer.header("metacdn-variant")), (true, "low"), "{name}");
        assert_eq!(ask(&client, "DELETE", &by_name, &[], "").await.status, 204);
        for path in [by_name, by_query] {
            let derived = get(&client, &path).await;
            assert_eq!((derived.status, derived.header("metacdn-variant")), (200, "low"), "{path}");
            assert_eq!(size_of(&derived.body).0, WIDTH * 33 / 100);
        }
    }
    let client = cluster.client("AWS");
    assert_eq!(ask(&client, "DELETE", "/v1/objects/AWS-after.jpg", &[], "").await.status, 204);
    assert_eq!(get(&client, "/v1/objects/AWS-after_low.jpg").await.status, 404, "its image is gone");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_off_gives_originals() {
    let cluster = Cluster::start(&["AWS"]).await;
    let client = cluster.client("AWS");
    let file = photograph(1);
    put(&client, "cat.jpg", file.clone()).await;
    let answer = get(&client, "/v1/objects/cat.jpg?variant=low").await;
    assert_eq!(
        (answer.body == file, answer.header("metacdn-variant")),
        (true, ""),
        "it does not know of a smaller one"
    );
    let answer = get(&client, "/v1/objects/cat.jpg").await;
    assert_eq!((answer.body == file, answer.header("metacdn-variant")), (true, "original"));
    assert_eq!(get(&client, "/v1/objects/cat_low.jpg").await.status, 404);
    let mut browser = Browser::open(cluster.ports("AWS").download).await;
    let answer = browser.get("/get/download/cat.jpg", &[("save-data", "on")]).await;
    assert_eq!((answer.body == file, answer.header("cache-control")), (true, "max-age=60"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_variant_that_would_be_no_smaller_is_the_original() {
    let cluster = both_modes().await;
    let mut tiny = Vec::new();
    jpeg_encoder::Encoder::new(&mut tiny, 5).encode(&[9; 12], 2, 2, jpeg_encoder::ColorType::Rgb).unwrap();
    put(&cluster.client("AWS"), "tiny.jpg", tiny.clone()).await;
    arrives(&cluster, "GC", "/v1/objects/tiny.jpg", 200).await;
    for node in ["AWS", "GC"] {
        for path in ["tiny.jpg?variant=medium", "tiny_medium.jpg"] {
            let answer = get(&cluster.client(node), &format!("/v1/objects/{path}")).await;
            assert_eq!((answer.body == tiny, answer.header("metacdn-variant")), (true, "original"), "{path}");
        }
    }
}
