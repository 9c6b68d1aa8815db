//! The edge role: answers users, each request from the node that price and time choose.
//!
//! Routing reads one immutable snapshot; following the cluster and measuring the nodes go on beside it. If the control
//! plane is gone, requests go on with the last known view.

pub mod access_log;
mod admin;
mod alt_svc;
mod attempt;
mod body;
mod budget;
mod certificates;
mod choice;
mod coding;
mod coherence;
mod download;
mod facts;
mod fetch;
mod fill;
mod freshness;
mod hosts;
mod hot;
mod ledger;
mod links;
mod listen;
mod memory;
mod node_body;
mod observe;
mod obtain;
mod proxy;
mod purge;
mod refresh;
mod refusal;
mod reload;
mod resume;
mod revalidate;
mod search;
mod settings;
mod several;
mod shield;
pub mod site;
mod sizes;
mod slices;
mod upstream;

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwap;
use http::HeaderValue;
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio::sync::{Notify, oneshot, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::service_fn;
use tracing::info;

use crate::cache::disk::DiskError;
use crate::cache::{self, Cache};
use crate::client::{self, Deadlines};
use crate::compress;
use crate::membership;
use crate::model::{Address, Network, NodeId, View};
use crate::protocol::identity::{Identity, TlsVersions};
use crate::resize::choose::Thresholds;
use crate::route::{self, RouteTable};
use crate::serve::guard::AllowedHosts;
use crate::serve::http1::Workers;
use crate::serve::{self, Handlers, Proxies, Transport, http1, serve};
use admin::Metrics;
use alt_svc::AltSvc;
use budget::RetryBudget;
use coding::Coders;
use coherence::Coherence;
use ledger::{Charges, Ledger};
use links::Links;
use listen::Doors;
use observe::Observations;
use settings::Settings;
use shield::Shields;
use sizes::Sizes;
use upstream::Upstream;

pub use certificates::{CertificateConfig, CertificateFileError};
pub use listen::TlsListeners;
pub use reload::{Change, ReadChange, ReloadError, Reloader, Reloads};
pub use shield::{Config as ShieldConfig, ShieldError};
pub use site::{OriginConfig, OriginUrl, SiteError};

/// What an edge needs to know.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Where users are answered over plain HTTP.
    pub listen: SocketAddr,
    /// Where users are answered over TLS, by HTTP/1.1 and HTTP/2, and over QUIC, by HTTP/3.
    pub tls_listen: Option<SocketAddr>,
    /// The certificates that users are shown there. Clients that name no host are shown the first one, or the default.
    pub certificate: Vec<CertificateConfig>,
    /// How often the files of the certificates are looked at.
    pub certificate_check_ms: u64,
    /// Whether HTTP/3 is spoken where TLS is.
    pub http3: bool,
    /// Where health, readiness, metrics and routes are served.
    pub admin_listen: SocketAddr,
    /// Addresses of nodes of the cluster; one that answers is enough.
    pub seeds: Vec<Address>,
    /// Sites whose content comes from HTTP servers; all other hosts are answered from the cluster's store.
    pub site: Vec<site::Config>,
    /// A file with certificates of authorities, in PEM, that origins of sites are trusted by, besides those that the
    /// system trusts.
    pub origin_authority: Option<PathBuf>,
    /// Host names that it serves from the store, besides its own addresses, `localhost` and names below `metacdn.internal`.
    pub hosts: Vec<String>,
    /// Addresses of clients that may choose a policy by the header `metacdn-policy`.
    pub trusted: Vec<IpAddr>,
    /// The networks of proxies that pass connections of users on: each of these has to begin with a PROXY header, and is the
    /// client's whom that names.
    pub proxy_protocol_from: Vec<Network>,
    /// How many nodes are tried for one request.
    pub tries_max: NonZeroUsize,
    /// How many retries may be made for a hundred requests, besides the first one of each and those at nodes that were
    /// not even reached.
    pub retry_per_cent: u32,
    /// How many retries may be made at once when few were needed before.
    pub retry_burst: u32,
    /// How many requests a node is sent at a time; further ones go to the next node.
    pub node_requests_max: NonZeroUsize,
    /// How long a connection to a node may take.
    pub connect_ms_max: u64,
    /// How long a node may take to begin its answer, on top of `connect_ms_max`, whether or not a connection is at hand.
    pub first_byte_ms_max: u64,
    /// How long the nodes together may take to begin an answer, before the client is told that none does.
    pub request_ms_max: u64,
    /// How long a node may be silent within a body, before another one goes on.
    pub stall_ms_max: u64,
    /// How fast a client's link must be for the larger variants of images.
    pub thresholds: Thresholds,
    /// Which edges ask for all others.
    pub shield: ShieldConfig,
    /// What is kept in memory.
    pub cache: cache::Config,
    /// The file in which is kept what was used of each provider, by month; without one that begins with each start.
    pub ledger: Option<PathBuf>,
    /// What is written of each answer.
    pub access_log: access_log::Config,
    /// What is compressed: of the store, and of sites that say nothing else.
    pub compression: compress::Config,
    /// How large an object is taken to be before it was seen.
    pub assumed_size_bytes: u64,
    /// How requests are routed.
    pub route: route::Config,
    /// When a silent node is suspect or down.
    pub membership: membership::Config,
    /// How many threads answer users; without it, one for each core.
    pub threads: Option<NonZeroUsize>,
    /// The limits of the listener for users.
    pub serve: serve::Config,
}

impl Default for Config {
    fn default() -> Self {
        let loopback = |port| SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port);
        Self {
            // The reference's port.
            listen: loopback(8080),
            tls_listen: None,
            certificate: Vec::new(),
            certificate_check_ms: 5_000,
            http3: true,
            admin_listen: loopback(8081),
            seeds: Vec::new(),
            site: Vec::new(),
            origin_authority: None,
            hosts: Vec::new(),
            trusted: Vec::new(),
            proxy_protocol_from: Vec::new(),
            // As many as are scored in full.
            tries_max: NonZeroUsize::new(16).expect("16 is not 0"),
            retry_per_cent: 20,
            // All requests that a node has when it falls silent.
            retry_burst: 500,
            // A quarter of the connections that a node takes by default: one edge full of slow users leaves room for
            // other edges, for the node's peers and for its operators.
            node_requests_max: NonZeroUsize::new(256).expect("256 is not 0"),
            connect_ms_max: 2_000,
            first_byte_ms_max: 3_000,
            // Four silent nodes in a row.
            request_ms_max: 20_000,
            // To ask another node costs a round trip; packets that are lost are sent again sooner than this.
            stall_ms_max: 2_000,
            thresholds: Thresholds::default(),
            shield: ShieldConfig::default(),
            cache: cache::Config::default(),
            ledger: None,
            access_log: access_log::Config::default(),
            compression: compress::Config::default(),
            assumed_size_bytes: 100_000,
            route: route::Config::default(),
            membership: membership::Config::default(),
            threads: None,
            // Most are idle between two requests and hold little. All at their worst, with 64 KiB read ahead, take
            // 512 MiB; bodies on their way are bounded by `node_requests_max`.
            serve: serve::Config { connections_max: 8192, ..serve::Config::default() },
        }
    }
}

impl Config {
    /// How many threads answer users.
    fn threads(&self) -> io::Result<NonZeroUsize> {
        self.threads.map_or_else(std::thread::available_parallelism, Ok)
    }

    const fn certificate_check(&self) -> Duration {
        Duration::from_millis(self.certificate_check_ms)
    }

    const fn body_stall(&self) -> Duration {
        Duration::from_millis(self.stall_ms_max)
    }

    const fn deadlines(&self) -> Deadlines {
        Deadlines {
            connect: Duration::from_millis(self.connect_ms_max),
            first_byte: Duration::from_millis(self.first_byte_ms_max),
            idle: self.body_stall(),
        }
    }
}

/// The open sockets of an edge.
#[derive(Debug)]
pub struct Listeners {
    /// For users, over plain HTTP.
    pub public: TcpListener,
    /// For users, over TLS and QUIC.
    pub tls: Option<TlsListeners>,
    /// For other edges, whose shield it is.
    pub shield: Option<TcpListener>,
    /// For operators.
    pub admin: TcpListener,
}

/// Why an edge cannot start.
#[derive(Debug, thiserror::Error)]
pub enum EdgeError {
    /// It knows no node.
    #[error("an edge needs the address of a node or a site: set edge.seeds or [[edge.site]]")]
    NoSeeds,
    /// It has nothing by which nodes, or operators who are elsewhere, could know it.
    #[error("an edge that has seeds or shields, or whose admin address others reach, needs an [identity]")]
    NoIdentity,
    /// Its sites contradict each other.
    #[error(transparent)]
    Site(#[from] SiteError),
    /// Its shields contradict each other.
    #[error(transparent)]
    Shield(#[from] ShieldError),
    /// It has no authorities by which it could trust origins.
    #[error("cannot read the authorities that origins are trusted by")]
    Authorities(#[source] io::Error),
    /// What is kept on the disk cannot be used.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// Its ledger does not read, or has no folder.
    #[error("cannot use the ledger {0:?} (edge.ledger)")]
    Ledger(PathBuf, #[source] io::Error),
    /// Its access log cannot be opened.
    #[error("cannot open the access log (edge.access_log.path)")]
    AccessLog(#[source] io::Error),
    /// It has no certificates that it could show.
    #[error(transparent)]
    Certificates(#[from] CertificateFileError),
    /// A socket fails.
    #[error("the system refuses")]
    System(#[from] io::Error),
}

/// What the tasks and handlers of one edge share.
struct Core {
    /// What it was started with. What can change is read from the settings alone.
    config: Config,
    settings: ArcSwap<Settings>,
    reloader: Option<Reloader>,
    public_at: SocketAddr,
    proxies: Proxies,
    via: HeaderValue,
    tls: Arc<rustls::ClientConfig>,
    view: watch::Sender<Arc<View>>,
    observations: Arc<Observations>,
    routes: ArcSwap<Routes>,
    sizes: Sizes,
    ledger: Arc<Ledger>,
    retries: RetryBudget,
    shields: Shields,
    cache: Arc<Cache>,
    coders: Coders,
    /// Told when a feed has told of an object.
    news: Notify,
    coherence: Coherence,
    /// Which purges were heard of.
    heard: purge::Heard,
    links: Links,
    alt_svc: AltSvc,
    metrics: Metrics,
    /// When this edge started: what its moments count from.
    started: Instant,
    /// Fetches for the cache, which outlast the requests that began them.
    fills: TaskTracker,
    stop: CancellationToken,
    /// The last answer has ended, too.
    drained: CancellationToken,
}

impl Core {
    fn new(
        config: Config,
        identity: Option<&Identity>,
        public_at: SocketAddr,
        reloader: Option<Reloader>,
        stop: CancellationToken,
    ) -> Result<Self, EdgeError> {
        let routes = Routes {
            table: RouteTable::new(&config.route, Vec::new()),
            upstreams: BTreeMap::new(),
            settled: false,
            ready: false,
            covered_since: None,
            resizes: false,
        };
        let settings = Settings::new(config.clone(), public_at, None)?;
        // Without an identity there is no cluster that could be spoken to.
        let tls = identity
            .map_or_else(|| client::tls_of_authorities(rustls::RootCertStore::empty()), Identity::client_config);
        let ledger = Ledger::open(config.ledger.clone())
            .map_err(|error| EdgeError::Ledger(config.ledger.clone().unwrap_or_default(), error))?;
        let charges = Charges { tariffs: &BTreeMap::new(), ledger: &ledger };
        settings.sites.iter().for_each(|site| site.begin(charges));
        let (cache, purged_alone) = purge::cache_of(&config.cache)?;
        cache.keep_sites(settings.sites.iter().map(|site| &**site.text()));
        Ok(Self {
            settings: ArcSwap::from_pointee(settings),
            reloader,
            public_at,
            proxies: Proxies::new(config.proxy_protocol_from.clone()),
            via: HeaderValue::from_static("1.1 metacdn"),
            shields: Shields::new(&config, &tls, purged_alone)?,
            tls,
            view: watch::channel(Arc::default()).0,
            observations: Arc::new(Observations::new(config.route.clone(), &config.membership)),
            routes: ArcSwap::from_pointee(routes),
            sizes: Sizes::new(config.assumed_size_bytes),
            ledger: Arc::new(ledger),
            retries: RetryBudget::new(config.retry_per_cent, config.retry_burst),
            cache: Arc::new(cache),
            coders: Coders::new(config.threads()?),
            news: Notify::new(),
            coherence: Coherence::default(),
            heard: purge::Heard::default(),
            links: Links::default(),
            alt_svc: AltSvc::default(),
            metrics: Metrics::new(),
            started: Instant::now(),
            fills: TaskTracker::new(),
            stop,
            drained: CancellationToken::new(),
            config,
        })
    }
}

/// What a request is routed by: one moment, swapped whole.
struct Routes {
    table: RouteTable,
    upstreams: BTreeMap<NodeId, Upstream>,
    /// Whether at some time each node was measured or down.
    settled: bool,
    /// Whether that is so, and one of them can be used now.
    ready: bool,
    /// Since when every change of an object would have been heard of; `None` if it would not.
    covered_since: Option<Duration>,
    /// Whether there is a node that makes variants of images.
    resizes: bool,
}

impl Config {
    /// When each of its certificates for users expires, by its file.
    ///
    /// # Errors
    /// With the first one that cannot be used.
    pub fn check_certificates(&self) -> Result<Vec<(PathBuf, SystemTime)>, CertificateFileError> {
        let all = certificates::read(&self.certificate)?.into_iter().zip(&self.certificate);
        Ok(all.map(|(shown, config)| (config.certificate.clone(), shown.certificate.expires_at())).collect())
    }

    /// Whether its sites can be served.
    ///
    /// # Errors
    /// With the first thing that is wrong with them.
    pub fn check_sites(&self) -> Result<(), SiteError> {
        site::Sites::new(self, &client::tls_of_authorities(rustls::RootCertStore::empty()), None).map(drop)
    }
}

/// Runs an edge until `stop`; then it lets running answers end and returns. With `reloads` it reads its configuration anew
/// whenever it is asked to.
///
/// # Errors
/// When it cannot start.
pub async fn run(
    config: Config,
    identity: Option<Identity>,
    listeners: Listeners,
    reloads: Option<Reloads>,
    stop: CancellationToken,
) -> Result<(), EdgeError> {
    if config.seeds.is_empty() && config.site.is_empty() {
        return Err(EdgeError::NoSeeds);
    }
    if identity.is_none() && (!config.seeds.is_empty() || config.shield.is_used()) {
        return Err(EdgeError::NoIdentity);
    }
    let public_at = listeners.public.local_addr()?;
    let admin_at = listeners.admin.local_addr()?;
    let core = Arc::new(Core::new(
        config,
        identity.as_ref(),
        public_at,
        reloads.as_ref().map(Reloads::reloader),
        stop.clone(),
    )?);
    // Web pages reach only loopback in the operator's name; elsewhere callers prove who they are.
    let (admin_transport, admin_hosts) = match &identity {
        _ if admin_at.ip().is_loopback() => (Transport::Loopback, Some(AllowedHosts::loopback(admin_at.port()))),
        Some(identity) => (Transport::Tls(identity.server_config(TlsVersions::Only13)), None),
        None => return Err(EdgeError::NoIdentity),
    };
    let (limits, threads) = (core.config.serve.clone(), core.config.threads()?);
    let access_log = access_log::AccessLog::start(&core.config.access_log, core.metrics.access_log.clone());
    let access_log = access_log.map_err(EdgeError::AccessLog)?;
    let answering = core.clone();
    let users = http1::Handlers {
        http: service_fn(move |request| proxy::answer(answering.clone(), request)),
        hot: Arc::new(hot::Hits::new(core.clone())),
        witness: access_log.as_ref().map(|log| log.witness(threads)),
    };
    let admin = Handlers { http: admin::router(&core, admin_hosts), packets: None };
    let mut tasks = JoinSet::new();
    let (doors, admin_listener, shield_listener) = Doors::new(&core, listeners)?;
    tasks.spawn(reload::keep(core.clone(), doors.certificates.clone(), reloads));
    #[cfg(feature = "http3")]
    if let (Some(socket), Some(certificates)) = (doors.udp, doors.certificates) {
        listen::serve(&core, listen::Quic { socket, certificates }, users.clone(), &mut tasks)?;
    }
    let mut workers = Workers::start(doors.tcp, core.proxies.clone(), threads, limits, users, &stop)?;
    let (give_back, drained) = oneshot::channel();
    tasks.spawn(async move {
        workers.drained().await.expect("a part of the users would be served by nobody");
        let _ = give_back.send(workers);
    });
    tasks.spawn(serve(admin_listener, admin_transport, serve::Config::default(), admin, stop.clone()));
    shield::begin(&core, shield_listener, identity.as_ref(), &mut tasks);
    refresh::begin(&core, &mut tasks);
    let ledger = ledger::Writing::start(core.ledger.clone());
    info!(address = %public_at, admin = %admin_at, policy = %core.config.route.policy, "edge started");
    while let Some(ended) = tasks.join_next().await {
        if let Err(error) = ended
            && error.is_panic()
        {
            // An edge that lost a part of itself must not look alive.
            std::panic::resume_unwind(error.into_panic());
        }
    }
    core.drained.cancel();
    core.fills.close();
    core.fills.wait().await;
    // Fetches for the cache ran there, too.
    if let Ok(workers) = drained.await {
        workers.end().await;
    }
    core.cache.close().await;
    ledger.end().await;
    if let Some(log) = access_log {
        log.close().await;
    }
    info!(address = %public_at, "edge stopped");
    Ok(())
}
