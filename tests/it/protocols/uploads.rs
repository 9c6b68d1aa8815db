//! Requests whose bodies break off: who sent them is to blame, and not the origin.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::raw_http2::{CANCEL, DATA, END_HEADERS, GOAWAY, HEADERS, RST_STREAM, Raw, fields, frame, get};
use super::{Secure, http2};
use crate::client::Server;
use crate::cluster::PATIENCE;

/// An origin that is asked without a body and says its name, after a while.
async fn named(name: &'static str, after: Duration) -> Server {
    Server::start(move |_, mut line| async move {
        while let Some(head) = line.request().await {
            if head.starts_with("POST") {
                // It waits for the body.
                line.ended().await;
                return;
            }
            tokio::time::sleep(after).await;
            line.say(format!(
                "HTTP/1.1 200 OK\r\nCache-Control: no-store\r\nContent-Length: {}\r\n\r\n{name}",
                name.len()
            ))
            .await;
        }
    })
    .await
}

/// How many uploads break off: more failures than take an origin out.
const UPLOADS: usize = 5;

/// An edge with two origins of which the first is much faster, and known to be.
async fn start() -> (Server, Server, Secure) {
    // On a machine that does much else the first one may be taken for one that fails.
    for _ in 0..5 {
        if let Some(begun) = begin().await {
            return begun;
        }
    }
    panic!("the faster origin is not preferred");
}

async fn begin() -> Option<(Server, Server, Secure)> {
    let (near, far) = (named("near", Duration::ZERO).await, named("far", Duration::from_secs(4)).await);
    let text = format!(
        "name = \"site\"\nhosts = [\"*.example\"]\norigins = [\"http://{}\", \"http://{}\"]\nrequest_bytes_max = 1000",
        near.address, far.address
    );
    let change = |config: &mut metacdn::edge::Config| {
        config.connect_ms_max = 30_000;
        config.route.eject.out_ms = 600_000;
        config.route.eject.out_ms_max = 600_000;
        config.serve.stall_timeout_ms = 3_000;
    };
    let secure = Secure::start_with(&[&text], change).await;
    // Among origins that are as good as each other the path decides, until one is known to be faster.
    let mut paths = (0..).map(|number| format!("/{number}"));
    for path in paths.by_ref().take(20) {
        if asked(&secure, &path).await == "near" {
            break;
        }
    }
    for _ in 0..5 {
        if asked(&secure, "/").await == "near" {
            return Some((near, far, secure));
        }
    }
    None
}

/// What comes back for these bytes, after which nothing more is sent.
async fn said(secure: &Secure, bytes: &[u8], ends: bool) -> String {
    let mut stream = TcpStream::connect(secure.plain).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    if ends {
        stream.shutdown().await.unwrap();
    }
    let mut text = Vec::new();
    timeout(PATIENCE, stream.read_to_end(&mut text)).await.expect("the connection ends").unwrap();
    String::from_utf8(text).unwrap()
}

/// Who answers.
async fn asked(secure: &Secure, path: &str) -> String {
    let asked = format!("GET {path} HTTP/1.1\r\nHost: site.example\r\nConnection: close\r\n\r\n");
    let text = said(secure, asked.as_bytes(), false).await;
    text.rsplit("\r\n").next().unwrap().to_owned()
}

/// The first origin is asked as before.
async fn nobody_is_out(secure: &Secure, after: &str) {
    // What was seen takes effect soon, but not at once.
    for _ in 0..10 {
        assert_eq!(asked(secure, "/").await, "near", "after {after}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn uploads_that_break_off_are_no_failure_of_their_origin() {
    let (_near, _far, secure) = start().await;
    let post = |more: &str| format!("POST / HTTP/1.1\r\nHost: site.example\r\nConnection: close\r\n{more}");
    for (what, more, ends, status) in [
        ("a client that ends", "Content-Length: 100\r\n\r\nhello", true, None),
        ("chunks that are none", "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nno chunk\r\n", false, Some("400")),
        ("a client that stops", "Content-Length: 100\r\n\r\nhello", false, Some("408")),
        ("a body that is too long", "Transfer-Encoding: chunked\r\n\r\n7d0\r\n", false, Some("413")),
    ] {
        let more = if status == Some("413") { format!("{more}{}\r\n", "x".repeat(2_000)) } else { more.to_owned() };
        let bytes = post(&more);
        let uploads = (0..UPLOADS).map(|_| said(&secure, bytes.as_bytes(), ends));
        for said in futures_util::future::join_all(uploads).await {
            if let Some(status) = status {
                assert!(said.starts_with(&format!("HTTP/1.1 {status} ")), "{what}: {said}");
            }
        }
        nobody_is_out(&secure, what).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn uploads_by_http_2_that_are_reset_are_no_failure_of_their_origin() {
    let (_near, _far, secure) = start().await;
    let pseudo = [(":method", "POST"), (":scheme", "https"), (":authority", "site.example"), (":path", "/")];
    let mut raw = Raw::connect(&secure, &[]).await;
    for number in 0..UPLOADS as u32 {
        let stream = 4 * number + 1;
        raw.send(&frame(HEADERS, END_HEADERS, stream, &fields(&pseudo))).await;
        raw.send(&frame(DATA, 0, stream, b"a part")).await;
        // A request behind it is answered: the other one is on its way by then.
        raw.send(&http2::whole(stream + 2, &get("/", &[]))).await;
        let head = raw.until(&[HEADERS, RST_STREAM, GOAWAY]).await.unwrap();
        assert_eq!((head.kind, head.stream), (HEADERS, stream + 2));
        raw.send(&frame(RST_STREAM, 0, stream, &CANCEL.to_be_bytes())).await;
    }
    nobody_is_out(&secure, "resets").await;
}
