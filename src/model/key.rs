//! Object names.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Keys below this prefix are the cluster's own records; no client may publish there.
pub const RESERVED_PREFIX: &str = ".metacdn/";

/// The longest key, in bytes of UTF-8.
const LENGTH_MAX: usize = 1024;

/// The name of an object: `/`-separated segments, such as `photos/2026/cat.jpg`.
///
/// Invariants: 1 to 1024 bytes of UTF-8; no segment is empty, `.` or `..` (so the key is relative and
/// cannot leave a folder that it is joined to); no control characters; not below [`RESERVED_PREFIX`].
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ObjectKey(String);

/// Why a text is not a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Nothing there.
    #[error("a key must not be empty")]
    Empty,
    /// More bytes than a key may have.
    #[error("a key has at most {LENGTH_MAX} bytes, this one has {0}")]
    TooLong(usize),
    /// A leading slash.
    #[error("a key is relative: remove the leading slash")]
    Absolute,
    /// `a//b` or `a/`.
    #[error("a key must not have empty segments (a double or a trailing slash)")]
    EmptySegment,
    /// `.` or `..` as a segment.
    #[error("a key must not have the segments . or ..")]
    Traversal,
    /// A control character.
    #[error("a key must not contain the control character U+{0:04X}")]
    Control(u32),
    /// Below the prefix of the cluster's records.
    #[error("keys below {RESERVED_PREFIX} are the cluster's own")]
    Reserved,
}

impl ObjectKey {
    /// The key as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The last segment.
    pub fn file_name(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or(&self.0)
    }

    /// The media type that the last segment's ending suggests, else `application/octet-stream`.
    pub fn guessed_media_type(&self) -> &'static str {
        // The registry's own words for text formats lack a charset; everything published as text is UTF-8.
        match mime_guess::from_path(self.file_name()).first_raw() {
            Some("text/html") => "text/html; charset=utf-8",
            Some("text/css") => "text/css; charset=utf-8",
            Some("text/plain") => "text/plain; charset=utf-8",
            Some(media_type) => media_type,
            None => "application/octet-stream",
        }
    }
}

fn check(text: &str) -> Result<(), KeyError> {
    if text.is_empty() {
        return Err(KeyError::Empty);
    }
    if text.len() > LENGTH_MAX {
        return Err(KeyError::TooLong(text.len()));
    }
    if text.starts_with('/') {
        return Err(KeyError::Absolute);
    }
    if let Some(control) = text.chars().find(|c| c.is_control()) {
        return Err(KeyError::Control(control.into()));
    }
    for segment in text.split('/') {
        match segment {
            "" => return Err(KeyError::EmptySegment),
            "." | ".." => return Err(KeyError::Traversal),
            _ => {}
        }
    }
    if text.starts_with(RESERVED_PREFIX) || text == RESERVED_PREFIX.trim_end_matches('/') {
        return Err(KeyError::Reserved);
    }
    Ok(())
}

impl FromStr for ObjectKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        check(text).map(|()| Self(text.to_owned()))
    }
}

impl TryFrom<String> for ObjectKey {
    type Error = KeyError;

    fn try_from(text: String) -> Result<Self, KeyError> {
        check(&text).map(|()| Self(text))
    }
}

impl From<ObjectKey> for String {
    fn from(key: ObjectKey) -> Self {
        key.0
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ordinary_names_are_keys() {
        for good in ["a", "a/b.txt", "ümlaut/日本.png", "a b", "...", "a..b", ".metacdnx/a", "back\\slash"] {
            assert_eq!(good.parse::<ObjectKey>().map(|k| k.to_string()), Ok(good.to_owned()));
        }
        assert!("a".repeat(1024).parse::<ObjectKey>().is_ok());
    }

    #[test]
    fn each_bad_name_is_refused_for_its_own_reason() {
        let long = "a".repeat(1025);
        for (bad, reason) in [
            ("", KeyError::Empty),
            (long.as_str(), KeyError::TooLong(1025)),
            ("/etc/passwd", KeyError::Absolute),
            ("a//b", KeyError::EmptySegment),
            ("a/", KeyError::EmptySegment),
            ("../a", KeyError::Traversal),
            ("a/../b", KeyError::Traversal),
            ("a/.", KeyError::Traversal),
            ("a\nb", KeyError::Control(10)),
            ("a\u{85}", KeyError::Control(0x85)),
            (".metacdn/nodes/A", KeyError::Reserved),
            (".metacdn", KeyError::Reserved),
        ] {
            assert_eq!(bad.parse::<ObjectKey>(), Err(reason), "{bad:?}");
        }
    }

    #[test]
    fn media_type_follows_the_ending() {
        let media_type = |text: &str| text.parse::<ObjectKey>().map(|key| key.guessed_media_type());
        assert_eq!(media_type("a/cat.JPG"), Ok("image/jpeg"));
        assert_eq!(media_type("index.html"), Ok("text/html; charset=utf-8"));
        assert_eq!(media_type("README"), Ok("application/octet-stream"));
    }
}
