//! A catalogue that went back in time: brought back from a copy, or with its disk.
//!
//! It has listed more than it knows of. Were it to go on as before, it would give out sequences again that its peers have
//! read, and list what was deleted since. So it starts a new life, with nothing listed but the members: what it has is
//! withheld until the peers were asked (`replicate::release`).

use std::path::Path;
use std::time::UNIX_EPOCH;

use rusqlite::{Connection, OptionalExtension as _};

use super::{Catalog, StoreError, Transaction, rows};
use crate::model::{Epoch, RecordKey};

/// The mark of a catalogue that is to be opened as a backup.
const WENT_BACK: &str = "went_back";

/// The mark of a catalogue whose withheld entries are still to be looked at.
const IS_BACKUP: &str = "is_backup";

/// The mark that says which of the withheld tombstones is the newest.
const WITHHELD_HORIZON: &str = "withheld_horizon";

/// The mark that says in which file the catalogue was last open.
const FILE: &str = "file";

impl Catalog {
    /// Whether withheld entries are still to be looked at.
    ///
    /// # Errors
    /// When the catalogue cannot be read. Blocks on the disk.
    pub fn is_backup(&self) -> Result<bool, StoreError> {
        self.read(|connection| Ok(mark(connection, IS_BACKUP)?.is_some()))
    }
}

/// Notes that this database went back in time: the next start opens it as a backup.
///
/// # Errors
/// When the catalogue cannot be written.
pub fn mark_as_went_back(transaction: &mut Transaction<'_>) -> Result<(), StoreError> {
    transaction.set_mark(WENT_BACK, "yes")
}

/// Notes that entries are withheld which are still to be looked at.
///
/// # Errors
/// When the catalogue cannot be written.
pub fn mark_as_backup(transaction: &mut Transaction<'_>) -> Result<(), StoreError> {
    transaction.set_mark(IS_BACKUP, "yes")?;
    note_withheld_horizon(transaction.connection)
}

/// Notes that all withheld entries were looked at.
///
/// # Errors
/// When the catalogue cannot be written.
pub fn mark_as_taken_in(transaction: &mut Transaction<'_>) -> Result<(), StoreError> {
    transaction.connection.execute("DELETE FROM marks WHERE name IN (?1, ?2)", [IS_BACKUP, WITHHELD_HORIZON])?;
    Ok(())
}

/// Whether the catalogue at `path` is a copy of the one that was last open, or was found to have gone back. A copy is
/// another file, however faithful.
pub(super) fn went_back(connection: &Connection, path: &Path) -> Result<bool, StoreError> {
    let before = mark(connection, FILE)?;
    let now = file_identity(path)?;
    Ok(mark(connection, WENT_BACK)?.is_some() || before.is_some_and(|before| before != now))
}

/// Remembers in which file the catalogue is.
pub(super) fn note_file(connection: &Connection, path: &Path) -> Result<(), StoreError> {
    let now = file_identity(path)?;
    if mark(connection, FILE)?.as_ref() != Some(&now) {
        connection.execute("INSERT OR REPLACE INTO marks VALUES (?1, ?2)", [FILE, &now])?;
    }
    Ok(())
}

/// Begins a new life under `epoch`: withholds all entries but the records of members, and forgets how far peers were
/// read.
pub(super) fn begin_anew(connection: &Connection, epoch: Epoch) -> Result<(), StoreError> {
    let transaction = connection.unchecked_transaction()?;
    let columns = rows::COLUMNS;
    let members = RecordKey::of_nodes();
    let (from, to) = (members.start, members.end);
    transaction.execute(
        &format!(
            "INSERT OR REPLACE INTO withheld ({columns}) SELECT {columns} FROM entries
             WHERE NOT (key >= ?1 AND key < ?2)"
        ),
        [&from, &to],
    )?;
    transaction.execute("DELETE FROM entries WHERE NOT (key >= ?1 AND key < ?2)", [&from, &to])?;
    // The members that stay are listed anew, from 1. In their order no place is taken by the one after it.
    let mut statement = transaction.prepare("SELECT sequence FROM entries ORDER BY sequence")?;
    let places: Vec<i64> = statement.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?;
    for (place, before) in (1_i64..).zip(places) {
        transaction.execute("UPDATE entries SET sequence = ?1 WHERE sequence = ?2", [place, before])?;
    }
    drop(statement);
    transaction.execute_batch(
        "DELETE FROM wants; DELETE FROM parked; DELETE FROM cursors; DELETE FROM vector; DELETE FROM digests;
         UPDATE entries SET bucket = -1;
         DELETE FROM marks WHERE name IN ('origin_sequence', 'went_back');
         INSERT OR REPLACE INTO marks SELECT 'sequence', count(*) FROM entries;
         INSERT OR REPLACE INTO marks VALUES ('is_backup', 'yes');",
    )?;
    transaction.execute("INSERT OR REPLACE INTO marks VALUES ('epoch', ?1)", [epoch.to_string()])?;
    note_withheld_horizon(&transaction)?;
    super::schema::fill_buckets(&transaction)?;
    Ok(transaction.commit()?)
}

/// Notes up to which version deletions are withheld.
fn note_withheld_horizon(connection: &Connection) -> Result<(), StoreError> {
    let newest = format!(
        "SELECT {} FROM withheld WHERE kind = 0 ORDER BY time DESC, origin DESC, epoch DESC, origin_sequence DESC",
        rows::COLUMNS
    );
    if let Some(newest) = connection.query_row(&newest, [], rows::read).optional()? {
        let mark = [WITHHELD_HORIZON, &newest.version.to_string()];
        connection.execute("INSERT OR REPLACE INTO marks VALUES (?1, ?2)", mark)?;
    }
    Ok(())
}

fn mark(connection: &Connection, name: &str) -> Result<Option<String>, StoreError> {
    let sql = "SELECT value FROM marks WHERE name = ?1";
    Ok(connection.query_row(sql, [name], |row| row.get(0)).optional()?)
}

/// What tells one file from its copies: its number in the file system, and when it was made.
fn file_identity(path: &Path) -> Result<String, StoreError> {
    use std::os::unix::fs::MetadataExt as _;

    let metadata = std::fs::metadata(path).map_err(StoreError::file("look at", path))?;
    let made = metadata.created().ok().and_then(|made| made.duration_since(UNIX_EPOCH).ok());
    Ok(format!("{}.{}", metadata.ino(), made.map_or(0, |made| made.as_nanos())))
}

#[cfg(test)]
mod tests {
    use super::super::Catalog;
    use super::*;
    use crate::model::{EntryKey, EntryState, NodeId, VersionVector};
    use crate::replicate::write;
    use crate::store::Select;

    fn open(folder: &Path, epoch: u64) -> Catalog {
        let id: NodeId = "A".parse().expect("a name");
        Catalog::open(folder, &id, Epoch::from_bits(epoch)).expect("a catalogue")
    }

    async fn put(catalog: &Catalog, key: EntryKey, state: EntryState) {
        catalog.transact(move |t| write(t, key, state, 1_000)).await.expect("a commit");
    }

    #[tokio::test]
    async fn a_copy_of_a_catalogue_begins_a_new_life_and_lists_the_members_alone() {
        let (folder, copy) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
        let catalog = open(folder.path(), 1);
        let record = |name: &str| EntryKey::from(RecordKey::node(&name.parse().expect("a name")));
        put(&catalog, "a".parse().expect("a key"), EntryState::Deleted).await;
        for name in ["B", "C"] {
            put(&catalog, record(name), EntryState::Record("{}".to_owned())).await;
        }
        put(&catalog, RecordKey::price(&"X".parse().expect("a name")).into(), EntryState::Deleted).await;
        drop(catalog);
        let again = open(folder.path(), 2);
        assert_eq!((again.origin().epoch, again.is_backup().expect("readable")), (Epoch::from_bits(1), false));
        drop(again);
        std::fs::copy(folder.path().join("catalog.sqlite"), copy.path().join("catalog.sqlite")).expect("a copy");
        let restored = open(copy.path(), 3);
        assert_eq!((restored.origin().epoch, restored.is_backup().expect("readable")), (Epoch::from_bits(3), true));
        let page = restored.feed(0, 10, Select::All).expect("a page");
        let keys: Vec<_> = page.entries.iter().map(|entry| entry.key.clone()).collect();
        assert_eq!((keys, page.next), (vec![record("B"), record("C")], 2));
        assert_eq!(restored.withheld("", None, 10).expect("readable").len(), 2);
        assert_eq!(restored.vector().expect("readable"), VersionVector::default());
        restored.transact(mark_as_taken_in).await.expect("a commit");
        drop(restored);
        let later = open(copy.path(), 4);
        assert_eq!((later.origin().epoch, later.is_backup().expect("readable")), (Epoch::from_bits(3), false));
    }

    #[tokio::test]
    async fn a_catalogue_that_was_found_to_have_gone_back_begins_a_new_life_at_the_next_start() {
        let folder = tempfile::tempdir().expect("a folder");
        let catalog = open(folder.path(), 1);
        catalog.transact(mark_as_went_back).await.expect("a commit");
        drop(catalog);
        let catalog = open(folder.path(), 2);
        assert_eq!((catalog.origin().epoch, catalog.is_backup().expect("readable")), (Epoch::from_bits(2), true));
        drop(catalog);
        assert_eq!(open(folder.path(), 3).origin().epoch, Epoch::from_bits(2));
    }
}
