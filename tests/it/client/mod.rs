//! The client of servers, against servers that are made of bytes: what is an answer, which connections are used again, and
//! what becomes of requests whose connection was gone.

mod connections;
mod framing;
mod tls;
mod uploads;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::BodyExt as _;
use metacdn::client::{AnswerBody, Body, ClientError, Deadlines, Peer, empty};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// A server that does with each connection what a test says. It ends when it is dropped.
pub struct Server {
    pub address: SocketAddr,
    connections: Arc<AtomicUsize>,
    heard: Arc<Mutex<Vec<String>>>,
    task: JoinHandle<()>,
}

impl Server {
    /// Starts one that hands each connection, with its number, to `serve`.
    pub async fn start<F>(serve: impl Fn(usize, Line) -> F + Send + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let connections = Arc::new(AtomicUsize::new(0));
        let heard = Arc::new(Mutex::new(Vec::new()));
        let (count, all) = (connections.clone(), heard.clone());
        let task = tokio::spawn(async move {
            let mut tasks = tokio::task::JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                stream.set_nodelay(true).unwrap();
                let number = count.fetch_add(1, Ordering::Relaxed);
                tasks.spawn(serve(number, Line { stream, heard: all.clone() }));
            }
        });
        Self { address, connections, heard, task }
    }

    /// One that answers every request with `answer`.
    pub async fn saying(answer: &'static str) -> Self {
        Self::start(move |_, mut line| async move {
            while line.request().await.is_some() {
                line.say(answer).await;
            }
        })
        .await
    }

    pub fn peer(&self) -> Peer {
        self.peer_within(Deadlines::default())
    }

    pub fn peer_within(&self, deadlines: Deadlines) -> Peer {
        Peer::origin(None, self.address.into(), deadlines)
    }

    /// How many connections came.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    /// The heads of the requests that came.
    pub fn heard(&self) -> Vec<String> {
        self.heard.lock().unwrap().clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The server's end of a connection.
pub struct Line {
    pub stream: TcpStream,
    heard: Arc<Mutex<Vec<String>>>,
}

impl Line {
    /// The head of the next request; none if the client ended.
    pub async fn request(&mut self) -> Option<String> {
        let head = head(&mut self.stream).await?;
        self.heard.lock().unwrap().push(head.clone());
        Some(head)
    }

    /// So many bytes of a body.
    pub async fn body(&mut self, length: usize) -> Vec<u8> {
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body).await.unwrap();
        body
    }

    /// Says it, if the client still listens.
    pub async fn say(&mut self, text: impl AsRef<[u8]>) {
        let _ = self.stream.write_all(text.as_ref()).await;
    }

    /// Waits until the client ends the connection; whether it did within a moment.
    pub async fn ended(&mut self) -> bool {
        let mut scrap = [0; 4096];
        let drained = async { while self.stream.read(&mut scrap).await.is_ok_and(|length| length > 0) {} };
        tokio::time::timeout(Duration::from_secs(10), drained).await.is_ok()
    }
}

/// The head of the request that comes.
pub async fn head(stream: &mut (impl AsyncRead + Unpin)) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    Some(String::from_utf8(head).unwrap())
}

pub fn request(method: &str, fields: &[(&str, &str)], body: Body) -> Request<Body> {
    let mut request = Request::builder().method(method).uri("/path?query");
    for (name, value) in [("host", "site.example")].iter().chain(fields) {
        request = request.header(*name, *value);
    }
    request.body(body).unwrap()
}

pub async fn get(peer: &Peer) -> Result<Response<Bytes>, String> {
    whole(peer.send(request("GET", &[], empty())).await).await
}

/// The whole answer, or what went wrong with it.
pub async fn whole(answer: Result<Response<AnswerBody>, ClientError>) -> Result<Response<Bytes>, String> {
    let (head, body) = answer.map_err(|error| reasons(&error))?.into_parts();
    let body = body.collect().await.map_err(|error| reasons(&error))?;
    Ok(Response::from_parts(head, body.to_bytes()))
}

/// An error with its causes.
fn reasons(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |error| error.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

pub fn text(answer: Result<Response<Bytes>, String>) -> String {
    String::from_utf8(answer.unwrap().into_body().to_vec()).unwrap()
}
