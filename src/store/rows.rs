//! Entries as rows of the catalogue: the one place that knows the columns.

use rusqlite::types::{FromSqlError, Type};
use rusqlite::{Row, Statement, ToSql};

use super::StoreError;
use crate::model::{Content, ContentHash, Entry, EntryState, HybridTime, Origin, Version};

/// The columns of an entry, in the order in which [`read`] and [`Columns`] take them.
pub(super) const COLUMNS: &str =
    "key, time, origin, epoch, origin_sequence, kind, hash, size, media_type, cache_control, record";

/// As many places for parameters as there are columns.
pub(super) const PLACES: &str = "?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11";

/// The column after those of the entry, where a query selects more.
pub(super) const AFTER: usize = 11;

const DELETED: i64 = 0;
const LIVE: i64 = 1;
const RECORD: i64 = 2;

/// Executes `statement` with the columns of `entry` at places 1 to 11 and `more` at the places after them.
pub(super) fn execute(statement: &mut Statement<'_>, entry: &Entry, more: &[&dyn ToSql]) -> Result<(), StoreError> {
    let Version { time, origin, sequence } = &entry.version;
    let content = entry.content();
    let (kind, record) = match &entry.state {
        EntryState::Deleted => (DELETED, None),
        EntryState::Live(_) => (LIVE, None),
        EntryState::Record(json) => (RECORD, Some(json)),
    };
    let columns: [&dyn ToSql; AFTER] = [
        &entry.key.as_str(),
        &time.bits().cast_signed(),
        &origin.node.as_str(),
        &origin.epoch.to_string(),
        &sequence.cast_signed(),
        &kind,
        &content.map(|content| content.hash.as_bytes().as_slice()),
        &content.map(|content| content.size.cast_signed()),
        &content.map(|content| content.media_type.as_str()),
        &content.map(|content| content.cache_control.as_str()),
        &record,
    ];
    for (index, value) in columns.iter().chain(more).enumerate() {
        statement.raw_bind_parameter(index + 1, value)?;
    }
    statement.raw_execute()?;
    Ok(())
}

/// Reads the entry at the first columns of `row`, which are [`COLUMNS`].
pub(super) fn read(row: &Row<'_>) -> rusqlite::Result<Entry> {
    let state = match row.get(5)? {
        DELETED => EntryState::Deleted,
        LIVE => EntryState::Live(Content {
            hash: ContentHash::new(row.get(6)?),
            size: unsigned(row, 7)?,
            media_type: parsed(row, 8)?,
            cache_control: parsed(row, 9)?,
        }),
        RECORD => EntryState::Record(row.get(10)?),
        kind => return Err(FromSqlError::OutOfRange(kind).into()),
    };
    let version = Version {
        time: HybridTime::from_bits(unsigned(row, 1)?),
        origin: Origin { node: parsed(row, 2)?, epoch: parsed(row, 3)? },
        sequence: unsigned(row, 4)?,
    };
    Ok(Entry { key: parsed(row, 0)?, version, state })
}

/// An integer column that holds the bits of a `u64`.
pub(super) fn unsigned(row: &Row<'_>, column: usize) -> rusqlite::Result<u64> {
    row.get::<_, i64>(column).map(i64::cast_unsigned)
}

/// A text column that holds one of the model's names.
pub(super) fn parsed<T: std::str::FromStr>(row: &Row<'_>, column: usize) -> rusqlite::Result<T>
where
    T::Err: std::fmt::Display,
{
    let text = row.get_ref(column)?.as_str()?;
    text.parse().map_err(|error: T::Err| {
        let reason = format!("{error} (in column {column})");
        rusqlite::Error::FromSqlConversionFailure(column, Type::Text, reason.into())
    })
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        // The write-ahead log's index grows by its own call, which reports a full disk as an input/output error.
        let full = error.sqlite_error().is_some_and(|e| {
            e.code == rusqlite::ErrorCode::DiskFull || e.extended_code == rusqlite::ffi::SQLITE_IOERR_SHMSIZE
        });
        if full { Self::Full } else { Self::Catalog(error.into()) }
    }
}
