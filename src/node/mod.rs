//! The node role: keeps objects, distributes them, keeps the cluster's records, and serves the control APIs.
//!
//! Every node is equal. Here the mechanisms meet: what the store holds, what replication decides, who is alive.

mod access;
mod announce;
mod api;
mod bytes;
mod error;
mod feed;
mod fetch;
mod links;
mod members;
mod objects;
mod ops;
mod packets;
mod prices;
mod pull;
mod records;
mod resolve;
mod servers;
mod serving;
mod variants;

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::membership::{self, Detector};
use crate::model::{Address, Epoch, FieldValue, ImageMode, Node, NodeId, Principal, Provider};
use crate::protocol::identity::{Identity, TlsVersions};
use crate::resize::choose::Rates;
use crate::serve::guard::AllowedHosts;
use crate::serve::{self, Handlers, Transport, serve};
use crate::store::{Blobs, Catalog, StoreError};
use members::Members;
use ops::Metrics;
use pull::OwnRecords;
pub use variants::Config as ResizeConfig;
use variants::Variants;

/// How long a starting node waits for one that still holds its data folder. A stopped process lets go at once; one that
/// drains may take this long for its last reads.
const PREDECESSOR_WAIT: Duration = Duration::from_secs(5);

/// Who may send packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Packets {
    /// Those with a client certificate of the cluster.
    #[default]
    Closed,
    /// Everyone who reaches the port, also over TLS 1.2: the reference's own client shows no certificate.
    Open,
}

/// What a node needs to know. Addresses that it listens on are given as open sockets, in [`Listeners`].
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The node's name, the one in its certificate.
    pub id: NodeId,
    /// The cloud it runs on; its own name if there is none.
    pub provider: Option<Provider>,
    /// The folder of its objects and catalogue.
    pub data: PathBuf,
    /// Where packets and the node API are served.
    #[serde(default = "default_listen")]
    pub listen: SocketAddr,
    /// Where others reach that, if it is not where it listens.
    pub advertise: Option<Address>,
    /// Where the server list and the download API are served.
    #[serde(default = "default_download_listen")]
    pub download_listen: SocketAddr,
    /// Where others reach that, if it is not where it listens.
    pub download_advertise: Option<Address>,
    /// Where the price API is served.
    #[serde(default = "default_price_listen")]
    pub price_listen: SocketAddr,
    /// Addresses of nodes of the cluster that it joins; one is enough.
    #[serde(default)]
    pub seeds: Vec<Address>,
    /// Who may send packets.
    #[serde(default)]
    pub packets: Packets,
    /// What is done with images.
    #[serde(default)]
    pub images: ImageMode,
    /// Whether the download API answers callers without a certificate.
    #[serde(default)]
    pub public_downloads: bool,
    /// Further host names under which the reference's APIs may be asked.
    #[serde(default)]
    pub hosts: Vec<String>,
    /// The largest object, in bytes.
    #[serde(default = "default_object_bytes_max")]
    pub object_bytes_max: u64,
    /// The `Cache-Control` of objects that come without one.
    #[serde(default = "default_cache_control")]
    pub cache_control: FieldValue,
    /// How many objects are fetched from peers at a time.
    #[serde(default = "default_fetch_parallel")]
    pub fetch_parallel: NonZeroUsize,
    /// When a silent node is suspect or down.
    #[serde(default)]
    pub membership: membership::Config,
    /// How images are resized.
    #[serde(default)]
    pub resize: ResizeConfig,
    /// The limits of each listener.
    #[serde(default)]
    pub serve: serve::Config,
}

impl Config {
    /// The configuration of the node `id` that keeps its data in `data`, with the defaults for all else.
    pub fn new(id: NodeId, data: PathBuf) -> Self {
        Self {
            id,
            provider: None,
            data,
            listen: default_listen(),
            advertise: None,
            download_listen: default_download_listen(),
            download_advertise: None,
            price_listen: default_price_listen(),
            seeds: Vec::new(),
            packets: Packets::default(),
            images: ImageMode::default(),
            public_downloads: false,
            hosts: Vec::new(),
            object_bytes_max: default_object_bytes_max(),
            cache_control: default_cache_control(),
            fetch_parallel: default_fetch_parallel(),
            membership: membership::Config::default(),
            resize: ResizeConfig::default(),
            serve: serve::Config::default(),
        }
    }
}

const fn loopback(port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port)
}

// The ports are the reference's.
const fn default_listen() -> SocketAddr {
    loopback(22222)
}

const fn default_download_listen() -> SocketAddr {
    loopback(8871)
}

const fn default_price_listen() -> SocketAddr {
    loopback(8700)
}

const fn default_object_bytes_max() -> u64 {
    1 << 40
}

fn default_cache_control() -> FieldValue {
    "max-age=60".parse().expect("it is visible ASCII")
}

const fn default_fetch_parallel() -> NonZeroUsize {
    NonZeroUsize::new(16).expect("16 is not 0")
}

/// The open sockets of a node.
#[derive(Debug)]
pub struct Listeners {
    /// For packets and the node API.
    pub api: TcpListener,
    /// For the server list and the download API.
    pub download: TcpListener,
    /// For the price API.
    pub price: TcpListener,
}

/// Why a node cannot start.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// The certificate is not this node's.
    #[error("the certificate is that of {found}, not of node {expected}: metacdn certs issue node {expected}")]
    OtherIdentity {
        /// Whose it is.
        found: Principal,
        /// Whose it should be.
        expected: NodeId,
    },
    /// Others cannot be told where it is.
    #[error("{listen} means every address of this machine: set {field} to the one that others reach")]
    Unadvertised {
        /// What it listens on.
        listen: SocketAddr,
        /// The field to set.
        field: &'static str,
    },
    /// The data folder cannot be used.
    #[error("the data folder cannot be used")]
    Store(#[from] StoreError),
    /// A socket or the system's randomness fails.
    #[error("the system refuses")]
    System(#[from] io::Error),
}

/// What the tasks and handlers of one node share.
struct Core {
    me: Node,
    config: Config,
    catalog: Catalog,
    blobs: Blobs,
    members: Members,
    tls: Arc<rustls::ClientConfig>,
    metrics: Metrics,
    json_budget: Arc<Semaphore>,
    variants: Variants,
    rates: Mutex<Rates>,
    stop: CancellationToken,
}

/// Runs a node until `stop`; then it lets running answers end and returns. What it acknowledged is durable whether it
/// returns or is killed.
///
/// # Errors
/// When it cannot start.
pub async fn run(
    config: Config,
    identity: Identity,
    listeners: Listeners,
    stop: CancellationToken,
) -> Result<(), NodeError> {
    let (core, jobs) = start(config, &identity, &listeners, stop.clone()).await?;
    announce::list_self(&core).await?;
    // Before anything runs: who was known before is told where this node is now.
    let mut records = OwnRecords::default();
    records.read(&core).await?;
    let versions = match core.config.packets {
        Packets::Open => TlsVersions::Also12,
        Packets::Closed => TlsVersions::Only13,
    };
    let tls = || Transport::Tls(identity.server_config(versions));
    let side = |listen: SocketAddr| if listen.ip().is_loopback() { Transport::Loopback } else { tls() };
    let packet_core = core.clone();
    let packets: serve::PacketHandler =
        Arc::new(move |connection| Box::pin(packets::take(packet_core.clone(), connection)));
    let limits = || core.config.serve.clone();
    let download_at = listeners.download.local_addr()?;
    let price_at = listeners.price.local_addr()?;
    let mut tasks = JoinSet::new();
    let http = |router| Handlers { http: router, packets: None };
    let api = Handlers { http: api::api(&core), packets: Some(packets) };
    tasks.spawn(serve(listeners.api, tls(), limits(), api, stop.clone()));
    let download = http(api::download(&core, allowed_hosts(&core, download_at)));
    tasks.spawn(serve(listeners.download, side(download_at), limits(), download, stop.clone()));
    let price = http(api::price(&core, allowed_hosts(&core, price_at)));
    tasks.spawn(serve(listeners.price, side(price_at), limits(), price, stop.clone()));
    tasks.spawn(records.follow(core.clone()));
    tasks.spawn(pull::follow_members(core.clone()));
    tasks.spawn(fetch::run(core.clone()));
    tasks.spawn(variants::run(core.clone(), jobs));
    tasks.spawn(variants::follow(core.clone()));
    tasks.spawn(announce::run(core.clone()));
    tasks.spawn(announce::keep_name(core.clone()));
    info!(node = %core.me.id, address = %core.me.address, download = %core.me.download, "node started");
    while let Some(ended) = tasks.join_next().await {
        match ended {
            // A node that lost a part of itself must not look alive.
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            _ if core.catalog.has_ended() => return Err(NodeError::Store(StoreError::Closed)),
            _ => {}
        }
    }
    info!(node = %core.me.id, "node stopped");
    Ok(())
}

/// Checks the configuration and opens the store.
async fn start(
    config: Config,
    identity: &Identity,
    listeners: &Listeners,
    stop: CancellationToken,
) -> Result<(Arc<Core>, mpsc::Receiver<variants::Job>), NodeError> {
    let expected = Principal::Node(config.id.clone());
    if *identity.principal() != expected {
        return Err(NodeError::OtherIdentity { found: identity.principal().clone(), expected: config.id });
    }
    let me = Node {
        id: config.id.clone(),
        provider: match &config.provider {
            Some(provider) => provider.clone(),
            None => config.id.as_str().parse().expect("names of nodes and providers have one form"),
        },
        address: advertised(config.advertise.as_ref(), &listeners.api, "advertise")?,
        download: advertised(config.download_advertise.as_ref(), &listeners.download, "download_advertise")?,
        images: config.images,
    };
    let (folder, id) = (config.data.clone(), config.id.clone());
    let epoch = Epoch::from_bits(getrandom::u64().map_err(io::Error::other)?);
    let life = getrandom::u64().map_err(io::Error::other)?;
    let opened = bytes::off_runtime(move || -> Result<_, NodeError> {
        std::fs::create_dir_all(&folder)?;
        // The catalogue is locked first, so that no other process's unfinished blobs are removed.
        let catalog = open_catalog(&folder, &id, epoch)?;
        Ok((catalog, Blobs::open(&folder.join("blobs"), life)?))
    });
    let (catalog, blobs) = opened.await?;
    let tls = identity.client_config();
    let members = Members::new(config.id.clone(), tls.clone(), Detector::new(&config.membership));
    let json_budget = Arc::new(Semaphore::new(packets::JSON_BUDGET_KIB));
    let mut metrics = Metrics::new();
    let (variants, jobs) = Variants::new(config.images, config.resize.clone(), &mut metrics.registry);
    let rates = Mutex::default();
    let core = Core { me, config, catalog, blobs, members, tls, metrics, json_budget, variants, rates, stop };
    Ok((Arc::new(core), jobs))
}

/// Opens the catalogue; a predecessor that is still ending is waited for.
fn open_catalog(folder: &Path, id: &NodeId, epoch: Epoch) -> Result<Catalog, StoreError> {
    let deadline = Instant::now() + PREDECESSOR_WAIT;
    loop {
        match Catalog::open(folder, id, epoch) {
            Err(StoreError::InUse(_)) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(50)),
            opened => return opened,
        }
    }
}

fn advertised(told: Option<&Address>, listener: &TcpListener, field: &'static str) -> Result<Address, NodeError> {
    let listen = listener.local_addr()?;
    match told {
        Some(address) => Ok(address.clone()),
        None if listen.ip().is_unspecified() => Err(NodeError::Unadvertised { listen, field }),
        None => Ok(listen.into()),
    }
}

fn allowed_hosts(core: &Core, listen: SocketAddr) -> AllowedHosts {
    // The port of the price API is advertised nowhere, but it is reached under the same names.
    let hosts = AllowedHosts::loopback(listen.port()).and_address(&listen.into());
    let hosts = [&core.me.download, &core.me.address].into_iter().fold(hosts, |hosts, told| {
        let here = Address::new(told.host(), listen.port()).expect("the host of an address, with an open port");
        hosts.and_address(told).and_address(&here)
    });
    core.config.hosts.iter().fold(hosts, |hosts, host| hosts.and_host(host))
}

/// The wall clock, in milliseconds since 1970.
fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Waits that double, up to a bound, each shortened by up to a half at random so that peers do not retry in step.
struct Backoff {
    first: Duration,
    next: Duration,
    longest: Duration,
}

impl Backoff {
    const fn new(first: Duration, longest: Duration) -> Self {
        Self { first, next: first, longest }
    }

    const fn reset(&mut self) {
        self.next = self.first;
    }

    async fn wait(&mut self) {
        // Without randomness the full wait is right, too.
        let random = getrandom::u32().map_or(1.0, |bits| f64::from(bits) / f64::from(u32::MAX));
        tokio::time::sleep(self.next.mul_f64(0.5 + 0.5 * random)).await;
        self.next = (self.next * 2).min(self.longest);
    }
}
