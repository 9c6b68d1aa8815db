//! The cluster of a demonstration: three nodes, each behind relays that make it as far away as its cloud, and a proxy.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context, anyhow, bail};
use rustls::ClientConfig;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::certificates::{self, CLIENT, PROXY};
use super::relay::{Link, Relay};
use super::report::{LineFacts, NodeFacts, ProxyFacts};
use super::web::Web;
use crate::client::{Deadlines, Peer};
use crate::model::{Address, ImageMode, Tariff};
use crate::protocol::identity::Identity;
use crate::route::Policy;
use crate::{edge, node, route, serve};

/// A machine of the reference system: its prices are the reference's, its distance is a plausible one.
#[derive(Debug)]
pub(super) struct Machine {
    pub(super) name: &'static str,
    pub(super) delay_ms: u64,
    pub(super) instance_hour: &'static str,
    pub(super) network_hour: &'static str,
}

/// The machines, in the order of their ports.
pub(super) const MACHINES: [Machine; 3] = [
    Machine { name: "AWS", delay_ms: 8, instance_hour: "0.30", network_hour: "0.10" },
    Machine { name: "GC", delay_ms: 25, instance_hour: "0.10", network_hour: "0.20" },
    Machine { name: "Program", delay_ms: 2, instance_hour: "0.114", network_hour: "0.75" },
];

/// Numbers of the machines that play a part of their own.
pub(super) const GC: usize = 1;
pub(super) const PROGRAM: usize = 2;

/// The link of a client of the proxy. Each has an address of its own, for the proxy remembers links by addresses.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) name: &'static str,
    pub(super) bytes_per_second: u64,
    source: Ipv4Addr,
}

/// Links of clients, in the order of their ports. By default the proxy sends the original from 2.5 MB/s on and medium
/// from 0.6 MB/s on.
pub(super) const LINES: [Line; 3] = [
    Line { name: "office", bytes_per_second: 20_000_000, source: Ipv4Addr::new(127, 0, 0, 2) },
    Line { name: "train", bytes_per_second: 1_000_000, source: Ipv4Addr::new(127, 0, 0, 3) },
    Line { name: "cabin", bytes_per_second: 250_000, source: Ipv4Addr::new(127, 0, 0, 4) },
];

impl Machine {
    /// What it costs.
    pub(super) fn tariff(&self) -> anyhow::Result<Tariff> {
        Ok(Tariff { instance_hour: self.instance_hour.parse()?, network_hour: self.network_hour.parse()?, rates: None })
    }
}

// The reference's ports; the second and third node take the ones that follow.
const API_PORT: u16 = 22222;
const DOWNLOAD_PORT: u16 = 8871;
const PRICE_PORT: u16 = 8700;
const PROXY_PORT: u16 = 8080;
const PROXY_ADMIN_PORT: u16 = 8081;
const LINE_PORT: u16 = 8082;

/// Running answers get this long when a role stops; the audience waits.
const DRAIN_MS: u64 = 2_000;

/// A role that does not stop in this time is left behind.
const STOP_PATIENCE: Duration = Duration::from_secs(10);

/// An upload is answered when all of it is durable, and large files take their time.
const UPLOAD_PATIENCE: Duration = Duration::from_secs(3600);

/// Where a node is reached; of the proxy, `api` is where users and `download` where operators are answered.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    pub(super) api: SocketAddr,
    pub(super) download: SocketAddr,
    pub(super) price: SocketAddr,
}

/// The cluster. Its parts end when it is dropped, in order only by [`Cluster::stop`].
#[derive(Debug)]
pub(super) struct Cluster {
    folder: PathBuf,
    nodes: Vec<Site>,
    proxy: Proxy,
    lines: Vec<Relay>,
    client: Arc<ClientConfig>,
}

/// A node and the way to it.
#[derive(Debug)]
struct Site {
    machine: &'static Machine,
    api: Relay,
    download: Relay,
    price: Relay,
    running: Option<Running>,
}

#[derive(Debug)]
struct Proxy {
    /// Until it runs its sockets are kept here, so that the ports are taken from the start.
    listeners: Option<edge::Listeners>,
    public: SocketAddr,
    admin: SocketAddr,
    running: Option<Running>,
}

/// A role that runs in this process. It is told to stop when this is dropped.
#[derive(Debug)]
struct Running {
    stop: CancellationToken,
    task: JoinHandle<anyhow::Result<()>>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Running {
    async fn stop(mut self) -> anyhow::Result<()> {
        self.stop.cancel();
        match timeout(STOP_PATIENCE, &mut self.task).await {
            Ok(Ok(result)) => result,
            Ok(Err(error)) => Err(error.into()),
            Err(_) => {
                self.task.abort();
                bail!("it did not stop within {} s", STOP_PATIENCE.as_secs())
            }
        }
    }
}

impl Cluster {
    /// Makes all files in `folder` and takes all ports. Nothing runs yet.
    ///
    /// # Errors
    /// When the disk or the system fails.
    pub(super) async fn create(folder: &Path) -> anyhow::Result<Self> {
        certificates::create(folder, SystemTime::now())?;
        let mut nodes = Vec::new();
        for (machine, number) in MACHINES.iter().zip(0..) {
            let link = Link::with_delay(Duration::from_millis(machine.delay_ms));
            nodes.push(Site {
                machine,
                api: relay(API_PORT + number, link).await?,
                download: relay(DOWNLOAD_PORT + number, link).await?,
                price: relay(PRICE_PORT + number, link).await?,
                running: None,
            });
        }
        let listeners = edge::Listeners {
            public: listen(PROXY_PORT).await?,
            tls: None,
            shield: None,
            admin: listen(PROXY_ADMIN_PORT).await?,
        };
        let (public, admin) = (listeners.public.local_addr()?, listeners.admin.local_addr()?);
        let mut lines = Vec::new();
        for (line, number) in LINES.iter().zip(0..) {
            lines.push(narrow(line, public, LINE_PORT + number).await?);
        }
        let places: Vec<_> = nodes.iter().map(Site::place).collect();
        certificates::write_configs(folder, &places, Place { api: public, download: admin, price: admin })?;
        let client = identity(folder, CLIENT)?.client_config();
        let proxy = Proxy { listeners: Some(listeners), public, admin, running: None };
        Ok(Self { folder: folder.to_owned(), nodes, proxy, lines, client })
    }

    /// Starts a node, for the first time or again; it is found where it was.
    ///
    /// # Errors
    /// When it cannot start.
    pub(super) async fn start_node(&mut self, number: usize) -> anyhow::Result<()> {
        let seeds: Vec<Address> = self.nodes.iter().map(|site| site.api.address().into()).collect();
        let site = &mut self.nodes[number];
        let name = site.machine.name;
        let mut config = node::Config::new(name.parse()?, self.folder.join(name));
        config.advertise = Some(site.api.address().into());
        config.download_advertise = Some(site.download.address().into());
        config.seeds = seeds.into_iter().filter(|seed| Some(seed) != config.advertise.as_ref()).collect();
        config.packets = node::Packets::Open;
        config.public_downloads = true;
        config.images = ImageMode::Dynamic;
        // The relays make that the port in a request's Host is not the one that the node listens on.
        config.hosts = vec!["127.0.0.1".to_owned(), "localhost".to_owned()];
        config.serve = serve::Config { drain_timeout_ms: DRAIN_MS, ..config.serve };
        let listeners = node::Listeners { api: listen(0).await?, download: listen(0).await?, price: listen(0).await? };
        for (relay, listener) in
            [(&site.api, &listeners.api), (&site.download, &listeners.download), (&site.price, &listeners.price)]
        {
            relay.set_target(listener.local_addr()?);
        }
        let identity = identity(&self.folder, name)?;
        let stop = CancellationToken::new();
        let running = node::run(config, identity, listeners, stop.clone());
        let task = tokio::spawn(async move { Ok(running.await?) });
        site.running = Some(Running { stop, task });
        Ok(())
    }

    /// Stops a node. Its ports stay taken, for its return, but whoever connects is reset.
    ///
    /// # Errors
    /// When it fails before it ends.
    pub(super) async fn stop_node(&mut self, number: usize) -> anyhow::Result<()> {
        let site = &mut self.nodes[number];
        let stopped = match site.running.take() {
            Some(running) => running.stop().await,
            None => Ok(()),
        };
        for relay in [&site.api, &site.download, &site.price] {
            relay.set_target(NOWHERE);
        }
        stopped.with_context(|| format!("{} failed", site.machine.name))
    }

    /// Ends a node in the middle of whatever it does, as a machine that fails: nothing is drained, and whoever is
    /// connected is reset.
    pub(super) fn kill_node(&mut self, number: usize) {
        let site = &mut self.nodes[number];
        for relay in [&site.api, &site.download, &site.price] {
            relay.set_target(NOWHERE);
            relay.reset_all();
        }
        if let Some(running) = site.running.take() {
            running.task.abort();
        }
    }

    /// Makes every connection to a node carry so many bytes a second, or as many as it can.
    pub(super) fn limit_rate(&self, bytes_per_second: Option<u64>) {
        for site in &self.nodes {
            site.api.change(|link| link.rate_bytes_per_second = bytes_per_second);
        }
    }

    /// Starts the proxy.
    ///
    /// # Errors
    /// When it runs already or cannot start.
    pub(super) fn start_proxy(&mut self) -> anyhow::Result<()> {
        let listeners = self.proxy.listeners.take().ok_or_else(|| anyhow!("the proxy runs already"))?;
        let config = edge::Config {
            listen: self.proxy.public,
            admin_listen: self.proxy.admin,
            seeds: self.nodes.iter().map(|site| site.api.address().into()).collect(),
            trusted: vec![IpAddr::V4(Ipv4Addr::LOCALHOST)],
            route: route::Config { policy: Policy::Time, ..route::Config::default() },
            serve: serve::Config { drain_timeout_ms: DRAIN_MS, ..edge::Config::default().serve },
            ..edge::Config::default()
        };
        let stop = CancellationToken::new();
        let running = edge::run(config, Some(identity(&self.folder, PROXY)?), listeners, None, stop.clone());
        let task = tokio::spawn(async move { Ok(running.await?) });
        self.proxy.running = Some(Running { stop, task });
        Ok(())
    }

    /// Connections of a client to a node.
    pub(super) fn peer(&self, number: usize) -> Peer {
        let site = &self.nodes[number];
        let id = site.machine.name.parse().expect("names of machines are names of nodes");
        Peer::new(self.client.clone(), Some(&id), site.api.address().into(), Deadlines::default())
    }

    /// Connections of a client to a node, on which an answer may be long in coming.
    pub(super) fn publisher(&self, number: usize) -> Peer {
        let deadlines = Deadlines { first_byte: UPLOAD_PATIENCE, ..Deadlines::default() };
        Peer::new(self.client.clone(), None, self.nodes[number].api.address().into(), deadlines)
    }

    /// The proxy, as users see it.
    pub(super) fn web(&self) -> Web {
        Web::new(self.proxy.public, self.proxy.admin)
    }

    /// Where the proxy is reached over each of [`LINES`].
    pub(super) fn lines(&self) -> Vec<SocketAddr> {
        self.lines.iter().map(Relay::address).collect()
    }

    /// The first role that ended without being told to; for as long as all run, this waits.
    pub(super) async fn first_failure(&mut self) -> anyhow::Error {
        let mut ends = Vec::new();
        for site in &mut self.nodes {
            ends.extend(site.running.as_mut().map(|running| (site.machine.name, &mut running.task)));
        }
        ends.extend(self.proxy.running.as_mut().map(|running| (PROXY, &mut running.task)));
        if ends.is_empty() {
            return std::future::pending().await;
        }
        let (names, tasks): (Vec<_>, Vec<_>) = ends.into_iter().unzip();
        let (ended, index, _) = futures_util::future::select_all(tasks).await;
        let reason = match ended {
            Ok(Ok(())) => anyhow!("it ended"),
            Ok(Err(error)) => error,
            Err(error) => error.into(),
        };
        reason.context(format!("{} failed", names[index]))
    }

    /// Stops everything, the proxy first: it needs the nodes.
    ///
    /// # Errors
    /// With the first part that failed.
    pub(super) async fn stop(mut self) -> anyhow::Result<()> {
        let mut result = match self.proxy.running.take() {
            Some(running) => running.stop().await.context("the proxy failed"),
            None => Ok(()),
        };
        let stops = self.nodes.iter_mut().filter_map(|site| site.running.take().map(|running| (site.machine, running)));
        let stops = stops.map(|(machine, running)| async move {
            running.stop().await.with_context(|| format!("{} failed", machine.name))
        });
        for stopped in futures_util::future::join_all(stops).await {
            result = result.and(stopped);
        }
        result
    }

    /// Where the nodes are, for people and programs.
    pub(super) fn node_facts(&self) -> Vec<NodeFacts> {
        let facts = |site: &Site| {
            let Machine { name, delay_ms, instance_hour, network_hour } = *site.machine;
            let Place { api, download, price } = site.place();
            NodeFacts {
                id: name.to_owned(),
                provider: name.to_owned(),
                address: api.to_string(),
                port: api.port(),
                download_url: format!("http://{download}"),
                download_port: download.port(),
                price_url: format!("http://{price}"),
                price_port: price.port(),
                delay_ms,
                instance_hour: instance_hour.to_owned(),
                network_hour: network_hour.to_owned(),
                data: self.folder.join(name),
                config: certificates::config_file(&self.folder, name),
            }
        };
        self.nodes.iter().map(facts).collect()
    }

    /// Where the proxy is, for people and programs.
    pub(super) fn proxy_facts(&self) -> ProxyFacts {
        let Proxy { public, admin, .. } = &self.proxy;
        ProxyFacts {
            url: format!("http://{public}"),
            port: public.port(),
            admin_url: format!("http://{admin}"),
            admin_port: admin.port(),
            config: certificates::config_file(&self.folder, PROXY),
        }
    }

    /// Where the proxy is reached over slower links, for people and programs.
    pub(super) fn line_facts(&self) -> Vec<LineFacts> {
        let facts = |(line, at): (&Line, SocketAddr)| LineFacts {
            name: line.name.to_owned(),
            bytes_per_second: line.bytes_per_second,
            url: format!("http://{at}"),
            port: at.port(),
        };
        LINES.iter().zip(self.lines()).map(facts).collect()
    }
}

impl Site {
    fn place(&self) -> Place {
        Place { api: self.api.address(), download: self.download.address(), price: self.price.address() }
    }
}

fn identity(folder: &Path, name: &str) -> anyhow::Result<Identity> {
    Ok(certificates::identity_files(folder, name).load(SystemTime::now())?)
}

/// Nothing listens there.
const NOWHERE: SocketAddr = loopback(1);

const fn loopback(port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port)
}

/// A relay at `port`, or a free one if that is taken. It leads nowhere until its node runs.
///
/// It must not refuse meanwhile: a relay that refuses does not listen, and a demonstration that starts in that moment
/// could take the port.
async fn relay(port: u16, link: Link) -> anyhow::Result<Relay> {
    match Relay::start(NOWHERE, link, loopback(port)).await {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            Relay::start(NOWHERE, link, loopback(0)).await.context("no port is free")
        }
        relay => relay.with_context(|| format!("cannot listen on port {port}")),
    }
}

/// A relay to the proxy at `port`, or at a free one if that is taken.
async fn narrow(line: &Line, proxy: SocketAddr, port: u16) -> anyhow::Result<Relay> {
    let link = Link { rate_bytes_per_second: Some(line.bytes_per_second), ..Link::default() };
    let source = IpAddr::V4(line.source);
    match Relay::start_from(source, proxy, link, loopback(port)).await {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            Relay::start_from(source, proxy, link, loopback(0)).await.context("no port is free")
        }
        relay => relay.with_context(|| format!("cannot listen on port {port}")),
    }
}

/// A listener at `port`, or at a free one if that is taken.
async fn listen(port: u16) -> anyhow::Result<TcpListener> {
    match TcpListener::bind(loopback(port)).await {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            TcpListener::bind(loopback(0)).await.context("no port is free")
        }
        listener => listener.with_context(|| format!("cannot listen on port {port}")),
    }
}
