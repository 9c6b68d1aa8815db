//! What can be asked of the catalogue.

use rusqlite::{Connection, OptionalExtension as _, params};

use super::{StoreError, rows};
use crate::model::{Cursor, Entry, EntryKey, NodeId, ObjectKey, ObjectMeta, Origin, Version, VersionVector};
use crate::replicate::BUCKETS;

/// How many entries are looked at where bytes are only counted.
const COUNTED_MAX: i64 = 100_000;

/// Which entries of the feed a follower reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Select {
    /// Objects and records.
    All,
    /// Records alone: members and prices.
    Records,
}

/// A part of the feed, in the order of its sequence.
#[derive(Debug)]
pub struct FeedPage {
    /// The entries.
    pub entries: Vec<Entry>,
    /// The sequence after which they were read.
    pub since: u64,
    /// The sequence from which to read on.
    pub next: u64,
    /// What the node had passed when the page was read, if this is the end of the feed.
    pub end: Option<FeedEnd>,
}

/// Where a node stood when its feed was read to the end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FeedEnd {
    /// What it had passed of each origin's writes.
    pub vector: VersionVector,
    /// Up to which version tombstones may be missing in the feed.
    pub horizon: Option<Version>,
}

/// Live objects in the order of their keys.
#[derive(Debug)]
pub struct Listing {
    /// The objects.
    pub objects: Vec<ObjectMeta>,
    /// Whether there are more after the last one.
    pub more: bool,
}

/// An entry whose bytes are to be fetched.
#[derive(Debug, Clone)]
pub struct Want {
    /// The entry.
    pub entry: Entry,
    /// The peer that is known to hold the bytes.
    pub peer: NodeId,
    /// How often all peers failed to give them.
    pub failures: u32,
}

/// What the catalogue holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Summary {
    /// Live objects.
    pub objects: u64,
    /// Their bytes, each object counted.
    pub bytes: u64,
    /// Deleted objects that are remembered.
    pub tombstones: u64,
    /// Objects of this node alone.
    pub strays: u64,
    /// Entries of a backup that are not listed.
    pub withheld: u64,
}

/// The entry of `key` in `table`, a name of this module's own.
pub(super) fn entry(connection: &Connection, table: &str, key: &EntryKey) -> Result<Option<Entry>, StoreError> {
    let sql = format!("SELECT {} FROM {table} WHERE key = ?1", rows::COLUMNS);
    Ok(connection.prepare_cached(&sql)?.query_row(params![key.as_str()], rows::read).optional()?)
}

/// The entry served under `key`: a stray before the replicated one.
pub(super) fn find(connection: &Connection, key: &EntryKey) -> Result<Option<Entry>, StoreError> {
    match entry(connection, "strays", key)? {
        Some(stray) => Ok(Some(stray)),
        None => entry(connection, "entries", key),
    }
}

/// The last sequence of the feed.
pub(super) fn head(connection: &Connection) -> Result<u64, StoreError> {
    let sql = "SELECT value FROM marks WHERE name = 'sequence'";
    Ok(connection.prepare_cached(sql)?.query_row([], |row| rows::unsigned(row, 0)).optional()?.unwrap_or(0))
}

/// Up to `limit` entries of the feed after the sequence that `since` chooses, which is told where the feed ends.
pub(super) fn feed(
    connection: &mut Connection,
    origin: &Origin,
    since: impl FnOnce(u64) -> u64,
    limit: usize,
    select: Select,
) -> Result<FeedPage, StoreError> {
    // One snapshot for the rows and the end of the feed: else an entry committed between the two would be passed over.
    let snapshot = connection.transaction()?;
    let head = head(&snapshot)?;
    let since = since(head);
    let filter = match select {
        Select::All => "",
        Select::Records => "AND key >= '.metacdn/' AND key < '.metacdn0'",
    };
    let sql = format!(
        "SELECT {}, sequence FROM entries WHERE sequence > ?1 {filter} ORDER BY sequence LIMIT ?2",
        rows::COLUMNS
    );
    let mut last = since;
    let mut entries = Vec::new();
    {
        let mut statement = snapshot.prepare_cached(&sql)?;
        let mut found = statement.query(params![since.cast_signed(), limit as i64])?;
        while let Some(row) = found.next()? {
            entries.push(rows::read(row)?);
            last = rows::unsigned(row, rows::AFTER)?;
        }
    }
    let end = match entries.len() < limit {
        true => Some(FeedEnd { vector: own_vector(&snapshot, origin)?, horizon: told_horizon(&snapshot)? }),
        false => None,
    };
    Ok(FeedPage { entries, since, next: if end.is_some() { head.max(since) } else { last }, end })
}

/// Up to `limit` live objects below `prefix`, after the key `after`.
pub(super) fn list(
    connection: &Connection,
    prefix: &str,
    after: Option<&ObjectKey>,
    limit: usize,
) -> Result<Listing, StoreError> {
    let end = successor(prefix);
    let start = after.map_or("", ObjectKey::as_str);
    let columns = rows::COLUMNS;
    let range = "kind = 1 AND key >= ?1 AND (?2 IS NULL OR key < ?2) AND key > ?3";
    let sql = format!(
        "SELECT {columns} FROM entries WHERE {range} AND key NOT IN (SELECT key FROM strays)
         UNION ALL SELECT {columns} FROM strays WHERE {range} ORDER BY key LIMIT ?4"
    );
    let mut statement = connection.prepare_cached(&sql)?;
    let found = statement.query_map(params![prefix, end, start, limit as i64 + 1], rows::read)?;
    let mut objects = Vec::new();
    for entry in found {
        objects.extend(entry?.into_object());
    }
    let more = objects.len() > limit;
    objects.truncate(limit);
    Ok(Listing { objects, more })
}

/// The least text above all texts that start with `prefix`; `None` if there is none.
fn successor(prefix: &str) -> Option<String> {
    let mut text = prefix.to_owned();
    while let Some(last) = text.pop() {
        // The scalar values have a gap at the surrogates, which `char::from_u32` refuses.
        let next = (u32::from(last) + 1..=u32::from(char::MAX)).find_map(char::from_u32);
        if let Some(next) = next {
            text.push(next);
            return Some(text);
        }
    }
    None
}

/// What is owed under `key` in `table`, one of `wants` and `parked`.
pub(super) fn owed(connection: &Connection, table: &str, key: &EntryKey) -> Result<Vec<Entry>, StoreError> {
    let sql = format!("SELECT {} FROM {table} WHERE key = ?1", rows::COLUMNS);
    let mut statement = connection.prepare_cached(&sql)?;
    let found = statement.query_map(params![key.as_str()], rows::read)?;
    Ok(found.collect::<Result<_, _>>()?)
}

/// Whether this very `entry` is wanted.
pub(super) fn wants_version(connection: &Connection, entry: &Entry) -> Result<bool, StoreError> {
    let sql = format!("SELECT EXISTS (SELECT 1 FROM wants WHERE {THIS_VERSION})");
    Ok(connection.prepare_cached(&sql)?.query_row(this_version(entry), |row| row.get(0))?)
}

/// Whether this very `entry` is parked.
pub(super) fn parks_version(connection: &Connection, entry: &Entry) -> Result<bool, StoreError> {
    let sql = format!("SELECT EXISTS (SELECT 1 FROM parked WHERE {THIS_VERSION})");
    Ok(connection.prepare_cached(&sql)?.query_row(this_version(entry), |row| row.get(0))?)
}

/// What is passed of the writes of others.
pub(super) fn vector(connection: &Connection) -> Result<VersionVector, StoreError> {
    let mut statement = connection.prepare_cached("SELECT node, epoch, sequence FROM vector")?;
    let found = statement.query_map([], |row| {
        Ok((Origin { node: rows::parsed(row, 0)?, epoch: rows::parsed(row, 1)? }, rows::unsigned(row, 2)?))
    })?;
    Ok(found.collect::<Result<_, _>>()?)
}

/// What is passed of the writes of all, those of `origin` included, whose catalogue this is.
pub(super) fn own_vector(connection: &Connection, origin: &Origin) -> Result<VersionVector, StoreError> {
    let mut vector = vector(connection)?;
    let sql = "SELECT value FROM marks WHERE name = 'origin_sequence'";
    let written = connection.prepare_cached(sql)?.query_row([], |row| rows::unsigned(row, 0)).optional()?;
    vector.raise(origin, written.unwrap_or(0));
    Ok(vector)
}

/// Up to which version tombstones may have been dropped.
pub(super) fn horizon(connection: &Connection) -> Result<Option<Version>, StoreError> {
    version_mark(connection, "horizon")
}

/// The horizon that the feed tells of: the tombstones that a backup withholds are not in it either.
fn told_horizon(connection: &Connection) -> Result<Option<Version>, StoreError> {
    Ok(horizon(connection)?.max(version_mark(connection, "withheld_horizon")?))
}

fn version_mark(connection: &Connection, name: &str) -> Result<Option<Version>, StoreError> {
    let sql = "SELECT value FROM marks WHERE name = ?1";
    Ok(connection.prepare_cached(sql)?.query_row([name], |row| rows::parsed(row, 0)).optional()?)
}

/// Up to `limit` entries of a backup below `prefix`, after the key `after`.
pub(super) fn withheld(
    connection: &Connection,
    prefix: &str,
    after: Option<&EntryKey>,
    limit: usize,
) -> Result<Vec<Entry>, StoreError> {
    let sql = format!(
        "SELECT {} FROM withheld WHERE key > ?1 AND key >= ?2 AND (?3 IS NULL OR key < ?3) ORDER BY key LIMIT ?4",
        rows::COLUMNS
    );
    let mut statement = connection.prepare_cached(&sql)?;
    let values = params![after.map_or("", EntryKey::as_str), prefix, successor(prefix), limit as i64];
    let found = statement.query_map(values, rows::read)?;
    Ok(found.collect::<Result<_, _>>()?)
}

/// The sum of one bucket.
pub(super) fn digest(connection: &Connection, bucket: i64) -> Result<u64, StoreError> {
    let sql = "SELECT sum FROM digests WHERE bucket = ?1";
    Ok(connection.prepare_cached(sql)?.query_row([bucket], |row| rows::unsigned(row, 0)).optional()?.unwrap_or(0))
}

/// The sums of all buckets.
pub(super) fn digests(connection: &Connection) -> Result<Vec<u64>, StoreError> {
    let mut sums = vec![0; BUCKETS];
    let mut statement = connection.prepare_cached("SELECT bucket, sum FROM digests")?;
    let mut found = statement.query([])?;
    while let Some(row) = found.next()? {
        if let Some(sum) = usize::try_from(row.get::<_, i64>(0)?).ok().and_then(|bucket| sums.get_mut(bucket)) {
            *sum = rows::unsigned(row, 1)?;
        }
    }
    Ok(sums)
}

/// The entries of one bucket.
pub(super) fn of_bucket(connection: &Connection, bucket: usize) -> Result<Vec<Entry>, StoreError> {
    let sql = format!("SELECT {} FROM entries WHERE bucket = ?1", rows::COLUMNS);
    let mut statement = connection.prepare_cached(&sql)?;
    let found = statement.query_map([bucket as i64], rows::read)?;
    Ok(found.collect::<Result<_, _>>()?)
}

/// The condition that a row is one version of an entry, and the values of its places.
pub(super) const THIS_VERSION: &str = "key = ?1 AND time = ?2 AND origin = ?3 AND epoch = ?4 AND origin_sequence = ?5";

pub(super) fn this_version(entry: &Entry) -> (&str, i64, &str, String, i64) {
    let Version { time, origin, sequence } = &entry.version;
    let (node, epoch) = (origin.node.as_str(), origin.epoch.to_string());
    (entry.key.as_str(), time.bits().cast_signed(), node, epoch, sequence.cast_signed())
}

/// How far the feed of `peer` was read.
pub(super) fn cursor(connection: &Connection, peer: &NodeId) -> Result<Option<Cursor>, StoreError> {
    let sql = "SELECT epoch, since FROM cursors WHERE peer = ?1";
    let mut statement = connection.prepare_cached(sql)?;
    let cursor = statement
        .query_row([peer.as_str()], |row| Ok(Cursor { epoch: rows::parsed(row, 0)?, since: rows::unsigned(row, 1)? }));
    Ok(cursor.optional()?)
}

/// How many bytes the entries after `since` point at, at least: no more than [`COUNTED_MAX`] of them are looked at.
pub(super) fn bytes_since(connection: &Connection, since: u64) -> Result<u64, StoreError> {
    let sql = "SELECT CAST(total(size) AS INTEGER) FROM (SELECT size FROM entries WHERE sequence > ?1 LIMIT ?2)";
    let values = params![since.cast_signed(), COUNTED_MAX];
    Ok(connection.prepare_cached(sql)?.query_row(values, |row| rows::unsigned(row, 0))?)
}

/// Counts what is held; reads the whole table.
pub(super) fn summary(connection: &Connection) -> Result<Summary, StoreError> {
    let sql = "SELECT coalesce(sum(kind = 1), 0), CAST(total(size) AS INTEGER),
        coalesce(sum(kind = 0 AND NOT (key >= '.metacdn/' AND key < '.metacdn0')), 0), (SELECT count(*) FROM strays),
        (SELECT count(*) FROM withheld)
        FROM entries";
    Ok(connection.query_row(sql, [], |row| {
        Ok(Summary {
            objects: rows::unsigned(row, 0)?,
            bytes: rows::unsigned(row, 1)?,
            tombstones: rows::unsigned(row, 2)?,
            strays: rows::unsigned(row, 3)?,
            withheld: rows::unsigned(row, 4)?,
        })
    })?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_successor_is_above_all_that_start_alike() {
        assert_eq!(successor("a/").as_deref(), Some("a0"));
        assert_eq!(successor("\u{d7ff}").as_deref(), Some("\u{e000}"));
        assert_eq!(successor("a\u{10ffff}").as_deref(), Some("b"));
        assert_eq!(successor(""), None);
    }
}
