//! Rolling upgrades: nodes of adjacent formats of the feed share a cluster.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::extract::{Path, RawQuery};
use axum::routing::{get as answer_get, put as answer_put};
use axum::{Json, Router};
use metacdn::model::{Address, ContentHash, Principal};
use metacdn::protocol::feed::FORMAT;
use metacdn::protocol::identity::TlsVersions;
use metacdn::serve::{self, Handlers, Transport};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::answers::ask;
use crate::cluster::{Cluster, get, put, wait_until};

const EPOCH: &str = "00000000000000aa";

/// What a node of the format before wrote, and no more.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct QueryOfFormat1 {
    since: u64,
    #[serde(rename = "epoch")]
    _epoch: Option<String>,
    #[serde(rename = "limit")]
    _limit: Option<usize>,
    wait_ms: u64,
    #[serde(rename = "records")]
    _records: bool,
}

/// A node that speaks the feed in `format`, with one object, and refuses what its version did not know.
async fn another_node(cluster: &Cluster, format: u32, asked: Arc<AtomicUsize>) -> (Address, CancellationToken) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address: Address = listener.local_addr().unwrap().into();
    let entry = json!({
        "key": "of-another", "version": {"time": 1 << 16, "node": "Other", "epoch": EPOCH, "sequence": 1},
        "state": {"live": {"hash": ContentHash::of(b"text"), "size": 4, "media_type": "text/plain",
            "cache_control": "no-cache"}},
    });
    let feed = move |RawQuery(query): RawQuery| {
        let (entry, asked) = (entry.clone(), asked.clone());
        async move {
            let query: QueryOfFormat1 = serde_urlencoded(&query.unwrap_or_default());
            asked.fetch_add(1, Ordering::Relaxed);
            if query.since > 0 {
                tokio::time::sleep(std::time::Duration::from_millis(query.wait_ms)).await;
            }
            let entries = if query.since == 0 { vec![entry] } else { Vec::new() };
            let mut answer = json!({"node": "Other", "epoch": EPOCH, "entries": entries, "next": 1, "end": true});
            if format > 1 {
                answer["format"] = format.into();
                answer["of-the-future"] = json!({"a": 1});
            }
            Json(answer)
        }
    };
    let ping = || async { Json(json!({"node": "Other", "epoch": EPOCH, "head": 1, "wants": 0, "clock": 1 << 16})) };
    let blob = |Path(hash): Path<String>| async move {
        assert_eq!(hash, ContentHash::of(b"text").to_string());
        "text"
    };
    let router = Router::new()
        .route("/v1/feed", answer_get(feed))
        .route("/v1/ping", answer_get(ping))
        .route("/v1/blobs/{hash}", answer_get(blob))
        .route("/v1/servers/{id}", answer_put(|| async { Json(json!({"records": []})) }));
    let tls = cluster.identity(Principal::Node("Other".parse().unwrap())).server_config(TlsVersions::Only13);
    let stop = CancellationToken::new();
    let handlers = Handlers { http: router, packets: None };
    tokio::spawn(serve::serve(listener, Transport::Tls(tls), serve::Config::default(), handlers, stop.clone()));
    (address, stop)
}

/// The fields of a query.
fn serde_urlencoded(query: &str) -> QueryOfFormat1 {
    let fields = query.split('&').filter_map(|field| field.split_once('=')).map(|(name, value)| {
        let value = value.parse::<u64>().map_or_else(
            |_| if let Ok(flag) = value.parse::<bool>() { Value::from(flag) } else { Value::from(value) },
            Value::from,
        );
        (name.to_owned(), value)
    });
    serde_json::from_value(Value::Object(fields.collect())).unwrap_or_else(|error| panic!("{error}: {query}"))
}

async fn announce(cluster: &Cluster, address: &Address) {
    let node = json!({"id": "Other", "provider": "Other", "address": address, "download": address, "images": "off"});
    let other = cluster.caller("AWS", Principal::Node("Other".parse().unwrap()));
    let path = "/v1/servers/Other";
    let answer = ask(&other, "PUT", path, &[("content-type", "application/json")], node.to_string()).await;
    assert_eq!(answer.status, 200, "{answer:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_follows_those_of_the_format_before_and_of_the_one_after() {
    for format in [FORMAT - 1, FORMAT + 1] {
        let cluster = Cluster::start(&["AWS"]).await;
        let (address, _stop) = another_node(&cluster, format, Arc::default()).await;
        announce(&cluster, &address).await;
        let aws = cluster.client("AWS");
        wait_until("its object is here", async || get(&aws, "of-another").await.as_deref() == Some(b"text")).await;
        // What it does not tell nothing waits for, and nothing is taken for passed.
        assert_eq!(put(&aws, "own", "1").await.copies, 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_format_beyond_that_is_refused_and_asked_for_again() {
    let cluster = Cluster::start(&["AWS"]).await;
    let asked = Arc::new(AtomicUsize::new(0));
    let (address, _stop) = another_node(&cluster, FORMAT + 2, asked.clone()).await;
    announce(&cluster, &address).await;
    wait_until("it was asked again", async || asked.load(Ordering::Relaxed) >= 2).await;
    assert!(get(&cluster.client("AWS"), "of-another").await.is_none());
}

/// What a follower of the format before reads of an answer.
#[derive(Debug, Deserialize)]
struct AnswerOfFormat1 {
    node: String,
    epoch: String,
    entries: Vec<Value>,
    next: u64,
    end: bool,
}

#[tokio::test(flavor = "multi_thread")]
async fn followers_of_the_format_before_read_the_feed_and_the_ping() {
    let cluster = Cluster::start(&["AWS"]).await;
    let aws = cluster.client("AWS");
    put(&aws, "a", "1").await;
    announce(&cluster, &"127.0.0.1:1".parse().unwrap()).await;
    let other = cluster.caller("AWS", Principal::Node("Other".parse().unwrap()));
    let answer = ask(&other, "GET", "/v1/feed?since=0&wait_ms=0&records=false", &[], "").await;
    let read: AnswerOfFormat1 = serde_json::from_value(answer.json()).unwrap();
    assert_eq!((read.node.as_str(), read.epoch.len(), read.entries.len(), read.end), ("AWS", 16, 3, true));
    assert_eq!(read.next, 3);
    let ping = ask(&other, "GET", "/v1/ping", &[], "").await.json();
    for field in ["node", "epoch", "head", "wants", "clock"] {
        assert!(!ping[field].is_null(), "{field}");
    }
}
