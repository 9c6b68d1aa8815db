//! What a node has written down, as the rules of replication see it.

use crate::model::{Content, Cursor, Entry, EntryKey, HybridTime, NodeId, Origin, Version, VersionVector};

/// What a node owes: entries that it has recorded and does not list yet, because their bytes are missing (wanted) or
/// their time has not come (parked). Each gets a number when it is recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Debt {
    /// The number that was given last.
    pub last: u64,
    /// The least number that is still owed.
    pub oldest: Option<u64>,
}

/// One commit's view of what a node has written down. All changes become durable together, or none does.
pub trait Ledger {
    /// Why it cannot be read or written.
    type Error;

    /// Who stamps the writes that happen here.
    fn origin(&self) -> &Origin;

    /// The replicated entry of `key`.
    ///
    /// # Errors
    /// When it cannot be read; so for all that follow, or when they cannot be written.
    fn listed(&self, key: &EntryKey) -> Result<Option<Entry>, Self::Error>;

    /// Whether this very `entry` is wanted or parked.
    ///
    /// # Errors
    /// As above.
    fn owes(&self, entry: &Entry) -> Result<bool, Self::Error>;

    /// Whether the bytes of `content` are held.
    ///
    /// # Errors
    /// As above.
    fn holds(&self, content: &Content) -> Result<bool, Self::Error>;

    /// The version of a write that happens here at wall time `now_unix_ms`: later than everything listed or wanted.
    fn stamp(&mut self, now_unix_ms: u64) -> Version;

    /// Lists `entry`, which supersedes what is listed under its key and whose bytes are durable: it takes the next place
    /// in the feed. What is owed under the key and not newer goes. The clock is at or after its time from now on.
    ///
    /// # Errors
    /// As above.
    fn list(&mut self, entry: &Entry) -> Result<(), Self::Error>;

    /// Records that the bytes of `entry` are to be fetched; `peer` is known to hold them. The clock is at or after its
    /// time from now on.
    ///
    /// # Errors
    /// As above.
    fn want(&mut self, entry: &Entry, peer: &NodeId) -> Result<(), Self::Error>;

    /// Notes that `peer` lists the wanted or parked `entry`, too.
    ///
    /// # Errors
    /// As above.
    fn listed_by(&mut self, entry: &Entry, peer: &NodeId) -> Result<(), Self::Error>;

    /// Which peer was last known to list the wanted `entry`; this node itself if that is known of none any more.
    ///
    /// # Errors
    /// As above.
    fn lister(&self, entry: &Entry) -> Result<Option<NodeId>, Self::Error>;

    /// Notes that it is not known any more what `peer` lists.
    ///
    /// # Errors
    /// As above.
    fn forget_lister(&mut self, peer: &NodeId) -> Result<(), Self::Error>;

    /// Forgets the want of `entry`.
    ///
    /// # Errors
    /// As above.
    fn forget_want(&mut self, entry: &Entry) -> Result<(), Self::Error>;

    /// Keeps `entry`, which `peer` lists, until its time has come. The clock does not learn of it.
    ///
    /// # Errors
    /// As above.
    fn park(&mut self, entry: &Entry, peer: &NodeId) -> Result<(), Self::Error>;

    /// Up to `limit` parked entries of up to `time`.
    ///
    /// # Errors
    /// As above.
    fn parked(&self, time: HybridTime, limit: usize) -> Result<Vec<Entry>, Self::Error>;

    /// Makes the parked `entry` a wanted one, under the number that it has: it has been owed since then. The clock is at
    /// or after its time from now on.
    ///
    /// # Errors
    /// As above.
    fn want_parked(&mut self, entry: &Entry) -> Result<(), Self::Error>;

    /// Forgets that `entry` is parked.
    ///
    /// # Errors
    /// As above.
    fn unpark(&mut self, entry: &Entry) -> Result<(), Self::Error>;

    /// How far the feed of `peer` was read.
    ///
    /// # Errors
    /// As above.
    fn cursor(&self, peer: &NodeId) -> Result<Option<Cursor>, Self::Error>;

    /// Records how far the feed of `peer` was read.
    ///
    /// # Errors
    /// As above.
    fn set_cursor(&mut self, peer: &NodeId, cursor: Cursor) -> Result<(), Self::Error>;

    /// What is owed.
    ///
    /// # Errors
    /// As above.
    fn debt(&self) -> Result<Debt, Self::Error>;

    /// Which writes of each origin are passed; of its own all that it made.
    ///
    /// # Errors
    /// As above.
    fn vector(&self) -> Result<VersionVector, Self::Error>;

    /// Notes that all that `vector` has passed is passed here, too.
    ///
    /// # Errors
    /// As above.
    fn cover(&mut self, vector: &VersionVector) -> Result<(), Self::Error>;

    /// Up to `limit` tombstones of before `time`, after the one `after`, in the order of time and key.
    ///
    /// # Errors
    /// As above.
    fn tombstones(
        &self,
        time: HybridTime,
        after: Option<(HybridTime, EntryKey)>,
        limit: usize,
    ) -> Result<Vec<Entry>, Self::Error>;

    /// Drops the tombstone `entry`.
    ///
    /// # Errors
    /// As above.
    fn drop_tombstone(&mut self, entry: &Entry) -> Result<(), Self::Error>;

    /// Up to which version tombstones may have been dropped, by this node or by one whose feed it read.
    ///
    /// # Errors
    /// As above.
    fn horizon(&self) -> Result<Option<Version>, Self::Error>;

    /// Notes that tombstones up to `version` may have been dropped.
    ///
    /// # Errors
    /// As above.
    fn raise_horizon(&mut self, version: &Version) -> Result<(), Self::Error>;

    /// Up to `limit` entries of a backup after the key `after`: they are not listed until it is known what became of
    /// them.
    ///
    /// # Errors
    /// As above.
    fn withheld(&self, after: Option<&EntryKey>, limit: usize) -> Result<Vec<Entry>, Self::Error>;

    /// Forgets that `entry` was in a backup.
    ///
    /// # Errors
    /// As above.
    fn forget_withheld(&mut self, entry: &Entry) -> Result<(), Self::Error>;
}
