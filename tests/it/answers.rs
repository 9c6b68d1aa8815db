//! HTTP answers as callers see them: through the crate's own client, through curl, and byte by byte over TLS.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, Method};
use metacdn::client::{self, Peer, full};
use metacdn::model::Principal;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;

use crate::cluster::{Cluster, PATIENCE};

/// An answer, whole.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
}

impl Answer {
    /// Reads an answer from the bytes on the wire; interim answers before it are passed over.
    pub fn parse(mut bytes: &[u8]) -> Self {
        loop {
            let shown = || String::from_utf8_lossy(&bytes[..bytes.len().min(500)]).into_owned();
            let end = bytes.windows(4).position(|window| window == b"\r\n\r\n");
            let end = end.unwrap_or_else(|| panic!("no head of an answer: {:?}", shown()));
            let head = std::str::from_utf8(&bytes[..end]).unwrap();
            let mut lines = head.split("\r\n");
            let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
            let field = |line: &str| {
                let (name, value) = line.split_once(':').unwrap();
                let value: HeaderValue = value.trim().parse().unwrap();
                (name.parse::<HeaderName>().unwrap(), value)
            };
            let headers = lines.map(field).collect();
            bytes = &bytes[end + 4..];
            if status >= 200 {
                return Self { status, headers, body: bytes.to_vec() };
            }
        }
    }

    /// The value of a header; empty if there is none.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    pub fn text(&self) -> String {
        String::from_utf8(self.body.clone()).unwrap()
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The problem that it states: its status in the body, too, and what was wrong.
    pub fn problem(&self) -> String {
        assert_eq!(self.header("content-type"), "application/problem+json", "{self:?}");
        let problem = self.json();
        assert_eq!(problem["status"], self.status, "{problem}");
        assert!(problem["title"].is_string(), "{problem}");
        problem["detail"].as_str().unwrap().to_owned()
    }
}

/// Asks by the crate's own client.
pub async fn ask(peer: &Peer, method: &str, path: &str, headers: &[(&str, &str)], body: impl Into<Vec<u8>>) -> Answer {
    let method: Method = method.parse().unwrap();
    let mut request = peer.request(method, path, full(body.into())).unwrap();
    for (name, value) in headers {
        request.headers_mut().append(name.parse::<HeaderName>().unwrap(), value.parse().unwrap());
    }
    let (head, body) = peer.send(request).await.unwrap().into_parts();
    let body = peer.reader(body).read_all(64 << 20).await.unwrap().to_vec();
    Answer { status: head.status.as_u16(), headers: head.headers, body }
}

/// Runs curl; the answer is the last one it got.
pub fn curl(arguments: &[&str]) -> Answer {
    let common = ["--silent", "--show-error", "--include", "--http1.1", "--path-as-is", "--max-time", "20"];
    let output = Command::new("curl").args(common).args(arguments).output().expect("curl is there: ./test.sh setup");
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    Answer::parse(&output.stdout)
}

/// The arguments by which curl reaches a node's API with a client certificate, and the base of its URLs.
pub fn curl_access(cluster: &Cluster, name: &str) -> (Vec<String>, String) {
    let write = |file: &str, text: &str| -> PathBuf {
        let path = cluster.folder.path().join(file);
        std::fs::write(&path, text).unwrap();
        path
    };
    let (certificate, key) = cluster.pem(Principal::Client("curl".parse().unwrap()));
    let host = format!("{name}.node.metacdn.internal");
    let port = cluster.ports(name).api.port();
    let mut arguments = vec!["--resolve".to_owned(), format!("{host}:{port}:127.0.0.1")];
    for (option, file, text) in [
        ("--cacert", "authority.pem", cluster.authority_pem()),
        ("--cert", "curl.pem", certificate.as_str()),
        ("--key", "curl.key", key.as_str()),
    ] {
        arguments.extend([option.to_owned(), write(file, text).to_str().unwrap().to_owned()]);
    }
    (arguments, format!("https://{host}:{port}"))
}

/// A TLS connection to a node's API, with a client certificate.
pub async fn connect(cluster: &Cluster, name: &str) -> TlsStream<TcpStream> {
    connect_as(cluster, name, Principal::Client("tester".parse().unwrap())).await
}

/// A TLS connection to a node's API as `principal`; the anonymous one shows no certificate.
pub async fn connect_as(cluster: &Cluster, name: &str, principal: Principal) -> TlsStream<TcpStream> {
    let config = match principal {
        Principal::Anonymous => cluster.anonymous_tls(),
        principal => cluster.identity(principal).client_config(),
    };
    client::connect(config, Some(&name.parse().unwrap()), &cluster.address(name), Duration::from_secs(10))
        .await
        .unwrap()
}

/// Sends `bytes` and reads until the other side ends; it may end before all was sent.
pub async fn exchange(stream: impl AsyncRead + AsyncWrite + Unpin, bytes: &[u8]) -> Vec<u8> {
    let (mut read, mut write) = tokio::io::split(stream);
    let mut answer = Vec::new();
    let send = async {
        let _ = write.write_all(bytes).await;
        let _ = write.flush().await;
        // Sending may end early, reading may not.
        std::future::pending::<()>().await;
    };
    let exchanged = async {
        tokio::select! {
            _ = read.read_to_end(&mut answer) => {}
            () = send => {}
        }
    };
    timeout(PATIENCE, exchanged).await.expect("the node ends the connection");
    answer
}
