//! What the decision on a conditional write rests on: the newest that is known of a key, the registered nodes, and the
//! set of them that was settled last.

use rusqlite::{Connection, OptionalExtension as _, params};

use super::{Catalog, StoreError, Transaction, query, rows};
use crate::model::{Entry, EntryKey, Epoch, MemberSet, NodeId, RecordKey};

/// The mark with the settled set. The life of the database stands before it: what a backup saw settled may have been
/// followed by what it does not know of.
const SETTLED: &str = "settled";

/// The mark of a node that belongs to a cluster. It stays with a backup: the cluster knew it then.
const BELONGS: &str = "belongs";

/// What that mark says of a node that founded the cluster, alone or with others.
const FOUNDED: &str = "founded";

/// And of one that was welcomed by a member.
const WELCOMED: &str = "welcomed";

/// Between the names that were settled, and those that were gone by then. No name has this form.
const GONE: &str = "/";

impl Transaction<'_> {
    /// The newest entry that is known of `key`, whether its bytes are held or wanted.
    ///
    /// # Errors
    /// When the catalogue cannot be read; so for all that follow.
    pub fn newest(&self, key: &EntryKey) -> Result<Option<Entry>, StoreError> {
        newest(self.connection, key)
    }

    /// Whether something newer than `newest` is known of `key`, and not taken in yet because it is from the future.
    ///
    /// # Errors
    /// As above.
    pub fn parks_newer(&self, key: &EntryKey, newest: Option<&Entry>) -> Result<bool, StoreError> {
        let parked = query::owed(self.connection, "parked", key)?;
        Ok(parked.iter().any(|parked| newest.is_none_or(|newest| parked.supersedes(newest))))
    }

    /// The registered nodes, by their records.
    ///
    /// # Errors
    /// As above.
    pub fn registered(&self) -> Result<MemberSet, StoreError> {
        registered(self.connection)
    }

    /// The set of members that was settled last in this life of the database, and all that came and went since: what
    /// they had settled meanwhile is not known here.
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
        let words = |names: &MemberSet| names.iter().map(NodeId::as_str).collect::<Vec<_>>().join(" ");
        let gone = gone(self.connection)?;
        self.set_mark(SETTLED, &format!("{} {} {GONE} {}", self.origin.epoch, words(members), words(&gone)))
    }

    /// Notes that this node belongs to a cluster, which it `founded` or which has welcomed it. Who founded one did so for
    /// good.
    ///
    /// # Errors
    /// As above.
    pub fn belong(&mut self, founded: bool) -> Result<(), StoreError> {
        let before = mark(self.connection, BELONGS)?;
        let is_founder = founded || before.as_deref() == Some(FOUNDED);
        self.set_mark(BELONGS, if is_founder { FOUNDED } else { WELCOMED })
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

    /// As [`Catalog::newest`]; `None` while a backup has something of `key` of which it is not known whether it was deleted.
    ///
    /// # Errors
    /// As above.
    pub fn newest_unless_withheld(&self, key: &EntryKey) -> Result<Option<Option<Entry>>, StoreError> {
        self.read(|connection| {
            let snapshot = connection.transaction()?;
            let is_withheld = query::entry(&snapshot, "withheld", key)?.is_some();
            if is_withheld { Ok(None) } else { newest(&snapshot, key).map(Some) }
        })
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

    /// Whether it was noted that this node belongs to a cluster, and if so, whether it founded that.
    ///
    /// # Errors
    /// As above.
    pub fn belongs(&self) -> Result<Option<bool>, StoreError> {
        self.read(|connection| Ok(mark(connection, BELONGS)?.map(|mark| mark == FOUNDED)))
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
    named(connection, "record IS NOT NULL")
}

/// The nodes that were forgotten: their names are spent for ever, and so remembered for ever.
fn gone(connection: &Connection) -> Result<MemberSet, StoreError> {
    named(connection, "record IS NULL")
}

fn named(connection: &Connection, condition: &str) -> Result<MemberSet, StoreError> {
    let names = RecordKey::of_nodes();
    let sql = format!("SELECT substr(key, ?3) FROM entries WHERE key >= ?1 AND key < ?2 AND {condition}");
    let mut statement = connection.prepare_cached(&sql)?;
    let after = names.start.len() as i64 + 1;
    let found = statement.query_map(params![names.start, names.end, after], |row| rows::parsed(row, 0))?;
    Ok(found.collect::<Result<_, _>>()?)
}

fn mark(connection: &Connection, name: &str) -> Result<Option<String>, StoreError> {
    let sql = "SELECT value FROM marks WHERE name = ?1";
    Ok(connection.prepare_cached(sql)?.query_row([name], |row| row.get(0)).optional()?)
}

fn settled(connection: &Connection, epoch: Epoch) -> Result<Option<MemberSet>, StoreError> {
    let Some(mark) = mark(connection, SETTLED)? else { return Ok(None) };
    let mut words = mark.split(' ');
    if words.next() != Some(&*epoch.to_string()) {
        return Ok(None);
    }
    let names: Vec<_> = words.filter(|word| !word.is_empty()).collect();
    let (settled, gone_then) = match names.iter().position(|name| *name == GONE) {
        Some(place) => (&names[..place], &names[place + 1..]),
        None => (&names[..], &[][..]),
    };
    let Some(settled) = settled.iter().map(|name| name.parse().ok()).collect::<Option<MemberSet>>() else {
        return Ok(None);
    };
    let gone = gone(connection)?;
    let since = gone.iter().filter(|id| !gone_then.contains(&id.as_str()));
    Ok(Some(settled.iter().chain(since).cloned().collect()))
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
        assert_eq!(catalog.settled().expect("readable"), Some(both.clone()));
        let change = |t: &mut Transaction<'_>| {
            let key = RecordKey::node(&id("D"));
            write(t, key.clone().into(), EntryState::Record("{}".to_owned()), 2)?;
            write(t, key.into(), EntryState::Deleted, 3)
        };
        catalog.transact(change).await.expect("a commit");
        let with_d: MemberSet = [id("A"), id("B"), id("D")].into_iter().collect();
        assert_eq!(catalog.registered().expect("readable").0, both);
        assert_eq!(catalog.settled().expect("readable"), Some(with_d), "D may have settled the set with it");
        let all = both.clone();
        catalog.transact(move |t| t.settle(&all)).await.expect("a commit");
        assert_eq!(catalog.settled().expect("readable"), Some(both));
        let another = |t: &mut Transaction<'_>| settled(t.connection, Epoch::from_bits(2));
        assert_eq!(catalog.transact(another).await.expect("readable"), None, "of another life");
    }

    #[tokio::test]
    async fn what_is_parked_and_what_is_withheld_is_not_decided_upon() {
        let folder = tempfile::tempdir().expect("a folder");
        let catalog = open(folder.path());
        let key: EntryKey = "a".parse().expect("a key");
        let (parked, at) = (key.clone(), |at_ms| Version {
            time: HybridTime::from_unix_ms(at_ms),
            origin: Origin { node: id("B"), epoch: Epoch::from_bits(2) },
            sequence: at_ms,
        });
        let change = move |t: &mut Transaction<'_>| {
            let entry = |at_ms| Entry { key: parked.clone(), version: at(at_ms), state: EntryState::Deleted };
            t.park(&entry(5), &id("B"))?;
            let newer = [None, Some(entry(4)), Some(entry(6))].map(|known| t.parks_newer(&parked, known.as_ref()));
            t.withhold(&entry(3))?;
            Ok(newer.map(Result::ok))
        };
        assert_eq!(catalog.newest_unless_withheld(&key).expect("readable"), Some(None));
        assert_eq!(catalog.transact(change).await.expect("a commit"), [Some(true), Some(true), Some(false)]);
        assert_eq!(catalog.newest_unless_withheld(&key).expect("readable"), None);
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
