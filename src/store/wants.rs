//! What is to be fetched next: those that never failed before the others, and the newest of equals, because what was just
//! written is asked for most.

use rusqlite::{Connection, Params};

use super::query::Want;
use super::{Catalog, SMALL_BLOB_BYTES_MAX, StoreError, rows};
use crate::model::{ContentHash, EntryKey};

const _: () = assert!(SMALL_BLOB_BYTES_MAX == 16_384, "the statements below say so, too");

/// Wants of small blobs, which are fetched many at a time, and of others each have an index of their own: else a million of
/// the first would have to be looked through for one of the second.
pub(super) const TABLES: &str = "
    DROP INDEX wants_in_order;
    CREATE INDEX wants_of_small ON wants (failures, time DESC) WHERE size <= 16384;
    CREATE INDEX wants_of_large ON wants (failures, time DESC) WHERE size > 16384;
";

impl Catalog {
    /// Up to `limit` wants of small blobs, in the order in which they are to be fetched.
    ///
    /// # Errors
    /// When the catalogue cannot be read. Blocks on the disk, like all that follow.
    pub fn small_wants(&self, limit: usize) -> Result<Vec<Want>, StoreError> {
        let order = "WHERE size <= 16384 ORDER BY failures, time DESC LIMIT ?1";
        self.read(|connection| select(connection, order, [limit as i64]))
    }

    /// Up to `limit` wants of other blobs, of at most `size_max` bytes.
    ///
    /// # Errors
    /// When the catalogue cannot be read.
    pub fn large_wants(&self, size_max: u64, limit: usize) -> Result<Vec<Want>, StoreError> {
        let order = "WHERE size > 16384 AND size <= ?1 ORDER BY failures, time DESC LIMIT ?2";
        let size_max = i64::try_from(size_max).unwrap_or(i64::MAX);
        self.read(|connection| select(connection, order, [size_max, limit as i64]))
    }

    /// The wants of `key`, the newest first.
    ///
    /// # Errors
    /// When the catalogue cannot be read.
    pub fn wants_of(&self, key: &EntryKey) -> Result<Vec<Want>, StoreError> {
        self.read(|connection| select(connection, "WHERE key = ?1 ORDER BY time DESC", [key.as_str()]))
    }

    /// Whether the blob `hash` is to be fetched, because it is wanted or damaged; looks through all wants.
    ///
    /// # Errors
    /// When the catalogue cannot be read.
    pub fn awaits_blob(&self, hash: &ContentHash) -> Result<bool, StoreError> {
        let sql = "SELECT EXISTS (SELECT 1 FROM wants WHERE hash = ?1)
            OR EXISTS (SELECT 1 FROM damaged_blobs WHERE hash = ?1)";
        self.read(|connection| Ok(connection.query_row(sql, [hash.as_bytes()], |row| row.get(0))?))
    }
}

fn select(connection: &Connection, order: &str, values: impl Params) -> Result<Vec<Want>, StoreError> {
    let sql = format!("SELECT {}, peer, failures FROM wants {order}", rows::COLUMNS);
    let mut statement = connection.prepare_cached(&sql)?;
    let found = statement.query_map(values, |row| {
        Ok(Want { entry: rows::read(row)?, peer: rows::parsed(row, rows::AFTER)?, failures: row.get(rows::AFTER + 1)? })
    })?;
    Ok(found.collect::<Result<_, _>>()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Content, Entry, EntryState, Epoch, HybridTime, Origin, Version};
    use crate::replicate::Ledger as _;
    use crate::store::{NamedBlob, Transaction};

    fn entry(key: &str, time: u64, size: u64) -> Entry {
        let origin = Origin { node: "B".parse().expect("a name"), epoch: Epoch::from_bits(2) };
        let content = Content {
            hash: ContentHash::of(key.as_bytes()),
            size,
            media_type: "a/b".parse().expect("a value"),
            cache_control: "no-store".parse().expect("a value"),
        };
        Entry {
            key: key.parse().expect("a key"),
            version: Version { time: HybridTime::from_bits(time), origin, sequence: time },
            state: EntryState::Live(content),
        }
    }

    #[tokio::test]
    async fn what_never_failed_and_is_new_comes_first_of_each_size() {
        let folder = tempfile::tempdir().expect("a folder");
        let name = "A".parse().expect("a name");
        let catalog = Catalog::open(folder.path(), &name, Epoch::from_bits(1)).expect("a catalogue");
        let all = [("old", 1, 9), ("failed", 2, 9), ("new", 3, 16_384), ("large", 4, 16_385), ("larger", 5, 99_999)]
            .map(|(key, time, size)| entry(key, time, size));
        let wanted = all.clone();
        let want = move |t: &mut Transaction<'_>| {
            wanted.iter().try_for_each(|entry| t.want(entry, &name))?;
            t.postpone_want(&wanted[1])
        };
        catalog.transact(want).await.expect("a commit");
        let keys = |wants: Vec<Want>| wants.into_iter().map(|want| want.entry.key.to_string()).collect::<Vec<_>>();
        assert_eq!(keys(catalog.small_wants(9).expect("readable")), ["new", "old", "failed"]);
        assert_eq!(keys(catalog.small_wants(2).expect("readable")), ["new", "old"]);
        assert_eq!(keys(catalog.large_wants(u64::MAX, 9).expect("readable")), ["larger", "large"]);
        assert_eq!(keys(catalog.large_wants(99_998, 9).expect("readable")), ["large"]);
        assert_eq!(keys(catalog.wants_of(&all[0].key).expect("readable")), ["old"]);
        let other = NamedBlob { hash: ContentHash::of(b"other"), size: 9 };
        assert!(catalog.awaits_blob(&ContentHash::of(b"old")).expect("readable"));
        assert!(!catalog.awaits_blob(&other.hash).expect("readable"));
        catalog.transact(move |t| t.note_damaged(other, None, 1)).await.expect("a commit");
        assert!(catalog.awaits_blob(&other.hash).expect("readable"));
    }
}
