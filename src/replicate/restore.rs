//! What becomes of the entries of a backup, once the feeds of all members were read.

use super::{Decision, Ledger, decide};
use crate::model::{EntryKey, Version};

/// What one commit's work on withheld entries came to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Released {
    /// Listed: no member knew of them, and none can have forgotten their deletion, if they are not deletions themselves.
    pub listed: usize,
    /// Superseded: the members have something as new.
    pub superseded: usize,
    /// Kept back: they may have been deleted, and the deletion be forgotten. A person has to say.
    pub doubtful: usize,
    /// After which to go on; `None` if all were looked at.
    pub after: Option<EntryKey>,
}

/// Looks at up to `limit` withheld entries after the key `after`. `horizon` is the newest of the horizons of all other
/// members: an entry above it, and above the one here, cannot have been deleted and forgotten.
///
/// # Errors
/// When the ledger cannot be read or written.
pub fn release<L: Ledger>(
    ledger: &mut L,
    horizon: Option<&Version>,
    after: Option<&EntryKey>,
    limit: usize,
) -> Result<Released, L::Error> {
    let entries = ledger.withheld(after, limit)?;
    // What was read from a member since the restore may have been forgotten here, too, before it came to this.
    let own = ledger.horizon()?;
    let horizon = horizon.max(own.as_ref());
    let mut released = Released::default();
    for entry in &entries {
        let listed = ledger.listed(&entry.key)?;
        let known = listed.is_some();
        // A backup has the bytes of what it lists.
        match decide(entry, listed.as_ref(), false, true) {
            Decision::Ignore => {
                ledger.forget_withheld(entry)?;
                released.superseded += 1;
            }
            // A deletion is never doubtful: what it deleted may come back from another backup.
            Decision::List | Decision::Want
                if !known && !entry.is_deleted() && horizon.is_some_and(|horizon| entry.version <= *horizon) =>
            {
                released.doubtful += 1;
            }
            Decision::List | Decision::Want => {
                ledger.forget_withheld(entry)?;
                ledger.list(entry)?;
                released.listed += 1;
            }
        }
    }
    released.after = entries.last().filter(|_| entries.len() == limit).map(|entry| entry.key.clone());
    Ok(released)
}

#[cfg(test)]
mod tests {
    use super::super::memory::tests::{live, replica};
    use super::super::write;
    use super::*;
    use crate::model::EntryState;

    #[test]
    fn what_may_have_been_deleted_and_forgotten_stays_back() {
        let mut before = replica("A");
        let mut put = |key: &str, now| {
            let Ok(entry) = write(&mut before, live(key, "").key, live(key, "1").state, now);
            entry
        };
        let (doubtful, replaced, lost) = (put("doubtful", 1), put("replaced", 2), put("lost", 9));
        let mut ledger = replica("A");
        ledger.withhold([&doubtful, &replaced, &lost]);
        let Ok(newer) = write(&mut ledger, replaced.key.clone(), EntryState::Deleted, 3);
        let horizon = Version { time: crate::model::HybridTime::from_unix_ms(5), ..newer.version.clone() };
        let Ok(released) = release(&mut ledger, Some(&horizon), None, 10);
        assert_eq!(released, Released { listed: 1, superseded: 1, doubtful: 1, after: None });
        let listed = |entry: &crate::model::Entry| ledger.listed(&entry.key).expect("memory");
        assert_eq!((listed(&doubtful), listed(&replaced), listed(&lost)), (None, Some(newer), Some(lost)));
        assert_eq!(ledger.withheld(None, 10), Ok(vec![doubtful]));
    }

    #[test]
    fn what_this_node_itself_has_forgotten_since_is_doubtful_too() {
        let mut ledger = replica("A");
        let Ok(entry) = write(&mut ledger, live("a", "").key, live("a", "1").state, 1);
        let mut ledger = replica("A");
        ledger.withhold([&entry]);
        let Ok(deletion) = write(&mut ledger, entry.key.clone(), EntryState::Deleted, 2);
        assert_eq!(ledger.drop_tombstone(&deletion), Ok(()));
        assert_eq!(ledger.raise_horizon(&deletion.version), Ok(()));
        let Ok(released) = release(&mut ledger, None, None, 10);
        assert_eq!((released.listed, released.doubtful), (0, 1));
    }
}
