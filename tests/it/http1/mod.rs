//! Our own HTTP/1.1 server over real sockets: what is a request, how bodies come and answers go, how connections end.

mod answers;
mod bodies;
mod connections;
mod hot;
mod requests;
mod workers;

use std::convert::Infallible;
use std::future::Future;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use metacdn::serve::http1::{Handlers, Hot, serve};
use metacdn::serve::{Config, RequestBody, Transport};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tower::service_fn;

/// Far beyond every limit that the tests set: reaching it means that something hangs.
const PATIENCE: Duration = Duration::from_secs(20);

type Error = Box<dyn std::error::Error + Send + Sync>;
type AnswerBody = UnsyncBoxBody<Bytes, Error>;
type Answer = Response<AnswerBody>;

fn full(bytes: impl Into<Bytes>) -> AnswerBody {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// A body of frames that come by a channel; it breaks off where an error comes.
fn streamed() -> (tokio::sync::mpsc::Sender<Result<hyper::body::Frame<Bytes>, Error>>, AnswerBody) {
    let (send, mut frames) = tokio::sync::mpsc::channel(4);
    let stream = futures_util::stream::poll_fn(move |cx| frames.poll_recv(cx));
    (send, http_body_util::StreamBody::new(stream).boxed_unsync())
}

/// What a handler was asked, in the order it was asked: `METHOD target body`.
#[derive(Clone, Default)]
struct Record(Arc<Mutex<Vec<String>>>);

impl Record {
    fn add(&self, line: String) {
        self.0.lock().unwrap().push(line);
    }

    fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

struct Server {
    port: u16,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Server {
    async fn start<A, F>(config: Config, answer: A) -> Self
    where
        A: Fn(Request<RequestBody>) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = Answer> + Send + 'static,
    {
        Self::with_hot(config, Transport::Plain, Arc::new(()), answer).await
    }

    async fn with_hot<H, A, F>(config: Config, transport: Transport, hot: Arc<H>, answer: A) -> Self
    where
        H: Hot,
        A: Fn(Request<RequestBody>) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = Answer> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let stop = CancellationToken::new();
        let http = service_fn(move |request| {
            let answer = answer(request);
            async move { Ok::<_, Infallible>(answer.await) }
        });
        let task =
            tokio::spawn(serve(listener, transport, config, Handlers { http, hot, witness: None }, stop.clone()));
        Self { port, stop, task }
    }

    /// Records what is asked and answers with the body that came, or with why it did not.
    async fn recording(config: Config) -> (Self, Record) {
        let record = Record::default();
        let recorded = record.clone();
        let server = Self::start(config, move |request| {
            let record = recorded.clone();
            async move {
                let (head, body) = request.into_parts();
                let body = match body.collect().await {
                    Ok(body) => String::from_utf8_lossy(&body.to_bytes()).into_owned(),
                    Err(error) => format!("! {error}"),
                };
                record.add(format!("{} {} {body}", head.method, head.uri));
                Response::new(full(body))
            }
        });
        (server.await, record)
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(("127.0.0.1", self.port)).await.unwrap()
    }

    /// What comes back for these bytes until the server ends the connection.
    async fn exchange(&self, bytes: impl AsRef<[u8]>) -> String {
        let mut stream = self.connect().await;
        stream.write_all(bytes.as_ref()).await.unwrap();
        to_end(&mut stream).await
    }

    async fn stopped(self) {
        self.stop.cancel();
        timeout(PATIENCE, self.task).await.expect("serve returns").unwrap();
    }
}

async fn to_end(stream: &mut (impl AsyncRead + Unpin)) -> String {
    let mut answer = Vec::new();
    timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("the server ends the connection").unwrap();
    String::from_utf8(answer).unwrap()
}

/// Reads the head of an answer and leaves the connection open.
async fn answer_head(stream: &mut (impl AsyncRead + Unpin)) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(timeout(PATIENCE, stream.read_u8()).await.expect("an answer comes").unwrap());
    }
    String::from_utf8(head).unwrap()
}

/// Reads `length` bytes.
async fn part(stream: &mut (impl AsyncRead + Unpin), length: usize) -> String {
    let mut bytes = vec![0; length];
    timeout(PATIENCE, stream.read_exact(&mut bytes)).await.expect("bytes come").unwrap();
    String::from_utf8(bytes).unwrap()
}

/// The statuses of all answers in `text`.
fn statuses(text: &str) -> Vec<u16> {
    // Problems speak of HTTP/1.1, too.
    text.split("HTTP/1.1 ").skip(1).filter_map(|answer| answer.get(..3)?.parse().ok()).collect()
}

/// Whether the head has this field, whatever letters its name has.
fn has(head: &str, field: &str) -> bool {
    head.lines().any(|line| line.eq_ignore_ascii_case(field))
}
