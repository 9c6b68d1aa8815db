//! Early hints: what a page will need, told while its origin takes its time.

use std::net::SocketAddr;
use std::sync::Arc;

use http::{HeaderMap, StatusCode};
use metacdn::client::{Deadlines, Peer, full};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use super::clients::{Client, Protocol};
use super::{Answer, Secure, request};
use crate::cluster::{Cluster, wait_until};
use crate::edge::fetch;

const LINKS: &str =
    "Link: </a.css>; rel=preload; as=style, </next>; rel=next\r\nLink: <https://b.example>;rel=preconnect\r\n";

/// An origin that answers a request for each permit that it is given, and those of sites in front of it.
async fn gated() -> (Vec<String>, Arc<Semaphore>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let gate = Arc::new(Semaphore::new(0));
    let open = gate.clone();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::spawn(answer(stream, open.clone()));
        }
    });
    let site = |name: &str, more: &str| {
        format!("name = \"{name}\"\nhosts = [\"{name}.example\", \"*.{name}.example\"]\norigins = [{url:?}]\n{more}")
    };
    (vec![site("site", "early_hints = true"), site("more", "")], gate)
}

async fn answer(mut stream: TcpStream, gate: Arc<Semaphore>) {
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).await.unwrap();
        head.push(byte[0]);
    }
    gate.acquire().await.unwrap().forget();
    let head = String::from_utf8(head).unwrap().to_ascii_lowercase();
    let links = match &head {
        head if head.contains("/unlinked") => String::new(),
        head if head.contains("/long") => format!("Link: </{}>; rel=preload\r\n", "x".repeat(1_000)),
        _ => LINKS.to_owned(),
    };
    let control = match &head {
        head if head.contains("/private") => "private",
        head if head.contains("/shared") => "public, no-cache",
        _ => "no-cache",
    };
    let answer = match head.contains("if-none-match") {
        true => "HTTP/1.1 304 Not Modified\r\nETag: \"v\"\r\nConnection: close\r\n\r\n".to_owned(),
        false => format!(
            "HTTP/1.1 200 OK\r\nETag: \"v\"\r\nCache-Control: {control}\r\nConnection: close\r\n\
             Content-Length: 4\r\n{links}\r\npage"
        ),
    };
    stream.write_all(answer.as_bytes()).await.unwrap();
}

/// The answer, for which the origin waits until `count` interim answers have come, and the links in those.
async fn ask(client: &mut Client, gate: &Semaphore, ask: http::Request<()>, count: usize) -> (Answer, Vec<String>) {
    let mut told = client.interim();
    let letting = async {
        let mut early = Vec::new();
        for _ in 0..count {
            early.push(told.recv().await.unwrap());
        }
        gate.add_permits(1);
        early
    };
    let (answer, mut early) = tokio::join!(client.ask(ask), letting);
    early.extend(std::iter::from_fn(|| told.try_recv().ok()));
    let of = |(status, headers): &(u16, HeaderMap)| {
        assert_eq!((*status, headers.len()), (103, headers.get_all("link").iter().count()));
        headers.get_all("link").iter().map(|link| link.to_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let links = early.iter().flat_map(of).collect();
    (answer, links)
}

async fn purge(admin: SocketAddr, what: &'static str) {
    let request = http::Request::post("/v1/purges").header("host", admin.to_string());
    let request = request.header("content-type", "application/json").body(full(what)).unwrap();
    let purged = Peer::origin(None, admin.into(), Deadlines::default()).send(request).await.unwrap();
    assert_eq!(purged.status(), StatusCode::NO_CONTENT);
}

const EARLY: [&str; 2] = ["</a.css>; rel=preload; as=style", "<https://b.example>;rel=preconnect"];

#[tokio::test(flavor = "multi_thread")]
async fn whoever_waits_for_an_origin_is_told_what_the_page_will_need() {
    let (sites, gate) = gated().await;
    let secure = Secure::start(&sites.iter().map(String::as_str).collect::<Vec<_>>()).await;
    for protocol in Protocol::ALL {
        let mut client = Client::connect(&secure, *protocol, "site.example").await;
        let path = format!("/{}", protocol.version());
        let page = || request("GET", "site.example", &path, &[]);
        let (first, links) = ask(&mut client, &gate, page(), 0).await;
        assert_eq!((first.status, links.len()), (200, 0), "{protocol:?}: nothing is known of it");
        // By HTTP/1.1 nobody is told.
        let expected = if *protocol == Protocol::Http1 { &[][..] } else { &EARLY };
        let mut client = Client::connect(&secure, *protocol, "site.example").await;
        for _ in 0..2 {
            let (again, links) = ask(&mut client, &gate, page(), usize::from(!expected.is_empty())).await;
            assert_eq!((again.status, &again.body[..]), (200, &b"page"[..]));
            assert_eq!(links, expected, "{protocol:?}");
        }
    }
    let metrics = String::from_utf8(fetch(secure.admin, "/metrics").await.into_body()).unwrap();
    let told = 2 * (Protocol::ALL.len() - 1);
    assert!(metrics.contains(&format!("metacdn_edge_early_hints_total {told}\n")), "{metrics}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_told_that_is_not_known_asked_for_or_allowed() {
    let (sites, gate) = gated().await;
    let secure = Secure::start(&sites.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let mut client = Client::connect(&secure, Protocol::Http2, "site.example").await;
    let page = || request("GET", "site.example", "/page", &[]);
    for (ask_for, what) in [
        (page(), "nothing is known of it"),
        (request("HEAD", "site.example", "/page", &[]), "HEAD"),
        (request("GET", "site.example", "/page", &[("range", "bytes=0-1")]), "a part"),
        (request("GET", "site.example", "/unlinked", &[]), "nothing is known of it"),
        (request("GET", "site.example", "/unlinked", &[]), "it has no links"),
        (request("GET", "site.example", "/private", &[]), "nothing is known of it"),
        (request("GET", "site.example", "/private", &[]), "it is for one client"),
        (request("GET", "a.more.example", "/page", &[]), "nothing is known of it"),
        (request("GET", "a.more.example", "/page", &[]), "the site tells nobody"),
    ] {
        let (answer, links) = ask(&mut client, &gate, ask_for, 0).await;
        assert!(matches!(answer.status, 200 | 206) && links.is_empty(), "{what}: {links:?}");
    }
    assert_eq!(ask(&mut client, &gate, page(), 1).await.1, EARLY);
    purge(secure.admin, r#"{"host": "site.example"}"#).await;
    assert_eq!(ask(&mut client, &gate, page(), 0).await.1, [""; 0], "it was purged");
    assert_eq!(ask(&mut client, &gate, page(), 1).await.1, EARLY);
    purge(secure.admin, r#"{"host": "site.example", "soft": true}"#).await;
    assert_eq!(ask(&mut client, &gate, page(), 0).await.1, [""; 0], "it may be wrong");
    assert_eq!(ask(&mut client, &gate, page(), 1).await.1, EARLY, "it is right still");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_client_was_given_is_told_to_no_other() {
    let (sites, gate) = gated().await;
    let secure = Secure::start(&[&sites[0]]).await;
    let mut client = Client::connect(&secure, Protocol::Http2, "site.example").await;
    for (path, field) in [("/page", ("cookie", "a=b")), ("/shared", ("authorization", "Basic x"))] {
        for (fields, count, what) in [
            (&[field][..], 0, "nothing is known of it"),
            (&[], 0, "it was given to one who said who he is"),
            (&[], 1, "it was given to one who did not"),
            (&[field], 0, "who says who he is may get another one"),
            (&[], 0, "it was given to him, too"),
            (&[], 1, "it was not"),
        ] {
            let (answer, links) = ask(&mut client, &gate, request("GET", "site.example", path, fields), count).await;
            assert_eq!((answer.status, links.len()), (200, 2 * count), "{path}: {what}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edge_that_hears_of_no_purges_tells_nothing() {
    let mut cluster = Cluster::start(&["AWS"]).await;
    let (sites, gate) = gated().await;
    let site = toml::from_str(&sites[0]).unwrap();
    let secure = Secure::in_front_of(&cluster, |config| config.site = vec![site]).await;
    let client = tokio::sync::Mutex::new(Client::connect(&secure, Protocol::Http2, "site.example").await);
    let links = async |count| {
        let page = request("GET", "site.example", "/page", &[]);
        ask(&mut *client.lock().await, &gate, page, count).await.1.len()
    };
    assert_eq!((links(0).await, links(1).await), (0, 2));
    cluster.stop("AWS").await;
    wait_until("nothing is told", async || links(0).await == 0).await;
    assert_eq!(links(0).await, 0);
    cluster.restart("AWS").await;
    wait_until("it hears again", async || links(0).await == 2).await;
}

#[cfg(feature = "http3")]
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_takes_no_hints_holds_up_nobody() {
    let (sites, gate) = gated().await;
    let secure = Secure::start_with(&[&sites[0]], |config| config.serve.stall_timeout_ms = 300_000).await;
    let page = || request("GET", "site.example", "/long", &[]);
    let mut client = Client::connect(&secure, Protocol::Http2, "site.example").await;
    ask(&mut client, &gate, page(), 0).await;
    // It has room for less than one line.
    let mut transport = quinn::TransportConfig::default();
    transport.stream_receive_window(200_u32.into());
    let tls = secure.authority.client(&["h3"]);
    let (_endpoint, connection) = super::http3::connect_with(secure.tls, tls, "site.example", transport).await.unwrap();
    let (mut driver, mut requests) = h3::client::new(h3_quinn::Connection::new(connection)).await.unwrap();
    tokio::spawn(async move { driver.wait_idle().await });
    let mut stream = requests.send_request(page()).await.unwrap();
    stream.finish().await.unwrap();
    wait_until("it is told", async || {
        let metrics = String::from_utf8(fetch(secure.admin, "/metrics").await.into_body()).unwrap();
        metrics.contains("metacdn_edge_early_hints_total 1\n")
    })
    .await;
    // The origin answers both.
    gate.add_permits(1);
    let (answer, links) = ask(&mut client, &gate, page(), 1).await;
    assert_eq!((answer.status, links.len()), (200, 1));
}
