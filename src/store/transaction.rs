//! What can be done to the catalogue within one transaction.

use rusqlite::{Connection, OptionalExtension as _, params};

use super::{StoreError, query, rows};
use crate::model::{Entry, EntryKey, Epoch, HybridClock, HybridTime, NodeId, Origin, Version};

/// Where the catalogue stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// The last sequence of the feed.
    pub head: u64,
    /// The count of writes that happened here.
    pub written: u64,
    /// How many entries wait for their bytes.
    pub wants: u64,
    /// How many bytes those have.
    pub want_bytes: u64,
    /// How many entries wait for their time.
    pub parked: u64,
    /// The highest hybrid time stamped or seen.
    pub clock: HybridTime,
}

/// The counters of the catalogue, as of the last change.
#[derive(Debug, Clone, Copy)]
pub(super) struct Marks {
    pub(super) clock: HybridClock,
    pub(super) sequence: u64,
    pub(super) origin_sequence: u64,
    pub(super) wants: u64,
    pub(super) want_bytes: u64,
    pub(super) parked: u64,
    pub(super) debts: u64,
}

impl Marks {
    pub(super) const fn progress(&self) -> Progress {
        Progress {
            head: self.sequence,
            written: self.origin_sequence,
            wants: self.wants,
            want_bytes: self.want_bytes,
            parked: self.parked,
            clock: self.clock.high(),
        }
    }
}

/// One group of changes that becomes durable whole or not at all.
#[derive(Debug)]
pub struct Transaction<'a> {
    pub(super) connection: &'a Connection,
    pub(super) origin: &'a Origin,
    pub(super) marks: &'a mut Marks,
    /// What took the whole group back, if something did.
    pub(super) failed: Option<StoreError>,
}

impl Transaction<'_> {
    /// The entry that this node serves under `key`: a stray of its own before the replicated one.
    ///
    /// # Errors
    /// When the catalogue cannot be read.
    pub fn find(&self, key: &EntryKey) -> Result<Option<Entry>, StoreError> {
        query::find(self.connection, key)
    }

    /// The version of what this node alone keeps: it has no place in the count of its writes, which is 0.
    pub fn stamp_stray(&mut self, now_unix_ms: u64) -> Version {
        Version { time: self.marks.clock.stamp(now_unix_ms), origin: self.origin.clone(), sequence: 0 }
    }

    /// Keeps `entry`, whose version is that of a stray, for this node alone, without a place in the feed. Its bytes must
    /// be durable.
    ///
    /// # Errors
    /// When the catalogue cannot be written.
    pub fn keep_stray(&mut self, entry: &Entry) -> Result<(), StoreError> {
        let sql = format!("INSERT OR REPLACE INTO strays ({}) VALUES ({})", rows::COLUMNS, rows::PLACES);
        rows::execute(&mut *self.connection.prepare_cached(&sql)?, entry, &[])
    }

    /// Notes that no peer could give the bytes of `entry`: those that never failed are fetched before it.
    ///
    /// # Errors
    /// When the catalogue cannot be written.
    pub fn postpone_want(&mut self, entry: &Entry) -> Result<(), StoreError> {
        let sql = format!("UPDATE wants SET failures = failures + 1 WHERE {}", query::THIS_VERSION);
        self.connection.prepare_cached(&sql)?.execute(query::this_version(entry))?;
        Ok(())
    }

    /// A word that is kept beside the counters.
    pub(super) fn set_mark(&mut self, name: &str, value: &str) -> Result<(), StoreError> {
        let sql = "INSERT OR REPLACE INTO marks VALUES (?1, ?2)";
        self.connection.prepare_cached(sql)?.execute(params![name, value])?;
        Ok(())
    }

    /// Stores the counters, as part of the transaction that changed them.
    pub(super) fn save_marks(&self) -> Result<(), StoreError> {
        let mut statement = self.connection.prepare_cached("INSERT OR REPLACE INTO marks VALUES (?1, ?2)")?;
        let Marks { clock, sequence, origin_sequence, debts, .. } = *self.marks;
        let counters = [
            ("clock", clock.high().bits()),
            ("sequence", sequence),
            ("origin_sequence", origin_sequence),
            ("debts", debts),
        ];
        for (name, value) in counters {
            statement.execute(params![name, value.cast_signed()])?;
        }
        Ok(())
    }

    /// Runs `work` so that an error of it takes back its own changes and no others of the group.
    pub(super) fn isolated<T>(
        &mut self,
        work: impl FnOnce(&mut Transaction<'_>) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let marks = *self.marks;
        self.connection.prepare_cached("SAVEPOINT work")?.execute([])?;
        let result = work(self);
        if let Err(error) = &result {
            *self.marks = marks;
            if self.connection.is_autocommit() {
                // The group is gone, with all savepoints.
                self.failed = Some(error.of_group());
                return result;
            }
            self.connection.prepare_cached("ROLLBACK TO work")?.execute([])?;
        }
        self.connection.prepare_cached("RELEASE work")?.execute([])?;
        result
    }
}

/// Reads the counters; a new catalogue gets its epoch from `fresh_epoch`.
pub(super) fn load_marks(
    connection: &Connection,
    node: &NodeId,
    fresh_epoch: Epoch,
) -> Result<(Origin, Marks), StoreError> {
    let text = |name: &str| -> Result<Option<String>, StoreError> {
        let sql = "SELECT value FROM marks WHERE name = ?1";
        Ok(connection.query_row(sql, [name], |row| rows::parsed(row, 0)).optional()?)
    };
    let number = |name: &str| -> Result<u64, StoreError> {
        let sql = "SELECT value FROM marks WHERE name = ?1";
        Ok(connection.query_row(sql, [name], |row| rows::unsigned(row, 0)).optional()?.unwrap_or(0))
    };
    if let Some(found) = text("node")?
        && found != node.as_str()
    {
        let found = found.parse().map_err(|error| StoreError::Commit(format!("its owner does not read: {error}")))?;
        return Err(StoreError::OtherNode { found, expected: node.clone() });
    }
    let epoch = text("epoch")?.and_then(|text| text.parse().ok()).unwrap_or(fresh_epoch);
    for (name, value) in [("node", node.to_string()), ("epoch", epoch.to_string())] {
        connection.execute("INSERT OR REPLACE INTO marks VALUES (?1, ?2)", params![name, value])?;
    }
    let sql = "SELECT count(*), CAST(total(size) AS INTEGER) FROM wants";
    let (wants, want_bytes) =
        connection.query_row(sql, [], |row| Ok((rows::unsigned(row, 0)?, rows::unsigned(row, 1)?)))?;
    let marks = Marks {
        clock: HybridClock::resume(HybridTime::from_bits(number("clock")?)),
        sequence: number("sequence")?,
        origin_sequence: number("origin_sequence")?,
        wants,
        want_bytes,
        parked: connection.query_row("SELECT count(*) FROM parked", [], |row| rows::unsigned(row, 0))?,
        debts: number("debts")?,
    };
    Ok((Origin { node: node.clone(), epoch }, marks))
}
