//! The roles of one process: their sockets, and how they end together.

use std::fmt;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::time::SystemTime;

use anyhow::Context;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::config::{Effective, Source};
use crate::protocol::identity::Identity;
use crate::{edge, node};

/// How many ports after the default one are tried: as many nodes as that on one machine are a test, not a service.
const NEXT_PORTS: u16 = 16;

/// Descriptors that a process needs besides its connections: the catalogue, blobs in transfer, peers.
const FILES_BESIDE_CONNECTIONS: u64 = 256;

/// What happens when a port is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ports {
    /// It is an error: a service is found where it was configured.
    Exact,
    /// Of an address that nobody gave, the next free port is used: several nodes on one machine need no numbers.
    NextFree,
}

/// The roles that a configuration asks for, with their open sockets.
#[derive(Debug)]
pub struct Roles {
    identity: Option<Identity>,
    node: Option<(node::Config, node::Listeners)>,
    edge: Option<(edge::Config, edge::Listeners)>,
    reloads: Option<edge::Reloads>,
}

/// A role.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Node,
    Edge,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Node => "node",
            Self::Edge => "edge",
        })
    }
}

impl Roles {
    /// Opens the sockets of all roles.
    ///
    /// # Errors
    /// When there is no role, or a socket cannot be opened.
    pub async fn bind(effective: &Effective, identity: Option<Identity>, ports: Ports) -> anyhow::Result<Self> {
        let config = &effective.config;
        anyhow::ensure!(
            config.node.is_some() || config.edge.is_some(),
            "there is nothing to run: add a section [node], [edge] or both to the configuration"
        );
        let listen = async |field, at| listen(effective, field, at, ports).await;
        let mut roles = Self { identity, node: None, edge: None, reloads: None };
        if let Some(node) = &config.node {
            let listeners = node::Listeners {
                api: listen("node.listen", node.listen).await?,
                download: listen("node.download_listen", node.download_listen).await?,
                price: listen("node.price_listen", node.price_listen).await?,
            };
            roles.node = Some((node.clone(), listeners));
        }
        if let Some(edge) = &config.edge {
            let listeners = edge::Listeners {
                public: listen("edge.listen", edge.listen).await?,
                tls: match edge.tls_listen {
                    Some(at) => Some(listen_tls(listen("edge.tls_listen", at).await?, edge.http3)?),
                    None => None,
                },
                admin: listen("edge.admin_listen", edge.admin_listen).await?,
                shield: match edge.shield.listen {
                    Some(at) => Some(listen("edge.shield.listen", at).await?),
                    None => None,
                },
            };
            roles.edge = Some((edge.clone(), listeners));
        }
        Ok(roles)
    }

    /// Has the edge, if there is one, read with `read` what it is to become, whenever the answer asks it to. The process was
    /// started with the configuration `started`.
    pub fn reload_by(
        &mut self,
        started: &Effective,
        read: impl Fn() -> anyhow::Result<Effective> + Send + Sync + 'static,
    ) -> Option<edge::Reloader> {
        self.edge.as_ref()?;
        let started = started.clone();
        let reloads = self.reloads.insert(edge::Reloads::new(move |running| {
            let fresh = read().map_err(|error| format!("{error:#}"))?;
            fresh.verify(SystemTime::now()).map_err(|error| error.to_string())?;
            started.change(running, &fresh)
        }));
        Some(reloads.reloader())
    }

    /// Where the roles listen, each by the field that says so.
    ///
    /// # Errors
    /// When the system does not tell.
    pub fn addresses(&self) -> io::Result<Vec<(&'static str, SocketAddr)>> {
        let mut addresses = Vec::new();
        if let Some((_, listeners)) = &self.node {
            addresses.push(("node.listen", listeners.api.local_addr()?));
            addresses.push(("node.download_listen", listeners.download.local_addr()?));
            addresses.push(("node.price_listen", listeners.price.local_addr()?));
        }
        if let Some((_, listeners)) = &self.edge {
            addresses.push(("edge.listen", listeners.public.local_addr()?));
            if let Some(tls) = &listeners.tls {
                addresses.push(("edge.tls_listen", tls.tcp.local_addr()?));
            }
            addresses.push(("edge.admin_listen", listeners.admin.local_addr()?));
            if let Some(shield) = &listeners.shield {
                addresses.push(("edge.shield.listen", shield.local_addr()?));
            }
        }
        Ok(addresses)
    }

    /// How many files and sockets the process may come to have open.
    pub fn files_max(&self) -> u64 {
        // An edge has a connection to a node for each one of a user, and as a shield as many of other edges.
        let node = self.node.as_ref().map_or(0, |(config, _)| 3 * config.serve.connections_max);
        let edge = self
            .edge
            .as_ref()
            .map_or(0, |(config, _)| (2 + usize::from(config.shield.listen.is_some())) * config.serve.connections_max);
        (node + edge) as u64 + FILES_BESIDE_CONNECTIONS
    }

    /// Runs the roles until `stop`, and then until their last answers have ended. If one ends before, so do all.
    ///
    /// # Errors
    /// With the failure of the first role that did not end as it should.
    pub async fn serve(self, stop: CancellationToken) -> anyhow::Result<()> {
        let Self { identity, node, edge, reloads } = self;
        let mut roles = JoinSet::new();
        if let Some((config, listeners)) = node {
            let identity = identity.clone().context("a node needs an [identity]")?;
            let stop = stop.clone();
            roles.spawn(async move {
                let ended = node::run(config, identity, listeners, stop).await;
                (Role::Node, ended.map_err(anyhow::Error::from))
            });
        }
        if let Some((config, listeners)) = edge {
            let stop = stop.clone();
            roles.spawn(async move {
                let ended = edge::run(config, identity, listeners, reloads, stop).await;
                (Role::Edge, ended.map_err(anyhow::Error::from))
            });
        }
        let mut outcome = Ok(());
        while let Some(ended) = roles.join_next().await {
            let result = match ended {
                Ok((_, Ok(()))) if stop.is_cancelled() => Ok(()),
                Ok((role, Ok(()))) => Err(anyhow::anyhow!("the {role} ended although nobody stopped it")),
                Ok((role, Err(error))) => {
                    // A node that somebody has taken out of the cluster has done what it should.
                    let is_removed = matches!(error.downcast_ref(), Some(node::NodeError::Forgotten(_)));
                    let what = if is_removed { "ended" } else { "failed" };
                    Err(error.context(format!("the {role} {what}")))
                }
                Err(error) => Err(anyhow::Error::new(error).context("a role broke")),
            };
            if result.is_err() {
                // Whoever watches this process shall see that it is not whole, and start it again.
                stop.cancel();
                outcome = outcome.and(result);
            }
        }
        outcome
    }
}

/// Lets the process open `needed` files and sockets, as far as the system's hard limit goes, and warns if that is less.
pub fn raise_file_limit(needed: u64) {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    // No limit at all is none.
    let Some(current) = current.filter(|current| *current < needed) else { return };
    let wanted = maximum.map_or(needed, |maximum| needed.min(maximum));
    let raised = match setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum }) {
        Ok(()) => wanted,
        Err(_) => current,
    };
    if raised < needed {
        warn!(
            limit = raised,
            needed, "more connections are configured than files may be open: raise the limit, ulimit -n"
        );
    }
}

/// The socket of HTTP/3 beside that of TLS.
fn listen_tls(tcp: TcpListener, http3: bool) -> anyhow::Result<edge::TlsListeners> {
    let udp = if http3 && cfg!(feature = "http3") {
        let at = tcp.local_addr()?;
        let advice = "free its UDP port, or set edge.http3 to false";
        let bound = UdpSocket::bind(at).context(advice);
        Some(bound.with_context(|| format!("cannot use {at} for HTTP/3 (edge.tls_listen)"))?)
    } else {
        None
    };
    Ok(edge::TlsListeners { tcp, udp })
}

async fn listen(
    effective: &Effective,
    field: &'static str,
    at: SocketAddr,
    ports: Ports,
) -> anyhow::Result<TcpListener> {
    // Where others were told an address, another port would never be found.
    let told = effective.is_set(&field.replace("listen", "advertise"));
    let movable = ports == Ports::NextFree && *effective.source(field) == Source::Default && !told;
    let last = if movable { at.port().saturating_add(NEXT_PORTS) } else { at.port() };
    let mut address = at;
    loop {
        match TcpListener::bind(address).await {
            Ok(listener) => {
                if address != at {
                    info!(field, taken = %at, %address, "the default port is taken, using the next free one");
                }
                return Ok(listener);
            }
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && address.port() < last => {
                address.set_port(address.port() + 1);
            }
            Err(error) => {
                let advice = advice(&error, field, address.port());
                return Err(error).context(advice).context(format!("cannot listen on {address} ({field})"));
            }
        }
    }
}

fn advice(error: &io::Error, field: &str, port: u16) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => format!(
            "another process has that port, perhaps an earlier metacdn: `ss -ltnp 'sport = :{port}'` shows which; end \
             it or set {field} to another port"
        ),
        io::ErrorKind::AddrNotAvailable => {
            format!("this machine has no such address: `ip address` lists those it has; set {field} to one of them")
        }
        io::ErrorKind::PermissionDenied => {
            format!("port {port} needs a privilege (CAP_NET_BIND_SERVICE): grant it or set {field} to one above 1023")
        }
        _ => format!("set {field} to an address that can be used"),
    }
}
