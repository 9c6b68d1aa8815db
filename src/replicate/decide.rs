//! What becomes of one entry that another node lists.

use crate::model::{Entry, EntryState, Epoch};

/// What to do with an entry that a peer lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Something as new is listed or wanted already.
    Ignore,
    /// List it: there are no bytes to fetch, or they are held.
    List,
    /// Fetch its bytes, then list it.
    Want,
}

/// Decides on `incoming`, given what is `listed` under its key, whether this very version is `wanted` already, and
/// whether its bytes are `held`.
pub fn decide(incoming: &Entry, listed: Option<&Entry>, wanted: bool, held: bool) -> Decision {
    if listed.is_some_and(|listed| !incoming.supersedes(listed)) {
        return Decision::Ignore;
    }
    match incoming.state {
        EntryState::Deleted | EntryState::Record(_) => Decision::List,
        EntryState::Live(_) if held => Decision::List,
        // An older version is wanted beside a newer one: the only holder of that may be lost. What is listed goes on
        // being served until newer bytes are here.
        EntryState::Live(_) if wanted => Decision::Ignore,
        EntryState::Live(_) => Decision::Want,
    }
}

/// From which sequence a feed is read to a follower that asks for what comes after `since` in the life `asked`.
///
/// A follower that read another life of the database, or beyond its end (the database was restored), starts over.
pub fn resume_at(since: u64, asked: Option<Epoch>, epoch: Epoch, head: u64) -> u64 {
    if asked == Some(epoch) && since <= head { since } else { 0 }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::{Content, ContentHash, HybridTime, Origin, Version};

    fn entry(time: u64, origin: &str, state: u8) -> Entry {
        let origin = Origin { node: origin.parse().expect("a name"), epoch: Epoch::from_bits(1) };
        let content = Content {
            hash: ContentHash::of(&[state]),
            size: 1,
            media_type: "a/b".parse().expect("a value"),
            cache_control: "no-cache".parse().expect("a value"),
        };
        Entry {
            key: "a".parse().expect("a key"),
            version: Version { time: HybridTime::from_bits(time), origin, sequence: time },
            state: if state == 0 { EntryState::Deleted } else { EntryState::Live(content) },
        }
    }

    #[test]
    fn what_is_older_or_known_is_ignored() {
        let (old, new) = (entry(1, "A", 1), entry(2, "A", 2));
        assert_eq!(decide(&old, Some(&new), false, false), Decision::Ignore);
        assert_eq!(decide(&new, Some(&new), false, false), Decision::Ignore);
        assert_eq!(decide(&new, Some(&old), true, false), Decision::Ignore);
    }

    #[test]
    fn bytes_are_wanted_unless_held_and_a_deletion_has_none() {
        let (old, new) = (entry(1, "A", 1), entry(2, "A", 2));
        assert_eq!(decide(&new, Some(&old), false, false), Decision::Want);
        assert_eq!(decide(&new, Some(&old), true, true), Decision::List);
        assert_eq!(decide(&entry(3, "A", 0), Some(&old), false, false), Decision::List);
    }

    #[test]
    fn a_follower_of_another_life_starts_over() {
        let (one, two) = (Epoch::from_bits(1), Epoch::from_bits(2));
        assert_eq!(resume_at(5, Some(one), one, 9), 5);
        assert_eq!(resume_at(5, Some(two), one, 9), 0);
        assert_eq!(resume_at(5, None, one, 9), 0);
        assert_eq!(resume_at(10, Some(one), one, 9), 0);
    }

    /// What a replica lists after the entries came in this order and all bytes were fetched.
    fn replay(order: &[Entry]) -> Option<Entry> {
        let (mut listed, mut wants): (Option<Entry>, Vec<Entry>) = (None, Vec::new());
        for incoming in order {
            match decide(incoming, listed.as_ref(), wants.contains(incoming), false) {
                Decision::Ignore => {}
                Decision::List => listed = Some(incoming.clone()),
                Decision::Want => wants.push(incoming.clone()),
            }
        }
        // At last the bytes arrive, in any order; what came meanwhile may be newer.
        for wanted in wants {
            if listed.as_ref().is_none_or(|listed| wanted.supersedes(listed)) {
                listed = Some(wanted);
            }
        }
        listed
    }

    proptest! {
        #[test]
        fn replicas_agree_whatever_the_order(
            (sent, shuffled) in prop::collection::vec((1..6_u64, "[AB]", 0..3_u8), 1..8).prop_flat_map(|raw| {
                let sent: Vec<_> = raw.iter().map(|(time, origin, state)| entry(*time, origin, *state)).collect();
                (Just(sent.clone()), Just(sent).prop_shuffle())
            })
        ) {
            // Two writes of one origin at one time do not happen; keep the first of each.
            let mut seen = std::collections::BTreeSet::new();
            let first: Vec<_> = sent.iter().filter(|e| seen.insert(e.version.clone())).cloned().collect();
            let again: Vec<_> = shuffled.iter().filter(|e| first.contains(e)).cloned().collect();
            prop_assert_eq!(replay(&first), replay(&again));
        }
    }
}
