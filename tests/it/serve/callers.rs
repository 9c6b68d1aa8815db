//! Who is calling.

use std::time::{Duration, SystemTime};

use metacdn::model::Principal;
use metacdn::protocol::identity::TlsVersions;
use metacdn::serve::{Config, Transport};

use super::{Cluster, GET, Server, callers, client, exchange};

#[tokio::test]
async fn caller_is_who_the_certificate_says() {
    let cluster = Cluster::new();
    let server = Server::start(cluster.transport(TlsVersions::Only13), Config::default(), callers(), None).await;
    for principal in [client("Ann"), Principal::Edge("paris".parse().unwrap()), Principal::Node("GC".parse().unwrap())]
    {
        let config = cluster.identity(principal.clone()).client_config();
        let answer = exchange(server.connect_tls(config).await.unwrap(), GET).await.unwrap();
        assert!(answer.ends_with(&format!("{principal} from 127.0.0.1")), "{answer}");
    }
    let nobody = server.connect_tls(cluster.client(None, &rustls::version::TLS13)).await.unwrap();
    assert!(exchange(nobody, GET).await.unwrap().ends_with("anonymous from 127.0.0.1"));
    server.stopped().await;
}

#[tokio::test]
async fn only_this_machine_is_the_operator() {
    let loopback = Server::start(Transport::Loopback, Config::default(), callers(), None).await;
    assert!(exchange(loopback.connect().await, GET).await.unwrap().ends_with("operator from 127.0.0.1"));
    let plain = Server::plain(Config::default(), callers()).await;
    assert!(exchange(plain.connect().await, GET).await.unwrap().ends_with("anonymous from 127.0.0.1"));
    loopback.stopped().await;
    plain.stopped().await;
}

#[tokio::test]
async fn foreign_and_expired_certificates_are_refused() {
    let (cluster, foreign) = (Cluster::new(), Cluster::new());
    let server = Server::start(cluster.transport(TlsVersions::Only13), Config::default(), callers(), None).await;
    let now = SystemTime::now();
    let shown = [
        (foreign.issue(client("Ann"), now), "UnknownCA"),
        (cluster.issue(client("Ann"), now - Duration::from_secs(3 * 24 * 3600)), "CertificateExpired"),
    ];
    for (shown, alert) in &shown {
        let stream = server.connect_tls(cluster.client(Some(shown), &rustls::version::TLS13)).await.unwrap();
        // In TLS 1.3 a client learns that its certificate was refused when it reads.
        let error = exchange(stream, GET).await.unwrap_err();
        assert!(error.to_string().contains(alert), "{error}");
    }
    let misled = server.connect_tls(foreign.identity(client("Ann")).client_config()).await.unwrap_err();
    assert!(misled.to_string().contains("UnknownIssuer"), "{misled}");
    server.stopped().await;
}

#[tokio::test]
async fn old_tls_is_spoken_only_where_it_is_opened() {
    let cluster = Cluster::new();
    for (versions, version, welcome) in [
        (TlsVersions::Only13, &rustls::version::TLS12, false),
        (TlsVersions::Only13, &rustls::version::TLS13, true),
        (TlsVersions::Also12, &rustls::version::TLS12, true),
        (TlsVersions::Also12, &rustls::version::TLS13, true),
    ] {
        let server = Server::start(cluster.transport(versions), Config::default(), callers(), None).await;
        let stream = server.connect_tls(cluster.client(None, version)).await;
        assert_eq!(stream.is_ok(), welcome, "{versions:?} {version:?}");
        if let Ok(stream) = stream {
            assert!(exchange(stream, GET).await.unwrap().ends_with("anonymous from 127.0.0.1"));
        }
        server.stopped().await;
    }
}
