//! TLS, HTTP/2 and HTTP/3 at an edge, over real sockets: certificates, and what clients of each protocol may do.

mod certificates;
pub mod clients;
mod floods;
mod hints;
mod http2;
#[cfg(feature = "http3")]
pub mod http3;
mod raw_http2;
mod same;
mod tls;
mod uploads;

use std::net::{SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use http::{HeaderMap, Request};
use metacdn::edge;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, SignatureAlgorithm};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::cluster::{Cluster, Running};
use crate::sites::origin::Origin;

/// An edge that users reach over TLS, and those whom they trust.
pub struct Secure {
    pub edge: Running,
    pub plain: SocketAddr,
    pub tls: SocketAddr,
    pub admin: SocketAddr,
    pub authority: Trusted,
    folder: TempDir,
}

/// An authority that clients trust.
pub struct Trusted {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Trusted {
    pub fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name.push(rcgen::DnType::CommonName, "an authority that users trust");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    /// A certificate and its key.
    pub fn issue(&self, names: &[&str], kind: &'static SignatureAlgorithm) -> (String, String) {
        let key = KeyPair::generate_for(kind).unwrap();
        let names: Vec<_> = names.iter().map(ToString::to_string).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.use_authority_key_identifier_extension = true;
        (params.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem())
    }

    /// How clients call that offer these protocols.
    pub fn client(&self, alpn: &[&str]) -> ClientConfig {
        self.client_of(alpn, rustls::DEFAULT_VERSIONS)
    }

    fn client_of(&self, alpn: &[&str], versions: &[&'static SupportedProtocolVersion]) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.pem.as_bytes()).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(versions).unwrap();
        let mut config = builder.with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        config
    }
}

/// A site at hosts below `example`, with these lines more.
pub fn site(origin: &Origin, more: &str) -> String {
    format!("name = \"site\"\nhosts = [\"*.example\", \"localhost\"]\norigins = [{:?}]\n{more}", origin.url())
}

impl Secure {
    /// An edge of these sites whose certificate is for `site.example`, `*.more.example`, `localhost` and 127.0.0.1.
    pub async fn start(sites: &[&str]) -> Self {
        Self::start_with(sites, |_| {}).await
    }

    pub async fn start_with(sites: &[&str], change: impl FnOnce(&mut edge::Config)) -> Self {
        let site = sites.iter().map(|text| toml::from_str(text).unwrap()).collect();
        let change = |config: &mut edge::Config| {
            config.seeds.clear();
            config.site = site;
            change(config);
        };
        Self::in_front_of(&Cluster::start(&[]).await, change).await
    }

    /// An edge of the cluster with such a certificate.
    pub async fn in_front_of(cluster: &Cluster, change: impl FnOnce(&mut edge::Config)) -> Self {
        let (authority, folder) = (Trusted::new(), tempfile::tempdir().unwrap());
        let pair = authority.issue(&USUAL, &rcgen::PKCS_ECDSA_P256_SHA256);
        let certificate = write_pair(folder.path(), "usual", &pair);
        std::fs::write(folder.path().join("authority.pem"), &authority.pem).unwrap();
        let change = |config: &mut edge::Config| {
            config.certificate = vec![certificate];
            config.certificate_check_ms = 50;
            change(config);
        };
        let (edge, plain, tls, admin) = cluster.secure_edge(change).await;
        crate::edge::ready(admin).await;
        Self { edge, plain, tls, admin, authority, folder }
    }

    /// A file of it: `authority.pem` is what clients trust.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A connection to the host `name` with the protocols of `config`.
    pub async fn connect(&self, config: &Arc<ClientConfig>, name: &str) -> std::io::Result<TlsStream<TcpStream>> {
        let tcp = TcpStream::connect(self.tls).await.unwrap();
        let name = ServerName::try_from(name.to_owned()).unwrap();
        TlsConnector::from(config.clone()).connect(name, tcp).await
    }
}

/// The names of the usual certificate.
const USUAL: [&str; 4] = ["site.example", "*.more.example", "localhost", "127.0.0.1"];

/// Writes a certificate and its key.
pub fn write_pair(folder: &Path, name: &str, (certificate, key): &(String, String)) -> edge::CertificateConfig {
    let paths = (folder.join(format!("{name}.pem")), folder.join(format!("{name}.key")));
    std::fs::write(&paths.1, key).unwrap();
    std::fs::write(&paths.0, certificate).unwrap();
    edge::CertificateConfig { certificate: paths.0, key: paths.1, hosts: Vec::new(), default: false }
}

/// Sockets for TLS and QUIC at one free port.
pub async fn tls_listeners() -> edge::TlsListeners {
    loop {
        let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
        // Who has the other one may be a test beside this one.
        if let Ok(udp) = UdpSocket::bind(tcp.local_addr().unwrap()) {
            return edge::TlsListeners { tcp, udp: Some(udp) };
        }
    }
}

/// What came back.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
    pub trailers: Option<HeaderMap>,
}

impl Answer {
    pub fn field(&self, name: &str) -> String {
        let all = self.headers.get_all(name).iter().map(|value| value.to_str().unwrap());
        all.collect::<Vec<_>>().join(", ")
    }
}

/// A request for `https://HOST/PATH`.
pub fn request(method: &str, host: &str, path: &str, fields: &[(&str, &str)]) -> Request<()> {
    let mut request = Request::builder().method(method).uri(format!("https://{host}{path}"));
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    request.body(()).unwrap()
}
