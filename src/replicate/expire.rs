//! When a deletion may be forgotten.

use super::Ledger;
use crate::model::{EntryKey, HybridTime, Version};

/// What one commit's work on old tombstones came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expired {
    /// How many were dropped.
    pub dropped: usize,
    /// After which to go on; `None` if all were looked at.
    pub after: Option<(HybridTime, EntryKey)>,
}

/// Drops up to `limit` tombstones of before `time` (the grace is over) that every registered member has passed, which
/// `passed` says: from then on no member can bring back what was deleted.
///
/// # Errors
/// When the ledger cannot be read or written.
pub fn expire<L: Ledger>(
    ledger: &mut L,
    time: HybridTime,
    after: Option<(HybridTime, EntryKey)>,
    limit: usize,
    passed: impl Fn(&Version) -> bool,
) -> Result<Expired, L::Error> {
    let old = ledger.tombstones(time, after, limit)?;
    let mut dropped = 0;
    for entry in old.iter().filter(|entry| !is_of_member(&entry.key) && passed(&entry.version)) {
        ledger.drop_tombstone(entry)?;
        ledger.raise_horizon(&entry.version)?;
        dropped += 1;
    }
    let last = old.last().filter(|_| old.len() == limit);
    Ok(Expired { dropped, after: last.map(|last| (last.version.time, last.key.clone())) })
}

/// Whether `key` is the record of a member. That a member was removed is remembered for ever, so that no backup brings it
/// back: all that is known of whom to ask is in these records.
fn is_of_member(key: &EntryKey) -> bool {
    matches!(key, EntryKey::Record(key) if key.is_node())
}

#[cfg(test)]
mod tests {
    use super::super::memory::tests::{live, replica};
    use super::super::write;
    use super::*;
    use crate::model::EntryState;

    #[test]
    fn only_what_is_old_and_passed_by_all_goes_and_the_horizon_stays() {
        let mut ledger = replica("A");
        let mut delete = |key: &str, now| {
            let Ok(entry) = write(&mut ledger, live(key, "").key, EntryState::Deleted, now);
            entry
        };
        let (old, blocked, young) = (delete("a", 1), delete("b", 2), delete("c", 9));
        let time = HybridTime::from_unix_ms(5);
        let passed = |version: &Version| *version != blocked.version;
        let Ok(first) = expire(&mut ledger, time, None, 1, passed);
        assert_eq!((first.dropped, first.after.is_some()), (1, true));
        let Ok(second) = expire(&mut ledger, time, first.after, 2, passed);
        assert_eq!(second, Expired { dropped: 0, after: None });
        let kept = |entry: &crate::model::Entry| ledger.listed(&entry.key).expect("memory").is_some();
        assert_eq!((kept(&old), kept(&blocked), kept(&young)), (false, true, true));
        assert_eq!(ledger.horizon(), Ok(Some(old.version)));
    }
}
