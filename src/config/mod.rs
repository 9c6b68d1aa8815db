//! The configuration file: who this process is, which roles it runs, and how a person's commands find the cluster.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::Deserialize;

use crate::model::Address;
use crate::protocol::identity::{Identity, IdentityError};
use crate::{edge, node};

/// A configuration file. Relative paths in it start at its own folder.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The certificate and key that this process shows.
    pub identity: IdentityFiles,
    /// What the commands of a person need.
    pub client: Option<ClientConfig>,
    /// A node to run.
    pub node: Option<node::Config>,
    /// An edge to run.
    pub edge: Option<edge::Config>,
}

/// Where the certificate and key are.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IdentityFiles {
    /// The certificate of the cluster's authority.
    pub authority: PathBuf,
    /// The own certificate.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

/// What the commands of a person need.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClientConfig {
    /// Addresses of nodes of the cluster; the first that answers is asked.
    pub seeds: Vec<Address>,
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
        source: std::io::Error,
    },
    /// The file is not what it should be.
    #[error("{path} is not a configuration: {reason}")]
    Parse {
        /// Which.
        path: PathBuf,
        /// Where and why.
        reason: String,
    },
    /// The certificate or key cannot be used.
    #[error("the identity in {path} cannot be used")]
    Identity {
        /// The certificate's file.
        path: PathBuf,
        /// Why.
        source: IdentityError,
    },
}

impl Config {
    /// Reads the file at `path`.
    ///
    /// # Errors
    /// When it cannot be read or says something that is not understood.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = read(path)?;
        let text = String::from_utf8_lossy(&text);
        let parsed: Result<Self, _> = toml::from_str(&text);
        let mut config =
            parsed.map_err(|error| ConfigError::Parse { path: path.to_owned(), reason: error.to_string() })?;
        let folder = path.parent().unwrap_or(Path::new("."));
        for file in [&mut config.identity.authority, &mut config.identity.certificate, &mut config.identity.key] {
            *file = folder.join(&file);
        }
        if let Some(node) = &mut config.node {
            node.data = folder.join(&node.data);
        }
        Ok(config)
    }
}

impl IdentityFiles {
    /// Reads and checks the identity.
    ///
    /// # Errors
    /// When a file cannot be read, or the three do not belong together or are not valid now.
    pub fn load(&self) -> Result<Identity, ConfigError> {
        let (authority, certificate, key) = (read(&self.authority)?, read(&self.certificate)?, read(&self.key)?);
        Identity::from_pem(&authority, &certificate, &key, SystemTime::now())
            .map_err(|source| ConfigError::Identity { path: self.certificate.clone(), source })
    }
}

fn read(path: &Path) -> Result<Vec<u8>, ConfigError> {
    std::fs::read(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })
}
