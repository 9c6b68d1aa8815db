//! The files that hold an identity.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use tracing::warn;

use super::{ConfigError, read};
use crate::protocol::identity::Identity;

/// Where the certificate and key are; one file may hold all three.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IdentityFiles {
    /// The certificate of the cluster's authority.
    pub authority: PathBuf,
    /// The own certificate.
    pub certificate: PathBuf,
    /// The own key.
    pub key: PathBuf,
}

impl IdentityFiles {
    /// The files of `name` in a folder as `metacdn certs` keeps it.
    pub fn in_folder(folder: &Path, name: &str) -> Self {
        Self {
            authority: folder.join("authority.pem"),
            certificate: folder.join(format!("{name}.pem")),
            key: folder.join(format!("{name}.key")),
        }
    }

    /// Reads and checks the identity.
    ///
    /// # Errors
    /// When a file cannot be read, or what they hold is no identity that is valid `now`.
    pub fn load(&self, now: SystemTime) -> Result<Identity, ConfigError> {
        let (authority, certificate, key) = (read(&self.authority)?, read(&self.certificate)?, read(&self.key)?);
        if let Ok(metadata) = fs::metadata(&self.key)
            && metadata.permissions().mode() & 0o077 != 0
        {
            let mode = format!("{:o}", metadata.permissions().mode() & 0o777);
            warn!(key = %self.key.display(), mode, "key is open to other users, set 600");
        }
        Identity::from_pem(&authority, &certificate, &key, now)
            .map_err(|source| ConfigError::Identity { files: Box::new(self.clone()), source })
    }
}
