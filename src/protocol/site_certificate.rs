//! Certificates that users are shown for the hosts of an edge, with their keys.
//!
//! Works on bytes: which files they come from is the configuration's.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::{self, PemObject};
use rustls::sign::CertifiedKey;

use crate::protocol::certificate::{CertificateError, Part, Validity, certificates, names_of};

/// A certificate with its chain and its key.
pub struct SiteCertificate {
    key: Arc<CertifiedKey>,
    /// In small letters.
    hosts: Vec<String>,
    validity: Validity,
}

/// What is wrong with a certificate for users.
#[derive(Debug, thiserror::Error)]
pub enum SiteCertificateError {
    /// It cannot be read.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// The key is of no kind that TLS knows.
    #[error("the key cannot be used: it has to be of RSA, ECDSA or Ed25519, without a password")]
    Key(#[source] rustls::Error),
    /// Key and certificate are of different pairs.
    #[error("the key does not belong to the certificate; the certificate of the host itself has to be the first one")]
    KeyMismatch,
    /// It is for no host.
    #[error("the certificate names no host")]
    NoHosts,
    /// It should be shown for a host that it does not name.
    #[error("the certificate is not for {0}: no client would believe it there")]
    OtherHost(String),
}

impl SiteCertificate {
    /// Reads a certificate with its chain, the host's own first, and its key. It is shown for `hosts`, or for all that it
    /// names if there are none. Whether its time has come or is over is not looked at.
    ///
    /// # Errors
    /// With the first thing that is wrong.
    pub fn from_pem(certificate: &[u8], key: &[u8], hosts: &[String]) -> Result<Self, SiteCertificateError> {
        let chain = certificates(Part::Certificate, certificate)?;
        let own = chain.first().ok_or(CertificateError::Missing(Part::Certificate))?;
        let validity = Validity::of(Part::Certificate, own)?;
        let names = names_of(own)?;
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|source| match source {
            pem::Error::NoItemsFound => CertificateError::Missing(Part::Key),
            source => CertificateError::Pem { part: Part::Key, source },
        })?;
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        let key = CertifiedKey::from_der(chain, key, &provider).map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => SiteCertificateError::KeyMismatch,
            error => SiteCertificateError::Key(error),
        })?;
        let wanted: Vec<_> = hosts.iter().map(|host| host.to_ascii_lowercase()).collect();
        if let Some(other) = wanted.iter().find(|host| !names.contains(host) && !covers(&names, host)) {
            return Err(SiteCertificateError::OtherHost(other.clone()));
        }
        let hosts = if wanted.is_empty() { names } else { wanted };
        if hosts.is_empty() {
            return Err(SiteCertificateError::NoHosts);
        }
        Ok(Self { key: Arc::new(key), hosts, validity })
    }

    /// The certificate with its chain, and the key.
    pub const fn key(&self) -> &Arc<CertifiedKey> {
        &self.key
    }

    /// The hosts for which it is shown, in small letters; `*.DOMAIN` for all with one label more.
    pub fn hosts(&self) -> impl Iterator<Item = &str> {
        self.hosts.iter().map(String::as_str)
    }

    /// Whether it is shown for `host`, a name or address in small letters.
    pub fn covers(&self, host: &str) -> bool {
        covers(&self.hosts, host)
    }

    /// The last moment at which clients accept it.
    pub const fn expires_at(&self) -> SystemTime {
        self.validity.not_after
    }
}

/// A star stands for one label alone (RFC 9525 section 6.3).
fn covers(hosts: &[String], host: &str) -> bool {
    let wild = host.find('.').map_or("", |dot| &host[dot..]);
    hosts.iter().any(|known| known == host || !wild.is_empty() && known.strip_prefix('*') == Some(wild))
}

impl fmt::Debug for SiteCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SiteCertificate")
            .field("hosts", &self.hosts)
            .field("validity", &self.validity)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(names: &[&str]) -> (String, String) {
        let names: Vec<_> = names.iter().map(ToString::to_string).collect();
        let made = rcgen::generate_simple_self_signed(names).unwrap();
        (made.cert.pem(), made.signing_key.serialize_pem())
    }

    fn read(pair: &(String, String), hosts: &[&str]) -> Result<SiteCertificate, SiteCertificateError> {
        let hosts: Vec<_> = hosts.iter().map(ToString::to_string).collect();
        SiteCertificate::from_pem(pair.0.as_bytes(), pair.1.as_bytes(), &hosts)
    }

    #[test]
    fn it_is_for_what_it_names_or_for_what_is_said() {
        let pair = pair(&["A.example", "*.b.example", "127.0.0.1"]);
        let all = read(&pair, &[]).unwrap();
        for (host, covered) in [
            ("a.example", true),
            ("b.example", false),
            ("x.b.example", true),
            ("x.y.b.example", false),
            ("127.0.0.1", true),
            ("127.0.0.2", false),
            ("example", false),
            ("", false),
        ] {
            assert_eq!(all.covers(host), covered, "{host}");
        }
        let some = read(&pair, &["X.b.example"]).unwrap();
        assert!(some.covers("x.b.example") && !some.covers("y.b.example") && !some.covers("a.example"));
        assert!(read(&pair, &["*.b.example"]).unwrap().covers("z.b.example"));
        assert!(
            matches!(read(&pair, &["c.example"]), Err(SiteCertificateError::OtherHost(host)) if host == "c.example")
        );
    }

    #[test]
    fn what_is_wrong_is_told() {
        let (one, other) = (pair(&["a.example"]), pair(&["a.example"]));
        let mixed = (one.0.clone(), other.1);
        assert!(matches!(read(&mixed, &[]), Err(SiteCertificateError::KeyMismatch)));
        let keyless = (one.0.clone(), String::new());
        assert!(matches!(
            read(&keyless, &[]),
            Err(SiteCertificateError::Certificate(CertificateError::Missing(Part::Key)))
        ));
        let cut = (one.0[..one.0.len() / 2].to_owned(), one.1.clone());
        assert!(matches!(read(&cut, &[]), Err(SiteCertificateError::Certificate(_))));
        assert!(matches!(read(&pair(&[]), &[]), Err(SiteCertificateError::NoHosts)));
    }
}
