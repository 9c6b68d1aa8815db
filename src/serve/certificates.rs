//! The certificates that users are shown: which one for which name, exchanged while connections are open.
//!
//! Works on what was read already; which files they come from, and when those are looked at again, is the caller's.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::CertificateDer;
use rustls::server::{ClientHello, NoServerSessionStorage, ProducesTickets, ResolvesServerCert};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ServerConfig, SignatureScheme};

use super::guard::normal;
use crate::protocol::site_certificate::SiteCertificate;

/// HTTP/2 over TLS (RFC 9113 section 3.2).
pub(super) const ALPN_HTTP_2: &[u8] = b"h2";
const ALPN_HTTP_1: &[u8] = b"http/1.1";
/// HTTP/3 (RFC 9114 section 3.1).
#[cfg(feature = "http3")]
pub(super) const ALPN_HTTP_3: &[u8] = b"h3";

/// A certificate, and what is said of its use.
#[derive(Debug)]
pub struct Shown {
    /// The certificate with its key.
    pub certificate: SiteCertificate,
    /// Whether clients that ask for a name that no certificate has are shown this one.
    pub default: bool,
}

/// The certificates of a listener. Who is shown one keeps it for his connection, whatever is exchanged meanwhile.
pub struct Certificates {
    table: ArcSwap<Table>,
    settings: Settings,
}

/// What all certificates are used with.
struct Settings {
    provider: Arc<CryptoProvider>,
    /// One for all, and for as long as the process lives: with whom it has been spoken goes on where he left, whichever
    /// thread he meets and whatever certificate has been exchanged.
    tickets: Arc<dyn ProducesTickets>,
}

/// By what a connection is protected; in the extensions of requests that came over TLS or QUIC with a certificate for
/// users, and of no others.
#[derive(Debug, Clone)]
pub struct Secured(Arc<Usable>);

impl Secured {
    /// Whether the certificate that the client was shown is for `host`: a name or address in small letters, without a
    /// port, brackets or a last dot. Requests for other hosts do not belong on this connection (RFC 9110 section 7.4).
    pub fn covers(&self, host: &str) -> bool {
        self.0.certificate.covers(host)
    }
}

/// There is no certificate that could be shown, or the system has no randomness for tickets.
#[derive(Debug, thiserror::Error)]
pub enum CertificatesError {
    /// There is none.
    #[error("there is no certificate to show")]
    None,
    /// The keys for tickets cannot be made.
    #[error("the keys of session tickets cannot be made")]
    Tickets(#[source] rustls::Error),
}

/// A certificate with the settings of connections that it is shown on.
struct Usable {
    certificate: SiteCertificate,
    config: Arc<ServerConfig>,
}

impl fmt::Debug for Usable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Usable").field(&self.certificate).finish()
    }
}

/// One moment of the certificates.
struct Table {
    /// By what clients ask for; a name for all names below a domain is that with `*`. Several certificates of one host
    /// differ in the kind of their key.
    by_host: HashMap<String, Vec<Arc<Usable>>>,
    /// For clients that ask for none.
    nameless: Vec<Arc<Usable>>,
    /// For clients that ask for an unknown one.
    unknown: Vec<Arc<Usable>>,
}

impl Certificates {
    /// The certificates to begin with. The first one, or those marked so, are for clients that name no host.
    ///
    /// # Errors
    /// When there is none.
    pub fn new(all: Vec<Shown>) -> Result<Self, CertificatesError> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let tickets = rustls::crypto::aws_lc_rs::Ticketer::new().map_err(CertificatesError::Tickets)?;
        let settings = Settings { provider, tickets };
        let table = ArcSwap::from_pointee(Table::new(all, &settings)?);
        Ok(Self { table, settings })
    }

    /// Exchanges all of them at once, for connections that begin from now on. Answers whether there is another one among them.
    ///
    /// # Errors
    /// When there is none; then those before stay.
    pub fn exchange(&self, all: Vec<Shown>) -> Result<bool, CertificatesError> {
        let table = Arc::new(Table::new(all, &self.settings)?);
        let after = table.chains();
        let before = self.table.swap(table);
        Ok(before.chains() != after)
    }

    /// The certificate for a client that asks for this name and can check these signatures; `None` if it has to be refused.
    pub(super) fn choose(&self, name: Option<&str>, schemes: &[SignatureScheme]) -> Option<Choice> {
        self.table.load().choose(name, schemes).map(Choice)
    }

    /// A host that one of them is for.
    #[cfg(feature = "http3")]
    pub(super) fn some_host(&self) -> String {
        let table = self.table.load();
        let host = table.nameless.first().and_then(|usable| usable.certificate.hosts().next()).unwrap_or_default();
        host.replacen('*', "www", 1)
    }

    /// Whether this is one of them.
    #[cfg(feature = "http3")]
    pub(super) fn has(&self, certificate: &CertificateDer<'_>) -> bool {
        let table = self.table.load();
        let own = |usable: &Arc<Usable>| usable.certificate.key().cert.first() == Some(certificate);
        table.by_host.values().flatten().any(own)
    }

    /// The settings of QUIC, which asks for the certificate of each connection.
    #[cfg(feature = "http3")]
    pub(super) fn quic_config(self: &Arc<Self>) -> ServerConfig {
        let mut config = ServerConfig::builder_with_provider(self.settings.provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("the provider has suites for TLS 1.3")
            .with_no_client_auth()
            .with_cert_resolver(self.clone());
        config.alpn_protocols = vec![ALPN_HTTP_3.to_vec()];
        self.settings.resume(&mut config);
        config
    }
}

impl fmt::Debug for Certificates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut hosts: Vec<_> = self.table.load().by_host.keys().cloned().collect();
        hosts.sort_unstable();
        f.debug_tuple("Certificates").field(&hosts).finish()
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let choice = self.choose(hello.server_name(), hello.signature_schemes())?;
        Some(choice.0.certificate.key().clone())
    }
}

/// The certificate that was chosen for one client.
pub(super) struct Choice(Arc<Usable>);

impl Choice {
    pub(super) fn config(&self) -> Arc<ServerConfig> {
        self.0.config.clone()
    }

    pub(super) fn into_secured(self) -> Secured {
        Secured(self.0)
    }
}

impl Settings {
    /// TLS 1.2 and 1.3 with tickets. Nothing is taken before the handshake ends (0-RTT): it could be sent twice by others.
    fn config(&self, certificate: &SiteCertificate) -> ServerConfig {
        let mut config = ServerConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
            .expect("the provider has suites for both versions")
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(SingleCertAndKey::from(certificate.key().clone())));
        config.alpn_protocols = vec![ALPN_HTTP_2.to_vec(), ALPN_HTTP_1.to_vec()];
        self.resume(&mut config);
        config
    }

    fn resume(&self, config: &mut ServerConfig) {
        config.ticketer = self.tickets.clone();
        // Tickets hold all there is to know; a table of sessions would be one that all threads fight for.
        config.session_storage = Arc::new(NoServerSessionStorage {});
    }
}

impl Table {
    fn new(all: Vec<Shown>, settings: &Settings) -> Result<Self, CertificatesError> {
        let mut table = Self { by_host: HashMap::new(), nameless: Vec::new(), unknown: Vec::new() };
        let mut first = None;
        for Shown { certificate, default } in all {
            let config = Arc::new(settings.config(&certificate));
            let usable = Arc::new(Usable { certificate, config });
            for host in usable.certificate.hosts() {
                table.by_host.entry(host.to_owned()).or_default().push(usable.clone());
            }
            if default {
                table.unknown.push(usable.clone());
            }
            first.get_or_insert(usable);
        }
        let first = first.ok_or(CertificatesError::None)?;
        table.nameless = if table.unknown.is_empty() { vec![first] } else { table.unknown.clone() };
        Ok(table)
    }

    /// What clients are shown.
    fn chains(&self) -> HashSet<Vec<CertificateDer<'static>>> {
        let all = self.by_host.values().chain([&self.nameless, &self.unknown]).flatten();
        all.map(|usable| usable.certificate.key().cert.clone()).collect()
    }

    fn choose(&self, name: Option<&str>, schemes: &[SignatureScheme]) -> Option<Arc<Usable>> {
        let candidates = match name {
            None => &self.nameless,
            Some(name) => self.of_host(&normal(name)).unwrap_or(&self.unknown),
        };
        let can_check = |usable: &&Arc<Usable>| usable.certificate.key().key.choose_scheme(schemes).is_some();
        // A client that can check none is shown one all the same: the handshake then ends with the right alert.
        candidates.iter().find(can_check).or_else(|| candidates.first()).cloned()
    }

    fn of_host(&self, host: &str) -> Option<&Vec<Arc<Usable>>> {
        // A star stands for one label alone (RFC 9525 section 6.3).
        let wild = || Some(format!("*{}", &host[host.find('.')?..]));
        self.by_host.get(host).or_else(|| self.by_host.get(&wild()?))
    }
}
