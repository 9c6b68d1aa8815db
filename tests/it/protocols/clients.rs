//! Clients of all three protocols, which keep their connection.

use std::sync::Arc;

use bytes::{Buf as _, Bytes};
use http::{HeaderMap, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::Frame;
use hyper_util::rt::TokioIo;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::{Answer, Secure};
use crate::cluster::PATIENCE;

/// A protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    Http1,
    Http2,
    #[cfg(feature = "http3")]
    Http3,
}

impl Protocol {
    pub const ALL: &[Self] = &[
        Self::Http1,
        Self::Http2,
        #[cfg(feature = "http3")]
        Self::Http3,
    ];

    /// As `Via` names it.
    pub fn version(self) -> &'static str {
        match self {
            Self::Http1 => "1.1",
            Self::Http2 => "2",
            #[cfg(feature = "http3")]
            Self::Http3 => "3",
        }
    }
}

/// A client that is connected.
pub struct Client {
    kind: Kind,
    driver: JoinHandle<()>,
    /// Who is told of interim answers.
    interim: Option<Interim>,
    #[cfg(feature = "http3")]
    _endpoint: Option<quinn::Endpoint>,
}

/// The status and the fields of interim answers.
type Interim = mpsc::UnboundedSender<(u16, HeaderMap)>;

type Http1Body = http_body_util::combinators::BoxBody<Bytes, std::convert::Infallible>;

enum Kind {
    Http1(hyper::client::conn::http1::SendRequest<Http1Body>),
    Http2(h2::client::SendRequest<Bytes>),
    #[cfg(feature = "http3")]
    Http3(h3::client::SendRequest<h3_quinn::OpenStreams, Bytes>),
}

impl Drop for Client {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Client {
    /// Connects to the host `name` of the edge.
    pub async fn connect(secure: &Secure, protocol: Protocol, name: &str) -> Self {
        match protocol {
            Protocol::Http1 => {
                let stream = secure.connect(&Arc::new(secure.authority.client(&["http/1.1"])), name).await.unwrap();
                let (requests, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
                Self::of(Kind::Http1(requests), async { drop(connection.with_upgrades().await) })
            }
            Protocol::Http2 => {
                let stream = secure.connect(&Arc::new(secure.authority.client(&["h2"])), name).await.unwrap();
                assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
                let (requests, connection) = h2::client::handshake(stream).await.unwrap();
                Self::of(Kind::Http2(requests), async { drop(connection.await) })
            }
            #[cfg(feature = "http3")]
            Protocol::Http3 => {
                let (endpoint, connection) = super::http3::connect(secure, name).await.unwrap();
                let (mut driver, requests) = h3::client::new(h3_quinn::Connection::new(connection)).await.unwrap();
                let driving = async move { drop(driver.wait_idle().await) };
                let mut client = Self::of(Kind::Http3(requests), driving);
                client._endpoint = Some(endpoint);
                client
            }
        }
    }

    fn of(kind: Kind, driver: impl Future<Output = ()> + Send + 'static) -> Self {
        Self {
            kind,
            driver: tokio::spawn(driver),
            interim: None,
            #[cfg(feature = "http3")]
            _endpoint: None,
        }
    }

    /// Whether another request can be sent on this connection.
    pub async fn is_usable(&mut self) -> bool {
        match &mut self.kind {
            Kind::Http1(requests) => requests.ready().await.is_ok(),
            _ => !self.driver.is_finished(),
        }
    }

    /// The interim answers that come from now on.
    pub fn interim(&mut self) -> mpsc::UnboundedReceiver<(u16, HeaderMap)> {
        let (tell, told) = mpsc::unbounded_channel();
        self.interim = Some(tell);
        told
    }

    /// Sends a request without a body.
    pub async fn ask(&mut self, request: Request<()>) -> Answer {
        self.send(request, None, None).await
    }

    /// Sends a request with these parts of a body, and trailers.
    pub async fn send(
        &mut self,
        request: Request<()>,
        body: Option<Vec<Bytes>>,
        trailers: Option<HeaderMap>,
    ) -> Answer {
        let interim = self.interim.clone();
        let tell = move |status: StatusCode, headers: &HeaderMap| {
            if let Some(interim) = &interim {
                let _ = interim.send((status.as_u16(), headers.clone()));
            }
        };
        let answered = async {
            match &mut self.kind {
                Kind::Http1(requests) => by_http1(requests, request, body, trailers, tell).await,
                Kind::Http2(requests) => by_http2(requests, request, body, trailers, tell).await,
                #[cfg(feature = "http3")]
                Kind::Http3(requests) => by_http3(requests, request, body, trailers, tell).await,
            }
        };
        timeout(PATIENCE, answered).await.expect("an answer comes")
    }
}

async fn by_http1(
    requests: &mut hyper::client::conn::http1::SendRequest<Http1Body>,
    request: Request<()>,
    body: Option<Vec<Bytes>>,
    trailers: Option<HeaderMap>,
    tell: impl Fn(StatusCode, &HeaderMap) + Send + Sync + 'static,
) -> Answer {
    let (mut head, ()) = request.into_parts();
    let host = head.uri.authority().unwrap().as_str().parse().unwrap();
    head.headers.insert(header::HOST, host);
    head.uri = head.uri.path_and_query().unwrap().as_str().parse().unwrap();
    let chunked = trailers.is_some();
    let frames = body.clone().unwrap_or_default().into_iter().map(Frame::data).chain(trailers.map(Frame::trailers));
    let frames: Vec<_> = frames.map(Ok::<_, std::convert::Infallible>).collect();
    let body = match body {
        None => Full::default().boxed(),
        Some(parts) if !chunked => Full::new(parts.concat().into()).boxed(),
        Some(_) => {
            head.headers.insert(header::TRAILER, "x-trailer".parse().unwrap());
            StreamBody::new(futures_util::stream::iter(frames)).boxed()
        }
    };
    requests.ready().await.unwrap();
    let mut request = Request::from_parts(head, body);
    hyper::ext::on_informational(&mut request, move |interim| tell(interim.status(), interim.headers()));
    let response = requests.send_request(request).await.unwrap();
    let (head, body) = response.into_parts();
    let body = body.collect().await.unwrap();
    let trailers = body.trailers().cloned();
    Answer { status: head.status.as_u16(), headers: head.headers, body: body.to_bytes().to_vec(), trailers }
}

async fn by_http2(
    requests: &mut h2::client::SendRequest<Bytes>,
    request: Request<()>,
    body: Option<Vec<Bytes>>,
    trailers: Option<HeaderMap>,
    tell: impl Fn(StatusCode, &HeaderMap),
) -> Answer {
    let mut requests = requests.clone().ready().await.unwrap();
    let (mut response, mut send) = requests.send_request(request, body.is_none()).unwrap();
    if let Some(parts) = body {
        for mut part in parts {
            while !part.is_empty() {
                send.reserve_capacity(part.len());
                let room = std::future::poll_fn(|cx| send.poll_capacity(cx)).await.unwrap().unwrap();
                send.send_data(part.split_to(room.min(part.len())), false).unwrap();
            }
        }
        match trailers {
            Some(trailers) => send.send_trailers(trailers).unwrap(),
            None => send.send_data(Bytes::new(), true).unwrap(),
        }
    }
    while let Some(interim) = std::future::poll_fn(|cx| response.poll_informational(cx)).await {
        let interim = interim.unwrap();
        tell(interim.status(), interim.headers());
    }
    let (head, mut body) = response.await.unwrap().into_parts();
    let mut bytes = Vec::new();
    while let Some(data) = body.data().await {
        let data = data.unwrap();
        body.flow_control().release_capacity(data.len()).unwrap();
        bytes.extend_from_slice(&data);
    }
    let trailers = body.trailers().await.unwrap();
    Answer { status: head.status.as_u16(), headers: head.headers, body: bytes, trailers }
}

#[cfg(feature = "http3")]
async fn by_http3(
    requests: &mut h3::client::SendRequest<h3_quinn::OpenStreams, Bytes>,
    request: Request<()>,
    body: Option<Vec<Bytes>>,
    trailers: Option<HeaderMap>,
    tell: impl Fn(StatusCode, &HeaderMap),
) -> Answer {
    let stream = requests.send_request(request).await.unwrap();
    let (mut send, mut receive) = stream.split();
    // A server may answer before it has all.
    let sending = async {
        for part in body.into_iter().flatten() {
            if send.send_data(part).await.is_err() {
                return;
            }
        }
        if let Some(trailers) = trailers {
            let _ = send.send_trailers(trailers).await;
        }
        let _ = send.finish().await;
    };
    let receiving = async {
        let mut response: Response<()> = receive.recv_response().await.unwrap();
        while response.status().is_informational() {
            tell(response.status(), response.headers());
            response = receive.recv_response().await.unwrap();
        }
        let mut bytes = Vec::new();
        while let Some(mut data) = receive.recv_data().await.unwrap() {
            bytes.extend_from_slice(&data.copy_to_bytes(data.remaining()));
        }
        (response.into_parts().0, bytes, receive.recv_trailers().await.unwrap())
    };
    let ((), (head, body, trailers)) = tokio::join!(sending, receiving);
    Answer { status: head.status.as_u16(), headers: head.headers, body, trailers }
}
