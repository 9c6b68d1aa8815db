//! Nodes, their providers and their addresses.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// The longest name of a node or provider: that of a DNS label (RFC 1035 section 2.3.4).
const NAME_LENGTH_MAX: usize = 63;

/// The text is not a name of a node or provider.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a name: use 1 to {NAME_LENGTH_MAX} letters, digits and hyphens, no hyphen first or last")]
pub struct NameError(String);

fn check_name(text: &str) -> Result<(), NameError> {
    let letters = text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    let hyphens = text.starts_with('-') || text.ends_with('-');
    if text.is_empty() || text.len() > NAME_LENGTH_MAX || !letters || hyphens {
        return Err(NameError(text.chars().take(80).collect()));
    }
    Ok(())
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Arc<str>);

        impl $name {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = NameError;

            fn from_str(text: &str) -> Result<Self, NameError> {
                check_name(text).map(|()| Self(text.into()))
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;

            fn try_from(text: String) -> Result<Self, NameError> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.as_str().to_owned()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name! {
    /// The name of one node, unique in the cluster: 1 to 63 letters, digits and hyphens, so that it is also a DNS
    /// label and stands in the node's certificate.
    NodeId
}

name! {
    /// The name of a provider (a cloud), chosen freely under the rule for names.
    Provider
}

name! {
    /// The name of an edge or of a client, under the same rule as a node's; it stands in the certificate.
    CallerName
}

name! {
    /// The name of a site of an edge, under the same rule.
    SiteName
}

/// Where a listener is reached: a DNS name, IPv4 address or bracketed IPv6 address, and a port.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Address {
    host: Arc<str>,
    port: u16,
}

/// The text is not `HOST:PORT`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an address: write HOST:PORT, an IPv6 host in brackets")]
pub struct AddressError(String);

impl Address {
    /// An address from its parts; an IPv6 `host` comes without brackets.
    ///
    /// # Errors
    /// When `host` is neither an IP address nor a DNS name, or `port` is 0.
    pub fn new(host: &str, port: u16) -> Result<Self, AddressError> {
        let dns_name = !host.is_empty()
            && host.len() <= 253
            && host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_'));
        let known = dns_name || host.parse::<std::net::Ipv6Addr>().is_ok();
        if !known || port == 0 {
            return Err(AddressError(format!("{host}:{port}")));
        }
        Ok(Self { host: host.into(), port })
    }

    /// The host, an IPv6 address without brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port.
    pub const fn port(&self) -> u16 {
        self.port
    }
}

impl From<std::net::SocketAddr> for Address {
    fn from(socket: std::net::SocketAddr) -> Self {
        Self { host: socket.ip().to_string().into(), port: socket.port() }
    }
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let error = || AddressError(text.chars().take(300).collect());
        let (host, port) = text.rsplit_once(':').ok_or_else(error)?;
        let port = port.parse().map_err(|_| error())?;
        match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
            Some(v6) if v6.parse::<std::net::Ipv6Addr>().is_ok() => Self::new(v6, port),
            None if !host.contains(':') => Self::new(host, port),
            _ => Err(error()),
        }
        .map_err(|_| error())
    }
}

impl TryFrom<String> for Address {
    type Error = AddressError;

    fn try_from(text: String) -> Result<Self, AddressError> {
        text.parse()
    }
}

impl From<Address> for String {
    fn from(address: Address) -> Self {
        address.to_string()
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What a node does with photographs for slow links.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ImageMode {
    /// Nothing: images are files like any other.
    #[default]
    Off,
    /// Smaller variants are made when an image arrives.
    Static,
    /// Smaller variants are made when an image is asked for.
    Dynamic,
}

impl fmt::Display for ImageMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Off => "off",
            Self::Static => "static",
            Self::Dynamic => "dynamic",
        })
    }
}

/// A registered member of the cluster, as its record says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Its name.
    pub id: NodeId,
    /// The cloud it runs on, which decides its price.
    pub provider: Provider,
    /// Where packets and the node API are served, over TLS.
    pub address: Address,
    /// Where the server list and the download API are served.
    pub download: Address,
    /// What it does with images.
    #[serde(default)]
    pub images: ImageMode,
}

/// What an operator has said that a node is for; in the order in which readers are sent there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MemberState {
    /// Everything.
    #[default]
    Active,
    /// It is to leave: it takes no writes of clients, and is read from where no active node answers.
    Draining,
    /// It may be away at any moment: as a draining one, but it stays.
    Maintenance,
}

impl fmt::Display for MemberState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Active => "active",
            Self::Draining => "draining",
            Self::Maintenance => "maintenance",
        })
    }
}

/// What one observer sees of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Liveness {
    /// Heard of lately.
    Alive,
    /// Silent for longer than usual: used after the others.
    Suspect,
    /// Silent for so long that nobody should be sent there.
    Down,
}

impl fmt::Display for Liveness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Alive => "alive",
            Self::Suspect => "suspect",
            Self::Down => "down",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_dns_labels() {
        for good in ["AWS", "GC", "Program", "node-7", "7"] {
            assert!(good.parse::<NodeId>().is_ok(), "{good}");
        }
        for bad in ["", "-a", "a-", "a.b", "a b", "ä", "../a", &"a".repeat(64)] {
            assert!(bad.parse::<NodeId>().is_err(), "{bad}");
        }
    }

    #[test]
    fn addresses_read_back() {
        for good in ["127.0.0.1:22222", "[::1]:80", "node-1.example.org:8871"] {
            assert_eq!(good.parse::<Address>().map(|a| a.to_string()), Ok(good.to_owned()));
        }
        for bad in ["", "a", "a:", "a:0", "a:70000", "::1:80", "[a]:80", "a b:80", "a/b:80", "[::1]"] {
            assert!(bad.parse::<Address>().is_err(), "{bad}");
        }
    }
}
