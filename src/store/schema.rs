//! The catalogue's tables, and how older ones become today's.

use rusqlite::Connection;

use super::StoreError;

/// One step from each schema to the next; `PRAGMA user_version` counts the steps a file has taken.
///
/// `entries` has one row per key, its newest version, under the sequence in which this node listed it: the feed is a
/// range scan. `strays` are entries of this node alone, which no peer is told of. `wants` are entries whose bytes are
/// still to be fetched; a key may have several, for the newest may be the one that nobody can give any more. `kind`: 0 deleted, 1 live, 2 record.
/// `variants` are blobs that this node made of the images in others; one without a hash is served as its original.
const STEPS: [&str; 2] = [
    "
    CREATE TABLE marks (name TEXT PRIMARY KEY, value ANY NOT NULL) STRICT, WITHOUT ROWID;
    CREATE TABLE entries (
        sequence INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE,
        time INTEGER NOT NULL, origin TEXT NOT NULL, epoch TEXT NOT NULL, origin_sequence INTEGER NOT NULL,
        kind INTEGER NOT NULL, hash BLOB, size INTEGER, media_type TEXT, cache_control TEXT, record TEXT
    ) STRICT;
    CREATE INDEX entries_by_hash ON entries (hash) WHERE hash IS NOT NULL;
    CREATE INDEX entries_of_records ON entries (sequence) WHERE key >= '.metacdn/' AND key < '.metacdn0';
    CREATE TABLE strays (
        key TEXT PRIMARY KEY,
        time INTEGER NOT NULL, origin TEXT NOT NULL, epoch TEXT NOT NULL, origin_sequence INTEGER NOT NULL,
        kind INTEGER NOT NULL, hash BLOB, size INTEGER, media_type TEXT, cache_control TEXT, record TEXT
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX strays_by_hash ON strays (hash) WHERE hash IS NOT NULL;
    CREATE TABLE wants (
        key TEXT NOT NULL,
        time INTEGER NOT NULL, origin TEXT NOT NULL, epoch TEXT NOT NULL, origin_sequence INTEGER NOT NULL,
        kind INTEGER NOT NULL, hash BLOB, size INTEGER, media_type TEXT, cache_control TEXT, record TEXT,
        peer TEXT NOT NULL, failures INTEGER NOT NULL DEFAULT 0,
        PRIMARY KEY (key, time, origin, epoch, origin_sequence)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX wants_in_order ON wants (failures, time DESC);
    CREATE TABLE cursors (peer TEXT PRIMARY KEY, epoch TEXT NOT NULL, since INTEGER NOT NULL) STRICT, WITHOUT ROWID;
",
    "
    CREATE TABLE variants (
        original BLOB NOT NULL, variant TEXT NOT NULL, hash BLOB, size INTEGER, media_type TEXT,
        PRIMARY KEY (original, variant)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX variants_by_hash ON variants (hash) WHERE hash IS NOT NULL;
",
];

/// Settings of every connection: readers go on while the one writer commits, and a commit is on stable storage.
const SETTINGS: &str = "
    PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA busy_timeout = 10000; PRAGMA cache_size = -8000;
    PRAGMA temp_store = MEMORY; PRAGMA journal_size_limit = 16777216;
";

/// Prepares a connection, bringing the tables to today's schema.
pub(super) fn prepare(connection: &mut Connection) -> Result<(), StoreError> {
    connection.execute_batch(SETTINGS)?;
    let found: u32 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let known = STEPS.len() as u32;
    if found > known {
        return Err(StoreError::NewerSchema { found, known });
    }
    let transaction = connection.transaction()?;
    for step in &STEPS[found as usize..] {
        transaction.execute_batch(step)?;
    }
    transaction.pragma_update(None, "user_version", known)?;
    Ok(transaction.commit()?)
}
