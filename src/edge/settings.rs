//! What of a running edge can be exchanged: one moment of it, swapped whole.
//!
//! Whoever answers a request takes what there is at its begin and keeps it to its end.

use std::net::SocketAddr;
use std::sync::Arc;

use super::coding::Rules;
use super::hosts::Hosts;
use super::site::Sites;
use super::{Config, EdgeError};
use crate::{client, route};

/// By what requests are answered.
pub(super) struct Settings {
    /// What is configured. What no reload changes is as it was at the start.
    pub(super) config: Config,
    pub(super) hosts: Hosts,
    pub(super) sites: Sites,
    /// What of the store is compressed.
    pub(super) compression: Rules,
    /// How origins are called that speak TLS, once there was one.
    origin_tls: Option<Arc<rustls::ClientConfig>>,
}

impl Settings {
    /// Those that are configured so, for an edge whose users come to `public_at`. Of those `before` stays what is the same.
    ///
    /// # Errors
    /// When the sites contradict each other, or there are no authorities to trust their origins by.
    pub(super) fn new(config: Config, public_at: SocketAddr, before: Option<&Self>) -> Result<Self, EdgeError> {
        let speaks_tls = config.site.iter().flat_map(|site| &site.origins).any(|origin| origin.url.tls);
        let origin_tls = match before.and_then(|before| before.origin_tls.clone()) {
            Some(tls) => Some(tls),
            None if speaks_tls => {
                Some(client::public_tls(config.origin_authority.as_deref()).map_err(EdgeError::Authorities)?)
            }
            None => None,
        };
        let tls = origin_tls.clone().unwrap_or_else(|| client::tls_of_authorities(rustls::RootCertStore::empty()));
        Ok(Self {
            hosts: Hosts::new(public_at, &config.hosts),
            sites: Sites::new(&config, &tls, before.map(|before| &before.sites))?,
            compression: Rules::new(config.compression.clone()),
            origin_tls,
            config,
        })
    }

    /// Whether what the client at `peer` says is believed.
    pub(super) fn trusts(&self, peer: SocketAddr) -> bool {
        // An IPv4 client on an IPv6 socket is the IPv4 client, however it was configured.
        let client = peer.ip().to_canonical();
        self.config.trusted.iter().any(|trusted| trusted.to_canonical() == client)
    }
}

impl Config {
    /// What an edge that runs with this configuration runs with once it has read `new`: of that all that can change while it
    /// runs.
    #[must_use]
    pub fn reloaded(&self, new: &Self) -> Self {
        let Self { site, hosts, trusted, proxy_protocol_from, compression, thresholds, .. } = new.clone();
        // Where nobody comes by TLS, or is to come, there is nothing to exchange.
        let has_tls = self.tls_listen.is_some() && !new.certificate.is_empty();
        let certificate = if has_tls { &new.certificate } else { &self.certificate }.clone();
        // What was measured so far was weighed by these.
        let (measure, eject) = (self.route.measure.clone(), self.route.eject.clone());
        let route = route::Config { measure, eject, ..new.route.clone() };
        let settled = Self { proxy_protocol_from, compression, thresholds, route, ..self.clone() };
        Self { site, certificate, hosts, trusted, ..settled }
    }
}
