//! Which host names are answered from the store. For all others the edge is no proxy.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use crate::serve::guard::normal;

/// Names below this domain are the cluster's own, reserved for private use.
const INTERNAL: &str = ".metacdn.internal";

/// The hosts of an edge.
#[derive(Debug)]
pub(super) struct Hosts {
    listen: IpAddr,
    names: BTreeSet<String>,
}

impl Hosts {
    /// The hosts of the edge that listens at `listen`, with further `names`.
    pub(super) fn new(listen: SocketAddr, names: &[String]) -> Self {
        Self { listen: listen.ip(), names: names.iter().map(|name| normal(name)).collect() }
    }

    /// Whether requests for `host` are answered: a name or address in small letters, without a port, brackets or a last
    /// dot.
    pub(super) fn contain(&self, host: &str) -> bool {
        match host.parse::<IpAddr>() {
            // Addressed by number, a request can only mean this edge: it has arrived here. A web page that has rebound
            // its own name to this address still sends its name.
            Ok(ip) => {
                self.listen.is_unspecified() || ip.to_canonical() == self.listen.to_canonical() || ip.is_loopback()
            }
            Err(_) => host == "localhost" || host.ends_with(INTERNAL) || self.names.contains(host),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_its_own_hosts_are_served() {
        let listen = "10.0.0.1:8080".parse().expect("an address");
        let hosts = Hosts::new(listen, &["Cdn.Example.org".to_owned()]);
        for good in ["10.0.0.1", "127.0.0.1", "::1", "localhost", "a.metacdn.internal", "cdn.example.org"] {
            assert!(hosts.contain(good), "{good}");
        }
        for bad in ["", "example.org", "10.0.0.2", "metacdn.internal.example.org", "xmetacdn.internal", "::2"] {
            assert!(!hosts.contain(bad), "{bad}");
        }
    }
}
