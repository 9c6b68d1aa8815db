//! The short way of plain hits gives the same answers as the long one.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use http::{Method, Response};
use metacdn::cache::SLICE_BYTES;
use metacdn::edge;

use crate::cluster::{Cluster, put, wait_until};
use crate::edge::{ask, fetch, ready};
use crate::edge_cache::{cache_status, kept};
use crate::sites::coding::text as words;
use crate::sites::origin::{Origin, answer, streamed};

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

const PATHS: [&str; 21] = [
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
    "/streamed",
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
            // How long it is nobody says.
            "/streamed" => {
                let (parts, response) = streamed(&fields);
                tokio::spawn(async move {
                    parts.send("in parts").await;
                    parts.end();
                });
                response
            }
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

/// Which requests of a kind go the short way, if what they ask for is kept: for GET, and for HEAD.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Short {
    All,
    /// It depends on what is asked for.
    Partly,
    Never,
}

type Kind = (&'static [(&'static str, &'static str)], Short, Short);

use Short::{All, Never, Partly};

/// Conditions and ranges: `{etag}`, `{modified}` and `{size}` are those of what is asked for, `{source}` is the tag of the same
/// without a coding.
const KINDS: [Kind; 59] = [
    (&[], All, All),
    (&[("if-none-match", "{etag}")], All, All),
    (&[("if-none-match", "\"x\", {etag}")], All, All),
    (&[("if-none-match", "\"x,\" ,, {etag},")], All, All),
    (&[("if-none-match", "\"x\""), ("if-none-match", "{etag}")], All, All),
    (&[("if-none-match", "\"x\"")], All, All),
    (&[("if-none-match", "*")], All, All),
    (&[("if-none-match", "x")], All, All),
    (&[("if-none-match", "")], All, All),
    // Where it is compressed a 304 has the tag by which the client knows it.
    (&[("if-none-match", "W/{strong}")], Partly, Partly),
    (&[("if-none-match", "{source}")], Partly, Partly),
    (&[("if-none-match", "W/\"v~gzip\"")], Partly, Partly),
    // Longer than a node takes.
    (&[("if-none-match", "{long}")], Partly, Partly),
    (&[("if-none-match", "\"x\""), ("if-modified-since", "{later}")], All, All),
    (&[("if-none-match", "{etag}"), ("if-modified-since", "{earlier}")], All, All),
    (&[("if-none-match", "{etag}"), ("range", "bytes=0-0")], All, All),
    (&[("if-none-match", "\"x\""), ("range", "bytes=0-0")], All, All),
    (&[("if-none-match", "\"x\""), ("range", "bytes=0-0"), ("if-range", "{etag}")], All, All),
    (&[("if-none-match", "\"x\""), ("range", "bytes=0-0"), ("if-range", "\"x\"")], All, All),
    (&[("if-modified-since", "{modified}")], All, All),
    (&[("if-modified-since", "{later}")], All, All),
    (&[("if-modified-since", "{earlier}")], All, All),
    (&[("if-modified-since", "{rfc850}")], All, All),
    (&[("if-modified-since", "yesterday")], All, All),
    (&[("if-modified-since", "{modified}"), ("if-modified-since", "{modified}")], All, All),
    (&[("if-modified-since", "{modified}"), ("range", "bytes=1-2")], All, All),
    (&[("if-modified-since", "{earlier}"), ("range", "bytes=1-2")], All, All),
    (&[("range", "bytes=0-0")], All, All),
    (&[("range", "bytes=1-")], All, All),
    (&[("range", "bytes=0-")], All, All),
    (&[("range", "bytes=-3")], All, All),
    (&[("range", "bytes=-2097160")], All, All),
    (&[("range", "bytes=2-99999999999")], All, All),
    (&[("range", "bytes=2097150-2097160")], Partly, All),
    (&[("range", "bytes={middle}-{last}")], All, All),
    (&[("range", "bytes={last}-")], All, All),
    (&[("range", "Bytes = 1-2")], All, All),
    (&[("range", "bytes=1-1,")], All, All),
    (&[("range", "bytes=0-0,{size}-")], All, All),
    (&[("range", "bytes=0-0"), ("range", "bytes=1-1")], All, All),
    (&[("range", "bytes=0-{last},0-{last}")], All, All),
    (&[("range", "bytes=5-4")], All, All),
    (&[("range", "bytes=")], All, All),
    (&[("range", "lines=0-1")], All, All),
    (&[("range", "bytes=0-0,2-3")], Never, All),
    (&[("range", "bytes={size}-")], Never, All),
    (&[("range", "bytes=-0")], Never, All),
    (&[("range", "bytes=99999999999999999999-")], Never, All),
    (&[("range", "bytes=1-2"), ("if-range", "{etag}")], All, All),
    (&[("range", "bytes=1-2"), ("if-range", "W/{strong}")], All, All),
    (&[("range", "bytes=1-2"), ("if-range", "{source}")], All, All),
    (&[("range", "bytes=1-2"), ("if-range", "{modified}")], All, All),
    (&[("range", "bytes=1-2"), ("if-range", "{later}")], All, All),
    (&[("range", "bytes=1-2"), ("if-range", "\"x\""), ("if-range", "{etag}")], All, All),
    (&[("if-range", "{etag}")], All, All),
    (&[("if-match", "{etag}")], Never, Never),
    (&[("if-match", "\"x\""), ("range", "bytes=1-2")], Never, Never),
    (&[("if-unmodified-since", "{modified}")], Never, Never),
    (&[("range", "bytes=1-2"), ("cache-control", "no-transform")], Never, Never),
];

/// Where something is, and with which `Accept-Encoding` it is asked for.
const PLACES: [(&str, &str); 8] = [
    ("localhost", "/a.txt"),
    ("localhost", "/long.txt"),
    ("localhost", "/large.bin"),
    ("a.example", "/page"),
    ("a.example", "/weak"),
    ("a.example", "/dated"),
    ("a.example", "/untold"),
    ("a.example", "/large"),
];
const ACCEPTED: [&str; 3] = ["identity", "gzip", "br, zstd"];

/// Something that is kept, as one kind of client gets it.
struct Known {
    host: &'static str,
    path: &'static str,
    accepts: &'static str,
    /// What stands for the names in [`KINDS`].
    names: BTreeMap<&'static str, String>,
}

impl Known {
    /// Asks until all answers are there, and kept.
    async fn learn(public: SocketAddr, host: &'static str, path: &'static str, accepts: &'static str) -> Self {
        let fields = [("host", host), ("accept-encoding", accepts), LONG_WAY];
        wait_until("it is kept", async || {
            let answer = ask(public, Method::GET, path, &fields).await;
            cache_status(&answer).starts_with("metacdn; hit") && !is_being_made(&answer)
        })
        .await;
        let answer = ask(public, Method::GET, path, &fields).await;
        let source = ask(public, Method::GET, path, &[("host", host), ("accept-encoding", "identity")]).await;
        let field = |answer: &Response<Vec<u8>>, name| crate::edge::text(answer.headers(), name);
        let tag = |answer: &Response<Vec<u8>>| Some(field(answer, "etag")).filter(|tag| !tag.is_empty());
        let etag = tag(&answer).unwrap_or_else(|| "\"none\"".to_owned());
        // What does not say when it was modified is judged by when it was given.
        let dates = [field(&answer, "last-modified"), field(&answer, "date")];
        let modified = httpdate::parse_http_date(dates.iter().find(|date| !date.is_empty()).unwrap()).unwrap();
        let since = jiff::Timestamp::try_from(modified).unwrap();
        let second = Duration::from_secs(1);
        let size = answer.body().len();
        let names = BTreeMap::from([
            ("{strong}", etag.trim_start_matches("W/").to_owned()),
            ("{long}", format!("{}{etag}", "\"x\", ".repeat(1_800))),
            ("{etag}", etag),
            ("{source}", tag(&source).unwrap_or_else(|| "\"none\"".to_owned())),
            ("{modified}", httpdate::fmt_http_date(modified)),
            ("{earlier}", httpdate::fmt_http_date(modified - second)),
            ("{later}", httpdate::fmt_http_date(modified + second)),
            ("{rfc850}", since.strftime("%A, %d-%b-%y %H:%M:%S GMT").to_string()),
            ("{size}", size.to_string()),
            ("{middle}", (size / 2).to_string()),
            ("{last}", (size - 1).to_string()),
        ]);
        Self { host, path, accepts, names }
    }

    async fn ask(&self, public: SocketAddr, method: &Method, kind: &Kind, more: &[(&str, &str)]) -> Response<Vec<u8>> {
        let filled = kind.0.iter().map(|(name, value)| {
            let value = self.names.iter().fold((*value).to_owned(), |value, (name, text)| value.replace(name, text));
            (*name, value)
        });
        let filled: Vec<_> = filled.collect();
        let mut fields = vec![("host", self.host), ("accept-encoding", self.accepts)];
        fields.extend(filled.iter().map(|(name, value)| (*name, value.as_str())));
        fields.extend(more);
        with_one_boundary(ask(public, method.clone(), self.path, &fields).await)
    }
}

/// What stands between several parts is drawn for each answer.
fn with_one_boundary(answer: Response<Vec<u8>>) -> Response<Vec<u8>> {
    let media_type = crate::edge::text(answer.headers(), "content-type");
    let Some((_, boundary)) = media_type.split_once("boundary=") else { return answer };
    let (mut head, mut body) = answer.into_parts();
    head.headers.insert("content-type", "multipart/byteranges".parse().unwrap());
    let places = 0..body.len().saturating_sub(boundary.len());
    for place in places.filter(|place| body[*place..].starts_with(boundary.as_bytes())).collect::<Vec<_>>() {
        body[place..place + boundary.len()].fill(b'-');
    }
    Response::from_parts(head, body)
}

fn large() -> Vec<u8> {
    (0..2 * SLICE_BYTES + 123).map(|at| (at.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as u8).collect()
}

/// An edge with a disk in front of a node and of an origin, which have what is in [`PLACES`].
async fn edge_of_all_kinds(
    cluster: &Cluster,
    origin: &Origin,
    disk: &std::path::Path,
) -> (crate::cluster::Running, SocketAddr, SocketAddr) {
    let site = format!("name = \"site\"\nhosts = [\"*.example\"]\norigins = [{:?}]", origin.url());
    let change = |config: &mut edge::Config| {
        config.site = vec![toml::from_str(&site).unwrap()];
        config.compression.thorough = config.compression.quick;
        config.cache.disk.folder = Some(disk.to_owned());
    };
    let (running, public, admin) = cluster.edge(change).await;
    ready(admin).await;
    for (key, content) in [("a.txt", b"text".to_vec()), ("long.txt", words(9000).to_vec()), ("large.bin", large())] {
        put(&cluster.client("AWS"), key, content).await;
    }
    (running, public, admin)
}

async fn origin_of_all_kinds() -> Origin {
    Origin::start(|asked| {
        let keep = ("cache-control", "max-age=9999");
        let date = ("last-modified", "Sun, 06 Nov 1994 08:49:37 GMT");
        let page = ("content-type", "text/html");
        match asked.uri.path() {
            "/page" => answer(200, &[keep, page, date, ("etag", "\"v\""), ("age", "7")], words(9000)),
            "/weak" => answer(200, &[keep, page, ("etag", "W/\"v\""), ("content-location", "/w")], words(9000)),
            "/dated" => answer(200, &[keep, date, ("expires", "Fri, 01 Jan 2100 00:00:00 GMT")], "it has a date"),
            "/untold" => answer(200, &[keep, ("vary", "")], "nothing tells what it is"),
            _ => answer(200, &[keep, date, ("etag", "\"v\""), ("accept-ranges", "bytes")], large()),
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn conditions_and_ranges_end_by_the_short_way_as_by_the_long_one() {
    let (cluster, origin) = (Cluster::start(&["AWS"]).await, origin_of_all_kinds().await);
    let disk = tempfile::tempdir().unwrap();
    let (_edge, public, admin) = edge_of_all_kinds(&cluster, &origin, disk.path()).await;
    let mut all = Vec::new();
    for (host, path) in PLACES {
        for accepts in ACCEPTED {
            all.push(Known::learn(public, host, path, accepts).await);
        }
    }
    let mut statuses = BTreeMap::new();
    for kind in &KINDS {
        for (method, expected) in [(Method::GET, kind.1), (Method::HEAD, kind.2)] {
            let before = hot(admin).await;
            for known in &all {
                let what = || format!("{method} {} {} {} {:?}", known.host, known.path, known.accepts, kind.0);
                let short = known.ask(public, &method, kind, &[]).await;
                let long = known.ask(public, &method, kind, &[LONG_WAY]).await;
                let ((status, fields, body), (long_status, long_fields, long_body)) =
                    (timeless(&short), timeless(&long));
                assert_eq!((status, fields), (long_status, long_fields), "{}", what());
                assert!(body == long_body, "{}: {} and {} bytes", what(), body.len(), long_body.len());
                if expected == All {
                    *statuses.entry(status).or_insert(0) += 1;
                }
            }
            let (went, of) = ((hot(admin).await - before) as usize, all.len());
            let right = match expected {
                All => went == of,
                Partly => (1..of).contains(&went),
                Never => went == 0,
            };
            assert!(right, "{went} of {of} {method} {:?} went the short way: {expected:?}", kind.0);
        }
    }
    for (status, at_least) in [(200, 1_000), (206, 300), (304, 300)] {
        assert!(statuses[&status] > at_least, "{statuses:?}");
    }
}
