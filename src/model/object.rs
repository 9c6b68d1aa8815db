//! Objects: what a key points at, and since which version.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{ContentHash, KeyError, ObjectKey, RESERVED_PREFIX, RecordError, RecordKey, Version};

/// The longest header field value that is stored with an object, in bytes.
const FIELD_VALUE_LENGTH_MAX: usize = 256;

/// A header field value stored with an object: 1 to 256 bytes of visible ASCII and spaces (RFC 9110 section 5.5).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct FieldValue(String);

/// The text cannot stand in a header field.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a header value is 1 to {FIELD_VALUE_LENGTH_MAX} bytes of visible ASCII, not {0:?}")]
pub struct FieldValueError(String);

impl FieldValue {
    /// The value as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for FieldValue {
    type Err = FieldValueError;

    fn from_str(text: &str) -> Result<Self, FieldValueError> {
        let visible = text.bytes().all(|b| (0x20..0x7f).contains(&b));
        if text.trim() != text || text.is_empty() || text.len() > FIELD_VALUE_LENGTH_MAX || !visible {
            return Err(FieldValueError(text.chars().take(80).collect()));
        }
        Ok(Self(text.to_owned()))
    }
}

impl TryFrom<String> for FieldValue {
    type Error = FieldValueError;

    fn try_from(text: String) -> Result<Self, FieldValueError> {
        text.parse()
    }
}

impl From<FieldValue> for String {
    fn from(value: FieldValue) -> Self {
        value.0
    }
}

/// The bytes of an object and how they are to be served.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Content {
    /// The hash that names the bytes.
    pub hash: ContentHash,
    /// How many bytes.
    pub size: u64,
    /// The `Content-Type`.
    pub media_type: FieldValue,
    /// The `Cache-Control` for those who ask for it.
    pub cache_control: FieldValue,
}

/// A live object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectMeta {
    /// Its name.
    pub key: ObjectKey,
    /// Its bytes.
    #[serde(flatten)]
    pub content: Content,
    /// When and where it was written.
    pub version: Version,
}

/// The key of an entry: an object's, or that of one of the cluster's records.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum EntryKey {
    /// An object's name.
    Object(ObjectKey),
    /// A record's name, below [`RESERVED_PREFIX`].
    Record(RecordKey),
}

/// Why a text is not the key of an entry.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EntryKeyError {
    /// Not an object's name.
    #[error(transparent)]
    Object(#[from] KeyError),
    /// Below the reserved prefix, but not a record's name.
    #[error(transparent)]
    Record(#[from] RecordError),
}

impl EntryKey {
    /// The key as text.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Object(key) => key.as_str(),
            Self::Record(key) => key.as_str(),
        }
    }
}

impl FromStr for EntryKey {
    type Err = EntryKeyError;

    fn from_str(text: &str) -> Result<Self, EntryKeyError> {
        if text.starts_with(RESERVED_PREFIX) {
            return Ok(Self::Record(text.parse()?));
        }
        Ok(Self::Object(text.parse()?))
    }
}

impl TryFrom<String> for EntryKey {
    type Error = EntryKeyError;

    fn try_from(text: String) -> Result<Self, EntryKeyError> {
        text.parse()
    }
}

impl From<EntryKey> for String {
    fn from(key: EntryKey) -> Self {
        key.as_str().to_owned()
    }
}

impl From<ObjectKey> for EntryKey {
    fn from(key: ObjectKey) -> Self {
        Self::Object(key)
    }
}

impl From<RecordKey> for EntryKey {
    fn from(key: RecordKey) -> Self {
        Self::Record(key)
    }
}

impl fmt::Display for EntryKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What a key points at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EntryState {
    /// Bytes, held by whoever lists the entry.
    Live(Content),
    /// Nothing any more: a tombstone, so that the deletion travels like a write.
    Deleted,
    /// A small JSON value of the cluster's own, carried whole.
    Record(String),
}

/// What a key points at since a version: the unit that replicates.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The key.
    pub key: EntryKey,
    /// The write that made it so.
    pub version: Version,
    /// What it points at.
    pub state: EntryState,
}

/// The largest object, in bytes: what JSON numbers hold exactly (RFC 8259 section 6).
const SIZE_MAX: u64 = (1 << 53) - 1;

/// The last millisecond whose hybrid time is a positive number of 64 bits, which databases sort by: it is in the year 6429.
const TIME_MS_MAX: u64 = (1 << 47) - 1;

/// An entry that no node in its right mind lists.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UnsoundEntry {
    /// Bytes under a record's key, or a record under an object's.
    #[error("{0} does not point at what its kind of key may point at")]
    Kind(EntryKey),
    /// More bytes than there are.
    #[error("{0} has an impossible size")]
    Size(EntryKey),
    /// A time beyond all calendars.
    #[error("{0} has an impossible time")]
    Time(EntryKey),
}

impl Entry {
    /// Checks an entry that came from elsewhere.
    ///
    /// # Errors
    /// When it says what cannot be.
    pub fn check(&self) -> Result<(), UnsoundEntry> {
        let kinds = matches!(
            (&self.key, &self.state),
            (EntryKey::Object(_), EntryState::Live(_) | EntryState::Deleted)
                | (EntryKey::Record(_), EntryState::Record(_) | EntryState::Deleted)
        );
        if !kinds {
            return Err(UnsoundEntry::Kind(self.key.clone()));
        }
        if self.content().is_some_and(|content| content.size > SIZE_MAX) {
            return Err(UnsoundEntry::Size(self.key.clone()));
        }
        if self.version.time.unix_ms() > TIME_MS_MAX {
            return Err(UnsoundEntry::Time(self.key.clone()));
        }
        Ok(())
    }

    /// The bytes it points at, if it is live.
    pub const fn content(&self) -> Option<&Content> {
        match &self.state {
            EntryState::Live(content) => Some(content),
            EntryState::Deleted | EntryState::Record(_) => None,
        }
    }

    /// Whether it is a tombstone.
    pub const fn is_deleted(&self) -> bool {
        matches!(self.state, EntryState::Deleted)
    }

    /// Whether this write wins over `other` of the same key: the later version, and between two of one version
    /// (which only a clock or a backup gone wrong makes) the greater hash, so that all nodes choose alike.
    pub fn supersedes(&self, other: &Self) -> bool {
        // That a member was removed is final: its name is spent, whatever it or its clock says of itself later.
        if matches!(&self.key, EntryKey::Record(key) if key.is_node()) && self.is_deleted() != other.is_deleted() {
            return self.is_deleted();
        }
        let hash = |entry: &Self| entry.content().map(|content| content.hash);
        (&self.version, hash(self)) > (&other.version, hash(other))
    }

    /// The object, if it is a live one.
    pub fn into_object(self) -> Option<ObjectMeta> {
        match (self.key, self.state) {
            (EntryKey::Object(key), EntryState::Live(content)) => {
                Some(ObjectMeta { key, content, version: self.version })
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Epoch, HybridTime, Origin};

    #[test]
    fn field_values_cannot_break_a_header() {
        for good in ["text/html; charset=utf-8", "max-age=60"] {
            assert!(good.parse::<FieldValue>().is_ok(), "{good}");
        }
        for bad in ["", " a", "a\r\nb: c", "ä", "a\0", &"a".repeat(257)] {
            assert!(bad.parse::<FieldValue>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn entries_that_cannot_be_are_found() {
        let origin = Origin { node: "A".parse().expect("a name"), epoch: Epoch::from_bits(1) };
        let entry = |key: &str, unix_ms: u64, state: EntryState| Entry {
            key: key.parse().expect("a key"),
            version: Version { time: HybridTime::from_unix_ms(unix_ms), origin: origin.clone(), sequence: 1 },
            state,
        };
        let live = |size| {
            EntryState::Live(Content {
                hash: ContentHash::of(b""),
                size,
                media_type: "a/b".parse().expect("a value"),
                cache_control: "no-store".parse().expect("a value"),
            })
        };
        let record = || EntryState::Record("{}".to_owned());
        assert_eq!(entry("a", 1, live(1)).check(), Ok(()));
        assert_eq!(entry(".metacdn/a/b", 1, record()).check(), Ok(()));
        assert_eq!(entry("a", TIME_MS_MAX, EntryState::Deleted).check(), Ok(()));
        assert!(matches!(entry(".metacdn/a/b", 1, live(1)).check(), Err(UnsoundEntry::Kind(_))));
        assert!(matches!(entry("a", 1, record()).check(), Err(UnsoundEntry::Kind(_))));
        assert!(matches!(entry("a", 1, live(SIZE_MAX + 1)).check(), Err(UnsoundEntry::Size(_))));
        assert!(matches!(entry("a", TIME_MS_MAX + 1, EntryState::Deleted).check(), Err(UnsoundEntry::Time(_))));
    }

    #[test]
    fn a_reserved_name_is_a_record_or_nothing() {
        assert!(matches!("a/b".parse(), Ok(EntryKey::Object(_))));
        assert!(matches!(".metacdn/prices/AWS".parse(), Ok(EntryKey::Record(_))));
        assert!(".metacdn/".parse::<EntryKey>().is_err());
        assert!(".metacdn".parse::<EntryKey>().is_err());
    }
}
