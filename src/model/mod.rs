//! The nouns of metacdn: values that every layer speaks of, parsed once at the border.
//!
//! Does no I/O, knows no clock, and imports nothing else of the crate.

mod hash;
mod key;
mod members;
mod money;
mod network;
mod node;
mod object;
mod principal;
mod purge;
mod record;
mod tariff;
mod variant;
mod vector;
mod version;
mod view;
mod wait_for;

pub use hash::{ContentHash, HashError};
pub use key::{KeyError, ObjectKey, RESERVED_PREFIX};
pub use members::{MemberSet, MembersDigest};
pub use money::{Amount, MoneyError, NanoDollars};
pub use network::{Network, NetworkError};
pub use node::{
    Address, AddressError, CallerName, ImageMode, Liveness, MemberState, NameError, Node, NodeId, Provider, SiteName,
};
pub use object::{
    Content, Entry, EntryKey, EntryKeyError, EntryState, FieldValue, FieldValueError, ObjectMeta, UnsoundEntry,
};
pub use principal::{Principal, PrincipalError};
pub use purge::{Purge, PurgeError, PurgeTarget};
pub use record::{Record, RecordError, RecordKey};
pub use tariff::{Allowance, Egress, Rates, Requests, Storage, Tariff, TariffDocument, Tier, Unit};
pub use variant::{Variant, VariantError};
pub use vector::{Cursor, VersionVector};
pub use version::{Epoch, HybridClock, HybridTime, Origin, Version, VersionError};
pub use view::View;
pub use wait_for::{WaitFor, WaitForError};
