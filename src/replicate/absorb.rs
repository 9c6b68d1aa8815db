//! Writes that happen here, and what peers list: recorded as listed, wanted or parked, in one commit with the cursor.

use super::{AHEAD_MAX_MS, Coverage, Decision, Ledger, decide};
use crate::model::{Cursor, Entry, EntryKey, EntryState, HybridTime, NodeId, Version};

/// How many parked entries one commit takes in at most.
const UNPARKED_MAX: usize = 256;

/// A part of the feed of a peer, as it was read.
#[derive(Debug, Clone)]
pub struct Page {
    /// Whose feed it is.
    pub peer: NodeId,
    /// The entries, in the order of the feed.
    pub entries: Vec<Entry>,
    /// From where to read on.
    pub cursor: Cursor,
    /// The horizon of the peer, if it has told one. It becomes one of this node's: who joins late, and then is asked by
    /// one that comes back from a backup, has never seen what was forgotten before.
    pub horizon: Option<Version>,
}

/// What became of an entry that a peer lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    /// It is recorded, or something as new was.
    Recorded,
    /// It is too far in the future, and kept until its time has come.
    Parked,
}

/// Makes `key` point at `state` by a write that happens here at `now_unix_ms`; the bytes must be durable.
///
/// # Errors
/// When the ledger cannot be written.
pub fn write<L: Ledger>(ledger: &mut L, key: EntryKey, state: EntryState, now_unix_ms: u64) -> Result<Entry, L::Error> {
    let entry = Entry { key, version: ledger.stamp(now_unix_ms), state };
    ledger.list(&entry)?;
    Ok(entry)
}

/// Records what a peer lists, and then how far it was read. Answers how many entries were parked.
///
/// # Errors
/// When the ledger cannot be read or written.
pub fn absorb<L: Ledger>(ledger: &mut L, page: &Page, now_unix_ms: u64) -> Result<usize, L::Error> {
    let mut parked = 0;
    if ledger.cursor(&page.peer)?.is_some_and(|cursor| cursor.epoch != page.cursor.epoch) {
        ledger.forget_lister(&page.peer)?;
    }
    for entry in &page.entries {
        parked += usize::from(take_in(ledger, entry, &page.peer, now_unix_ms)? == Taken::Parked);
    }
    if let Some(horizon) = &page.horizon {
        ledger.raise_horizon(horizon)?;
    }
    ledger.set_cursor(&page.peer, page.cursor)?;
    Ok(parked)
}

/// Takes in one `entry` that `peer` lists, whose bytes it therefore holds.
///
/// One that is too far ahead of the clock here is parked: were it listed, the wrong clock of one node would win every
/// conflict until the time that it showed.
///
/// # Errors
/// When the ledger cannot be read or written.
pub fn take_in<L: Ledger>(ledger: &mut L, entry: &Entry, peer: &NodeId, now_unix_ms: u64) -> Result<Taken, L::Error> {
    let listed = ledger.listed(&entry.key)?;
    let owed = ledger.owes(entry)?;
    if owed {
        ledger.listed_by(entry, peer)?;
    }
    if entry.version.time.unix_ms() > now_unix_ms.saturating_add(AHEAD_MAX_MS) {
        if !owed && listed.is_none_or(|listed| entry.supersedes(&listed)) {
            ledger.park(entry, peer)?;
            return Ok(Taken::Parked);
        }
        return Ok(Taken::Recorded);
    }
    match decide(entry, listed.as_ref(), owed, is_held(ledger, entry)?) {
        Decision::Ignore => {}
        Decision::List => ledger.list(entry)?,
        Decision::Want => ledger.want(entry, peer)?,
    }
    Ok(Taken::Recorded)
}

fn is_held<L: Ledger>(ledger: &L, entry: &Entry) -> Result<bool, L::Error> {
    match entry.content() {
        Some(content) => ledger.holds(content),
        None => Ok(false),
    }
}

/// Lists `entry`, whose bytes are durable or become so in this commit, if it is still wanted. Answers whether it was
/// listed.
///
/// # Errors
/// When the ledger cannot be read or written.
pub fn conclude<L: Ledger>(ledger: &mut L, entry: &Entry) -> Result<bool, L::Error> {
    // Something newer may have come meanwhile; a fetch may even outlast the deletion of what it fetches.
    if !ledger.owes(entry)? {
        return Ok(false);
    }
    ledger.list(entry).map(|()| true)
}

/// Puts the want of `entry` in doubt, whose bytes nobody gives, unless one that `is_member` was the last that was read to list
/// it. Answers whether it is in doubt: then all members are to be asked, and it is given up if none of them has the bytes.
///
/// What they said before counts no more. Of a want only the last lister is remembered: one that said no may have got the
/// bytes since, and been read to list them before the last one was, which then went.
///
/// # Errors
/// When the ledger cannot be read or written.
pub fn doubt<L: Ledger>(ledger: &mut L, entry: &Entry, is_member: impl Fn(&NodeId) -> bool) -> Result<bool, L::Error> {
    let own = ledger.origin().node.clone();
    match ledger.lister(entry)? {
        None => Ok(false),
        Some(lister) if lister == own => Ok(true),
        Some(lister) if is_member(&lister) => Ok(false),
        Some(_) => ledger.listed_by(entry, &own).map(|()| true),
    }
}

/// Forgets the want of `entry`, which every other registered member has refused for want of the bytes since it was put in
/// [`doubt`], unless anyone was read to list it since. Answers whether it was forgotten.
///
/// The bytes went with a node that is gone, or with the database of one that came back from a backup; vectors would wait
/// for them for ever. Whoever gets hold of them in spite of that lists the entry anew. In `coverage` no vector stays that
/// says the entry to be passed: it is of a database that is no more, or will be read again.
///
/// # Errors
/// When the ledger cannot be read or written.
pub fn give_up<L: Ledger>(ledger: &mut L, coverage: &mut Coverage, entry: &Entry) -> Result<bool, L::Error> {
    let own = ledger.origin().node.clone();
    if ledger.lister(entry)? != Some(own) {
        return Ok(false);
    }
    coverage.give_up(&entry.version);
    ledger.forget_want(entry).map(|()| true)
}

/// Takes in parked entries whose time has come; answers how many.
///
/// # Errors
/// When the ledger cannot be read or written.
pub fn unpark<L: Ledger>(ledger: &mut L, now_unix_ms: u64) -> Result<usize, L::Error> {
    let time = HybridTime::from_unix_ms(now_unix_ms.saturating_add(AHEAD_MAX_MS));
    let due = ledger.parked(time, UNPARKED_MAX)?;
    for entry in &due {
        let listed = ledger.listed(&entry.key)?;
        match decide(entry, listed.as_ref(), false, is_held(ledger, entry)?) {
            Decision::Ignore => ledger.unpark(entry)?,
            Decision::List => {
                ledger.unpark(entry)?;
                ledger.list(entry)?;
            }
            // Were it a new debt, the vectors of those who listed it would count before its bytes are here.
            Decision::Want => ledger.want_parked(entry)?,
        }
    }
    Ok(due.len())
}

#[cfg(test)]
mod tests {
    use super::super::Debt;
    use super::super::memory::MemoryLedger;
    use super::super::memory::tests::{live, node, replica};
    use super::*;
    use crate::model::Epoch;

    const NOW: u64 = 1_000_000;

    fn lists(ledger: &MemoryLedger, entry: &Entry) -> bool {
        ledger.listed(&entry.key).expect("memory") == Some(entry.clone())
    }

    #[test]
    fn an_entry_from_the_future_is_parked_until_its_time_comes() {
        let (mut ahead, mut ledger) = (replica("A"), replica("B"));
        let Ok(entry) = write(&mut ahead, live("a", "1").key, EntryState::Deleted, NOW + AHEAD_MAX_MS + 1);
        assert_eq!(take_in(&mut ledger, &entry, &node("A"), NOW), Ok(Taken::Parked));
        assert_eq!(take_in(&mut ledger, &entry, &node("C"), NOW), Ok(Taken::Recorded), "once");
        let Ok(own) = write(&mut ledger, entry.key.clone(), live("a", "2").state, NOW);
        assert!(own.version < entry.version, "the clock has learnt nothing");
        assert_eq!(unpark(&mut ledger, NOW), Ok(0));
        assert_eq!(unpark(&mut ledger, NOW + 1), Ok(1));
        assert!(lists(&ledger, &entry));
        assert_eq!(ledger.debt().map(|debt| debt.oldest), Ok(None));
    }

    #[test]
    fn what_was_parked_and_is_wanted_is_owed_since_it_was_parked() {
        let (mut ahead, mut ledger) = (replica("A"), replica("B"));
        let Ok(entry) = write(&mut ahead, live("a", "1").key, live("a", "1").state, NOW + AHEAD_MAX_MS + 1);
        assert_eq!(take_in(&mut ledger, &entry, &node("A"), NOW), Ok(Taken::Parked));
        let owed = ledger.debt();
        assert_eq!(take_in(&mut ledger, &live("b", "2"), &node("A"), NOW), Ok(Taken::Recorded));
        assert_eq!(unpark(&mut ledger, NOW + 1), Ok(1));
        assert!(ledger.parked.is_empty() && ledger.wants.len() == 2);
        assert_eq!(ledger.debt().map(|debt| debt.oldest), owed.map(|owed| owed.oldest));
        let Ok(own) = write(&mut ledger, live("c", "").key, EntryState::Deleted, NOW);
        assert!(own.version > entry.version, "the clock has learnt of it");
    }

    #[test]
    fn a_want_is_given_up_when_no_member_lists_it_any_more() {
        let mut ledger = replica("C");
        let (entry, page) = (live("a", "1"), |peer: &str, epoch| Page {
            peer: node(peer),
            entries: vec![live("a", "1")],
            cursor: Cursor { epoch: Epoch::from_bits(epoch), since: 1 },
            horizon: None,
        });
        for (peer, epoch) in [("A", 1), ("B", 1)] {
            assert_eq!(absorb(&mut ledger, &page(peer, epoch), NOW), Ok(0));
        }
        let mut coverage = Coverage::default();
        let vector = [(entry.version.origin.clone(), 7)].into_iter().collect();
        coverage.read_to_end(&node("B"), vector, Debt { last: 1, oldest: Some(1) });
        let mut give_up = |ledger: &mut MemoryLedger| {
            let Ok(is_lost) = give_up(ledger, &mut coverage, &entry);
            (is_lost, coverage.is_settled())
        };
        let is_member = |member: &'static str| move |peer: &NodeId| *peer == node(member);
        assert_eq!(doubt(&mut ledger, &entry, is_member("B")), Ok(false), "B lists it, too");
        assert_eq!(give_up(&mut ledger), (false, false), "it is in no doubt");
        assert_eq!(doubt(&mut ledger, &entry, is_member("A")), Ok(true), "B is gone");
        assert_eq!(absorb(&mut ledger, &page("A", 1), NOW), Ok(0));
        assert_eq!(give_up(&mut ledger), (false, false), "A lists it since it was put in doubt");
        assert_eq!(absorb(&mut ledger, &page("B", 1), NOW), Ok(0));
        let restored = Page { entries: Vec::new(), ..page("B", 2) };
        assert_eq!(absorb(&mut ledger, &restored, NOW), Ok(0));
        assert_eq!(ledger.wants.len(), 1);
        assert_eq!(doubt(&mut ledger, &entry, is_member("B")), Ok(true), "B has another database now");
        assert_eq!(give_up(&mut ledger), (true, true));
        assert_eq!(doubt(&mut ledger, &entry, is_member("B")), Ok(false));
        assert_eq!((give_up(&mut ledger).0, ledger.wants.len()), (false, 0));
    }

    #[test]
    fn what_was_superseded_while_its_bytes_came_is_not_listed() {
        let (mut other, mut ledger) = (replica("A"), replica("B"));
        let Ok(old) = write(&mut other, live("a", "1").key, live("a", "1").state, NOW);
        let Ok(new) = write(&mut other, old.key.clone(), EntryState::Deleted, NOW);
        let page = |entry: &Entry, since| Page {
            peer: node("A"),
            entries: vec![entry.clone()],
            cursor: Cursor { epoch: Epoch::from_bits(1), since },
            horizon: None,
        };
        assert_eq!(absorb(&mut ledger, &page(&old, 1), NOW), Ok(0));
        assert_eq!(ledger.debt().map(|debt| debt.oldest), Ok(Some(1)));
        assert_eq!(absorb(&mut ledger, &page(&new, 2), NOW), Ok(0));
        assert_eq!(ledger.debt().map(|debt| debt.oldest), Ok(None));
        assert_eq!(conclude(&mut ledger, &old), Ok(false));
        assert!(lists(&ledger, &new));
        assert_eq!(ledger.drop_tombstone(&new), Ok(()));
        assert_eq!(conclude(&mut ledger, &old), Ok(false), "it was deleted, which is forgotten by now");
    }
}
