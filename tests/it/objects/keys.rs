//! Keys in paths, and the list of them.

use metacdn::client::Peer;

use super::{get, one_node, put};
use crate::answers::ask;

#[tokio::test(flavor = "multi_thread")]
async fn any_text_that_is_a_key_can_be_a_path() {
    let (_cluster, client) = one_node().await;
    for (path, key) in [
        ("a%20b/%C3%BC.txt", "a b/ü.txt"),
        ("%E6%97%A5%E6%9C%AC/%F0%9F%98%80", "日本/😀"),
        ("100%25?x=1", "100%"),
        ("what%3F%23%26%2B", "what?#&+"),
        ("one%2Ftwo", "one/two"),
        ("back%5Cslash", "back\\slash"),
        ("...", "..."),
        (".metacdnx/a", ".metacdnx/a"),
        ("plus+sign", "plus+sign"),
    ] {
        let stored = put(&client, &format!("/v1/objects/{path}"), &[], key).await;
        assert_eq!((stored.status, stored.json()["key"].as_str()), (201, Some(key)), "{path}");
        assert_eq!(get(&client, &format!("/v1/objects/{path}"), &[]).await.text(), key);
        let key = crate::cluster::key(key);
        assert_eq!(client.get_object(&key, 0).await.unwrap().body.read_all(99).await.unwrap(), key.as_str());
    }
    assert_eq!(get(&client, "/v1/objects/one/two", &[]).await.text(), "one/two", "an encoded slash is a slash");
}

/// The keys and the next key that a list answers.
async fn list(client: &Peer, query: &str) -> (Vec<String>, Option<String>) {
    let listed = get(client, &format!("/v1/objects{query}"), &[]).await;
    assert_eq!((listed.status, listed.header("content-type")), (200, "application/json"), "{query}");
    let objects = listed.json();
    let text = |value: &serde_json::Value| value.as_str().map(str::to_owned);
    let keys = objects["objects"].as_array().unwrap().iter().map(|object| text(&object["key"]).unwrap());
    (keys.collect(), text(&objects["next"]))
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_go_by_prefix_and_page() {
    let (_cluster, client) = one_node().await;
    let all = ["a", "a/1", "a/2", "a/3", "a b/ä", "b", "b%2B"];
    for key in all {
        put(&client, &metacdn::protocol::object_path(&crate::cluster::key(key)), &[], key).await;
    }
    put(&client, "/v1/objects/a/gone", &[], "").await;
    ask(&client, "DELETE", "/v1/objects/a/gone", &[], "").await;
    for (query, keys, next) in [
        ("", &["a", "a b/ä", "a/1", "a/2", "a/3", "b", "b%2B"][..], None),
        ("?prefix=a/", &["a/1", "a/2", "a/3"], None),
        ("?prefix=a/&limit=2", &["a/1", "a/2"], Some("a/2")),
        ("?prefix=a/&limit=2&after=a/2", &["a/3"], None),
        ("?prefix=a/&limit=3", &["a/1", "a/2", "a/3"], None),
        ("?prefix=a%20b/%C3%A4", &["a b/ä"], None),
        ("?prefix=a+b", &["a b/ä"], None),
        ("?prefix=b%252B", &["b%2B"], None),
        ("?after=b", &["b%2B"], None),
        ("?prefix=none", &[], None),
        ("?limit=0", &["a"], Some("a")),
        ("?limit=99999", &["a", "a b/ä", "a/1", "a/2", "a/3", "b", "b%2B"], None),
    ] {
        let (found, more) = list(&client, query).await;
        assert_eq!((found.as_slice(), more.as_deref()), (owned(keys).as_slice(), next), "{query}");
    }
    let mut paged = Vec::new();
    let mut after = None;
    loop {
        let page = client.list_objects("", after.as_ref(), 3).await.unwrap();
        assert!(page.objects.len() <= 3);
        paged.extend(page.objects.into_iter().map(|object| object.key.to_string()));
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    assert_eq!(paged, list(&client, "").await.0);
    for bad in ["?limit=-1", "?limit=x", "?after=../x", "?prefixx=a"] {
        let refused = get(&client, &format!("/v1/objects{bad}"), &[]).await;
        assert_eq!(refused.status, 400, "{bad}");
        refused.problem();
    }
}

fn owned(keys: &[&str]) -> Vec<String> {
    keys.iter().map(|key| (*key).to_owned()).collect()
}
