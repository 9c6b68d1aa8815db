//! The short way of plain hits gives the same answers as the long one.

use std::net::SocketAddr;

use http::{Method, Response};
use metacdn::edge;

use crate::cluster::{Cluster, put, wait_until};
use crate::edge::{ask, fetch, ready};
use crate::edge_cache::{cache_status, kept};
use crate::sites::coding::text as words;
use crate::sites::origin::{Origin, answer};

/// A field that means nothing here, and sends a request the long way all the same.
const LONG_WAY: (&str, &str) = ("pragma", "nothing");

/// An answer but for the moment at which it was given.
fn timeless(response: &Response<Vec<u8>>) -> (u16, Vec<(String, String)>, &[u8]) {
    let mut fields: Vec<_> = response
        .headers()
        .iter()
        .filter(|(name, _)| !["date", "age"].contains(&name.as_str()))
        .map(|(name, value)| {
            // The seconds that are left may be fewer by one.
            let value = value.to_str().unwrap().split("; ttl=").next().unwrap();
            // A node that was asked is measured anew each time, and may be weighed otherwise.
            let weighed = ["; reason=", "; score=", "; time="];
            let value = weighed.iter().fold(value, |value, begin| value.split(begin).next().unwrap());
            (name.to_string(), value.to_owned())
        })
        .collect();
    fields.sort();
    (response.status().as_u16(), fields, response.body())
}

async fn hot(admin: SocketAddr) -> u64 {
    let metrics = fetch(admin, "/metrics").await;
    let text = String::from_utf8(metrics.into_body()).unwrap();
    text.lines().find_map(|line| line.strip_prefix("metacdn_edge_hot_total ")?.parse().ok()).unwrap()
}

const HOSTS: [&str; 8] = [
    "localhost",
    "127.0.0.1",
    "LOCALHOST:99",
    "x.metacdn.internal",
    "other.org",
    "a.example",
    "A.Example.:80",
    "b.example:81",
];

const PATHS: [&str; 20] = [
    "/a.txt",
    "/a.txt?x=1",
    "/a.txt?variant=low",
    "/./a.txt",
    "/a%2Etxt",
    "/folder/",
    "/folder",
    "/folder/index.html",
    "/caf%C3%A9%201.txt",
    "/missing",
    "/",
    "//a.txt",
    "/%",
    "/vary",
    "/stale",
    "/x?y=1",
    "/x?y=2",
    "/long.txt",
    "/page",
    "/coded",
];

const FIELDS: [&[(&str, &str)]; 11] = [
    &[],
    &[("accept-language", "de"), ("user-agent", "x"), ("cookie", "a=b")],
    &[("if-none-match", "\"v\"")],
    &[("range", "bytes=1-2")],
    &[("cache-control", "no-cache")],
    &[("cache-control", "max-stale")],
    &[("authorization", "Basic x")],
    &[("save-data", "on")],
    &[("accept-encoding", "gzip, deflate, br, zstd")],
    &[("accept-encoding", "gzip")],
    &[("accept-encoding", "identity, *;q=0")],
];

async fn origin() -> Origin {
    Origin::start(|asked| {
        let vary = if asked.uri.path() == "/vary" { "accept-language" } else { "" };
        let lasting = if asked.uri.path() == "/stale" { "max-age=0, stale-while-revalidate=99" } else { "max-age=99" };
        let fields = [("cache-control", lasting), ("vary", vary), ("etag", "\"v\""), ("age", "7")];
        match asked.uri.path() {
            "/page" => answer(200, &[fields[0], fields[2], fields[3], ("content-type", "text/html")], words(9000)),
            // Whoever reads gzip gets it from the origin; it is none, and nobody here reads it.
            "/coded" if asked.field("accept-encoding").contains("gzip") => {
                let coded = [fields[0], ("vary", "accept-encoding"), ("content-encoding", "gzip"), ("etag", "\"g\"")];
                answer(200, &coded, words(5000))
            }
            "/coded" => answer(200, &[fields[0], ("vary", "accept-encoding"), ("etag", "\"p\"")], words(6000)),
            _ => answer(200, &fields, "of the origin"),
        }
    })
    .await
}

/// Whether it is a variant that is made at this moment: the next one has its length.
fn is_being_made(response: &Response<Vec<u8>>) -> bool {
    response.headers().contains_key("content-encoding") && !response.headers().contains_key("content-length")
}

/// Whether the two are of the same moment of the cache: nothing was fetched between them.
fn is_settled(answers: [&Response<Vec<u8>>; 2]) -> bool {
    let fetched = |answer: &&Response<Vec<u8>>| {
        let status = cache_status(answer);
        status.contains("fwd=uri-miss") || status.contains("fwd=vary-miss")
    };
    !answers.iter().any(fetched)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_short_way_answers_as_the_long_one() {
    let (cluster, origin) = (Cluster::start(&["AWS"]).await, origin().await);
    let site = format!("name = \"site\"\nhosts = [\"*.example\"]\norigins = [{:?}]", origin.url());
    let change = |config: &mut edge::Config| {
        config.site = vec![toml::from_str(&site).unwrap()];
        // What is asked for often is not made once more in the middle.
        config.compression.thorough = config.compression.quick;
    };
    let (_edge, public, admin) = cluster.edge(change).await;
    ready(admin).await;
    for (key, text) in [("a.txt", "text"), ("folder/index.html", "page"), ("caf\u{e9} 1.txt", "name")] {
        put(&cluster.client("AWS"), key, text).await;
    }
    put(&cluster.client("AWS"), "long.txt", words(9000).to_vec()).await;
    for path in ["/a.txt", "/long.txt", "/folder/", "/caf%C3%A9%201.txt"] {
        kept(public, path).await;
    }
    let requests = HOSTS.iter().flat_map(|host| PATHS.iter().map(move |path| (host, path)));
    let requests: Vec<_> =
        requests.flat_map(|(host, path)| FIELDS.iter().map(move |fields| (host, path, fields))).collect();
    let mut compared = 0;
    for (host, path, fields) in requests.iter().chain(&requests) {
        for method in [Method::GET, Method::HEAD] {
            let send = async |more: &[(&'static str, &'static str)]| {
                let headers: Vec<_> = [("host", **host)].iter().chain(**fields).chain(more).copied().collect();
                ask(public, method.clone(), path, &headers).await
            };
            // What is not kept yet is so after this, if it ever is.
            wait_until("no variant is made", async || {
                !is_being_made(&send(&[LONG_WAY]).await) || method == Method::HEAD
            })
            .await;
            let (short, long) = (send(&[]).await, send(&[LONG_WAY]).await);
            if is_settled([&short, &long]) {
                compared += 1;
                assert_eq!(timeless(&short), timeless(&long), "{method} {host} {path} {fields:?}");
            }
        }
    }
    assert!(compared > 3_000, "{compared}");
    assert!(hot(admin).await > 300, "{} went the short way", hot(admin).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_kept_in_a_coding_goes_the_short_way() {
    let origin = origin().await;
    let site = format!("name = \"site\"\nhosts = [\"*.example\"]\norigins = [{:?}]", origin.url());
    let (_edge, public, admin) = crate::sites::edge_of_sites(&[&site]).await;
    for (path, accepts, coding) in [
        ("/page", "gzip", "gzip"),
        ("/page", "gzip, deflate, br, zstd", "zstd"),
        ("/page", "identity", ""),
        // The origin codes it itself, and has two forms of it.
        ("/coded", "gzip", "gzip"),
        ("/coded", "br", ""),
        ("/coded", "x-gzip, br;q=0", "gzip"),
    ] {
        let fields = [("host", "a.example"), ("accept-encoding", accepts)];
        let before = hot(admin).await;
        wait_until("it is hot", async || {
            let response = ask(public, Method::GET, path, &fields).await;
            assert_eq!(crate::edge::text(response.headers(), "content-encoding"), coding, "{path} for {accepts}");
            hot(admin).await > before
        })
        .await;
        let before = hot(admin).await;
        for _ in 0..5 {
            ask(public, Method::GET, path, &fields).await;
        }
        assert_eq!(hot(admin).await, before + 5, "{path} for {accepts}");
    }
}
