//! The reference's interfaces, one test for each, asked by curl at the ports where its clients look for them.

use std::net::SocketAddr;

use metacdn::model::{Address, Principal};
use metacdn::node;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::answers::{Answer, curl};
use crate::cluster::{Cluster, put, wait_until};

const NAMES: [&str; 3] = ["AWS", "GC", "Program"];

fn at(address: SocketAddr, path: &str, arguments: &[&str]) -> Answer {
    let url = format!("http://{address}{path}");
    curl(&[arguments, &[url.as_str()]].concat())
}

fn price_at(cluster: &Cluster, name: &str, path: &str, arguments: &[&str]) -> Answer {
    at(cluster.ports(name).price, path, arguments)
}

fn download_at(cluster: &Cluster, name: &str, path: &str, arguments: &[&str]) -> Answer {
    at(cluster.ports(name).download, path, arguments)
}

/// The prices of the reference's own file, as it lists them.
fn reference_prices() -> Value {
    json!({ "price": [
        { "provider": "AWS", "server_hourly_cost": ".30", "network_hourly_cost": ".10" },
        { "provider": "GC", "server_hourly_cost": ".10", "network_hourly_cost": ".20" },
        { "provider": "Program", "server_hourly_cost": ".114", "network_hourly_cost": ".75" },
    ] })
}

/// A cluster with these prices, which every node has.
async fn priced(names: &[&str]) -> Cluster {
    let cluster = Cluster::start(names).await;
    for row in reference_prices()["price"].as_array().unwrap() {
        let text = |field: &str| row[field].as_str().unwrap();
        let form = format!(
            "server_hourly_cost={}&network_hourly_cost={}",
            text("server_hourly_cost"),
            text("network_hourly_cost")
        );
        let path = format!("/addcost/{}", text("provider"));
        assert_eq!(price_at(&cluster, names[0], &path, &["--data", &form]).status, 201);
    }
    everywhere(&cluster, names, "the reference's prices", |document| *document == reference_prices()).await;
    cluster
}

/// The row of a provider in the price document of a node.
fn row(document: &Value, provider: &str) -> Option<Value> {
    document["price"].as_array().unwrap().iter().find(|row| row["provider"] == provider).cloned()
}

fn costs(document: &Value, provider: &str) -> Option<(String, String)> {
    let text = |row: &Value, field: &str| row[field].as_str().unwrap().to_owned();
    row(document, provider).map(|row| (text(&row, "server_hourly_cost"), text(&row, "network_hourly_cost")))
}

fn shown(server: &str, network: &str) -> Option<(String, String)> {
    Some((server.to_owned(), network.to_owned()))
}

/// Waits until the price documents of all nodes are right.
async fn everywhere(cluster: &Cluster, names: &[&str], what: &str, right: impl Fn(&Value) -> bool) {
    for name in names {
        let document = || price_at(cluster, name, "/cost/get", &[]).json();
        wait_until(&format!("{name} has {what}"), async || right(&document())).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn get_api_get() {
    let cluster = Cluster::start(&NAMES).await;
    for asked in NAMES {
        let expected: serde_json::Map<_, _> = NAMES
            .iter()
            .map(|name| {
                let port = cluster.ports(name).download.port();
                ((*name).to_owned(), json!({ "ip_address": "127.0.0.1", "port": port }))
            })
            .collect();
        let answer = download_at(&cluster, asked, "/api/get", &[]);
        assert_eq!((answer.status, answer.header("content-type")), (200, "application/json"));
        assert_eq!(answer.json(), Value::Object(expected), "{asked}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn post_servers() {
    let mut cluster = Cluster::start(&NAMES).await;
    let update = |form: &str| download_at(&cluster, "GC", "/servers", &["--data", form]);
    assert_eq!(update("AWS=ip_address=10.0.0.7&port=8870").status, 200);
    let moved = json!({ "ip_address": "10.0.0.7", "port": 8870 });
    let listed = |cluster: &Cluster, name: &str| download_at(cluster, name, "/api/get", &[]).json()["AWS"].clone();
    assert_eq!(listed(&cluster, "GC"), moved, "who changes it reads it back at once");
    for name in NAMES {
        wait_until(&format!("{name} lists the new address"), async || listed(&cluster, name) == moved).await;
    }
    assert_eq!(update("Azure=ip_address=10.0.0.7&port=8870").status, 404);
    for bad in ["", "AWS", "AWS=ip_address=&port=1", "AWS=ip_address=10.0.0.7&port=0", "AWS=ip_address=a b&port=1"] {
        let refused = update(bad);
        assert_eq!(refused.status, 400, "{bad}");
        refused.problem();
    }
    let too_much = "x".repeat(100_000);
    assert_eq!(update(&too_much).problem(), "Failed to buffer the request body: length limit exceeded");
    assert_eq!(download_at(&cluster, "GC", "/servers", &[]).status, 405);
    for name in ["AWS", "GC"] {
        cluster.stop(name).await;
        cluster.restart(name).await;
        wait_until(&format!("{name} has kept it"), async || listed(&cluster, name) == moved).await;
    }
    // The node itself is reached where it is, whatever is listed.
    put(&cluster.client("GC"), "a", "1").await;
    let aws = cluster.client("AWS");
    wait_until("AWS follows", async || crate::cluster::get(&aws, "a").await.is_some()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn get_get_download_file() {
    let cluster = Cluster::start(&["AWS"]).await;
    let client = cluster.client("AWS");
    put(&client, "folder/a page.html", "<p>0123456789").await;
    put(&client, "cat.jpg", "not really").await;
    for (path, arguments, status, media_type, text) in [
        ("/get/download/cat.jpg", &[][..], 200, "image/jpeg", "not really"),
        ("/get/download/folder/a%20page.html", &[], 200, "text/html; charset=utf-8", "<p>0123456789"),
        ("/get/download/cat.jpg", &["--range", "0-2"], 206, "image/jpeg", "not"),
        ("/get/download/cat.jpg", &["--range", "-6"], 206, "image/jpeg", "really"),
        ("/get/download/cat.jpg", &["--head"], 200, "image/jpeg", ""),
    ] {
        let got = download_at(&cluster, "AWS", path, arguments);
        assert_eq!((got.status, got.header("content-type")), (status, media_type), "{path} {arguments:?}");
        assert_eq!(got.text(), text);
    }
    for (path, arguments, status) in [
        ("/get/download/missing", &[][..], 404),
        ("/get/download/cat.jpg", &["--range", "99-"], 416),
        ("/get/download/", &[], 400),
        ("/get/download/../api/get", &[], 400),
        ("/get/download/%2e%2e%2fapi", &[], 400),
        ("/get/download/cat.jpg", &["--request", "PUT", "--data", "x"], 405),
    ] {
        let refused = download_at(&cluster, "AWS", path, arguments);
        assert_eq!(refused.status, status, "{path} {arguments:?}");
        refused.problem();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn get_getrandom() {
    let cluster = Cluster::start(&["AWS"]).await;
    let get = || download_at(&cluster, "AWS", "/getrandom", &[]);
    let (one, other) = (get(), get());
    assert_eq!((one.status, one.header("content-length")), (200, "10000000"));
    assert_eq!(one.header("cache-control"), "no-store");
    assert_eq!(one.body.len(), 10_000_000);
    assert!(one.body != other.body);
    // Random bytes are all equally frequent: about 39,062 of each here, with a standard deviation of 197.
    let mut counts = [0_u32; 256];
    one.body.iter().for_each(|byte| counts[usize::from(*byte)] += 1);
    assert!(counts.iter().all(|count| (37_500..40_600).contains(count)), "{counts:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn get_cost_get() {
    let cluster = priced(&["AWS"]).await;
    let answer = price_at(&cluster, "AWS", "/cost/get", &[]);
    assert_eq!((answer.status, answer.header("content-type")), (200, "application/json"));
    assert_eq!(answer.json(), reference_prices());
    let modern = cluster.client("AWS").prices().await.unwrap();
    assert_eq!(
        modern.values().map(|tariff| tariff.instance_hour.get() / 1_000_000).collect::<Vec<_>>(),
        [300, 100, 114]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn post_cost_post() {
    let mut cluster = priced(&NAMES).await;
    let form = "provider=AWS&server_hourly_cost=.31&network_hourly_cost=.11";
    assert_eq!(price_at(&cluster, "GC", "/cost/post", &["--data", form]).status, 200);
    let document = price_at(&cluster, "GC", "/cost/get", &[]).json();
    assert_eq!(costs(&document, "AWS"), shown(".31", ".11"), "who changes it reads it back at once");
    everywhere(&cluster, &NAMES, "the new price", |document| costs(document, "AWS") == shown(".31", ".11")).await;
    let unknown = "provider=Azure&server_hourly_cost=.31&network_hourly_cost=.11";
    assert_eq!(price_at(&cluster, "GC", "/cost/post", &["--data", unknown]).status, 404);
    for name in NAMES {
        cluster.stop(name).await;
    }
    for name in NAMES {
        cluster.restart(name).await;
        let document = || price_at(&cluster, name, "/cost/get", &[]).json();
        wait_until(&format!("{name} kept it"), async || costs(&document(), "AWS") == shown(".31", ".11")).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn post_addcost_provider() {
    let cluster = priced(&NAMES).await;
    let add = |form: &str| price_at(&cluster, "Program", "/addcost/Azure", &["--data", form]);
    let form = "server_hourly_cost=1&network_hourly_cost=0.050";
    assert_eq!(add(form).status, 201);
    everywhere(&cluster, &NAMES, "the new provider", |document| costs(document, "Azure") == shown("1.00", ".05")).await;
    let again = add(form);
    assert_eq!(
        (again.status, again.problem().as_str()),
        (409, "Azure has prices already: change them by POST /cost/post")
    );
    assert_eq!(add(&format!("provider=Other&{form}")).status, 400);
    let named = price_at(&cluster, "AWS", "/addcost/Own%20Cloud", &["--data", form]);
    assert_eq!(named.status, 400, "a provider's name is one of letters, digits and hyphens");
}

#[tokio::test(flavor = "multi_thread")]
async fn post_and_delete_cost_delete_provider() {
    let cluster = priced(&NAMES).await;
    for (provider, method) in [("AWS", "POST"), ("GC", "DELETE")] {
        let remove = || price_at(&cluster, "Program", &format!("/cost/delete/{provider}"), &["--request", method]);
        assert_eq!(remove().status, 204);
        assert_eq!(costs(&price_at(&cluster, "Program", "/cost/get", &[]).json(), provider), None);
        let again = remove();
        assert_eq!(again.status, 404);
        assert!(again.problem().contains(provider));
        everywhere(&cluster, &NAMES, "the price no more", |document| costs(document, provider).is_none()).await;
    }
    let form = "server_hourly_cost=.3&network_hourly_cost=.1";
    assert_eq!(price_at(&cluster, "AWS", "/addcost/AWS", &["--data", form]).status, 201, "it can come back");
}

#[tokio::test(flavor = "multi_thread")]
async fn costs_that_are_none_get_400_and_change_nothing() {
    let cluster = priced(&["AWS"]).await;
    for cost in ["-1", "-.1", "NaN", "inf", "", "1e9", "0x1", "1,5", " 1", "+1", "1.0000000001", "1000001", ".", "€1"]
    {
        let data = ["provider=AWS", &format!("server_hourly_cost={cost}"), "network_hourly_cost=.1"].join("&");
        let refused = price_at(&cluster, "AWS", "/cost/post", &["--data", &data]);
        assert_eq!(refused.status, 400, "{cost}");
        assert!(refused.problem().starts_with("server_hourly_cost: "), "{refused:?}");
        let data = format!("server_hourly_cost=.1&network_hourly_cost={cost}");
        assert_eq!(price_at(&cluster, "AWS", "/addcost/Azure", &["--data", &data]).status, 400, "{cost}");
    }
    for form in [
        "",
        "provider=AWS",
        "server_hourly_cost=1&network_hourly_cost=1",
        "provider=AWS&server_hourly_cost=1",
        "provider=AWS&server_hourly_cost=1&network_hourly_cost=1&more=1",
        "provider=AWS&server_hourly_cost=1&server_hourly_cost=2&network_hourly_cost=1",
        "provider=../x&server_hourly_cost=1&network_hourly_cost=1",
        &"x".repeat(100_000),
    ] {
        let refused = price_at(&cluster, "AWS", "/cost/post", &["--data", form]);
        assert_eq!(refused.status, 400, "{}", &form[..form.len().min(80)]);
        refused.problem();
    }
    let json = ["--json", r#"{"provider":"AWS","server_hourly_cost":"1","network_hourly_cost":"1"}"#];
    assert_eq!(price_at(&cluster, "AWS", "/cost/post", &json).status, 400, "not a form");
    assert_eq!(price_at(&cluster, "AWS", "/cost/get", &[]).json(), reference_prices());
}

#[tokio::test(flavor = "multi_thread")]
async fn get_changes_nothing() {
    let cluster = priced(&["AWS"]).await;
    for path in [
        "/cost/post?provider=AWS&server_hourly_cost=9&network_hourly_cost=9",
        "/addcost/Azure?server_hourly_cost=9&network_hourly_cost=9",
        "/cost/delete/AWS",
    ] {
        for method in ["GET", "HEAD", "PUT"] {
            let arguments = if method == "HEAD" { vec!["--head"] } else { vec!["--request", method] };
            let refused = price_at(&cluster, "AWS", path, &arguments);
            assert_eq!(refused.status, 405, "{method} {path}");
            assert!(refused.header("allow").contains("POST"));
        }
    }
    assert_eq!(price_at(&cluster, "AWS", "/cost/get", &["--request", "POST", "--data", ""]).status, 405);
    assert_eq!(price_at(&cluster, "AWS", "/cost/get", &[]).json(), reference_prices());
}

#[tokio::test(flavor = "multi_thread")]
async fn web_pages_cannot_change_anything() {
    let mut cluster = Cluster::start(&[]).await;
    cluster.add_with("AWS", |config| config.hosts = vec!["cdn.example.org".to_owned()]).await;
    let form = "server_hourly_cost=.3&network_hourly_cost=.1";
    let add = |header: &str| price_at(&cluster, "AWS", "/addcost/AWS", &["--data", form, "--header", header]);
    for (header, status) in [
        ("Origin: https://evil.example", 403),
        ("Origin: null", 403),
        ("Sec-Fetch-Site: cross-site", 403),
        ("Host: evil.example", 421),
        ("Host:", 400),
    ] {
        let refused = add(header);
        assert_eq!(refused.status, status, "{header}");
        refused.problem();
    }
    let servers = ["--data", "AWS=ip_address=10.0.0.7&port=1", "--header", "Origin: https://evil.example"];
    assert_eq!(download_at(&cluster, "AWS", "/servers", &servers).status, 403);
    let rebound = ["--header", "Host: evil.example"];
    assert_eq!(download_at(&cluster, "AWS", "/api/get", &rebound).status, 421, "not even reading");
    assert_eq!(price_at(&cluster, "AWS", "/cost/get", &[]).json(), json!({ "price": [] }));

    let own = format!("Origin: http://{}", cluster.ports("AWS").price);
    assert_eq!(add(&own).status, 201);
    assert_eq!(price_at(&cluster, "AWS", "/cost/get", &["--header", "Host: cdn.example.org"]).status, 200);
    let localhost = format!("Host: localhost:{}", cluster.ports("AWS").price.port());
    assert_eq!(price_at(&cluster, "AWS", "/cost/get", &["--header", &localhost]).status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn elsewhere_than_on_loopback_the_ports_speak_tls_and_want_a_credential() {
    let cluster = Cluster::start(&[]).await;
    let listen = async || TcpListener::bind("0.0.0.0:0").await.unwrap();
    let listeners = node::Listeners { api: listen().await, download: listen().await, price: listen().await };
    let port = |listener: &TcpListener| listener.local_addr().unwrap().port();
    let (download, price) = (port(&listeners.download), port(&listeners.price));
    let mut config = node::Config::new("AWS".parse().unwrap(), cluster.data("AWS"));
    let reached = |port| Some(Address::new("AWS.node.metacdn.internal", port).unwrap());
    config.advertise = reached(port(&listeners.api));
    config.download_advertise = reached(download);
    config.hosts = vec!["AWS.node.metacdn.internal".to_owned()];
    let identity = cluster.identity(Principal::Node("AWS".parse().unwrap()));
    let stop = CancellationToken::new();
    let running = tokio::spawn(node::run(config, identity, listeners, stop.clone()));

    let authority = cluster.folder.path().join("authority.pem");
    std::fs::write(&authority, cluster.authority_pem()).unwrap();
    let (certificate, key) = cluster.pem(Principal::Client("me".parse().unwrap()));
    let bundle = cluster.folder.path().join("me.pem");
    std::fs::write(&bundle, certificate + &key).unwrap();
    let at = |port: u16, path: &str, arguments: &[&str]| {
        let host = "AWS.node.metacdn.internal";
        let resolve = format!("{host}:{port}:127.0.0.1");
        let url = format!("https://{host}:{port}{path}");
        let trust = ["--resolve", &resolve, "--cacert", authority.to_str().unwrap(), &url];
        curl(&[&trust[..], arguments].concat()).status
    };
    let shown = ["--cert", bundle.to_str().unwrap()];
    let add = ["--data", "server_hourly_cost=.3&network_hourly_cost=.1"];
    let update = ["--data", "AWS=ip_address=10.0.0.7&port=8870"];
    for (port, path, arguments, without, with) in [
        (price, "/addcost/AWS", &add[..], 403, 201),
        (price, "/cost/get", &[], 403, 200),
        (price, "/cost/delete/AWS", &["--request", "DELETE"], 403, 204),
        (download, "/servers", &update, 403, 200),
        (download, "/api/get", &[], 403, 200),
        (download, "/get/download/none", &[], 403, 404),
        (download, "/getrandom", &["--head"], 403, 200),
    ] {
        assert_eq!(at(port, path, arguments), without, "{path} without a certificate");
        assert_eq!(at(port, path, &[arguments, &shown].concat()), with, "{path} with one");
    }
    stop.cancel();
    running.await.unwrap().unwrap();
}
