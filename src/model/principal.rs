//! Who is calling, and the DNS names by which a certificate says so.
//!
//! A name under `metacdn.internal` is given by the cluster's authority alone, so the name in a verified certificate is
//! the caller. Knows nothing of certificates themselves.

use std::fmt;

use crate::model::{CallerName, NameError, NodeId};

/// The domain of all names that the cluster's authority gives (`internal` is reserved for private use by ICANN).
const DOMAIN: &str = "metacdn.internal";
const NODE_SUFFIX: &str = ".node.metacdn.internal";
const EDGE_SUFFIX: &str = ".edge.metacdn.internal";
const CLIENT_SUFFIX: &str = ".client.metacdn.internal";

/// Who is calling.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Principal {
    /// Anyone: no certificate was shown.
    Anonymous,
    /// Whoever works at this machine: came over loopback to a listener that is opened for that.
    Operator,
    /// A node of this cluster.
    Node(NodeId),
    /// An edge of this cluster.
    Edge(CallerName),
    /// A user or program with a client certificate of this cluster.
    Client(CallerName),
}

/// The names in a certificate do not say who its holder is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PrincipalError {
    /// None of them ends in a suffix of ours.
    #[error("it has no name of the form NAME.node.{DOMAIN}, NAME.edge.{DOMAIN} or NAME.client.{DOMAIN}")]
    Missing,
    /// It speaks for two callers, so which of them calls is anyone's guess.
    #[error("it names both {0} and {1}")]
    Several(Principal, Principal),
    /// The part before the suffix is not a name.
    #[error(transparent)]
    Name(#[from] NameError),
}

impl Principal {
    /// The name that every node of a cluster shares, for a first contact that knows only an address.
    pub const ANY_NODE: &'static str = "node.metacdn.internal";

    /// The name that every edge of a cluster shares: who asks one knows its address alone.
    pub const ANY_EDGE: &'static str = "edge.metacdn.internal";

    /// The DNS name that stands for the caller in its certificate; none where there is no certificate.
    pub fn dns_name(&self) -> Option<String> {
        match self {
            Self::Anonymous | Self::Operator => None,
            Self::Node(id) => Some(format!("{id}{NODE_SUFFIX}")),
            Self::Edge(name) => Some(format!("{name}{EDGE_SUFFIX}")),
            Self::Client(name) => Some(format!("{name}{CLIENT_SUFFIX}")),
        }
    }

    /// The one caller that the DNS names of a certificate speak for; other names are passed over.
    ///
    /// The spelling of the name is kept: node identifiers differ by case, although DNS does not.
    ///
    /// # Errors
    /// When no name, a malformed one, or names of two callers are there.
    pub fn from_dns_names<'a>(names: impl IntoIterator<Item = &'a str>) -> Result<Self, PrincipalError> {
        let mut found = None;
        for name in names {
            let Some(principal) = Self::from_dns_name(name)? else { continue };
            match found {
                Some(first) if first != principal => return Err(PrincipalError::Several(first, principal)),
                _ => found = Some(principal),
            }
        }
        found.ok_or(PrincipalError::Missing)
    }

    fn from_dns_name(name: &str) -> Result<Option<Self>, PrincipalError> {
        let principal = if let Some(id) = before(name, NODE_SUFFIX) {
            Self::Node(id.parse()?)
        } else if let Some(name) = before(name, EDGE_SUFFIX) {
            Self::Edge(name.parse()?)
        } else if let Some(name) = before(name, CLIENT_SUFFIX) {
            Self::Client(name.parse()?)
        } else {
            return Ok(None);
        };
        Ok(Some(principal))
    }

    /// Whether a DNS name lies in the domain that says who a caller is, and so is the authority's alone to give.
    pub fn owns_dns_name(name: &str) -> bool {
        let name = name.strip_suffix('.').unwrap_or(name);
        name.eq_ignore_ascii_case(DOMAIN) || before(name, DOMAIN).is_some_and(|rest| rest.ends_with('.'))
    }
}

impl fmt::Display for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Anonymous => f.write_str("anonymous"),
            Self::Operator => f.write_str("operator"),
            Self::Node(id) => write!(f, "node {id}"),
            Self::Edge(name) => write!(f, "edge {name}"),
            Self::Client(name) => write!(f, "client {name}"),
        }
    }
}

/// What stands before `suffix`, which DNS compares without regard to case (RFC 4343).
fn before<'a>(name: &'a str, suffix: &str) -> Option<&'a str> {
    let (rest, end) = name.split_at_checked(name.len().checked_sub(suffix.len())?)?;
    end.eq_ignore_ascii_case(suffix).then_some(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_read_back_with_their_case() {
        let callers = [
            Principal::Node("AWS".parse().unwrap()),
            Principal::Edge("paris-1".parse().unwrap()),
            Principal::Client("Ann".parse().unwrap()),
        ];
        for caller in callers {
            let name = caller.dns_name().unwrap();
            assert_eq!(
                Principal::from_dns_names(["localhost", &name, Principal::ANY_NODE, Principal::ANY_EDGE]),
                Ok(caller)
            );
        }
        assert_eq!(
            Principal::from_dns_names(["AWS.Node.MetaCDN.internal"]),
            Ok(Principal::Node("AWS".parse().unwrap()))
        );
    }

    #[test]
    fn unclear_names_are_refused() {
        assert_eq!(Principal::from_dns_names([]), Err(PrincipalError::Missing));
        for strange in
            ["localhost", "node.metacdn.internal", "a.metacdn.internal", "AWS.node.metacdn.internal.evil.org"]
        {
            assert_eq!(Principal::from_dns_names([strange]), Err(PrincipalError::Missing), "{strange}");
        }
        for bad in ["*.node.metacdn.internal", "a.b.node.metacdn.internal", ".edge.metacdn.internal"] {
            assert!(matches!(Principal::from_dns_names([bad]), Err(PrincipalError::Name(_))), "{bad}");
        }
        let two = Principal::from_dns_names(["a.node.metacdn.internal", "a.client.metacdn.internal"]);
        assert!(matches!(two, Err(PrincipalError::Several(..))));
    }

    #[test]
    fn our_domain_is_recognised_however_written() {
        for ours in ["metacdn.internal", "x.METACDN.internal", "a.node.metacdn.internal", "a.node.metacdn.internal."] {
            assert!(Principal::owns_dns_name(ours), "{ours}");
        }
        for other in ["internal", "notmetacdn.internal", "metacdn.internal.org", ""] {
            assert!(!Principal::owns_dns_name(other), "{other}");
        }
    }
}
