//! What can be done to the catalogue within one transaction.

use rusqlite::{Connection, OptionalExtension as _, params};

use super::{StoreError, query, rows};
use crate::model::{Content, Entry, EntryKey, Epoch, HybridClock, HybridTime, NodeId, Origin, Version};

/// How far a follower has read a node's feed: all up to `since` is recorded here, held or wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cursor {
    /// The life of the node's database that the sequence belongs to.
    pub epoch: Epoch,
    /// The last sequence read.
    pub since: u64,
}

/// Where the catalogue stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// The last sequence of the feed.
    pub head: u64,
    /// How many entries wait for their bytes.
    pub wants: u64,
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
}

impl Marks {
    pub(super) const fn progress(&self) -> Progress {
        Progress { head: self.sequence, wants: self.wants, clock: self.clock.high() }
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

    /// The replicated entry of `key`.
    ///
    /// # Errors
    /// When the catalogue cannot be read.
    pub fn listed(&self, key: &EntryKey) -> Result<Option<Entry>, StoreError> {
        query::entry(self.connection, "entries", key)
    }

    /// Whether the bytes of this very `entry` are still to be fetched.
    ///
    /// # Errors
    /// When the catalogue cannot be read.
    pub fn wants(&self, entry: &Entry) -> Result<bool, StoreError> {
        query::wants_version(self.connection, entry)
    }

    /// Whether an entry points at the bytes of `content`, so that they are held.
    ///
    /// # Errors
    /// When the catalogue cannot be read.
    pub fn holds(&self, content: &Content) -> Result<bool, StoreError> {
        let sql = "SELECT EXISTS (SELECT 1 FROM entries WHERE hash = ?1 AND size = ?2)
            OR EXISTS (SELECT 1 FROM strays WHERE hash = ?1 AND size = ?2)";
        let bytes = params![content.hash.as_bytes(), content.size.cast_signed()];
        Ok(self.connection.prepare_cached(sql)?.query_row(bytes, |row| row.get(0))?)
    }

    /// The version of a write that happens here at wall time `now_unix_ms`: later than everything listed or wanted.
    pub fn stamp(&mut self, now_unix_ms: u64) -> Version {
        self.marks.origin_sequence += 1;
        let time = self.marks.clock.stamp(now_unix_ms);
        Version { time, origin: self.origin.clone(), sequence: self.marks.origin_sequence }
    }

    /// The version of what this node alone keeps: it has no place in the count of its writes, which is 0.
    pub fn stamp_stray(&mut self, now_unix_ms: u64) -> Version {
        Version { time: self.marks.clock.stamp(now_unix_ms), origin: self.origin.clone(), sequence: 0 }
    }

    /// Lists `entry`, which supersedes what is listed under its key: it takes the next place in the feed. Its bytes
    /// must be durable. A want or stray that it supersedes goes.
    ///
    /// # Errors
    /// When the catalogue cannot be written.
    pub fn list(&mut self, entry: &Entry) -> Result<(), StoreError> {
        self.marks.clock.observe(entry.version.time);
        self.marks.sequence += 1;
        let sql =
            format!("INSERT OR REPLACE INTO entries ({}, sequence) VALUES ({}, ?12)", rows::COLUMNS, rows::PLACES);
        let sequence = self.marks.sequence.cast_signed();
        rows::execute(&mut *self.connection.prepare_cached(&sql)?, entry, &[&sequence])?;
        for wanted in query::wanted(self.connection, &entry.key)? {
            if !wanted.supersedes(entry) {
                self.forget_want(&wanted)?;
            }
        }
        if query::entry(self.connection, "strays", &entry.key)?.is_some_and(|stray| entry.supersedes(&stray)) {
            self.connection
                .prepare_cached("DELETE FROM strays WHERE key = ?1")?
                .execute(params![entry.key.as_str()])?;
        }
        Ok(())
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

    /// Records that the bytes of `entry` are to be fetched; `peer` is known to hold them.
    ///
    /// # Errors
    /// When the catalogue cannot be written.
    pub fn want(&mut self, entry: &Entry, peer: &NodeId) -> Result<(), StoreError> {
        self.marks.clock.observe(entry.version.time);
        if !self.wants(entry)? {
            self.marks.wants += 1;
        }
        let sql = format!("INSERT OR REPLACE INTO wants ({}, peer) VALUES ({}, ?12)", rows::COLUMNS, rows::PLACES);
        rows::execute(&mut *self.connection.prepare_cached(&sql)?, entry, &[&peer.as_str()])
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

    /// Forgets the want of `entry`.
    ///
    /// # Errors
    /// When the catalogue cannot be written.
    pub fn forget_want(&mut self, entry: &Entry) -> Result<(), StoreError> {
        let sql = format!("DELETE FROM wants WHERE {}", query::THIS_VERSION);
        let gone = self.connection.prepare_cached(&sql)?.execute(query::this_version(entry))?;
        self.marks.wants -= gone as u64;
        Ok(())
    }

    /// Records how far the feed of `peer` was read.
    ///
    /// # Errors
    /// When the catalogue cannot be written.
    pub fn set_cursor(&mut self, peer: &NodeId, cursor: Cursor) -> Result<(), StoreError> {
        let sql = "INSERT OR REPLACE INTO cursors (peer, epoch, since) VALUES (?1, ?2, ?3)";
        let Cursor { epoch, since } = cursor;
        self.connection.prepare_cached(sql)?.execute(params![peer.as_str(), epoch.to_string(), since.cast_signed()])?;
        Ok(())
    }

    /// Stores the counters, as part of the transaction that changed them.
    pub(super) fn save_marks(&self) -> Result<(), StoreError> {
        let mut statement = self.connection.prepare_cached("INSERT OR REPLACE INTO marks VALUES (?1, ?2)")?;
        let Marks { clock, sequence, origin_sequence, wants: _ } = *self.marks;
        for (name, value) in
            [("clock", clock.high().bits()), ("sequence", sequence), ("origin_sequence", origin_sequence)]
        {
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
    let wants: i64 = connection.query_row("SELECT count(*) FROM wants", [], |row| row.get(0))?;
    let marks = Marks {
        clock: HybridClock::resume(HybridTime::from_bits(number("clock")?)),
        sequence: number("sequence")?,
        origin_sequence: number("origin_sequence")?,
        wants: wants.cast_unsigned(),
    };
    Ok((Origin { node: node.clone(), epoch }, marks))
}
