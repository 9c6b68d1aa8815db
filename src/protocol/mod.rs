//! What travels between processes: packets, feed, records, certificates, and every path and header name.

pub mod blobs;
pub mod certificate;
pub mod feed;
pub mod identity;
mod min_version;
pub mod packet;
pub mod problem;
pub mod reload;
pub mod scrub;
pub mod shield;
pub mod site_certificate;
pub mod status;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use crate::model::{ContentHash, KeyError, NodeId, ObjectKey, Provider};

pub use min_version::{MinVersionError, min_version};

/// The objects of a node: the list itself, and below it each object under its key.
pub const OBJECTS: &str = "/v1/objects";
/// Blobs by hash, for peers.
pub const BLOBS: &str = "/v1/blobs";
/// The feed of a node.
pub const FEED: &str = "/v1/feed";
/// Receipts: what a follower holds now of what somebody waits for.
pub const RECEIPTS: &str = "/v1/receipts";
/// The sums of what a node lists, by which two nodes compare.
pub const DIGESTS: &str = "/v1/digests";
/// The entries of a backup that are not listed.
pub const WITHHELD: &str = "/v1/withheld";
/// The heartbeat: a small answer that says where the node stands.
pub const PING: &str = "/v1/ping";
/// Bytes without meaning, by which an edge measures an idle path.
pub const PROBE: &str = "/v1/probe";
/// The newest that a node knows of an object, for the home of its key: below it each object under its key.
pub const ENTRIES: &str = "/v1/entries";
/// What a node holds.
pub const STATUS: &str = "/v1/status";
/// The members of the cluster.
pub const SERVERS: &str = "/v1/servers";
/// The prices of the providers.
pub const PRICES: &str = "/v1/prices";

/// Where all that providers charge is read, and set by provider.
pub const TARIFFS: &str = "/v1/tariffs";
/// What caches are to forget; at a node for all edges, at the admin listener of an edge for this one.
pub const PURGES: &str = "/v1/purges";
/// Where an edge is told to read its configuration anew.
pub const RELOAD: &str = "/v1/reload";
/// Looking through all blobs of a node.
pub const SCRUB: &str = "/v1/scrub";
/// The description of the node API.
pub const OPENAPI: &str = "/v1/openapi.json";
/// Whether the process lives.
pub const HEALTH: &str = "/health";
/// Whether the process should be sent requests.
pub const READY: &str = "/ready";
/// Metrics in Prometheus' text format.
pub const METRICS: &str = "/metrics";
/// The ranking of the nodes for a request, at an edge.
pub const ROUTES: &str = "/routes";

/// The version of the object in an answer; on a 404, that of the deletion.
pub const VERSION_HEADER: &str = "metacdn-version";
/// On how many nodes a write was durable when the answer left.
pub const COPIES_HEADER: &str = "metacdn-copies";
/// The version that the answer must at least have, in a request: that of the answer to a PUT or DELETE.
pub const MIN_VERSION_HEADER: &str = "metacdn-min-version";
/// In a conditional write that one node passes on to another: whom it takes for the home of the key.
pub const HOME_HEADER: &str = "metacdn-home";
/// Why the edge chose the node that answered.
pub const ROUTE_HEADER: &str = "metacdn-route";
/// What an edge demands of the edge that is its shield, and what that says of its answer.
pub const SHIELD_HEADER: &str = "metacdn-shield";
/// The policy that a trusted client asks for.
pub const POLICY_HEADER: &str = "metacdn-policy";

/// Which variant of an image the answer carries.
pub const VARIANT_HEADER: &str = "metacdn-variant";
/// The field of a query that asks for a variant of an image.
pub const VARIANT_QUERY: &str = "variant";

/// The largest answer of the control API that a client reads, in bytes.
pub const CONTROL_BODY_MAX: usize = 16 << 20;

/// What stands for itself in a path besides letters and digits (RFC 3986 section 3.3), with the slash.
const PATH: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'/')
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~')
    .remove(b'!')
    .remove(b'$')
    .remove(b'(')
    .remove(b')')
    .remove(b',')
    .remove(b':')
    .remove(b'@')
    .remove(b'=');

/// Why a path names no object.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// The percent-decoded bytes are not text.
    #[error("the path is not UTF-8 after percent-decoding")]
    NotText,
    /// The text is not a key.
    #[error(transparent)]
    Key(#[from] KeyError),
}

/// `text` as a path: what has a meaning in a URI is percent-encoded.
pub fn encode_path(text: &str) -> String {
    utf8_percent_encode(text, PATH).to_string()
}

/// The text that the percent-encoded `path` stands for.
///
/// # Errors
/// [`PathError::NotText`] if that is not UTF-8.
pub fn decode_path(path: &str) -> Result<String, PathError> {
    percent_decode_str(path).decode_utf8().map(Into::into).map_err(|_| PathError::NotText)
}

/// `path` without its segments `.`, which RFC 3986 section 5.2.4 removes; clients such as apt send them all the same.
/// Segments `..` stay, and are part of no key.
pub fn without_dot_segments(path: &str) -> String {
    let mut segments: Vec<&str> = path.split('/').filter(|segment| *segment != ".").collect();
    if path == "." || path.ends_with("/.") {
        // It names the folder, not what may be stored under the folder's name.
        segments.push("");
    }
    segments.join("/")
}

/// The key that the percent-encoded `path` names, without a leading slash.
///
/// # Errors
/// When it is not UTF-8 or not a key.
pub fn decode_key(path: &str) -> Result<ObjectKey, PathError> {
    Ok(decode_path(path)?.parse()?)
}

/// The path of an object.
pub fn object_path(key: &ObjectKey) -> String {
    format!("{OBJECTS}/{}", encode_path(key.as_str()))
}

/// The path of the newest that a node knows of an object.
pub fn entry_path(key: &ObjectKey) -> String {
    format!("{ENTRIES}/{}", encode_path(key.as_str()))
}

/// The path of a blob.
pub fn blob_path(hash: &ContentHash) -> String {
    format!("{BLOBS}/{hash}")
}

/// The path of a member.
pub fn server_path(id: &NodeId) -> String {
    format!("{SERVERS}/{id}")
}

/// The path of what a member is for.
pub fn state_path(id: &NodeId) -> String {
    format!("{SERVERS}/{id}/state")
}

/// The path of a provider's prices.
pub fn price_path(provider: &Provider) -> String {
    format!("{PRICES}/{provider}")
}

/// The path of all that a provider charges.
pub fn tariff_path(provider: &Provider) -> String {
    format!("{TARIFFS}/{provider}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_travel_in_paths() {
        for text in ["a/b.txt", "100%/ä?#&+ ;", "a\\b\"'<>", "日本/x=1,y@z"] {
            let path = encode_path(text);
            assert!(path.is_ascii() && !path.contains(['?', '#', ' ', '"', '<']), "{path}");
            assert_eq!(decode_key(&path).map(|key| key.to_string()), Ok(text.to_owned()));
        }
        assert_eq!(decode_key("a%2F..%2Fb"), Err(PathError::Key(KeyError::Traversal)));
        assert_eq!(decode_key("%ff"), Err(PathError::NotText));
        assert_eq!(decode_key("a%00"), Err(PathError::Key(KeyError::Control(0))));
    }

    #[test]
    fn dot_segments_are_no_part_of_a_path() {
        for (path, meant) in [
            ("", ""),
            (".", ""),
            ("./", ""),
            ("./a", "a"),
            ("a/./././b", "a/b"),
            ("a/.", "a/"),
            ("a/./", "a/"),
            ("a//b", "a//b"),
            (".a/b./...", ".a/b./..."),
            ("a/./../b", "a/../b"),
        ] {
            assert_eq!(without_dot_segments(path), meant, "{path}");
        }
    }
}
