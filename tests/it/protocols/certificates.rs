//! Which certificate a client is shown, and how it is exchanged.

use std::sync::Arc;

use metacdn::edge;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{AlertDescription, ClientConfig};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use super::clients::{Client, Protocol};
use super::{Secure, USUAL, request, site, write_pair};
use crate::cluster::wait_until;
use crate::edge::fetch;
use crate::sites::origin::{Origin, answer};

fn der(pem: &str) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()
}

fn shown(stream: &TlsStream<TcpStream>) -> CertificateDer<'static> {
    stream.get_ref().1.peer_certificates().unwrap()[0].clone().into_owned()
}

fn alert(error: &std::io::Error) -> AlertDescription {
    match error.get_ref().and_then(|error| error.downcast_ref::<rustls::Error>()) {
        Some(rustls::Error::AlertReceived(alert)) => *alert,
        _ => panic!("{error:?}"),
    }
}

/// A client that names no host.
fn nameless(secure: &Secure) -> Arc<ClientConfig> {
    let mut config = secure.authority.client(&[]);
    config.enable_sni = false;
    Arc::new(config)
}

async fn origin() -> Origin {
    Origin::start(|_| answer(200, &[("cache-control", "max-age=99")], "text")).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_is_shown_the_certificate_of_the_host_it_asks_for() {
    let origin = origin().await;
    let secure = Secure::start(&[&site(&origin, "")]).await;
    let other = secure.authority.issue(&["other.example"], &rcgen::PKCS_ED25519);
    let both = secure.authority.issue(&["both.example"], &rcgen::PKCS_ECDSA_P384_SHA384);
    let (edge, _, tls, admin) = {
        let certificates = vec![
            write_pair(secure.folder.path(), "other", &other),
            write_pair(secure.folder.path(), "both", &both),
            edge::CertificateConfig { hosts: vec!["LocalHost".to_owned()], ..usual(&secure) },
        ];
        start(&origin, certificates).await
    };
    let secure = Secure { edge, tls, admin, ..secure };
    let client = Arc::new(secure.authority.client(&[]));
    let usual_der = der(&std::fs::read_to_string(secure.path("usual.pem")).unwrap());
    for (name, expected) in [("other.example", der(&other.0)), ("both.example", der(&both.0)), ("localhost", usual_der)]
    {
        let stream = secure.connect(&client, name).await.unwrap();
        assert_eq!(shown(&stream), expected, "{name}");
    }
    // The first one is for whoever names none; this client then misses the host it wanted.
    let stream = secure.connect(&nameless(&secure), "other.example").await.unwrap();
    assert_eq!(shown(&stream), der(&other.0));
    for unknown in ["site.example", "x.other.example", "unknown.example"] {
        let error = secure.connect(&client, unknown).await.unwrap_err();
        assert_eq!(alert(&error), AlertDescription::UnrecognisedName, "{unknown}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_default_is_shown_where_no_other_fits_but_answers_for_no_other_host() {
    let origin = origin().await;
    let secure = Secure::start(&[&site(&origin, "")]).await;
    let first = secure.authority.issue(&["first.example"], &rcgen::PKCS_ECDSA_P256_SHA256);
    let certificates = vec![
        write_pair(secure.folder.path(), "first", &first),
        edge::CertificateConfig { default: true, ..usual(&secure) },
    ];
    let (edge, _, tls, admin) = start(&origin, certificates).await;
    let secure = Secure { edge, tls, admin, ..secure };
    let usual_der = der(&std::fs::read_to_string(secure.path("usual.pem")).unwrap());
    let stream = secure.connect(&nameless(&secure), "site.example").await.unwrap();
    assert_eq!(shown(&stream), usual_der);
    // The client does not believe it; but it was shown.
    let client = Arc::new(secure.authority.client(&[]));
    let error = secure.connect(&client, "unknown.example").await.unwrap_err();
    let reason = error.get_ref().unwrap().downcast_ref::<rustls::Error>().unwrap();
    assert!(matches!(reason, rustls::Error::InvalidCertificate(_)), "{reason:?}");
    for protocol in Protocol::ALL {
        for (host, status) in
            [("site.example", 200), ("first.example", 421), ("unknown.org", 421), ("x.more.example", 200)]
        {
            let mut client = Client::connect(&secure, *protocol, "site.example").await;
            assert_eq!(client.ask(request("GET", host, "/", &[])).await.status, status, "{protocol:?} {host}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_kinds_of_keys_a_client_gets_one_that_it_can_check() {
    let origin = origin().await;
    let secure = Secure::start(&[&site(&origin, "")]).await;
    let ed25519 = secure.authority.issue(&["site.example"], &rcgen::PKCS_ED25519);
    let certificates = vec![write_pair(secure.folder.path(), "ed25519", &ed25519), usual(&secure)];
    let (edge, _, tls, admin) = start(&origin, certificates).await;
    let secure = Secure { edge, tls, admin, ..secure };
    let stream = secure.connect(&Arc::new(secure.authority.client(&[])), "site.example").await.unwrap();
    assert_eq!(shown(&stream), der(&ed25519.0));
    let output = tokio::process::Command::new("openssl")
        .args(["s_client", "-connect", &secure.tls.to_string(), "-servername", "site.example"])
        .args(["-sigalgs", "ECDSA+SHA256"])
        .stdin(std::process::Stdio::null())
        .output();
    let output = String::from_utf8_lossy(&output.await.unwrap().stdout).into_owned();
    assert!(output.contains("Peer signature type: ECDSA"), "{output}");
}

fn usual(secure: &Secure) -> edge::CertificateConfig {
    let (certificate, key) = (secure.path("usual.pem"), secure.path("usual.key"));
    edge::CertificateConfig { certificate, key, hosts: Vec::new(), default: false }
}

/// Another edge with these certificates, of the same authority.
async fn start(
    origin: &Origin,
    certificates: Vec<edge::CertificateConfig>,
) -> (crate::cluster::Running, std::net::SocketAddr, std::net::SocketAddr, std::net::SocketAddr) {
    let cluster = crate::cluster::Cluster::start(&[]).await;
    let site = toml::from_str(&site(origin, "")).unwrap();
    let started = cluster
        .secure_edge(|config| {
            config.seeds.clear();
            config.site = vec![site];
            config.certificate = certificates;
        })
        .await;
    crate::edge::ready(started.3).await;
    started
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_certificate_is_shown_while_old_connections_go_on() {
    let origin = origin().await;
    let secure = Secure::start(&[&site(&origin, "")]).await;
    let mut before = Vec::new();
    for protocol in Protocol::ALL {
        let mut client = Client::connect(&secure, *protocol, "site.example").await;
        assert_eq!(client.ask(request("GET", "site.example", "/", &[])).await.status, 200);
        before.push(client);
    }
    let client = Arc::new(secure.authority.client(&[]));
    let old = shown(&secure.connect(&client, "site.example").await.unwrap());

    // A file that cannot be used changes nothing.
    std::fs::write(secure.path("usual.pem"), "-----BEGIN CERTIFICATE-----\nno\n").unwrap();
    let new = secure.authority.issue(&USUAL, &rcgen::PKCS_ECDSA_P256_SHA256);
    std::fs::write(secure.path("usual.key"), &new.1).unwrap();
    for _ in 0..20 {
        assert_eq!(shown(&secure.connect(&client, "site.example").await.unwrap()), old);
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    std::fs::write(secure.path("usual.pem"), &new.0).unwrap();
    wait_until("the new one is shown", async || {
        shown(&secure.connect(&client, "site.example").await.unwrap()) == der(&new.0)
    })
    .await;
    #[cfg(feature = "http3")]
    assert_eq!(super::http3::shown(&secure, "site.example").await, der(&new.0));
    for client in &mut before {
        assert_eq!(client.ask(request("GET", "site.example", "/", &[])).await.status, 200);
    }
    let metrics = String::from_utf8(fetch(secure.admin, "/metrics").await.into_body()).unwrap();
    let expiry = metrics.lines().find(|line| line.starts_with("metacdn_edge_certificate_expiry_seconds{")).unwrap();
    assert!(expiry.contains("usual.pem"), "{expiry}");
    // What rcgen makes lasts until the year 4096.
    let at: f64 = expiry.rsplit(' ').next().unwrap().parse().unwrap();
    assert!(at > 60_000_000_000.0, "{expiry}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_a_certificate_names_its_file() {
    let origin = origin().await;
    let secure = Secure::start(&[&site(&origin, "")]).await;
    let mut config = edge::Config { certificate: vec![usual(&secure)], ..edge::Config::default() };
    assert_eq!(config.check_certificates().unwrap().len(), 1);
    let complaint = |config: &edge::Config| config.check_certificates().unwrap_err().to_string();
    let other = secure.authority.issue(&USUAL, &rcgen::PKCS_ED25519);
    config.certificate[0].key = write_pair(secure.folder.path(), "other", &other).key;
    let text = complaint(&config);
    assert!(text.contains("usual.pem") && text.contains("other.key") && text.contains("does not belong"), "{text}");
    config.certificate[0] = edge::CertificateConfig { hosts: vec!["x.org".to_owned()], ..usual(&secure) };
    assert!(complaint(&config).contains("not for x.org"), "{}", complaint(&config));
    config.certificate[0].key = secure.path("missing.key");
    assert!(complaint(&config).contains("missing.key"), "{}", complaint(&config));
}
