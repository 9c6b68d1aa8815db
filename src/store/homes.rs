//! What the decision on a conditional write rests on: the newest that is known of a key, the registered nodes, and the
//! set of them that was settled last.

use rusqlite::{Connection, OptionalExtension as _, params};

use super::{Catalog, StoreError, Transaction, query, rows};
use crate::model::{Entry, EntryKey, Epoch, MemberSet, NodeId, RecordKey};

/// The mark with the settled set. The life of the database stands before it: what a backup saw settled may have been
/// followed by what it does not know of.
const SETTLED: &str = "settled";

impl Transaction<'_> {
    /// The newest entry that is known of `key`, whether its bytes are held or wanted.
    ///
    /// # Errors
    /// When the catalogue cannot be read; so for all that follow.
    pub fn newest(&self, key: &EntryKey) -> Result<Option<Entry>, StoreError> {
        newest(self.connection, key)
    }

    /// The registered nodes, by their records.
    ///
    /// # Errors
    /// As above.
    pub fn registered(&self) -> Result<MemberSet, StoreError> {
        registered(self.connection)
    }

    /// The set of members that was settled last in this life of the database.
    ///
    /// # Errors
    /// As above.
    pub fn settled(&self) -> Result<Option<MemberSet>, StoreError> {
        settled(self.connection, self.origin.epoch)
    }

    /// Notes that all of `members` know each other.
    ///
    /// # Errors
    /// When the catalogue cannot be written.
    pub fn settle(&mut self, members: &MemberSet) -> Result<(), StoreError> {
        let names: Vec<_> = members.iter().map(NodeId::as_str).collect();
        self.set_mark(SETTLED, &format!("{} {}", self.origin.epoch, names.join(" ")))
    }

    /// Whether a backup has something of `key` of which it is not known yet whether it was deleted.
    ///
    /// # Errors
    /// When the catalogue cannot be read.
    pub fn withholds(&self, key: &EntryKey) -> Result<bool, StoreError> {
        Ok(query::entry(self.connection, "withheld", key)?.is_some())
    }
}

impl Catalog {
    /// As [`Transaction::newest`]. Blocks on the disk, like all that follow.
    ///
    /// # Errors
    /// When the catalogue cannot be read; so for all that follow.
    pub fn newest(&self, key: &EntryKey) -> Result<Option<Entry>, StoreError> {
        self.read(|connection| newest(connection, key))
    }

    /// As [`Transaction::registered`], with the end of the feed at that moment.
    ///
    /// # Errors
    /// As above.
    pub fn registered(&self) -> Result<(MemberSet, u64), StoreError> {
        self.read(|connection| {
            let snapshot = connection.transaction()?;
            Ok((registered(&snapshot)?, query::head(&snapshot)?))
        })
    }

    /// As [`Transaction::settled`].
    ///
    /// # Errors
    /// As above.
    pub fn settled(&self) -> Result<Option<MemberSet>, StoreError> {
        self.read(|connection| settled(connection, self.origin().epoch))
    }
}

fn newest(connection: &Connection, key: &EntryKey) -> Result<Option<Entry>, StoreError> {
    let mut newest = query::entry(connection, "entries", key)?;
    for wanted in query::owed(connection, "wants", key)? {
        if newest.as_ref().is_none_or(|newest| wanted.supersedes(newest)) {
            newest = Some(wanted);
        }
    }
    Ok(newest)
}

fn registered(connection: &Connection) -> Result<MemberSet, StoreError> {
    let names = RecordKey::of_nodes();
    let sql = "SELECT substr(key, ?3) FROM entries WHERE key >= ?1 AND key < ?2 AND record IS NOT NULL";
    let mut statement = connection.prepare_cached(sql)?;
    let after = names.start.len() as i64 + 1;
    let found = statement.query_map(params![names.start, names.end, after], |row| rows::parsed(row, 0))?;
    Ok(found.collect::<Result<_, _>>()?)
}

fn settled(connection: &Connection, epoch: Epoch) -> Result<Option<MemberSet>, StoreError> {
    let sql = "SELECT value FROM marks WHERE name = ?1";
    let mark = connection.prepare_cached(sql)?.query_row([SETTLED], |row| row.get::<_, String>(0)).optional()?;
    let Some(mark) = mark else { return Ok(None) };
    let mut words = mark.split(' ');
    if words.next() != Some(&*epoch.to_string()) {
        return Ok(None);
    }
    Ok(words.map(|name| name.parse().ok()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Content, ContentHash, EntryState, HybridTime, Origin, Version};
    use crate::replicate::{Ledger as _, write};

    fn id(name: &str) -> NodeId {
        name.parse().expect("a name")
    }

    fn open(folder: &std::path::Path) -> Catalog {
        Catalog::open(folder, &id("A"), Epoch::from_bits(1)).expect("a catalogue")
    }

    #[tokio::test]
    async fn the_registered_nodes_are_those_with_a_record() {
        let folder = tempfile::tempdir().expect("a folder");
        let catalog = open(folder.path());
        let change = |t: &mut Transaction<'_>| {
            for (key, state) in [
                (RecordKey::node(&id("B")), EntryState::Record("{}".to_owned())),
                (RecordKey::node(&id("A")), EntryState::Record("{}".to_owned())),
                (RecordKey::node(&id("C")), EntryState::Deleted),
                (RecordKey::state(&id("D")), EntryState::Record("{}".to_owned())),
            ] {
                write(t, key.into(), state, 1)?;
            }
            t.registered()
        };
        let both: MemberSet = [id("A"), id("B")].into_iter().collect();
        assert_eq!(catalog.transact(change).await.expect("a commit"), both);
        assert_eq!(catalog.registered().expect("readable"), (both.clone(), 4));
        assert_eq!(catalog.settled().expect("readable"), None);
        let all = both.clone();
        catalog.transact(move |t| t.settle(&all)).await.expect("a commit");
        assert_eq!(catalog.settled().expect("readable"), Some(both));
        let another = |t: &mut Transaction<'_>| settled(t.connection, Epoch::from_bits(2));
        assert_eq!(catalog.transact(another).await.expect("readable"), None, "of another life");
    }

    #[tokio::test]
    async fn what_is_wanted_is_known() {
        let folder = tempfile::tempdir().expect("a folder");
        let catalog = open(folder.path());
        let key: EntryKey = "a".parse().expect("a key");
        let entry = |at_ms, text: &str| Entry {
            key: key.clone(),
            version: Version {
                time: HybridTime::from_unix_ms(at_ms),
                origin: Origin { node: id("B"), epoch: Epoch::from_bits(2) },
                sequence: at_ms,
            },
            state: EntryState::Live(Content {
                hash: ContentHash::of(text.as_bytes()),
                size: text.len() as u64,
                media_type: "a/b".parse().expect("a value"),
                cache_control: "no-store".parse().expect("a value"),
            }),
        };
        let (old, new) = (entry(1, "old"), entry(2, "new"));
        assert_eq!(catalog.newest(&key).expect("readable"), None);
        let (listed, wanted) = (old.clone(), new.clone());
        let change = move |t: &mut Transaction<'_>| {
            t.list(&listed)?;
            t.want(&wanted, &id("B"))
        };
        catalog.transact(change).await.expect("a commit");
        assert_eq!(catalog.find(&key).expect("readable"), Some(old));
        assert_eq!(catalog.newest(&key).expect("readable"), Some(new));
    }
}
