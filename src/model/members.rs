//! The registered nodes as a set, and the short word by which two nodes see whether they know the same.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::Xxh3;

use super::NodeId;

/// The registered nodes, by name, alive or not.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct MemberSet(BTreeSet<NodeId>);

impl MemberSet {
    /// Whether `id` is one of them.
    pub fn contains(&self, id: &NodeId) -> bool {
        self.0.contains(id)
    }

    /// Their names, in order.
    pub fn iter(&self) -> impl Iterator<Item = &NodeId> {
        self.0.iter()
    }

    /// How many they are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What stands for the set: the XXH3 hash (64 bits, seed 0) of the names in the order of their bytes, each followed
    /// by a zero byte. Nodes of all versions must agree on it.
    pub fn digest(&self) -> MembersDigest {
        let mut hasher = Xxh3::new();
        for id in &self.0 {
            hasher.update(id.as_str().as_bytes());
            hasher.update(&[0]);
        }
        MembersDigest(hasher.digest())
    }
}

impl FromIterator<NodeId> for MemberSet {
    fn from_iter<I: IntoIterator<Item = NodeId>>(ids: I) -> Self {
        Self(ids.into_iter().collect())
    }
}

/// What stands for a set of members: 16 hex digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MembersDigest(u64);

impl fmt::Display for MembersDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for MembersDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for MembersDigest {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // The digits are checked by hand, because the parser of numbers lets a sign through.
        let digits = text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        match u64::from_str_radix(text, 16) {
            Ok(bits) if digits => Ok(Self(bits)),
            _ => Err(format!("a digest of members is 16 hex digits, not {text:?}")),
        }
    }
}

impl TryFrom<String> for MembersDigest {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<MembersDigest> for String {
    fn from(digest: MembersDigest) -> Self {
        digest.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(names: &[&str]) -> MemberSet {
        names.iter().map(|name| name.parse().expect("a name")).collect()
    }

    #[test]
    fn the_digest_is_that_of_the_set_and_stays_what_it_is() {
        assert_eq!(set(&["GC", "AWS"]).digest(), set(&["AWS", "GC"]).digest());
        assert_ne!(set(&["AWS", "GC"]).digest(), set(&["AWSG", "C"]).digest());
        assert_eq!(set(&["AWS", "GC", "Program"]).digest().to_string(), "6e05535144047729");
    }

    #[test]
    fn it_travels_as_digits_and_the_set_as_a_list() {
        let digest = set(&["AWS"]).digest();
        let json = serde_json::to_string(&digest).expect("JSON");
        assert_eq!(serde_json::from_str::<MembersDigest>(&json).expect("digits"), digest);
        assert!("+00000000000000a".parse::<MembersDigest>().is_err() && "ab".parse::<MembersDigest>().is_err());
        assert_eq!(serde_json::to_string(&set(&["GC", "AWS"])).expect("JSON"), r#"["AWS","GC"]"#);
    }
}
