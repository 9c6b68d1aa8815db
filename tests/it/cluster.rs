//! The harness: real nodes and edges on free ports, with the certificates of a cluster of their own.

use std::collections::BTreeMap;
use std::future::Future;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, SystemTime};

use metacdn::cli::certs::authority::{Authority, Holder};
use metacdn::client::{Deadlines, Peer, Upload, full};
use metacdn::model::{Address, ContentHash, ObjectKey, Principal};
use metacdn::protocol::identity::Identity;
use metacdn::protocol::status::Receipt;
use metacdn::{edge, node};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

/// Far beyond every wait of a healthy cluster: reaching it means that something is broken.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Waits until `condition` holds, and fails with `what` if it never does.
pub async fn wait_until<F, Fut>(what: &str, mut condition: F)
where
    F: FnMut() -> Fut,
    Fut: Future<Output = bool>,
{
    let deadline = Instant::now() + PATIENCE;
    while !condition().await {
        assert!(Instant::now() < deadline, "gave up waiting until {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A cluster of nodes that run in this process.
pub struct Cluster {
    pub folder: TempDir,
    authority: Authority,
    nodes: BTreeMap<String, RunningNode>,
}

/// Where a node listens; kept over restarts, so that it comes back where it was.
#[derive(Debug, Clone, Copy)]
pub struct Ports {
    pub api: SocketAddr,
    pub download: SocketAddr,
    pub price: SocketAddr,
}

struct RunningNode {
    ports: Ports,
    config: node::Config,
    running: Option<Running>,
}

/// A role that runs in this process.
pub struct Running {
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Running {
    /// Waits until the role ends by itself, which it does with a panic that says why.
    pub async fn failed(self) -> String {
        let ended = timeout(PATIENCE, self.task).await.expect("the role ends");
        let panic = ended.expect_err("the role fails").into_panic();
        panic.downcast_ref::<String>().cloned().unwrap_or_default()
    }
}

impl Running {
    pub async fn stop(self) {
        self.stop.cancel();
        timeout(PATIENCE, self.task).await.expect("a role stops in time").unwrap();
    }
}

impl Cluster {
    /// Starts nodes of these names; all but the first join by the address of the first.
    pub async fn start(names: &[&str]) -> Self {
        Self::start_with(names, |_| {}).await
    }

    /// As [`Cluster::start`], each node with another configuration.
    pub async fn start_with(names: &[&str], change: impl Fn(&mut node::Config)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut cluster =
            Self { folder, authority: Authority::create(SystemTime::now()).unwrap(), nodes: BTreeMap::new() };
        for name in names {
            cluster.add_with(name, &change).await;
        }
        for name in names {
            let client = cluster.client(name);
            let all = names.len();
            wait_until(&format!("{name} knows all nodes"), async || {
                client.servers().await.is_ok_and(|servers| servers.servers.len() == all)
            })
            .await;
        }
        cluster
    }

    /// Starts a new node that joins by the address of another, and waits until it takes writes.
    pub async fn add(&mut self, name: &str) {
        self.add_with(name, |_| {}).await;
    }

    /// As [`Cluster::add`], with another configuration.
    pub async fn add_with(&mut self, name: &str, change: impl FnOnce(&mut node::Config)) {
        self.add_at(name, "127.0.0.1:0".parse().unwrap(), change).await;
    }

    /// As [`Cluster::add_with`], and does not wait for anything.
    pub async fn begin(&mut self, name: &str, change: impl FnOnce(&mut node::Config)) {
        let free = "127.0.0.1:0".parse().unwrap();
        self.begin_on(name, Ports { api: free, download: free, price: free }, change).await;
    }

    async fn add_on(&mut self, name: &str, at: Ports, change: impl FnOnce(&mut node::Config)) {
        self.begin_on(name, at, change).await;
        self.is_ready(name).await;
    }

    /// Waits until a node takes writes.
    pub async fn is_ready(&self, name: &str) {
        let client = self.client(name);
        wait_until(&format!("{name} is ready"), async || client.ready().await.is_ok()).await;
    }

    /// As [`Cluster::begin`], at these addresses.
    pub async fn begin_on(&mut self, name: &str, at: Ports, change: impl FnOnce(&mut node::Config)) {
        let mut config = self.config(name);
        config.seeds = self.nodes.values().take(1).map(|node| node.ports.api.into()).collect();
        change(&mut config);
        let (running, ports) = self.run(config.clone(), at).await;
        self.nodes.insert(name.to_owned(), RunningNode { ports, config, running: Some(running) });
    }

    /// As [`Cluster::add_with`], with the node API at `api`.
    pub async fn add_at(&mut self, name: &str, api: SocketAddr, change: impl FnOnce(&mut node::Config)) {
        let free = "127.0.0.1:0".parse().unwrap();
        self.add_on(name, Ports { api, download: free, price: free }, change).await;
    }

    /// Stops a node.
    pub async fn stop(&mut self, name: &str) {
        self.nodes.get_mut(name).unwrap().running.take().unwrap().stop().await;
    }

    /// A node that is expected to end by itself.
    pub fn take(&mut self, name: &str) -> Running {
        self.nodes.get_mut(name).unwrap().running.take().unwrap()
    }

    /// Changes the configuration with which a stopped node will start.
    pub fn change(&mut self, name: &str, change: impl FnOnce(&mut node::Config)) {
        change(&mut self.nodes.get_mut(name).unwrap().config);
    }

    /// Starts a stopped node again, where it was and as it was configured.
    pub async fn restart(&mut self, name: &str) {
        let node = &self.nodes[name];
        let (running, _) = self.run(node.config.clone(), node.ports).await;
        self.nodes.get_mut(name).unwrap().running = Some(running);
    }

    /// Starts a stopped node again, at other ports and without any seed.
    pub async fn restart_elsewhere(&mut self, name: &str) {
        let config = node::Config { seeds: Vec::new(), ..self.nodes[name].config.clone() };
        let free = "127.0.0.1:0".parse().unwrap();
        let (running, ports) = self.run(config.clone(), Ports { api: free, download: free, price: free }).await;
        self.nodes.insert(name.to_owned(), RunningNode { ports, config, running: Some(running) });
    }

    pub fn names(&self) -> impl Iterator<Item = &String> {
        self.nodes.keys()
    }

    pub fn ports(&self, name: &str) -> Ports {
        self.nodes[name].ports
    }

    pub fn address(&self, name: &str) -> Address {
        self.ports(name).api.into()
    }

    pub fn data(&self, name: &str) -> std::path::PathBuf {
        self.folder.path().join(name)
    }

    fn config(&self, name: &str) -> node::Config {
        node::Config::new(name.parse().unwrap(), self.data(name))
    }

    async fn run(&self, config: node::Config, at: Ports) -> (Running, Ports) {
        let listeners =
            node::Listeners { api: bind(at.api).await, download: bind(at.download).await, price: bind(at.price).await };
        let ports = Ports {
            api: listeners.api.local_addr().unwrap(),
            download: listeners.download.local_addr().unwrap(),
            price: listeners.price.local_addr().unwrap(),
        };
        let identity = self.identity(Principal::Node(config.id.clone()));
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let task = tokio::spawn(async move { node::run(config, identity, listeners, stopped).await.unwrap() });
        (Running { stop, task }, ports)
    }

    /// An identity of this cluster.
    pub fn identity(&self, principal: Principal) -> Identity {
        let (certificate, key) = self.pem(principal);
        Identity::from_pem(
            self.authority.certificate().as_bytes(),
            certificate.as_bytes(),
            key.as_bytes(),
            SystemTime::now(),
        )
        .unwrap()
    }

    /// A certificate and key of this cluster.
    pub fn pem(&self, principal: Principal) -> (String, String) {
        let issued =
            self.authority.issue(&Holder { principal, hosts: Vec::new(), days: 1 }, SystemTime::now()).unwrap();
        (issued.certificate, issued.key)
    }

    /// How to call nodes without a certificate.
    pub fn anonymous_tls(&self) -> Arc<rustls::ClientConfig> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.authority_pem().as_bytes()).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        Arc::new(builder.unwrap().with_root_certificates(roots).with_no_client_auth())
    }

    pub fn authority_pem(&self) -> &str {
        self.authority.certificate()
    }

    /// Connections to a node with a client certificate.
    pub fn client(&self, name: &str) -> Peer {
        self.caller(name, Principal::Client("tester".parse().unwrap()))
    }

    /// Connections to a node as `principal`.
    pub fn caller(&self, name: &str, principal: Principal) -> Peer {
        let tls = self.identity(principal).client_config();
        Peer::new(tls, Some(&name.parse().unwrap()), self.address(name), Deadlines::default())
    }

    /// An edge in front of the cluster, and where it listens: for users, and for operators.
    pub async fn edge(&self, change: impl FnOnce(&mut edge::Config)) -> (Running, SocketAddr, SocketAddr) {
        self.edge_at("127.0.0.1:0", change).await
    }

    /// As [`Cluster::edge`], at another address.
    pub async fn edge_at(&self, at: &str, change: impl FnOnce(&mut edge::Config)) -> (Running, SocketAddr, SocketAddr) {
        self.edge_as(Principal::Edge("edge".parse().unwrap()), at, change).await
    }

    /// As [`Cluster::edge_at`], under another certificate.
    pub async fn edge_as(
        &self,
        principal: Principal,
        at: &str,
        change: impl FnOnce(&mut edge::Config),
    ) -> (Running, SocketAddr, SocketAddr) {
        let listeners = edge::Listeners {
            public: TcpListener::bind(at).await.unwrap(),
            tls: None,
            shield: None,
            admin: TcpListener::bind(at).await.unwrap(),
        };
        self.edge_on(principal, listeners, change)
    }

    /// As [`Cluster::edge`], for which others ask at `shield`.
    pub async fn shield(
        &self,
        shield: TcpListener,
        change: impl FnOnce(&mut edge::Config),
    ) -> (Running, SocketAddr, SocketAddr) {
        let listeners = edge::Listeners {
            public: TcpListener::bind("127.0.0.1:0").await.unwrap(),
            tls: None,
            shield: Some(shield),
            admin: TcpListener::bind("127.0.0.1:0").await.unwrap(),
        };
        self.edge_on(Principal::Edge("shield".parse().unwrap()), listeners, change)
    }

    /// An edge that users reach by TLS, too, and where: plain, by TLS and QUIC, and for operators.
    pub async fn secure_edge(
        &self,
        change: impl FnOnce(&mut edge::Config),
    ) -> (Running, SocketAddr, SocketAddr, SocketAddr) {
        let listeners = edge::Listeners {
            public: TcpListener::bind("127.0.0.1:0").await.unwrap(),
            tls: Some(crate::protocols::tls_listeners().await),
            shield: None,
            admin: TcpListener::bind("127.0.0.1:0").await.unwrap(),
        };
        let tls = listeners.tls.as_ref().unwrap().tcp.local_addr().unwrap();
        let (running, public, admin) = self.edge_on(Principal::Edge("edge".parse().unwrap()), listeners, change);
        (running, public, tls, admin)
    }

    fn edge_on(
        &self,
        principal: Principal,
        listeners: edge::Listeners,
        change: impl FnOnce(&mut edge::Config),
    ) -> (Running, SocketAddr, SocketAddr) {
        let mut config = edge::Config {
            seeds: self.nodes.values().map(|node| node.ports.api.into()).collect(),
            ..edge::Config::default()
        };
        change(&mut config);
        let (public, admin) = (listeners.public.local_addr().unwrap(), listeners.admin.local_addr().unwrap());
        let identity = self.identity(principal);
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let task =
            tokio::spawn(async move { edge::run(config, Some(identity), listeners, None, stopped).await.unwrap() });
        (Running { stop, task }, public, admin)
    }
}

/// An address that nobody uses, below the ports that the system gives to outgoing connections: so it stays free until a
/// process that is started with it listens there, and while that process is dead.
pub fn free_address() -> SocketAddr {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let first = 10_000 + (std::process::id() % 200) as u16 * 100;
    loop {
        let port = first + NEXT.fetch_add(1, Ordering::Relaxed) % 2_000;
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        if std::net::TcpListener::bind(address).is_ok() {
            return address;
        }
    }
}

/// Listens at `at`; the socket of a test beside this one may hold the port for a moment.
async fn bind(at: SocketAddr) -> TcpListener {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match TcpListener::bind(at).await {
            Err(_) if Instant::now() < deadline => tokio::time::sleep(Duration::from_millis(20)).await,
            bound => return bound.unwrap(),
        }
    }
}

pub fn key(text: &str) -> ObjectKey {
    text.parse().unwrap()
}

/// Stores an object.
pub async fn put(peer: &Peer, name: &str, bytes: impl Into<Vec<u8>>) -> Receipt {
    let bytes = bytes.into();
    let key = key(name);
    let upload = Upload { key: &key, size: bytes.len() as u64, media_type: None, cache_control: None, wait_for: None };
    peer.put_object(&upload, full(bytes)).await.unwrap()
}

/// The bytes of an object; `None` if the node has none.
pub async fn get(peer: &Peer, name: &str) -> Option<Vec<u8>> {
    match peer.get_object(&key(name), 0).await {
        Ok(reply) => Some(reply.body.read_all(256 << 20).await.unwrap().to_vec()),
        Err(error) if error.status() == Some(http::StatusCode::NOT_FOUND) => None,
        Err(error) => panic!("{error:?}"),
    }
}

/// All objects of a node, by key.
pub async fn objects(peer: &Peer) -> BTreeMap<String, ContentHash> {
    let mut all = BTreeMap::new();
    let mut after = None;
    loop {
        let page = peer.list_objects("", after.as_ref(), 1000).await.unwrap();
        all.extend(page.objects.into_iter().map(|object| (object.key.to_string(), object.content.hash)));
        after = page.next;
        if after.is_none() {
            return all;
        }
    }
}

/// All files below a folder.
pub fn files_below(folder: &Path) -> usize {
    let Ok(entries) = std::fs::read_dir(folder) else { return 1 };
    entries.map(|entry| files_below(&entry.unwrap().path())).sum()
}
