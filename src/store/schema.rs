//! The catalogue's tables, and how older ones become today's.

use std::collections::BTreeMap;

use rusqlite::{Connection, params};

use super::{StoreError, rows};
use crate::replicate::{bucket_of, digest_of};

/// One step from each schema to the next; `PRAGMA user_version` counts the steps a file has taken.
///
/// `entries` has one row per key, its newest version, under the sequence in which this node listed it: the feed is a
/// range scan. `strays` are entries of this node alone, which no peer is told of. `wants` are entries whose bytes are
/// still to be fetched; a key may have several, for the newest may be the one that nobody can give any more. `kind`: 0 deleted, 1 live, 2 record.
/// `parked` are entries from the future, `withheld` those of a backup that are not listed yet. `vector` has what was passed
/// of the writes of other origins; `digests` the sum of each bucket of entries, by which two nodes compare what they list.
/// `variants` are blobs that this node made of the images in others; one without a hash is served as its original.
/// `small_blobs` are the bytes that are too few for a file, `loose_blobs` notes of blobs that may be unnamed by now,
/// `damaged_blobs` those that are to be mended.
const STEPS: [&str; 7] = [
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
    "
    ALTER TABLE entries ADD COLUMN bucket INTEGER NOT NULL DEFAULT -1;
    CREATE INDEX entries_by_bucket ON entries (bucket);
    CREATE INDEX entries_deleted ON entries (time, key) WHERE kind = 0;
    CREATE TABLE digests (bucket INTEGER PRIMARY KEY, sum INTEGER NOT NULL) STRICT;
    ALTER TABLE wants ADD COLUMN number INTEGER NOT NULL DEFAULT 0;
    CREATE INDEX wants_by_number ON wants (number);
    CREATE TABLE parked (
        key TEXT NOT NULL,
        time INTEGER NOT NULL, origin TEXT NOT NULL, epoch TEXT NOT NULL, origin_sequence INTEGER NOT NULL,
        kind INTEGER NOT NULL, hash BLOB, size INTEGER, media_type TEXT, cache_control TEXT, record TEXT,
        peer TEXT NOT NULL, number INTEGER NOT NULL,
        PRIMARY KEY (key, time, origin, epoch, origin_sequence)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX parked_by_time ON parked (time);
    CREATE INDEX parked_by_number ON parked (number);
    CREATE TABLE withheld (
        key TEXT PRIMARY KEY,
        time INTEGER NOT NULL, origin TEXT NOT NULL, epoch TEXT NOT NULL, origin_sequence INTEGER NOT NULL,
        kind INTEGER NOT NULL, hash BLOB, size INTEGER, media_type TEXT, cache_control TEXT, record TEXT
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX withheld_by_hash ON withheld (hash) WHERE hash IS NOT NULL;
    CREATE TABLE vector (
        node TEXT NOT NULL, epoch TEXT NOT NULL, sequence INTEGER NOT NULL, PRIMARY KEY (node, epoch)
    ) STRICT, WITHOUT ROWID;
",
    super::small::TABLES,
    super::sweep::TABLES,
    super::wants::TABLES,
    super::scrub::TABLES,
];

/// Settings of every connection: readers go on while the one writer commits, and a commit is on stable storage.
const SETTINGS: &str = "
    PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA busy_timeout = 10000; PRAGMA cache_size = -8000;
    PRAGMA temp_store = MEMORY; PRAGMA journal_size_limit = 16777216;
";

/// How many statements a connection keeps prepared: more than there are.
pub(super) const STATEMENTS_MAX: usize = 128;

/// Prepares a connection, bringing the tables to today's schema.
pub(super) fn prepare(connection: &mut Connection) -> Result<(), StoreError> {
    connection.execute_batch(SETTINGS)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS_MAX);
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
    fill_buckets(&transaction)?;
    Ok(transaction.commit()?)
}

/// Finds the buckets of entries that were listed before there were any.
pub(super) fn fill_buckets(connection: &Connection) -> Result<(), StoreError> {
    let mut sums = BTreeMap::new();
    let sql = format!("SELECT {}, sequence FROM entries WHERE bucket = -1", rows::COLUMNS);
    let mut old = connection.prepare(&sql)?;
    let mut found = old.query([])?;
    let mut update = connection.prepare("UPDATE entries SET bucket = ?1 WHERE sequence = ?2")?;
    while let Some(row) = found.next()? {
        let entry = rows::read(row)?;
        let sum: &mut u64 = sums.entry(bucket_of(&entry.key)).or_default();
        *sum = sum.wrapping_add(digest_of(&entry));
        update.execute(params![bucket_of(&entry.key) as i64, row.get::<_, i64>(rows::AFTER)?])?;
    }
    for (bucket, sum) in sums {
        connection.execute("INSERT INTO digests VALUES (?1, ?2)", params![bucket as i64, sum.cast_signed()])?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::query;
    use super::*;

    #[test]
    fn every_older_schema_becomes_todays() {
        for taken in 1..STEPS.len() {
            let mut connection = Connection::open_in_memory().expect("a database");
            STEPS[..taken].iter().try_for_each(|step| connection.execute_batch(step)).expect("an older schema");
            connection.pragma_update(None, "user_version", taken as u32).expect("an older schema");
            let columns = rows::COLUMNS;
            let sql = format!(
                "INSERT INTO entries (sequence, {columns})
                 VALUES (7, 'a', 1, 'A', '0000000000000001', 1, 0, NULL, NULL, NULL, NULL, NULL)"
            );
            connection.execute_batch(&sql).expect("an entry");
            prepare(&mut connection).expect("today's schema");
            prepare(&mut connection).expect("which is left alone");
            let key = "a".parse().expect("a key");
            let entry = query::entry(&connection, "entries", &key).expect("readable").expect("it is still there");
            let sums = query::digests(&connection).expect("readable");
            assert_eq!(sums[bucket_of(&key)], digest_of(&entry), "{taken}");
        }
    }
}
