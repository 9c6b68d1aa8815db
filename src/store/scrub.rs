//! What a scrub needs of the catalogue: which blobs should be there, which small ones are, and which were found damaged or
//! missing and wait to be mended.

use rusqlite::{OptionalExtension as _, params};

use super::sweep::NAMING;
use super::{Catalog, FreshBlob, StoreError, Transaction, rows};
use crate::model::ContentHash;

/// Blobs that are named here and whose bytes are not, and since when that is known.
pub(super) const TABLES: &str = "
    CREATE TABLE damaged_blobs (
        hash BLOB PRIMARY KEY, size INTEGER NOT NULL, found_ms INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
";

/// The mark under which the state of the scrub is kept.
const MARK: &str = "scrub";

/// A blob that should be there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NamedBlob {
    /// Its hash.
    pub hash: ContentHash,
    /// How many bytes it has.
    pub size: u64,
}

impl Catalog {
    /// The blobs that something names and whose hash begins with the byte `first`, each once, in the order of the hashes.
    ///
    /// # Errors
    /// When the catalogue cannot be read. Blocks on the disk, like all that follow.
    pub fn named_blobs(&self, first: u8) -> Result<Vec<NamedBlob>, StoreError> {
        let selects = NAMING.map(|table| format!("SELECT hash, size FROM {table} WHERE hash >= ?1 AND hash < ?2"));
        let sql = format!("{} ORDER BY 1", selects.join(" UNION "));
        let (start, end) = bounds(first);
        self.read(|connection| {
            let mut statement = connection.prepare_cached(&sql)?;
            let found = statement.query_map(params![start, end], named)?;
            Ok(found.collect::<Result<_, _>>()?)
        })
    }

    /// Up to `limit` small blobs that are held, whose hash begins with `first` and is above `after`.
    ///
    /// # Errors
    /// When the catalogue cannot be read.
    pub fn small_blobs(
        &self,
        first: u8,
        after: Option<ContentHash>,
        limit: usize,
    ) -> Result<Vec<(ContentHash, Vec<u8>)>, StoreError> {
        let sql =
            "SELECT hash, bytes FROM small_blobs WHERE hash >= ?1 AND hash < ?2 AND hash > ?3 ORDER BY hash LIMIT ?4";
        let (start, end) = bounds(first);
        let after = after.map_or_else(Vec::new, |hash| hash.as_bytes().to_vec());
        self.read(|connection| {
            let mut statement = connection.prepare_cached(sql)?;
            let found = statement.query_map(params![start, end, after, limit as i64], |row| {
                Ok((ContentHash::new(row.get(0)?), row.get(1)?))
            })?;
            Ok(found.collect::<Result<_, _>>()?)
        })
    }

    /// The size that the blob `hash` should have; `None` if nothing names it.
    ///
    /// # Errors
    /// When the catalogue cannot be read.
    pub fn named_size(&self, hash: &ContentHash) -> Result<Option<u64>, StoreError> {
        self.read(|connection| {
            for table in NAMING {
                let sql = format!("SELECT size FROM {table} WHERE hash = ?1 LIMIT 1");
                let mut statement = connection.prepare_cached(&sql)?;
                let found = statement.query_row([hash.as_bytes()], |row| rows::unsigned(row, 0)).optional()?;
                if found.is_some() {
                    return Ok(found);
                }
            }
            Ok(None)
        })
    }

    /// Up to `limit` blobs that wait to be mended, after the one `after` in the order of their hashes.
    ///
    /// # Errors
    /// When the catalogue cannot be read.
    pub fn damaged_blobs(&self, after: Option<ContentHash>, limit: usize) -> Result<Vec<NamedBlob>, StoreError> {
        let sql = "SELECT hash, size FROM damaged_blobs WHERE hash > ?1 ORDER BY hash LIMIT ?2";
        let after = after.map_or_else(Vec::new, |hash| hash.as_bytes().to_vec());
        self.read(|connection| {
            let mut statement = connection.prepare_cached(sql)?;
            let found = statement.query_map(params![after, limit as i64], named)?;
            Ok(found.collect::<Result<_, _>>()?)
        })
    }

    /// How many blobs wait to be mended.
    ///
    /// # Errors
    /// When the catalogue cannot be read.
    pub fn damaged_count(&self) -> Result<u64, StoreError> {
        let sql = "SELECT count(*) FROM damaged_blobs";
        self.read(|connection| Ok(connection.query_row(sql, [], |row| rows::unsigned(row, 0))?))
    }

    /// The state of the scrub, as it was kept.
    ///
    /// # Errors
    /// When the catalogue cannot be read.
    pub fn scrub_state(&self) -> Result<Option<String>, StoreError> {
        let sql = "SELECT value FROM marks WHERE name = ?1";
        self.read(|connection| Ok(connection.query_row(sql, [MARK], |row| row.get(0)).optional()?))
    }
}

impl Transaction<'_> {
    /// Keeps the state of the scrub.
    ///
    /// # Errors
    /// When the catalogue cannot be written.
    pub fn keep_scrub_state(&mut self, state: &str) -> Result<(), StoreError> {
        self.set_mark(MARK, state)
    }

    /// Notes that the bytes of a blob are damaged or missing; a row that still has the bytes `row` goes, so that nobody is
    /// served by it. Answers whether that is news.
    ///
    /// # Errors
    /// When the catalogue cannot be written.
    pub fn note_damaged(&mut self, blob: NamedBlob, row: Option<&[u8]>, now_unix_ms: u64) -> Result<bool, StoreError> {
        let hash = blob.hash.as_bytes();
        if let Some(bytes) = row {
            let sql = "DELETE FROM small_blobs WHERE hash = ?1 AND bytes = ?2";
            self.connection.prepare_cached(sql)?.execute(params![hash, bytes])?;
        }
        let sql = "INSERT OR IGNORE INTO damaged_blobs (hash, size, found_ms) VALUES (?1, ?2, ?3)";
        let values = params![hash, blob.size.cast_signed(), now_unix_ms.cast_signed()];
        Ok(self.connection.prepare_cached(sql)?.execute(values)? > 0)
    }

    /// Takes a blob that was mended. What named it may have gone meanwhile, and a sweep have looked at it: another one will.
    ///
    /// # Errors
    /// When the catalogue cannot be written.
    pub fn keep_mended(&mut self, blob: &FreshBlob) -> Result<(), StoreError> {
        self.keep_blob(blob)?;
        self.note_loose(&blob.hash())
    }

    /// Notes that a blob is whole again, or that nothing names it any more.
    ///
    /// # Errors
    /// When the catalogue cannot be written.
    pub fn forget_damaged(&mut self, hash: &ContentHash) -> Result<(), StoreError> {
        self.connection.prepare_cached("DELETE FROM damaged_blobs WHERE hash = ?1")?.execute([hash.as_bytes()])?;
        Ok(())
    }

    /// Forgets the variants that are the blob `hash`: they can be made again. Answers whether something else names it.
    ///
    /// # Errors
    /// When the catalogue cannot be written.
    pub fn forget_variant_blob(&mut self, hash: &ContentHash) -> Result<bool, StoreError> {
        self.connection.prepare_cached("DELETE FROM variants WHERE hash = ?1")?.execute([hash.as_bytes()])?;
        super::sweep::is_named(self.connection, hash)
    }
}

/// From which hash on, and up to which, hashes begin with `first`.
fn bounds(first: u8) -> (Vec<u8>, Vec<u8>) {
    // Above all hashes that begin with 255 is what is longer than a hash.
    (vec![first], first.checked_add(1).map_or_else(|| vec![u8::MAX; 33], |next| vec![next]))
}

fn named(row: &rusqlite::Row<'_>) -> rusqlite::Result<NamedBlob> {
    Ok(NamedBlob { hash: ContentHash::new(row.get(0)?), size: rows::unsigned(row, 1)? })
}

#[cfg(test)]
mod tests {
    use rusqlite::Connection;

    use super::*;
    use crate::model::{Content, EntryState, Epoch};
    use crate::replicate::write;
    use crate::store::{Blobs, FileSystem};

    #[tokio::test]
    async fn what_should_be_there_is_found_by_the_first_byte_of_its_hash() {
        let folder = tempfile::tempdir().expect("a folder");
        let name = "A".parse().expect("a name");
        let catalog = Catalog::open(folder.path(), &name, Epoch::from_bits(1)).expect("a catalogue");
        let blobs = Blobs::open(FileSystem, &folder.path().join("blobs"), 7, |_| false).expect("blobs");
        let mut all = Vec::new();
        for number in 0..1500_u32 {
            let mut writer = blobs.create();
            writer.write(&number.to_le_bytes()).expect("space");
            all.push(writer.finish(None).expect("a blob"));
        }
        let hashes: Vec<_> = all.iter().map(crate::store::FreshBlob::hash).collect();
        let list = move |t: &mut Transaction<'_>| {
            for (number, blob) in all.iter().enumerate() {
                let content = Content {
                    hash: blob.hash(),
                    size: blob.size(),
                    media_type: "a/b".parse().expect("a value"),
                    cache_control: "no-store".parse().expect("a value"),
                };
                t.keep_blob(blob)?;
                // Two keys for each: it is named once all the same.
                for key in [format!("{number}"), format!("again/{number}")] {
                    write(t, key.parse().expect("a key"), EntryState::Live(content.clone()), 1)?;
                }
            }
            Ok(())
        };
        catalog.transact(list).await.expect("a commit");
        let (mut named, mut held) = (0, 0);
        for first in 0..=u8::MAX {
            let of_first = catalog.named_blobs(first).expect("readable");
            assert!(of_first.iter().all(|blob| blob.hash.as_bytes()[0] == first && blob.size == 4));
            named += of_first.len();
            let mut after = None;
            loop {
                let page = catalog.small_blobs(first, after, 3).expect("readable");
                let Some((last, _)) = page.last() else { break };
                after = Some(*last);
                held += page.len();
            }
        }
        assert_eq!((named, held), (1500, 1500));
        let blob = NamedBlob { hash: hashes[0], size: 4 };
        assert!(catalog.transact(move |t| t.note_damaged(blob, Some(b"else"), 5)).await.expect("a commit"));
        assert!(catalog.small_blob(&hashes[0]).expect("readable").is_some(), "it was written anew");
        let bytes = 0_u32.to_le_bytes();
        assert!(!catalog.transact(move |t| t.note_damaged(blob, Some(&bytes), 6)).await.expect("a commit"));
        assert_eq!(catalog.small_blob(&hashes[0]).expect("readable"), None);
        assert_eq!(catalog.damaged_blobs(None, 9).expect("readable"), [blob]);
        catalog.transact(move |t| t.forget_damaged(&blob.hash)).await.expect("a commit");
        assert_eq!(catalog.damaged_count().expect("readable"), 0);
        assert_eq!(catalog.named_size(&hashes[0]).expect("readable"), Some(4));
    }

    #[test]
    fn the_names_are_read_by_their_indexes() {
        let folder = tempfile::tempdir().expect("a folder");
        let name = "A".parse().expect("a name");
        let catalog = Catalog::open(folder.path(), &name, Epoch::from_bits(1)).expect("a catalogue");
        let plans = catalog.read(|connection: &mut Connection| {
            let plan = |table: &str| -> Result<String, StoreError> {
                let sql = format!("EXPLAIN QUERY PLAN SELECT hash, size FROM {table} WHERE hash >= ?1 AND hash < ?2");
                Ok(connection.query_row(&sql, params![vec![1_u8], vec![2_u8]], |row| row.get(3))?)
            };
            NAMING.iter().map(|table| plan(table)).collect::<Result<Vec<_>, _>>()
        });
        for plan in plans.expect("readable") {
            assert!(plan.contains("_by_hash"), "{plan}");
        }
    }
}
