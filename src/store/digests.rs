//! The sums by which two nodes compare what they list: whether they are what they should be.
//!
//! Each listing changes one sum by the difference. A row that is lost or changed in another way leaves the sum as it was,
//! for ever, and who compares sums sees nothing of it.

use rusqlite::{Connection, params};

use super::{Catalog, StoreError, Transaction, query};
use crate::replicate::sum_of;

impl Catalog {
    /// Whether the sum of `bucket` is that of its entries.
    ///
    /// # Errors
    /// When the catalogue cannot be read. Blocks on the disk.
    pub fn is_digest_right(&self, bucket: usize) -> Result<bool, StoreError> {
        self.read(|connection| {
            // Both of one moment.
            let snapshot = connection.transaction()?;
            Ok(query::digest(&snapshot, bucket as i64)? == counted(&snapshot, bucket)?)
        })
    }
}

impl Transaction<'_> {
    /// Makes the sum of `bucket` anew from its entries; answers whether it was wrong.
    ///
    /// # Errors
    /// When the catalogue cannot be written.
    pub fn recount_digest(&mut self, bucket: usize) -> Result<bool, StoreError> {
        let sum = counted(self.connection, bucket)?;
        if query::digest(self.connection, bucket as i64)? == sum {
            return Ok(false);
        }
        let sql = "INSERT OR REPLACE INTO digests (bucket, sum) VALUES (?1, ?2)";
        self.connection.prepare_cached(sql)?.execute(params![bucket as i64, sum.cast_signed()])?;
        Ok(true)
    }
}

fn counted(connection: &Connection, bucket: usize) -> Result<u64, StoreError> {
    Ok(sum_of(&query::of_bucket(connection, bucket)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{EntryKey, EntryState, Epoch};
    use crate::replicate::{bucket_of, write};

    #[tokio::test]
    async fn a_row_that_vanished_is_seen_by_the_sum_once_it_is_made_anew() {
        let folder = tempfile::tempdir().expect("a folder");
        let name = "A".parse().expect("a name");
        let catalog = Catalog::open(folder.path(), &name, Epoch::from_bits(1)).expect("a catalogue");
        let key: EntryKey = "a".parse().expect("a key");
        let bucket = bucket_of(&key);
        let record = EntryState::Deleted;
        catalog.transact(move |t| write(t, key, record, 1).map(drop)).await.expect("a commit");
        assert!(catalog.is_digest_right(bucket).expect("readable"));
        let lose = |t: &mut Transaction<'_>| Ok(t.connection.execute("DELETE FROM entries", [])?);
        assert_eq!(catalog.transact(lose).await.expect("a commit"), 1);
        assert!(!catalog.is_digest_right(bucket).expect("readable"));
        assert_ne!(catalog.digests().expect("readable")[bucket], 0);
        assert!(catalog.transact(move |t| t.recount_digest(bucket)).await.expect("a commit"));
        assert_eq!(catalog.digests().expect("readable")[bucket], 0);
        assert!(!catalog.transact(move |t| t.recount_digest(bucket)).await.expect("a commit"));
        assert!(catalog.is_digest_right(bucket).expect("readable"));
    }
}
