//! The node role: keeps objects, distributes them, keeps the cluster's records, and serves the control APIs.
//!
//! Every node is equal. Here the mechanisms meet: what the store holds, what replication decides, who is alive.

mod access;
mod announce;
mod api;
mod belonging;
mod blob_metrics;
mod blobs;
mod bytes;
mod config;
mod copies;
mod digests;
mod error;
mod feed;
mod fetch;
mod foreground;
mod forget;
mod heartbeat;
mod home;
mod hot;
mod keep;
mod links;
mod members;
mod min_version;
mod objects;
mod ops;
mod pace;
mod packets;
mod passed;
mod prices;
mod pull;
mod purges;
mod receipts;
mod records;
mod resolve;
mod restore;
mod scrub;
mod servers;
mod serving;
mod settle;
mod states;
mod sweep;
mod variants;

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use tokio::net::TcpListener;
use tokio::sync::{Notify, Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::membership::Detector;
use crate::model::{Address, ContentHash, Epoch, Node, NodeId, Principal};
use crate::protocol::identity::{Identity, TlsVersions};
use crate::replicate::Coverage;
use crate::resize::choose::Rates;
use crate::serve::guard::AllowedHosts;
use crate::serve::{self, Handlers, Transport, serve};
use crate::store::{Blobs, Catalog, FileSystem, StoreError};
use belonging::Belonging;
pub use config::{Config, Packets};
use copies::Copies;
use fetch::Fetching;
use foreground::Foreground;
use members::Members;
use ops::Metrics;
use receipts::ReceiptsDue;
use records::OwnRecords;
use restore::Restore;
use scrub::Scrub;
use settle::Acknowledged;
pub use variants::Config as ResizeConfig;
use variants::Variants;

/// How long a starting node waits for one that still holds its data folder. A stopped process lets go at once; one that
/// drains may take this long for its last reads.
const PREDECESSOR_WAIT: Duration = Duration::from_secs(5);

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
    /// Its database went back in time, so what it would list under old sequences its peers would miss.
    #[error("the node's database went back in time: start it again, and it takes it for the backup that it is")]
    WentBack,
    /// The cluster has forgotten it, and may have forgotten deletions that it does not know of.
    #[error("the cluster has forgotten node {0}: start the machine under a new name, with an empty data folder")]
    Forgotten(NodeId),
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
    copies: Copies,
    receipts: ReceiptsDue,
    coverage: Mutex<Coverage>,
    /// The feed of a peer was read to its end.
    read_to_end: Notify,
    restore: Restore,
    fetching: Fetching,
    foreground: Foreground,
    acknowledged: Acknowledged,
    belonging: Belonging,
    scrub: Scrub,
    failure: Mutex<Option<NodeError>>,
    stop: CancellationToken,
}

impl Core {
    /// Ends the node because of `error`.
    fn fail(&self, error: NodeError) {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
        self.stop.cancel();
    }
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
    // A token of its own, so that a node that fails stops itself alone.
    let stop = stop.child_token();
    let (core, records, jobs) = open(config, &identity, &listeners, &stop).await?;
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
    tasks.spawn(passed::run(core.clone()));
    tasks.spawn(restore::run(core.clone()));
    tasks.spawn(settle::run(core.clone()));
    tasks.spawn(keep::unpark_in_time(core.clone()));
    tasks.spawn(keep::expire_in_time(core.clone()));
    tasks.spawn(digests::compare_in_time(core.clone()));
    tasks.spawn(fetch::run(core.clone()));
    tasks.spawn(sweep::run(core.clone()));
    tasks.spawn(scrub::run(core.clone()));
    tasks.spawn(scrub::mend_in_time(core.clone()));
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
    match core.failure.lock().unwrap_or_else(PoisonError::into_inner).take() {
        Some(failure) => Err(failure),
        None => Ok(()),
    }
}

/// Opens the store, lists this node, reads who was known before, and looks at them once. A database that turns out to
/// have gone back in time is opened anew, as the backup that it is.
async fn open(
    config: Config,
    identity: &Identity,
    listeners: &Listeners,
    stop: &CancellationToken,
) -> Result<(Arc<Core>, OwnRecords, mpsc::Receiver<variants::Job>), NodeError> {
    loop {
        let (core, jobs) = start(config.clone(), identity, listeners, stop.clone()).await?;
        let mut records = OwnRecords::default();
        records.read(&core).await?;
        if core.members.view().borrow().is_forgotten(&core.me.id) {
            return Err(NodeError::Forgotten(core.me.id.clone()));
        }
        announce::list_self(&core).await?;
        records.read(&core).await?;
        match heartbeat::look_around(&core).await {
            Err(NodeError::WentBack) => {}
            looked => {
                looked?;
                settle::begin(&core).await?;
                return Ok((core, records, jobs));
            }
        }
    }
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
        FileSystem.make_durable_folder(&folder)?;
        // The catalogue is locked first, so that no other process's unfinished blobs are removed.
        let catalog = open_catalog(&folder, &id, epoch)?;
        // What cannot be known of a blob is kept: the next start looks again.
        let is_wanted = |hash: &ContentHash| catalog.awaits_blob(hash).unwrap_or(true);
        let blobs = Blobs::open(FileSystem, &folder.join("blobs"), life, is_wanted)?;
        Ok((catalog, blobs))
    });
    let (catalog, blobs) = opened.await?;
    let tls = identity.client_config();
    let members = Members::new(config.id.clone(), tls.clone(), Detector::new(&config.membership));
    let json_budget = Arc::new(Semaphore::new(packets::JSON_BUDGET_KIB));
    let mut metrics = Metrics::new();
    let (variants, jobs) = Variants::new(config.images, config.resize.clone(), &mut metrics.registry);
    let rates = Mutex::default();
    let fetching = Fetching::new(config.fetch_bytes_per_second);
    let own = [me.address.clone(), listeners.api.local_addr()?.into()];
    let belonging = Belonging::new(me.id.clone(), &own, &config.seeds);
    let core = Core {
        me,
        config,
        catalog,
        blobs,
        members,
        tls,
        metrics,
        json_budget,
        variants,
        rates,
        copies: Copies::default(),
        receipts: ReceiptsDue::default(),
        coverage: Mutex::default(),
        read_to_end: Notify::new(),
        restore: Restore::default(),
        fetching,
        foreground: Foreground::new(),
        acknowledged: Acknowledged::default(),
        belonging,
        scrub: Scrub::default(),
        failure: Mutex::default(),
        stop,
    };
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
