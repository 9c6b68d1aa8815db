//! The edge role: answers users, each request from the node that price and time choose.
//!
//! Routing reads one immutable snapshot; following the cluster and measuring the nodes go on beside it. If the control
//! plane is gone, requests go on with the last known view.

mod admin;
mod attempt;
mod body;
mod budget;
mod choice;
mod coherence;
mod download;
mod fetch;
mod freshness;
mod hosts;
mod links;
mod memory;
mod node_body;
mod observe;
mod obtain;
mod proxy;
mod refresh;
mod resume;
mod revalidate;
mod search;
mod sizes;

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use http::HeaderValue;
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio::sync::{Notify, Semaphore, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::service_fn;
use tracing::info;

use crate::cache::{self, Cache};
use crate::client::{Deadlines, Peer};
use crate::membership;
use crate::model::{Address, NodeId, View};
use crate::protocol::identity::{Identity, TlsVersions};
use crate::resize::choose::Thresholds;
use crate::route::{self, RouteTable};
use crate::serve::guard::AllowedHosts;
use crate::serve::{self, Handlers, Transport, serve};
use admin::Metrics;
use budget::RetryBudget;
use coherence::Coherence;
use hosts::Hosts;
use links::Links;
use observe::Observations;
use sizes::Sizes;

/// What an edge needs to know.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Where users are answered.
    pub listen: SocketAddr,
    /// Where health, readiness, metrics and routes are served.
    pub admin_listen: SocketAddr,
    /// Addresses of nodes of the cluster; one that answers is enough.
    pub seeds: Vec<Address>,
    /// Host names that it serves, besides its own addresses, `localhost` and names below `metacdn.internal`.
    pub hosts: Vec<String>,
    /// Addresses of clients that may choose a policy by the header `metacdn-policy`.
    pub trusted: Vec<IpAddr>,
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
    /// What is kept in memory.
    pub cache: cache::Config,
    /// How large an object is taken to be before it was seen.
    pub assumed_size_bytes: u64,
    /// How requests are routed.
    pub route: route::Config,
    /// When a silent node is suspect or down.
    pub membership: membership::Config,
    /// The limits of the listener for users.
    pub serve: serve::Config,
}

impl Default for Config {
    fn default() -> Self {
        let loopback = |port| SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port);
        Self {
            // The reference's port.
            listen: loopback(8080),
            admin_listen: loopback(8081),
            seeds: Vec::new(),
            hosts: Vec::new(),
            trusted: Vec::new(),
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
            cache: cache::Config::default(),
            assumed_size_bytes: 100_000,
            route: route::Config::default(),
            membership: membership::Config::default(),
            // Most are idle between two requests and hold little. All at their worst, with 64 KiB read ahead, take
            // 512 MiB; bodies on their way are bounded by `node_requests_max`.
            serve: serve::Config { connections_max: 8192, ..serve::Config::default() },
        }
    }
}

impl Config {
    const fn body_stall(&self) -> Duration {
        Duration::from_millis(self.stall_ms_max)
    }
}

/// The open sockets of an edge.
#[derive(Debug)]
pub struct Listeners {
    /// For users.
    pub public: TcpListener,
    /// For operators.
    pub admin: TcpListener,
}

/// Why an edge cannot start.
#[derive(Debug, thiserror::Error)]
pub enum EdgeError {
    /// It knows no node.
    #[error("an edge needs the address of a node: set edge.seeds")]
    NoSeeds,
    /// A socket fails.
    #[error("the system refuses")]
    System(#[from] io::Error),
}

/// What the tasks and handlers of one edge share.
struct Core {
    config: Config,
    hosts: Hosts,
    via: HeaderValue,
    tls: Arc<rustls::ClientConfig>,
    view: watch::Sender<Arc<View>>,
    observations: Observations,
    routes: ArcSwap<Routes>,
    sizes: Sizes,
    retries: RetryBudget,
    cache: Arc<Cache>,
    /// Told when a feed has told of an object.
    news: Notify,
    coherence: Coherence,
    links: Links,
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
    const fn deadlines(&self) -> Deadlines {
        Deadlines {
            connect: Duration::from_millis(self.config.connect_ms_max),
            first_byte: Duration::from_millis(self.config.first_byte_ms_max),
            idle: self.config.body_stall(),
        }
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

/// A node as requests are sent to it.
#[derive(Clone)]
struct Upstream {
    peer: Peer,
    /// A place for each request that it may be sent at a time.
    free: Arc<Semaphore>,
}

/// Runs an edge until `stop`; then it lets running answers end and returns.
///
/// # Errors
/// When it cannot start.
pub async fn run(
    mut config: Config,
    identity: Identity,
    listeners: Listeners,
    stop: CancellationToken,
) -> Result<(), EdgeError> {
    if config.seeds.is_empty() {
        return Err(EdgeError::NoSeeds);
    }
    let public_at = listeners.public.local_addr()?;
    let admin_at = listeners.admin.local_addr()?;
    let routes = Routes {
        table: RouteTable::new(&config.route, Vec::new()),
        upstreams: BTreeMap::new(),
        settled: false,
        ready: false,
        covered_since: None,
        resizes: false,
    };
    // An IPv4 client on an IPv6 socket is the IPv4 client, however it was configured.
    config.trusted.iter_mut().for_each(|trusted| *trusted = trusted.to_canonical());
    let core = Arc::new(Core {
        hosts: Hosts::new(public_at, &config.hosts),
        via: HeaderValue::from_static("1.1 metacdn"),
        tls: identity.client_config(),
        view: watch::channel(Arc::default()).0,
        observations: Observations::new(config.route.clone(), &config.membership),
        routes: ArcSwap::from_pointee(routes),
        sizes: Sizes::new(config.assumed_size_bytes),
        retries: RetryBudget::new(config.retry_per_cent, config.retry_burst),
        cache: Arc::new(Cache::new(config.cache.clone())),
        news: Notify::new(),
        coherence: Coherence::default(),
        links: Links::default(),
        metrics: Metrics::new(),
        started: Instant::now(),
        fills: TaskTracker::new(),
        stop: stop.clone(),
        drained: CancellationToken::new(),
        config,
    });
    // Web pages reach only loopback in the operator's name; elsewhere callers prove who they are.
    let (admin_transport, admin_hosts) = if admin_at.ip().is_loopback() {
        (Transport::Loopback, Some(AllowedHosts::loopback(admin_at.port())))
    } else {
        (Transport::Tls(identity.server_config(TlsVersions::Only13)), None)
    };
    let answering = core.clone();
    let users = Handlers { http: service_fn(move |request| proxy::answer(answering.clone(), request)), packets: None };
    let admin = Handlers { http: admin::router(&core, admin_hosts), packets: None };
    let mut tasks = JoinSet::new();
    tasks.spawn(serve(listeners.public, Transport::Plain, core.config.serve.clone(), users, stop.clone()));
    tasks.spawn(serve(listeners.admin, admin_transport, serve::Config::default(), admin, stop.clone()));
    tasks.spawn(refresh::rebuild(core.clone()));
    tasks.spawn(refresh::follow_nodes(core.clone()));
    tasks.spawn(links::run(core.clone()));
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
    info!(address = %public_at, "edge stopped");
    Ok(())
}
