//! The same over TLS: where an answer ends with its connection, the end has to be told.

use std::sync::Arc;

use http_body_util::BodyExt as _;
use metacdn::client::{Deadlines, Peer, empty, tls_of_authorities};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::{get, head, request, text, whole};

/// A server with a certificate for `localhost`, which says `answer` to what it is asked. Whether it ends as TLS wants it.
async fn saying(answer: Vec<u8>, requests: usize, tells_end: bool) -> Peer {
    let issued = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(issued.signing_key.serialize_der()));
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![issued.cert.der().clone()], key)
        .unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(issued.cert.der().clone()).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("localhost:{}", listener.local_addr().unwrap().port()).parse().unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    tokio::spawn(async move {
        let (tcp, _) = listener.accept().await.unwrap();
        let mut tls = acceptor.accept(tcp).await.unwrap();
        for _ in 0..requests {
            head(&mut tls).await.unwrap();
            tls.write_all(&answer).await.unwrap();
            tls.flush().await.unwrap();
        }
        if tells_end {
            tls.shutdown().await.unwrap();
        }
    });
    Peer::origin(Some(tls_of_authorities(roots)), address, Deadlines::default())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_to_the_end_of_the_connection_is_whole_only_where_that_is_told() {
    let answer = b"HTTP/1.1 200 OK\r\n\r\nto the end";
    assert_eq!(text(get(&saying(answer.to_vec(), 1, true).await).await), "to the end");
    let error = get(&saying(answer.to_vec(), 1, false).await).await.unwrap_err();
    assert!(error.contains("the other side closed the connection in the middle"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn long_and_short_answers_come_whole_over_one_connection() {
    for length in [0, 1, 1000, 4000, 5000, 16_384, 100_000, 5_000_000] {
        let body: Vec<u8> = (0..length).map(|n: u32| (n / 3) as u8).collect();
        let mut answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n").into_bytes();
        answer.extend_from_slice(&body);
        let peer = saying(answer, 3, true).await;
        for _ in 0..3 {
            let answer = whole(peer.send(request("GET", &[], empty())).await).await.unwrap();
            assert!(answer.into_body() == body, "{length}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_has_no_good_certificate_is_told_nothing() {
    let good = saying(Vec::new(), 0, true).await;
    let strict = tls_of_authorities(rustls::RootCertStore::empty());
    let peer = Peer::origin(Some(strict), good.address().clone(), Deadlines::default());
    let error =
        peer.send(request("GET", &[], empty())).await.map(|answer| answer.into_body().boxed_unsync()).unwrap_err();
    assert!(!error.may_have_arrived(), "{error:?}");
}
