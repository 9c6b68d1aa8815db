//! What a client may do without end, and what of it the edge holds: little, and not for long.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::StreamBody;
use hyper::body::Frame;
use metacdn::protocol::site_certificate::SiteCertificate;
use metacdn::serve::http1::{Handlers, serve};
use metacdn::serve::{Certificates, Config, RequestBody, Shown, Transport};
use rustls::pki_types::ServerName;
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::mpsc;
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;
use tower::service_fn;

use super::clients::{Client, Protocol};
use super::http2::whole;
use super::raw_http2::{
    CANCEL, DATA, END_STREAM, ENHANCE_YOUR_CALM, GOAWAY, HEADERS, PING, PRIORITY, RST_STREAM, Raw, SETTINGS,
    WINDOW_UPDATE, frame, get,
};
use super::{Secure, Trusted, request, site};
use crate::cluster::wait_until;
use crate::sites::origin::{Origin, answer, streamed};

/// An edge whose origin never ends an answer; the sender has one for each request that reached it.
async fn endless() -> (Origin, Secure, mpsc::UnboundedReceiver<crate::sites::origin::Parts>) {
    let (tell, told) = mpsc::unbounded_channel();
    let origin = Origin::start(move |asked| {
        if asked.uri.path() == "/" {
            return answer(200, &[("cache-control", "no-store")], "text");
        }
        let (parts, answer) = streamed(&[("cache-control", "no-store")]);
        tell.send(parts).unwrap();
        answer
    })
    .await;
    let secure = Secure::start(&[&site(&origin, "")]).await;
    (origin, secure, told)
}

/// Others are answered still.
async fn others_are_served(secure: &Secure, protocol: Protocol) {
    let mut client = Client::connect(secure, protocol, "site.example").await;
    assert_eq!(client.ask(request("GET", "site.example", "/", &[])).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_of_http_2_that_takes_back_what_is_being_answered_is_sent_away() {
    let (_origin, secure, mut told) = endless().await;
    let mut raw = Raw::connect(&secure, &[]).await;
    let (block, mut stream, mut reached) = (get("/endless", &[]), 1, 0);
    'sending: for _ in 0..100 {
        let streams: Vec<u32> = (0..20).map(|number| stream + 2 * number).collect();
        raw.send(&streams.iter().flat_map(|stream| whole(*stream, &block)).collect::<Vec<_>>()).await;
        // Once their answers have begun, they were all taken up.
        for _ in &streams {
            match raw.until(&[HEADERS, GOAWAY]).await {
                Some(frame) if frame.kind == HEADERS => reached += 1,
                Some(frame) => {
                    assert_eq!(frame.code(), ENHANCE_YOUR_CALM);
                    break 'sending;
                }
                None => panic!("the connection ends without a word"),
            }
        }
        let resets = streams.iter().flat_map(|stream| frame(RST_STREAM, 0, *stream, &CANCEL.to_be_bytes()));
        raw.send(&resets.collect::<Vec<_>>()).await;
        stream += 40;
    }
    assert!((100..4_000).contains(&reached), "{reached} were begun");
    while told.try_recv().is_ok() {}
    others_are_served(&secure, Protocol::Http2).await;
}

/// Its name, and the frame of a number.
type Kind<'a> = (&'a str, &'a dyn Fn(u32) -> Vec<u8>);

#[tokio::test(flavor = "multi_thread")]
async fn frames_and_requests_that_mean_nothing_are_bounded_in_number() {
    let (origin, secure, _told) = endless().await;
    let another = get("/", &[("host", "another.example")]);
    let malformed = |number: u32| whole(2 * number + 1, &another);
    let kinds: [Kind; 6] = [
        ("pings", &|_| frame(PING, 0, 0, &[0; 8])),
        ("settings", &|_| frame(SETTINGS, 0, 0, &[])),
        ("windows", &|_| frame(WINDOW_UPDATE, 0, 0, &1_u32.to_be_bytes())),
        ("priorities", &|_| frame(PRIORITY, 0, 1, &[0, 0, 0, 0, 1])),
        ("unknown", &|_| frame(0x42, 0, 0, &[0; 100])),
        ("malformed", &malformed),
    ];
    for (what, make) in kinds {
        let mut raw = Raw::connect(&secure, &[]).await;
        // Not so many at once that the answers have no room: nobody reads meanwhile.
        let (mut number, mut end) = (0, None);
        while end.is_none() && number < 20_000 {
            let mut burst: Vec<u8> = (number..number + 100).flat_map(make).collect();
            burst.extend(whole(2 * (number + 100) + 1, &get("/", &[])));
            number += 101;
            raw.send(&burst).await;
            loop {
                let Some(frame) = raw.next().await else { panic!("{what}: the connection ends without a word") };
                if frame.kind == GOAWAY {
                    end = Some(frame.code());
                }
                if frame.kind == GOAWAY || frame.kind == DATA && frame.flags & END_STREAM != 0 {
                    break;
                }
            }
        }
        assert_eq!(end, Some(ENHANCE_YOUR_CALM), "{what}");
    }
    assert!(origin.asked().iter().all(|asked| asked.field("host") == "site.example"));
    others_are_served(&secure, Protocol::Http2).await;
}

/// RFC 9113 sections 5.2 and 5.3: windows are opened and priorities told as often as is asked and answered.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_asks_much_is_not_taken_for_one_that_does_nothing() {
    let (_origin, secure, _told) = endless().await;
    let mut raw = Raw::connect(&secure, &[]).await;
    for number in 0..3_000_u32 {
        let stream = 2 * number + 1;
        let mut asked = frame(PRIORITY, 0, stream, &[0, 0, 0, 0, 1]);
        asked.extend(whole(stream, &get("/", &[])));
        for window in [0, stream] {
            asked.extend(frame(WINDOW_UPDATE, 0, window, &100_u32.to_be_bytes()));
        }
        raw.send(&asked).await;
        loop {
            let frame = raw.until(&[DATA, GOAWAY, RST_STREAM]).await.expect("it goes on");
            assert_eq!(frame.kind, DATA, "after {number}");
            if frame.flags & END_STREAM != 0 {
                break;
            }
        }
    }
}

/// A server of HTTP/2 whose answers have `length` bytes, and how many of them were made.
async fn making(length: usize, stop: &CancellationToken) -> (std::net::SocketAddr, Trusted, Arc<AtomicU64>) {
    const PART: usize = 16 * 1024;
    let (authority, made) = (Trusted::new(), Arc::new(AtomicU64::new(0)));
    let (certificate, key) = authority.issue(&["site.example"], &rcgen::PKCS_ECDSA_P256_SHA256);
    let certificate = SiteCertificate::from_pem(certificate.as_bytes(), key.as_bytes(), &[]).unwrap();
    let transport = Transport::Public(Arc::new(Certificates::new(vec![Shown { certificate, default: true }]).unwrap()));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (at, counted) = (listener.local_addr().unwrap(), made.clone());
    let http = service_fn(move |_: Request<RequestBody>| {
        let made = counted.clone();
        let parts = (0..length / PART).map(move |_| {
            made.fetch_add(PART as u64, Ordering::Relaxed);
            Ok::<_, Infallible>(Frame::data(Bytes::from(vec![b'x'; PART])))
        });
        let mut response = Response::new(StreamBody::new(futures_util::stream::iter(parts)));
        response.headers_mut().insert(http::header::CONTENT_LENGTH, length.into());
        async { Ok::<_, Infallible>(response) }
    });
    let handlers = Handlers { http, hot: Arc::new(()), witness: None };
    tokio::spawn(serve(listener, transport, Config::default(), handlers, stop.clone()));
    (at, authority, made)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_held_for_a_client_that_does_not_read_is_bounded_for_all_its_requests_together() {
    const LENGTH: usize = 512 * 1024;
    const REQUESTS: u32 = 100;
    let stop = CancellationToken::new();
    let (at, authority, made) = making(LENGTH, &stop).await;
    let socket = TcpSocket::new_v4().unwrap();
    // What lies in the buffers of the system is not the server's.
    socket.set_recv_buffer_size(16 * 1024).unwrap();
    let tcp = socket.connect(at).await.unwrap();
    let connector = TlsConnector::from(Arc::new(authority.client(&["h2"])));
    let name = ServerName::try_from("site.example").unwrap();
    // All the room that there is, as far as HTTP/2 knows.
    let mut raw = Raw::over(connector.connect(name, tcp).await.unwrap(), &[(4, 0x7fff_ffff)]).await;
    raw.send(&frame(WINDOW_UPDATE, 0, 0, &0x7fff_0000_u32.to_be_bytes())).await;
    let block = get("/", &[]);
    raw.send(&(0..REQUESTS).flat_map(|number| whole(2 * number + 1, &block)).collect::<Vec<_>>()).await;
    wait_until("answers are made", async || made.load(Ordering::Relaxed) >= 256 * 1024).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let ahead = made.load(Ordering::Relaxed);
    assert!(ahead < 8 << 20, "{ahead} bytes were made for nobody");
    // Whoever reads gets all.
    let (mut ended, mut bytes) = (0, 0);
    while ended < REQUESTS {
        let data = raw.until(&[DATA, RST_STREAM, GOAWAY]).await.expect("it goes on");
        assert_eq!(data.kind, DATA);
        bytes += data.payload.len();
        ended += u32::from(data.flags & END_STREAM != 0);
    }
    assert_eq!(bytes, LENGTH * REQUESTS as usize);
    stop.cancel();
}

#[cfg(feature = "http3")]
mod http3 {
    use h3::error::Code;
    use tokio::time::timeout;

    use super::super::http3::connect;
    use super::*;
    use crate::cluster::PATIENCE;

    async fn sent_away(connection: &quinn::Connection) -> bool {
        let closed = timeout(PATIENCE, connection.closed()).await.expect("the connection ends");
        matches!(&closed, quinn::ConnectionError::ApplicationClosed(closed)
            if closed.error_code.into_inner() == Code::H3_EXCESSIVE_LOAD.value())
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_client_of_http_3_that_takes_back_what_is_being_answered_is_sent_away() {
        let (_origin, secure, mut told) = endless().await;
        let (_endpoint, connection) = connect(&secure, "site.example").await.unwrap();
        let quic = h3_quinn::Connection::new(connection.clone());
        let (mut driver, mut requests) = h3::client::new(quic).await.unwrap();
        let driving = tokio::spawn(async move { driver.wait_idle().await });
        let mut begun = 0;
        while begun < 8_000 {
            let ask = request("GET", "site.example", "/endless", &[]);
            let Ok(mut stream) = requests.send_request(ask).await else { break };
            if stream.finish().await.is_err() || stream.recv_response().await.is_err() {
                break;
            }
            begun += 1;
            stream.stop_sending(Code::H3_REQUEST_CANCELLED);
        }
        assert!((100..4_000).contains(&begun), "{begun} were begun");
        assert!(sent_away(&connection).await);
        driving.abort();
        while told.try_recv().is_ok() {}
        others_are_served(&secure, Protocol::Http3).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn frames_of_http_3_that_mean_nothing_are_bounded_in_number() {
        let (_origin, secure, _told) = endless().await;
        for of_control in [true, false] {
            let (_endpoint, connection) = connect(&secure, "site.example").await.unwrap();
            let mut control = connection.open_uni().await.unwrap();
            // The type of the stream, and settings.
            control.write_all(&[0x00, 0x04, 0x00]).await.unwrap();
            let mut stream = if of_control { control } else { connection.open_bi().await.unwrap().0 };
            // A frame that nobody knows, of one byte (RFC 9114 section 9).
            let idle = [0x21, 0x01, 0x00].repeat(1_000);
            for _ in 0..20 {
                if stream.write_all(&idle).await.is_err() {
                    break;
                }
            }
            assert!(sent_away(&connection).await);
        }
        others_are_served(&secure, Protocol::Http3).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn an_answer_of_http_3_that_is_dropped_does_not_look_whole() {
        let (tell, mut told) = mpsc::unbounded_channel();
        let origin = Origin::start(move |_| {
            let (parts, answer) = streamed(&[("cache-control", "no-store")]);
            tell.send(parts).unwrap();
            answer
        })
        .await;
        let change = |config: &mut metacdn::edge::Config| config.serve.drain_timeout_ms = 100;
        let secure = Secure::start_with(&[&site(&origin, "")], change).await;
        let mut streams = Vec::new();
        for _ in 0..20 {
            let (endpoint, connection) = connect(&secure, "site.example").await.unwrap();
            let (mut driver, mut requests) = h3::client::new(h3_quinn::Connection::new(connection)).await.unwrap();
            let driving = tokio::spawn(async move { driver.wait_idle().await });
            let mut stream = requests.send_request(request("GET", "site.example", "/", &[])).await.unwrap();
            stream.finish().await.unwrap();
            let parts = told.recv().await.unwrap();
            parts.send("a part ").await;
            assert_eq!(stream.recv_response().await.unwrap().status(), 200);
            assert!(stream.recv_data().await.unwrap().is_some());
            streams.push((stream, parts, requests, driving, endpoint));
        }
        // The answers do not end in time.
        let stopping = tokio::spawn(secure.edge.stop());
        for (stream, ..) in &mut streams {
            let rest = timeout(PATIENCE, stream.recv_data()).await.expect("it ends");
            assert!(rest.is_err(), "a part of the answer looks whole");
        }
        stopping.await.unwrap();
    }
}
