//! An HTTP origin that answers as a test says, and remembers what it was asked.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// A request that came.
#[derive(Debug, Clone)]
pub struct Asked {
    pub method: Method,
    pub uri: Uri,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Asked {
    pub fn field(&self, name: &str) -> String {
        self.headers.get_all(name).iter().map(|value| value.to_str().unwrap()).collect::<Vec<_>>().join(", ")
    }
}

pub type Body = BoxBody<Bytes, std::io::Error>;
type Answers = dyn Fn(Asked) -> Response<Body> + Send + Sync;

/// An origin. It ends when it is dropped.
pub struct Origin {
    pub address: SocketAddr,
    asked: Arc<Mutex<Vec<Asked>>>,
    task: JoinHandle<()>,
}

impl Origin {
    /// Starts one that answers each request with what `answer` makes of it.
    pub async fn start(answer: impl Fn(Asked) -> Response<Body> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, asked) = (listener.local_addr().unwrap(), Arc::new(Mutex::new(Vec::new())));
        let task = tokio::spawn(listen(listener, asked.clone(), Arc::new(answer)));
        Self { address, asked, task }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// All that it was asked so far.
    pub fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn listen(listener: TcpListener, asked: Arc<Mutex<Vec<Asked>>>, answer: Arc<Answers>) {
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let (asked, answer) = (asked.clone(), answer.clone());
        connections.spawn(async move {
            let service = service_fn(move |request: Request<Incoming>| {
                let (asked, answer) = (asked.clone(), answer.clone());
                async move {
                    let (head, body) = request.into_parts();
                    let body = body.collect().await?.to_bytes();
                    let request = Asked { method: head.method, uri: head.uri, headers: head.headers, body };
                    asked.lock().unwrap().push(request.clone());
                    Ok::<_, hyper::Error>(answer(request))
                }
            });
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

/// An answer with these header lines.
pub fn answer(status: u16, headers: &[(&str, &str)], body: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(Full::new(body.into()).map_err(|never| match never {}).boxed());
    *response.status_mut() = StatusCode::from_u16(status).unwrap();
    for (name, value) in headers {
        response.headers_mut().append(http::HeaderName::from_bytes(name.as_bytes()).unwrap(), value.parse().unwrap());
    }
    response
}

/// An answer of unknown length whose parts come as they are sent; dropped before [`Parts::end`], it breaks off.
pub fn streamed(headers: &[(&str, &str)]) -> (Parts, Response<Body>) {
    let (send, mut parts) = mpsc::channel::<std::io::Result<Frame<Bytes>>>(1);
    let stream = futures_util::stream::poll_fn(move |cx| parts.poll_recv(cx));
    let mut response = answer(200, headers, "");
    *response.body_mut() = StreamBody::new(stream).boxed();
    (Parts(Some(send)), response)
}

/// The parts of a [`streamed`] answer.
pub struct Parts(Option<mpsc::Sender<std::io::Result<Frame<Bytes>>>>);

impl Parts {
    pub async fn send(&self, part: impl Into<Bytes>) {
        self.0.as_ref().unwrap().send(Ok(Frame::data(part.into()))).await.unwrap();
    }

    /// Sends a part if the other side takes it within a moment.
    pub async fn try_send(&self, part: Bytes) -> bool {
        let sending = self.0.as_ref().unwrap().send(Ok(Frame::data(part)));
        tokio::time::timeout(Duration::from_millis(500), sending).await.is_ok_and(|sent| sent.is_ok())
    }

    pub fn end(mut self) {
        self.0.take();
    }
}

impl Drop for Parts {
    fn drop(&mut self) {
        if let Some(send) = self.0.take() {
            let _ = send.try_send(Err(std::io::Error::other("broken off")));
        }
    }
}
