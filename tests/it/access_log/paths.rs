//! HTTP/1.1: every way to an answer, and every way in which one ends.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http::Method;
use metacdn::edge;
use metacdn::model::Network;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::oneshot;

use super::{Log, only};
use crate::cluster::{Cluster, Running, put, wait_until};
use crate::edge::{ask, ready};
use crate::edge_limits::raw;
use crate::sites::origin::{Origin, answer, streamed};
use crate::sites::spoken;

async fn origin() -> Origin {
    Origin::start(|asked| match asked.uri.path() {
        "/kept" => answer(200, &[("cache-control", "max-age=999"), ("etag", "\"v\"")], "of the origin"),
        path @ ("/chunked" | "/parts") => {
            let (parts, response) =
                streamed(&[("cache-control", if path == "/parts" { "max-age=999" } else { "no-store" })]);
            tokio::spawn(async move {
                parts.send("in ").await;
                parts.send("parts").await;
                parts.end();
            });
            response
        }
        "/large" => answer(200, &[("cache-control", "no-store")], vec![b'x'; 64 << 20]),
        "/gone" => answer(410, &[("cache-control", "no-store")], "gone"),
        _ => answer(200, &[("cache-control", "no-store")], asked.body),
    })
    .await
}

/// What of a line an answer cannot show.
fn cache(line: &Value) -> String {
    let text = |name: &str| line[name].as_str().unwrap_or("-").to_owned();
    format!("{} {} {} {}", text("cache"), text("node"), text("site"), line["tries"])
}

#[tokio::test(flavor = "multi_thread")]
async fn each_answer_has_one_line_that_says_what_its_client_saw() {
    let (log, cluster, origin) = (Log::new(), Cluster::start(&["AWS"]).await, origin().await);
    put(&cluster.client("AWS"), "a.txt", "an object of the store").await;
    let site = format!(
        "name = \"shop\"\nhosts = [\"site.example\"]\norigins = [{{ url = {:?}, name = \"o\" }}]",
        origin.url()
    );
    let change = |config: &mut edge::Config| {
        config.site = vec![toml::from_str(&site).unwrap()];
        log.configure(config);
    };
    let (running, public, admin) = cluster.edge(change).await;
    ready(admin).await;
    crate::edge_cache::kept(public, "/a.txt?").await;
    let (store, site) = ("localhost", "site.example");
    let long = ("pragma", "nothing");
    let range = ("range", "bytes=3-8");
    let condition = ("if-none-match", "\"v\"");
    let none = ("x", "y");
    let requests = [
        // The short way and the long one.
        (store, "GET", "/a.txt", none, "hit - - null"),
        (store, "HEAD", "/a.txt", none, "hit - - null"),
        (store, "GET", "/a.txt", long, "hit - - null"),
        (store, "GET", "/a.txt", range, "hit - - null"),
        (store, "GET", "/missing?x=1", none, "- - - null"),
        (store, "POST", "/a.txt", none, "- - - null"),
        ("other.org", "GET", "/a.txt", none, "- - - null"),
        (site, "GET", "/kept", none, "miss o shop 1"),
        (site, "GET", "/kept", none, "hit - shop null"),
        (site, "HEAD", "/kept", none, "hit - shop null"),
        (site, "GET", "/kept", long, "hit - shop null"),
        (site, "GET", "/kept", condition, "hit - shop null"),
        (site, "GET", "/chunked", none, "passed o shop 1"),
        (site, "GET", "/gone", none, "passed o shop 1"),
        (site, "PUT", "/any", none, "passed o shop 1"),
        (site, "GET", "/parts", none, "miss o shop 1"),
        (site, "GET", "/parts", none, "hit - shop null"),
        (site, "GET", "/parts", long, "hit - shop null"),
    ];
    let mut seen = Vec::new();
    for (number, (host, method, target, field, _)) in requests.iter().enumerate() {
        let agent = format!("agent {number}");
        let headers = [("host", *host), ("user-agent", &agent), ("referer", "http://r.example/"), *field];
        seen.push(ask(public, method.parse::<Method>().unwrap(), target, &headers).await);
    }
    running.stop().await;
    let lines = log.lines();
    for (number, ((host, method, target, field, cached), seen)) in requests.iter().zip(&seen).enumerate() {
        let line = only(&lines, "user_agent", &format!("agent {number}"));
        assert_eq!(
            (&line["status"], &line["bytes"]),
            (&json!(seen.status().as_u16()), &json!(seen.body().len())),
            "{line}"
        );
        let asked = [&line["method"], &line["host"], &line["target"], &line["referer"], &line["client"]];
        assert_eq!(asked, [*method, host, target, "http://r.example/", "127.0.0.1"]);
        assert_eq!((&line["complete"], &line["protocol"], &line["tls"]), (&json!(true), &json!("1.1"), &json!(false)));
        assert_eq!(cache(line), *cached, "{line}");
        assert_eq!(line["range"].as_str(), (field.0 == "range").then_some(field.1));
        let [first_byte, total] = ["first_byte_us", "total_us"].map(|name| line[name].as_u64().unwrap());
        assert!(first_byte <= total, "{line}");
    }
    let of = |number| only(&lines, "user_agent", &format!("agent {number}")).clone();
    assert_eq!([&of(0)["size_bytes"], &of(1)["size_bytes"], &of(3)["size_bytes"]], [22, 22, 22]);
    assert_eq!([&of(16)["size_bytes"], &of(17)["size_bytes"]], [8, 8]);
    assert_eq!([7, 12, 15].map(|miss| of(miss)["fetched_bytes"].clone()), [13, 8, 8]);
    assert!([0, 2, 8, 10, 16, 17].iter().all(|hit| of(*hit)["fetched_bytes"].is_null()));
    assert_eq!((&of(7)["reason"], &of(7)["policy"]), (&json!("unpriced"), &json!("p")));
    assert!((1..=999).contains(&of(8)["ttl_s"].as_i64().unwrap()));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_refused_has_its_line_too() {
    let log = Log::new();
    let change = |config: &mut edge::Config| log.configure(config);
    let (running, public, _) =
        crate::sites::edge_with(&["name = \"s\"\nhosts = [\"s.example\"]\norigins = [\"http://127.0.0.1:9\"]"], change)
            .await;
    let requests = [
        ("nonsense\r\n\r\n".to_owned(), Value::Null),
        ("GET /no-host HTTP/1.1\r\n\r\n".to_owned(), json!("/no-host")),
        ("GET /version HTTP/3.0\r\nHost: s.example\r\n\r\n".to_owned(), json!("/version")),
        (format!("GET /head HTTP/1.1\r\nHost: s.example\r\nx: {}\r\n\r\n", "x".repeat(20_000)), json!("/head")),
        (format!("GET /{} HTTP/1.1\r\nHost: s.example\r\n\r\n", "x".repeat(9_000)), Value::Null),
        ("GET /expects HTTP/1.1\r\nHost: s.example\r\nExpect: more\r\n\r\n".to_owned(), json!("/expects")),
        ("GET /down HTTP/1.1\r\nHost: s.example\r\nConnection: close\r\n\r\n".to_owned(), json!("/down")),
        ("CONNECT s.example:443 HTTP/1.1\r\nHost: s.example:443\r\n\r\n".to_owned(), Value::Null),
    ];
    let mut seen = Vec::new();
    for (request, _) in &requests {
        seen.push(raw(public, request).await);
    }
    running.stop().await;
    let mut lines = log.lines();
    assert_eq!(lines.len(), requests.len(), "{lines:#?}");
    // Each connection has a thread of its own, and threads have no order.
    lines.sort_by(|a, b| a["time"].as_str().cmp(&b["time"].as_str()));
    let statuses: Vec<_> = seen.iter().map(|answer| answer.status).collect();
    assert_eq!(statuses, [400, 400, 505, 431, 414, 417, 502, 405]);
    for ((answer, line), (_, target)) in seen.iter().zip(&lines).zip(&requests) {
        assert_eq!((&line["status"], &line["bytes"]), (&json!(answer.status), &json!(answer.body.len())), "{line}");
        assert!(line["complete"] == true, "{line}");
        match answer.status {
            // It had not all come.
            414 => assert!(line["target"].as_str().unwrap().starts_with("/xxx"), "{line}"),
            _ => assert_eq!(&line["target"], target, "{line}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_for_which_there_is_no_place_have_a_line() {
    turned_away(&[], "", "127.0.0.1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_a_proxy_passes_on_have_a_line_of_their_client() {
    let header = "PROXY TCP4 192.0.2.7 198.51.100.1 56324 80\r\n";
    turned_away(&["127.0.0.0/8".parse().unwrap()], header, "192.0.2.7").await;
}

/// Has a connection turned away that begins with a `header`, as others from these proxies do: its line is of `client`.
async fn turned_away(proxies: &[Network], header: &str, client: &str) {
    let log = Log::new();
    let change = |config: &mut edge::Config| {
        config.serve.connections_max = 1;
        config.proxy_protocol_from = proxies.to_vec();
        log.configure(config);
    };
    let (running, public, _) =
        crate::sites::edge_with(&["name = \"s\"\nhosts = [\"s.example\"]\norigins = [\"http://127.0.0.1:9\"]"], change)
            .await;
    let mut first = TcpStream::connect(public).await.unwrap();
    first.write_all(format!("{header}GET / HTTP/1.1\r\nHost: s.example\r\n\r\n").as_bytes()).await.unwrap();
    let mut byte = [0];
    first.read_exact(&mut byte).await.unwrap();
    let mut second = TcpStream::connect(public).await.unwrap();
    second.write_all(header.as_bytes()).await.unwrap();
    let mut told = Vec::new();
    second.read_to_end(&mut told).await.unwrap();
    let told = crate::answers::Answer::parse(&told);
    assert_eq!(told.status, 503);
    drop(first);
    running.stop().await;
    let lines = log.lines();
    let line = lines.iter().find(|line| line["status"] == 503).unwrap();
    assert_eq!((lines.len(), &line["bytes"], &line["complete"]), (2, &json!(told.body.len()), &json!(true)));
    assert_eq!(lines.iter().map(|line| line["client"].as_str().unwrap()).collect::<Vec<_>>(), [client, client]);
}

/// A connection whose end is a reset, with this request on it.
async fn abrupt(public: std::net::SocketAddr, target: &str) -> TcpStream {
    let mut stream = TcpStream::connect(public).await.unwrap();
    rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO)).unwrap();
    let request = format!("GET {target} HTTP/1.1\r\nHost: site.example\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    stream
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_that_were_cut_short_say_how_much_was_sent() {
    let (log, origin) = (Log::new(), origin().await);
    let site = format!("name = \"site\"\nhosts = [\"site.example\"]\norigins = [{:?}]", origin.url());
    // Two more: one breaks off, one never answers.
    let broken = spoken(|mut stream| async move {
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n0123456789").await.unwrap();
    });
    let asked = Arc::new(AtomicBool::new(false));
    let told = asked.clone();
    let silent = spoken(|mut stream| async move {
        told.store(true, Ordering::Release);
        drop(stream.read_to_end(&mut Vec::new()).await);
    });
    let broken = broken.await.replace("\"site\"", "\"broken\"").replace("site.example", "broken.example");
    let silent = silent.await.replace("\"site\"", "\"silent\"").replace("site.example", "silent.example");
    let change = |config: &mut edge::Config| log.configure(config);
    let (running, public, _) = crate::sites::edge_with(&[&site, &broken, &silent], change).await;

    let mut cut = abrupt(public, "/large").await;
    let mut part = vec![0; 100_000];
    cut.read_exact(&mut part).await.unwrap();
    drop(cut);
    let short = raw(public, "GET /short HTTP/1.1\r\nHost: broken.example\r\n\r\n").await;
    assert_eq!(short.body, b"0123456789");
    let mut left = TcpStream::connect(public).await.unwrap();
    rustix::net::sockopt::set_socket_linger(&left, Some(Duration::ZERO)).unwrap();
    left.write_all(b"GET /never HTTP/1.1\r\nHost: silent.example\r\n\r\n").await.unwrap();
    wait_until("the origin is asked", async || asked.load(Ordering::Acquire)).await;
    drop(left);
    running.stop().await;
    let lines = log.lines();
    assert_eq!(lines.len(), 3, "{lines:#?}");
    let cut = only(&lines, "target", "/large");
    let sent = cut["bytes"].as_u64().unwrap();
    assert_eq!((&cut["status"], &cut["complete"]), (&json!(200), &json!(false)));
    assert!((99_000..64 << 20).contains(&sent), "{cut}");
    let short = only(&lines, "target", "/short");
    assert_eq!((&short["status"], &short["complete"], &short["bytes"]), (&json!(200), &json!(false), &json!(10)));
    let never = only(&lines, "target", "/never");
    assert_eq!((&never["status"], &never["complete"], &never["bytes"]), (&json!(499), &json!(false), &json!(0)));
    assert!(never["first_byte_us"].is_null());
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_that_never_began_are_no_answers() {
    let origin = Origin::start(|_| answer(200, &[("cache-control", "max-age=999")], vec![b'x'; 15_000])).await;
    let log = Log::new();
    let change = |config: &mut edge::Config| log.configure(config);
    let site = format!("name = \"site\"\nhosts = [\"site.example\"]\norigins = [{:?}]", origin.url());
    let (running, public, _) = crate::sites::edge_with(&[&site], change).await;
    wait_until("it is kept", async || {
        let answer = ask(public, Method::GET, "/", &[("host", "site.example")]).await;
        answer.headers()["cache-status"].to_str().unwrap().starts_with("metacdn; hit")
    })
    .await;
    // Sixteen go out together. Which of them the system takes before it is full nobody knows; seldom it is just all.
    for client in 0..6 {
        let mut stream = abrupt(public, "/").await;
        let request = format!("GET / HTTP/1.1\r\nHost: site.example\r\nUser-Agent: {client}\r\n\r\n");
        let (mut read, mut write) = stream.split();
        let sending = async { write.write_all(request.repeat(2_000).as_bytes()).await.unwrap() };
        let mut part = vec![0; 1 << 20];
        let length = part.len();
        tokio::select! {
            _ = async { sending.await; std::future::pending::<()>().await } => {}
            read = read.read_exact(&mut part) => assert_eq!(read.unwrap(), length),
        }
    }
    running.stop().await;
    let lines = log.lines();
    let (begun, others): (Vec<_>, Vec<_>) = lines.iter().partition(|line| line["status"] == 200);
    assert!(!others.is_empty(), "{} answers began", begun.len());
    for line in others {
        assert_eq!((&line["status"], &line["bytes"], &line["complete"]), (&json!(499), &json!(0), &json!(false)));
        assert!(line["first_byte_us"].is_null() && line["cache"] == "hit", "{line}");
    }
    // Of the last one that the system took, the head may be all.
    for client in (0..6).map(|client| client.to_string()) {
        let heads = begun.iter().filter(|line| line["user_agent"] == client && line["bytes"] == 0);
        assert!(heads.count() <= 1, "{begun:#?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_left_before_the_first_byte_went_out_had_no_answer() {
    let (log, (tell, told), (open, opened)) = (Log::new(), oneshot::channel(), oneshot::channel());
    let site = spoken(|mut stream| async move {
        tell.send(()).unwrap();
        opened.await.unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\npage").await.unwrap();
    })
    .await;
    let change = |config: &mut edge::Config| log.configure(config);
    let (running, public, _) = crate::sites::edge_with(&[&site], change).await;
    let mut left = TcpStream::connect(public).await.unwrap();
    left.set_zero_linger().unwrap();
    // With so much sent ahead nobody looks whether it is there still.
    let request = "GET / HTTP/1.1\r\nHost: site.example\r\n\r\n".repeat(1_000);
    left.write_all(request.as_bytes()).await.unwrap();
    told.await.unwrap();
    drop(left);
    open.send(()).unwrap();
    wait_until("it is told", async || log.lines().len() == 1).await;
    running.stop().await;
    let lines = log.lines();
    let line = &lines[0];
    assert_eq!((&line["status"], &line["bytes"], &line["complete"]), (&json!(499), &json!(0), &json!(false)), "{line}");
    assert!(line["first_byte_us"].is_null(), "{line}");
}

/// A request for another protocol, which begins at once.
const CHAT: &[u8] =
    b"GET /chat HTTP/1.1\r\nHost: site.example\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nearly ";

/// Speaks another protocol, which says what it hears.
async fn echo(mut stream: TcpStream) {
    let switch = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nhello ";
    stream.write_all(switch).await.unwrap();
    let (mut read, mut write) = stream.split();
    // A client may be reset.
    let _ = tokio::io::copy(&mut read, &mut write).await;
}

/// An edge with a log, and a client that has asked an [`echo`] behind it for another protocol.
async fn chat(log: &Log) -> (Running, TcpStream) {
    let site = spoken(echo).await;
    let (running, public, _) = crate::sites::edge_with(&[&site], |config| log.configure(config)).await;
    let mut stream = TcpStream::connect(public).await.unwrap();
    stream.write_all(CHAT).await.unwrap();
    (running, stream)
}

#[tokio::test(flavor = "multi_thread")]
async fn another_protocol_is_one_line_at_its_end() {
    let log = Log::new();
    let (running, mut stream) = chat(&log).await;
    let mut answer = Vec::new();
    while !answer.ends_with(b"hello early ") {
        assert_ne!(stream.read_buf(&mut answer).await.unwrap(), 0);
    }
    stream.write_all(b"late").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).await.unwrap();
    assert_eq!(rest, b"late");
    running.stop().await;
    let lines = log.lines();
    assert_eq!(lines.len(), 1, "{lines:#?}");
    let line = &lines[0];
    assert_eq!(
        (&line["status"], &line["target"], &line["bytes"]),
        (&json!(101), &json!("/chat"), &json!(16)),
        "{line}"
    );
    assert_eq!((&line["complete"], &line["cache"]), (&json!(true), &json!("passed")));
}

#[tokio::test(flavor = "multi_thread")]
async fn another_protocol_that_breaks_off_is_not_whole() {
    let log = Log::new();
    let (running, mut stream) = chat(&log).await;
    stream.read_exact(&mut [0; 20]).await.unwrap();
    stream.set_zero_linger().unwrap();
    drop(stream);
    wait_until("it is told", async || log.lines().len() == 1).await;
    running.stop().await;
    let lines = log.lines();
    assert_eq!((&lines[0]["status"], &lines[0]["complete"]), (&json!(101), &json!(false)), "{lines:#?}");
}
