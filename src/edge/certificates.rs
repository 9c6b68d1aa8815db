//! The certificates that users are shown: read from their files, and read again when those change.

use std::fs;
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use tracing::{error, info, warn};

use super::Core;
use crate::protocol::site_certificate::{SiteCertificate, SiteCertificateError};
use crate::serve::{Certificates, CertificatesError, Shown};

/// Where they are configured.
pub(super) const FIELD: &str = "edge.certificate";

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
pub(super) struct Stamp {
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

/// The files of the certificates, as they were when they were last looked at.
pub(super) struct Files {
    looked: Looked,
    warned: SystemTime,
}

/// What a look at the files has shown.
#[derive(Clone, PartialEq, Eq)]
struct Looked {
    stamps: Vec<Option<Stamp>>,
    /// Why they could not be used.
    failure: Option<String>,
}

impl Looked {
    /// Whether the files are to be read, which are so now. What could not be used is tried again: it may have been the disk that
    /// failed, and the files the same ever since.
    fn is_due(&self, now: &[Option<Stamp>]) -> bool {
        self.failure.is_some() || self.stamps != now
    }
}

impl Files {
    /// As they are now, when they have just been read.
    pub(super) fn new(core: &Core) -> Self {
        let stamps = stamps(&core.settings.load().config.certificate);
        Self { looked: Looked { stamps, failure: None }, warned: SystemTime::now() }
    }

    /// They were read as they were then.
    pub(super) fn seen(&mut self, stamps: Vec<Option<Stamp>>) {
        self.looked = Looked { stamps, failure: None };
    }

    /// Looks at them. What has changed is read again and shown to whoever comes from then on; what cannot be used is left
    /// where it is, and what was shown before stays.
    pub(super) async fn look(&mut self, core: &Core, certificates: &Certificates) {
        self.look_by(core, certificates, read).await;
    }

    /// The same, where they are read by `read`.
    async fn look_by<R>(&mut self, core: &Core, certificates: &Certificates, read: R)
    where
        R: FnOnce(&[CertificateConfig]) -> Result<Vec<Shown>, CertificateFileError> + Send + 'static,
    {
        let settings = core.settings.load_full();
        let warns = SystemTime::now().duration_since(self.warned).is_ok_and(|past| past >= EXPIRY_WARNING_PERIOD);
        let (configs, before) = (settings.config.certificate.clone(), self.looked.clone());
        let looked = tokio::task::spawn_blocking(move || {
            // Taken before the files are read: what changes meanwhile is seen next time.
            let now = stamps(&configs);
            let due = before.is_due(&now);
            (due || warns).then(|| (now, due, read(&configs)))
        });
        let Ok(Some((stamps, due, all))) = looked.await else { return };
        if let Ok(all) = &all {
            self.warned = SystemTime::now();
            note_expiry(core, &settings.config.certificate, all);
        }
        if !due {
            return;
        }
        let used = all.and_then(|all| Ok(certificates.exchange(all)?));
        let failure = used.as_ref().err().map(ToString::to_string);
        let is_news = std::mem::replace(&mut self.looked, Looked { stamps, failure }) != self.looked;
        match used {
            Ok(_) => info!(?certificates, "certificates were exchanged"),
            // Once, however often it is tried.
            Err(error) if is_news => warn!(%error, "new certificates cannot be used, those before stay"),
            Err(_) => {}
        }
    }
}

/// Tells the metrics and, if it is time, the operator when certificates expire.
pub(super) fn note_expiry(core: &Core, configs: &[CertificateConfig], all: &[Shown]) {
    for (config, shown) in configs.iter().zip(all) {
        let expires = shown.certificate.expires_at();
        core.metrics.expires(&config.certificate, expires);
        match expires.duration_since(SystemTime::now()) {
            Err(_) => error!(certificate = %config.certificate.display(), "a certificate has expired"),
            Ok(left) if left < EXPIRY_WARNING => {
                let days = left.as_secs() / (24 * 3600);
                warn!(certificate = %config.certificate.display(), days, "a certificate expires soon");
            }
            Ok(_) => {}
        }
    }
}

/// What the files of these certificates are now.
pub(super) fn stamps(configs: &[CertificateConfig]) -> Vec<Option<Stamp>> {
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

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;
    use tokio_util::sync::CancellationToken;

    use super::*;

    #[tokio::test]
    async fn what_could_not_be_read_is_read_again() {
        let folder = tempfile::tempdir().expect("a folder");
        let (certificate, key) = (folder.path().join("one.pem"), folder.path().join("one.key"));
        let write = |host: &str| {
            let made = rcgen::generate_simple_self_signed([host.to_owned()]).expect("a certificate");
            fs::write(&certificate, made.cert.pem()).expect("written");
            fs::write(&key, made.signing_key.serialize_pem()).expect("written");
        };
        write("old.example");
        let (certificate, key) = (certificate.clone(), key.clone());
        let configs = vec![CertificateConfig { certificate, key, hosts: Vec::new(), default: false }];
        let certificates = Certificates::new(read(&configs).expect("they can be read")).expect("there is one");
        let config = super::super::Config { certificate: configs, ..Default::default() };
        let core = Core::new(config, None, ([127, 0, 0, 1], 1).into(), None, CancellationToken::new());
        let core = core.expect("an edge");
        let mut files = Files::new(&core);

        write("new.example");
        let fails = |configs: &[CertificateConfig]| {
            let (path, source) = (configs[0].certificate.clone(), io::Error::other("too many open files"));
            Err(CertificateFileError::Read { path, source })
        };
        files.look_by(&core, &certificates, fails).await;
        assert_eq!(format!("{certificates:?}"), r#"Certificates(["old.example"])"#);
        // The files are the same as at the look before.
        files.look(&core, &certificates).await;
        assert_eq!(format!("{certificates:?}"), r#"Certificates(["new.example"])"#);
        let (tell, mut told) = oneshot::channel();
        let tells = |configs: &[CertificateConfig]| {
            let _ = tell.send(());
            read(configs)
        };
        files.look_by(&core, &certificates, tells).await;
        assert!(told.try_recv().is_err(), "what is used is not read again");
    }
}
