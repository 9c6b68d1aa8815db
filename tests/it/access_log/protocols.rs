//! HTTP/1.1 by TLS, HTTP/2 and HTTP/3: the same lines.

use metacdn::edge;
use serde_json::json;

use super::{Log, only};
use crate::cluster::wait_until;
#[cfg(feature = "http3")]
use crate::edge::fetch;
use crate::protocols::clients::{Client, Protocol};
use crate::protocols::{Secure, request, site};
use crate::sites::origin::{Origin, answer};

/// A method, a target, fields, and what the cache does.
type Case<'a> = (&'a str, &'a str, &'a [(&'a str, &'a str)], Option<&'a str>);

#[tokio::test(flavor = "multi_thread")]
async fn every_protocol_leaves_the_same_lines() {
    let log = Log::new();
    let origin = Origin::start(|asked| match asked.uri.path() {
        "/passed" => answer(200, &[("cache-control", "no-store")], vec![b'x'; 200_000]),
        "/large" => answer(200, &[("cache-control", "max-age=999")], vec![b'x'; 300_000]),
        _ => answer(200, &[("cache-control", "max-age=999")], "small"),
    })
    .await;
    let secure = Secure::start_with(&[&site(&origin, "")], |config: &mut edge::Config| log.configure(config)).await;
    let many: Vec<_> = (0..101).map(|_| ("x", "y")).collect();
    let requests: [Case; 7] = [
        ("GET", "/small?a=b", &[], Some("hit")),
        ("GET", "/large", &[], Some("hit")),
        ("HEAD", "/large", &[], Some("hit")),
        ("GET", "/passed", &[], Some("passed")),
        ("GET", "/small?a=b", &[("range", "bytes=1-2")], Some("hit")),
        ("GET", "/small?a=b", &[("expect", "more")], None),
        ("GET", "/small?a=b", &many, None),
    ];
    for path in ["/small?a=b", "/large"] {
        wait_until("it is kept", async || {
            let mut client = Client::connect(&secure, Protocol::Http1, "site.example").await;
            let answer = client.ask(request("GET", "site.example", path, &[])).await;
            answer.field("cache-status").starts_with("metacdn; hit")
        })
        .await;
    }
    let mut seen = Vec::new();
    for protocol in Protocol::ALL {
        for (number, (method, path, fields, cache)) in requests.iter().enumerate() {
            let agent = format!("{} {number}", protocol.version());
            let fields: Vec<_> = fields.iter().copied().chain([("user-agent", agent.as_str())]).collect();
            // What is refused ends a connection of HTTP/1.1.
            let mut client = Client::connect(&secure, *protocol, "site.example").await;
            let answer = client.ask(request(method, "site.example", path, &fields)).await;
            seen.push((protocol.version(), number, *cache, answer));
        }
    }
    secure.edge.stop().await;
    let lines = log.lines();
    for (protocol, number, cache, answer) in &seen {
        let (method, target, ..) = requests[*number];
        let agent = format!("{protocol} {number}");
        let line = match (*protocol, answer.status) {
            // The first line of what could not be read is all that is known of it.
            ("1.1", 431) => lines.iter().find(|line| line["protocol"] == "1.1" && line["status"] == 431).unwrap(),
            _ => only(&lines, "user_agent", &agent),
        };
        assert_eq!((&line["status"], &line["bytes"]), (&json!(answer.status), &json!(answer.body.len())), "{line}");
        let asked = [&line["method"], &line["target"], &line["protocol"], &line["client"]];
        assert_eq!(asked, [method, target, protocol, "127.0.0.1"]);
        assert_eq!(line["host"].as_str(), line["user_agent"].as_str().map(|_| "site.example"));
        assert_eq!(
            (&line["tls"], &line["complete"], line["cache"].as_str()),
            (&json!(true), &json!(true), *cache),
            "{line}"
        );
    }
    let statuses: Vec<_> = seen.iter().take(requests.len()).map(|(.., answer)| answer.status).collect();
    assert_eq!(statuses, [200, 200, 200, 200, 206, 417, 431]);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_an_answer_by_http2_that_is_cut_short_the_bytes_are_those_that_went_out() {
    const WINDOW_BYTES: usize = 65_535;
    let origin = Origin::start(|asked| match asked.uri.path() {
        "/passed" => answer(200, &[("cache-control", "no-store")], vec![b'x'; 1 << 20]),
        _ => answer(200, &[("cache-control", "max-age=999")], vec![b'x'; 1 << 20]),
    })
    .await;
    let log = Log::new();
    let secure = Secure::start_with(&[&site(&origin, "")], |config: &mut edge::Config| log.configure(config)).await;
    wait_until("it is kept", async || {
        let mut client = Client::connect(&secure, Protocol::Http1, "site.example").await;
        let answer = client.ask(request("GET", "site.example", "/kept?", &[])).await;
        answer.field("cache-status").starts_with("metacdn; hit")
    })
    .await;
    for path in ["/kept?", "/passed"] {
        let config = std::sync::Arc::new(secure.authority.client(&["h2"]));
        let stream = secure.connect(&config, "site.example").await.unwrap();
        let (requests, driver) = h2::client::handshake(stream).await.unwrap();
        let driver = tokio::spawn(driver);
        let asked = request("GET", "site.example", path, &[("user-agent", path)]);
        let (response, _) = requests.ready().await.unwrap().send_request(asked, true).unwrap();
        let mut body = response.await.unwrap().into_body();
        let mut read = 0;
        // It gives no more room than there is at the begin.
        while read < WINDOW_BYTES {
            read += body.data().await.unwrap().unwrap().len();
        }
        driver.abort();
        drop(driver.await);
    }
    secure.edge.stop().await;
    let lines = log.lines();
    for path in ["/kept?", "/passed"] {
        let line = only(&lines, "user_agent", path);
        let told = (&line["status"], &line["bytes"], &line["complete"]);
        assert_eq!(told, (&json!(200), &json!(WINDOW_BYTES), &json!(false)), "{line}");
    }
}

#[cfg(feature = "http3")]
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_by_http3_whose_head_nobody_took_is_none() {
    let long = "x".repeat(1_000);
    let origin = Origin::start(move |_| answer(200, &[("cache-control", "no-store"), ("x", &long)], "page")).await;
    let log = Log::new();
    let secure = Secure::start_with(&[&site(&origin, "")], |config: &mut edge::Config| log.configure(config)).await;
    // It has room for less than one line.
    let mut transport = quinn::TransportConfig::default();
    transport.stream_receive_window(200_u32.into());
    let tls = secure.authority.client(&["h3"]);
    let (endpoint, connection) =
        crate::protocols::http3::connect_with(secure.tls, tls, "site.example", transport).await.unwrap();
    let (mut driver, mut requests) = h3::client::new(h3_quinn::Connection::new(connection)).await.unwrap();
    tokio::spawn(async move { driver.wait_idle().await });
    let mut stream = requests.send_request(request("GET", "site.example", "/", &[])).await.unwrap();
    stream.finish().await.unwrap();
    wait_until("it is answered", async || {
        let metrics = String::from_utf8(fetch(secure.admin, "/metrics").await.into_body()).unwrap();
        metrics.contains("metacdn_edge_requests_total{status=\"200\"} 1\n")
    })
    .await;
    endpoint.close(0_u32.into(), b"");
    wait_until("it is told", async || !log.lines().is_empty()).await;
    secure.edge.stop().await;
    let lines = log.lines();
    assert_eq!(lines.len(), 1, "{lines:#?}");
    let line = &lines[0];
    assert_eq!((&line["status"], &line["bytes"], &line["complete"]), (&json!(499), &json!(0), &json!(false)), "{line}");
}
