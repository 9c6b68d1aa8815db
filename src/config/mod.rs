//! The configuration: who this process is, which roles it runs, and how a person's commands find the cluster.
//!
//! A file, the environment and a command's flags say what departs from the defaults, each overriding the one before.
//! The environment names a field by its whole path in capitals, with `_` for each dot: `METACDN_NODE_LISTEN` is
//! `node.listen`, `METACDN_EDGE_ROUTE_POLICY` is `edge.route.policy`; lists are separated by commas. `METACDN_LOG` is
//! short for `METACDN_LOG_FILTER`. A section, and so its role, is there as soon as one of its fields is given.

mod change;
mod check;
mod draft;
mod fields;
mod identity;
#[cfg(test)]
mod tests;

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::model::Address;
use crate::protocol::identity::{Identity, IdentityError};
use crate::{edge, node, telemetry};

pub use check::Verified;
pub use draft::{Draft, Effective, Source};
pub use fields::field_names;
pub use identity::IdentityFiles;

/// A configuration, complete.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The certificate and key that this process shows; an edge that has sites alone, and is asked by nobody from elsewhere,
    /// needs none.
    pub identity: Option<IdentityFiles>,
    /// What is logged, and how.
    #[serde(default)]
    pub log: telemetry::Config,
    /// What the commands of a person need.
    pub client: Option<ClientConfig>,
    /// A node to run.
    pub node: Option<node::Config>,
    /// An edge to run.
    pub edge: Option<edge::Config>,
}

/// What the commands of a person need.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClientConfig {
    /// Addresses of nodes of the cluster; the first that answers is asked.
    pub seeds: Vec<Address>,
    /// The admin address of the edge that is asked for its reasons.
    pub edge: Option<Address>,
}

impl Config {
    /// Reads the file at `path`, and what the environment overrides. Relative paths in a file start at its folder.
    ///
    /// # Errors
    /// When it cannot be read, or with all that is wrong in it.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let mut draft = Draft::read(path)?;
        draft.overlay_environment(std::env::vars_os());
        Ok(draft.build()?.config)
    }

    /// Reads and checks the identity, for whoever cannot do without.
    ///
    /// # Errors
    /// When there is none, a file cannot be read, or what they hold is no identity that is valid `now`.
    pub fn load_identity(&self, now: SystemTime) -> Result<Identity, ConfigError> {
        self.identity.as_ref().ok_or(ConfigError::NoIdentity)?.load(now)
    }

    /// The fields that name the listeners of the roles, and what they say.
    pub fn listeners(&self) -> Vec<(&'static str, SocketAddr)> {
        let mut listeners = Vec::new();
        if let Some(node) = &self.node {
            listeners.push(("node.listen", node.listen));
            listeners.push(("node.download_listen", node.download_listen));
            listeners.push(("node.price_listen", node.price_listen));
        }
        if let Some(edge) = &self.edge {
            listeners.push(("edge.listen", edge.listen));
            listeners.extend(edge.tls_listen.map(|listen| ("edge.tls_listen", listen)));
            listeners.push(("edge.admin_listen", edge.admin_listen));
            listeners.extend(edge.shield.listen.map(|listen| ("edge.shield.listen", listen)));
        }
        listeners
    }
}

/// One thing that is wrong in a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Where it was said.
    pub source: Source,
    /// The field, by its whole path; empty where it is none's.
    pub field: String,
    /// What is wrong, and what to do about it.
    pub reason: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.source != Source::Default {
            write!(f, "{}: ", self.source)?;
        }
        if !self.field.is_empty() {
            write!(f, "{}: ", self.field)?;
        }
        f.write_str(&self.reason)
    }
}

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A file cannot be read.
    #[error("cannot read {path}")]
    Read {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// What is said cannot be used.
    #[error("the configuration cannot be used:{}", list(.0))]
    Invalid(Vec<Problem>),
    /// It has none, and one is needed.
    #[error("the configuration has no [identity], which nodes ask for: `metacdn certs` makes one")]
    NoIdentity,
    /// The certificate or key cannot be used.
    #[error(
        "cannot use the identity of authority {}, certificate {}, key {}",
        .files.authority.display(),
        .files.certificate.display(),
        .files.key.display()
    )]
    Identity {
        /// The files.
        files: Box<IdentityFiles>,
        /// Why.
        source: IdentityError,
    },
}

fn list(problems: &[Problem]) -> String {
    problems.iter().map(|problem| format!("\n  {problem}")).collect()
}

/// Reads a file whole; configurations, certificates and keys are small, so a large file is a mistake.
fn read(path: &Path) -> Result<Vec<u8>, ConfigError> {
    const BYTES_MAX: u64 = 1 << 20;
    let error = |source| ConfigError::Read { path: path.to_owned(), source };
    let mut bytes = Vec::new();
    File::open(path).map_err(error)?.take(BYTES_MAX + 1).read_to_end(&mut bytes).map_err(error)?;
    if bytes.len() as u64 > BYTES_MAX {
        return Err(error(io::Error::new(io::ErrorKind::FileTooLarge, format!("it has more than {BYTES_MAX} bytes"))));
    }
    Ok(bytes)
}
