//! What clients and an edge say to each other: a relay that notes every byte, and what requests and answers they make.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use metacdn::http1::ChunkDecoder;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// Passes connections on to an edge.
pub struct Wiretap {
    pub address: SocketAddr,
    connections: Arc<Mutex<Vec<Connection>>>,
    accepting: JoinHandle<()>,
}

/// What one side of a connection has said so far.
type Said = Arc<Mutex<Vec<u8>>>;

#[derive(Default)]
struct Connection {
    client: Said,
    edge: Said,
}

/// A request, and what was answered to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exchange {
    pub method: String,
    pub target: String,
    request_head: String,
    /// 0 while there is none.
    pub status: u16,
    answer_head: String,
    /// As much of it as the client waited for, as it is coded.
    pub body: Vec<u8>,
    whole: bool,
}

impl Wiretap {
    /// A relay to the edge at `edge`.
    pub async fn start(edge: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let connections = Arc::new(Mutex::new(Vec::new()));
        let all = connections.clone();
        let accepting = tokio::spawn(async move {
            loop {
                let (client, _) = listener.accept().await.unwrap();
                let Connection { client: client_said, edge: edge_said } = Connection::default();
                let connection = Connection { client: client_said.clone(), edge: edge_said.clone() };
                all.lock().unwrap().push(connection);
                tokio::spawn(async move {
                    let Ok(edge) = TcpStream::connect(edge).await else { return };
                    let (from_client, to_client) = client.into_split();
                    let (from_edge, to_edge) = edge.into_split();
                    tokio::join!(pass(from_client, to_edge, client_said), pass(from_edge, to_client, edge_said));
                });
            }
        });
        Self { address, connections, accepting }
    }

    /// All requests so far, in the order of their connections.
    pub fn exchanges(&self) -> Vec<Exchange> {
        let connections = self.connections.lock().unwrap();
        connections.iter().flat_map(|one| exchanges(&one.client.lock().unwrap(), &one.edge.lock().unwrap())).collect()
    }

    /// Forgets what was said so far; connections that are open are not noted any further.
    pub fn forget(&self) {
        self.connections.lock().unwrap().clear();
    }
}

impl Drop for Wiretap {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// Passes on and notes what comes until its end, which it passes on, too.
async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, said: Said) {
    let mut part = vec![0; 64 << 10];
    while let Ok(size @ 1..) = from.read(&mut part).await {
        said.lock().unwrap().extend_from_slice(&part[..size]);
        if to.write_all(&part[..size]).await.is_err() {
            return;
        }
    }
    let _ = to.shutdown().await;
}

impl Exchange {
    /// A field of the request; empty without one.
    pub fn asked(&self, name: &str) -> &str {
        field(&self.request_head, name)
    }

    /// A field of the answer; empty without one.
    pub fn answered(&self, name: &str) -> &str {
        field(&self.answer_head, name)
    }

    /// The path of the target, still encoded, without the query.
    pub fn path(&self) -> &str {
        let target = self.target.split('?').next().unwrap_or_default();
        match target.split_once("://") {
            Some((_, rest)) => rest.find('/').map_or("/", |path| &rest[path..]),
            None => target,
        }
    }

    /// Whether the whole answer came.
    pub fn complete(&self) -> bool {
        self.status != 0 && self.whole
    }
}

impl Exchange {
    /// Takes the body off `edge`, which has it in chunks.
    fn take_chunks(&mut self, edge: &mut &[u8]) {
        let mut chunks = ChunkDecoder::new();
        while !edge.is_empty() && !self.whole {
            let piece = chunks.decode(edge).expect("the edge sends chunks");
            let (data, rest) = edge[piece.framing..].split_at(piece.data);
            self.body.extend_from_slice(data);
            self.whole = piece.ended;
            *edge = rest;
        }
    }
}

fn field<'h>(head: &'h str, name: &str) -> &'h str {
    let fields = head.lines().skip(1).filter_map(|line| line.split_once(':'));
    fields.into_iter().find(|(field, _)| field.eq_ignore_ascii_case(name)).map_or("", |(_, value)| value.trim())
}

/// The requests of one connection with their answers, which come in the same order.
fn exchanges(mut client: &[u8], mut edge: &[u8]) -> Vec<Exchange> {
    let mut found = Vec::new();
    while let Some(request_head) = next_head(&mut client) {
        let body = field(&request_head, "content-length").parse().unwrap_or(0).min(client.len());
        client = &client[body..];
        let mut words = request_head.split(' ');
        let mut exchange = Exchange {
            method: words.next().unwrap().to_owned(),
            target: words.next().unwrap().to_owned(),
            answer_head: String::new(),
            status: 0,
            body: Vec::new(),
            whole: false,
            request_head: request_head.clone(),
        };
        while let Some(head) = next_head(&mut edge) {
            exchange.status = head.split(' ').nth(1).unwrap().parse().unwrap();
            exchange.answer_head = head;
            // Interim answers come before the one that counts.
            if exchange.status >= 200 {
                break;
            }
        }
        if exchange.answered("transfer-encoding") == "chunked" && length_without_body(&exchange).is_none() {
            exchange.take_chunks(&mut edge);
        } else {
            let (length, body) = (length(&exchange), length(&exchange).min(edge.len()));
            exchange.body = edge[..body].to_vec();
            exchange.whole = body == length;
            edge = &edge[body..];
        }
        found.push(exchange);
    }
    found
}

/// Takes the next head off `bytes`, if it is there whole.
fn next_head(bytes: &mut &[u8]) -> Option<String> {
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n")?;
    let head = String::from_utf8(bytes[..end].to_vec()).expect("heads are text");
    *bytes = &bytes[end + 4..];
    Some(head)
}

/// How long the body of the answer is.
fn length(exchange: &Exchange) -> usize {
    let length = exchange.answered("content-length");
    let stated = || length.parse().unwrap_or_else(|_| panic!("an answer without its length: {exchange:?}"));
    length_without_body(exchange).unwrap_or_else(stated)
}

/// The length of the body that the answer has whatever its fields say, if that is so.
fn length_without_body(exchange: &Exchange) -> Option<usize> {
    (exchange.method == "HEAD" || exchange.status == 304 || exchange.status < 200).then_some(0)
}
