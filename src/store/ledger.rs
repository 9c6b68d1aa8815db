//! The catalogue as the ledger that the rules of replication work on.

use rusqlite::{OptionalExtension as _, params};

use super::{StoreError, Transaction, query, rows};
use crate::model::{Content, Cursor, Entry, EntryKey, HybridTime, NodeId, Origin, Version, VersionVector};
use crate::replicate::{Debt, Ledger, bucket_of, digest_of};

impl Ledger for Transaction<'_> {
    type Error = StoreError;

    fn origin(&self) -> &Origin {
        self.origin
    }

    fn listed(&self, key: &EntryKey) -> Result<Option<Entry>, StoreError> {
        query::entry(self.connection, "entries", key)
    }

    fn owes(&self, entry: &Entry) -> Result<bool, StoreError> {
        let wanted = self.marks.wants > 0 && query::wants_version(self.connection, entry)?;
        Ok(wanted || (self.marks.parked > 0 && query::parks_version(self.connection, entry)?))
    }

    fn holds(&self, content: &Content) -> Result<bool, StoreError> {
        let mut sql = String::new();
        for table in ["entries", "strays", "withheld"] {
            let or = if sql.is_empty() { "" } else { " OR " };
            sql.push_str(&format!("{or}EXISTS (SELECT 1 FROM {table} WHERE hash = ?1 AND size = ?2)"));
        }
        // What scrubbing has found broken would be no copy.
        let sql = format!("SELECT ({sql}) AND NOT EXISTS (SELECT 1 FROM damaged_blobs WHERE hash = ?1)");
        let bytes = params![content.hash.as_bytes(), content.size.cast_signed()];
        Ok(self.connection.prepare_cached(&sql)?.query_row(bytes, |row| row.get(0))?)
    }

    fn stamp(&mut self, now_unix_ms: u64) -> Version {
        self.marks.origin_sequence += 1;
        let time = self.marks.clock.stamp(now_unix_ms);
        Version { time, origin: self.origin.clone(), sequence: self.marks.origin_sequence }
    }

    fn list(&mut self, entry: &Entry) -> Result<(), StoreError> {
        self.marks.clock.observe(entry.version.time);
        self.marks.sequence += 1;
        let before = self.listed(&entry.key)?;
        let sql = format!(
            "INSERT OR REPLACE INTO entries ({}, sequence, bucket) VALUES ({}, ?12, ?13)",
            rows::COLUMNS,
            rows::PLACES
        );
        let (sequence, bucket) = (self.marks.sequence.cast_signed(), bucket_of(&entry.key) as i64);
        rows::execute(&mut *self.connection.prepare_cached(&sql)?, entry, &[&sequence, &bucket])?;
        self.digest(before.as_ref(), Some(entry))?;
        self.forgive(entry)?;
        // A stray is this node's own word for the key, until the cluster has a newer one.
        if query::entry(self.connection, "strays", &entry.key)?.is_some_and(|stray| entry.supersedes(&stray)) {
            self.connection
                .prepare_cached("DELETE FROM strays WHERE key = ?1")?
                .execute(params![entry.key.as_str()])?;
        }
        Ok(())
    }

    fn want(&mut self, entry: &Entry, peer: &NodeId) -> Result<(), StoreError> {
        self.marks.clock.observe(entry.version.time);
        self.owe("wants", entry, peer)?;
        self.marks.wants += 1;
        self.marks.want_bytes += entry.content().map_or(0, |content| content.size);
        Ok(())
    }

    fn listed_by(&mut self, entry: &Entry, peer: &NodeId) -> Result<(), StoreError> {
        for (table, rows) in [("wants", self.marks.wants), ("parked", self.marks.parked)] {
            if rows == 0 {
                continue;
            }
            let sql = format!("UPDATE {table} SET peer = ?6 WHERE {}", query::THIS_VERSION);
            let (key, time, node, epoch, sequence) = query::this_version(entry);
            let values = params![key, time, node, epoch, sequence, peer.as_str()];
            self.connection.prepare_cached(&sql)?.execute(values)?;
        }
        Ok(())
    }

    fn lister(&self, entry: &Entry) -> Result<Option<NodeId>, StoreError> {
        let sql = format!("SELECT peer FROM wants WHERE {}", query::THIS_VERSION);
        let mut statement = self.connection.prepare_cached(&sql)?;
        Ok(statement.query_row(query::this_version(entry), |row| rows::parsed(row, 0)).optional()?)
    }

    fn forget_lister(&mut self, peer: &NodeId) -> Result<(), StoreError> {
        for table in ["wants", "parked"] {
            let sql = format!("UPDATE {table} SET peer = ?1 WHERE peer = ?2");
            self.connection.prepare_cached(&sql)?.execute(params![self.origin.node.as_str(), peer.as_str()])?;
        }
        Ok(())
    }

    fn forget_want(&mut self, entry: &Entry) -> Result<(), StoreError> {
        let gone = self.pay("wants", entry)?;
        self.marks.wants -= gone;
        self.marks.want_bytes -= gone * entry.content().map_or(0, |content| content.size);
        Ok(())
    }

    fn park(&mut self, entry: &Entry, peer: &NodeId) -> Result<(), StoreError> {
        self.owe("parked", entry, peer)?;
        self.marks.parked += 1;
        Ok(())
    }

    fn parked(&self, time: HybridTime, limit: usize) -> Result<Vec<Entry>, StoreError> {
        let sql = format!("SELECT {} FROM parked WHERE time <= ?1 ORDER BY time LIMIT ?2", rows::COLUMNS);
        let mut statement = self.connection.prepare_cached(&sql)?;
        let found = statement.query_map(params![time.bits().cast_signed(), limit as i64], rows::read)?;
        Ok(found.collect::<Result<_, _>>()?)
    }

    fn want_parked(&mut self, entry: &Entry) -> Result<(), StoreError> {
        self.marks.clock.observe(entry.version.time);
        let columns = format!("{}, peer, number", rows::COLUMNS);
        let sql = format!("INSERT INTO wants ({columns}) SELECT {columns} FROM parked WHERE {}", query::THIS_VERSION);
        let moved = self.connection.prepare_cached(&sql)?.execute(query::this_version(entry))? as u64;
        self.marks.wants += moved;
        self.marks.want_bytes += moved * entry.content().map_or(0, |content| content.size);
        self.unpark(entry)
    }

    fn unpark(&mut self, entry: &Entry) -> Result<(), StoreError> {
        self.marks.parked -= self.pay("parked", entry)?;
        Ok(())
    }

    fn cursor(&self, peer: &NodeId) -> Result<Option<Cursor>, StoreError> {
        query::cursor(self.connection, peer)
    }

    fn set_cursor(&mut self, peer: &NodeId, cursor: Cursor) -> Result<(), StoreError> {
        let sql = "INSERT OR REPLACE INTO cursors (peer, epoch, since) VALUES (?1, ?2, ?3)";
        let Cursor { epoch, since } = cursor;
        self.connection.prepare_cached(sql)?.execute(params![peer.as_str(), epoch.to_string(), since.cast_signed()])?;
        Ok(())
    }

    fn debt(&self) -> Result<Debt, StoreError> {
        if self.marks.wants + self.marks.parked == 0 {
            return Ok(Debt { last: self.marks.debts, oldest: None });
        }
        // Two queries: of the least of a union the database would read all rows.
        let least = |table: &str| -> Result<Option<u64>, StoreError> {
            let sql = format!("SELECT number FROM {table} ORDER BY number LIMIT 1");
            let mut statement = self.connection.prepare_cached(&sql)?;
            Ok(statement.query_row([], |row| rows::unsigned(row, 0)).optional()?)
        };
        let oldest = [least("wants")?, least("parked")?].into_iter().flatten().min();
        Ok(Debt { last: self.marks.debts, oldest })
    }

    fn vector(&self) -> Result<VersionVector, StoreError> {
        let mut vector = query::vector(self.connection)?;
        vector.raise(self.origin, self.marks.origin_sequence);
        Ok(vector)
    }

    fn cover(&mut self, vector: &VersionVector) -> Result<(), StoreError> {
        let sql = "INSERT INTO vector (node, epoch, sequence) VALUES (?1, ?2, ?3)
            ON CONFLICT (node, epoch) DO UPDATE SET sequence = excluded.sequence
            WHERE excluded.sequence > vector.sequence";
        let mut statement = self.connection.prepare_cached(sql)?;
        for (origin, sequence) in vector.iter().filter(|(origin, _)| *origin != self.origin) {
            statement.execute(params![origin.node.as_str(), origin.epoch.to_string(), sequence.cast_signed()])?;
        }
        Ok(())
    }

    fn tombstones(
        &self,
        time: HybridTime,
        after: Option<(HybridTime, EntryKey)>,
        limit: usize,
    ) -> Result<Vec<Entry>, StoreError> {
        let sql = format!(
            "SELECT {} FROM entries WHERE kind = 0 AND time < ?1 AND (time, key) > (?2, ?3) ORDER BY time, key LIMIT ?4",
            rows::COLUMNS
        );
        let (after_time, after_key) =
            after.as_ref().map_or((-1, ""), |(time, key)| (time.bits().cast_signed(), key.as_str()));
        let mut statement = self.connection.prepare_cached(&sql)?;
        let values = params![time.bits().cast_signed(), after_time, after_key, limit as i64];
        let found = statement.query_map(values, rows::read)?;
        Ok(found.collect::<Result<_, _>>()?)
    }

    fn drop_tombstone(&mut self, entry: &Entry) -> Result<(), StoreError> {
        self.connection.prepare_cached("DELETE FROM entries WHERE key = ?1")?.execute([entry.key.as_str()])?;
        self.digest(Some(entry), None)
    }

    fn horizon(&self) -> Result<Option<Version>, StoreError> {
        query::horizon(self.connection)
    }

    fn raise_horizon(&mut self, version: &Version) -> Result<(), StoreError> {
        if self.horizon()?.is_none_or(|horizon| horizon < *version) {
            self.set_mark("horizon", &version.to_string())?;
        }
        Ok(())
    }

    fn withheld(&self, after: Option<&EntryKey>, limit: usize) -> Result<Vec<Entry>, StoreError> {
        query::withheld(self.connection, "", after, limit)
    }

    fn forget_withheld(&mut self, entry: &Entry) -> Result<(), StoreError> {
        self.connection.prepare_cached("DELETE FROM withheld WHERE key = ?1")?.execute([entry.key.as_str()])?;
        Ok(())
    }
}

impl Transaction<'_> {
    /// Keeps `entry`, of a backup, back until it is known what became of it; its bytes must be durable.
    ///
    /// # Errors
    /// When the catalogue cannot be written.
    pub fn withhold(&mut self, entry: &Entry) -> Result<(), StoreError> {
        let sql = format!("INSERT OR REPLACE INTO withheld ({}) VALUES ({})", rows::COLUMNS, rows::PLACES);
        rows::execute(&mut *self.connection.prepare_cached(&sql)?, entry, &[])
    }

    /// Removes what is owed under the key of `entry` and not newer.
    fn forgive(&mut self, entry: &Entry) -> Result<(), StoreError> {
        if self.marks.wants > 0 {
            for wanted in query::owed(self.connection, "wants", &entry.key)? {
                if !wanted.supersedes(entry) {
                    self.forget_want(&wanted)?;
                }
            }
        }
        if self.marks.parked > 0 {
            for parked in query::owed(self.connection, "parked", &entry.key)? {
                if !parked.supersedes(entry) {
                    self.unpark(&parked)?;
                }
            }
        }
        Ok(())
    }

    fn owe(&mut self, table: &str, entry: &Entry, peer: &NodeId) -> Result<(), StoreError> {
        self.marks.debts += 1;
        let sql = format!("INSERT INTO {table} ({}, peer, number) VALUES ({}, ?12, ?13)", rows::COLUMNS, rows::PLACES);
        let number = self.marks.debts.cast_signed();
        rows::execute(&mut *self.connection.prepare_cached(&sql)?, entry, &[&peer.as_str(), &number])
    }

    fn pay(&mut self, table: &str, entry: &Entry) -> Result<u64, StoreError> {
        let sql = format!("DELETE FROM {table} WHERE {}", query::THIS_VERSION);
        Ok(self.connection.prepare_cached(&sql)?.execute(query::this_version(entry))? as u64)
    }

    /// Keeps the sum of the bucket right when `before` becomes `after`.
    fn digest(&mut self, before: Option<&Entry>, after: Option<&Entry>) -> Result<(), StoreError> {
        let Some(key) = before.or(after).map(|entry| &entry.key) else { return Ok(()) };
        let bucket = bucket_of(key) as i64;
        let sum = query::digest(self.connection, bucket)?
            .wrapping_sub(before.map_or(0, digest_of))
            .wrapping_add(after.map_or(0, digest_of));
        let sql = "INSERT OR REPLACE INTO digests (bucket, sum) VALUES (?1, ?2)";
        self.connection.prepare_cached(sql)?.execute(params![bucket, sum.cast_signed()])?;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
