//! Small blobs: rows of the catalogue, durable in the commit that lists their entry, so that 256 uploads share one sync.

use rusqlite::{Connection, OptionalExtension as _, params};

use super::{Catalog, FreshBlob, StoreError, Transaction};
use crate::model::ContentHash;

/// Rows in the order of their arrival: a tree by hash would be written all over, at twice the work.
pub(super) const TABLES: &str = "CREATE TABLE small_blobs (hash BLOB NOT NULL UNIQUE, bytes BLOB NOT NULL) STRICT;";

impl Catalog {
    /// The bytes of the blob `hash`, if it is a small one that is held.
    ///
    /// # Errors
    /// When the catalogue cannot be read. Blocks on the disk.
    pub fn small_blob(&self, hash: &ContentHash) -> Result<Option<Vec<u8>>, StoreError> {
        self.read(|connection| find(connection, hash))
    }
}

impl Transaction<'_> {
    /// Takes `blob`, for an entry or variant that names it in this transaction.
    ///
    /// # Errors
    /// When the catalogue cannot be written.
    pub fn keep_blob(&mut self, blob: &FreshBlob) -> Result<(), StoreError> {
        if let Some(bytes) = blob.as_row() {
            // In the place of one that is there, for that may be damaged.
            let sql = "INSERT OR REPLACE INTO small_blobs (hash, bytes) VALUES (?1, ?2)";
            self.connection.prepare_cached(sql)?.execute(params![blob.hash().as_bytes(), bytes])?;
        }
        Ok(())
    }
}

fn find(connection: &Connection, hash: &ContentHash) -> Result<Option<Vec<u8>>, StoreError> {
    let mut statement = connection.prepare_cached("SELECT bytes FROM small_blobs WHERE hash = ?1")?;
    Ok(statement.query_row([hash.as_bytes()], |row| row.get(0)).optional()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Epoch;
    use crate::store::{Blobs, FileSystem};

    #[tokio::test]
    async fn a_small_blob_is_kept_once_and_over_restarts_and_goes_with_a_failed_change() {
        let folder = tempfile::tempdir().expect("a folder");
        let open = || Catalog::open(folder.path(), &"A".parse().expect("a name"), Epoch::from_bits(1)).expect("opens");
        let blobs = Blobs::open(FileSystem, &folder.path().join("blobs"), 7, |_| false).expect("blobs");
        let fresh = |text: &str| {
            let mut writer = blobs.create();
            writer.write(text.as_bytes()).expect("space");
            writer.finish(None).expect("a blob")
        };
        let catalog = open();
        let (kept, again, undone) = (fresh("kept"), fresh("kept"), fresh("undone"));
        catalog.transact(move |t| t.keep_blob(&kept).and_then(|()| t.keep_blob(&again))).await.expect("a commit");
        let failed = catalog.transact(move |t| t.keep_blob(&undone).and(Err::<(), _>(StoreError::Closed)));
        assert!(failed.await.is_err());
        drop(catalog);
        let catalog = open();
        let find = |text: &str| catalog.small_blob(&ContentHash::of(text.as_bytes())).expect("readable");
        assert_eq!(find("kept").as_deref(), Some(&b"kept"[..]));
        assert_eq!(find("undone"), None);
    }
}
