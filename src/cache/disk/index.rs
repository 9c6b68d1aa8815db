//! The index: which representations there are, and which slices of them, in SQLite.
//!
//! Knows nothing of files. One connection writes, that of the tier's writer; [`Readers`] lend a few to those who read. A
//! commit is not synced, so the power may take the last ones; what is there is whole.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension as _, params};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

/// The format of the index and of the files. Whoever finds another one starts empty.
const FORMAT: u32 = 3;

/// What is needed of all at the start is in tables of its own, so that heads and bodies need not be read for it.
const TABLES: &str = "
    CREATE TABLE marks (name TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT, WITHOUT ROWID;
    CREATE TABLE representations (
        id INTEGER PRIMARY KEY, key_hash INTEGER NOT NULL, size INTEGER NOT NULL, cost REAL NOT NULL,
        row_bytes INTEGER NOT NULL, selector INTEGER NOT NULL, site INTEGER NOT NULL
    ) STRICT;
    CREATE TABLE heads (
        id INTEGER PRIMARY KEY, key BLOB NOT NULL, head BLOB NOT NULL, head_sum INTEGER NOT NULL,
        body_sum INTEGER, body BLOB
    ) STRICT;
    CREATE TABLE slices (
        id INTEGER NOT NULL, slice INTEGER NOT NULL, sum INTEGER NOT NULL, PRIMARY KEY (id, slice)
    ) STRICT, WITHOUT ROWID;
";

/// A body of the usual small size and all that belongs to it is one page: of pages of 4 KiB, SQLite's own size, it would take three or four,
/// each written twice.
const PAGE_BYTES: usize = 16 << 10;

const SETTINGS: &str = "
    PRAGMA wal_autocheckpoint = 256;
    PRAGMA journal_mode = WAL; PRAGMA busy_timeout = 10000; PRAGMA cache_size = -8000; PRAGMA temp_store = MEMORY;
    PRAGMA journal_size_limit = 4194304;
";

/// How many statements a connection keeps prepared: more than there are.
const STATEMENTS_MAX: usize = 32;

/// What a representation takes in the index besides its key, its head and its body.
const ROW_BYTES: usize = 128;

/// An id has 40 bits below those of the life: more than are given in one. The sign is left free, so that SQLite orders ids as
/// they were given.
const LIFE_SHIFT: u32 = 40;
const LIVES_MAX: u32 = 1 << (63 - LIFE_SHIFT);

/// How many may read at a time: the disk serves no more at once.
const READERS_MAX: usize = 4;

/// The index did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum IndexError {
    /// It is of another format, was made for slices of another size, or does not read.
    #[error("the index does not read")]
    Damaged(#[source] Option<rusqlite::Error>),
    /// No space is left.
    #[error("no space is left for the index")]
    Full,
    /// Anything else.
    #[error("the index failed")]
    Failed(#[source] rusqlite::Error),
}

impl From<rusqlite::Error> for IndexError {
    fn from(error: rusqlite::Error) -> Self {
        let Some(said) = error.sqlite_error() else { return Self::Damaged(Some(error)) };
        // The write-ahead log's index grows by its own call, which reports a full disk as an input/output error.
        if said.extended_code == rusqlite::ffi::SQLITE_IOERR_SHMSIZE {
            return Self::Full;
        }
        match said.code {
            ErrorCode::DiskFull => Self::Full,
            // A table is missing, or not what it was.
            ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase | ErrorCode::Unknown => Self::Damaged(Some(error)),
            _ => Self::Failed(error),
        }
    }
}

impl IndexError {
    /// Whether it is the file that does not read, not one row of it.
    pub(super) fn is_of_file(&self) -> bool {
        let Self::Damaged(Some(error)) = self else { return false };
        matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase))
    }
}

/// What counts for the whole index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Marks {
    /// How often it was opened: the upper bits of the ids that are given until it is opened again.
    pub(super) life: u32,
    /// By which keys are hashed, so that nobody can make keys whose hashes are the same.
    pub(super) seed: u64,
}

impl Marks {
    /// The first id of this life.
    pub(super) const fn first_id(self) -> u64 {
        (self.life as u64) << LIFE_SHIFT
    }

    /// Whether the id was given in this life.
    pub(super) const fn has_given(self, id: u64) -> bool {
        id >> LIFE_SHIFT == self.life as u64
    }
}

/// The index, to be written.
#[derive(Debug)]
pub(super) struct Index {
    connection: Connection,
}

/// A row of a representation, as the start reads it.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) id: u64,
    pub(super) key_hash: u64,
    pub(super) size: u64,
    pub(super) cost: f32,
    pub(super) row_bytes: u32,
    pub(super) selector: u64,
    pub(super) site: u64,
    pub(super) slices: Vec<u32>,
}

/// What the index says of a representation, checked.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) key: Vec<u8>,
    pub(super) head: Vec<u8>,
    pub(super) body: Option<Vec<u8>>,
}

/// What a new representation has in the index.
#[derive(Debug)]
pub(super) struct Listing<'a> {
    pub(super) id: u64,
    pub(super) key_hash: u64,
    pub(super) size: u64,
    pub(super) cost: f32,
    pub(super) selector: u64,
    pub(super) site: u64,
    pub(super) key: &'a [u8],
    pub(super) head: &'a [u8],
    pub(super) body: Option<&'a [u8]>,
}

impl Index {
    /// Opens the index at `path` for slices of `slice_bytes`, for a new life. `fresh` has what is left of an earlier one
    /// taken away before a new index is made, whose keys are hashed by `seed`.
    pub(super) fn open(
        path: &Path,
        slice_bytes: u64,
        seed: u64,
        fresh: impl FnOnce() -> std::io::Result<()>,
    ) -> Result<(Self, Marks), IndexError> {
        let was_there = path.exists();
        if !was_there {
            // It shows when the index is made, if it is more than a file that stays.
            let _ = fresh();
        }
        let connection = Connection::open(path)?;
        // Of an index that is made now.
        connection.pragma_update(None, "page_size", PAGE_BYTES as u32)?;
        connection.execute_batch(SETTINGS)?;
        // The number of this life must outlast the power: what bears it is told from what an earlier life has left.
        connection.execute_batch("PRAGMA synchronous = FULL")?;
        connection.set_prepared_statement_cache_capacity(STATEMENTS_MAX);
        let group = connection.unchecked_transaction()?;
        let format: u32 = group.pragma_query_value(None, "user_version", |row| row.get(0))?;
        let is_new = format == 0 && !group.prepare("SELECT 1 FROM sqlite_schema")?.exists([])?;
        if is_new && !was_there {
            group.execute_batch(TABLES)?;
            group.pragma_update(None, "user_version", FORMAT)?;
            let marks = [("life", 0), ("seed", seed.cast_signed()), ("slice_bytes", slice_bytes.cast_signed())];
            for mark in marks {
                group.execute("INSERT INTO marks VALUES (?1, ?2)", mark)?;
            }
        } else if format != FORMAT {
            return Err(IndexError::Damaged(None));
        }
        let mark = |name: &str| -> rusqlite::Result<i64> {
            group.query_row("SELECT value FROM marks WHERE name = ?1", [name], |row| row.get(0))
        };
        let life =
            mark("life")?.checked_add(1).and_then(|life| u32::try_from(life).ok()).filter(|&life| life < LIVES_MAX);
        let (Some(life), true) = (life, mark("slice_bytes")?.cast_unsigned() == slice_bytes) else {
            return Err(IndexError::Damaged(None));
        };
        let seed = mark("seed")?.cast_unsigned();
        group.execute("UPDATE marks SET value = ?1 WHERE name = 'life'", [life])?;
        group.commit()?;
        connection.execute_batch("PRAGMA synchronous = NORMAL")?;
        Ok((Self { connection }, Marks { life, seed }))
    }

    /// Makes an index in the place of one that was taken away, within the life of `marks`.
    pub(super) fn renew(path: &Path, slice_bytes: u64, marks: Marks) -> Result<Self, IndexError> {
        let (index, _) = Self::open(path, slice_bytes, marks.seed, || Ok(()))?;
        index.connection.execute("UPDATE marks SET value = ?1 WHERE name = 'life'", [marks.life])?;
        Ok(index)
    }

    /// Does `work` as one commit, or nothing of it.
    pub(super) fn commit(&self, work: impl FnOnce(&Self) -> Result<(), IndexError>) -> Result<(), IndexError> {
        // Dropped without a commit, it rolls back.
        let group = self.connection.unchecked_transaction()?;
        work(self)?;
        Ok(group.commit()?)
    }

    /// Adds a representation.
    pub(super) fn list(&self, listing: &Listing<'_>) -> Result<(), IndexError> {
        let Listing { id, key_hash, size, cost, selector, site, key, head, body } = *listing;
        let row_bytes = row_bytes(key.len(), head.len(), body.map_or(0, <[u8]>::len));
        let sql = "INSERT INTO representations (id, key_hash, size, cost, row_bytes, selector, site)
                   VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)";
        // No number would be null.
        let cost = if cost.is_nan() { 0.0 } else { f64::from(cost) };
        let (key_hash, selector, site) = (key_hash.cast_signed(), selector.cast_signed(), site.cast_signed());
        let row = params![id.cast_signed(), key_hash, size.cast_signed(), cost, row_bytes, selector, site];
        self.connection.prepare_cached(sql)?.execute(row)?;
        let sql = "INSERT INTO heads (id, key, head, head_sum, body_sum, body) VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
        let sum = head_sum(id, size, key, head).cast_signed();
        let row = params![id.cast_signed(), key, head, sum, body.map(|body| xxh3_64(body).cast_signed()), body];
        self.connection.prepare_cached(sql)?.execute(row)?;
        Ok(())
    }

    /// Gives a representation another head, of a body of `size` bytes, which is selected by `selector`, and tells what its row is counted as; `None` if
    /// there is none.
    pub(super) fn update(&self, id: u64, size: u64, selector: u64, head: &[u8]) -> Result<Option<u32>, IndexError> {
        let sql = "SELECT key, ifnull(length(body), 0) FROM heads WHERE id = ?1";
        let mut statement = self.connection.prepare_cached(sql)?;
        let row = |row: &rusqlite::Row<'_>| Ok((row.get::<_, Vec<u8>>(0)?, row.get::<_, u32>(1)?));
        let Some((key, body_bytes)) = statement.query_row([id.cast_signed()], row).optional()? else {
            return Ok(None);
        };
        let row_bytes = row_bytes(key.len(), head.len(), body_bytes as usize);
        let sql = "UPDATE heads SET head = ?2, head_sum = ?3 WHERE id = ?1";
        let sum = head_sum(id, size, &key, head).cast_signed();
        self.connection.prepare_cached(sql)?.execute(params![id.cast_signed(), head, sum])?;
        let sql = "UPDATE representations SET row_bytes = ?2, selector = ?3, size = ?4 WHERE id = ?1";
        let row = params![id.cast_signed(), row_bytes, selector.cast_signed(), size.cast_signed()];
        self.connection.prepare_cached(sql)?.execute(row)?;
        Ok(Some(row_bytes))
    }

    /// Takes away a representation, with all its slices.
    pub(super) fn remove(&self, id: u64) -> Result<(), IndexError> {
        for table in ["slices", "heads", "representations"] {
            let sql = format!("DELETE FROM {table} WHERE id = ?1");
            self.connection.prepare_cached(&sql)?.execute([id.cast_signed()])?;
        }
        Ok(())
    }

    /// Adds a slice whose bytes have the checksum `sum`.
    pub(super) fn list_slice(&self, id: u64, slice: u32, sum: u64) -> Result<(), IndexError> {
        let sql = "INSERT OR REPLACE INTO slices (id, slice, sum) VALUES (?1, ?2, ?3)";
        self.connection.prepare_cached(sql)?.execute(params![id.cast_signed(), slice, sum.cast_signed()])?;
        Ok(())
    }

    /// Takes away a slice.
    pub(super) fn remove_slice(&self, id: u64, slice: u32) -> Result<(), IndexError> {
        let sql = "DELETE FROM slices WHERE id = ?1 AND slice = ?2";
        self.connection.prepare_cached(sql)?.execute(params![id.cast_signed(), slice])?;
        Ok(())
    }

    /// Up to `limit` representations after the id `after`, in the order of ids, with their slices.
    pub(super) fn rows(&self, after: u64, limit: u32) -> Result<Vec<Row>, IndexError> {
        let sql = "SELECT id, key_hash, size, cost, row_bytes, selector, site FROM representations
                   WHERE id > ?1 ORDER BY id LIMIT ?2";
        let mut statement = self.connection.prepare_cached(sql)?;
        let found = statement.query_map(params![after.cast_signed(), limit], |row| {
            Ok(Row {
                id: row.get::<_, i64>(0)?.cast_unsigned(),
                key_hash: row.get::<_, i64>(1)?.cast_unsigned(),
                size: row.get::<_, i64>(2)?.cast_unsigned(),
                cost: row.get::<_, f64>(3)? as f32,
                row_bytes: row.get(4)?,
                selector: row.get::<_, i64>(5)?.cast_unsigned(),
                site: row.get::<_, i64>(6)?.cast_unsigned(),
                slices: Vec::new(),
            })
        })?;
        let mut rows: Vec<Row> = found.collect::<Result<_, _>>()?;
        let Some(last) = rows.last().map(|row| row.id) else { return Ok(rows) };
        let sql = "SELECT id, slice FROM slices WHERE id > ?1 AND id <= ?2";
        let mut statement = self.connection.prepare_cached(sql)?;
        let mut found = statement.query([after.cast_signed(), last.cast_signed()])?;
        while let Some(slice) = found.next()? {
            let id = slice.get::<_, i64>(0)?.cast_unsigned();
            // One without a representation is left by nobody; if there is one all the same, its file is an orphan.
            if let Ok(place) = rows.binary_search_by_key(&id, |row| row.id) {
                rows[place].slices.push(slice.get(1)?);
            }
        }
        Ok(rows)
    }
}

/// What the row of a representation is counted as.
pub(super) fn row_bytes(key_bytes: usize, head_bytes: usize, body_bytes: usize) -> u32 {
    let bytes = ROW_BYTES + key_bytes + head_bytes + body_bytes;
    // What does not leave room for another as large has its pages alone.
    let bytes = if bytes > PAGE_BYTES / 2 { bytes.next_multiple_of(PAGE_BYTES) } else { bytes };
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

/// The checksum of all that must be right before a head is believed.
fn head_sum(id: u64, size: u64, key: &[u8], head: &[u8]) -> u64 {
    let mut sum = Xxh3::new();
    for number in [id, size, key.len() as u64] {
        sum.update(&number.to_le_bytes());
    }
    sum.update(key);
    sum.update(head);
    sum.digest()
}

/// Connections for reading the index.
#[derive(Debug)]
pub(super) struct Readers {
    path: PathBuf,
    idle: Mutex<Idle>,
    turns: Arc<Semaphore>,
}

#[derive(Debug, Default)]
struct Idle {
    connections: Vec<Connection>,
    renewed: u32,
}

impl Readers {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, idle: Mutex::default(), turns: Arc::new(Semaphore::new(READERS_MAX)) }
    }

    /// Waits until few enough others read; to be held while reading, whether or not somebody still waits for that.
    pub(super) async fn turn(&self) -> Option<OwnedSemaphorePermit> {
        self.turns.clone().acquire_owned().await.ok()
    }

    /// The index was taken away, or is about to be closed: connections to it are.
    pub(super) fn renew(&self) {
        let mut idle = self.idle();
        idle.connections.clear();
        idle.renewed += 1;
    }

    /// How many indexes there were before this one.
    pub(super) fn renewed(&self) -> u32 {
        self.idle().renewed
    }

    /// What the index has of a representation whose body has `size` bytes; `None` if that is nothing, or not what was written.
    /// Blocks on the disk.
    pub(super) fn find(&self, id: u64, size: u64) -> Result<Option<Found>, IndexError> {
        self.read(|connection| {
            let sql = "SELECT key, head, head_sum, body_sum, body FROM heads WHERE id = ?1";
            let row = |row: &rusqlite::Row<'_>| {
                let found = Found { key: row.get(0)?, head: row.get(1)?, body: row.get(4)? };
                Ok((found, row.get::<_, i64>(2)?.cast_unsigned(), row.get::<_, Option<i64>>(3)?))
            };
            let mut statement = connection.prepare_cached(sql)?;
            let Some((found, sum, body_sum)) = statement.query_row([id.cast_signed()], row).optional()? else {
                return Ok(None);
            };
            let is_body_right = match (&found.body, body_sum) {
                (None, None) => true,
                (Some(body), Some(sum)) => body.len() as u64 == size && xxh3_64(body) == sum.cast_unsigned(),
                _ => false,
            };
            Ok((is_body_right && head_sum(id, size, &found.key, &found.head) == sum).then_some(found))
        })
    }

    /// The checksum of a slice. Blocks on the disk.
    pub(super) fn sum(&self, id: u64, slice: u32) -> Result<Option<u64>, IndexError> {
        self.read(|connection| {
            let sql = "SELECT sum FROM slices WHERE id = ?1 AND slice = ?2";
            let mut statement = connection.prepare_cached(sql)?;
            let sum = statement.query_row(params![id.cast_signed(), slice], |row| row.get::<_, i64>(0)).optional()?;
            Ok(sum.map(i64::cast_unsigned))
        })
    }

    fn read<T>(&self, ask: impl FnOnce(&Connection) -> Result<T, IndexError>) -> Result<T, IndexError> {
        let (idle, renewed) = {
            let mut idle = self.idle();
            (idle.connections.pop(), idle.renewed)
        };
        let connection = match idle {
            Some(connection) => connection,
            None => {
                // Never made here: the writer may be about to put a new index in the place of the old one.
                let connection = Connection::open_with_flags(&self.path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
                connection
                    .execute_batch("PRAGMA busy_timeout = 10000; PRAGMA query_only = ON; PRAGMA cache_size = -1000;")?;
                connection
            }
        };
        let answer = ask(&connection);
        let mut idle = self.idle();
        if idle.renewed == renewed && idle.connections.len() < READERS_MAX {
            idle.connections.push(connection);
        }
        answer
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Idle> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
