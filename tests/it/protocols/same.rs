//! The same answers whatever protocol a client speaks.

use std::collections::BTreeMap;

use bytes::Bytes;
use http::HeaderMap;

use super::clients::{Client, Protocol};
use super::{Answer, Secure, request, site};
use crate::edge::fetch;
use crate::sites::origin::{Origin, answer};

/// An answer but for the moment at which it was given, and for what is said of the connection.
fn timeless(answer: &Answer) -> (u16, Vec<(String, String)>, &[u8]) {
    let of_moment = ["date", "age", "connection", "keep-alive", "transfer-encoding", "alt-svc"];
    let mut fields: Vec<_> = answer
        .headers
        .iter()
        .filter(|(name, _)| !of_moment.contains(&name.as_str()))
        .map(|(name, value)| {
            let value = value.to_str().unwrap().split("; ttl=").next().unwrap();
            let value = value.split("; score=").next().unwrap().split("; time=").next().unwrap();
            (name.to_string(), value.to_owned())
        })
        .collect();
    fields.sort();
    (answer.status, fields, &answer.body)
}

const HOSTS: [&str; 6] =
    ["site.example", "SITE.example:443", "a.more.example", "other.example", "127.0.0.1", "a.b.more.example"];

const PATHS: [&str; 11] = [
    "/small",
    "/small?x=1",
    "/large",
    "/empty",
    "/gone",
    "/moved",
    "/hint",
    "/private",
    "/%41",
    "/a//b/../c",
    "/nothing",
];

const FIELDS: [&[(&str, &str)]; 11] = [
    &[],
    &[("accept-language", "de"), ("cookie", "a=b")],
    &[("if-none-match", "\"v\"")],
    &[("range", "bytes=1-2")],
    &[("range", "bytes=999999-")],
    &[("range", "bytes=-2"), ("if-range", "\"v\"")],
    &[("range", "bytes=0-0"), ("if-none-match", "\"w\"")],
    &[("if-modified-since", "Fri, 01 Jan 2100 00:00:00 GMT")],
    &[("cache-control", "only-if-cached")],
    &[("expect", "200-ok")],
    &[("authorization", "Basic x")],
];

async fn origin() -> Origin {
    Origin::start(|asked| {
        let keep = ("cache-control", "max-age=999");
        let tag = ("etag", "\"v\"");
        match asked.uri.path() {
            "/small" => answer(200, &[keep, tag, ("content-type", "text/plain")], "small"),
            "/large" => answer(200, &[keep, tag], vec![b'x'; 300_000]),
            "/empty" => answer(200, &[keep], ""),
            "/gone" => answer(410, &[keep], "gone"),
            "/moved" => answer(301, &[("location", "/small")], ""),
            "/nothing" => answer(204, &[], ""),
            "/private" => {
                answer(200, &[("cache-control", "no-store"), ("set-cookie", "a"), ("set-cookie", "b")], "own")
            }
            path => answer(200, &[("cache-control", "no-store"), ("connection", "x"), ("x", "1")], path.to_owned()),
        }
    })
    .await
}

/// A client of each protocol, and what to do where an answer ended its connection.
struct Clients<'a> {
    secure: &'a Secure,
    clients: BTreeMap<&'static str, Client>,
}

impl Clients<'_> {
    async fn ask(&mut self, protocol: Protocol, ask: http::Request<()>) -> Answer {
        let usable = match self.clients.get_mut(protocol.version()) {
            Some(client) => client.is_usable().await,
            None => false,
        };
        if !usable {
            let client = Client::connect(self.secure, protocol, "site.example").await;
            self.clients.insert(protocol.version(), client);
        }
        self.clients.get_mut(protocol.version()).unwrap().ask(ask).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn all_protocols_get_the_same_answers() {
    let origin = origin().await;
    let secure = Secure::start(&[&site(&origin, "")]).await;
    let mut clients = Clients { secure: &secure, clients: BTreeMap::new() };
    let mut statuses = BTreeMap::<u16, usize>::new();
    // What can be kept is kept before answers are compared.
    for path in PATHS {
        for host in HOSTS {
            clients.ask(Protocol::Http2, request("GET", host, path, &[])).await;
        }
    }
    for method in ["GET", "HEAD", "DELETE", "OPTIONS", "BREW", "TRACE"] {
        for host in HOSTS {
            for path in PATHS {
                for fields in FIELDS {
                    let ask = || request(method, host, path, fields);
                    let expected = clients.ask(Protocol::Http1, ask()).await;
                    *statuses.entry(expected.status).or_default() += 1;
                    for protocol in &Protocol::ALL[1..] {
                        let given = clients.ask(*protocol, ask()).await;
                        let what = format!("{protocol:?} {method} {host} {path} {fields:?}");
                        assert_eq!(timeless(&given), timeless(&expected), "{what}");
                        assert_eq!(given.headers.contains_key("date"), expected.headers.contains_key("date"), "{what}");
                    }
                }
            }
        }
    }
    for status in [200, 204, 206, 301, 304, 405, 410, 416, 417, 421, 504] {
        assert!(statuses.contains_key(&status), "{status}: {statuses:?}");
    }
    let metrics = String::from_utf8(fetch(secure.admin, "/metrics").await.into_body()).unwrap();
    let figure = |name: &str| -> u64 {
        metrics.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok()).unwrap_or_default()
    };
    assert!(figure("metacdn_edge_hot_total ") > 100, "{metrics}");
    for protocol in Protocol::ALL {
        let name = format!("metacdn_edge_protocols_total{{protocol=\"{}\",scheme=\"https\"}} ", protocol.version());
        assert!(figure(&name) > 1_000, "{name}\n{metrics}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn origins_are_told_by_what_protocol_for_whom_and_one_cookie() {
    let origin = Origin::start(|asked| answer(200, &[("cache-control", "no-store")], asked.body)).await;
    let secure = Secure::start(&[&site(&origin, "")]).await;
    for (number, protocol) in Protocol::ALL.iter().enumerate() {
        let mut client = Client::connect(&secure, *protocol, "site.example").await;
        let mut crumbs = request("GET", "site.example", "/", &[("cookie", "a=1")]);
        if *protocol != Protocol::Http1 {
            crumbs.headers_mut().append("cookie", "b=2".parse().unwrap());
        }
        client.ask(crumbs).await;
        let asked = origin.asked().remove(2 * number);
        assert_eq!(asked.field("via"), format!("{} metacdn", protocol.version()));
        assert_eq!(
            (asked.field("x-forwarded-proto").as_str(), asked.field("host").as_str()),
            ("https", "site.example")
        );
        assert_eq!(asked.field("forwarded"), "for=127.0.0.1;host=\"site.example\";proto=https");
        assert_eq!(asked.field("cookie"), if *protocol == Protocol::Http1 { "a=1" } else { "a=1; b=2" });
        let body = vec![Bytes::from_static(b"a "), Bytes::from_static(b"body")];
        let echoed = client.send(request("POST", "site.example", "/", &[]), Some(body), None).await;
        assert_eq!(echoed.body, b"a body", "{protocol:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_and_trailers_pass_both_ways() {
    let origin = Origin::start(|asked| {
        let (parts, answer) = crate::sites::origin::streamed(&[("trailer", "x-length")]);
        tokio::spawn(async move {
            for part in asked.body.chunks(70_000) {
                parts.send(Bytes::copy_from_slice(part)).await;
            }
            parts.end();
        });
        answer
    })
    .await;
    let secure = Secure::start(&[&site(&origin, "")]).await;
    let bytes: Vec<u8> = (0..5_000_000_u32).map(|number| (number / 7) as u8).collect();
    for protocol in Protocol::ALL {
        let mut client = Client::connect(&secure, *protocol, "site.example").await;
        let parts: Vec<_> = bytes.chunks(100_000).map(Bytes::copy_from_slice).collect();
        let trailers = HeaderMap::from_iter([("x-trailer".parse().unwrap(), "end".parse().unwrap())]);
        let echoed = client.send(request("PUT", "site.example", "/", &[]), Some(parts), Some(trailers)).await;
        assert!(echoed.status == 200 && echoed.body == bytes, "{protocol:?}: {} bytes", echoed.body.len());
    }
}
