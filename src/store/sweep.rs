//! Freeing the bytes that nothing names any more.
//!
//! Whatever stops naming a blob leaves a note in the same commit. A sweep looks at notes that are old enough, within the
//! writer's transactions: what it finds unnamed nobody can name until it is gone, for a new entry comes with its bytes
//! and an entry that reuses them needs another one that names them.

use rusqlite::{Connection, OptionalExtension as _, params};

use super::blobs::Removal;
use super::{Blobs, Catalog, Leftover, StoreError, Transaction, rows};
use crate::model::ContentHash;

/// The tables that name blobs that are held, by a column `hash` with an index.
pub(super) const NAMING: [&str; 4] = ["entries", "strays", "withheld", "variants"];

/// Blobs that may be unnamed, and since when; the time is that of the first sweep that saw the note.
pub(super) const TABLES: &str = "
    CREATE TABLE loose_blobs (hash BLOB PRIMARY KEY, since_ms INTEGER) STRICT, WITHOUT ROWID;
    CREATE INDEX loose_blobs_by_time ON loose_blobs (since_ms);
";

/// How many blobs one commit frees at most: uploads wait for it.
const SWEPT_MAX: usize = 64;

/// What a sweep has freed.
#[derive(Debug, Default)]
pub struct Swept {
    /// How many blobs.
    pub blobs: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Whether there may be more that is old enough.
    pub more: bool,
    /// The files, which go when this is dropped: that may take long, so not on the catalogue's thread.
    pub files: Vec<Leftover>,
    /// Why files could not be moved: they wait for another time of grace.
    pub failed: Vec<StoreError>,
}

/// What waits to be swept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Loose {
    /// Whether there are notes without a time yet.
    pub undated: bool,
    /// The time of the oldest note that has one.
    pub oldest_ms: Option<u64>,
}

/// Lets each table that names blobs leave a note when a row goes or names another; a row that another one replaces goes,
/// too.
pub(super) fn watch(connection: &Connection) -> Result<(), StoreError> {
    connection.execute_batch("PRAGMA recursive_triggers = ON")?;
    for table in NAMING {
        let note = "INSERT OR REPLACE INTO loose_blobs (hash, since_ms) VALUES (old.hash, NULL)";
        connection.execute_batch(&format!(
            "CREATE TEMP TRIGGER {table}_row_gone AFTER DELETE ON main.{table}
                WHEN old.hash IS NOT NULL BEGIN {note}; END;
             CREATE TEMP TRIGGER {table}_hash_gone AFTER UPDATE OF hash ON main.{table}
                WHEN old.hash IS NOT NULL AND old.hash IS NOT new.hash BEGIN {note}; END;"
        ))?;
    }
    Ok(())
}

impl Catalog {
    /// Whether anything names the blob `hash`.
    ///
    /// # Errors
    /// When the catalogue cannot be read. Blocks on the disk.
    pub fn names(&self, hash: &ContentHash) -> Result<bool, StoreError> {
        self.read(|connection| is_named(connection, hash))
    }

    /// What waits to be swept.
    ///
    /// # Errors
    /// When the catalogue cannot be read. Blocks on the disk.
    pub fn loose(&self) -> Result<Loose, StoreError> {
        self.read(|connection| {
            let undated = "SELECT EXISTS (SELECT 1 FROM loose_blobs WHERE since_ms IS NULL)";
            let oldest = "SELECT since_ms FROM loose_blobs WHERE since_ms IS NOT NULL ORDER BY since_ms LIMIT 1";
            Ok(Loose {
                undated: connection.query_row(undated, [], |row| row.get(0))?,
                oldest_ms: connection.query_row(oldest, [], |row| rows::unsigned(row, 0)).optional()?,
            })
        })
    }
}

impl Transaction<'_> {
    /// Notes that the blob `hash` may be unnamed.
    ///
    /// # Errors
    /// When the catalogue cannot be written.
    pub fn note_loose(&mut self, hash: &ContentHash) -> Result<(), StoreError> {
        let sql = "INSERT OR IGNORE INTO loose_blobs (hash, since_ms) VALUES (?1, NULL)";
        self.connection.prepare_cached(sql)?.execute([hash.as_bytes()])?;
        Ok(())
    }

    /// Gives the notes that have none the time `now_unix_ms`.
    ///
    /// # Errors
    /// When the catalogue cannot be written.
    pub fn date_loose(&mut self, now_unix_ms: u64) -> Result<(), StoreError> {
        let sql = "UPDATE loose_blobs SET since_ms = ?1 WHERE since_ms IS NULL";
        self.connection.prepare_cached(sql)?.execute([now_unix_ms.cast_signed()])?;
        Ok(())
    }

    /// Frees blobs that were noted up to `until_unix_ms` and that nothing names, with the variants that were made of
    /// them; those that somebody is about to name, or that cannot be moved, stay, as noted at `now_unix_ms`.
    ///
    /// # Errors
    /// When the catalogue cannot be written.
    pub fn sweep(&mut self, blobs: &Blobs, until_unix_ms: u64, now_unix_ms: u64) -> Result<Swept, StoreError> {
        let sql = "SELECT hash FROM loose_blobs WHERE since_ms <= ?1 ORDER BY since_ms LIMIT ?2";
        let due = params![until_unix_ms.cast_signed(), SWEPT_MAX as i64];
        let mut statement = self.connection.prepare_cached(sql)?;
        let due: Vec<ContentHash> =
            statement.query_map(due, |row| Ok(ContentHash::new(row.get(0)?)))?.collect::<Result<_, _>>()?;
        let mut swept = Swept { more: due.len() == SWEPT_MAX, ..Swept::default() };
        for hash in due {
            if is_named(self.connection, &hash)? || self.free(blobs, &hash, &mut swept)? {
                let sql = "DELETE FROM loose_blobs WHERE hash = ?1";
                self.connection.prepare_cached(sql)?.execute([hash.as_bytes()])?;
            } else {
                let sql = "UPDATE loose_blobs SET since_ms = ?2 WHERE hash = ?1";
                self.connection.prepare_cached(sql)?.execute(params![hash.as_bytes(), now_unix_ms.cast_signed()])?;
            }
        }
        Ok(swept)
    }

    /// Frees an unnamed blob; answers whether it is gone.
    fn free(&mut self, blobs: &Blobs, hash: &ContentHash, swept: &mut Swept) -> Result<bool, StoreError> {
        let file = match blobs.take_away(hash) {
            Ok(Removal::Pinned) => return Ok(false),
            Ok(Removal::Absent) => None,
            Ok(Removal::Moved(file)) => Some(file),
            Err(error) => {
                swept.failed.push(error);
                return Ok(false);
            }
        };
        self.connection.prepare_cached("DELETE FROM variants WHERE original = ?1")?.execute([hash.as_bytes()])?;
        let sql = "DELETE FROM small_blobs WHERE hash = ?1 RETURNING length(bytes)";
        let mut statement = self.connection.prepare_cached(sql)?;
        let row = statement.query_row([hash.as_bytes()], |row| rows::unsigned(row, 0)).optional()?;
        let bytes = row.unwrap_or(0) + file.as_ref().map_or(0, Leftover::size);
        swept.blobs += u64::from(row.is_some() || file.is_some());
        swept.bytes += bytes;
        swept.files.extend(file);
        Ok(true)
    }
}

pub(super) fn is_named(connection: &Connection, hash: &ContentHash) -> Result<bool, StoreError> {
    for table in NAMING {
        let sql = format!("SELECT 1 FROM {table} WHERE hash = ?1 LIMIT 1");
        if connection.prepare_cached(&sql)?.exists([hash.as_bytes()])? {
            return Ok(true);
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::model::{Content, EntryKey, EntryState, Epoch, FieldValue, Variant};
    use crate::replicate::write;
    use crate::store::{FileSystem, FreshBlob, VariantBlob, VariantState};

    const LARGE: usize = 20_000;

    fn open(folder: &Path) -> (Catalog, Blobs) {
        let catalog = Catalog::open(folder, &"A".parse().expect("a name"), Epoch::from_bits(1)).expect("a catalogue");
        (catalog, Blobs::open(FileSystem, &folder.join("blobs"), 7, |_| false).expect("blobs"))
    }

    fn take_in(blobs: &Blobs, bytes: &[u8]) -> FreshBlob {
        let mut writer = blobs.create();
        writer.write(bytes).expect("space");
        writer.finish(None).expect("a blob")
    }

    fn value(text: &str) -> FieldValue {
        text.parse().expect("a value")
    }

    async fn put(catalog: &Catalog, name: &str, blob: FreshBlob) {
        let key: EntryKey = name.parse().expect("a key");
        let (hash, size) = (blob.hash(), blob.size());
        let content = Content { hash, size, media_type: value("a/b"), cache_control: value("no-store") };
        let change = move |t: &mut Transaction<'_>| {
            t.keep_blob(&blob)?;
            write(t, key, EntryState::Live(content), 1000)
        };
        catalog.transact(change).await.expect("a commit");
    }

    async fn delete(catalog: &Catalog, name: &str) {
        let key: EntryKey = name.parse().expect("a key");
        catalog.transact(move |t| write(t, key, EntryState::Deleted, 1000)).await.expect("a commit");
    }

    async fn sweep(catalog: &Catalog, blobs: &Blobs, until: u64, now: u64) -> Swept {
        let blobs = blobs.clone();
        let sweep = move |t: &mut Transaction<'_>| {
            t.date_loose(now)?;
            t.sweep(&blobs, until, now)
        };
        catalog.transact(sweep).await.expect("a commit")
    }

    fn is_held(catalog: &Catalog, blobs: &Blobs, bytes: &[u8]) -> bool {
        let hash = ContentHash::of(bytes);
        catalog.small_blob(&hash).expect("readable").is_some() || blobs.read(&hash).expect("readable").is_some()
    }

    #[tokio::test]
    async fn bytes_go_when_nothing_has_named_them_for_the_time_of_grace() {
        let folder = tempfile::tempdir().expect("a folder");
        let (catalog, blobs) = open(folder.path());
        let (small, large, kept) = (vec![1; 100], vec![2; LARGE], vec![3; LARGE]);
        for (name, bytes) in [("a", &small), ("b", &large), ("c", &kept), ("d", &kept)] {
            put(&catalog, name, take_in(&blobs, bytes)).await;
        }
        assert_eq!(catalog.loose().expect("readable"), Loose { undated: false, oldest_ms: None });
        for name in ["a", "b", "c"] {
            delete(&catalog, name).await;
        }
        // What replaces an entry lets go of its bytes, too; the same bytes stay.
        put(&catalog, "d", take_in(&blobs, &kept)).await;
        assert!(catalog.loose().expect("readable").undated);
        assert_eq!(sweep(&catalog, &blobs, 999, 1000).await.blobs, 0);
        assert_eq!(catalog.loose().expect("readable"), Loose { undated: false, oldest_ms: Some(1000) });
        assert!(is_held(&catalog, &blobs, &small) && is_held(&catalog, &blobs, &large));
        let swept = sweep(&catalog, &blobs, 1000, 2000).await;
        assert_eq!((swept.blobs, swept.bytes, swept.more), (2, 100 + LARGE as u64, false));
        assert!(!is_held(&catalog, &blobs, &small) && !is_held(&catalog, &blobs, &large));
        assert!(is_held(&catalog, &blobs, &kept));
        assert_eq!(catalog.loose().expect("readable"), Loose { undated: false, oldest_ms: None });
        drop(swept);
        let unfinished = std::fs::read_dir(folder.path().join("blobs/unfinished")).expect("a folder");
        assert_eq!(unfinished.count(), 0);
    }

    #[tokio::test]
    async fn a_blob_that_is_about_to_be_named_stays_and_one_that_never_was_is_known() {
        let folder = tempfile::tempdir().expect("a folder");
        let (catalog, blobs) = open(folder.path());
        let bytes = vec![1; LARGE];
        put(&catalog, "a", take_in(&blobs, &bytes)).await;
        let again = take_in(&blobs, &bytes);
        delete(&catalog, "a").await;
        assert_eq!(sweep(&catalog, &blobs, 1000, 1000).await.blobs, 0);
        assert!(is_held(&catalog, &blobs, &bytes));
        blobs.take_released();
        drop(again);
        assert_eq!(blobs.take_released(), [ContentHash::of(&bytes)]);
        assert!(!catalog.names(&ContentHash::of(&bytes)).expect("readable"));
        assert_eq!(sweep(&catalog, &blobs, 2000, 2000).await.blobs, 1);
        assert!(!is_held(&catalog, &blobs, &bytes));
    }

    #[tokio::test]
    async fn what_was_mended_and_lost_its_name_meanwhile_goes_too() {
        let folder = tempfile::tempdir().expect("a folder");
        let (catalog, blobs) = open(folder.path());
        let mended = take_in(&blobs, b"small");
        catalog.transact(move |t| t.keep_mended(&mended)).await.expect("a commit");
        assert!(is_held(&catalog, &blobs, b"small"));
        assert_eq!(sweep(&catalog, &blobs, 1000, 1000).await.blobs, 1);
        assert!(!is_held(&catalog, &blobs, b"small"));
    }

    #[tokio::test]
    async fn a_file_that_cannot_be_moved_holds_up_no_other() {
        let folder = tempfile::tempdir().expect("a folder");
        let (catalog, blobs) = open(folder.path());
        let (first, second) = (vec![1; LARGE], vec![2; LARGE]);
        for (name, bytes) in [("a", &first), ("b", &second)] {
            put(&catalog, name, take_in(&blobs, bytes)).await;
            delete(&catalog, name).await;
        }
        // Where the third file of this life that is not finished, or was taken away, would be.
        let in_its_way = folder.path().join("blobs/unfinished/0000000000000007-2");
        std::fs::create_dir(&in_its_way).expect("a folder");
        let swept = sweep(&catalog, &blobs, 1000, 1000).await;
        assert_eq!((swept.blobs, swept.bytes, swept.failed.len()), (1, LARGE as u64, 1));
        let held = [&first, &second].map(|bytes| is_held(&catalog, &blobs, bytes));
        assert_eq!(held.iter().filter(|held| **held).count(), 1);
        assert_eq!(sweep(&catalog, &blobs, 1999, 2000).await.blobs, 1);
        assert_eq!(catalog.loose().expect("readable"), Loose { undated: false, oldest_ms: None });
    }

    #[tokio::test]
    async fn variants_go_with_their_original_and_their_bytes_after_another_grace() {
        let folder = tempfile::tempdir().expect("a folder");
        let (catalog, blobs) = open(folder.path());
        let (original, low) = (vec![1; LARGE], vec![2; 100]);
        put(&catalog, "a.png", take_in(&blobs, &original)).await;
        let (hash, blob) = (ContentHash::of(&original), take_in(&blobs, &low));
        let state = VariantState::Made(VariantBlob { hash: blob.hash(), size: 100, media_type: value("image/png") });
        let keep = move |t: &mut Transaction<'_>| {
            t.keep_blob(&blob)?;
            t.keep_variant(&hash, Variant::Low, &state)
        };
        catalog.transact(keep).await.expect("a commit");
        delete(&catalog, "a.png").await;
        assert_eq!(sweep(&catalog, &blobs, 1000, 1000).await.blobs, 1);
        assert!(catalog.variants().expect("readable").is_empty());
        assert!(is_held(&catalog, &blobs, &low));
        assert_eq!(sweep(&catalog, &blobs, 2000, 2000).await.blobs, 1);
        assert!(!is_held(&catalog, &blobs, &low));
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn what_is_put_while_the_sweep_runs_is_held() {
        let folder = tempfile::tempdir().expect("a folder");
        let (catalog, blobs) = open(folder.path());
        let bytes = vec![9; LARGE];
        let (stop, swept) = (std::sync::atomic::AtomicBool::new(false), std::sync::atomic::AtomicU64::new(0));
        let (stop, swept) = (std::sync::Arc::new(stop), std::sync::Arc::new(swept));
        let sweeper = tokio::spawn({
            let (catalog, blobs, stop, swept) = (catalog.clone(), blobs.clone(), stop.clone(), swept.clone());
            async move {
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    let freed = sweep(&catalog, &blobs, u64::MAX >> 1, 1).await.blobs;
                    swept.fetch_add(freed, std::sync::atomic::Ordering::Relaxed);
                }
            }
        });
        let writer = |name: &'static str| {
            let (catalog, blobs, bytes) = (catalog.clone(), blobs.clone(), bytes.clone());
            tokio::spawn(async move {
                for _ in 0..100 {
                    let (blobs_too, bytes_too) = (blobs.clone(), bytes.clone());
                    let blob = tokio::task::spawn_blocking(move || take_in(&blobs_too, &bytes_too)).await;
                    put(&catalog, name, blob.expect("no panic")).await;
                    assert!(is_held(&catalog, &blobs, &bytes), "an entry without its bytes");
                    delete(&catalog, name).await;
                }
            })
        };
        for writer in [writer("a"), writer("b")] {
            writer.await.expect("no panic");
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        sweeper.await.expect("no panic");
        assert!(swept.load(std::sync::atomic::Ordering::Relaxed) > 0, "the sweep had nothing to do");
    }
}
