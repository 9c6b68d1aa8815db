//! What a handler learns of the link of the client that asks.

use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::Extension;
use axum::routing::get;
use metacdn::serve::{ClientLink, Config};
use rustls::version::TLS13;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::{Cluster, PATIENCE, Server, TlsVersions, Transport, answer_head, timeout};

const LARGE_BYTES: usize = 3 << 20;

/// `/large`, and `/link`: what was sent so far, of which the last link is kept.
fn router(kept: Arc<Mutex<Option<ClientLink>>>) -> Router {
    let link = move |Extension(link): Extension<ClientLink>| async move {
        let sent = link.sent().unwrap();
        *kept.lock().unwrap() = Some(link);
        format!("{:>12}{:>12}", sent.bytes_acked, sent.busy.as_micros())
    };
    Router::new().route("/large", get(|| async { vec![7_u8; LARGE_BYTES] })).route("/link", get(link))
}

async fn ask(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), path: &str, size: usize) -> Vec<u8> {
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    assert!(answer_head(stream).await.starts_with("HTTP/1.1 200 "));
    let mut body = vec![0; size];
    timeout(PATIENCE, stream.read_exact(&mut body)).await.expect("the body comes").unwrap();
    body
}

/// The bytes and microseconds that `/link` tells.
async fn sent(stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> (u64, u64) {
    let text = String::from_utf8(ask(stream, "/link", 24).await).unwrap();
    (text[..12].trim().parse().unwrap(), text[12..].trim().parse().unwrap())
}

async fn tells(transport: Transport, tls: Option<&Cluster>) {
    let kept = Arc::new(Mutex::new(None));
    let server = Server::start(transport, Config::default(), router(kept.clone()), None).await;
    let mut stream: Box<dyn Duplex> = match tls {
        None => Box::new(server.connect().await),
        Some(cluster) => Box::new(server.connect_tls(cluster.client(None, &TLS13)).await.unwrap()),
    };
    let (before, _) = sent(&mut stream).await;
    assert!(before < 100_000, "{before}");
    ask(&mut stream, "/large", LARGE_BYTES).await;
    let (after, busy) = sent(&mut stream).await;
    // The last bytes may be on their way to be acknowledged.
    assert!(after as usize > LARGE_BYTES / 2 && after < 4 << 20, "{after}");
    assert!(busy < 20_000_000, "{busy}");

    let link = kept.lock().unwrap().take().unwrap();
    assert!(link.sent().is_some());
    drop(stream);
    server.stopped().await;
    assert_eq!(link.sent(), None, "the connection has ended although its link is held");
}

trait Duplex: AsyncRead + AsyncWrite + Unpin {}

impl<T: AsyncRead + AsyncWrite + Unpin> Duplex for T {}

#[tokio::test]
async fn the_link_of_a_plain_connection_tells_what_arrived() {
    tells(Transport::Plain, None).await;
}

#[tokio::test]
async fn the_link_below_tls_tells_what_arrived() {
    let cluster = Cluster::new();
    tells(cluster.transport(TlsVersions::Only13), Some(&cluster)).await;
}
