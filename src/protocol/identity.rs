//! Who this process is towards the others: the cluster's authority, the own certificate and the own key, and the TLS
//! settings made of them.
//!
//! Works on bytes: which files they come from is the configuration's.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use rustls::crypto::CryptoProvider;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::{self, PemObject};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, RootCertStore, ServerConfig};

use crate::model::Principal;
use crate::protocol::certificate::{
    CertificateError, Part, TrustedAuthority, Validity, certificates, is_authority, principal_of,
};

/// The one protocol spoken inside TLS besides packets, which name none.
const ALPN_HTTP_1: &[u8] = b"http/1.1";

/// What is wrong with an identity.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// A certificate is.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// The key is of no kind that TLS knows.
    #[error("the key cannot be used")]
    Key(#[source] rustls::Error),
    /// Key and certificate are of different pairs.
    #[error(
        "the key does not belong to the certificate: both must come from one `metacdn certs issue` or `certs request`"
    )]
    KeyMismatch,
}

/// The versions of TLS that a listener accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsVersions {
    /// TLS 1.3 alone: between processes of ours.
    Only13,
    /// TLS 1.2 too: for the reference's clients.
    Also12,
}

/// The authority that a process trusts, and what it proves its own name with.
#[derive(Clone)]
pub struct Identity {
    principal: Principal,
    expires_at: SystemTime,
    roots: Arc<RootCertStore>,
    own: Arc<CertifiedKey>,
    callers: Arc<dyn ClientCertVerifier>,
    provider: Arc<CryptoProvider>,
}

impl Identity {
    /// Reads and checks an identity; each text may hold more than its part, so one bundle serves as all three.
    ///
    /// # Errors
    /// With the first thing that is wrong: a part is missing or broken, out of date, signed by another authority, or
    /// key and certificate do not belong together.
    pub fn from_pem(authority: &[u8], certificate: &[u8], key: &[u8], now: SystemTime) -> Result<Self, IdentityError> {
        let authority = TrustedAuthority::from_pem(authority, now)?;
        let mut chain = Vec::new();
        for certificate in certificates(Part::Certificate, certificate)? {
            if !is_authority(&certificate)? {
                chain.push(certificate);
            }
        }
        let own = chain.first().ok_or(CertificateError::Missing(Part::Certificate))?;
        let principal = principal_of(own)?;
        let expires_at = Validity::of(Part::Certificate, own)?.not_after;
        authority.check(own, now)?;
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|source| match source {
            pem::Error::NoItemsFound => CertificateError::Missing(Part::Key),
            source => CertificateError::Pem { part: Part::Key, source },
        })?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let own = CertifiedKey::from_der(chain, key, &provider).map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => IdentityError::KeyMismatch,
            error => IdentityError::Key(error),
        })?;
        let roots = Arc::new(authority.roots()?);
        let callers = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone())
            .allow_unauthenticated()
            .build()
            .expect("the authority is there and no revocation lists are used, so nothing can be wrong with either");
        Ok(Self { principal, expires_at, roots, own: Arc::new(own), callers, provider })
    }

    /// Whose identity it is.
    pub const fn principal(&self) -> &Principal {
        &self.principal
    }

    /// The last moment at which others will accept it.
    pub const fn expires_at(&self) -> SystemTime {
        self.expires_at
    }

    /// How to call members of the cluster: TLS 1.3, showing the own certificate, trusting the own authority alone.
    pub fn client_config(&self) -> Arc<ClientConfig> {
        let mut config = ClientConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("the provider has suites for TLS 1.3")
            .with_root_certificates(self.roots.clone())
            .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(self.own.clone())));
        config.alpn_protocols = vec![ALPN_HTTP_1.to_vec()];
        config.resumption = rustls::client::Resumption::disabled();
        Arc::new(config)
    }

    /// How to answer callers: a certificate of the cluster is asked for and, if shown, must be good; none is allowed.
    pub fn server_config(&self, versions: TlsVersions) -> Arc<ServerConfig> {
        let versions = match versions {
            TlsVersions::Only13 => &[&rustls::version::TLS13][..],
            TlsVersions::Also12 => &[&rustls::version::TLS13, &rustls::version::TLS12],
        };
        let mut config = ServerConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(versions)
            .expect("the provider has suites for TLS 1.3")
            .with_client_cert_verifier(self.callers.clone())
            .with_cert_resolver(Arc::new(SingleCertAndKey::from(self.own.clone())));
        config.alpn_protocols = vec![ALPN_HTTP_1.to_vec()];
        // No resumption. A sender that never reads would close over unread tickets, which makes its system send a
        // reset that destroys the end of its packet; and a resumed session would outlive its certificate.
        config.send_tls13_tickets = 0;
        config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
        Arc::new(config)
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity")
            .field("principal", &self.principal)
            .field("expires_at", &self.expires_at)
            .finish_non_exhaustive()
    }
}
