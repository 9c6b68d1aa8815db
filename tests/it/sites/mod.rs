//! Sites: content of HTTP origins through the edge, kept as RFC 9111 says.

mod caching;
pub mod coding;
mod coding_life;
mod disk;
mod for_whom;
pub mod origin;
pub mod purging;
mod slices;

use std::net::SocketAddr;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use metacdn::client::{AnswerBody, Body, Deadlines, Peer, empty, full};
use metacdn::edge;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use self::origin::{Origin, answer};
use crate::cluster::{Cluster, Running, wait_until};
use crate::edge_cache::cache_status;
use crate::edge_limits::raw;

/// An edge that has these sites and no cluster, and where it answers users and operators.
pub async fn edge_of_sites(sites: &[&str]) -> (Running, SocketAddr, SocketAddr) {
    edge_with(sites, |_| {}).await
}

pub async fn edge_with(sites: &[&str], change: impl FnOnce(&mut edge::Config)) -> (Running, SocketAddr, SocketAddr) {
    let cluster = Cluster::start(&[]).await;
    let site = sites.iter().map(|text| toml::from_str(text).unwrap()).collect();
    let (running, public, admin) = cluster
        .edge(|config| {
            config.seeds.clear();
            config.site = site;
            change(config);
        })
        .await;
    crate::edge::ready(admin).await;
    (running, public, admin)
}

/// A site with these origins.
pub fn site(origins: &[&Origin]) -> String {
    let urls: Vec<_> = origins.iter().map(|origin| format!("{:?}", origin.url())).collect();
    format!("name = \"site\"\nhosts = [\"site.example\"]\norigins = [{}]\n", urls.join(", "))
}

/// An edge in front of one origin that answers so.
async fn in_front_of(origin: &Origin) -> (Running, SocketAddr) {
    let (running, public, _) = edge_of_sites(&[&site(&[origin])]).await;
    (running, public)
}

/// Sends a request to the site and answers the head of what comes back.
pub async fn send(
    edge: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: Body,
) -> Response<AnswerBody> {
    let peer = Peer::origin(None, edge.into(), Deadlines::default());
    let host = (!headers.iter().any(|(name, _)| *name == "host")).then_some(("host", "site.example"));
    let mut request = Request::builder().method(method).uri(path);
    for (name, value) in headers.iter().copied().chain(host) {
        request = request.header(name, value);
    }
    peer.send(request.body(body).unwrap()).await.unwrap()
}

pub async fn whole(response: Response<AnswerBody>) -> Response<Bytes> {
    let (head, body) = response.into_parts();
    Response::from_parts(head, body.collect().await.unwrap().to_bytes())
}

pub async fn ask(edge: SocketAddr, method: &str, path: &str, headers: &[(&str, &str)]) -> Response<Bytes> {
    whole(send(edge, method, path, headers, empty()).await).await
}

pub async fn fetch(edge: SocketAddr, path: &str) -> Response<Bytes> {
    ask(edge, "GET", path, &[]).await
}

pub fn field<B>(response: &Response<B>, name: &str) -> String {
    response.headers().get(name).map_or("", |value| value.to_str().unwrap()).to_owned()
}

/// Waits until `path` is answered from memory.
pub async fn kept(edge: SocketAddr, path: &str) {
    wait_until("it is kept", async || cache_status(&fetch(edge, path).await).starts_with("metacdn; hit")).await;
}

/// An origin that reads the head of one request and then does what `serve` says.
pub async fn spoken<F>(serve: impl FnOnce(TcpStream) -> F + Send + 'static) -> String
where
    F: Future<Output = ()> + Send,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let (mut head, mut byte) = (Vec::new(), [0]);
        while !head.ends_with(b"\r\n\r\n") {
            stream.read_exact(&mut byte).await.unwrap();
            head.push(byte[0]);
        }
        serve(stream).await;
    });
    format!("name = \"site\"\nhosts = [\"site.example\"]\norigins = [\"{url}\"]")
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_origin_says_before_its_answer_is_passed_on() {
    let site = spoken(|mut stream| async move {
        let hints = b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload\r\nConnection: x\r\nx: 1\r\n\r\n";
        stream.write_all(hints).await.unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ntext").await.unwrap();
    })
    .await;
    let (_edge, public, _) = edge_of_sites(&[&site]).await;
    let mut stream = TcpStream::connect(public).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nHost: site.example\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (hints, answer) = answer.split_once("\r\n\r\n").unwrap();
    assert_eq!(hints, "HTTP/1.1 103 Early Hints\r\nlink: </style.css>; rel=preload");
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("\r\n\r\ntext"), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_changes_its_protocol_carries_it_both_ways() {
    let site = spoken(|mut stream| async move {
        let switch = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nhello ";
        stream.write_all(switch).await.unwrap();
        let (mut read, mut write) = stream.split();
        tokio::io::copy(&mut read, &mut write).await.unwrap();
    })
    .await;
    let (_edge, public, _) = edge_of_sites(&[&site]).await;
    let mut stream = TcpStream::connect(public).await.unwrap();
    let ask =
        b"GET /chat HTTP/1.1\r\nHost: site.example\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\r\nearly ";
    stream.write_all(ask).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"hello early ") {
        assert_ne!(stream.read_buf(&mut answer).await.unwrap(), 0, "{}", String::from_utf8_lossy(&answer));
    }
    let head = String::from_utf8(answer).unwrap().to_ascii_lowercase();
    assert!(head.starts_with("http/1.1 101 ") && head.contains("\r\nupgrade: websocket\r\n"), "{head}");
    stream.write_all(b"late").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).await.unwrap();
    assert_eq!(rest, b"late");
}

#[tokio::test(flavor = "multi_thread")]
async fn all_methods_and_bodies_pass_and_say_for_whom() {
    let origin = Origin::start(|asked| answer(201, &[("x-method", asked.method.as_str())], asked.body)).await;
    let (_edge, public) = in_front_of(&origin).await;
    for method in ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "BREW"] {
        let response = whole(send(public, method, "/form", &[("x-mine", "1")], full("a body")).await).await;
        assert_eq!((response.status(), field(&response, "x-method").as_str()), (StatusCode::CREATED, method));
        assert_eq!(
            (response.body().as_ref(), cache_status(&response).as_str()),
            (&b"a body"[..], "metacdn; fwd=method")
        );
    }
    let asked = &origin.asked()[0];
    let said = |name: &str| asked.field(name);
    assert_eq!((said("host").as_str(), said("x-mine").as_str()), ("site.example", "1"));
    assert_eq!((said("via").as_str(), said("cdn-loop").as_str()), ("1.1 metacdn", "metacdn"));
    assert_eq!((said("x-forwarded-for").as_str(), said("x-forwarded-host").as_str()), ("127.0.0.1", "site.example"));
    assert_eq!(said("forwarded"), "for=127.0.0.1;host=\"site.example\";proto=http");
    for method in ["CONNECT", "TRACE"] {
        let refused = raw(public, &format!("{method} / HTTP/1.1\r\nHost: site.example\r\n\r\n")).await;
        assert!(matches!(refused.status, 400 | 405), "{method}: {refused:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_client_says_of_others_before_it_is_not_believed() {
    let origin = Origin::start(|_| answer(200, &[], "")).await;
    let (_edge, public) = in_front_of(&origin).await;
    let lies = [("x-forwarded-for", "10.0.0.1"), ("forwarded", "for=10.0.0.1"), ("x-forwarded-proto", "https")];
    ask(public, "GET", "/", &lies).await;
    let asked = &origin.asked()[0];
    assert_eq!(
        (asked.field("x-forwarded-for").as_str(), asked.field("x-forwarded-proto").as_str()),
        ("127.0.0.1", "http")
    );
    let (_edge, public, _) =
        edge_with(&[&site(&[&origin])], |config| config.trusted = vec!["127.0.0.1".parse().unwrap()]).await;
    ask(public, "GET", "/", &lies).await;
    assert_eq!(origin.asked()[1].field("x-forwarded-for"), "10.0.0.1, 127.0.0.1");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_origin_that_cannot_be_reached_gives_way_to_the_next() {
    let gone = Origin::start(|_| answer(200, &[], "")).await;
    let ill = Origin::start(|_| answer(503, &[], "trouble")).await;
    let well = Origin::start(|asked| answer(200, &[("cache-control", "no-store")], asked.body)).await;
    let sites = site(&[&gone, &ill, &well]);
    drop(gone);
    let (_edge, public, _) = edge_of_sites(&[&sites]).await;
    for number in 0..50 {
        let read = fetch(public, &format!("/{number}")).await;
        assert_eq!(read.status(), StatusCode::OK, "{number}");
        let put = whole(send(public, "PUT", &format!("/{number}"), &[], full("a body")).await).await;
        // What an origin was given it may have done: its word stands, unless it is a PUT and can be said again.
        assert!(put.status() == StatusCode::OK || put.status() == StatusCode::SERVICE_UNAVAILABLE, "{}", put.status());
    }
    assert!(well.asked().len() >= 50);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_an_origin_there_is_a_502_with_a_reason() {
    let origin = Origin::start(|_| answer(200, &[], "")).await;
    let sites = site(&[&origin]);
    drop(origin);
    let (_edge, public, _) = edge_of_sites(&[&sites]).await;
    let response = fetch(public, "/").await;
    assert_eq!(
        (response.status(), field(&response, "content-type").as_str()),
        (StatusCode::BAD_GATEWAY, "application/problem+json")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_that_are_too_long_are_refused_and_circles_are_broken() {
    let origin = Origin::start(|asked| answer(200, &[], asked.body)).await;
    let sites = format!("{}request_bytes_max = 10\n", site(&[&origin]));
    let (_edge, public, _) = edge_of_sites(&[&sites]).await;
    assert_eq!(whole(send(public, "POST", "/", &[], full("0123456789")).await).await.status(), StatusCode::OK);
    assert_eq!(
        whole(send(public, "POST", "/", &[], full("0123456789x")).await).await.status(),
        StatusCode::PAYLOAD_TOO_LARGE
    );
    assert_eq!(origin.asked().len(), 1);
    let round = ask(public, "GET", "/", &[("cdn-loop", "metacdn, other; v=1, metacdn, metacdn, metacdn")]).await;
    assert_eq!(round.status(), StatusCode::LOOP_DETECTED);
    assert_eq!(ask(public, "GET", "/", &[("cdn-loop", "metacdn, other")]).await.status(), StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread")]
async fn hosts_find_their_sites() {
    let one = Origin::start(|_| answer(200, &[], "one")).await;
    let all = Origin::start(|_| answer(200, &[], "all")).await;
    let sites = [
        format!("name = \"one\"\nhosts = [\"one.example\"]\norigins = [{:?}]", one.url()),
        format!("name = \"all\"\nhosts = [\"*.example\"]\norigins = [{:?}]", all.url()),
    ];
    let (_edge, public, _) = edge_of_sites(&[&sites[0], &sites[1]]).await;
    for (host, expected) in
        [("one.example", "one"), ("ONE.example.:80", "one"), ("two.example", "all"), ("a.b.example", "all")]
    {
        let response = ask(public, "GET", "/", &[("host", host)]).await;
        assert_eq!(response.body().as_ref(), expected.as_bytes(), "{host}");
    }
    for host in ["example", "other.org"] {
        assert_eq!(ask(public, "GET", "/", &[("host", host)]).await.status(), StatusCode::FORBIDDEN, "{host}");
    }
}
