//! The hot path: it answers what the full path would, from memory and from files, with TLS and without.

use std::fs::File;
use std::io::Write as _;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use metacdn::http1::{Block, Extra};
use metacdn::serve::http1::{Caller, Hot, HotAnswer, HotBody, HotFile, HotFiles, HotRequest, HotSent};
use metacdn::serve::{Config, Transport};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::{PATIENCE, Server, answer_head, full, has, part, statuses, to_end};

/// What both paths answer for a path: a status, fields, a body.
fn content(path: &str) -> Option<(StatusCode, HeaderMap, Bytes)> {
    let (status, size) = match path.split('?').next()? {
        "/small" => (200, 5),
        "/page" => (200, 10_000),
        "/large" => (200, 3 << 20),
        "/gone" => (410, 7),
        "/nothing" => (204, 0),
        "/same" => (304, 0),
        _ => return None,
    };
    let mut headers = HeaderMap::new();
    headers.insert(header::ETAG, HeaderValue::from_static("\"a\""));
    if size == 10_000 {
        headers.insert(header::DATE, HeaderValue::from_static("Sun, 06 Nov 1994 08:49:37 GMT"));
    }
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    if !matches!(status, 204 | 304) {
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(size));
    }
    let bytes: Vec<u8> = (0..size).map(|number| b'a' + (number % 23) as u8).collect();
    Some((StatusCode::from_u16(status).unwrap(), headers, bytes.into()))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum From {
    Memory,
    File,
}

/// Answers from memory or from a file what is there, and notes what it is told.
struct Kept {
    from: From,
    file: Arc<File>,
    told: Mutex<Vec<(String, HotSent)>>,
    tell: mpsc::UnboundedSender<()>,
}

impl Kept {
    fn new(from: From) -> (Arc<Self>, mpsc::UnboundedReceiver<()>) {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"before").unwrap();
        file.write_all(&content("/large").unwrap().2).unwrap();
        let (tell, told) = mpsc::unbounded_channel();
        (Arc::new(Self { from, file: Arc::new(file), told: Mutex::default(), tell }), told)
    }

    fn told(&self) -> Vec<(String, HotSent)> {
        std::mem::take(&mut self.told.lock().unwrap())
    }
}

impl Hot for Kept {
    type Receipt = String;

    fn answer(&self, head: &HotRequest<'_>, caller: &Caller) -> Option<HotAnswer<String>> {
        assert!(caller.address.ip().is_loopback());
        if !matches!(head.method(), "GET" | "HEAD") {
            return None;
        }
        let (status, headers, bytes) = content(head.path_and_query())?;
        let mut extra = Extra::new();
        extra.push_number(&header::AGE, 7).unwrap();
        let body = match self.from {
            _ if head.method() == "HEAD" || bytes.is_empty() => HotBody::None,
            From::Memory => HotBody::Memory(bytes),
            // It begins like all of them.
            From::File => {
                let (middle, length) = (bytes.len() as u64 / 3, bytes.len() as u64);
                let part =
                    |from: u64, end: u64| HotFile { file: self.file.clone(), offset: 6 + from, length: end - from };
                HotBody::Files(HotFiles::new([part(0, middle), part(middle, middle), part(middle, length)]))
            }
        };
        let receipt = format!("{} {}", head.method(), head.path_and_query());
        Some(HotAnswer { block: Block::new(status, &headers), extra, body, receipt })
    }

    fn sent(&self, receipt: String, sent: HotSent) {
        self.told.lock().unwrap().push((receipt, sent));
        let _ = self.tell.send(());
    }
}

async fn server<H: Hot>(transport: Transport, config: Config, hot: Arc<H>) -> Server {
    Server::with_hot(config, transport, hot, |request| async move {
        let path = request.uri().path().to_owned();
        let Some((status, mut headers, bytes)) = content(&path) else {
            return Response::new(full(format!("{} from the handler", request.method())));
        };
        headers.insert(header::AGE, HeaderValue::from_static("7"));
        let mut answer = Response::new(full(bytes));
        *answer.status_mut() = status;
        *answer.headers_mut() = headers;
        answer
    })
    .await
}

/// Without the second in which it was sent.
fn without_date(answer: &str) -> String {
    let line = |line: &&str| !line.starts_with("date: ") || line.contains("1994");
    answer.split("\r\n").filter(line).collect::<Vec<_>>().join("\r\n")
}

#[tokio::test]
async fn the_hot_path_answers_what_the_full_path_does() {
    let full_path = server(Transport::Plain, Config::default(), Arc::new(())).await;
    for from in [From::Memory, From::File] {
        let (kept, _told) = Kept::new(from);
        let hot = server(Transport::Plain, Config::default(), kept.clone()).await;
        for method in ["GET", "HEAD", "POST"] {
            for path in ["/small", "/page", "/large", "/gone", "/nothing", "/same", "/other", "/small?a=b"] {
                for head in [
                    "HTTP/1.1\r\nHost: a",
                    "HTTP/1.1\r\nHost: a\r\nConnection: close",
                    "HTTP/1.0",
                    "HTTP/1.0\r\nConnection: keep-alive",
                    "HTTP/1.1",
                    "HTTP/1.1\r\nHost: a\r\nX : y",
                    "HTTP/2.0\r\nHost: a",
                    "HTTP/1.1\r\nHost: a\r\nExpect: miracles",
                    "HTTP/1.1\r\nHost: a\r\nContent-Length: 0",
                    "HTTP/1.1\r\nHost: a\r\nContent-Length: 2",
                    "HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nContent-Length: 3",
                    "HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 2",
                ] {
                    let body = if head.ends_with("Content-Length: 2") { "xx" } else { "" };
                    let last = "GET /small HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
                    let request = format!("{method} {path} {head}\r\n\r\n{body}{last}");
                    let [one, other] = [&hot, &full_path].map(async |server| server.exchange(&request).await);
                    let (one, other) = tokio::join!(one, other);
                    assert!(without_date(&one) == without_date(&other), "{from:?}: {request:?}");
                    assert!(one.starts_with("HTTP/1.1 "), "{request:?}");
                }
            }
        }
        assert!(kept.told().len() > 100, "many were hot");
        hot.stopped().await;
    }
    full_path.stopped().await;
}

#[tokio::test]
async fn it_is_told_what_was_sent() {
    for from in [From::Memory, From::File] {
        let (kept, mut told) = Kept::new(from);
        let server = server(Transport::Plain, Config::default(), kept.clone()).await;
        let requests: String =
            (0..40).map(|number| format!("GET /small?{number} HTTP/1.1\r\nHost: a\r\n\r\n")).collect();
        let other = "PUT /other HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nxx";
        let large = "GET /large HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
        let answer = server.exchange(format!("{requests}{other}{large}{requests}")).await;
        assert_eq!(statuses(&answer), [200; 42]);
        assert_eq!(answer.find("PUT from the handler").map(|at| statuses(&answer[..at]).len()), Some(41), "in order");
        let sent = kept.told();
        for (number, (receipt, sent)) in sent.iter().take(40).enumerate() {
            assert_eq!(*receipt, format!("GET /small?{number}"));
            assert_eq!(*sent, HotSent { body_bytes: 5, complete: true, unreadable: false });
        }
        assert_eq!(sent[40].1, HotSent { body_bytes: 3 << 20, complete: true, unreadable: false });
        assert_eq!(sent.len(), 41);
        while told.try_recv().is_ok() {}

        // One who leaves has not got all.
        let mut stream = server.connect().await;
        stream.write_all(&b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n".repeat(8)).await.unwrap();
        answer_head(&mut stream).await;
        drop(stream);
        while kept.told().iter().all(|(_, sent)| sent.complete) {
            timeout(PATIENCE, told.recv()).await.expect("the end is told, too").unwrap();
        }
        server.stopped().await;
    }
}

#[tokio::test]
async fn a_receiver_that_does_not_read_is_dropped_by_the_hot_path_too() {
    for from in [From::Memory, From::File] {
        let (kept, mut told) = Kept::new(from);
        let config = Config { stall_timeout_ms: 100, ..Config::default() };
        let server = server(Transport::Plain, config, kept.clone()).await;
        let mut stream = server.connect().await;
        stream.write_all(&b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n".repeat(20)).await.unwrap();
        while kept.told().iter().all(|(_, sent)| sent.complete) {
            timeout(PATIENCE, told.recv()).await.expect("it is cut off").unwrap();
        }
        server.stopped().await;
    }
}

#[tokio::test]
async fn a_file_that_is_too_short_ends_its_answer_in_the_middle() {
    let (kept, _told) = Kept::new(From::File);
    let server = server(Transport::Plain, Config::default(), kept.clone()).await;
    kept.file.set_len(1 << 20).unwrap();
    let mut stream = server.connect().await;
    stream.write_all(b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    let head = answer_head(&mut stream).await;
    assert!(has(&head, &format!("content-length: {}", 3 << 20)), "{head}");
    assert_eq!(to_end(&mut stream).await.len(), (1 << 20) - 6);
    server.stopped().await;
}

#[tokio::test]
async fn it_answers_through_tls() {
    let key = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let certificate = key.cert.der().clone();
    let private = rustls::pki_types::PrivateKeyDer::try_from(key.signing_key.serialize_der()).unwrap();
    let config = rustls::ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.clone()], private)
        .unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(certificate).unwrap();
    let client = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(client));
    for from in [From::Memory, From::File] {
        let (kept, _told) = Kept::new(from);
        let transport = Transport::Tls(Arc::new(config.clone()));
        let server = server(transport, Config::default(), kept.clone()).await;
        let name = rustls::pki_types::ServerName::try_from("localhost").unwrap();
        let mut stream = connector.connect(name, server.connect().await).await.unwrap();
        for path in ["/small", "/large", "/page", "/other", "/small"] {
            stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes()).await.unwrap();
            let head = answer_head(&mut stream).await;
            let wanted = content(path).map_or(Bytes::from_static(b"GET from the handler"), |(_, _, bytes)| bytes);
            assert!(has(&head, &format!("content-length: {}", wanted.len())), "{head}");
            assert!(part(&mut stream, wanted.len()).await.as_bytes() == wanted, "{from:?}: {path}");
        }
        stream.write_all(b"GET /large HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await.unwrap();
        let mut rest = Vec::new();
        timeout(PATIENCE, stream.read_to_end(&mut rest)).await.unwrap().expect("TLS is closed in order");
        assert!(rest.len() > 3 << 20);
        assert_eq!(kept.told().len(), 5);
        server.stopped().await;
    }
}
