//! Listeners: who is calling, what is refused, and how they stop. All over real sockets.

mod callers;
mod limits;
mod links;
mod packets;
mod stopping;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::Router;
use axum::extract::Extension;
use metacdn::cli::certs::authority::{Authority, Holder, Issued};
use metacdn::model::Principal;
use metacdn::protocol::identity::{Identity, TlsVersions};
use metacdn::serve::{Config, Handlers, PacketHandler, PeerAddress, Transport, serve};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::sync::CancellationToken;

/// Far beyond every limit that the tests set: reaching it means that something hangs.
const PATIENCE: Duration = Duration::from_secs(20);
const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";

struct Server {
    port: u16,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Server {
    async fn start(transport: Transport, config: Config, router: Router, packets: Option<PacketHandler>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let stop = CancellationToken::new();
        let task = tokio::spawn(serve(listener, transport, config, Handlers { http: router, packets }, stop.clone()));
        Self { port, stop, task }
    }

    async fn plain(config: Config, router: Router) -> Self {
        Self::start(Transport::Plain, config, router, None).await
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(("127.0.0.1", self.port)).await.unwrap()
    }

    async fn connect_tls(&self, config: Arc<ClientConfig>) -> std::io::Result<TlsStream<TcpStream>> {
        let name = ServerName::try_from(Principal::ANY_NODE).unwrap();
        TlsConnector::from(config).connect(name, self.connect().await).await
    }

    async fn stopped(self) {
        self.stop.cancel();
        timeout(PATIENCE, self.task).await.expect("serve returns").unwrap();
    }
}

struct Cluster {
    authority: Authority,
}

impl Cluster {
    fn new() -> Self {
        Self { authority: Authority::create(SystemTime::now()).unwrap() }
    }

    fn issue(&self, principal: Principal, now: SystemTime) -> Issued {
        self.authority.issue(&Holder { principal, hosts: Vec::new(), days: 1 }, now).unwrap()
    }

    fn identity(&self, principal: Principal) -> Identity {
        let now = SystemTime::now();
        let own = self.issue(principal, now);
        let authority = self.authority.certificate().as_bytes();
        Identity::from_pem(authority, own.certificate.as_bytes(), own.key.as_bytes(), now).unwrap()
    }

    fn transport(&self, versions: TlsVersions) -> Transport {
        Transport::Tls(self.identity(Principal::Node("AWS".parse().unwrap())).server_config(versions))
    }

    /// A client that trusts this cluster and shows whatever it likes.
    fn client(&self, shown: Option<&Issued>, version: &'static SupportedProtocolVersion) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.authority.certificate().as_bytes()).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(&[version]).unwrap();
        let builder = builder.with_root_certificates(roots);
        Arc::new(match shown {
            None => builder.with_no_client_auth(),
            Some(shown) => {
                let chain = vec![CertificateDer::from_pem_slice(shown.certificate.as_bytes()).unwrap()];
                let key = PrivateKeyDer::from_pem_slice(shown.key.as_bytes()).unwrap();
                builder.with_client_auth_cert(chain, key).unwrap()
            }
        })
    }
}

fn client(name: &str) -> Principal {
    Principal::Client(name.parse().unwrap())
}

/// Answers with who is calling.
fn callers() -> Router {
    Router::new().fallback(
        |Extension(principal): Extension<Principal>, Extension(peer): Extension<PeerAddress>| async move {
            format!("{principal} from {}", peer.0.ip())
        },
    )
}

/// Sends `bytes` and reads until the other side ends.
async fn exchange(mut stream: impl AsyncRead + AsyncWrite + Unpin, bytes: &[u8]) -> std::io::Result<String> {
    stream.write_all(bytes).await?;
    let mut answer = Vec::new();
    timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("the server ends the connection")?;
    Ok(String::from_utf8(answer).unwrap())
}

/// Reads the head of an answer and leaves the connection open.
async fn answer_head(stream: &mut (impl AsyncRead + Unpin)) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(timeout(PATIENCE, stream.read_u8()).await.expect("an answer comes").unwrap());
    }
    String::from_utf8(head).unwrap()
}
