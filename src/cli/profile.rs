//! Which cluster a command speaks to, and as whom.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context, bail};

use super::Options;
use super::failure::explain;
use crate::client::{ClientError, Deadlines, Peer};
use crate::config::{Config, Draft};
use crate::model::{Address, NodeId};
use crate::protocol::status::{Server, Servers};

/// Below the home folder, the profile that `metacdn demo` writes.
pub(super) const DEMO_PROFILE: &str = "demo/client.toml";

/// How long one seed may take to answer before the next is asked.
const SEED_DEADLINE: Duration = Duration::from_secs(3);

/// A cluster as a client sees it: its seeds, and the identity to show them.
#[derive(Debug, Clone)]
pub struct Cluster {
    tls: Arc<rustls::ClientConfig>,
    seeds: Vec<Address>,
}

/// A server to speak to: by name, or by address alone, where any node of the cluster may answer.
#[derive(Debug, Clone)]
pub struct Target {
    /// Its name, if it is known.
    pub id: Option<NodeId>,
    /// Where it is reached.
    pub address: Address,
}

/// A node that is asked about another one.
#[derive(Debug)]
pub(super) struct Beside {
    /// The one that is asked.
    pub(super) peer: Peer,
    /// The other one, as the first sees it.
    pub(super) server: Server,
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.id {
            Some(id) => id.fmt(f),
            None => self.address.fmt(f),
        }
    }
}

impl Cluster {
    /// The cluster that the options, or else the profile of the demo, name.
    ///
    /// # Errors
    /// When there is no configuration, or it cannot be used.
    pub fn open(options: &Options) -> anyhow::Result<Self> {
        match profile(options)? {
            Some(path) => Self::load(&path),
            None => bail!(
                "no configuration: name one with --config FILE or METACDN_CONFIG=FILE, or run `metacdn demo`, which \
                 writes {}",
                options.home()?.join(DEMO_PROFILE).display()
            ),
        }
    }

    fn load(path: &Path) -> anyhow::Result<Self> {
        let config = read(path)?;
        let identity = config.load_identity(SystemTime::now())?;
        let seeds = config.client.map(|client| client.seeds).unwrap_or_default();
        if seeds.is_empty() {
            bail!(
                "{} does not say where the cluster is: add seeds = [\"HOST:PORT\"] in a section [client]",
                path.display()
            );
        }
        Ok(Self { tls: identity.client_config(), seeds })
    }

    /// The identity to show.
    pub const fn tls(&self) -> &Arc<rustls::ClientConfig> {
        &self.tls
    }

    /// Connections to a server.
    pub fn peer(&self, target: &Target, deadlines: Deadlines) -> Peer {
        Peer::new(self.tls.clone(), target.id.as_ref(), target.address.clone(), deadlines)
    }

    /// The first seed that answers.
    ///
    /// # Errors
    /// When none does, with what each said.
    pub async fn any(&self) -> anyhow::Result<Peer> {
        self.first(Peer::ping).await.map(|(peer, _)| peer)
    }

    /// The members of the cluster, as the first seed that answers sees them.
    ///
    /// # Errors
    /// When none does, with what each said.
    pub async fn members(&self) -> anyhow::Result<Servers> {
        self.first(Peer::servers).await.map(|(_, servers)| servers)
    }

    /// The server that a person calls `name`: a member's name, in any case if that is clear, or HOST:PORT.
    ///
    /// # Errors
    /// When no member has this name, with those there are.
    pub async fn server(&self, name: &str) -> anyhow::Result<Target> {
        if let Ok(address) = name.parse() {
            return Ok(Target { id: None, address });
        }
        let members = self.members().await.with_context(|| format!("cannot look up the server {name}"))?;
        let ids: Vec<_> = members.servers.iter().map(|server| server.node.id.as_str()).collect();
        match find(&ids, name) {
            Some(index) => {
                let node = &members.servers[index].node;
                Ok(Target { id: Some(node.id.clone()), address: node.address.clone() })
            }
            None => bail!("there is no server {name}: use {} or HOST:PORT", ids.join(", ")),
        }
    }

    /// The member that a person calls `name`, and whom to ask about it: a node that knows it.
    ///
    /// # Errors
    /// When no node answers, or no member has this name, with those there are.
    pub(super) async fn member(&self, name: &str) -> anyhow::Result<(Peer, NodeId)> {
        let (peer, mut members) = self.first(Peer::servers).await?;
        let index = index_of(&members.servers, name)?;
        Ok((peer, members.servers.swap_remove(index).node.id))
    }

    /// A member that answers beside the one that a person calls `name`, and that one as it sees it. What is to become of a
    /// node is not asked of the node itself.
    ///
    /// # Errors
    /// When no member has this name, or no other one answers.
    pub(super) async fn beside(&self, name: &str) -> anyhow::Result<Beside> {
        let mut members = self.members().await?.servers;
        let node = members.remove(index_of(&members, name)?).node.id;
        if members.is_empty() {
            bail!("{node} is the only node of the cluster");
        }
        // Those that are known to live first: the others may take their time to say nothing.
        members.sort_by_key(|server| server.liveness);
        let mut reasons = Vec::new();
        for other in members {
            let target = Target { id: Some(other.node.id), address: other.node.address };
            let peer = self.peer(&target, Deadlines::default());
            let server = match tokio::time::timeout(SEED_DEADLINE, peer.servers()).await {
                Ok(Ok(seen)) => seen.servers.into_iter().find(|server| server.node.id == node),
                Ok(Err(error)) => {
                    reasons.push(explain(&error));
                    continue;
                }
                Err(_) => {
                    reasons.push(format!("{target} did not answer within {} s", SEED_DEADLINE.as_secs()));
                    continue;
                }
            };
            let Some(server) = server else { bail!("{target} knows of no node {node}: it was forgotten already") };
            return Ok(Beside { peer, server });
        }
        bail!("no node beside {node} answers: {}", reasons.join("; "))
    }

    async fn first<T>(&self, ask: impl AsyncFn(&Peer) -> Result<T, ClientError>) -> anyhow::Result<(Peer, T)> {
        let mut reasons = Vec::new();
        for address in &self.seeds {
            let peer = self.peer(&Target { id: None, address: address.clone() }, Deadlines::default());
            match tokio::time::timeout(SEED_DEADLINE, ask(&peer)).await {
                Ok(Ok(answer)) => return Ok((peer, answer)),
                Ok(Err(error)) => reasons.push(explain(&error)),
                Err(_) => reasons.push(format!("{address} did not answer within {} s", SEED_DEADLINE.as_secs())),
            }
        }
        bail!("no node of the cluster answers: {}; is it running? (`metacdn demo` starts one)", reasons.join("; "))
    }
}

/// The file that the options, or else the demo, say is the configuration of this user's commands.
///
/// # Errors
/// When the user has no home folder.
pub(super) fn profile(options: &Options) -> anyhow::Result<Option<PathBuf>> {
    let of_demo = || Ok(Some(options.home()?.join(DEMO_PROFILE)).filter(|path| path.exists()));
    options.config.clone().map_or_else(of_demo, |path| Ok(Some(path)))
}

/// What the configuration at `path`, and the environment, say to a command.
///
/// # Errors
/// When it cannot be used.
pub(super) fn read(path: &Path) -> anyhow::Result<Config> {
    let mut draft = Draft::read(path)?;
    draft.overlay_environment(std::env::vars_os());
    // They are for the roles: variables that complete another machine's section are no mistake of this command.
    draft.remove_section("node");
    draft.remove_section("edge");
    Ok(draft.build()?.config)
}

/// Where the member that a person calls `name` stands among `members`.
fn index_of(members: &[Server], name: &str) -> anyhow::Result<usize> {
    let ids: Vec<_> = members.iter().map(|server| server.node.id.as_str()).collect();
    find(&ids, name).with_context(|| format!("there is no node {name}: use {}", ids.join(", ")))
}

/// The name that is `wanted`, or the only one that is but for its case.
fn find(names: &[&str], wanted: &str) -> Option<usize> {
    if let Some(exact) = names.iter().position(|name| *name == wanted) {
        return Some(exact);
    }
    let mut alike = names.iter().enumerate().filter(|(_, name)| name.eq_ignore_ascii_case(wanted));
    match (alike.next(), alike.next()) {
        (Some((index, _)), None) => Some(index),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_found_exactly_or_by_its_only_spelling() {
        let names = ["AWS", "GC", "gc", "Program"];
        assert_eq!(find(&names, "gc"), Some(2));
        assert_eq!(find(&names, "program"), Some(3));
        assert_eq!(find(&names, "Gc"), None, "two would do");
        assert_eq!(find(&names, "AW"), None);
    }
}
