//! The certificates that users are shown: read from their files, and read again when those change.

use std::fs;
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use tracing::{error, info, warn};

use super::Core;
use crate::protocol::site_certificate::{SiteCertificate, SiteCertificateError};
use crate::serve::{Certificates, CertificatesError, Shown};

/// A chain of certificates has some KiB.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// A certificate that ends within this time is worth a warning: two weeks leave room for a holiday.
const EXPIRY_WARNING: Duration = Duration::from_secs(14 * 24 * 3600);

/// How often it is said.
const EXPIRY_WARNING_PERIOD: Duration = Duration::from_secs(24 * 3600);

/// A certificate for users.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CertificateConfig {
    /// The file with the certificate and those between it and its authority, the own one first, in PEM.
    pub certificate: PathBuf,
    /// The file with its key, in PEM.
    pub key: PathBuf,
    /// The hosts for which it is shown; without them all that it names. `*.DOMAIN` stands for all with one label more.
    #[serde(default)]
    pub hosts: Vec<String>,
    /// Whether it is shown to clients that ask for a host that no certificate is for, instead of refusing them.
    #[serde(default)]
    pub default: bool,
}

/// Why the certificates cannot be shown.
#[derive(Debug, thiserror::Error)]
pub enum CertificateFileError {
    /// A file cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// One cannot be used.
    #[error("cannot use certificate {certificate} with key {key}: {source}")]
    Unusable {
        /// The file of the certificate.
        certificate: PathBuf,
        /// The file of the key.
        key: PathBuf,
        /// Why.
        source: SiteCertificateError,
    },
    /// There is none, or the system has no randomness.
    #[error(transparent)]
    Certificates(#[from] CertificatesError),
}

/// What a file was when it was last looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    modified: (i64, i64),
    changed: (i64, i64),
    inode: u64,
    size: u64,
}

/// Reads all certificates.
///
/// # Errors
/// With the first one that cannot be used.
pub(super) fn read(configs: &[CertificateConfig]) -> Result<Vec<Shown>, CertificateFileError> {
    configs.iter().map(read_one).collect()
}

fn read_one(config: &CertificateConfig) -> Result<Shown, CertificateFileError> {
    let CertificateConfig { certificate, key, hosts, default } = config;
    let (chain, secret) = (read_file(certificate)?, read_file(key)?);
    match SiteCertificate::from_pem(&chain, &secret, hosts) {
        Ok(certificate) => Ok(Shown { certificate, default: *default }),
        Err(source) => {
            Err(CertificateFileError::Unusable { certificate: certificate.clone(), key: key.clone(), source })
        }
    }
}

fn read_file(path: &Path) -> Result<Vec<u8>, CertificateFileError> {
    let mut bytes = Vec::new();
    let read = fs::File::open(path).and_then(|file| file.take(FILE_BYTES_MAX).read_to_end(&mut bytes));
    read.map_err(|source| CertificateFileError::Read { path: path.to_owned(), source })?;
    Ok(bytes)
}

/// Looks at the files now and then until the edge stops. What has changed is read again and shown to whoever comes from
/// then on; what cannot be used is left where it is, and what was shown before stays.
pub(super) async fn watch(core: Arc<Core>, certificates: Arc<Certificates>) {
    let mut stamps = stamps(&core.config.certificate);
    let mut period = tokio::time::interval(Duration::from_millis(core.config.certificate_check_ms));
    period.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut warned = None;
    while core.stop.run_until_cancelled(period.tick()).await.is_some() {
        if warned.is_none_or(|at| SystemTime::now().duration_since(at).is_ok_and(|past| past >= EXPIRY_WARNING_PERIOD))
        {
            warned = Some(SystemTime::now());
            let configs = core.config.certificate.clone();
            if let Ok(Ok(all)) = tokio::task::spawn_blocking(move || read(&configs)).await {
                note_expiry(&core, &all, SystemTime::now());
            }
        }
        let configs = core.config.certificate.clone();
        let before = stamps.clone();
        let looked = tokio::task::spawn_blocking(move || {
            // Taken before the files are read: what changes meanwhile is seen next time.
            let now = self::stamps(&configs);
            (now != before).then(|| (now, read(&configs)))
        });
        let Ok(Some((now, all))) = looked.await else { continue };
        stamps = now;
        let exchanged = all.and_then(|all| {
            note_expiry(&core, &all, SystemTime::now());
            Ok(certificates.exchange(all)?)
        });
        match exchanged {
            Ok(()) => info!(?certificates, "certificates were exchanged"),
            Err(error) => warn!(%error, "new certificates cannot be used, those before stay"),
        }
    }
}

/// Tells the metrics and, if it is time, the operator when certificates expire.
pub(super) fn note_expiry(core: &Core, all: &[Shown], now: SystemTime) {
    for (config, shown) in core.config.certificate.iter().zip(all) {
        let expires = shown.certificate.expires_at();
        core.metrics.expires(&config.certificate, expires);
        match expires.duration_since(now) {
            Err(_) => error!(certificate = %config.certificate.display(), "a certificate has expired"),
            Ok(left) if left < EXPIRY_WARNING => {
                let days = left.as_secs() / (24 * 3600);
                warn!(certificate = %config.certificate.display(), days, "a certificate expires soon");
            }
            Ok(_) => {}
        }
    }
}

fn stamps(configs: &[CertificateConfig]) -> Vec<Option<Stamp>> {
    let files = configs.iter().flat_map(|config| [&config.certificate, &config.key]);
    let stamp = |path: &PathBuf| {
        let metadata = fs::metadata(path).ok()?;
        Some(Stamp {
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
            inode: metadata.ino(),
            size: metadata.size(),
        })
    };
    files.map(stamp).collect()
}
