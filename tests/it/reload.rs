//! A running edge reads its configuration anew: nothing that runs is dropped, and what cannot be used changes nothing.

mod stopping;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::SystemTime;

use http::{Method, StatusCode};
use metacdn::cli::roles::{Ports, Roles, raise_file_limit};
use metacdn::config::{Draft, Effective};
use metacdn::model::Principal;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::sync::CancellationToken;

use crate::cluster::{Cluster, PATIENCE, wait_until};
use crate::edge_cache::cache_status;
use crate::protocols::{Trusted, write_pair};
use crate::sites::origin::{Asked, Origin, answer, streamed};

/// An edge that runs by a file.
pub struct ByFile {
    _cluster: Cluster,
    path: PathBuf,
    at: BTreeMap<&'static str, SocketAddr>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Drop for ByFile {
    fn drop(&mut self) {
        self.stop.cancel();
        self.task.abort();
    }
}

fn read(path: &Path) -> anyhow::Result<Effective> {
    Ok(Draft::read(path)?.build()?)
}

/// A site `name` at `NAME.example` in front of `origin`, with these lines more.
fn site(name: &str, origin: &Origin, more: &str) -> String {
    let url = origin.url();
    format!("[[edge.site]]\nname = \"{name}\"\nhosts = [\"{name}.example\"]\norigins = [{url:?}]\n{more}\n")
}

impl ByFile {
    /// Starts one whose section `[edge]` begins with these lines.
    pub async fn start(edge: &str) -> Self {
        let cluster = Cluster::start(&[]).await;
        let folder = cluster.folder.path();
        let (certificate, key) = cluster.pem(Principal::Edge("edge".parse().unwrap()));
        std::fs::write(folder.join("edge.pem"), format!("{key}{certificate}{}", cluster.authority_pem())).unwrap();
        let path = folder.join("metacdn.toml");
        write(&path, edge);
        let effective = read(&path).unwrap();
        let identity = effective.verify(SystemTime::now()).unwrap().identity;
        let mut roles = Roles::bind(&effective, identity, Ports::Exact).await.unwrap();
        let at: BTreeMap<_, _> = roles.addresses().unwrap().into_iter().collect();
        let file = path.clone();
        roles.reload_by(&effective, move || read(&file)).unwrap();
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let task = tokio::spawn(async move { roles.serve(stopped).await.unwrap() });
        crate::edge::ready(at["edge.admin_listen"]).await;
        Self { _cluster: cluster, path, at, stop, task }
    }

    pub fn public(&self) -> SocketAddr {
        self.at["edge.listen"]
    }

    /// Has it read its file as that is; answers the status and the body.
    async fn reload(&self) -> (StatusCode, Value) {
        let answer = crate::edge::ask(self.at["edge.admin_listen"], Method::POST, "/v1/reload", &[]).await;
        (answer.status(), serde_json::from_slice(answer.body()).unwrap())
    }

    /// Has it read a file whose section `[edge]` begins with these lines.
    async fn reads(&self, edge: &str) -> Value {
        write(&self.path, edge);
        let (status, body) = self.reload().await;
        assert_eq!(status, StatusCode::OK, "{body}");
        body
    }

    /// What it answers for `http://HOST/PATH`: the status, what the cache did, and the body.
    async fn ask(&self, host: &str, path: &str) -> (u16, String, String) {
        let answer = crate::edge::ask(self.public(), Method::GET, path, &[("host", host)]).await;
        let body = String::from_utf8(answer.body().clone()).unwrap();
        (answer.status().as_u16(), cache_status(&answer), body)
    }

    async fn secured(&self, config: &Arc<rustls::ClientConfig>, name: &str) -> std::io::Result<TlsStream<TcpStream>> {
        let tcp = TcpStream::connect(self.at["edge.tls_listen"]).await.unwrap();
        let name = ServerName::try_from(name.to_owned()).unwrap();
        TlsConnector::from(config.clone()).connect(name, tcp).await
    }
}

fn write(path: &Path, edge: &str) {
    let text = format!(
        "[identity]\nauthority = 'edge.pem'\ncertificate = 'edge.pem'\nkey = 'edge.pem'\n[edge]\n\
         listen = '127.0.0.1:0'\nadmin_listen = '127.0.0.1:0'\n{edge}"
    );
    std::fs::write(path, text).unwrap();
}

fn list(value: &Value) -> Vec<&str> {
    value.as_array().unwrap().iter().map(|item| item.as_str().unwrap()).collect()
}

/// An origin whose answers last for so long, if for any time, and count themselves.
async fn counting(cache_control: Option<&'static str>) -> Origin {
    let number = AtomicUsize::new(0);
    Origin::start(move |_| {
        let fields: Vec<_> = cache_control.map(|value| ("cache-control", value)).into_iter().collect();
        answer(200, &fields, number.fetch_add(1, Ordering::Relaxed).to_string())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn sites_come_change_and_go_and_what_others_have_stays() {
    let (lasting, silent, other) = (counting(Some("max-age=1000")).await, counting(None).await, counting(None).await);
    let stays = site("stays", &lasting, "");
    let edge = ByFile::start(&format!("{stays}{}", site("changes", &silent, "default_lifetime_s = 1000"))).await;
    for host in ["stays.example", "changes.example"] {
        assert_eq!(edge.ask(host, "/").await.2, "0");
        wait_until("it is kept", async || edge.ask(host, "/").await.1.starts_with("metacdn; hit")).await;
    }
    assert_eq!(edge.ask("comes.example", "/").await.0, 403);

    let comes = site("comes", &other, "");
    let changed = format!("{stays}{}{comes}", site("changes", &silent, "default_lifetime_s = 2000"));
    let told = edge.reads(&changed).await;
    assert_eq!((list(&told["changed"]), list(&told["needs_restart"])), (vec!["edge.site"], vec![]));
    let sites = &told["sites"];
    let names = ["added", "changed", "removed"].map(|what| list(&sites[what]));
    assert_eq!(names, [vec!["comes"], vec!["changes"], vec![]]);
    assert_eq!(edge.ask("comes.example", "/").await.2, "0");
    assert!(edge.ask("stays.example", "/").await.1.starts_with("metacdn; hit; ttl="));
    // What is kept of the other one is as fresh as its rules said, which hold no more.
    let (_, status, body) = edge.ask("changes.example", "/").await;
    assert_eq!((status.as_str(), body.as_str()), ("metacdn; fwd=uri-miss; stored", "1"));
    wait_until("it is kept by the new rule", async || {
        let (_, status, _) = edge.ask("changes.example", "/").await;
        status.split("ttl=").nth(1).is_some_and(|ttl| ttl.parse::<u32>().unwrap() > 1000)
    })
    .await;
    // Rules that say nothing of what is kept leave it.
    let larger = site("changes", &silent, "default_lifetime_s = 2000\nrequest_bytes_max = 7");
    assert_eq!(list(&edge.reads(&format!("{stays}{larger}")).await["sites"]["removed"]), ["comes"]);
    assert!(edge.ask("changes.example", "/").await.1.starts_with("metacdn; hit"));

    assert_eq!(list(&edge.reads(&format!("{larger}{comes}")).await["sites"]["removed"]), ["stays"]);
    assert_eq!(edge.ask("stays.example", "/").await.0, 403);
    edge.reads(&format!("{stays}{larger}")).await;
    assert_eq!(edge.ask("stays.example", "/").await.2, "1", "what comes again begins anew");
    let same = edge.reload().await.1;
    assert_eq!((list(&same["changed"]), list(&same["sites"]["changed"])), (vec![], vec![]));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_compressed_changes_for_what_is_kept_too() {
    let text = "words ".repeat(1000);
    let body = text.clone();
    let fields = [("cache-control", "max-age=1000"), ("content-type", "text/plain")];
    let origin = Origin::start(move |_| answer(200, &fields, body.clone())).await;
    let sites = site("site", &origin, "");
    let edge = ByFile::start(&sites).await;
    let coding = async || {
        let headers = [("host", "site.example"), ("accept-encoding", "gzip")];
        let answer = crate::edge::ask(edge.public(), Method::GET, "/", &headers).await;
        let field = |name: &str| answer.headers().get(name).map(|value| value.to_str().unwrap().to_owned());
        (field("content-encoding"), field("vary"), cache_status(&answer).starts_with("metacdn; hit"))
    };
    let coded = (Some("gzip".to_owned()), Some("accept-encoding".to_owned()), true);
    let lower = |(coding, vary, hit): (_, Option<String>, _)| (coding, vary.map(|vary| vary.to_ascii_lowercase()), hit);
    wait_until("it is kept and coded", async || lower(coding().await) == coded).await;
    for _ in 0..3 {
        let off = format!("{sites}[edge.compression]\ncodings = []\n");
        assert_eq!(list(&edge.reads(&off).await["changed"]), ["edge.compression.codings"]);
        for _ in 0..2 {
            assert_eq!(coding().await, (None, None, true));
        }
        edge.reads(&sites).await;
        for _ in 0..2 {
            assert_eq!(lower(coding().await), coded);
        }
    }
    assert_eq!(origin.asked().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_cannot_be_used_changes_nothing_and_says_where() {
    let origin = counting(Some("max-age=1000")).await;
    let good = site("site", &origin, "");
    let edge = ByFile::start(&good).await;
    for (bad, words) in [
        ("[[edge.site]]\nname = 'other'\n", "metacdn.toml:8:1: edge.site: "),
        ("hosts = ['a b']\n", "metacdn.toml:8:9: edge.hosts: \"a b\" is no host"),
        ("lisen = 5\n", "did you mean `listen`?"),
        ("hosts = [\n", "metacdn.toml:"),
        (
            "seeds = ['a:1']\ntls_listen = '127.0.0.1:0'\n[[edge.certificate]]\ncertificate = 'gone.pem'\nkey = 'gone.key'\n",
            "gone.pem",
        ),
    ] {
        // The site is gone from the file, too; but that is not looked at alone.
        write(&edge.path, bad);
        let (status, problem) = edge.reload().await;
        let detail = problem["detail"].as_str().unwrap();
        assert_eq!((status, &problem["status"]), (StatusCode::UNPROCESSABLE_ENTITY, &Value::from(422)), "{problem}");
        assert!(detail.contains(words) && detail.contains("nothing has changed"), "{words}: {detail}");
        assert_eq!(edge.ask("site.example", "/").await.0, 200);
    }
    std::fs::remove_file(&edge.path).unwrap();
    assert_eq!(edge.reload().await.0, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(list(&edge.reads(&good).await["changed"]), Vec::<&str>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_needs_a_restart_is_named_and_stays() {
    let origin = counting(Some("max-age=1000")).await;
    let good = site("site", &origin, "");
    let edge = ByFile::start(&good).await;
    let other = "threads = 7\nhosts = ['cdn.example']\nconnect_ms_max = 77\n";
    let told = edge.reads(&format!("{other}{good}[log]\nformat = 'json'\n")).await;
    assert_eq!(list(&told["changed"]), ["edge.hosts"]);
    let needs = list(&told["needs_restart"]);
    assert!(needs.starts_with(&["edge.connect_ms_max", "edge.threads", "log.format"]), "{needs:?}");
    // Of the store, of which this edge has none; but it is for it.
    assert_ne!(edge.ask("cdn.example", "/x").await.0, 403);
    assert_eq!(list(&edge.reload().await.1["needs_restart"]), needs, "until it is started anew");
}

#[tokio::test(flavor = "multi_thread")]
async fn origins_that_stay_are_known_as_before() {
    let ill = Origin::start(|_| answer(503, &[], "trouble")).await;
    let well = Origin::start(|_| answer(200, &[("cache-control", "no-store")], "well")).await;
    let both = |more: &str| {
        let (ill, well) = (ill.url(), well.url());
        format!("[[edge.site]]\nname = 'site'\nhosts = ['site.example']\norigins = ['{ill}', '{well}']\n{more}\n")
    };
    let edge = ByFile::start(&both("")).await;
    // It is asked until it has failed often enough to come last.
    let number = AtomicUsize::new(0);
    wait_until("it is passed over", async || {
        let number = number.fetch_add(1, Ordering::Relaxed);
        let before = ill.asked().len();
        for path in 0..8 {
            assert_eq!(edge.ask("site.example", &format!("/{number}/{path}")).await.0, 200);
        }
        ill.asked().len() == before && before > 0
    })
    .await;
    let asked = ill.asked().len();
    for round in 0..10 {
        edge.reads(&both(&format!("request_bytes_max = {}", round + 1))).await;
        for path in 0..4 {
            assert_eq!(edge.ask("site.example", &format!("/again/{round}/{path}")).await.0, 200);
        }
    }
    // One of which nothing is known is asked in each round.
    assert!(ill.asked().len() < asked + 10, "{} after {asked}", ill.asked().len());
}

#[tokio::test(flavor = "multi_thread")]
async fn whose_headers_are_believed_changes() {
    let origin = Origin::start(|asked| answer(200, &[], asked.field("x-forwarded-for"))).await;
    let sites = site("site", &origin, "");
    let edge = ByFile::start(&sites).await;
    let ask = async || {
        let mut stream = TcpStream::connect(edge.public()).await.unwrap();
        let head = "GET / HTTP/1.1\r\nHost: site.example\r\nConnection: close\r\n\r\n";
        let all = format!("PROXY TCP4 192.0.2.7 198.51.100.1 56324 80\r\n{head}");
        stream.write_all(all.as_bytes()).await.unwrap();
        let mut text = String::new();
        timeout(PATIENCE, stream.read_to_string(&mut text)).await.unwrap().unwrap();
        (text[9..12].to_owned(), text.rsplit("\r\n").next().unwrap().to_owned())
    };
    assert_eq!(ask().await.0, "400");
    let told = edge.reads(&format!("proxy_protocol_from = ['127.0.0.0/8']\n{sites}")).await;
    assert_eq!(list(&told["changed"]), ["edge.proxy_protocol_from"]);
    assert_eq!(ask().await, ("200".to_owned(), "192.0.2.7".to_owned()));
    edge.reads(&sites).await;
    assert_eq!(ask().await.0, "400");
}

fn der(pem: &str) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()
}

fn shown(stream: &TlsStream<TcpStream>) -> CertificateDer<'static> {
    stream.get_ref().1.peer_certificates().unwrap()[0].clone().into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_certificate_is_shown_to_new_handshakes_at_once() {
    let origin = counting(Some("max-age=1000")).await;
    let sites = format!("{}{}", site("one", &origin, ""), site("two", &origin, ""));
    let text = |names: &[&str]| {
        let pairs =
            names.iter().map(|name| format!("[[edge.certificate]]\ncertificate = '{name}.pem'\nkey = '{name}.key'\n"));
        let pairs: String = pairs.collect();
        // Looked at by itself it would be only after an hour.
        format!("tls_listen = '127.0.0.1:0'\nhttp3 = false\ncertificate_check_ms = 3600000\n{pairs}{sites}")
    };
    let (authority, folder) = (Trusted::new(), tempfile::tempdir().unwrap());
    let one = authority.issue(&["one.example"], &rcgen::PKCS_ECDSA_P256_SHA256);
    write_pair(folder.path(), "one", &one);
    let absolute = |names: &[&str]| {
        text(
            &names
                .iter()
                .map(|name| folder.path().join(name).display().to_string())
                .collect::<Vec<_>>()
                .iter()
                .map(String::as_str)
                .collect::<Vec<_>>(),
        )
    };
    let edge = ByFile::start(&absolute(&["one"])).await;
    let client = Arc::new(authority.client(&[]));
    let mut before = edge.secured(&client, "one.example").await.unwrap();
    assert_eq!(shown(&before), der(&one.0));
    assert!(edge.secured(&client, "two.example").await.is_err());

    for _ in 0..5 {
        let new = authority.issue(&["one.example"], &rcgen::PKCS_ECDSA_P256_SHA256);
        write_pair(folder.path(), "one", &new);
        assert_eq!(list(&edge.reload().await.1["changed"]), ["edge.certificate"]);
        assert_eq!(shown(&edge.secured(&client, "one.example").await.unwrap()), der(&new.0));
    }
    let two = authority.issue(&["two.example"], &rcgen::PKCS_ED25519);
    write_pair(folder.path(), "two", &two);
    assert_eq!(list(&edge.reads(&absolute(&["one", "two"])).await["changed"]), ["edge.certificate"]);
    assert_eq!(shown(&edge.secured(&client, "two.example").await.unwrap()), der(&two.0));
    edge.reads(&absolute(&["two"])).await;
    assert!(edge.secured(&client, "one.example").await.is_err());
    // Whoever is there goes on with what he was shown.
    before.write_all(b"GET / HTTP/1.1\r\nHost: one.example\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut text = String::new();
    before.read_to_string(&mut text).await.unwrap();
    assert!(text.starts_with("HTTP/1.1 200 "), "{text}");
}

/// Reads answers of the edge `at` in plain HTTP/1.1: the first part of one, and the rest once it comes.
async fn held_by_http1(at: SocketAddr, number: usize, begun: &AtomicUsize) {
    let mut stream = TcpStream::connect(at).await.unwrap();
    let head = format!("GET /held/{number} HTTP/1.1\r\nHost: site.example\r\nConnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut text = Vec::new();
    while !text.windows(6).any(|part| part == b"first ") {
        assert_ne!(stream.read_buf(&mut text).await.unwrap(), 0, "{}", String::from_utf8_lossy(&text));
    }
    begun.fetch_add(1, Ordering::Relaxed);
    stream.read_to_end(&mut text).await.unwrap();
    let text = String::from_utf8(text).unwrap();
    assert!(text.starts_with("HTTP/1.1 200 OK\r\n") && text.ends_with("6\r\nsecond\r\n0\r\n\r\n"), "{text}");
}

/// The same as a stream of a connection by HTTP/2.
async fn held_by_http2(requests: h2::client::SendRequest<bytes::Bytes>, number: usize, begun: &AtomicUsize) {
    let uri = format!("https://site.example/held/{number}");
    let mut requests = requests.ready().await.unwrap();
    let (response, _) = requests.send_request(http::Request::get(uri).body(()).unwrap(), true).unwrap();
    let (head, mut body) = response.await.unwrap().into_parts();
    assert_eq!(head.status, StatusCode::OK);
    let mut text = Vec::new();
    let mut counted = false;
    while let Some(data) = body.data().await {
        text.extend_from_slice(&data.unwrap());
        if !counted && text == b"first " {
            counted = true;
            begun.fetch_add(1, Ordering::Relaxed);
        }
    }
    assert!(counted && text == b"first second", "{}", String::from_utf8_lossy(&text));
}

/// What the held requests wait for, and an origin of theirs that answers all others at once.
async fn holding() -> (watch::Sender<bool>, Origin) {
    let (release, released) = watch::channel(false);
    let origin = Origin::start(move |asked: Asked| {
        if !asked.uri.path().starts_with("/held/") {
            return answer(200, &[("cache-control", "max-age=1000")], "quick");
        }
        let (parts, response) = streamed(&[("cache-control", "no-store")]);
        let mut released = released.clone();
        tokio::spawn(async move {
            parts.send("first ").await;
            released.wait_for(|released| *released).await.unwrap();
            parts.send("second").await;
            parts.end();
        });
        response
    })
    .await;
    (release, origin)
}

#[tokio::test(flavor = "multi_thread")]
async fn two_thousand_requests_outlast_fifty_reloads() {
    const HELD: usize = 2000;
    const RELOADS: usize = 50;
    // Each of them is two connections, and both their ends are here.
    raise_file_limit(12_000);
    let (release, origin) = holding().await;
    let (authority, folder) = (Trusted::new(), tempfile::tempdir().unwrap());
    write_pair(folder.path(), "site", &authority.issue(&["site.example"], &rcgen::PKCS_ECDSA_P256_SHA256));
    let begin = format!(
        "tls_listen = '127.0.0.1:0'\nhttp3 = false\nnode_requests_max = 4000\n[[edge.certificate]]\n\
         certificate = '{0}/site.pem'\nkey = '{0}/site.key'\n",
        folder.path().display()
    );
    let edge = ByFile::start(&format!("{begin}{}", site("site", &origin, ""))).await;
    let (begun, stop) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    let (mut held, mut quick) = (JoinSet::new(), JoinSet::new());
    for number in 0..HELD / 2 {
        let (public, begun) = (edge.public(), begun.clone());
        held.spawn(async move { held_by_http1(public, number, &begun).await });
    }
    let client = Arc::new(authority.client(&["h2"]));
    for connection in 0..10 {
        let stream = edge.secured(&client, "site.example").await.unwrap();
        let (requests, driver) = h2::client::handshake(stream).await.unwrap();
        held.spawn(async move { driver.await.unwrap() });
        for number in 0..HELD / 20 {
            let (requests, begun) = (requests.clone(), begun.clone());
            held.spawn(async move { held_by_http2(requests, HELD + connection * 1000 + number, &begun).await });
        }
    }
    wait_until("all have begun", async || begun.load(Ordering::Relaxed) == HELD).await;
    for worker in 0..4 {
        let (public, stop) = (edge.public(), stop.clone());
        quick.spawn(async move {
            let mut count = 0;
            while !stop.load(Ordering::Relaxed) {
                let path = format!("/{worker}/{}", count / 2);
                let answer = crate::edge::ask(public, Method::GET, &path, &[("host", "site.example")]).await;
                assert_eq!((answer.status(), answer.body().as_slice()), (StatusCode::OK, &b"quick"[..]));
                count += 1;
            }
            count
        });
    }
    for number in 0..RELOADS {
        let lifetime = format!("default_lifetime_s = {number}");
        let other = if number % 2 == 0 { site("other", &origin, "") } else { String::new() };
        if number % 10 == 9 {
            write(&edge.path, "[[edge.site]]\nname = 'site'\n");
            assert_eq!(edge.reload().await.0, StatusCode::UNPROCESSABLE_ENTITY);
        }
        let told = edge.reads(&format!("{begin}{}{other}", site("site", &origin, &lifetime))).await;
        assert_eq!(list(&told["changed"]), ["edge.site"], "{number}");
    }
    stop.store(true, Ordering::Relaxed);
    assert!(quick.join_all().await.into_iter().all(|count: usize| count > 0));
    assert_eq!(begun.load(Ordering::Relaxed), HELD);
    release.send(true).unwrap();
    let ended = async {
        while let Some(ended) = held.join_next().await {
            ended.unwrap();
        }
    };
    timeout(PATIENCE, ended).await.expect("all end");
    assert_eq!(origin.asked().iter().filter(|asked| asked.uri.path().starts_with("/held/")).count(), HELD);
}
